//! Bodies on their way: streamed with backpressure, whole or visibly broken.

use std::{
    io::{Read as _, Write as _},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use bytes::Bytes;

use super::{
    Chain,
    bad_h2::{SETTINGS, frame},
    h2::{self, block},
    raw::{Peer, Seen, answering, ok},
};
use crate::world::{Backend, PATIENCE, Running, World, says, until};

/// A backend may answer before it has read a request: the answer arrives, whole, and the client
/// is told to stop, not that something broke.
#[rstest::rstest]
#[case("http/1.1")]
#[case("h2")]
fn an_early_answer_arrives_while_the_client_uploads(#[case] protocol: &str) {
    let world = World::new();
    let backend = if protocol == "h2" {
        h2::hasty(world.address())
    } else {
        Backend::serve(world.address(), |stream| {
            let mut peer = Peer::new(stream);
            if peer.head().is_some() {
                peer.send(
                    "HTTP/1.1 413 Too Much\r\nConnection: close\r\nContent-Length: 5\r\n\r\nearly",
                );
                // it goes on reading for a while, as nginx does
                drop(peer.body(&mut super::raw::Message::default()));
                std::thread::sleep(Duration::from_millis(500));
            }
        })
    };
    let chain = Chain::new(
        world,
        backend.address,
        "",
        &format!("protocol = \"{protocol}\""),
    );
    block(async {
        for _ in 0..10 {
            let mut sender = chain.h2().await;
            let request = h2::request("POST", "/early").body(()).unwrap();
            let (response, mut stream) = sender.send_request(request, false).unwrap();
            stream
                .send_data(Bytes::from_static(b"first"), false)
                .unwrap();
            let answer = h2::whole(response).await.unwrap();
            assert_eq!((answer.status(), answer.text()), (413, "early".to_owned()));
            let reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
            assert_eq!(reset.unwrap(), h2::Reason::NO_ERROR);
        }
    });
    let mut raw = chain.raw();
    raw.request(&["POST /early", "Content-Length: 1000000"]);
    raw.send("first");
    let answer = raw.answer();
    assert_eq!((answer.status(), answer.text()), (413, "early".to_owned()));
}

const MIB: usize = 1 << 20;

fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// Bytes that no two places of a body have alike.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Watches how much a process grows while it lives.
struct Growth {
    stop: mpsc::Sender<()>,
    watching: std::thread::JoinHandle<usize>,
}

impl Growth {
    fn of(process: &Running) -> Self {
        let pid = process.pid();
        let resident = move || -> usize {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("VmRSS"));
            line.unwrap()
                .split_whitespace()
                .nth(1)
                .unwrap()
                .parse()
                .unwrap()
        };
        let before = resident();
        let (stop, stopped) = mpsc::channel();
        let watching = std::thread::spawn(move || {
            let mut most = before;
            while stopped.recv_timeout(Duration::from_millis(10)) == Err(RecvTimeoutError::Timeout)
            {
                most = most.max(resident());
            }
            most - before
        });
        Self { stop, watching }
    }

    fn bounded(self, whose: &str) {
        drop(self.stop);
        let kib = self.watching.join().unwrap();
        assert!(kib < 20 * 1024, "{whose} grew by {kib} KiB");
    }
}

/// Sends 200 MiB; how far it has come is told.
fn large(world: &World, length: bool) -> (Backend, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let progress = Arc::clone(&sent);
    let backend = Backend::serve(world.address(), move |stream| {
        let mut peer = Peer::new(stream);
        while peer.head().is_some() {
            let framing = if length {
                format!("Content-Length: {}", 200 * MIB)
            } else {
                "Transfer-Encoding: chunked".to_owned()
            };
            peer.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"));
            let part = noise(MIB);
            for _ in 0..200 {
                let fine = if length {
                    peer.send(&part)
                } else {
                    peer.send(format!("{MIB:x}\r\n")) && peer.send(&part) && peer.send("\r\n")
                };
                if !fine {
                    return;
                }
                progress.fetch_add(MIB, Ordering::SeqCst);
            }
            if !length {
                peer.send("0\r\n\r\n");
            }
        }
    });
    (backend, sent)
}

