//! Headers on their way through an acceptor, and what is taken out where we set a field ourselves:
//! one `name: value` a line. Nothing that we say may stand twice, or in another spelling.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use portcullis::wire::forwarded::{
    Hop, Scheme, Stamp, is_hop_by_hop, is_override, is_same_to_backends, prepare_behind_gateway,
    remove_all_spellings, remove_merged, remove_spellings_but, strip_hop_by_hop,
    strip_request_trailers,
};

fn parse(bytes: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(64) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = HeaderName::from_bytes(parts.next().unwrap_or_default());
        let value = HeaderValue::from_bytes(parts.next().unwrap_or_default());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

fuzz_target!(|bytes: &[u8]| {
    let came = parse(bytes);
    let hop = Hop {
        client: [192, 0, 2, 1].into(),
        by: Some([192, 0, 2, 2].into()),
        scheme: Scheme::Https,
        host: "a.example",
    };
    let stamp = Stamp::new(&hop);
    for ours in [true, false] {
        let mut headers = came.clone();
        prepare_behind_gateway(&mut headers, &stamp, ours);
        let one = |name: &str| headers.get_all(name).iter().count() == 1;
        assert!(one("forwarded") && one("x-forwarded-for") && one("x-forwarded-proto"));
        let addresses = headers["x-forwarded-for"].as_bytes();
        assert!(addresses.ends_with(b"192.0.2.1"));
        let written = [
            "forwarded",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
        ];
        for name in headers.keys() {
            // what ends at this hop has ended; an upgrade is put back by whoever grants it
            assert!(!is_hop_by_hop(name) || name == "te", "{name}");
            assert!(ours || !is_override(name), "{name}");
            let exact = written.contains(&name.as_str());
            let alike = written
                .iter()
                .any(|own| is_same_to_backends(&HeaderName::from_static(own), name));
            assert!(exact || !alike, "{name}");
        }
        // nothing left to strip
        let mut again = headers.clone();
        strip_hop_by_hop(&mut again);
        assert_eq!(again, headers);
    }

    let names = ["x-backend-secret", "x_backend", "client-cert"].map(HeaderName::from_static);
    let mut headers = came.clone();
    remove_all_spellings(&mut headers, &names);
    for name in headers.keys() {
        assert!(
            !names.iter().any(|own| is_same_to_backends(own, name)),
            "{name}"
        );
    }
    let kept = &names[..1];
    let mut headers = came.clone();
    remove_spellings_but(&mut headers, &names, kept);
    for name in headers.keys() {
        let alike = names.iter().any(|own| is_same_to_backends(own, name));
        assert!(!alike || kept.contains(name), "{name}");
    }
    assert_eq!(headers.get(&kept[0]), came.get(&kept[0]));
    let mut headers = came.clone();
    remove_merged(&mut headers, &["x-backend-secret"]);
    assert!(!headers.contains_key("x_backend-secret") && !headers.contains_key("x_backend_secret"));
    let mut trailers = came;
    strip_request_trailers(&mut trailers);
    for name in trailers.keys() {
        assert!(!is_hop_by_hop(name) && !is_override(name), "{name}");
    }
});
