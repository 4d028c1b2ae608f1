//! Sends a request to the next hop and waits for its answer, once more where that is safe.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use http::{Request, Response};

use super::{
    Upstream,
    activity::Activity,
    body::{BodyError, RequestBody},
    expect::Interim,
    hop::AnswerBody,
    received::{Received, Untaken},
};
use crate::{
    admit::{Denial, Denied},
    net::Stalled,
    tls::alert::{self, Side},
};

/// Where connections to the next hop come from.
pub(crate) trait Ways: Sync {
    type Way: Upstream;

    /// A kept connection, or a new one.
    fn take(&self) -> impl Future<Output = Result<Self::Way, Denied>> + Send;

    /// A new one.
    fn open(&self) -> impl Future<Output = Result<Self::Way, Denied>> + Send;

    /// Whether there is room for one more request that is sent again.
    fn may_retry(&self) -> bool {
        true
    }

    /// A request is sent once more.
    fn retried(&self);
}

/// An answer, and the connection that it comes over.
pub(crate) type Sent<K> = (K, Response<AnswerBody>);

/// How long an answer is waited for.
#[derive(Clone, Copy)]
pub(crate) struct Patience<'a> {
    /// `limits.response_timeout`.
    pub(crate) limit: Duration,
    pub(crate) activity: &'a Activity,
    pub(crate) interim: Interim<'a>,
}

/// Sends a request; once more on a new connection where the kept one had been closed meanwhile:
/// not a byte of the request was sent, or it is one that may be sent twice (RFC 9110 section
/// 9.2.2).
pub(crate) async fn send<W: Ways>(
    ways: &W,
    patience: Patience<'_>,
    request: Request<RequestBody>,
    received: &Arc<Received>,
) -> Result<Sent<W::Way>, Denied> {
    let mut sender = ways.take().await?;
    let answered = respond_in_time(patience, &mut sender, request, received).await;
    let again = match answered {
        Ok(response) => return Ok((sender, response)),
        Err(Failure::Unsent(request, _)) if sender.is_reused() && ways.may_retry() => *request,
        Err(Failure::Repeatable(request, denied))
            if sender.is_reused()
                && denied.reason == Denial::UpstreamBroken
                && ways.may_retry() =>
        {
            *request
        }
        Err(failure) => return Err(failure.denied(sender.broke()).await),
    };
    // boxed: the rare case keeps no room in every request
    Box::pin(resend(ways, patience, again, received)).await
}

async fn resend<W: Ways>(
    ways: &W,
    patience: Patience<'_>,
    request: Request<RequestBody>,
    received: &Received,
) -> Result<Sent<W::Way>, Denied> {
    ways.retried();
    let mut fresh = ways.open().await?;
    match respond_in_time(patience, &mut fresh, request, received).await {
        Ok(response) => Ok((fresh, response)),
        Err(failure) => Err(failure.denied(fresh.broke()).await),
    }
}

enum Failure {
    /// And what is known of the reason.
    Unsent(Box<Request<RequestBody>>, Denied),
    /// It was sent, and may be sent twice.
    Repeatable(Box<Request<RequestBody>>, Denied),
    Denied(Denied),
}

impl Failure {
    /// What the connection broke of, where that came before the request could be sent.
    async fn denied(self, broke: impl Future<Output = Option<Denied>>) -> Denied {
        match self {
            Self::Unsent(_, known) if known.reason != Denial::UpstreamBroken => known,
            Self::Unsent(..) => Box::pin(broke).await.unwrap_or_else(|| {
                Denied::new(Denial::UpstreamBroken, "closed before the request was sent")
            }),
            Self::Repeatable(_, denied) | Self::Denied(denied) => denied,
        }
    }
}

async fn respond_in_time(
    patience: Patience<'_>,
    sender: &mut impl Upstream,
    request: Request<RequestBody>,
    received: &Received,
) -> Result<Response<AnswerBody>, Failure> {
    let limit = patience.limit;
    let mut untaken = Untaken::new(sender.is_http2());
    let mut sending = pin!(sender.send(request, patience.interim));
    // without a timer for each request: the connection's watch wakes this task every now and then,
    // in HTTP/1 because it is the connection's own
    let mut looks = pin!(patience.activity.looks());
    // the clock runs from the request's end: before that the client may be the slow one
    let mut since: Option<Instant> = None;
    let answered = poll_fn(|cx| {
        if let Poll::Ready(answered) = sending.as_mut().poll(cx) {
            return Poll::Ready(Some(answered));
        }
        let late = match since {
            Some(since) => since.elapsed() >= limit,
            None => {
                since = received.is_done().then(Instant::now);
                false
            }
        };
        if late || untaken.for_longer_than(limit, received) {
            return Poll::Ready(None);
        }
        if patience.activity.is_http2() {
            while looks.as_mut().poll(cx).is_ready() {
                looks.set(patience.activity.looks());
            }
        }
        Poll::Pending
    })
    .await;
    match answered {
        Some(Ok(response)) => Ok(response),
        Some(Err(failed)) => Err(match (failed.unsent, failed.repeatable) {
            (Some(request), _) => Failure::Unsent(request, failed.denied),
            (None, Some(request)) => Failure::Repeatable(request, failed.denied),
            (None, None) => Failure::Denied(failed.denied),
        }),
        None => {
            let detail = format!("limits.response_timeout = {limit:?}");
            Err(Failure::Denied(Denied::new(
                Denial::UpstreamTimeout,
                detail,
            )))
        }
    }
}

/// Why hyper's connection broke: the client's own fault is told from the backend's.
pub(crate) fn broken(error: &hyper::Error) -> Denied {
    use std::error::Error as _;
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(fault) = inner.downcast_ref::<BodyError>() {
            return fault.denied();
        }
        if let Some(stalled) = inner.downcast_ref::<std::io::Error>().and_then(Stalled::of) {
            return Denied::new(Denial::UpstreamTimeout, stalled.to_string());
        }
        // a foreign acceptor's refusal comes with the first read after its handshake
        if let Some(io) = inner.downcast_ref::<std::io::Error>()
            && io.get_ref().is_some_and(|tls| tls.is::<rustls::Error>())
        {
            return alert::explain(io, Side::Client);
        }
        cause = inner.source();
    }
    Denied::new(Denial::UpstreamBroken, error.to_string())
}
