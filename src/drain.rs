//! Drain: stop accepting, wait for live connections to a deadline, force, report.

use std::{future::Future, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::workers::{Place, Workers};

/// Shared by everything that has to end with the process.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    tracker: TaskTracker,
    draining: CancellationToken,
    forced: CancellationToken,
    workers: Workers,
}

impl Drain {
    /// A running process.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, with threads that carry its connections.
    #[must_use]
    pub fn on(workers: Workers) -> Self {
        Self {
            workers,
            ..Self::default()
        }
    }

    /// What carries connections.
    #[must_use]
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// Starts a task that the drain waits for, on the thread of who starts it.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        drop(self.tracker.spawn(task));
    }

    /// The same elsewhere.
    pub fn spawn_at<F>(&self, place: &Place, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match place.handle() {
            Some(handle) => drop(self.tracker.spawn_on(task, handle)),
            None => self.spawn(task),
        }
    }

    /// Cancelled when accepting has to stop and idle connections have to close.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Cancelled when live connections have to end now.
    #[must_use]
    pub fn forced(&self) -> CancellationToken {
        self.forced.clone()
    }

    /// Live tasks.
    #[must_use]
    pub fn live(&self) -> usize {
        self.tracker.len()
    }

    /// Stops accepting and waits; what lives after `deadline` is cut. Returns how many were.
    pub async fn drain(&self, deadline: Duration) -> usize {
        self.draining.cancel();
        self.tracker.close();
        if tokio::time::timeout(deadline, self.tracker.wait())
            .await
            .is_ok()
        {
            return 0;
        }
        self.cut().await
    }

    /// Cuts what lives. Returns how many were.
    pub async fn cut(&self) -> usize {
        let cut = self.tracker.len();
        self.forced.cancel();
        // cutting is quick; a task that does not end is not waited for
        drop(tokio::time::timeout(Duration::from_secs(2), self.tracker.wait()).await);
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_ends_in_time_is_not_cut_and_what_does_not_is() {
        let drain = Drain::new();
        drain.spawn(tokio::time::sleep(Duration::from_secs(5)));
        let forced = drain.forced();
        drain.spawn(async move { forced.cancelled().await });
        assert_eq!(drain.drain(Duration::from_secs(10)).await, 1);
        assert_eq!(drain.live(), 0);
    }
}
