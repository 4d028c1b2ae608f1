//! Private keys: PKCS#8, SEC1 and PKCS#1 in PEM, encrypted PKCS#8 (RFC 5958, PBES2) with a
//! passphrase. Key material is wiped when dropped, and no file that others can read is used.

use std::path::Path;

use pkcs8::EncryptedPrivateKeyInfoOwned;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};

use super::error::MaterialError;
use crate::config::{
    SecretRef,
    secret::{self, SecretError},
};

/// Loads a private key.
///
/// # Errors
/// The file can't be read, is open to others, holds no key, or needs a passphrase that is missing
/// or wrong.
pub fn load_key(
    path: &Path,
    passphrase: Option<&SecretRef>,
) -> Result<PrivateKeyDer<'static>, MaterialError> {
    let pem = secret::read_private(path).map_err(|e| unusable(path, e))?;
    let text = String::from_utf8_lossy(&pem);
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") {
        let Some(passphrase) = passphrase else {
            return Err(MaterialError::file(
                path,
                "the key is encrypted, and no passphrase is configured",
                "set key_passphrase = { file = \"…\" } (or env, or credential)",
            ));
        };
        // whoever made the key chose its passphrase: a short one is not refused here
        let passphrase = secret::load(passphrase, true).map_err(|e| unusable(path, e))?;
        return decrypt(path, &pem, &passphrase);
    }
    if text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(MaterialError::file(
            path,
            "the key is encrypted in the old OpenSSL way",
            "convert it: openssl pkcs8 -topk8 -in OLD -out NEW, and set key_passphrase",
        ));
    }
    PrivateKeyDer::from_pem_slice(&pem).map_err(|e| {
        let problem = if text.contains("BEGIN CERTIFICATE") {
            "it holds a certificate, not a private key".to_owned()
        } else {
            format!("no private key in it ({e})")
        };
        MaterialError::file(
            path,
            problem,
            "expected a PEM section PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY",
        )
    })
}

fn decrypt(
    path: &Path,
    pem: &[u8],
    passphrase: &[u8],
) -> Result<PrivateKeyDer<'static>, MaterialError> {
    let malformed = |e: String| {
        MaterialError::file(
            path,
            format!("the encrypted key is malformed or uses an unknown scheme: {e}"),
            "expected PKCS#8 with PBES2: openssl pkcs8 -topk8 -v2 aes-256-cbc",
        )
    };
    let info = pkcs8::der::Document::from_pem(&String::from_utf8_lossy(pem))
        .map_err(|e| malformed(e.to_string()))
        .and_then(|(_, document)| {
            EncryptedPrivateKeyInfoOwned::try_from(document.as_bytes())
                .map_err(|e| malformed(e.to_string()))
        })?;
    let plain = info.decrypt(passphrase).map_err(|e| {
        MaterialError::file(
            path,
            format!("the key can't be decrypted with this passphrase ({e})"),
            "check key_passphrase",
        )
    })?;
    Ok(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(
        plain.as_bytes().to_vec(),
    )))
}

/// A secret's problem, said of the file that it stands in (or that needs it).
fn unusable(file: &Path, error: SecretError) -> MaterialError {
    match error {
        SecretError::Read { file, error } => MaterialError::file(
            &file,
            error.to_string(),
            "check the path and its permissions",
        ),
        SecretError::Exposed { file, mode, who } => MaterialError::file(
            &file,
            format!("mode {mode:04o} opens this secret to {who}"),
            "chmod 600, or 640 with the service's group",
        ),
        other @ (SecretError::Unset { .. } | SecretError::Unfit { .. }) => MaterialError::file(
            file,
            format!("the passphrase of this key: {other}"),
            "see key_passphrase",
        ),
    }
}
