//! What the keys of a path may do by their kind, and by their key usage (RFC 5280 section 4.2.1.3), at
//! which the engine doesn't look. A certificate without the extension is not restricted. A root is believed as it is.

use crate::{
    admit::{Denial, Denied},
    identity::CertFacts,
};

/// What is wrong with the key usage of a leaf: what it lacks, or has and must not have.
pub(super) fn leaf_fault(leaf: &CertFacts) -> Option<String> {
    let uses = leaf.key_uses?;
    // RFC 8446 sections 4.4.2.2 and 4.4.2.4: it signs the handshake
    if !uses.digital_signature() {
        return Some(format!(
            "expected key usage digitalSignature, it has {uses}"
        ));
    }
    // X509-SVID section 5.2
    if !leaf.spiffe.is_empty() && (uses.cert_sign() || uses.crl_sign()) {
        return Some(format!(
            "expected a leaf with a SPIFFE ID to have neither key usage keyCertSign nor cRLSign, it has {uses}"
        ));
    }
    None
}

/// What is wrong with the key usage of an issuer (RFC 5280 section 6.1.4 n).
pub(super) fn issuer_fault(issuer: &CertFacts) -> Option<String> {
    let uses = issuer.key_uses?;
    (!uses.cert_sign()).then(|| format!("expected key usage keyCertSign, it has {uses}"))
}

/// What is wrong with a leaf's key itself.
pub(super) fn key_fault(leaf: &CertFacts) -> Option<String> {
    (!leaf.key_proves).then(|| {
        format!(
            "its key ({}) proves nothing in a handshake: expected RSA of 2048 to 8192 bits, ECDSA P-256, P-384 or P-521, or Ed25519",
            leaf.key
        )
    })
}

/// The peer itself.
pub(super) fn check_leaf_key(leaf: &CertFacts) -> Result<(), Denied> {
    if let Some(fault) = key_fault(leaf) {
        return Err(Denied::new(
            Denial::CertificateInvalid,
            format!("certificate {}: {fault}", leaf.describe()),
        ));
    }
    leaf_fault(leaf).map_or(Ok(()), |fault| {
        Err(Denied::new(
            Denial::CertificateWrongUsage,
            format!("certificate {}: {fault}", leaf.describe()),
        ))
    })
}

/// A certificate between it and a root.
pub(super) fn check_issuer_key(der: &[u8], leaf: &CertFacts) -> Result<(), Denied> {
    let issuer = CertFacts::read(der)
        .map_err(|e| Denied::new(Denial::CertificateMalformed, e.to_string()))?;
    issuer_fault(&issuer).map_or(Ok(()), |fault| {
        Err(Denied::new(
            Denial::CertificateInvalid,
            format!(
                "certificate {}: its issuer may not sign certificates: {fault}",
                leaf.describe()
            ),
        ))
    })
}
