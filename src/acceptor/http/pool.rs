//! Kept connections to the backend: last in, first out, none older than its limits, and none
//! opened without a permit.

use std::{
    collections::VecDeque,
    future::pending,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http::{Request, Response};
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;

use super::SharedDial;
use crate::{
    admit::{Denial, Denied, Permit},
    config::BackendProtocol,
    drain::Drain,
    net::{Hold as _, Stalls},
    serve::{
        Aside, Snapshot,
        http::{
            Executor, Upstream,
            body::RequestBody,
            client::{Kind, SendFailed},
            expect::Interim,
            hop::{AnswerBody, Hop},
            retries::RetryBudget,
            send::Ways,
        },
    },
    telemetry::metrics::RequestMetrics,
    workers::{Home, take_near},
};

/// Connections kept for the next request. A gateway's pool holds as many.
const ROOM: usize = 64;
/// Less than the five seconds after which many backends close an idle connection (Apache,
/// Node.js): what is taken from here is seldom closing.
const IDLE: Duration = Duration::from_secs(4);
/// Backends are replaced and rebalanced: no connection is for ever.
const MAX_AGE: Duration = Duration::from_secs(600);
/// How often is looked for connections that were idle for too long.
const LOOK: Duration = Duration::from_secs(1);

/// The connections of one listener.
pub(super) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    dial: SharedDial,
    protocol: BackendProtocol,
    /// How long the backend may take nothing of a request.
    write_timeout: Duration,
    /// The oldest in front.
    idle: Mutex<VecDeque<Kept>>,
    /// Whether the backend was reached the last time.
    reached: AtomicBool,
    retries: RetryBudget,
    metrics: Arc<RequestMetrics>,
    drain: Drain,
}

struct Kept {
    link: Way,
    since: Instant,
}

/// A connection that can take a request.
struct Way {
    kind: Kind,
    /// The thread that hears it.
    home: Home,
    opened: Instant,
}

/// A connection taken for one request.
pub(super) struct Sender {
    link: Way,
    home: Weak<Shared>,
    reused: bool,
}

/// The pool, for one gateway's request.
pub(super) struct PoolFor<'a> {
    pub(super) pool: &'a Pool,
    pub(super) permit: &'a Permit,
    /// For whom a PROXY header speaks, and whom it dialled.
    pub(super) client: Option<(SocketAddr, SocketAddr)>,
}

impl Ways for PoolFor<'_> {
    type Way = Sender;

    async fn take(&self) -> Result<Sender, Denied> {
        while let Some(mut link) = self.pool.shared.pop() {
            if link.kind.ready().await {
                return Ok(self.pool.shared.sender(link, true));
            }
        }
        self.open().await
    }

    async fn open(&self) -> Result<Sender, Denied> {
        // boxed: requests on kept connections need not have room for a handshake
        let link = Box::pin(self.pool.shared.open(self.permit, self.client)).await?;
        Ok(self.pool.shared.sender(link, false))
    }

    fn may_retry(&self) -> bool {
        self.pool.shared.retries.take(Instant::now())
    }

    fn retried(&self) {
        self.pool.shared.metrics.retried();
    }
}

