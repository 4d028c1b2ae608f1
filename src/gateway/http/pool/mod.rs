//! Kept link connections of one backend: for each acceptor last in, first out; none older than its
//! limits, none that outlives its certificate or the rules that admitted it.

use std::{
    any::Any,
    collections::VecDeque,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use rustls_pki_types::CertificateDer;
use tokio::sync::{SetOnce, oneshot, watch};
use tokio_util::sync::CancellationToken;

mod sender;

use self::sender::LinkSender;
pub(super) use self::sender::Sender;
use super::{
    HttpGateway,
    carried::RequestStream,
    links::{self, Links},
    standing::Standing,
};
use crate::{
    admit::{Denial, Denied},
    clock,
    config::BackendProtocol,
    drain::Drain,
    gateway::{
        BackendRuntime, ClientFacts,
        backend::{AcceptorState, Lease},
        mux::Carried,
    },
    identity::UnixSeconds,
    net::Stalls,
    serve::{
        Aside, LinkSupervision, Snapshot,
        http::{
            Executor,
            client::Kind,
            hop::{Fate, Hop},
            send::{self, Ways},
        },
        spread,
    },
    workers::take_near,
};

/// How often is looked whether enough connections are ready.
const LOOK: Duration = Duration::from_secs(1);
/// Between attempts to make one ready, while none can be.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The pool of one backend.
pub(super) struct Pool {
    shared: Arc<Shared>,
}

/// For whom a link is opened, and what may end it.
#[derive(Clone, Copy)]
pub(super) struct Opening<'a> {
    pub(super) client: &'a ClientFacts,
    pub(super) rules: &'a watch::Receiver<Arc<Snapshot>>,
}

struct Shared {
    backend: Arc<BackendRuntime>,
    /// One queue for each acceptor, the oldest in front.
    idle: Mutex<Vec<VecDeque<Kept>>>,
    /// How long an acceptor may take nothing of a request.
    write_timeout: Duration,
    /// What watches over those that speak HTTP/1.1.
    links: Arc<Links>,
    drain: Drain,
}

struct Kept {
    link: LinkSender,
    since: Instant,
}

/// A pool, for one client's request.
pub(super) struct PoolFor<'a> {
    pub(super) pool: &'a Pool,
    pub(super) opening: Opening<'a>,
}

impl Ways for PoolFor<'_> {
    type Way = Sender;

    async fn take(&self) -> Result<Sender, Denied> {
        match self.pool.take(self.opening).await {
            // rules of before found no way, and nothing was sent
            Err(_) if self.pool.shared.backend.is_superseded() => Box::pin(self.open()).await,
            taken => taken,
        }
    }

    /// Where other rules came meanwhile, in the pool of theirs, if it takes the request as it is.
    async fn open(&self) -> Result<Sender, Denied> {
        let now: Arc<dyn Any + Send + Sync> = self.opening.rules.borrow().role.clone();
        let now: Option<Arc<HttpGateway>> = now.downcast().ok();
        let pool = now.as_ref().and_then(|now| now.pool_in_place_of(self.pool));
        pool.unwrap_or(self.pool).open(self.opening).await
    }

    fn may_retry(&self) -> bool {
        self.pool.shared.backend.may_retry()
    }

    fn retried(&self) {
        self.pool.shared.backend.metrics().requests().retried();
    }
}

impl Pool {
    pub(super) fn new(backend: Arc<BackendRuntime>, write_timeout: Duration, drain: Drain) -> Self {
        let idle = backend.acceptors().iter().map(|_| VecDeque::new());
        Self {
            shared: Arc::new(Shared {
                idle: Mutex::new(idle.collect()),
                backend,
                write_timeout,
                links: Links::new(),
                drain,
            }),
        }
    }

    /// Its backend.
    pub(super) fn backend(&self) -> &BackendRuntime {
        &self.shared.backend
    }

    /// A kept connection to the acceptor whose turn it is, or a new one; then the next acceptor's.
    async fn take(&self, opening: Opening<'_>) -> Result<Sender, Denied> {
        let backend = &self.shared.backend;
        let mut last = None;
        for acceptor in backend.order() {
            while let Some(mut link) = self.shared.pop(&acceptor) {
                if link.kind.ready().await {
                    return Ok(self.shared.sender(link, true));
                }
            }
            // boxed: requests on kept connections need not have room for a handshake
            match Box::pin(self.shared.open(&acceptor, opening)).await {
                Ok(link) => return Ok(self.shared.sender(link, false)),
                Err(denied) => last = Some(denied),
            }
        }
        Err(last.unwrap_or_else(|| backend.unreachable()))
    }

    /// A new connection.
    async fn open(&self, opening: Opening<'_>) -> Result<Sender, Denied> {
        let backend = &self.shared.backend;
        let mut last = None;
        for acceptor in backend.order() {
            match self.shared.open(&acceptor, opening).await {
                Ok(link) => return Ok(self.shared.sender(link, false)),
                Err(denied) => last = Some(denied),
            }
        }
        Err(last.unwrap_or_else(|| backend.unreachable()))
    }

