use proptest::prelude::*;

use super::{
    names::{CLAIM_PREFIXES, CLAIMS},
    *,
};

fn map(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    headers
}

fn hop() -> Hop<'static> {
    Hop {
        client: "192.0.2.1".parse().unwrap(),
        by: None,
        scheme: Scheme::Https,
        host: "api.example.org",
    }
}

fn all<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers
        .get_all(name)
        .iter()
        .map(|value| value.to_str().unwrap())
        .collect()
}

#[rstest::rstest]
#[case("Forwarded")]
#[case("X-Forwarded-Port")]
#[case("X-Forwarded-Server")]
#[case("X-Forwarded-Prefix")]
#[case("X-Forwarded-Client-Cert")]
#[case("x_forwarded_for")]
#[case("X-Real-IP")]
#[case("X_REAL_IP")]
#[case("X.Real.IP")]
#[case("X.Forwarded-For")]
#[case("X!Forwarded~Client'Cert")]
#[case("client.cert")]
#[case("X+Rewrite+URL")]
#[case("X-Client-IP")]
#[case("True-Client-IP")]
#[case("CF-Connecting-IP")]
#[case("X-SSL-Client-Verify")]
#[case("X-SSL_Client-DN")]
#[case("SSL_CLIENT_CERT")]
#[case("Client-Cert")]
#[case("Client_Cert_Chain")]
#[case("Proxy")]
#[case("X-Original-URL")]
#[case("x_rewrite_url")]
#[case("X-HTTP-Method-Override")]
#[case("X_HTTP_Method")]
#[case("X-Method-Override")]
#[case("X-Original-Host")]
#[case("X-Middleware-Subrequest")]
#[case("Proxy-Client-IP")]
#[case("PROXY_FOO")]
#[case("proxy.client.ip")]
#[case("X-ARR-ClientCert")]
#[case("X-Amzn-Mtls-Clientcert")]
#[case("X-Amzn-Mtls-Clientcert-Leaf")]
#[case("X-TLS-Client-Cert")]
#[case("X_TLS_Client_Verify")]
#[case("X-Client-DN")]
#[case("X-Client-Verify")]
#[case("X-Subject-DN")]
#[case("Ssl-Cert")]
#[case("Forwarded-For")]
#[case("X-Vercel-Forwarded-For")]
#[case("Fly-Client-IP")]
#[case("X-Azure-ClientIP")]
#[case("Ali-CDN-Real-IP")]
#[case("CloudFront-Viewer-Address")]
#[case("X-Appengine-User-IP")]
#[case("X-NF-Client-Connection-IP")]
#[case("X-ProxyUser-Ip")]
#[case("X-Url-Scheme")]
#[case("X-Envoy-Internal")]
#[case("Remote-User")]
#[case("REMOTE_USER")]
#[case("X-Remote-User")]
#[case("X-Remote-User-Groups")]
#[case("X-Remote-Group")]
#[case("X-Remote-Extra-Scopes")]
fn a_stranger_can_not_claim(#[case] name: &str) {
    let mut headers = map(&[(name, "203.0.113.9"), (name, "again"), ("accept", "*/*")]);
    strip_claims(&mut headers, Trust::Untrusted);
    assert_eq!(headers.keys().collect::<Vec<_>>(), ["accept"]);
    let mut trailers = map(&[(name, "203.0.113.9"), ("grpc-status", "0")]);
    strip_request_trailers(&mut trailers);
    assert_eq!(trailers.keys().collect::<Vec<_>>(), ["grpc-status"]);
}

#[rstest::rstest]
#[case("Via")]
#[case("X-Request-Id")]
#[case("x_request_id")]
#[case("traceparent")]
#[case("tracestate")]
fn what_we_set_comes_in_no_trailer_of_a_request(#[case] name: &str) {
    let lines = [(name, "of the client"), ("grpc-status", "0")];
    let mut trailers = map(&lines);
    strip_request_trailers(&mut trailers);
    assert_eq!(trailers.keys().collect::<Vec<_>>(), ["grpc-status"]);
    // a backend answers for itself
    let mut trailers = map(&lines);
    strip_answer_trailers(&mut trailers);
    assert_eq!(trailers.len(), 2);
}

