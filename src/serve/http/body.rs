//! Bodies on their way: limits on what a client sends, and what a backend's answer holds on to
//! until it has passed.

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

use super::{
    Upstream,
    activity::UnderWay,
    client_body::ClientBody,
    expect::Held,
    hop::{AnswerBody, HopError},
    kept::Special,
    received::Received,
};
use crate::{
    admit::{Denial, Denied},
    config::Limits,
    telemetry::access::Access,
    wire::{forwarded, framing::Fault},
};

/// Over so long a client's rate is averaged.
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// A request that is given up so soon was not meant.
const AT_ONCE: Duration = Duration::from_secs(1);

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
            | Self::Read(_)
            | Self::Unfinished
            | Self::Reset => Denial::RequestInvalid,
        };
        let detail = match self {
            Self::Broken(_) | Self::Read(_) | Self::Unfinished | Self::Reset => {
                format!("the request's body broke: {self}")
            }
            Self::TooLarge | Self::TooSlow | Self::OtherDigest | Self::Framing(_) => {
                self.to_string()
            }
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
                    forwarded::strip_trailers(trailers);
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
                        forwarded::strip_trailers(trailers);
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
