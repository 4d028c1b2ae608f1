//! The one reader of X.509 (RFC 5280): DER in, [`CertFacts`] out. It proves nothing: only
//! `tls::verify` turns facts into a verified peer.

use std::{fmt, net::IpAddr};

use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    prelude::{FromDer, X509Certificate},
    public_key::PublicKey,
    x509::SubjectPublicKeyInfo,
};

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

/// What the key usage extension lets a key do (RFC 5280 section 4.2.1.3); `Display` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUses(u16);

impl KeyUses {
    /// In the order of their bits.
    const NAMES: [&'static str; 9] = [
        "digitalSignature",
        "nonRepudiation",
        "keyEncipherment",
        "dataEncipherment",
        "keyAgreement",
        "keyCertSign",
        "cRLSign",
        "encipherOnly",
        "decipherOnly",
    ];

    /// Whether it may prove itself in a handshake.
    #[must_use]
    pub fn digital_signature(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether it may sign certificates.
    #[must_use]
    pub fn cert_sign(self) -> bool {
        self.0 & (1 << 5) != 0
    }

    /// Whether it may sign CRLs.
    #[must_use]
    pub fn crl_sign(self) -> bool {
        self.0 & (1 << 6) != 0
    }
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
    /// The URI SANs that are SPIFFE IDs (a leaf must carry at most one, and no other URI then).
    pub spiffe: Vec<SpiffeId>,
    /// Extended key usage.
    pub usage: ExtendedUsage,
    /// Key usage; `None`: without the extension, which restricts nothing.
    pub key_uses: Option<KeyUses>,
    /// basicConstraints CA:TRUE.
    pub is_ca: bool,
    /// Key algorithm and size, for reports: "ECDSA P-256", "RSA 3072", "Ed25519".
    pub key: String,
    /// It is of a kind and size whose proof we take in a handshake.
    pub key_proves: bool,
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
        let (rest, cert) = X509Certificate::from_der(der).map_err(|e| bad(e.to_string()))?;
        if !rest.is_empty() {
            return Err(bad(format!("{} bytes behind the certificate", rest.len())));
        }
        let mut facts = Self {
            fingerprint: Sha256::of(der),
            spki: Sha256::of(cert.public_key().raw),
            serial: Serial::new(cert.raw_serial()),
            subject: cert.subject().to_string(),
            issuer: cert.issuer().to_string(),
            not_before: UnixSeconds(cert.validity().not_before.timestamp()),
            not_after: UnixSeconds(cert.validity().not_after.timestamp()),
            dns: Vec::new(),
            ips: Vec::new(),
            uris: Vec::new(),
            spiffe: Vec::new(),
            usage: ExtendedUsage::default(),
            key_uses: None,
            is_ca: false,
            key: describe_key(cert.public_key()),
            key_proves: proves(cert.public_key()),
        };
        // x509-parser reports duplicates here
        let _unique = cert
            .tbs_certificate
            .extensions_map()
            .map_err(|e| bad(e.to_string()))?;
        for extension in cert.extensions() {
            facts.read_extension(extension.parsed_extension())?;
        }
        Ok(facts)
    }

    fn read_extension(&mut self, extension: &ParsedExtension<'_>) -> Result<(), CertError> {
        if let ParsedExtension::BasicConstraints(constraints) = extension {
            self.is_ca = constraints.ca;
        } else if let ParsedExtension::KeyUsage(uses) = extension {
            self.key_uses = Some(KeyUses(uses.flags));
        } else if let ParsedExtension::ExtendedKeyUsage(usage) = extension {
            self.usage = ExtendedUsage {
                present: true,
                server_auth: usage.server_auth,
                client_auth: usage.client_auth,
                other: usage.other.iter().map(ToString::to_string).collect(),
            };
        } else if let ParsedExtension::SubjectAlternativeName(names) = extension {
            for name in &names.general_names {
                self.read_name(name)?;
            }
        } else if let ParsedExtension::ParseError { error } = extension {
            return Err(bad(format!("an extension is malformed: {error}")));
        }
        Ok(())
    }

    fn read_name(&mut self, name: &GeneralName<'_>) -> Result<(), CertError> {
        if let GeneralName::DNSName(dns) = name {
            self.dns.push(dns.to_ascii_lowercase());
        } else if let GeneralName::URI(uri) = name {
            if uri
                .get(..7)
                .is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"))
            {
                let id = SpiffeId::parse(uri).map_err(|e| bad(e.to_string()))?;
                self.spiffe.push(id);
            }
            self.uris.push((*uri).to_owned());
        } else if let GeneralName::IPAddress(bytes) = name {
            let ip = match *bytes {
                [a, b, c, d] => IpAddr::from([*a, *b, *c, *d]),
                _ => IpAddr::from(<[u8; 16]>::try_from(*bytes).map_err(|_length| {
                    bad("an IP address SAN has neither 4 nor 16 bytes".into())
                })?),
            };
            self.ips.push(ip.to_canonical());
        } else if let GeneralName::Invalid(..) = name {
            return Err(bad("a subject alternative name is malformed".into()));
        }
        Ok(())
    }

    /// What the certificate is called in logs: its SPIFFE ID, else its first DNS name, else its
    /// fingerprint.
    #[must_use]
    pub fn display_name(&self) -> String {
        match (self.spiffe.first(), self.dns.first()) {
            (Some(id), _) => id.to_string(),
            (None, Some(dns)) => format!("dns:{dns}"),
            (None, None) => format!("sha256:{}", self.fingerprint),
        }
    }

