//! Secrets: references to them, and who may read their files.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::SecretRef;

/// Fewer octets than this are no secret.
const SHORTEST: usize = 16;

/// A secret that can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file can't be read.
    #[error("{}: {error}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Others may read the file.
    #[error("{}: mode {mode:03o} lets {who} read it: chmod 0600, or 0640 with a group of this process", file.display())]
    Exposed {
        /// The file.
        file: PathBuf,
        /// Permission bits.
        mode: u32,
        /// Who may read it.
        who: &'static str,
    },
    /// The environment or the credentials folder does not have it.
    #[error("{0} is not set")]
    Unset(String),
    /// The value is no secret.
    #[error("{place}: {reason}")]
    Unfit {
        /// Where it stands.
        place: String,
        /// What is wrong.
        reason: &'static str,
    },
}

/// Reads a file whose content is nobody else's: a private key, a password, a token.
///
/// # Errors
/// It can't be read, or the world or a group that this process is not in may read it.
pub fn read_private(file: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let read = |error| SecretError::Read {
        file: file.to_owned(),
        error,
    };
    let meta = fs::metadata(file).map_err(read)?;
    let mode = meta.mode() & 0o777;
    let exposed = |who| SecretError::Exposed {
        file: file.to_owned(),
        mode,
        who,
    };
    if mode & 0o007 != 0 {
        return Err(exposed("everybody"));
    }
    if mode & 0o070 != 0 && !in_group(meta.gid()) {
        return Err(exposed("a group that this process is not in"));
    }
    fs::read(file).map(Zeroizing::new).map_err(read)
}

fn in_group(gid: u32) -> bool {
    let gid = rustix::process::Gid::from_raw(gid);
    rustix::process::getegid() == gid
        || rustix::process::getgroups().is_ok_and(|groups| groups.contains(&gid))
}

/// Loads a secret: one trailing newline is dropped; empty, control octets or, unless
/// `allow_short`, fewer than 16 octets are errors.
///
/// # Errors
/// The secret can't be had, or is none.
pub fn load(secret: &SecretRef, allow_short: bool) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let mut value = match secret {
        SecretRef::File(file) => read_private(file)?,
        SecretRef::Env(name) => std::env::var(name)
            .map(|text| Zeroizing::new(text.into_bytes()))
            .map_err(|_unset| SecretError::Unset(format!("environment variable {name}")))?,
        SecretRef::Credential(name) => {
            let folder = std::env::var_os("CREDENTIALS_DIRECTORY")
                .ok_or_else(|| SecretError::Unset("CREDENTIALS_DIRECTORY".to_owned()))?;
            // the service manager makes the folder readable by this service alone
            let file = PathBuf::from(folder).join(name);
            fs::read(&file)
                .map(Zeroizing::new)
                .map_err(|error| SecretError::Read { file, error })?
        }
    };
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
        return unfit("the secret holds control characters");
    }
    if value.len() < SHORTEST && !allow_short {
        return unfit("the secret is shorter than 16 bytes (danger_short_secret = true allows it)");
    }
    Ok(value)
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Credential(name) => write!(f, "credential {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

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
        for (content, mode) in [
            (b"".as_slice(), 0o600),
            (b"\n", 0o600),
            (b"short", 0o600),
            (b"0123456789abcdef", 0o644),
        ] {
            let (_dir, secret) = file(content, mode);
            assert!(load(&secret, false).is_err(), "{content:?} {mode:o}");
        }
        let (_dir, secret) = file(b"short", 0o600);
        assert!(load(&secret, true).is_ok());
    }
}
