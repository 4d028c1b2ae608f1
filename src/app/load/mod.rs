//! Loads every file that a configuration names, checks it as the peer would, and builds what the
//! listeners need. `check`, start and reload are this one path.

mod acceptor;
mod authority;
mod gateway;
mod problems;

use std::{collections::HashMap, sync::Arc};

use rustls_pki_types::ServerName as TlsName;

use self::problems::Problems;
use super::{admin::AdminAccess, crl_numbers::CrlNumbers, renew::acme};
use crate::{
    admit::{OwnRole, of_another_role},
    clock,
    config::{
        self, CertificateFiles, Common, Config, ListenAddress, Renewal, RenewalSource, Route,
        ServerName, TlsOptions,
    },
    drain::Drain,
    gateway::BackendRuntime,
    identity::{PeerName, SpiffeId, TrustDomain},
    serve::Snapshot,
    telemetry::metrics::Metrics,
    tls::{
        Crl, EdgeMaterial, Generation, HeldSvid, LinkRole, ServerTls, Staples,
        challenge::Challenges, revocation::CrlSet,
    },
};

/// A configuration whose every file is loaded.
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Our identity on the link.
    pub identity: Arc<Generation>,
    /// Listeners in the configuration's order.
    pub listeners: Vec<LoadedListener>,
    /// A gateway's backends.
    pub backends: Arc<HashMap<String, Arc<BackendRuntime>>>,
    /// What the authorities of client-facing certificates say of them.
    pub staples: Staples,
    /// What guards the admin listener.
    pub admin: Option<Arc<AdminAccess>>,
    /// What the operator has to know.
    pub warnings: Vec<String>,
}

/// One listener, ready to be bound.
pub struct LoadedListener {
    /// Its name.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: ListenAddress,
    /// Rules and role.
    pub snapshot: Arc<Snapshot>,
    /// A gateway's certificates towards clients, and whom of them it believes.
    pub edge: Option<Arc<EdgeMaterial>>,
}

impl Loaded {
    /// What both roles have.
    #[must_use]
    pub fn common(&self) -> &Common {
        match &self.config {
            Config::Gateway(gateway) => &gateway.common,
            Config::Acceptor(acceptor) => &acceptor.common,
            Config::Authority(authority) => &authority.common,
        }
    }
}

impl Loaded {
    /// Every CRL in force.
    pub fn crls(&self) -> impl Iterator<Item = &Crl> {
        let edges = self.listeners.iter().filter_map(|l| l.edge.as_ref());
        let backends = self.backends.values().map(|b| &b.generation().verification);
        std::iter::once(&self.identity.verification)
            .chain(backends)
            .chain(edges.filter_map(|edge| edge.verification.as_ref()))
            .filter_map(|verification| verification.crls())
            .flat_map(CrlSet::lists)
    }
}

/// What does not come from files.
#[derive(Clone, Copy)]
pub struct Given<'a> {
    /// What a Workload API has handed out for `source = "spiffe"`; the outer `None`: it is not
    /// asked, and everything else is checked.
    pub svid: Option<Option<&'a HeldSvid>>,
    /// What CAs are answered.
    pub challenges: &'a Arc<Challenges>,
    /// A pair in force stays where its files do not fit each other: one of them may be on its way.
    /// Everything else comes into force.
    pub pairs_in_force: bool,
}

impl<'a> Given<'a> {
    /// For files that are loaded again, where pairs in force stay.
    pub(super) fn beside_pairs(
        svid: Option<&'a HeldSvid>,
        challenges: &'a Arc<Challenges>,
    ) -> Self {
        Self {
            svid: Some(svid),
            challenges,
            pairs_in_force: true,
        }
    }

    fn challenges(&self) -> &Arc<Challenges> {
        self.challenges
    }
}

