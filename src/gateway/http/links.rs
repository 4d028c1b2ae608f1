//! Watches over a pool's link connections in HTTP/1.1, idle and in use: those that the rules no
//! longer admit or whose certificate ends are told, wherever they are. One task does it for all.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::standing::Standing;
use crate::{
    admit::{Denial, Denied},
    drain::Drain,
    serve::{
        LinkSupervision, Snapshot,
        http::hop::{Fate, Judge},
        speaking,
    },
};

/// How long what is known of links that are gone may stand.
const TIDY: Duration = Duration::from_secs(60);

/// The links of one pool. It lives as long as one of them does.
pub(super) struct Links {
    state: Mutex<State>,
    /// One was opened; or was closed, while the process ends.
    news: Arc<Notify>,
    ending: AtomicBool,
    /// Ends the watching with the last link and the pool.
    _gone: DropGuard,
}

struct State {
    watched: Vec<Watched>,
    /// What is in force at each listener that the pool serves: at two, while one of them is moved.
    heard: Vec<Rules>,
    /// What watches, while it does not.
    parked: Option<Watcher>,
}

type Rules = watch::Receiver<Arc<Snapshot>>;

/// What was found of the links.
struct Looked {
    /// One had to end.
    ended: bool,
    /// When to look again.
    again: Duration,
    /// Or when one of these changes.
    heard: Vec<Rules>,
}

struct Watched {
    fate: Weak<Fate>,
    link: LinkSupervision,
}

