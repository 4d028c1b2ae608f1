//! Key algorithms, and keys on disk: PKCS#8, encrypted when there is a passphrase (RFC 5958,
//! scrypt and AES-256-CBC as RFC 8018 and RFC 7914 put them).

use std::path::Path;

use aws_lc_rs::signature::Ed25519KeyPair;
use pkcs8::{EncryptedPrivateKeyInfoRef, LineEnding, PrivateKeyInfoRef, SecretDocument};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use rustls_pki_types::PrivatePkcs8KeyDer;
use x509_parser::{prelude::FromDer, public_key::PublicKey, x509::SubjectPublicKeyInfo};
use zeroize::Zeroizing;

use super::{PkiError, store};
use crate::{
    config::{SecretRef, secret},
    identity::CertFacts,
};

/// What a key is made of. ECDSA P-256 is the default: every TLS stack takes it and it costs
/// least per handshake.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    #[default]
    #[value(name = "ecdsa-p256")]
    #[serde(rename = "ecdsa-p256")]
    EcdsaP256,
    /// ECDSA on P-384 with SHA-384.
    #[value(name = "ecdsa-p384")]
    #[serde(rename = "ecdsa-p384")]
    EcdsaP384,
    /// Ed25519 (RFC 8410).
    #[value(name = "ed25519")]
    #[serde(rename = "ed25519")]
    Ed25519,
    /// RSA of 3072 bits with SHA-256.
    #[value(name = "rsa-3072")]
    #[serde(rename = "rsa-3072")]
    Rsa3072,
}

impl Algorithm {
    /// As commands and records say it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ecdsa-p256",
            Self::EcdsaP384 => "ecdsa-p384",
            Self::Ed25519 => "ed25519",
            Self::Rsa3072 => "rsa-3072",
        }
    }

    /// The kind of the key in a certificate, or the nearest that is made here.
    pub(super) fn like(leaf: &CertFacts) -> Self {
        match leaf.key.as_str() {
            "ECDSA P-384" => Self::EcdsaP384,
            "Ed25519" => Self::Ed25519,
            key if key.starts_with("RSA") => Self::Rsa3072,
            _ => Self::EcdsaP256,
        }
    }

    /// The one that a record names; RSA of another size becomes ours.
    pub(super) fn of_record(text: &str) -> Self {
        match text {
            "ecdsa-p384" => Self::EcdsaP384,
            "ed25519" => Self::Ed25519,
            rsa if rsa.starts_with("rsa-") => Self::Rsa3072,
            _ => Self::EcdsaP256,
        }
    }

    pub(super) fn generate(self) -> Result<KeyPair, PkiError> {
        let made = match self {
            Self::EcdsaP256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            Self::EcdsaP384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
            Self::Ed25519 => return generate_ed25519(),
            Self::Rsa3072 => {
                KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_3072)
            }
        };
        made.map_err(|e| PkiError::crypto("generate a key", e))
    }
}

/// rcgen writes PKCS#8 version 2, which OpenSSL before 3.2 can't read; version 1 all can.
fn generate_ed25519() -> Result<KeyPair, PkiError> {
    let wrong = |e: &dyn ToString| PkiError::crypto("generate a key", e.to_string());
    let der = Ed25519KeyPair::generate()
        .and_then(|key| key.to_pkcs8v1())
        .map_err(|e| wrong(&e))?;
    let der = PrivatePkcs8KeyDer::from(der.as_ref());
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ED25519).map_err(|e| wrong(&e))
}

/// A passphrase for the keys of the two CAs.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// Reads a passphrase file; one trailing newline is dropped.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn read(path: &Path) -> Result<Self, PkiError> {
        Self::load(&SecretRef::File(path.to_owned()))
    }

    /// Reads a passphrase from where it is kept.
    ///
    /// # Errors
    /// It can't be had, others may read the file, or it is shorter than 8 bytes.
    pub fn load(place: &SecretRef) -> Result<Self, PkiError> {
        let short = SecretRef::AllowShort(Box::new(place.clone()));
        let bytes = secret::load(&short, true).map_err(|e| PkiError::invalid(format!("{e}")))?;
        if bytes.len() < 8 {
            return Err(PkiError::invalid(format!(
                "the passphrase in {place} is shorter than 8 bytes"
            )));
        }
        Ok(Self(bytes))
    }
}

