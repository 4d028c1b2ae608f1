//! Everything that a TLS endpoint loads, cross-checked as one value and swapped whole. A load gives
//! a complete [`Generation`] or all that is wrong; there is nothing in between.

use std::{path::PathBuf, sync::Arc};

use rustls::{crypto::CryptoProvider, pki_types::CertificateDer, sign::CertifiedKey};

use super::{
    error::MaterialError,
    material::{Own, check_own, check_roots, load_own, load_pin, load_roots},
    provider::provider,
    revocation::CrlSet,
    svid::HeldSvid,
    verify::{Usage, Verification},
};
use crate::{
    config::{Identity, Revocation, TlsOptions, TrustBundle},
    identity::{CertFacts, Sha256, TrustDomain, UnixSeconds},
};

/// Which end of the link we are, or that we are its authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkRole {
    /// It opens link connections: its own certificate is a client's.
    Gateway,
    /// It accepts them: its own certificate is a server's.
    Acceptor,
    /// `pki serve`: a server, to which both ends come with the certificate that they have.
    Authority,
}

impl LinkRole {
    /// What our own certificate must be made for.
    #[must_use]
    pub fn own_usage(self) -> Usage {
        match self {
            Self::Gateway => Usage::ClientAuth,
            Self::Acceptor | Self::Authority => Usage::ServerAuth,
        }
    }

    /// What the other end's must be made for.
    #[must_use]
    pub fn peer_usage(self) -> Usage {
        match self {
            Self::Gateway => Usage::ServerAuth,
            Self::Acceptor | Self::Authority => Usage::ClientAuth,
        }
    }
}

/// An `[identity]`, loaded.
#[derive(Debug)]
pub struct Generation {
    /// Our chain and key.
    pub certified: Arc<CertifiedKey>,
    /// Our leaf.
    pub leaf: CertFacts,
    /// The trust domain of our own SPIFFE ID.
    pub own_domain: Option<TrustDomain>,
    /// Whom we believe.
    pub verification: Arc<Verification>,
    /// The earliest end of our own chain.
    pub not_after: UnixSeconds,
    /// Hash of all that was loaded: equal content is the same generation.
    pub id: Sha256,
    /// Our role.
    pub role: LinkRole,
    pub(super) provider: Arc<CryptoProvider>,
}

impl Generation {
    /// Loads an identity and checks it as far as one side can. `previous` is the generation in
    /// force: no CRL may go backwards from it.
    ///
    /// # Errors
    /// All problems at once.
    pub fn load(
        identity: &Identity,
        options: &TlsOptions,
        role: LinkRole,
        previous: Option<&Self>,
        now: UnixSeconds,
    ) -> Result<Arc<Self>, Vec<MaterialError>> {
        let provider = provider(options);
        let own = load_own(
            &identity.certificate,
            &identity.key,
            identity.key_passphrase.as_ref(),
            role.own_usage(),
            &provider,
            now,
            in_force(previous),
        );
        let verification = load_verification(
            &Trust::of(identity),
            &provider,
            previous.and_then(|p| p.verification.crls()),
        );
        let (own, verification) = both(own, verification)?;
        check_lists(own.certified.cert.get(1..), &verification)?;
        Ok(Self::of(own, verification, role, provider))
    }

    /// The pair in force with the trust and the lists of today, where the files of the pair do not
    /// fit each other.
    ///
    /// # Errors
    /// All problems at once.
    pub fn with_trust_of_today(
        &self,
        identity: &Identity,
        options: &TlsOptions,
    ) -> Result<Arc<Self>, Vec<MaterialError>> {
        let provider = provider(options);
        let before = self.verification.crls();
        let verification = load_verification(&Trust::of(identity), &provider, before)?;
        check_lists(self.certified.cert.get(1..), &verification)?;
        let own = Own {
            certified: Arc::clone(&self.certified),
            leaf: self.leaf.clone(),
            not_after: self.not_after,
        };
        Ok(Self::of(own, verification, self.role, provider))
    }

