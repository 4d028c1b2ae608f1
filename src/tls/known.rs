//! Chains that were proven before: what makes judging a resumed session, or the same peer's next
//! handshake, cheap. Everything that proves belongs to one [`Verification`](super::Verification)
//! and never changes; only time does. So a proof is good from the moment it was made until the
//! first date of its chain, or of a CRL, is reached, and for these very bytes.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use rustls::pki_types::CertificateDer;

use super::Usage;
use crate::{
    admit::PeerFacts,
    identity::{Sha256, UnixSeconds},
};

/// Proofs that are kept. Strangers can't fill it: only what leads to a root of ours gets in.
const KEPT: usize = 1024;

/// Which chain was proven for which use.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(Usage, Sha256);

impl Key {
    /// Of the certificates that a peer sent, in their order.
    pub(super) fn new(
        usage: Usage,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Self {
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for der in std::iter::once(end_entity).chain(intermediates) {
            // with its length, so that no two different chains read alike
            digest.update(&(der.len() as u64).to_be_bytes());
            digest.update(der);
        }
        let mut hash = [0; 32];
        hash.iter_mut()
            .zip(digest.finish().as_ref())
            .for_each(|(to, from)| *to = *from);
        Self(usage, Sha256(hash))
    }
}

struct Proof {
    peer: Arc<PeerFacts>,
    since: UnixSeconds,
    until: UnixSeconds,
}

/// The proofs of one verification.
#[derive(Default)]
pub(super) struct Known(RwLock<HashMap<Key, Proof>>);

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Known")
    }
}

impl Known {
    /// What was proven of this chain, if it still holds.
    pub(super) fn get(&self, key: &Key, now: UnixSeconds) -> Option<Arc<PeerFacts>> {
        let known = self.0.read().ok()?;
        let proof = known.get(key)?;
        // a clock that was set back proves nothing
        (proof.since <= now && now <= proof.until).then(|| Arc::clone(&proof.peer))
    }

    /// Keeps a proof that was made now and holds until `until`, that second included.
    pub(super) fn keep(
        &self,
        key: Key,
        peer: &Arc<PeerFacts>,
        now: UnixSeconds,
        until: UnixSeconds,
    ) {
        let Ok(mut known) = self.0.write() else {
            return;
        };
        if known.len() >= KEPT && !known.contains_key(&key) {
            known.clear();
        }
        let proof = Proof {
            peer: Arc::clone(peer),
            since: now,
            until,
        };
        let _before = known.insert(key, proof);
    }
}
