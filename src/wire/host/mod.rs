//! The host that a request is for (RFC 9110 section 7.2, RFC 9112 section 3.2, RFC 9113 section
//! 8.3.1): one answer, or a refusal. Two parties that read two hosts out of one request are how
//! rules of one site are passed in the name of another.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use http::{HeaderMap, HeaderName, Uri, Version, header::HOST, uri};

#[cfg(test)]
mod tests;

/// The longest DNS name.
const MAX_NAME: usize = 253;

/// A host without port. `Display` brackets IPv6.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A DNS name: lower case, no trailing dot.
    Name(String),
    /// An address.
    Address(IpAddr),
}

impl Host {
    /// The name, where it is one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) => None,
        }
    }
}

/// `host[:port]`, in one spelling.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    /// Name or address.
    pub host: Host,
    /// `None`: not written.
    pub port: Option<u16>,
}

/// Why a request has no one host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// HTTP/1.1 and later name one.
    #[error("the request names no host: expected one Host header or :authority")]
    Missing,
    /// More than one line.
    #[error("the request has {0} Host headers, expected one")]
    Repeated(usize),
    /// Not text.
    #[error("the Host header is not visible ASCII")]
    NotText,
    /// A user and password stand before the host.
    #[error("the host carries user information before an \"@\", expected host[:port]")]
    UserInfo,
    /// RFC 9113 section 8.3.1.
    #[error("the scheme is empty")]
    Scheme,
    /// Not a name or address.
    #[error("the host is not a DNS name, an IPv4 address or a bracketed IPv6 address")]
    Malformed,
    /// Not a port.
    #[error("the port is not a number from 1 to 65535 without leading zeros")]
    Port,
    /// Two answers.
    #[error("the request line or :authority says {target}, the Host header {header}: expected one")]
    Disagree {
        /// In the request target.
        target: Authority,
        /// In the header.
        header: Authority,
    },
}

impl Authority {
    /// Parses `host[:port]`; the name is lower-cased and loses one trailing dot.
    ///
    /// # Errors
    /// Anything else, user information included. A last label that is a number makes the whole an
    /// IPv4 address or nothing, as browsers and resolvers would have it (`127.1`, `0x7f.1`).
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if text.contains('@') {
            return Err(HostError::UserInfo);
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (inside, after) = rest.split_once(']').ok_or(HostError::Malformed)?;
            let ip: Ipv6Addr = inside.parse().map_err(|_not_v6| HostError::Malformed)?;
            let port = match after {
                "" => None,
                _ => Some(port(after.strip_prefix(':').ok_or(HostError::Malformed)?)?),
            };
            return Ok(Self {
                host: Host::Address(IpAddr::V6(ip)),
                port,
            });
        }
        let (name, port) = match text.split_once(':') {
            Some((name, digits)) => (name, Some(port(digits)?)),
            None => (text, None),
        };
        Ok(Self {
            host: host(name)?,
            port,
        })
    }

    /// The same without the port that `scheme` implies.
    #[must_use]
    pub fn without_default_port(mut self, scheme: &uri::Scheme) -> Self {
        let implied = if *scheme == uri::Scheme::HTTP {
            80
        } else {
            443
        };
        if self.port == Some(implied) {
            self.port = None;
        }
        self
    }
}

fn port(digits: &str) -> Result<u16, HostError> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    plain
        .then(|| digits.parse().ok())
        .flatten()
        .ok_or(HostError::Port)
}

fn host(name: &str) -> Result<Host, HostError> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=63).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > MAX_NAME || !name.split('.').all(label) {
        return Err(HostError::Malformed);
    }
    let last = name.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let number = last.bytes().all(|byte| byte.is_ascii_digit())
        || hex.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if number {
        let ip = name
            .parse::<Ipv4Addr>()
            .map_err(|_not_v4| HostError::Malformed)?;
        return Ok(Host::Address(IpAddr::V4(ip)));
    }
    Ok(Host::Name(name.to_ascii_lowercase()))
}

/// The one host that a request names: in its target (absolute form, or `:authority`) and in its
/// Host header, which must agree. `None` only for an HTTP/1.0 request that names none.
///
/// `scheme` is the one the client used to reach us; its default port counts as not written.
///
/// # Errors
/// No host, two hosts, or one that is malformed.
pub fn effective_host(
    version: Version,
    target: &Uri,
    headers: &HeaderMap,
    scheme: &uri::Scheme,
) -> Result<Option<Authority>, HostError> {
    if target.scheme_str() == Some("") {
        return Err(HostError::Scheme);
    }
    let lines = headers.get_all(HOST).iter().count();
    if lines > 1 {
        return Err(HostError::Repeated(lines));
    }
    let header = match headers.get(HOST) {
        Some(value) => {
            let text = value.to_str().map_err(|_not_ascii| HostError::NotText)?;
            Some(Authority::parse(text)?.without_default_port(scheme))
        }
        None => None,
    };
    let target = match target.authority() {
        Some(authority) => Some(Authority::parse(authority.as_str())?.without_default_port(scheme)),
        None => None,
    };
    match (target, header) {
        (Some(target), Some(header)) if target != header => {
            Err(HostError::Disagree { target, header })
        }
        // RFC 9112 section 3.2: HTTP/1.1 without Host is answered 400, whatever the target says.
        (_, None) if version == Version::HTTP_11 => Err(HostError::Missing),
        (None, None) if version != Version::HTTP_10 && version != Version::HTTP_09 => {
            Err(HostError::Missing)
        }
        (Some(one), _) | (None, Some(one)) => Ok(Some(one)),
        (None, None) => Ok(None),
    }
}

/// The header names that have an underscore: a backend that turns headers into variables takes
/// each for the name with a hyphen.
pub fn underscored(headers: &HeaderMap) -> impl Iterator<Item = &HeaderName> {
    headers.keys().filter(|name| name.as_str().contains('_'))
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Self::Address(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => self.host.fmt(f),
        }
    }
}
