//! SPIFFE IDs (SPIFFE-ID specification sections 2.1 to 2.3).

/// A SPIFFE trust domain: lower case letters, digits, `.`, `-`, `_`; 1 to 255 octets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(String);

/// `spiffe://domain/path`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    domain: TrustDomain,
    path: String,
}

/// Text that is no SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a SPIFFE ID: {reason}")]
pub struct SpiffeIdError {
    /// What was read.
    pub text: String,
    /// Which rule it breaks.
    pub reason: &'static str,
}

impl TrustDomain {
    /// Parses a bare trust domain name.
    ///
    /// # Errors
    /// A character or length that the specification does not allow.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        let _ = text;
        todo!()
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SpiffeId {
    /// Parses an ID; no query, fragment, port, user info, empty or dot segments; at most 2048 octets.
    ///
    /// # Errors
    /// Any rule of the specification that it breaks.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        let _ = text;
        todo!()
    }

    /// The trust domain.
    #[must_use]
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The path with its leading slash; empty when there is none.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The first path segment: `gateway` of `/gateway/edge-1`; it names the role.
    #[must_use]
    pub fn role(&self) -> Option<&str> {
        todo!()
    }
}

impl std::fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "spiffe://{}{}", self.domain.0, self.path)
    }
}
