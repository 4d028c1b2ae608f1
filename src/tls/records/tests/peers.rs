//! Against rustls and against ourselves: what is written is what is read, however it is cut.

use proptest::prelude::*;
use rstest::rstest;
use rustls::crypto::aws_lc_rs::cipher_suite;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
};

use super::{super::session::REST, *};

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len)
        .map(|n| (n * 7 + n / 251).to_le_bytes()[0])
        .collect()
}

/// Sends both ways at once, ends both ways, and checks what came.
async fn exchange<A, B>(a: &mut A, b: &mut B, forth: &[u8], back: &[u8])
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    async fn one<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, say: &[u8], hear: &[u8]) {
        let (mut read, mut write) = tokio::io::split(stream);
        let mut heard = Vec::new();
        let (said, got) = tokio::join!(
            async {
                write.write_all(say).await?;
                write.shutdown().await
            },
            read.read_to_end(&mut heard)
        );
        said.unwrap();
        got.unwrap();
        assert!(
            heard == hear,
            "{} octets, expected {}",
            heard.len(),
            hear.len()
        );
    }
    tokio::join!(one(a, forth, back), one(b, back, forth));
}

#[rstest]
#[case::aes128_noted(suite(Cipher::Aes128Gcm))]
#[case::aes256_noted(suite(Cipher::Aes256Gcm))]
#[case::chacha_noted(suite(Cipher::ChaCha20Poly1305))]
#[case::aes128(cipher_suite::TLS13_AES_128_GCM_SHA256)]
#[case::aes256(cipher_suite::TLS13_AES_256_GCM_SHA384)]
#[case::chacha(cipher_suite::TLS13_CHACHA20_POLY1305_SHA256)]
#[tokio::test]
async fn rustls_understands_us_and_we_it(#[case] suite: SupportedCipherSuite) {
    let ends = ends_with(suite);
    for (room, forth, back) in [
        (64, 3000, 500),
        (5000, 100_000, 40_000),
        (1 << 20, 1_000_000, 1),
    ] {
        // our client
        let (near, far) = tokio::io::duplex(room);
        let mut near = Buffered::new(near);
        let acceptor = tokio_rustls::TlsAcceptor::from(ends.server.clone());
        let (opened, accepted) = tokio::join!(
            client(&mut near, ends.client.clone(), name(), false),
            acceptor.accept(far)
        );
        let mut ours = opened.unwrap().into_stream(near).unwrap();
        exchange(
            &mut ours,
            &mut accepted.unwrap(),
            &bytes(forth),
            &bytes(back),
        )
        .await;
        // our server
        let (near, far) = tokio::io::duplex(room);
        let mut far = Buffered::new(far);
        let connector = tokio_rustls::TlsConnector::from(ends.client.clone());
        let (opened, accepted) = tokio::join!(
            connector.connect(name(), near),
            server(&mut far, ends.server.clone(), Vec::new())
        );
        let mut ours = accepted.unwrap().into_stream(far).unwrap();
        exchange(&mut opened.unwrap(), &mut ours, &bytes(forth), &bytes(back)).await;
    }
}

/// Whoever gives the keys away derives them again.
#[rstest]
#[case(suite(Cipher::Aes128Gcm), true)]
#[case(suite(Cipher::Aes256Gcm), true)]
#[case(suite(Cipher::ChaCha20Poly1305), true)]
#[case(cipher_suite::TLS13_AES_128_GCM_SHA256, false)]
#[tokio::test]
async fn a_servers_keys_are_noted_and_rustls_need_not_give_them_away(
    #[case] suite: SupportedCipherSuite,
    #[case] noted: bool,
) {
    let ends = ends_with(suite);
    let mut keeping = ServerConfig::clone(&ends.server);
    keeping.enable_secret_extraction = false;
    let (near, far) = tokio::io::duplex(1 << 20);
    let (mut near, mut far) = (Buffered::new(near), Buffered::new(far));
    let (_opened, accepted) = tokio::join!(
        client(&mut near, ends.client.clone(), name(), false),
        server(&mut far, Arc::new(keeping), Vec::new())
    );
    assert_eq!(accepted.unwrap().into_stream(far).is_ok(), noted);
}

#[tokio::test]
async fn a_key_update_of_rustls_is_followed_and_answered() {
    let ends = ends();
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut far = Buffered::new(far);
    let connector = tokio_rustls::TlsConnector::from(ends.client.clone());
    let (opened, accepted) = tokio::join!(
        connector.connect(name(), near),
        server(&mut far, ends.server.clone(), Vec::new())
    );
    let (mut theirs, mut ours) = (opened.unwrap(), accepted.unwrap().into_stream(far).unwrap());
    for round in 0u8..5 {
        // asks for ours too
        theirs.get_mut().1.refresh_traffic_keys().unwrap();
        theirs.write_all(&[round; 100]).await.unwrap();
        theirs.flush().await.unwrap();
        let mut got = [0; 100];
        ours.read_exact(&mut got).await.unwrap();
        assert_eq!(got, [round; 100]);
        assert!(ours.session.update_due());
        ours.write_all(&[round; 70]).await.unwrap();
        ours.flush().await.unwrap();
        assert!(!ours.session.update_due());
        let mut got = [0; 70];
        theirs.read_exact(&mut got).await.unwrap();
        assert_eq!(got, [round; 70]);
    }
}

