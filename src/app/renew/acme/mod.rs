//! Certificates from an ACME CA (RFC 8555): the identity's (`source = "acme"`), whose first one is had
//! before anything else begins, and those that a gateway's listeners show, which come while it runs.
//! Later ones come as for every source: at two thirds of the life, in the background, over the same
//! files.

mod account;
mod answer;
mod client;
mod keeper;
mod order;
mod tries;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

pub use self::keeper::start;
use self::{
    account::Account,
    answer::Answering,
    client::{Client, Refusal},
    order::Desk,
    tries::Tries,
};
use super::{
    blocking,
    files::{self, Own},
    own,
    schedule::{self, Chance},
};
use crate::{
    clock,
    config::{Acme, CertificateFiles, Common, Config, ListenAddress, TlsOptions, secret},
    identity::{CertFacts, UnixSeconds},
    net::Inherited,
    tls::{ClientTls, MaterialError, challenge::Challenges, material::has_ended},
};

/// How long a start goes on to try for its first certificate.
const FIRST_WITHIN: Duration = Duration::from_secs(30);
/// Of one order, from the directory to the certificate.
const ORDER_WITHIN: Duration = Duration::from_secs(120);
/// A CA that has refused counts as so many failures more: it gives certificates to many, and shuts
/// out who asks too often.
const REFUSED: u32 = 3;

/// Whose certificate is ordered.
#[derive(Clone)]
enum Whose {
    Ours(Box<Own>),
    /// What a listener shows to clients.
    Shown(CertificateFiles, TlsOptions),
}

/// What an order is made with.
#[derive(Clone)]
struct Ordering {
    whose: Whose,
    acme: Arc<Acme>,
    state: PathBuf,
    challenges: Arc<Challenges>,
    /// Where challenges would be answered by nobody, but for the order itself.
    at: Vec<ListenAddress>,
}

impl Ordering {
    /// For the identity; `None`: it does not come from an ACME CA.
    fn of(config: &Config, challenges: &Arc<Challenges>) -> Result<Option<Self>, String> {
        let own = own(config);
        let Some(acme) = own.identity.acme().cloned() else {
            return Ok(None);
        };
        let at = acme.http.map(ListenAddress::Tcp);
        Ok(Some(Self {
            whose: Whose::Ours(Box::new(own)),
            acme,
            state: state(config.common())?,
            challenges: Arc::clone(challenges),
            at: at.into_iter().collect(),
        }))
    }

    /// For what a gateway's listeners show, each once.
    fn shown(config: &Config, challenges: &Arc<Challenges>) -> Result<Vec<Self>, String> {
        let mut list: Vec<Self> = Vec::new();
        let Config::Gateway(gateway) = config else {
            return Ok(list);
        };
        for listener in &gateway.listeners {
            for files in &listener.certificates {
                let Some(acme) = &files.acme else { continue };
                if list.iter().any(|known| known.key() == files.key) {
                    continue;
                }
                list.push(Self {
                    whose: Whose::Shown(files.clone(), listener.tls.clone()),
                    acme: Arc::clone(acme),
                    state: state(config.common())?,
                    challenges: Arc::clone(challenges),
                    at: Vec::new(),
                });
            }
        }
        Ok(list)
    }

    fn key(&self) -> &Path {
        match &self.whose {
            Whose::Ours(own) => &own.identity.key,
            Whose::Shown(files, _) => &files.key,
        }
    }

    fn certificate(&self) -> &Path {
        match &self.whose {
            Whose::Ours(own) => &own.identity.certificate,
            Whose::Shown(files, _) => &files.certificate,
        }
    }

    fn is_there(&self) -> bool {
        self.certificate().exists() && self.key().exists()
    }

    fn options(&self) -> TlsOptions {
        match &self.whose {
            Whose::Ours(own) => own.tls.clone(),
            Whose::Shown(_, options) => options.clone(),
        }
    }

    fn expected(&self) -> Vec<String> {
        let mut names = self.acme.domains.clone();
        names.sort();
        names
    }

    fn tries(&self) -> Tries {
        Tries::open(&self.state, self.key(), &self.acme)
    }

    /// One order, whose key and certificate are on disk when it is done.
    async fn issue(&self, inherited: &Inherited) -> Result<CertFacts, Refusal> {
        if let Some(there) = self.recovered().await? {
            return Ok(there);
        }
        let (certificate, key) = (self.certificate().to_owned(), self.key().to_owned());
        blocking(move || files::check_places(&certificate, &key)).await?;
        let answering = Answering::begin(&self.at, inherited, &self.challenges)?;
        let ordered = async {
            tokio::select! {
                biased;
                done = Box::pin(self.order()) => done,
                never = answering.run() => match never {},
            }
        };
        let issued = tokio::time::timeout(ORDER_WITHIN, Box::pin(ordered)).await;
        let issued = issued
            .map_err(|_elapsed| format!("the CA was not done with it in {ORDER_WITHIN:?}"))??;
        let (whose, expected) = (self.whose.clone(), self.expected());
        let installed = blocking(move || {
            let (key, chain) = (&issued.key, &issued.chain);
            match &whose {
                Whose::Ours(own) => files::install_for(own, &expected, key, chain),
                Whose::Shown(at, options) => {
                    files::install_edge(at, options, &expected, key, chain)
                }
            }
        });
        Ok(installed.await?)
    }

    /// What an order before this one has left half placed, if it is as good as a new one.
    async fn recovered(&self) -> Result<Option<CertFacts>, String> {
        let whose = self.whose.clone();
        let there = blocking(move || match &whose {
            Whose::Ours(own) => files::recover(own),
            Whose::Shown(at, options) => files::recover_edge(at, options),
        });
        Ok(there.await?.filter(|there| self.is_good(there, 0)))
    }

