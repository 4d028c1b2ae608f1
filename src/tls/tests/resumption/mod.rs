//! Sessions that go on: who is judged then, by what, and for how long they do.

mod callers;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rstest::rstest;
use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::WebPkiSupportedAlgorithms,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    handshakes::{Link, callers, edge, edge_keeping, name, raw_client, raw_client_speaking},
    mint::*,
};
use crate::{
    admit::{Denial, Denied, PeerFacts},
    clock,
    config::{ClientCert, Mode, Records},
    net::Buffered,
    tls::{
        Accepted, ClientTls, Connected, Judge, LinkRole, NameCheck, ServerTls, accept,
        alert::{Side, explain},
        challenge::{ACME_ALPN, Challenges},
        connect,
    },
};

const HOUR: i64 = 3600;

static ONLY_1_2: [&rustls::SupportedProtocolVersion; 1] = [&rustls::version::TLS12];

/// Both ends of one connection, after a byte from the acceptor: tickets came before it.
async fn meet(
    server: &ServerTls,
    client: &ClientTls,
    judges: (Judge, Judge),
) -> (
    Result<Accepted<tokio::io::DuplexStream>, Denied>,
    Result<Connected<tokio::io::DuplexStream>, Denied>,
) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::join!(
        async {
            let mut accepted = accept(Buffered::new(far), server, judges.0).await?;
            // one that refuses us has gone
            let _said = accepted.stream.write_all(b"x").await;
            Ok(accepted)
        },
        async {
            let mut connected = connect(
                Buffered::new(near),
                client,
                name("legacy.internal"),
                judges.1,
            )
            .await?;
            match connected.stream.read_exact(&mut [0]).await {
                Ok(_) => Ok(connected),
                Err(error) => Err(explain(&error, Side::Client)),
            }
        }
    )
}

/// The same with a client of another make; its kind of handshake, or the alert that it got.
async fn come(
    server: &ServerTls,
    config: &Arc<ClientConfig>,
    judge: Judge,
) -> (
    Result<Accepted<tokio::io::DuplexStream>, Denied>,
    Result<HandshakeKind, String>,
) {
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::join!(
        async {
            let mut accepted = accept(Buffered::new(far), server, judge).await?;
            accepted.stream.write_all(b"x").await.unwrap();
            accepted.stream.flush().await.unwrap();
            Ok(accepted)
        },
        async {
            let said = |e: std::io::Error| e.to_string();
            let mut stream = connector
                .connect(name("legacy.internal"), near)
                .await
                .map_err(said)?;
            stream.read_exact(&mut [0]).await.map_err(said)?;
            Ok(stream.get_ref().1.handshake_kind().unwrap())
        }
    )
}

/// Admits while the switch is on.
fn while_on(switch: &Arc<AtomicBool>, reason: Denial) -> Judge {
    let switch = Arc::clone(switch);
    Arc::new(move |peer: Option<&PeerFacts>| {
        if switch.load(Ordering::Relaxed) {
            anybody()(peer)
        } else {
            Err(Denied::new(reason, "by rule"))
        }
    })
}

#[tokio::test]
async fn both_ends_of_a_link_resume_and_know_each_other() {
    let link = Link::new();
    let (server, client) = (link.good_acceptor(), link.good_gateway());
    let first = meet(&server, &client, (anybody(), anybody())).await;
    let first = (first.0.unwrap(), first.1.unwrap());
    assert!(!first.0.session.resumed && !first.1.session.resumed);
    for _ in 0..3 {
        let next = meet(&server, &client, (anybody(), anybody())).await;
        let next = (next.0.unwrap(), next.1.unwrap());
        assert!(next.0.session.resumed && next.1.session.resumed);
        assert_eq!(next.0.peer, first.0.peer);
        assert_eq!(next.0.grant.identity, "dns:edge.internal");
        assert_eq!(next.1.peer, first.1.peer);
        assert_eq!(next.0.chain, first.0.chain);
        assert_eq!(next.1.chain, first.1.chain);
        assert!(next.0.ours() && next.1.ours);
    }
}

