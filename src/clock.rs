//! Wall-clock time, read in one place.

use crate::identity::UnixSeconds;

/// The current wall-clock time.
#[must_use]
pub fn now() -> UnixSeconds {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the wall clock"
    )]
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    // a clock before 1970 reads as 0: every certificate is then "not yet valid", which refuses
    let now = since.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX));
    #[cfg(test)]
    let now = now + AHEAD.get();
    UnixSeconds(now)
}

#[cfg(test)]
thread_local! {
    static AHEAD: std::cell::Cell<i64> = const { std::cell::Cell::new(0) };
}

/// Moves the clock of this thread so many seconds ahead of the wall's.
#[cfg(test)]
pub(crate) fn set_ahead(seconds: i64) {
    AHEAD.set(seconds);
}
