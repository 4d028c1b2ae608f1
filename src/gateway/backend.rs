//! A backend: its acceptors, which one is taken, and what is known of their health.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustls_pki_types::CertificateDer;

use super::{
    ClientFacts,
    credentials::Credentials,
    dial::{Dialled, Dialler, LinkStream, Purpose},
    health::Verdict,
    mux::Links,
    reuse::{KeptLinks, Reopened},
};
use crate::{
    admit::{Blame, Denial, Denied},
    config::{Backend, Balance},
    drain::Drain,
    identity::UnixSeconds,
    serve::http::retries::RetryBudget,
    telemetry::metrics::BackendMetrics,
    tls::Generation,
    wire::mux::Welcome,
    workers::Home,
};

/// An acceptor that failed is the last choice for so long, doubled with each failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A backend at work.
pub struct BackendRuntime {
    /// Its configuration.
    pub config: Arc<Backend>,
    name: Arc<str>,
    acceptors: Vec<Arc<AcceptorState>>,
    turn: AtomicUsize,
    metrics: Arc<BackendMetrics>,
    generation: Arc<Generation>,
    credentials: Option<Arc<Credentials>>,
    retries: RetryBudget,
    /// Connections of tcp mode that wait for their next client.
    pub(super) kept: KeptLinks,
    /// Those that carry many clients at once.
    pub(super) links: Links,
}

/// What is known of one acceptor.
pub struct AcceptorState {
    /// Its address as configured.
    pub name: String,
    /// Its place among the backend's acceptors.
    pub(super) index: usize,
    pub(super) dialler: Dialler,
    active: AtomicUsize,
    failures: AtomicU32,
    /// Milliseconds after `epoch` until which it is the last choice.
    paused_until: AtomicU64,
    pub(super) verdict: Verdict,
    epoch: Instant,
}

/// An admitted link connection, counted at its acceptor while it lives.
pub struct Link {
    /// The stream.
    pub stream: LinkStream,
    /// The thread that hears it.
    pub(super) home: Home,
    /// The acceptor, and our place in its count.
    pub lease: Lease,
    /// When the acceptor's chain ends.
    pub until: Option<UnixSeconds>,
    /// The acceptor's chain, leaf first.
    pub chain: Arc<[CertificateDer<'static>]>,
    /// How long it took.
    pub connect: Duration,
    /// Since when it is open.
    pub(super) opened: Instant,
    /// It carries another client after this one.
    pub(super) reused: bool,
    /// It carries many at once, and none yet; what the acceptor said.
    pub(super) mux: Option<Welcome>,
}

/// A place in an acceptor's count of connections or requests under way.
pub struct Lease {
    backend: Arc<str>,
    acceptor: Arc<AcceptorState>,
}

impl Lease {
    /// The backend's name.
    #[must_use]
    pub fn backend(&self) -> &Arc<str> {
        &self.backend
    }

    /// The acceptor's name.
    #[must_use]
    pub fn acceptor(&self) -> &str {
        &self.acceptor.name
    }

    pub(super) fn state(&self) -> &Arc<AcceptorState> {
        &self.acceptor
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.acceptor.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AcceptorState {
    pub(super) fn new(index: usize, dialler: Dialler) -> Arc<Self> {
        Arc::new(Self {
            name: dialler.address.to_string(),
            index,
            dialler,
            active: AtomicUsize::new(0),
            failures: AtomicU32::new(0),
            paused_until: AtomicU64::new(0),
            verdict: Verdict::default(),
            epoch: Instant::now(),
        })
    }

    fn lease(self: &Arc<Self>, backend: &Arc<str>) -> Lease {
        self.active.fetch_add(1, Ordering::Relaxed);
        Lease {
            backend: Arc::clone(backend),
            acceptor: Arc::clone(self),
        }
    }

    /// Whether it is a first choice now.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.is_healthy() && self.paused_until.load(Ordering::Relaxed) <= self.millis()
    }

    /// What active checks say; true where there are none.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.verdict.is_healthy()
    }

    /// Connections and requests under way.
    #[must_use]
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn succeeded(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.paused_until.store(0, Ordering::Relaxed);
    }

    fn failed(&self) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(5);
        let pause = FIRST_PAUSE.saturating_mul(1 << failures).min(LONGEST_PAUSE);
        let until = self
            .millis()
            .saturating_add(u64::try_from(pause.as_millis()).unwrap_or(0));
        self.paused_until.store(until, Ordering::Relaxed);
    }
}

