//! Both ends of the link and the edge over a pipe: what each side ends up with, and which alert a
//! refused peer reads.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use rstest::rstest;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::mint::*;
use crate::{
    admit::{Denial, Denied, Grant, PeerFacts},
    config::{
        CertificateFiles, Cipher, ClientAuth, ClientCert, GatewayListener, KeyExchange, Limits,
        ListenAddress, Mode, NetworkList, PathNormalisation, Records, TlsOptions,
        UnderscoreHeaders,
    },
    net::Buffered,
    tls::{
        Accepted, ClientTls, Connected, EdgeMaterial, Judge, LINK_ALPN, LinkRole, NameCheck,
        ServerTls, Staples, accept,
        alert::{Side, explain, wants_no_alpn},
        connect,
    },
};

type Ends = (
    Result<Accepted<DuplexStream>, Denied>,
    Result<Connected<DuplexStream>, Denied>,
);

pub(super) fn name(text: &str) -> ServerName<'static> {
    ServerName::try_from(text.to_owned()).unwrap()
}

async fn meet(server: &ServerTls, client: &ClientTls, to: &str, judges: (Judge, Judge)) -> Ends {
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::join!(
        accept(Buffered::new(far), server, judges.0),
        connect(Buffered::new(near), client, name(to), judges.1)
    )
}

/// A link between a gateway and an acceptor of one CA.
pub(super) struct Link {
    pub(super) folder: Folder,
    pub(super) ca: Ca,
}

impl Link {
    pub(super) fn new() -> Self {
        Self {
            folder: Folder::new(),
            ca: Ca::root("root"),
        }
    }

    pub(super) fn gateway(&self, leaf: &Leaf, above: &[&Ca], trust: &[&Ca]) -> ClientTls {
        let identity = self.folder.identity("gateway", leaf, above, trust);
        let generation = load(&identity, LinkRole::Gateway).unwrap();
        ClientTls::link(&generation, &options(), NameCheck::ServerName).unwrap()
    }

    pub(super) fn acceptor(&self, leaf: &Leaf, trust: &[&Ca]) -> ServerTls {
        let identity = self.folder.identity("acceptor", leaf, &[], trust);
        let generation = load(&identity, LinkRole::Acceptor).unwrap();
        ServerTls::link(&generation, &options()).unwrap()
    }

    pub(super) fn good_gateway(&self) -> ClientTls {
        let leaf = self.ca.leaf(client("edge.internal"));
        self.gateway(&leaf, &[], &[&self.ca])
    }

    pub(super) fn good_acceptor(&self) -> ServerTls {
        let leaf = self.ca.leaf(server("legacy.internal"));
        self.acceptor(&leaf, &[&self.ca])
    }
}

/// What the gateway reads first: the acceptor's refusal, in TLS 1.3.
async fn first_read(connected: Result<Connected<DuplexStream>, Denied>) -> Denied {
    let mut connected = match connected {
        Ok(connected) => connected,
        Err(denied) => return denied,
    };
    let mut byte = [0];
    let error = connected.stream.read_exact(&mut byte).await.unwrap_err();
    explain(&error, Side::Client)
}

#[tokio::test]
async fn link_carries_bytes_between_proven_ends() {
    let link = Link::new();
    let sub = link.ca.below("issuing");
    let leaf = sub.leaf(client("spiffe://example.internal/gateway/edge-1"));
    let gateway = link.gateway(&leaf, &[&sub], &[&link.ca]);
    let ends = meet(
        &link.good_acceptor(),
        &gateway,
        "legacy.internal",
        (anybody(), anybody()),
    )
    .await;
    let (mut accepted, mut connected) = (ends.0.unwrap(), ends.1.unwrap());
    assert!(accepted.ours() && connected.ours);
    assert_eq!(
        accepted.grant.identity,
        "spiffe://example.internal/gateway/edge-1"
    );
    assert_eq!(connected.grant.identity, "dns:legacy.internal");
    assert_eq!(accepted.sni.as_deref(), Some("legacy.internal"));
    assert_eq!(accepted.session.version, "TLSv1.3");
    assert_eq!(accepted.session.group, "X25519MLKEM768");
    assert_eq!(accepted.session.cipher, "TLS13_AES_128_GCM_SHA256");
    assert_eq!(accepted.session, connected.session);
    assert_eq!(accepted.chain.len(), 2);
    assert_eq!(accepted.chain[0].as_ref(), leaf.der);
    connected.stream.write_all(b"ping").await.unwrap();
    connected.stream.flush().await.unwrap();
    let mut got = [0; 4];
    accepted.stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"ping");
}

