//! Notices changed files: events of the parent folders (renames and links included), and the
//! content looked at now and then, for mounts that send no events.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{RecursiveMode, Watcher};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::identity::Sha256;

/// Changes that come together count as one.
const SETTLE: Duration = Duration::from_millis(250);
/// How often content is looked at without an event.
const POLL: Duration = Duration::from_secs(15);

/// Watches a set of files.
pub struct Watch {
    /// What was seen of each; a file that can't be read is seen as that.
    seen: BTreeMap<PathBuf, Option<Sha256>>,
    /// A file was read that had not been looked at before.
    missed: bool,
    /// Those that send events.
    folders: BTreeSet<PathBuf>,
    tell: mpsc::Sender<()>,
    events: mpsc::Receiver<()>,
    /// When content is looked at without an event.
    poll: Instant,
    /// When an event that came has settled.
    settled: Option<Instant>,
    // kept alive: dropping it ends the events
    watcher: Option<notify::RecommendedWatcher>,
}

impl Watch {
    /// Begins to watch.
    #[must_use]
    pub fn new(files: Vec<PathBuf>) -> Self {
        // one waiting event is enough: it means "look"
        let (tell, events) = mpsc::channel(1);
        let mut watch = Self {
            seen: BTreeMap::new(),
            missed: false,
            folders: BTreeSet::new(),
            tell,
            events,
            poll: Instant::now() + POLL,
            settled: None,
            watcher: None,
        };
        watch.look_at(files);
        watch
    }

    /// Watches these files from now on, as they are now: whoever reads them after this misses no
    /// change. Whether one that was watched has changed since it was looked at.
    pub fn look_at(&mut self, files: Vec<PathBuf>) -> bool {
        let folders: BTreeSet<PathBuf> = files.iter().filter_map(|file| folder(file)).collect();
        if folders != self.folders {
            // one that is not there yet is tried again the next time
            (self.watcher, self.folders) = match watcher(folders, self.tell.clone()) {
                Some((watcher, watched)) => (Some(watcher), watched),
                None => (None, BTreeSet::new()),
            };
        }
        // what changes from here on sends an event
        let before = std::mem::replace(&mut self.seen, contents(files));
        let other = |(file, now)| before.get(file).is_some_and(|before| before != now);
        self.seen.iter().any(other)
    }

    /// Leaves all others alone. One of these that was not looked at may have changed since it was
    /// read: that is told.
    pub fn keep(&mut self, files: &[PathBuf]) {
        if files.iter().all(|file| self.seen.contains_key(file)) {
            self.seen.retain(|file, _| files.contains(file));
            return;
        }
        self.look_at(files.to_vec());
        self.missed = true;
        let _full = self.tell.try_send(());
    }

    /// Returns when the content of a file is another than before. Nothing is lost when the future
    /// is dropped: what came and both deadlines are kept.
    pub async fn changed(&mut self) {
        loop {
            let settled = match self.settled {
                Some(at) => at,
                None => {
                    tokio::select! {
                        _ = self.events.recv() => {}
                        () = sleep_until(self.poll) => {}
                    }
                    let at = Instant::now() + SETTLE;
                    self.settled = Some(at);
                    at
                }
            };
            sleep_until(settled).await;
            while self.events.try_recv().is_ok() {}
            self.settled = None;
            self.poll = Instant::now() + POLL;
            let now = contents(self.seen.keys().cloned());
            if std::mem::take(&mut self.missed) || now != self.seen {
                self.seen = now;
                return;
            }
        }
    }
}

fn folder(file: &Path) -> Option<PathBuf> {
    let folder = file.parent()?;
    Some(match folder.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => folder.to_owned(),
    })
}