impl From<Zeroizing<Vec<u8>>> for Passphrase {
    fn from(value: Zeroizing<Vec<u8>>) -> Self {
        Self(value)
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// DER as PEM (RFC 7468).
pub(super) fn to_pem(label: &str, der: &[u8]) -> Result<String, PkiError> {
    pkcs8::der::pem::encode_string(label, LineEnding::LF, der)
        .map_err(|e| PkiError::crypto(format!("write a {label} as PEM"), e))
}

/// The public key (SubjectPublicKeyInfo, DER) of a certificate.
pub(super) fn spki_of(der: &[u8]) -> Result<Vec<u8>, PkiError> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der)
        .map_err(|e| PkiError::crypto("read the certificate", e))?;
    Ok(certificate.public_key().raw.to_vec())
}

/// What a public key (SubjectPublicKeyInfo, DER) is, as records say it; those that no peer of
/// ours would take, or that are too weak or costly, are refused.
pub(super) fn describe(spki: &[u8]) -> Result<String, PkiError> {
    let (rest, key) = SubjectPublicKeyInfo::from_der(spki)
        .map_err(|e| PkiError::crypto("read the public key", e))?;
    let refused = |what: &str| {
        Err(PkiError::invalid(format!(
            "the key is {what}; expected ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 4096 bits"
        )))
    };
    if !rest.is_empty() {
        return refused("followed by other bytes");
    }
    let curve = key
        .algorithm
        .parameters
        .as_ref()
        .and_then(|any| any.as_oid().ok())
        .map(|oid| oid.to_id_string());
    match (
        key.algorithm.algorithm.to_id_string().as_str(),
        curve.as_deref(),
    ) {
        ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")) => Ok("ecdsa-p256".to_owned()),
        ("1.2.840.10045.2.1", Some("1.3.132.0.34")) => Ok("ecdsa-p384".to_owned()),
        ("1.3.101.112", _) => Ok("ed25519".to_owned()),
        ("1.2.840.113549.1.1.1", _) => match key.parsed() {
            Ok(PublicKey::RSA(rsa)) if (2048..=4096).contains(&rsa.key_size()) => {
                Ok(format!("rsa-{}", rsa.key_size()))
            }
            Ok(PublicKey::RSA(rsa)) => refused(&format!("RSA of {} bits", rsa.key_size())),
            _ => refused("a malformed RSA key"),
        },
        (other, _) => refused(&format!("of the algorithm {other}")),
    }
}

/// A key as PEM, encrypted when there is a passphrase.
pub(super) fn key_to_pem(
    key: &KeyPair,
    passphrase: Option<&Passphrase>,
) -> Result<Zeroizing<String>, PkiError> {
    let Some(passphrase) = passphrase else {
        return Ok(Zeroizing::new(key.serialize_pem()));
    };
    PrivateKeyInfoRef::try_from(key.serialized_der())
        .and_then(|key| key.encrypt(passphrase.0.as_slice()))
        .map_err(|e| PkiError::crypto("encrypt a key", e))?
        .to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF)
        .map_err(|e| PkiError::crypto("write a key as PEM", e))
}

/// Reads a key that [`key_to_pem`] wrote.
pub(super) fn key_from_file(
    path: &Path,
    passphrase: Option<&Passphrase>,
) -> Result<KeyPair, PkiError> {
    let wrong = |reason: &dyn ToString| {
        PkiError::crypto(
            format!("read the key in {}", path.display()),
            reason.to_string(),
        )
    };
    let pem = Zeroizing::new(store::read_text(path)?);
    let (label, document) = SecretDocument::from_pem(&pem).map_err(|e| wrong(&e))?;
    let plain = match (label, passphrase) {
        ("PRIVATE KEY", _) => document,
        ("ENCRYPTED PRIVATE KEY", Some(passphrase)) => {
            EncryptedPrivateKeyInfoRef::try_from(document.as_bytes())
                .map_err(|e| wrong(&e))?
                .decrypt(passphrase.0.as_slice())
                .map_err(|e| wrong(&format!("{e}: is it the right passphrase?")))?
        }
        ("ENCRYPTED PRIVATE KEY", None) => {
            return Err(PkiError::invalid(format!(
                "the key in {} is encrypted: give --passphrase-file or --passphrase",
                path.display()
            )));
        }
        (other, _) => return Err(wrong(&format!("{other} where a PKCS#8 key was expected"))),
    };
    KeyPair::try_from(&PrivatePkcs8KeyDer::from(plain.as_bytes())).map_err(|e| wrong(&e))
}
