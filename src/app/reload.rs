//! Reload: load and check everything, then swap, or keep what is in force and say so loudly.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use tokio_util::sync::CancellationToken;

use super::{
    crl_numbers::CrlNumbers,
    fixed::{self, Fixed},
    leaving::Leaving,
    load::{Given, Loaded, LoadedListener, load, load_by},
    renew::{Report, SharedReport},
    staplers::Staplers,
};
use crate::{
    clock,
    config::{self, ListenAddress},
    drain::Drain,
    gateway::{health, reuse},
    net::{BindError, Inherited, Listener},
    serve::Serving,
    telemetry::metrics::Metrics,
    tls::{HeldSvid, challenge::Challenges},
    workers::Place,
};

/// One bound listener.
struct Live {
    address: ListenAddress,
    bound: Option<std::net::SocketAddr>,
    /// `limits.handshakes` that it began with.
    handshakes: usize,
    serving: Arc<Serving>,
}

/// What is in force, and what became of the last reload.
pub struct InForce {
    /// What was loaded last without a problem.
    pub loaded: Loaded,
    /// When.
    pub since: i64,
    /// Why the last reload was refused; empty when it was taken.
    pub refused: Vec<String>,
}

/// What became of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// It is in force.
    InForce,
    /// What was in force before is.
    Refused,
    /// A key does not fit its certificate, and both may be on their way: the pair in force stays, and
    /// nobody is told.
    Half,
}

/// What is told of a load that comes into force.
enum Told {
    /// That it was taken.
    Taken,
    /// Why another was refused, and this is still the one.
    Refused(Vec<String>),
    /// Nothing yet.
    Nothing,
}

/// The process's listeners and what they follow.
pub struct Process {
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// The drain that everything belongs to.
    pub drain: Drain,
    pub(super) inherited: Inherited,
    live: Mutex<HashMap<Arc<str>, Live>>,
    /// Listeners that accept no more, whose connections live on.
    leaving: Leaving,
    in_force: Mutex<Option<InForce>>,
    /// What was taken at the start.
    fixed: OnceLock<Fixed>,
    /// Ask responders for the status of our certificates.
    staplers: Staplers,
    /// What CAs are answered while certificates are ordered.
    pub challenges: Arc<Challenges>,
    /// What becomes of the certificates that are ordered for clients, by their file.
    pub ordered: Mutex<BTreeMap<PathBuf, Report>>,
    /// What becomes of an identity that renews itself.
    pub renewal: SharedReport,
    /// What a Workload API handed out and is in force. It is held by whoever changes what is in
    /// force, so that one change comes after the other.
    svid: Mutex<Option<Arc<HeldSvid>>>,
    /// Ends the active checks of what was in force before.
    checks: Mutex<CancellationToken>,
}

