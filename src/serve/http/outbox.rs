//! What HTTP/2 writes to a client, put together: each answer comes in a write of its own, and those
//! that are ready at the same moment go out as one.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;

use crate::net::Chunk;

/// Bytes that wait for the end of a turn. Without memory between turns.
#[derive(Default)]
pub(super) struct Outbox {
    chunk: Option<Chunk>,
    start: usize,
    end: usize,
    /// The stream did not take all of it when it was asked last.
    stuck: bool,
}

impl Outbox {
    fn room(&mut self) -> &mut [u8] {
        let chunk = self.chunk.get_or_insert_with(|| {
            (self.start, self.end) = (0, 0);
            Chunk::take()
        });
        chunk.wide_mut().get_mut(self.end..).unwrap_or_default()
    }

    /// Puts slices behind what is there, at least some of them: how many octets. What the stream
    /// does not take is not added to, so that the one who writes hears of it.
    pub(super) fn poll_put(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = bufs
            .iter()
            .fold(0usize, |sum, buf| sum.saturating_add(buf.len()));
        if self.stuck || self.room().len() < all {
            ready!(self.poll_drain(cx, io))?;
        }
        let mut room = self.room();
        let mut taken = 0usize;
        for buf in bufs {
            let n = buf.len().min(room.len());
            let (place, rest) = room.split_at_mut(n);
            place.copy_from_slice(buf.get(..n).unwrap_or_default());
            room = rest;
            taken = taken.saturating_add(n);
        }
        self.end = self.end.saturating_add(taken);
        Poll::Ready(Ok(taken))
    }

    /// Writes all of it.
    pub(super) fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        // until it is known that it is not
        self.stuck = true;
        while let Some(chunk) = &self.chunk {
            let waiting = chunk.wide().get(self.start..self.end).unwrap_or_default();
            if waiting.is_empty() {
                self.chunk = None;
                break;
            }
            match ready!(Pin::new(&mut *io).poll_write(cx, waiting))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.start = self.start.saturating_add(n),
            }
        }
        ready!(Pin::new(io).poll_flush(cx))?;
        self.stuck = false;
        Poll::Ready(Ok(()))
    }
}
