//! Loads every file that a configuration names, checks it as the peer would, and builds what the
//! listeners need. `check`, start and reload are this one path.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls_pki_types::{InvalidDnsNameError, ServerName as TlsName};

use super::admin::AdminAccess;
use crate::{
    acceptor::{BackendDial, TcpAcceptor},
    admit::{DeniedList, OwnRole, PeerRule, PeerRules, SourceRanges, SourceRules},
    clock,
    config::{
        self, AcceptorConfig, AcceptorListener, Backend, CertificateFiles, Common, Config,
        DialAddress, GatewayConfig, GatewayListener, ListenAddress, Mode, NetworkList, ServerName,
        Source, TlsOptions, networks::NetworksError, secret::SecretError,
    },
    drain::Drain,
    gateway::{BackendRuntime, http::HttpGateway, tcp::TcpGateway},
    identity::{PeerName, Sha256},
    serve::{ListenerRules, Role, Snapshot},
    telemetry::metrics::Metrics,
    tls::{
        ClientTls, EdgeMaterial, Generation, Judge, LinkRole, MaterialError, NameCheck, ServerTls,
        SetupError, ShownNames, material,
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
        }
    }
}

/// What is wrong with a file that the configuration names, or with what it adds up to.
struct Fault {
    file: Option<PathBuf>,
    message: String,
    help: String,
}

impl Fault {
    fn whole(message: impl ToString) -> Self {
        Self {
            file: None,
            message: message.to_string(),
            help: String::new(),
        }
    }
}

impl From<MaterialError> for Fault {
    fn from(error: MaterialError) -> Self {
        Self {
            message: error.what(),
            file: Some(error.file),
            help: error.advice,
        }
    }
}

impl From<NetworksError> for Fault {
    fn from(error: NetworksError) -> Self {
        Self {
            message: error.to_string(),
            file: Some(error.file().to_owned()),
            help: "one network a line, such as 203.0.113.0/28".to_owned(),
        }
    }
}

impl From<SecretError> for Fault {
    fn from(error: SecretError) -> Self {
        Self {
            message: error.to_string(),
            file: error.file().map(Path::to_owned),
            help: String::new(),
        }
    }
}

impl From<SetupError> for Fault {
    fn from(error: SetupError) -> Self {
        Self::whole(error)
    }
}

impl From<InvalidDnsNameError> for Fault {
    fn from(error: InvalidDnsNameError) -> Self {
        Self::whole(error)
    }
}

/// Collects every problem of a load.
#[derive(Default)]
struct Problems(Vec<Fault>);

impl Problems {
    fn keep<T, E: Into<Fault>>(&mut self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.0.push(error.into())).ok()
    }

    fn keep_all<T, E: Into<Fault>>(&mut self, result: Result<T, Vec<E>>) -> Option<T> {
        result
            .map_err(|errors| self.0.extend(errors.into_iter().map(Into::into)))
            .ok()
    }

    /// Each at the place in the configuration that names its file.
    fn placed(self, source: Arc<Source>) -> config::Problems {
        let mut list: Vec<_> = self
            .0
            .into_iter()
            .map(|fault| match fault.file {
                Some(file) => source.problem_with(&file, fault.message, fault.help),
                None => source.problem(None, fault.message, fault.help),
            })
            .collect();
        // one file may be named for several uses: it is told once
        list.dedup();
        if list.is_empty() {
            list.push(source.problem(None, "the configuration can't be loaded", ""));
        }
        config::Problems { source, list }
    }

    /// Tells `pinned:FILE` rules which certificate they mean.
    fn resolve_pins(&mut self, rules: &mut PeerRules) {
        let names = rules
            .rules
            .iter_mut()
            .filter_map(|rule| rule.peers.as_mut())
            .flat_map(|p| &mut p.0);
        for name in names {
            if let PeerName::Pinned { file, fingerprint } = name {
                let chain = self.keep(material::load_chain(Path::new(file)));
                *fingerprint = chain.and_then(|chain| chain.first().map(|der| Sha256::of(der)));
            }
        }
    }

    fn ranges(&mut self, list: &NetworkList) -> Option<SourceRanges> {
        self.keep(config::networks::load(list))
            .map(SourceRanges::new)
    }
}