    /// The same with what a SPIFFE Workload API handed out in place of certificate, key, trust and
    /// CRLs.
    ///
    /// # Errors
    /// All problems at once.
    pub fn load_svid(
        svid: &HeldSvid,
        identity: &Identity,
        options: &TlsOptions,
        role: LinkRole,
        previous: Option<&Self>,
        now: UnixSeconds,
    ) -> Result<Arc<Self>, Vec<MaterialError>> {
        let provider = provider(options);
        let from = svid.socket.as_path();
        let mut own = check_own(
            (from, Ok(svid.chain.clone())),
            (from, Ok(svid.key())),
            role.own_usage(),
            &provider,
            now,
            in_force(previous),
        );
        if let Ok(own_leaf) = own.as_ref().map(|own| &own.leaf)
            && own_leaf.spiffe != [svid.id.clone()]
        {
            own = Err(vec![MaterialError::certificate(
                from,
                own_leaf,
                format!("it does not carry {}, which it was handed out for", svid.id),
                "restart the agent, and look at its log",
            )]);
        }
        let verification = load_verification(
            &Trust {
                roots: None,
                bundles: &identity.bundles,
                pinned: &identity.pinned,
                revocation: identity.revocation.as_ref(),
                svid: Some(svid),
            },
            &provider,
            previous.and_then(|p| p.verification.crls()),
        );
        let (own, verification) = both(own, verification)?;
        check_lists(own.certified.cert.get(1..), &verification)?;
        Ok(Self::of(own, verification, role, provider))
    }

    /// Checks the files of an identity whose own certificate is in none: what a Workload API hands
    /// out, or a CA has not issued yet.
    ///
    /// # Errors
    /// All problems at once.
    pub fn check_files(
        identity: &Identity,
        options: &TlsOptions,
    ) -> Result<(), Vec<MaterialError>> {
        let in_files = identity.workload().is_none();
        let all = Trust::of(identity);
        let trust = Trust {
            roots: all.roots.filter(|_| in_files),
            revocation: all.revocation.filter(|_| in_files),
            ..all
        };
        load_verification(&trust, &provider(options), None).map(drop)
    }

    fn of(
        own: Own,
        verification: Verification,
        role: LinkRole,
        provider: Arc<CryptoProvider>,
    ) -> Arc<Self> {
        let verification = match role {
            LinkRole::Gateway | LinkRole::Acceptor => verification,
            LinkRole::Authority => verification.with_either_usage(),
        };
        Arc::new(Self {
            id: hash([&*own.certified], Some(&verification)),
            own_domain: own.leaf.spiffe.first().map(|id| id.domain().clone()),
            certified: own.certified,
            not_after: own.not_after,
            leaf: own.leaf,
            verification: Arc::new(verification),
            role,
            provider,
        })
    }

    /// The provider that this generation was loaded for.
    #[must_use]
    pub fn provider(&self) -> &Arc<CryptoProvider> {
        &self.provider
    }
}

/// Where the other side's roots, pins and CRLs are.
pub(super) struct Trust<'a> {
    pub(super) roots: Option<&'a std::path::Path>,
    pub(super) bundles: &'a [TrustBundle],
    pub(super) pinned: &'a [PathBuf],
    pub(super) revocation: Option<&'a Revocation>,
    /// What is in no file.
    pub(super) svid: Option<&'a HeldSvid>,
}

impl<'a> Trust<'a> {
    /// Those that an identity in files names.
    fn of(identity: &'a Identity) -> Self {
        Self {
            roots: identity.trust.as_deref(),
            bundles: &identity.bundles,
            pinned: &identity.pinned,
            revocation: identity.revocation.as_ref(),
            svid: None,
        }
    }
}

