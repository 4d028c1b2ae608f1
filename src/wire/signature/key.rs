//! Keys of signatures: HMAC with SHA-256 (RFC 9421 section 3.3.3) and Ed25519 (section 3.3.6).

use std::fmt;

use aws_lc_rs::{
    hmac,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, pem::PemObject as _};

/// An algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// `hmac-sha256`
    HmacSha256,
    /// `ed25519`
    Ed25519,
}

impl Algorithm {
    /// As it stands in `alg`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HmacSha256 => "hmac-sha256",
            Self::Ed25519 => "ed25519",
        }
    }
}

/// What is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoKey(&'static str);

/// A key that signs.
pub struct SigningKey(Signing);

enum Signing {
    Hmac(Box<hmac::Key>),
    Ed25519(Box<Ed25519KeyPair>),
}

/// A key that verifies.
pub struct VerifyingKey(Verifying);

enum Verifying {
    Hmac(Box<hmac::Key>),
    Ed25519(UnparsedPublicKey<Vec<u8>>),
}

impl SigningKey {
    /// A shared secret.
    #[must_use]
    pub fn hmac_sha256(secret: &[u8]) -> Self {
        Self(Signing::Hmac(Box::new(hmac::Key::new(
            hmac::HMAC_SHA256,
            secret,
        ))))
    }

    /// A private key: PEM, PKCS#8.
    ///
    /// # Errors
    /// It is none.
    pub fn ed25519(pem: &[u8]) -> Result<Self, NoKey> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem)
            .map_err(|_no_pem| NoKey("expected a PEM section PRIVATE KEY (PKCS#8)"))?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der())
            .map_err(|_rejected| NoKey("expected an Ed25519 key"))?;
        Ok(Self(Signing::Ed25519(Box::new(pair))))
    }

    /// Its algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match &self.0 {
            Signing::Hmac(_) => Algorithm::HmacSha256,
            Signing::Ed25519(_) => Algorithm::Ed25519,
        }
    }

    /// The signature of these octets.
    #[must_use]
    pub fn sign(&self, base: &[u8]) -> Vec<u8> {
        match &self.0 {
            Signing::Hmac(key) => hmac::sign(key, base).as_ref().to_vec(),
            Signing::Ed25519(pair) => pair.sign(base).as_ref().to_vec(),
        }
    }

    /// The key that verifies what this one signs.
    #[must_use]
    pub fn verifying(&self) -> VerifyingKey {
        VerifyingKey(match &self.0 {
            Signing::Hmac(key) => Verifying::Hmac(key.clone()),
            Signing::Ed25519(pair) => Verifying::Ed25519(UnparsedPublicKey::new(
                &ED25519,
                pair.public_key().as_ref().to_vec(),
            )),
        })
    }
}

impl VerifyingKey {
    /// A shared secret.
    #[must_use]
    pub fn hmac_sha256(secret: &[u8]) -> Self {
        Self(Verifying::Hmac(Box::new(hmac::Key::new(
            hmac::HMAC_SHA256,
            secret,
        ))))
    }

    /// A public key: PEM, `SubjectPublicKeyInfo` (RFC 8410).
    ///
    /// # Errors
    /// It is none.
    pub fn ed25519(pem: &[u8]) -> Result<Self, NoKey> {
        // SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING of 32 octets }
        const PREFIX: [u8; 12] = [
            0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
        ];
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem)
            .map_err(|_no_pem| NoKey("expected a PEM section PUBLIC KEY"))?;
        let key = der
            .strip_prefix(&PREFIX)
            .filter(|key| key.len() == 32)
            .ok_or(NoKey("expected an Ed25519 key"))?;
        Ok(Self(Verifying::Ed25519(UnparsedPublicKey::new(
            &ED25519,
            key.to_vec(),
        ))))
    }

    /// Its algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match &self.0 {
            Verifying::Hmac(_) => Algorithm::HmacSha256,
            Verifying::Ed25519(_) => Algorithm::Ed25519,
        }
    }

    /// Whether it is the signature of these octets; in constant time.
    #[must_use]
    pub fn verify(&self, base: &[u8], signature: &[u8]) -> bool {
        match &self.0 {
            Verifying::Hmac(key) => hmac::verify(key, base, signature).is_ok(),
            Verifying::Ed25519(key) => key.verify(base, signature).is_ok(),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm().as_str())
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm().as_str())
    }
}
