//! RFC 9421 appendix B, and what must not verify.

use proptest::prelude::*;

use super::*;
use crate::wire::base64;

const ED25519_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=\n\
    -----END PUBLIC KEY-----\n";
const ED25519_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF\n\
    -----END PRIVATE KEY-----\n";
const SHARED: &str =
    "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==";
const DIGEST: &str = "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:";

/// When the vectors were made.
const THEN: UnixSeconds = UnixSeconds(1_618_884_473);

fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in list {
        headers.append(*name, HeaderValue::try_from(*value).unwrap());
    }
    headers
}

/// The request of appendix B.2.
fn request() -> HeaderMap {
    headers(&[
        ("host", "example.com"),
        ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
        ("content-type", "application/json"),
        ("content-digest", DIGEST),
        ("content-length", "18"),
    ])
}

fn message(headers: &HeaderMap) -> Message<'_> {
    Message {
        method: "POST",
        scheme: "https",
        authority: "example.com",
        path: "/foo",
        query: Some("param=Value&Pet=dog"),
        headers,
    }
}

fn shared() -> Vec<u8> {
    base64::decode(SHARED.as_bytes()).unwrap()
}

fn demand() -> Demand {
    Demand {
        keys: vec![
            (
                "test-key-ed25519".into(),
                VerifyingKey::ed25519(ED25519_PUBLIC.as_bytes()).unwrap(),
            ),
            (
                "test-shared-secret".into(),
                VerifyingKey::hmac_sha256(&shared()),
            ),
        ],
        components: vec![Component::Authority],
        max_age: 300,
        tag: None,
    }
}

fn base_of(input: &str) -> String {
    let headers = request();
    let list = structured::lists(format!("sig={input}").as_bytes()).unwrap();
    let list = &list[0].1;
    assert_eq!(list.write(), input, "read and written alike");
    let components = component::covered(list).unwrap();
    let base = base(&message(&headers), &components, input).unwrap();
    String::from_utf8(base).unwrap()
}

#[test]
fn appendix_b_2_1_minimal() {
    let input = "();created=1618884473;keyid=\"test-key-rsa-pss\";nonce=\"b3k2pp5k7z-50gnwp.yemd\"";
    assert_eq!(base_of(input), format!("\"@signature-params\": {input}"));
}

#[test]
fn appendix_b_2_2_selective() {
    let input = "(\"@authority\" \"content-digest\" \"@query-param\";name=\"Pet\");created=1618884473;keyid=\"test-key-rsa-pss\";tag=\"header-example\"";
    assert_eq!(
        base_of(input),
        format!(
            "\"@authority\": example.com\n\"content-digest\": {DIGEST}\n\
             \"@query-param\";name=\"Pet\": dog\n\"@signature-params\": {input}"
        )
    );
}

#[test]
fn appendix_b_2_3_full() {
    let input = "(\"date\" \"@method\" \"@path\" \"@query\" \"@authority\" \"content-type\" \"content-digest\" \"content-length\");created=1618884473;keyid=\"test-key-rsa-pss\"";
    assert_eq!(
        base_of(input),
        format!(
            "\"date\": Tue, 20 Apr 2021 02:07:55 GMT\n\"@method\": POST\n\"@path\": /foo\n\
             \"@query\": ?param=Value&Pet=dog\n\"@authority\": example.com\n\
             \"content-type\": application/json\n\"content-digest\": {DIGEST}\n\
             \"content-length\": 18\n\"@signature-params\": {input}"
        )
    );
}

/// Signatures of appendix B that can be made again: each input and signature.
const MADE: [(&str, &str, &str); 2] = [
    (
        "sig-b25",
        "(\"date\" \"@authority\" \"content-type\");created=1618884473;keyid=\"test-shared-secret\"",
        "pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=",
    ),
    (
        "sig-b26",
        "(\"date\" \"@method\" \"@path\" \"@authority\" \"content-type\" \"content-length\");created=1618884473;keyid=\"test-key-ed25519\"",
        "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==",
    ),
];

fn made(at: usize) -> HeaderMap {
    let (label, input, signature) = MADE[at];
    let mut headers = request();
    let field = |value: String| HeaderValue::try_from(value).unwrap();
    headers.insert(SIGNATURE_INPUT, field(format!("{label}={input}")));
    headers.insert(SIGNATURE, field(format!("{label}=:{signature}:")));
    headers
}

#[test]
fn appendix_b_2_5_and_b_2_6_are_verified() {
    for (at, key) in [(0, 1), (1, 0)] {
        let headers = made(at);
        let verified = verify(&message(&headers), &demand(), THEN).unwrap();
        assert_eq!(verified.key, key);
        assert!(!verified.covers_body());
    }
}

