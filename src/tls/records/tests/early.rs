//! Early data (RFC 8446 section 4.2.10), which we never take: a client that sends it, as one does
//! that holds a ticket from elsewhere, is served without it.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
    sync::Mutex,
    time::Duration,
};

use rstest::rstest;
use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, X25519};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{super::early::Early, *};

/// The longest wait for openssl on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// What openssl's client says to a server of this configuration, and how the server fared.
async fn meet(
    config: Arc<ServerConfig>,
    folder: &Path,
    arguments: &str,
) -> (io::Result<()>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap().to_string();
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-tls1_3", "-ign_eof", "-connect", &to])
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .stdin(Stdio::null());
    let client = tokio::task::spawn_blocking(move || command.output().unwrap());
    let served = async {
        let (socket, _) = listener.accept().await.unwrap();
        let mut io = Buffered::new(socket);
        let done = server(&mut io, config, Vec::new()).await?;
        let mut ours = done.into_stream(io).unwrap();
        ours.write_all(b"welcome\n").await?;
        ours.shutdown().await?;
        // nothing of the early data is taken for data
        assert_eq!(ours.read(&mut [0]).await?, 0);
        Ok(())
    };
    let served = tokio::time::timeout(PATIENCE, served).await.unwrap();
    let Output { stdout, stderr, .. } = tokio::time::timeout(PATIENCE, client)
        .await
        .unwrap()
        .unwrap();
    let said = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
    (served, said)
}

#[rstest]
#[case::one_full_record(16384, 16384, true)]
#[case::several(12_000, 1000, true)]
#[case::many(16384, 512, true)]
#[case::more_than_anybody_offers(60_000, 16384, false)]
#[case::more_in_small_records(40_000, 512, false)]
#[tokio::test]
async fn a_client_that_sends_it_is_served_without(
    #[values(false, true)] asked_again: bool,
    #[case] octets: usize,
    #[case] of_record: usize,
    #[case] serves: bool,
) {
    let ends = ends();
    let folder = tempfile::tempdir().unwrap();
    let with_group = |group| {
        let provider = CryptoProvider {
            kx_groups: vec![group],
            ..CryptoProvider::clone(ends.server.crypto_provider())
        };
        let resolver = ends.server.cert_resolver.clone();
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.enable_secret_extraction = true;
        config.key_log = noter();
        config
    };
    // somebody else takes it, and says so in a ticket
    let mut elsewhere = with_group(X25519);
    elsewhere.max_early_data_size = 1 << 20;
    let session = "-groups X25519:P-256 -sess_out session.pem";
    let (served, said) = meet(Arc::new(elsewhere), folder.path(), session).await;
    served.unwrap();
    assert!(said.contains("Max Early Data: 1048576"), "{said}");

    #[expect(clippy::disallowed_methods, reason = "a throw-away file")]
    std::fs::write(folder.path().join("early"), vec![b'e'; octets]).unwrap();
    let ours = with_group(if asked_again { SECP256R1 } else { X25519 });
    let early = format!(
        "-groups X25519:P-256 -sess_in session.pem -early_data early -max_send_frag {of_record}"
    );
    let (served, said) = meet(Arc::new(ours), folder.path(), &early).await;
    if serves {
        served.unwrap_or_else(|error| panic!("{error}\n{said}"));
        assert!(said.contains("welcome"), "{said}");
        assert!(said.contains("Early data was rejected"), "{said}");
    } else {
        assert_eq!(kind_of(served), io::ErrorKind::InvalidData);
        assert!(!said.contains("welcome"), "{said}");
    }
}

#[test]
fn another_hello_allows_no_more_of_it() {
    let connection = rustls::server::UnbufferedServerConnection::new(ends().server).unwrap();
    // version, random, no session, one suite, no compression, early_data
    let mut hello = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0]].concat();
    hello.extend([0, 4, 0, 42, 0, 0]);
    let len = u8::try_from(hello.len()).unwrap();
    let hello = [&[22, 3, 1, 0, len + 4, 1, 0, 0, len][..], &hello].concat();
    let data = [&[23, 3, 3, 3, 232][..], &[9; 1000]].concat();
    let (mut early, notes) = (Early::default(), Mutex::default());
    let mut skips = |record: &[u8]| early.skips(record, 0, &connection, &notes);
    assert!(!skips(&hello));
    assert!(skips(&data));
    assert!(skips(&data));
    assert!(!skips(&hello));
    assert!(!skips(&data));
}
