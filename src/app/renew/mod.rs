//! An identity that keeps itself valid (`source = "renew"` or `"pki"`): renewed at two thirds of
//! its life, trust and CRLs kept fresh. What is new goes to disk, and comes into force as if an
//! operator had put it there.

pub mod acme;
mod fetch;
mod files;
mod schedule;
pub mod spiffe;
mod store;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::Method;
use rustls_pki_types::ServerName as TlsName;
use tokio::time::Instant;

use self::{
    fetch::{Place, Session},
    files::Own,
    schedule::Chance,
    store::{from_store, keep_crls, passphrase},
};
use super::reload::Process;
use crate::{
    clock,
    config::{Config, Renewal, RenewalSource, ServerName, Store},
    identity::{CertFacts, Sha256, UnixSeconds},
    pki::{Authority, key_and_request},
    tls::{ClientTls, Generation, LinkRole},
};

/// How often the clock is looked at: it may jump.
const TICK: Duration = Duration::from_secs(5);
/// A failed look at trust and CRLs is repeated no sooner.
const PAUSE: Duration = Duration::from_secs(5);
/// Seconds between looks at the store's own lists, which are large where many are revoked.
const LISTS_EVERY: i64 = 60;
/// How often a failure to refresh is said.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// What became of renewals, for status and readiness.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// When the certificate in force is renewed; `None`: somebody else replaces the files.
    pub due: Option<UnixSeconds>,
    /// When it was renewed last, since the start.
    pub renewed: Option<UnixSeconds>,
    /// Why the last try to renew failed; empty after a success.
    pub failure: String,
    /// Why trust and CRLs could not be looked at; empty after a success.
    pub refresh_failure: String,
}

/// A report that is written by one task and read by others.
#[derive(Debug, Default)]
pub struct SharedReport(Mutex<Report>);

