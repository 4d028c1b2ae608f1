//! The life of a process: load, bind, run, reload, drain.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    admin,
    load::{self, load},
    notify::Notifier,
    reload::{Process, Reloaded},
    renew,
    signals::{Signals, Wish},
    watch::Watch,
};
use crate::{
    config::{Config, Problems},
    drain::Drain,
    net::{BindError, Inherited, fd},
    telemetry::{log, metrics::Metrics},
    workers::{self, Workers},
};

/// Where no listener says another.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long threads are waited for at the end.
const END: Duration = Duration::from_secs(1);

/// A key and a certificate that do not fit each other are read again after so long, and for so long:
/// whatever replaces them writes one after the other.
const AGAIN: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(2);

/// A process that could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file that the configuration names is wrong: exit code 2.
    #[error("{0}")]
    Load(Problems),
    /// A listener can't be bound: exit code 1.
    #[error("{}", list(.0))]
    Bind(Vec<BindError>),
    /// The system refuses what every process has: exit code 1.
    #[error("{0}")]
    System(String),
}

fn list<E: ToString>(errors: &[E]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Where a started process listens.
#[derive(Debug)]
pub struct Bound {
    /// Listener name and address.
    pub addresses: Vec<(Arc<str>, String)>,
}

/// Checks everything that a start would check; opens no socket.
///
/// # Errors
/// Every problem of every file.
pub fn check(config: Config) -> Result<Vec<String>, Problems> {
    let mut pair = Pair::default();
    loop {
        match load::check(config.clone()) {
            Err(problems) if problems.half && pair.may_come() => std::thread::sleep(AGAIN),
            checked => return checked,
        }
    }
}

/// Since when a key does not fit its certificate.
#[derive(Default)]
struct Pair(Option<Instant>);

impl Pair {
    /// Whether what is missing may still be on its way.
    fn may_come(&mut self) -> bool {
        self.0.get_or_insert_with(Instant::now).elapsed() < PATIENCE
    }

    /// Says that it is waited for, where it was not before.
    fn told(seen: Option<Instant>) {
        if seen.is_none() {
            tracing::info!("a key does not fit its certificate: both are read again");
        }
    }
}

/// Runs a role until it is told to stop and has drained.
///
/// # Errors
/// It could not start.
pub fn run(config: Config) -> Result<(), StartError> {
    // before the runtime's threads: this edits the environment
    let inherited = Inherited::from_environment();
    log::init(&config.common().log);
    let system = |error: io::Error| StartError::System(error.to_string());
    let count = match config.common().workers {
        0 => workers::cores(),
        count => count,
    };
    // before any thread: each has what the one that starts it has
    super::scheduling::set(config.common().scheduling);
    let (workers, threads) = Workers::start(count).map_err(system)?;
    // beside what carries connections there is little to do
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(system)?;
    let done = runtime.block_on(live(config, inherited, Drain::on(workers)));
    // what is left is stuck in a blocking call: it is not waited for
    threads.stop(END);
    runtime.shutdown_timeout(END);
    done
}

async fn live(config: Config, inherited: Inherited, drain: Drain) -> Result<(), StartError> {
    let metrics = Metrics::new();
    let mut signals = Signals::new().map_err(|error| StartError::System(error.to_string()))?;
    check_descriptors(&config, &metrics);
    renew::prepare(&config);
    tokio::select! {
        biased;
        first = Box::pin(renew::acme::first(&config, &inherited)) => first.map_err(StartError::System)?,
        // nothing is open yet: there is nothing to drain
        () = second(&mut signals) => return Ok(()),
    }
    // before anything is read: a change meanwhile is noticed
    let mut watch = Watch::new(config.files());
    let svid = tokio::select! {
        biased;
        first = Box::pin(renew::spiffe::first(&config)) => first.map_err(StartError::System)?,
        // nothing is open yet: there is nothing to drain
        () = second(&mut signals) => return Ok(()),
    };
    let process = Process::new(Arc::clone(&metrics), drain.clone(), inherited, svid.clone());
    let given = (svid.as_deref(), &process.challenges);
    let mut pair = Pair::default();
    let loaded = loop {
        let seen = pair.0;
        match load(config.clone(), given, &metrics, &drain, None) {
            Err(problems) if problems.half && pair.may_come() => {
                Pair::told(seen);
                tokio::select! {
                    biased;
                    // nothing is open yet: there is nothing to drain
                    () = second(&mut signals) => return Ok(()),
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
            loaded => break loaded.map_err(StartError::Load)?,
        }
    };
    let admin_config = loaded.config.common().admin.clone();
    process.start(loaded).map_err(StartError::Bind)?;
    if let Some(config) = admin_config {
        admin::start(&config, &process).map_err(|error| StartError::Bind(vec![error]))?;
    }
    super::exposure::start(&process);
    super::forget::start(&process);
    super::jumps::start(&process);
    renew::start(&process);
    renew::acme::start(&process);
    renew::spiffe::start(&process);
    let notifier = Notifier::default();
    notifier.ready(&status(&process));
    follow(&process, &mut signals, &notifier, &mut watch).await;
    notifier.stopping();
    let drain_timeout = process.with(|f| f.map(|f| drain_timeout(&f.loaded.config)));
    let drain_timeout = drain_timeout.unwrap_or(DRAIN_TIMEOUT);
    tracing::info!(live = drain.live(), timeout = ?drain_timeout, "draining");
    let mut drained = Box::pin(drain.drain(drain_timeout));
    let cut = loop {
        tokio::select! {
            biased;
            cut = &mut drained => break cut,
            () = second(&mut signals) => {
                tracing::warn!("told twice: not waiting");
                // what is cut has to look cut
                drain.cut().await;
                return Ok(());
            }
            // who is shut out meanwhile is not let stay to the end
            () = watch.changed() => process.judge_who_is_left(),
        }
    };
    tracing::info!(cut, "stopped");
    Ok(())
}

/// Reloads until told to stop.
async fn follow(
    process: &Arc<Process>,
    signals: &mut Signals,
    notifier: &Notifier,
    watch: &mut Watch,
) {
    let beat = Notifier::watchdog_interval();
    let mut pair = Pair::default();
    loop {
        let alive = async {
            match beat {
                Some(every) => tokio::time::sleep(every).await,
                None => std::future::pending().await,
            }
        };
        let new = tokio::select! {
            biased;
            wish = signals.next() => match wish {
                Wish::Stop => return,
                Wish::Reload => true,
            },
            () = watch.changed() => {
                tracing::info!("a file changed");
                true
            }
            () = tokio::time::sleep(AGAIN), if pair.0.is_some() => false,
            () = alive => {
                notifier.alive();
                // beats that come sooner must not put the next look off for ever
                if pair.0.is_none() {
                    continue;
                }
                false
            }
        };
        notifier.reloading();
        reload(process, watch, &mut pair, new);
        notifier.ready(&status(process));
    }
}

/// What is read is watched before it is: a change from then on is told. `new`: not only a pair is
/// looked at again.
fn reload(process: &Process, watch: &mut Watch, pair: &mut Pair, new: bool) {
    let new = watch.look_at(process.files_to_load()) || new;
    let seen = pair.0;
    match process.reload(pair.may_come(), new) {
        Reloaded::Half => {
            Pair::told(seen);
            return;
        }
        Reloaded::InForce => {
            tracing::info!("reloaded");
            watch.keep(&process.files());
        }
        // what it names is watched: it may be on its way
        Reloaded::Refused => {}
    }
    *pair = Pair::default();
}

async fn second(signals: &mut Signals) {
    while signals.next().await != Wish::Stop {}
}

fn status(process: &Process) -> String {
    let listeners = process.addresses();
    let shown: Vec<String> = listeners
        .iter()
        .map(|(name, at)| format!("{name} {at}"))
        .collect();
    format!("listening: {}", shown.join(", "))
}

fn drain_timeout(config: &Config) -> Duration {
    let all = match config {
        Config::Gateway(gateway) => gateway.limits().map(|l| l.drain_timeout).max(),
        Config::Acceptor(acceptor) => acceptor
            .listeners
            .iter()
            .map(|l| l.limits.drain_timeout)
            .max(),
        Config::Authority(authority) => authority
            .listeners
            .iter()
            .map(|l| l.limits.drain_timeout)
            .max(),
    };
    all.unwrap_or(DRAIN_TIMEOUT)
}

/// Each connection takes two descriptors: its own and the one of the next hop.
fn check_descriptors(config: &Config, metrics: &Metrics) {
    let connections: usize = match config {
        Config::Gateway(gateway) => gateway.limits().map(|l| l.connections).sum(),
        Config::Acceptor(acceptor) => acceptor
            .listeners
            .iter()
            .map(|l| l.limits.connections)
            .sum(),
        Config::Authority(authority) => authority
            .listeners
            .iter()
            .map(|l| l.limits.connections)
            .sum(),
    };
    let needed = u64::try_from(connections)
        .unwrap_or(u64::MAX)
        .saturating_mul(2)
        .saturating_add(100);
    if let Some(limit) = fd::raise_limit() {
        metrics.descriptors(limit);
        if limit < needed {
            tracing::warn!(
                limit,
                needed,
                "too few file descriptors for limits.connections: raise LimitNOFILE or lower the limit"
            );
        }
    }
}
