use std::path::Path;

use super::*;
use crate::config::SecretHeader;

/// A private file with this content.
fn secret(folder: &Path, name: &str, content: &str) -> SecretRef {
    let path = folder.join(name);
    crate::pki::store::write_file(&path, content.as_bytes(), 0o600).unwrap();
    SecretRef::File(path)
}

fn headers(list: &[(&str, &SecretRef)]) -> config::Credentials {
    config::Credentials {
        headers: list
            .iter()
            .map(|(name, value)| SecretHeader {
                name: name.parse().unwrap(),
                value: (*value).clone(),
            })
            .collect(),
        authorization: None,
        signature: None,
    }
}

fn authorization(authorization: Authorization) -> config::Credentials {
    config::Credentials {
        headers: Vec::new(),
        authorization: Some(authorization),
        signature: None,
    }
}

fn applied(credentials: &Credentials, sent: &[(&str, &str)], spellings: bool) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in sent {
        headers.append(
            HeaderName::try_from(*name).unwrap(),
            HeaderValue::try_from(*value).unwrap(),
        );
    }
    credentials.apply(&mut headers, spellings);
    headers
}

#[test]
fn what_a_client_sends_under_our_names_is_gone_in_any_spelling() {
    let folder = tempfile::tempdir().unwrap();
    let secret = secret(folder.path(), "s", "0123456789abcdef\n");
    let sent = [
        ("x-backend-secret", "guess"),
        ("X-Backend-Secret", "guess again"),
        ("x_backend_secret", "merged"),
        ("X_Backend-Secret", "merged"),
        ("x-other", "stays"),
    ];
    let credentials = Credentials::load(&headers(&[("X-Backend-Secret", &secret)])).unwrap();
    let result = applied(&credentials, &sent, true);
    let all: Vec<_> = result.iter().collect();
    assert_eq!(all.len(), 2, "{all:?}");
    assert_eq!(result["x-backend-secret"], "0123456789abcdef");
    // underscores are gone before where they are dropped
    let result = applied(&credentials, &[("x-backend-secret", "guess")], false);
    assert_eq!(result.len(), 1);
    // a name of ours with an underscore is asked for in both spellings
    let credentials = Credentials::load(&headers(&[("X_Backend_Secret", &secret)])).unwrap();
    let result = applied(&credentials, &sent, false);
    assert!(!result.contains_key("x-backend-secret"));
    assert_eq!(result["x_backend_secret"], "0123456789abcdef");
}

#[test]
fn rfc_7617_section_2() {
    let folder = tempfile::tempdir().unwrap();
    let short = |s| SecretRef::AllowShort(Box::new(s));
    let login = Login {
        username: "Aladdin".into(),
        password: short(secret(folder.path(), "p", "open sesame")),
    };
    let credentials = Credentials::load(&authorization(Authorization::Basic(login))).unwrap();
    let result = applied(
        &credentials,
        &[("authorization", "Basic of-the-client")],
        false,
    );
    assert_eq!(
        result[header::AUTHORIZATION],
        "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    );
    assert_eq!(result.get_all(header::AUTHORIZATION).iter().count(), 1);
    let token = secret(folder.path(), "t", "mF_9.B5f-4.1JqM-long\n");
    let credentials = Credentials::load(&authorization(Authorization::Bearer(token))).unwrap();
    let result = applied(&credentials, &[], false);
    assert_eq!(result[header::AUTHORIZATION], "Bearer mF_9.B5f-4.1JqM-long");
}

#[test]
fn what_can_t_stand_in_its_header_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let put = |content| secret(folder.path(), "s", content);
    let refused = |content, wanted: &dyn Fn(SecretRef) -> config::Credentials, reason: &str| {
        let problems = Credentials::load(&wanted(put(content))).unwrap_err();
        assert_eq!(problems.len(), 1);
        let said = problems.first().unwrap().to_string();
        assert!(said.contains(reason), "{said}");
        assert!(!said.contains("0123456789"), "{said}");
    };
    let custom = |s: SecretRef| headers(&[("x-a", &s)]);
    let bearer = |s| authorization(Authorization::Bearer(s));
    refused(" 0123456789abcdef", &custom, "without a space");
    refused("0123456789abcdef ", &custom, "without a space");
    refused("short", &custom, "shorter than 16 bytes");
    refused("", &custom, "empty");
    refused("0123456789 abcdef", &bearer, "RFC 6750");
    refused("0123456789\u{7f}abcdef", &bearer, "control");
}

#[test]
fn nobody_is_shown_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let secret = secret(folder.path(), "s", "0123456789abcdef");
    let credentials = Credentials::load(&headers(&[("x-a", &secret)])).unwrap();
    let result = applied(&credentials, &[], false);
    let shown = format!("{credentials:?} {result:?}");
    assert!(!shown.contains("0123"), "{shown}");
    assert!(result["x-a"].is_sensitive());
}

#[test]
fn a_request_is_signed_as_the_backend_sees_it() {
    let folder = tempfile::tempdir().unwrap();
    let wanted = config::Credentials {
        headers: Vec::new(),
        authorization: None,
        signature: Some(RequestSignature {
            label: "sig1".into(),
            key_id: "edge".into(),
            tag: None,
            algorithm: Algorithm::HmacSha256,
            key: secret(folder.path(), "key", "MDEyMzQ1Njc4OWFiY2RlZg==\n"),
            key_is_base64: true,
            components: ["@method", "@authority", "@path", "content-type"]
                .map(|text| signature::Component::parse(text).unwrap())
                .to_vec(),
            body_bytes: 1,
        }),
    };
    let credentials = Credentials::load(&wanted).unwrap();
    assert!(credentials.vary());
    let demand = signature::Demand {
        keys: vec![(
            "edge".into(),
            signature::VerifyingKey::hmac_sha256(b"0123456789abcdef"),
        )],
        components: vec![signature::Component::Authority],
        max_age: 60,
        tag: None,
    };
    // the host stands in the target with HTTP/2, in a field with HTTP/1.1
    for (target, host) in [("https://a.test:8443/x", None), ("/x", Some("a.test:8443"))] {
        let mut request = http::Request::get(target);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let (mut parts, ()) = request
            .header("signature", "sig9=:AAAA:")
            .body(())
            .unwrap()
            .into_parts();
        credentials.apply(&mut parts.headers, false);
        assert!(!parts.headers.contains_key(signature::SIGNATURE));
        let now = UnixSeconds(1_000_000);
        credentials
            .signing()
            .unwrap()
            .sign(&mut parts, now)
            .unwrap();
        let verified = |authority| {
            let message = Message {
                method: "GET",
                scheme: "https",
                authority,
                path: "/x",
                query: None,
                headers: &parts.headers,
            };
            signature::verify(&message, &demand, now)
        };
        // it has no content-type: that is not covered
        assert_eq!(verified("a.test:8443").unwrap().components.len(), 3);
        verified("b.test:8443").unwrap_err();
    }
    // no base64: no key
    for (key, reason) in [
        ("not base64 at all, and long", "base64"),
        ("MDEyMzQ1Njc4OWE=", "fewer than 16 bytes"),
    ] {
        let mut wrong = wanted.clone();
        if let Some(signature) = &mut wrong.signature {
            signature.key = secret(folder.path(), "key", key);
        }
        let problems = Credentials::load(&wrong).unwrap_err();
        assert!(problems[0].to_string().contains(reason), "{problems:?}");
    }
}
