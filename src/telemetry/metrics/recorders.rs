//! What one listener, backend or certificate counts: its labels are looked up once.

use std::sync::Arc;

use prometheus_client::metrics::{
    counter::Counter, family::Family, gauge::Gauge, histogram::Histogram,
};

use super::labels::{ByAcceptor, ByListener};
use crate::admit::Denial;

/// The metrics of a certificate whose status is asked for.
#[derive(Debug)]
pub struct OcspMetrics {
    pub(super) next_update: Gauge,
    pub(super) failures: Vec<(&'static str, Counter)>,
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
    pub(super) accepted: Counter,
    pub(super) denied: Vec<Counter>,
    pub(super) admitted: Counter,
    pub(super) ended: Vec<Counter>,
    pub(super) finished: Counter,
    pub(super) active: Gauge,
    pub(super) bytes_in: Counter,
    pub(super) bytes_out: Counter,
    pub(super) handshake: Histogram,
    pub(super) handshakes: [Counter; 2],
    pub(super) requests: [Counter; 5],
    pub(super) request_duration: Histogram,
    pub(super) refused: Vec<Counter>,
    /// Set only where it was looked: absence says nothing.
    pub(super) exposed: Family<ByListener, Gauge>,
    pub(super) by: ByListener,
}

fn of(counters: &[Counter], reason: Denial) -> Option<&Counter> {
    let at = Denial::ALL.iter().position(|denial| *denial == reason)?;
    counters.get(at)
}

/// Kinds of handshakes.
pub(super) const KINDS: [&str; 2] = ["full", "resumed"];

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
pub struct LastUsed(pub(super) Gauge);

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
    pub(super) connect: Histogram,
    pub(super) handshakes: [Counter; 2],
    pub(super) failed: Vec<Counter>,
    pub(super) requests: Arc<RequestMetrics>,
    pub(super) healthy: Family<ByAcceptor, Gauge>,
    pub(super) name: String,
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
    pub(super) active: Gauge,
    pub(super) retries: Counter,
    pub(super) interim: Counter,
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
