//! The next hop's end of a connection, in either version of HTTP.

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};

use super::body::RequestBody;

/// Hyper's handle of a connection.
pub(crate) enum Kind {
    Http1(http1::SendRequest<RequestBody>),
    Http2(http2::SendRequest<RequestBody>),
}

/// A request that did not get an answer.
pub(crate) struct SendFailed {
    pub(crate) error: hyper::Error,
    /// The request, when not a byte of it was sent.
    pub(crate) unsent: Option<Box<Request<RequestBody>>>,
}

impl Kind {
    /// Whether it takes a request; waits for that.
    pub(crate) async fn ready(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    /// Sends a request.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, SendFailed> {
        let failed = |mut error: TrySendError<Request<RequestBody>>| SendFailed {
            unsent: error.take_message().map(Box::new),
            error: error.into_error(),
        };
        match self {
            Self::Http1(sender) => sender.try_send_request(request).await.map_err(failed),
            Self::Http2(sender) => sender.try_send_request(request).await.map_err(failed),
        }
    }
}
