//! A connection to the next hop in HTTP/1.1. It belongs to whoever took it: to the one who sends a
//! request ([`exchange`]), then to its answer ([`answer`]), and goes back to its pool from there. No
//! task drives it and no channel leads to it.

pub(crate) mod answer;
mod exchange;
pub(crate) mod fate;
mod outgoing;
mod shared;
mod tunnel;

#[cfg(test)]
mod tests;

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::Handle,
    task::unconstrained,
};
use tokio_util::io::poll_read_buf;

pub(crate) use self::{
    answer::AnswerBody,
    exchange::send,
    fate::{Fate, Judge},
    tunnel::Tunnel,
};
use super::body::BodyError;
use crate::{
    admit::{Denial, Denied},
    drain::Drain,
    net::{Abort, Hold, Octets, PIECE, Stalled},
    tls::alert::{self, Side},
    wire::{framing, http1},
};

/// What is read at once of heads and short bodies.
const SHORT: usize = 8 << 10;
/// And of long ones, more while more than that is there.
const LONG: usize = PIECE;
const LONGEST: usize = 128 << 10;

/// The stream under a connection.
pub(crate) trait Io: AsyncRead + AsyncWrite + Abort + Hold + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Abort + Hold + Send + Unpin> Io for S {}

/// A connection between two requests, or under one.
pub(crate) struct Hop {
    io: Option<Box<dyn Io>>,
    /// What was read and not taken. Without memory between requests.
    buf: BytesMut,
    /// Part of a request was sent, and not all of it.
    owes: bool,
    /// Whether it may go on; `None`: nobody's rules name it.
    fate: Option<Arc<Fate>>,
    /// For what still has to be sent when an answer has come.
    drain: Drain,
}

impl Hop {
    pub(crate) fn new(io: impl Io + 'static, fate: Option<Arc<Fate>>, drain: Drain) -> Box<Self> {
        Box::new(Self {
            io: Some(Box::new(io)),
            buf: BytesMut::new(),
            owes: false,
            fate,
            drain,
        })
    }

    /// Whether it takes a request: nothing came unasked, not even an end. What TLS has to say
    /// between requests is heard by this.
    pub(crate) fn is_quiet(&mut self, cx: &mut Context<'_>) -> bool {
        if self.fated().is_err() || !self.buf.is_empty() {
            return false;
        }
        let Some(io) = &mut self.io else { return false };
        let mut one = [0];
        let read = poll_fn(|cx| Pin::new(&mut *io).poll_read(cx, &mut ReadBuf::new(&mut one)));
        // a task that has done much would be told to wait, and nothing would be asked
        pin!(unconstrained(read)).poll(cx).is_pending()
    }

    /// The same, asked in passing.
    pub(crate) fn is_quiet_now(&mut self) -> bool {
        self.is_quiet(&mut Context::from_waker(Waker::noop()))
    }

    fn fated(&self) -> Result<(), HopError> {
        match self.fate.as_ref().and_then(|fate| fate.end()) {
            None => Ok(()),
            Some(why) => Err(HopError::Ended(why.clone())),
        }
    }

    fn io(&mut self) -> Result<&mut Box<dyn Io>, HopError> {
        // taken from it only when it is given up
        self.io.as_mut().ok_or(HopError::Closed)
    }

    /// Reads more, into as much room as is wanted at least: how many bytes came; none at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<usize, HopError>> {
        let Self { io, buf, .. } = self;
        let Some(io) = io else {
            return Poll::Ready(Err(HopError::Closed));
        };
        let read = if buf.is_empty() && wanted <= SHORT {
            poll_short(io, cx, buf)
        } else {
            if buf.capacity().saturating_sub(buf.len()) < wanted.min(LONG) {
                buf.reserve(wanted);
            }
            poll_read_buf(Pin::new(io), cx, buf)
        };
        self.heard(read, cx)
    }

    /// Takes much in the buffer that it came in; nothing at the end. `None`: it is to be read.
    fn poll_lend(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Option<Poll<Result<Option<Octets>, HopError>>> {
        let lent = self.io.as_mut()?.poll_lend(cx)?;
        Some(self.heard(lent, cx))
    }

    /// What a read came to, or that nobody waits for it any more.
    fn heard<T>(&self, read: Poll<io::Result<T>>, cx: &Context<'_>) -> Poll<Result<T, HopError>> {
        if read.is_pending()
            && let Some(fate) = &self.fate
        {
            fate.wake_reader(cx);
            // it may have been sealed since it was looked at, when nobody was there to be woken
            self.fated()?;
        }
        read.map_err(HopError::Io)
    }

    /// The connection between two requests, where nothing stands behind the last answer.
    fn rested(mut self: Box<Self>) -> Option<Box<Self>> {
        if !self.buf.is_empty() {
            return None;
        }
        self.buf = BytesMut::new();
        Some(self)
    }
}

