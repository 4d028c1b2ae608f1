//! Listeners that accept no more: moved to another address, or taken out of the configuration.
//! Their connections live on for a while, and are judged like all others for as long as they do.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use super::load::Loaded;
use crate::{
    config::{AcceptorConfig, AuthorityConfig, Config, GatewayConfig, Problems},
    drain::Drain,
    serve::{Serving, Snapshot},
};

/// Those listeners.
#[derive(Default)]
pub(super) struct Leaving {
    list: Mutex<Vec<Entry>>,
}

struct Entry {
    name: Arc<str>,
    /// Lives as long as its connections.
    serving: Weak<Serving>,
    /// The last configuration that has the listener; `None`: the one in force has it.
    last: Option<Arc<Config>>,
}

impl Leaving {
    fn list(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A listener accepts no more; [`Self::judge`] says what its connections are judged by.
    pub(super) fn add(&self, name: &Arc<str>, serving: Arc<Serving>, drain: &Drain) {
        serving.stop();
        self.list().push(Entry {
            name: Arc::clone(name),
            serving: Arc::downgrade(&serving),
            last: None,
        });
        drain.spawn(async move { serving.until_idle().await });
    }

    /// The time is another.
    pub(super) fn look_again(&self) {
        let list = self.list();
        let left = list.iter().filter_map(|entry| entry.serving.upgrade());
        left.for_each(|serving| serving.look_again());
    }

    /// What the configuration in force does not name and connections hang on all the same.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let list = self.list();
        let left = list.iter().filter(|entry| entry.serving.strong_count() > 0);
        let last = left.filter_map(|entry| entry.last.as_ref());
        last.flat_map(|config| config.files()).collect()
    }

    /// Their connections hear of what was loaded. A listener that is configured no more is judged
    /// by what `in_force`, the last configuration that had it, says of it, with the identity and
    /// the files of today; where those do not load nobody can judge, and its connections end.
    pub(super) fn judge(
        &self,
        in_force: Option<&Config>,
        loaded: &Loaded,
        drain: &Drain,
        load: impl Fn(Config) -> Result<Loaded, Problems>,
    ) {
        let mut list = self.list();
        list.retain(|entry| entry.serving.strong_count() > 0);
        let mut before = None;
        for entry in list.iter_mut() {
            let Some(serving) = entry.serving.upgrade() else {
                continue;
            };
            if let Some(snapshot) = named(loaded, &entry.name) {
                // the one that took its place is at work by it
                serving.publish_of_other(snapshot);
                entry.last = None;
            } else if entry.last.is_none() {
                before = before.or_else(|| in_force.cloned().map(Arc::new));
                entry.last.clone_from(&before);
                drain.spawn(async move { serving.retire().await });
            }
        }
        // one load for all that one reload took out
        list.chunk_by(|a, b| a.is_with(b))
            .for_each(|taken| judge_removed(taken, loaded, &load));
    }
}

impl Entry {
    fn is_with(&self, other: &Self) -> bool {
        match (&self.last, &other.last) {
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
            _ => false,
        }
    }
}

/// The rules of the listener of this name, if there is one.
fn named(loaded: &Loaded, name: &str) -> Option<Arc<Snapshot>> {
    let listener = loaded.listeners.iter().find(|l| &*l.name == name);
    listener.map(|listener| Arc::clone(&listener.snapshot))
}

fn judge_removed(
    taken: &[Entry],
    loaded: &Loaded,
    load: &impl Fn(Config) -> Result<Loaded, Problems>,
) {
    let Some(last) = taken.first().and_then(|entry| entry.last.as_ref()) else {
        return;
    };
    let names: Vec<&str> = taken.iter().map(|entry| &*entry.name).collect();
    let of_today = without_others(last, &loaded.config, &names).map(load);
    if let Some(Err(problems)) = &of_today {
        tracing::error!(
            listeners = %names.join(", "),
            problem = %problems,
            "the files of a listener that was taken out do not load any more: its connections end"
        );
    }
    for entry in taken {
        let Some(serving) = entry.serving.upgrade() else {
            continue;
        };
        let snapshot = match &of_today {
            Some(Ok(of_today)) => named(of_today, &entry.name),
            Some(Err(_)) | None => None,
        };
        match snapshot {
            Some(snapshot) => serving.publish(snapshot),
            None => {
                serving.withdraw("the listener was removed, and its files do not load any more");
            }
        }
    }
}

/// What `last` says of these listeners and of where they lead, with everything else of today.
fn without_others(last: &Config, now: &Config, names: &[&str]) -> Option<Config> {
    let named = |name: &str| names.contains(&name);
    Some(match (last, now) {
        (Config::Gateway(last), Config::Gateway(now)) => {
            let mut backends = last.backends.clone();
            backends.extend(now.backends.clone());
            let mut kept = GatewayConfig {
                common: now.common.clone(),
                backends,
                ..last.clone()
            };
            kept.listeners.retain(|listener| named(&listener.name));
            kept.redirects.retain(|listener| named(&listener.name));
            Config::Gateway(kept)
        }
        (Config::Acceptor(last), Config::Acceptor(now)) => {
            let mut listeners = last.listeners.clone();
            listeners.retain(|listener| named(&listener.name));
            let common = now.common.clone();
            Config::Acceptor(AcceptorConfig { common, listeners })
        }
        (Config::Authority(last), Config::Authority(now)) => {
            let mut listeners = last.listeners.clone();
            listeners.retain(|listener| named(&listener.name));
            Config::Authority(AuthorityConfig {
                listeners,
                ..now.clone()
            })
        }
        // another role is another process
        (Config::Gateway(_) | Config::Acceptor(_) | Config::Authority(_), _) => return None,
    })
}
