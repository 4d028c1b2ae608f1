//! The body of a client's request, in either version of HTTP.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{
    body::{BodyError, poll_http2},
    exchange::blank_ended,
    http1::Http1Body,
};

/// A body as it comes.
pub(crate) enum ClientBody {
    /// There is none.
    None,
    Http1(Http1Body),
    Http2(Incoming),
}

/// Trailers whose values have white space around them are malformed (RFC 9113 section 8.2.1).
fn well_formed(frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyError> {
    match frame.trailers_ref() {
        Some(trailers) if blank_ended(trailers) => Err(BodyError::Trailers),
        Some(_) | None => Ok(frame),
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::None => Poll::Ready(None),
            Self::Http1(body) => body.poll_frame(cx),
            Self::Http2(body) => poll_http2(body, cx)
                .map_err(|error| error.map_or(BodyError::Reset, BodyError::Broken))
                .map(|polled| polled.map(|frame| frame.and_then(well_formed))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::None => true,
            Self::Http1(body) => body.is_ended(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::None => SizeHint::with_exact(0),
            Self::Http1(body) => body
                .left()
                .map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Http2(body) => body.size_hint(),
        }
    }
}
