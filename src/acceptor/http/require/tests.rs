use std::os::unix::fs::PermissionsExt as _;

use http::{Method, Request};
use proptest::prelude::*;

use super::*;
use crate::wire::signature::{Component, Signer, SigningKey, content_digest};

const SECRET: &[u8] = b"correct-horse-battery";
const NEXT: &[u8] = b"the-next-long-secret!";

struct Folder(tempfile::TempDir);

impl Folder {
    fn file(&self, name: &str, content: &[u8], mode: u32) -> SecretRef {
        let path = self.0.path().join(name);
        #[expect(clippy::disallowed_methods, reason = "a test's own file")]
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        SecretRef::File(path)
    }
}

fn folder() -> Folder {
    Folder(tempfile::tempdir().unwrap())
}

fn header(secrets: Vec<SecretRef>, strip: bool) -> Requirement {
    Requirement::Header(RequiredHeader {
        name: HeaderName::from_static("x-backend-secret"),
        secrets,
        strip,
    })
}

fn loaded(rules: &[Requirement]) -> Requirements {
    Requirements::load(rules, "legacy", &Metrics::new())
        .unwrap()
        .unwrap()
}

fn two_secrets(strip: bool) -> Requirements {
    let folder = folder();
    let secrets = vec![
        folder.file("old", SECRET, 0o600),
        folder.file("new", NEXT, 0o600),
    ];
    loaded(&[header(secrets, strip)])
}

fn parts(lines: &[(&str, &[u8])]) -> Parts {
    let mut request = Request::new(());
    for (name, value) in lines {
        request.headers_mut().append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_bytes(value).unwrap(),
        );
    }
    request.into_parts().0
}

fn reason(rules: &Requirements, lines: &[(&str, &[u8])]) -> Option<Denial> {
    rules
        .judge(&mut parts(lines), true)
        .err()
        .map(|denied| denied.reason)
}

#[test]
fn no_rule_costs_nothing_and_asks_for_nothing() {
    let none = Requirements::load(&[], "legacy", &Metrics::new()).unwrap();
    assert!(none.is_none());
}

#[test]
fn either_secret_opens_and_its_use_is_noted() {
    let rules = two_secrets(true);
    let Rule::Secret(rule) = &rules.rules[0] else {
        panic!()
    };
    assert!(rule.secrets.iter().all(|(tag, _)| tag.as_ref().len() == 32));
    let used = || {
        rule.secrets
            .iter()
            .map(|(_, used)| used.get() != 0)
            .collect::<Vec<_>>()
    };
    assert_eq!(used(), [false, false]);
    assert_eq!(reason(&rules, &[("x-backend-secret", NEXT)]), None);
    assert_eq!(used(), [false, true]);
    assert_eq!(reason(&rules, &[("x-backend-secret", SECRET)]), None);
    assert_eq!(used(), [true, true]);
}

#[test]
fn what_is_no_secret_opens_nothing() {
    let rules = two_secrets(true);
    let missing = Some(Denial::SecretMissing);
    let wrong = Some(Denial::SecretWrong);
    let both = [SECRET, NEXT].concat();
    for (lines, expected) in [
        (vec![], missing),
        (vec![("x_backend_secret", SECRET)], missing),
        (vec![("x-backend-secret", &b""[..])], wrong),
        (vec![("x-backend-secret", &SECRET[..20])], wrong),
        (
            vec![("x-backend-secret", &[SECRET, b"x"].concat()[..])],
            wrong,
        ),
        (vec![("x-backend-secret", &both[..])], wrong),
        (vec![("x-backend-secret", b"Correct-horse-battery")], wrong),
        (
            vec![("x-backend-secret", SECRET), ("x-backend-secret", SECRET)],
            Some(Denial::SecretRepeated),
        ),
        (
            vec![("x-backend-secret", SECRET), ("x-backend-secret", b"")],
            Some(Denial::SecretRepeated),
        ),
    ] {
        assert_eq!(reason(&rules, &lines), expected, "{lines:?}");
    }
}

/// No detail, and no picture of the rules, says what is secret.
#[test]
fn nobody_is_told() {
    let rules = two_secrets(true);
    let denied = rules
        .judge(&mut parts(&[("x-backend-secret", b"guess")]), true)
        .unwrap_err();
    let said = format!("{denied} {rules:?}");
    assert!(!said.contains("guess") && !said.contains("horse"), "{said}");
}

