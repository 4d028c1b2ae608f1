//! Questions as they should be, and every lie that an answer could tell. What is signed here is
//! made octet by octet; the real responder of openssl is met in tests/it/ocsp.rs.

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SerialNumber, SigningKey as _,
};
use rstest::rstest;
use rustls::pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

use super::{der::element, question::sha1, *};
use crate::identity::UnixSeconds;

const NOW: i64 = 1_800_000_000;
const URL: &str = "http://ocsp.test/status";

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(NOW).unwrap() + Duration::seconds(seconds)
}

fn generalized(seconds: i64) -> Vec<u8> {
    let format = time::macros::format_description!("[year][month][day][hour][minute][second]Z");
    let text = at(seconds).format(&format).unwrap();
    element(0x18, &[text.as_bytes()])
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = at(-86_400);
    params.not_after = at(30 * 86_400);
    params
}

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
}

fn ca(name: &str) -> Ca {
    let key = KeyPair::generate().unwrap();
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let der = params.self_signed(&key).unwrap().der().clone();
    Ca {
        issuer: Issuer::new(params, key),
        der,
    }
}

/// AIA with one responder.
fn access(url: &str) -> CustomExtension {
    let oid = [0x06, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, 1];
    let place = element(0x30, &[&oid, &element(0x86, &[url.as_bytes()])]);
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], element(0x30, &[&place]))
}

fn leaf_of(ca: &Ca, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
    let mut params = params("site");
    // its first octet is high: DER puts a zero before it
    params.serial_number = Some(SerialNumber::from_slice(&[0x8f, 1, 2, 3]));
    params.custom_extensions.push(access(URL));
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, &ca.issuer).unwrap().der().clone()
}

/// A responder's own certificate and key.
struct Delegate {
    key: KeyPair,
    der: CertificateDer<'static>,
}

fn delegate(by: &Ca, change: impl FnOnce(&mut CertificateParams)) -> Delegate {
    let mut params = params("responder");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let der = params.signed_by(&key, &by.issuer).unwrap().der().clone();
    Delegate { key, der }
}

/// What stands in an answer, to be changed.
#[derive(Clone)]
struct Content {
    status: Vec<u8>,
    serial: Vec<u8>,
    key_hash: Option<Vec<u8>>,
    times: (i64, Option<i64>),
    produced: i64,
    single_extensions: Vec<u8>,
    twice: bool,
}

fn good() -> Content {
    Content {
        status: vec![0x80, 0],
        serial: vec![0, 0x8f, 1, 2, 3],
        key_hash: None,
        times: (-3600, Some(86_400)),
        produced: -3600,
        single_extensions: Vec::new(),
        twice: false,
    }
}

struct Scene {
    ca: Ca,
    question: Question,
}

fn scene() -> Scene {
    let ca = ca("root");
    let leaf = leaf_of(&ca, |_| {});
    let question = Question::new(URL, &leaf, &ca.der).unwrap();
    Scene { ca, question }
}

impl Scene {
    /// ResponseData, by the key's hash.
    fn data(&self, signer: &CertificateDer<'_>, content: &Content) -> Vec<u8> {
        let key_hash = content.key_hash.as_ref().unwrap_or(&self.question.key_hash);
        let sha1_id = [6, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0];
        let id = element(
            0x30,
            &[
                &element(0x30, &[&sha1_id]),
                &element(4, &[&self.question.name_hash]),
                &element(4, &[key_hash]),
                &element(2, &[&content.serial]),
            ],
        );
        let (this, next) = content.times;
        let next = next.map_or_else(Vec::new, |next| element(0xa0, &[&generalized(next)]));
        let single = element(
            0x30,
            &[
                &id,
                &content.status,
                &generalized(this),
                &next,
                &content.single_extensions,
            ],
        );
        let list = if content.twice {
            element(0x30, &[&single, &single])
        } else {
            element(0x30, &[&single])
        };
        let by = element(0xa2, &[&element(4, &[&key_of(signer)])]);
        element(0x30, &[&by, &generalized(content.produced), &list])
    }

