//! Putting a certificate where a service reads it: each file whole, with owner and mode.

use std::{
    fs,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{PkiError, store};

/// Who the files are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    uid: u32,
    gid: u32,
    /// A group was named: it may read the key.
    by_group: bool,
}

impl Owner {
    /// `USER` (its primary group, keys 0600) or `USER:GROUP` (keys 0640, so that
    /// `root:portcullis` lets a service read a key that it can't change).
    ///
    /// # Errors
    /// No such user or group in `/etc/passwd` and `/etc/group`.
    pub fn look_up(text: &str) -> Result<Self, PkiError> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let passwd = store::read_text(Path::new("/etc/passwd"))?;
        let [uid, primary] = ids_of(&passwd, user, [2, 3]).ok_or_else(|| {
            PkiError::invalid(format!(
                "no user {user:?} in /etc/passwd: make it first (`useradd --system {user}`)"
            ))
        })?;
        let gid = match group {
            None => primary,
            Some(group) => {
                let groups = store::read_text(Path::new("/etc/group"))?;
                let [gid] = ids_of(&groups, group, [2]).ok_or_else(|| {
                    PkiError::invalid(format!("no group {group:?} in /etc/group"))
                })?;
                gid
            }
        };
        Ok(Self {
            uid,
            gid,
            by_group: group.is_some(),
        })
    }
}

impl Owner {
    /// A group was named: it may read keys.
    pub(super) fn by_group(self) -> bool {
        self.by_group
    }

    pub(super) fn ids(self) -> (u32, u32) {
        (self.uid, self.gid)
    }
}

/// Numbers in given columns of the line of `name`.
fn ids_of<const N: usize>(table: &str, name: &str, columns: [usize; N]) -> Option<[u32; N]> {
    let line = table
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name) && !name.is_empty())?;
    let mut ids = [0; N];
    for (id, column) in ids.iter_mut().zip(columns) {
        *id = line.get(column)?.parse().ok()?;
    }
    Some(ids)
}

/// Copies the PEM files of `from` (a folder of `certs/ROLE/NAME`, of which the authority's
/// `trust.pem` and `crl.pem` come along) to `to`. Keys get 0600 (0640 with a named group),
/// everything else 0644. Returns what was written.
///
/// # Errors
/// Nothing to install, or a file can't be read, written or given to the owner.
pub fn install(from: &Path, to: &Path, owner: Option<Owner>) -> Result<Vec<PathBuf>, PkiError> {
    let mut sources: Vec<PathBuf> = fs::read_dir(from)
        .map_err(|e| PkiError::file("read", from, e))?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "pem") && path.is_file())
        .collect();
    sources.sort();
    if sources.is_empty() {
        return Err(PkiError::invalid(format!(
            "{} holds no .pem files: expected pki/certs/ROLE/NAME",
            from.display()
        )));
    }
    if let Some(authority) = from.ancestors().nth(3)
        && authority.join("state/state.json").exists()
    {
        sources.extend(["trust.pem", "crl.pem"].map(|name| authority.join(name)));
    }
    store::make_folder(to, 0o755)?;
    let mut written = Vec::new();
    for source in sources {
        let Some(name) = source.file_name() else {
            continue;
        };
        let bytes = Zeroizing::new(store::read(&source)?);
        let target = to.join(name);
        let mode = match (holds_key(&bytes), owner) {
            (false, _) => store::PUBLIC,
            (true, Some(Owner { by_group: true, .. })) => 0o640,
            (true, _) => store::PRIVATE,
        };
        let ids = owner.map(Owner::ids);
        let file = store::Staged::write(&target, &bytes, mode, ids)
            .map_err(|e| PkiError::file("write", &target, e))?;
        written.push((target, file));
    }
    // what can fail has not: certificate and key change places together but for a moment, which a
    // process that watches them sits out
    written
        .into_iter()
        .map(|(target, file)| match file.place() {
            Ok(()) => Ok(target),
            Err(e) => Err(PkiError::file("write", target, e)),
        })
        .collect()
}

fn holds_key(bytes: &[u8]) -> bool {
    let needle = b"PRIVATE KEY-----";
    bytes.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_from_the_exact_line() {
        let table = "root:x:0:0:root:/root:/bin/sh\nport:x:7:8::/:/bin/false\nbad:x:y:1::/:\n";
        assert_eq!(ids_of(table, "port", [2, 3]), Some([7, 8]));
        assert_eq!(ids_of(table, "por", [2, 3]), None);
        assert_eq!(ids_of(table, "bad", [2, 3]), None);
        assert_eq!(ids_of(table, "", [2, 3]), None);
    }
}