/// What was found at an acceptor is no fault of our client: the reason says whose it is, and the
/// detail keeps what was found.
fn of_upstream(denied: Denied) -> Denied {
    let reason = match (denied.reason.blame(), denied.reason.http_status()) {
        (Blame::Upstream, _) => return denied,
        (Blame::Peer | Blame::Local, 401 | 403) => Denial::UpstreamUntrusted,
        (Blame::Peer | Blame::Local, _) => Denial::UpstreamBroken,
    };
    Denied::new(
        reason,
        format!("{}: {}", denied.reason.code(), denied.detail),
    )
}

impl BackendRuntime {
    /// A backend with its acceptors; there is at least one.
    pub(crate) fn new(
        config: Arc<Backend>,
        diallers: Vec<Dialler>,
        generation: Arc<Generation>,
        credentials: Option<Arc<Credentials>>,
        metrics: Arc<BackendMetrics>,
        drain: Drain,
    ) -> Arc<Self> {
        let acceptors = diallers
            .into_iter()
            .enumerate()
            .map(|(index, dialler)| AcceptorState::new(index, dialler))
            .collect();
        Arc::new(Self {
            name: Arc::from(config.name.as_str()),
            config,
            acceptors,
            turn: AtomicUsize::new(0),
            metrics,
            generation,
            credentials,
            retries: RetryBudget::new(Instant::now()),
            kept: KeptLinks::default(),
            links: Links::new(drain),
        })
    }

    /// The acceptors.
    #[must_use]
    pub fn acceptors(&self) -> &[Arc<AcceptorState>] {
        &self.acceptors
    }

    /// The URI in the certificate that we show to its acceptors.
    #[must_use]
    pub fn own_uri(&self) -> Option<&str> {
        self.generation.leaf.uris.first().map(String::as_str)
    }

    /// Who we are towards its acceptors, and whom we believe.
    #[must_use]
    pub fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// What is added to requests, where the backend expects something.
    #[must_use]
    pub fn credentials(&self) -> Option<&Arc<Credentials>> {
        self.credentials.as_ref()
    }

    /// Whether one more request may be sent again.
    pub(super) fn may_retry(&self) -> bool {
        self.retries.take(Instant::now())
    }

    /// Its name.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its metrics.
    #[must_use]
    pub fn metrics(&self) -> &Arc<BackendMetrics> {
        &self.metrics
    }

    /// What is said where no acceptor was tried.
    pub(super) fn unreachable(&self) -> Denied {
        Denied::new(
            Denial::UpstreamUnreachable,
            format!("backend {}: no acceptor is configured", self.name),
        )
    }

    /// Opens a link to the first acceptor that admits us, each within `connect_timeout`, over a
    /// kept connection where there is one.
    ///
    /// # Errors
    /// Why the last one that was tried did not.
    pub async fn connect(&self, client: &ClientFacts) -> Result<Link, Denied> {
        let mut last = None;
        for acceptor in self.order() {
            let opened = match self.reopen(&acceptor, client).await {
                Some(opened) => opened,
                None => self.connect_to(&acceptor, client).await,
            };
            match opened {
                Ok(link) => return Ok(link),
                Err(denied) => last = Some(denied),
            }
        }
        Err(last.unwrap_or_else(|| self.unreachable()))
    }

    /// Opens a link connection to one acceptor.
    ///
    /// # Errors
    /// Where it stopped.
    pub async fn connect_to(
        &self,
        acceptor: &Arc<AcceptorState>,
        client: &ClientFacts,
    ) -> Result<Link, Denied> {
        self.connect_for(acceptor, client, Purpose::One).await
    }

    /// The same for one client, or for many.
    pub(super) async fn connect_for(
        &self,
        acceptor: &Arc<AcceptorState>,
        client: &ClientFacts,
        purpose: Purpose,
    ) -> Result<Link, Denied> {
        let lease = acceptor.lease(&self.name);
        let began = Instant::now();
        let limit = self.config.connect_timeout;
        // boxed: the handshake's state is gone while bytes are relayed
        let dialling = Box::pin(acceptor.dialler.dial(client, purpose));
        let dialled = tokio::time::timeout(limit, dialling)
            .await
            .unwrap_or_else(|_elapsed| {
                Err(Denied::new(
                    Denial::UpstreamTimeout,
                    format!(
                        "acceptor {}: not admitted within connect_timeout = {limit:?}",
                        acceptor.name
                    ),
                ))
            });
        let connect = began.elapsed();
        match dialled {
            Ok(Dialled {
                stream,
                chain,
                until,
                reused,
                resumed,
                mux,
            }) => {
                acceptor.succeeded();
                self.metrics.connect_ok(connect.as_secs_f64());
                self.metrics.handshake(resumed);
                Ok(Link {
                    stream,
                    home: Home::here(),
                    lease,
                    until,
                    chain,
                    connect,
                    opened: Instant::now(),
                    reused,
                    mux,
                })
            }
            Err(denied) => Err(self.failed(acceptor, client, denied)),
        }
    }