    /// What is wrong with a leaf that says more than whose it is: one with a SPIFFE ID has exactly
    /// one URI SAN, whatever DNS names stand beside it (X509-SVID section 2).
    #[must_use]
    pub fn ambiguity(&self) -> Option<String> {
        match (self.spiffe.len(), self.uris.len()) {
            (0, _) | (1, 1) => None,
            (1, uris) => Some(format!("{uris} URIs, one of them a SPIFFE ID")),
            (ids, _) => Some(format!("{ids} SPIFFE IDs")),
        }
    }

    /// Subject, serial and issuer, for the details of a denial.
    #[must_use]
    pub fn describe(&self) -> String {
        let subject = if self.subject.is_empty() {
            "(no subject)"
        } else {
            &self.subject
        };
        format!(
            "{subject} (serial {}) issued by {}",
            self.serial, self.issuer
        )
    }
}

fn bad(reason: String) -> CertError {
    CertError { reason }
}

/// What the engine verifies signatures of: RSA of 2048 to 8192 bits, the curves of NIST, Ed25519.
fn proves(key: &SubjectPublicKeyInfo<'_>) -> bool {
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => (2048..=8192).contains(&bits(rsa.modulus)),
        Ok(PublicKey::EC(_)) => matches!(
            curve(key).as_deref(),
            Some("1.2.840.10045.3.1.7" | "1.3.132.0.34" | "1.3.132.0.35")
        ),
        _ => key.algorithm.algorithm.to_id_string() == "1.3.101.112",
    }
}

fn describe_key(key: &SubjectPublicKeyInfo<'_>) -> String {
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => format!("RSA {}", bits(rsa.modulus)),
        Ok(PublicKey::EC(_)) => match curve(key).as_deref() {
            Some("1.2.840.10045.3.1.7") => "ECDSA P-256".to_owned(),
            Some("1.3.132.0.34") => "ECDSA P-384".to_owned(),
            Some("1.3.132.0.35") => "ECDSA P-521".to_owned(),
            other => format!("ECDSA on curve {}", other.unwrap_or("unknown")),
        },
        _ if key.algorithm.algorithm.to_id_string() == "1.3.101.112" => "Ed25519".to_owned(),
        _ => key.algorithm.algorithm.to_id_string(),
    }
}

/// Length of a number, big-endian.
fn bits(number: &[u8]) -> u32 {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let number = number.get(zeros..).unwrap_or_default();
    let first = number.first().map_or(0, |byte| byte.leading_zeros());
    let all = u32::try_from(number.len()).map_or(u32::MAX, |bytes| bytes.saturating_mul(8));
    all.saturating_sub(first)
}

/// Whose points an elliptic curve's key is one of, as a dotted OID.
fn curve(key: &SubjectPublicKeyInfo<'_>) -> Option<String> {
    let named = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
    Some(named.to_id_string())
}

impl Sha256 {
    /// Hashes bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        let mut out = [0; 32];
        out.iter_mut()
            .zip(digest.as_ref())
            .for_each(|(to, from)| *to = *from);
        Self(out)
    }

    /// Parses 64 hex digits, colons allowed.
    #[must_use]
    pub fn parse(hex: &str) -> Option<Self> {
        parse_hex(hex)?.try_into().ok().map(Self)
    }
}

impl Serial {
    /// From content octets; leading zeros are dropped.
    #[must_use]
    pub fn new(octets: &[u8]) -> Self {
        let start = octets.iter().position(|b| *b != 0).unwrap_or(octets.len());
        Self(octets.get(start..).unwrap_or_default().to_vec())
    }

    /// Parses hex, colons allowed.
    #[must_use]
    pub fn parse(hex: &str) -> Option<Self> {
        parse_hex(hex).map(|octets| Self::new(&octets))
    }
}

fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b':').collect();
    // a number's parser takes a sign too
    let hex = digits.iter().all(u8::is_ascii_hexdigit);
    if !hex || digits.is_empty() || digits.len() > 128 {
        return None;
    }
    let padded = if digits.len() % 2 == 1 {
        [b"0", digits.as_slice()].concat()
    } else {
        digits
    };
    padded
        .chunks_exact(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

impl fmt::Display for UnixSeconds {
    /// RFC 3339, UTC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use time::{OffsetDateTime, format_description::well_known::Rfc3339};
        match OffsetDateTime::from_unix_timestamp(self.0).map(|t| t.format(&Rfc3339)) {
            Ok(Ok(text)) => f.write_str(&text),
            _ => write!(f, "@{}", self.0),
        }
    }
}

impl UnixSeconds {
    /// "in 61 days" or "3 hours ago".
    #[must_use]
    pub fn relative_to(self, now: Self) -> String {
        let seconds = self.0.saturating_sub(now.0);
        let size = seconds.unsigned_abs();
        let (n, unit) = match size {
            0..120 => (size, "second"),
            120..7_200 => (size / 60, "minute"),
            7_200..172_800 => (size / 3_600, "hour"),
            _ => (size / 86_400, "day"),
        };
        let s = if n == 1 { "" } else { "s" };
        if seconds >= 0 {
            format!("in {n} {unit}{s}")
        } else {
            format!("{n} {unit}{s} ago")
        }
    }
}

impl fmt::Display for KeyUses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = Self::NAMES.iter().enumerate();
        let set = bits.filter(|(bit, _)| self.0 & (1 << bit) != 0);
        let names: Vec<_> = set.map(|(_, name)| *name).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(", "))
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