    fn answer(
        &self,
        content: &Content,
        signer: &CertificateDer<'_>,
        key: &KeyPair,
        with: &[&CertificateDer<'_>],
    ) -> Vec<u8> {
        let data = self.data(signer, content);
        let signature = key.sign(&data).unwrap();
        wrapped(&data, &signature, with)
    }

    fn by_issuer(&self, content: &Content) -> Vec<u8> {
        self.answer(content, &self.ca.der, self.ca.issuer.key(), &[])
    }

    fn judged(&self, der: &[u8]) -> Result<Answer, Reason> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        self.question
            .judge(der, &provider, UnixSeconds(NOW))
            .map_err(|refused| refused.reason)
    }
}

fn key_of(certificate: &CertificateDer<'_>) -> Vec<u8> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(certificate).unwrap();
    sha1(&parsed.public_key().subject_public_key.data)
}

fn wrapped(data: &[u8], signature: &[u8], with: &[&CertificateDer<'_>]) -> Vec<u8> {
    // ecdsa-with-SHA256
    let algorithm = element(0x30, &[&[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]]);
    let list: Vec<u8> = with.iter().flat_map(|der| der.to_vec()).collect();
    let list = if with.is_empty() {
        Vec::new()
    } else {
        element(0xa0, &[&element(0x30, &[&list])])
    };
    let signature = element(3, &[&[0], signature]);
    let basic = element(0x30, &[data, &algorithm, &signature, &list]);
    let kind = [6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
    let content = element(0x30, &[&kind, &element(4, &[&basic])]);
    element(0x30, &[&[0x0a, 1, 0], &element(0xa0, &[&content])])
}

#[test]
fn an_answer_of_the_issuer_is_taken() {
    let scene = scene();
    let answer = scene.judged(&scene.by_issuer(&good())).unwrap();
    assert_eq!(answer.status, Status::Good);
    assert_eq!(answer.this_update, UnixSeconds(NOW - 3600));
    assert_eq!(answer.until, UnixSeconds(NOW + 86_400));
}

#[test]
fn revoked_is_an_answer_too() {
    let scene = scene();
    let content = Content {
        status: element(0xa1, &[&generalized(-600), &[0xa0, 3, 0x0a, 1, 1]]),
        ..good()
    };
    let answer = scene.judged(&scene.by_issuer(&content)).unwrap();
    assert_eq!(answer.status, Status::Revoked(UnixSeconds(NOW - 600)));
}

type Change = fn(&mut Content);

#[rstest]
#[case::unknown_to_the_responder(|c: &mut Content| c.status = vec![0x82, 0], Reason::Unknown)]
#[case::of_another_serial(|c: &mut Content| c.serial = vec![1, 2, 3], Reason::OtherCertificate)]
#[case::of_another_key(|c: &mut Content| c.key_hash = Some(vec![7; 20]), Reason::OtherCertificate)]
#[case::twice(|c: &mut Content| c.twice = true, Reason::OtherCertificate)]
#[case::ended(|c: &mut Content| c.times = (-7200, Some(0)), Reason::OutOfDate)]
#[case::without_an_end(|c: &mut Content| c.times.1 = None, Reason::OutOfDate)]
#[case::of_the_future(|c: &mut Content| c.times = (301, Some(600)), Reason::OutOfDate)]
#[case::made_in_the_future(|c: &mut Content| c.produced = 301, Reason::OutOfDate)]
#[case::that_ends_before_it_begins(|c: &mut Content| c.times = (200, Some(100)), Reason::OutOfDate)]
#[case::with_a_status_of_no_kind(|c: &mut Content| c.status = vec![0x83, 0], Reason::Malformed)]
fn an_answer_is_refused(#[case] change: Change, #[case] reason: Reason) {
    let scene = scene();
    let mut content = good();
    change(&mut content);
    assert_eq!(scene.judged(&scene.by_issuer(&content)), Err(reason));
}

#[test]
fn a_clock_may_be_some_minutes_off() {
    let scene = scene();
    let content = Content {
        times: (299, Some(600)),
        produced: 299,
        ..good()
    };
    scene.judged(&scene.by_issuer(&content)).unwrap();
}

#[test]
fn a_critical_extension_refuses_and_another_does_not() {
    let scene = scene();
    let with = |critical: &[u8]| {
        let extension = element(0x30, &[&[6, 3, 0x2a, 3, 4], critical, &[4, 1, 0]]);
        let content = Content {
            single_extensions: element(0xa1, &[&element(0x30, &[&extension])]),
            ..good()
        };
        scene.judged(&scene.by_issuer(&content))
    };
    assert_eq!(with(&[1, 1, 0xff]), Err(Reason::Malformed));
    with(&[]).unwrap();
}

#[test]
fn a_responder_that_the_issuer_named_may_answer() {
    let scene = scene();
    let other = delegate(&scene.ca, |p| p.not_after = at(4000));
    let der = scene.answer(&good(), &other.der, &other.key, &[&other.der]);
    let answer = scene.judged(&der).unwrap();
    // who verifies it later than that sees an expired signer
    assert_eq!(answer.until, UnixSeconds(NOW + 4000));
    // its certificate has to come along
    let der = scene.answer(&good(), &other.der, &other.key, &[]);
    assert_eq!(scene.judged(&der), Err(Reason::UntrustedSigner));
}

type Recast = fn(&mut CertificateParams);

#[rstest]
#[case::without_the_usage(|p: &mut CertificateParams| p.extended_key_usages.clear())]
#[case::with_any_other_usage(|p: &mut CertificateParams| p.extended_key_usages = vec![
    ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::Any])]
