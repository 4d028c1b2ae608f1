//! Sessions of callers, with and without certificates.

use super::*;

#[tokio::test]
async fn a_ticket_serves_once() {
    let link = Link::new();
    let leaf = link.ca.leaf(client("edge.internal"));
    let server = link.good_acceptor();
    let caller = Arc::new(raw_client(&link.ca, Some(&leaf), &[]));
    drop(come(&server, &caller, anybody()).await);
    // the handshake that takes it fails on its way; the next is a full one
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(&caller));
    tokio::select! {
        _ = accept(Buffered::new(far), &server, anybody()) => {}
        _ = async {
            drop(connector.connect(name("legacy.internal"), Broken(near)).await);
        } => {}
    }
    let (_, kind) = come(&server, &caller, anybody()).await;
    assert_eq!(kind, Ok(HandshakeKind::Full));
}

/// Takes what is written, and ends where an answer is read.
struct Broken(tokio::io::DuplexStream);

impl tokio::io::AsyncRead for Broken {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Broken {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn callers_resume_as_who_they_were() {
    let link = Link::new();
    let leaf = link.ca.leaf(client("caller.internal"));
    for mode in [ClientCert::Require, ClientCert::Optional] {
        let server = edge(&link, Mode::Http, false, Some(callers(&link, mode)));
        let with = Arc::new(raw_client(&link.ca, Some(&leaf), &[]));
        for resumed in [false, true, true] {
            let (accepted, kind) = come(&server, &with, anybody()).await;
            assert_eq!(kind == Ok(HandshakeKind::Resumed), resumed);
            let accepted = accepted.unwrap();
            assert_eq!(accepted.session.resumed, resumed);
            assert_eq!(accepted.grant.identity, "dns:caller.internal");
        }
        let without = Arc::new(raw_client(&link.ca, None, &[]));
        for resumed in [false, true] {
            let (accepted, _) = come(&server, &without, anybody()).await;
            match mode {
                ClientCert::Require => {
                    assert_eq!(accepted.unwrap_err().reason, Denial::CertificateMissing);
                }
                ClientCert::Optional => {
                    let accepted = accepted.unwrap();
                    assert_eq!(accepted.session.resumed, resumed);
                    assert_eq!(accepted.grant.identity, "-");
                }
            }
        }
    }
}

#[tokio::test]
async fn tls_1_2_resumes_only_where_nobody_has_to_be_judged() {
    let link = Link::new();
    let leaf = link.ca.leaf(client("caller.internal"));
    for (auth, resumed) in [
        (Some(callers(&link, ClientCert::Require)), false),
        (None, true),
    ] {
        let server = edge(&link, Mode::Http, false, auth);
        let config = Arc::new(raw_client_speaking(
            &ONLY_1_2,
            &options_1_2(),
            &link.ca,
            Some(&leaf),
            &[],
        ));
        for again in [false, true] {
            let (accepted, kind) = come(&server, &config, anybody()).await;
            assert_eq!(accepted.unwrap().session.resumed, again && resumed);
            assert_eq!(kind == Ok(HandshakeKind::Resumed), again && resumed);
        }
    }
}

/// Takes any certificate, as a CA does that looks for a proof.
#[derive(Debug)]
struct AnyServer(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    // webpki reads no certificate with the critical extension of a proof
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[rstest]
#[case::own(Records::Own)]
#[case::rustls(Records::Rustls)]
#[tokio::test]
async fn a_proof_of_a_name_resumes_nothing(#[case] records: Records) {
    let link = Link::new();
    let challenges = Arc::new(Challenges::default());
    let server = edge_keeping(&link, records).with_challenges(challenges.clone());
    let mut usual = raw_client(&link.ca, None, &[]);
    let algorithms = usual.crypto_provider().signature_verification_algorithms;
    let anything = Arc::new(AnyServer(algorithms));
    usual.dangerous().set_certificate_verifier(anything);
    let usual = Arc::new(usual);
    // with the tickets of the others
    let mut looking = ClientConfig::clone(&usual);
    looking.alpn_protocols = vec![ACME_ALPN.to_vec()];
    let looking = Arc::new(looking);
    let _offered = challenges.offer_tls("legacy.internal", "t.thumb").unwrap();
    // the ticket that is tried is gone for the others
    for _ in 0..2 {
        for resumed in [false, true] {
            let (accepted, _) = come(&server, &usual, anybody()).await;
            assert_eq!(accepted.unwrap().session.resumed, resumed);
        }
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&looking));
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (accepted, looked) = tokio::join!(
            accept(Buffered::new(far), &server, anybody()),
            connector.connect(name("legacy.internal"), near)
        );
        assert_eq!(accepted.unwrap_err().reason, Denial::AcmeChallenge);
        let mut looked = looked.unwrap();
        let kind = looked.get_ref().1.handshake_kind();
        assert_eq!(kind, Some(HandshakeKind::Full));
        assert_eq!(looked.get_ref().1.alpn_protocol(), Some(ACME_ALPN));
        // it ends with its close_notify, and without a ticket
        assert_eq!(looked.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(looked.get_ref().1.tls13_tickets_received(), 0);
    }
}