#[test]
fn names_for_proxies_go_from_requests_whoever_sends_them() {
    let lines = [
        ("proxy-client-ip", "a"),
        ("proxy-status", "b"),
        ("proxying", "c"),
    ];
    for trust in [Trust::Untrusted, Trust::TrustedProxy] {
        let mut headers = map(&lines);
        strip_claims(&mut headers, trust);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["proxying"]);
    }
    for ours in [true, false] {
        let mut headers = map(&lines);
        prepare_behind_gateway(&mut headers, &Stamp::new(&hop()), ours);
        assert!(!headers.contains_key("proxy-client-ip"));
        assert!(headers.contains_key("proxying"));
    }
    // RFC 9209: what a proxy says of an answer goes on
    let mut headers = map(&lines);
    strip_hop_by_hop(&mut headers);
    assert!(headers.contains_key("proxy-status"));
}

#[rstest::rstest]
#[case("X-Forwarded-For")]
#[case("X-Real-IP")]
#[case("Client-Cert")]
fn a_trusted_proxy_may_claim_in_one_spelling(#[case] name: &str) {
    let mut headers = map(&[
        (name, "a"),
        (&name.replace('-', "_"), "b"),
        ("proxy", "http://evil"),
    ]);
    strip_claims(&mut headers, Trust::TrustedProxy);
    assert_eq!(all(&headers, name), ["a"]);
    assert_eq!(headers.len(), 1);
}

#[test]
fn a_strangers_forwarding_headers_are_replaced() {
    let mut headers = map(&[
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "evil.example"),
        ("forwarded", "for=127.0.0.1"),
    ]);
    prepare_request(&mut headers, &Stamp::new(&hop()), Trust::Untrusted);
    assert_eq!(all(&headers, "x-forwarded-for"), ["192.0.2.1"]);
    assert_eq!(all(&headers, "x-forwarded-proto"), ["https"]);
    assert_eq!(all(&headers, "x-forwarded-host"), ["api.example.org"]);
    assert_eq!(
        all(&headers, "forwarded"),
        ["for=192.0.2.1;host=api.example.org;proto=https"]
    );
}

#[test]
fn a_trusted_proxys_forwarding_headers_are_kept_and_extended() {
    let mut headers = map(&[
        ("x-forwarded-for", "198.51.100.7, 10.0.0.1"),
        ("x-forwarded-for", "10.0.0.2"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "a.example"),
        ("x-forwarded-host", "b.example"),
        ("forwarded", "for=198.51.100.7"),
    ]);
    prepare_request(&mut headers, &Stamp::new(&hop()), Trust::TrustedProxy);
    assert_eq!(
        all(&headers, "x-forwarded-for"),
        ["198.51.100.7, 10.0.0.1, 10.0.0.2, 192.0.2.1"]
    );
    assert_eq!(all(&headers, "x-forwarded-proto"), ["http"]);
    assert_eq!(
        all(&headers, "x-forwarded-host"),
        ["api.example.org"],
        "two answers are none"
    );
    assert_eq!(
        all(&headers, "forwarded"),
        ["for=198.51.100.7, for=192.0.2.1;host=api.example.org;proto=https"]
    );
}

#[rstest::rstest]
#[case(
    "2001:db8::1",
    None,
    "a.example:8443",
    "for=\"[2001:db8::1]\";host=\"a.example:8443\";proto=https"
)]
#[case(
    "::ffff:192.0.2.1",
    Some("::1"),
    "",
    "for=192.0.2.1;by=\"[::1]\";proto=https"
)]
#[case(
    "192.0.2.1",
    Some("10.0.0.1"),
    "a\"b\\",
    "for=192.0.2.1;by=10.0.0.1;host=\"a\\\"b\\\\\";proto=https"
)]
fn an_element_is_quoted_where_it_must_be(
    #[case] client: &str,
    #[case] by: Option<&str>,
    #[case] host: &str,
    #[case] text: &str,
) {
    let by = by.map(|by| by.parse().unwrap());
    let hop = Hop {
        client: client.parse().unwrap(),
        by,
        scheme: Scheme::Https,
        host,
    };
    assert_eq!(element(&hop), text);
}

