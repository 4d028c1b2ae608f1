//! What is asked of streams beside reading and writing.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncWrite, DuplexStream};

use super::Octets;

/// A stream whose last bytes and end can go out in one write, and which may hand octets over in the
/// buffer that they are in.
pub trait Hold {
    /// What is written from now on may wait until it is flushed, or for the end, which then goes
    /// out with it. Nothing, where it can't.
    fn hold(&mut self) {}

    /// Whether what reads as the end was said to be it, also behind a break. Of a socket that was
    /// reset the system tells once, and who is told may be who writes.
    fn says_its_end(&self) -> bool {
        false
    }

    /// Resolves when the stream breaks, for one who reads it no more. Never, where reading or writing
    /// tells.
    fn poll_broken(&mut self, _cx: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }

    /// Whether a reset throws away what has not left yet.
    fn may_lose(&self) -> bool {
        false
    }

    /// Whether everything that was flushed has left. Behind an end that was said nobody knows, and it
    /// is taken for granted.
    fn has_sent(&self) -> bool {
        true
    }

    /// It lasts longer than a moment, and may come to rest.
    fn lasts(&mut self) {}

    /// Much that has come, as it is; nothing at the end. `None`: it is to be read.
    fn poll_lend(&mut self, _cx: &mut Context<'_>) -> Option<Poll<io::Result<Option<Octets>>>> {
        None
    }

    /// Takes much as it is, or the front of it, as a write does; what it does not take whole it
    /// leaves. `None`: it is to be written.
    fn poll_give(
        &mut self,
        _cx: &mut Context<'_>,
        _octets: &mut Option<Octets>,
    ) -> Option<Poll<io::Result<usize>>> {
        None
    }
}

impl Hold for DuplexStream {}

/// A stream whose end can be other than an end.
pub trait Abort {
    /// Makes the close a reset: what was carried is not to look complete.
    fn abort(&mut self);
}

/// A stream whose last octets and end can go out in one packet.
pub trait WriteLast: AsyncWrite {
    /// A write that `poll_shutdown` follows at once, or another one of these before it: what it
    /// takes may wait for the end.
    fn poll_write_last(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write(cx, buf)
    }
}

impl WriteLast for DuplexStream {}

impl<S: Hold + ?Sized> Hold for &mut S {
    fn hold(&mut self) {
        (**self).hold();
    }

    fn says_its_end(&self) -> bool {
        (**self).says_its_end()
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        (**self).poll_broken(cx)
    }

    fn may_lose(&self) -> bool {
        (**self).may_lose()
    }

    fn has_sent(&self) -> bool {
        (**self).has_sent()
    }

    fn lasts(&mut self) {
        (**self).lasts();
    }

    fn poll_lend(&mut self, cx: &mut Context<'_>) -> Option<Poll<io::Result<Option<Octets>>>> {
        (**self).poll_lend(cx)
    }

    fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        octets: &mut Option<Octets>,
    ) -> Option<Poll<io::Result<usize>>> {
        (**self).poll_give(cx, octets)
    }
}