pub(super) fn load_verification(
    trust: &Trust<'_>,
    provider: &Arc<CryptoProvider>,
    previous: Option<&CrlSet>,
) -> Result<Verification, Vec<MaterialError>> {
    let mut errors = Vec::new();
    let mut roots = Vec::new();
    let files = trust.roots.map(|path| (path, None)).into_iter().chain(
        trust
            .bundles
            .iter()
            .map(|b| (b.file.as_path(), Some(&b.names))),
    );
    for (path, names) in files {
        match load_roots(path, names) {
            Ok(found) => roots.extend(found),
            Err(more) => errors.extend(more),
        }
    }
    let mut pins = Vec::new();
    for path in trust.pinned {
        match load_pin(path) {
            Ok(pin) => pins.push(pin),
            Err(more) => errors.extend(more),
        }
    }
    if let Some(svid) = trust.svid {
        let own = check_roots(&svid.socket, svid.roots.clone(), None);
        let others = svid.federated.iter().filter_map(|(domain, roots)| {
            let names = HeldSvid::names_of(domain)?;
            Some(check_roots(&svid.socket, roots.clone(), Some(&names)))
        });
        for found in std::iter::once(own).chain(others) {
            match found {
                Ok(found) => roots.extend(found),
                Err(more) => errors.extend(more),
            }
        }
    }
    let crls = load_crls(trust, previous).unwrap_or_else(|more| {
        errors.extend(more);
        None
    });
    for (root, _) in &roots {
        let pinned = pins
            .iter()
            .position(|(_, pin)| pin.fingerprint == root.facts.fingerprint)
            .and_then(|at| trust.pinned.get(at));
        if let Some(file) = pinned {
            errors.push(MaterialError::certificate(
                file,
                &root.facts,
                "it is pinned and trusted as a root at once",
                "a pinned certificate is never an anchor: take it out of trust, or out of pinned",
            ));
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let verification = Verification::new(provider.clone(), roots, pins, crls);
    let unsigned: Vec<_> = verification
        .roots_without_own_crl()
        .filter_map(|root| {
            let file = match trust.svid {
                Some(svid) => &svid.socket,
                None => trust.revocation?.files.first()?,
            };
            Some(MaterialError::certificate(
                file,
                &root.facts,
                "the CRL in this root's name is not signed by its key",
                "publish the CRL with the root's present key",
            ))
        })
        .collect();
    if unsigned.is_empty() {
        Ok(verification)
    } else {
        Err(unsigned)
    }
}

/// The CRLs of files, or those that came with an SVID: they are used if there are any, and needed
/// where the configuration says how.
fn load_crls(
    trust: &Trust<'_>,
    previous: Option<&CrlSet>,
) -> Result<Option<CrlSet>, Vec<MaterialError>> {
    let Some(svid) = trust.svid else {
        return trust
            .revocation
            .map(|revocation| CrlSet::load(revocation, previous))
            .transpose();
    };
    let usual = Revocation {
        files: Vec::new(),
        tolerate_expired: false,
        leaf_only: false,
    };
    let revocation = match trust.revocation {
        None if svid.crls.is_empty() => return Ok(None),
        configured => configured.unwrap_or(&usual),
    };
    CrlSet::of(&svid.crls, &svid.socket, revocation, previous).map(Some)
}

/// The CAs above us, and the roots, are known before any peer comes: their lists must be their own.
pub(super) fn check_lists(
    above: Option<&[CertificateDer<'static>]>,
    verification: &Verification,
) -> Result<(), Vec<MaterialError>> {
    let Some(lists) = verification.crls() else {
        return Ok(());
    };
    let above = above.unwrap_or_default().iter();
    let roots = verification.roots().iter().map(|root| &root.der);
    lists.check_signers(above.chain(roots), verification.provider())
}

/// Our own chain of the generation in force.
fn in_force(previous: Option<&Generation>) -> &[Arc<CertifiedKey>] {
    previous.map_or(&[], |previous| std::slice::from_ref(&previous.certified))
}

/// Both results, or the errors of both.
fn both<A, B>(
    a: Result<A, Vec<MaterialError>>,
    b: Result<B, Vec<MaterialError>>,
) -> Result<(A, B), Vec<MaterialError>> {
    match (a, b) {
        (Ok(a), Ok(b)) => Ok((a, b)),
        (a, b) => Err(a.err().into_iter().chain(b.err()).flatten().collect()),
    }
}

pub(super) fn hash<'a>(
    own: impl IntoIterator<Item = &'a CertifiedKey>,
    verification: Option<&Verification>,
) -> Sha256 {
    let mut all = Vec::new();
    let mut add = |part: &[u8]| {
        // with its length, so that no two different lists of parts read alike
        all.extend_from_slice(&(part.len() as u64).to_be_bytes());
        all.extend_from_slice(&Sha256::of(part).0);
    };
    for own in own {
        own.cert.iter().for_each(|der| add(der));
    }
    add(b"trust");
    for part in verification.map(Verification::content).unwrap_or_default() {
        add(&part);
    }
    Sha256::of(&all)
}