    /// Keeps `pool.ready` connections open, so that requests after a quiet time need not wait
    /// for a handshake, and closes what is idle for too long, or when the process is to end. Ends
    /// with the pool, and with the listener of these rules.
    pub(super) fn keep_ready(&self, rules: watch::Receiver<Arc<Snapshot>>) {
        let shared = &self.shared;
        let wanted = shared.backend.config.pool.ready;
        let stop = shared.drain.draining();
        let pool = Arc::downgrade(shared);
        shared.links.hear(&rules);
        let mut heard = rules.clone();
        shared.drain.spawn(async move {
            let mut pause = Duration::ZERO;
            let mut gone = pin!(async move { while heard.changed().await.is_ok() {} });
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {
                        if let Some(pool) = pool.upgrade() {
                            pool.idle().iter_mut().for_each(VecDeque::clear);
                        }
                        return;
                    }
                    () = &mut gone => {
                        if let Some(pool) = pool.upgrade() {
                            pool.links.forget_gone();
                        }
                        return;
                    }
                    () = tokio::time::sleep(pause) => {}
                }
                let Some(pool) = pool.upgrade() else { return };
                if pool.backend.is_superseded() {
                    // who still holds it opens what it needs
                    pool.idle().iter_mut().for_each(VecDeque::clear);
                    return;
                }
                pause = pool.top_up(wanted, pause, &rules).await;
            }
        });
    }
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Vec<VecDeque<Kept>>> {
        // each change is one statement: a panicking holder leaves it whole
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pop(&self, acceptor: &AcceptorState) -> Option<LinkSender> {
        let now = Instant::now();
        let mut queues = self.idle();
        let queue = queues.get_mut(acceptor.index)?;
        self.expire(queue, now);
        while let Some(kept) = take_near(queue, |kept| kept.link.home) {
            if self.fits(&kept.link, now) {
                return Some(kept.link);
            }
        }
        None
    }

    /// Closes what was idle for too long.
    fn expire(&self, queue: &mut VecDeque<Kept>, now: Instant) {
        let limit = self.backend.config.pool.idle_timeout;
        while queue
            .front()
            .is_some_and(|kept| now.saturating_duration_since(kept.since) > limit)
        {
            queue.pop_front();
        }
    }

    fn fits(&self, link: &LinkSender, now: Instant) -> bool {
        let over = link.retires.is_some_and(|end| clock::now() > end)
            || match &link.shared {
                Some(shared) => shared.is_leaving(),
                None => link.acceptor.dialler.shut.is_since(link.opened),
            };
        !over && now.saturating_duration_since(link.opened) < self.backend.config.pool.max_age
    }

    /// Whether it is kept.
    fn put(&self, link: LinkSender) -> bool {
        let room = self.backend.config.pool.idle;
        let now = Instant::now();
        let mut queues = self.idle();
        // asked under the lock: what is put in before is cleared
        if self.drain.draining().is_cancelled() || !self.fits(&link, now) || room == 0 {
            return false;
        }
        // what is too many is closed by the next look, if nobody has wanted it by then: many
        // streams at once would open links anew for each request
        if let Some(queue) = queues.get_mut(link.acceptor.index) {
            queue.push_back(Kept { link, since: now });
        }
        true
    }

    /// Closes what is more than `pool.idle` and was not wanted since the last look.
    fn trim(&self, queues: &mut [VecDeque<Kept>], now: Instant) {
        let held: usize = queues.iter().map(VecDeque::len).sum();
        for _ in self.backend.config.pool.idle..held {
            let since = |queue: &VecDeque<Kept>| queue.front().map(|kept| kept.since);
            let oldest = queues.iter_mut().filter(|queue| !queue.is_empty());
            let Some(queue) = oldest.min_by_key(|queue| since(queue)) else {
                return;
            };
            if since(queue).is_some_and(|since| now.saturating_duration_since(since) < LOOK) {
                return;
            }
            queue.pop_front();
        }
    }

    /// Opens one connection where one is missing; how long to wait for the next look.
    async fn top_up(
        self: &Arc<Self>,
        wanted: usize,
        pause: Duration,
        rules: &watch::Receiver<Arc<Snapshot>>,
    ) -> Duration {
        let held: usize = {
            let now = Instant::now();
            let mut queues = self.idle();
            for queue in queues.iter_mut() {
                self.expire(queue, now);
                queue.retain_mut(|kept| !kept.link.kind.is_closed() && self.fits(&kept.link, now));
            }
            self.trim(&mut queues, now);
            queues.iter().map(VecDeque::len).sum()
        };
        if held >= wanted.min(self.backend.config.pool.idle) {
            return LOOK;
        }
        // the acceptor that is first today; it is not told of the others' failures
        let Some(acceptor) = self.backend.order().next() else {
            return LONGEST_PAUSE;
        };
        let (pool, rules) = (Arc::clone(self), rules.clone());
        let (tell, told) = oneshot::channel();
        // each thread has its share
        let place = self.drain.workers().nth(held);
        self.drain.spawn_at(&place, async move {
            let client = ClientFacts::ours();
            let opening = Opening {
                client: &client,
                rules: &rules,
            };
            let opened = pool.open(&acceptor, opening).await;
            // who asked may have gone
            let _told = tell.send(opened.is_ok_and(|link| pool.put(link)));
        });
        match told.await {
            Ok(true) => Duration::ZERO,
            // what failed is logged, and what may not be kept is no use to open again at once
            Ok(false) | Err(_) => pause.saturating_mul(2).clamp(LOOK, LONGEST_PAUSE),
        }
    }

    async fn open(
        self: &Arc<Self>,
        acceptor: &Arc<AcceptorState>,
        opening: Opening<'_>,
    ) -> Result<LinkSender, Denied> {
        let Carried {
            upstream,
            lease,
            until,
            chain,
            home,
            ..
        } = self
            .backend
            .carry_requests(acceptor, opening.client, opening.rules)
            .await?;
        let over = supervision(&lease, &chain, until, opening.rules);
        let standing = Standing::begin(&over, &self.links).map_err(|why| {
            upstream.abort();
            self.backend.failed(acceptor, opening.client, why)
        })?;
        // counted again with each request that it carries
        drop(lease);
        let shared = upstream.link().cloned();
        let limit = self.write_timeout;
        let carried = |fate| {
            let stream = RequestStream::new(upstream, fate, limit, self.drain.clone());
            Stalls::new(stream, limit)
        };
        let (mut ended, mut judge) = (None, None);
        let kind = match self.backend.config.protocol {
            BackendProtocol::Http1 => {
                let fate = self.watch(over, standing);
                let stream = carried(Some(Arc::clone(&fate)));
                Kind::Http1(Some(Hop::new(stream, Some(fate), self.drain.clone())))
            }
            BackendProtocol::Http2 => {
                judge = Some(standing);
                let io = TokioIo::new(carried(None));
                let cut = cut(over, Arc::downgrade(&self.links), self.drain.forced());
                let end = Arc::clone(ended.insert(Arc::new(SetOnce::new())));
                let broken =
                    |error: hyper::Error| Denied::new(Denial::UpstreamBroken, error.to_string());
                let executor = Executor::new(self.drain.clone());
                let (sender, connection) = http2::handshake(executor, io).await.map_err(broken)?;
                self.drain.spawn(async move {
                    let cut = pin!(cut);
                    let why = tokio::select! {
                        biased;
                        () = Aside::new(cut) => None,
                        done = connection => done.err(),
                    };
                    let _first = end.set(why.map(|error| send::broken(&error)));
                });
                Kind::Http2(sender)
            }
        };
        Ok(LinkSender {
            kind,
            home,
            shared,
            ended,
            standing: judge,
            opened: Instant::now(),
            until,
            retires: spread(until),
            chain,
            acceptor: Arc::clone(acceptor),
        })
    }

    /// Has a link watched over, by the rules of the listener that it serves.
    fn watch(self: &Arc<Self>, over: LinkSupervision, standing: Standing) -> Arc<Fate> {
        let (fate, watcher) = self.links.add(over, standing);
        if let Some(watcher) = watcher {
            let pool = Arc::downgrade(self);
            let tidy = move || {
                if let Some(pool) = pool.upgrade() {
                    for queue in pool.idle().iter_mut() {
                        queue.retain_mut(|kept| !kept.link.kind.is_closed());
                    }
                }
            };
            self.drain.spawn(watcher.watch(self.drain.clone(), tidy));
        }
        fate
    }

    fn sender(self: &Arc<Self>, link: LinkSender, reused: bool) -> Sender {
        Sender {
            lease: self.backend.lease(&link.acceptor),
            link,
            home: Arc::downgrade(self),
            reused,
        }
    }
}

fn supervision(
    lease: &Lease,
    chain: &Arc<[CertificateDer<'static>]>,
    until: Option<UnixSeconds>,
    rules: &watch::Receiver<Arc<Snapshot>>,
) -> LinkSupervision {
    LinkSupervision {
        backend: Arc::clone(lease.backend()),
        acceptor: lease.acceptor().to_owned(),
        chain: Arc::clone(chain),
        until,
        rules: rules.clone(),
    }
}

/// Resolves when a link connection in HTTP/2 has to end.
async fn cut(mut link: LinkSupervision, links: Weak<Links>, force: CancellationToken) {
    let why = loop {
        let why = tokio::select! {
            biased;
            () = force.cancelled() => return,
            why = link.ended() => why,
        };
        let goes_on = |links: Arc<Links>| links.takes_over(&mut link);
        if !links.upgrade().is_some_and(goes_on) {
            break why;
        }
    };
    links::log(&link, &why);
}
