//! Who a peer is: path validation (RFC 5280 section 6) by webpki, or an exact pin. This is the only
//! place that makes [`PeerFacts`] for a live connection.

use std::{cell::RefCell, cmp::Reverse, collections::HashMap, sync::Arc, time::Duration};

use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, TrustAnchor, UnixTime},
};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, spki_for_anchor};

use super::{
    error::when,
    key_use::{check_issuer_key, check_leaf_key},
    known::{Key, Known},
    refusal::wrong_usage,
    revocation::{CrlSet, Link, Stage},
};
use crate::{
    admit::{Denial, Denied, PeerFacts, Proof},
    identity::{CertFacts, PeerNames, UnixSeconds},
};

/// Certificates that a peer may send besides its leaf: the engine's depth is 6.
const MAX_INTERMEDIATES: usize = 10;

/// What the peer's certificate must be made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Usage {
    /// It opened the connection.
    ClientAuth,
    /// It accepted the connection.
    ServerAuth,
}

/// A trusted root.
#[derive(Clone, Debug)]
pub struct Root {
    /// Its certificate.
    pub facts: CertFacts,
    /// The names that it may speak for; `None`: all.
    pub bundle: Option<PeerNames>,
    /// Its DER, for the hash of a generation.
    pub(super) der: CertificateDer<'static>,
}

/// Whom we believe: roots, pins, CRLs. Parsed once, shared by all connections of a generation.
#[derive(Debug)]
pub struct Verification {
    provider: Arc<CryptoProvider>,
    roots: Vec<Root>,
    /// In the order of `roots`.
    anchors: Vec<TrustAnchor<'static>>,
    pins: HashMap<CertificateDer<'static>, CertFacts>,
    crls: Option<CrlSet>,
    missing_usage_passes: bool,
    /// A leaf of either end of the link passes, judged by the usage that it has.
    either_usage: bool,
    known: Known,
}

