//! Secrets: what a reference stands for, and who else may read a private file. Values are wiped
//! when dropped.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::SecretRef;
use crate::wire::base64;

/// Fewer octets than this are guessed.
pub const SHORTEST: usize = 16;
/// No key, token or password is longer.
const LONGEST: u64 = 64 << 10;

/// A secret that can't be had, or is none.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file can't be read.
    #[error("{}: the secret can't be read: {error}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Others may read the file.
    #[error("{}: mode {mode:04o} opens this secret to {who}: chmod 600, or 640 with the service's group", file.display())]
    Exposed {
        /// The file.
        file: PathBuf,
        /// Permission bits.
        mode: u32,
        /// Who may read it.
        who: &'static str,
    },
    /// The environment or the credentials folder does not have it.
    #[error("{place} {advice}")]
    Unset {
        /// What it is called.
        place: String,
        /// What is wrong, and what to do.
        advice: &'static str,
    },
    /// The value is no secret.
    #[error("{place}: {reason}")]
    Unfit {
        /// Where it stands.
        place: String,
        /// What is wrong, and what was expected.
        reason: &'static str,
    },
}

impl SecretError {
    /// A value that can't be what it is to be.
    #[must_use]
    pub fn unfit(secret: &SecretRef, reason: &'static str) -> Self {
        Self::Unfit {
            place: secret.to_string(),
            reason,
        }
    }

    /// The file that it is about, or what the secret is called where it is in none.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Read { file, .. } | Self::Exposed { file, .. } => Some(file),
            // a path, where the secret is in a file
            Self::Unfit { place, .. } | Self::Unset { place, .. } => Some(Path::new(place)),
        }
    }
}

/// Reads a file whose content is nobody else's business: a private key, a password, a token.
///
/// # Errors
/// It can't be read, is larger than 64 KiB, or the world or a group that this process is not in
/// may read it.
pub fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    read_file(path, Kept::Private)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// The file's own mode must keep others out.
    Private,
    /// The folder keeps others out: the service manager's credentials.
    ByFolder,
    /// Everybody may read it, and nobody else write it: a public key.
    Public,
}

fn read_file(path: &Path, kept: Kept) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let failed = |error| SecretError::Read {
        file: path.to_owned(),
        error,
    };
    let file = File::open(path).map_err(failed)?;
    // of the open file, so that nothing can be swapped between the look and the read
    let meta = file.metadata().map_err(failed)?;
    let closed = match kept {
        Kept::Private => 0o066,
        Kept::ByFolder => 0,
        Kept::Public => 0o022,
    };
    let open = meta.mode() & closed;
    let who = if open & 0o006 != 0 {
        Some("everybody")
    } else if open & 0o060 != 0 && !in_group(meta.gid()) {
        Some("a group that this process is not in")
    } else {
        None
    };
    if let Some(who) = who {
        let mode = meta.mode() & 0o7777;
        return Err(SecretError::Exposed {
            file: path.to_owned(),
            mode,
            who,
        });
    }
    // with room for all, so that growing leaves no copy behind
    let mut bytes = Zeroizing::new(Vec::with_capacity(8 << 10));
    let size = file
        .take(LONGEST.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if u64::try_from(size).is_ok_and(|size| size > LONGEST) {
        return Err(failed(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "larger than 64 KiB",
        )));
    }
    Ok(bytes)
}

fn in_group(gid: u32) -> bool {
    let gid = rustix::process::Gid::from_raw(gid);
    rustix::process::getegid() == gid
        || rustix::process::getgroups().is_ok_and(|groups| groups.contains(&gid))
}

/// Loads a secret: one trailing newline is dropped; empty, control octets or, unless
/// `allow_short` or the reference allows it, fewer than 16 octets are errors.
///
/// # Errors
/// The secret can't be had, or is none.
pub fn load(secret: &SecretRef, allow_short: bool) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    if let SecretRef::AllowShort(inner) = secret {
        return load(inner, true);
    }
    let mut value = load_document(secret)?;
    if value.last() == Some(&b'\n') {
        value.pop();
    }
    let unfit = |reason| {
        Err(SecretError::Unfit {
            place: secret.to_string(),
            reason,
        })
    };
    if value.is_empty() {
        return unfit("the secret is empty");
    }
    if value.iter().any(u8::is_ascii_control) {
        return unfit("the secret holds control characters: expected one line without any");
    }
    if value.len() < SHORTEST && !allow_short {
        return unfit("shorter than 16 bytes: make it longer, or set danger_short_secret = true");
    }
    Ok(value)
}

/// Loads a shared key: the secret's text, or what that is base64 of.
///
/// # Errors
/// It can't be had, or is none.
pub fn load_key(secret: &SecretRef, is_base64: bool) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let text = load(secret, false)?;
    if !is_base64 {
        return Ok(text);
    }
    let octets = base64::decode(&text).map(Zeroizing::new);
    let octets = octets.ok_or_else(|| SecretError::unfit(secret, "it is no base64"))?;
    let allowed = matches!(secret, SecretRef::AllowShort(_));
    if octets.is_empty() || octets.len() < SHORTEST && !allowed {
        let reason = "fewer than 16 bytes of key: make it longer, or set \
                      danger_short_secret = true";
        return Err(SecretError::unfit(secret, reason));
    }
    Ok(octets)
}

