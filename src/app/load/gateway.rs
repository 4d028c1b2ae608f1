//! A gateway's listeners and backends.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use rustls_pki_types::ServerName as TlsName;

use super::{Given, Loaded, LoadedListener, identity, problems::Problems, tls_name, whole};
use crate::{
    admit::{DeniedList, OwnRole, PeerRule, PeerRules, SourceRules},
    clock,
    config::{
        Backend, BackendProtocol, ClientCert, Common, Config, DialAddress, GatewayConfig,
        GatewayListener, Mode, RedirectListener, Tunnel,
    },
    drain::Drain,
    gateway::{
        BackendRuntime, credentials::Credentials, http::HttpGateway, redirect::Redirector,
        tcp::TcpGateway,
    },
    identity::TrustDomain,
    serve::{ListenerRules, Role, Snapshot},
    telemetry::metrics::Metrics,
    tls::{
        ClientTls, EdgeMaterial, Generation, Judge, LinkRole, NameCheck, ServerTls, ShownNames,
        Staples, tickets::Tickets,
    },
};

/// A gateway's listeners and backends.
pub(super) fn parts(
    config: GatewayConfig,
    given: Given<'_>,
    metrics: &Arc<Metrics>,
    drain: &Drain,
    previous: Option<&Loaded>,
    problems: &mut Problems,
) -> Option<Loaded> {
    let identity = identity(&config.common, LinkRole::Gateway, given, previous, problems);
    let mut backends = HashMap::new();
    for (name, backend) in &config.backends {
        if let Some(runtime) = backend_runtime(
            backend,
            &config,
            identity.as_ref(),
            previous,
            metrics,
            drain,
            problems,
        ) {
            backends.insert(name.clone(), runtime);
        }
    }
    let backends = Arc::new(backends);
    let mut warnings = Vec::new();
    let mut staples = Staples::default();
    let mut listeners = Vec::new();
    for listener in &config.listeners {
        let name = Arc::clone(&listener.name);
        let held = previous.and_then(|loaded| loaded.listeners.iter().find(|l| l.name == name));
        let before = held.and_then(|listener| listener.edge.as_deref());
        let material = edge_material(listener, before, previous, problems);
        if let Some(edge) = &material {
            let before = previous.map(|loaded| &loaded.staples);
            warnings.extend(follow(&mut staples, listener, edge, before));
        }
        let tickets = held.and_then(|listener| listener.snapshot.rules.tls.as_ref()?.tickets());
        let shown = (material.as_ref(), &staples, tickets);
        let own = identity.as_ref().and_then(|own| own.own_domain.clone());
        let rules = edge_rules((&config.common, own), listener, shown, given, problems);
        let (Some(rules), Some(edge)) = (rules, material) else {
            continue;
        };
        warnings.extend(crate::tls::check::edge(listener, &edge, clock::now()));
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
                let shown = ShownNames::new(&edge);
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
    listeners.extend(redirects(&config, given, metrics, drain, problems));
    let whole = whole(
        Config::Gateway(config),
        identity,
        listeners,
        backends,
        warnings,
        previous,
        problems,
    )?;
    Some(Loaded { staples, ..whole })
}

fn edge_material(
    listener: &GatewayListener,
    before: Option<&EdgeMaterial>,
    previous: Option<&Loaded>,
    problems: &mut Problems,
) -> Option<Arc<EdgeMaterial>> {
    let now = clock::now();
    let loaded = EdgeMaterial::load(listener, before, now);
    // one that was taken out may share its pair with one that is in force
    let shares = |edge: &&EdgeMaterial| {
        let mut files = listener.certificates.iter().map(|files| &files.certificate);
        files.any(|file| edge.certificates.iter().any(|shown| shown.file == *file))
    };
    let sharing = || {
        let listeners = previous?.listeners.iter();
        listeners.filter_map(|l| l.edge.as_deref()).find(shares)
    };
    problems.keep_pair(loaded, || {
        Some(before.or_else(sharing)?.load_beside(listener, now))
    })
}

/// Takes in whose status is to be asked for; what the operator has to know of it.
fn follow(
    staples: &mut Staples,
    listener: &GatewayListener,
    edge: &EdgeMaterial,
    before: Option<&Staples>,
) -> Vec<String> {
    if !listener.ocsp_stapling {
        return Staples::without(edge);
    }
    let files = edge.certificates.iter();
    staples.follow(
        edge,
        files.map(|certificate| certificate.file.as_path()),
        before,
    )
}

fn edge_rules(
    (common, own_domain): (&Common, Option<TrustDomain>),
    listener: &GatewayListener,
    (material, staples, tickets): (Option<&Arc<EdgeMaterial>>, &Staples, Option<Arc<Tickets>>),
    given: Given<'_>,
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
    let material = material?;
    let auth = listener.client_auth.as_ref();
    let mut peers = PeerRules {
        rules: vec![PeerRule {
            from: None,
            peers: auth.and_then(|auth| auth.clients.clone()),
        }],
        certificate_required: auth.is_some_and(|a| a.mode == ClientCert::Require),
        denied: if auth.is_some() {
            common.identity.denied.clone()
        } else {
            DeniedList::default()
        },
        own_domain,
        role: OwnRole::Client,
    };
    problems.resolve_pins(&mut peers);
    Some(ListenerRules {
        name: Arc::clone(&listener.name),
        source: SourceRules { trusted, denied },
        proxy_from,
        verification: material.verification.clone(),
        tls: Some(Arc::new(
            problems
                .keep(ServerTls::edge(material, listener, staples, tickets))?
                .with_challenges(Arc::clone(given.challenges())),
        )),
        peers,
        shown: None,
        limits: listener.limits.clone(),
        starttls_postgres: listener.starttls_postgres,
        access: common.log.access,
        withdrawn: None,
    })
}

/// The listeners in redirect mode.
fn redirects(
    config: &GatewayConfig,
    given: Given<'_>,
    metrics: &Metrics,
    drain: &Drain,
    problems: &mut Problems,
) -> Vec<LoadedListener> {
    let mut listeners = Vec::new();
    for listener in &config.redirects {
        let Some(rules) = redirect_rules(&config.common, listener, problems) else {
            continue;
        };
        let role = Arc::new(Redirector::new(
            listener,
            Arc::clone(given.challenges()),
            metrics.listener(&listener.name),
            drain.clone(),
            config.common.log.access,
        ));
        listeners.push(LoadedListener {
            name: Arc::clone(&listener.name),
            address: listener.address.clone(),
            snapshot: Arc::new(Snapshot { rules, role }),
            edge: None,
        });
    }
    listeners
}

/// Whoever may connect is answered; nobody is let in.
fn redirect_rules(
    common: &Common,
    listener: &RedirectListener,
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
    Some(ListenerRules {
        name: Arc::clone(&listener.name),
        source: SourceRules { trusted, denied },
        proxy_from,
        verification: None,
        tls: None,
        peers: PeerRules {
            rules: vec![PeerRule {
                from: None,
                peers: None,
            }],
            certificate_required: false,
            denied: DeniedList::default(),
            own_domain: None,
            role: OwnRole::Client,
        },
        shown: None,
        limits: listener.limits.clone(),
        starttls_postgres: false,
        access: common.log.access,
        withdrawn: None,
    })
}

fn backend_runtime(
    backend: &Arc<Backend>,
    config: &GatewayConfig,
    identity: Option<&Arc<Generation>>,
    previous: Option<&Loaded>,
    metrics: &Arc<Metrics>,
    drain: &Drain,
    problems: &mut Problems,
) -> Option<Arc<BackendRuntime>> {
    // before anything can end this: they are checked in any case
    let credentials = credentials(backend, previous, problems);
    let generation = match &backend.identity {
        None => Arc::clone(identity?),
        Some(own) => {
            let (role, options) = (LinkRole::Gateway, &backend.tls);
            let before = previous.and_then(|loaded| loaded.backends.get(&backend.name));
            let before = before.map(|before| before.generation().as_ref());
            let loaded = Generation::load(own, options, role, before, clock::now());
            let stays = || Some(before?.with_trust_of_today(own, options));
            problems.keep_pair(loaded, stays)?
        }
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
            reused: tls.reused(backend.tunnel),
            shared: match backend.protocol {
                BackendProtocol::Http1 => tls.shared(backend.tunnel),
                BackendProtocol::Http2 => None,
            },
            must_reuse: backend.tunnel == Tunnel::Reuse,
            foreign: tls.without_alpn(),
            tls,
            judge,
            bind: backend.bind,
            proxy_protocol: backend.proxy_protocol,
            shut: crate::gateway::dial::Shut::default(),
        });
    }
    Some(BackendRuntime::new(
        Arc::clone(backend),
        diallers,
        generation,
        credentials?,
        metrics.backend(&backend.name),
        drain.clone(),
    ))
}

/// What is added to a backend's requests; what was learnt before goes on.
fn credentials(
    backend: &Backend,
    previous: Option<&Loaded>,
    problems: &mut Problems,
) -> Option<Option<Arc<Credentials>>> {
    let Some(expected) = &backend.credentials else {
        return Some(None);
    };
    let made = problems.keep_all(Credentials::load(expected))?;
    let before = previous.and_then(|loaded| loaded.backends.get(&backend.name));
    if let Some(before) = before.and_then(|runtime| runtime.credentials()) {
        made.take_over(before);
    }
    Some(Some(Arc::new(made)))
}