impl SharedReport {
    /// As it is now.
    #[must_use]
    pub fn get(&self) -> Report {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn own(config: &Config) -> Own {
    let common = config.common();
    Own {
        identity: common.identity.clone(),
        tls: common.tls.clone(),
        role: match config {
            Config::Gateway(_) => LinkRole::Gateway,
            Config::Acceptor(_) => LinkRole::Acceptor,
            Config::Authority(_) => LinkRole::Authority,
        },
    }
}

/// Before the first load: completes a renewal that was cut off, and renews from a store on this
/// host a certificate that has ended meanwhile.
pub fn prepare(config: &Config) {
    let own = own(config);
    let Some(renewal) = &own.identity.renewal else {
        return;
    };
    let store = match &renewal.from {
        // nothing of it is on disk
        RenewalSource::Workload { .. } => return,
        RenewalSource::Server { .. } | RenewalSource::Acme(_) => None,
        RenewalSource::Store(store) => Some(store),
    };
    if let Err(error) = files::recover(&own) {
        tracing::error!(%error, "the renewal stays as it is");
    }
    let Some(store) = store else {
        return;
    };
    let leaf = crate::tls::material::load_chain(&own.identity.certificate)
        .ok()
        .and_then(|chain| CertFacts::read(chain.first()?).ok());
    let Some(leaf) = leaf else { return };
    if clock::now() <= leaf.not_after {
        return;
    }
    match from_store(&own, store, &leaf) {
        Ok(new) => {
            tracing::info!(serial = %new.serial, not_after = %new.not_after, "certificate renewed");
        }
        Err(error) => tracing::error!(%error, "the certificate has ended and can't be renewed"),
    }
}

/// Begins to keep the identity valid; one that is not to renew itself may become one by a reload.
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

/// What is remembered between looks.
#[derive(Default)]
struct Keeper {
    /// Of which certificate the rest speaks.
    of: Option<Sha256>,
    chance: Chance,
    failures: u32,
    again: Option<UnixSeconds>,
    /// Since when our certificate's issuer is no longer the one in use.
    other_issuer: Option<UnixSeconds>,
    refreshed: Option<Instant>,
    /// When the store's lists were looked at last.
    kept: Option<UnixSeconds>,
    /// When it was said last what of the store ends.
    warned: Option<UnixSeconds>,
    /// When it was said last that trust and CRLs can't be had.
    told: Option<Instant>,
}

/// What a look sees.
struct View {
    own: Own,
    renewal: Renewal,
    generation: Arc<Generation>,
}

impl Keeper {
    /// One look; how long until the next.
    async fn look(&mut self, process: &Arc<Process>) -> Duration {
        let seen = process.with(|in_force| {
            let loaded = &in_force?.loaded;
            let store = match &loaded.config {
                Config::Authority(authority) => Some(authority.store.clone()),
                Config::Gateway(_) | Config::Acceptor(_) => None,
            };
            let own = own(&loaded.config);
            // a Workload API has its own follower, and an ACME CA its own keeper
            let keeps = own.identity.workload().is_none() && own.identity.acme().is_none();
            let renewal = own.identity.renewal.clone().filter(|_| keeps);
            let view = renewal.map(|renewal| View {
                own,
                renewal,
                generation: Arc::clone(&loaded.identity),
            });
            Some((store, view, keeps))
        });
        let Some((store, view, keeps)) = seen else {
            return TICK;
        };
        if let Some(store) = store {
            let now = clock::now();
            // by the wall clock, which the lists end by
            let over = |last: Option<UnixSeconds>, seconds| {
                last.is_none_or(|at| now < at || now.0.saturating_sub(at.0) >= seconds)
            };
            if over(self.kept, LISTS_EVERY) {
                self.kept = Some(now);
                let warn = over(self.warned, 86_400);
                if warn {
                    self.warned = Some(now);
                }
                keep_crls(store, warn).await;
            }
        }
        let Some(view) = view else {
            if keeps {
                process.renewal.set(|report| *report = Report::default());
            }
            return TICK;
        };
        self.follow(&view);
        let due = self.due(&view);
        process.renewal.set(|report| report.due = Some(due));
        let now = clock::now();
        // a clock that was set back must not leave it waiting
        let tried = self
            .again
            .is_some_and(|again| now < again && again.0.saturating_sub(now.0) <= 2 * 3_600);
        let renews = now >= due && !tried;
        let refreshes = self
            .refreshed
            .is_none_or(|at| at.elapsed() >= view.renewal.refresh);
        if renews || refreshes {
            self.work(process, &view, renews, refreshes).await;
        }
        TICK.min(view.renewal.refresh)
            .max(Duration::from_millis(100))
    }

    /// Another certificate is in force: what was known of the last one is over.
    fn follow(&mut self, view: &View) {
        let of = view.generation.leaf.fingerprint;
        if self.of == Some(of) {
            return;
        }
        let mut random = [0; 2];
        if aws_lc_rs::rand::fill(&mut random).is_err() {
            tracing::warn!("no randomness: renewals are not spread");
        }
        self.of = Some(of);
        self.chance = Chance::from_ne_bytes(random);
        self.failures = 0;
        self.again = None;
        self.other_issuer = None;
    }

    fn due(&self, view: &View) -> UnixSeconds {
        let leaf = &view.generation.leaf;
        let end = leaf.not_after.min(view.generation.not_after);
        let by_age = schedule::due(leaf.not_before, end, self.chance);
        match self.other_issuer {
            // a new issuer is left to become known, while there is time for it
            Some(since) => {
                let known = schedule::known_after(view.renewal.refresh, self.chance);
                UnixSeconds(since.0.saturating_add(known)).min(end)
            }
            None => by_age,
        }
    }

    async fn work(&mut self, process: &Arc<Process>, view: &View, renews: bool, refreshes: bool) {
        let mut source = match Source::open(view).await {
            Ok(source) => source,
            Err(error) => {
                if refreshes {
                    self.not_refreshed(process, view, &error);
                }
                if renews {
                    self.not_renewed(process, view, &error);
                }
                return;
            }
        };
        if renews {
            match source.renew(view).await {
                Ok(new) => {
                    let now = clock::now();
                    process.metrics.renewed(Some(now.0));
                    process.renewal.set(|report| {
                        report.renewed = Some(now);
                        report.failure.clear();
                    });
                    // until the new one is in force: by then it is another certificate
                    self.again = Some(UnixSeconds(now.0.saturating_add(60)));
                    tracing::info!(
                        serial = %new.serial,
                        replaces = %view.generation.leaf.serial,
                        not_after = %new.not_after,
                        "our certificate is renewed"
                    );
                }
                Err(error) => self.not_renewed(process, view, &error),
            }
        }
        if refreshes {
            match source.refresh(view).await {
                Ok(other_issuer) => {
                    self.refreshed = Some(Instant::now());
                    self.other_issuer = match other_issuer {
                        true => self.other_issuer.or_else(|| Some(clock::now())),
                        false => None,
                    };
                    self.told = None;
                    process.metrics.refreshed(Some(clock::now().0));
                    process.renewal.set(|report| report.refresh_failure.clear());
                }
                Err(error) => self.not_refreshed(process, view, &error),
            }
        }
    }

    fn not_renewed(&mut self, process: &Process, view: &View, error: &str) {
        let now = clock::now();
        let end = view.generation.not_after;
        self.failures = self.failures.saturating_add(1);
        let again = schedule::again(now, end, self.failures, self.chance);
        self.again = Some(again);
        process.metrics.renewed(None);
        process
            .renewal
            .set(|report| error.clone_into(&mut report.failure));
        tracing::error!(
            %error,
            failures = self.failures,
            serial = %view.generation.leaf.serial,
            ends = %end.relative_to(now),
            not_after = %end,
            next_try = %again.relative_to(now),
            "our certificate can't be renewed: it stays in force until it ends"
        );
    }

    fn not_refreshed(&mut self, process: &Process, view: &View, error: &str) {
        // not at every tick, and not as if it had succeeded
        let refresh = view.renewal.refresh;
        self.refreshed = Instant::now().checked_sub(refresh.saturating_sub(PAUSE.min(refresh)));
        process.metrics.refreshed(None);
        // said at once, and then now and then
        if self.told.is_none_or(|at| at.elapsed() >= TOLD_EVERY) {
            self.told = Some(Instant::now());
            tracing::warn!(%error, "trust and CRLs can't be refreshed: those on disk stay in force");
        }
        process
            .renewal
            .set(|report| error.clone_into(&mut report.refresh_failure));
    }
}

/// Where renewals come from.
enum Source {
    Server(Box<Session>),
    Store(Store),
}

impl Source {
    async fn open(view: &View) -> Result<Self, String> {
        match &view.renewal.from {
            RenewalSource::Store(store) => Ok(Self::Store(store.clone())),
            RenewalSource::Workload { .. } | RenewalSource::Acme(_) => {
                Err("it has a keeper of its own".to_owned())
            }
            RenewalSource::Server {
                address,
                server_name,
                host,
                bind,
            } => {
                let tls = ClientTls::authority(&view.generation, &view.own.tls)
                    .map_err(|error| error.to_string())?;
                let name = match server_name {
                    ServerName::Ip(ip) => TlsName::IpAddress((*ip).into()),
                    ServerName::Dns(name) => TlsName::try_from(name.as_str().to_owned())
                        .map_err(|error| error.to_string())?,
                };
                let place = Place {
                    address,
                    name,
                    host,
                    bind: *bind,
                };
                let opened = Session::open(place, &tls).await;
                opened
                    .map(|session| Self::Server(Box::new(session)))
                    .map_err(|error| format!("{address}: {error}"))
            }
        }
    }

    async fn renew(&mut self, view: &View) -> Result<CertFacts, String> {
        let own = view.own.clone();
        let leaf = view.generation.leaf.clone();
        match self {
            Self::Store(store) => {
                let store = store.clone();
                blocking(move || from_store(&own, &store, &leaf)).await
            }
            Self::Server(session) => {
                let passphrase = passphrase(&own.identity)?;
                let (key, request) = key_and_request(&leaf, passphrase.as_ref())
                    .map_err(|error| error.to_string())?;
                let chain = session.ask(Method::POST, "/v1/renew", request).await?;
                let chain = String::from_utf8(chain).map_err(|error| error.to_string())?;
                blocking(move || files::install(&own, &leaf, &key, &chain)).await
            }
        }
    }

    /// Trust and CRLs; whether our certificate's issuer is no longer the one in use.
    async fn refresh(&mut self, view: &View) -> Result<bool, String> {
        let own = view.own.clone();
        let in_force = Arc::clone(&view.generation);
        let wants_crl = own.identity.revocation.is_some();
        let other_issuer;
        let written = match self {
            Self::Store(store) => {
                let folder = store.folder.clone();
                let leaf = in_force.leaf.clone();
                let (written, other) = blocking(move || {
                    let authority = Authority::open(&folder).map_err(|e| e.to_string())?;
                    let read =
                        |path| std::fs::read(path).map_err(|e: std::io::Error| e.to_string());
                    let trust = read(authority.trust())?;
                    let crl = match wants_crl {
                        true => Some(read(authority.crl())?),
                        false => None,
                    };
                    let other = authority.is_leaving(&leaf).map_err(|e| e.to_string())?;
                    let written = files::refresh(&own, &in_force, &trust, crl.as_deref())?;
                    Ok((written, other))
                })
                .await?;
                other_issuer = other;
                written
            }
            Self::Server(session) => {
                let status = session
                    .ask(Method::GET, "/v1/status", String::new())
                    .await?;
                other_issuer = serde_json::from_slice::<serde_json::Value>(&status)
                    .is_ok_and(|status| status.get("renew") == Some(&true.into()));
                let held = own.clone();
                let (trust, crl) = blocking(move || Ok(files::held(&held))).await?;
                let trust = session.file("/v1/trust", trust).await?;
                let crl = match wants_crl {
                    true => Some(session.file("/v1/crl", crl).await?),
                    false => None,
                };
                blocking(move || files::refresh(&own, &in_force, &trust, crl.as_deref())).await?
            }
        };
        for file in written {
            tracing::info!(file = %file.display(), "refreshed");
        }
        Ok(other_issuer)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(error.to_string()))
}