/// Loads what `config` names. `previous` is what is in force: its CRL numbers never go back.
///
/// # Errors
/// Every problem of every file.
pub fn load(
    config: Config,
    (svid, challenges): (Option<&HeldSvid>, &Arc<Challenges>),
    metrics: &Arc<Metrics>,
    drain: &Drain,
    previous: Option<&Loaded>,
) -> Result<Loaded, config::Problems> {
    let given = Given {
        svid: Some(svid),
        challenges,
        pairs_in_force: false,
    };
    load_by(config, given, metrics, drain, previous)
}

/// The same.
///
/// # Errors
/// Every problem of every file.
pub fn load_by(
    config: Config,
    given: Given<'_>,
    metrics: &Arc<Metrics>,
    drain: &Drain,
    previous: Option<&Loaded>,
) -> Result<Loaded, config::Problems> {
    let source = Arc::clone(&config.common().source);
    match parts(config, given, metrics, drain, previous) {
        (Some(loaded), problems) if problems.is_empty() => Ok(loaded),
        (_, problems) => Err(problems.placed(source)),
    }
}

/// Checks everything that a load checks, without the Workload API of an identity that has one;
/// what the operator has to know.
///
/// # Errors
/// Every problem of every file.
pub fn check(config: Config) -> Result<Vec<String>, config::Problems> {
    let common = config.common();
    let source = Arc::clone(&common.source);
    let held = common.identity.workload().map(|(socket, _)| {
        format!(
            "the identity comes from {}: it is judged when the process starts",
            socket.display()
        )
    });
    let awaited = common.identity.acme().filter(|_| acme::is_awaited(common));
    let ordered = awaited.map(|acme| {
        format!(
            "{} is not there yet: it is asked for at {} when the process starts",
            common.identity.certificate.display(),
            acme.url
        )
    });
    let unjudged = held.or(ordered).map(|what| {
        let mut said = common.warnings.clone();
        said.push(what);
        said.extend(acme::warnings(&config));
        said
    });
    let given = Given {
        svid: None,
        challenges: &Arc::default(),
        pairs_in_force: false,
    };
    let (loaded, problems) = parts(config, given, &Metrics::new(), &Drain::new(), None);
    match (loaded, unjudged) {
        (Some(loaded), _) if problems.is_empty() => Ok(loaded.warnings),
        (None, Some(said)) if problems.is_empty() => Ok(said),
        _ => Err(problems.placed(source)),
    }
}

fn parts(
    config: Config,
    given: Given<'_>,
    metrics: &Arc<Metrics>,
    drain: &Drain,
    previous: Option<&Loaded>,
) -> (Option<Loaded>, Problems) {
    let mut problems = Problems::new(given.pairs_in_force);
    let loaded = match config {
        Config::Gateway(gateway) => {
            gateway::parts(gateway, given, metrics, drain, previous, &mut problems)
        }
        Config::Acceptor(acceptor) => {
            acceptor::parts(acceptor, given, metrics, drain, previous, &mut problems)
        }
        Config::Authority(authority) => {
            authority::parts(authority, given, metrics, previous, &mut problems)
        }
    };
    if let Some(loaded) = &loaded {
        let numbers = CrlNumbers::of(loaded.common());
        problems.keep_all(numbers.judge(loaded.crls()));
    }
    (loaded, problems)
}

fn admin(
    common: &Common,
    previous: Option<&Loaded>,
    problems: &mut Problems,
) -> Option<Arc<AdminAccess>> {
    let admin = common.admin.as_ref()?;
    let token = match &admin.token {
        Some(secret) => Some(problems.keep(config::secret::load(secret, false))?),
        None => None,
    };
    let before = previous.and_then(|loaded| loaded.admin.as_deref()?.material.as_deref());
    let (tls, material) = match &admin.certificate {
        Some(files) => {
            let (tls, material) = admin_tls(files, &common.tls, before, problems)?;
            (Some(tls), Some(material))
        }
        None => (None, None),
    };
    Some(Arc::new(AdminAccess {
        token,
        tls,
        material,
    }))
}