impl Links {
    /// Nothing is watched yet.
    pub(super) fn new() -> Arc<Self> {
        let gone = CancellationToken::new();
        let news = Arc::<Notify>::default();
        Arc::new_cyclic(|links| Self {
            state: Mutex::new(State {
                watched: Vec::new(),
                heard: Vec::new(),
                parked: Some(Watcher {
                    links: Weak::clone(links),
                    news: Arc::clone(&news),
                    gone: gone.clone(),
                }),
            }),
            news,
            ending: AtomicBool::new(false),
            _gone: gone.drop_guard(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pool serves the listener of these rules, too.
    pub(super) fn hear(&self, rules: &Rules) {
        self.state().hear(rules);
        self.news.notify_one();
    }

    /// Listeners that have gone say nothing more. What they said last may hold the pool itself.
    pub(super) fn forget_gone(&self) {
        let over = |rules: &mut Rules| is_over(rules);
        let gone: Vec<Rules> = self.state().heard.extract_if(.., over).collect();
        // not under the lock
        drop(gone);
    }

    /// Watches over one more; with what is to be started where nothing watches yet.
    pub(super) fn add(
        self: &Arc<Self>,
        link: LinkSupervision,
        standing: Standing,
    ) -> (Arc<Fate>, Option<Watcher>) {
        let live = Live(Arc::clone(self), standing);
        let fate = Arc::new(Fate::new(Arc::new(live)));
        let mut state = self.state();
        state.hear(&link.rules);
        state.watched.push(Watched {
            fate: Arc::downgrade(&fate),
            link,
        });
        let parked = state.parked.take();
        drop(state);
        self.news.notify_one();
        (fate, parked)
    }

    /// Leaves off watching where there is nothing to watch: the next link has it started again.
    /// Else gives it back.
    fn park(&self, watcher: Watcher) -> Option<Watcher> {
        let mut state = self.state();
        if !state.watched.is_empty() {
            return Some(watcher);
        }
        state.parked = Some(watcher);
        None
    }

    /// Whether a link that is not watched here goes on, though its listener has gone: under another
    /// that the pool serves.
    pub(super) fn takes_over(&self, link: &mut LinkSupervision) -> bool {
        is_over(&link.rules) && link.judged(&self.state().heard).is_ok()
    }

    /// What is in force where a link goes on whose own listener has gone.
    ///
    /// # Errors
    /// Nobody speaks for it any more.
    pub(super) fn in_force(&self) -> Result<Arc<Snapshot>, Denied> {
        let state = self.state();
        speaking(&state.heard).map(|other| other.borrow().clone())
    }

    /// Judges them all.
    fn look(&self) -> Looked {
        let mut ended = Vec::new();
        let mut again = TIDY;
        self.forget_gone();
        let mut state = self.state();
        let State { watched, heard, .. } = &mut *state;
        // before they are judged: what is said from now on is heard
        heard.iter_mut().for_each(watch::Receiver::mark_unchanged);
        watched.retain_mut(|watched| {
            let Some(fate) = watched.fate.upgrade() else {
                return false;
            };
            match watched.link.judged(heard) {
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
        let looked = Looked {
            ended: !ended.is_empty(),
            again,
            heard: heard.clone(),
        };
        drop(state);
        for (fate, why) in ended {
            fate.seal(why);
        }
        looked
    }
}

impl State {
    fn hear(&mut self, rules: &Rules) {
        if !self.heard.iter().any(|heard| heard.same_channel(rules)) {
            self.heard.push(rules.clone());
        }
    }
}

/// Whether nobody speaks there any more.
fn is_over(rules: &Rules) -> bool {
    rules.has_changed().is_err()
}

/// Resolves when one of them says something, or will say nothing more.
async fn changed(heard: &mut [Rules]) {
    let mut each: Vec<_> = heard
        .iter_mut()
        .map(|rules| Box::pin(rules.changed()))
        .collect();
    poll_fn(|cx| {
        let one = each.iter_mut().any(|one| one.as_mut().poll(cx).is_ready());
        if one { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// One of the links.
struct Live(Arc<Links>, Standing);

impl Judge for Live {
    fn judged(&self) -> Result<(), Denied> {
        let changed = |why: Denied| format!("{}: {why}", why.reason.code());
        let judged = self.1.judged().map_err(changed);
        judged.map_err(|detail| Denied::new(Denial::RulesChanged, detail))
    }
}

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
    /// Watches until the pool and the last link have gone; while the process ends, until no link is
    /// left. `ended` is told when one had to.
    pub(super) async fn watch(mut self, drain: Drain, ended: impl Fn() + Send) {
        let (draining, forced) = (drain.draining(), drain.forced());
        let mut ending = false;
        loop {
            let mut looked = {
                let Some(links) = self.links.upgrade() else {
                    return;
                };
                let looked = links.look();
                if looked.ended {
                    ended();
                }
                if ending {
                    self = match links.park(self) {
                        Some(watcher) => watcher,
                        None => return,
                    };
                }
                looked
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
                () = changed(&mut looked.heard) => {}
                () = self.news.notified() => {}
                () = tokio::time::sleep(looked.again) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::CertificateDer;
    use tokio::time::Instant;

    use super::*;
    use crate::{
        admit::{DeniedList, OwnRole, PeerRules, SourceRanges, SourceRules},
        config::Limits,
        serve::{Admitted, BoxFuture, Closed, ListenerRules, Role},
    };

    /// Admits every acceptor, or none.
    struct Says(bool);

    impl Role for Says {
        fn serve(self: Arc<Self>, _admitted: Admitted) -> BoxFuture<Closed> {
            Box::pin(async { Closed::default() })
        }

        fn judge_link(
            &self,
            _backend: &str,
            _acceptor: &str,
            _chain: &[CertificateDer<'static>],
        ) -> Result<(), Denied> {
            match self.0 {
                true => Ok(()),
                false => Err(Denied::new(Denial::CertificateRevoked, "")),
            }
        }
    }

    fn snapshot(admits: bool) -> Arc<Snapshot> {
        Arc::new(Snapshot {
            rules: ListenerRules {
                name: "public".into(),
                source: SourceRules {
                    trusted: None,
                    denied: SourceRanges::default(),
                },
                proxy_from: None,
                tls: None,
                verification: None,
                peers: PeerRules {
                    rules: Vec::new(),
                    certificate_required: false,
                    denied: DeniedList::default(),
                    own_domain: None,
                    role: OwnRole::Client,
                },
                shown: None,
                limits: Limits::least(),
                starttls_postgres: false,
                access: false,
                withdrawn: None,
            },
            role: Arc::new(Says(admits)),
        })
    }

    fn listener() -> watch::Sender<Arc<Snapshot>> {
        watch::Sender::new(snapshot(true))
    }

    fn link_of(listener: &watch::Sender<Arc<Snapshot>>) -> LinkSupervision {
        LinkSupervision {
            backend: "legacy".into(),
            acceptor: "192.0.2.1:8443".to_owned(),
            chain: Arc::default(),
            until: None,
            rules: listener.subscribe(),
        }
    }

    /// Watches over one more, as its pool does.
    fn add(links: &Arc<Links>, link: LinkSupervision, drain: &Drain) -> Arc<Fate> {
        let standing = Standing::begin(&link, links).unwrap();
        let (fate, parked) = links.add(link, standing);
        if let Some(watcher) = parked {
            drain.spawn(watcher.watch(drain.clone(), || {}));
        }
        fate
    }

    /// Lets others do what they can at once.
    async fn a_moment() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    /// Waits for a link's end: not for the next look at everything.
    async fn ends(fate: &Fate) -> Denied {
        let begun = Instant::now();
        loop {
            if let Some(why) = fate.end() {
                return why.clone();
            }
            assert!(begun.elapsed() < Duration::from_secs(2), "it goes on");
            a_moment().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_moved_listener_opened_goes_on_under_the_new_one() {
        let (old, new, drain) = (listener(), listener(), Drain::new());
        let links = Links::new();
        let first = add(&links, link_of(&old), &drain);
        links.hear(&new.subscribe());
        a_moment().await;
        drop(old);
        a_moment().await;
        assert!(first.end().is_none());
        let second = add(&links, link_of(&new), &drain);
        a_moment().await;
        new.send_replace(snapshot(false));
        for fate in [first, second] {
            let why = ends(&fate).await;
            assert!(why.detail.contains("certificate_revoked"), "{why}");
        }
        // and alone it does not
        let last = add(&links, link_of(&listener()), &drain);
        drop(new);
        let why = ends(&last).await;
        assert!(why.detail.contains("the listener was removed"), "{why}");
    }

    #[tokio::test(start_paused = true)]
    async fn each_listener_that_a_pool_serves_is_heard() {
        let drain = Drain::new();
        for which in [0, 1] {
            let both = [listener(), listener()];
            let links = Links::new();
            let fates = both.each_ref().map(|one| add(&links, link_of(one), &drain));
            a_moment().await;
            both[which].send_replace(snapshot(false));
            ends(&fates[which]).await;
            assert!(fates[1 - which].end().is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_moved_and_is_not_watched_here_is_judged_where_it_went() {
        let (old, new) = (listener(), listener());
        let links = Links::new();
        links.hear(&new.subscribe());
        let mut link = link_of(&old);
        assert!(!links.takes_over(&mut link), "its own listener speaks");
        drop(old);
        assert!(links.takes_over(&mut link));
        new.send_replace(snapshot(false));
        let why = link.ended().await;
        assert!(why.detail.contains("certificate_revoked"), "{why}");
        assert!(!links.takes_over(&mut link));
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_opened_while_the_process_ends_is_watched() {
        let (listener, drain) = (listener(), Drain::new());
        let links = Links::new();
        let first = add(&links, link_of(&listener), &drain);
        drain.draining().cancel();
        a_moment().await;
        drop(first);
        while drain.live() > 0 {
            a_moment().await;
        }
        let second = add(&links, link_of(&listener), &drain);
        a_moment().await;
        listener.send_replace(snapshot(false));
        ends(&second).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_at_a_link_judges_it_before_who_watches_does() {
        let (listener, drain) = (listener(), Drain::new());
        let links = Links::new();
        let fate = add(&links, link_of(&listener), &drain);
        listener.send_replace(snapshot(true));
        assert!(fate.end().is_none());
        listener.send_replace(snapshot(false));
        assert!(!fate.is_sealed(), "nobody has had a turn");
        let why = fate.end().unwrap();
        assert!(why.detail.contains("certificate_revoked"), "{why}");
        // nor does one begin
        assert!(Standing::begin(&link_of(&listener), &links).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_at_a_link_whose_listener_has_gone_asks_another_before_who_watches_does() {
        let drain = Drain::new();
        let alone = listener();
        let links = Links::new();
        let fate = add(&links, link_of(&alone), &drain);
        drop(alone);
        assert!(!fate.is_sealed(), "nobody has had a turn");
        let why = fate.end().expect("nobody speaks for it");
        assert!(why.detail.contains("the listener was removed"), "{why}");

        let (old, new) = (listener(), listener());
        let links = Links::new();
        let fate = add(&links, link_of(&old), &drain);
        links.hear(&new.subscribe());
        drop(old);
        assert!(fate.end().is_none());
        new.send_replace(snapshot(false));
        let why = fate.end().expect("it went on under the other");
        assert!(why.detail.contains("certificate_revoked"), "{why}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_was_dialled_for_a_listener_that_has_gone_begins_under_another_or_not() {
        let (old, new) = (listener(), listener());
        let links = Links::new();
        let link = link_of(&old);
        drop(old);
        let why = Standing::begin(&link, &links)
            .err()
            .expect("nobody speaks for it");
        assert!(why.detail.contains("the listener was removed"), "{why}");
        links.hear(&new.subscribe());
        assert!(Standing::begin(&link, &links).is_ok());
        new.send_replace(snapshot(false));
        let why = Standing::begin(&link, &links)
            .err()
            .expect("the other says no");
        assert_eq!(why.reason, Denial::CertificateRevoked);
    }

    #[tokio::test(start_paused = true)]
    async fn watching_ends_with_the_pool() {
        let (listener, drain) = (listener(), Drain::new());
        let links = Links::new();
        drop(add(&links, link_of(&listener), &drain));
        a_moment().await;
        assert_eq!(drain.live(), 1);
        drop(links);
        a_moment().await;
        assert_eq!(drain.live(), 0);
    }
}
