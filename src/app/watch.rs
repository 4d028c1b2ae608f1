//! Notices changed files: events of the parent folders (renames and links included), and the
//! content looked at now and then, for mounts that send no events.

use std::{
    collections::BTreeSet,
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
    files: Vec<PathBuf>,
    seen: Option<Sha256>,
    events: mpsc::Receiver<()>,
    /// When content is looked at without an event.
    poll: Instant,
    /// When an event that came has settled.
    settled: Option<Instant>,
    // kept alive: dropping it ends the events
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Watch {
    /// Begins to watch.
    #[must_use]
    pub fn new(files: Vec<PathBuf>) -> Self {
        // one waiting event is enough: it means "look"
        let (tell, events) = mpsc::channel(1);
        let watcher = watcher(&files, tell);
        let seen = Some(content(&files));
        Self {
            files,
            seen,
            events,
            poll: Instant::now() + POLL,
            settled: None,
            _watcher: watcher,
        }
    }

    /// Whether these are the files that it watches.
    #[must_use]
    pub fn is_of(&self, files: &[PathBuf]) -> bool {
        self.files == files
    }

    /// Returns when the content of a file is another than before. Nothing is lost when the future
    /// is dropped: what came and both deadlines are kept.
    pub async fn changed(&mut self) {
        loop {
            let settled = match self.settled {
                Some(at) => at,
                None => {
                    tokio::select! {
                        event = self.events.recv() => if event.is_none() {
                            // no events to be had: polling remains
                            sleep_until(self.poll).await;
                        },
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
            let now = content(&self.files);
            if self.seen.replace(now) != Some(now) {
                return;
            }
        }
    }
}

fn watcher(files: &[PathBuf], tell: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let told = move |_event: notify::Result<notify::Event>| {
        // full: somebody is about to look anyway
        let _full = tell.try_send(());
    };
    let mut watcher = notify::recommended_watcher(told)
        .map_err(|error| tracing::warn!(%error, "no file events: content is looked at every 15 s"))
        .ok()?;
    let folders: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
    for folder in folders {
        let folder = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
            tracing::warn!(folder = %folder.display(), %error, "no file events: content is looked at every 15 s");
        }
    }
    Some(watcher)
}

/// One hash over every file; a file that can't be read is part of it.
fn content(files: &[PathBuf]) -> Sha256 {
    let mut all = Vec::new();
    for file in files {
        let hash = std::fs::read(file).map_or(Sha256([0; 32]), |bytes| Sha256::of(&bytes));
        all.extend(hash.0);
    }
    Sha256::of(&all)
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
}