#[case::that_may_not_sign(|p: &mut CertificateParams| p.key_usages = vec![KeyUsagePurpose::KeyAgreement])]
#[case::that_has_expired(|p: &mut CertificateParams| p.not_after = at(-1))]
#[case::that_is_not_valid_yet(|p: &mut CertificateParams| p.not_before = at(10))]
fn a_signer_is_refused(#[case] change: Recast) {
    let scene = scene();
    let other = delegate(&scene.ca, change);
    let der = scene.answer(&good(), &other.der, &other.key, &[&other.der]);
    assert_eq!(scene.judged(&der), Err(Reason::UntrustedSigner));
}

#[test]
fn a_signer_of_another_issuer_is_refused_whatever_it_is_called() {
    let scene = scene();
    let twin = ca("root");
    let other = delegate(&twin, |_| {});
    let der = scene.answer(&good(), &other.der, &other.key, &[&other.der]);
    assert_eq!(scene.judged(&der), Err(Reason::UntrustedSigner));
    // nor below a certificate of our issuer: it gave that right to one, not to those below
    let middle = ca("middle");
    let below = delegate(&middle, |_| {});
    let with = [&below.der, &middle.der, &scene.ca.der];
    let der = scene.answer(&good(), &below.der, &below.key, &with);
    assert_eq!(scene.judged(&der), Err(Reason::UntrustedSigner));
    let der = scene.answer(&good(), &twin.der, twin.issuer.key(), &[&twin.der]);
    assert_eq!(scene.judged(&der), Err(Reason::UntrustedSigner));
}

#[test]
fn another_keys_signature_is_refused() {
    let scene = scene();
    let thief = KeyPair::generate().unwrap();
    let der = scene.answer(&good(), &scene.ca.der, &thief, &[]);
    assert_eq!(scene.judged(&der), Err(Reason::BadSignature));
    let other = delegate(&scene.ca, |_| {});
    let der = scene.answer(&good(), &other.der, &thief, &[&other.der]);
    assert_eq!(scene.judged(&der), Err(Reason::BadSignature));
}

#[test]
fn what_the_responder_says_of_itself_is_no_answer() {
    let scene = scene();
    for status in [1_u8, 2, 3, 5, 6, 9] {
        let der = element(0x30, &[&[0x0a, 1, status]]);
        assert_eq!(scene.judged(&der), Err(Reason::ResponderError));
    }
    assert_eq!(scene.judged(b"<html>"), Err(Reason::Malformed));
    assert_eq!(scene.judged(&[]), Err(Reason::Malformed));
    let huge = [scene.by_issuer(&good()), vec![0; LARGEST]].concat();
    assert_eq!(scene.judged(&huge), Err(Reason::Malformed));
}

