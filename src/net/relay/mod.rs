//! Bytes from one side to the other and back, in one task: half-close carried, truncation told
//! from an end, deadlines on idleness and on readers that don't read.

mod half;
mod watch;

use std::{
    fmt,
    future::poll_fn,
    io,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, sleep, sleep_until, timeout},
};

use self::{
    half::{Half, Last},
    watch::Watch,
};
use super::hold::Hold;

/// Rounds before other tasks get their turn: plaintext buffered in a TLS session escapes the
/// runtime's own budget.
const ROUNDS: usize = 16;

/// How long a reader may take for the last that the kernel has for it, without a `write_timeout`.
const LAST: Duration = Duration::from_secs(30);
/// The same where its end was said: the kernel then tells no more what it still has.
const END: Duration = Duration::from_secs(3);
/// Between two looks at it.
const MOMENT: Duration = Duration::from_millis(5);
const LOOK: Duration = Duration::from_millis(320);

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

/// Carries bytes until both sides are done or one breaks. What had come of a side that breaks is
/// handed on as far as the other takes it in time, and then the break is told.
pub async fn relay<A, B>(a: &mut A, b: &mut B, options: &RelayOptions) -> RelayEnd
where
    A: AsyncRead + AsyncWrite + Hold + Unpin,
    B: AsyncRead + AsyncWrite + Hold + Unpin,
{
    let (cause, ab, ba) = {
        let mut both = Both::new(options);
        let cause = poll_fn(|cx| both.poll(cx, a, b, options)).await;
        (cause, Said::of(&both.ab), Said::of(&both.ba))
    };
    if let RelayCause::Failed { side, .. } = &cause {
        // boxed: while bytes are carried it takes no room
        match side {
            // the peers that come and go are many, and a next hop reads what it is told
            Side::A if matches!(ab, Said::Ended(_)) => {}
            Side::A => Box::pin(farewell(b, ab, options)).await,
            Side::B => Box::pin(farewell(a, ba, options)).await,
        }
    }
    let (a_to_b, b_to_a) = options.progress.bytes();
    RelayEnd {
        a_to_b,
        b_to_a,
        cause,
    }
}

/// Both directions.
struct Both {
    ab: Half,
    ba: Half,
    watch: Watch,
    /// Who broke under what was written to it, and how: it may have said something before.
    broken: Option<Box<(Side, RelayCause)>>,
}

impl Both {
    fn new(options: &RelayOptions) -> Self {
        Self {
            ab: Half::new(Side::A),
            ba: Half::new(Side::B),
            watch: Watch::new(options),
            broken: None,
        }
    }

    /// Why there is nothing more to carry.
    fn poll<A, B>(
        &mut self,
        cx: &mut Context<'_>,
        a: &mut A,
        b: &mut B,
        options: &RelayOptions,
    ) -> Poll<RelayCause>
    where
        A: AsyncRead + AsyncWrite + Hold + Unpin,
        B: AsyncRead + AsyncWrite + Hold + Unpin,
    {
        let Self {
            ab,
            ba,
            watch,
            broken,
        } = self;
        let progress = &options.progress;
        for _ in 0..ROUNDS {
            if let Some(kept) = broken.take() {
                let (last, half) = match kept.0 {
                    Side::A => (ab.last(cx, a, b, &progress.a_to_b), &*ab),
                    Side::B => (ba.last(cx, b, a, &progress.b_to_a), &*ba),
                };
                let waits = match last {
                    Last::Moved => false,
                    Last::Waits if watch.poll(cx, options, &[half]).is_pending() => true,
                    Last::Waits | Last::Over => return Poll::Ready(kept.1),
                };
                *broken = Some(kept);
                if waits {
                    return Poll::Pending;
                }
                continue;
            }
            let forth = match ab.poll(cx, a, b, &progress.a_to_b) {
                Ok(moved) => moved,
                Err(cause @ RelayCause::Failed { side: Side::B, .. }) => {
                    *broken = Some(Box::new((Side::B, cause)));
                    continue;
                }
                Err(cause) => return Poll::Ready(cause),
            };
            let back = match ba.poll(cx, b, a, &progress.b_to_a) {
                Ok(moved) => moved,
                Err(cause @ RelayCause::Failed { side: Side::A, .. }) => {
                    *broken = Some(Box::new((Side::A, cause)));
                    continue;
                }
                Err(cause) => return Poll::Ready(cause),
            };
            if ab.is_done() && ba.is_done() {
                return Poll::Ready(RelayCause::Finished);
            }
            if !forth && !back {
                if let Poll::Ready(cause) = gone(cx, (a, b), (ab, ba)) {
                    return Poll::Ready(cause);
                }
                let over = watch.poll(cx, options, &[ab, ba]);
                if watch.begins_to_last() {
                    b.lasts();
                }
                return over;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// How much of what came was handed on.
enum Said {
    /// Not all, or nobody knows whether it was all; since when the reader has taken none.
    Some(Option<Instant>),
    /// All, but the end of it.
    All,
    /// The end too, then.
    Ended(Instant),
}

impl Said {
    fn of(half: &Half) -> Self {
        match half.done() {
            Some(when) => Self::Ended(when),
            None if half.is_whole() => Self::All,
            None => Self::Some(half.stalled()),
        }
    }
}

/// Gives a stream time to take what the kernel still has for it, as far as it does, and its end if
/// it is whole. A reset follows, which throws away what is left.
async fn farewell<S>(stream: &mut S, said: Said, options: &RelayOptions)
where
    S: AsyncWrite + Hold + Unpin,
{
    let limit = match (options.write_timeout, &said) {
        (Duration::ZERO, _) => LAST,
        // what it did not take in time it does not get twice the time for
        (limit, Said::Some(Some(since))) => limit.saturating_sub(since.elapsed()),
        (limit, _) => limit,
    };
    let leaving = async {
        let mut pause = MOMENT;
        while !stream.has_sent() {
            sleep(pause).await;
            pause = (pause * 2).min(LOOK);
        }
        let ended = match said {
            Said::Some(_) => return,
            Said::All if stream.shutdown().await.is_err() => return,
            Said::All => Instant::now(),
            Said::Ended(when) => when,
        };
        // of what is behind an end nobody tells when it has left
        if stream.may_lose() {
            sleep_until(ended + END).await;
        }
    };
    let _in_time = timeout(limit, leaving).await;
}

/// Whether a side broke that is read no more: nothing else would tell before the other has
/// something for it.
fn gone<A: Hold, B: Hold>(
    cx: &mut Context<'_>,
    (a, b): (&mut A, &mut B),
    (ab, ba): (&Half, &Half),
) -> Poll<RelayCause> {
    if ab.is_done() {
        a.poll_broken(cx).map(|error| ab.failed(Side::A, error))
    } else if ba.is_done() {
        b.poll_broken(cx).map(|error| ba.failed(Side::B, error))
    } else {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