#[test]
fn appendix_b_2_5_and_b_2_6_are_made_again() {
    let keys = [
        SigningKey::hmac_sha256(&shared()),
        SigningKey::ed25519(ED25519_PRIVATE.as_bytes()).unwrap(),
    ];
    for ((_, input, signature), key) in MADE.iter().zip(keys) {
        let base = base_of(input);
        assert_eq!(base64::encode(&key.sign(base.as_bytes())), *signature);
        let made = base64::decode(signature.as_bytes()).unwrap();
        assert!(key.verifying().verify(base.as_bytes(), &made));
    }
}

/// Appendix B.4: a request that proxies changed in ways that do not matter, and in ways that do.
#[test]
fn appendix_b_4_transforming_messages() {
    let signed = [
        (
            "signature-input",
            "transform=(\"@method\" \"@path\" \"@authority\" \"accept\");created=1618884473;keyid=\"test-key-ed25519\"",
        ),
        (
            "signature",
            "transform=:ZT1kooQsEHpZ0I1IjCqtQppOmIqlJPeo7DHR3SoMn0s5JZ1eRGS0A+vyYP9t/LXlh5QMFFQ6cpLt2m0pmj3NDA==:",
        ),
    ];
    let verified = |method, path, query, authority, accept: &[(&'static str, &str)]| {
        let headers = headers(&[&signed[..], accept].concat());
        let message = Message {
            method,
            scheme: "https",
            authority,
            path,
            query,
            headers: &headers,
        };
        verify(&message, &demand(), THEN)
    };
    let (query, json) = (Some("name1=Value1&Name2=value2"), "application/json");
    let wide = [("accept", json), ("accept", "*/*")];
    verified("GET", "/demo", query, "example.org", &wide).unwrap();
    // other queries, other lines of the same list, the port of the scheme, other case of the host
    let one = [("accept", "application/json, */*")];
    verified(
        "GET",
        "/demo",
        Some("name1=Value1&param=added"),
        "example.org",
        &one,
    )
    .unwrap();
    verified("GET", "/demo", None, "EXAMPLE.org:443", &wide).unwrap();
    for (method, authority, accept) in [
        ("POST", "example.com", &wide[..]),
        (
            "GET",
            "example.org",
            &[("accept", "*/*"), ("accept", json)][..],
        ),
        ("GET", "example.org:8443", &wide),
    ] {
        let result = verified(method, "/demo", query, authority, accept);
        assert_eq!(result, Err(SignatureError::Wrong));
    }
    let result = verified("GET", "/demo", query, "example.org", &[]);
    assert_eq!(result, Err(SignatureError::Missing("\"accept\"".into())));
}

fn refused(change: impl Fn(&mut HeaderMap), demand: &Demand, now: i64) -> SignatureError {
    let mut headers = made(0);
    change(&mut headers);
    verify(&message(&headers), demand, UnixSeconds(now)).unwrap_err()
}

fn set(name: HeaderName, value: &str) -> impl Fn(&mut HeaderMap) {
    let value = HeaderValue::try_from(value).unwrap();
    move |headers| {
        headers.insert(name.clone(), value.clone());
    }
}

#[test]
fn what_is_not_as_demanded_is_refused() {
    let (now, good) = (THEN.0, demand());
    let nothing = |_: &mut HeaderMap| {};
    assert_eq!(refused(|h| h.clear(), &good, now), SignatureError::Absent);
    assert!(matches!(
        refused(nothing, &good, now + 301),
        SignatureError::Time(_)
    ));
    assert!(matches!(
        refused(nothing, &good, now - 61),
        SignatureError::Time(_)
    ));
    let covered = Demand {
        components: vec![Component::Method],
        ..demand()
    };
    let missing = SignatureError::NotCovered("\"@method\"".into());
    assert_eq!(refused(nothing, &covered, now), missing);
    let tagged = Demand {
        tag: Some("app".into()),
        ..demand()
    };
    assert_eq!(
        refused(nothing, &tagged, now),
        SignatureError::Parameter("tag")
    );
    let stranger = Demand {
        keys: vec![("other".into(), VerifyingKey::hmac_sha256(b"other"))],
        ..demand()
    };
    assert_eq!(refused(nothing, &stranger, now), SignatureError::UnknownKey);
    let wrong = Demand {
        keys: vec![(
            "test-shared-secret".into(),
            VerifyingKey::hmac_sha256(b"other"),
        )],
        ..demand()
    };
    assert_eq!(refused(nothing, &wrong, now), SignatureError::Wrong);
    let date = set(http::header::DATE, "Tue, 20 Apr 2021 02:07:56 GMT");
    assert_eq!(refused(date, &good, now), SignatureError::Wrong);
}

#[test]
fn a_signature_input_with_two_readings_is_refused() {
    let (now, good) = (THEN.0, demand());
    let input = |text: &str| refused(set(SIGNATURE_INPUT, text), &good, now);
    let id = "created=1618884473;keyid=\"test-shared-secret\"";
    for (list, wanted) in [
        ("(\"@authority\" \"@authority\")", "covered twice"),
        ("(\"@authority\";req)", "not supported"),
        ("(\"@status\")", "not supported"),
        ("(\"Date\" \"@authority\")", "not supported"),
        ("(\"signature\" \"@authority\")", "not supported"),
        ("(\"@authority\";key=\"a\")", "not supported"),
        ("(\"@authority\" \"x-none\")", "not in the request"),
        (
            "(\"@authority\" \"@query-param\";name=\"none\")",
            "not in the request",
        ),
    ] {
        let said = input(&format!("sig-b25={list};{id}")).to_string();
        assert!(said.contains(wanted), "{list}: {said}");
    }
    for malformed in [
        format!("sig-b25=(\"date\");{id}, sig-b25=();{id}"),
        format!("sig-b25=(\"date\";{id}"),
        format!("sig-b25=(\"date\"\"@path\");{id}"),
        format!("sig-b25=(date);{id}"),
        format!("sig-b25=();{id},"),
        "sig-b25=();created=1618884473;created=1".to_owned(),
        "sig-b25=();created=1.5".to_owned(),
        "Sig=()".to_owned(),
        "sig-b25".to_owned(),
    ] {
        let said = input(&malformed);
        assert!(
            matches!(said, SignatureError::Malformed(..)),
            "{malformed}: {said}"
        );
    }
    for (parameters, wanted) in [
        (
            "created=1618884473;keyid=\"test-shared-secret\";alg=\"ed25519\"",
            "alg",
        ),
        (
            "created=1618884473;keyid=\"test-shared-secret\";alg=hmac-sha256",
            "alg",
        ),
        (
            "created=\"1618884473\";keyid=\"test-shared-secret\"",
            "created",
        ),
        ("keyid=\"test-shared-secret\"", "created"),
        (
            "created=1618884473;keyid=\"test-shared-secret\";expires=\"x\"",
            "expires",
        ),
    ] {
        let said = input(&format!("sig-b25=(\"@authority\");{parameters}"));
        assert_eq!(said, SignatureError::Parameter(wanted));
    }
    let expired = format!("sig-b25=(\"@authority\");{id};expires=1618884473");
    assert!(matches!(input(&expired), SignatureError::Time(_)));
}

#[test]
fn query_parameters_are_read_as_forms_and_written_anew() {
    // RFC 9421 section 2.2.8
    let query = "var=this%20is%20a%20big%0Amultiline%20value&bar=with+plus+whitespace&fa%C3%A7ade%22%3A%20=something&twice=1&twice=2&bad=%zz";
    let value = |component: &str| {
        let component = Component::parse(component).unwrap();
        let headers = HeaderMap::new();
        let message = Message {
            query: Some(query),
            ..message(&headers)
        };
        base(&message, &[component], "").map(|base| {
            let text = String::from_utf8(base).unwrap();
            let (line, _) = text.split_once('\n').unwrap();
            line.split_once(": ").unwrap().1.to_owned()
        })
    };
    for (name, wanted) in [
        ("var", "this%20is%20a%20big%0Amultiline%20value"),
        ("bar", "with%20plus%20whitespace"),
        ("fa%C3%A7ade%22%3A%20", "something"),
        ("bad", "%25zz"),
    ] {
        let component = format!("@query-param;name=\"{name}\"");
        assert_eq!(value(&component).unwrap(), wanted);
    }
    value("@query-param;name=\"twice\"").unwrap_err();
    assert_eq!(
        value("@target-uri").unwrap(),
        format!("https://example.com/foo?{query}")
    );
    assert_eq!(value("@request-target").unwrap(), format!("/foo?{query}"));
    assert_eq!(value("@scheme").unwrap(), "https");
}

#[test]
fn fields_are_joined_or_written_as_octets() {
    // RFC 9421 section 2.1.3
    let headers = headers(&[
        ("example-header", "  value, with, lots"),
        ("example-header", "of, commas"),
    ]);
    let of = |component: &str| {
        let component = Component::parse(component).unwrap();
        let base = base(&message(&headers), &[component], "").unwrap();
        String::from_utf8(base).unwrap()
    };
    assert!(
        of("example-header").starts_with("\"example-header\": value, with, lots, of, commas\n")
    );
    assert!(
        of("example-header;bs")
            .starts_with("\"example-header\";bs: :dmFsdWUsIHdpdGgsIGxvdHM=:, :b2YsIGNvbW1hcw==:\n")
    );
}

#[test]
fn digests_of_rfc_9530() {
    let body: &[u8] = b"{\"hello\": \"world\"}\n";
    let field = content_digest::of_body([body]);
    assert_eq!(
        field,
        "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
    );
    let check = |value: &str, parts: &[&[u8]]| {
        let headers = headers(&[("content-digest", value)]);
        let mut expected = content_digest::Expected::of(&headers)?;
        parts.iter().for_each(|part| expected.update(part));
        Ok::<_, content_digest::NoDigest>(expected.fits())
    };
    assert!(check(field.to_str().unwrap(), &[b"{\"hello\":", b" \"world\"}\n"]).unwrap());
    assert!(!check(field.to_str().unwrap(), &[b"{}"]).unwrap());
    // RFC 9421's own body, and a second hash that does not fit
    assert!(check(DIGEST, &[b"{\"hello\": \"world\"}"]).unwrap());
    let two = format!("{DIGEST}, sha-256=:AAAA:");
    assert!(!check(&two, &[b"{\"hello\": \"world\"}"]).unwrap());
    assert_eq!(
        check("md5=:AAAA:", &[]),
        Err(content_digest::NoDigest::Unknown)
    );
    assert_eq!(
        check("sha-256=abc", &[]),
        Err(content_digest::NoDigest::Malformed)
    );
}

#[test]
fn keys_of_other_kinds_are_refused_and_none_is_shown() {
    SigningKey::ed25519(ED25519_PUBLIC.as_bytes()).unwrap_err();
    VerifyingKey::ed25519(ED25519_PRIVATE.as_bytes()).unwrap_err();
    let signer = Signer::new(
        "sig1",
        Vec::new(),
        "edge",
        None,
        SigningKey::hmac_sha256(b"hunter2"),
    );
    assert!(!format!("{signer:?}").contains("hunter2"));
}

fn component() -> impl Strategy<Value = Component> {
    prop_oneof![
        Just(Component::Method),
        Just(Component::TargetUri),
        Just(Component::Authority),
        Just(Component::Path),
        Just(Component::Query),
        "[ -~]{0,8}".prop_map(Component::QueryParam),
        "[a-z][a-z0-9-]{0,8}".prop_map(|name| Component::Field(name.parse().unwrap())),
        "[a-z][a-z0-9-]{0,8}".prop_map(|name| Component::Octets(name.parse().unwrap())),
    ]
}

proptest! {
    #[test]
    fn what_is_signed_verifies_and_nothing_else_does(
        components in prop::collection::vec(component(), 0..6),
        id in "[ -~]{0,12}",
        path in "/[a-z/]{0,8}",
        other in "/[a-z/]{0,8}",
    ) {
        let mut components = components;
        components.dedup();
        let key = SigningKey::hmac_sha256(b"0123456789abcdef");
        let demand = Demand {
            keys: vec![(id.clone(), key.verifying())],
            components: components.clone(),
            max_age: 60,
            tag: Some("t".into()),
        };
        let signer = Signer::new("sig1", components.clone(), &id, Some("t"), key);
        let mut headers = request();
        let signed = signer.sign(&Message { path: &path, ..message(&headers) }, THEN);
        // a component may not be in the request: then nothing is signed
        let Ok(signed) = signed else { return Ok(()); };
        headers.insert(SIGNATURE_INPUT, signed.input);
        headers.insert(SIGNATURE, signed.signature);
        let result = verify(&Message { path: &path, ..message(&headers) }, &demand, THEN);
        let twice = (1..components.len()).any(|n| components[..n].contains(&components[n]));
        prop_assert_eq!(result.is_ok(), !twice, "{:?}", result);
        let bound = components.iter().any(|c| matches!(c, Component::Path | Component::TargetUri));
        if bound && path != other {
            let result = verify(&Message { path: &other, ..message(&headers) }, &demand, THEN);
            prop_assert!(result.is_err());
        }
    }

    #[test]
    fn what_is_read_is_written_in_one_way(text in "[a-z]=\\([ \"a-z@;=-]{0,24}\\)[;a-z0-9=\"?:]{0,24}") {
        if let Ok(lists) = structured::lists(text.as_bytes()) {
            for (label, list) in lists {
                let written = format!("{label}={}", list.write());
                let again = structured::lists(written.as_bytes()).unwrap();
                prop_assert_eq!(&again[0].1, &list);
            }
        }
    }

    #[test]
    fn nothing_panics(input: Vec<u8>, signature: Vec<u8>) {
        drop((structured::lists(&input), structured::octets(&signature)));
        let mut headers = request();
        if let (Ok(input), Ok(signature)) = (HeaderValue::from_bytes(&input), HeaderValue::from_bytes(&signature)) {
            headers.insert(SIGNATURE_INPUT, input);
            headers.insert(SIGNATURE, signature);
            prop_assert!(verify(&message(&headers), &demand(), THEN).is_err());
        }
    }
}
