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
        let fits =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > 255 {
            return Err(bad(text, "a trust domain has 1 to 255 characters"));
        }
        if !text.bytes().all(fits) {
            return Err(bad(
                text,
                "a trust domain holds lower-case letters, digits, '.', '-' and '_'",
            ));
        }
        Ok(Self(text.to_owned()))
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
        if text.len() > 2048 {
            return Err(bad("", "longer than 2048 bytes"));
        }
        let rest = text
            .strip_prefix("spiffe://")
            .ok_or_else(|| bad(text, "it must start with spiffe://"))?;
        let (domain, path) = match rest.find('/') {
            Some(at) => rest
                .split_at_checked(at)
                .ok_or_else(|| bad(text, "not text"))?,
            None => (rest, ""),
        };
        let domain = TrustDomain::parse(domain).map_err(|e| bad(text, e.reason))?;
        check_path(path).map_err(|reason| bad(text, reason))?;
        Ok(Self {
            domain,
            path: path.to_owned(),
        })
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
        self.path
            .split('/')
            .nth(1)
            .filter(|segment| !segment.is_empty())
    }
}

fn bad(text: &str, reason: &'static str) -> SpiffeIdError {
    SpiffeIdError {
        text: text.to_owned(),
        reason,
    }
}

/// An empty path, or segments of letters, digits, `.`, `-`, `_` that are neither `.` nor `..`.
pub(super) fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Ok(());
    }
    for segment in path.split('/').skip(1) {
        if segment.is_empty() {
            return Err("a path has no empty segment and no trailing slash");
        }
        if matches!(segment, "." | "..") {
            return Err("a path has no dot segment");
        }
        if !segment
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        {
            return Err("a path segment holds letters, digits, '.', '-' and '_'");
        }
    }
    Ok(())
}

impl std::fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "spiffe://{}{}", self.domain.0, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_a_domain_a_path_and_a_role() {
        let id = SpiffeId::parse("spiffe://example.internal/gateway/edge-1").unwrap();
        assert_eq!(
            (id.domain().as_str(), id.path(), id.role()),
            ("example.internal", "/gateway/edge-1", Some("gateway"))
        );
        assert_eq!(id.to_string(), "spiffe://example.internal/gateway/edge-1");
        assert_eq!(
            SpiffeId::parse("spiffe://example.internal").unwrap().role(),
            None
        );
    }

    #[test]
    fn what_the_specification_forbids_is_refused() {
        for text in [
            "SPIFFE://a/b",
            "spiffe:/a",
            "spiffe://",
            "spiffe:///x",
            "spiffe://A/x",
            "spiffe://a:1/x",
            "spiffe://u@a/x",
            "spiffe://a/",
            "spiffe://a/x/",
            "spiffe://a//x",
            "spiffe://a/./x",
            "spiffe://a/../x",
            "spiffe://a/x?y",
            "spiffe://a/x#y",
            "spiffe://a/%41",
            "spiffe://a/é",
            "https://a/x",
        ] {
            assert!(SpiffeId::parse(text).is_err(), "{text}");
        }
    }
}
