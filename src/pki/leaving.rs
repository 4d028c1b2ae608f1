//! Which certificates hang on a CA that is being rotated out. Every host asks that again and again,
//! and the state of a large store takes long to read: it is read once for each of its versions.

use std::{
    collections::HashSet,
    os::unix::fs::MetadataExt as _,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Authority, PkiError, state::State};
use crate::identity::{CertFacts, Sha256};

/// The answers of one version of the state.
#[derive(Debug, Default)]
pub struct Leaving(Mutex<Option<(Version, Arc<HashSet<Sha256>>)>>);

/// The state is never written over, but replaced: another version is another file.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    fn of(authority: &Authority) -> Result<Self, PkiError> {
        let path = authority.state_folder().join("state.json");
        let file = std::fs::metadata(&path).map_err(|e| PkiError::file("read", &path, e))?;
        Ok(Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

impl Leaving {
    /// Whether the certificate hangs on a CA that is being rotated out: it is then renewed
    /// whatever its dates. May block.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn has(&self, authority: &Authority, fingerprint: &Sha256) -> Result<bool, PkiError> {
        Ok(self.all(authority)?.contains(fingerprint))
    }

    fn all(&self, authority: &Authority) -> Result<Arc<HashSet<Sha256>>, PkiError> {
        // held while the state is read: however many ask at once, one reads it
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let version = Version::of(authority)?;
        if let Some((_, all)) = known.as_ref().filter(|(read, _)| *read == version) {
            return Ok(Arc::clone(all));
        }
        // one that is replaced meanwhile is read again by who asks next
        let state = State::load(&authority.state_folder())?;
        let leaving = state.certificates.iter();
        let leaving = leaving.filter(|record| state.is_leaving(record));
        let all = Arc::new(leaving.filter_map(super::Record::sha256).collect());
        *known = Some((version, Arc::clone(&all)));
        Ok(all)
    }
}

impl Authority {
    /// [`Leaving::has`], asked once.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn is_leaving(&self, leaf: &CertFacts) -> Result<bool, PkiError> {
        Leaving::default().has(self, &leaf.fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{CaKind, InitOptions, IssueRequest, Role, RotateOptions};

    #[test]
    fn a_state_is_read_once_and_its_successor_is_noticed() {
        let home = tempfile::tempdir().unwrap();
        let authority = Authority::init(&home.path().join("pki"), InitOptions::default()).unwrap();
        let issue = |name: &str| {
            authority
                .issue(&IssueRequest::new(Role::Gateway, name))
                .unwrap()
        };
        let old = issue("edge-1").facts;
        let leaving = Leaving::default();
        let first = leaving.all(&authority).unwrap();
        assert!(first.is_empty() && Arc::ptr_eq(&first, &leaving.all(&authority).unwrap()));
        let rotation = RotateOptions {
            kind: CaKind::Issuing,
            prepare: false,
            algorithm: None,
            days: 3650,
        };
        authority.rotate(&rotation).unwrap();
        let second = leaving.all(&authority).unwrap();
        assert!(Arc::ptr_eq(&second, &leaving.all(&authority).unwrap()));
        let new = issue("edge-2").facts;
        assert!(leaving.has(&authority, &old.fingerprint).unwrap());
        assert!(!leaving.has(&authority, &new.fingerprint).unwrap());
        assert!(authority.is_leaving(&old).unwrap() && !authority.is_leaving(&new).unwrap());
    }
}
