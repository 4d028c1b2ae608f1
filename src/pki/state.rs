//! What was issued and revoked (`state/state.json`), and the log of it (`state/audit.log`).
//! The state is written before the files that it speaks of: a certificate that exists can
//! always be revoked.

use std::path::Path;

use rcgen::RevocationReason;

use super::{Algorithm, PkiError, Role, constraints::Permitted, store};
use crate::identity::{Serial, Sha256, UnixSeconds};

/// The shape of `state.json` that this program writes and reads.
const SCHEMA: u32 = 1;
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
    /// Key algorithm.
    pub algorithm: Algorithm,
    /// DNS and IP SANs.
    pub sans: Vec<String>,
    /// Unix seconds.
    pub not_before: i64,
    /// Unix seconds.
    pub not_after: i64,
    /// SHA-256 of the DER, hex.
    pub fingerprint: String,
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
        if shape.schema != SCHEMA {
            return Err(PkiError::invalid(format!(
                "{} has schema {}, this program knows {SCHEMA}: use the version that wrote it",
                path.display(),
                shape.schema
            )));
        }
        serde_json::from_slice(&bytes).map_err(wrong)
    }

    pub(super) fn save(&self, folder: &Path) -> Result<(), PkiError> {
        let mut bytes =
            serde_json::to_vec_pretty(self).map_err(|e| PkiError::crypto("write the state", e))?;
        bytes.push(b'\n');
        store::write(&folder.join("state.json"), &bytes, store::PRIVATE)
    }
}

impl Record {
    /// "in force", "expires soon", "expired", "not yet valid" or "revoked". Soon: a third of its
    /// life is left, the point at which a renewal is due.
    #[must_use]
    pub fn standing(&self, now: UnixSeconds) -> &'static str {
        let life = self.not_after.saturating_sub(self.not_before);
        match self {
            Self {
                revoked: Some(_), ..
            } => "revoked",
            _ if now.0 > self.not_after => "expired",
            _ if now.0 < self.not_before => "not yet valid",
            _ if self.not_after.saturating_sub(now.0) < life / 3 => "expires soon",
            _ => "in force",
        }
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

/// Adds one line to the audit log: when, what, about whom.
pub(super) fn audit(
    folder: &Path,
    now: UnixSeconds,
    act: &str,
    facts: &[(&str, &str)],
) -> Result<(), PkiError> {
    use std::fmt::Write as _;
    let mut line = format!("{now} {act}");
    for (key, value) in facts {
        // Debug quotes and escapes: a name can't forge a second line
        let _infallible = write!(line, " {key}={value:?}");
    }
    line.push('\n');
    store::append(&folder.join("audit.log"), &line)
}