/// Loads what `config` names. `previous` is what is in force: its CRL numbers never go back.
///
/// # Errors
/// Every problem of every file.
pub fn load(
    config: Config,
    metrics: &Arc<Metrics>,
    drain: &Drain,
    previous: Option<&Loaded>,
) -> Result<Loaded, config::Problems> {
    let mut problems = Problems::default();
    let source = Arc::clone(&config.common().source);
    let loaded = match config {
        Config::Gateway(gateway) => gateway_parts(gateway, metrics, drain, previous, &mut problems),
        Config::Acceptor(acceptor) => acceptor_parts(acceptor, metrics, previous, &mut problems),
    };
    match loaded {
        Some(loaded) if problems.0.is_empty() => Ok(loaded),
        _ => Err(problems.placed(source)),
    }
}

fn admin(common: &Common, problems: &mut Problems) -> Option<Arc<AdminAccess>> {
    let admin = common.admin.as_ref()?;
    let token = match &admin.token {
        Some(secret) => Some(problems.keep(config::secret::load(secret, false))?),
        None => None,
    };
    let tls = match &admin.certificate {
        Some(files) => Some(admin_tls(files, &common.tls, problems)?),
        None => None,
    };
    Some(Arc::new(AdminAccess { token, tls }))
}

fn admin_tls(
    files: &CertificateFiles,
    options: &TlsOptions,
    problems: &mut Problems,
) -> Option<ServerTls> {
    let parts = [(
        files.certificate.as_path(),
        files.key.as_path(),
        files.key_passphrase.as_ref(),
    )];
    let loaded = EdgeMaterial::load_parts(parts, None, options, None, clock::now());
    let material = problems.keep_all(loaded)?;
    let alpn = vec![b"http/1.1".to_vec()];
    problems.keep(ServerTls::server(&material, options, alpn, false))
}

fn identity(
    common: &Common,
    role: LinkRole,
    previous: Option<&Loaded>,
    problems: &mut Problems,
) -> Option<Arc<Generation>> {
    let before = previous.map(|loaded| loaded.identity.as_ref());
    problems.keep_all(Generation::load(
        &common.identity,
        &common.tls,
        role,
        before,
        clock::now(),
    ))
}

fn acceptor_parts(
    config: AcceptorConfig,
    metrics: &Arc<Metrics>,
    previous: Option<&Loaded>,
    problems: &mut Problems,
) -> Option<Loaded> {
    let identity = identity(&config.common, LinkRole::Acceptor, previous, problems);
    let mut listeners = Vec::new();
    for listener in &config.listeners {
        let name = Arc::clone(&listener.name);
        drop(metrics.listener(&name));
        let rules = acceptor_rules(&config.common, listener, identity.as_deref(), problems);
        let dial = backend_dial(listener, problems);
        if let (Some(rules), Some(backend)) = (rules, dial) {
            let role: Arc<dyn Role> = Arc::new(TcpAcceptor {
                listener: Arc::clone(&name),
                backend: Arc::new(backend),
                expect_proxy: listener.expect_proxy,
                limits: listener.limits.clone(),
                access: config.common.log.access,
            });
            let snapshot = Arc::new(Snapshot { rules, role });
            listeners.push(LoadedListener {
                name,
                address: listener.address.clone(),
                snapshot,
                edge: None,
            });
        }
    }
    whole(
        Config::Acceptor(config),
        identity,
        listeners,
        Arc::default(),
        Vec::new(),
        problems,
    )
}

/// Puts the parts together, with what both roles have.
fn whole(
    config: Config,
    identity: Option<Arc<Generation>>,
    listeners: Vec<LoadedListener>,
    backends: Arc<HashMap<String, Arc<BackendRuntime>>>,
    mut warnings: Vec<String>,
    problems: &mut Problems,
) -> Option<Loaded> {
    let admin = admin(config.common(), problems);
    let identity = identity?;
    warnings.extend(config.common().warnings.iter().cloned());
    warnings.extend(crate::tls::check::warnings(&identity, clock::now()));
    Some(Loaded {
        config,
        identity,
        listeners,
        backends,
        admin,
        warnings,
    })
}

