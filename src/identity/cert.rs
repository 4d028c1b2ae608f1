//! The one reader of X.509 (RFC 5280): DER in, [`CertFacts`] out. It proves nothing: only
//! `tls::verify` turns facts into a verified peer.

use std::{fmt, net::IpAddr};

use super::SpiffeId;

/// Seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixSeconds(pub i64);

/// A SHA-256 value; `Display` is lower-case hex without colons.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

/// A certificate serial number: big-endian content octets without leading zeros (RFC 5280
/// section 4.1.2.2); `Display` is lower-case hex.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(pub Vec<u8>);

/// What the extended key usage extension holds (RFC 5280 section 4.2.1.12).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtendedUsage {
    /// The extension is there at all.
    pub present: bool,
    /// id-kp-serverAuth.
    pub server_auth: bool,
    /// id-kp-clientAuth.
    pub client_auth: bool,
    /// Anything else, as dotted OIDs.
    pub other: Vec<String>,
}

/// Everything that rules, logs and reports ask of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertFacts {
    /// SHA-256 of the whole DER.
    pub fingerprint: Sha256,
    /// SHA-256 of the SubjectPublicKeyInfo DER.
    pub spki: Sha256,
    /// Serial number.
    pub serial: Serial,
    /// Subject, RFC 4514 style; may be empty.
    pub subject: String,
    /// Issuer, RFC 4514 style.
    pub issuer: String,
    /// First second of validity.
    pub not_before: UnixSeconds,
    /// Last second of validity.
    pub not_after: UnixSeconds,
    /// DNS SANs, lower case, in order.
    pub dns: Vec<String>,
    /// IP SANs, in order.
    pub ips: Vec<IpAddr>,
    /// URI SANs, verbatim, in order.
    pub uris: Vec<String>,
    /// The URI SANs that are SPIFFE IDs (RFC: SPIFFE-ID; a leaf must carry at most one).
    pub spiffe: Vec<SpiffeId>,
    /// Extended key usage.
    pub usage: ExtendedUsage,
    /// basicConstraints CA:TRUE.
    pub is_ca: bool,
    /// Key algorithm and size, for reports: "ECDSA P-256", "RSA 3072", "Ed25519".
    pub key: String,
}

/// A certificate that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a readable X.509 certificate: {reason}")]
pub struct CertError {
    /// What the parser met.
    pub reason: String,
}

impl CertFacts {
    /// Reads a DER certificate.
    ///
    /// # Errors
    /// The bytes are not one certificate, or a SAN is malformed (a URI that starts with
    /// `spiffe:` and is no SPIFFE ID counts as malformed: it must not be skipped silently).
    pub fn read(der: &[u8]) -> Result<Self, CertError> {
        let _ = der;
        todo!()
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{self}")
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "serial:{self}")
    }
}
