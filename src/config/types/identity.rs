//! Who we are and whom we believe.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{DialAddress, ServerName};
use crate::{
    admit::DeniedList,
    identity::{PeerNames, SpiffeId},
};

/// A store of the authority, on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// The folder.
    pub folder: PathBuf,
    /// Passphrase of its CA keys.
    pub passphrase: Option<SecretRef>,
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