#[tokio::test]
async fn a_rule_that_changed_meanwhile_refuses_in_a_full_handshake() {
    let link = Link::new();
    let (server, client) = (link.good_acceptor(), link.good_gateway());
    let on = Arc::new(AtomicBool::new(true));
    let judge = || while_on(&on, Denial::NameNotAllowed);
    let first = meet(&server, &client, (judge(), anybody())).await;
    assert!(first.0.is_ok() && first.1.is_ok());
    on.store(false, Ordering::Relaxed);
    let (accepted, connected) = meet(&server, &client, (judge(), anybody())).await;
    assert_eq!(accepted.unwrap_err().reason, Denial::NameNotAllowed);
    let denied = connected.unwrap_err();
    assert!(denied.detail.contains("access_denied"), "{denied}");
}

#[tokio::test]
async fn an_acceptor_that_is_refused_meanwhile_is_left() {
    let link = Link::new();
    let (server, client) = (link.good_acceptor(), link.good_gateway());
    let on = Arc::new(AtomicBool::new(true));
    let judge = || while_on(&on, Denial::CertificateDenied);
    let first = meet(&server, &client, (anybody(), judge())).await;
    assert!(first.1.is_ok());
    on.store(false, Ordering::Relaxed);
    // the session went on, and was judged before a byte was sent
    let (_, connected) = meet(&server, &client, (anybody(), judge())).await;
    assert_eq!(connected.unwrap_err().reason, Denial::CertificateDenied);
    // its sessions are forgotten: the acceptor is told in a full handshake
    let (accepted, connected) = meet(&server, &client, (anybody(), judge())).await;
    assert_eq!(connected.unwrap_err().reason, Denial::CertificateDenied);
    let denied = accepted.unwrap_err();
    assert!(denied.detail.contains("access_denied"), "{denied}");
}

#[tokio::test]
async fn a_line_of_sessions_ends_an_hour_after_its_full_handshake() {
    let link = Link::new();
    let leaf = link.ca.leaf(client("edge.internal"));
    let server = link.good_acceptor();
    let caller = Arc::new(raw_client(&link.ca, Some(&leaf), &[]));
    for (at, expected) in [
        (0, HandshakeKind::Full),
        (10, HandshakeKind::Resumed),
        (HOUR - 60, HandshakeKind::Resumed),
        // the ticket is a minute old, the full handshake an hour: a full one, and no failure
        (HOUR + 60, HandshakeKind::Full),
        (HOUR + 70, HandshakeKind::Resumed),
        (2 * HOUR + 30, HandshakeKind::Resumed),
        (2 * HOUR + 120, HandshakeKind::Full),
    ] {
        clock::set_ahead(at);
        let (accepted, kind) = come(&server, &caller, anybody()).await;
        assert_eq!(kind, Ok(expected), "{at}");
        let accepted = accepted.unwrap();
        assert_eq!(
            accepted.session.resumed,
            expected == HandshakeKind::Resumed,
            "{at}"
        );
        assert_eq!(accepted.chain[0].as_ref(), leaf.der);
    }
    // a clock that was set back makes nothing younger
    clock::set_ahead(HOUR);
    let (_, kind) = come(&server, &caller, anybody()).await;
    assert_eq!(kind, Ok(HandshakeKind::Full));
}

#[tokio::test]
async fn a_gateway_asks_for_the_acceptors_certificate_every_hour() {
    let link = Link::new();
    let gateway = link.good_gateway();
    let server = link.good_acceptor();
    for (at, expected) in [
        (0, false),
        (10, true),
        (HOUR - 10, true),
        (HOUR, false),
        (HOUR + 10, true),
        (2 * HOUR + 10, false),
        // the clock was set back
        (HOUR, false),
    ] {
        clock::set_ahead(at);
        let (accepted, connected) = meet(&server, &gateway, (anybody(), anybody())).await;
        assert_eq!(connected.unwrap().session.resumed, expected, "{at}");
        assert!(accepted.is_ok());
    }
}

#[tokio::test]
async fn a_caller_whose_certificate_ended_meanwhile_is_refused_as_ever() {
    let link = Link::new();
    let leaf = link.ca.leaf_with(client("edge.internal"), |params| {
        params.not_after = params.not_before + time::Duration::minutes(24 * 60 + 20);
    });
    let server = link.good_acceptor();
    let caller = Arc::new(raw_client(&link.ca, Some(&leaf), &[]));
    for (at, fine) in [(0, true), (19 * 60, true), (21 * 60, false)] {
        clock::set_ahead(at);
        let (accepted, kind) = come(&server, &caller, anybody()).await;
        if fine {
            assert_eq!(accepted.unwrap().session.resumed, at > 0);
        } else {
            assert_eq!(accepted.unwrap_err().reason, Denial::CertificateExpired);
            let alert = kind.unwrap_err();
            assert!(alert.contains("CertificateExpired"), "{alert}");
        }
    }
}

