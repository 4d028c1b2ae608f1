//! The listeners of `pki serve`: source ranges, holders, and the store behind them.

use std::sync::Arc;

use super::{Given, Loaded, LoadedListener, identity, problems::Problems, whole};
use crate::{
    admit::{OwnRole, PeerRule, PeerRules, SourceRanges, SourceRules},
    config::{self, AuthorityConfig, AuthorityListener, Common, Config, Store},
    pki::{Authority, Passphrase, PkiError, serve::AuthorityRole},
    serve::{ListenerRules, Role, Snapshot},
    telemetry::metrics::Metrics,
    tls::{Generation, LinkRole, ServerTls},
};

/// The listeners of `pki serve`.
pub(super) fn parts(
    config: AuthorityConfig,
    given: Given<'_>,
    metrics: &Arc<Metrics>,
    previous: Option<&Loaded>,
    problems: &mut Problems,
) -> Option<Loaded> {
    let identity = identity(
        &config.common,
        LinkRole::Authority,
        given,
        previous,
        problems,
    );
    let authority = open(&config.store, problems);
    let mut listeners = Vec::new();
    for listener in &config.listeners {
        let name = Arc::clone(&listener.name);
        let rules = rules(&config.common, listener, identity.as_deref(), problems);
        let (Some(rules), Some(authority)) = (rules, &authority) else {
            continue;
        };
        let role: Arc<dyn Role> = Arc::new(AuthorityRole::new(
            &name,
            authority.clone(),
            listener.limits.clone(),
            config.common.log.access,
            metrics,
        ));
        listeners.push(LoadedListener {
            name,
            address: listener.address.clone(),
            snapshot: Arc::new(Snapshot { rules, role }),
            edge: None,
        });
    }
    whole(
        Config::Authority(config),
        identity,
        listeners,
        Arc::default(),
        Vec::new(),
        previous,
        problems,
    )
}

/// Opens a store with the passphrase of its keys.
fn open(store: &Store, problems: &mut Problems) -> Option<Authority> {
    let passphrase = match &store.passphrase {
        None => None,
        Some(secret) => {
            let value = problems.keep(config::secret::load(secret, true))?;
            Some(Passphrase::from(value))
        }
    };
    let authority = problems.keep(Authority::open(&store.folder))?;
    let authority = authority.with_passphrase(passphrase);
    problems.keep(can_sign(&authority))?;
    Some(authority)
}

/// A server that can't sign is found out at its start, not when the first certificate ends.
fn can_sign(authority: &Authority) -> Result<(), PkiError> {
    authority.check_issuing_key()
}

fn rules(
    common: &Common,
    listener: &AuthorityListener,
    identity: Option<&Generation>,
    problems: &mut Problems,
) -> Option<ListenerRules> {
    let trusted = match &listener.trusted {
        Some(list) => Some(problems.ranges(list)?),
        None => None,
    };
    let denied: SourceRanges = problems.ranges(&listener.untrusted_ips)?;
    let proxy_from = match &listener.proxy_from {
        Some(list) => Some(problems.ranges(list)?),
        None => None,
    };
    let identity = identity?;
    let mut peers = PeerRules {
        rules: vec![PeerRule {
            from: None,
            peers: listener.holders.clone(),
        }],
        certificate_required: true,
        denied: common.identity.denied.clone(),
        // holders of every role renew themselves, each as what the store knows it to be
        own_domain: None,
        role: OwnRole::Client,
    };
    problems.resolve_pins(&mut peers);
    let tls = problems.keep(ServerTls::link(identity, &listener.tls))?;
    Some(ListenerRules {
        name: Arc::clone(&listener.name),
        source: SourceRules { trusted, denied },
        proxy_from,
        tls: Some(Arc::new(tls.with_http1())),
        verification: Some(Arc::clone(&identity.verification)),
        peers,
        shown: None,
        limits: listener.limits.clone(),
        starttls_postgres: false,
        access: common.log.access,
        withdrawn: None,
    })
}