#[tokio::test]
async fn a_ticket_reaches_the_clients_store() {
    let ends = ends();
    let mut giving = ServerConfig::clone(&ends.server);
    giving.send_tls13_tickets = 2;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(giving));
    // the first handshake is full, the second is resumed with what the first left behind
    for resumed in [false, true] {
        let (near, far) = tokio::io::duplex(1 << 20);
        let mut near = Buffered::new(near);
        let (opened, accepted) = tokio::join!(
            client(&mut near, ends.client.clone(), name(), false),
            acceptor.accept(far)
        );
        let mut theirs = accepted.unwrap();
        let kind = theirs.get_ref().1.handshake_kind().unwrap();
        assert_eq!(kind == rustls::HandshakeKind::Resumed, resumed);
        let mut ours = opened.unwrap().into_stream(near).unwrap();
        theirs.write_all(b"hello").await.unwrap();
        ours.read_exact(&mut [0; 5]).await.unwrap();
    }
}

/// What comes in one piece with the last record of the handshake needs no further read.
#[tokio::test]
async fn data_behind_the_handshake_is_there_at_once() {
    let ends = ends();
    let (near, far) = tokio::io::duplex(1 << 20);
    let connector = tokio_rustls::TlsConnector::from(ends.client.clone());
    let mut held = Buffered::new(far);
    let (opened, accepted) = tokio::join!(
        async {
            let mut opened = connector.connect(name(), near).await.unwrap();
            opened.write_all(b"at once").await.unwrap();
            opened
        },
        server(&mut held, ends.server.clone(), Vec::new())
    );
    // the client ran first, so that both were in the pipe when the server read on
    let accepted = accepted.unwrap();
    assert!(!accepted.rest.is_empty() && held.buffered().is_empty());
    let mut ours = accepted.into_stream(held).unwrap();
    // whoever has to open a way first holds no buffer meanwhile
    assert!(ours.input.is_none());
    let mut got = [0; 7];
    ours.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"at once");
    drop(opened);
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let (mut a, mut b) = pair(&ends(), 1 << 16).await;
    a.shutdown().await.unwrap();
    assert_eq!(b.read(&mut [0; 9]).await.unwrap(), 0);
    assert_eq!(b.read(&mut [0; 9]).await.unwrap(), 0);
    // the other direction lives on
    b.write_all(b"still here").await.unwrap();
    b.shutdown().await.unwrap();
    let mut rest = Vec::new();
    a.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"still here");
    assert_eq!(kind_of(a.write(b"x").await), io::ErrorKind::BrokenPipe);
    // said once
    a.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_end_without_close_notify_is_no_end() {
    let (mut a, b) = pair(&ends(), 1 << 16).await;
    drop(b);
    let error = a.read(&mut [0; 9]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert!(error.to_string().contains("close_notify"));
    // in the middle of a record too
    let (mut a, mut hostile) = against(Ours::Server).await;
    hostile
        .io
        .write_all(&[23, 3, 3, 0, 50, 1, 2])
        .await
        .unwrap();
    drop(hostile);
    assert_eq!(
        kind_of(a.read(&mut [0; 9]).await),
        io::ErrorKind::UnexpectedEof
    );
}

#[tokio::test]
async fn what_is_buffered_can_be_looked_at() {
    let (mut a, mut b) = pair(&ends(), 1 << 16).await;
    a.write_all(b"GET /").await.unwrap();
    assert_eq!(b.fill_buf().await.unwrap(), b"GET /");
    b.consume(4);
    assert_eq!(b.fill_buf().await.unwrap(), b"/");
    let mut rest = [0; 1];
    b.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"/");
    a.shutdown().await.unwrap();
    assert_eq!(b.fill_buf().await.unwrap(), b"");
}

/// So HTTP waits for a request: whatever comes, the read that follows tells.
#[tokio::test]
async fn who_waits_for_the_first_byte_holds_nothing_and_loses_nothing() {
    let (mut a, mut b) = pair(&ends(), 1 << 16).await;
    let wait = std::time::Duration::from_millis(5);
    let idle = tokio::time::timeout(wait, b.fill_buf()).await;
    assert!(idle.is_err());
    tokio::time::sleep(std::time::Duration::from_millis(REST.into())).await;
    let idle = tokio::time::timeout(wait, b.fill_buf()).await;
    assert!(idle.is_err() && b.input.is_none() && b.output.is_none() && b.session.is_at_rest());
    a.write_all(b"GET /").await.unwrap();
    assert_eq!(b.fill_buf().await.unwrap(), b"GET /");
    let mut got = [0; 5];
    b.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"GET /");
    assert!(b.input.is_none());
    drop(a);
    assert_eq!(kind_of(b.fill_buf().await), io::ErrorKind::UnexpectedEof);
    assert_eq!(
        kind_of(b.read(&mut got).await),
        io::ErrorKind::UnexpectedEof
    );
    let (mut a, mut b) = pair(&ends(), 1 << 16).await;
    a.shutdown().await.unwrap();
    assert_eq!(b.fill_buf().await.unwrap(), b"");
    assert_eq!(b.read(&mut got).await.unwrap(), 0);
}

