//! What requests and answers write alike: field lines, and what stands round chunks (RFC 9112
//! section 7.1).

use http::{HeaderMap, HeaderName, header};

use super::names;

/// What stands between a chunk and the next.
pub const CHUNK_END: &[u8] = b"\r\n";
/// What stands behind the last octets of a body without trailers.
pub const CHUNKS_END: &[u8] = b"\r\n0\r\n\r\n";
/// The end of a body whose last chunk has passed.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

const HEX: &[u8; 16] = b"0123456789abcdef";

/// One field line.
pub(super) fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

pub(super) fn content_length(out: &mut Vec<u8>, length: u64) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(length);
    field(out, header::CONTENT_LENGTH.as_str(), digits.as_bytes());
}

/// Begins a chunk. One of no octets would be the last: it is not to be begun.
pub fn chunk_size(out: &mut Vec<u8>, size: usize) {
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

/// The last chunk and the trailers that the head announced (RFC 9110 section 6.6.2), where they
/// may pass.
pub fn last_chunk(
    out: &mut Vec<u8>,
    announced: &[HeaderName],
    trailers: Option<&HeaderMap>,
    may_pass: impl Fn(&HeaderName) -> bool,
) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        if announced.contains(name) && may_pass(name) {
            field(out, name.as_str(), value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// The names in a line of `Trailer`.
pub(super) fn announced(list: &[u8]) -> impl Iterator<Item = HeaderName> {
    list.split(|byte| *byte == b',')
        .filter_map(|name| names::name(name.trim_ascii()).ok())
}
