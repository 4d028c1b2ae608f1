//! What was issued and revoked (`state/state.json`). It changes together with the files that it
//! speaks of: a certificate that exists can always be revoked.

use std::{collections::HashMap, path::Path};

use rcgen::RevocationReason;

use super::{
    PkiError, Role,
    authority::read_leaf,
    ca::{CaKind, CaRecord, CaStanding},
    change::Change,
    constraints::Permitted,
    store,
};
use crate::identity::{Serial, Sha256, UnixSeconds};

/// The shape of `state.json` that this program writes. It reads all before it, too.
const SCHEMA: u32 = 2;
const DAY: i64 = 86_400;

/// Why a certificate is revoked (RFC 5280 section 5.3.1; those that fit a leaf).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// No reason is given.
    Unspecified,
    /// Somebody else may have the key.
    KeyCompromise,
    /// The holder's name or place changed.
    AffiliationChanged,
    /// A newer certificate takes its place.
    Superseded,
    /// It is not needed any more.
    CessationOfOperation,
    /// The holder may no longer do what it says.
    PrivilegeWithdrawn,
}

impl Reason {
    /// As commands and the audit log say it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "key-compromise",
            Self::AffiliationChanged => "affiliation-changed",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessation-of-operation",
            Self::PrivilegeWithdrawn => "privilege-withdrawn",
        }
    }

    /// `None`: the code "unspecified" should be left out of a CRL.
    pub(super) fn code(self) -> Option<RevocationReason> {
        match self {
            Self::Unspecified => None,
            Self::KeyCompromise => Some(RevocationReason::KeyCompromise),
            Self::AffiliationChanged => Some(RevocationReason::AffiliationChanged),
            Self::Superseded => Some(RevocationReason::Superseded),
            Self::CessationOfOperation => Some(RevocationReason::CessationOfOperation),
            Self::PrivilegeWithdrawn => Some(RevocationReason::PrivilegeWithdrawn),
        }
    }
}

/// When and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoked {
    /// Unix seconds.
    pub at: i64,
    /// The reason in the CRL.
    pub reason: Reason,
}

/// One certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Lower-case hex.
    pub serial: String,
    /// For which role.
    pub role: Role,
    /// The last segment of its SPIFFE ID.
    pub name: String,
    /// Signed by its own key: no CRL can revoke it.
    pub self_signed: bool,
    /// Key algorithm: `ecdsa-p256`, `ecdsa-p384`, `ed25519` or `rsa-BITS`.
    pub algorithm: String,
    /// DNS and IP SANs.
    pub sans: Vec<String>,
    /// Unix seconds.
    pub not_before: i64,
    /// Unix seconds.
    pub not_after: i64,
    /// SHA-256 of the DER, hex.
    pub fingerprint: String,
    /// Serial number of the CA that signed it; absent where it signed itself.
    #[serde(default)]
    pub issuer: Option<String>,
    /// SHA-256 of its public key, hex; empty where schema 1 did not record it.
    #[serde(default)]
    pub spki: String,
    /// The key was made elsewhere, and signed by a request.
    #[serde(default)]
    pub requested: bool,
    /// When a newer certificate of the same role and name took its place, Unix seconds. It is
    /// valid all the same until it ends or is revoked.
    #[serde(default)]
    pub superseded: Option<i64>,
    /// Absent: in force, as far as the CRL goes.
    pub revoked: Option<Revoked>,
}

/// `state/state.json`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    pub(super) schema: u32,
    pub(super) trust_domain: String,
    pub(super) permitted: Permitted,
    /// The last number of the issuing CA's CRL; it only grows.
    pub(super) issuing_crl_number: u64,
    /// The last number of the root's CRL; it only grows.
    pub(super) root_crl_number: u64,
    /// Life of the issuing CA's last CRL: one that a revocation writes must not end sooner than
    /// whoever renews it by the calendar expects.
    pub(super) crl_days: u32,
    /// Every root and issuing CA, oldest first.
    #[serde(default)]
    pub(super) authorities: Vec<CaRecord>,
    pub(super) certificates: Vec<Record>,
}

impl State {
    pub(super) fn new(trust_domain: String, permitted: Permitted) -> Self {
        Self {
            schema: SCHEMA,
            trust_domain,
            permitted,
            issuing_crl_number: 0,
            root_crl_number: 0,
            crl_days: super::CrlOptions::default().days,
            authorities: Vec::new(),
            certificates: Vec::new(),
        }
    }

    pub(super) fn load(folder: &Path) -> Result<Self, PkiError> {
        #[derive(serde::Deserialize)]
        struct Shape {
            schema: u32,
        }
        let path = folder.join("state.json");
        let bytes = store::read(&path)?;
        let wrong = |e: serde_json::Error| PkiError::invalid(format!("{}: {e}", path.display()));
        // the number first: a newer shape must be named, not reported as an unknown field
        let shape: Shape = serde_json::from_slice(&bytes).map_err(wrong)?;
        if !(1..=SCHEMA).contains(&shape.schema) {
            return Err(PkiError::invalid(format!(
                "{} has schema {}, this program knows 1 to {SCHEMA}: use a version at least as \
                 new as the one that wrote it",
                path.display(),
                shape.schema
            )));
        }
        let mut state: Self = serde_json::from_slice(&bytes).map_err(wrong)?;
        if state.schema < SCHEMA {
            state.migrate(folder)?;
        }
        Ok(state)
    }

