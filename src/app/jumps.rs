//! Notices that the wall clock was set, or that the machine slept: timers run by the monotonic
//! clock, which knows of neither, and certificates end by the wall's.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::reload::Process;
use crate::{clock, identity::UnixSeconds};

const EVERY: Duration = Duration::from_secs(1);
/// Both clocks are read one after the other, and the wall's in whole seconds.
const TOLERATED: i64 = 2;

/// Begins to look.
pub(super) fn start(process: &Arc<Process>) {
    let process = Arc::clone(process);
    let drain = process.drain.clone();
    let stop = drain.draining();
    drain.spawn(async move {
        let mut seen = (clock::now(), Instant::now());
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            let now = (clock::now(), Instant::now());
            let by = jumped(seen.0, now.0, now.1.duration_since(seen.1));
            seen = now;
            // set back, nothing has ended that had not
            if by > 0 {
                tracing::info!(
                    seconds = by,
                    "the clock was set forward: every connection is judged again"
                );
                process.look_again();
            }
        }
    });
}

/// By how many seconds the wall clock went otherwise than it should have in `passed`.
fn jumped(before: UnixSeconds, now: UnixSeconds, passed: Duration) -> i64 {
    let passed = i64::try_from(passed.as_secs()).unwrap_or(i64::MAX);
    let by = now.0.saturating_sub(before.0).saturating_sub(passed);
    if by.saturating_abs() > TOLERATED {
        by
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_machine_is_no_jump() {
        let by = |now, passed| {
            jumped(
                UnixSeconds(1_000),
                UnixSeconds(now),
                Duration::from_millis(passed),
            )
        };
        assert_eq!(
            (by(1_001, 1_000), by(1_002, 1_000), by(1_000, 1_999)),
            (0, 0, 0)
        );
        // a look that came late
        assert_eq!(by(1_060, 60_900), 0);
        assert_eq!((by(1_301, 1_000), by(701, 1_000)), (300, -300));
    }
}