fn refuse(reason: Denial) -> Judge {
    Arc::new(move |_: Option<&PeerFacts>| Err::<Grant, _>(Denied::new(reason, "by rule")))
}

#[rstest]
#[case(Denial::NameNotAllowed, "access_denied")]
#[case(Denial::CertificateDenied, "access_denied")]
#[case(Denial::CertificateWrongRole, "access_denied")]
#[case(Denial::IssuerNotForName, "access_denied")]
#[tokio::test]
async fn a_rule_refuses_with_access_denied(#[case] reason: Denial, #[case] alert: &str) {
    let link = Link::new();
    let (accepted, connected) = meet(
        &link.good_acceptor(),
        &link.good_gateway(),
        "legacy.internal",
        (refuse(reason), anybody()),
    )
    .await;
    assert_eq!(accepted.unwrap_err(), Denied::new(reason, "by rule"));
    let denied = first_read(connected).await;
    assert_eq!(denied.reason, Denial::UpstreamRefused);
    assert!(denied.detail.contains(alert), "{denied}");
}

#[rstest]
#[case::stranger(Denial::CertificateUnknownIssuer, "unknown_ca")]
#[case::expired(Denial::CertificateExpired, "certificate_expired")]
#[case::early(Denial::CertificateNotYetValid, "certificate_expired")]
#[case::usage(Denial::CertificateWrongUsage, "unsupported_certificate")]
#[case::revoked(Denial::CertificateRevoked, "certificate_revoked")]
#[case::unlisted(Denial::RevocationUnknown, "unknown_ca")]
#[case::stale(Denial::CrlExpired, "unknown_ca")]
#[tokio::test]
async fn each_fault_has_its_alert(#[case] reason: Denial, #[case] alert: &str) {
    let link = Link::new();
    let stranger = Ca::root("stranger");
    let now_usable = client("edge.internal");
    let leaf = if reason == Denial::CertificateUnknownIssuer {
        stranger.leaf(now_usable)
    } else if reason == Denial::CertificateExpired {
        link.ca.leaf(Spec {
            from: -9,
            to: -1,
            ..now_usable
        })
    } else if reason == Denial::CertificateNotYetValid {
        link.ca.leaf(Spec {
            from: 1,
            ..now_usable
        })
    } else if reason == Denial::CertificateWrongUsage {
        link.ca.leaf(server("edge.internal"))
    } else {
        link.ca.leaf(now_usable)
    };
    let crl = if reason == Denial::CertificateRevoked {
        link.ca.crl(1, &[&leaf.serial])
    } else if reason == Denial::RevocationUnknown {
        stranger.crl(1, &[])
    } else if reason == Denial::CrlExpired {
        link.ca.crl_until(1, &[], -1)
    } else {
        link.ca.crl(1, &[])
    };
    let own = link.ca.leaf(server("legacy.internal"));
    let mut identity = link.folder.identity("acceptor", &own, &[], &[&link.ca]);
    identity.revocation = Some(link.folder.revocation(&[crl]));
    let generation = load(&identity, LinkRole::Acceptor).unwrap();
    let server = ServerTls::link(&generation, &options()).unwrap();
    // our own client would not load such a certificate
    let (accepted, denied) = foreign(&server, raw_client(&link.ca, Some(&leaf), &[])).await;
    assert_eq!(accepted.unwrap_err().reason, reason);
    assert!(denied.detail.contains(alert), "{denied}");
}

/// A client of another make: any certificate, any ALPN.
pub(super) fn raw_client(trust: &Ca, leaf: Option<&Leaf>, alpn: &[&[u8]]) -> ClientConfig {
    raw_client_with(&options_1_2(), trust, leaf, alpn)
}

fn raw_client_with(
    options: &TlsOptions,
    trust: &Ca,
    leaf: Option<&Leaf>,
    alpn: &[&[u8]],
) -> ClientConfig {
    let versions = crate::tls::provider::versions(options, crate::config::TlsVersion::V1_2);
    raw_client_speaking(versions, options, trust, leaf, alpn)
}

