//! Watches over a pool's link connections in HTTP/1.1, idle and in use: those that the rules no
//! longer admit or whose certificate ends are told, wherever they are. One task does it for all.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    admit::Denied,
    drain::Drain,
    serve::{LinkSupervision, Snapshot, http::hop::Fate},
};

/// How long what is known of links that are gone may stand.
const TIDY: Duration = Duration::from_secs(60);

/// The links of one pool. It lives as long as one of them does.
pub(super) struct Links {
    watched: Mutex<Vec<Watched>>,
    /// One was opened; or was closed, while the process ends.
    news: Arc<Notify>,
    ending: AtomicBool,
    /// Ends the watching with the last link and the pool.
    _gone: DropGuard,
}

struct Watched {
    fate: Weak<Fate>,
    link: LinkSupervision,
}

impl Links {
    /// Nothing is watched yet. `started` is called with what watches: with the first link, whose
    /// rules are its own.
    pub(super) fn new() -> (Arc<Self>, Watcher) {
        let gone = CancellationToken::new();
        let links = Arc::new(Self {
            watched: Mutex::default(),
            news: Arc::default(),
            ending: AtomicBool::new(false),
            _gone: gone.clone().drop_guard(),
        });
        let watcher = Watcher {
            links: Arc::downgrade(&links),
            news: Arc::clone(&links.news),
            gone,
        };
        (links, watcher)
    }

    fn watched(&self) -> MutexGuard<'_, Vec<Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches over one more.
    pub(super) fn add(self: &Arc<Self>, link: LinkSupervision) -> Arc<Fate> {
        let fate = Arc::new(Fate::new(Arc::new(Live(Arc::clone(self)))));
        self.watched().push(Watched {
            fate: Arc::downgrade(&fate),
            link,
        });
        self.news.notify_one();
        fate
    }

    /// Judges them all: whether one has ended, and when to look again; `None`: there is none.
    fn look(&self) -> (bool, Option<Duration>) {
        let mut ended = Vec::new();
        let mut again = TIDY;
        self.watched().retain_mut(|watched| {
            let Some(fate) = watched.fate.upgrade() else {
                return false;
            };
            match watched.link.judged() {
                Ok(left) => {
                    again = again.min(left);
                    true
                }
                Err(why) => {
                    log(&watched.link, &why);
                    ended.push((fate, why));
                    false
                }
            }
        });
        let any = !ended.is_empty();
        let again = (!self.watched().is_empty()).then_some(again);
        for (fate, why) in ended {
            fate.seal(why);
        }
        (any, again)
    }
}

/// One of the links.
struct Live(Arc<Links>);

impl Drop for Live {
    fn drop(&mut self) {
        // at other times nobody waits for that
        if self.0.ending.load(Ordering::Acquire) {
            self.0.news.notify_one();
        }
    }
}

/// A link connection has to end. The answers under way on it break; they are told apart by their own
/// access lines.
pub(super) fn log(link: &LinkSupervision, why: &Denied) {
    tracing::warn!(
        backend = %link.backend,
        acceptor = %link.acceptor,
        reason = why.reason.code(),
        detail = %why.detail,
        "link connection ended"
    );
}

/// What watches over them.
pub(super) struct Watcher {
    links: Weak<Links>,
    news: Arc<Notify>,
    gone: CancellationToken,
}

impl Watcher {
    /// Watches until the pool and the last link have gone. `ended` is told when one had to.
    pub(super) async fn watch(
        self,
        mut rules: watch::Receiver<Arc<Snapshot>>,
        drain: Drain,
        ended: impl Fn() + Send,
    ) {
        let (draining, forced) = (drain.draining(), drain.forced());
        let (mut spoken_for, mut ending) = (true, false);
        loop {
            let again = {
                let Some(links) = self.links.upgrade() else {
                    return;
                };
                let (any, again) = links.look();
                if any {
                    ended();
                }
                if ending && again.is_none() {
                    return;
                }
                again.unwrap_or(TIDY)
            };
            tokio::select! {
                biased;
                () = self.gone.cancelled() => return,
                // who uses them ends too
                () = forced.cancelled() => return,
                () = draining.cancelled(), if !ending => {
                    ending = true;
                    if let Some(links) = self.links.upgrade() {
                        links.ending.store(true, Ordering::Release);
                    }
                }
                changed = rules.changed(), if spoken_for => spoken_for = changed.is_ok(),
                () = self.news.notified() => {}
                () = tokio::time::sleep(again) => {}
            }
        }
    }
}
