//! What is written to a client: heads and small parts together, and a large part as it came.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::AsyncWrite;

use crate::serve::http::gather::Gather;

/// Parts of up to this are copied behind the head.
const SMALL: usize = 4 << 10;
/// So much is put together before it is written.
const FULL: usize = 16 << 10;

#[derive(Default)]
pub(super) struct Out(Gather);

impl Out {
    /// Whether all has been written.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether more is to be put behind it before it is written.
    pub(super) fn has_room(&self) -> bool {
        self.is_open() && self.0.front_len() < FULL
    }

    /// Whether what is put in front stands behind all that is there.
    pub(super) fn is_open(&self) -> bool {
        self.0.is_open()
    }

    /// Where heads are written.
    pub(super) fn front(&mut self) -> &mut Vec<u8> {
        self.0.front()
    }

    /// Another end behind the part that was put there last.
    pub(super) fn end_part(&mut self, end: &'static [u8]) {
        self.0.end_part(end);
    }

    /// Puts a part of a body behind what is there, and an end behind that.
    pub(super) fn part(&mut self, data: Bytes, end: &'static [u8]) {
        if data.len() <= SMALL {
            let front = self.front();
            front.extend_from_slice(&data);
            front.extend_from_slice(end);
        } else {
            self.0.part(data, end);
        }
    }

    /// Writes all of it, as far as the stream takes it.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_hand_over(cx, io))?;
        Pin::new(io).poll_flush(cx)
    }

    /// The same without its flush: what follows takes it along.
    pub(super) fn poll_hand_over(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            ready!(self.0.poll_write(cx, io))?;
        }
        // what is written makes room
        self.front();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::{io::IoSlice, task::Waker};

    use super::*;

    /// Takes so many octets at once.
    struct Takes(usize, Vec<u8>);

    impl AsyncWrite for Takes {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            let this = self.get_mut();
            let n = buf.len().min(this.0);
            this.1.extend_from_slice(&buf[..n]);
            Poll::Ready(Ok(n))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let this = self.get_mut();
            let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
            let n = all.len().min(this.0);
            this.1.extend_from_slice(&all[..n]);
            Poll::Ready(Ok(n))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn all_is_written_wherever_a_write_ends() {
        let data = Bytes::from(vec![b'd'; SMALL + 1]);
        let whole = SMALL + 1 + 4 + 7;
        for at_once in (1..40).chain(whole - 40..=whole) {
            let mut out = Out::default();
            out.front().extend_from_slice(b"head");
            out.part(data.clone(), b"\r\n0\r\n\r\n");
            let mut stream = Takes(at_once, Vec::new());
            let mut cx = Context::from_waker(Waker::noop());
            let written = out.poll_write(&mut cx, &mut stream);
            assert!(matches!(written, Poll::Ready(Ok(()))), "{at_once}");
            assert_eq!(stream.1.len(), whole, "{at_once}");
            assert!(stream.1.ends_with(b"d\r\n0\r\n\r\n"), "{at_once}");
        }
    }
}
