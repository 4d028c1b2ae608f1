//! Revocation by CRL (RFC 5280 section 5): which lists count, and what they say of a chain.
//!
//! The engine takes the first list of an issuer that it meets, so an old one in front would hide a
//! revocation; it also checks a list's signature again in every handshake. Here the highest CRL
//! number alone is kept, every signature is checked once per issuer, and each answer names the
//! certificate and the issuer. No delta and no indirect lists.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::RwLock,
};

use rustls::{crypto::CryptoProvider, pki_types::SubjectPublicKeyInfoDer};
use webpki::{CertRevocationList, OwnedCertRevocationList, RawPublicKeyEntity};
use x509_parser::{
    extensions::{DistributionPointName, GeneralName, ParsedExtension},
    prelude::{FromDer, X509Certificate},
    revocation_list::CertificateRevocationList,
};

use super::error::{MaterialError, when};
use crate::{
    admit::{Denial, Denied},
    config::Revocation,
    identity::{CertFacts, Serial, Sha256, UnixSeconds},
};

/// Remembered signature checks; more issuers than this is not a real deployment.
const REMEMBERED: usize = 1024;

/// What tells the lists of different issuers, keys and scopes apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    issuer: Vec<u8>,
    key: Option<Vec<u8>>,
    scope: Option<Vec<u8>>,
}

/// One list, kept because its number is the highest of its line.
#[derive(Debug)]
pub struct Crl {
    /// Issuer, for messages.
    pub issuer: String,
    /// CRL number, big-endian without leading zeros; `None`: the list has none.
    pub number: Option<Serial>,
    /// When it was issued.
    pub this_update: UnixSeconds,
    /// When the next one is due.
    pub next_update: UnixSeconds,
    /// How many certificates it revokes.
    pub revoked: usize,
    /// Where it came from.
    pub file: PathBuf,
    line: Line,
    scope: Option<Scope>,
    list: CertRevocationList<'static>,
    der: std::sync::Arc<[u8]>,
    signed: Signed,
}

/// The signed part and the signature, as ranges' copies.
#[derive(Debug, Clone)]
struct Signed {
    algorithm: Vec<u8>,
    message: Vec<u8>,
    signature: Vec<u8>,
}

/// The issuing distribution point.
#[derive(Debug, Clone)]
struct Scope {
    only_leaves: bool,
    only_issuers: bool,
    uris: Vec<String>,
}

