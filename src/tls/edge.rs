//! What a client-facing listener loads: its certificates, and whom it asks for theirs. A certificate
//! that an ACME CA has not issued yet is awaited, and nothing is shown in its place.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{crypto::CryptoProvider, sign::CertifiedKey};

use super::{
    error::MaterialError,
    generation::{Trust, check_lists, hash, load_verification},
    material::{Own, has_ended, load_own},
    provider::provider,
    verify::{Usage, Verification},
};
use crate::{
    config::{CertificateFiles, ClientAuth, ClientCert, GatewayListener, SecretRef, TlsOptions},
    identity::{CertFacts, Sha256, UnixSeconds},
};

/// What there is of a certificate.
enum There<'a> {
    /// Its files are to be loaded.
    Files,
    /// Its files are gone and it is in force: its site is not shut until the next one has come.
    Kept(&'a EdgeCertificate),
    /// It has not come from its CA yet, or has ended while nobody was there to order the next: one
    /// name must not keep the other sites shut.
    Awaited,
}

fn there<'a>(
    files: &CertificateFiles,
    previous: Option<&'a EdgeMaterial>,
    now: UnixSeconds,
) -> There<'a> {
    if files.acme.is_none() {
        return There::Files;
    }
    let mut in_force = previous.iter().flat_map(|material| &material.certificates);
    let in_force = in_force.find(|shown| shown.file == files.certificate);
    let are_there = files.certificate.exists() && files.key.exists();
    match in_force {
        _ if !are_there => in_force
            .filter(|shown| now <= shown.not_after)
            .map_or(There::Awaited, There::Kept),
        None if has_ended(&files.certificate, now) => There::Awaited,
        _ => There::Files,
    }
}

/// A pair, or what is kept of it.
type Pair<'a> = (
    (&'a Path, &'a Path, Option<&'a SecretRef>),
    Option<&'a EdgeCertificate>,
);

/// A certificate that a client-facing listener shows.
#[derive(Clone, Debug)]
pub struct EdgeCertificate {
    /// Where it was loaded from.
    pub file: PathBuf,
    /// Chain and key.
    pub certified: Arc<CertifiedKey>,
    /// Its leaf.
    pub leaf: CertFacts,
    /// The earliest end of its chain.
    pub not_after: UnixSeconds,
}

impl EdgeCertificate {
    fn new(own: Own, file: PathBuf) -> Self {
        Self {
            file,
            certified: own.certified,
            leaf: own.leaf,
            not_after: own.not_after,
        }
    }

    fn own(&self) -> Own {
        Own {
            certified: Arc::clone(&self.certified),
            leaf: self.leaf.clone(),
            not_after: self.not_after,
        }
    }
}

/// A client-facing listener's certificates and whom it asks for theirs.
#[derive(Debug)]
pub struct EdgeMaterial {
    /// The first answers every name that no other has. At least one, unless some are awaited.
    pub certificates: Vec<EdgeCertificate>,
    /// Names whose certificate has not come from its CA yet: nobody is answered for them.
    pub awaited: Arc<[String]>,
    /// Whom we believe, where callers are asked for certificates.
    pub verification: Option<Arc<Verification>>,
    /// A caller without certificate is refused.
    pub client_required: bool,
    /// The earliest end of all chains.
    pub not_after: UnixSeconds,
    /// Hash of all that was loaded.
    pub id: Sha256,
    pub(super) provider: Arc<CryptoProvider>,
}

impl EdgeMaterial {
    /// Loads a listener's certificates, and its `client_ca` with companions.
    ///
    /// # Errors
    /// All problems at once.
    pub fn load(
        listener: &GatewayListener,
        previous: Option<&Self>,
        now: UnixSeconds,
    ) -> Result<Arc<Self>, Vec<MaterialError>> {
        Self::load_where(listener, previous, false, now)
    }

    /// The same where each pair whose files do not fit each other stays as it is here.
    ///
    /// # Errors
    /// All problems at once.
    pub fn load_beside(
        &self,
        listener: &GatewayListener,
        now: UnixSeconds,
    ) -> Result<Arc<Self>, Vec<MaterialError>> {
        Self::load_where(listener, Some(self), true, now)
    }

    fn load_where(
        listener: &GatewayListener,
        previous: Option<&Self>,
        halves_stay: bool,
        now: UnixSeconds,
    ) -> Result<Arc<Self>, Vec<MaterialError>> {
        let mut awaited: Vec<String> = Vec::new();
        let mut files: Vec<Pair<'_>> = Vec::new();
        for pair in &listener.certificates {
            let kept = match there(pair, previous, now) {
                There::Files => None,
                There::Kept(shown) => Some(shown),
                There::Awaited => {
                    let ordered = pair.acme.iter();
                    awaited.extend(ordered.flat_map(|acme| acme.domains.iter().cloned()));
                    continue;
                }
            };
            let passphrase = pair.key_passphrase.as_ref();
            files.push(((&pair.certificate, &pair.key, passphrase), kept));
        }
        Self::assemble(
            (files, awaited.into()),
            listener.client_auth.as_ref(),
            &listener.tls,
            (previous, halves_stay),
            now,
        )
    }

