//! Against openssl: bytes both ways, key updates that it asks for, and its end.

use std::{
    io::Write as _,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;

/// The longest wait for openssl on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn openssl(arguments: &[&str]) -> Child {
    Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is needed by this test")
}

fn tell(child: &mut Child, line: &[u8]) {
    child.stdin.as_mut().unwrap().write_all(line).unwrap();
}

/// Talks with openssl; whatever it is, a line that is K makes it ask for new keys.
async fn talk(ours: &mut RecordStream<TcpStream>, child: &mut Child) {
    for _ in 0..3 {
        tell(child, b"hello\n");
        let mut got = [0; 6];
        let read = tokio::time::timeout(PATIENCE, ours.read_exact(&mut got));
        read.await.unwrap().unwrap();
        assert_eq!(&got, b"hello\n");
        tell(child, b"K\n");
        let began = Instant::now();
        while !ours.session.update_due() {
            assert!(began.elapsed() < PATIENCE, "no key update");
            let moment = Duration::from_millis(10);
            let nothing = tokio::time::timeout(moment, ours.read(&mut [0])).await;
            assert!(nothing.is_err(), "{nothing:?}");
        }
        ours.write_all(b"answer\n").await.unwrap();
        assert!(!ours.session.update_due());
    }
    ours.shutdown().await.unwrap();
}

/// What openssl wrote, and that it ended by itself.
async fn said(child: Child) -> String {
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap());
    let output = tokio::time::timeout(PATIENCE, output)
        .await
        .unwrap()
        .unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test]
async fn its_client_changes_keys_and_reads_our_end() {
    let ends = ends();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap().to_string();
    let mut child = openssl(&["s_client", "-tls1_3", "-connect", &to]);
    let (socket, _) = listener.accept().await.unwrap();
    let mut io = Buffered::new(socket);
    let done = server(&mut io, ends.server.clone(), Vec::new())
        .await
        .unwrap();
    let mut ours = done.into_stream(io).unwrap();
    talk(&mut ours, &mut child).await;
    assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);
    let said = said(child).await;
    assert_eq!(said.matches("answer").count(), 3, "{said}");
}

#[tokio::test]
async fn its_server_changes_keys_and_reads_our_end() {
    let ends = ends();
    let folder = tempfile::tempdir().unwrap();
    let pem = folder.path().join("server.pem");
    #[expect(clippy::disallowed_methods, reason = "a throw-away file")]
    std::fs::write(&pem, &ends.pem).unwrap();
    // a port that was free a moment ago
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = port.local_addr().unwrap().to_string();
    drop(port);
    let pem = pem.to_str().unwrap();
    let mut child = openssl(&[
        "s_server", "-tls1_3", "-naccept", "1", "-accept", &to, "-cert", pem, "-key", pem,
    ]);
    let began = Instant::now();
    let socket = loop {
        if let Ok(socket) = TcpStream::connect(&to).await {
            break socket;
        }
        assert!(began.elapsed() < PATIENCE, "s_server does not listen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let mut io = Buffered::new(socket);
    let done = client(&mut io, ends.client.clone(), name(), false)
        .await
        .unwrap();
    let mut ours = done.into_stream(io).unwrap();
    talk(&mut ours, &mut child).await;
    assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);
    let said = said(child).await;
    assert_eq!(said.matches("answer").count(), 3, "{said}");
}
