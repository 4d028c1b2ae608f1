//! One line for each connection or request: who, from where, to what, how long, how much, and
//! what was decided and why.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::admit::{Denial, Level};

/// Refusals of one reason at one listener that are written in a second before they are sampled.
const WHOLE: u32 = 100;
/// After those, each so-many-th is written.
const SAMPLE: u32 = 100;

macro_rules! emit_at {
    ($level:ident, $record:expr, $suppressed:expr) => {{
        let r = $record;
        tracing::event!(
            target: "portcullis::access",
            tracing::Level::$level,
            listener = text(&r.listener),
            connection = text(&r.connection),
            source = r.source.map(|a| a.to_string()),
            local = r.local.map(|a| a.to_string()),
            client = r.client.map(|a| a.to_string()),
            client_identity = text(&r.client_identity),
            identity = text(&r.identity),
            rule = text(&r.rule),
            sni = text(&r.sni),
            tls = text(&r.tls),
            resumed = Some(true).filter(|_| r.resumed),
            host = text(&r.host),
            method = text(&r.method),
            path = text(&r.path),
            request_id = text(&r.request_id),
            route = text(&r.route),
            backend = text(&r.backend),
            acceptor = text(&r.acceptor),
            status = Some(r.status).filter(|s| *s != 0),
            bytes_in = r.bytes_in,
            bytes_out = r.bytes_out,
            handshake_ms = millis(r.handshake),
            connect_ms = millis(r.connect),
            total_ms = millis(Some(r.total)),
            decision = r.decision,
            reason = r.reason.map(Denial::code),
            detail = text(&r.detail),
            next = r.next(),
            suppressed = Some($suppressed).filter(|n| *n != 0),
            "access"
        );
    }};
}

/// What is known when a connection or request ends. Empty fields are left out.
#[derive(Clone, Debug, Default)]
#[expect(
    missing_docs,
    reason = "the names of the log's fields, described in the reference"
)]
pub struct Access {
    pub listener: String,
    pub connection: String,
    pub source: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    /// What the gateway says of its client; at the acceptor.
    pub client: Option<SocketAddr>,
    pub client_identity: String,
    pub identity: String,
    pub rule: String,
    pub sni: String,
    pub tls: String,
    pub resumed: bool,
    pub host: String,
    pub method: String,
    pub path: String,
    pub request_id: String,
    pub route: String,
    pub backend: String,
    pub acceptor: String,
    pub status: u16,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub handshake: Option<Duration>,
    pub connect: Option<Duration>,
    pub total: Duration,
    /// "admitted", "refused" or "ended".
    pub decision: &'static str,
    pub reason: Option<Denial>,
    pub detail: String,
}

impl Access {
    /// What to do about a refusal, where something is to be done.
    fn next(&self) -> Option<&'static str> {
        let hint = self.reason.filter(|_| self.decision == "refused")?.hint();
        Some(hint).filter(|hint| !hint.starts_with("nothing"))
    }

    /// Writes the line, unless it is one of a flood of equal refusals.
    pub fn emit(&self) {
        let mut suppressed = 0;
        if self.decision == "refused"
            && let Some(reason) = self.reason
        {
            match SAMPLER.admit(&self.listener, reason, Instant::now()) {
                Some(n) => suppressed = n,
                None => return,
            }
        }
        match self.reason.map_or(Level::Info, Denial::level) {
            Level::Info => emit_at!(INFO, self, suppressed),
            Level::Warn => emit_at!(WARN, self, suppressed),
            Level::Error => emit_at!(ERROR, self, suppressed),
        }
    }
}

/// `None` for what is empty, so that the field is left out; control characters from peers are
/// escaped, so that nobody writes lines of their own.
fn text(value: &str) -> Option<String> {
    if value.is_empty() {
        return None;
    }
    let clean = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    Some(if value.chars().any(char::is_control) {
        value.chars().map(clean).collect()
    } else {
        value.to_owned()
    })
}

fn millis(duration: Option<Duration>) -> Option<f64> {
    duration.map(|d| (d.as_secs_f64() * 1e6).round() / 1e3)
}

/// Caddy's rule: in each second the first hundred, then each hundredth. Counters are never
/// sampled. Its keys are listeners of the configuration and reasons: the map is bounded.
#[derive(Default)]
struct Sampler(Mutex<HashMap<(String, Denial), Window>>);

struct Window {
    began: Instant,
    seen: u32,
    suppressed: u32,
}

static SAMPLER: LazyLock<Sampler> = LazyLock::new(Sampler::default);

impl Sampler {
    /// `None`: keep quiet. Else how many lines were suppressed since the last one.
    fn admit(&self, listener: &str, reason: Denial, now: Instant) -> Option<u32> {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let window = windows
            .entry((listener.to_owned(), reason))
            .or_insert(Window {
                began: now,
                seen: 0,
                suppressed: 0,
            });
        if now.duration_since(window.began) >= Duration::from_secs(1) {
            (window.began, window.seen) = (now, 0);
        }
        window.seen = window.seen.saturating_add(1);
        if window.seen <= WHOLE || window.seen.is_multiple_of(SAMPLE) {
            return Some(std::mem::take(&mut window.suppressed));
        }
        window.suppressed = window.suppressed.saturating_add(1);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_sampled_and_the_next_line_says_how_many_were_left_out() {
        let sampler = Sampler::default();
        let start = Instant::now();
        let said = (0..1000)
            .filter(|_| sampler.admit("l", Denial::SourceUntrusted, start).is_some())
            .count();
        assert_eq!(said, 109);
        assert_eq!(sampler.admit("l", Denial::NotTls, start), Some(0));
        let later = start + Duration::from_secs(2);
        assert_eq!(sampler.admit("l", Denial::SourceUntrusted, later), Some(0));
        for _ in 0..150 {
            let _line = sampler.admit("l", Denial::SourceUntrusted, later);
        }
        assert_eq!(
            sampler.admit("l", Denial::SourceUntrusted, later + Duration::from_secs(2)),
            Some(51)
        );
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(text("a\u{1b}[31m\n"), Some("a\\u{1b}[31m\\n".to_owned()));
        assert_eq!(text(""), None);
    }
}
