//! An answer's body, read straight from its connection, which it holds until it has passed.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{Hop, HopError, LONG, LONGEST, SHORT, Tunnel, shared::Owner};
use crate::{
    net::Octets,
    serve::http::body::{AnswerError, poll_http2},
    wire::http1::{
        answer::Length,
        body::{Decoder, Piece},
    },
};

/// The body of a next hop's answer.
pub(crate) enum AnswerBody {
    /// In a stream of HTTP/2.
    Http2(Incoming),
    /// With the connection that it comes over.
    Http1(Http1Answer),
    /// Nothing is left of it.
    Passed,
}

/// A body in HTTP/1.1.
pub(crate) struct Http1Answer {
    owner: Owner,
    decoder: Decoder,
    /// Both sides go on after it.
    keep_alive: bool,
    /// So much is read at once.
    room: usize,
    /// What follows is no longer HTTP.
    tunnel: bool,
    /// Something was handed on since it was last waited for.
    handed: bool,
    /// Why it breaks, once what was handed on has gone out.
    broken: Option<HopError>,
}

impl Http1Answer {
    pub(super) fn new(owner: Owner, length: Length, keep_alive: bool) -> Self {
        let decoder = Decoder::new(length);
        let long = decoder
            .left()
            .is_some_and(|left| left > u64::try_from(SHORT).unwrap_or(0));
        Self {
            owner,
            decoder,
            keep_alive,
            room: if long { LONG } else { SHORT },
            tunnel: length == Length::Tunnel,
            // the head
            handed: true,
            broken: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HopError>>> {
        let Self {
            owner,
            decoder,
            room,
            ..
        } = self;
        if decoder.is_ended() {
            return Poll::Ready(None);
        }
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let polled = match owner {
            Owner::Alone(hop) => poll_hop(hop, decoder, room, cx),
            Owner::Shared(shared) => {
                shared.poll_with(cx, |hop, cx| poll_hop(hop, decoder, room, cx))
            }
            // it broke before
            Owner::Nobody => Poll::Ready(Some(Err(HopError::Closed))),
        };
        let was_handed = std::mem::replace(&mut self.handed, polled.is_ready());
        match polled {
            Poll::Ready(Some(Err(error))) => {
                self.give_up();
                if !was_handed {
                    return Poll::Ready(Some(Err(error)));
                }
                // an error takes along what the client's side has not written yet
                self.handed = false;
                self.broken = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            polled @ (Poll::Ready(_) | Poll::Pending) => polled,
        }
    }

    fn give_up(&mut self) {
        if let Owner::Shared(shared) = std::mem::replace(&mut self.owner, Owner::Nobody) {
            shared.give_up();
        }
    }

    /// The connection, where it can take another request.
    fn rested(mut self) -> Option<Box<Hop>> {
        let hop = match std::mem::replace(&mut self.owner, Owner::Nobody) {
            Owner::Alone(hop) => Some(hop),
            Owner::Shared(shared) if self.decoder.is_ended() => shared.answered(self.keep_alive),
            Owner::Shared(shared) => {
                shared.give_up();
                None
            }
            Owner::Nobody => None,
        };
        let goes_on = self.keep_alive && self.decoder.is_ended();
        hop.filter(|_| goes_on).and_then(Hop::rested)
    }
}

impl Drop for Http1Answer {
    fn drop(&mut self) {
        if self.decoder.is_ended() {
            // the rest of the request may go on
            if let Owner::Shared(shared) = &self.owner {
                drop(shared.answered(self.keep_alive));
            }
            self.owner = Owner::Nobody;
        }
        self.give_up();
    }
}

fn poll_hop(
    hop: &mut Hop,
    decoder: &mut Decoder,
    room: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, HopError>>> {
    hop.fated()?;
    loop {
        match decoder.read(&mut hop.buf)? {
            Some(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
            Some(Piece::Trailers(trailers)) => {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            Some(Piece::End) => return Poll::Ready(None),
            None => {}
        }
        let came = if hop.buf.is_empty()
            && decoder.data_next() > u64::try_from(SHORT).unwrap_or(0)
            && let Some(lent) = hop.poll_lend(cx)
        {
            match ready!(lent)? {
                Some(octets) => {
                    return Poll::Ready(Some(Ok(Frame::data(lend(hop, decoder, octets)))));
                }
                None => 0,
            }
        } else {
            ready!(hop.poll_fill(cx, *room))?
        };
        if came == 0 {
            return Poll::Ready(match decoder.close() {
                true => None,
                false => Some(Err(HopError::Closed)),
            });
        }
        if came >= *room {
            *room = room.saturating_mul(2).min(LONGEST);
        }
    }
}

/// Data that is handed on in the buffer that it came in; what stands behind it is left to be read.
fn lend(hop: &mut Hop, decoder: &mut Decoder, octets: Octets) -> Bytes {
    let mut data = Bytes::from(octets);
    let here = usize::try_from(decoder.data_next()).map_or(data.len(), |next| next.min(data.len()));
    hop.buf.extend_from_slice(&data.split_off(here));
    decoder.took(here);
    data
}

impl AnswerBody {
    /// The connection of HTTP/1.1, once its answer has passed and it can take another request.
    pub(crate) fn rested(self) -> Option<Box<Hop>> {
        match self {
            Self::Http1(answer) => answer.rested(),
            Self::Http2(_) | Self::Passed => None,
        }
    }

    /// The bytes behind an answer that makes its connection another protocol's.
    pub(crate) fn into_tunnel(self) -> Option<Tunnel> {
        let Self::Http1(mut answer) = self else {
            return None;
        };
        if !answer.tunnel {
            return None;
        }
        match std::mem::replace(&mut answer.owner, Owner::Nobody) {
            Owner::Alone(mut hop) => Tunnel::new(&mut hop),
            Owner::Shared(_) | Owner::Nobody => None,
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        match self.get_mut() {
            Self::Http1(answer) => answer.poll(cx).map_err(AnswerError::Http1),
            Self::Http2(body) => poll_http2(body, cx)
                .map_err(|error| error.map_or(AnswerError::Reset, AnswerError::Http2)),
            Self::Passed => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(answer) => answer.decoder.is_ended(),
            Self::Http2(body) => body.is_end_stream(),
            Self::Passed => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(answer) => match answer.decoder.left() {
                Some(left) => SizeHint::with_exact(left),
                None => SizeHint::default(),
            },
            Self::Http2(body) => body.size_hint(),
            Self::Passed => SizeHint::with_exact(0),
        }
    }
}
