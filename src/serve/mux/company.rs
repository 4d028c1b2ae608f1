//! When frames that nobody is in a hurry for go without company.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Company comes soon on a link that is written to so often in a second.
const BUSY: f64 = 250.0;
/// They wait so long at most: since the last company, which took along all that had waited for it.
const LONGEST: Duration = Duration::from_millis(20);
/// How often a link is written to is not told by less time, unless it was so many times.
const SOON: Duration = Duration::from_millis(40);
const MANY: u32 = 64;

/// How often a link is written to, and who waits for that.
pub(super) struct Company {
    writes: u32,
    counted: Instant,
    /// It runs on while frames wait now and then: to start a timer costs more than to look at it once
    /// in vain.
    timer: Option<Pin<Box<Sleep>>>,
    runs: bool,
}

impl Company {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            writes: 0,
            counted: now,
            timer: None,
            runs: false,
        }
    }

    /// Something is written, and whoever waited goes with it. Whether that is often now, where it is
    /// time to tell.
    pub(super) fn came(&mut self) -> Option<bool> {
        if self.runs
            && let Some(timer) = &mut self.timer
        {
            // later than it was: that wakes nobody
            timer.as_mut().reset(Instant::now() + LONGEST);
        }
        self.writes = self.writes.saturating_add(1);
        (self.writes >= MANY).then(|| self.tell(Instant::now()))
    }

    /// The same when nothing may have been written for long.
    pub(super) fn count(&mut self, now: Instant) -> Option<bool> {
        let is_time = now.saturating_duration_since(self.counted) >= SOON;
        is_time.then(|| self.tell(now))
    }

    fn tell(&mut self, now: Instant) -> bool {
        let time = now.saturating_duration_since(self.counted);
        let often = f64::from(self.writes) >= BUSY * time.as_secs_f64();
        (self.writes, self.counted) = (0, now);
        often
    }

    /// Some wait from now on.
    pub(super) fn wait(&mut self) {
        let end = Instant::now() + LONGEST;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        timer.as_mut().reset(end);
        self.runs = true;
    }

    /// Ready when they have waited long enough; [`Company::wait`] is to follow if others may.
    pub(super) fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.timer {
            Some(timer) if self.runs => {
                let late = timer.as_mut().poll(cx);
                self.runs = late.is_pending();
                late
            }
            Some(_) | None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn company_puts_the_end_of_the_wait_off_and_silence_does_not() {
        let mut company = Company::new(Instant::now());
        let mut cx = Context::from_waker(Waker::noop());
        let mut is_late = |company: &mut Company| company.poll_late(&mut cx).is_ready();
        assert!(!is_late(&mut company), "nobody waits");
        company.wait();
        for _ in 0..5 {
            advance(LONGEST * 3 / 4).await;
            assert!(!is_late(&mut company));
            company.came();
        }
        advance(LONGEST * 3 / 4).await;
        assert!(!is_late(&mut company));
        advance(LONGEST / 2).await;
        assert!(is_late(&mut company));
        company.came();
        advance(LONGEST * 2).await;
        assert!(!is_late(&mut company), "nobody waits any more");
    }
}
