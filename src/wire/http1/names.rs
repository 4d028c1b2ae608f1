//! Field names, without an allocation for those that pass all the time, and without a look at each
//! octet of those that are spelt as they mostly are.

use std::ops::Range;

use http::{HeaderName, header::InvalidHeaderName};

/// A name that passes all the time.
struct Known {
    /// As it is mostly spelt in HTTP/1.1, if not in lower case.
    spelt: &'static str,
    lower: &'static str,
    name: HeaderName,
}

const fn known(spelt: &'static str, lower: &'static str) -> Known {
    let name = HeaderName::from_static(lower);
    Known { spelt, lower, name }
}

impl Known {
    /// Whether it begins with this letter in lower case: most of the others are told by that.
    fn begins(&self, letter: u8) -> bool {
        self.lower.as_bytes().first() == Some(&letter)
    }

    /// Whether it is this name, in any letter case.
    fn is(&self, name: &[u8]) -> bool {
        self.spelt.as_bytes() == name
            || self.lower.as_bytes() == name
            || self.lower.as_bytes().eq_ignore_ascii_case(name)
    }
}

/// By length. Some of them `http` has no number for, and would allocate for in each message.
static COMMON: [Known; 77] = [
    known("TE", "te"),
    known("Via", "via"),
    known("Date", "date"),
    known("ETag", "etag"),
    known("Host", "host"),
    known("Link", "link"),
    known("Vary", "vary"),
    known("Allow", "allow"),
    known("Range", "range"),
    known("Accept", "accept"),
    known("Cookie", "cookie"),
    known("Expect", "expect"),
    known("Origin", "origin"),
    known("Pragma", "pragma"),
    known("Server", "server"),
    known("Alt-Svc", "alt-svc"),
    known("baggage", "baggage"),
    known("Expires", "expires"),
    known("Referer", "referer"),
    known("Trailer", "trailer"),
    known("Upgrade", "upgrade"),
    known("If-Match", "if-match"),
    known("If-Range", "if-range"),
    known("Location", "location"),
    known("priority", "priority"),
    known("Forwarded", "forwarded"),
    known("sec-ch-ua", "sec-ch-ua"),
    known("X-Api-Key", "x-api-key"),
    known("X-Real-Ip", "x-real-ip"),
    known("Connection", "connection"),
    known("Keep-Alive", "keep-alive"),
    known("Set-Cookie", "set-cookie"),
    known("tracestate", "tracestate"),
    known("User-Agent", "user-agent"),
    known("Client-Cert", "client-cert"),
    known("Retry-After", "retry-after"),
    known("traceparent", "traceparent"),
    known("Content-Type", "content-type"),
    known("X-Request-Id", "x-request-id"),
    known("Accept-Ranges", "accept-ranges"),
    known("Authorization", "authorization"),
    known("Cache-Control", "cache-control"),
    known("Content-Range", "content-range"),
    known("If-None-Match", "if-none-match"),
    known("Last-Modified", "last-modified"),
    known("Accept-Charset", "accept-charset"),
    known("Content-Digest", "content-digest"),
    known("Content-Length", "content-length"),
    known("Sec-Fetch-Dest", "sec-fetch-dest"),
    known("Sec-Fetch-Mode", "sec-fetch-mode"),
    known("Sec-Fetch-Site", "sec-fetch-site"),
    known("Sec-Fetch-User", "sec-fetch-user"),
    known("Accept-Encoding", "accept-encoding"),
    known("Accept-Language", "accept-language"),
    known("Idempotency-Key", "idempotency-key"),
    known("Referrer-Policy", "referrer-policy"),
    known("X-Forwarded-For", "x-forwarded-for"),
    known("X-Frame-Options", "x-frame-options"),
    known("Content-Encoding", "content-encoding"),
    known("Proxy-Connection", "proxy-connection"),
    known("sec-ch-ua-mobile", "sec-ch-ua-mobile"),
    known("WWW-Authenticate", "www-authenticate"),
    known("X-Forwarded-Host", "x-forwarded-host"),
    known("X-Forwarded-Port", "x-forwarded-port"),
    known("X-Requested-With", "x-requested-with"),
    known("Client-Cert-Chain", "client-cert-chain"),
    known("If-Modified-Since", "if-modified-since"),
    known("Transfer-Encoding", "transfer-encoding"),
    known("X-Forwarded-Proto", "x-forwarded-proto"),
    known("sec-ch-ua-platform", "sec-ch-ua-platform"),
    known("Content-Disposition", "content-disposition"),
    known("If-Unmodified-Since", "if-unmodified-since"),
    known("X-Content-Type-Options", "x-content-type-options"),
    known("Content-Security-Policy", "content-security-policy"),
    known("X-Forwarded-Client-Cert", "x-forwarded-client-cert"),
    known("Strict-Transport-Security", "strict-transport-security"),
    known("Upgrade-Insecure-Requests", "upgrade-insecure-requests"),
];

/// Where in the list those of a length stand: most names have another, and are not compared.
const fn of_length(length: usize) -> Range<usize> {
    match length {
        2 => 0..1,
        3 => 1..2,
        4 => 2..7,
        5 => 7..9,
        6 => 9..15,
        7 => 15..21,
        8 => 21..25,
        9 => 25..29,
        10 => 29..34,
        11 => 34..37,
        12 => 37..39,
        13 => 39..45,
        14 => 45..52,
        15 => 52..58,
        16 => 58..65,
        17 => 65..69,
        18 => 69..70,
        19 => 70..72,
        22 => 72..73,
        23 => 73..75,
        25 => 75..77,
        _ => 0..0,
    }
}

/// A field's name in any letter case, as lower case.
///
/// # Errors
/// It is no token (RFC 9110 section 5.1).
pub fn name(bytes: &[u8]) -> Result<HeaderName, InvalidHeaderName> {
    let alike = COMMON.get(of_length(bytes.len())).unwrap_or_default();
    let first = bytes.first().map_or(0, u8::to_ascii_lowercase);
    let mut alike = alike.iter().filter(|known| known.begins(first));
    match alike.find(|known| known.is(bytes)) {
        Some(known) => Ok(known.name.clone()),
        None => HeaderName::from_bytes(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_case_are_what_http_takes_them_for() {
        let upper = COMMON.iter().map(|known| known.lower.to_uppercase());
        let spelt = COMMON.iter().map(|known| known.spelt.to_owned());
        let lower = COMMON.iter().map(|known| known.lower.to_owned());
        let others = ["Host", "X-Own", "x_own"].map(str::to_owned);
        for text in upper.chain(spelt).chain(lower).chain(others) {
            let expected = HeaderName::from_bytes(text.as_bytes()).unwrap();
            assert_eq!(name(text.as_bytes()).unwrap(), expected);
        }
    }

    #[test]
    fn each_name_stands_among_those_of_its_length() {
        for (place, known) in COMMON.iter().enumerate() {
            let lower = known.lower;
            assert!(of_length(lower.len()).contains(&place), "{lower}");
            assert_eq!(known.name, lower);
            assert!(known.spelt.eq_ignore_ascii_case(lower), "{lower}");
        }
    }

    #[test]
    fn what_is_no_token_is_no_name() {
        for bytes in [b"".as_slice(), b"a b", b"a:b", b"a\0", b"\xc3\xa4"] {
            assert!(name(bytes).is_err(), "{bytes:?}");
        }
    }
}
