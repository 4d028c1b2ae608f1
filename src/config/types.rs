//! The validated configuration. Every value was checked before one of these exists; relative
//! paths are already joined to the folder of the file they stand in.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{Requirement, Source};
use crate::{
    admit::DeniedList,
    identity::{DnsName, DnsPattern, PeerNames, SpiffeId},
    wire::{
        path::PathPrefix,
        signature::{Algorithm, Component},
    },
};

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

/// A store of the authority, on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// The folder.
    pub folder: PathBuf,
    /// Passphrase of its CA keys.
    pub passphrase: Option<SecretRef>,
}

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

/// `source` of an identity that keeps itself valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// Who renews.
    pub from: RenewalSource,
    /// `refresh`: how often trust and CRLs are asked for.
    pub refresh: Duration,
}

/// A certificate of an ACME CA (RFC 8555).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// `url`: the CA's directory.
    pub url: String,
    /// `domains`: at least one, none twice.
    pub domains: Vec<String>,
    /// `contact`.
    pub contact: Vec<String>,
    /// `acme_trust`: roots of the CA's own server; `None`: the system's.
    pub trust: Option<PathBuf>,
    /// `external_account`.
    pub external_account: Option<ExternalAccount>,
    /// `challenge`.
    pub challenge: Challenge,
    /// `acme_http`: where challenges are answered; `None`: by the listeners in redirect mode.
    pub http: Option<SocketAddr>,
}

/// How a name is proven to a CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// By plain HTTP (RFC 8555 section 8.3).
    Http01,
    /// By TLS (RFC 8737).
    TlsAlpn01,
}

impl Challenge {
    /// What CAs call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
        }
    }
}

/// `external_account`: an account that the CA knows from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalAccount {
    /// `key_id`.
    pub key_id: String,
    /// `key`: base64url, as CAs give it.
    pub key: SecretRef,
}

/// Who renews an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RenewalSource {
    /// `source = "renew"`: a `pki serve`.
    Server {
        /// Where to connect.
        address: DialAddress,
        /// What its certificate must carry.
        server_name: ServerName,
        /// `Host`.
        host: String,
        /// `bind`: the source address.
        bind: Option<IpAddr>,
    },
    /// `source = "pki"`: a store on this host.
    Store(Store),
    /// `source = "acme"`: an ACME CA.
    Acme(Arc<Acme>),
    /// `source = "spiffe"`: a SPIFFE Workload API hands out certificate, key, trust and CRLs, which
    /// are in no file.
    Workload {
        /// Its Unix socket.
        socket: PathBuf,
        /// `id`: which of our identities; `None`: the first.
        id: Option<SpiffeId>,
    },
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
    /// `[runtime] state_dir`: what has to outlive the process.
    pub state_dir: Option<PathBuf>,
    /// Every `danger_` key that is set and every safety that is absent (no CRL): said at start.
    pub warnings: Vec<String>,
}

/// `[identity]`, or a backend's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Chain, leaf first; of a Workload API, its socket.
    pub certificate: PathBuf,
    /// Private key; of a Workload API, its socket.
    pub key: PathBuf,
    /// Passphrase of an encrypted key.
    pub key_passphrase: Option<SecretRef>,
    /// Roots for the other side.
    pub trust: Option<PathBuf>,
    /// `[[identity.trust_bundle]]`.
    pub bundles: Vec<TrustBundle>,
    /// Pinned certificates of the other side. `PeerName::Pinned` holds the same path as text.
    pub pinned: Vec<PathBuf>,
    /// Revocation.
    pub revocation: Option<Revocation>,
    /// `denied`.
    pub denied: DeniedList,
    /// `source`; `None`: files that somebody else replaces.
    pub renewal: Option<Renewal>,
    /// Where the table starts in the file, for messages.
    pub span: Range<usize>,
}

impl Identity {
    /// The word that `source` has.
    #[must_use]
    pub fn source(&self) -> &'static str {
        match self.renewal.as_ref().map(|renewal| &renewal.from) {
            None => "files",
            Some(RenewalSource::Server { .. }) => "renew",
            Some(RenewalSource::Store(_)) => "pki",
            Some(RenewalSource::Acme(_)) => "acme",
            Some(RenewalSource::Workload { .. }) => "spiffe",
        }
    }

    /// Where a Workload API hands this identity out, and which of those that it has.
    #[must_use]
    pub fn workload(&self) -> Option<(&Path, Option<&SpiffeId>)> {
        match self.renewal.as_ref().map(|renewal| &renewal.from) {
            Some(RenewalSource::Workload { socket, id }) => Some((socket, id.as_ref())),
            Some(
                RenewalSource::Server { .. } | RenewalSource::Store(_) | RenewalSource::Acme(_),
            )
            | None => None,
        }
    }

    /// The ACME CA that it comes from.
    #[must_use]
    pub fn acme(&self) -> Option<&Arc<Acme>> {
        match self.renewal.as_ref().map(|renewal| &renewal.from) {
            Some(RenewalSource::Acme(acme)) => Some(acme),
            Some(
                RenewalSource::Server { .. }
                | RenewalSource::Store(_)
                | RenewalSource::Workload { .. },
            )
            | None => None,
        }
    }
}

/// More roots, for their own names only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    /// PEM file of roots.
    pub file: PathBuf,
    /// What they may speak for; never empty.
    pub names: PeerNames,
}

/// `crl`, `crl_policy`, `crl_scope`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// PEM or DER files; never empty.
    pub files: Vec<PathBuf>,
    /// `crl_policy = "tolerate"`: an expired CRL is used, with a warning.
    pub tolerate_expired: bool,
    /// `crl_scope = "leaf"`: only the leaf's issuer needs one.
    pub leaf_only: bool,
}

