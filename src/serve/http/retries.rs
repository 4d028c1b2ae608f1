//! How many requests may be sent again: those that find a kept connection closed come in bursts,
//! when a backend starts anew, and never in a stream. One that takes requests and breaks is not to
//! get twice as many.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// At once: all kept connections of a default pool, and as many under way.
const BURST: f64 = 128.0;
/// A second, from then on.
const RATE: f64 = 10.0;

/// What is left of a backend's retries. Nothing touches it while all is well.
pub(crate) struct RetryBudget {
    left: Mutex<(Instant, f64)>,
}

impl RetryBudget {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            left: Mutex::new((now, BURST)),
        }
    }

    /// Whether one more is within it; then it is taken.
    pub(crate) fn take(&self, now: Instant) -> bool {
        let mut held = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, left) = *held;
        let passed = now.saturating_duration_since(since).as_secs_f64();
        let left = passed.mul_add(RATE, left).min(BURST);
        let enough = left >= 1.0;
        *held = (now, if enough { left - 1.0 } else { left });
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_granted_and_a_stream_is_not() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        let granted = |from: u64, asked: u64, every: u64| {
            let times = (0..asked).map(|n| start + Duration::from_millis(from + n * every));
            times.filter(|at| budget.take(*at)).count()
        };
        assert_eq!(granted(0, 1_000, 0), 128);
        // a hundred a second for ten seconds
        assert!((99..=101).contains(&granted(0, 1_000, 10)));
        // what is not used is not kept for ever
        assert_eq!(granted(1_000_000, 1_000, 0), 128);
        // a clock that stands still grants nothing
        assert_eq!(granted(0, 10, 0), 0);
    }
}