    /// Takes a kept connection for a client; `None`: a new one has to be opened.
    pub(super) async fn reopen(
        &self,
        acceptor: &Arc<AcceptorState>,
        client: &ClientFacts,
    ) -> Option<Result<Link, Denied>> {
        let limit = self.config.connect_timeout;
        while let Some(kept) = self.kept.take(acceptor.index, &self.config.pool) {
            let lease = acceptor.lease(&self.name);
            let began = Instant::now();
            let opening = Box::pin(kept.open(client));
            let denied = match tokio::time::timeout(limit, opening).await {
                Ok(Reopened::Admitted(link)) => {
                    acceptor.succeeded();
                    return Some(Ok(link.into_link(lease, began.elapsed())));
                }
                // it was closed meanwhile, and not a byte of the client was sent
                Ok(Reopened::Gone) => continue,
                Ok(Reopened::Refused(denied)) => denied,
                Err(_elapsed) => Denied::new(
                    Denial::UpstreamTimeout,
                    format!("not admitted within connect_timeout = {limit:?}"),
                ),
            };
            let denied = Denied {
                detail: format!("acceptor {}: {}", acceptor.name, denied.detail),
                ..denied
            };
            return Some(Err(self.failed(acceptor, client, denied)));
        }
        None
    }

    /// Takes note of a link that could not be opened.
    pub(super) fn failed(
        &self,
        acceptor: &AcceptorState,
        client: &ClientFacts,
        denied: Denied,
    ) -> Denied {
        let denied = of_upstream(denied);
        acceptor.failed();
        self.metrics.connect_failed(denied.reason);
        tracing::warn!(
            backend = %self.name,
            acceptor = %acceptor.name,
            connection = %client.connection_id,
            reason = denied.reason.code(),
            detail = %denied.detail,
            "link connection failed"
        );
        denied
    }

    /// A place in an acceptor's count, for a request on a kept link.
    pub(super) fn lease(&self, acceptor: &Arc<AcceptorState>) -> Lease {
        acceptor.lease(&self.name)
    }

    /// Acceptors in the order in which they are tried: usable ones first.
    pub(super) fn order(&self) -> impl Iterator<Item = Arc<AcceptorState>> + use<> {
        // the usual case needs no list
        if let [only] = &*self.acceptors {
            return Some(Arc::clone(only)).into_iter().chain(Vec::new());
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut order: Vec<_> = self.acceptors.to_vec();
        let len = order.len().max(1);
        order.rotate_left(turn % len);
        match self.config.balance {
            Balance::RoundRobin => order.sort_by_key(|a| !a.is_usable()),
            // stable, so equals are taken in turn
            Balance::LeastRequests => order.sort_by_key(|a| (!a.is_usable(), a.active())),
        }
        None.into_iter().chain(order)
    }

    /// Whether another configuration is in force.
    pub(super) fn is_superseded(&self) -> bool {
        self.links.are_closed()
    }

    /// Drops TLS sessions whose time is over.
    pub fn forget_old(&self) {
        for acceptor in &self.acceptors {
            acceptor.dialler.forget_old();
        }
    }

    /// Judges the acceptor at the other end of a live link again.
    ///
    /// # Errors
    /// Why it would be refused today.
    pub fn judge_again(
        &self,
        acceptor: &str,
        chain: &[CertificateDer<'static>],
    ) -> Result<(), Denied> {
        let Some(state) = self.acceptors.iter().find(|a| a.name == acceptor) else {
            return Err(Denied::new(
                Denial::RulesChanged,
                "the acceptor is configured no more",
            ));
        };
        let dialler = &state.dialler;
        let peer = dialler.tls.prove_again(chain, &dialler.name)?;
        (dialler.judge)(Some(&peer)).map(drop)
    }
}

/// What a role answers of a live link: a backend that is gone admits nobody.
pub(super) fn judge_link(
    backend: Option<&Arc<BackendRuntime>>,
    acceptor: &str,
    chain: &[CertificateDer<'static>],
) -> Result<(), Denied> {
    match backend {
        Some(backend) => backend.judge_again(acceptor, chain),
        None => Err(Denied::new(
            Denial::RulesChanged,
            "the backend is configured no more",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acceptor_s_fault_is_never_its_client_s() {
        for denial in Denial::ALL {
            let told = of_upstream(Denied::new(*denial, "why"));
            assert_eq!(told.reason.blame(), Blame::Upstream, "{}", denial.code());
            assert!(told.reason.http_status() >= 502, "{}", denial.code());
            assert!(told.detail.contains("why"));
        }
        let told = of_upstream(Denied::new(Denial::CrlExpired, "old"));
        assert_eq!(told.reason, Denial::UpstreamUntrusted);
        assert_eq!(told.detail, "crl_expired: old");
    }
}