impl Verification {
    /// Puts together what was loaded and checked. A root that is in several bundles speaks for the
    /// names of all of them; one that is also trusted speaks for all names. One that was renewed
    /// under its name and key is there with each of its certificates: dates and name constraints
    /// belong to the certificate.
    pub(super) fn new(
        provider: Arc<CryptoProvider>,
        found: Vec<(Root, TrustAnchor<'static>)>,
        pins: Vec<(CertificateDer<'static>, CertFacts)>,
        crls: Option<CrlSet>,
    ) -> Self {
        let mut found = found;
        // the engine takes the first anchor that fits: plain trust first, then what lasts longest
        found.sort_by_key(|(root, _)| (root.bundle.is_some(), Reverse(root.facts.not_after)));
        let mut roots: Vec<Root> = Vec::new();
        let mut anchors: Vec<TrustAnchor<'static>> = Vec::new();
        for (mut root, anchor) in found {
            let mut there = false;
            for (known, _) in roots
                .iter_mut()
                .zip(&anchors)
                .filter(|(_, known)| same_key(known, &anchor))
            {
                there |= known.der == root.der;
                if let (Some(names), Some(own)) = (&mut known.bundle, &mut root.bundle) {
                    names.0.extend(own.0.iter().cloned());
                    *own = names.clone();
                }
            }
            if !there {
                roots.push(root);
                anchors.push(anchor);
            }
        }
        Self {
            provider,
            roots,
            anchors,
            pins: pins.into_iter().collect(),
            crls,
            missing_usage_passes: false,
            either_usage: false,
            known: Known::default(),
        }
    }

    /// For a backend that is no part of the link: extended key usage may be absent.
    pub(super) fn with_missing_usage_allowed(mut self) -> Self {
        self.missing_usage_passes = true;
        self
    }

    /// For the authority, to which servers come as clients: a certificate for either use passes.
    pub(super) fn with_either_usage(mut self) -> Self {
        self.either_usage = true;
        self
    }

    /// The roots, plain trust first.
    #[must_use]
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// The pinned certificates.
    pub fn pins(&self) -> impl Iterator<Item = &CertFacts> {
        self.pins.values()
    }

    /// The CRLs; `None`: revocation is not checked by CRL.
    #[must_use]
    pub fn crls(&self) -> Option<&CrlSet> {
        self.crls.as_ref()
    }

    /// Roots in whose name there are CRLs, none of which they signed: everybody below them would be
    /// refused.
    pub(super) fn roots_without_own_crl(&self) -> impl Iterator<Item = &Root> {
        self.roots
            .iter()
            .zip(&self.anchors)
            .filter(|(_, anchor)| {
                // roots of one name share the lists in that name
                let mut namesakes = self.anchors.iter().filter(|a| a.subject == anchor.subject);
                let answers: Vec<_> = namesakes
                    .by_ref()
                    .filter_map(|a| {
                        let key = spki_for_anchor(a);
                        self.crls
                            .as_ref()?
                            .signed_by_root(a.subject.as_ref(), &key, &self.provider)
                    })
                    .collect();
                !answers.is_empty() && !answers.contains(&true)
            })
            .map(|(root, _)| root)
    }

    /// The provider whose signature algorithms are accepted.
    pub(super) fn provider(&self) -> &Arc<CryptoProvider> {
        &self.provider
    }

    /// Subjects of the roots with their outer tag, for the hint in a certificate request.
    pub(super) fn root_names(&self) -> impl Iterator<Item = &[u8]> {
        self.anchors.iter().map(|anchor| anchor.subject.as_ref())
    }

    /// DER of everything that decides, for the hash of a generation.
    pub(super) fn content(&self) -> Vec<Vec<u8>> {
        let roots = self.roots.iter().map(|root| {
            let mut content = format!("{:?}", root.bundle).into_bytes();
            content.extend_from_slice(&root.der);
            content
        });
        let mut pins: Vec<Vec<u8>> = self.pins.keys().map(|pin| pin.as_ref().to_vec()).collect();
        pins.sort();
        let crls = self
            .crls
            .iter()
            .flat_map(|set| set.content().map(<[u8]>::to_vec));
        roots.chain(pins).chain(crls).collect()
    }

    /// Proves who the peer is: one of the pins, or a path to a root. Possession of the key is
    /// proven by the handshake around it.
    ///
    /// # Errors
    /// The rule that the certificate or its path breaks; the detail names the certificate.
    pub fn prove(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixSeconds,
    ) -> Result<Arc<PeerFacts>, Denied> {
        self.prove_at(end_entity, intermediates, usage, Stage::Entering, now)
    }

    /// Proves a connected peer again, from the chain that it showed in its handshake
    /// ([`Accepted::chain`](super::Accepted::chain)), against what is believed now. A CRL
    /// that went stale refuses new handshakes and cuts nobody.
    ///
    /// # Errors
    /// As [`Verification::prove`].
    pub fn prove_again(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixSeconds,
    ) -> Result<Arc<PeerFacts>, Denied> {
        let [end_entity, intermediates @ ..] = chain else {
            return Err(Denied::new(Denial::CertificateMissing, ""));
        };
        self.prove_at(end_entity, intermediates, usage, Stage::Live, now)
    }

    fn prove_at(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        stage: Stage,
        now: UnixSeconds,
    ) -> Result<Arc<PeerFacts>, Denied> {
        if let Some(facts) = self.pins.get(end_entity) {
            check_dates(facts, now)?;
            return Ok(Arc::new(PeerFacts {
                leaf: facts.clone(),
                proof: Proof::Pinned,
                above: Vec::new(),
                chain_not_after: facts.not_after,
            }));
        }
        let key = Key::new(usage, end_entity, intermediates);
        if let Some(peer) = self.known.get(&key, now) {
            return Ok(peer);
        }
        let peer = Arc::new(self.prove_path(end_entity, intermediates, usage, stage, now)?);
        // who was proven without looking whether the lists are fresh has to be asked again
        if stage == Stage::Entering {
            let until = self.fresh_until(now).map_or(peer.chain_not_after, |end| {
                // a list is stale in the second of its next update
                peer.chain_not_after.min(UnixSeconds(end.0 - 1))
            });
            self.known.keep(key, &peer, now, until);
        }
        Ok(peer)
    }

    /// When the next of the CRLs that are fresh now goes stale, where that refuses anybody.
    pub(super) fn fresh_until(&self, now: UnixSeconds) -> Option<UnixSeconds> {
        let crls = self.crls.as_ref().filter(|set| !set.tolerates_expired())?;
        let ends = crls.lists().iter().map(|crl| crl.next_update);
        ends.filter(|end| *end > now).min()
    }

    fn prove_path(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        stage: Stage,
        now: UnixSeconds,
    ) -> Result<PeerFacts, Denied> {
        let leaf = CertFacts::read(end_entity)
            .map_err(|e| Denied::new(Denial::CertificateMalformed, e.to_string()))?;
        let usage = match usage {
            Usage::ClientAuth if self.either_usage && leaf.usage.server_auth => Usage::ServerAuth,
            Usage::ClientAuth | Usage::ServerAuth => usage,
        };
        if intermediates.len() > MAX_INTERMEDIATES {
            return Err(Denied::new(
                Denial::CertificateInvalid,
                format!(
                    "certificate {} came with {} others; at most {MAX_INTERMEDIATES} are looked at",
                    leaf.describe(),
                    intermediates.len()
                ),
            ));
        }
        let parsed = EndEntityCert::try_from(end_entity)
            .map_err(|e| self.denied(&e, &leaf, intermediates, usage, now))?;
        // why a path that was otherwise good was turned down; the first reason is the best path's
        let turned_down = RefCell::new(None);
        let judge = |path: &VerifiedPath<'_>| {
            self.judge_path(path, &leaf, stage, now).map_err(|denied| {
                let error = engine_error(denied.reason);
                let _first = turned_down.borrow_mut().get_or_insert(denied);
                error
            })
        };
        let path = parsed
            .verify_for_usage(
                self.provider.signature_verification_algorithms.all,
                &self.anchors,
                intermediates,
                UnixTime::since_unix_epoch(Duration::from_secs(
                    u64::try_from(now.0).unwrap_or_default(),
                )),
                match usage {
                    // asked of every certificate of the path that restricts its usage at all
                    Usage::ClientAuth => KeyUsage::client_auth(),
                    Usage::ServerAuth => KeyUsage::server_auth(),
                },
                None,
                Some(&judge),
            )
            .map_err(|error| {
                turned_down
                    .take()
                    .unwrap_or_else(|| self.denied(&error, &leaf, intermediates, usage, now))
            })?;
        self.check_usage(&leaf, usage)?;
        check_leaf_key(&leaf)?;
        let root = self.root_of(path.anchor())?;
        let mut above = Vec::new();
        let mut chain_not_after = leaf.not_after.min(root.facts.not_after);
        for issuer in path.intermediate_certificates() {
            let issuer = CertFacts::read(&issuer.der())
                .map_err(|e| Denied::new(Denial::CertificateMalformed, e.to_string()))?;
            above.push(issuer.fingerprint);
            chain_not_after = chain_not_after.min(issuer.not_after);
        }
        above.push(root.facts.fingerprint);
        Ok(PeerFacts {
            proof: Proof::Chain {
                bundle: root.bundle.clone(),
                root: root.facts.subject.clone(),
            },
            above,
            chain_not_after,
            leaf,
        })
    }

    /// The engine lets a leaf without extended key usage pass; we don't: a server certificate of a
    /// careless CA must not become a gateway.
    fn check_usage(&self, leaf: &CertFacts, usage: Usage) -> Result<(), Denied> {
        if self.missing_usage_passes && !leaf.usage.present {
            return Ok(());
        }
        let fits = match usage {
            Usage::ClientAuth => leaf.usage.client_auth,
            Usage::ServerAuth => leaf.usage.server_auth,
        };
        if fits {
            return Ok(());
        }
        Err(wrong_usage(leaf, usage))
    }

    /// The root at which a path ends: that very certificate, not another of its name and key.
    fn root_of(&self, anchor: &TrustAnchor<'_>) -> Result<&Root, Denied> {
        self.anchors
            .iter()
            .position(|known| std::ptr::eq(known, anchor))
            .and_then(|at| self.roots.get(at))
            .ok_or_else(|| {
                Denied::new(
                    Denial::CertificateUnknownIssuer,
                    "the path ends at no root that is loaded",
                )
            })
    }

    /// What the engine leaves to us: the root's own dates, what the issuers' keys may do, and
    /// revocation.
    fn judge_path(
        &self,
        path: &VerifiedPath<'_>,
        leaf: &CertFacts,
        stage: Stage,
        now: UnixSeconds,
    ) -> Result<(), Denied> {
        let root = self.root_of(path.anchor())?;
        check_dates(&root.facts, now).map_err(|denied| {
            Denied::new(
                denied.reason,
                format!("{}; it is the root of {}", denied.detail, leaf.describe()),
            )
        })?;
        for issuer in path.intermediate_certificates() {
            check_issuer_key(&issuer.der(), leaf)?;
        }
        let Some(crls) = &self.crls else {
            return Ok(());
        };
        let issuers: Vec<_> = path
            .intermediate_certificates()
            .map(|cert| (cert, cert.der(), cert.subject_public_key_info()))
            .collect();
        let root_key = spki_for_anchor(path.anchor());
        let leaf_der = path.end_entity().der();
        let mut links = Vec::with_capacity(issuers.len() + 1);
        let mut above = issuers.iter();
        let mut current = (&**path.end_entity(), &leaf_der);
        loop {
            let issuer = above.next();
            links.push(Link {
                der: current.1.as_ref(),
                issuer: current.0.issuer(),
                serial: current.0.serial(),
                is_issuer: !links.is_empty(),
                issuer_key: issuer.map_or_else(|| root_key.clone(), |(_, _, key)| key.clone()),
                issuer_der: issuer.map(|(_, der, _)| der.as_ref()),
            });
            match issuer {
                Some((cert, der, _)) => current = (cert, der),
                None => break,
            }
        }
        crls.check(&links, &self.provider, stage, now)
    }
}

fn same_key(one: &TrustAnchor<'_>, other: &TrustAnchor<'_>) -> bool {
    one.subject == other.subject && one.subject_public_key_info == other.subject_public_key_info
}

/// Dates of one certificate: both ends are part of its life (RFC 5280 section 4.1.2.5).
pub(super) fn check_dates(facts: &CertFacts, now: UnixSeconds) -> Result<(), Denied> {
    if now > facts.not_after {
        Err(Denied::new(
            Denial::CertificateExpired,
            format!(
                "certificate {} expired at {}",
                facts.describe(),
                when(facts.not_after)
            ),
        ))
    } else if now < facts.not_before {
        Err(Denied::new(
            Denial::CertificateNotYetValid,
            format!(
                "certificate {} is valid from {}",
                facts.describe(),
                when(facts.not_before)
            ),
        ))
    } else {
        Ok(())
    }
}

/// An error for the engine that lets it look for another path and ends the search otherwise.
fn engine_error(reason: Denial) -> webpki::Error {
    if reason == Denial::CertificateRevoked {
        webpki::Error::CertRevoked
    } else {
        webpki::Error::UnknownRevocationStatus
    }
}
