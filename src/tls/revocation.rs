//! Revocation by CRL (RFC 5280 section 5): which lists count, and what they say of a chain.
//!
//! The engine takes the first list of an issuer that it meets, so an old one in front would hide a
//! revocation; it also checks a list's signature again in every handshake. Here the highest CRL
//! number alone is kept, every signature is checked once per issuer, and each answer names the
//! certificate and the issuer. No delta and no indirect lists.

use std::{
    collections::{HashMap, HashSet},
    sync::RwLock,
};

use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, SubjectPublicKeyInfoDer},
};
use x509_parser::{
    extensions::ParsedExtension,
    prelude::{FromDer, X509Certificate},
};

use super::{
    crl::{Crl, Line, keep_newest, parse, read},
    error::{MaterialError, when},
};
use crate::{
    admit::{Denial, Denied},
    clock,
    config::Revocation,
    identity::{CertFacts, KeyUses, Sha256, UnixSeconds},
};

/// Remembered signature checks; more issuers than this is not a real deployment.
const REMEMBERED: usize = 1024;

/// How far the clock of whoever signs lists may be ahead of ours: a new revocation must not wait
/// for that.
const SKEW: i64 = 300;

/// All lists of one trust, and how strictly they are asked.
#[derive(Debug)]
pub struct CrlSet {
    crls: Vec<Crl>,
    tolerate_expired: bool,
    leaf_only: bool,
    /// (index of the list, hash of the issuer's certificate) whose signature was found good.
    verified: RwLock<HashSet<(usize, Sha256)>>,
    /// The key that signed a list of a line which names it, once that was found.
    signers: RwLock<HashMap<Line, SubjectPublicKeyInfoDer<'static>>>,
}

/// When a peer is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// In its handshake: every needed list must be fresh.
    Entering,
    /// While it is connected: a list that went stale cuts nobody.
    Live,
}

/// One certificate of a proven path, with the key that signed it.
pub(super) struct Link<'a> {
    /// Its DER.
    pub der: &'a [u8],
    /// Issuer, as the engine cuts it out (without the outer tag).
    pub issuer: &'a [u8],
    /// Serial number, as the engine cuts it out.
    pub serial: &'a [u8],
    /// Whether it stands above the leaf.
    pub is_issuer: bool,
    /// The key that signed it.
    pub issuer_key: SubjectPublicKeyInfoDer<'static>,
    /// The issuer's certificate; `None`: a root, whose key usage is not looked at.
    pub issuer_der: Option<&'a [u8]>,
}

impl CrlSet {
    /// Reads the files of `revocation` and keeps the newest list of each line.
    ///
    /// # Errors
    /// Every file that can't be used, every list that is not supported or is not yet valid, and
    /// every line whose number is lower than that of `previous`.
    pub fn load(
        revocation: &Revocation,
        previous: Option<&Self>,
    ) -> Result<Self, Vec<MaterialError>> {
        let found = revocation.files.iter().map(|file| read(file));
        Self::newest(found, revocation, previous)
    }

    /// The same with lists in DER that are in no file.
    ///
    /// # Errors
    /// As [`CrlSet::load`].
    pub(super) fn of(
        lists: &[Vec<u8>],
        from: &std::path::Path,
        revocation: &Revocation,
        previous: Option<&Self>,
    ) -> Result<Self, Vec<MaterialError>> {
        let found = lists
            .iter()
            .map(|der| parse(from, der).map(|crl| vec![crl]));
        Self::newest(found, revocation, previous)
    }

    fn newest(
        found: impl Iterator<Item = Result<Vec<Crl>, MaterialError>>,
        revocation: &Revocation,
        previous: Option<&Self>,
    ) -> Result<Self, Vec<MaterialError>> {
        let now = clock::now();
        let mut errors = Vec::new();
        let mut crls: Vec<Crl> = Vec::new();
        let signers = previous
            .and_then(|previous| previous.signers.read().ok())
            .map(|known| known.clone())
            .unwrap_or_default();
        for found in found {
            match found {
                Ok(found) => found
                    .into_iter()
                    .for_each(|crl| keep_newest(&mut crls, crl)),
                Err(error) => errors.push(error),
            }
        }
        for crl in &crls {
            if crl.this_update.0 > now.0.saturating_add(SKEW) {
                errors.push(MaterialError {
                    certificate: Some(format!("CRL of {:?}", crl.issuer)),
                    ..MaterialError::file(
                        &crl.file,
                        format!(
                            "it is not yet valid: its thisUpdate is {}, and now is {}",
                            when(crl.this_update),
                            when(now)
                        ),
                        "set the clock, or publish a list that is in force",
                    )
                });
            }
            let before = previous.and_then(|p| p.crls.iter().find(|old| old.line == crl.line));
            if let Some(before) = before.filter(|old| crl.older_than(old)) {
                errors.push(MaterialError {
                    certificate: Some(format!("CRL of {:?}", crl.issuer)),
                    ..MaterialError::file(
                        &crl.file,
                        format!(
                            "{}, which is in force: a revocation could be lost",
                            crl.goes_back(before.number.as_ref())
                        ),
                        "publish a list with a higher number",
                    )
                });
            }
        }
        if errors.is_empty() {
            Ok(Self {
                crls,
                tolerate_expired: revocation.tolerate_expired,
                leaf_only: revocation.leaf_only,
                verified: RwLock::new(HashSet::new()),
                signers: RwLock::new(signers),
            })
        } else {
            Err(errors)
        }
    }

