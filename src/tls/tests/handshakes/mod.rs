//! Both ends of the link and the edge over a pipe: what each side ends up with, and which alert a
//! refused peer reads.

mod edge;
mod foreign;
mod strange;

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
        ListenAddress, Mode, NetworkList, PathNormalisation, Records, TlsOptions, TrustBundle,
        UnderscoreHeaders,
    },
    identity::{PeerName, PeerNames},
    net::Buffered,
    tls::{
        Accepted, ClientTls, Connected, EdgeMaterial, Judge, LINK_ALPN, LinkRole, NameCheck,
        ServerTls, Staples, accept,
        alert::{Side, explain, wants_no_alpn},
        connect,
    },
};

use self::{edge::edge_material, foreign::foreign};
pub(super) use self::{
    edge::{callers, edge, edge_keeping},
    foreign::{raw_client, raw_client_speaking},
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
async fn a_bundle_speaks_for_no_address() {
    let link = Link::new();
    let partner = Ca::root("partner root");
    let mut ours = link.folder.identity(
        "gateway",
        &link.ca.leaf(client("edge.internal")),
        &[],
        &[&link.ca],
    );
    ours.bundles = vec![TrustBundle {
        file: link.folder.write("partner.pem", &partner.pem),
        names: PeerNames(vec![PeerName::parse("dns:*.partner.example").unwrap()]),
    }];
    let ours = load(&ours, LinkRole::Gateway).unwrap();
    let gateway = ClientTls::link(&ours, &options(), NameCheck::ServerName).unwrap();
    // its own name, and the address of somebody else's acceptor
    let own = partner.leaf(Spec {
        ips: vec!["192.0.2.7".parse().unwrap()],
        ..server("legacy.partner.example")
    });
    let acceptor = link.acceptor(&own, &[&link.ca]);
    let meet = |to| meet(&acceptor, &gateway, to, (anybody(), anybody()));
    assert!(meet("legacy.partner.example").await.1.is_ok());
    let denied = meet("192.0.2.7").await.1.unwrap_err();
    assert_eq!(denied.reason, Denial::IssuerNotForName, "{denied}");
    // whether the address was dialled or is the server_name
    for word in [
        "partner root",
        "trust_bundle",
        "set server_name to a DNS name of its certificate, or acceptor_ids",
    ] {
        assert!(denied.detail.contains(word), "{denied}");
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
