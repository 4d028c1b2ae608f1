//! One direction of a relay.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{RelayCause, Side};
use crate::net::{
    hold::Hold,
    octets::Octets,
    pool::{Chunk, MUCH, PIECE},
    stalls::Stalled,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Moving,
    Closing,
    Done,
}

/// One direction.
pub(super) struct Half {
    from: Side,
    state: State,
    chunk: Option<Chunk>,
    start: usize,
    end: usize,
    ended: bool,
    /// Why no more comes: told once what came before has gone on.
    broken: Option<io::Error>,
    unflushed: bool,
    /// When the reader began to owe us room; when its end was said, once it was.
    stalled: Option<Instant>,
}

/// What became of the last words of a side that broke.
pub(super) enum Last {
    /// Some went on.
    Moved,
    /// Who gets them takes none now, or there is no word of them yet.
    Waits,
    /// There are no more, or nobody takes them.
    Over,
}

impl Half {
    pub(super) fn new(from: Side) -> Self {
        Self {
            from,
            state: State::Moving,
            chunk: None,
            start: 0,
            end: 0,
            ended: false,
            broken: None,
            unflushed: false,
            stalled: None,
        }
    }

    pub(super) fn to(&self) -> Side {
        match self.from {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }

    pub(super) fn failed(&self, side: Side, error: io::Error) -> RelayCause {
        if Stalled::of(&error).is_some() {
            return RelayCause::WriteStalled { side };
        }
        let truncated = side == self.from && error.kind() == io::ErrorKind::UnexpectedEof;
        RelayCause::Failed {
            side,
            error,
            truncated,
        }
    }

    /// Moves what can be moved; whether anything did.
    pub(super) fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        count: &AtomicU64,
    ) -> Result<bool, RelayCause>
    where
        R: AsyncRead + Hold + Unpin,
        W: AsyncWrite + Hold + Unpin,
    {
        let mut moved = false;
        if self.state == State::Moving {
            moved |= self.read(cx, from);
            if self.ended && self.start < self.end {
                // one write for both
                to.hold();
            }
            moved |= self.write(cx, to, count)?;
            if self.start == self.end
                && !self.unflushed
                && let Some(error) = self.broken.take()
            {
                return Err(self.failed(self.from, error));
            }
            if self.ended && self.start == self.end && !self.unflushed {
                self.state = State::Closing;
                // its end goes on behind all the rest: the break comes right after
                if let Poll::Ready(error) = from.poll_broken(cx) {
                    return Err(self.failed(self.from, error));
                }
            }
        }
        if self.state == State::Closing {
            match Pin::new(to).poll_shutdown(cx) {
                Poll::Pending => self.stall(),
                Poll::Ready(Ok(())) => {
                    self.state = State::Done;
                    self.stalled = Some(Instant::now());
                    moved = true;
                }
                // the other side has gone already: it has no use for an end
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::NotConnected => {
                    self.state = State::Done;
                    self.stalled = Some(Instant::now());
                    moved = true;
                }
                Poll::Ready(Err(error)) => return Err(self.failed(self.to(), error)),
            }
        }
        Ok(moved)
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Since when the reader has owed us room.
    pub(super) fn stalled(&self) -> Option<Instant> {
        self.stalled.filter(|_| !self.is_done())
    }

    /// When its end was said.
    pub(super) fn done(&self) -> Option<Instant> {
        self.stalled.filter(|_| self.is_done())
    }

    /// Whether everything has gone on but the end.
    pub(super) fn is_whole(&self) -> bool {
        self.state == State::Closing
    }

    /// Hands on what is there of a side that broke, of which who wrote was told. What then reads as
    /// its end is one only where ends are said.
    pub(super) fn last<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        count: &AtomicU64,
    ) -> Last
    where
        R: AsyncRead + Hold + Unpin,
        W: AsyncWrite + Hold + Unpin,
    {
        let known = self.ended || from.says_its_end();
        let mut moved = false;
        if self.state == State::Moving {
            moved |= self.read(cx, from);
            if self.ended && !known {
                // nor is it one at the next look, when what came before it has gone on
                self.ended = false;
                self.broken = Some(io::ErrorKind::ConnectionReset.into());
            }
            match self.write(cx, to, count) {
                Ok(wrote) => moved |= wrote,
                Err(_gone_too) => return Last::Over,
            }
            if self.start < self.end || self.unflushed {
                return if moved { Last::Moved } else { Last::Waits };
            }
            if !self.ended && self.broken.is_none() {
                if moved {
                    return Last::Moved;
                }
                // who writes may be told before who reads: the rest is then yet to be heard of
                self.stall();
                return Last::Waits;
            }
            if self.ended {
                self.state = State::Closing;
            }
        }
        Last::Over
    }