fn acceptor_rules(
    common: &Common,
    listener: &AcceptorListener,
    identity: Option<&Generation>,
    problems: &mut Problems,
) -> Option<ListenerRules> {
    let mut union = Some(Vec::new());
    let mut rules = Vec::new();
    for rule in &listener.rules {
        let from = match &rule.from {
            None => {
                union = None;
                None
            }
            Some(list) => {
                let networks = problems.keep(config::networks::load(list))?;
                if let Some(all) = &mut union {
                    all.extend(networks.iter().copied());
                }
                Some(SourceRanges::new(networks))
            }
        };
        rules.push(PeerRule {
            from,
            peers: Some(rule.gateways.clone()),
        });
    }
    let denied = problems.ranges(&listener.untrusted_ips)?;
    let proxy_from = match &listener.proxy_from {
        Some(list) => Some(problems.ranges(list)?),
        None => None,
    };
    let identity = identity?;
    let mut peers = PeerRules {
        rules,
        certificate_required: true,
        denied: common.identity.denied.clone(),
        own_domain: identity.own_domain.clone(),
        role: OwnRole::Gateway,
    };
    problems.resolve_pins(&mut peers);
    Some(ListenerRules {
        name: Arc::clone(&listener.name),
        source: SourceRules {
            trusted: union.map(SourceRanges::new),
            denied,
        },
        proxy_from,
        tls: Arc::new(problems.keep(ServerTls::link(identity, &listener.tls))?),
        verification: Some(Arc::clone(&identity.verification)),
        peers,
        limits: listener.limits.clone(),
        starttls_postgres: false,
        access: common.log.access,
    })
}

fn backend_dial(listener: &AcceptorListener, problems: &mut Problems) -> Option<BackendDial> {
    let tls = match &listener.backend_tls {
        None => None,
        Some(tls) => {
            let client = problems.keep_all(ClientTls::backend(tls))?;
            Some((client, tls_name(&tls.server_name, problems)?))
        }
    };
    Some(BackendDial {
        address: listener.backend.clone(),
        tls,
        source_address: listener.source_address,
        send_proxy: listener.send_proxy,
    })
}

fn tls_name(name: &ServerName, problems: &mut Problems) -> Option<TlsName<'static>> {
    match name {
        ServerName::Ip(ip) => Some(TlsName::IpAddress((*ip).into())),
        ServerName::Dns(dns) => problems.keep(TlsName::try_from(dns.as_str().to_owned())),
    }
}

fn gateway_parts(
    config: GatewayConfig,
    metrics: &Arc<Metrics>,
    drain: &Drain,
    previous: Option<&Loaded>,
    problems: &mut Problems,
) -> Option<Loaded> {
    let identity = identity(&config.common, LinkRole::Gateway, previous, problems);
    let mut backends = HashMap::new();
    for (name, backend) in &config.backends {
        if let Some(runtime) = backend_runtime(
            backend,
            &config,
            identity.as_ref(),
            previous,
            metrics,
            problems,
        ) {
            backends.insert(name.clone(), runtime);
        }
    }
    let backends = Arc::new(backends);
    let mut warnings = Vec::new();
    let mut listeners = Vec::new();
    for listener in &config.listeners {
        let name = Arc::clone(&listener.name);
        let before = previous
            .and_then(|loaded| loaded.listeners.iter().find(|l| l.name == name))
            .and_then(|listener| listener.edge.as_deref());
        let checked = crate::tls::check::edge(listener, before, clock::now());
        let checked = problems.keep_all(checked);
        let rules = edge_rules(&config.common, listener, checked.as_ref(), problems);
        let (Some(rules), Some((edge, said))) = (rules, checked) else {
            continue;
        };
        warnings.extend(said);
        let role = match listener.mode {
            Mode::Tcp => Arc::new(TcpGateway {
                listener: Arc::clone(&name),
                routes: config.routes.clone(),
                backends: Arc::clone(&backends),
                limits: listener.limits.clone(),
                access: config.common.log.access,
            }) as Arc<dyn Role>,
            Mode::Http => {
                let trusted_proxies = problems.ranges(&listener.trusted_proxies);
                let Some(shown) = problems.keep(ShownNames::new(&edge)) else {
                    continue;
                };
                Arc::new(HttpGateway::new(
                    (listener, shown),
                    trusted_proxies.unwrap_or_default(),
                    config.routes.clone(),
                    &backends,
                    metrics.listener(&name),
                    drain.clone(),
                    config.common.log.access,
                ))
            }
        };
        let snapshot = Arc::new(Snapshot { rules, role });
        listeners.push(LoadedListener {
            name,
            address: listener.address.clone(),
            snapshot,
            edge: Some(edge),
        });
    }
    whole(
        Config::Gateway(config),
        identity,
        listeners,
        backends,
        warnings,
        problems,
    )
}

