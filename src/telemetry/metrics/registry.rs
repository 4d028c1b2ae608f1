//! The table of all metrics: names, units and help.

use std::sync::{Arc, Mutex};

use prometheus_client::{
    metrics::{
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use super::Metrics;

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_5, 2.0, 16))
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
}
