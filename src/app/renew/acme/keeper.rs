//! Keeps every certificate of an ACME CA valid, one after the other.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::super::super::{load::Loaded, reload::Process};
use super::super::{
    Report, TICK, files,
    schedule::{self, Chance},
};
use super::{Ordering, Whose, random, tries::Tries};
use crate::{
    clock,
    identity::{CertFacts, Sha256, UnixSeconds},
    net::Inherited,
    tls::challenge::Challenges,
};

/// How long what was put on disk may take to be in force.
const SETTLES: Duration = Duration::from_secs(60);
const NOT_TAKEN: &str = "the new certificate is on disk, and no reload takes it: see the log for why \
                         reloads fail";

/// Keeps them as long as the process lives; after a reload there may be others.
pub fn start(process: &Arc<Process>) {
    let process = Arc::clone(process);
    let drain = process.drain.clone();
    let stop = drain.draining();
    drain.spawn(async move {
        let mut keeper = Keeper::default();
        loop {
            // what is in the middle of it is on disk, whole: a stop may cut it off
            let pause = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                pause = Box::pin(keeper.look(&process)) => pause,
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    });
}

/// A certificate, and the one of it that is in force.
struct Wanted {
    ordering: Ordering,
    /// Its leaf, and when its chain ends; `None`: there is none yet.
    held: Option<(CertFacts, UnixSeconds)>,
}

fn wanted(loaded: &Loaded, challenges: &Arc<Challenges>) -> Result<Vec<Wanted>, String> {
    let mut list = Vec::new();
    if let Some(ordering) = Ordering::of(&loaded.config, challenges)? {
        let identity = &loaded.identity;
        let held = Some((identity.leaf.clone(), identity.not_after));
        list.push(Wanted { ordering, held });
    }
    for ordering in Ordering::shown(&loaded.config, challenges)? {
        let Whose::Shown(files, _) = &ordering.whose else {
            continue;
        };
        let edges = loaded.listeners.iter().filter_map(|l| l.edge.as_ref());
        let mut shown = edges.flat_map(|edge| &edge.certificates);
        let held = shown.find(|shown| shown.file == files.certificate);
        let held = held.map(|shown| (shown.leaf.clone(), shown.not_after));
        list.push(Wanted { ordering, held });
    }
    Ok(list)
}

/// What is remembered of one certificate between looks.
#[derive(Default)]
struct Memory {
    /// Of which the rest speaks.
    of: Option<Sha256>,
    chance: Chance,
    /// The new one, and since when it is on disk, until it is in force.
    placed: Option<(Instant, CertFacts)>,
}

#[derive(Default)]
struct Keeper {
    memories: HashMap<PathBuf, Memory>,
}

impl Keeper {
    /// One look; how long until the next.
    async fn look(&mut self, process: &Arc<Process>) -> Duration {
        let seen = process.with(|f| f.map(|f| wanted(&f.loaded, &process.challenges)));
        let list = match seen {
            None => return TICK,
            Some(Ok(list)) => list,
            Some(Err(failure)) => {
                process.renewal.set(|report| report.failure = failure);
                return TICK;
            }
        };
        let stays = |key: &PathBuf| list.iter().any(|wanted| wanted.ordering.key() == key);
        self.memories.retain(|key, _| stays(key));
        process
            .ordered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|key, _| stays(key));
        let mut pause = TICK;
        for wanted in &list {
            pause = pause.min(self.keep(process, wanted).await);
        }
        pause
    }

    async fn keep(&mut self, process: &Arc<Process>, wanted: &Wanted) -> Duration {
        let Wanted { ordering, held } = wanted;
        let of = held.as_ref().map(|(leaf, _)| leaf.fingerprint);
        let memory = self.memories.entry(ordering.key().to_owned());
        let memory = memory.or_insert_with(|| Memory {
            chance: random(),
            ..Memory::default()
        });
        if memory.of != of {
            if memory.placed.is_some() {
                tell(process, ordering, |report| report.failure.clear());
            }
            *memory = Memory {
                of,
                chance: random(),
                placed: None,
            };
        }
        let now = clock::now();
        let due = match held {
            // without its files a restart would have none
            Some((leaf, end))
                if files::names(leaf) == ordering.expected() && ordering.is_there() =>
            {
                schedule::due(leaf.not_before, leaf.not_after.min(*end), memory.chance)
            }
            _ => now,
        };
        tell(process, ordering, |report| report.due = Some(due));
        if let Some((at, new)) = &memory.placed {
            let settles = at.elapsed() < SETTLES;
            let is_good = ordering.is_good(new, memory.chance);
            if is_good && !settles {
                stuck(process, ordering, NOT_TAKEN.to_owned());
            }
            // another would not be taken either
            if is_good || settles {
                return Duration::from_secs(1);
            }
        }
        let mut tries = ordering.tries();
        // what is in force is what was wanted
        if now < due && tries.failures > 0 {
            tries.forget();
        }
        if now < due || !tries.is_over(now) {
            if now >= due {
                stuck(process, ordering, tries.failure);
            }
            // a short life has no ticks to lose
            let left = u64::try_from(due.0.saturating_sub(now.0)).unwrap_or_default();
            return TICK.min(Duration::from_secs(left.max(1)));
        }
        let end = held.as_ref().map_or(UnixSeconds(i64::MAX), |(_, end)| *end);
        // a try that nobody would know of after it is none to make
        if let Err(error) = tries.begin(end, memory.chance) {
            stuck(process, ordering, error);
            return TICK;
        }
        let issued = ordering.issue(&Inherited::default()).await;
        count(process, ordering, issued.is_ok().then(clock::now));
        match issued {
            Ok(new) => {
                // they are forgotten when it is in force, and not due again at once
                tries.came();
                came(process, wanted, &new);
                memory.placed = Some((Instant::now(), new));
            }
            Err(refusal) => {
                tries.failed(refusal, end, memory.chance);
                failed(process, wanted, &tries);
            }
        }
        TICK
    }
}

