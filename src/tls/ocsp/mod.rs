//! Whether the authority still stands by a certificate of ours: the question to its responder, and
//! its answer, proven before it is shown to anybody (RFC 6960, in the profile of RFC 5019).

mod der;
mod question;
mod response;
#[cfg(test)]
mod tests;

pub use question::{Named, Question, Responder, Sent};
pub use response::parse_only;

use crate::identity::UnixSeconds;

/// An answer is one status, one signature and a certificate or two.
pub const LARGEST: usize = 64 << 10;

/// How far the responder's clock may be ahead of ours.
const SKEW: i64 = 300;

/// What the authority says of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is not revoked.
    Good,
    /// It is, since then.
    Revoked(UnixSeconds),
}

/// An answer that was proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// As it came, for those who want to see it themselves.
    pub der: Vec<u8>,
    /// What it says.
    pub status: Status,
    /// Since when that is known to hold.
    pub this_update: UnixSeconds,
    /// From here on it proves nothing: the next update is due, or the signer's own certificate
    /// has ended.
    pub until: UnixSeconds,
}

/// Why an answer is not shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", reason.code())]
pub struct Refused {
    /// In one word.
    pub reason: Reason,
    /// The facts.
    pub detail: String,
}

impl Refused {
    /// With its facts.
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

/// Why an answer is not shown, in one word: a closed set, for log and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nobody answered in time, or not with 200.
    Unreachable,
    /// The responder answered that it does not answer.
    ResponderError,
    /// The answer is no OCSP response, or is none that we understand.
    Malformed,
    /// It is about other certificates.
    OtherCertificate,
    /// The responder does not know the certificate.
    Unknown,
    /// Whoever signed may not speak for the issuer.
    UntrustedSigner,
    /// The signature is wrong.
    BadSignature,
    /// It has ended, or has not begun.
    OutOfDate,
    /// A newer one is known.
    Older,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Unreachable,
        Self::ResponderError,
        Self::Malformed,
        Self::OtherCertificate,
        Self::Unknown,
        Self::UntrustedSigner,
        Self::BadSignature,
        Self::OutOfDate,
        Self::Older,
    ];

    /// The word; it is stable.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::ResponderError => "responder_error",
            Self::Malformed => "malformed",
            Self::OtherCertificate => "other_certificate",
            Self::Unknown => "unknown",
            Self::UntrustedSigner => "untrusted_signer",
            Self::BadSignature => "bad_signature",
            Self::OutOfDate => "out_of_date",
            Self::Older => "older",
        }
    }
}
