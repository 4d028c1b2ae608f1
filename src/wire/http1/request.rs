//! A request's head, as it is written to the next hop (RFC 9112 section 3).

use http::{HeaderMap, HeaderName, Method, Uri, header};

use super::write::{self, content_length, field};

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
        field(out, header::HOST.as_str(), value.as_bytes());
    }
    for (name, value) in headers {
        if *name == header::HOST
            || *name == header::CONTENT_LENGTH
            || *name == header::TRANSFER_ENCODING
        {
            continue;
        }
        field(out, name.as_str(), value.as_bytes());
    }
    match coding {
        Coding::Absent => {}
        Coding::Sized(length) => content_length(out, length),
        Coding::Chunked => field(out, header::TRANSFER_ENCODING.as_str(), b"chunked"),
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

/// The names that a head announces in `Trailer`.
#[must_use]
pub fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(header::TRAILER)
        .iter()
        .flat_map(|list| write::announced(list.as_bytes()))
        .collect()
}
