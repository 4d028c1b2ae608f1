//! An acceptor's listeners: source ranges, peers, and the way to the backend.

use std::sync::Arc;

use super::{Given, Loaded, LoadedListener, identity, problems::Problems, tls_name, whole};
use crate::{
    acceptor::{BackendDial, HttpAcceptor, Requirements, TcpAcceptor},
    admit::{OwnRole, PeerRule, PeerRules, SourceRanges, SourceRules},
    config::{self, AcceptorConfig, AcceptorListener, BackendProtocol, Common, Config, Mode},
    drain::Drain,
    serve::{ListenerRules, Role, Shown, Snapshot},
    telemetry::metrics::Metrics,
    tls::{ClientTls, Generation, LinkRole, ServerTls},
};

/// An acceptor's listeners.
pub(super) fn parts(
    config: AcceptorConfig,
    given: Given<'_>,
    metrics: &Arc<Metrics>,
    drain: &Drain,
    previous: Option<&Loaded>,
    problems: &mut Problems,
) -> Option<Loaded> {
    let identity = identity(
        &config.common,
        LinkRole::Acceptor,
        given,
        previous,
        problems,
    );
    let mut listeners = Vec::new();
    for listener in &config.listeners {
        let name = Arc::clone(&listener.name);
        let counted = metrics.listener(&name);
        let rules = rules(&config.common, listener, identity.as_deref(), problems);
        let dial = backend_dial(listener, problems);
        let require = Requirements::load(&listener.require, &name, metrics);
        let require = problems.keep_all(require);
        if let (Some(rules), Some(backend), Some(require)) = (rules, dial, require) {
            let access = config.common.log.access;
            let role: Arc<dyn Role> = match listener.mode {
                Mode::Tcp => Arc::new(TcpAcceptor {
                    listener: Arc::clone(&name),
                    backend: Arc::new(backend),
                    expect_proxy: listener.expect_proxy,
                    limits: listener.limits.clone(),
                    access,
                    metrics: counted,
                }),
                Mode::Http => {
                    let own = identity.as_ref().and_then(|own| own.leaf.uris.first());
                    Arc::new(HttpAcceptor::new(
                        listener,
                        backend,
                        require,
                        own.cloned(),
                        metrics,
                        drain.clone(),
                        access,
                    ))
                }
            };
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
        previous,
        problems,
    )
}

fn rules(
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
        tls: Some(Arc::new(server_tls(listener, identity, problems)?)),
        verification: Some(Arc::clone(&identity.verification)),
        peers,
        shown: Some(Shown::of(&identity.certified.cert)),
        limits: listener.limits.clone(),
        starttls_postgres: false,
        access: common.log.access,
        withdrawn: None,
    })
}

fn server_tls(
    listener: &AcceptorListener,
    identity: &Generation,
    problems: &mut Problems,
) -> Option<ServerTls> {
    let tls = problems.keep(ServerTls::link(identity, &listener.tls))?;
    Some(match listener.mode {
        Mode::Tcp => tls,
        Mode::Http => tls.with_http(),
    })
}

fn backend_dial(listener: &AcceptorListener, problems: &mut Problems) -> Option<BackendDial> {
    let tls = match &listener.backend_tls {
        None => None,
        Some(tls) => {
            let client = problems.keep_all(ClientTls::backend(tls))?;
            // servers of old know no ALPN, and none of them speaks HTTP/2
            let client = match listener.protocol {
                BackendProtocol::Http1 => client,
                BackendProtocol::Http2 => client.with_alpn(vec![b"h2".to_vec()]),
            };
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