/// Reports why no order is made, and logs it once.
fn stuck(process: &Process, ordering: &Ordering, why: String) {
    let mut known = false;
    tell(process, ordering, |report| {
        known = report.failure == why;
        report.failure.clone_from(&why);
    });
    if !known {
        tracing::error!(key = %ordering.key().display(), error = %why, "no certificate is ordered");
    }
}

fn came(process: &Process, Wanted { ordering, held }: &Wanted, new: &CertFacts) {
    tell(process, ordering, |report| {
        report.renewed = Some(clock::now());
        report.failure.clear();
    });
    let replaces = held.as_ref().map(|(leaf, _)| leaf.serial.to_string());
    match &ordering.whose {
        Whose::Ours(_) => tracing::info!(
            serial = %new.serial,
            replaces,
            not_after = %new.not_after,
            "our certificate is renewed"
        ),
        Whose::Shown(files, _) => tracing::info!(
            certificate = %files.certificate.display(),
            serial = %new.serial,
            replaces,
            not_after = %new.not_after,
            "a certificate of a listener is here"
        ),
    }
}

fn failed(process: &Process, Wanted { ordering, held }: &Wanted, tries: &Tries) {
    tell(process, ordering, |report| {
        report.failure.clone_from(&tries.failure);
    });
    let now = clock::now();
    let ends = held.as_ref().map(|(_, end)| end.relative_to(now));
    let next_try = tries.again.relative_to(now);
    match &ordering.whose {
        Whose::Ours(_) => tracing::error!(
            error = %tries.failure,
            failures = tries.failures,
            ends,
            %next_try,
            "our certificate can't be renewed: it stays in force until it ends"
        ),
        Whose::Shown(files, _) => tracing::error!(
            certificate = %files.certificate.display(),
            error = %tries.failure,
            failures = tries.failures,
            ends,
            %next_try,
            "a certificate of a listener can't be had: what is there stays in force until it ends"
        ),
    }
}

fn count(process: &Process, ordering: &Ordering, at: Option<UnixSeconds>) {
    match &ordering.whose {
        Whose::Ours(_) => process.metrics.renewed(at.map(|at| at.0)),
        Whose::Shown(files, _) => {
            let file = files.certificate.display().to_string();
            process.metrics.ordered(&file, at.is_some());
        }
    }
}

fn tell(process: &Process, ordering: &Ordering, change: impl FnOnce(&mut Report)) {
    match &ordering.whose {
        Whose::Ours(_) => process.renewal.set(change),
        Whose::Shown(files, _) => {
            let mut all = process
                .ordered
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            change(all.entry(files.key.clone()).or_default());
        }
    }
}
