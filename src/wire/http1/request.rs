//! A request's head and its body's chunks, as they are written to the next hop (RFC 9112 sections 3
//! and 7.1).

use http::{HeaderMap, HeaderName, Method, Uri, header};

/// How a request's body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// There is none, and nothing is said of it.
    Absent,
    /// So many octets.
    Sized(u64),
    /// In chunks.
    Chunked,
}

/// Writes a request's head. `Host` stands first (RFC 9110 section 7.2); what `coding` says of the
/// body's end is all that is said of it.
pub fn write_head(
    out: &mut Vec<u8>,
    method: &Method,
    target: &Uri,
    headers: &HeaderMap,
    coding: Coding,
) {
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    write_target(out, target);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for value in headers.get_all(header::HOST) {
        write_field(out, &header::HOST, value.as_bytes());
    }
    for (name, value) in headers {
        if *name == header::HOST
            || *name == header::CONTENT_LENGTH
            || *name == header::TRANSFER_ENCODING
        {
            continue;
        }
        write_field(out, name, value.as_bytes());
    }
    match coding {
        Coding::Absent => {}
        Coding::Sized(length) => {
            let mut digits = itoa::Buffer::new();
            let digits = digits.format(length);
            write_field(out, &header::CONTENT_LENGTH, digits.as_bytes());
        }
        Coding::Chunked => write_field(out, &header::TRANSFER_ENCODING, b"chunked"),
    }
    out.extend_from_slice(b"\r\n");
}

/// In the form that it has: origin, absolute, authority or asterisk.
fn write_target(out: &mut Vec<u8>, target: &Uri) {
    if let Some(scheme) = target.scheme() {
        out.extend_from_slice(scheme.as_str().as_bytes());
        out.extend_from_slice(b"://");
    }
    if let Some(authority) = target.authority() {
        out.extend_from_slice(authority.as_str().as_bytes());
    }
    out.extend_from_slice(target.path().as_bytes());
    if let Some(query) = target.query() {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
}

fn write_field(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// What stands between a chunk and the next.
pub const CHUNK_END: &[u8] = b"\r\n";
/// What stands behind the last octets of a body without trailers.
pub const CHUNKS_END: &[u8] = b"\r\n0\r\n\r\n";
/// The end of a body whose last chunk has passed.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Begins a chunk. One of no octets would be the last: it is not to be begun.
pub fn write_chunk_size(out: &mut Vec<u8>, size: usize) {
    let mut digits = [0; 16];
    let mut left = size;
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = *HEX.get(left & 0xf).unwrap_or(&b'0');
        used += 1;
        left >>= 4;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
    out.extend_from_slice(b"\r\n");
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// The last chunk and the trailers that the head announced (RFC 9110 section 6.6.2).
pub fn write_trailers(out: &mut Vec<u8>, trailers: &HeaderMap, announced: &[HeaderName]) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        if announced.contains(name) {
            write_field(out, name, value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// The names that a head announces in `Trailer`.
#[must_use]
pub fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(header::TRAILER)
        .iter()
        .flat_map(|list| list.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect()
}