/// Reads what comes next, into memory of its own size: none is held while it is awaited, and what
/// is handed on of it holds no more than came.
fn poll_short(
    io: &mut Box<dyn Io>,
    cx: &mut Context<'_>,
    buf: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    let mut room = [const { MaybeUninit::uninit() }; SHORT];
    let mut room = ReadBuf::uninit(&mut room);
    ready!(Pin::new(io).poll_read(cx, &mut room))?;
    *buf = BytesMut::from(room.filled());
    Poll::Ready(Ok(buf.len()))
}

impl Drop for Hop {
    /// Says that it closes, if that can be said at once: the other end would take it for cut. Where a
    /// request is, that is said.
    fn drop(&mut self) {
        let Some(io) = &mut self.io else { return };
        if self.owes {
            io.abort();
            return;
        }
        // what can't be said at once sets a timer, which is nowhere else
        if Handle::try_current().is_ok() {
            let mut cx = Context::from_waker(Waker::noop());
            let _said = Pin::new(io).poll_shutdown(&mut cx);
        }
    }
}

/// Why there is no answer, or no whole one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HopError {
    #[error("the connection to the next hop broke: {0}")]
    Io(#[source] io::Error),
    #[error("the next hop closed the connection before its answer was complete")]
    Closed,
    #[error("the next hop answered before it was asked")]
    Unasked,
    #[error("the next hop sent more than {0} interim answers")]
    Interim(u32),
    #[error("{0}")]
    Head(#[from] http1::answer::Fault),
    #[error("the answer's body broke: {0}")]
    Body(#[from] framing::Fault),
    #[error("the request's body broke: {0}")]
    Request(#[from] BodyError),
    #[error("the request's body is not as long as its Content-Length says")]
    Length,
    #[error("the link connection ended: {0}")]
    Ended(Denied),
}

impl HopError {
    /// The client's own fault is told from the next hop's.
    pub(crate) fn denied(&self) -> Denied {
        match self {
            Self::Request(fault) => return fault.denied(),
            Self::Length => return Denied::new(Denial::RequestInvalid, self.to_string()),
            Self::Io(error) => {
                if let Some(stalled) = Stalled::of(error) {
                    return Denied::new(Denial::UpstreamTimeout, stalled.to_string());
                }
                // a foreign acceptor's refusal comes with the first read after its handshake
                if self.is_explained() {
                    return alert::explain(error, Side::Client);
                }
            }
            Self::Closed
            | Self::Unasked
            | Self::Interim(_)
            | Self::Head(_)
            | Self::Body(_)
            | Self::Ended(_) => {}
        }
        Denied::new(Denial::UpstreamBroken, self.to_string())
    }

    /// What the stream itself said, where it broke.
    fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Io(error) => Some(error),
            Self::Closed
            | Self::Unasked
            | Self::Interim(_)
            | Self::Head(_)
            | Self::Body(_)
            | Self::Request(_)
            | Self::Length
            | Self::Ended(_) => None,
        }
    }

    /// TLS says why.
    fn is_explained(&self) -> bool {
        let said = self.io().and_then(io::Error::get_ref);
        said.is_some_and(|tls| tls.is::<rustls::Error>())
    }

    /// Whether an answer may still come, though the request can't be sent.
    fn may_be_answered(&self) -> bool {
        self.io().is_some_and(|error| Stalled::of(error).is_none())
    }
}
