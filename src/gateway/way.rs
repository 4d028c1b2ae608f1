//! A link that many share, and whether it still may carry the next.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use super::backend::AcceptorState;
use crate::{
    admit::Denied,
    identity::UnixSeconds,
    net::Octets,
    serve::{Snapshot, mux},
    wire::{
        link::Open,
        mux::{Payload as _, Welcome},
    },
    workers::Home,
};

/// What is in force at the listener that a link is for.
pub(super) type Rules = watch::Receiver<Arc<Snapshot>>;

/// What a client has said already, as far as it may be sent before its admission.
#[derive(Default)]
pub(super) struct Ahead {
    octets: Option<Octets>,
    /// A backend may have them: no other may get them.
    pub(super) spent: bool,
}

impl Ahead {
    pub(super) fn of(octets: Option<Octets>) -> Self {
        Self {
            octets,
            spent: false,
        }
    }
}

/// A link as its streams know it.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) link: mux::Link,
    pub(super) chain: Arc<[CertificateDer<'static>]>,
    pub(super) until: Option<UnixSeconds>,
    /// What its acceptor can do.
    welcome: Welcome,
    /// The thread that drives it. What is written by several streams of its own thread in one turn
    /// goes out at once.
    pub(super) home: Home,
    /// The rules that admit its acceptor, as far as they were asked.
    judged: Arc<Mutex<Vec<Weak<Snapshot>>>>,
}

impl Way {
    /// A link that this thread drives.
    pub(super) fn new(
        link: mux::Link,
        chain: Arc<[CertificateDer<'static>]>,
        until: Option<UnixSeconds>,
        welcome: Welcome,
    ) -> Self {
        Self {
            link,
            chain,
            until,
            welcome,
            home: Home::here(),
            judged: Arc::default(),
        }
    }

    /// Begins a client's stream, and sends what may go ahead of its admission where the acceptor takes
    /// it; how much that is. `None`: the link takes no more.
    pub(super) fn open(&self, open: &Open, ahead: &Ahead) -> Option<(mux::Stream, usize)> {
        let octets = ahead.octets.as_ref();
        let ahead = octets.filter(|_| self.welcome.ahead).map(Octets::bytes);
        let stream = self.link.open(open, ahead.map(Octets::of))?;
        Some((stream, ahead.map_or(0, <[u8]>::len)))
    }

    /// Judges the acceptor at its other end by what is in force now. A link of before may show a
    /// certificate whose root has gone since.
    ///
    /// # Errors
    /// Why it would be refused today.
    pub(super) fn judged(
        &self,
        backend: &str,
        acceptor: &AcceptorState,
        now: &Arc<Snapshot>,
    ) -> Result<(), Denied> {
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        let by = Arc::downgrade(now);
        if judged.iter().any(|known| known.ptr_eq(&by)) {
            return Ok(());
        }
        now.role.judge_link(backend, &acceptor.name, &self.chain)?;
        judged.retain(|known| known.strong_count() > 0);
        judged.push(by);
        Ok(())
    }
}