fn admin_tls(
    files: &CertificateFiles,
    options: &TlsOptions,
    before: Option<&EdgeMaterial>,
    problems: &mut Problems,
) -> Option<(ServerTls, Arc<EdgeMaterial>)> {
    let parts = [(
        files.certificate.as_path(),
        files.key.as_path(),
        files.key_passphrase.as_ref(),
    )];
    let loaded = EdgeMaterial::load_parts(parts, None, options, before, clock::now());
    let stays = || Some(before?.with_trust_of_today(None, options));
    let material = problems.keep_pair(loaded, stays)?;
    let alpn = vec![b"http/1.1".to_vec()];
    let tls = problems.keep(ServerTls::server(&material, options, alpn, false))?;
    Some((tls, material))
}

fn identity(
    common: &Common,
    role: LinkRole,
    given: Given<'_>,
    previous: Option<&Loaded>,
    problems: &mut Problems,
) -> Option<Arc<Generation>> {
    let before = previous.map(|loaded| loaded.identity.as_ref());
    if let Some((socket, id)) = common.identity.workload() {
        let Some(svid) = given.svid else {
            problems.keep_all(Generation::check_files(&common.identity, &common.tls));
            return None;
        };
        let ours = |svid: &&HeldSvid| svid.socket == socket && id.is_none_or(|id| *id == svid.id);
        let Some(svid) = svid.filter(ours) else {
            problems.add(format!(
                "no X509-SVID of {} is held: another `source`, `socket` or `id` takes a restart",
                socket.display()
            ));
            return None;
        };
        return problems.keep_all(Generation::load_svid(
            svid,
            &common.identity,
            &common.tls,
            role,
            before,
            clock::now(),
        ));
    }
    if given.svid.is_none() && acme::is_awaited(common) {
        problems.keep_all(Generation::check_files(&common.identity, &common.tls));
        return None;
    }
    let (own, options) = (&common.identity, &common.tls);
    let loaded = Generation::load(own, options, role, before, clock::now());
    problems.keep_pair(loaded, || Some(before?.with_trust_of_today(own, options)))
}

/// Puts the parts together, with what both roles have.
fn whole(
    config: Config,
    identity: Option<Arc<Generation>>,
    listeners: Vec<LoadedListener>,
    backends: Arc<HashMap<String, Arc<BackendRuntime>>>,
    mut warnings: Vec<String>,
    previous: Option<&Loaded>,
    problems: &mut Problems,
) -> Option<Loaded> {
    let admin = admin(config.common(), previous, problems);
    let identity = identity?;
    warnings.extend(config.common().warnings.iter().cloned());
    warnings.extend(acme::warnings(&config));
    warnings.extend(custody(&config, &listeners));
    warnings.extend(idle_names(&listeners, &backends));
    warnings.extend(idle_clients(&config, identity.own_domain.as_ref()));
    let short = config.common().identity.workload().is_some();
    warnings.extend(match short {
        true => workload_warnings(&config, &identity),
        false => crate::tls::check::warnings(&identity, clock::now()),
    });
    Some(Loaded {
        config,
        identity,
        listeners,
        backends,
        staples: Staples::default(),
        admin,
        warnings,
    })
}

/// Names in the rules by which nobody comes in: each was meant to let somebody in.
fn idle_names(
    listeners: &[LoadedListener],
    backends: &HashMap<String, Arc<BackendRuntime>>,
) -> Vec<String> {
    let mut all = Vec::new();
    for listener in listeners {
        let peers = &listener.snapshot.rules.peers;
        let names = peers.rules.iter().filter_map(|rule| rule.peers.as_ref());
        let names =
            names.flat_map(|list| of_another_role(list, peers.own_domain.as_ref(), peers.role));
        all.extend(
            names.map(|name| idle(&format!("listener {}", listener.name), name, peers.role)),
        );
    }
    let mut backends: Vec<_> = backends.iter().collect();
    backends.sort_by_key(|(name, _)| *name);
    for (backend, runtime) in backends {
        let generation = runtime.generation();
        let (role, domain) = (OwnRole::Acceptor, generation.own_domain.as_ref());
        let names = runtime.config.acceptor_ids.iter();
        let names = names.flat_map(|list| of_another_role(list, domain, role));
        all.extend(names.map(|name| idle(&format!("backend {backend}: acceptor_ids"), name, role)));
    }
    all
}