/// Loads the whole value of a header.
///
/// # Errors
/// It can't be had, or can't stand there.
pub fn load_field(secret: &SecretRef) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let octets = load(secret, false)?;
    // a receiver would cut it off, and compare something else (RFC 9110 section 5.5)
    if octets.first() == Some(&b' ') || octets.last() == Some(&b' ') {
        let reason = "a header's value begins and ends without a space";
        return Err(SecretError::unfit(secret, reason));
    }
    Ok(octets)
}

/// Loads a secret that may have several lines, such as a private key in PEM, as it is.
///
/// # Errors
/// It can't be had.
pub fn load_document(secret: &SecretRef) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    load_kept(secret, Kept::Private)
}

/// The same of a public key, which others may read and nobody else may write.
///
/// # Errors
/// It can't be had.
pub fn load_public(secret: &SecretRef) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    load_kept(secret, Kept::Public)
}

fn load_kept(secret: &SecretRef, kept: Kept) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    Ok(match secret {
        SecretRef::AllowShort(inner) => return load_kept(inner, kept),
        SecretRef::File(file) => read_file(file, kept)?,
        SecretRef::Env(name) => from_environment(name)?,
        SecretRef::Credential(name) => {
            let folder =
                std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| SecretError::Unset {
                    place: secret.to_string(),
                    advice: "can't be had, CREDENTIALS_DIRECTORY is not set: start it by the \
                             service manager, with LoadCredential=",
                })?;
            // what can't be read is told at the place that names it
            read_file(&PathBuf::from(folder).join(name), Kept::ByFolder).map_err(|error| {
                let place = secret.to_string();
                match error {
                    SecretError::Read { .. } => SecretError::Unset {
                        place,
                        advice: "can't be read from CREDENTIALS_DIRECTORY: add LoadCredential= \
                                 to the service's unit",
                    },
                    other @ (SecretError::Exposed { .. }
                    | SecretError::Unset { .. }
                    | SecretError::Unfit { .. }) => other,
                }
            })?
        }
    })
}

fn from_environment(name: &str) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    use std::os::unix::ffi::OsStringExt;
    let value = std::env::var_os(name).ok_or_else(|| SecretError::Unset {
        place: SecretRef::Env(name.to_owned()).to_string(),
        advice: "is not set: set it in the service's environment",
    })?;
    Ok(Zeroizing::new(value.into_vec()))
}

impl fmt::Display for SecretRef {
    /// Where it is kept, never what it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Credential(name) => write!(f, "credential {name}"),
            Self::AllowShort(inner) => inner.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, SecretRef) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        #[expect(clippy::disallowed_methods, reason = "a test's own file")]
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (dir, SecretRef::File(path))
    }

    #[test]
    fn one_trailing_newline_is_dropped() {
        let (_dir, secret) = file(b"0123456789abcdef\n", 0o600);
        assert_eq!(
            load(&secret, false).unwrap().as_slice(),
            b"0123456789abcdef"
        );
        let (_dir, secret) = file(b"0123456789abcdef\n\n", 0o600);
        assert!(load(&secret, false).is_err());
    }

    #[test]
    fn what_is_no_secret_or_not_kept_is_refused() {
        let good = b"0123456789abcdef".as_slice();
        for (content, mode, reason) in [
            (b"".as_slice(), 0o600, "empty"),
            (b"\n", 0o600, "empty"),
            (b"short", 0o600, "danger_short_secret"),
            (b"0123456789\tabcdef", 0o600, "control"),
            (good, 0o644, "everybody"),
            (good, 0o602, "everybody"),
            (&[b'x'; (64 << 10) + 1], 0o600, "64 KiB"),
        ] {
            let (_dir, secret) = file(content, mode);
            let error = load(&secret, false).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_short_secret_is_taken_only_where_it_is_allowed() {
        let (_dir, secret) = file(b"short", 0o600);
        assert!(load(&secret, true).is_ok());
        assert!(load(&SecretRef::AllowShort(Box::new(secret)), false).is_ok());
        let (_dir, empty) = file(b"", 0o600);
        assert!(load(&SecretRef::AllowShort(Box::new(empty)), true).is_err());
    }

    #[test]
    fn a_group_of_ours_may_read_it_and_another_may_not() {
        let (dir, secret) = file(b"0123456789abcdef", 0o640);
        assert!(load(&secret, false).is_ok());
        // only root can give a file away
        let foreign = Some(rustix::process::Gid::from_raw(54_321));
        if rustix::fs::chown(dir.path().join("secret"), None, foreign).is_ok() {
            let error = load(&secret, false).unwrap_err().to_string();
            assert!(
                error.contains("a group that this process is not in"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_not_set_is_said_by_name() {
        let error = load(&SecretRef::Env("PORTCULLIS_NOT_SET".into()), false).unwrap_err();
        assert!(error.to_string().contains("PORTCULLIS_NOT_SET"));
    }
}
