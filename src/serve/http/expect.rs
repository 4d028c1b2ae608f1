//! `Expect: 100-continue` (RFC 9110 section 10.1.1) from end to end: a request's body is asked
//! for only once the backend has asked for it. To poll a body is to ask for it: an HTTP/1.1 client
//! is then told 100.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::time::Sleep;

use crate::telemetry::metrics::RequestMetrics;

/// Backends of old know no expectation and wait for the body; so long they are waited for. Clients
/// that can't be relied on to send it unasked wait longer than that, and no client must.
const GRACE: Duration = Duration::from_secs(3);

/// What a request says that waits for a 100.
pub(crate) const EXPECTATION: HeaderValue = HeaderValue::from_static("100-continue");

/// Whether a request waits for a 100.
pub(crate) fn is_expected(headers: &HeaderMap) -> bool {
    headers.get_all(header::EXPECT).iter().any(|value| {
        value
            .as_bytes()
            .eq_ignore_ascii_case(EXPECTATION.as_bytes())
    })
}

/// Whether the backend has asked for the body.
#[derive(Default)]
pub(crate) struct Asked {
    asked: AtomicBool,
    body: AtomicWaker,
}

impl Asked {
    fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        self.body.wake();
    }
}

/// A body that is held back.
pub(crate) struct Held {
    asked: Arc<Asked>,
    grace: Pin<Box<Sleep>>,
}

impl Held {
    /// Resolves when the backend has asked for the body, or keeps silent for too long.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.asked.body.register(cx.waker());
        if self.asked.asked.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.grace.as_mut().poll(cx)
    }
}

/// Who hears of a backend's interim answers.
#[derive(Clone, Copy)]
pub(crate) struct Interim<'a> {
    pub(crate) metrics: &'a RequestMetrics,
    /// The 100 among them releases a body that is held back.
    pub(crate) asked: Option<&'a Asked>,
}

impl Interim<'_> {
    /// One came: whether it asks for the body.
    pub(crate) fn came(&self, status: StatusCode) -> bool {
        self.metrics.interim();
        let asked = self.asked.filter(|_| status == StatusCode::CONTINUE);
        if let Some(asked) = asked {
            asked.ask();
        }
        asked.is_some()
    }
}

/// Holds a body back until the backend asks for it.
pub(crate) fn hold() -> (Held, Arc<Asked>) {
    let asked = Arc::new(Asked::default());
    let held = Held {
        asked: Arc::clone(&asked),
        grace: Box::pin(tokio::time::sleep(GRACE)),
    };
    (held, asked)
}
