//! Signatures of requests (RFC 9421): nothing that was not signed verifies, the signature base has
//! one line for each component, and what is read is written in one way.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use portcullis::{
    identity::UnixSeconds,
    wire::signature::{
        Component, Demand, Message, SIGNATURE, SIGNATURE_INPUT, Signer, SigningKey, base,
        content_digest::Expected, structured, verify,
    },
};

fn message<'a>(headers: &'a HeaderMap, path: &'a str, query: &'a str) -> Message<'a> {
    Message {
        method: "POST",
        scheme: "https",
        authority: "example.org",
        path,
        query: Some(query),
        headers,
    }
}

// Lines: Signature-Input, Signature, path, query, component names, then fields `name:value`.
fuzz_target!(|text: &[u8]| {
    let mut lines = text.split(|byte| *byte == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let (input, signature, path, query, names) = (next(), next(), next(), next(), next());
    let (Ok(path), Ok(query), Ok(names)) = (
        std::str::from_utf8(path),
        std::str::from_utf8(query),
        std::str::from_utf8(names),
    ) else {
        return;
    };
    let mut headers = HeaderMap::new();
    for line in lines.take(16) {
        let at = line
            .iter()
            .position(|byte| *byte == b':')
            .unwrap_or(line.len());
        let (name, value) = line.split_at(at);
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name),
            HeaderValue::from_bytes(value.get(1..).unwrap_or_default()),
        ) {
            headers.append(name, value);
        }
    }
    drop(Expected::of(&headers));
    if let Ok(lists) = structured::lists(input) {
        for (label, list) in lists {
            let written = format!("{label}={}", list.write());
            let again = structured::lists(written.as_bytes()).unwrap();
            assert_eq!(again, [(label, list)]);
        }
    }
    let mut components: Vec<Component> = Vec::new();
    for component in names
        .split(' ')
        .take(8)
        .filter_map(|name| Component::parse(name).ok())
    {
        if !components.contains(&component) {
            components.push(component);
        }
    }
    // an HTTP parser lets no control octets into a target
    if [path, query]
        .iter()
        .any(|part| part.bytes().any(|byte| byte.is_ascii_control()))
    {
        return;
    }
    let key = || SigningKey::hmac_sha256(b"0123456789abcdef");
    let demand = Demand {
        keys: vec![("edge".to_owned(), key().verifying())],
        components: components.clone(),
        max_age: 60,
        tag: None,
    };
    let now = UnixSeconds(1_000_000);
    if let (Ok(input), Ok(signature)) = (
        HeaderValue::from_bytes(input),
        HeaderValue::from_bytes(signature),
    ) {
        let mut claimed = headers.clone();
        claimed.insert(SIGNATURE_INPUT, input);
        claimed.insert(SIGNATURE, signature);
        assert!(
            verify(&message(&claimed, path, query), &demand, now).is_err(),
            "nobody signed it"
        );
    }
    let Ok(base) = base(&message(&headers, path, query), &components, "()") else {
        return;
    };
    let lines = base.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(lines, components.len(), "a value began a line of its own");
    let signer = Signer::new("sig1", components, "edge", None, key());
    let signed = signer.sign(&message(&headers, path, query), now).unwrap();
    headers.insert(SIGNATURE_INPUT, signed.input);
    headers.insert(SIGNATURE, signed.signature);
    verify(&message(&headers, path, query), &demand, now).unwrap();
});