fn edge_rules(
    common: &Common,
    listener: &GatewayListener,
    checked: Option<&(Arc<EdgeMaterial>, Vec<String>)>,
    problems: &mut Problems,
) -> Option<ListenerRules> {
    let trusted = match &listener.allow {
        Some(list) => Some(problems.ranges(list)?),
        None => None,
    };
    let denied = problems.ranges(&listener.deny)?;
    let proxy_from = match &listener.proxy_from {
        Some(list) => Some(problems.ranges(list)?),
        None => None,
    };
    let (material, _) = checked?;
    let auth = listener.client_auth.as_ref();
    let mut peers = PeerRules {
        rules: vec![PeerRule {
            from: None,
            peers: auth.and_then(|auth| auth.clients.clone()),
        }],
        certificate_required: auth.is_some_and(|a| a.mode == config::ClientCert::Require),
        denied: if auth.is_some() {
            common.identity.denied.clone()
        } else {
            DeniedList::default()
        },
        own_domain: None,
        role: OwnRole::Client,
    };
    problems.resolve_pins(&mut peers);
    Some(ListenerRules {
        name: Arc::clone(&listener.name),
        source: SourceRules { trusted, denied },
        proxy_from,
        verification: material.verification.clone(),
        tls: Arc::new(problems.keep(ServerTls::edge(material, listener))?),
        peers,
        limits: listener.limits.clone(),
        starttls_postgres: listener.starttls_postgres,
        access: common.log.access,
    })
}

fn backend_runtime(
    backend: &Arc<Backend>,
    config: &GatewayConfig,
    identity: Option<&Arc<Generation>>,
    previous: Option<&Loaded>,
    metrics: &Arc<Metrics>,
    problems: &mut Problems,
) -> Option<Arc<BackendRuntime>> {
    let generation = match &backend.identity {
        None => Arc::clone(identity?),
        Some(own) => problems.keep_all(Generation::load(
            own,
            &backend.tls,
            LinkRole::Gateway,
            previous
                .and_then(|loaded| loaded.backends.get(&backend.name))
                .map(|before| before.generation().as_ref()),
            clock::now(),
        ))?,
    };
    let denied = &backend
        .identity
        .as_ref()
        .unwrap_or(&config.common.identity)
        .denied;
    let mut peers = PeerRules {
        rules: vec![PeerRule {
            from: None,
            peers: backend.acceptor_ids.clone(),
        }],
        certificate_required: true,
        denied: denied.clone(),
        own_domain: generation.own_domain.clone(),
        role: OwnRole::Acceptor,
    };
    problems.resolve_pins(&mut peers);
    let peers = Arc::new(peers);
    let check = if backend.acceptor_ids.is_some() && backend.server_name.is_none() {
        NameCheck::None
    } else {
        NameCheck::ServerName
    };
    let mut diallers = Vec::new();
    for address in &backend.acceptors {
        let name = match (&backend.server_name, address) {
            (Some(name), _) => tls_name(name, problems)?,
            (None, DialAddress::Ip(ip)) => TlsName::IpAddress(ip.ip().into()),
            (None, DialAddress::Host(host, _)) => problems.keep(TlsName::try_from(host.clone()))?,
            // a Unix socket has no host: config asks for server_name or acceptor_ids there
            (None, DialAddress::Unix(_)) => problems.keep(TlsName::try_from("localhost"))?,
        };
        let tls = problems.keep(ClientTls::link(&generation, &backend.tls, check))?;
        let rules = Arc::clone(&peers);
        let judge: Judge = Arc::new(move |peer| {
            let source = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
            let facts = crate::admit::ConnectionFacts {
                source,
                peer,
                now: clock::now(),
            };
            crate::admit::decide_peer(&facts, &rules)
        });
        diallers.push(crate::gateway::dial::Dialler {
            address: address.clone(),
            name,
            tls,
            judge,
            bind: backend.bind,
            proxy_protocol: backend.proxy_protocol,
        });
    }
    Some(BackendRuntime::new(
        Arc::clone(backend),
        diallers,
        generation,
        metrics.backend(&backend.name),
    ))
}
