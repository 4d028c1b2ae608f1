//! PROXY version 2: binary (`proxy-protocol.txt` section 2.2).

use std::net::{IpAddr, SocketAddr};

use super::{Addresses, Command, Header, Pair, Parsed, ProxyError, Tlv, Version, pair};
use crate::wire::cursor::Cursor;

/// The longest header that we read: addresses, a client certificate's facts and some room.
pub const MAX_LEN: usize = 4096;
/// The longest `PP2_TYPE_UNIQUE_ID`.
pub const MAX_UNIQUE_ID: usize = 128;
/// Signature, version and command, family, length.
pub(super) const MIN_LEN: usize = 16;
pub(super) const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Room for the longest Unix socket path.
const UNIX_LEN: usize = 108;

/// `bytes` begins like [`SIGNATURE`] as far as it goes.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let mut cursor = Cursor::new(bytes);
    let start = Parsed::Incomplete { need: MIN_LEN };
    let Some(_) = cursor.take(SIGNATURE.len()) else {
        return Ok(start);
    };
    let Some(version_command) = cursor.u8() else {
        return Ok(start);
    };
    if version_command >> 4 != 2 {
        return Err(ProxyError::Version(version_command >> 4));
    }
    let command = match version_command & 0x0f {
        0 => Command::Local,
        1 => Command::Proxy,
        other => return Err(ProxyError::Command(other)),
    };
    let Some(family) = cursor.u8() else {
        return Ok(start);
    };
    let address_len = match family {
        // The family of a LOCAL header must be ignored.
        _ if command == Command::Local => 0,
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 2 * UNIX_LEN,
        other @ (0x12 | 0x22 | 0x32) => return Err(ProxyError::Datagram(other)),
        other => return Err(ProxyError::Family(other)),
    };
    let Some(length) = cursor.u16() else {
        return Ok(start);
    };
    let len = MIN_LEN.saturating_add(usize::from(length));
    if len > MAX_LEN {
        return Err(ProxyError::TooLong(len));
    }
    if usize::from(length) < address_len {
        return Err(ProxyError::AddressesShort {
            expected: address_len,
            actual: length.into(),
        });
    }
    let Some(whole) = bytes.get(..len) else {
        return Ok(Parsed::Incomplete { need: len });
    };
    let mut header = Header {
        version: Version::V2,
        command,
        addresses: Addresses::Unspec,
        tlvs: Vec::new(),
    };
    // LOCAL and UNSPEC say nothing that could be believed: their content is skipped unread.
    if address_len != 0 {
        let mut body = Cursor::new(whole.get(MIN_LEN..).unwrap_or_default());
        let short = ProxyError::AddressesShort {
            expected: address_len,
            actual: length.into(),
        };
        header.addresses = addresses(&mut body, address_len).ok_or(short)?;
        header.tlvs = tlvs(whole, body)?;
    }
    Ok(Parsed::Complete { header, len })
}

fn addresses(body: &mut Cursor<'_>, len: usize) -> Option<Addresses> {
    let (from, to): (IpAddr, IpAddr) = match len {
        12 => (body.ipv4()?, body.ipv4()?),
        36 => (body.ipv6()?, body.ipv6()?),
        _ => {
            let source = path(body.take(UNIX_LEN)?);
            return Some(Addresses::Unix {
                source,
                destination: path(body.take(UNIX_LEN)?),
            });
        }
    };
    Some(Addresses::Inet {
        source: SocketAddr::new(from, body.u16()?),
        destination: SocketAddr::new(to, body.u16()?),
    })
}

/// Abstract sockets begin with a zero byte, so only the padding at the end goes.
fn path(field: &[u8]) -> Vec<u8> {
    let len = field
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last.saturating_add(1));
    field.get(..len).unwrap_or_default().to_vec()
}

