//! The demonstration: a throw-away authority, a small legacy backend, an acceptor and a gateway in
//! one process on loopback. The roles run from the same configuration files, through the same
//! code, as two processes would.

mod backend;
mod observer;
mod proofs;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
};

pub use observer::Observer;
pub use proofs::{Outcome, PROOFS, Proof};

use backend::Backend;

use super::{load, reload::Process};
use crate::{
    clock, config,
    drain::Drain,
    identity::UnixSeconds,
    net::Inherited,
    pki::{self, Authority, InitOptions, IssueRequest, Role, store},
    telemetry::metrics::Metrics,
};

/// The demonstration can't begin.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A file or socket of the system.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The authority.
    #[error(transparent)]
    Pki(#[from] pki::PkiError),
    /// A role did not start.
    #[error("{0}")]
    Start(String),
}

/// Turns what the system says into a [`DemoError`].
fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> DemoError {
    let what = what.into();
    move |source| DemoError::Io { what, source }
}

/// A running demonstration. Its folder is removed when it is dropped.
pub struct Demo {
    folder: tempfile::TempDir,
    /// Where clients come in.
    pub gateway: SocketAddr,
    /// Where the gateway comes in.
    pub acceptor: SocketAddr,
    backend: Backend,
    roles: [Arc<Process>; 2],
    drain: Drain,
}

/// The certificates that the proofs show; the acceptor's own and the edge's are made besides.
const GUESTS: [&str; 3] = ["stolen", "expired", "edge-1"];

impl Demo {
    /// Makes the authority, writes the configurations and starts everything.
    ///
    /// # Errors
    /// An address is taken, or the folder for temporary files can't be used.
    pub async fn start(address: SocketAddr) -> Result<Self, DemoError> {
        let folder = tempfile::Builder::new()
            .prefix("portcullis-demo-")
            .tempdir()
            .map_err(io("a temporary folder"))?;
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let drain = Drain::new();
        let backend = backend::start(&drain)
            .await
            .map_err(io("the demonstration's backend"))?;
        let gateway = free(address)?;
        let acceptor = free(SocketAddr::new(loopback, 0))?;
        make_authority(folder.path(), gateway.ip())?;
        let files = [
            ("acceptor.toml", acceptor_toml(acceptor, backend.address)),
            ("gateway.toml", gateway_toml(gateway, acceptor)),
        ];
        for (name, text) in &files {
            let path = folder.path().join(name);
            store::write_file(&path, text.as_bytes(), 0o600)
                .map_err(io(path.display().to_string()))?;
        }
        let [acceptor_role, gateway_role] =
            files.map(|(name, _)| begin(&folder.path().join(name), &drain));
        Ok(Self {
            roles: [acceptor_role?, gateway_role?],
            folder,
            gateway,
            acceptor,
            backend,
            drain,
        })
    }

    /// Where only the acceptor comes in.
    #[must_use]
    pub fn backend(&self) -> SocketAddr {
        self.backend.address
    }

    /// The folder of the authority and the configurations.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The roots.
    #[must_use]
    pub fn trust(&self) -> PathBuf {
        self.folder().join("pki/trust.pem")
    }

    /// A certificate and its key.
    #[must_use]
    pub fn leaf(&self, authority: &str, role: Role, name: &str) -> [PathBuf; 2] {
        let folder = self
            .folder()
            .join(authority)
            .join("certs")
            .join(role.as_str())
            .join(name);
        [folder.join("cert.pem"), folder.join("key.pem")]
    }

    /// Ends both roles.
    pub async fn stop(self) {
        self.drain.drain(std::time::Duration::from_secs(5)).await;
        drop(self.roles);
    }
}

/// Port 0 becomes one that is free now.
fn free(address: SocketAddr) -> Result<SocketAddr, DemoError> {
    TcpListener::bind(address)
        .and_then(|listener| listener.local_addr())
        .map_err(io(format!(
            "{address} can't be listened on; another --address may be free"
        )))
}

fn begin(file: &Path, drain: &Drain) -> Result<Arc<Process>, DemoError> {
    let start = |text: String| DemoError::Start(text);
    let config = config::load(file).map_err(|problems| start(problems.to_string()))?;
    let metrics = Metrics::new();
    let loaded = load(config, (None, &Arc::default()), &metrics, drain, None)
        .map_err(|problems| start(problems.to_string()))?;
    let process = Process::new(metrics, drain.clone(), Inherited::default(), None);
    process.start(loaded).map_err(|errors| {
        let list: Vec<_> = errors.iter().map(ToString::to_string).collect();
        start(list.join("\n"))
    })?;
    Ok(process)
}

/// Ours, and a stranger's with the very same names.
fn make_authority(folder: &Path, edge: IpAddr) -> Result<(), DemoError> {
    let ours = Authority::init(&folder.join("pki"), InitOptions::default())?;
    let day = 86_400;
    let now = clock::now().0;
    for name in GUESTS {
        let mut request = IssueRequest::new(Role::Gateway, name);
        if name == "expired" {
            request.not_before = Some(UnixSeconds(now - 30 * day));
            request.not_after = Some(UnixSeconds(now - day));
        }
        ours.issue(&request)?;
    }
    ours.issue(&IssueRequest::new(Role::Acceptor, "legacy").san("legacy.internal"))?;
    ours.issue(&IssueRequest::new(Role::Client, "edge-1"))?;
    ours.issue(
        &IssueRequest::new(Role::Server, "edge")
            .san("localhost")
            .san(&edge.to_string()),
    )?;
    ours.revoke("gateway/stolen", pki::Reason::KeyCompromise)?;
    let stranger = Authority::init(&folder.join("stranger"), InitOptions::default())?;
    stranger.issue(&IssueRequest::new(Role::Gateway, "edge-1"))?;
    Ok(())
}

fn acceptor_toml(address: SocketAddr, backend: SocketAddr) -> String {
    format!(
        r#"[identity]
certificate = "pki/certs/acceptor/legacy/cert.pem"
key         = "pki/certs/acceptor/legacy/key.pem"
trust       = "pki/trust.pem"
crl         = "pki/crl.pem"

[runtime]
state_dir   = "state"

[[listener]]
name        = "legacy"
address     = "{address}"
mode        = "tcp"
backend     = "{backend}"
trusted_ips = ["127.0.0.1"]
gateways    = ["spiffe://example.internal/gateway/*"]
"#
    )
}

fn gateway_toml(address: SocketAddr, acceptor: SocketAddr) -> String {
    format!(
        r#"[identity]
certificate = "pki/certs/gateway/edge-1/cert.pem"
key         = "pki/certs/gateway/edge-1/key.pem"
trust       = "pki/trust.pem"
crl         = "pki/crl.pem"

[runtime]
state_dir   = "state"

[[listener]]
name        = "public"
address     = "{address}"
mode        = "http"
certificate = "pki/certs/server/edge/cert.pem"
key         = "pki/certs/server/edge/key.pem"

[[route]]
backend = "legacy"

[backend.legacy]
acceptors   = ["{acceptor}"]
server_name = "legacy.internal"
bind        = "127.0.0.1"
pool        = {{ ready = 0 }}
"#
    )
}