impl Pool {
    pub(super) fn new(
        dial: SharedDial,
        protocol: BackendProtocol,
        write_timeout: Duration,
        metrics: Arc<RequestMetrics>,
        drain: Drain,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                dial,
                protocol,
                write_timeout,
                idle: Mutex::default(),
                reached: AtomicBool::new(false),
                retries: RetryBudget::new(Instant::now()),
                metrics,
                drain,
            }),
        }
    }

    /// Closes what is idle for too long, or when the process is to end. Ends with the pool.
    pub(super) fn tidy(&self) {
        let stop = self.shared.drain.draining();
        let pool = Arc::downgrade(&self.shared);
        self.shared.drain.spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {
                        if let Some(pool) = pool.upgrade() {
                            pool.idle().clear();
                        }
                        return;
                    }
                    () = tokio::time::sleep(LOOK) => {}
                }
                let Some(pool) = pool.upgrade() else { return };
                pool.expire();
            }
        });
    }

    /// Where the backend was not reached the last time, or never yet, it is tried.
    ///
    /// # Errors
    /// It can't be reached.
    pub(super) async fn reach(&self, permit: &Permit) -> Result<(), Denied> {
        if !self.shared.reached.load(Ordering::Relaxed) {
            let link = Box::pin(self.shared.open(permit, None)).await?;
            self.shared.put(link);
        }
        Ok(())
    }
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        // each change is one statement: a panicking holder leaves it whole
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pop(&self) -> Option<Way> {
        let mut idle = self.idle();
        while let Some(kept) = take_near(&mut idle, |kept| kept.link.home) {
            if kept.is_young() {
                return Some(kept.link);
            }
        }
        None
    }

    fn expire(&self) {
        let mut idle = self.idle();
        idle.retain_mut(|kept| kept.is_young() && !kept.link.kind.is_closed());
    }

    fn put(&self, link: Way) {
        // a PROXY header speaks for one client: its connection is nobody else's
        if self.dial.send_proxy.is_some() {
            return;
        }
        let kept = Kept {
            link,
            since: Instant::now(),
        };
        if !kept.is_young() {
            return;
        }
        let mut idle = self.idle();
        // asked under the lock: what is put in before is cleared
        if self.drain.draining().is_cancelled() {
            return;
        }
        if idle.len() >= ROOM {
            idle.pop_front();
        }
        idle.push_back(kept);
    }

    async fn open(
        &self,
        permit: &Permit,
        client: Option<(SocketAddr, SocketAddr)>,
    ) -> Result<Way, Denied> {
        let dialled = self.dial.connect(permit, client).await;
        self.reached.store(dialled.is_ok(), Ordering::Relaxed);
        let mut dialled = dialled?;
        dialled.lasts();
        let stream = Stalls::new(dialled, self.write_timeout);
        let kind = match self.protocol {
            // nobody's rules name a backend
            BackendProtocol::Http1 => Kind::Http1(Some(Hop::new(stream, None, self.drain.clone()))),
            BackendProtocol::Http2 => {
                let io = TokioIo::new(stream);
                let force = self.drain.forced();
                let broken =
                    |error: hyper::Error| Denied::new(Denial::UpstreamBroken, error.to_string());
                let executor = Executor::new(self.drain.clone());
                let (sender, connection) = http2::handshake(executor, io).await.map_err(broken)?;
                self.drain.spawn(async move {
                    let cut = pin!(force.cancelled());
                    tokio::select! {
                        biased;
                        () = Aside::new(cut) => {}
                        _ = connection => {}
                    }
                });
                Kind::Http2(sender)
            }
        };
        Ok(Way {
            kind,
            home: Home::here(),
            opened: Instant::now(),
        })
    }

    fn sender(self: &Arc<Self>, link: Way, reused: bool) -> Sender {
        Sender {
            link,
            home: Arc::downgrade(self),
            reused,
        }
    }
}

impl Kept {
    fn is_young(&self) -> bool {
        self.since.elapsed() < IDLE && self.link.opened.elapsed() < MAX_AGE
    }
}

impl Upstream for Sender {
    fn is_reused(&self) -> bool {
        self.reused
    }

    fn is_http2(&self) -> bool {
        matches!(self.link.kind, Kind::Http2(_))
    }

    async fn send(
        &mut self,
        request: Request<RequestBody>,
        interim: Interim<'_>,
    ) -> Result<Response<AnswerBody>, SendFailed> {
        self.link.kind.send(request, interim).await
    }

    fn keep(mut self, answer: AnswerBody) {
        if self.link.kind.restore(answer)
            && let Some(home) = self.home.upgrade()
        {
            home.put(self.link);
        }
    }

    /// Nobody's rules name a backend: its bytes end with the gateway's connection.
    fn ended(
        &self,
        _rules: &watch::Receiver<Arc<Snapshot>>,
    ) -> impl Future<Output = Denied> + Send + 'static {
        pending()
    }
}
