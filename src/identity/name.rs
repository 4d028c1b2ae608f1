//! DNS names and wildcard patterns (RFC 6125 section 6.4.3: one leading `*.`, one label).

/// A DNS name, lower case, no trailing dot, at most 253 octets, LDH labels (underscore allowed).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(String);

/// An exact DNS name or `*.suffix`, which matches exactly one more label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DnsPattern {
    /// This name only.
    Exact(DnsName),
    /// One label before this suffix.
    Wildcard(DnsName),
}

impl DnsName {
    /// Parses and lower-cases a name. `None`: not a DNS name (IP addresses are not).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if name.is_empty() || name.len() > 253 || name.parse::<std::net::IpAddr>().is_ok() {
            return None;
        }
        let fits = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        name.split('.').all(fits).then_some(Self(name))
    }

    /// The name, lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl DnsPattern {
    /// Parses `name` or `*.name`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("*.") {
            Some(suffix) => DnsName::parse(suffix).map(Self::Wildcard),
            None => DnsName::parse(text).map(Self::Exact),
        }
    }

    /// Whether `name` (any case, no trailing dot) is this name or one label below the wildcard.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        match self {
            Self::Exact(own) => own.0.eq_ignore_ascii_case(name),
            Self::Wildcard(suffix) => name.split_once('.').is_some_and(|(label, rest)| {
                !label.is_empty() && label != "*" && suffix.0.eq_ignore_ascii_case(rest)
            }),
        }
    }

    /// Whether every name that `other` stands for is matched.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(name)) => self.matches(&name.0),
            (Self::Wildcard(own), Self::Wildcard(theirs)) => own == theirs,
            (Self::Exact(_), Self::Wildcard(_)) => false,
        }
    }
}

impl std::fmt::Display for DnsPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(&name.0),
            Self::Wildcard(suffix) => write!(f, "*.{}", suffix.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_exactly_one_label() {
        let pattern = DnsPattern::parse("*.Staff.example").unwrap();
        assert!(pattern.matches("ops.staff.EXAMPLE"));
        for other in [
            "staff.example",
            "a.b.staff.example",
            ".staff.example",
            "*.staff.example",
            "opsstaff.example",
        ] {
            assert!(!pattern.matches(other), "{other}");
        }
    }

    #[test]
    fn what_is_no_dns_name_is_refused() {
        for text in [
            "",
            ".",
            "a..b",
            "-a",
            "a-",
            "10.0.0.1",
            "::1",
            "a b",
            "é.example",
            "*",
            "a.*.b",
            "x\0",
        ] {
            assert_eq!(DnsName::parse(text), None, "{text:?}");
        }
        assert_eq!(DnsName::parse("A.Example.").unwrap().as_str(), "a.example");
    }
}