    /// Whether it is for our names and not due.
    fn is_good(&self, new: &CertFacts, chance: Chance) -> bool {
        files::names(new) == self.expected()
            && clock::now() < schedule::due(new.not_before, new.not_after, chance)
    }

    async fn order(&self) -> Result<order::Issued, Refusal> {
        let (state, acme) = (self.state.clone(), Arc::clone(&self.acme));
        let options = self.options();
        let (account, tls) = blocking(move || {
            let account = Account::open(&account::folder(&state)?, &acme)?;
            let tls = match &acme.trust {
                Some(roots) => ClientTls::plain(roots, &options),
                None => ClientTls::public(&options),
            };
            Ok((account, tls.map_err(|all| in_one_line(&all))?))
        })
        .await?;
        let client = Client::open(&self.acme.url, tls).await?;
        let mut desk = Desk {
            client,
            account,
            acme: &self.acme,
            challenges: &self.challenges,
        };
        desk.order().await
    }
}

fn in_one_line(all: &[MaterialError]) -> String {
    let lines: Vec<String> = all.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

/// What would keep the next orders from being made, found before they are due.
#[must_use]
pub fn warnings(config: &Config) -> Vec<String> {
    let challenges = Arc::default();
    // without a folder for the account's key each of them says so
    let ours = Ordering::of(config, &challenges).ok().flatten();
    let shown = Ordering::shown(config, &challenges).unwrap_or_default();
    let mut found = Vec::new();
    for ordering in ours.iter().chain(&shown) {
        let acme = &ordering.acme;
        let trust = acme.trust.as_deref().and_then(|roots| {
            let read = ClientTls::plain(roots, &ordering.options());
            read.err().map(|all| in_one_line(&all))
        });
        let external = acme.external_account.as_ref().and_then(|external| {
            let read = secret::load(&external.key, false);
            read.err().map(|error| error.to_string())
        });
        // that of listeners' certificates is made by the process
        let own = matches!(ordering.whose, Whose::Ours(_));
        let places = [ordering.key(), ordering.certificate()];
        let folder = places.into_iter().filter(|_| own).find_map(|file| {
            let folder = file.parent()?;
            let is_there = folder.as_os_str().is_empty() || folder.is_dir();
            (!is_there).then(|| format!("there is no folder {}", folder.display()))
        });
        found.extend([trust, external, folder].into_iter().flatten().map(|why| {
            format!(
                "no certificate can be ordered for {}: {why}",
                acme.domains.join(", ")
            )
        }));
    }
    found
}

fn state(common: &Common) -> Result<PathBuf, String> {
    common.state_folder().ok_or_else(|| {
        "there is no folder for the account's key: set [runtime] state_dir".to_owned()
    })
}

/// Whether an identity still waits for its first certificate.
#[must_use]
pub fn is_awaited(common: &Common) -> bool {
    let identity = &common.identity;
    identity.acme().is_some() && !(identity.certificate.exists() && identity.key.exists())
}

/// Before the first load: has the first certificate, or another for one that has ended meanwhile.
///
/// # Errors
/// There is none, and none came in time.
pub async fn first(config: &Config, inherited: &Inherited) -> Result<(), String> {
    for ordering in Ordering::shown(config, &Arc::default())? {
        if let Whose::Shown(files, options) = &ordering.whose
            && let Err(error) = files::recover_edge(files, options)
        {
            tracing::error!(%error, "the renewal stays as it is");
        }
        // it is watched before anything is in it
        account::folder(&ordering.state)?;
    }
    let Some(mut ordering) = Ordering::of(config, &Arc::default())? else {
        return Ok(());
    };
    let common = config.common();
    if !is_awaited(common) && !has_ended(&common.identity.certificate, clock::now()) {
        return Ok(());
    }
    // nobody listens yet: what the listeners in redirect mode will do is done by the order
    if let (Config::Gateway(gateway), true) = (config, ordering.at.is_empty()) {
        let redirects = gateway.redirects.iter();
        ordering.at = redirects.map(|l| l.address.clone()).collect();
    }
    let end = Instant::now() + FIRST_WITHIN;
    let mut tries = ordering.tries();
    let url = &ordering.acme.url;
    loop {
        let now = clock::now();
        if !tries.is_over(now) {
            tracing::warn!(
                ca = %url,
                error = %tries.failure,
                next_try = %tries.again.relative_to(now),
                "waiting for a certificate"
            );
            let left = tries.again.0.saturating_sub(now.0);
            let pause = Duration::from_secs(u64::try_from(left).unwrap_or_default());
            tokio::time::sleep_until(end.min(Instant::now() + pause)).await;
        }
        if Instant::now() >= end {
            return Err(format!(
                "{url}: no certificate in {FIRST_WITHIN:?}: {}",
                tries.failure
            ));
        }
        // nothing is in force that could end
        let (never, chance) = (UnixSeconds(i64::MAX), random());
        tries
            .begin(never, chance)
            .map_err(|error| format!("{url}: {error}"))?;
        match ordering.issue(&inherited.lent()).await {
            Ok(new) => {
                tries.forget();
                tracing::info!(
                    serial = %new.serial,
                    not_after = %new.not_after,
                    names = ?ordering.acme.domains,
                    "our first certificate is here"
                );
                return Ok(());
            }
            Err(refusal) => tries.failed(refusal, never, chance),
        }
    }
}

fn random() -> Chance {
    let mut random = [0; 2];
    if aws_lc_rs::rand::fill(&mut random).is_err() {
        tracing::warn!("no randomness: renewals are not spread");
    }
    Chance::from_ne_bytes(random)
}