pub(super) fn raw_client_speaking(
    versions: &'static [&'static rustls::SupportedProtocolVersion],
    options: &TlsOptions,
    trust: &Ca,
    leaf: Option<&Leaf>,
    alpn: &[&[u8]],
) -> ClientConfig {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(trust.pem.as_bytes()).unwrap())
        .unwrap();
    let builder = ClientConfig::builder_with_provider(crate::tls::provider::provider(options))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match leaf {
        Some(leaf) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from(leaf.der.clone())],
                PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap(),
            )
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config
}

/// Meets a foreign client; what it read first after its handshake.
async fn foreign(
    server: &ServerTls,
    client: ClientConfig,
) -> (Result<Accepted<DuplexStream>, Denied>, Denied) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let talk = async {
        let error = match connector.connect(name("legacy.internal"), near).await {
            Ok(mut stream) => {
                // bytes that the server never reads must not eat the alert
                let _sent = stream.write_all(&[7; 4000]).await;
                let _sent = stream.flush().await;
                stream.read_exact(&mut [0]).await.unwrap_err()
            }
            Err(error) => error,
        };
        explain(&error, Side::Client)
    };
    let serve = async {
        let mut accepted = accept(Buffered::new(far), server, anybody()).await;
        if let Ok(accepted) = &mut accepted {
            accepted.stream.shutdown().await.unwrap();
        }
        accepted
    };
    tokio::join!(serve, talk)
}

#[rstest]
#[case::v1_3(false, "certificate_required")]
#[case::v1_2(true, "certificate_required")]
#[tokio::test]
async fn no_certificate_is_refused(#[case] old: bool, #[case] alert: &str) {
    let link = Link::new();
    let own = link.ca.leaf(server("legacy.internal"));
    let identity = link.folder.identity("acceptor", &own, &[], &[&link.ca]);
    let generation = load(&identity, LinkRole::Acceptor).unwrap();
    let server = ServerTls::link(&generation, &options_1_2()).unwrap();
    let client = if old {
        only_1_2(&link.ca, None)
    } else {
        raw_client(&link.ca, None, &[])
    };
    let (accepted, denied) = foreign(&server, client).await;
    assert_eq!(accepted.unwrap_err().reason, Denial::CertificateMissing);
    assert!(denied.detail.contains(alert), "{denied}");
}

fn only_1_2(trust: &Ca, leaf: Option<&Leaf>) -> ClientConfig {
    let mut config = raw_client(trust, leaf, &[]);
    let mut options = options_1_2();
    options.key_exchange = vec![KeyExchange::X25519];
    let provider = crate::tls::provider::provider(&options);
    let mut roots = rustls::RootCertStore::empty();
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    roots
        .add(CertificateDer::from_pem_slice(trust.pem.as_bytes()).unwrap())
        .unwrap();
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots);
    let resolver = config.client_auth_cert_resolver.clone();
    config = builder.with_client_cert_resolver(resolver);
    config
}

#[tokio::test]
async fn tls_1_2_only_where_the_options_say_so() {
    let link = Link::new();
    let leaf = link.ca.leaf(client("edge.internal"));
    let server = link.good_acceptor();
    let (accepted, denied) = foreign(&server, only_1_2(&link.ca, Some(&leaf))).await;
    assert_eq!(accepted.unwrap_err().reason, Denial::NoSharedTls);
    assert_eq!(denied.reason, Denial::NoSharedTls);
    assert!(denied.detail.contains("protocol_version"), "{denied}");

    let own = link.ca.leaf(super::mint::server("legacy.internal"));
    let identity = link.folder.identity("acceptor", &own, &[], &[&link.ca]);
    let generation = load(&identity, LinkRole::Acceptor).unwrap();
    let server = ServerTls::link(&generation, &options_1_2()).unwrap();
    let (accepted, _) = foreign(&server, only_1_2(&link.ca, Some(&leaf))).await;
    let accepted = accepted.unwrap();
    assert_eq!(accepted.session.version, "TLSv1.2");
    assert_eq!(accepted.grant.identity, "dns:edge.internal");
}

