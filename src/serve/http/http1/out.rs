//! What is written to a client: heads and small parts in one buffer, which is used again, and a
//! large part as it came.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::io::AsyncWrite;

/// Parts of up to this are copied behind the head.
const SMALL: usize = 4 << 10;
/// So much is put together before it is written.
const FULL: usize = 16 << 10;

#[derive(Default)]
pub(super) struct Out {
    front: Vec<u8>,
    /// So much of it has been written.
    written: usize,
    /// What stands behind it.
    data: Bytes,
    /// What stands behind that.
    tail: &'static [u8],
}

impl Out {
    /// Whether all has been written.
    pub(super) fn is_empty(&self) -> bool {
        self.written == self.front.len() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Whether more is to be put behind it before it is written.
    pub(super) fn has_room(&self) -> bool {
        self.is_open() && self.front.len() < FULL
    }

    /// Whether what is put in front stands behind all that is there.
    pub(super) fn is_open(&self) -> bool {
        self.data.is_empty() && self.tail.is_empty()
    }

    /// Where heads are written.
    pub(super) fn front(&mut self) -> &mut Vec<u8> {
        &mut self.front
    }

    /// Another end behind the part that was put there last.
    pub(super) fn end_part(&mut self, end: &'static [u8]) {
        self.tail = end;
    }

    /// Puts a part of a body behind what is there, and an end behind that.
    pub(super) fn part(&mut self, data: Bytes, end: &'static [u8]) {
        if data.len() <= SMALL {
            self.front.extend_from_slice(&data);
            self.front.extend_from_slice(end);
        } else {
            (self.data, self.tail) = (data, end);
        }
    }

    /// Writes all of it, as far as the stream takes it.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let front = self.front.get(self.written..).unwrap_or_default();
            let bufs = [
                IoSlice::new(front),
                IoSlice::new(&self.data),
                IoSlice::new(self.tail),
            ];
            // an empty write would look like a stream that takes nothing
            let filled = if self.is_open() { 1 } else { 3 };
            let bufs = bufs.get(..filled).unwrap_or(&bufs);
            match ready!(Pin::new(&mut *io).poll_write_vectored(cx, bufs))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.took(n),
            }
        }
        self.front.clear();
        self.written = 0;
        Pin::new(io).poll_flush(cx)
    }

    fn took(&mut self, n: usize) {
        let front = self.front.len().saturating_sub(self.written).min(n);
        self.written = self.written.saturating_add(front);
        let n = n.saturating_sub(front);
        let data = self.data.len().min(n);
        self.data.advance(data);
        if self.data.is_empty() {
            // a slice that is empty holds its buffer all the same
            self.data = Bytes::new();
        }
        let n = n.saturating_sub(data);
        self.tail = self.tail.get(n..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

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
