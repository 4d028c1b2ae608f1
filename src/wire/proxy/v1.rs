//! PROXY version 1: one line of text (`proxy-protocol.txt` section 2.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Addresses, Command, Header, Pair, Parsed, ProxyError, Version, pair};

/// The longest line that the specification allows, CR LF included.
pub const MAX_LEN: usize = 107;
/// `PROXY UNKNOWN` CR LF.
pub(super) const MIN_LEN: usize = 15;
pub(super) const PREFIX: &[u8] = b"PROXY ";

/// `bytes` begins like [`PREFIX`] as far as it goes.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let within = bytes.get(..MAX_LEN).unwrap_or(bytes);
    // The first LF ends the line, or the line is wrong: neither CR nor LF can stand inside.
    if let Some(end) = within.iter().position(|byte| *byte == b'\n') {
        let line = within
            .get(..end)
            .and_then(|line| line.strip_suffix(b"\r"))
            .ok_or(ProxyError::Line {
                field: "end (LF without CR)",
            })?;
        let header = line_of(line)?;
        return Ok(Parsed::Complete {
            header,
            len: end.saturating_add(1),
        });
    }
    if bytes.len() >= MAX_LEN {
        return Err(ProxyError::UnterminatedLine);
    }
    let missing = if bytes.last() == Some(&b'\r') { 1 } else { 2 };
    let need = bytes.len().saturating_add(missing).clamp(MIN_LEN, MAX_LEN);
    // At 106 bytes without CR the line can't end in time any more, but the next byte says so.
    Ok(Parsed::Incomplete { need })
}

fn line_of(line: &[u8]) -> Result<Header, ProxyError> {
    let bad = |field| ProxyError::Line { field };
    let line = line.strip_prefix(PREFIX).ok_or_else(|| bad("start"))?;
    // After UNKNOWN the receiver must ignore everything up to the end of the line.
    let unknown = line.strip_prefix(b"UNKNOWN");
    if unknown.is_some_and(|rest| rest.is_empty() || rest.starts_with(b" ")) {
        return Ok(header(Addresses::Unspec));
    }
    let text = str::from_utf8(line).map_err(|_not_text| bad("characters"))?;
    let mut words = text.split(' ');
    let mut word = |field| words.next().ok_or_else(|| bad(field));
    let family = word("protocol")?;
    let (from, to) = (word("source address")?, word("destination address")?);
    let (from, to) = match family {
        "TCP4" => (v4(from), v4(to)),
        "TCP6" => (v6(from), v6(to)),
        _ => return Err(bad("protocol")),
    };
    let source = SocketAddr::new(
        from.ok_or_else(|| bad("source address"))?,
        port(word("source port")?).ok_or_else(|| bad("source port"))?,
    );
    let destination = SocketAddr::new(
        to.ok_or_else(|| bad("destination address"))?,
        port(word("destination port")?).ok_or_else(|| bad("destination port"))?,
    );
    if words.next().is_some() {
        return Err(bad("end"));
    }
    Ok(header(Addresses::Inet {
        source,
        destination,
    }))
}

const fn header(addresses: Addresses) -> Header {
    Header {
        version: Version::V1,
        command: Command::Proxy,
        addresses,
        tlvs: Vec::new(),
    }
}

fn v4(text: &str) -> Option<IpAddr> {
    // std refuses leading zeros and fewer than four parts.
    text.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
}

fn v6(text: &str) -> Option<IpAddr> {
    text.parse::<Ipv6Addr>().ok().map(|ip| ip.to_canonical())
}

fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = digits && (text == "0" || !text.starts_with('0'));
    canonical.then(|| text.parse().ok()).flatten()
}

/// Writes a line. A mixed pair of families is written as TCP6 with the IPv4 address mapped.
#[must_use]
pub fn encode(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    match pair(source, destination) {
        Pair::V4(from, to) => {
            format!(
                "PROXY TCP4 {} {} {} {}\r\n",
                from.ip(),
                to.ip(),
                from.port(),
                to.port()
            )
        }
        Pair::V6(from, to) => {
            format!(
                "PROXY TCP6 {} {} {} {}\r\n",
                from.ip(),
                to.ip(),
                from.port(),
                to.port()
            )
        }
    }
    .into_bytes()
}