    /// The same for any server that shows certificates, such as the admin listener.
    ///
    /// # Errors
    /// All problems at once.
    pub fn load_parts<'a>(
        files: impl IntoIterator<Item = (&'a Path, &'a Path, Option<&'a SecretRef>)>,
        client_auth: Option<&ClientAuth>,
        options: &TlsOptions,
        previous: Option<&Self>,
        now: UnixSeconds,
    ) -> Result<Arc<Self>, Vec<MaterialError>> {
        let files = files.into_iter().map(|pair| (pair, None));
        let previous = (previous, false);
        Self::assemble((files, Arc::default()), client_auth, options, previous, now)
    }

    /// The certificates in force with the `client_ca` and its companions of today, where the files of
    /// a pair do not fit each other.
    ///
    /// # Errors
    /// All problems at once.
    pub fn with_trust_of_today(
        &self,
        client_auth: Option<&ClientAuth>,
        options: &TlsOptions,
    ) -> Result<Arc<Self>, Vec<MaterialError>> {
        let provider = provider(options);
        let verification = callers(client_auth, &provider, Some(self))?;
        let own = self.certificates.iter().map(|own| &*own.certified);
        Ok(Arc::new(Self {
            id: hash(own, verification.as_ref()),
            certificates: self.certificates.clone(),
            awaited: Arc::clone(&self.awaited),
            verification: verification.map(Arc::new),
            client_required: is_required(client_auth),
            not_after: self.not_after,
            provider,
        }))
    }

    fn assemble<'a>(
        (files, awaited): (impl IntoIterator<Item = Pair<'a>>, Arc<[String]>),
        client_auth: Option<&ClientAuth>,
        options: &TlsOptions,
        (previous, halves_stay): (Option<&Self>, bool),
        now: UnixSeconds,
    ) -> Result<Arc<Self>, Vec<MaterialError>> {
        let provider = provider(options);
        let in_force: Vec<_> = previous
            .iter()
            .flat_map(|material| &material.certificates)
            .map(|own| Arc::clone(&own.certified))
            .collect();
        let mut errors = Vec::new();
        let mut own = Vec::new();
        let mut places = Vec::new();
        for ((certificate, key, passphrase), kept) in files {
            let loaded = kept.map(|kept| Ok(kept.own())).unwrap_or_else(|| {
                load_own(
                    certificate,
                    key,
                    passphrase,
                    Usage::ServerAuth,
                    &provider,
                    now,
                    &in_force,
                )
            });
            let stays = |errors: &[MaterialError]| {
                let mut shown = previous.iter().flat_map(|material| &material.certificates);
                let shown = shown.find(|shown| shown.file == certificate)?;
                (halves_stay && errors.iter().all(|error| error.half)).then(|| shown.own())
            };
            let loaded = loaded.or_else(|errors| stays(&errors).ok_or(errors));
            match loaded {
                Ok(loaded) => {
                    own.push(loaded);
                    places.push(certificate.to_owned());
                }
                Err(more) => errors.extend(more),
            }
        }
        let verification = callers(client_auth, &provider, previous).unwrap_or_else(|more| {
            errors.extend(more);
            None
        });
        // what is not there has no end
        let ends = own.iter().map(|o| o.not_after);
        let ends = ends.chain((!awaited.is_empty()).then_some(UnixSeconds(i64::MAX)));
        let (Some(not_after), true) = (ends.min(), errors.is_empty()) else {
            return Err(errors);
        };
        Ok(Arc::new(Self {
            id: hash(own.iter().map(|own| &*own.certified), verification.as_ref()),
            awaited,
            certificates: own
                .into_iter()
                .zip(places)
                .map(|(own, file)| EdgeCertificate::new(own, file))
                .collect(),
            verification: verification.map(Arc::new),
            client_required: is_required(client_auth),
            not_after,
            provider,
        }))
    }
}

fn is_required(client_auth: Option<&ClientAuth>) -> bool {
    client_auth.is_some_and(|auth| auth.mode == ClientCert::Require)
}

/// Whom of its callers a listener believes, where it asks them for certificates.
fn callers(
    client_auth: Option<&ClientAuth>,
    provider: &Arc<CryptoProvider>,
    previous: Option<&EdgeMaterial>,
) -> Result<Option<Verification>, Vec<MaterialError>> {
    let Some(auth) = client_auth else {
        return Ok(None);
    };
    let before = previous.and_then(|previous| previous.verification.as_ref());
    let verification = load_verification(
        &Trust {
            roots: auth.ca.as_deref(),
            bundles: &[],
            pinned: &auth.pinned,
            revocation: auth.revocation.as_ref(),
            svid: None,
        },
        provider,
        before.and_then(|before| before.crls()),
    )?;
    check_lists(None, &verification)?;
    Ok(Some(verification))
}
