//! Bytes from one side to the other and back, in one task: half-close carried, truncation told
//! from an end, deadlines on idleness and on readers that don't read.

use std::{
    fmt,
    future::{Future as _, poll_fn},
    io,
    pin::{Pin, pin},
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::{
    hold::Hold,
    octets::Octets,
    pool::{Chunk, MUCH, PIECE},
    stalls::Stalled,
};

/// Rounds before other tasks get their turn: plaintext buffered in a TLS session escapes the
/// runtime's own budget.
const ROUNDS: usize = 16;

/// When a relay that moved bytes is looked at again.
const SOON: Duration = Duration::from_secs(1);

/// Limits of a relay.
#[derive(Debug, Default)]
pub struct RelayOptions {
    /// Longest time without a byte in either direction; zero: no limit.
    pub idle_timeout: Duration,
    /// Longest time that a side owed bytes may take none; zero: no limit.
    pub write_timeout: Duration,
    /// Bytes so far, for whoever cuts the relay from outside.
    pub progress: Progress,
}

/// Bytes that were handed to the other side.
#[derive(Debug, Default)]
pub struct Progress {
    a_to_b: AtomicU64,
    b_to_a: AtomicU64,
}

impl Progress {
    /// With octets of the first that have gone to the second already.
    #[must_use]
    pub fn begun(ahead: usize) -> Self {
        Self {
            a_to_b: AtomicU64::new(u64::try_from(ahead).unwrap_or(u64::MAX)),
            b_to_a: AtomicU64::new(0),
        }
    }

    /// (a to b, b to a).
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (
            self.a_to_b.load(Ordering::Relaxed),
            self.b_to_a.load(Ordering::Relaxed),
        )
    }
}

/// One of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first.
    A,
    /// The second.
    B,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // both roles relay between the one who dialled them and the one they dialled
        f.write_str(match self {
            Self::A => "the peer",
            Self::B => "the next hop",
        })
    }
}

/// Why a relay ended.
#[derive(Debug)]
pub enum RelayCause {
    /// Both sides said that they were done.
    Finished,
    /// `idle_timeout`.
    Idle,
    /// `write_timeout`.
    WriteStalled {
        /// Who took nothing.
        side: Side,
    },
    /// A side broke.
    Failed {
        /// Which.
        side: Side,
        /// How.
        error: io::Error,
        /// It ended without saying so: what it sent may be cut short.
        truncated: bool,
    },
}

/// What a relay did.
#[derive(Debug)]
pub struct RelayEnd {
    /// Octets from the first to the second.
    pub a_to_b: u64,
    /// Octets from the second to the first.
    pub b_to_a: u64,
    /// Why it ended. On anything but `Finished` the caller has to reset both sides.
    pub cause: RelayCause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Moving,
    Closing,
    Done,
}

/// One direction.
struct Half {
    from: Side,
    state: State,
    chunk: Option<Chunk>,
    start: usize,
    end: usize,
    ended: bool,
    /// Why no more comes: told once what came before has gone on.
    broken: Option<io::Error>,
    unflushed: bool,
    /// When the reader began to owe us room.
    stalled: Option<Instant>,
}

/// Carries bytes until both sides are done or one breaks.
pub async fn relay<A, B>(a: &mut A, b: &mut B, options: &RelayOptions) -> RelayEnd
where
    A: AsyncRead + AsyncWrite + Hold + Unpin,
    B: AsyncRead + AsyncWrite + Hold + Unpin,
{
    let progress = &options.progress;
    let (mut ab, mut ba) = (Half::new(Side::A), Half::new(Side::B));
    let mut watch = pin!(Watch::new(options));
    let cause = poll_fn(|cx| {
        for _ in 0..ROUNDS {
            let forth = match ab.poll(cx, a, b, &progress.a_to_b) {
                Ok(moved) => moved,
                Err(cause) => {
                    // who reads no more may have said why: it goes as far as it goes at once
                    if matches!(cause, RelayCause::Failed { side: Side::B, .. }) {
                        ba.rescue(cx, b, a, &progress.b_to_a);
                    }
                    return Poll::Ready(cause);
                }
            };
            let back = match ba.poll(cx, b, a, &progress.b_to_a) {
                Ok(moved) => moved,
                Err(cause) => return Poll::Ready(cause),
            };
            if ab.state == State::Done && ba.state == State::Done {
                return Poll::Ready(RelayCause::Finished);
            }
            if !forth && !back {
                return watch.as_mut().poll(cx, progress, [&ab, &ba]);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    let (a_to_b, b_to_a) = progress.bytes();
    RelayEnd {
        a_to_b,
        b_to_a,
        cause,
    }
}

impl Half {
    fn new(from: Side) -> Self {
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

    fn to(&self) -> Side {
        match self.from {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }

    fn failed(&self, side: Side, error: io::Error) -> RelayCause {
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
    fn poll<R, W>(
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
            }
        }
        if self.state == State::Closing {
            match Pin::new(to).poll_shutdown(cx) {
                Poll::Pending => self.stall(),
                Poll::Ready(Ok(())) => {
                    self.state = State::Done;
                    self.stalled = None;
                    moved = true;
                }
                // the other side has gone already: it has no use for an end
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::NotConnected => {
                    self.state = State::Done;
                    self.stalled = None;
                    moved = true;
                }
                Poll::Ready(Err(error)) => return Err(self.failed(self.to(), error)),
            }
        }
        Ok(moved)
    }

    /// Hands on what is there of a stream that broke. What reads as its end is none: the system
    /// tells of a reset once, and has told who wrote.
    fn rescue<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W, count: &AtomicU64)
    where
        R: AsyncRead + Hold + Unpin,
        W: AsyncWrite + Hold + Unpin,
    {
        if self.state == State::Moving {
            self.read(cx, from);
            let _as_far_as_it_goes = self.write(cx, to, count);
        }
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

/// One timer for both deadlines, armed again only when it fires.
struct Watch {
    idle: Duration,
    write: Duration,
    seen: (u64, u64),
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Watch {
    fn new(options: &RelayOptions) -> Self {
        let now = Instant::now();
        let mut watch = Self {
            idle: options.idle_timeout,
            write: options.write_timeout,
            seen: (0, 0),
            since: now,
            timer: Box::pin(sleep_until(now)),
        };
        let first = watch.step().min(SOON);
        watch.timer.as_mut().reset(now + first);
        watch
    }

    /// Deadlines are met to within a quarter.
    fn step(&self) -> Duration {
        let shortest = [self.idle, self.write]
            .into_iter()
            .filter(|d| !d.is_zero())
            .min();
        shortest.map_or(Duration::from_secs(3600), |d| {
            (d / 4).max(Duration::from_millis(5))
        })
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        progress: &Progress,
        halves: [&Half; 2],
    ) -> Poll<RelayCause> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let bytes = progress.bytes();
            let seen = self.seen;
            if bytes != seen {
                (self.seen, self.since) = (bytes, now);
            } else if !self.idle.is_zero() && now.duration_since(self.since) >= self.idle {
                return Poll::Ready(RelayCause::Idle);
            }
            for half in halves {
                if let Some(since) = half.stalled
                    && !self.write.is_zero()
                    && now.duration_since(since) >= self.write
                {
                    return Poll::Ready(RelayCause::WriteStalled { side: half.to() });
                }
            }
            // what goes quiet is looked at soon: its streams then give back what they keep for use
            let next = if bytes == seen {
                self.step()
            } else {
                self.step().min(SOON)
            };
            self.timer.as_mut().reset(now + next);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
