//! The highest number seen of each CRL, kept over restarts: a list that goes back would bring
//! revoked certificates back (RFC 5280 section 5.2.3: the number never decreases).

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::load::Loaded;
use crate::{
    config::Common,
    identity::{Serial, UnixSeconds},
    pki::store::write_file,
    tls::{Crl, MaterialError},
};

/// The layout of the file. A newer one is refused: what it says would not be understood.
const SCHEMA: u32 = 1;

/// The remembered numbers of this host.
#[derive(Debug)]
pub struct CrlNumbers {
    /// `None`: there is no folder to remember in.
    file: Option<PathBuf>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    schema: u32,
    /// By the hash of issuer, key and scope.
    lists: BTreeMap<String, Newest>,
}

impl Default for Remembered {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            lists: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Newest {
    /// For people.
    issuer: String,
    /// In hexadecimal; `None`: the list had none.
    number: Option<String>,
    /// Unix seconds.
    this_update: i64,
}

impl Newest {
    fn of(crl: &Crl) -> Self {
        Self {
            issuer: crl.issuer.clone(),
            number: crl.number.as_ref().map(ToString::to_string),
            this_update: crl.this_update.0,
        }
    }

    /// By number, else by date.
    fn is_newer_than(&self, crl: &Crl) -> bool {
        let kept = self.number.as_deref().and_then(Serial::parse);
        crl.is_older_than(kept.as_ref(), UnixSeconds(self.this_update))
    }
}

impl CrlNumbers {
    /// The memory of a process with this configuration: `[runtime] state_dir`, else the service
    /// manager's `STATE_DIRECTORY`, else the system's or the user's folder for state.
    #[must_use]
    pub fn of(common: &Common) -> Self {
        Self {
            file: common
                .state_folder()
                .map(|folder| folder.join("crl-numbers.json")),
        }
    }

    /// Compares lists with what was seen before.
    ///
    /// # Errors
    /// Lists that go back, or a memory that can't be read.
    pub fn judge<'a>(
        &self,
        lists: impl IntoIterator<Item = &'a Crl>,
    ) -> Result<(), Vec<MaterialError>> {
        let mut lists = lists.into_iter().peekable();
        let Some(file) = self.file.as_ref().filter(|_| lists.peek().is_some()) else {
            return Ok(());
        };
        let remembered = read(file).map_err(|error| vec![error])?;
        let back: Vec<_> = lists
            .filter_map(|crl| {
                let newest = remembered.lists.get(&crl.line_id())?;
                newest
                    .is_newer_than(crl)
                    .then(|| goes_back(crl, newest, file))
            })
            .collect();
        if back.is_empty() { Ok(()) } else { Err(back) }
    }

    /// Remembers what is in force now.
    pub fn keep(&self, loaded: &Loaded) {
        let lists: Vec<&Crl> = loaded.crls().collect();
        if lists.is_empty() {
            return;
        }
        let Some(file) = &self.file else {
            tracing::warn!(
                "no folder for state: a CRL that goes back is noticed only until a restart; set [runtime] state_dir"
            );
            return;
        };
        if let Err(error) = raise(file, &lists) {
            tracing::error!(
                file = %file.display(), %error,
                "CRL numbers can't be remembered: after a restart an older list would be taken; make the folder writable or set [runtime] state_dir"
            );
        }
    }
}

fn goes_back(crl: &Crl, newest: &Newest, file: &Path) -> MaterialError {
    let seen = newest.number.as_deref().and_then(Serial::parse);
    MaterialError {
        file: crl.file.clone(),
        certificate: Some(format!("CRL of {:?}", crl.issuer)),
        problem: format!(
            "{}, which this host has had in force: a revocation could be lost",
            crl.goes_back(seen.as_ref()),
        ),
        advice: format!(
            "publish a list with a higher number; if the authority was made anew on purpose, remove {}",
            file.display()
        ),
        half: false,
    }
}

fn read(file: &Path) -> Result<Remembered, MaterialError> {
    let unusable = |problem: String| {
        MaterialError {
        file: file.to_owned(),
        certificate: None,
        problem,
        advice: "it holds the highest CRL numbers seen, so that no revocation is lost: mend it, or remove it if every CRL here is known to be the newest".to_owned(),
        half: false,
    }
    };
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Remembered::default()),
        Err(error) => return Err(unusable(format!("can't be read: {error}"))),
    };
    let remembered: Remembered =
        serde_json::from_slice(&text).map_err(|error| unusable(format!("malformed: {error}")))?;
    if remembered.schema > SCHEMA {
        return Err(unusable(format!(
            "its schema is {}, this version knows {SCHEMA}",
            remembered.schema
        )));
    }
    Ok(remembered)
}

/// Other processes of the host remember in the same file.
fn raise(file: &Path, lists: &[&Crl]) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    if let Some(folder) = file.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(file.with_extension("lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let mut remembered = read(file).map_err(io::Error::other)?;
    let mut raised = false;
    for crl in lists {
        let mut newest = Newest::of(crl);
        let kept = remembered.lists.get(&crl.line_id());
        if newest.number.is_none() {
            // one without a number does not make the next one free to go back
            newest.number = kept.and_then(|kept| kept.number.clone());
        }
        match kept {
            Some(kept) if *kept == newest || kept.is_newer_than(crl) => {}
            _ => {
                remembered.lists.insert(crl.line_id(), newest);
                raised = true;
            }
        }
    }
    if raised {
        let text = serde_json::to_vec_pretty(&remembered)?;
        write_file(file, &text, 0o600)?;
    }
    Ok(())
}