#[tokio::test]
async fn groups_and_ciphers_are_the_configured_ones() {
    let link = Link::new();
    let leaf = link.ca.leaf(client("edge.internal"));
    let own = link.ca.leaf(server("legacy.internal"));
    let narrow = TlsOptions {
        key_exchange: vec![KeyExchange::Secp384r1],
        ciphers: vec![Cipher::ChaCha20Poly1305],
        ..options()
    };
    let identity = link.folder.identity("acceptor", &own, &[], &[&link.ca]);
    let generation =
        crate::tls::Generation::load(&identity, &narrow, LinkRole::Acceptor, None, now()).unwrap();
    let server = ServerTls::link(&generation, &narrow).unwrap();
    let wide = TlsOptions {
        key_exchange: vec![KeyExchange::X25519, KeyExchange::Secp384r1],
        ..options()
    };
    let (accepted, _) = foreign(&server, raw_client_with(&wide, &link.ca, Some(&leaf), &[])).await;
    let session = accepted.unwrap().session;
    assert_eq!(session.group, "secp384r1");
    assert_eq!(session.cipher, "TLS13_CHACHA20_POLY1305_SHA256");

    let other = TlsOptions {
        key_exchange: vec![KeyExchange::X25519],
        ..options()
    };
    let (accepted, _) = foreign(&server, raw_client_with(&other, &link.ca, Some(&leaf), &[])).await;
    let denied = accepted.unwrap_err();
    assert_eq!(denied.reason, Denial::NoSharedTls);
    assert!(denied.detail.contains("key exchange"), "{denied}");
}

#[tokio::test]
async fn a_foreign_alpn_is_answered_as_if_we_had_none() {
    let link = Link::new();
    let leaf = link.ca.leaf(client("edge.internal"));
    let server = link.good_acceptor();
    for alpn in [&[][..], &[b"http/1.1".as_slice()], &[b"h2", b"http/1.1"]] {
        let (accepted, _) = foreign(&server, raw_client(&link.ca, Some(&leaf), alpn)).await;
        let accepted = accepted.unwrap();
        assert_eq!(accepted.alpn, None);
        assert!(!accepted.ours());
    }
    let both = [b"h2".as_slice(), LINK_ALPN];
    let (accepted, _) = foreign(&server, raw_client(&link.ca, Some(&leaf), &both)).await;
    assert!(accepted.unwrap().ours());
}

#[tokio::test]
async fn a_foreign_server_with_other_protocols_is_met_again_without_alpn() {
    let link = Link::new();
    let own = link.ca.leaf(server("legacy.internal"));
    let material = edge_material(&link.folder, &[("own", &own)], None);
    let foreign = ServerTls::server(&material, &options(), vec![b"h2".to_vec()], true).unwrap();
    let client = link.good_gateway();
    let ends = meet(&foreign, &client, "legacy.internal", (anybody(), anybody())).await;
    let denied = ends.1.unwrap_err();
    assert!(wants_no_alpn(&denied), "{denied}");
    assert_eq!(ends.0.unwrap_err().reason, Denial::NoSharedTls);
    let ends = meet(
        &foreign,
        &client.without_alpn(),
        "legacy.internal",
        (anybody(), anybody()),
    )
    .await;
    assert!(!ends.1.unwrap().ours);
    assert!(ends.0.is_ok());
}

#[rstest]
#[case::same("legacy.internal", true)]
#[case::case("LEGACY.internal", true)]
#[case::other("other.internal", false)]
#[case::parent("internal", false)]
#[case::address("192.0.2.7", true)]
#[case::other_address("192.0.2.8", false)]
#[tokio::test]
async fn the_server_must_carry_the_name(#[case] dialled: &str, #[case] fine: bool) {
    let link = Link::new();
    let own = link.ca.leaf(Spec {
        ips: vec!["192.0.2.7".parse().unwrap()],
        ..server("legacy.internal")
    });
    let acceptor = link.acceptor(&own, &[&link.ca]);
    let ends = meet(
        &acceptor,
        &link.good_gateway(),
        dialled,
        (anybody(), anybody()),
    )
    .await;
    assert_eq!(ends.1.is_ok(), fine);
    if let Err(denied) = ends.1 {
        assert_eq!(denied.reason, Denial::ServerNameMismatch);
        for word in [dialled, "legacy.internal", "192.0.2.7"] {
            assert!(denied.detail.contains(word), "{denied}");
        }
        let seen = ends.0.unwrap_err();
        assert_eq!(seen.reason, Denial::HandshakeFailed);
        assert!(seen.detail.contains("bad_certificate"), "{seen}");
    }
}