    /// The lists in force.
    #[must_use]
    pub fn lists(&self) -> &[Crl] {
        &self.crls
    }

    /// Looks at the lists that name the key of a CA which we know without a peer's chain: of one of
    /// these, or of one that signed their line before. CAs of one name and key identifier are told
    /// apart by nothing but the signature.
    ///
    /// # Errors
    /// Lists that none of those signed.
    pub(super) fn check_signers<'a>(
        &self,
        issuers: impl Iterator<Item = &'a CertificateDer<'a>>,
        provider: &CryptoProvider,
    ) -> Result<(), Vec<MaterialError>> {
        let issuers: Vec<_> = issuers.filter_map(named_key).collect();
        let mut errors = Vec::new();
        for crl in &self.crls {
            let before = self.signers.read().ok();
            let before = before.and_then(|known| known.get(&crl.line).cloned());
            let named = issuers
                .iter()
                .filter(|(name, id, _)| crl.list.issuer() == name && crl.line.key() == Some(id))
                .map(|(.., key)| key);
            let mut known = before.iter().chain(named).peekable();
            if known.peek().is_none() {
                continue;
            }
            match known.find(|key| crl.signature_is_good(key, provider)) {
                Some(key) => self.remember(crl, key),
                None => errors.push(forged(crl)),
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    /// Who signs lists of this line; one that does not name a key may be another's tomorrow.
    fn remember(&self, crl: &Crl, key: &SubjectPublicKeyInfoDer<'static>) {
        if crl.line.key().is_some()
            && let Ok(mut signers) = self.signers.write()
            && (signers.len() < REMEMBERED || signers.contains_key(&crl.line))
        {
            let _before = signers.insert(crl.line.clone(), key.clone());
        }
    }

    /// Lists that are past their next update.
    pub fn expired(&self, now: UnixSeconds) -> impl Iterator<Item = &Crl> {
        self.crls.iter().filter(move |crl| crl.next_update <= now)
    }

    /// Whether an expired list is still used.
    #[must_use]
    pub fn tolerates_expired(&self) -> bool {
        self.tolerate_expired
    }

    /// What goes into the hash of a generation.
    pub(super) fn content(&self) -> impl Iterator<Item = &[u8]> {
        self.crls.iter().map(|crl| crl.digest.0.as_slice())
    }

    /// Judges a proven path, leaf first.
    pub(super) fn check(
        &self,
        path: &[Link<'_>],
        provider: &CryptoProvider,
        stage: Stage,
        now: UnixSeconds,
    ) -> Result<(), Denied> {
        path.iter()
            .filter(|link| !(self.leaf_only && link.is_issuer))
            .try_for_each(|link| self.check_link(link, provider, stage, now))
    }

    /// Whether one of the lists in the name of this issuer is signed by this key; `None`: there is
    /// no list in its name.
    pub(super) fn signed_by_root(
        &self,
        subject: &[u8],
        key: &SubjectPublicKeyInfoDer<'static>,
        provider: &CryptoProvider,
    ) -> Option<bool> {
        let mut lists = self
            .crls
            .iter()
            .filter(|crl| crl.list.issuer() == subject)
            .peekable();
        let _some = lists.peek()?;
        Some(lists.any(|crl| crl.signature_is_good(key, provider)))
    }

    fn check_link(
        &self,
        link: &Link<'_>,
        provider: &CryptoProvider,
        stage: Stage,
        now: UnixSeconds,
    ) -> Result<(), Denied> {
        let mut lists = self
            .crls
            .iter()
            .enumerate()
            .filter(|(_, crl)| crl.list.issuer() == link.issuer && crl.covers(link))
            .peekable();
        let same_name = lists.peek().is_some();
        let signed: Vec<&Crl> = lists
            .filter(|(index, crl)| self.signed_by(*index, crl, link, provider))
            .map(|(_, crl)| crl)
            .collect();
        if signed.is_empty() {
            let issuer = about(link.der, |facts| format!("{:?}", facts.issuer));
            return Err(Denied::new(
                Denial::RevocationUnknown,
                if same_name {
                    format!(
                        "the CRL of {issuer} is not signed by that issuer's key, or the issuer may not sign CRLs; it is needed for certificate {}",
                        about(link.der, CertFacts::describe)
                    )
                } else {
                    format!(
                        "no CRL of {issuer} is loaded; it is needed for certificate {}",
                        about(link.der, CertFacts::describe)
                    )
                },
            ));
        }
        for crl in &signed {
            let entry = crl.list.find_serial(link.serial).map_err(|e| {
                Denied::new(
                    Denial::RevocationUnknown,
                    format!("the CRL of {:?} can't be read: {e}", crl.issuer),
                )
            })?;
            if let Some(entry) = entry {
                let since = i64::try_from(entry.revocation_date.as_secs()).unwrap_or(i64::MAX);
                let why = entry
                    .reason_code
                    .map_or_else(String::new, |reason| format!(" ({reason:?})"));
                return Err(Denied::new(
                    Denial::CertificateRevoked,
                    format!(
                        "certificate {} is revoked since {}{why}, by CRL number {}",
                        about(link.der, CertFacts::describe),
                        when(UnixSeconds(since)),
                        crl.numbered()
                    ),
                ));
            }
        }
        match signed.iter().find(|crl| crl.next_update <= now) {
            Some(stale) if !self.tolerate_expired && stage == Stage::Entering => Err(Denied::new(
                Denial::CrlExpired,
                format!(
                    "the CRL of {:?} was due for renewal at {}; it is needed for certificate {}",
                    stale.issuer,
                    when(stale.next_update),
                    about(link.der, CertFacts::describe)
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Whether the issuer of `link` signed this list; a good answer is remembered.
    fn signed_by(
        &self,
        index: usize,
        crl: &Crl,
        link: &Link<'_>,
        provider: &CryptoProvider,
    ) -> bool {
        let signer = Sha256::of(link.issuer_der.unwrap_or_else(|| link.issuer_key.as_ref()));
        let known = self
            .verified
            .read()
            .is_ok_and(|verified| verified.contains(&(index, signer)));
        if known {
            return true;
        }
        let good = link.issuer_der.is_none_or(may_sign_crls)
            && crl.signature_is_good(&link.issuer_key, provider);
        // only good signatures are remembered: they can't be made by strangers to fill the memory
        if good && let Ok(mut verified) = self.verified.write() {
            if verified.len() >= REMEMBERED {
                verified.clear();
            }
            let _new = verified.insert((index, signer));
            drop(verified);
            self.remember(crl, &link.issuer_key);
        }
        good
    }
}

/// A list that anybody wrote: in force it would refuse everybody, and with a high number the lists
/// that come after it too.
fn forged(crl: &Crl) -> MaterialError {
    MaterialError {
        certificate: Some(format!("CRL of {:?}", crl.issuer)),
        ..MaterialError::file(
            &crl.file,
            format!(
                "number {} is not signed by the key that it names",
                crl.numbered()
            ),
            "fetch the list again, and look where it came from",
        )
    }
}

/// A CA's subject as the engine cuts it out, the identifier of its key, and the key.
fn named_key(
    ca: &CertificateDer<'_>,
) -> Option<(Vec<u8>, Vec<u8>, SubjectPublicKeyInfoDer<'static>)> {
    let (_, parsed) = X509Certificate::from_der(ca).ok()?;
    let id = parsed.extensions().iter().find_map(|extension| {
        if let ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() {
            Some(id.0.to_vec())
        } else {
            None
        }
    })?;
    let key = SubjectPublicKeyInfoDer::from(parsed.public_key().raw.to_vec());
    let subject = webpki::anchor_from_trusted_cert(ca).ok()?.subject;
    Some((subject.as_ref().to_vec(), id, key))
}

/// Key usage, where an issuer has one, must allow the signing of CRLs (RFC 5280 section 6.3.3 f).
fn may_sign_crls(issuer: &[u8]) -> bool {
    CertFacts::read(issuer).is_ok_and(|facts| facts.key_uses.is_none_or(KeyUses::crl_sign))
}

fn about(der: &[u8], say: impl FnOnce(&CertFacts) -> String) -> String {
    CertFacts::read(der).map_or_else(|e| e.to_string(), |facts| say(&facts))
}
