//! The next hop's end of a connection, in either version of HTTP.

use std::future::poll_fn;

use http::{Request, Response};
use http_body::Body as _;
use hyper::client::conn::{TrySendError, http2};

use super::{
    body::RequestBody,
    expect::Interim,
    hop::{self, AnswerBody, Hop},
    send::broken,
};
use crate::admit::{Denial, Denied};

/// A connection.
pub(crate) enum Kind {
    /// `None` while an answer has it.
    Http1(Option<Box<Hop>>),
    /// Hyper's handle.
    Http2(http2::SendRequest<RequestBody>),
}

/// A request without a body and with a safe method. Hyper gives back no more of a request than what
/// it sent nothing of.
fn copy(request: &Request<RequestBody>) -> Option<Box<Request<RequestBody>>> {
    let body = request.body();
    if !request.method().is_safe() || !body.is_end_stream() {
        return None;
    }
    let mut copy = Request::new(RequestBody::none(&body.received));
    request.method().clone_into(copy.method_mut());
    request.uri().clone_into(copy.uri_mut());
    request.headers().clone_into(copy.headers_mut());
    *copy.version_mut() = request.version();
    Some(Box::new(copy))
}

/// A request that did not get an answer.
pub(crate) struct SendFailed {
    pub(crate) denied: Denied,
    /// The request, when not a byte of it was sent.
    pub(crate) unsent: Option<Box<Request<RequestBody>>>,
    /// The request, when it was sent and may be sent twice (RFC 9110 section 9.2.2): it has a safe
    /// method and no body.
    pub(crate) repeatable: Option<Box<Request<RequestBody>>>,
}

impl Kind {
    /// Whether it takes a request; waits for that.
    pub(crate) async fn ready(&mut self) -> bool {
        match self {
            Self::Http1(Some(hop)) => poll_fn(|cx| std::task::Poll::Ready(hop.is_quiet(cx))).await,
            Self::Http1(None) => false,
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    /// Whether it has ended, or must not be used.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self {
            Self::Http1(Some(hop)) => !hop.is_quiet_now(),
            Self::Http1(None) => true,
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    /// Sends a request.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
        interim: Interim<'_>,
    ) -> Result<Response<AnswerBody>, SendFailed> {
        match self {
            Self::Http1(hop) => match hop.take() {
                Some(hop) => hop::send(hop, request, interim).await,
                None => Err(SendFailed {
                    denied: Denied::new(Denial::UpstreamBroken, "the connection is in use"),
                    unsent: Some(Box::new(request)),
                    repeatable: None,
                }),
            },
            Self::Http2(sender) => {
                let repeatable = copy(&request);
                let answered = sender.try_send_request(request).await;
                let failed = |mut error: TrySendError<Request<RequestBody>>| SendFailed {
                    unsent: error.take_message().map(Box::new),
                    denied: broken(&error.into_error()),
                    repeatable,
                };
                answered
                    .map(|response| response.map(AnswerBody::Http2))
                    .map_err(failed)
            }
        }
    }

    /// Takes the connection back from an answer that has passed; `false`: it can't be used again.
    pub(crate) fn restore(&mut self, answer: AnswerBody) -> bool {
        match self {
            Self::Http1(hop) => {
                *hop = answer.rested();
                hop.is_some()
            }
            Self::Http2(_) => true,
        }
    }
}
