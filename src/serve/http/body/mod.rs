//! Bodies on their way: limits on what a client sends, and why bodies break. Answers are in
//! `response.rs`.

mod response;

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

pub(crate) use self::response::{Account, ResponseBody};
use super::{
    client_body::ClientBody, expect::Held, hop::HopError, kept::Special, received::Received,
};
use crate::{
    admit::{Denial, Denied},
    config::Limits,
    wire::{forwarded, framing::Fault},
};

/// Over so long a client's rate is averaged.
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// Why a body was cut.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("limits.body_bytes is exceeded")]
    TooLarge,
    #[error("slower than limits.body_min_rate")]
    TooSlow,
    #[error("the body is not what its Content-Digest says")]
    OtherDigest,
    #[error("{0}")]
    Broken(#[from] hyper::Error),
    /// There is no telling where it ends.
    #[error("{0}")]
    Framing(Fault),
    #[error("a trailer's value begins or ends with white space")]
    Trailers,
    #[error("{0}")]
    Read(std::io::Error),
    #[error("the client ended before it did")]
    Unfinished,
    /// What hyper takes for an end (RFC 9113 section 8.1 lets a server that has answered say so).
    #[error("the stream was reset before its end")]
    Reset,
}

/// Why an answer was cut.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    #[error("{0}")]
    Http1(#[source] HopError),
    #[error("{0}")]
    Http2(#[source] hyper::Error),
    #[error("the stream was reset before its end")]
    Reset,
}

/// What comes next of a body in HTTP/2; `Err(None)`: its stream was reset before its end with
/// NO_ERROR, which hyper takes for an end.
pub(super) fn poll_http2(
    body: &mut Incoming,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, Option<hyper::Error>>>> {
    let polled = ready!(Pin::new(&mut *body).poll_frame(cx));
    if polled.is_none() && !body.is_end_stream() {
        return Poll::Ready(Some(Err(None)));
    }
    Poll::Ready(polled.map(|frame| frame.map_err(Some)))
}

impl BodyError {
    /// Whose fault it is: the client's.
    pub(crate) fn denied(&self) -> Denied {
        let reason = match self {
            Self::TooLarge => Denial::BodyTooLarge,
            Self::TooSlow => Denial::RequestTooSlow,
            Self::OtherDigest
            | Self::Broken(_)
            | Self::Framing(_)
            | Self::Trailers
            | Self::Read(_)
            | Self::Unfinished
            | Self::Reset => Denial::RequestInvalid,
        };
        let detail = match self {
            Self::Broken(_) | Self::Read(_) | Self::Unfinished | Self::Reset => {
                format!("the request's body broke: {self}")
            }
            Self::TooLarge
            | Self::TooSlow
            | Self::OtherDigest
            | Self::Framing(_)
            | Self::Trailers => self.to_string(),
        };
        Denied::new(reason, detail)
    }
}

/// What a client sends: counted, bounded in size and slowness, trailers cleaned.
pub(crate) struct RequestBody {
    /// `None`: there is nothing to send. Boxed: most requests have no body, and are handed on many
    /// times.
    coming: Option<Box<Coming>>,
    pub(super) received: Arc<Received>,
    /// What is sent in place of `coming`, or what it has to come to.
    pub(super) special: Option<Box<Special>>,
}

/// A client's body, as it comes.
struct Coming {
    inner: ClientBody,
    left: u64,
    rate: u64,
    window_bytes: u64,
    /// How much of the window the client let us wait before now.
    waited: Duration,
    /// Since when it lets us wait.
    waiting: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Until the backend asks for it.
    held: Option<Held>,
    /// Names that we set ourselves: they have no place in trailers either.
    ours: Option<Arc<[HeaderName]>>,
}

impl RequestBody {
    pub(crate) fn new(inner: ClientBody, limits: &Limits) -> (Self, Arc<Received>) {
        let empty = inner.is_end_stream();
        let received = Arc::new(Received {
            done: AtomicBool::new(empty),
            bytes: AtomicU64::new(0),
            wanted: AtomicBool::new(false),
        });
        let left = if limits.body_bytes == 0 {
            u64::MAX
        } else {
            limits.body_bytes
        };
        let coming = || Coming {
            inner,
            left,
            rate: limits.body_min_rate,
            window_bytes: 0,
            waited: Duration::ZERO,
            waiting: None,
            timer: None,
            held: None,
            ours: None,
        };
        let body = Self {
            coming: (!empty).then(|| Box::new(coming())),
            received: Arc::clone(&received),
            special: None,
        };
        (body, received)
    }

    /// The same, held back.
    pub(crate) fn held(mut self, held: Held) -> Self {
        if let Some(coming) = &mut self.coming {
            coming.held = Some(held);
        }
        self
    }

    /// Whether the next hop has not asked for it yet.
    pub(super) fn is_held(&self) -> bool {
        let coming = self.coming.as_ref();
        coming.is_some_and(|coming| coming.held.is_some())
    }

    /// The same, whose trailers may not have these names.
    pub(crate) fn without(mut self, names: &Arc<[HeaderName]>) -> Self {
        if let Some(coming) = &mut self.coming {
            coming.ours = Some(Arc::clone(names));
        }
        self
    }

    /// No body, where there was none.
    pub(crate) fn none(received: &Arc<Received>) -> Self {
        Self {
            coming: None,
            received: Arc::clone(received),
            special: None,
        }
    }
}

impl Coming {
    /// The client is the slow one whenever we wait here; what a backend takes its time for does
    /// not count.
    fn wait(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        if self.rate == 0 {
            return Ok(());
        }
        let since = *self.waiting.get_or_insert_with(Instant::now);
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(RATE_WINDOW)));
        while timer.as_mut().poll(cx).is_ready() {
            let waited = self.waited.saturating_add(since.elapsed());
            let Some(left) = RATE_WINDOW.checked_sub(waited).filter(|d| !d.is_zero()) else {
                return Err(BodyError::TooSlow);
            };
            timer.as_mut().reset(Instant::now() + left);
        }
        Ok(())
    }

    /// Bytes came: a window that was fast enough makes room for the next.
    fn came(&mut self, n: u64) {
        if let Some(since) = self.waiting.take() {
            self.waited = self.waited.saturating_add(since.elapsed());
        }
        self.window_bytes = self.window_bytes.saturating_add(n);
        if self.window_bytes >= self.rate.saturating_mul(RATE_WINDOW.as_secs()) {
            (self.window_bytes, self.waited) = (0, Duration::ZERO);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some(coming) = &mut this.coming else {
            return Poll::Ready(this.next_kept().map(Ok));
        };
        if let Some(held) = &mut coming.held {
            ready!(held.poll(cx));
            coming.held = None;
        }
        let polled = Pin::new(&mut coming.inner).poll_frame(cx);
        this.received
            .wanted
            .store(polled.is_pending(), Ordering::Relaxed);
        match polled {
            Poll::Pending => match coming.wait(cx) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Some(Err(error))),
            },
            Poll::Ready(None) => {
                this.hash(None, true)?;
                this.received.done.store(true, Ordering::Release);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
            Poll::Ready(Some(Ok(mut frame))) => {
                let last = coming.inner.is_end_stream();
                // in HTTP/2 a body of known length is whole before its stream ends
                let whole =
                    last || this.special.is_some() && coming.inner.size_hint().exact() == Some(0);
                if let Some(data) = frame.data_ref() {
                    let n = u64::try_from(data.len()).unwrap_or(u64::MAX);
                    coming.came(n);
                    this.received.bytes.fetch_add(n, Ordering::Relaxed);
                    match coming.left.checked_sub(n) {
                        Some(left) => coming.left = left,
                        None => return Poll::Ready(Some(Err(BodyError::TooLarge))),
                    }
                }
                if let Some(trailers) = frame.trailers_mut() {
                    forwarded::strip_request_trailers(trailers);
                    if let Some(ours) = &coming.ours {
                        forwarded::remove_all_spellings(trailers, ours);
                    }
                }
                if this.special.is_some() {
                    this.hash(frame.data_ref().map(AsRef::as_ref), whole)?;
                }
                if last {
                    this.received.done.store(true, Ordering::Release);
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match (&self.coming, self.special.as_deref()) {
            (Some(coming), _) => coming.inner.is_end_stream(),
            (None, Some(Special::Kept(kept))) => kept.is_empty(),
            (None, Some(Special::Hashed(_)) | None) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.coming, self.special.as_deref()) {
            (Some(coming), _) => coming.inner.size_hint(),
            // trailers need chunks
            (None, Some(Special::Kept(kept))) if kept.has_trailers() => SizeHint::default(),
            (None, Some(Special::Kept(kept))) => {
                SizeHint::with_exact(u64::try_from(kept.len()).unwrap_or(u64::MAX))
            }
            (None, Some(Special::Hashed(_)) | None) => SizeHint::with_exact(0),
        }
    }
}
