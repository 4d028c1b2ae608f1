use proptest::prelude::*;

use super::*;
use crate::identity::{ExtendedUsage, Serial, Sha256, UnixSeconds};

fn facts(subject: &str, uris: &[&str], dns: &[&str]) -> CertFacts {
    CertFacts {
        fingerprint: Sha256([0xab; 32]),
        spki: Sha256([0; 32]),
        serial: Serial(vec![1]),
        subject: subject.into(),
        issuer: String::new(),
        not_before: UnixSeconds(0),
        not_after: UnixSeconds(0),
        dns: dns.iter().map(ToString::to_string).collect(),
        ips: Vec::new(),
        uris: uris.iter().map(ToString::to_string).collect(),
        spiffe: Vec::new(),
        usage: ExtendedUsage::default(),
        key_uses: None,
        is_ca: false,
        key: String::new(),
        key_proves: true,
    }
}

#[test]
fn an_element_has_envoys_form() {
    let peer = facts(
        "CN=edge-1, O=Example",
        &["spiffe://a.example/gateway/edge-1"],
        &["a.example", "b.example"],
    );
    let hash = "ab".repeat(32);
    assert_eq!(
        xfcc(&peer, Some("spiffe://a.example/acceptor/legacy"), None),
        format!(
            "By=spiffe://a.example/acceptor/legacy;Hash={hash};Subject=\"CN=edge-1, O=Example\";\
             URI=spiffe://a.example/gateway/edge-1;DNS=a.example;DNS=b.example"
        )
        .as_str()
    );
    let earlier = HeaderValue::from_static("Hash=1");
    let bare = facts("", &[], &[]);
    assert_eq!(
        xfcc(&bare, None, Some(&earlier)),
        format!("Hash=1,Hash={hash};Subject=\"\"").as_str()
    );
    let blank = HeaderValue::from_static(" ");
    assert_eq!(
        xfcc(&bare, None, Some(&blank)),
        format!("Hash={hash};Subject=\"\"").as_str()
    );
}

#[rstest::rstest]
#[case("CN=a\";URI=spiffe://evil", r#"Subject="CN=a\22;URI=spiffe://evil""#)]
#[case("CN=a\\", r#"Subject="CN=a\5C""#)]
#[case("CN=a\r\nHost: b", r#"Subject="CN=a\0D\0AHost: b""#)]
#[case("CN=é", r#"Subject="CN=\C3\A9""#)]
fn a_subject_can_not_leave_its_quotes(#[case] name: &str, #[case] written: &str) {
    let header = xfcc(&facts(name, &[], &[]), None, None);
    assert!(header.to_str().unwrap().ends_with(written), "{header:?}");
}

#[rstest::rstest]
#[case("spiffe://a/b,Hash=0", r#";URI="spiffe://a/b,Hash=0""#)]
#[case("urn:a\"b", ";URI=urn:a%22b")]
#[case("urn:a\nb c", ";URI=urn:a%0Ab%20c")]
fn a_uri_can_not_begin_another_element(#[case] uri: &str, #[case] written: &str) {
    let header = xfcc(&facts("", &[uri], &[]), None, None);
    assert!(header.to_str().unwrap().ends_with(written), "{header:?}");
}

#[rstest::rstest]
#[case(b"", "::")]
#[case(b"f", ":Zg==:")]
#[case(b"fo", ":Zm8=:")]
#[case(b"foo", ":Zm9v:")]
#[case(b"foobar", ":Zm9vYmFy:")]
#[case(b"\xfb\xff\xbf", ":+/+/:")]
fn a_certificate_is_a_byte_sequence(#[case] der: &[u8], #[case] text: &str) {
    assert_eq!(client_cert(der), text);
}

#[test]
fn a_chain_is_a_list_and_an_empty_one_is_not_sent() {
    assert_eq!(client_cert_chain([]), None);
    assert_eq!(
        client_cert_chain([&b"f"[..], b"fo"]).unwrap(),
        ":Zg==:, :Zm8=:"
    );
}

proptest! {
    #[test]
    fn names_stay_inside_their_field(subject in ".{0,30}", uri in ".{0,30}", dns in ".{0,30}", der in any::<Vec<u8>>()) {
        let header = xfcc(&facts(&subject, &[&uri], &[&dns]), None, None);
        let text = header.to_str().unwrap();
        // A reader that toggles at every quote finds exactly our keys.
        let mut quoted = false;
        let outside: String = text
            .chars()
            .filter(|c| {
                if *c == '"' { quoted = !quoted; }
                !quoted
            })
            .collect();
        prop_assert!(!quoted && !text.contains("\\\"") && !outside.contains(','));
        let keys: Vec<_> = outside.split(';').map(|part| part.split('=').next().unwrap()).collect();
        prop_assert_eq!(keys, ["Hash", "Subject", "URI", "DNS"]);
        prop_assert!(client_cert(&der).to_str().unwrap().len() == der.len().div_ceil(3) * 4 + 2);
    }
}
