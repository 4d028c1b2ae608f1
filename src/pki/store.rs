//! Files of the authority: every write is whole or not at all, and keys are never readable by
//! others, not even for a moment. [`write_file`] is the project's one writer of files.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::PkiError;

/// Mode of keys and state.
pub const PRIVATE: u32 = 0o600;
/// Mode of certificates, CRLs and profiles.
pub const PUBLIC: u32 = 0o644;
/// Largest file that the authority reads back (a state of some 400,000 certificates).
const MAX_FILE: u64 = 256 << 20;

/// Writes a file atomically: a new file beside it with the right mode from its creation, fsync,
/// rename over the old one, fsync of the folder. A reader sees the old bytes or the new ones.
///
/// # Errors
/// Whatever the file system says; the old file is then untouched.
pub fn write_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    write_owned(path, bytes, mode, None)
}

/// [`write_file`] of two that belong together: what can fail has not before either changes, and then
/// they change one right after the other.
///
/// # Errors
/// As [`write_file`]; a rename that fails may leave the first changed.
pub fn write_pair(files: [(&Path, &[u8], u32); 2]) -> io::Result<()> {
    let [first, second] = files.map(|(path, bytes, mode)| Staged::write(path, bytes, mode, None));
    let (first, second) = (first?, second?);
    first.place()?;
    second.place()
}

/// [`write_file`], with the owner (uid, gid) set before the file gets its name.
///
/// # Errors
/// As [`write_file`], and when the process may not give files away.
pub fn write_owned(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    owner: Option<(u32, u32)>,
) -> io::Result<()> {
    Staged::write(path, bytes, mode, owner)?.place()
}

/// A file that is whole and waits beside its place; it goes where it gets none.
#[must_use]
pub(super) struct Staged {
    temporary: PathBuf,
    target: PathBuf,
    placed: bool,
}

impl Staged {
    pub(super) fn write(
        target: &Path,
        bytes: &[u8],
        mode: u32,
        owner: Option<(u32, u32)>,
    ) -> io::Result<Self> {
        let Some(name) = target.file_name() else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a file name",
            ));
        };
        step();
        let (temporary, mut file) = create_beside(folder_of(target), name)?;
        let staged = Self {
            temporary,
            target: target.to_owned(),
            placed: false,
        };
        step();
        file.write_all(bytes)?;
        if let Some((uid, gid)) = owner {
            rustix::fs::fchown(
                &file,
                Some(rustix::fs::Uid::from_raw(uid)),
                Some(rustix::fs::Gid::from_raw(gid)),
            )?;
        }
        // the umask may have taken bits away; it is never asked
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        Ok(staged)
    }

    /// Gives it its name.
    pub(super) fn place(mut self) -> io::Result<()> {
        step();
        fs::rename(&self.temporary, &self.target)?;
        self.placed = true;
        File::open(folder_of(&self.target))?.sync_all()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // a test's kill unwinds, and a kill cleans nothing up
        if !self.placed && !std::thread::panicking() {
            // best effort: the name is random, a leftover harms nobody
            drop(fs::remove_file(&self.temporary));
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn create_beside(folder: &Path, name: &std::ffi::OsStr) -> io::Result<(PathBuf, File)> {
    let mut random = [0_u8; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|e| io::Error::other(e.to_string()))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{:016x}.tmp", u64::from_ne_bytes(random)));
    let path = folder.join(hidden);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(PRIVATE)
        .open(&path)?;
    Ok((path, file))
}

/// Writes a file that has no name that anybody reads yet, over what a killed command left there.
pub(super) fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    let wrong = |e| PkiError::file("write", path, e);
    remove(path)?;
    step();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(PRIVATE)
        .open(path)
        .map_err(wrong)?;
    // a kill in the midst of a write
    step();
    file.write_all(bytes).map_err(wrong)?;
    file.set_permissions(fs::Permissions::from_mode(mode))
        .map_err(wrong)?;
    file.sync_all().map_err(wrong)
}

/// Gives a file its name.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), PkiError> {
    step();
    fs::rename(from, to).map_err(|e| PkiError::file("write", to, e))
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), PkiError> {
    step();
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(PkiError::file("remove", path, e)),
        _ => Ok(()),
    }
}

/// Makes names in a folder last.
pub(super) fn sync_folder(folder: &Path) -> Result<(), PkiError> {
    step();
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| PkiError::file("write", folder, e))
}

/// Length of a file; 0 where there is none.
pub(super) fn length(path: &Path) -> Result<u64, PkiError> {
    match fs::metadata(path) {
        Ok(file) => Ok(file.len()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(PkiError::file("read", path, e)),
    }
}

/// Makes a folder and its parents; the last one gets `mode`.
pub(super) fn make_folder(path: &Path, mode: u32) -> Result<(), PkiError> {
    let wrong = |e| PkiError::file("make folder", path, e);
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(wrong)
}

/// [`write_file`] with the authority's error.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    write_file(path, bytes, mode).map_err(|e| PkiError::file("write", path, e))
}

/// Reads a whole file of bounded size.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, PkiError> {
    let wrong = |e| PkiError::file("read", path, e);
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(wrong)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(wrong)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(PkiError::invalid(format!(
            "{} is larger than {} MiB",
            path.display(),
            MAX_FILE >> 20
        )));
    }
    Ok(bytes)
}

/// [`read`] as UTF-8.
pub(super) fn read_text(path: &Path) -> Result<String, PkiError> {
    String::from_utf8(read(path)?)
        .map_err(|e| PkiError::invalid(format!("{} is not UTF-8 text: {e}", path.display())))
}

/// Adds lines to a log that is never rewritten.
pub(super) fn append(path: &Path, line: &str) -> Result<(), PkiError> {
    let wrong = |e| PkiError::file("append to", path, e);
    step();
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(PRIVATE)
        .open(path)
        .map_err(wrong)?;
    file.write_all(line.as_bytes()).map_err(wrong)?;
    file.sync_data().map_err(wrong)
}

/// Held while a command changes the store; the kernel releases it with the process.
#[must_use]
pub(super) struct Lock {
    _file: File,
}

/// Waits for the one lock of a store. Commands are short, so it waits rather than fails.
pub(super) fn lock(state: &Path) -> Result<Lock, PkiError> {
    let path = state.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PRIVATE)
        .open(&path)
        .map_err(|e| PkiError::file("open", &path, e))?;
    flock(&file, FlockOperation::LockExclusive)
        .map_err(|e| PkiError::file("lock", &path, e.into()))?;
    Ok(Lock { _file: file })
}

/// Every act that changes a disk comes by here first: tests kill the command at each.
#[cfg(not(test))]
fn step() {}

#[cfg(test)]
pub(super) use killer::{acts_until_killed, step};

#[cfg(test)]
mod killer {
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// How a killed command ends: no error comes back, no clean-up runs.
    struct Killed;

    pub(in super::super) fn step() {
        match LEFT.get() {
            Some(0) => std::panic::resume_unwind(Box::new(Killed)),
            Some(left) => LEFT.set(Some(left - 1)),
            None => {}
        }
    }

    /// Runs a command that dies before its act number `acts`; `None`: it did.
    pub(in super::super) fn acts_until_killed<T>(
        acts: usize,
        command: impl FnOnce() -> T,
    ) -> Option<T> {
        LEFT.set(Some(acts));
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(command));
        LEFT.set(None);
        match ended {
            Ok(done) => Some(done),
            Err(cause) if cause.is::<Killed>() => None,
            Err(cause) => std::panic::resume_unwind(cause),
        }
    }
}
