//! What a gateway dials.

use std::{net::IpAddr, time::Duration};

use super::{
    ClientCertHeader, Credentials, DialAddress, Identity, ProxyVersion, ServerName, TlsOptions,
};
use crate::identity::PeerNames;

/// Which acceptor is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// In turn.
    RoundRobin,
    /// The one with the fewest requests or connections under way.
    LeastRequests,
}

/// HTTP version towards the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// `host_header`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostHeader {
    /// As the client sent it.
    Preserve,
    /// `server_name`, or the acceptor's host.
    Backend,
    /// This text.
    Literal(String),
}

/// `pool`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Kept idle connections at most.
    pub idle: usize,
    /// Ready connections.
    pub ready: usize,
    /// How long a kept connection may be idle.
    pub idle_timeout: Duration,
    /// How old it may get.
    pub max_age: Duration,
}

/// `tunnel`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tunnel {
    /// As `Mux`, and nothing is said where that can't be.
    #[default]
    Auto,
    /// One connection for each client.
    Direct,
    /// One client after the other on a kept connection; any end that can't is refused.
    Reuse,
    /// Many at once on few connections where the acceptor can, else one after the other on kept
    /// ones, else `Direct`.
    Mux,
}

/// `health`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// `None`: an admitted link connection is the check.
    pub path: Option<String>,
    /// Between checks.
    pub interval: Duration,
    /// Of one check.
    pub timeout: Duration,
    /// Failures until unhealthy.
    pub unhealthy_after: u32,
    /// Successes until healthy.
    pub healthy_after: u32,
}

/// `[backend.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Name.
    pub name: String,
    /// At least one.
    pub acceptors: Vec<DialAddress>,
    /// `server_name`; `None`: the host of each address (or not checked with `acceptor_ids`).
    pub server_name: Option<ServerName>,
    /// `acceptor_ids`.
    pub acceptor_ids: Option<PeerNames>,
    /// Towards the backend, in http mode.
    pub protocol: BackendProtocol,
    /// Which acceptor.
    pub balance: Balance,
    /// Resolve, connect, handshake and admission.
    pub connect_timeout: Duration,
    /// Source address.
    pub bind: Option<IpAddr>,
    /// Kept connections.
    pub pool: Pool,
    /// How clients of tcp mode share link connections.
    pub tunnel: Tunnel,
    /// PROXY header to a foreign acceptor.
    pub proxy_protocol: Option<ProxyVersion>,
    /// Active checks.
    pub health: Option<Health>,
    /// Another identity.
    pub identity: Option<Identity>,
    /// Host header.
    pub host_header: HostHeader,
    /// The caller's certificate.
    pub client_cert_header: ClientCertHeader,
    /// What the backend expects of us, in http mode.
    pub credentials: Option<Credentials>,
    /// TLS with this backend's table merged; minimum 1.3 unless written.
    pub tls: TlsOptions,
}

impl Backend {
    /// The host that the backend itself goes by: `server_name`, else the first address.
    #[must_use]
    pub fn own_host(&self) -> String {
        match &self.server_name {
            Some(ServerName::Dns(name)) => name.as_str().to_owned(),
            Some(ServerName::Ip(IpAddr::V6(ip))) => format!("[{ip}]"),
            Some(ServerName::Ip(ip)) => ip.to_string(),
            None => match self.acceptors.first() {
                // a path is no host
                None | Some(DialAddress::Unix(_)) => "localhost".to_owned(),
                Some(address) => address.to_string(),
            },
        }
    }
}