#[test]
fn nothing_may_stand_behind_an_answer() {
    let scene = scene();
    let der = scene.by_issuer(&good());
    assert_eq!(
        scene.judged(&[der.as_slice(), &[0]].concat()),
        Err(Reason::Malformed)
    );
    assert!(parse_only(&der));
    let many = vec![&scene.ca.der; 9];
    let der = scene.answer(&good(), &scene.ca.der, scene.ca.issuer.key(), &many);
    assert_eq!(scene.judged(&der), Err(Reason::Malformed));
}

#[test]
fn certificates_name_their_responders_and_demands() {
    let ca = ca("root");
    assert_eq!(
        Named::by(&leaf_of(&ca, |_| {})),
        Named {
            responders: vec![URL.to_owned()],
            must_staple: false
        }
    );
    let demanding = leaf_of(&ca, |p| {
        p.custom_extensions = vec![CustomExtension::from_oid_content(
            &[1, 3, 6, 1, 5, 5, 7, 1, 24],
            vec![0x30, 3, 2, 1, 5],
        )];
    });
    let named = Named::by(&demanding);
    assert!(named.must_staple && named.responders.is_empty());
    assert_eq!(Named::by(b"no certificate"), Named::default());
}

#[test]
fn short_questions_can_be_cached_and_long_ones_are_posted() {
    let ca = ca("root");
    let leaf = leaf_of(&ca, |_| {});
    let asked = |url: &str| Question::new(url, &leaf, &ca.der);
    let question = asked("http://ocsp.test:8080/status").unwrap();
    let Sent::Get(target) = question.sent() else {
        panic!("it is short");
    };
    assert!(target.starts_with("/status/MEYwRDBCMEAwPjAJBgUrDgMCGgUABB"));
    assert!(!target.contains(['+', '=']) && target.matches('/').count() == 2);
    assert_eq!(question.responder.address.to_string(), "ocsp.test:8080");
    assert_eq!(question.responder.host, "ocsp.test:8080");
    for url in [
        format!("http://ocsp.test/{}", "a".repeat(200)),
        "http://ocsp.test/?ca=1".to_owned(),
    ] {
        let question = asked(&url).unwrap();
        assert!(matches!(question.sent(), Sent::Post(path, body)
            if url.ends_with(path) && body.starts_with(&[0x30, 0x46])));
    }
    assert_eq!(
        asked("http://[::1]:1/")
            .unwrap()
            .responder
            .address
            .to_string(),
        "[::1]:1"
    );
    for url in [
        "https://ocsp.test/",
        "ldap://ocsp.test/",
        "http://user@ocsp.test/",
        "http:///x",
        "http://ocsp.test:99999/",
        "ocsp.test",
        "",
        "http://ocsp.test/\u{1}",
        &format!("http://ocsp.test/{}", "a".repeat(2000)),
    ] {
        assert!(asked(url).is_err(), "{url}");
    }
}

proptest! {
    #[test]
    fn no_octet_can_be_changed(place in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let scene = scene();
        let mut der = scene.by_issuer(&good());
        let before = scene.judged(&der).unwrap();
        let at = place.index(der.len());
        der[at] ^= 1 << bit;
        // the signature's algorithm has parameters that nobody reads; nothing else is free
        if let Ok(after) = scene.judged(&der) {
            prop_assert_eq!(after.status, before.status);
            prop_assert_eq!(after.until, before.until);
        }
    }

    #[test]
    fn no_octets_break_the_reader(octets in prop::collection::vec(any::<u8>(), 0..600)) {
        let _read = parse_only(&octets);
    }

    #[test]
    fn lengths_are_written_as_der_has_them(length in 0_usize..70_000) {
        use x509_parser::asn1_rs::{Any, FromDer};
        let content = vec![7; length];
        let written = element(0x04, &[&content]);
        let (rest, read) = Any::from_der(&written).unwrap();
        prop_assert!(rest.is_empty());
        prop_assert_eq!(read.data, content.as_slice());
    }
}
