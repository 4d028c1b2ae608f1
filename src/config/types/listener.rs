//! Listeners of every role, and the routes of a gateway.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use super::{
    super::Requirement, BackendProtocol, CertificateFiles, Limits, Revocation, TlsOptions,
};
use crate::{
    identity::{DnsName, DnsPattern, PeerNames},
    wire::path::PathPrefix,
};

/// A listener of `pki serve`.
#[derive(Clone, Debug)]
pub struct AuthorityListener {
    /// Name, unique.
    pub name: Arc<str>,
    /// Address.
    pub address: ListenAddress,
    /// `trusted_ips`; `None`: `danger_any_source`.
    pub trusted: Option<NetworkList>,
    /// `untrusted_ips`.
    pub untrusted_ips: NetworkList,
    /// `holders`; `None`: whoever has a certificate of the store that is in force.
    pub holders: Option<PeerNames>,
    /// `proxy_protocol.from`.
    pub proxy_from: Option<NetworkList>,
    /// TLS with this listener's table merged.
    pub tls: TlsOptions,
    /// Limits with this listener's table merged.
    pub limits: Limits,
}

/// A listening address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ListenAddress {
    /// IP and port.
    Tcp(SocketAddr),
    /// `unix:/path`.
    Unix(PathBuf),
    /// `systemd:NAME`.
    Systemd(String),
}

/// An address to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DialAddress {
    /// IP and port.
    Ip(SocketAddr),
    /// Host name and port, resolved when dialled.
    Host(String, u16),
    /// `unix:/path`.
    Unix(PathBuf),
}

/// Networks written in place and files of networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkList {
    /// Written in place.
    pub networks: Vec<ipnet::IpNet>,
    /// `{ file = "…" }`.
    pub files: Vec<PathBuf>,
}

/// What a listener does with accepted bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// HTTP/1.1 and HTTP/2.
    Http,
    /// Bytes.
    Tcp,
}

/// PROXY protocol version to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// Whether a caller must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCert {
    /// Refused without.
    Require,
    /// Judged when shown.
    Optional,
}

/// `client_ca` and its companions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// Roots.
    pub ca: Option<PathBuf>,
    /// `client_pinned`.
    pub pinned: Vec<PathBuf>,
    /// `client_crl`, `client_crl_policy`.
    pub revocation: Option<Revocation>,
    /// `client_cert`.
    pub mode: ClientCert,
    /// `clients`; `None` only with `danger_any_client = true`.
    pub clients: Option<PeerNames>,
}

/// What becomes of a request whose path two servers could read as two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathNormalisation {
    /// It is refused.
    Refuse,
    /// Dot segments and encoded slashes are resolved first, for routes and backend alike.
    Normalise,
}

/// What becomes of header names with an underscore, which a backend that turns headers into
/// variables takes for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnderscoreHeaders {
    /// They are left out.
    Drop,
    /// The request is refused.
    Refuse,
    /// They pass, but for those that would be taken for a name that is not the client's to set.
    Keep,
}

/// A gateway's listener with mode = "redirect".
#[derive(Clone, Debug)]
pub struct RedirectListener {
    /// Name, unique.
    pub name: Arc<str>,
    /// Address.
    pub address: ListenAddress,
    /// `allow`; `None`: everybody.
    pub allow: Option<NetworkList>,
    /// `deny`.
    pub deny: NetworkList,
    /// `proxy_protocol.from`.
    pub proxy_from: Option<NetworkList>,
    /// `https_port`.
    pub https_port: u16,
    /// Limits with this listener's table merged.
    pub limits: Limits,
}

