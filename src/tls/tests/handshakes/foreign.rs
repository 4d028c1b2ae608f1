//! Peers of another make, and what is agreed on with them.

use super::*;

/// A client of another make: any certificate, any ALPN.
pub(in crate::tls::tests) fn raw_client(
    trust: &Ca,
    leaf: Option<&Leaf>,
    alpn: &[&[u8]],
) -> ClientConfig {
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

pub(in crate::tls::tests) fn raw_client_speaking(
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
pub(super) async fn foreign(
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

    let own = link
        .ca
        .leaf(crate::tls::tests::mint::server("legacy.internal"));
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
