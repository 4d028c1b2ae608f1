//! The PROXY protocol, versions 1 and 2 (haproxy `proxy-protocol.txt`): decode strictly, encode
//! what we pass on. A header is a claim about a source address, so whatever is not exactly in the
//! form that the specification gives is refused.

use std::net::SocketAddr;

mod v1;
mod v2;

#[cfg(test)]
mod tests;

pub use v1::{MAX_LEN as V1_MAX_LEN, encode as encode_v1};
pub use v2::{Extras, MAX_LEN as V2_MAX_LEN, MAX_UNIQUE_ID, encode as encode_v2};

/// Which version a header was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// On whose behalf the connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// By the balancer itself, as for a health check: the addresses mean nothing.
    Local,
    /// For a client, whose addresses follow.
    Proxy,
}

/// The addresses of the original connection. IPv4-mapped IPv6 addresses come out as IPv4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// Not said: v1 `UNKNOWN`, v2 UNSPEC, and every LOCAL header.
    Unspec,
    /// IPv4 or IPv6.
    Inet {
        /// The client.
        source: SocketAddr,
        /// The address that the client dialled.
        destination: SocketAddr,
    },
    /// Unix sockets, without the trailing zero bytes.
    Unix {
        /// The client's socket; often empty.
        source: Vec<u8>,
        /// The socket that the client dialled.
        destination: Vec<u8>,
    },
}

/// One further field of a v2 header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tlv {
    /// `PP2_TYPE_*`.
    pub kind: u8,
    /// Its value, uninterpreted.
    pub value: Vec<u8>,
}

impl Tlv {
    /// `PP2_TYPE_ALPN`.
    pub const ALPN: u8 = 0x01;
    /// `PP2_TYPE_AUTHORITY`: the host name that the client asked for, as in SNI.
    pub const AUTHORITY: u8 = 0x02;
    /// `PP2_TYPE_CRC32C` over the whole header; verified when it is there.
    pub const CRC32C: u8 = 0x03;
    /// `PP2_TYPE_NOOP`: padding.
    pub const NOOP: u8 = 0x04;
    /// `PP2_TYPE_UNIQUE_ID`: at most 128 bytes.
    pub const UNIQUE_ID: u8 = 0x05;
}

/// A whole, valid header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Text or binary.
    pub version: Version,
    /// For a client or for the balancer itself.
    pub command: Command,
    /// The client's addresses.
    pub addresses: Addresses,
    /// Further fields, in order; none in v1, LOCAL and UNSPEC.
    pub tlvs: Vec<Tlv>,
}

/// What [`parse`] made of the bytes so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A header may still come.
    Incomplete {
        /// Call again with at least this many bytes in all. No header ends before, so that
        /// reading up to here never takes a byte of what follows the header.
        need: usize,
    },
    /// A header.
    Complete {
        /// What it says.
        header: Header,
        /// How many bytes it took; what follows belongs to the client.
        len: usize,
    },
}

/// Why bytes are no PROXY header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The first bytes fit neither version.
    #[error("no PROXY header: expected \"PROXY \" or the 12 byte signature of version 2")]
    NotProxy,
    /// A v1 line without its end.
    #[error("PROXY v1 line does not end with CR LF within {V1_MAX_LEN} bytes")]
    UnterminatedLine,
    /// A v1 line of another shape.
    #[error(
        "PROXY v1 line is malformed at its {field}: expected \"PROXY TCP4|TCP6 SOURCE DESTINATION \
         SOURCE-PORT DESTINATION-PORT\" with single spaces, or \"PROXY UNKNOWN\""
    )]
    Line {
        /// What was being read.
        field: &'static str,
    },
    /// The version nibble isn't 2.
    #[error("PROXY v2 header has version {0}, expected 2")]
    Version(u8),
    /// The command nibble is unknown.
    #[error("PROXY v2 header has command {0}, expected 0 (LOCAL) or 1 (PROXY)")]
    Command(u8),
    /// The family and transport byte is unknown.
    #[error("PROXY v2 header has family and transport {0:#04x}, expected 0x00, 0x11, 0x21 or 0x31")]
    Family(u8),
    /// The addresses are of no stream, and this is one.
    #[error(
        "PROXY v2 header has family and transport {0:#04x}, of datagrams (UDP): expected 0x11 or 0x21, of TCP"
    )]
    Datagram(u8),
    /// Longer than we read.
    #[error("PROXY v2 header takes {0} bytes, expected at most {V2_MAX_LEN}")]
    TooLong(usize),
    /// The length does not hold the family's addresses.
    #[error("PROXY v2 header announces {actual} bytes of addresses, expected at least {expected}")]
    AddressesShort {
        /// By the family.
        expected: usize,
        /// As announced.
        actual: usize,
    },
    /// A TLV runs past the end of the header.
    #[error("PROXY v2 TLV at offset {0} runs past the end of the header")]
    TlvOverrun(usize),
    /// A TLV that must stand once stands twice.
    #[error("PROXY v2 TLV {0:#04x} stands more than once")]
    TlvRepeated(u8),
    /// A TLV has a length that its type does not allow.
    #[error("PROXY v2 TLV {kind:#04x} has {actual} bytes, expected {expected}")]
    TlvLength {
        /// `PP2_TYPE_*`.
        kind: u8,
        /// Found.
        actual: usize,
        /// In words.
        expected: &'static str,
    },
    /// The checksum does not fit.
    #[error("PROXY v2 checksum is {stated:08x}, expected {computed:08x}: the header was altered")]
    Checksum {
        /// In the header.
        stated: u32,
        /// Over its bytes.
        computed: u32,
    },
}