#[tokio::test]
async fn wildcards_cover_one_label_and_the_common_name_nothing() {
    let link = Link::new();
    let wild = link.acceptor(&link.ca.leaf(server("*.internal")), &[&link.ca]);
    let client = link.good_gateway();
    for (dialled, fine) in [
        ("a.internal", true),
        ("a.b.internal", false),
        ("internal", false),
    ] {
        let ends = meet(&wild, &client, dialled, (anybody(), anybody())).await;
        assert_eq!(ends.1.is_ok(), fine, "{dialled}");
    }
    let cn_only = link.ca.leaf_with(server("legacy.internal"), |p| {
        p.subject_alt_names = Vec::new();
    });
    let acceptor = link.acceptor(&cn_only, &[&link.ca]);
    let ends = meet(
        &acceptor,
        &client,
        "legacy.internal",
        (anybody(), anybody()),
    )
    .await;
    let denied = ends.1.unwrap_err();
    assert_eq!(denied.reason, Denial::ServerNameMismatch);
    assert!(
        denied.detail.contains("common name does not count"),
        "{denied}"
    );
}

#[tokio::test]
async fn two_pinned_ends_need_neither_names_nor_ca() {
    let link = Link::new();
    let (gateway, _) = openssl_self_signed("gateway");
    let (acceptor, _) = openssl_self_signed("acceptor");
    let mut ours = link.folder.identity("gateway", &gateway, &[], &[]);
    ours.pinned = vec![link.folder.write("their.pem", &acceptor.pem)];
    let mut theirs = link.folder.identity("acceptor", &acceptor, &[], &[]);
    theirs.pinned = vec![link.folder.write("our.pem", &gateway.pem)];
    let ours = load(&ours, LinkRole::Gateway).unwrap();
    let theirs = load(&theirs, LinkRole::Acceptor).unwrap();
    let server = ServerTls::link(&theirs, &options()).unwrap();
    let client = ClientTls::link(&ours, &options(), NameCheck::ServerName).unwrap();
    let ends = meet(&server, &client, "anything.example", (anybody(), anybody())).await;
    assert!(ends.0.is_ok() && ends.1.is_ok());

    // what the pinned gateway's key signed is not the gateway
    let minted = openssl_self_signed("gateway").0;
    let (accepted, _) = foreign(&server, raw_client(&link.ca, Some(&minted), &[])).await;
    assert!(accepted.is_err());
}

#[tokio::test]
async fn a_certificate_without_its_key_proves_nothing() {
    let link = Link::new();
    let leaf = link.ca.leaf(client("edge.internal"));
    let thief = Leaf {
        key: link.ca.leaf(client("other")).key,
        ..leaf
    };
    // rustls itself would not pair the two
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let provider = crate::tls::provider::provider(&options());
    let key = provider
        .key_provider
        .load_private_key(PrivateKeyDer::from_pem_slice(thief.key.as_bytes()).unwrap())
        .unwrap();
    let stolen =
        rustls::sign::CertifiedKey::new(vec![CertificateDer::from(thief.der.clone())], key);
    let mut config = raw_client(&link.ca, None, &[]);
    config.client_auth_cert_resolver =
        Arc::new(rustls::sign::SingleCertAndKey::from(Arc::new(stolen)));
    let (accepted, denied) = foreign(&link.good_acceptor(), config).await;
    let refused = accepted.unwrap_err();
    assert_eq!(refused.reason, Denial::HandshakeFailed);
    assert!(refused.detail.contains("did not prove"), "{refused}");
    assert!(denied.detail.contains("decrypt_error"), "{denied}");
}

#[rstest]
#[case(&rcgen::PKCS_RSA_SHA256)]
#[case(&rcgen::PKCS_ECDSA_P384_SHA384)]
#[case(&rcgen::PKCS_ED25519)]
#[tokio::test]
async fn every_kind_of_key_works_at_both_ends(#[case] algorithm: Algorithm) {
    let link = Link::new();
    let leaf = link.ca.leaf(Spec {
        algorithm,
        ..client("edge.internal")
    });
    let own = link.ca.leaf(Spec {
        algorithm,
        ..server("legacy.internal")
    });
    let ends = meet(
        &link.acceptor(&own, &[&link.ca]),
        &link.gateway(&leaf, &[], &[&link.ca]),
        "legacy.internal",
        (anybody(), anybody()),
    )
    .await;
    assert!(ends.0.is_ok() && ends.1.is_ok());
}