/// A gateway's listener.
#[derive(Clone, Debug)]
pub struct GatewayListener {
    /// Name, unique.
    pub name: Arc<str>,
    /// Address.
    pub address: ListenAddress,
    /// Mode.
    pub mode: Mode,
    /// At least one; those of an ACME CA need not be there yet.
    pub certificates: Vec<CertificateFiles>,
    /// Protocols offered; empty in tcp mode.
    pub alpn: Vec<String>,
    /// `allow`; `None`: everybody.
    pub allow: Option<NetworkList>,
    /// `deny`.
    pub deny: NetworkList,
    /// Client certificates.
    pub client_auth: Option<ClientAuth>,
    /// `proxy_protocol.from`.
    pub proxy_from: Option<NetworkList>,
    /// `trusted_proxies`.
    pub trusted_proxies: NetworkList,
    /// `path_normalisation`.
    pub path_normalisation: PathNormalisation,
    /// `underscore_headers`.
    pub underscore_headers: UnderscoreHeaders,
    /// `starttls = "postgres"`.
    pub starttls_postgres: bool,
    /// What certificates' authorities say of them is shown with them, where they name a responder.
    pub ocsp_stapling: bool,
    /// TLS with this listener's table merged.
    pub tls: TlsOptions,
    /// Limits with this listener's table merged.
    pub limits: Limits,
}

/// `[[route]]`.
#[derive(Clone, Debug)]
pub struct Route {
    /// A name for logs: `route[0]` and its host and path.
    pub label: String,
    /// `None`: every listener.
    pub listener: Option<Arc<str>>,
    /// Empty only when not written: any host.
    pub hosts: Option<Vec<DnsPattern>>,
    /// Path prefix, starts with `/`.
    pub path: String,
    /// The same as requests are matched against it.
    pub prefix: PathPrefix,
    /// `None`: any method.
    pub methods: Option<Vec<String>>,
    /// Narrower than the listener's.
    pub clients: Option<PeerNames>,
    /// Name of the backend; it exists.
    pub backend: String,
    /// Replaces the matched prefix.
    pub rewrite_prefix: Option<String>,
    /// `keep_headers`: of the names that are removed from every request, those that stay.
    pub keep_headers: Vec<http::HeaderName>,
}

/// Format of the client-certificate header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertHeader {
    /// None is sent.
    Off,
    /// X-Forwarded-Client-Cert.
    Xfcc,
    /// Client-Cert and Client-Cert-Chain.
    Rfc9440,
}

/// What the acceptor's certificate must carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerName {
    /// This DNS name.
    Dns(DnsName),
    /// This address.
    Ip(IpAddr),
}

/// `backend_tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTls {
    /// Roots.
    pub trust: PathBuf,
    /// Name in its certificate.
    pub server_name: ServerName,
    /// TLS options.
    pub tls: TlsOptions,
}

/// `[[listener.rule]]`, or `trusted_ips` and `gateways` as one.
#[derive(Clone, Debug)]
pub struct AcceptorRule {
    /// Sources; `None`: any (`danger_any_source`).
    pub from: Option<NetworkList>,
    /// Gateways; never empty.
    pub gateways: PeerNames,
}

/// An acceptor's listener.
#[derive(Clone, Debug)]
pub struct AcceptorListener {
    /// Name, unique.
    pub name: Arc<str>,
    /// Address.
    pub address: ListenAddress,
    /// Mode.
    pub mode: Mode,
    /// What the backend speaks, in http mode.
    pub protocol: BackendProtocol,
    /// The gateway's certificate for the backend; off in tcp mode.
    pub client_cert_header: ClientCertHeader,
    /// The backend.
    pub backend: DialAddress,
    /// The backend speaks TLS.
    pub backend_tls: Option<BackendTls>,
    /// Our own address towards the backend.
    pub source_address: Option<IpAddr>,
    /// At least one rule. The source check before the handshake is the union of their `from`.
    pub rules: Vec<AcceptorRule>,
    /// Exceptions; win.
    pub untrusted_ips: NetworkList,
    /// `proxy_protocol.from`.
    pub proxy_from: Option<NetworkList>,
    /// A foreign gateway's first bytes are a PROXY header.
    pub expect_proxy: bool,
    /// PROXY header to the backend.
    pub send_proxy: Option<ProxyVersion>,
    /// `require`, in http mode: every one has to be met by each request.
    pub require: Vec<Requirement>,
    /// TLS with this listener's table merged.
    pub tls: TlsOptions,
    /// Limits with this listener's table merged.
    pub limits: Limits,
}