#[test]
fn what_ends_at_this_hop_is_removed() {
    let mut headers = map(&[
        ("connection", "keep-alive, X-Mine"),
        ("connection", "upgrade"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic x"),
        ("te", "gzip, Trailers"),
        ("trailer", "grpc-status"),
        ("transfer-encoding", "chunked"),
        ("transfer_encoding", "chunked"),
        ("upgrade", "websocket"),
        ("http2-settings", "AAM"),
        ("x-mine", "1"),
        ("accept", "*/*"),
    ]);
    strip_hop_by_hop(&mut headers);
    let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["accept", "te", "trailer"]);
    assert_eq!(all(&headers, "te"), ["trailers"]);
}

#[test]
fn without_a_host_nothing_is_said_of_one() {
    let mut headers = map(&[("x-forwarded-host", "evil.example")]);
    prepare_request(
        &mut headers,
        &Stamp::new(&Hop { host: "", ..hop() }),
        Trust::Untrusted,
    );
    assert!(!headers.contains_key("x-forwarded-host"));
    assert_eq!(all(&headers, "forwarded"), ["for=192.0.2.1;proto=https"]);
}

#[test]
fn te_without_trailers_goes() {
    let mut headers = map(&[("te", "gzip;q=0.5")]);
    strip_hop_by_hop(&mut headers);
    assert!(headers.is_empty());
}

#[test]
fn a_connection_list_takes_nothing_away_that_others_rely_on() {
    let list = "Host, authorization, Content-Length, X-Forwarded-For, Forwarded, x_real_ip, cookie";
    for trust in [Trust::Untrusted, Trust::TrustedProxy] {
        let mut headers = map(&[
            ("connection", list),
            ("host", "a"),
            ("authorization", "Bearer x"),
            ("content-length", "3"),
            ("cookie", "a=b"),
        ]);
        if trust == Trust::TrustedProxy {
            headers.append("x-forwarded-for", HeaderValue::from_static("198.51.100.7"));
        }
        prepare_request(&mut headers, &Stamp::new(&hop()), trust);
        for name in [
            "host",
            "authorization",
            "content-length",
            "cookie",
            "forwarded",
        ] {
            assert!(headers.contains_key(name), "{name}");
        }
        let expected = match trust {
            Trust::Untrusted => "192.0.2.1",
            Trust::TrustedProxy => "198.51.100.7, 192.0.2.1",
        };
        assert_eq!(all(&headers, "x-forwarded-for"), [expected]);
    }
}

#[rstest::rstest]
#[case(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")], Some("websocket"))]
#[case(&[("upgrade", "websocket")], None)]
#[case(&[("connection", "upgrade")], None)]
#[case(&[("connection", "upgrade"), ("upgrade", "h2c")], None)]
// drafts, which some servers still know, and lenient readings
#[case(&[("connection", "upgrade"), ("upgrade", "h2c-14")], None)]
#[case(&[("connection", "upgrade"), ("upgrade", "H2C/2")], None)]
#[case(&[("connection", "upgrade"), ("upgrade", "\"h2c\"")], None)]
#[case(&[("connection", "upgrade"), ("upgrade", "h2")], None)]
#[case(&[("connection", "upgrade"), ("upgrade", "HTTP/2.0")], None)]
#[case(&[("connection", "upgrade"), ("upgrade", "httpish")], Some("httpish"))]
#[case(&[("connection", "upgrade"), ("upgrade", "websocket, h2c")], None)]
#[case(&[("connection", "upgrade"), ("upgrade", "a"), ("upgrade", "b")], None)]
fn an_upgrade_is_asked_for_in_one_way(#[case] lines: &[(&str, &str)], #[case] to: Option<&str>) {
    let upgrade = requested_upgrade(&map(lines));
    assert_eq!(upgrade.as_ref().map(|value| value.to_str().unwrap()), to);
}