/// The same of a gateway's routes, each of which may narrow the callers of its listener.
fn idle_clients(config: &Config, own_domain: Option<&TrustDomain>) -> Vec<String> {
    let Config::Gateway(gateway) = config else {
        return Vec::new();
    };
    let of = |route: &Route| {
        let names = route.clients.iter();
        let names = names.flat_map(|list| of_another_role(list, own_domain, OwnRole::Client));
        let place = format!("{}: clients", route.label);
        let said = names.map(|name| idle(&place, name, OwnRole::Client));
        said.collect::<Vec<_>>()
    };
    gateway.routes.iter().flat_map(|route| of(route)).collect()
}

fn idle(place: &str, name: &PeerName, role: OwnRole) -> String {
    let role = role.as_str();
    format!(
        "{place}: {name} lets nobody in: of our own trust domain, an ID has to begin with /{role}/ (certificate_wrong_role)"
    )
}

/// The same for what a Workload API handed out: that it ends soon is as it should be.
fn workload_warnings(config: &Config, identity: &Generation) -> Vec<String> {
    let mut said = Vec::new();
    match identity.verification.crls() {
        Some(_) => said.extend(crate::tls::check::trust_warnings(
            &identity.verification,
            clock::now(),
        )),
        None => said.push(
            "the Workload API hands out no CRL: revoked certificates of the other side are not refused until they end or their root goes"
                .to_owned(),
        ),
    }
    let role = identity.leaf.spiffe.first().and_then(SpiffeId::role);
    let expected = match config {
        Config::Gateway(_) => "gateway",
        Config::Acceptor(_) => "acceptor",
        Config::Authority(_) => return said,
    };
    if role != Some(expected) {
        said.push(format!(
            "our SPIFFE ID {} does not begin with /{expected}/: our own ends of its trust domain refuse it",
            identity.leaf.display_name()
        ));
    }
    said
}

/// A CA's key on a host that strangers can connect to.
fn custody(config: &Config, listeners: &[LoadedListener]) -> Option<String> {
    let (store, key) = match config {
        Config::Authority(authority) => (&authority.store, "root/ca.key"),
        Config::Gateway(_) | Config::Acceptor(_) => match &config.common().identity.renewal {
            Some(Renewal {
                from: RenewalSource::Store(store),
                ..
            }) => (store, "issuing/ca.key"),
            _ => return None,
        },
    };
    let beyond = |listener: &&LoadedListener| match &listener.address {
        ListenAddress::Tcp(address) => !address.ip().to_canonical().is_loopback(),
        ListenAddress::Unix(_) => false,
        // whoever made the socket knows
        ListenAddress::Systemd(_) => true,
    };
    let listener = listeners.iter().find(beyond)?;
    let key = store.folder.join(key);
    if !key.exists() {
        return None;
    }
    let advice = match config {
        Config::Authority(_) => {
            "the root's key is needed for rotation alone: take it off this host"
        }
        Config::Gateway(_) | Config::Acceptor(_) => {
            "keep the store on another host, with `portcullis pki serve`, and use source = \"renew\""
        }
    };
    Some(format!(
        "the CA key {} lies beside listener {} at {}: {advice}",
        key.display(),
        listener.name,
        listener.address
    ))
}

fn tls_name(name: &ServerName, problems: &mut Problems) -> Option<TlsName<'static>> {
    match name {
        ServerName::Ip(ip) => Some(TlsName::IpAddress((*ip).into())),
        ServerName::Dns(dns) => problems.keep(TlsName::try_from(dns.as_str().to_owned())),
    }
}
