//! Private keys: PKCS#8, SEC1 and PKCS#1 in PEM, encrypted PKCS#8 (RFC 5958, PBES2) with a
//! passphrase. Key material is wiped when dropped, and no file that others can read is used.

use std::{
    fs::File,
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use pkcs8::EncryptedPrivateKeyInfoOwned;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use zeroize::Zeroizing;

use super::error::MaterialError;
use crate::config::SecretRef;

/// No key or passphrase is longer.
const MAX_BYTES: u64 = 64 * 1024;

/// A passphrase, wiped when dropped.
pub type Passphrase = Zeroizing<Vec<u8>>;

/// Loads a private key.
///
/// # Errors
/// The file can't be read, is open to others, holds no key, or needs a passphrase that is missing
/// or wrong.
pub fn load_key(
    path: &Path,
    passphrase: Option<&SecretRef>,
) -> Result<PrivateKeyDer<'static>, MaterialError> {
    let pem = read_private(path)?;
    let text = String::from_utf8_lossy(&pem);
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") {
        let Some(secret) = passphrase else {
            return Err(MaterialError::file(
                path,
                "the key is encrypted, and no passphrase is configured",
                "set key_passphrase = { file = \"…\" } (or env, or credential)",
            ));
        };
        return decrypt(path, &pem, &resolve(path, secret)?);
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
    passphrase: &Passphrase,
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
    let plain = info.decrypt(passphrase.as_slice()).map_err(|e| {
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

/// Reads a secret reference. One trailing newline is dropped; empty is an error.
///
/// # Errors
/// It can't be read, is open to others, or is empty.
pub fn resolve(for_file: &Path, secret: &SecretRef) -> Result<Passphrase, MaterialError> {
    let mut value = match secret {
        SecretRef::File(path) => read_private(path)?,
        SecretRef::Env(name) => Zeroizing::new(
            std::env::var(name)
                .map_err(|e| {
                    MaterialError::file(
                        for_file,
                        format!("the passphrase's environment variable {name}: {e}"),
                        "set it in the service's environment",
                    )
                })?
                .into_bytes(),
        ),
        SecretRef::Credential(name) => {
            let Some(directory) = std::env::var_os("CREDENTIALS_DIRECTORY") else {
                return Err(MaterialError::file(
                    for_file,
                    format!(
                        "the credential {name} is asked for outside a service with credentials"
                    ),
                    "start it by the service manager with LoadCredential=",
                ));
            };
            read_private(&PathBuf::from(directory).join(name))?
        }
    };
    if value.last() == Some(&b'\n') {
        let _newline = value.pop();
    }
    if value.is_empty() {
        return Err(MaterialError::file(
            for_file,
            "the passphrase of this key is empty",
            "write it into the file, variable or credential",
        ));
    }
    Ok(value)
}

/// Reads a small secret file after looking at who else may read it.
fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, MaterialError> {
    let unreadable = |e: std::io::Error| {
        MaterialError::file(path, e.to_string(), "check the path and its permissions")
    };
    let file = File::open(path).map_err(unreadable)?;
    // of the open file, so that nothing can be swapped between the look and the read
    let metadata = file.metadata().map_err(unreadable)?;
    let mode = metadata.permissions().mode();
    let open_to = if mode & 0o006 != 0 {
        Some("everybody")
    } else if mode & 0o060 != 0 && !in_group(metadata.gid()) {
        Some("a group that this process is not in")
    } else {
        None
    };
    if let Some(whom) = open_to {
        return Err(MaterialError::file(
            path,
            format!("mode {:04o} opens this secret to {whom}", mode & 0o7777),
            "chmod 600, or 640 with the service's group",
        ));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(8192));
    let _read = file
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(MaterialError::file(
            path,
            "it is larger than 64 KiB",
            "expected a key or a passphrase alone",
        ));
    }
    Ok(bytes)
}

fn in_group(gid: u32) -> bool {
    rustix::process::getegid().as_raw() == gid
        || rustix::process::getgroups()
            .is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == gid))
}