#[tokio::test]
async fn the_gateway_refuses_a_strange_acceptor_before_showing_itself() {
    let link = Link::new();
    let stranger = Ca::root("stranger");
    let own = stranger.leaf(server("legacy.internal"));
    let acceptor = link.acceptor(&own, &[&link.ca]);
    let asked = Arc::new(AtomicUsize::new(0));
    let judge: Judge = {
        let asked = asked.clone();
        Arc::new(move |_: Option<&PeerFacts>| {
            asked.fetch_add(1, Ordering::Relaxed);
            Err::<Grant, _>(Denied::new(Denial::NameNotAllowed, ""))
        })
    };
    let ends = meet(
        &acceptor,
        &link.good_gateway(),
        "legacy.internal",
        (judge, anybody()),
    )
    .await;
    assert_eq!(ends.1.unwrap_err().reason, Denial::CertificateUnknownIssuer);
    let seen = ends.0.unwrap_err();
    assert!(
        seen.detail.contains("unknown_ca: it does not trust our"),
        "{seen}"
    );
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

// what is no handshake

async fn raw(server: &ServerTls, bytes: &[u8]) -> (Denied, Vec<u8>) {
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    let talk = async {
        near.write_all(bytes).await.unwrap();
        near.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _read = near.read_to_end(&mut answer).await;
        answer
    };
    let (accepted, answer) = tokio::join!(accept(Buffered::new(far), server, anybody()), talk);
    (accepted.unwrap_err(), answer)
}

#[tokio::test]
async fn what_is_no_tls_is_told_apart() {
    let link = Link::new();
    let server = link.good_acceptor();
    let (denied, answer) = raw(&server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(denied.reason, Denial::NotTls);
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.contains("https://"),
        "{answer:?}"
    );
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}", body.len())));

    let (denied, answer) = raw(&server, b"SSH-2.0-OpenSSH_9.2\r\n").await;
    assert_eq!(denied.reason, Denial::NotTls);
    assert!(answer.is_empty(), "{answer:?}");

    let (denied, _) = raw(&server, b"").await;
    assert_eq!(denied.reason, Denial::Truncated);
    assert!(denied.detail.contains("before the first byte"), "{denied}");

    // a record that promises more
    let (denied, _) = raw(&server, &[0x16, 3, 1, 2, 0, 1, 0, 1]).await;
    assert_eq!(denied.reason, Denial::Truncated);

    // a handshake record of noise
    let mut noise = vec![0x16, 3, 1, 0, 64];
    noise.extend([0xaa; 64]);
    let (denied, _) = raw(&server, &noise).await;
    assert_eq!(denied.reason, Denial::HandshakeFailed);
}

#[tokio::test]
async fn a_refused_peer_that_stays_holds_nothing_for_long() {
    let link = Link::new();
    let server = link.good_acceptor();
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let begun = std::time::Instant::now();
    let denied = accept(Buffered::new(far), &server, anybody())
        .await
        .unwrap_err();
    assert_eq!(denied.reason, Denial::NotTls);
    assert!(begun.elapsed() < std::time::Duration::from_secs(5));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn noise_never_panics_and_is_never_let_in(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
        static SERVER: std::sync::OnceLock<ServerTls> = std::sync::OnceLock::new();
        let server = SERVER.get_or_init(|| Link::new().good_acceptor());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let (denied, _) = runtime.block_on(raw(server, &bytes));
        proptest::prop_assert_ne!(denied.reason, Denial::CertificateMissing);
    }
}

// the edge

fn listener(mode: Mode, starttls: bool, client_auth: Option<ClientAuth>) -> GatewayListener {
    use std::time::Duration;
    GatewayListener {
        name: "public".into(),
        address: ListenAddress::Tcp("127.0.0.1:0".parse().unwrap()),
        mode,
        certificates: Vec::new(),
        alpn: if mode == Mode::Http {
            vec!["h2".into(), "http/1.1".into()]
        } else {
            Vec::new()
        },
        allow: None,
        deny: NetworkList::default(),
        client_auth,
        proxy_from: None,
        trusted_proxies: NetworkList::default(),
        path_normalisation: PathNormalisation::Refuse,
        underscore_headers: UnderscoreHeaders::Drop,
        starttls_postgres: starttls,
        ocsp_stapling: true,
        tls: options(),
        limits: Limits {
            connections: 1,
            connections_per_ip: 0,
            handshakes: 1,
            handshake_timeout: Duration::from_secs(1),
            header_timeout: Duration::from_secs(1),
            keepalive_timeout: Duration::from_secs(1),
            body_min_rate: 0,
            response_timeout: Duration::from_secs(1),
            write_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(1),
            header_bytes: 1,
            body_bytes: 0,
            streams: 100,
        },
    }
}

