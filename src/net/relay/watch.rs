//! The deadlines of a relay.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{RelayCause, RelayOptions, half::Half};

/// When a relay that moved bytes is looked at again.
const SOON: Duration = Duration::from_secs(1);

/// One timer for both deadlines, armed again only when it fires.
pub(super) struct Watch {
    /// Octets of both directions: neither ever has fewer.
    seen: u64,
    since: Instant,
    lasts: Lasts,
    timer: Pin<Box<Sleep>>,
}

/// Whether the relay has lived long enough to be looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lasts {
    NotYet,
    Found,
    Told,
}

impl Watch {
    pub(super) fn new(options: &RelayOptions) -> Self {
        let now = Instant::now();
        let first = step(options).min(SOON);
        Self {
            seen: 0,
            since: now,
            lasts: Lasts::NotYet,
            timer: Box::pin(sleep_until(now + first)),
        }
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        options: &RelayOptions,
        halves: &[&Half],
    ) -> Poll<RelayCause> {
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.lasts == Lasts::NotYet {
                self.lasts = Lasts::Found;
            }
            let now = Instant::now();
            let (idle, write) = (options.idle_timeout, options.write_timeout);
            let (forth, back) = options.progress.bytes();
            let bytes = forth.wrapping_add(back);
            let seen = self.seen;
            if bytes != seen {
                (self.seen, self.since) = (bytes, now);
            } else if !idle.is_zero() && now.duration_since(self.since) >= idle {
                return Poll::Ready(RelayCause::Idle);
            }
            for half in halves {
                if let Some(since) = half.stalled()
                    && !write.is_zero()
                    && now.duration_since(since) >= write
                {
                    return Poll::Ready(RelayCause::WriteStalled { side: half.to() });
                }
            }
            // what goes quiet is looked at soon: its streams then give back what they keep for use
            let next = if bytes == seen {
                step(options)
            } else {
                step(options).min(SOON)
            };
            self.timer.as_mut().reset(now + next);
        }
        Poll::Pending
    }

    /// Once, when the relay is looked at for the first time.
    pub(super) fn begins_to_last(&mut self) -> bool {
        let found = self.lasts == Lasts::Found;
        if found {
            self.lasts = Lasts::Told;
        }
        found
    }
}

/// Deadlines are met to within a quarter.
fn step(options: &RelayOptions) -> Duration {
    let shortest = [options.idle_timeout, options.write_timeout]
        .into_iter()
        .filter(|d| !d.is_zero())
        .min();
    shortest.map_or(Duration::from_secs(3600), |d| {
        (d / 4).max(Duration::from_millis(5))
    })
}
