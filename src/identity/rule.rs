//! Peer-name rules: which verified certificates a list of names lets in.

use super::{CertFacts, DnsPattern, Sha256, SpiffeId, TrustDomain};

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
        let _ = text;
        todo!()
    }

    /// Whether the leaf carries this name. Names are looked for among all SANs, never in the CN.
    #[must_use]
    pub fn matches(&self, leaf: &CertFacts) -> bool {
        let _ = leaf;
        todo!()
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
        let _ = f;
        todo!()
    }
}
