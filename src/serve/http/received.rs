//! How far a request's body has come on its way to the next hop, and who keeps whom waiting.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// How far a request's body has come.
#[derive(Default)]
pub(crate) struct Received {
    /// The last frame has been handed on.
    pub(super) done: AtomicBool,
    /// Octets that were handed on.
    pub(super) bytes: AtomicU64,
    /// More was asked for, and the client has not sent it.
    pub(super) wanted: AtomicBool,
}

impl Received {
    /// Whether the last frame has been handed on.
    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Octets that the next hop has asked for; `None`: it is the client who lets it wait.
    fn handed(&self) -> Option<u64> {
        let wanted = self.wanted.load(Ordering::Relaxed);
        (!wanted).then(|| self.bytes.load(Ordering::Relaxed))
    }
}

/// How long a next hop has taken nothing of a request's body, though there is more of it. Only of
/// one that speaks HTTP/2: the stalls of others are those of their sockets.
pub(super) struct Untaken {
    /// `None`: it speaks HTTP/1.1.
    since: Option<Instant>,
    handed: u64,
}

impl Untaken {
    pub(super) fn new(http2: bool) -> Self {
        Self {
            since: http2.then(Instant::now),
            handed: 0,
        }
    }

    pub(super) fn for_longer_than(&mut self, limit: Duration, received: &Received) -> bool {
        let Some(since) = &mut self.since else {
            return false;
        };
        if received.is_done() {
            return false;
        }
        if received.handed() == Some(self.handed) {
            return since.elapsed() >= limit;
        }
        self.handed = received.handed().unwrap_or(self.handed);
        *since = Instant::now();
        false
    }
}
