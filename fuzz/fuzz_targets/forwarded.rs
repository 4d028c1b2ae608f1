//! A request's headers, host and path, one `name: value` a line after the target line: whatever
//! comes in, what goes out says only what we know.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version, uri::Scheme as UriScheme};
use libfuzzer_sys::fuzz_target;
use portcullis::wire::{
    forwarded::{
        Hop, Scheme, Stamp, Trust, prepare_request, requested_upgrade, strip_request_trailers,
    },
    host::{Authority, effective_host},
    path::{self, PathPrefix},
};

fuzz_target!(|bytes: &[u8]| {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let target = lines.next().unwrap_or_default();
    let mut headers = HeaderMap::new();
    for line in lines.take(64) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = parts.next().unwrap_or_default();
        let value = parts.next().unwrap_or_default();
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    if let Ok(uri) = Uri::try_from(target) {
        let found = effective_host(Version::HTTP_11, &uri, &headers, &UriScheme::HTTPS);
        if let Ok(Some(host)) = found {
            assert_eq!(Authority::parse(&host.to_string()), Ok(host));
        }
    }
    if let Ok(text) = std::str::from_utf8(target) {
        let checked = path::check(text);
        if checked.is_ok() && text != "*" {
            let prefix = PathPrefix::parse(text).expect("what passes is a prefix");
            assert!(prefix.matches(text));
        }
    }
    let _upgrade = requested_upgrade(&headers);
    let hop = Hop {
        client: [192, 0, 2, 1].into(),
        by: None,
        scheme: Scheme::Https,
        host: "a.example",
    };
    let mut trusted = headers.clone();
    prepare_request(&mut trusted, &Stamp::new(&hop), Trust::TrustedProxy);
    assert!(
        trusted["x-forwarded-for"]
            .as_bytes()
            .ends_with(b"192.0.2.1")
    );
    prepare_request(&mut headers, &Stamp::new(&hop), Trust::Untrusted);
    assert_eq!(headers["x-forwarded-for"], "192.0.2.1");
    assert_eq!(headers["x-forwarded-host"], "a.example");
    assert_eq!(headers["x-forwarded-proto"], "https");
    assert_eq!(
        headers["forwarded"],
        "for=192.0.2.1;host=a.example;proto=https"
    );
    assert!(!headers.contains_key("connection"));
    for name in headers.keys() {
        let folded = name.as_str().replace('_', "-");
        let set = matches!(
            name.as_str(),
            "x-forwarded-for" | "x-forwarded-host" | "x-forwarded-proto" | "forwarded"
        );
        assert!(set || !folded.starts_with("x-forwarded"), "{name}");
    }
    strip_request_trailers(&mut headers);
    assert!(!headers.contains_key("forwarded"));
});
