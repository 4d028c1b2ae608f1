//! Signatures over DER that is no certificate chain: CRLs, OCSP answers, and single certificates.

use rustls::{crypto::CryptoProvider, pki_types::SubjectPublicKeyInfoDer};
use webpki::RawPublicKeyEntity;

/// The signed part, and its signature.
#[derive(Debug, Clone)]
pub(super) struct Signed {
    /// The algorithm's object identifier, with tag and length.
    algorithm: Vec<u8>,
    message: Vec<u8>,
    signature: Vec<u8>,
}

impl Signed {
    /// `None`: no algorithm has an identifier (its content octets) of this length.
    pub(super) fn new(oid: &[u8], message: &[u8], signature: &[u8]) -> Option<Self> {
        let length = u8::try_from(oid.len()).ok().filter(|n| *n < 0x80)?;
        Some(Self {
            algorithm: [&[0x06, length], oid].concat(),
            message: message.to_vec(),
            signature: signature.to_vec(),
        })
    }

    /// Whether this key made the signature.
    pub(super) fn is_by(
        &self,
        key: &SubjectPublicKeyInfoDer<'_>,
        provider: &CryptoProvider,
    ) -> bool {
        let Ok(entity) = RawPublicKeyEntity::try_from(key) else {
            return false;
        };
        provider
            .signature_verification_algorithms
            .all
            .iter()
            .filter(|algorithm| algorithm.signature_alg_id().starts_with(&self.algorithm))
            .any(|algorithm| {
                entity
                    .verify_signature(*algorithm, &self.message, &self.signature)
                    .is_ok()
            })
    }
}
