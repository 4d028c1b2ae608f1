//! Bytes on their way out in HTTP/1.1: heads and small parts in one buffer, which is used again, a
//! large part as it came, and what ends it. They go out in one write where the stream takes it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::io::AsyncWrite;

#[derive(Default)]
pub(super) struct Gather {
    front: Vec<u8>,
    /// So much of it has been written.
    written: usize,
    /// What stands behind it.
    data: Bytes,
    /// What stands behind that.
    tail: &'static [u8],
}

impl Gather {
    /// Whether all has been written.
    pub(super) fn is_empty(&self) -> bool {
        self.written == self.front.len() && self.is_open()
    }

    /// Whether what is put in front stands behind all that is there.
    pub(super) fn is_open(&self) -> bool {
        self.data.is_empty() && self.tail.is_empty()
    }

    /// What has not been written.
    pub(super) fn left(&self) -> usize {
        let front = self.front.len().saturating_sub(self.written);
        front
            .saturating_add(self.data.len())
            .saturating_add(self.tail.len())
    }

    /// What is put together in front, written or not.
    pub(super) fn front_len(&self) -> usize {
        self.front.len()
    }

    /// Where heads and small parts are put; what was written makes room.
    pub(super) fn front(&mut self) -> &mut Vec<u8> {
        if self.written == self.front.len() {
            self.front.clear();
            self.written = 0;
        }
        &mut self.front
    }

    /// A part that goes out as it is, and an end behind it.
    pub(super) fn part(&mut self, data: Bytes, tail: &'static [u8]) {
        (self.data, self.tail) = (data, tail);
    }

    /// Another end behind the part that was put there last.
    pub(super) fn end_part(&mut self, tail: &'static [u8]) {
        self.tail = tail;
    }

    /// Writes once. There is something to be written.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        let front = self.front.get(self.written..).unwrap_or_default();
        let io = Pin::new(io);
        let written = if self.is_open() {
            io.poll_write(cx, front)
        } else if front.is_empty() && self.tail.is_empty() {
            // what lies in one place is sealed without a copy
            io.poll_write(cx, &self.data)
        } else {
            let bufs = [
                IoSlice::new(front),
                IoSlice::new(&self.data),
                IoSlice::new(self.tail),
            ];
            io.poll_write_vectored(cx, &bufs)
        };
        match ready!(written)? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            n => {
                self.took(n);
                Poll::Ready(Ok(()))
            }
        }
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