/// All lists of one trust, and how strictly they are asked.
#[derive(Debug)]
pub struct CrlSet {
    crls: Vec<Crl>,
    tolerate_expired: bool,
    leaf_only: bool,
    /// (index of the list, hash of the issuer's certificate) whose signature was found good.
    verified: RwLock<HashSet<(usize, Sha256)>>,
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
    /// Reads the files of `revocation` and keeps the newest list of each line. `roots` are DER
    /// certificates of known roots, whose lists are checked at once.
    ///
    /// # Errors
    /// Every file that can't be used, every list that is not supported, and every line whose
    /// number is lower than that of `previous`.
    pub fn load(
        revocation: &Revocation,
        previous: Option<&Self>,
    ) -> Result<Self, Vec<MaterialError>> {
        let mut errors = Vec::new();
        let mut crls: Vec<Crl> = Vec::new();
        for file in &revocation.files {
            match read(file) {
                Ok(found) => found
                    .into_iter()
                    .for_each(|crl| keep_newest(&mut crls, crl)),
                Err(error) => errors.push(error),
            }
        }
        for crl in &crls {
            let before = previous.and_then(|p| p.crls.iter().find(|old| old.line == crl.line));
            if let Some(before) = before.filter(|old| crl.older_than(old)) {
                errors.push(MaterialError {
                    certificate: Some(format!("CRL of {:?}", crl.issuer)),
                    ..MaterialError::file(
                        &crl.file,
                        format!(
                            "its number {} is lower than {}, which is in force: a revocation could be lost",
                            crl.numbered(),
                            before.numbered()
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
        self.crls.iter().map(|crl| &*crl.der)
    }

    /// Judges a proven path, leaf first.
    pub(super) fn check(
        &self,
        path: &[Link<'_>],
        provider: &CryptoProvider,
        now: UnixSeconds,
    ) -> Result<(), Denied> {
        path.iter()
            .filter(|link| !(self.leaf_only && link.is_issuer))
            .try_for_each(|link| self.check_link(link, provider, now))
    }

    fn check_link(
        &self,
        link: &Link<'_>,
        provider: &CryptoProvider,
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
            Some(stale) if !self.tolerate_expired => Err(Denied::new(
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
        let signer = Sha256::of(link.issuer_der.unwrap_or(link.issuer_key.as_ref()));
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
        }
        good
    }
}

impl Crl {
    /// The number for people.
    #[must_use]
    pub fn numbered(&self) -> String {
        self.number
            .as_ref()
            .map_or_else(|| "(none)".to_owned(), |n| format!("0x{n}"))
    }

    /// By number where both have one, else by date.
    fn older_than(&self, other: &Self) -> bool {
        match (&self.number, &other.number) {
            (Some(a), Some(b)) => (a.0.len(), &a.0) < (b.0.len(), &b.0),
            _ => self.this_update < other.this_update,
        }
    }

    fn signature_is_good(
        &self,
        key: &SubjectPublicKeyInfoDer<'static>,
        provider: &CryptoProvider,
    ) -> bool {
        let Ok(entity) = RawPublicKeyEntity::try_from(key) else {
            return false;
        };
        provider
            .signature_verification_algorithms
            .all
            .iter()
            .filter(|algorithm| {
                algorithm
                    .signature_alg_id()
                    .starts_with(&self.signed.algorithm)
            })
            .any(|algorithm| {
                entity
                    .verify_signature(*algorithm, &self.signed.message, &self.signed.signature)
                    .is_ok()
            })
    }

    /// Whether the list speaks for this certificate (RFC 5280 sections 5.2.5 and 6.3.3).
    fn covers(&self, link: &Link<'_>) -> bool {
        let Some(scope) = &self.scope else {
            return true;
        };
        if scope.only_issuers && !link.is_issuer || scope.only_leaves && link.is_issuer {
            return false;
        }
        match distribution_points(link.der) {
            None => false,
            Some(points) if points.is_empty() => true,
            Some(points) => points.iter().any(|uri| scope.uris.contains(uri)),
        }
    }
}

/// All lists of a file, PEM or DER.
fn read(file: &Path) -> Result<Vec<Crl>, MaterialError> {
    use rustls::pki_types::{CertificateRevocationListDer, pem::PemObject};
    let bytes = super::material::read_public(file)?;
    let is_pem = bytes.windows(11).any(|w| w == b"-----BEGIN ");
    let ders: Vec<Vec<u8>> = if is_pem {
        CertificateRevocationListDer::pem_slice_iter(&bytes)
            .map(|crl| crl.map(|crl| crl.as_ref().to_vec()))
            .collect::<Result<_, _>>()
            .map_err(|e| {
                MaterialError::file(
                    file,
                    format!("malformed PEM: {e}"),
                    "expected X509 CRL sections",
                )
            })?
    } else {
        vec![bytes]
    };
    if ders.is_empty() {
        return Err(MaterialError::file(
            file,
            "no CRL in it",
            "expected one or more X509 CRL sections, or one CRL in DER",
        ));
    }
    ders.iter().map(|der| parse(file, der)).collect()
}

fn parse(file: &Path, der: &[u8]) -> Result<Crl, MaterialError> {
    let unusable = |problem: String| {
        MaterialError::file(
            file,
            problem,
            "expected complete, direct version 2 CRLs with a next update (openssl ca -gencrl with crlnumber, or portcullis pki crl)",
        )
    };
    // the engine's reader is the strict one: it refuses delta, indirect and partitioned lists
    let list = OwnedCertRevocationList::from_der(der)
        .map_err(|e| unusable(format!("a CRL can't be used: {}", crl_error(&e))))?;
    let (_, parsed) = CertificateRevocationList::from_der(der)
        .map_err(|e| unusable(format!("a CRL is malformed: {e}")))?;
    let mut key = None;
    let mut scope = None;
    let mut scope_der = None;
    for extension in parsed.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                key = id.key_identifier.as_ref().map(|id| id.0.to_vec());
            }
            ParsedExtension::IssuingDistributionPoint(point) => {
                scope_der = Some(extension.value.to_vec());
                scope = Some(Scope {
                    only_leaves: point.only_contains_user_certs,
                    only_issuers: point.only_contains_ca_certs,
                    uris: full_names(point.distribution_point.as_ref()),
                });
            }
            ParsedExtension::ParseError { error } => {
                return Err(unusable(format!("a CRL extension is malformed: {error}")));
            }
            #[expect(
                clippy::wildcard_enum_match_arm,
                reason = "others say nothing of scope"
            )]
            _ => {}
        }
    }
    if scope_der.is_none()
        && parsed
            .extensions()
            .iter()
            .any(|e| e.oid.to_id_string() == "2.5.29.28")
    {
        return Err(unusable(
            "its issuing distribution point can't be read".to_owned(),
        ));
    }
    let oid = parsed.signature_algorithm.algorithm.as_bytes();
    let length = u8::try_from(oid.len())
        .map_err(|_| unusable("its signature algorithm is unknown".to_owned()))?;
    let list = CertRevocationList::from(list);
    Ok(Crl {
        issuer: parsed.issuer().to_string(),
        number: parsed.crl_number().map(|n| Serial::new(&n.to_bytes_be())),
        this_update: UnixSeconds(parsed.last_update().timestamp()),
        next_update: UnixSeconds(parsed.next_update().map_or(0, |t| t.timestamp())),
        revoked: parsed.iter_revoked_certificates().count(),
        file: file.to_owned(),
        line: Line {
            issuer: list.issuer().to_vec(),
            key,
            scope: scope_der,
        },
        scope,
        signed: Signed {
            algorithm: [&[0x06, length], oid].concat(),
            message: parsed.tbs_cert_list.as_ref().to_vec(),
            signature: parsed.signature_value.as_ref().to_vec(),
        },
        list,
        der: der.into(),
    })
}

fn crl_error(error: &webpki::Error) -> String {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the engine's list is open; its own words are kept"
    )]
    match error {
        webpki::Error::UnsupportedDeltaCrl => "delta CRLs are not supported".to_owned(),
        webpki::Error::UnsupportedIndirectCrl => "indirect CRLs are not supported".to_owned(),
        webpki::Error::UnsupportedRevocationReasonsPartitioning => {
            "CRLs for some reasons only are not supported".to_owned()
        }
        webpki::Error::UnsupportedCrlVersion => {
            "it is no version 2 CRL (it has no CRL number?)".to_owned()
        }
        other => format!("{other:?}"),
    }
}

fn keep_newest(crls: &mut Vec<Crl>, crl: Crl) {
    match crls.iter_mut().find(|kept| kept.line == crl.line) {
        Some(kept) if kept.older_than(&crl) => *kept = crl,
        Some(_) => {}
        None => crls.push(crl),
    }
}

fn full_names(point: Option<&DistributionPointName<'_>>) -> Vec<String> {
    match point {
        Some(DistributionPointName::FullName(names)) => names
            .iter()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some((*uri).to_owned()),
                #[expect(clippy::wildcard_enum_match_arm, reason = "only URIs are compared")]
                _ => None,
            })
            .collect(),
        Some(DistributionPointName::NameRelativeToCRLIssuer(_)) | None => Vec::new(),
    }
}

/// The URIs of a certificate's distribution points; empty: it has none; `None`: unreadable.
fn distribution_points(der: &[u8]) -> Option<Vec<String>> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let mut uris = Vec::new();
    for extension in cert.extensions() {
        if let ParsedExtension::CRLDistributionPoints(points) = extension.parsed_extension() {
            // points of indirect or partitioned lists can't match ours, but they are points
            let usable = points
                .iter()
                .filter(|p| p.crl_issuer.is_none() && p.reasons.is_none());
            uris.extend(usable.flat_map(|p| full_names(p.distribution_point.as_ref())));
            if uris.is_empty() {
                return None;
            }
        }
    }
    Some(uris)
}

/// Key usage, where an issuer has one, must allow the signing of CRLs (RFC 5280 section 6.3.3 f).
fn may_sign_crls(issuer: &[u8]) -> bool {
    X509Certificate::from_der(issuer).is_ok_and(|(_, cert)| {
        cert.key_usage()
            .is_ok_and(|usage| usage.is_none_or(|usage| usage.value.crl_sign()))
    })
}

fn about(der: &[u8], say: impl FnOnce(&CertFacts) -> String) -> String {
    CertFacts::read(der).map_or_else(|e| e.to_string(), |facts| say(&facts))
}
