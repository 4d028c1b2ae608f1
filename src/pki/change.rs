//! Changes of several files as one: a command that is killed at any point leaves the old state
//! or the new one, never a half.
//!
//! First `state/staging.json` says what is about to be written, and every new file is written
//! beside its target. The rename of `staging.json` to `journal.json` is the moment of truth. Then
//! each file gets its name, and the journal goes. Whoever takes the lock next throws a staging
//! away and carries a journal to its end.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{PkiError, store};
use crate::identity::UnixSeconds;

const STAGING: &str = "staging.json";
const JOURNAL: &str = "journal.json";
const AUDIT: &str = "audit.log";

/// What one command is about to change.
pub(super) struct Change {
    /// The authority's.
    folder: PathBuf,
    writes: Vec<(PathBuf, Zeroizing<Vec<u8>>, u32)>,
    removals: Vec<PathBuf>,
    audit: String,
}

/// On disk: paths are relative to the authority's folder.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Journal {
    /// Each file has been written as [`staged`] of its name.
    files: Vec<PathBuf>,
    removals: Vec<PathBuf>,
    /// Length of the audit log before these lines.
    audit_at: u64,
    audit: String,
}

impl Change {
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            writes: Vec::new(),
            removals: Vec::new(),
            audit: String::new(),
        }
    }

    /// A file is to hold this; a second word on the same file wins.
    pub(super) fn write(&mut self, path: PathBuf, bytes: impl Into<Vec<u8>>, mode: u32) {
        self.writes.retain(|(other, ..)| *other != path);
        self.writes.push((path, Zeroizing::new(bytes.into()), mode));
    }

    /// What a file is to hold, if anything was said of it.
    pub(super) fn pending(&self, path: &Path) -> Option<&[u8]> {
        let found = self.writes.iter().find(|(other, ..)| other == path);
        found.map(|(_, bytes, _)| bytes.as_slice())
    }

    /// Nothing was said of this file.
    pub(super) fn forget(&mut self, path: &Path) {
        self.writes.retain(|(other, ..)| other != path);
    }

    /// A file is to go, if it is there; one that is written by the same change stays.
    pub(super) fn remove(&mut self, path: PathBuf) {
        self.removals.push(path);
    }

    /// One line of the audit log: when, what, about whom.
    pub(super) fn audit(&mut self, now: UnixSeconds, act: &str, facts: &[(&str, &str)]) {
        let _infallible = write!(self.audit, "{now} {act}");
        for (key, value) in facts {
            // Debug quotes and escapes: a name can't forge a second line
            let _infallible = write!(self.audit, " {key}={value:?}");
        }
        self.audit.push('\n');
    }

    /// Makes it so. The lock is held.
    pub(super) fn commit(mut self) -> Result<(), PkiError> {
        let state = self.folder.join("state");
        let relative = |path: &Path| {
            path.strip_prefix(&self.folder)
                .map(Path::to_owned)
                .map_err(|e| PkiError::crypto(format!("change {}", path.display()), e))
        };
        let journal = Journal {
            files: self
                .writes
                .iter()
                .map(|(path, ..)| relative(path))
                .collect::<Result<_, _>>()?,
            removals: self
                .removals
                .iter()
                .filter(|path| self.pending(path).is_none())
                .map(|path| relative(path))
                .collect::<Result<_, _>>()?,
            audit_at: store::length(&state.join(AUDIT))?,
            audit: std::mem::take(&mut self.audit),
        };
        if let Err(error) = self.stage(&journal) {
            // a full disk gets its room back, and no key is left lying about; what can't be
            // thrown away now is by who takes the lock next
            drop(discard(&self.folder));
            return Err(error);
        }
        store::rename(&state.join(STAGING), &state.join(JOURNAL))?;
        finish(&self.folder, &journal).map_err(|error| PkiError::Unfinished(Box::new(error)))
    }

    /// Writes everything beside where it is to go.
    fn stage(&self, journal: &Journal) -> Result<(), PkiError> {
        let staging = self.folder.join("state").join(STAGING);
        let text =
            serde_json::to_vec(journal).map_err(|e| PkiError::crypto("write the journal", e))?;
        store::write(&staging, &text, store::PRIVATE)?;
        let mut folders = BTreeSet::new();
        for (path, bytes, mode) in &self.writes {
            store::create(&staged(path), bytes, *mode)?;
            folders.extend(path.parent());
        }
        folders.into_iter().try_for_each(store::sync_folder)
    }
}

/// Ends what a killed command began. The lock is held.
pub(super) fn recover(folder: &Path) -> Result<(), PkiError> {
    if let Some(journal) = read(folder, JOURNAL)? {
        finish(folder, &journal)?;
    }
    discard(folder)
}

/// Throws away what was written for a change that never was.
fn discard(folder: &Path) -> Result<(), PkiError> {
    let Some(staging) = read(folder, STAGING)? else {
        return Ok(());
    };
    for path in &staging.files {
        store::remove(&staged(&folder.join(path)))?;
    }
    store::remove(&folder.join("state").join(STAGING))
}

fn read(folder: &Path, name: &str) -> Result<Option<Journal>, PkiError> {
    let path = folder.join("state").join(name);
    if !path.exists() {
        return Ok(None);
    }
    let journal = serde_json::from_slice(&store::read(&path)?)
        .map_err(|e| PkiError::invalid(format!("{}: {e}", path.display())))?;
    Ok(Some(journal))
}

/// Whether [`recover`] has work to do.
pub(super) fn interrupted(folder: &Path) -> bool {
    let state = folder.join("state");
    state.join(JOURNAL).exists() || state.join(STAGING).exists()
}

/// Carries out a journal; what is done already is left alone.
fn finish(folder: &Path, journal: &Journal) -> Result<(), PkiError> {
    let state = folder.join("state");
    store::sync_folder(&state)?;
    let mut folders = BTreeSet::new();
    for path in &journal.files {
        let target = folder.join(path);
        let new = staged(&target);
        if new.exists() {
            store::rename(&new, &target)?;
        }
        folders.extend(target.parent().map(Path::to_owned));
    }
    for path in &journal.removals {
        let target = folder.join(path);
        store::remove(&target)?;
        folders.extend(target.parent().map(Path::to_owned));
    }
    for folder in folders.iter().filter(|folder| folder.exists()) {
        store::sync_folder(folder)?;
    }
    let log = state.join(AUDIT);
    let written = store::length(&log)?;
    let left = match written.checked_sub(journal.audit_at) {
        // some of it is there, whole lines or not
        Some(done) => usize::try_from(done)
            .ok()
            .and_then(|done| journal.audit.get(done..))
            .unwrap_or_default(),
        // somebody took the log away
        None => &journal.audit,
    };
    if !left.is_empty() {
        store::append(&log, left)?;
    }
    store::remove(&state.join(JOURNAL))?;
    store::sync_folder(&state)
}

/// Where a file waits for its name: hidden, in the same folder.
fn staged(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}
