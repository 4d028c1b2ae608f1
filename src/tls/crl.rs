//! One CRL (RFC 5280 section 5): reading it, its number, its scope, its signature.

use std::path::{Path, PathBuf};

use rustls::{crypto::CryptoProvider, pki_types::SubjectPublicKeyInfoDer};
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::{
    extensions::{DistributionPointName, GeneralName, ParsedExtension},
    prelude::{FromDer, X509Certificate},
    revocation_list::CertificateRevocationList,
};

use super::{error::MaterialError, revocation::Link, signed::Signed};
use crate::identity::{Serial, Sha256, UnixSeconds};

/// What tells the lists of different issuers, keys and scopes apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Line {
    issuer: Vec<u8>,
    key: Option<Vec<u8>>,
    scope: Option<Vec<u8>>,
}

impl Line {
    /// The identifier of the key that signs its lists, where they name it.
    pub(super) fn key(&self) -> Option<&Vec<u8>> {
        self.key.as_ref()
    }
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
    pub(super) line: Line,
    scope: Option<Scope>,
    pub(super) list: CertRevocationList<'static>,
    /// Hash of the whole list.
    pub digest: Sha256,
    signed: Signed,
}

/// The issuing distribution point.
#[derive(Debug, Clone)]
struct Scope {
    only_leaves: bool,
    only_issuers: bool,
    uris: Vec<String>,
}

impl Crl {
    /// The number for people.
    #[must_use]
    pub fn numbered(&self) -> String {
        self.number
            .as_ref()
            .map_or_else(|| "(none)".to_owned(), |n| format!("0x{n}"))
    }

    /// By number, else by date.
    pub(super) fn older_than(&self, other: &Self) -> bool {
        self.is_older_than(other.number.as_ref(), other.this_update)
    }

    /// Whether a list of the same line with this number and date is newer.
    #[must_use]
    pub fn is_older_than(&self, number: Option<&Serial>, this_update: UnixSeconds) -> bool {
        match (&self.number, number) {
            (Some(a), Some(b)) if a != b => (a.0.len(), &a.0) < (b.0.len(), &b.0),
            // no number, or the same one twice: what was issued before may lack a revocation
            _ => self.this_update < this_update,
        }
    }

    /// Names the list's line (issuer, key and scope), in hexadecimal.
    #[must_use]
    pub fn line_id(&self) -> String {
        let parts = [
            Some(&self.line.issuer),
            self.line.key.as_ref(),
            self.line.scope.as_ref(),
        ];
        let mut bytes = Vec::new();
        for part in parts {
            let length = part.map_or(u64::MAX, |part| {
                u64::try_from(part.len()).unwrap_or(u64::MAX - 1)
            });
            bytes.extend(length.to_be_bytes());
            bytes.extend(part.into_iter().flatten());
        }
        Sha256::of(&bytes).to_string()
    }

    /// Why this list must not follow one that was newer, for messages: its number is lower, or the
    /// same and it was issued before.
    #[must_use]
    pub fn goes_back(&self, number: Option<&Serial>) -> String {
        let other = number.map_or_else(|| "(none)".to_owned(), |n| format!("0x{n}"));
        if self.number.as_ref() == number {
            format!("it was issued before the one with its number {other}")
        } else {
            format!("its number {} is lower than {other}", self.numbered())
        }
    }

    pub(super) fn signature_is_good(
        &self,
        key: &SubjectPublicKeyInfoDer<'static>,
        provider: &CryptoProvider,
    ) -> bool {
        self.signed.is_by(key, provider)
    }

    /// Whether the list speaks for this certificate (RFC 5280 sections 5.2.5 and 6.3.3).
    pub(super) fn covers(&self, link: &Link<'_>) -> bool {
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
pub(super) fn read(file: &Path) -> Result<Vec<Crl>, MaterialError> {
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

pub(super) fn parse(file: &Path, der: &[u8]) -> Result<Crl, MaterialError> {
    let unusable = |problem: String| {
        MaterialError::file(
            file,
            problem,
            "expected complete, direct version 2 CRLs with a next update (openssl ca -gencrl with crlnumber, or portcullis pki crl)",
        )
    };
    // the engine's reader is the strict one: it refuses delta, indirect and partitioned lists
    let list = OwnedCertRevocationList::from_der(der)
        .map_err(|e| unusable(format!("a CRL can't be used: {}", crl_error(&e, der))))?;
    let (_, parsed) = CertificateRevocationList::from_der(der)
        .map_err(|e| unusable(format!("a CRL is malformed: {e}")))?;
    let mut key = None;
    let mut scope = None;
    let mut scope_der = None;
    for extension in parsed.extensions() {
        if let ParsedExtension::AuthorityKeyIdentifier(id) = extension.parsed_extension() {
            key = id.key_identifier.as_ref().map(|id| id.0.to_vec());
        } else if let ParsedExtension::IssuingDistributionPoint(point) =
            extension.parsed_extension()
        {
            scope_der = Some(extension.value.to_vec());
            scope = Some(Scope {
                only_leaves: point.only_contains_user_certs,
                only_issuers: point.only_contains_ca_certs,
                uris: full_names(point.distribution_point.as_ref()),
            });
        } else if let ParsedExtension::ParseError { error } = extension.parsed_extension() {
            return Err(unusable(format!("a CRL extension is malformed: {error}")));
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
    let signed = Signed::new(
        parsed.signature_algorithm.algorithm.as_bytes(),
        parsed.tbs_cert_list.as_ref(),
        parsed.signature_value.as_ref(),
    )
    .ok_or_else(|| unusable("its signature algorithm is unknown".to_owned()))?;
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
        signed,
        list,
        digest: Sha256::of(der),
    })
}

fn crl_error(error: &webpki::Error, der: &[u8]) -> String {
    let parsed = CertificateRevocationList::from_der(der).ok();
    match (error, parsed) {
        (webpki::Error::UnsupportedDeltaCrl, _) => "delta CRLs are not supported".to_owned(),
        (webpki::Error::UnsupportedIndirectCrl, _) => "indirect CRLs are not supported".to_owned(),
        (webpki::Error::UnsupportedRevocationReasonsPartitioning, _) => {
            "CRLs for some reasons only are not supported".to_owned()
        }
        (webpki::Error::UnsupportedCrlIssuingDistributionPoint, _) => {
            "its issuing distribution point is not supported: expected a list of all certificates, \
             or one whose issuing distribution point has a full name with the URI that stands in \
             their CRL distribution points; publish one without onlyContainsUserCerts, \
             onlyContainsCACerts and onlyContainsAttributeCerts, or with that URI"
                .to_owned()
        }
        (webpki::Error::UnsupportedCrlVersion, _) => "it is no version 2 CRL".to_owned(),
        // the engine calls a list without a version malformed
        (_, Some((_, list))) if list.version().is_none() => "it is a version 1 CRL".to_owned(),
        (webpki::Error::UnsupportedCriticalExtension, Some((_, list))) => {
            let critical = list.extensions().iter().filter(|e| e.critical);
            let all: Vec<_> = critical.map(|e| e.oid.to_id_string()).collect();
            format!(
                "not all of its critical extensions are known: {}",
                all.join(", ")
            )
        }
        (other, _) => format!("{other:?}"),
    }
}

/// Takes a list in, if none of its line is newer.
pub(super) fn keep_newest(crls: &mut Vec<Crl>, crl: Crl) {
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
            .filter_map(|name| {
                if let GeneralName::URI(uri) = name {
                    Some((*uri).to_owned())
                } else {
                    None
                }
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
