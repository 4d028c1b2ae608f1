//! Whether what is in force now admits the acceptor at a link's other end: asked before anything goes
//! out on it. Who watches over the link learns of a change a little later, in a task of its own.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustls_pki_types::CertificateDer;

use crate::{
    admit::Denied,
    gateway::way::Rules,
    serve::{LinkSupervision, Snapshot},
};

/// One link, before its listener's rules.
pub(super) struct Standing {
    backend: Arc<str>,
    acceptor: String,
    chain: Arc<[CertificateDer<'static>]>,
    rules: Rules,
    /// Those that admitted it last, where they are not those of its beginning.
    admitted: Mutex<Weak<Snapshot>>,
}

impl Standing {
    /// A link begins.
    ///
    /// # Errors
    /// What is in force does not admit its acceptor: it was dialled by rules of before.
    pub(super) fn begin(link: &LinkSupervision) -> Result<Self, Denied> {
        let mut standing = Self {
            backend: Arc::clone(&link.backend),
            acceptor: link.acceptor.clone(),
            chain: Arc::clone(&link.chain),
            rules: link.rules.clone(),
            admitted: Mutex::default(),
        };
        let now = standing.rules.borrow_and_update().clone();
        standing.judge(&now)?;
        Ok(standing)
    }

    /// Whether it still may be used. Nearly nothing where no rules came since it began.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn judged(&self) -> Result<(), Denied> {
        // where the listener has gone, the pool may serve another: who watches knows
        if !matches!(self.rules.has_changed(), Ok(true)) {
            return Ok(());
        }
        let now = self.rules.borrow().clone();
        let by = Arc::downgrade(&now);
        if self.admitted().ptr_eq(&by) {
            return Ok(());
        }
        self.judge(&now)?;
        *self.admitted() = by;
        Ok(())
    }

    fn admitted(&self) -> std::sync::MutexGuard<'_, Weak<Snapshot>> {
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(&self, now: &Snapshot) -> Result<(), Denied> {
        let judged = now
            .role
            .judge_link(&self.backend, &self.acceptor, &self.chain);
        judged.map_err(|why| Denied {
            detail: format!("acceptor {}: {}", self.acceptor, why.detail),
            ..why
        })
    }
}
