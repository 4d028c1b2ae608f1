//! The edge: protocols, certificates by name, callers with certificates.

use super::*;

fn listener(mode: Mode, starttls: bool, client_auth: Option<ClientAuth>) -> GatewayListener {
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
        limits: Limits::least(),
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

pub(super) fn edge_material(
    folder: &Folder,
    leaves: &[(&str, &Leaf)],
    client_auth: Option<ClientAuth>,
) -> Arc<EdgeMaterial> {
    let listener = edge_listener(folder, leaves, Mode::Http, false, client_auth);
    EdgeMaterial::load(&listener, None, now()).unwrap()
}

pub(in crate::tls::tests) fn edge(
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
pub(in crate::tls::tests) fn edge_keeping(link: &Link, records: Records) -> ServerTls {
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

pub(in crate::tls::tests) fn callers(link: &Link, mode: ClientCert) -> ClientAuth {
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
