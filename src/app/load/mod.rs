//! Loads every file that a configuration names, checks it as the peer would, and builds what the
//! listeners need. `check`, start and reload are this one path.

mod acceptor;
mod authority;
mod gateway;
mod problems;

use std::{collections::HashMap, sync::Arc};

use rustls_pki_types::ServerName as TlsName;

use self::problems::Problems;
use super::{admin::AdminAccess, crl_numbers::CrlNumbers};
use crate::{
    clock,
    config::{
        self, CertificateFiles, Common, Config, ListenAddress, Renewal, RenewalSource, ServerName,
        TlsOptions,
    },
    drain::Drain,
    gateway::BackendRuntime,
    serve::Snapshot,
    telemetry::metrics::Metrics,
    tls::{Crl, EdgeMaterial, Generation, LinkRole, ServerTls, Staples, revocation::CrlSet},
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
        Config::Gateway(gateway) => {
            gateway::parts(gateway, metrics, drain, previous, &mut problems)
        }
        Config::Acceptor(acceptor) => {
            acceptor::parts(acceptor, metrics, drain, previous, &mut problems)
        }
        Config::Authority(authority) => {
            authority::parts(authority, metrics, previous, &mut problems)
        }
    };
    if let Some(loaded) = &loaded {
        let numbers = CrlNumbers::of(loaded.common());
        problems.keep_all(numbers.judge(loaded.crls()));
    }
    match loaded {
        Some(loaded) if problems.is_empty() => Ok(loaded),
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
    warnings.extend(custody(&config, &listeners));
    warnings.extend(crate::tls::check::warnings(&identity, clock::now()));
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
