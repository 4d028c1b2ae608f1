//! The threads that carry connections. Each has a runtime of its own, so that what belongs to one
//! connection stays on one thread: its sockets are heard there, its tasks wake each other there,
//! and many that are ready at once are served in one turn. A connection is placed once, where the
//! fewest live.

use std::{
    cell::Cell,
    collections::VecDeque,
    fmt, io,
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

thread_local! {
    static HOME: Cell<Home> = const { Cell::new(Home(0)) };
}

/// A thread, as what lives on it remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Home(usize);

impl Home {
    /// Of whoever asks. Threads that carry no connections are one home together.
    #[must_use]
    pub fn here() -> Self {
        HOME.with(Cell::get)
    }

    /// Its own of what there is one of for each thread; where there are fewer, one that it shares.
    pub(crate) fn pick<T>(self, each: &[T]) -> Option<&T> {
        each.get(self.0.checked_rem(each.len())?)
    }
}

/// So often a thread borrows before it is to have its own.
const LOANS: usize = 16;

/// Counts how often one thread used what another hears: its news are handed over, and wake two
/// threads in place of one. Where that goes on, one more is opened, near.
#[derive(Debug, Default)]
pub(crate) struct Loans(AtomicUsize);

impl Loans {
    /// Whether it may be borrowed once more.
    pub(crate) fn one_more(&self) -> bool {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        before % LOANS != LOANS - 1
    }
}

/// Takes what was kept last of this thread, or of any. Another's is no reason to open one more: a
/// backend may serve but one connection at a time.
pub(crate) fn take_near<T>(kept: &mut VecDeque<T>, home: impl Fn(&T) -> Home) -> Option<T> {
    match kept.iter().rposition(|one| home(one) == Home::here()) {
        Some(at) => kept.remove(at),
        None => kept.pop_back(),
    }
}

/// All of them. Without any, what is placed stays with who places it.
#[derive(Clone, Default)]
pub struct Workers(Arc<[Worker]>);

struct Worker {
    handle: Handle,
    home: Home,
    live: Arc<AtomicUsize>,
}

/// The running threads; dropped with [`Threads::stop`].
pub struct Threads {
    stop: CancellationToken,
    /// Closed when the last one has ended.
    ended: mpsc::Receiver<()>,
}

/// Where something is to run.
#[derive(Clone, Debug, Default)]
pub struct Place(Option<(Handle, Arc<AtomicUsize>)>);

/// Counts as one that lives in its place.
#[derive(Debug)]
pub struct Lodger(Option<Arc<AtomicUsize>>);

impl Drop for Lodger {
    fn drop(&mut self) {
        if let Some(live) = &self.0 {
            live.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// How many there are where the configuration says 0: one for each core that we may use.
#[must_use]
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

impl Workers {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// The system has no thread, or nothing to wait for sockets with.
    pub fn start(count: usize) -> io::Result<(Self, Threads)> {
        let stop = CancellationToken::new();
        let (alive, ended) = mpsc::channel();
        let worker = |index: usize| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let worker = Worker {
                handle: runtime.handle().clone(),
                home: Home(index.saturating_add(1)),
                live: Arc::default(),
            };
            let (home, stop, alive) = (worker.home, stop.clone(), alive.clone());
            thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    HOME.with(|here| here.set(home));
                    runtime.block_on(stop.cancelled());
                    drop((runtime, alive));
                })?;
            Ok(worker)
        };
        let all: io::Result<Arc<[Worker]>> = (0..count).map(worker).collect();
        Ok((Self(all?), Threads { stop, ended }))
    }

    /// Where the fewest connections live; here, if nowhere live fewer.
    #[must_use]
    pub fn least(&self) -> Place {
        let here = Home::here();
        let live = |worker: &&Worker| (worker.live.load(Ordering::Relaxed), worker.home != here);
        Place::of(self.0.iter().min_by_key(live))
    }

    /// One after the other: for what begins with the process.
    #[must_use]
    pub fn nth(&self, n: usize) -> Place {
        let index = n.checked_rem(self.0.len());
        Place::of(index.and_then(|index| self.0.get(index)))
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Workers").field(&self.count()).finish()
    }
}

impl Place {
    fn of(worker: Option<&Worker>) -> Self {
        Self(worker.map(|worker| (worker.handle.clone(), Arc::clone(&worker.live))))
    }

    /// What runs tasks there; `None`: whatever runs who asks.
    pub(crate) fn handle(&self) -> Option<&Handle> {
        self.0.as_ref().map(|(handle, _)| handle)
    }

    /// Does something as if there: a socket that is made is heard there.
    pub fn enter<T>(&self, act: impl FnOnce() -> T) -> T {
        let _entered = self.handle().map(Handle::enter);
        act()
    }

    /// Counts one more that lives there.
    #[must_use]
    pub fn lodge(&self) -> Lodger {
        Lodger(self.0.as_ref().map(|(_, live)| {
            live.fetch_add(1, Ordering::Relaxed);
            Arc::clone(live)
        }))
    }
}

impl Threads {
    /// Has them end, with what still runs there; waits no longer than `limit` for one that is
    /// stuck in a blocking call.
    pub fn stop(self, limit: Duration) {
        self.stop.cancel();
        let until = Instant::now() + limit;
        // nothing is ever sent: the channel closes when the last one has ended
        while let Ok(()) = self
            .ended
            .recv_timeout(until.saturating_duration_since(Instant::now()))
        {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::Drain;

    #[test]
    fn connections_are_spread_and_those_that_end_make_room() {
        let (workers, threads) = Workers::start(3).unwrap();
        let lodgers: Vec<_> = (0..7).map(|_| workers.least().lodge()).collect();
        let counts = || -> Vec<usize> {
            let mut counts: Vec<_> = workers
                .0
                .iter()
                .map(|w| w.live.load(Ordering::Relaxed))
                .collect();
            counts.sort_unstable();
            counts
        };
        assert_eq!(counts(), [2, 2, 3]);
        drop(lodgers);
        assert_eq!(counts(), [0, 0, 0]);
        threads.stop(Duration::from_secs(5));
    }

    #[test]
    fn what_is_placed_runs_there_and_so_does_what_it_starts() {
        let (workers, threads) = Workers::start(2).unwrap();
        let drain = Drain::on(workers.clone());
        let (tell, told) = mpsc::channel();
        for n in 0..2 {
            let (tell, own) = (tell.clone(), drain.clone());
            drain.spawn_at(&workers.nth(n), async move {
                let outer = Home::here();
                own.spawn(async move { tell.send((n, outer, Home::here())).unwrap() });
            });
        }
        let mut seen: Vec<_> = (0..2).map(|_| told.recv().unwrap()).collect();
        seen.sort_by_key(|(n, ..)| *n);
        assert_eq!(seen, [(0, Home(1), Home(1)), (1, Home(2), Home(2))]);
        let own: Vec<_> = [1, 2].map(|n| Home(n).pick(&["a", "b"])).into();
        assert!(own[0] != own[1] && own.iter().all(Option::is_some));
        assert_eq!(Home(2).pick(&["a"]), Some(&"a"));
        assert_eq!(Home::here(), Home(0));
        threads.stop(Duration::from_secs(5));
    }

    #[test]
    fn what_is_near_is_taken_first_and_loans_are_counted() {
        let mut kept = VecDeque::from([Home(1), Home(0), Home(2)]);
        let mut take = || take_near(&mut kept, |one| *one);
        assert_eq!(take(), Some(Home(0)));
        assert_eq!(take(), Some(Home(2)), "and else the last that was kept");
        assert_eq!([take(), take()], [Some(Home(1)), None]);
        let loans = Loans::default();
        for _ in 0..3 {
            let lent = (1..LOANS).filter(|_| loans.one_more()).count();
            assert_eq!((lent, loans.one_more()), (LOANS - 1, false));
        }
    }

    #[test]
    fn an_end_waits_for_all_and_drops_what_still_runs() {
        struct Tells(mpsc::Sender<Home>);
        impl Drop for Tells {
            fn drop(&mut self) {
                self.0.send(Home::here()).unwrap();
            }
        }
        let (workers, threads) = Workers::start(2).unwrap();
        let drain = Drain::on(workers.clone());
        let (tell, told) = mpsc::channel();
        let (begin, begun) = mpsc::channel();
        for n in 0..2 {
            let (held, begin) = (Tells(tell.clone()), begin.clone());
            drain.spawn_at(&workers.nth(n), async move {
                begin.send(()).unwrap();
                std::future::pending::<()>().await;
                drop(held);
            });
        }
        for _ in 0..2 {
            begun.recv().unwrap();
        }
        threads.stop(Duration::from_secs(5));
        let mut ended: Vec<_> = told.try_iter().map(|Home(n)| n).collect();
        ended.sort_unstable();
        assert_eq!(ended, [1, 2]);
    }
}