#[rstest::rstest]
#[case::length_to_http_1(true, false)]
#[case::chunks_to_http_2(false, true)]
fn a_slow_reader_costs_no_memory(#[case] length: bool, #[case] http2: bool) {
    let world = World::new();
    let (backend, sent) = large(&world, length);
    let chain = Chain::new(world, backend.address, "", "");
    let (left, right) = (Growth::of(&chain.gateway), Growth::of(&chain.acceptor));
    let stuck = || {
        std::thread::sleep(Duration::from_secs(1));
        let came = sent.load(Ordering::SeqCst);
        assert!(came < 40 * MIB, "{came} bytes are somewhere on the way");
    };
    let part = noise(MIB);
    if http2 {
        block(async {
            let sender = chain.h2().await;
            let request = h2::request("GET", "/large").body(()).unwrap();
            let (response, _) = sender.clone().send_request(request, true).unwrap();
            let mut body = response.await.unwrap().into_body();
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            stuck();
            let mut got = 0;
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                for byte in &data {
                    assert_eq!(*byte, part[got % MIB]);
                    got += 1;
                }
            }
            assert_eq!(got, 200 * MIB);
        });
    } else {
        let mut raw = chain.raw();
        raw.request(&["GET /large"]);
        let head = raw.head().unwrap();
        assert_eq!(head.status(), 200);
        stuck();
        let mut got = 0;
        let mut check = |data: &[u8]| {
            let mut data = data;
            while !data.is_empty() {
                let at = got % MIB;
                let n = data.len().min(MIB - at);
                assert!(data[..n] == part[at..at + n], "bytes differ at {got}");
                got += n;
                data = &data[n..];
            }
            got
        };
        if length {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let n = raw.reader().read(&mut buffer).unwrap();
                if check(&buffer[..n]) == 200 * MIB {
                    break;
                }
            }
        } else {
            loop {
                let data = super::raw::chunk(raw.reader()).unwrap();
                check(&data);
                if data.is_empty() {
                    break;
                }
            }
        }
        assert_eq!(check(&[]), 200 * MIB);
    }
    left.bounded("the gateway");
    right.bounded("the acceptor");
}

/// A backend that begins to read only when it is told to, and answers with what came.
fn lazy(world: &World) -> (Backend, mpsc::Sender<()>) {
    let (go, wait) = mpsc::channel();
    let wait = Mutex::new(wait);
    let backend = Backend::serve(world.address(), move |stream| {
        let mut peer = Peer::new(stream);
        while let Some(mut request) = peer.head() {
            wait.lock().unwrap().recv().unwrap();
            peer.body(&mut request).unwrap();
            peer.send(ok(&format!(
                "{} {}",
                request.body.len(),
                sha256(&request.body)
            )));
        }
    });
    (backend, go)
}

#[test]
fn a_large_upload_waits_for_a_slow_backend_and_arrives_whole() {
    let world = World::new();
    let (backend, go) = lazy(&world);
    let chain = Chain::new(world, backend.address, "", "");
    let body = noise(100 * MIB);
    let expected = format!("{} {}", body.len(), sha256(&body));
    let file = chain.world.path("body");
    #[allow(clippy::disallowed_methods, reason = "bytes, of a test")]
    std::fs::write(&file, &body).unwrap();
    let data = format!("@{}", file.display());
    for (flag, framing) in [
        ("--http1.1", "X-Framing: length"),
        ("--http1.1", "Transfer-Encoding: chunked"),
        ("--http2", "X-Framing: frames"),
    ] {
        let (left, right) = (Growth::of(&chain.gateway), Growth::of(&chain.acceptor));
        std::thread::scope(|scope| {
            let uploading = scope.spawn(|| {
                let arguments = [flag, "-H", framing, "-H", "Expect:", "--data-binary", &data];
                chain.curl(&arguments, "/upload")
            });
            std::thread::sleep(Duration::from_secs(1));
            assert!(!uploading.is_finished());
            go.send(()).unwrap();
            let (_, said) = uploading.join().unwrap();
            assert_eq!(said, expected, "{flag} {framing}");
        });
        left.bounded("the gateway");
        right.bounded("the acceptor");
    }
}

/// A next hop that takes nothing of a request holds it for `write_timeout` and no longer, in
/// either mode of the acceptor.
#[rstest::rstest]
#[case("tcp", "X-Framing: length")]
#[case("http", "X-Framing: length")]
#[case("http", "Transfer-Encoding: chunked")]
fn a_backend_that_reads_nothing_is_a_timeout(#[case] mode: &str, #[case] framing: &str) {
    let world = World::new();
    let (backend, go) = lazy(&world);
    let address = backend.address.to_string();
    let limits = "[listener.limits]\nwrite_timeout = \"1s\"\nresponse_timeout = \"1s\"";
    let chain = match mode {
        "tcp" => Chain::new(world, backend.address, limits, ""),
        // the gateway would wait for longer than the acceptor, whose reason it is
        _ => Chain::both(world, &address, limits, "", ""),
    };
    let file = chain.world.path("body");
    #[allow(clippy::disallowed_methods, reason = "bytes, of a test")]
    std::fs::write(&file, noise(30 * MIB)).unwrap();
    let data = format!("@{}", file.display());
    let code = ["-o", "/dev/null", "-w", "%{http_code}"];
    let framing = [
        "--http1.1",
        "-H",
        framing,
        "-H",
        "Expect:",
        "--data-binary",
        &data,
    ];
    let (_, said) = chain.curl(&[&code[..], &framing].concat(), "/stuck");
    assert_eq!(said, "504");
    let process = if mode == "tcp" {
        &chain.gateway
    } else {
        &chain.acceptor
    };
    let line = process.line("/stuck", |line| line["path"] == "/stuck");
    assert_eq!(line["reason"], "upstream_timeout", "{line}");
    assert!(says(&line, "detail", "write_timeout"), "{line}");
    go.send(()).unwrap();
}