fn edge_listener(
    folder: &Folder,
    leaves: &[(&str, &Leaf)],
    mode: Mode,
    starttls: bool,
    client_auth: Option<ClientAuth>,
) -> GatewayListener {
    GatewayListener {
        certificates: leaves
            .iter()
            .map(|(name, leaf)| CertificateFiles {
                certificate: folder.write(&format!("{name}.pem"), &leaf.pem),
                key: folder.write(&format!("{name}.key"), &leaf.key),
                key_passphrase: None,
                acme: None,
            })
            .collect(),
        ..listener(mode, starttls, client_auth)
    }
}

fn edge_material(
    folder: &Folder,
    leaves: &[(&str, &Leaf)],
    client_auth: Option<ClientAuth>,
) -> Arc<EdgeMaterial> {
    let listener = edge_listener(folder, leaves, Mode::Http, false, client_auth);
    EdgeMaterial::load(&listener, None, now()).unwrap()
}

pub(super) fn edge(
    link: &Link,
    mode: Mode,
    starttls: bool,
    client_auth: Option<ClientAuth>,
) -> ServerTls {
    let own = link.ca.leaf(server("legacy.internal"));
    let listener = edge_listener(&link.folder, &[("edge", &own)], mode, starttls, client_auth);
    let material = EdgeMaterial::load(&listener, None, now()).unwrap();
    ServerTls::edge(&material, &listener, &Staples::default(), None).unwrap()
}

/// One of HTTP whose records are kept so.
pub(super) fn edge_keeping(link: &Link, records: Records) -> ServerTls {
    let own = link.ca.leaf(server("legacy.internal"));
    let mut listener = edge_listener(&link.folder, &[("edge", &own)], Mode::Http, false, None);
    listener.tls.records = records;
    let material = EdgeMaterial::load(&listener, None, now()).unwrap();
    ServerTls::edge(&material, &listener, &Staples::default(), None).unwrap()
}

#[rstest]
#[case::h2(Mode::Http, false, &[b"h2".as_slice(), b"http/1.1"], Some(Some("h2")))]
#[case::h1(Mode::Http, false, &[b"http/1.1".as_slice()], Some(Some("http/1.1")))]
#[case::none(Mode::Http, false, &[], Some(None))]
#[case::nothing_in_common(Mode::Http, false, &[b"imap".as_slice()], None)]
#[case::tcp(Mode::Tcp, false, &[b"h2".as_slice()], Some(None))]
#[case::tcp_ours(Mode::Tcp, false, &[LINK_ALPN], Some(None))]
#[case::postgres(Mode::Tcp, true, &[b"postgresql".as_slice()], Some(Some("postgresql")))]
#[case::postgres_old(Mode::Tcp, true, &[], Some(None))]
#[case::postgres_odd(Mode::Tcp, true, &[b"h2".as_slice()], Some(None))]
#[tokio::test]
async fn the_edge_agrees_on_its_own_protocols(
    #[case] mode: Mode,
    #[case] starttls: bool,
    #[case] offered: &[&[u8]],
    #[case] agreed: Option<Option<&str>>,
) {
    let link = Link::new();
    let server = edge(&link, mode, starttls, None);
    let (accepted, denied) = foreign(&server, raw_client(&link.ca, None, offered)).await;
    match agreed {
        Some(protocol) => {
            let accepted = accepted.unwrap();
            assert_eq!(accepted.alpn.as_deref(), protocol.map(str::as_bytes));
            assert_eq!(accepted.peer, None);
            assert_eq!(accepted.grant.identity, "-");
        }
        None => {
            assert_eq!(accepted.unwrap_err().reason, Denial::NoSharedTls);
            assert!(wants_no_alpn(&denied), "{denied}");
        }
    }
}

