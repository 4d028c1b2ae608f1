//! A link that many share, and whether it still may carry the next.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use super::backend::AcceptorState;
use crate::{
    admit::Denied,
    identity::UnixSeconds,
    serve::{Snapshot, mux},
    workers::Home,
};

/// What is in force at the listener that a link is for.
pub(super) type Rules = watch::Receiver<Arc<Snapshot>>;

/// A link as its streams know it.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) link: mux::Link,
    pub(super) chain: Arc<[CertificateDer<'static>]>,
    pub(super) until: Option<UnixSeconds>,
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
    ) -> Self {
        Self {
            link,
            chain,
            until,
            home: Home::here(),
            judged: Arc::default(),
        }
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
