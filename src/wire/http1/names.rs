//! Field names, without an allocation for those that pass all the time.

use std::ops::Range;

use http::{HeaderName, header::InvalidHeaderName};

/// What `http` has no number for, and would allocate for in each message; by length.
static COMMON: [HeaderName; 26] = [
    HeaderName::from_static("baggage"),
    HeaderName::from_static("priority"),
    HeaderName::from_static("sec-ch-ua"),
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("client-cert"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("sec-fetch-dest"),
    HeaderName::from_static("sec-fetch-mode"),
    HeaderName::from_static("sec-fetch-site"),
    HeaderName::from_static("sec-fetch-user"),
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("sec-ch-ua-mobile"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-requested-with"),
    HeaderName::from_static("client-cert-chain"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("sec-ch-ua-platform"),
    HeaderName::from_static("x-forwarded-client-cert"),
];

/// Where in the list those of a length stand: most names have another, and are not compared.
const fn of_length(length: usize) -> Range<usize> {
    match length {
        7 => 0..1,
        8 => 1..2,
        9 => 2..5,
        10 => 5..7,
        11 => 7..9,
        12 => 9..10,
        14 => 10..15,
        15 => 15..17,
        16 => 17..22,
        17 => 22..24,
        18 => 24..25,
        23 => 25..26,
        _ => 0..0,
    }
}

/// A field's name in any letter case, as lower case.
///
/// # Errors
/// It is no token (RFC 9110 section 5.1).
pub fn name(bytes: &[u8]) -> Result<HeaderName, InvalidHeaderName> {
    let known = COMMON.get(of_length(bytes.len())).unwrap_or_default();
    let same = |known: &&HeaderName| {
        let known = known.as_str().as_bytes();
        // most of those who write one in lower case do so always
        known == bytes || known.eq_ignore_ascii_case(bytes)
    };
    match known.iter().find(same) {
        Some(known) => Ok(known.clone()),
        None => HeaderName::from_bytes(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_case_are_what_http_takes_them_for() {
        let spelt = COMMON.iter().map(|known| known.as_str().to_uppercase());
        for text in spelt.chain(["Host", "X-Own", "x_own"].map(str::to_owned)) {
            let expected = HeaderName::from_bytes(text.as_bytes()).unwrap();
            assert_eq!(name(text.as_bytes()).unwrap(), expected);
        }
    }

    #[test]
    fn each_name_stands_among_those_of_its_length() {
        for (place, known) in COMMON.iter().enumerate() {
            assert!(of_length(known.as_str().len()).contains(&place), "{known}");
        }
    }

    #[test]
    fn what_is_no_token_is_no_name() {
        for bytes in [b"".as_slice(), b"a b", b"a:b", b"a\0", b"\xc3\xa4"] {
            assert!(name(bytes).is_err(), "{bytes:?}");
        }
    }
}
