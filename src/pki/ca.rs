//! The CAs of an authority: a root and an issuing CA, and during a rotation those before and
//! after them. The keys live in `root/` and `issuing/`; those of a CA that is not (or no more) the
//! one that signs, in a folder below.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};

use super::{
    Algorithm, Authority, PkiError, Revoked,
    algorithm::{key_from_file, key_to_pem},
    authority::{BACKDATE, after, date, new_serial, read_leaf},
    change::Change,
    constraints::Permitted,
    state::State,
    store::{self, PRIVATE, PUBLIC, make_folder},
};
use crate::identity::{CertFacts, Serial, Sha256, TrustDomain, UnixSeconds};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaKind {
    /// Trusted by peers; signs issuing CAs.
    Root,
    /// Signs leaves.
    Issuing,
}

impl CaKind {
    /// As it stands in folders and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Issuing => "issuing",
        }
    }
}

impl std::fmt::Display for CaKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where a CA is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaStanding {
    /// Peers are told of it; it signs no leaf yet.
    Next,
    /// Signs.
    Current,
    /// Trusted until the rotation is finished; signs CRLs alone.
    Old,
    /// Not trusted any more.
    Ended,
}

/// One CA.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaRecord {
    /// Lower-case hex.
    pub serial: String,
    /// Root or issuing.
    pub kind: CaKind,
    /// Where it is in its life.
    pub standing: CaStanding,
    /// Its name; no two are the same.
    pub subject: String,
    /// Serial number of the root above; its own for a root.
    pub root: String,
    /// Unix seconds.
    pub not_before: i64,
    /// Unix seconds.
    pub not_after: i64,
    /// SHA-256 of the DER, hex.
    pub fingerprint: String,
    /// By the root.
    #[serde(default)]
    pub revoked: Option<Revoked>,
}

impl CaRecord {
    pub(super) fn new(kind: CaKind, standing: CaStanding, facts: &CertFacts, root: &str) -> Self {
        Self {
            serial: facts.serial.to_string(),
            kind,
            standing,
            subject: facts.subject.clone(),
            root: root.to_owned(),
            not_before: facts.not_before.0,
            not_after: facts.not_after.0,
            fingerprint: facts.fingerprint.to_string(),
            revoked: None,
        }
    }

    /// In the bundle, or under a root that is.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.standing != CaStanding::Ended
    }

    pub(super) fn serial(&self) -> Option<Serial> {
        Serial::parse(&self.serial)
    }

    /// `issuing CA CN=… (serial …)`.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{} CA {} (serial {})", self.kind, self.subject, self.serial)
    }
}

/// A CA that can sign.
pub(super) struct Signer {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) pem: String,
    pub(super) facts: CertFacts,
}

impl Signer {
    /// A clock that was set back dates what is signed into the past: certificates that end early,
    /// and lists with which every peer is refused.
    pub(super) fn has_begun(&self, now: UnixSeconds) -> Result<(), PkiError> {
        let begin = self.facts.not_before;
        if begin <= now {
            return Ok(());
        }
        Err(PkiError::invalid(format!(
            "the CA {} begins at {begin}, and now is {now}: set the clock",
            self.facts.subject
        )))
    }
}

