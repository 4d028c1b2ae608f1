use http::{HeaderValue, uri::Scheme};
use proptest::prelude::*;

use super::*;

#[rstest::rstest]
#[case("API.Example.org", "api.example.org")]
#[case("api.example.org.", "api.example.org")]
#[case("api.example.org:8443", "api.example.org:8443")]
#[case("my_host", "my_host")]
#[case("192.0.2.1:80", "192.0.2.1:80")]
#[case("[2001:DB8::1]", "[2001:db8::1]")]
#[case("[2001:db8:0::1]:443", "[2001:db8::1]:443")]
#[case("1e100.net", "1e100.net")]
fn an_authority_has_one_spelling(#[case] text: &str, #[case] one: &str) {
    assert_eq!(Authority::parse(text).unwrap().to_string(), one);
}

#[rstest::rstest]
#[case("", HostError::Malformed)]
#[case(".", HostError::Malformed)]
#[case("a..b", HostError::Malformed)]
#[case("a..", HostError::Malformed)]
#[case("user@a", HostError::UserInfo)]
#[case("user:pass@a:1", HostError::UserInfo)]
#[case("a b", HostError::Malformed)]
#[case("a/b", HostError::Malformed)]
#[case("a%2eb", HostError::Malformed)]
#[case("a,b", HostError::Malformed)]
#[case("bücher.example", HostError::Malformed)]
#[case("-a.example", HostError::Malformed)]
#[case("a:", HostError::Port)]
#[case("a:0", HostError::Port)]
#[case("a:080", HostError::Port)]
#[case("a:65536", HostError::Port)]
#[case("a:1:2", HostError::Port)]
#[case("a:+1", HostError::Port)]
#[case("127.1", HostError::Malformed)]
#[case("0x7f.0x1", HostError::Malformed)]
#[case("127.0.0.01", HostError::Malformed)]
#[case("2130706433", HostError::Malformed)]
#[case("2001:db8::1", HostError::Port)]
#[case("[::1", HostError::Malformed)]
#[case("[::1]x", HostError::Malformed)]
#[case("[fe80::1%25eth0]", HostError::Malformed)]
#[case("[127.0.0.1]", HostError::Malformed)]
fn anything_else_is_refused(#[case] text: &str, #[case] error: HostError) {
    assert_eq!(Authority::parse(text), Err(error));
}

fn effective(version: Version, target: &str, hosts: &[&str]) -> Result<Option<String>, HostError> {
    let mut headers = HeaderMap::new();
    for host in hosts {
        headers.append(HOST, HeaderValue::from_str(host).unwrap());
    }
    effective_host(version, &target.parse().unwrap(), &headers, &Scheme::HTTPS)
        .map(|found| found.map(|authority| authority.to_string()))
}

#[rstest::rstest]
#[case::origin_form(Version::HTTP_11, "/", &["A.example"], Some("a.example"))]
#[case::default_port(Version::HTTP_11, "/", &["a.example:443"], Some("a.example"))]
#[case::absolute_form(Version::HTTP_11, "https://a.example/", &["a.example:443"], Some("a.example"))]
#[case::h2(Version::HTTP_2, "https://a.example:8443/", &[], Some("a.example:8443"))]
#[case::h2_both(Version::HTTP_2, "https://a.example/", &["A.example."], Some("a.example"))]
#[case::h2_host_only(Version::HTTP_2, "/", &["a.example"], Some("a.example"))]
#[case::old(Version::HTTP_10, "/", &[], None)]
fn a_request_has_one_host(
    #[case] version: Version,
    #[case] target: &str,
    #[case] hosts: &[&str],
    #[case] one: Option<&str>,
) {
    assert_eq!(
        effective(version, target, hosts),
        Ok(one.map(str::to_owned))
    );
}

#[test]
fn a_request_with_no_or_two_hosts_is_refused() {
    use HostError::{Disagree, Malformed, Missing, Repeated, UserInfo};
    let h1 = Version::HTTP_11;
    assert_eq!(effective(h1, "/", &[]), Err(Missing));
    assert_eq!(effective(h1, "http://a.example/", &[]), Err(Missing));
    assert_eq!(effective(Version::HTTP_2, "/", &[]), Err(Missing));
    assert_eq!(effective(h1, "/", &["a", "a"]), Err(Repeated(2)));
    assert_eq!(
        effective(Version::HTTP_10, "/", &["a", "b"]),
        Err(Repeated(2))
    );
    assert_eq!(effective(h1, "/", &[""]), Err(Malformed));
    assert_eq!(
        effective(h1, "https://x@a.example/", &["a.example"]),
        Err(UserInfo)
    );
    for (target, host) in [
        ("https://a/", "b"),
        ("https://a/", "a:80"),
        ("https://a:1/", "a"),
    ] {
        for version in [h1, Version::HTTP_2, Version::HTTP_10] {
            assert!(matches!(
                effective(version, target, &[host]),
                Err(Disagree { .. })
            ));
        }
    }
}

#[test]
fn underscores_are_flagged() {
    let mut headers = HeaderMap::new();
    headers.insert("x_real-ip", HeaderValue::from_static("1"));
    headers.insert("x-real-ip", HeaderValue::from_static("1"));
    assert_eq!(underscored(&headers).collect::<Vec<_>>(), ["x_real-ip"]);
}

proptest! {
    #[test]
    fn what_is_read_reads_again_as_itself(text in "[a-zA-Z0-9.:\\[\\]@_%-]{0,24}|\\PC{0,20}|\\[[0-9a-f:]{2,20}\\](:[0-9]{1,5})?") {
        if let Ok(authority) = Authority::parse(&text) {
            let again = authority.to_string();
            prop_assert_eq!(Authority::parse(&again), Ok(authority));
            prop_assert!(again.is_ascii() && !again.contains(['@', '/', '%', ' ']));
        }
    }

    #[test]
    fn arbitrary_headers_never_panic(target in "[!-~]{1,20}", host in any::<Vec<u8>>()) {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_bytes(&host) {
            headers.insert(HOST, value);
        }
        if let Ok(target) = target.parse::<Uri>() {
            let read = effective_host(Version::HTTP_11, &target, &headers, &Scheme::HTTPS);
            prop_assert!(read.is_err() || headers.contains_key(HOST));
        }
    }
}