/// TLS protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.2.
    V1_2,
    /// 1.3.
    V1_3,
}

/// A key exchange group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyExchange {
    /// x25519mlkem768.
    X25519MlKem768,
    /// x25519.
    X25519,
    /// secp256r1.
    Secp256r1,
    /// secp384r1.
    Secp384r1,
}

/// An AEAD; names the TLS 1.3 suite and the 1.2 ECDHE suites with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// AES-128-GCM.
    Aes128Gcm,
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305,
}

/// Who keeps the records of TLS 1.3 after the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// own: `tls/records`.
    Own,
    /// rustls: its buffered connection, as for TLS 1.2.
    Rustls,
}

/// `[tls]` after the tables nearer to an endpoint have won; lists are never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// `None`: the endpoint's default (link 1.3, client-facing 1.2).
    pub min_version: Option<TlsVersion>,
    /// In order of preference.
    pub key_exchange: Vec<KeyExchange>,
    /// In order of preference.
    pub ciphers: Vec<Cipher>,
    /// After the handshake.
    pub records: Records,
}

/// `[limits]` of a listener. `Duration::ZERO` and 0 mean no limit only where config.md says so.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the keys of [limits], described once in the reference"
)]
pub struct Limits {
    pub connections: usize,
    pub connections_per_ip: usize,
    pub handshakes: usize,
    pub handshake_timeout: Duration,
    pub header_timeout: Duration,
    pub keepalive_timeout: Duration,
    pub body_min_rate: u64,
    pub response_timeout: Duration,
    pub write_timeout: Duration,
    pub idle_timeout: Duration,
    pub drain_timeout: Duration,
    pub header_bytes: usize,
    pub body_bytes: u64,
    pub streams: u32,
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

/// A certificate that a client-facing listener shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Chain, leaf first.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// Passphrase of an encrypted key.
    pub key_passphrase: Option<SecretRef>,
    /// `certificate = { acme = … }`: the CA that both come from.
    pub acme: Option<Arc<Acme>>,
}

/// A secret that is never in the configuration itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// `{ file = "…" }`.
    File(PathBuf),
    /// `{ env = "…" }`.
    Env(String),
    /// `{ credential = "…" }`.
    Credential(String),
    /// `danger_short_secret = true`: fewer than 16 bytes are taken too.
    AllowShort(Box<Self>),
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
    /// One client after the other on a kept connection where the acceptor can, else `Direct`.
    #[default]
    Auto,
    /// One connection for each client.
    Direct,
    /// As `Auto`, and any other end is refused.
    Reuse,
    /// Many clients at once on few connections where the acceptor can, else `Auto`.
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

/// What the acceptor's certificate must carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerName {
    /// This DNS name.
    Dns(DnsName),
    /// This address.
    Ip(IpAddr),
}

/// `[backend.NAME.credentials]`: at least one, and no two write the same header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// `headers`.
    pub headers: Vec<SecretHeader>,
    /// `bearer`, `basic`, `digest`, `oauth2`: what writes `Authorization`.
    pub authorization: Option<Authorization>,
    /// `signature`.
    pub signature: Option<RequestSignature>,
}

/// `signature`: how requests are signed (RFC 9421).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestSignature {
    /// Names the signature in its fields.
    pub label: String,
    /// `key_id`.
    pub key_id: String,
    /// `tag`.
    pub tag: Option<String>,
    /// `algorithm`.
    pub algorithm: Algorithm,
    /// `key`.
    pub key: SecretRef,
    /// `key_encoding = "base64"`: what the secret says is base64 of the key.
    pub key_is_base64: bool,
    /// `components`; at least one, none twice.
    pub components: Vec<Component>,
    /// `body_bytes`: how much of a body is kept for its hash.
    pub body_bytes: usize,
}

/// An entry of `headers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretHeader {
    /// Its name.
    pub name: http::HeaderName,
    /// Its whole value.
    pub value: SecretRef,
}

/// What writes `Authorization`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// `bearer`.
    Bearer(SecretRef),
    /// `basic`.
    Basic(Login),
    /// `digest`.
    Digest(DigestLogin),
    /// `oauth2`.
    OAuth2(Box<OAuth2>),
}

/// `oauth2`: where tokens come from (RFC 6749, client credentials).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuth2 {
    /// Host and port of `token_url`, to connect to.
    pub address: DialAddress,
    /// What its certificate must carry: the host of `token_url`.
    pub server_name: ServerName,
    /// `Host`, as `token_url` has it.
    pub host: String,
    /// Path and query of `token_url`.
    pub target: String,
    /// `client_id`.
    pub client_id: String,
    /// `client_secret`.
    pub client_secret: SecretRef,
    /// `scopes`.
    pub scopes: Vec<String>,
    /// `client_authentication`.
    pub authentication: ClientAuthentication,
    /// `trust`: roots of the endpoint's certificate.
    pub trust: PathBuf,
    /// `[tls]`.
    pub tls: TlsOptions,
}

/// Where a client's secret stands in a request for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuthentication {
    /// In `Authorization`.
    Basic,
    /// In the form.
    Post,
}

/// `digest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestLogin {
    /// Name and password.
    pub login: Login,
    /// `body_bytes`: how much of a body is kept, to be sent once more.
    pub body_bytes: usize,
}

/// A user name and its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Without a colon.
    pub username: String,
    /// The password.
    pub password: SecretRef,
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