fn tlvs(whole: &[u8], mut body: Cursor<'_>) -> Result<Vec<Tlv>, ProxyError> {
    let mut found: Vec<Tlv> = Vec::new();
    while !body.is_empty() {
        let offset = whole.len().saturating_sub(body.rest().len());
        let (kind, value) = body.tlv().ok_or(ProxyError::TlvOverrun(offset))?;
        // Two answers to one question: which of them the next reader takes is anybody's guess.
        let single = matches!(
            kind,
            Tlv::AUTHORITY | Tlv::CRC32C | Tlv::UNIQUE_ID | Tlv::ALPN
        );
        if single && found.iter().any(|tlv| tlv.kind == kind) {
            return Err(ProxyError::TlvRepeated(kind));
        }
        if kind == Tlv::UNIQUE_ID && value.len() > MAX_UNIQUE_ID {
            let (actual, expected) = (value.len(), "at most 128");
            return Err(ProxyError::TlvLength {
                kind,
                actual,
                expected,
            });
        }
        if kind == Tlv::CRC32C {
            let stated: [u8; 4] = value
                .try_into()
                .map_err(|_not_four| ProxyError::TlvLength {
                    kind,
                    actual: value.len(),
                    expected: "4",
                })?;
            let (stated, at) = (u32::from_be_bytes(stated), offset.saturating_add(3));
            let computed = crc32c_without(whole, at);
            if stated != computed {
                return Err(ProxyError::Checksum { stated, computed });
            }
        }
        found.push(Tlv {
            kind,
            value: value.to_vec(),
        });
    }
    Ok(found)
}

/// CRC32c (RFC 3720 appendix B.4) of a header whose four bytes at `at` count as zero.
pub(super) fn crc32c_without(header: &[u8], at: usize) -> u32 {
    let blank = at..at.saturating_add(4);
    !header
        .iter()
        .enumerate()
        .fold(u32::MAX, |crc, (index, byte)| {
            let byte = if blank.contains(&index) { 0 } else { *byte };
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                // Castagnoli, reflected. Bit by bit: a header is short and comes once a connection.
                if crc & 1 == 1 {
                    (crc >> 1) ^ 0x82f6_3b78
                } else {
                    crc >> 1
                }
            })
        })
}

/// What to tell beyond the addresses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras<'a> {
    /// `PP2_TYPE_UNIQUE_ID`: at most [`MAX_UNIQUE_ID`] bytes; a longer one is cut.
    pub unique_id: Option<&'a [u8]>,
    /// `PP2_TYPE_AUTHORITY`: the host name that the client asked for; left out over 255 bytes.
    pub authority: Option<&'a str>,
}

/// Writes a PROXY header for a stream. A mixed pair of families is written as IPv6 with the IPv4
/// address mapped.
#[must_use]
pub fn encode(source: SocketAddr, destination: SocketAddr, extras: Extras<'_>) -> Vec<u8> {
    let mut body = Vec::with_capacity(64);
    let family = match pair(source, destination) {
        Pair::V4(from, to) => {
            body.extend(from.ip().octets());
            body.extend(to.ip().octets());
            0x11
        }
        Pair::V6(from, to) => {
            body.extend(from.ip().octets());
            body.extend(to.ip().octets());
            0x21
        }
    };
    body.extend(source.port().to_be_bytes());
    body.extend(destination.port().to_be_bytes());
    let authority = extras
        .authority
        .map(str::as_bytes)
        .filter(|name| name.len() <= 255);
    let unique_id = extras
        .unique_id
        .map(|id| id.get(..MAX_UNIQUE_ID).unwrap_or(id));
    for (kind, value) in [(Tlv::AUTHORITY, authority), (Tlv::UNIQUE_ID, unique_id)] {
        if let Some(value) = value {
            body.push(kind);
            // Both are below 256 bytes: see the bounds above.
            body.extend(u16::try_from(value.len()).unwrap_or_default().to_be_bytes());
            body.extend(value);
        }
    }
    let mut header = SIGNATURE.to_vec();
    header.extend([0x21, family]);
    // 36 + 2 * 3 + 255 + 128 at most.
    header.extend(u16::try_from(body.len()).unwrap_or_default().to_be_bytes());
    header.extend(body);
    header
}