/// Whether these first bytes of a connection begin, or are the beginning of, a PROXY header. A TLS
/// record starts with 0x16, so one byte is enough to tell the two apart; an empty slice is `false`.
#[must_use]
pub fn looks_like_proxy(first: &[u8]) -> bool {
    !first.is_empty() && (begins(first, v1::PREFIX) || begins(first, &v2::SIGNATURE))
}

/// Whether these bytes are the beginning of a header, and of something else as well: what comes next
/// says which. `P` begins POST too.
#[must_use]
pub fn may_become_proxy(first: &[u8]) -> bool {
    let begun = |with: &[u8]| first.len() < with.len() && begins(first, with);
    !first.is_empty() && (begun(v1::PREFIX) || begun(&v2::SIGNATURE))
}

/// Reads a header from the front of `bytes`.
///
/// # Errors
/// The bytes can't become a header whatever follows; nothing but closing is right then.
pub fn parse(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    match bytes.first() {
        // Neither version ends before the shorter of both minima.
        None => Ok(Parsed::Incomplete {
            need: v1::MIN_LEN.min(v2::MIN_LEN),
        }),
        Some(b'P') if begins(bytes, v1::PREFIX) => v1::parse(bytes),
        Some(_) if begins(bytes, &v2::SIGNATURE) => v2::parse(bytes),
        Some(_) => Err(ProxyError::NotProxy),
    }
}

impl Header {
    /// The balancer looked whether the port answers: LOCAL, or no address is given.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.command == Command::Local || self.addresses == Addresses::Unspec
    }

    /// The client's address, when it is an IP address.
    #[must_use]
    pub const fn source(&self) -> Option<SocketAddr> {
        match &self.addresses {
            Addresses::Inet { source, .. } => Some(*source),
            Addresses::Unspec | Addresses::Unix { .. } => None,
        }
    }

    /// The address that the client dialled, when it is an IP address.
    #[must_use]
    pub const fn destination(&self) -> Option<SocketAddr> {
        match &self.addresses {
            Addresses::Inet { destination, .. } => Some(*destination),
            Addresses::Unspec | Addresses::Unix { .. } => None,
        }
    }

    /// The value of the first TLV of a type.
    #[must_use]
    pub fn tlv(&self, kind: u8) -> Option<&[u8]> {
        self.tlvs
            .iter()
            .find(|tlv| tlv.kind == kind)
            .map(|tlv| tlv.value.as_slice())
    }
}

fn begins(bytes: &[u8], with: &[u8]) -> bool {
    bytes.iter().zip(with).all(|(a, b)| a == b)
}

/// Both addresses in one family: a mixed pair is written as IPv6 with the IPv4 one mapped.
enum Pair {
    V4(std::net::SocketAddrV4, std::net::SocketAddrV4),
    V6(std::net::SocketAddrV6, std::net::SocketAddrV6),
}

fn pair(source: SocketAddr, destination: SocketAddr) -> Pair {
    use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddrV6::new(ip.to_ipv6_mapped(), address.port(), 0, 0),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, address.port(), 0, 0),
    };
    match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Pair::V4(
            SocketAddrV4::new(from, source.port()),
            SocketAddrV4::new(to, destination.port()),
        ),
        _ => Pair::V6(mapped(source), mapped(destination)),
    }
}