#[tokio::test]
async fn certificates_are_chosen_by_name_and_the_first_answers_the_rest() {
    let link = Link::new();
    let first = link.ca.leaf(server("first.example"));
    let second = link.ca.leaf(server("second.example"));
    let wild = link.ca.leaf(server("*.wild.example"));
    let material = edge_material(
        &link.folder,
        &[("first", &first), ("second", &second), ("wild", &wild)],
        None,
    );
    let server = ServerTls::server(&material, &options(), Vec::new(), false).unwrap();
    // the name is checked by the client's verifier; here only what is shown counts
    let caller = link.ca.leaf(client("edge.internal"));
    let identity = link.folder.identity("any", &caller, &[], &[&link.ca]);
    let generation = load(&identity, LinkRole::Gateway).unwrap();
    let any_name = ClientTls::link(&generation, &options(), NameCheck::None).unwrap();
    for (asked, shown) in [
        ("first.example", &first),
        ("second.example", &second),
        ("SECOND.example", &second),
        ("a.wild.example", &wild),
        ("a.b.wild.example", &first),
        ("unknown.example", &first),
        // no SNI is sent for an address
        ("192.0.2.1", &first),
    ] {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let seen = Arc::new(std::sync::Mutex::new(None));
        let look: Judge = {
            let seen = seen.clone();
            Arc::new(move |peer: Option<&PeerFacts>| {
                *seen.lock().unwrap() = peer.map(|p| p.leaf.fingerprint);
                anybody()(peer)
            })
        };
        let (accepted, connected) = tokio::join!(
            accept(Buffered::new(far), &server, anybody()),
            connect(Buffered::new(near), &any_name, name(asked), look)
        );
        assert!(accepted.is_ok() && connected.is_ok(), "{asked}");
        let expected = crate::identity::Sha256::of(&shown.der);
        assert_eq!(*seen.lock().unwrap(), Some(expected), "{asked}");
    }
}

pub(super) fn callers(link: &Link, mode: ClientCert) -> ClientAuth {
    ClientAuth {
        ca: Some(link.folder.write("callers.pem", &link.ca.pem)),
        pinned: Vec::new(),
        revocation: None,
        mode,
        clients: None,
    }
}

#[tokio::test]
async fn callers_with_certificates_are_judged_and_those_without_by_mode() {
    let link = Link::new();
    let leaf = link.ca.leaf(client("caller.internal"));
    let strange = Ca::root("stranger").leaf(client("caller.internal"));
    for (mode, shown, fine) in [
        (ClientCert::Require, Some(&leaf), true),
        (ClientCert::Require, None, false),
        (ClientCert::Require, Some(&strange), false),
        (ClientCert::Optional, Some(&leaf), true),
        (ClientCert::Optional, None, true),
        // a bad certificate is no better for being optional
        (ClientCert::Optional, Some(&strange), false),
    ] {
        let server = edge(&link, Mode::Http, false, Some(callers(&link, mode)));
        let (accepted, _) = foreign(&server, raw_client(&link.ca, shown, &[])).await;
        assert_eq!(accepted.is_ok(), fine, "{mode:?} {:?}", shown.is_some());
        if let Ok(accepted) = accepted {
            assert_eq!(accepted.peer.is_some(), shown.is_some());
        }
    }
}

#[tokio::test]
async fn a_backend_that_speaks_tls_is_verified_by_name() {
    let link = Link::new();
    let plain_leaf = link.ca.leaf(Spec {
        usage: Vec::new(),
        ..server("legacy.internal")
    });
    let material = edge_material(&link.folder, &[("backend", &plain_leaf)], None);
    let server = ServerTls::server(&material, &options(), Vec::new(), false).unwrap();
    let roots = link.folder.write("backend-ca.pem", &link.ca.pem);
    let client = ClientTls::plain(&roots, &options()).unwrap();
    let ends = meet(&server, &client, "legacy.internal", (anybody(), anybody())).await;
    assert!(ends.1.is_ok());
    let ends = meet(&server, &client, "other.internal", (anybody(), anybody())).await;
    assert_eq!(ends.1.unwrap_err().reason, Denial::ServerNameMismatch);
    let other = link.folder.write("other-ca.pem", Ca::root("other").pem);
    let client = ClientTls::plain(&other, &options()).unwrap();
    let ends = meet(&server, &client, "legacy.internal", (anybody(), anybody())).await;
    assert_eq!(ends.1.unwrap_err().reason, Denial::CertificateUnknownIssuer);
}