#[test]
fn trailers_carry_no_framing_routing_or_credentials() {
    let names = [
        "Content-Length",
        "Transfer-Encoding",
        "Host",
        "Authorization",
        "Set-Cookie",
    ];
    for name in names {
        let mut trailers = map(&[(name, "1"), ("grpc-message", "ok"), ("x-checksum", "1")]);
        strip_request_trailers(&mut trailers);
        assert_eq!(trailers.len(), 2, "{name}");
    }
}

#[test]
fn a_name_that_we_set_goes_in_every_spelling() {
    let mut headers = map(&[
        ("x_backend-secret", "a"),
        ("X-Backend_Secret", "b"),
        ("a", "c"),
    ]);
    remove_spellings(&mut headers, &HeaderName::from_static("x-backend-secret"));
    assert_eq!(headers.keys().collect::<Vec<_>>(), ["a"]);
}

proptest! {
    #[test]
    fn no_spelling_survives(
        pick in 0..CLAIMS.len() + CLAIM_PREFIXES.len(),
        upper in any::<Vec<bool>>(),
        under in any::<u32>(),
        value in "[ -~]{0,20}",
    ) {
        let name = CLAIMS.iter().chain(CLAIM_PREFIXES).nth(pick).unwrap();
        let spelled: String = name
            .chars()
            .enumerate()
            .map(|(at, c)| match c {
                '-' if under >> (at % 32) & 1 == 1 => '_',
                c if upper.get(at) == Some(&true) => c.to_ascii_uppercase(),
                c => c,
            })
            .collect();
        let mut headers = map(&[(&spelled, &value), ("connection", &spelled)]);
        prepare_request(&mut headers, &Stamp::new(&hop()), Trust::Untrusted);
        let text = format!("{headers:?}");
        prop_assert_eq!(all(&headers, "x-forwarded-for"), ["192.0.2.1"]);
        prop_assert_eq!(headers.len(), 4, "{}", text);
    }

    #[test]
    fn arbitrary_headers_never_panic(lines in proptest::collection::vec(("[!#$%&'*+.^_`|~0-9a-zA-Z-]{1,12}", any::<Vec<u8>>()), 0..8)) {
        let mut headers = HeaderMap::new();
        for (name, value) in &lines {
            for name in [name.as_str(), "connection", "forwarded", "te", "upgrade"] {
                if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
                    headers.append(name, value);
                }
            }
        }
        prop_assert!(requested_upgrade(&headers).is_none_or(|to| !to.is_empty()));
        for trust in [Trust::TrustedProxy, Trust::Untrusted] {
            prepare_request(&mut headers, &Stamp::new(&hop()), trust);
            let seen = headers.get("x-forwarded-for").unwrap().as_bytes();
            prop_assert!(seen.ends_with(b"192.0.2.1"));
            prop_assert!(!headers.contains_key(CONNECTION) && !headers.contains_key(UPGRADE));
        }
        strip_request_trailers(&mut headers);
        prop_assert!(!headers.contains_key(FORWARDED));
    }
}

#[test]
fn overrides_stay_where_they_are_kept_and_in_one_spelling() {
    let keep = [HeaderName::from_static("x-http-method-override")];
    let mut headers = map(&[
        ("x-http-method-override", "PATCH"),
        ("x_http_method_override", "DELETE"),
        ("x-http-method", "DELETE"),
        ("plain_name", "a"),
    ]);
    let policy = Policy {
        keep: &keep,
        ..Policy::of(Trust::Untrusted)
    };
    remove_where(&mut headers, |name, folded| {
        is_forbidden(name, folded, &policy)
    });
    assert_eq!(
        headers.keys().collect::<Vec<_>>(),
        ["x-http-method-override", "plain_name"]
    );
    let policy = Policy {
        underscored: false,
        ..policy
    };
    remove_where(&mut headers, |name, folded| {
        is_forbidden(name, folded, &policy)
    });
    assert_eq!(
        headers.keys().collect::<Vec<_>>(),
        ["x-http-method-override"]
    );
}

#[test]
fn overrides_are_in_order() {
    let names: Vec<_> = overrides().collect();
    assert!(names.is_sorted(), "they are searched");
    assert!(is_override(&HeaderName::from_static("x-host")));
    assert!(!is_override(&HeaderName::from_static("x-hosts")));
}