#[tokio::test]
async fn an_idle_connection_holds_no_buffer() {
    let (mut a, mut hostile) = against(Ours::Server).await;
    let wait = std::time::Duration::from_millis(5);
    let idle = tokio::time::timeout(wait, a.read(&mut [0; 9])).await;
    assert!(idle.is_err() && a.input.is_none() && a.output.is_none() && a.tail.is_empty());
    let mut record = hostile.data(&[7; 1000]);
    let rest = record.split_off(40);
    hostile.io.write_all(&record).await.unwrap();
    let idle = tokio::time::timeout(wait, a.read(&mut [0; 9])).await;
    assert!(idle.is_err() && a.input.is_none());
    assert_eq!(a.tail.len(), 40);
    hostile.io.write_all(&rest).await.unwrap();
    let mut got = [0; 1000];
    a.read_exact(&mut got).await.unwrap();
    assert_eq!(got, [7; 1000]);
    assert!(a.input.is_none() && a.tail.is_empty());
    a.write_all(&[1; 100]).await.unwrap();
    assert!(a.output.is_none());
    assert!(!a.session.is_at_rest());
    // it is not made ready anew for each of many short exchanges
    let idle = tokio::time::timeout(wait, a.read(&mut [0; 9])).await;
    assert!(idle.is_err() && !a.session.is_at_rest());
    tokio::time::sleep(std::time::Duration::from_millis(REST.into())).await;
    let idle = tokio::time::timeout(wait, a.read(&mut [0; 9])).await;
    assert!(idle.is_err() && a.session.is_at_rest());
}

#[tokio::test]
async fn several_slices_make_one_stream() {
    let (mut a, mut b) = pair(&ends(), 1 << 18).await;
    let (head, body) = (bytes(4), bytes(70_000));
    let mut sent = 0;
    while sent < head.len() + body.len() {
        let slices = if sent < head.len() {
            [io::IoSlice::new(&head[sent..]), io::IoSlice::new(&body)]
        } else {
            [
                io::IoSlice::new(&[]),
                io::IoSlice::new(&body[sent - head.len()..]),
            ]
        };
        sent += a.write_vectored(&slices).await.unwrap();
    }
    let mut got = vec![0; sent];
    b.read_exact(&mut got).await.unwrap();
    assert!(got == [head, body].concat());
}

#[derive(Clone, Debug)]
enum Act {
    Write(usize),
    Slices(Vec<usize>),
    Update,
    Flush,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0usize..40_000).prop_map(Act::Write),
        2 => proptest::collection::vec(0usize..20_000, 1..5).prop_map(Act::Slices),
        1 => Just(Act::Update),
        1 => Just(Act::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever the pipe lets through at a time, whatever the reader asks for, whatever keys
    /// change in between.
    #[test]
    fn what_is_written_is_what_is_read(
        room in 1usize..50_000,
        asks in proptest::collection::vec(1usize..70_000, 1..6),
        acts in proptest::collection::vec(act(), 1..12),
    ) {
        run(async move {
            // a handshake through a pipe of one octet takes its time
            let (mut a, mut b) = pair(&ends(), room.max(16)).await;
            let writer = async {
                let mut said = Vec::new();
                for act in acts {
                    match act {
                        Act::Write(len) => {
                            let data = bytes(len);
                            a.write_all(&data).await.unwrap();
                            said.extend(data);
                        }
                        Act::Slices(lens) => {
                            let parts: Vec<Vec<u8>> = lens.into_iter().map(bytes).collect();
                            let slices: Vec<io::IoSlice<'_>> =
                                parts.iter().map(|part| io::IoSlice::new(part)).collect();
                            let n = a.write_vectored(&slices).await.unwrap();
                            said.extend(parts.concat().into_iter().take(n));
                        }
                        Act::Update => a.session.owe_update(),
                        Act::Flush => a.flush().await.unwrap(),
                    }
                }
                a.shutdown().await.unwrap();
                said
            };
            let reader = async {
                let mut heard = Vec::new();
                for ask in asks.iter().cycle() {
                    let mut buf = vec![0; *ask];
                    match b.read(&mut buf).await.unwrap() {
                        0 => break,
                        n => heard.extend_from_slice(&buf[..n]),
                    }
                }
                heard
            };
            let (said, heard) = tokio::join!(writer, reader);
            assert!(said == heard, "{} octets, expected {}", heard.len(), said.len());
        });
    }
}
