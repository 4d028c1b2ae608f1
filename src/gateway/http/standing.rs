//! Whether what is in force now admits the acceptor at a link's other end: asked before anything goes
//! out on it. Who watches over the link learns of a change a little later, in a task of its own.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustls_pki_types::CertificateDer;

use super::links::Links;
use crate::{
    admit::Denied,
    gateway::way::Rules,
    serve::{LinkSupervision, Snapshot, speaking},
};

/// One link, before its listener's rules.
pub(super) struct Standing {
    backend: Arc<str>,
    acceptor: String,
    chain: Arc<[CertificateDer<'static>]>,
    rules: Rules,
    /// They know who speaks for it, where its own listener has gone.
    links: Weak<Links>,
    /// Those that admitted it last, where they are not those of its beginning.
    admitted: Mutex<Weak<Snapshot>>,
}

impl Standing {
    /// A link begins.
    ///
    /// # Errors
    /// What is in force does not admit its acceptor: it was dialled by rules of before.
    pub(super) fn begin(link: &LinkSupervision, links: &Arc<Links>) -> Result<Self, Denied> {
        let mut standing = Self {
            backend: Arc::clone(&link.backend),
            acceptor: link.acceptor.clone(),
            chain: Arc::clone(&link.chain),
            rules: link.rules.clone(),
            links: Arc::downgrade(links),
            admitted: Mutex::default(),
        };
        // before it is judged: what is said from now on is news
        standing.rules.mark_unchanged();
        let now = standing.in_force()?;
        standing.judge(&now)?;
        Ok(standing)
    }

    /// Whether it still may be used. Nearly nothing where no rules came since it began.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn judged(&self) -> Result<(), Denied> {
        if let Ok(false) = self.rules.has_changed() {
            return Ok(());
        }
        let now = self.in_force()?;
        let by = Arc::downgrade(&now);
        if self.admitted().ptr_eq(&by) {
            return Ok(());
        }
        self.judge(&now)?;
        *self.admitted() = by;
        Ok(())
    }

    /// What is in force at its listener; where that has gone, at another that its pool serves.
    fn in_force(&self) -> Result<Arc<Snapshot>, Denied> {
        if self.rules.has_changed().is_ok() {
            return Ok(self.rules.borrow().clone());
        }
        match self.links.upgrade() {
            Some(links) => links.in_force(),
            None => speaking(&[]).map(|none| none.borrow().clone()),
        }
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