#[tokio::test]
async fn an_acceptor_with_a_new_certificate_is_asked_for_it_when_the_old_one_ends() {
    let link = Link::new();
    let short = link.ca.leaf_with(server("legacy.internal"), |params| {
        params.not_after = params.not_before + time::Duration::minutes(24 * 60 + 20);
    });
    let gateway = link.good_gateway();
    let acceptor = link.acceptor(&short, &[&link.ca]);
    let (_, first) = meet(&acceptor, &gateway, (anybody(), anybody())).await;
    assert!(!first.unwrap().session.resumed);
    clock::set_ahead(19 * 60);
    let (_, again) = meet(&acceptor, &gateway, (anybody(), anybody())).await;
    assert!(again.unwrap().session.resumed);
    clock::set_ahead(21 * 60);
    let (_, refused) = meet(&acceptor, &gateway, (anybody(), anybody())).await;
    assert_eq!(refused.unwrap_err().reason, Denial::CertificateExpired);
    let (_, renewed) = meet(&link.good_acceptor(), &gateway, (anybody(), anybody())).await;
    assert!(!renewed.unwrap().session.resumed);
}

#[tokio::test]
async fn a_list_that_went_stale_refuses_who_would_resume() {
    let link = Link::new();
    let leaf = link.ca.leaf(client("edge.internal"));
    let own = link.ca.leaf(server("legacy.internal"));
    let mut identity = link.folder.identity("acceptor", &own, &[], &[&link.ca]);
    identity.revocation = Some(link.folder.revocation(&[link.ca.crl_until(1, &[], 1)]));
    let generation = load(&identity, LinkRole::Acceptor).unwrap();
    let server = ServerTls::link(&generation, &options()).unwrap();
    let caller = Arc::new(raw_client(&link.ca, Some(&leaf), &[]));
    clock::set_ahead(24 * HOUR - 60);
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let (_, kind) = come(&server, &caller, anybody()).await;
        assert_eq!(kind, Ok(expected));
    }
    clock::set_ahead(24 * HOUR + 60);
    let (accepted, kind) = come(&server, &caller, anybody()).await;
    assert_eq!(accepted.unwrap_err().reason, Denial::CrlExpired);
    assert!(kind.unwrap_err().contains("UnknownCA"));
}

#[tokio::test]
async fn a_gateway_resumes_nothing_across_a_stale_list() {
    let link = Link::new();
    let own = link.ca.leaf(client("edge.internal"));
    let mut identity = link.folder.identity("gateway", &own, &[], &[&link.ca]);
    identity.revocation = Some(link.folder.revocation(&[link.ca.crl_until(1, &[], 1)]));
    let generation = load(&identity, LinkRole::Gateway).unwrap();
    let gateway = ClientTls::link(&generation, &options(), NameCheck::ServerName).unwrap();
    let server = link.good_acceptor();
    clock::set_ahead(24 * HOUR - 60);
    for resumed in [false, true] {
        let (_, connected) = meet(&server, &gateway, (anybody(), anybody())).await;
        assert_eq!(connected.unwrap().session.resumed, resumed);
    }
    clock::set_ahead(24 * HOUR + 60);
    let (_, connected) = meet(&server, &gateway, (anybody(), anybody())).await;
    assert_eq!(connected.unwrap_err().reason, Denial::CrlExpired);
}

#[tokio::test]
async fn sessions_stay_with_their_listener_and_their_load() {
    let link = Link::new();
    let leaf = link.ca.leaf(client("edge.internal"));
    let own = link.ca.leaf(server("legacy.internal"));
    let one = link.acceptor(&own, &[&link.ca]);
    let other = link.acceptor(&own, &[&link.ca]);
    let caller = Arc::new(raw_client(&link.ca, Some(&leaf), &[]));
    for (server, expected) in [
        (&one, HandshakeKind::Full),
        (&one, HandshakeKind::Resumed),
        (&other, HandshakeKind::Full),
        (&one, HandshakeKind::Full),
    ] {
        let (_, kind) = come(server, &caller, anybody()).await;
        assert_eq!(kind, Ok(expected));
    }
}
