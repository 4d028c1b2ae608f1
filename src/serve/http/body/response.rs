//! What a backend's answer holds on to until it has passed, and what is written then.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::AnswerError;
use crate::{
    admit::{Denial, Denied},
    serve::http::{Upstream, activity::UnderWay, exchange, hop::AnswerBody, received::Received},
    telemetry::access::Access,
    wire::forwarded,
};

/// A request that is given up so soon was not meant.
const AT_ONCE: Duration = Duration::from_secs(1);

/// What is written when an answer has passed, or was cut.
pub(crate) struct Account {
    pub(crate) record: Option<Box<Access>>,
    pub(crate) began: std::time::Instant,
    pub(crate) metrics: Arc<crate::telemetry::metrics::ListenerMetrics>,
    pub(crate) status: u16,
    pub(crate) bytes_out: u64,
    pub(crate) complete: bool,
    pub(crate) under_way: Option<UnderWay>,
    /// The request has a body.
    pub(crate) has_body: bool,
    /// Why the answer did not pass whole, where that is the backend's fault.
    pub(crate) broken: Option<Denied>,
    /// The request's body, once it is on its way.
    pub(crate) received: Option<Arc<Received>>,
}

impl Account {
    fn handed(&mut self) {
        if let Some(under_way) = &mut self.under_way {
            under_way.handed();
        }
    }

    fn taken(&mut self) {
        if let Some(under_way) = &mut self.under_way {
            under_way.taken();
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let read = self.received.as_ref().is_some_and(|body| body.is_done());
        if let Some(under_way) = self.under_way.as_ref().filter(|_| self.has_body && !read) {
            under_way.left_unread();
        }
        let now = std::time::Instant::now();
        let elapsed = now.saturating_duration_since(self.began);
        if let Some(under_way) = &mut self.under_way {
            under_way.ends(now);
        }
        let given_up = !self.complete && self.broken.is_none();
        let refused = !given_up && self.received.is_none() && self.status >= 400;
        if let Some(under_way) = self.under_way.as_ref().filter(|_| refused) {
            under_way.refused();
        }
        if let Some(under_way) = self
            .under_way
            .as_ref()
            .filter(|_| given_up && elapsed < AT_ONCE)
        {
            under_way.taken_back();
        }
        self.metrics.request(self.status, elapsed.as_secs_f64());
        if let Some(record) = &mut self.record {
            record.total = elapsed;
            record.status = self.status;
            record.bytes_out = self.bytes_out;
            if let Some(received) = &self.received {
                record.bytes_in = received.bytes.load(Ordering::Relaxed);
            }
            if !self.complete && record.reason.is_none() {
                record.decision = "ended";
                let cause = self.broken.take();
                let cause = cause.or_else(|| self.under_way.as_ref().map(UnderWay::cause));
                if let Some(cause) = cause {
                    record.reason = Some(cause.reason);
                    record.detail = cause.detail;
                }
            }
            record.emit();
        }
        drop(self.under_way.take());
    }
}

/// An answer on its way to the client.
pub(crate) enum ResponseBody<K: Upstream> {
    /// Our own words.
    Own(Option<Bytes>, Account),
    /// A backend's.
    Upstream {
        inner: AnswerBody,
        /// The connection that it comes over; kept for others once the body has passed whole.
        sender: Option<K>,
        /// Whether the request's body was handed on whole: else its connection's framing is in
        /// doubt.
        received: Arc<Received>,
        account: Account,
    },
}

impl<K: Upstream> ResponseBody<K> {
    /// Our own words, or none.
    pub(crate) fn own(words: Option<Bytes>, account: Account) -> Box<Self> {
        Box::new(Self::Own(words, account))
    }
}

impl<K: Upstream> Body for ResponseBody<K> {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        match self.get_mut() {
            Self::Own(bytes, account) => {
                account.complete = true;
                let next = bytes.take().filter(|bytes| !bytes.is_empty());
                if let Some(bytes) = &next {
                    account.handed();
                    account.bytes_out = u64::try_from(bytes.len()).unwrap_or(0);
                }
                Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
            }
            Self::Upstream {
                inner,
                sender,
                received,
                account,
            } => {
                account.taken();
                let polled = Pin::new(&mut *inner).poll_frame(cx);
                let mut ended = matches!(polled, Poll::Ready(None));
                let polled = polled.map_ok(|mut frame| {
                    if let Some(data) = frame.data_ref() {
                        account.handed();
                        let n = u64::try_from(data.len()).unwrap_or(0);
                        account.bytes_out = account.bytes_out.saturating_add(n);
                    }
                    if let Some(trailers) = frame.trailers_mut() {
                        if matches!(inner, AnswerBody::Http2(_)) {
                            exchange::trim(trailers);
                        }
                        forwarded::strip_answer_trailers(trailers);
                    }
                    ended |= inner.is_end_stream();
                    frame
                });
                if let Poll::Ready(Some(Err(error))) = &polled {
                    account.broken = Some(Denied::new(Denial::UpstreamBroken, error.to_string()));
                }
                if ended {
                    finish(inner, sender, received, account);
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes, _) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Upstream { inner, .. } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes, _) => SizeHint::with_exact(
                bytes
                    .as_ref()
                    .map_or(0, |b| u64::try_from(b.len()).unwrap_or(0)),
            ),
            Self::Upstream { inner, .. } => inner.size_hint(),
        }
    }
}

fn finish<K: Upstream>(
    inner: &mut AnswerBody,
    sender: &mut Option<K>,
    received: &Received,
    account: &mut Account,
) {
    account.complete = true;
    if let Some(sender) = sender.take()
        && received.is_done()
    {
        sender.keep(std::mem::replace(inner, AnswerBody::Passed));
    }
}

impl<K: Upstream> Drop for ResponseBody<K> {
    /// Bodies that are empty from the start are never polled.
    fn drop(&mut self) {
        match self {
            Self::Own(bytes, account) if bytes.as_ref().is_none_or(Bytes::is_empty) => {
                account.complete = true
            }
            Self::Upstream {
                inner,
                sender,
                received,
                account,
                ..
            } if inner.is_end_stream() => {
                finish(inner, sender, received, account);
            }
            Self::Own(..) | Self::Upstream { .. } => {}
        }
    }
}