/// The same in HTTP/2, where a window that is never opened lets no byte of a body pass.
#[rstest::rstest]
#[case("--http1.1")]
#[case("--http2")]
fn a_backend_that_opens_no_window_is_a_timeout(#[case] version: &str) {
    let world = World::new();
    let backend = Backend::serve(world.address(), |mut stream| {
        let no_window = [0, 4, 0, 0, 0, 0];
        drop(stream.write_all(&frame(SETTINGS, 0, 0, &no_window)));
        let mut sink = [0; 4096];
        while stream.read(&mut sink).is_ok_and(|n| n > 0) {}
    });
    let limits = "[listener.limits]\nresponse_timeout = \"1s\"";
    let chain = Chain::new(world, backend.address, limits, "protocol = \"h2\"");
    let body = "x".repeat(100_000);
    let code = ["-o", "/dev/null", "-w", "%{http_code}", "-H", "Expect:"];
    let (_, said) = chain.curl(&[&code[..], &[version, "-d", &body]].concat(), "/shut");
    assert_eq!(said, "504");
    chain.refused("/shut", 504, "upstream_timeout");
}

/// Server-sent events: each is at the client before the next is made.
#[test]
fn events_arrive_one_by_one() {
    let world = World::new();
    let (seen, next) = mpsc::channel::<()>();
    let next = Mutex::new(next);
    let backend = Backend::serve(world.address(), move |stream| {
        let mut peer = Peer::new(stream);
        while peer.head().is_some() {
            peer.send(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
            );
            for n in 0..5 {
                peer.send(format!("9\r\ndata: {n}\n\n\r\n"));
                next.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            }
            peer.send("0\r\n\r\n");
        }
    });
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    raw.request(&["GET /events", "Accept: text/event-stream"]);
    assert_eq!(
        raw.head().unwrap().one("content-type"),
        Some("text/event-stream")
    );
    for n in 0..5 {
        let event = super::raw::chunk(raw.reader()).unwrap();
        assert_eq!(event, format!("data: {n}\n\n").as_bytes());
        seen.send(()).unwrap();
    }
    assert!(super::raw::chunk(raw.reader()).unwrap().is_empty());
    block(async {
        let sender = chain.h2().await;
        let request = h2::request("GET", "/events").body(()).unwrap();
        let (response, _) = sender.clone().send_request(request, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        for n in 0..5 {
            let event = body.data().await.unwrap().unwrap();
            assert_eq!(event, format!("data: {n}\n\n"));
            seen.send(()).unwrap();
        }
        assert!(h2::ended(&mut body).await);
    });
}

/// Both directions at once, in turns, as gRPC's bidirectional calls do.
#[test]
fn both_directions_stream_at_once() {
    let world = World::new();
    let backend = h2::echo(world.address());
    let chain = Chain::new(world, backend.address, "", "protocol = \"h2\"");
    block(async {
        let mut sender = chain.h2().await;
        let request = h2::request("POST", "/turns").body(()).unwrap();
        let (response, mut stream) = sender.send_request(request, false).unwrap();
        let mut body = response.await.unwrap().into_body();
        for n in 0..10 {
            let word = format!("turn {n}");
            stream.send_data(Bytes::from(word.clone()), false).unwrap();
            assert_eq!(body.data().await.unwrap().unwrap(), word);
        }
        stream.send_data(Bytes::new(), true).unwrap();
        assert!(h2::ended(&mut body).await);
    });
    assert_eq!(chain.line("/turns")["decision"], "admitted");
}

/// What a client did not send to its end never looks whole at the backend.
#[test]
fn an_aborted_upload_is_broken_at_the_backend() {
    let world = World::new();
    let (backend, seen) = answering(world.address(), |_| ok("whole"));
    let chain = Chain::new(world, backend.address, "", "");
    let cut = |path: &str, seen: &Seen| {
        until(path, || {
            let all = seen.all();
            let found = all.into_iter().find(|m| m.target() == path)?;
            assert!(found.start.ends_with("(cut)"), "{path} looks whole");
            Some(())
        });
        let line = chain.line(path);
        assert_ne!(line["decision"], "admitted", "{line}");
    };
    for (path, header) in [
        ("/length", "Content-Length: 100000"),
        ("/chunked", "Transfer-Encoding: chunked"),
    ] {
        let mut raw = chain.raw();
        raw.request(&[&format!("POST {path}"), header]);
        raw.send("5\r\nhello\r\n");
        std::thread::sleep(Duration::from_millis(300));
        drop(raw);
        cut(path, &seen);
        // the same with a clean end of TLS
        let path = format!("{path}/clean");
        let mut raw = chain.raw();
        raw.request(&[&format!("POST {path}"), header]);
        raw.send("5\r\nhello\r\n");
        std::thread::sleep(Duration::from_millis(300));
        raw.tls().conn.send_close_notify();
        raw.tls().flush().unwrap();
        drop(raw);
        cut(&path, &seen);
    }
    for (path, reason) in [
        ("/cancel", Some(h2::Reason::CANCEL)),
        ("/error", Some(h2::Reason::INTERNAL_ERROR)),
        ("/no-error", Some(h2::Reason::NO_ERROR)),
        ("/gone", None),
    ] {
        block(async {
            let mut sender = chain.h2().await;
            let request = h2::request("POST", path).body(()).unwrap();
            let (_response, mut stream) = sender.send_request(request, false).unwrap();
            stream
                .send_data(Bytes::from_static(b"hello"), false)
                .unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
            if let Some(reason) = reason {
                stream.send_reset(reason);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        cut(path, &seen);
    }
    // and a whole one is whole
    let answer = chain.raw().ask(&["POST /whole", "Content-Length: 0"]);
    assert_eq!(answer.text(), "whole");
}

#[rstest::rstest]
#[case("Content-Length: 10\r\n\r\nhello", false)]
#[case("Content-Length: 10\r\n\r\nhello", true)]
#[case("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", false)]
#[case("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", true)]
#[case("Transfer-Encoding: chunked\r\n\r\nA\r\nhello", false)]
#[case("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n", false)]
#[case("Connection: close\r\n\r\nhello", true)]
fn a_broken_answer_never_looks_complete(#[case] answer: &'static str, #[case] reset: bool) {
    let world = World::new();
    let backend = Backend::serve(world.address(), move |stream| {
        let mut peer = Peer::new(stream);
        if peer.head().is_some() {
            peer.send(format!("HTTP/1.1 200 OK\r\n{answer}"));
            std::thread::sleep(Duration::from_millis(300));
            if reset { peer.reset() } else { peer.close() }
        }
    });
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    raw.request(&["GET /one"]);
    let got = raw.try_answer(false);
    assert!(got.is_err(), "{got:?}");
    let line = chain.line("/one");
    assert_eq!(line["decision"], "ended", "{line}");
    assert_eq!(line["reason"], "upstream_broken", "{line}");
    let got = block(async {
        let sender = chain.h2().await;
        h2::ask(&sender, h2::request("GET", "/two").body(()).unwrap()).await
    });
    let error = got.expect_err("a broken answer");
    assert!(error.is_reset(), "the stream, not the connection: {error}");
    for flag in ["--http1.1", "--http2"] {
        let (done, text) = chain.curl(&[flag], "/three");
        assert!(!done, "{text}");
    }
}

#[rstest::rstest]
#[case(h2::Reason::CANCEL)]
#[case(h2::Reason::NO_ERROR)]
fn a_broken_answer_over_http_2_is_broken_too(#[case] reason: h2::Reason) {
    let world = World::new();
    let backend = h2::speaking(world.address(), move |_request, mut respond| async move {
        let head = http::Response::new(());
        let mut out = respond.send_response(head, false)?;
        out.send_data(Bytes::from_static(b"hello"), false)?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        out.send_reset(reason);
        Ok(())
    });
    let chain = Chain::new(world, backend.address, "", "protocol = \"h2\"");
    let mut raw = chain.raw();
    raw.request(&["GET /one"]);
    assert!(raw.try_answer(false).is_err());
    let got = block(async {
        let sender = chain.h2().await;
        h2::ask(&sender, h2::request("GET", "/two").body(()).unwrap()).await
    });
    assert!(got.expect_err("a broken answer").is_reset());
    assert_eq!(chain.line("/one")["reason"], "upstream_broken");
}

/// A link that breaks is no end of a body that only the end of its connection delimits.
#[test]
fn an_acceptor_that_dies_breaks_the_answer() {
    let world = World::new();
    let backend = Backend::serve(world.address(), |stream| {
        let mut peer = Peer::new(stream);
        if peer.head().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello");
            std::thread::sleep(PATIENCE);
        }
    });
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    raw.request(&["GET /"]);
    assert_eq!(raw.head().unwrap().status(), 200);
    chain.acceptor.signal(rustix::process::Signal::KILL);
    assert!(raw.reader().read_to_end(&mut Vec::new()).is_err());
}
