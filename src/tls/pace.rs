//! Handshakes beside traffic. A step of one computes for a tenth of a millisecond or more, and many
//! that are ready at once would stand before everybody else in the scheduler's queue. So a step
//! takes a turn, lets pass whatever is ready, computes, and gives the turn back: while a handshake
//! waits for its peer it holds none. Those that have begun don't queue behind those that begin, so
//! that a flood does not turn what was computed into time-outs. Each thread has turns of its own:
//! to hand one to another thread would wake that.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::LazyLock,
    task::Poll,
};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::workers::{self, Home};

/// How many steps of handshakes are ready at once.
pub struct Turns(Box<[Share]>);

/// Those of one thread, or of all where there are too few to be shared out.
struct Share {
    begin: Semaphore,
    go_on: Semaphore,
}

impl Turns {
    /// So many, shared out to so many threads; 0: as many as there are cores.
    #[must_use]
    pub fn new(at_once: usize, threads: usize) -> Self {
        let at_once = match at_once {
            0 => workers::cores(),
            n => n,
        };
        let shares = if at_once < threads { 1 } else { threads.max(1) };
        let share = |index| {
            // what does not go round is the first ones'
            let turns = at_once.saturating_add(shares - 1 - index) / shares;
            Share {
                begin: Semaphore::new(turns),
                go_on: Semaphore::new(turns),
            }
        };
        Self((0..shares).map(share).collect())
    }

    fn here(&self) -> Option<&Share> {
        Home::here().pick(&self.0)
    }
}

/// The turns of all handshakes that no listener's limit is for.
pub(super) fn shared() -> &'static Turns {
    static SHARED: LazyLock<Turns> = LazyLock::new(|| Turns::new(0, workers::cores()));
    &SHARED
}

/// Takes a handshake to its end, step by step.
pub(super) async fn paced<F: Future>(handshake: F, turns: &Turns) -> F::Output {
    let mut handshake = pin!(handshake);
    let share = turns.here();
    let mut turn = take(share.map(|share| &share.begin)).await;
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
        turn = take(share.map(|share| &share.go_on)).await;
    }
}

/// There is a share for everybody, and semaphores are never closed here; were it otherwise,
/// handshakes would go on without turns, still bounded by `limits.connections`.
async fn take(turns: Option<&Semaphore>) -> Option<SemaphorePermit<'_>> {
    turns?.acquire().await.ok()
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use tokio::task::JoinSet;

    use super::*;

    #[test]
    fn turns_are_shared_out_and_too_few_are_taken_in_common() {
        let shares = |at_once, threads| -> Vec<_> {
            let turns = Turns::new(at_once, threads);
            let of = |share: &Share| {
                let begin = share.begin.available_permits();
                assert_eq!(begin, share.go_on.available_permits());
                begin
            };
            turns.0.iter().map(of).collect()
        };
        assert_eq!(shares(2, 2), [1, 1]);
        assert_eq!(shares(7, 3), [3, 2, 2]);
        assert_eq!(shares(3, 4), [3]);
        assert_eq!(shares(5, 0), [5]);
        assert_eq!(shares(0, 1), [workers::cores()]);
    }

    #[tokio::test]
    async fn who_waits_for_a_peer_holds_no_turn() {
        let turns = Turns::new(1, 1);
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
    async fn whatever_is_ready_passes_between_any_two_steps() {
        let turns = Arc::new(Turns::new(4, 1));
        let passed = Arc::<AtomicUsize>::default();
        let mut traffic = JoinSet::new();
        let counted = Arc::clone(&passed);
        traffic.spawn(async move {
            loop {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        let mut handshakes = JoinSet::new();
        for _ in 0..20 {
            let (turns, passed) = (Arc::clone(&turns), Arc::clone(&passed));
            let step = async move { passed.load(Ordering::Relaxed) };
            handshakes.spawn(async move { paced(step, &turns).await });
        }
        let mut seen = handshakes.join_all().await;
        seen.sort_unstable();
        // those with a turn at the same time are ready together
        let most = seen.chunk_by(|a, b| a == b).map(<[usize]>::len).max();
        assert!(most <= Some(5), "{seen:?}");
    }

    #[tokio::test]
    async fn one_that_has_begun_goes_before_those_that_begin() {
        let turns = Turns::new(1, 1);
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
