//! Bytes that are no TLS, and peers that stay.

use super::*;

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
