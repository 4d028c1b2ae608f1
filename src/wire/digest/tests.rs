//! The examples of RFC 7616, RFC 2617, RFC 2069 and RFC 1321.

use proptest::prelude::*;

use super::*;

fn answer(lines: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_str(line).unwrap(),
        );
    }
    headers
}

fn parameter(value: &HeaderValue, name: &str) -> Option<String> {
    let all = challenges(value.as_bytes()).unwrap();
    let (scheme, parameters) = all.first().unwrap();
    assert_eq!(scheme, "Digest");
    let mut found = parameters.iter().filter(|(n, _)| n == name);
    let value = found.next().map(|(_, value)| value.clone());
    assert_eq!(found.next(), None, "{name} twice");
    value
}

const NONCE: &str = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v";
const OPAQUE: &str = "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS";
const CNONCE: &str = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";

fn offered(algorithm: &str) -> String {
    format!(
        "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm={algorithm}, \
         nonce=\"{NONCE}\", opaque=\"{OPAQUE}\""
    )
}

#[test]
fn rfc_7616_section_3_9_1() {
    for (algorithm, response) in [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        (
            "SHA-256",
            "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
        ),
    ] {
        let challenge = Challenge::of(&answer(&[&offered(algorithm)])).unwrap();
        let session = Session::new(challenge, "Mufasa", b"Circle of Life", CNONCE);
        let value = session.authorization("GET", "/dir/index.html", 1).unwrap();
        for (name, wanted) in [
            ("username", "Mufasa"),
            ("realm", "http-auth@example.org"),
            ("uri", "/dir/index.html"),
            ("algorithm", algorithm),
            ("nonce", NONCE),
            ("nc", "00000001"),
            ("cnonce", CNONCE),
            ("qop", "auth"),
            ("response", response),
            ("opaque", OPAQUE),
        ] {
            assert_eq!(
                parameter(&value, name).as_deref(),
                Some(wanted),
                "{value:?}"
            );
        }
        assert!(value.is_sensitive());
    }
}

#[test]
fn rfc_2617_section_3_5_and_the_older_form_without_qop() {
    let line = "Digest realm=\"testrealm@host.com\", qop=\"auth,auth-int\", \
        nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"";
    let challenge = Challenge::of(&answer(&[line])).unwrap();
    let session = Session::new(challenge, "Mufasa", b"Circle Of Life", "0a4f113b");
    let value = session.authorization("GET", "/dir/index.html", 1).unwrap();
    assert_eq!(
        parameter(&value, "response").unwrap(),
        "6629fae49393a05397450978507c4ef1"
    );
    assert_eq!(parameter(&value, "algorithm"), None);
    // the same challenge without qop (RFC 2069, with its erratum)
    let line = "Digest realm=\"testrealm@host.com\", nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\"";
    let challenge = Challenge::of(&answer(&[line])).unwrap();
    let session = Session::new(challenge, "Mufasa", b"CircleOfLife", "0a4f113b");
    let value = session.authorization("GET", "/dir/index.html", 7).unwrap();
    assert_eq!(
        parameter(&value, "response").unwrap(),
        "1949323746fe6a43ef61f9606e7febea"
    );
    assert_eq!(parameter(&value, "nc"), None);
    assert_eq!(parameter(&value, "cnonce"), None);
}

#[test]
fn the_strongest_that_can_be_met_is_chosen() {
    let of = |lines: &[&str]| Challenge::of(&answer(lines));
    let (md5, sha) = (offered("MD5"), offered("SHA-256"));
    for lines in [
        vec![md5.as_str(), &sha],
        vec![&sha, &md5],
        vec!["Basic realm=\"x\"", &sha],
        vec!["Negotiate", &offered("SHA-512-256"), &sha],
    ] {
        assert_eq!(of(&lines).unwrap().algorithm.as_deref(), Some("SHA-256"));
    }
    // all in one line, around others
    let one =
        format!("Basic realm=\"a, Digest nonce=\\\"x\\\"\", {md5}, Negotiate dG9rZW4=, {sha}");
    assert_eq!(of(&[&one]).unwrap().algorithm.as_deref(), Some("SHA-256"));
    assert_eq!(of(&[&offered("md5-sess")]).map(|c| c.session), Some(true));
    for none in [
        "Basic realm=\"x\"",
        "Digest realm=\"x\"",
        "Digest realm=\"x\", nonce=\"\"",
        "Digest realm=\"x\", nonce=\"a\", nonce=\"b\"",
        "Digest realm=\"x\", nonce=\"a\", qop=\"auth-int\"",
        "Digest realm=\"x\", nonce=\"a\", algorithm=SHA-1",
        "Digest realm=\"x, nonce=\"a",
        "",
    ] {
        assert_eq!(of(&[none]), None, "{none}");
    }
    assert!(of(&[&format!("{sha}, stale=TRUE")]).unwrap().stale);
}

#[test]
fn a_next_nonce_is_taken() {
    let challenge = Challenge::of(&answer(&[&offered("SHA-256")])).unwrap();
    let mut headers = HeaderMap::new();
    assert_eq!(challenge.with_next(&headers), None);
    headers.insert(
        "authentication-info",
        HeaderValue::from_static("qop=auth, rspauth=\"0a\", nextnonce=\"the-next\""),
    );
    assert_eq!(challenge.with_next(&headers).unwrap().nonce, "the-next");
}

#[test]
fn rfc_1321_appendix_a_5() {
    let hex = |text: &str| Hash::Md5.hex(&[text.as_bytes()]);
    for (text, hash) in [
        ("", "d41d8cd98f00b204e9800998ecf8427e"),
        ("a", "0cc175b9c0f1b6a831c399e269772661"),
        ("abc", "900150983cd24fb0d6963f7d28e17f72"),
        ("message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
        (
            "abcdefghijklmnopqrstuvwxyz",
            "c3fcd3d76192e4007dfb496cca67e13b",
        ),
        (
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
            "d174ab98d277d9f5a5611c2c9f419d9f",
        ),
        (
            "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
            "57edf4a22be3c955ac49da2e2107b67a",
        ),
    ] {
        assert_eq!(hex(text), hash, "{text}");
    }
}

proptest! {
    #[test]
    fn nothing_panics(line in "(Digest |Basic )?([a-z]{1,6}=(\"[a-z\\\\,\"]{0,6}\"|[a-z]{1,4})[, ]{0,3}){0,6}") {
        if let Some(challenge) = Challenge::of(&answer(&[&line])) {
            drop(Session::new(challenge, "u", b"p", "c").authorization("GET", "/", 1));
        }
    }

    #[test]
    fn what_is_written_is_read(realm in "[ -~]{1,12}", nonce in "[ -~]{1,12}") {
        let mut line = String::from("Digest realm=");
        quote(&mut line, &realm);
        line.push_str(", nonce=");
        quote(&mut line, &nonce);
        let challenge = Challenge::of(&answer(&[&line])).unwrap();
        prop_assert_eq!((&challenge.realm, &challenge.nonce), (&realm, &nonce));
        let value = Session::new(challenge, "u\"x", b"p", "c").authorization("GET", "/a", 1).unwrap();
        prop_assert_eq!(parameter(&value, "realm"), Some(realm));
        prop_assert_eq!(parameter(&value, "username"), Some("u\"x".to_owned()));
    }
}
