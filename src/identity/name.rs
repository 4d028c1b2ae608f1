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
        let _ = text;
        todo!()
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
        let _ = text;
        todo!()
    }

    /// Whether `name` (any case, no trailing dot) is this name or one label below the wildcard.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let _ = name;
        todo!()
    }
}
