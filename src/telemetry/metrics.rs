//! Every metric: name, unit, help. Labels are closed sets or names from the configuration, never
//! what a peer chose; label sets are resolved when the configuration loads.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicI64},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::admit::Denial;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByListener {
    listener: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    listener: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByDirection {
    listener: String,
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByKind {
    listener: String,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByBackendKind {
    backend: String,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStatus {
    listener: String,
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByBackend {
    backend: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByBackendReason {
    backend: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByAcceptor {
    backend: String,
    acceptor: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BySecret {
    listener: String,
    rule: String,
    secret: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCertificate {
    certificate: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCertificateReason {
    certificate: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOrder {
    certificate: String,
    result: &'static str,
}

/// The process's metrics.
pub struct Metrics {
    registry: Registry,
    accepted: Family<ByListener, Counter>,
    denied: Family<ByReason, Counter>,
    admitted: Family<ByListener, Counter>,
    ended: Family<ByReason, Counter>,
    active: Family<ByListener, Gauge>,
    bytes: Family<ByDirection, Counter>,
    handshake: Family<ByListener, Histogram>,
    handshakes: Family<ByKind, Counter>,
    requests: Family<ByStatus, Counter>,
    request_duration: Family<ByListener, Histogram>,
    refused: Family<ByReason, Counter>,
    secret_used: Family<BySecret, Gauge>,
    /// Those whose use is noted.
    secrets: Mutex<Vec<BySecret>>,
    connect: Family<ByBackend, Histogram>,
    connect_failed: Family<ByBackendReason, Counter>,
    link_handshakes: Family<ByBackendKind, Counter>,
    backend_active: Family<ByBackend, Gauge>,
    retries: Family<ByBackend, Counter>,
    interim: Family<ByBackend, Counter>,
    healthy: Family<ByAcceptor, Gauge>,
    reloads: Family<ByResult, Counter>,
    last_reload: Gauge<i64, AtomicI64>,
    not_after: Family<ByCertificate, Gauge>,
    crl_next_update: Family<ByCertificate, Gauge>,
    ocsp_next_update: Family<ByCertificate, Gauge>,
    ocsp_failures: Family<ByCertificateReason, Counter>,
    exposed: Family<ByListener, Gauge>,
    descriptors: Gauge<i64, AtomicI64>,
    pki_renewals: Family<ByResult, Counter>,
    renewals: Family<ByResult, Counter>,
    last_renewal: Gauge<i64, AtomicI64>,
    refreshes: Family<ByResult, Counter>,
    last_refresh: Gauge<i64, AtomicI64>,
    orders: Family<ByOrder, Counter>,
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_5, 2.0, 16))
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// A registry with every metric in it.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "a table: one line for each metric")]
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("portcullis");
        let histogram: fn() -> Histogram = seconds;
        let m = Self {
            accepted: Family::default(),
            denied: Family::default(),
            admitted: Family::default(),
            ended: Family::default(),
            active: Family::default(),
            bytes: Family::default(),
            handshake: Family::new_with_constructor(histogram),
            handshakes: Family::default(),
            requests: Family::default(),
            request_duration: Family::new_with_constructor(histogram),
            refused: Family::default(),
            secret_used: Family::default(),
            secrets: Mutex::default(),
            connect: Family::new_with_constructor(histogram),
            connect_failed: Family::default(),
            link_handshakes: Family::default(),
            backend_active: Family::default(),
            retries: Family::default(),
            interim: Family::default(),
            healthy: Family::default(),
            reloads: Family::default(),
            last_reload: Gauge::default(),
            not_after: Family::default(),
            crl_next_update: Family::default(),
            ocsp_next_update: Family::default(),
            ocsp_failures: Family::default(),
            exposed: Family::default(),
            descriptors: Gauge::default(),
            pki_renewals: Family::default(),
            renewals: Family::default(),
            last_renewal: Gauge::default(),
            refreshes: Family::default(),
            last_refresh: Gauge::default(),
            orders: Family::default(),
            registry: Registry::default(),
        };
        let r = &mut registry;
        r.register(
            "connections_accepted",
            "Connections accepted from the kernel",
            m.accepted.clone(),
        );
        r.register(
            "connections_denied",
            "Connections refused, by reason",
            m.denied.clone(),
        );
        r.register(
            "connections_admitted",
            "Connections let in",
            m.admitted.clone(),
        );
        r.register(
            "connections_ended",
            "Connections let in that ended, by reason; none: both sides were done",
            m.ended.clone(),
        );
        r.register(
            "connections_active",
            "Connections let in that live now",
            m.active.clone(),
        );
        r.register_with_unit(
            "transferred",
            "Bytes from (in) and to (out) whoever dialled the listener",
            Unit::Bytes,
            m.bytes.clone(),
        );
        r.register_with_unit(
            "handshake",
            "From accept to the decision",
            Unit::Seconds,
            m.handshake.clone(),
        );
        r.register(
            "handshakes",
            "TLS handshakes of connections let in: full, or a session that went on",
            m.handshakes.clone(),
        );
        r.register(
            "requests",
            "Requests answered, by class of status",
            m.requests.clone(),
        );
        r.register_with_unit(
            "request",
            "From a request's head to its answer's end",
            Unit::Seconds,
            m.request_duration.clone(),
        );
        r.register(
            "requests_refused",
            "Requests refused, by reason",
            m.refused.clone(),
        );
        r.register(
            "secret_last_used_timestamp_seconds",
            "When a request last proved itself by a secret; 0: never",
            m.secret_used.clone(),
        );
        r.register_with_unit(
            "link_connect",
            "From dialling an acceptor to its admission",
            Unit::Seconds,
            m.connect.clone(),
        );
        r.register(
            "link_connect_failed",
            "Link connections that were not admitted, by reason",
            m.connect_failed.clone(),
        );
        r.register(
            "link_handshakes",
            "TLS handshakes of admitted link connections: full, or a session that went on",
            m.link_handshakes.clone(),
        );
        r.register(
            "backend_active",
            "Requests whose answer a backend still owes (http mode)",
            m.backend_active.clone(),
        );
        r.register(
            "backend_retries",
            "Requests that were sent again to a backend",
            m.retries.clone(),
        );
        r.register(
            "backend_interim_answers",
            "Interim answers (1xx but 101) of a backend, which go no further",
            m.interim.clone(),
        );
        r.register(
            "acceptor_healthy",
            "Whether active checks find an acceptor healthy (1) or not (0)",
            m.healthy.clone(),
        );
        r.register("reloads", "Reloads, by result", m.reloads.clone());
        r.register(
            "last_reload_success_timestamp_seconds",
            "When the configuration in force was loaded",
            m.last_reload.clone(),
        );
        r.register(
            "certificate_not_after_timestamp_seconds",
            "When our certificates end",
            m.not_after.clone(),
        );
        r.register(
            "crl_next_update_timestamp_seconds",
            "When CRLs have to be replaced",
            m.crl_next_update.clone(),
        );
        r.register(
            "ocsp_next_update_timestamp_seconds",
            "When the stapled OCSP answer ends; 0: there is none",
            m.ocsp_next_update.clone(),
        );
        r.register(
            "ocsp_failures",
            "Attempts to get an OCSP answer that brought none, by reason",
            m.ocsp_failures.clone(),
        );
        r.register(
            "backend_exposed",
            "Whether the backend's port listens beyond loopback: 1 yes, 0 no, -1 unknown",
            m.exposed.clone(),
        );
        r.register(
            "file_descriptors_limit",
            "Open files that the process may have",
            m.descriptors.clone(),
        );
        r.register(
            "pki_renewals",
            "Renewals that pki serve was asked for, by result: ok, or why not",
            m.pki_renewals.clone(),
        );
        r.register(
            "identity_renewals",
            "Renewals of our own certificate, by result",
            m.renewals.clone(),
        );
        r.register(
            "identity_last_renewal_timestamp_seconds",
            "When our own certificate was renewed last; 0: not since the start",
            m.last_renewal.clone(),
        );
        r.register(
            "identity_refreshes",
            "Looks at trust and CRLs where our identity comes from, by result",
            m.refreshes.clone(),
        );
        r.register(
            "identity_last_refresh_timestamp_seconds",
            "When the last of them succeeded; 0: none since the start",
            m.last_refresh.clone(),
        );
        r.register(
            "certificate_orders",
            "Orders of listeners' certificates at ACME CAs, by result",
            m.orders.clone(),
        );
        Arc::new(Self { registry, ..m })
    }

    /// The metrics of a listener.
    #[must_use]
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        let listener = || name.to_owned();
        let by = ByListener {
            listener: listener(),
        };
        let reasons = |family: &Family<ByReason, Counter>| {
            let of = |reason| {
                family.get_or_create_owned(&ByReason {
                    listener: listener(),
                    reason,
                })
            };
            Denial::ALL
                .iter()
                .map(|denial| of(denial.code()))
                .collect::<Vec<_>>()
        };
        let direction = |direction| {
            self.bytes.get_or_create_owned(&ByDirection {
                listener: listener(),
                direction,
            })
        };
        let kind = |kind| {
            self.handshakes.get_or_create_owned(&ByKind {
                listener: listener(),
                kind,
            })
        };
        let class = |class| {
            self.requests.get_or_create_owned(&ByStatus {
                listener: listener(),
                class,
            })
        };
        Arc::new(ListenerMetrics {
            accepted: self.accepted.get_or_create_owned(&by),
            denied: reasons(&self.denied),
            admitted: self.admitted.get_or_create_owned(&by),
            ended: reasons(&self.ended),
            finished: self.ended.get_or_create_owned(&ByReason {
                listener: listener(),
                reason: "none",
            }),
            active: self.active.get_or_create_owned(&by),
            bytes_in: direction("in"),
            bytes_out: direction("out"),
            handshake: self.handshake.get_or_create_owned(&by),
            handshakes: KINDS.map(kind),
            requests: ["1xx", "2xx", "3xx", "4xx", "5xx"].map(class),
            request_duration: self.request_duration.get_or_create_owned(&by),
            refused: reasons(&self.refused),
            exposed: self.exposed.clone(),
            by,
        })
    }

    /// The metrics of a backend.
    #[must_use]
    pub fn backend(&self, name: &str) -> Arc<BackendMetrics> {
        let backend = || name.to_owned();
        let by = ByBackend { backend: backend() };
        let of = |denial: &Denial| {
            self.connect_failed.get_or_create_owned(&ByBackendReason {
                backend: backend(),
                reason: denial.code(),
            })
        };
        let kind = |kind| {
            self.link_handshakes.get_or_create_owned(&ByBackendKind {
                backend: backend(),
                kind,
            })
        };
        Arc::new(BackendMetrics {
            connect: self.connect.get_or_create_owned(&by),
            handshakes: KINDS.map(kind),
            failed: Denial::ALL.iter().map(of).collect(),
            requests: self.requests_to(name),
            healthy: self.healthy.clone(),
            name: backend(),
        })
    }

    /// The metrics of the requests to a backend: at an acceptor it is called as its listener.
    #[must_use]
    pub fn requests_to(&self, name: &str) -> Arc<RequestMetrics> {
        let by = ByBackend {
            backend: name.to_owned(),
        };
        Arc::new(RequestMetrics {
            active: self.backend_active.get_or_create_owned(&by),
            retries: self.retries.get_or_create_owned(&by),
            interim: self.interim.get_or_create_owned(&by),
        })
    }

    /// When one of a listener's secrets is used: `rule` asks for it, `secret` is where it is kept.
    #[must_use]
    pub fn secret(&self, listener: &str, rule: &str, secret: &str) -> LastUsed {
        let by = BySecret {
            listener: listener.to_owned(),
            rule: rule.to_owned(),
            secret: secret.to_owned(),
        };
        let used = self.secret_used.get_or_create_owned(&by);
        let mut known = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains(&by) {
            known.push(by);
        }
        LastUsed(used)
    }

    /// Forgets the secrets that are not asked for any more: listener, rule and place of one say
    /// whether it is.
    pub fn keep_secrets(&self, kept: impl Fn(&str, &str, &str) -> bool) {
        let mut known = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|by| {
            let stays = kept(&by.listener, &by.rule, &by.secret);
            if !stays {
                self.secret_used.remove(by);
            }
            stays
        });
    }

    /// A reload succeeded at this time, or failed.
    pub fn reloaded(&self, at: Option<i64>) {
        let result = if at.is_some() { "success" } else { "failure" };
        self.reloads.get_or_create(&ByResult { result }).inc();
        if let Some(at) = at {
            self.last_reload.set(at);
        }
    }

    /// A listener's certificate came from its CA, or did not.
    pub fn ordered(&self, certificate: &str, came: bool) {
        let by = ByOrder {
            certificate: certificate.to_owned(),
            result: if came { "success" } else { "failure" },
        };
        self.orders.get_or_create(&by).inc();
    }

    /// When one of our certificates ends.
    pub fn certificate(&self, name: &str, not_after: i64) {
        self.not_after
            .get_or_create(&ByCertificate {
                certificate: name.to_owned(),
            })
            .set(not_after);
    }

    /// When a CRL has to be replaced.
    pub fn crl(&self, issuer: &str, next_update: i64) {
        self.crl_next_update
            .get_or_create(&ByCertificate {
                certificate: issuer.to_owned(),
            })
            .set(next_update);
    }

    /// The metrics of a certificate whose status is asked for.
    #[must_use]
    pub fn ocsp(&self, certificate: &str, reasons: &[&'static str]) -> OcspMetrics {
        let next_update = self.ocsp_next_update.get_or_create_owned(&ByCertificate {
            certificate: certificate.to_owned(),
        });
        let of = |reason: &&'static str| {
            let by = ByCertificateReason {
                certificate: certificate.to_owned(),
                reason,
            };
            (*reason, self.ocsp_failures.get_or_create_owned(&by))
        };
        // absence of an answer is to be seen, and not absence of a sample
        next_update.set(0);
        OcspMetrics {
            next_update,
            failures: reasons.iter().map(of).collect(),
        }
    }

    /// Nobody asks for this certificate's status any more.
    pub fn ocsp_gone(&self, certificate: &str) {
        self.ocsp_next_update.remove(&ByCertificate {
            certificate: certificate.to_owned(),
        });
    }

    /// `pki serve` was asked for a renewal: "ok", or the reason of the refusal.
    pub fn pki_renewal(&self, result: &'static str) {
        self.pki_renewals.get_or_create(&ByResult { result }).inc();
    }

    /// Our own certificate was renewed at this time, or was not.
    pub fn renewed(&self, at: Option<i64>) {
        let result = if at.is_some() { "success" } else { "failure" };
        self.renewals.get_or_create(&ByResult { result }).inc();
        if let Some(at) = at {
            self.last_renewal.set(at);
        }
    }

    /// Trust and CRLs were looked at, or could not be.
    pub fn refreshed(&self, at: Option<i64>) {
        let result = if at.is_some() { "success" } else { "failure" };
        self.refreshes.get_or_create(&ByResult { result }).inc();
        if let Some(at) = at {
            self.last_refresh.set(at);
        }
    }

    /// Open files that the process may have.
    pub fn descriptors(&self, limit: u64) {
        self.descriptors
            .set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    /// Everything in the OpenMetrics text format.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // writing to a string does not fail
        if encode(&mut text, &self.registry).is_err() {
            text.clear();
        }
        text
    }
}

/// The metrics of a certificate whose status is asked for.
#[derive(Debug)]
pub struct OcspMetrics {
    next_update: Gauge,
    failures: Vec<(&'static str, Counter)>,
}

impl OcspMetrics {
    /// When the answer that is stapled ends.
    pub fn next_update(&self, at: i64) {
        self.next_update.set(at);
    }

    /// An attempt brought no answer.
    pub fn failed(&self, reason: &str) {
        let of = self.failures.iter().find(|(known, _)| *known == reason);
        of.map(|(_, counter)| counter.inc());
    }
}

/// The metrics of one listener.
#[derive(Debug)]
pub struct ListenerMetrics {
    accepted: Counter,
    denied: Vec<Counter>,
    admitted: Counter,
    ended: Vec<Counter>,
    finished: Counter,
    active: Gauge,
    bytes_in: Counter,
    bytes_out: Counter,
    handshake: Histogram,
    handshakes: [Counter; 2],
    requests: [Counter; 5],
    request_duration: Histogram,
    refused: Vec<Counter>,
    /// Set only where it was looked: absence says nothing.
    exposed: Family<ByListener, Gauge>,
    by: ByListener,
}

fn of(counters: &[Counter], reason: Denial) -> Option<&Counter> {
    let at = Denial::ALL.iter().position(|denial| *denial == reason)?;
    counters.get(at)
}

/// Kinds of handshakes.
const KINDS: [&str; 2] = ["full", "resumed"];

fn count([full, again]: &[Counter; 2], resumed: bool) {
    if resumed {
        again.inc()
    } else {
        full.inc()
    };
}

impl ListenerMetrics {
    /// A socket came from the kernel.
    pub fn accepted(&self) {
        self.accepted.inc();
    }

    /// A connection was refused.
    pub fn denied(&self, reason: Denial) {
        of(&self.denied, reason).map(Counter::inc);
    }

    /// A connection was let in.
    pub fn admitted(&self) {
        self.admitted.inc();
        self.active.inc();
    }

    /// A connection that was let in ended.
    pub fn closed(&self, cause: Option<Denial>, bytes_in: u64, bytes_out: u64) {
        self.active.dec();
        match cause {
            Some(reason) => of(&self.ended, reason).map(Counter::inc),
            None => Some(self.finished.inc()),
        };
        self.transferred(bytes_in, bytes_out);
    }

    /// One of many clients on a connection ended for a reason; the connection goes on.
    pub fn cut(&self, reason: Denial) {
        of(&self.ended, reason).map(Counter::inc);
    }

    /// Bytes passed from the peer and to it.
    pub fn transferred(&self, bytes_in: u64, bytes_out: u64) {
        self.bytes_in.inc_by(bytes_in);
        self.bytes_out.inc_by(bytes_out);
    }

    /// From accept to the decision, of a full handshake or of a session that went on.
    pub fn handshake(&self, seconds: f64, resumed: bool) {
        self.handshake.observe(seconds);
        count(&self.handshakes, resumed);
    }

    /// A request was answered.
    pub fn request(&self, status: u16, seconds: f64) {
        let class = usize::from(status / 100).saturating_sub(1);
        if let Some(counter) = self.requests.get(class) {
            counter.inc();
        }
        self.request_duration.observe(seconds);
    }

    /// A request was refused.
    pub fn refused(&self, reason: Denial) {
        of(&self.refused, reason).map(Counter::inc);
    }

    /// Whether the backend can be reached round us; `None`: can't be seen.
    pub fn exposed(&self, exposed: Option<bool>) {
        self.exposed
            .get_or_create(&self.by)
            .set(exposed.map_or(-1, i64::from));
    }

    /// Counts for status: accepted, admitted, active, denied.
    #[must_use]
    pub fn counts(&self) -> [u64; 4] {
        let denied = self
            .denied
            .iter()
            .map(Counter::get)
            .fold(0, u64::saturating_add);
        let active = u64::try_from(self.active.get()).unwrap_or(0);
        [self.accepted.get(), self.admitted.get(), active, denied]
    }

    /// Refusals by reason, without zeros.
    #[must_use]
    pub fn denials(&self) -> Vec<(&'static str, u64)> {
        let all = Denial::ALL.iter().zip(&self.denied);
        all.map(|(denial, n)| (denial.code(), n.get()))
            .filter(|(_, n)| *n > 0)
            .collect()
    }
}

/// When a secret was used last.
#[derive(Clone, Debug)]
pub struct LastUsed(Gauge);

impl LastUsed {
    /// It is used at this time.
    pub fn at(&self, now: i64) {
        // read first: it is written once a second, and shared by all workers
        if self.0.get() != now {
            self.0.set(now);
        }
    }

    /// When it was; 0: never.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.get()
    }
}

/// The metrics of one backend.
#[derive(Debug)]
pub struct BackendMetrics {
    connect: Histogram,
    handshakes: [Counter; 2],
    failed: Vec<Counter>,
    requests: Arc<RequestMetrics>,
    healthy: Family<ByAcceptor, Gauge>,
    name: String,
}

impl BackendMetrics {
    /// What active checks say of an acceptor.
    pub fn healthy(&self, acceptor: &str, healthy: bool) {
        let by = ByAcceptor {
            backend: self.name.clone(),
            acceptor: acceptor.to_owned(),
        };
        self.healthy.get_or_create(&by).set(i64::from(healthy));
    }

    /// A link connection was admitted.
    pub fn connect_ok(&self, seconds: f64) {
        self.connect.observe(seconds);
    }

    /// Its handshake was a full one, or a session went on.
    pub fn handshake(&self, resumed: bool) {
        count(&self.handshakes, resumed);
    }

    /// A link connection failed.
    pub fn connect_failed(&self, reason: Denial) {
        of(&self.failed, reason).map(Counter::inc);
    }

    /// Those of its requests.
    #[must_use]
    pub fn requests(&self) -> &Arc<RequestMetrics> {
        &self.requests
    }
}

/// The metrics of the requests to one backend.
#[derive(Debug)]
pub struct RequestMetrics {
    active: Gauge,
    retries: Counter,
    interim: Counter,
}

impl RequestMetrics {
    /// A request is under way until this is dropped.
    #[must_use]
    pub fn under_way(&self) -> UnderWay<'_> {
        self.active.inc();
        UnderWay(&self.active)
    }

    /// An interim answer came.
    pub fn interim(&self) {
        self.interim.inc();
    }

    /// A request was sent again.
    pub fn retried(&self) {
        self.retries.inc();
    }
}

/// One more in a gauge, for as long as it lives.
#[derive(Debug)]
pub struct UnderWay<'a>(&'a Gauge);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
