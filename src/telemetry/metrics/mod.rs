//! Every metric: name, unit, help. Labels are closed sets or names from the configuration, never
//! what a peer chose; label sets are resolved when the configuration loads.

mod labels;
mod recorders;
mod registry;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicI64},
};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::admit::Denial;

use labels::{
    ByAcceptor, ByBackend, ByBackendKind, ByBackendReason, ByCertificate, ByCertificateReason,
    ByDirection, ByKind, ByListener, ByOrder, ByReason, ByResult, BySecret, ByStatus,
};
use recorders::KINDS;
pub use recorders::{
    BackendMetrics, LastUsed, ListenerMetrics, OcspMetrics, RequestMetrics, UnderWay,
};

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

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
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