impl Authority {
    /// Every root and issuing CA, oldest first.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn authorities(&self) -> Result<Vec<CaRecord>, PkiError> {
        Ok(State::load(&self.state_folder())?.authorities)
    }

    /// Where a CA's key and certificate are.
    pub(super) fn ca_folder(&self, ca: &CaRecord) -> PathBuf {
        let folder = self.folder().join(ca.kind.as_str());
        match ca.standing {
            CaStanding::Current => folder,
            CaStanding::Next | CaStanding::Old | CaStanding::Ended => {
                folder.join(ca.serial.get(..16).unwrap_or(&ca.serial))
            }
        }
    }

    /// Loads a CA with its key.
    pub(super) fn signer(&self, ca: &CaRecord) -> Result<Signer, PkiError> {
        let folder = self.ca_folder(ca);
        let key = key_from_file(&folder.join("ca.key"), self.passphrase())?;
        let path = folder.join("ca.pem");
        let (der, facts) = read_leaf(&path)?;
        if facts.fingerprint.to_string() != ca.fingerprint {
            return Err(PkiError::invalid(format!(
                "{} is not the {} that the state knows: put the file back from a backup",
                path.display(),
                ca.title()
            )));
        }
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        if Sha256::of(&spki) != facts.spki {
            return Err(PkiError::invalid(format!(
                "{} is not the key of the {}: another CA's was put there",
                folder.join("ca.key").display(),
                ca.title()
            )));
        }
        let issuer = Issuer::from_ca_cert_der(&der, key)
            .map_err(|e| PkiError::crypto(format!("read the CA in {}", path.display()), e))?;
        Ok(Signer {
            issuer,
            pem: store::read_text(&path)?,
            facts,
        })
    }

    pub(super) fn has_key(&self, ca: &CaRecord) -> bool {
        self.ca_folder(ca).join("ca.key").exists()
    }

    /// Has a new CA's files written where its standing puts them.
    pub(super) fn place(
        &self,
        ca: &CaRecord,
        signer: &Signer,
        change: &mut Change,
    ) -> Result<(), PkiError> {
        let folder = self.ca_folder(ca);
        make_folder(&folder, 0o700)?;
        let key = key_to_pem(signer.issuer.key(), self.passphrase())?;
        change.write(folder.join("ca.key"), key.as_bytes(), PRIVATE);
        change.write(folder.join("ca.pem"), signer.pem.as_bytes(), PUBLIC);
        Ok(())
    }
}

/// What a new CA is to be.
pub(super) struct CaPlan<'a> {
    pub(super) domain: &'a TrustDomain,
    pub(super) permitted: &'a Permitted,
    pub(super) algorithm: Algorithm,
    pub(super) days: u32,
}

impl CaPlan<'_> {
    /// Makes a root, or an issuing CA under one; it never outlives its root.
    pub(super) fn make(
        &self,
        above: Option<&Signer>,
        now: UnixSeconds,
    ) -> Result<Signer, PkiError> {
        let key = self.algorithm.generate()?;
        let (what, path_length) = match above {
            None => ("root", 1),
            Some(_) => ("issuing", 0),
        };
        let mut params = self.params(what, path_length, now)?;
        let wrong = |e: rcgen::Error| PkiError::crypto(format!("make the {what} CA"), e);
        let certificate = match above {
            None => params.self_signed(&key),
            Some(root) => {
                params.use_authority_key_identifier_extension = true;
                if after(now, self.days) > root.facts.not_after {
                    params.not_after = date(root.facts.not_after)?;
                }
                params.signed_by(&key, &root.issuer)
            }
        }
        .map_err(wrong)?;
        let facts = CertFacts::read(certificate.der())
            .map_err(|e| PkiError::crypto("read the new CA back", e))?;
        Ok(Signer {
            issuer: Issuer::from_ca_cert_der(certificate.der(), key).map_err(wrong)?,
            pem: certificate.pem(),
            facts,
        })
    }

    fn params(
        &self,
        what: &str,
        path_length: u8,
        now: UnixSeconds,
    ) -> Result<CertificateParams, PkiError> {
        let serial = new_serial()?;
        let mut params = CertificateParams::default();
        // CRLs are found by the issuer's name: no two CAs may share one
        let tag: String = serial.iter().take(4).map(|b| format!("{b:02x}")).collect();
        let common = format!("portcullis {what} CA {tag}");
        params.distinguished_name = subject(self.domain, &common);
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_before = date(UnixSeconds(now.0 - BACKDATE))?;
        params.not_after = date(after(now, self.days))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // on both: not every verifier reads constraints off a trust anchor
        params.name_constraints = self.permitted.extension();
        Ok(params)
    }
}

/// O=trust domain, CN=what it is. What is longer than an X.520 attribute may be (64) is left out.
pub(super) fn subject(domain: &TrustDomain, common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if domain.as_str().len() <= 64 {
        name.push(DnType::OrganizationName, domain.as_str());
    }
    if common.len() <= 64 {
        name.push(DnType::CommonName, common);
    }
    name
}
