//! The certificates of live connections. Peers show the same ones again and again: a chain that a
//! live connection keeps already is not kept twice.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState},
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
};

use rustls::pki_types::CertificateDer;

/// Certificates, leaf first.
pub type Chain = Arc<[CertificateDer<'static>]>;

static LIVE: LazyLock<Chains> = LazyLock::new(Chains::default);

/// A chain, shared with whoever keeps the same one.
pub(super) fn shared(certificates: &[CertificateDer<'_>]) -> Chain {
    LIVE.shared(certificates)
}

#[derive(Default)]
struct Chains {
    /// The process's own: nobody outside can choose chains whose hashes are alike.
    keyed: RandomState,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_hash: HashMap<u64, Weak<[CertificateDer<'static>]>>,
    /// So many are left after the ended ones were last dropped.
    lived: usize,
}

impl Chains {
    fn hash(&self, certificates: &[CertificateDer<'_>]) -> u64 {
        let mut hasher = self.keyed.build_hasher();
        for der in certificates {
            // with its length, so that no two different chains read alike
            der.as_ref().hash(&mut hasher);
        }
        hasher.finish()
    }

    fn shared(&self, certificates: &[CertificateDer<'_>]) -> Chain {
        if certificates.is_empty() {
            return Arc::default();
        }
        let hash = self.hash(certificates);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let same = kept.by_hash.get(&hash).and_then(Weak::upgrade);
        // a hash is not the chain
        if let Some(same) = same.filter(|same| **same == *certificates) {
            return same;
        }
        let own = certificates.iter().map(|der| der.clone().into_owned());
        let chain: Chain = own.collect();
        // each is looked at once for every time that one was added
        if kept.by_hash.len() > kept.lived.saturating_mul(2) {
            kept.by_hash.retain(|_, chain| chain.strong_count() > 0);
            kept.lived = kept.by_hash.len();
        }
        kept.by_hash.insert(hash, Arc::downgrade(&chain));
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(octets: &[&[u8]]) -> Vec<CertificateDer<'static>> {
        octets.iter().map(|der| der.to_vec().into()).collect()
    }

    #[test]
    fn equal_chains_are_one_and_ended_ones_are_forgotten() {
        let chains = Chains::default();
        let first = chains.shared(&chain(&[b"leaf", b"issuer"]));
        assert!(Arc::ptr_eq(
            &first,
            &chains.shared(&chain(&[b"leaf", b"issuer"]))
        ));
        for other in [&[&b"leaf"[..]][..], &[b"leafi", b"ssuer"]] {
            let other = chain(other);
            assert_eq!(*chains.shared(&other), *other);
        }
        for n in 0..1000u32 {
            drop(chains.shared(&chain(&[&n.to_be_bytes()])));
        }
        assert!(chains.kept.lock().unwrap().by_hash.len() < 10);
        assert!(Arc::ptr_eq(
            &first,
            &chains.shared(&chain(&[b"leaf", b"issuer"]))
        ));
        assert!(chains.shared(&[]).is_empty());
    }

    #[test]
    fn two_chains_of_one_hash_are_not_taken_for_each_other() {
        let chains = Chains::default();
        let (one, other) = (chain(&[b"one"]), chain(&[b"other"]));
        let kept = chains.shared(&one);
        let hash = chains.hash(&other);
        let taken = Arc::downgrade(&kept);
        chains.kept.lock().unwrap().by_hash.insert(hash, taken);
        assert_eq!(*chains.shared(&other), *other);
    }
}