#[test]
fn what_proves_is_taken_out_in_every_spelling() {
    let lines: &[(&str, &[u8])] = &[
        ("x-backend-secret", SECRET),
        ("x_backend_secret", b"guess"),
        ("x-backend_secret", b"guess"),
        ("x-backend-secret-2", b"stays"),
    ];
    let mut head = parts(lines);
    two_secrets(true).judge(&mut head, true).unwrap();
    let names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["x-backend-secret-2"]);
    let mut head = parts(lines);
    two_secrets(false).judge(&mut head, true).unwrap();
    assert_eq!(head.headers.len(), 2);
    let kept = &head.headers["x-backend-secret"];
    assert!(kept.as_bytes() == SECRET && kept.is_sensitive());
}

#[test]
fn a_secret_that_is_none_loads_nothing() {
    let folder = folder();
    let good = || folder.file("good", SECRET, 0o600);
    for bad in [
        SecretRef::File(folder.0.path().join("nowhere")),
        folder.file("empty", b"", 0o600),
        folder.file("newline", b"\n", 0o600),
        folder.file("short", b"short", 0o600),
        folder.file("space", b" begins-with-a-space", 0o600),
        folder.file("open", SECRET, 0o644),
        SecretRef::Env("PORTCULLIS_NOT_SET".into()),
    ] {
        let rules = [header(vec![good(), bad], true)];
        let problems = Requirements::load(&rules, "legacy", &Metrics::new()).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(!format!("{problems:?}").contains("horse"));
    }
}

fn signature(folder: &Folder, components: &[&str]) -> Requirement {
    let key = |key_id: &str, content: &[u8]| RequiredKey {
        key_id: key_id.to_owned(),
        algorithm: Algorithm::HmacSha256,
        key: folder.file(key_id, content, 0o600),
        key_is_base64: false,
    };
    Requirement::Signature(RequiredSignature {
        // one id may stand for two keys, and two for two
        keys: vec![key("edge", SECRET), key("next", NEXT)],
        components: components
            .iter()
            .map(|name| Component::parse(name).unwrap())
            .collect(),
        max_age: std::time::Duration::from_secs(60),
        tag: None,
        strip: true,
    })
}

fn signed(covers: &[&str], key_id: &str, key: &[u8], age: i64, digest: &str) -> Parts {
    let mut parts = parts(&[("host", b"site.test")]);
    parts.method = Method::POST;
    parts.uri = "/a?b=c".parse().unwrap();
    if !digest.is_empty() {
        let value = HeaderValue::from_str(digest).unwrap();
        parts.headers.insert(content_digest::CONTENT_DIGEST, value);
    }
    let covers = covers.iter().map(|name| Component::parse(name).unwrap());
    let key = SigningKey::hmac_sha256(key);
    let signer = Signer::new("sig1", covers.collect(), key_id, None, key);
    let message = Message {
        method: "POST",
        scheme: "https",
        authority: "site.test",
        path: "/a",
        query: Some("b=c"),
        headers: &parts.headers,
    };
    let now = crate::identity::UnixSeconds(clock::now().0 - age);
    let made = signer.sign(&message, now).unwrap();
    parts.headers.insert(SIGNATURE_INPUT, made.input);
    parts.headers.insert(SIGNATURE, made.signature);
    parts
}

#[test]
fn signatures_are_judged_and_taken_out() {
    let folder = folder();
    let asked = ["@method", "@authority", "@path", "@query"];
    let rules = loaded(&[signature(&folder, &asked)]);
    let judge = |mut parts: Parts| {
        let judged = rules.judge(&mut parts, true);
        judged.map(|_| parts).map_err(|denied| denied.reason)
    };
    for (id, key) in [("edge", SECRET), ("next", NEXT)] {
        let left = judge(signed(&asked, id, key, 0, "")).unwrap();
        assert_eq!(left.headers.len(), 1, "{:?}", left.headers);
    }
    let refused = |parts| judge(parts).unwrap_err();
    assert_eq!(refused(parts(&[])), Denial::SignatureMissing);
    let unnamed = signed(&asked, "other", SECRET, 0, "");
    assert_eq!(refused(unnamed), Denial::SignatureWrong);
    let another = signed(&asked, "edge", NEXT, 0, "");
    assert_eq!(refused(another), Denial::SignatureWrong);
    let less = signed(&["@method", "@path"], "edge", SECRET, 0, "");
    assert_eq!(refused(less), Denial::SignatureWrong);
    assert_eq!(
        refused(signed(&asked, "edge", SECRET, 61, "")),
        Denial::SignatureStale
    );
    assert_eq!(
        refused(signed(&asked, "edge", SECRET, -3600, "")),
        Denial::SignatureStale
    );
    let mut moved = signed(&asked, "edge", SECRET, 0, "");
    moved.uri = "/b?b=c".parse().unwrap();
    assert_eq!(refused(moved), Denial::SignatureWrong);
}

