//! The validated configuration. Every value was checked before one of these exists; relative
//! paths are already joined to the folder of the file they stand in.

mod backend;
mod credentials;
mod identity;
mod listener;
mod tls;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use super::Source;

pub use backend::*;
pub use credentials::*;
pub use identity::*;
pub use listener::*;
pub use tls::*;

/// Either role's configuration.
#[derive(Clone, Debug)]
pub enum Config {
    /// `[[route]]` or `[backend.*]` is there.
    Gateway(GatewayConfig),
    /// A listener has `backend`.
    Acceptor(AcceptorConfig),
    /// `[pki]` is there.
    Authority(AuthorityConfig),
}

/// A gateway.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// What both roles have.
    pub common: Common,
    /// Where clients are served.
    pub listeners: Vec<GatewayListener>,
    /// Where they are sent there.
    pub redirects: Vec<RedirectListener>,
    /// In order; the first that matches wins.
    pub routes: Vec<Arc<Route>>,
    /// By name.
    pub backends: BTreeMap<String, Arc<Backend>>,
}

impl GatewayConfig {
    /// Those of every listener.
    pub fn limits(&self) -> impl Iterator<Item = &Limits> {
        let redirects = self.redirects.iter().map(|l| &l.limits);
        self.listeners.iter().map(|l| &l.limits).chain(redirects)
    }
}

/// An acceptor.
#[derive(Clone, Debug)]
pub struct AcceptorConfig {
    /// What both roles have.
    pub common: Common,
    /// At least one.
    pub listeners: Vec<AcceptorListener>,
}

/// `pki serve`: the authority, for hosts that hold no CA key.
#[derive(Clone, Debug)]
pub struct AuthorityConfig {
    /// What all roles have.
    pub common: Common,
    /// `[pki]`.
    pub store: Store,
    /// At least one.
    pub listeners: Vec<AuthorityListener>,
}

impl Common {
    /// The folder of what has to outlive the process: `[runtime] state_dir`, else the usual one.
    #[must_use]
    pub fn state_folder(&self) -> Option<PathBuf> {
        self.state_dir
            .clone()
            .or_else(super::common::usual_state_folder)
    }
}

/// Tables that both roles have.
#[derive(Clone, Debug)]
pub struct Common {
    /// The file it was read from.
    pub file: PathBuf,
    /// Its text, and where it names other files: for messages that point at a place.
    pub source: Arc<Source>,
    /// `[identity]`.
    pub identity: Identity,
    /// `[tls]`, the process-wide table.
    pub tls: TlsOptions,
    /// `[admin]`.
    pub admin: Option<Admin>,
    /// `[log]`.
    pub log: Log,
    /// `[runtime] workers`; 0: one per available core.
    pub workers: usize,
    /// `[runtime] scheduling`.
    pub scheduling: Scheduling,
    /// `[runtime] state_dir`: what has to outlive the process.
    pub state_dir: Option<PathBuf>,
    /// Every `danger_` key that is set and every safety that is absent (no CRL): said at start.
    pub warnings: Vec<String>,
}

/// `[admin]`.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Address.
    pub address: ListenAddress,
    /// Token for all but `/healthz` and `/readyz` over TCP.
    pub token: Option<SecretRef>,
    /// `[admin.tls]`, needed beyond loopback.
    pub certificate: Option<CertificateFiles>,
}

/// `[log]`.
#[derive(Clone, Debug)]
pub struct Log {
    /// A tracing filter.
    pub level: String,
    /// Format.
    pub format: LogFormat,
    /// Access lines.
    pub access: bool,
}

/// How the kernel lets our threads run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheduling {
    /// A thread that wakes interrupts nobody at work (`SCHED_BATCH`).
    #[default]
    Batch,
    /// As whoever starts the process has it.
    Inherit,
}

/// `log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// JSON lines.
    Json,
    /// Text.
    Text,
}