fn watcher(
    mut folders: BTreeSet<PathBuf>,
    tell: mpsc::Sender<()>,
) -> Option<(notify::RecommendedWatcher, BTreeSet<PathBuf>)> {
    let told = move |_event: notify::Result<notify::Event>| {
        // full: somebody is about to look anyway
        let _full = tell.try_send(());
    };
    let mut watcher = notify::recommended_watcher(told)
        .map_err(|error| tracing::warn!(%error, "no file events: content is looked at every 15 s"))
        .ok()?;
    folders.retain(|folder| {
        let watched = watcher.watch(folder, RecursiveMode::NonRecursive);
        if let Err(error) = &watched {
            tracing::warn!(folder = %folder.display(), %error, "no file events: content is looked at every 15 s");
        }
        watched.is_ok()
    });
    Some((watcher, folders))
}

fn contents(files: impl IntoIterator<Item = PathBuf>) -> BTreeMap<PathBuf, Option<Sha256>> {
    let seen = |file: PathBuf| {
        let hash = std::fs::read(&file).ok().map(|bytes| Sha256::of(&bytes));
        (file, hash)
    };
    files.into_iter().map(seen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_replaced_is_noticed_and_one_that_is_touched_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ranges.txt");
        let write = |text: &str| {
            let new = dir.path().join("new");
            #[expect(clippy::disallowed_methods, reason = "a test's own file")]
            std::fs::write(&new, text).unwrap();
            std::fs::rename(new, &file).unwrap();
        };
        write("one");
        let mut watch = Watch::new(vec![file.clone()]);
        write("one");
        assert!(
            tokio::time::timeout(Duration::from_millis(800), watch.changed())
                .await
                .is_err()
        );
        // somebody who only looks in now and then misses nothing
        for _ in 0..3 {
            tokio::time::timeout(Duration::from_millis(50), watch.changed())
                .await
                .unwrap_err();
        }
        write("two");
        let mut looks = 0;
        while tokio::time::timeout(Duration::from_millis(50), watch.changed())
            .await
            .is_err()
        {
            looks += 1;
            assert!(looks < 100, "the change was lost");
        }
        write("three");
        tokio::time::timeout(Duration::from_secs(5), watch.changed())
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_folder_that_comes_later_sends_events() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("later");
        let file = folder.join("ranges.txt");
        let write = |text: &str| {
            #[expect(clippy::disallowed_methods, reason = "a test's own file")]
            std::fs::write(&file, text).unwrap();
        };
        let mut watch = Watch::new(vec![file.clone()]);
        std::fs::create_dir(&folder).unwrap();
        write("one");
        watch.look_at(vec![file.clone()]);
        write("two");
        tokio::time::timeout(Duration::from_secs(5), watch.changed())
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn what_was_read_and_not_looked_at_before_is_told() {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [old, new] = [0, 1].map(|n: usize| dirs[n].path().join("ranges.txt"));
        let write = |text: &str| {
            #[expect(clippy::disallowed_methods, reason = "a test's own file")]
            std::fs::write(&new, text).unwrap();
        };
        write("one");
        let mut watch = Watch::new(vec![old.clone()]);
        // the configuration was replaced between the look at what it names and its loading
        watch.keep(&[old, new.clone()]);
        for text in ["one", "two"] {
            write(text);
            tokio::time::timeout(Duration::from_secs(5), watch.changed())
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn what_changes_while_other_files_are_loaded_is_noticed() {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [old, new] = [0, 1].map(|n: usize| dirs[n].path().join("ranges.txt"));
        let write = |file: &Path, text: &str| {
            #[expect(clippy::disallowed_methods, reason = "a test's own file")]
            std::fs::write(file, text).unwrap();
        };
        write(&old, "one");
        write(&new, "one");
        let mut watch = Watch::new(vec![old.clone()]);
        watch.look_at(vec![old.clone(), new.clone()]);
        // it was read, and nothing was in force yet
        write(&new, "two");
        watch.keep(std::slice::from_ref(&new));
        tokio::time::timeout(Duration::from_secs(5), watch.changed())
            .await
            .unwrap();
        // nobody names the other any more
        write(&old, "two");
        let more = tokio::time::timeout(Duration::from_millis(800), watch.changed());
        assert!(more.await.is_err());
    }
}
