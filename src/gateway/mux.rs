//! Link connections that carry many clients, or requests of http mode, at once: which one a client's stream goes
//! on, when another is opened, and when one takes no client any more.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use rustls_pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

use super::{
    BackendRuntime, ClientFacts, Link,
    backend::{AcceptorState, Lease},
    dial::{self, Dialled, LinkStream, Purpose},
    reuse::{Facts, Upstream},
    way::{Rules, Way},
};
use crate::{
    admit::{Denial, Denied},
    clock,
    config::{Pool, Tunnel as Wanted},
    drain::Drain,
    identity::UnixSeconds,
    serve::{link::refusal, mux, spread},
    wire::mux::{Break, Side},
    workers::{Home, Loans},
};

/// A link with so many streams is not alone for long: another is opened beside it.
const BUSY: usize = 16;
/// So many links to an acceptor are opened by each thread; beyond them only when all are full.
const PER_HOME: usize = 2;
/// So often a link may be gone before it answers, for one client.
const ATTEMPTS: usize = 3;

/// The way to the backend for one client.
pub(super) struct Carried {
    pub(super) upstream: Upstream,
    pub(super) lease: Lease,
    /// When the acceptor's chain ends.
    pub(super) until: Option<UnixSeconds>,
    /// The acceptor's chain, leaf first.
    pub(super) chain: Arc<[CertificateDer<'static>]>,
    /// How long it took.
    pub(super) connect: Duration,
    /// What has to be kept of a connection that is used again.
    pub(super) facts: Option<Box<Facts>>,
    /// The thread that hears it.
    pub(super) home: Home,
}

impl From<Link> for Carried {
    fn from(link: Link) -> Self {
        Self {
            facts: link.reused.then(|| Box::new(Facts::of(&link))),
            upstream: Upstream::new(link.stream, link.reused),
            lease: link.lease,
            until: link.until,
            chain: link.chain,
            connect: link.connect,
            home: Home::here(),
        }
    }
}

/// A backend's links.
pub(super) struct Links {
    drain: Drain,
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
struct Attempt {
    over: CancellationToken,
    failed: OnceLock<Denied>,
}

/// Whose turn it is to dial; the others learn of its end.
struct Turn {
    backend: Arc<BackendRuntime>,
    of: (usize, Home),
    attempt: Arc<Attempt>,
}

impl Turn {
    fn failed(&self, denied: &Denied) {
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
enum Next {
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
    pub(super) fn new(drain: Drain) -> Self {
        Self {
            drain,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether none is kept for the next: another configuration is in force, or the process ends.
    pub(super) fn are_closed(&self) -> bool {
        self.drain.draining().is_cancelled() || self.lock().closed
    }

    /// Lets go of those that take no client any more.
    pub(super) fn expire(&self, pool: &Pool) {
        self.lock().links.retain(|held| held.fits(pool));
    }

    /// Lets go of all.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let links = std::mem::take(&mut state.links);
        drop(state);
        drop(links);
    }
}

impl BackendRuntime {
    /// Opens the way to the first acceptor that admits us, as `tunnel` says.
    ///
    /// # Errors
    /// Why the last one that was tried did not.
    pub(super) async fn carry(
        self: &Arc<Self>,
        client: &ClientFacts,
        rules: &Rules,
    ) -> Result<Carried, Denied> {
        match self.config.tunnel {
            Wanted::Auto | Wanted::Mux => {}
            Wanted::Reuse | Wanted::Direct => {
                return self.connect(client).await.map(Carried::from);
            }
        }
        let mut last = None;
        for acceptor in self.order() {
            match self.carry_to(&acceptor, client, rules).await {
                Ok(carried) => return Ok(carried),
                Err(denied) => last = Some(denied),
            }
        }
        Err(last.unwrap_or_else(|| self.unreachable()))
    }

    /// Opens the way to one acceptor for requests of http mode, one after the other.
    ///
    /// # Errors
    /// Where it stopped.
    pub(super) async fn carry_requests(
        self: &Arc<Self>,
        acceptor: &Arc<AcceptorState>,
        client: &ClientFacts,
        rules: &Rules,
    ) -> Result<Carried, Denied> {
        if acceptor.dialler.shared.is_some() {
            return self.carry_to(acceptor, client, rules).await;
        }
        self.connect_to(acceptor, client).await.map(Carried::from)
    }

    async fn carry_to(
        self: &Arc<Self>,
        acceptor: &Arc<AcceptorState>,
        client: &ClientFacts,
        rules: &Rules,
    ) -> Result<Carried, Denied> {
        let mut gone = Denied::new(Denial::UpstreamBroken, "no link");
        let mut attempts = 0;
        while attempts < ATTEMPTS {
            let way = match self.next(acceptor) {
                Next::On(way, turn) => {
                    if let Some(turn) = turn {
                        self.open_another(acceptor, turn);
                    }
                    if self.judged(&way, acceptor, rules).is_err() {
                        // it takes nobody any more: the next one may do
                        attempts += 1;
                        continue;
                    }
                    way
                }
                Next::Wait(attempt) => {
                    attempt.over.cancelled().await;
                    match attempt.failed.get() {
                        Some(denied) => return Err(denied.clone()),
                        None => continue,
                    }
                }
                Next::Dial(turn) => {
                    let dialled = self.connect_for(acceptor, client, Purpose::Many).await;
                    let link = dialled.inspect_err(|denied| turn.failed(denied))?;
                    match self.agreed(acceptor, link) {
                        Ok(way) => {
                            let judged = self.judged(&way, acceptor, rules);
                            let judged = judged
                                .map_err(|why| self.failed(acceptor, client, named(acceptor, why)));
                            judged.inspect_err(|denied| turn.failed(denied))?;
                            way
                        }
                        Err(carried) => return Ok(*carried),
                    }
                }
                Next::Plain => {
                    // kept ones have carried a client of tcp mode, and would another
                    if !client.http
                        && let Some(kept) = self.reopen(acceptor, client).await
                    {
                        return kept.map(Carried::from);
                    }
                    let link = self.connect_for(acceptor, client, Purpose::Many).await?;
                    match self.agreed(acceptor, link) {
                        Ok(way) => {
                            self.judged(&way, acceptor, rules).map_err(|why| {
                                self.failed(acceptor, client, named(acceptor, why))
                            })?;
                            way
                        }
                        Err(carried) => return Ok(*carried),
                    }
                }
            };
            if let Some(answer) = self.stream(way.clone(), acceptor, client).await {
                return answer;
            }
            // it was gone meanwhile, and not a byte of the client was sent
            attempts += 1;
            if let Some(why) = way.link.ended() {
                gone = why;
            }
        }
        let gone = named(acceptor, gone);
        Err(self.failed(acceptor, client, gone))
    }

    /// Whether what is in force now admits the acceptor of a link; else the link takes nobody any more.
    fn judged(&self, way: &Way, acceptor: &AcceptorState, rules: &Rules) -> Result<(), Denied> {
        let now = rules.borrow().clone();
        let judged = way.judged(self.name(), acceptor, &now);
        judged.inspect_err(|_| way.link.leave())
    }

    /// This thread's link with the fewest streams, or what has to be done for one.
    fn next(self: &Arc<Self>, acceptor: &Arc<AcceptorState>) -> Next {
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

    /// Takes a connection for what was agreed on it: a link for many, or the client's own.
    fn agreed(self: &Arc<Self>, acceptor: &AcceptorState, link: Link) -> Result<Way, Box<Carried>> {
        if link.mux {
            self.links.lock().plain.remove(&acceptor.index);
            return Ok(self.adopt(acceptor, link.stream, link.chain, link.until));
        }
        if self.links.lock().plain.insert(acceptor.index) && self.config.tunnel == Wanted::Mux {
            tracing::warn!(
                backend = %self.name(),
                acceptor = %acceptor.name,
                "tunnel = \"mux\" is not to be had there: each client, or request at once, has a link connection of its own"
            );
        }
        Err(Box::new(Carried::from(link)))
    }

    /// Opens another link beside those that are busy.
    fn open_another(self: &Arc<Self>, acceptor: &Arc<AcceptorState>, turn: Turn) {
        let (backend, acceptor) = (Arc::clone(self), Arc::clone(acceptor));
        self.links.drain.spawn(async move {
            let dialling = Box::pin(acceptor.dialler.dial_mux());
            match tokio::time::timeout(backend.config.connect_timeout, dialling).await {
                Ok(Ok(Some(Dialled {
                    stream,
                    chain,
                    until,
                    resumed,
                    ..
                }))) => {
                    backend.metrics().handshake(resumed);
                    let way = backend.adopt(&acceptor, stream, chain, until);
                    // nobody is left who could use it
                    if backend.links.are_closed() {
                        way.link.leave();
                    }
                }
                // clients have their links, and find out themselves when they need another
                Ok(Ok(None)) | Err(_) => {}
                Ok(Err(denied)) => tracing::debug!(%denied, "no further link"),
            }
            drop(turn);
        });
    }

    /// Starts what carries the streams of a connection.
    fn adopt(
        &self,
        acceptor: &AcceptorState,
        stream: LinkStream,
        chain: Arc<[CertificateDer<'static>]>,
        until: Option<UnixSeconds>,
    ) -> Way {
        let link = mux::Link::new(Side::Gateway);
        let limits = mux::Limits {
            first: None,
            idle: self.config.pool.idle_timeout,
        };
        let abort = |stream: &LinkStream| stream.io().abort();
        let driver = mux::Driver::new(stream, link.clone(), Side::Gateway, limits, abort);
        let (forced, ending) = (self.links.drain.forced(), link.clone());
        let (name, at) = (Arc::clone(self.name()), acceptor.name.clone());
        self.links.drain.spawn(async move {
            let ended = tokio::select! {
                biased;
                ended = Box::pin(driver.run(|_, _| {})) => ended,
                () = async {
                    forced.cancelled().await;
                    ending.end(Denied::new(Denial::Draining, "drain_timeout is over"));
                } => None,
            };
            if let Some(why) = ended {
                tracing::warn!(
                    backend = %name,
                    acceptor = %at,
                    reason = why.reason.code(),
                    detail = %why.detail,
                    "link ended"
                );
            }
        });
        let way = Way::new(link, chain, until);
        let closed = self.links.are_closed();
        let mut state = self.links.lock();
        if !closed && !state.closed {
            state.links.push(Held {
                acceptor: acceptor.index,
                way: way.clone(),
                lent: Loans::default(),
                retires: spread(until),
                opened: Instant::now(),
            });
        }
        way
    }

    /// Begins a client's stream; `None`: the link takes it no more.
    async fn stream(
        &self,
        way: Way,
        acceptor: &Arc<AcceptorState>,
        client: &ClientFacts,
    ) -> Option<Result<Carried, Denied>> {
        let limit = self.config.connect_timeout;
        let lease = self.lease(acceptor);
        let began = Instant::now();
        let mut stream = way.link.open(&dial::open(client))?;
        if self.links.are_closed() {
            // it serves this client alone
            way.link.leave();
        }
        let denied = match tokio::time::timeout(limit, stream.admitted()).await {
            Ok(Ok(())) => {
                acceptor.succeeded();
                return Some(Ok(Carried {
                    upstream: Upstream::Stream(stream),
                    lease,
                    until: way.until,
                    chain: way.chain,
                    connect: began.elapsed(),
                    facts: None,
                    home: way.home,
                }));
            }
            Ok(Err(Break::Refused(code))) if code == Denial::Draining.code() => {
                way.link.leave();
                return None;
            }
            Ok(Err(Break::Refused(code))) => refusal(&code),
            Ok(Err(Break::Reset | Break::Link | Break::Over)) => return None,
            Err(_elapsed) => {
                // the next asks on another
                way.link.leave();
                let why = format!("not admitted within connect_timeout = {limit:?}");
                Denied::new(Denial::UpstreamTimeout, why)
            }
        };
        Some(Err(self.failed(acceptor, client, named(acceptor, denied))))
    }
}

/// Adds which acceptor it was.
fn named(acceptor: &AcceptorState, denied: Denied) -> Denied {
    Denied {
        detail: format!("acceptor {}: {}", acceptor.name, denied.detail),
        ..denied
    }
}
