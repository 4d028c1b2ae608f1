//! Handshakes beside traffic. A step of one computes for a tenth of a millisecond or more, and many
//! that are ready at once would stand before everybody else in the scheduler's queue. So a step
//! takes a turn, lets pass whatever is ready, computes, and gives the turn back: while a handshake
//! waits for its peer it holds none. Those that have begun don't queue behind those that begin, so
//! that a flood does not turn what was computed into time-outs.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::LazyLock,
    task::Poll,
};

use tokio::sync::{Semaphore, SemaphorePermit};

/// How many steps of handshakes are ready at once.
pub struct Turns {
    begin: Semaphore,
    go_on: Semaphore,
}

impl Turns {
    /// So many; 0: as many as there are cores.
    #[must_use]
    pub fn new(at_once: usize) -> Self {
        let at_once = match at_once {
            0 => std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
            n => n,
        };
        Self {
            begin: Semaphore::new(at_once),
            go_on: Semaphore::new(at_once),
        }
    }
}

/// The turns of all handshakes that no listener's limit is for.
pub(super) fn shared() -> &'static Turns {
    static SHARED: LazyLock<Turns> = LazyLock::new(|| Turns::new(0));
    &SHARED
}

/// Takes a handshake to its end, step by step.
pub(super) async fn paced<F: Future>(handshake: F, turns: &Turns) -> F::Output {
    let mut handshake = pin!(handshake);
    let mut turn = take(&turns.begin).await;
    loop {
        tokio::task::yield_now().await;
        let step = poll_fn(|cx| Poll::Ready(handshake.as_mut().poll(cx)));
        if let Poll::Ready(done) = step.await {
            return done;
        }
        drop(turn);
        // what it waits for wakes this task
        let mut waited = false;
        poll_fn(|_| match std::mem::replace(&mut waited, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
        turn = take(&turns.go_on).await;
    }
}

/// Semaphores are never closed here; were one, handshakes would go on without turns, still bounded
/// by `limits.connections`.
async fn take(turns: &Semaphore) -> Option<SemaphorePermit<'_>> {
    turns.acquire().await.ok()
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_peer_holds_no_turn() {
        let turns = Turns::new(1);
        let mut stalled = pin!(paced(pending::<()>(), &turns));
        for _ in 0..5 {
            tokio::select! {
                biased;
                () = &mut stalled => unreachable!(),
                () = tokio::task::yield_now() => {}
            }
        }
        assert_eq!(paced(async { 7 }, &turns).await, 7);
    }

    #[tokio::test]
    async fn one_that_has_begun_goes_before_those_that_begin() {
        let turns = Turns::new(1);
        let steps = AtomicUsize::new(0);
        let two_steps = || async {
            steps.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            steps.load(Ordering::Relaxed)
        };
        let mut all: Vec<_> = (0..20)
            .map(|_| Box::pin(paced(two_steps(), &turns)))
            .collect();
        let seen = poll_fn(|cx| {
            let mut seen = Poll::Pending;
            // the others are never through before the first, so none is polled again
            for (at, handshake) in all.iter_mut().enumerate() {
                let polled = handshake.as_mut().poll(cx);
                if at == 0 && polled.is_ready() {
                    seen = polled;
                    break;
                }
            }
            seen
        })
        .await;
        assert!(seen < 5, "{seen} had begun when the first was through");
    }
}