    /// Schema 1 knew one root, one issuing CA, and nothing of successors.
    fn migrate(&mut self, folder: &Path) -> Result<(), PkiError> {
        let pki = folder.parent().unwrap_or(folder);
        let root = Some(pki.join("root/ca.pem"))
            .filter(|path| path.exists())
            .unwrap_or_else(|| pki.join("trust.pem"));
        let (_, root) = read_leaf(&root)?;
        let (_, issuing) = read_leaf(&pki.join("issuing/ca.pem"))?;
        let above = root.serial.to_string();
        self.authorities = vec![
            CaRecord::new(CaKind::Root, CaStanding::Current, &root, &above),
            CaRecord::new(CaKind::Issuing, CaStanding::Current, &issuing, &above),
        ];
        let mut newer: HashMap<(Role, String), i64> = HashMap::new();
        for record in self.certificates.iter_mut().rev() {
            if !record.self_signed {
                record.issuer = Some(issuing.serial.to_string());
            }
            let name = (record.role, record.name.clone());
            record.superseded = newer.insert(name, record.not_before);
        }
        self.schema = SCHEMA;
        Ok(())
    }

    /// Has the state written with the rest of a change.
    pub(super) fn save(&self, folder: &Path, change: &mut Change) -> Result<(), PkiError> {
        let mut bytes =
            serde_json::to_vec_pretty(self).map_err(|e| PkiError::crypto("write the state", e))?;
        bytes.push(b'\n');
        change.write(folder.join("state.json"), bytes, store::PRIVATE);
        Ok(())
    }

    /// The CA that signs now.
    pub(super) fn current(&self, kind: CaKind) -> Result<&CaRecord, PkiError> {
        self.authorities
            .iter()
            .find(|ca| ca.kind == kind && ca.standing == CaStanding::Current)
            .ok_or_else(|| PkiError::invalid(format!("the state knows no {kind} CA in force")))
    }

    /// Whether the CA that signed it is being rotated out, or was, by force maybe: nobody accepts it
    /// then, and whoever renews what is due may not pass it by.
    pub(super) fn is_leaving(&self, record: &Record) -> bool {
        let by = |ca: &&CaRecord| record.issuer.as_ref() == Some(&ca.serial);
        let ca = self.authorities.iter().find(by);
        ca.is_some_and(|ca| matches!(ca.standing, CaStanding::Old | CaStanding::Ended))
    }

    /// Whether nothing was issued to that name.
    pub(super) fn has_none(&self, role: Role, name: &str) -> bool {
        let mut all = self.certificates.iter();
        !all.any(|record| record.role == role && record.name == name)
    }

    /// Adds a certificate, which takes the place of those of its role and name.
    pub(super) fn add(&mut self, record: Record, now: UnixSeconds) {
        for other in &mut self.certificates {
            if other.role == record.role && other.name == record.name {
                other.superseded.get_or_insert(now.0);
            }
        }
        self.certificates.push(record);
    }
}

impl Record {
    /// "in force", "expires soon", "expired", "superseded", "not yet valid" or "revoked". Soon: a
    /// third of its life is left, the point at which a renewal is due.
    #[must_use]
    pub fn standing(&self, now: UnixSeconds) -> &'static str {
        let life = self.not_after.saturating_sub(self.not_before);
        match self {
            Self {
                revoked: Some(_), ..
            } => "revoked",
            _ if now.0 > self.not_after => "expired",
            Self {
                superseded: Some(_),
                ..
            } => "superseded",
            _ if now.0 < self.not_before => "not yet valid",
            _ if self.not_after.saturating_sub(now.0) < life / 3 => "expires soon",
            _ => "in force",
        }
    }

    /// Its life in days, rounded up; the minute that it was dated back does not count.
    pub(super) fn days(&self) -> u32 {
        let life = self.not_after.saturating_sub(self.not_before);
        u32::try_from(life.saturating_add(DAY - 61) / DAY).unwrap_or(u32::MAX)
    }

    /// Whether a peer would accept it today, superseded or not.
    pub(super) fn is_valid(&self, now: UnixSeconds) -> bool {
        self.revoked.is_none() && !self.self_signed && now.0 <= self.not_after
    }

    /// `ROLE/NAME (serial …)`.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{}/{} (serial {})", self.role, self.name, self.serial)
    }

    /// Whether it ends within so many days, or has ended.
    #[must_use]
    pub fn ends_within(&self, days: u32, now: UnixSeconds) -> bool {
        self.not_after <= now.0.saturating_add(i64::from(days) * DAY)
    }

    pub(super) fn serial(&self) -> Option<Serial> {
        Serial::parse(&self.serial)
    }

    /// The fingerprint as a value.
    #[must_use]
    pub fn sha256(&self) -> Option<Sha256> {
        Sha256::parse(&self.fingerprint)
    }
}
