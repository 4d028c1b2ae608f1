//! Peer-name rules: which verified certificates a list of names lets in.

use super::{CertFacts, DnsPattern, Sha256, SpiffeId, TrustDomain};

const FORMS: &str = "expected spiffe://domain/path, spiffe://domain/path/*, dns:name, dns:*.name, \
    sha256:HEX, spki:sha256:HEX or pinned:FILE";

/// One entry of `gateways`, `clients`, `acceptor_ids` or a trust bundle's `names`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerName {
    /// `spiffe://domain/path`, exactly.
    Spiffe(SpiffeId),
    /// `spiffe://domain/prefix/*`: any ID of the domain whose path starts with `/prefix/` and
    /// has at least one more octet.
    SpiffePrefix {
        /// The trust domain.
        domain: TrustDomain,
        /// With leading and trailing slash; `/` for the whole domain.
        prefix: String,
    },
    /// `dns:name` or `dns:*.name`, among all DNS SANs.
    Dns(DnsPattern),
    /// `sha256:HEX`: the leaf's fingerprint.
    Fingerprint(Sha256),
    /// `spki:sha256:HEX`: the leaf's key.
    Spki(Sha256),
    /// `pinned:FILE`: the certificate in that file, which must be one of `pinned`.
    Pinned {
        /// As written in the configuration.
        file: String,
        /// The certificate's fingerprint, known once the file is loaded; `None` matches nobody.
        fingerprint: Option<Sha256>,
    },
}

/// Text that is no peer name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a peer name: {reason}")]
pub struct PeerNameError {
    /// What was written.
    pub text: String,
    /// What is wrong, and what was expected.
    pub reason: String,
}

/// A list of peer names. Empty matches nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerNames(pub Vec<PeerName>);

impl PeerName {
    /// Parses one name. Hex may have colons and any case.
    ///
    /// # Errors
    /// An unknown form, with the known ones listed.
    pub fn parse(text: &str) -> Result<Self, PeerNameError> {
        let bad = |reason: String| PeerNameError {
            text: text.to_owned(),
            reason,
        };
        if text.starts_with("spiffe://") {
            if let Some(head) = text.strip_suffix("/*") {
                let id = SpiffeId::parse(head).map_err(|e| bad(e.reason.to_owned()))?;
                let prefix = format!("{}/", id.path());
                return Ok(Self::SpiffePrefix {
                    domain: id.domain().clone(),
                    prefix,
                });
            }
            return SpiffeId::parse(text)
                .map(Self::Spiffe)
                .map_err(|e| bad(e.reason.to_owned()));
        }
        let Some((kind, value)) = text.split_once(':') else {
            return Err(bad(FORMS.to_owned()));
        };
        match kind {
            "dns" => DnsPattern::parse(value)
                .map(Self::Dns)
                .ok_or_else(|| bad("not a DNS name, nor one leading \"*.\" and a name".to_owned())),
            "sha256" => Sha256::parse(value)
                .map(Self::Fingerprint)
                .ok_or_else(|| bad("a fingerprint has 64 hex digits".to_owned())),
            "spki" => value
                .strip_prefix("sha256:")
                .and_then(Sha256::parse)
                .map(Self::Spki)
                .ok_or_else(|| bad("expected spki:sha256: and 64 hex digits".to_owned())),
            "pinned" if !value.is_empty() => Ok(Self::Pinned {
                file: value.to_owned(),
                fingerprint: None,
            }),
            _ => Err(bad(FORMS.to_owned())),
        }
    }

    /// Whether the leaf carries this name. Names are looked for among all SANs, never in the CN.
    #[must_use]
    pub fn matches(&self, leaf: &CertFacts) -> bool {
        match self {
            Self::Spiffe(id) => leaf.spiffe.contains(id),
            Self::SpiffePrefix { .. } => leaf.spiffe.iter().any(|id| self.covers_spiffe(id)),
            Self::Dns(pattern) => leaf
                .dns
                .iter()
                .filter_map(|name| DnsPattern::parse(name))
                .any(|name| pattern.covers(&name)),
            Self::Fingerprint(hash) => leaf.fingerprint == *hash,
            Self::Spki(hash) => leaf.spki == *hash,
            Self::Pinned { fingerprint, .. } => *fingerprint == Some(leaf.fingerprint),
        }
    }

    /// Whether this name stands for a SPIFFE ID.
    #[must_use]
    pub fn covers_spiffe(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Spiffe(own) => own == id,
            Self::SpiffePrefix { domain, prefix } => {
                id.domain() == domain
                    && id.path().len() > prefix.len()
                    && id.path().starts_with(prefix.as_str())
            }
            Self::Dns(_) | Self::Fingerprint(_) | Self::Spki(_) | Self::Pinned { .. } => false,
        }
    }

    /// Whether this name stands for a DNS name or pattern.
    #[must_use]
    pub fn covers_dns(&self, name: &str) -> bool {
        match self {
            Self::Dns(own) => DnsPattern::parse(name).is_some_and(|name| own.covers(&name)),
            Self::Spiffe(_)
            | Self::SpiffePrefix { .. }
            | Self::Fingerprint(_)
            | Self::Spki(_)
            | Self::Pinned { .. } => false,
        }
    }
}

impl PeerNames {
    /// The first name that the leaf carries.
    #[must_use]
    pub fn first_match(&self, leaf: &CertFacts) -> Option<&PeerName> {
        self.0.iter().find(|name| name.matches(leaf))
    }
}

impl std::fmt::Display for PeerName {
    /// As it is written in a configuration.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Spiffe(id) => write!(f, "{id}"),
            Self::SpiffePrefix { domain, prefix } => {
                write!(f, "spiffe://{}{prefix}*", domain.as_str())
            }
            Self::Dns(pattern) => write!(f, "dns:{pattern}"),
            Self::Fingerprint(hash) => write!(f, "sha256:{hash}"),
            Self::Spki(hash) => write!(f, "spki:sha256:{hash}"),
            Self::Pinned { file, .. } => write!(f, "pinned:{file}"),
        }
    }
}
