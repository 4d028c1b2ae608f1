//! Field names, without an allocation for those that pass all the time.

use http::{HeaderName, header::InvalidHeaderName};

/// What `http` has no number for, and would allocate for in each message.
static COMMON: [HeaderName; 26] = [
    HeaderName::from_static("baggage"),
    HeaderName::from_static("client-cert"),
    HeaderName::from_static("client-cert-chain"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("priority"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("sec-ch-ua"),
    HeaderName::from_static("sec-ch-ua-mobile"),
    HeaderName::from_static("sec-ch-ua-platform"),
    HeaderName::from_static("sec-fetch-dest"),
    HeaderName::from_static("sec-fetch-mode"),
    HeaderName::from_static("sec-fetch-site"),
    HeaderName::from_static("sec-fetch-user"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-forwarded-client-cert"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-requested-with"),
];

/// A field's name in any letter case, as lower case.
///
/// # Errors
/// It is no token (RFC 9110 section 5.1).
pub fn name(bytes: &[u8]) -> Result<HeaderName, InvalidHeaderName> {
    let same = |known: &&HeaderName| {
        let known = known.as_str().as_bytes();
        known.len() == bytes.len() && known.eq_ignore_ascii_case(bytes)
    };
    match COMMON.iter().find(same) {
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
    fn what_is_no_token_is_no_name() {
        for bytes in [b"".as_slice(), b"a b", b"a:b", b"a\0", b"\xc3\xa4"] {
            assert!(name(bytes).is_err(), "{bytes:?}");
        }
    }
}