#[test]
fn a_signed_hash_has_to_be_the_bodys() {
    let folder = folder();
    let asked = ["@method", "content-digest"];
    let rules = loaded(&[signature(&folder, &asked)]);
    let of = |body: &[u8]| content_digest::of_body([body]).to_str().unwrap().to_owned();
    let judge = |ends: bool, digest: &str, covers: &[&str]| {
        let mut parts = signed(covers, "edge", SECRET, 0, digest);
        let judged = rules.judge(&mut parts, ends);
        judged.map_err(|denied| denied.reason)
    };
    assert!(judge(true, &of(b""), &asked).unwrap().is_none());
    assert_eq!(
        judge(true, &of(b"x"), &asked).unwrap_err(),
        Denial::RequestInvalid
    );
    let mut expected = judge(false, &of(b"hello"), &asked).unwrap().unwrap();
    expected.update(b"hello");
    assert!(expected.fits());
    // a hash that nobody can check proves nothing
    let unknown = judge(false, "md5=:AAAA:", &asked).unwrap_err();
    assert_eq!(unknown, Denial::SignatureWrong);
    let malformed = judge(false, "sha-256", &asked).unwrap_err();
    assert_eq!(malformed, Denial::SignatureWrong);
    // covered as octets it is covered all the same
    let octets = loaded(&[signature(&folder, &["content-digest;bs"])]);
    let mut parts = signed(&["content-digest;bs"], "edge", SECRET, 0, &of(b"x"));
    assert!(octets.judge(&mut parts, true).is_err());
}

/// What is covered has one spelling at the backend: another one was signed by nobody.
#[test]
fn what_is_covered_has_one_spelling() {
    let folder = folder();
    let rules = loaded(&[signature(&folder, &["content-digest"])]);
    let digest = content_digest::of_body([b"".as_slice()]);
    let digest = digest.to_str().unwrap();
    let mut parts = signed(&["content-digest"], "edge", SECRET, 0, digest);
    let other = HeaderValue::from_static("sha-256=:AAAA:");
    parts.headers.insert("content_digest", other.clone());
    parts.headers.insert("content_other", other);
    rules.judge(&mut parts, true).unwrap();
    let names: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["host", "content-digest", "content_other"]);
}

/// What a sender wrote fills no log.
#[test]
fn a_detail_is_short() {
    let folder = folder();
    let rules = loaded(&[signature(&folder, &["@method"])]);
    let mut parts = parts(&[("signature", b"s=:AAAA:")]);
    let input = format!("s=(\"@{}\");created=1;keyid=\"edge\"", "x".repeat(20_000));
    let now = clock::now().0;
    let input = input.replace("created=1", &format!("created={now}"));
    parts
        .headers
        .insert(SIGNATURE_INPUT, input.parse().unwrap());
    let denied = rules.judge(&mut parts, true).unwrap_err();
    assert_eq!(denied.reason, Denial::SignatureWrong);
    assert!(
        denied.detail.len() <= 256 && denied.detail.contains("@xxx"),
        "{denied}"
    );
}

#[test]
fn every_rule_has_to_be_met() {
    let folder = folder();
    let secret = header(vec![folder.file("secret", SECRET, 0o600)], true);
    let rules = loaded(&[secret, signature(&folder, &["@method"])]);
    let mut whole = signed(&["@method"], "edge", SECRET, 0, "");
    let value = HeaderValue::from_bytes(SECRET).unwrap();
    whole.headers.insert("x-backend-secret", value);
    let (mut unsigned, mut nameless) = (whole.clone(), whole.clone());
    assert!(rules.judge(&mut whole, true).is_ok());
    unsigned.headers.remove(SIGNATURE);
    assert!(rules.judge(&mut unsigned, true).is_err());
    nameless.headers.remove("x-backend-secret");
    assert!(rules.judge(&mut nameless, true).is_err());
    let mut told = HeaderMap::new();
    rules.challenge(&mut told);
    assert_eq!(told.get_all("www-authenticate").iter().count(), 2);
}

proptest! {
    /// A value opens exactly where it is one of the secrets.
    #[test]
    fn only_a_secret_is_one(value in "[ -~]{0,40}", pick in 0..4usize) {
        let rules = two_secrets(true);
        let value = match pick {
            0 => SECRET.to_vec(),
            1 => NEXT.to_vec(),
            _ => value.into_bytes(),
        };
        let fits = value == SECRET || value == NEXT;
        prop_assert_eq!(reason(&rules, &[("x-backend-secret", &value)]).is_none(), fits);
    }
}