    /// Fills the buffer until it is full or nothing more is there.
    fn read<R: AsyncRead + Hold + Unpin>(&mut self, cx: &mut Context<'_>, from: &mut R) -> bool {
        let mut moved = false;
        while !self.ended
            && self.broken.is_none()
            && self.end < PIECE
            && !(self.start > 0 && self.start < self.end)
        {
            if self.end == 0
                && let Some(lent) = from.poll_lend(cx)
            {
                match lent {
                    Poll::Pending => break,
                    Poll::Ready(Err(error)) => self.broken = Some(error),
                    Poll::Ready(Ok(None)) => self.ended = true,
                    Poll::Ready(Ok(Some(octets))) => {
                        let (chunk, len) = octets.into_chunk().unzip();
                        (self.chunk, self.end) = (chunk, len.unwrap_or(0));
                    }
                }
                moved = true;
                continue;
            }
            let mut chunk = self.chunk.take().unwrap_or_else(Chunk::take);
            let mut buf = ReadBuf::new(
                chunk
                    .bytes_mut()
                    .get_mut(self.end..PIECE)
                    .unwrap_or_default(),
            );
            let read = Pin::new(&mut *from).poll_read(cx, &mut buf);
            let n = buf.filled().len();
            if self.end.saturating_add(n) > 0 {
                self.chunk = Some(chunk);
            }
            match read {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => self.broken = Some(error),
                Poll::Ready(Ok(())) if n == 0 => self.ended = true,
                Poll::Ready(Ok(())) => self.end = self.end.saturating_add(n),
            }
            moved = true;
        }
        moved
    }

    fn write<W: AsyncWrite + Hold + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        count: &AtomicU64,
    ) -> Result<bool, RelayCause> {
        let mut moved = false;
        while self.start < self.end {
            let written = match self.give(cx, to) {
                Some(given) => given,
                None => {
                    let Some(chunk) = &self.chunk else { break };
                    let bytes = chunk.bytes().get(self.start..self.end).unwrap_or_default();
                    Pin::new(&mut *to).poll_write(cx, bytes)
                }
            };
            match written {
                Poll::Pending => {
                    self.stall();
                    return Ok(moved);
                }
                Poll::Ready(Ok(0)) => {
                    return Err(self.failed(self.to(), io::ErrorKind::WriteZero.into()));
                }
                Poll::Ready(Ok(n)) => {
                    self.start = self.start.saturating_add(n);
                    count.fetch_add(u64::try_from(n).unwrap_or(0), Ordering::Relaxed);
                    self.unflushed = true;
                    // what is held back for the end has not been taken by anybody yet
                    if !(self.ended && self.start == self.end) {
                        self.stalled = None;
                    }
                    moved = true;
                }
                Poll::Ready(Err(error)) => return Err(self.failed(self.to(), error)),
            }
        }
        if self.start == self.end {
            (self.start, self.end, self.chunk) = (0, 0, None);
        }
        if self.ended && self.start == self.end {
            // the end comes next, and takes it along
            self.unflushed = false;
        } else if self.unflushed {
            match Pin::new(to).poll_flush(cx) {
                Poll::Pending => self.stall(),
                Poll::Ready(Ok(())) => (self.unflushed, self.stalled) = (false, None),
                Poll::Ready(Err(error)) => return Err(self.failed(self.to(), error)),
            }
        }
        Ok(moved)
    }

    /// Hands much over as it is, where the stream takes it so.
    fn give<W: Hold>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Option<Poll<io::Result<usize>>> {
        if self.start > 0 || self.end <= MUCH {
            return None;
        }
        let len = self.end;
        let mut octets = self.chunk.take().map(|chunk| Octets::whole(chunk, len));
        let given = to.poll_give(cx, &mut octets);
        self.chunk = octets.and_then(Octets::into_chunk).map(|(chunk, _)| chunk);
        given
    }

    fn stall(&mut self) {
        self.stalled.get_or_insert_with(Instant::now);
    }
}
