//! The links that take clients and requests, those that are dialled, and which of them is the next one's.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Instant,
};

use tokio_util::sync::CancellationToken;

use crate::{
    admit::Denied,
    clock,
    config::Pool,
    drain::Drain,
    gateway::{BackendRuntime, backend::AcceptorState, way::Way},
    identity::UnixSeconds,
    serve::spread,
    workers::{Home, Loans},
};

/// A link with so many streams is not alone for long: another is opened beside it.
const BUSY: usize = 16;
/// So many links to an acceptor are opened by each thread; beyond them only when all are full.
const PER_HOME: usize = 2;

/// A backend's links.
pub(in crate::gateway) struct Links {
    pub(super) drain: Drain,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    links: Vec<Held>,
    /// Acceptors that are dialled now, by their place, and for whom.
    dialling: HashMap<(usize, Home), Arc<Attempt>>,
    /// Acceptors that can't carry many.
    plain: HashSet<usize>,
    /// Another configuration is in force.
    closed: bool,
}

/// A link that takes clients.
struct Held {
    acceptor: usize,
    way: Way,
    /// To threads that have none.
    lent: Loans,
    /// From then on it takes no client.
    retires: Option<UnixSeconds>,
    opened: Instant,
}

impl Held {
    fn fits(&self, pool: &Pool) -> bool {
        let over = self.retires.is_some_and(|end| clock::now() > end);
        !over && self.opened.elapsed() < pool.max_age && !self.way.link.is_leaving()
    }
}

impl Drop for Held {
    /// Its streams go on to their ends.
    fn drop(&mut self) {
        self.way.link.leave();
    }
}

/// A dial that others wait for.
#[derive(Default)]
pub(super) struct Attempt {
    over: CancellationToken,
    failed: OnceLock<Denied>,
}

impl Attempt {
    /// Waits for its end: whether it is to be asked for a link again.
    ///
    /// # Errors
    /// The acceptor did not admit us.
    pub(super) async fn wait(&self) -> Result<(), Denied> {
        self.over.cancelled().await;
        self.failed.get().cloned().map_or(Ok(()), Err)
    }
}

/// Whose turn it is to dial; the others learn of its end.
pub(super) struct Turn {
    backend: Arc<BackendRuntime>,
    of: (usize, Home),
    attempt: Arc<Attempt>,
}

impl Turn {
    pub(super) fn failed(&self, denied: &Denied) {
        self.attempt.failed.get_or_init(|| denied.clone());
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.backend.links.lock().dialling.remove(&self.of);
        self.attempt.over.cancel();
    }
}

/// How a client gets to an acceptor.
pub(super) enum Next {
    /// On this link; the turn is to open another beside it.
    On(Way, Option<Turn>),
    /// On a link that has to be opened first.
    Dial(Turn),
    /// Another opens it.
    Wait(Arc<Attempt>),
    /// The acceptor can't.
    Plain,
}

impl Links {
    pub(in crate::gateway) fn new(drain: Drain) -> Self {
        Self {
            drain,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether none is kept for the next: another configuration is in force, or the process ends.
    pub(in crate::gateway) fn are_closed(&self) -> bool {
        self.drain.draining().is_cancelled() || self.lock().closed
    }

    /// An acceptor carries many on one connection.
    pub(super) fn found_shared(&self, acceptor: usize) {
        self.lock().plain.remove(&acceptor);
    }

    /// An acceptor does not; whether that is news.
    pub(super) fn found_plain(&self, acceptor: usize) -> bool {
        self.lock().plain.insert(acceptor)
    }

    /// Keeps one for others than its first client, if there are to be any.
    pub(super) fn keep(&self, acceptor: usize, way: &Way) {
        let ending = self.drain.draining().is_cancelled();
        let mut state = self.lock();
        if !ending && !state.closed {
            state.links.push(Held {
                acceptor,
                way: way.clone(),
                lent: Loans::default(),
                retires: spread(way.until),
                opened: Instant::now(),
            });
        }
    }

    /// Lets go of those that take no client any more.
    pub(in crate::gateway) fn expire(&self, pool: &Pool) {
        self.lock().links.retain(|held| held.fits(pool));
    }

    /// Lets go of all.
    pub(in crate::gateway) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let links = std::mem::take(&mut state.links);
        drop(state);
        drop(links);
    }
}

impl BackendRuntime {
    /// This thread's link with the fewest streams, or what has to be done for one.
    pub(super) fn next(self: &Arc<Self>, acceptor: &Arc<AcceptorState>) -> Next {
        let of = (acceptor.index, Home::here());
        let mut state = self.links.lock();
        state.links.retain(|held| held.fits(&self.config.pool));
        let dialling = state.dialling.get(&of).map(Arc::clone);
        let of_it = state.links.iter().filter(|held| held.acceptor == of.0);
        let mut own = 0_usize;
        let best = of_it
            .filter_map(|held| {
                let foreign = held.way.home != of.1;
                own += usize::from(!foreign);
                Some((foreign, held.way.link.load()?, held))
            })
            .min_by_key(|(foreign, load, _)| (*foreign, *load));
        match (best, dialling) {
            (Some((foreign, load, held)), None) => {
                let enough = match foreign {
                    // nobody else is on it, and this thread does not come often
                    true => load == 0 && held.lent.one_more(),
                    false => load < BUSY || own >= PER_HOME,
                };
                let way = held.way.clone();
                let turn = (!enough).then(|| self.turn(&mut state, of));
                Next::On(way, turn)
            }
            (Some((_, _, held)), Some(_)) => Next::On(held.way.clone(), None),
            (None, _) if state.plain.contains(&of.0) => Next::Plain,
            (None, Some(attempt)) => Next::Wait(attempt),
            (None, None) => Next::Dial(self.turn(&mut state, of)),
        }
    }

    fn turn(self: &Arc<Self>, state: &mut State, of: (usize, Home)) -> Turn {
        let attempt = Arc::<Attempt>::default();
        state.dialling.insert(of, Arc::clone(&attempt));
        Turn {
            backend: Arc::clone(self),
            of,
            attempt,
        }
    }
}
