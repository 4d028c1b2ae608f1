//! The header that hands a verified peer's certificate on: Envoy's X-Forwarded-Client-Cert, and
//! Client-Cert with Client-Cert-Chain of RFC 9440. Every text in it was chosen by whoever wrote
//! the certificate, so nothing goes out that could end a quoted string or a header line.

use std::fmt::Write as _;

use http::{HeaderName, HeaderValue};

use super::base64;
use crate::identity::CertFacts;

#[cfg(test)]
mod tests;

/// Envoy's header.
pub const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// RFC 9440 section 2.2.
pub const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
/// RFC 9440 section 2.3.
pub const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");

/// One element of X-Forwarded-Client-Cert: `By` (our own URI, where we have one), `Hash` of the
/// certificate, `Subject`, and each URI and DNS name. `earlier` is what an admitted gateway sent
/// for its own caller, and stands before.
#[must_use]
pub fn xfcc(peer: &CertFacts, by: Option<&str>, earlier: Option<&HeaderValue>) -> HeaderValue {
    let mut text = String::new();
    // Writing to a String can't fail.
    if let Some(by) = by {
        let _infallible = write!(text, "By={};", value(by));
    }
    let _infallible = write!(
        text,
        "Hash={};Subject=\"{}\"",
        peer.fingerprint,
        subject(&peer.subject)
    );
    for (key, names) in [("URI", &peer.uris), ("DNS", &peer.dns)] {
        for name in names {
            let _infallible = write!(text, ";{key}={}", value(name));
        }
    }
    let ours = visible(text);
    match earlier.filter(|value| !value.as_bytes().trim_ascii().is_empty()) {
        Some(earlier) => {
            let joined = [earlier.as_bytes(), b",", ours.as_bytes()].concat();
            // Two header values and a comma are one; else only our own word is kept.
            HeaderValue::from_bytes(&joined).unwrap_or(ours)
        }
        None => ours,
    }
}

/// `Client-Cert`: the leaf as a byte sequence of structured fields (RFC 9440 section 2.1).
#[must_use]
pub fn client_cert(leaf: &[u8]) -> HeaderValue {
    visible(byte_sequence(leaf))
}

/// `Client-Cert-Chain`: the certificates after the leaf, in order, without the anchor. `None` for
/// an empty chain, for which the header is not sent.
#[must_use]
pub fn client_cert_chain<'a>(chain: impl IntoIterator<Item = &'a [u8]>) -> Option<HeaderValue> {
    let list: Vec<String> = chain.into_iter().map(byte_sequence).collect();
    (!list.is_empty()).then(|| visible(list.join(", ")))
}

#[expect(
    clippy::expect_used,
    reason = "every writer in this file gives printable ASCII only"
)]
fn visible(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("printable ASCII is a header value")
}

/// A subject for the inside of double quotes. The quote, the backslash and whatever is not
/// printable ASCII become RFC 4514 hex pairs: readers that know `\"` and readers that do not then
/// agree on where the string ends.
fn subject(text: &str) -> String {
    escape(text, '\\', |byte| {
        matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')
    })
}

/// A URI or DNS name: percent-encoded where it is not printable, quoted where it has a delimiter.
fn value(text: &str) -> String {
    let plain = escape(text, '%', |byte| {
        byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\')
    });
    if plain.contains([',', ';', '=']) {
        format!("\"{plain}\"")
    } else {
        plain
    }
}

fn escape(text: &str, mark: char, plain: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            let _infallible = write!(out, "{mark}{byte:02X}");
        }
    }
    out
}

/// RFC 8941 section 3.3.5: base64 with padding, between colons.
fn byte_sequence(bytes: &[u8]) -> String {
    [":", &base64::encode(bytes), ":"].concat()
}