impl Process {
    /// A process without listeners.
    #[must_use]
    pub fn new(
        metrics: Arc<Metrics>,
        drain: Drain,
        inherited: Inherited,
        svid: Option<Arc<HeldSvid>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            metrics,
            drain,
            inherited,
            live: Mutex::default(),
            leaving: Leaving::default(),
            in_force: Mutex::default(),
            fixed: OnceLock::new(),
            staplers: Staplers::default(),
            challenges: Arc::default(),
            ordered: Mutex::default(),
            renewal: SharedReport::default(),
            svid: Mutex::new(svid),
            checks: Mutex::default(),
        })
    }

    /// Binds and starts every listener of a first load: all of them, or none.
    ///
    /// # Errors
    /// The listeners that can't be bound.
    pub fn start(&self, loaded: Loaded) -> Result<(), Vec<BindError>> {
        let svid = self.svid.lock().unwrap_or_else(PoisonError::into_inner);
        self.take(loaded, svid.as_deref(), Told::Taken)
    }

    /// Loads the configuration again. One that can't be leaves the last good one in force, with the
    /// files that it names as they are now: a slip of the pen must not keep a revocation or a
    /// renewal out. `waits`: a pair that is replaced by half is not judged yet; all other files come
    /// into force, if they are `new`.
    pub fn reload(&self, waits: bool, new: bool) -> Reloaded {
        let Some(file) = self.file() else {
            return Reloaded::Refused;
        };
        let svid = self.svid.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = config::load(&file).and_then(|config| self.load(config, svid.as_deref()));
        let problems: Vec<String> = match loaded {
            Err(problems) if waits && problems.half => {
                if new {
                    // what is wrong with them is told with the rest
                    let _judged_later = self.load_files_again(svid.as_deref(), Told::Nothing);
                }
                return Reloaded::Half;
            }
            Err(problems) => vec![problems.to_string()],
            Ok(loaded) => match self.take(loaded, svid.as_deref(), Told::Taken) {
                Ok(()) => return Reloaded::InForce,
                Err(errors) => errors.iter().map(ToString::to_string).collect(),
            },
        };
        let told = Told::Refused(problems.clone());
        if let Err(problem) = self.load_files_again(svid.as_deref(), told) {
            tracing::error!(%problem, "the files of the last good configuration do not load either");
        }
        for problem in &problems {
            tracing::error!(%problem, "reload refused: the last good configuration stays in force");
        }
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(in_force) = in_force.as_mut() {
            in_force.refused = problems;
        }
        self.metrics.reloaded(None);
        Reloaded::Refused
    }

    /// The configuration's.
    fn file(&self) -> Option<PathBuf> {
        self.with(|in_force| in_force.map(|f| f.loaded.config.common().file.clone()))
    }

    /// While the process stops: whoever is left is judged by what is on disk now, or by the
    /// configuration in force with the files of now. Nothing is bound.
    pub fn judge_who_is_left(&self) {
        let Some(file) = self.file() else { return };
        let svid = self.svid.lock().unwrap_or_else(PoisonError::into_inner);
        let load = |config| self.load(config, svid.as_deref());
        let loaded = config::load(&file).and_then(load).or_else(|problems| {
            tracing::error!(
                problem = %problems,
                "what changed does not load: whoever is left is judged by the last good configuration"
            );
            match self.with(|in_force| in_force.map(|f| f.loaded.config.clone())) {
                Some(config) => self.load_files(config, svid.as_deref()),
                None => Err(problems),
            }
        });
        match loaded {
            Ok(loaded) => {
                let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
                for listener in &loaded.listeners {
                    if let Some(held) = live.get(&listener.name) {
                        held.serving.publish(Arc::clone(&listener.snapshot));
                    }
                }
                self.take_out(&mut live, &loaded);
                drop(live);
                self.judge_leaving(&loaded, svid.as_deref());
                tracing::info!("a file changed: whoever is left is judged by it");
            }
            Err(problems) => tracing::error!(
                problem = %problems,
                "the files of the last good configuration do not load either"
            ),
        }
    }

    /// The configuration in force with the files that it names; without them nothing changes.
    fn load_files_again(&self, svid: Option<&HeldSvid>, told: Told) -> Result<(), String> {
        let config = self.with(|in_force| in_force.map(|f| f.loaded.config.clone()));
        let Some(config) = config else { return Ok(()) };
        let loaded = self.load_files(config, svid);
        let loaded = loaded.map_err(|problems| problems.to_string())?;
        self.take(loaded, svid, told)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    /// Brings what a Workload API handed out into force, with the configuration that is; whether
    /// it is another than before.
    ///
    /// # Errors
    /// It can't be: what was in force stays.
    pub fn take_svid(&self, svid: &Arc<HeldSvid>) -> Result<bool, String> {
        let mut held = self.svid.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref() == Some(svid) {
            return Ok(false);
        }
        let config = self
            .with(|in_force| in_force.map(|f| f.loaded.config.clone()))
            .ok_or("nothing is in force")?;
        let loaded = self.load_files(config, Some(svid));
        let loaded = loaded.map_err(|problems| problems.to_string())?;
        self.take(loaded, Some(svid), Told::Nothing)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<String>())?;
        *held = Some(Arc::clone(svid));
        Ok(true)
    }

    fn load(
        &self,
        config: config::Config,
        svid: Option<&HeldSvid>,
    ) -> Result<Loaded, config::Problems> {
        self.with(|in_force| {
            load(
                config,
                (svid, &self.challenges),
                &self.metrics,
                &self.drain,
                in_force.map(|f| &f.loaded),
            )
        })
    }

    /// The same of the configuration in force, where a pair whose files do not fit each other stays.
    fn load_files(
        &self,
        config: config::Config,
        svid: Option<&HeldSvid>,
    ) -> Result<Loaded, config::Problems> {
        let given = Given::beside_pairs(svid, &self.challenges);
        self.with(|in_force| {
            let in_force = in_force.map(|f| &f.loaded);
            load_by(config, given, &self.metrics, &self.drain, in_force)
        })
    }

    /// Looks at what is in force.
    pub fn with<T>(&self, look: impl FnOnce(Option<&InForce>) -> T) -> T {
        look(
            self.in_force
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .as_ref(),
        )
    }

    /// Has every live connection judged again: the rules are as they were, the time is not.
    pub fn look_again(&self) {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.values().for_each(|held| held.serving.look_again());
        drop(live);
        self.leaving.look_again();
    }

    /// Every file that decides on a live connection: what has to be watched.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = self.with(|f| f.map(|f| f.loaded.config.files()).unwrap_or_default());
        files.extend(self.leaving.files());
        files.sort();
        files.dedup();
        files
    }

    /// The same with what the next reload will read.
    #[must_use]
    pub fn files_to_load(&self) -> Vec<PathBuf> {
        let source = self.file().map(|file| match config::load(&file) {
            Ok(config) => Arc::clone(&config.common().source),
            Err(problems) => problems.source,
        });
        let mut files = self.files();
        let named = source.iter().flat_map(|source| &source.named);
        files.extend(named.map(|(path, _)| path.clone()));
        files.sort();
        files.dedup();
        files
    }

    /// Where the listeners really listen.
    #[must_use]
    pub fn addresses(&self) -> Vec<(Arc<str>, String)> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = |l: &Live| {
            l.bound
                .map_or_else(|| l.address.to_string(), |a| a.to_string())
        };
        let mut list: Vec<_> = live
            .iter()
            .map(|(name, l)| (Arc::clone(name), shown(l)))
            .collect();
        list.sort();
        list
    }

    /// Binds what is new first: when that fails nothing has changed.
    fn take(
        &self,
        loaded: Loaded,
        svid: Option<&HeldSvid>,
        told: Told,
    ) -> Result<(), Vec<BindError>> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bound = Vec::new();
        let mut failed = Vec::new();
        for listener in &loaded.listeners {
            let kept = live
                .get(&listener.name)
                .is_some_and(|l| l.address == listener.address);
            if !kept {
                // listeners take turns: one alone would do all of the accepting
                let place = self.drain.workers().nth(live.len() + bound.len());
                match place.enter(|| Listener::bind(&listener.address, &self.inherited)) {
                    Ok(socket) => bound.push((listener, socket, place)),
                    Err(error) => failed.push(error),
                }
            }
        }
        if !failed.is_empty() {
            return Err(failed);
        }
        for listener in &loaded.listeners {
            if let Some(held) = live.get(&listener.name)
                && held.address == listener.address
            {
                if held.handshakes != listener.snapshot.rules.limits.handshakes {
                    fixed::tell("limits.handshakes", Some(&listener.name));
                }
                held.serving.publish(Arc::clone(&listener.snapshot));
            }
        }
        for (listener, socket, place) in bound {
            let begun = self.begin(listener, socket, &place);
            if let Some(moved) = live.insert(Arc::clone(&listener.name), begun) {
                // the same listener at another address
                self.leaving.add(&listener.name, moved.serving, &self.drain);
            }
        }
        self.take_out(&mut live, &loaded);
        drop(live);
        self.judge_leaving(&loaded, svid);
        self.publish(loaded, told);
        Ok(())
    }

    fn begin(&self, listener: &LoadedListener, socket: Listener, place: &Place) -> Live {
        let bound = socket.local_address();
        let serving = Serving::new(
            Arc::clone(&listener.snapshot),
            self.metrics.listener(&listener.name),
            self.drain.clone(),
        );
        let shown = bound.map_or_else(|| listener.address.to_string(), |a| a.to_string());
        tracing::info!(listener = %listener.name, address = %shown, "listening");
        self.drain.spawn_at(place, Arc::clone(&serving).run(socket));
        Live {
            address: listener.address.clone(),
            bound,
            handshakes: listener.snapshot.rules.limits.handshakes,
            serving,
        }
    }

    /// What is configured no more accepts no more.
    fn take_out(&self, live: &mut HashMap<Arc<str>, Live>, loaded: &Loaded) {
        let gone = |name: &Arc<str>| loaded.listeners.iter().all(|l| l.name != *name);
        for (name, held) in live.extract_if(|name, _| gone(name)) {
            self.leaving.add(&name, held.serving, &self.drain);
        }
    }

    /// Connections whose listener accepts no more hear of what is in force from now on.
    fn judge_leaving(&self, loaded: &Loaded, svid: Option<&HeldSvid>) {
        self.with(|in_force| {
            let last = in_force.map(|f| &f.loaded.config);
            self.leaving.judge(last, loaded, &self.drain, |config| {
                let given = Given::beside_pairs(svid, &self.challenges);
                load_by(config, given, &self.metrics, &self.drain, Some(loaded))
            });
        });
    }

    /// When certificates and CRLs end, for whoever watches the metrics.
    fn tell_ends(&self, loaded: &Loaded) {
        for crl in loaded.crls() {
            self.metrics.crl(&crl.issuer, crl.next_update.0);
        }
        self.metrics
            .certificate("identity", loaded.identity.not_after.0);
        for listener in &loaded.listeners {
            let Some(edge) = &listener.edge else { continue };
            if edge.certificates.is_empty() {
                continue;
            }
            let whose = format!("listener {}", listener.name);
            self.metrics.certificate(&whose, edge.not_after.0);
        }
        for (name, backend) in loaded.backends.iter() {
            let generation = backend.generation();
            if !Arc::ptr_eq(generation, &loaded.identity) {
                let whose = format!("backend {name}");
                self.metrics.certificate(&whose, generation.not_after.0);
            }
        }
    }

    fn publish(&self, loaded: Loaded, told: Told) {
        let now = clock::now();
        let refused = match told {
            Told::Taken => {
                self.metrics.reloaded(Some(now.0));
                Vec::new()
            }
            Told::Refused(why) => why,
            Told::Nothing => self.with(|f| f.map(|f| f.refused.clone()).unwrap_or_default()),
        };
        let secrets = loaded.config.required_secrets();
        self.metrics.keep_secrets(|listener, rule, secret| {
            let same = |(name, of, place): &(&str, &str, String)| {
                *name == listener && *of == rule && place == secret
            };
            secrets.iter().any(same)
        });
        self.tell_ends(&loaded);
        CrlNumbers::of(loaded.common()).keep(&loaded);
        for warning in &loaded.warnings {
            tracing::warn!(%warning, "configuration");
        }
        let checks = self.drain.draining().child_token();
        std::mem::replace(
            &mut *self.checks.lock().unwrap_or_else(PoisonError::into_inner),
            checks.clone(),
        )
        .cancel();
        for backend in loaded.backends.values() {
            health::start(backend, &self.drain, &checks);
            reuse::start(backend, &self.drain, &checks);
        }
        self.staplers
            .follow(&loaded.staples, &self.metrics, &self.drain);
        let asked = Fixed::of(loaded.common());
        for key in self
            .fixed
            .get_or_init(|| Fixed::of(loaded.common()))
            .differs(&asked)
        {
            fixed::tell(key, None);
        }
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        *in_force = Some(InForce {
            loaded,
            since: now.0,
            refused,
        });
    }
}
