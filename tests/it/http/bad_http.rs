//! What a peer does wrong, in front or behind: the right status, the reason in the log, and never
//! a second request at the backend.

use std::{
    io::{self, Read as _, Write as _},
    time::{Duration, Instant},
};

use portcullis::pki::Role;

use super::{
    Chain,
    h2::{self, block},
    raw::{Message, Peer, Raw, Seen, answering, mirror, ok},
    site,
};
use crate::world::{Backend, World, says, until};

fn behind(listener: &str, more: &str) -> (Chain, Backend, Seen) {
    let world = World::new();
    let (backend, seen) = mirror(world.address());
    let chain = Chain::new(world, backend.address, listener, more);
    (chain, backend, seen)
}

/// The first answer, though the client may not have been able to send all.
fn answer_to(raw: &mut Raw, bytes: &[u8]) -> Option<Message> {
    // what is refused early may not take all of it
    drop(raw.try_send(bytes));
    raw.try_answer(false).ok()
}

#[test]
fn heads_have_bounds() {
    let (chain, _backend, seen) = behind("", "");
    let long = format!(
        "GET /long HTTP/1.1\r\nHost: site.test\r\nX-Long: {}\r\n\r\n",
        "x".repeat(1 << 20)
    );
    let many: String = (0..10_000).map(|n| format!("X-{n}: y\r\n")).collect();
    let many = format!("GET /many HTTP/1.1\r\nHost: site.test\r\n{many}\r\n");
    let target = format!(
        "GET /{} HTTP/1.1\r\nHost: site.test\r\n\r\n",
        "x".repeat(1 << 20)
    );
    for (what, text, expected) in [
        ("long", &long, vec![431]),
        ("many", &many, vec![431]),
        ("target", &target, vec![414, 431]),
    ] {
        let mut raw = chain.raw();
        let answer = answer_to(&mut raw, text.as_bytes());
        let status = answer
            .unwrap_or_else(|| panic!("{what}: no answer"))
            .status();
        assert!(expected.contains(&status), "{what}: {status}");
        raw.ends();
    }
    chain.gateway.refusal("header_too_large");
    let lines = || {
        chain
            .gateway
            .count(|l| l["message"] == "access" && l["reason"] == "header_too_large")
    };
    until("a line for each", || (lines() == 3).then_some(()));
    block(async {
        for fields in [1, 10_000] {
            let mut request = h2::request("GET", "/h2");
            for n in 0..fields {
                request = request.header(format!("x-{n}"), "y".repeat((1 << 20) / fields));
            }
            let sender = chain.h2().await;
            match h2::ask(&sender, request.body(()).unwrap()).await {
                Ok(answer) => assert_eq!(answer.status(), 431),
                Err(error) => assert!(error.is_remote() || error.is_io(), "{error}"),
            }
        }
    });
    // what fits passes
    let fits = format!("X-Fits: {}", "x".repeat(16 << 10));
    assert_eq!(chain.raw().ask(&["GET /fits", &fits]).status(), 200);
    assert_eq!(seen.targets(), ["/fits"]);
}

/// Whatever the answer is: the backend sees at most one request, and none that was smuggled.
#[rstest::rstest]
#[case::two_framings(
    "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n"
)]
#[case::two_framings_reversed(
    "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n"
)]
#[case::two_lengths(
    "Content-Length: 5\r\nContent-Length: 0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n"
)]
#[case::list_of_lengths(
    "Content-Length: 0, 5\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n"
)]
#[case::signed_length(
    "Content-Length: +0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n"
)]
#[case::hex_length("Content-Length: 0x0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n")]
#[case::negative_length(
    "Content-Length: -1\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n"
)]
#[case::huge_length(
    "Content-Length: 99999999999999999999\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n"
)]
#[case::unknown_coding(
    "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n"
)]
#[case::chunked_not_last(
    "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n"
)]
#[case::a_coding_more("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n")]
#[case::chunked_twice("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")]
#[case::space_before_colon(
    "Content-Length : 0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n"
)]
#[case::folded(
    "X-Folded: a\r\n b\r\nContent-Length: 0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n"
)]
#[case::nul("X-Nul: a\0b\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n")]
#[case::bare_cr(
    "X-Cr: a\rContent-Length: 0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n"
)]
#[case::bad_chunk(
    "Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n"
)]
#[case::signed_chunk(
    "Transfer-Encoding: chunked\r\n\r\n+0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n"
)]
#[case::long_chunk(
    "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n"
)]
fn framing_that_can_be_read_in_two_ways_is_refused(#[case] rest: &str) {
    let (chain, _backend, seen) = behind("", "");
    let mut raw = chain.raw();
    let text = format!("POST /first HTTP/1.1\r\nHost: site.test\r\n{rest}");
    let answer = answer_to(&mut raw, text.as_bytes());
    raw.ends();
    let all = seen.all();
    let whole: Vec<&Message> = all.iter().filter(|m| !m.start.ends_with("(cut)")).collect();
    assert_eq!(whole.len(), 0, "{all:?}");
    assert_eq!(answer.map(|a| a.status()), Some(400));
    chain.gateway.refusal("request_invalid");
}

#[test]
fn bodies_are_as_long_as_declared() {
    let (chain, _backend, seen) = behind("", "");
    // longer: the rest is a request of its own, and no good one
    let mut raw = chain.raw();
    raw.request(&["POST /longer", "Content-Length: 2"]);
    raw.send("okGARBAGE\r\n\r\n");
    assert_eq!(raw.answer().status(), 200);
    assert_eq!(
        raw.try_answer(false).map(|a| a.status()).unwrap_or(400),
        400
    );
    raw.ends();
    assert_eq!(seen.last().body, b"ok");
    let before = seen.all().len();
    block(async {
        for (length, body) in [("2", "longer"), ("9", "short")] {
            let sender = chain.h2().await;
            let request = h2::request("POST", "/h2").header("content-length", length);
            let got = h2::post(&sender, request.body(()).unwrap(), body.as_bytes(), None).await;
            match got {
                Ok(answer) => assert_eq!(answer.status(), 400),
                Err(error) => assert!(error.is_reset(), "{error}"),
            }
        }
    });
    std::thread::sleep(Duration::from_millis(200));
    let all = seen.all();
    let later = all.iter().skip(before);
    for request in later {
        assert!(request.start.ends_with("(cut)"), "{request:?}");
    }
}

#[test]
fn plain_http_is_told_to_come_with_tls() {
    let (chain, backend, _seen) = behind("", "");
    let mut stream = chain.world.client().tcp(chain.edge).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: site.test\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
    assert!(text.contains("https://"), "{text}");
    chain.gateway.refusal("not_tls");
    let mut stream = chain.world.client().tcp(chain.edge).unwrap();
    stream.write_all(&[0xff; 300]).unwrap();
    drop(stream.read_to_end(&mut Vec::new()));
    assert_eq!(backend.connections(), 0);
}

/// Runs `ask` and says how long the connection lived from then on.
fn lived(raw: &mut Raw, mut ask: impl FnMut(&mut Raw) -> bool) -> Duration {
    let began = Instant::now();
    while ask(raw) {
        assert!(began.elapsed() < Duration::from_secs(15), "it lives on");
    }
    began.elapsed()
}

#[test]
fn a_slow_head_is_not_waited_for() {
    let limits = "[listener.limits]\nheader_timeout = \"1s\"\nkeepalive_timeout = \"3s\"";
    let (chain, _backend, seen) = behind(limits, "");
    // one byte at a time, more often than any timeout
    let mut raw = chain.raw();
    let mut bytes = b"GET /slow HTTP/1.1\r\nHost: site.test\r\nX-Slow: "
        .iter()
        .chain([b'x'; 999].iter());
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        raw.send([*bytes.next().unwrap()]);
        std::thread::sleep(Duration::from_millis(100));
    }
    let late = raw.answer();
    assert_eq!(late.status(), 408);
    assert_eq!(
        late.text(),
        "request_timeout: the request head did not arrive in time\n"
    );
    raw.ends();
    let line = chain.gateway.refusal("request_timeout");
    assert_eq!(
        (&line["decision"], &line["status"]),
        (&"refused".into(), &408.into())
    );
    // nothing at all
    let mut raw = chain.raw();
    let took = lived(&mut raw, |raw| raw.head().is_ok());
    assert!((1..5).contains(&took.as_secs()), "{took:?}");
    // between requests the other limit holds
    let mut raw = chain.raw();
    assert_eq!(raw.ask(&["GET /one"]).status(), 200);
    std::thread::sleep(Duration::from_millis(1700));
    assert_eq!(raw.ask(&["GET /two"]).status(), 200);
    let took = lived(&mut raw, |raw| raw.head().is_ok());
    assert!((2..6).contains(&took.as_secs()), "{took:?}");
    assert_eq!(seen.targets(), ["/one", "/two"]);
}

/// Frames between requests begin no head; an idle connection is told to go in its time.
#[test]
fn an_idle_http_2_connection_may_ping() {
    let limits = "[listener.limits]\nheader_timeout = \"1s\"\nkeepalive_timeout = \"3s\"";
    let (chain, _backend, _seen) = behind(limits, "");
    block(async {
        let stream = chain.h2_stream(&chain.world.client()).await;
        let (sender, mut connection) = ::h2::client::handshake(stream).await.unwrap();
        let mut ping = connection.ping_pong().unwrap();
        let driving = async {
            let began = Instant::now();
            let end = connection.await;
            (began.elapsed(), end)
        };
        let asking = async {
            let answer = h2::ask(&sender, h2::request("GET", "/one").body(()).unwrap()).await;
            assert_eq!(answer.unwrap().status(), 200);
            for _ in 0..4 {
                ping.ping(::h2::Ping::opaque()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            let answer = h2::ask(&sender, h2::request("GET", "/two").body(()).unwrap()).await;
            assert_eq!(answer.unwrap().status(), 200);
        };
        let ((lived, end), ()) = tokio::join!(driving, asking);
        assert!((5..10).contains(&lived.as_secs()), "{lived:?}");
        if let Err(error) = end {
            // an answer to a last PING may come too late
            assert!(error.is_io(), "{error}");
        }
    });
}

/// Who neither asks nor goes when told to is not waited for; a stalled head neither.
#[test]
fn a_silent_http_2_connection_ends() {
    let limits = "[listener.limits]\nheader_timeout = \"1s\"\nkeepalive_timeout = \"1s\"";
    let (chain, _backend, _seen) = behind(limits, "");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    // SETTINGS alone; and HEADERS without END_HEADERS
    let headers = [&preface[..], &[0, 0, 1, 1, 1, 0, 0, 0, 1, 0x82]].concat();
    for bytes in [preface, headers] {
        let client = chain.world.client().alpn("h2");
        let mut stream = client.connect(chain.edge, "site.test").unwrap();
        stream.write_all(&bytes).unwrap();
        stream.flush().unwrap();
        let began = Instant::now();
        drop(stream.read_to_end(&mut Vec::new()));
        assert!(
            began.elapsed() < Duration::from_secs(6),
            "{:?}",
            began.elapsed()
        );
    }
    chain.gateway.refusal("request_timeout");
}

#[test]
fn a_slow_body_is_not_waited_for() {
    let limits = "[listener.limits]\nbody_min_rate = \"1KiB\"";
    let (chain, _backend, seen) = behind(limits, "");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut raw = chain.raw();
            raw.request(&["POST /slow", "Content-Length: 100000"]);
            let began = Instant::now();
            while raw.try_send("x").is_ok() && began.elapsed() < Duration::from_secs(11) {
                std::thread::sleep(Duration::from_millis(200));
            }
            assert_eq!(raw.answer().status(), 408);
        });
        scope.spawn(|| {
            // 2 KiB a second
            let mut raw = chain.raw();
            raw.request(&["POST /steady", "Content-Length: 24576"]);
            for _ in 0..24 {
                raw.try_send([b'x'; 1024])
                    .unwrap_or_else(|e| panic!("{e} {}", chain.gateway.text()));
                std::thread::sleep(Duration::from_millis(500));
            }
            assert_eq!(raw.answer().status(), 200);
        });
    });
    chain.refused("/slow", 408, "request_too_slow");
    let whole = seen
        .all()
        .into_iter()
        .filter(|m| !m.start.ends_with("(cut)"));
    assert_eq!(whole.map(|m| m.body.len()).collect::<Vec<_>>(), [24_576]);
}

/// The time that a backend takes is not its client's fault.
#[test]
fn a_slow_backend_makes_no_slow_client() {
    let world = World::new();
    let backend = Backend::serve(world.address(), |stream| {
        let mut peer = Peer::new(stream);
        let mut request = peer.head().unwrap();
        std::thread::sleep(Duration::from_secs(11));
        peer.body(&mut request).unwrap();
        peer.send(ok("slow backend"));
    });
    let chain = Chain::new(
        world,
        backend.address,
        "[listener.limits]\nbody_min_rate = \"64MiB\"",
        "",
    );
    let mut raw = chain.raw();
    raw.request(&["POST /", "Content-Length: 33554432"]);
    raw.send(vec![b'x'; 32 << 20]);
    assert_eq!(raw.answer().text(), "slow backend");
}

/// A client that is owed bytes and takes none, on a connection or on a stream.
#[test]
fn a_client_that_never_reads_is_not_waited_for() {
    let world = World::new();
    let backend = Backend::serve(world.address(), |stream| {
        let mut peer = Peer::new(stream);
        while peer.head().is_some() {
            peer.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                64 << 20
            ));
            let part = vec![b'x'; 1 << 20];
            for _ in 0..64 {
                if !peer.send(&part) {
                    return;
                }
            }
        }
    });
    let limits = "[listener.limits]\nwrite_timeout = \"1s\"";
    let chain = Chain::new(world, backend.address, limits, "");
    let mut raw = chain.raw();
    raw.request(&["GET /never"]);
    let line = chain.line("/never");
    assert_eq!(line["decision"], "ended", "{line}");
    assert_eq!(line["reason"], "write_timeout", "{line}");
    // nor does the system keep for it what it did not take
    let left = raw.reader().read_to_end(&mut Vec::new());
    assert_eq!(left.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    block(async {
        let sender = chain.h2().await;
        let request = h2::request("GET", "/never/h2").body(()).unwrap();
        let (response, _) = sender.clone().send_request(request, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let error = loop {
            // what is taken here makes no room in the window
            if let Err(error) = body.data().await.unwrap() {
                break error;
            }
        };
        let kind = error.get_io().map(io::Error::kind);
        assert_eq!(kind, Some(io::ErrorKind::ConnectionReset), "{error:?}");
    });
    let line = chain.line("/never/h2");
    assert_eq!(line["reason"], "write_timeout", "{line}");
}

#[test]
fn bodies_have_a_bound_where_one_is_set() {
    let limits = "[listener.limits]\nbody_bytes = \"1MiB\"";
    let (chain, _backend, seen) = behind(limits, "");
    let mut raw = chain.raw();
    raw.request(&["POST /declared", "Content-Length: 1048577"]);
    assert_eq!(raw.answer().status(), 413);
    chain.refused("/declared", 413, "body_too_large");
    let mut raw = chain.raw();
    raw.request(&["POST /chunked", "Transfer-Encoding: chunked"]);
    let mut chunk = format!("{:x}\r\n", 1 << 18).into_bytes();
    chunk.extend(vec![b'x'; 1 << 18]);
    chunk.extend(b"\r\n");
    for _ in 0..5 {
        drop(raw.try_send(&chunk));
    }
    assert_eq!(raw.answer().status(), 413);
    chain.refused("/chunked", 413, "body_too_large");
    // a client that goes on sending hears it all the same
    let file = chain.world.write("big", &"x".repeat(40 << 20));
    let data = format!("@{}", file.display());
    for framing in ["X-Framing: length", "Transfer-Encoding: chunked"] {
        let arguments = [
            "--http1.1",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-H",
            "Expect:",
        ];
        let mut arguments = arguments.to_vec();
        arguments.extend(["-H", framing, "--data-binary", &data]);
        let (_, text) = chain.curl(&arguments, "/curl");
        assert!(text.ends_with("413"), "{framing}: {text}");
    }
    block(async {
        for length in [Some(40 << 20), None] {
            let mut sender = chain.h2().await;
            let mut request = h2::request("POST", "/h2");
            if let Some(length) = length {
                request = request.header("content-length", length);
            }
            let request = request.body(()).unwrap();
            let (response, mut stream) = sender.send_request(request, false).unwrap();
            stream.send_data(vec![b'x'; 4 << 20].into(), false).unwrap();
            assert_eq!(h2::whole(response).await.unwrap().status(), 413);
            let reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
            assert_eq!(reset.unwrap(), h2::Reason::NO_ERROR);
        }
    });
    let mut raw = chain.raw();
    raw.request(&["POST /fits", "Content-Length: 1048576"]);
    raw.send(vec![b'x'; 1 << 20]);
    assert_eq!(raw.answer().status(), 200);
    let all = seen.all();
    let whole = all.iter().filter(|m| !m.start.ends_with("(cut)"));
    assert_eq!(whole.map(Message::target).collect::<Vec<_>>(), ["/fits"]);
}

#[test]
fn a_silent_backend_is_504() {
    let world = World::new();
    let (backend, _seen) = answering(world.address(), |request| {
        if request.target().starts_with("/slow") {
            std::thread::sleep(Duration::from_secs(2));
        }
        ok("late")
    });
    let limits = "[listener.limits]\nresponse_timeout = \"500ms\"";
    let chain = Chain::new(world, backend.address, limits, "");
    let mut raw = chain.raw();
    let answer = raw.ask(&["GET /slow"]);
    assert_eq!(answer.status(), 504);
    assert!(
        answer.text().starts_with("gateway_timeout: "),
        "{}",
        answer.text()
    );
    chain.refused("/slow", 504, "upstream_timeout");
    // the late answer is nobody else's
    assert_eq!(raw.ask(&["GET /fast"]).text(), "late");
    assert_eq!(chain.line("/fast")["status"], 200);
    block(async {
        let sender = chain.h2().await;
        let ask = |path| h2::ask(&sender, h2::request("GET", path).body(()).unwrap());
        let (one, two, quick) = tokio::join!(ask("/slow/1"), ask("/slow/2"), ask("/quick"));
        let answers = [one, two, quick].map(|answer| answer.unwrap().status());
        assert_eq!(answers, [504, 504, 200]);
    });
    chain.refused("/slow/1", 504, "upstream_timeout");
}

#[test]
fn a_backend_that_talks_nonsense_is_502() {
    let world = World::new();
    let backend = Backend::serve(world.address(), |stream| {
        let mut peer = Peer::new(stream);
        if let Some(request) = peer.head() {
            if request.target() == "/nonsense" {
                peer.send("SMTP ready\r\n\r\n");
            }
            peer.close();
        }
    });
    let chain = Chain::new(world, backend.address, "", "");
    for path in ["/nonsense", "/nothing"] {
        let answer = chain.raw().ask(&[&format!("GET {path}")]);
        assert_eq!(answer.status(), 502, "{path}");
        assert!(
            answer
                .text()
                .starts_with("bad_gateway: the service can't be reached")
        );
        chain.refused(path, 502, "upstream_broken");
    }
}

/// Says nothing to the caller that it need not know.
fn assert_discreet(answer: &Message, chain: &Chain) {
    let text = format!("{:?} {}", answer.headers, answer.text());
    for secret in [
        "revoked",
        "acceptor",
        "legacy",
        "certificate",
        "127.",
        "trusted",
    ] {
        assert!(!text.contains(secret), "{text}");
    }
    assert!(!text.contains(&chain.world.ip().to_string()));
}

#[test]
fn an_acceptor_or_backend_that_is_down_is_502() {
    let world = World::new();
    let nowhere = world.address();
    let chain = Chain::new(world, nowhere, "", "");
    let answer = chain.raw().ask(&["GET /no-backend"]);
    assert_eq!(answer.status(), 502);
    assert_discreet(&answer, &chain);
    chain.refused("/no-backend", 502, "backend_unreachable");
    chain.acceptor.refusal("backend_unreachable");
    chain.acceptor.signal(rustix::process::Signal::KILL);
    std::thread::sleep(Duration::from_millis(300));
    let answer = chain.raw().ask(&["GET /no-acceptor"]);
    assert_eq!(answer.status(), 502);
    assert_discreet(&answer, &chain);
    let line = chain.refused("/no-acceptor", 502, "upstream_unreachable");
    assert_eq!(line["backend"], "legacy");
}

#[test]
fn an_acceptor_that_refuses_us_is_502() {
    let (chain, backend, _seen) = behind("", "");
    let mut raw = chain.raw();
    assert_eq!(raw.ask(&["GET /before"]).status(), 200);
    let reason = portcullis::pki::Reason::KeyCompromise;
    chain
        .world
        .authority
        .revoke("gateway/edge-1", reason)
        .unwrap();
    // the kept link connection ends too, as soon as the CRL has been read
    chain.acceptor.reload();
    until("the end of the kept link", || {
        let reason = |l: &serde_json::Value| l["reason"] == "rules_changed";
        (chain.acceptor.count(reason) > 0).then_some(())
    });
    let answer = raw.ask(&["GET /revoked"]);
    assert_eq!(answer.status(), 502);
    assert_discreet(&answer, &chain);
    let line = chain.refused("/revoked", 502, "upstream_refused");
    assert!(says(&line, "detail", "revoked"), "{line}");
    chain.acceptor.refusal("certificate_revoked");
    assert_eq!(backend.connections(), 1);
}

#[test]
fn an_acceptor_that_does_not_trust_our_address_is_502() {
    let world = World::new();
    let (backend, seen) = mirror(world.address());
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let edge = world.address();
    let text = world.gateway_text("http", edge, link, "", "");
    // .1 is trusted, .77 is not
    let from = world.other_ip(77);
    let text = text.replace(
        &format!("bind = \"{}\"", world.ip()),
        &format!("bind = \"{from}\""),
    );
    let gateway = world.gateway(&text);
    let chain = Chain {
        world,
        acceptor,
        gateway,
        edge,
    };
    let answer = chain.raw().ask(&["GET /elsewhere"]);
    assert_eq!(answer.status(), 502);
    assert_discreet(&answer, &chain);
    let line = chain.line("/elsewhere");
    assert_eq!(line["decision"], "refused");
    let reason = line["reason"].as_str().unwrap();
    assert!(
        ["upstream_refused", "upstream_unreachable"].contains(&reason),
        "{line}"
    );
    assert_eq!(
        chain.acceptor.refusal("source_untrusted")["decision"],
        "refused"
    );
    assert!(seen.all().is_empty());
}

/// A server of another maker says no only after its handshake, in answer to our first bytes.
#[test]
fn a_foreign_acceptor_that_refuses_us_is_502() {
    let world = World::new();
    let stranger = World::new();
    let address = world.address();
    let leaf = world.leaf(Role::Acceptor, "legacy");
    let trust = stranger.authority.trust();
    let mut server = std::process::Command::new("openssl")
        .args([
            "s_server",
            "-accept",
            &address.to_string(),
            "-www",
            "-Verify",
            "3",
        ])
        .args(["-verify_return_error", "-tls1_3", "-cert"])
        .arg(&leaf.certificate)
        .arg("-cert_chain")
        .arg(&leaf.certificate)
        .arg("-key")
        .arg(&leaf.key)
        .arg("-CAfile")
        .arg(&trust)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("s_server", || std::net::TcpStream::connect(address).ok());
    let edge = world.address();
    let gateway = world.gateway(&world.gateway_text("http", edge, address, "", ""));
    let (acceptor, _) = world.plain_acceptor("127.0.0.1:9", "");
    let chain = Chain {
        world,
        acceptor,
        gateway,
        edge,
    };
    let answer = chain.raw().ask(&["POST /foreign", "Content-Length: 0"]);
    drop(server.kill());
    drop(server.wait());
    assert_eq!(answer.status(), 502);
    assert_discreet(&answer, &chain);
    let line = chain.refused("/foreign", 502, "upstream_refused");
    assert!(says(&line, "detail", "unknown"), "{line}");
}

/// Two acceptors, of which one refuses us, or is not there, or is silent.
#[rstest::rstest]
#[case("refuses")]
#[case("absent")]
#[case("silent")]
fn another_acceptor_takes_the_request(#[case] first: &str) {
    let world = World::new();
    let (backend, seen) = mirror(world.address());
    let (good, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let mut keep: Vec<Box<dyn std::any::Any>> = Vec::new();
    let other = match first {
        "refuses" => {
            let address = world.address();
            let text = format!(
                "[[listener]]\nname = \"strict\"\naddress = \"{address}\"\nmode = \"tcp\"\n\
                 backend = \"{}\"\ntrusted_ips = [\"{}\"]\n\
                 gateways = [\"spiffe://example.internal/gateway/other\"]\n",
                backend.address,
                world.ip()
            );
            let text = world.common(Role::Acceptor, "legacy") + &text;
            let text = text.replace("acceptor.sock", "strict.sock");
            let config = world.write("strict.toml", &text);
            keep.push(Box::new(crate::world::Running::start("acceptor", &config)));
            address
        }
        "silent" => {
            let silent = Backend::serve(world.address(), |_stream| {
                std::thread::sleep(Duration::from_secs(20));
            });
            silent.address
        }
        _ => world.address(),
    };
    let edge = world.address();
    let text = world.gateway_text(
        "http",
        edge,
        link,
        "",
        "connect_timeout = \"1s\"\nbalance = \"round-robin\"\npool = { idle = 0 }",
    );
    let text = text.replace(
        &format!("[\"{link}\"]"),
        &format!("[\"{other}\", \"{link}\"]"),
    );
    let gateway = world.gateway(&text);
    let chain = Chain {
        world,
        acceptor: good,
        gateway,
        edge,
    };
    let mut raw = chain.raw();
    for n in 0..6 {
        let path = format!("/{n}");
        assert_eq!(
            raw.ask(&[&format!("POST {path}"), "Content-Length: 0"])
                .text(),
            path
        );
        assert_eq!(chain.line(&path)["acceptor"], link.to_string());
    }
    assert_eq!(seen.all().len(), 6, "each once");
    let failed = chain
        .gateway
        .line("the failure", |l| l["message"] == "link connection failed");
    assert_eq!(failed["acceptor"], other.to_string());
    let reason = match first {
        "refuses" => "upstream_refused",
        "silent" => "upstream_timeout",
        _ => "upstream_unreachable",
    };
    assert_eq!(failed["reason"], reason);
    drop(keep);
}

/// Before TLS there is nothing to say 503 in: the newcomer is closed, who was there is served.
#[test]
fn the_cap_holds_and_gives_way_again() {
    let limits = "[listener.limits]\nconnections = 2\nconnections_per_ip = 0";
    let (chain, _backend, _seen) = behind(limits, "");
    let (mut one, mut two) = (chain.raw(), chain.raw());
    assert!(
        chain
            .world
            .client()
            .connect(chain.edge, "site.test")
            .is_err()
    );
    chain.gateway.refusal("too_many_connections");
    assert_eq!(one.ask(&["GET /1"]).status(), 200);
    assert_eq!(two.ask(&["GET /2"]).status(), 200);
    drop(one);
    let mut three = until("a free place", || {
        let stream = chain.world.client().connect(chain.edge, "site.test").ok()?;
        Some(Raw::new(stream))
    });
    assert_eq!(three.ask(&["GET /3"]).status(), 200);
}

#[rstest::rstest]
#[case("Accept: application/json", true)]
#[case("Accept: text/html, application/problem+json;q=0.9", true)]
#[case("Accept: text/html", false)]
#[case("X-No: accept", false)]
fn errors_come_as_the_caller_accepts_them(#[case] accept: &str, #[case] json: bool) {
    let world = World::new();
    let (backend, _seen) = mirror(world.address());
    let (sites, edge) = (site(&world), world.address());
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let legacy = super::backend(&world, "legacy", link, "");
    let gateway = world.gateway(&format!(
        "[[listener]]\nname = \"public\"\naddress = \"{edge}\"\nmode = \"http\"\n{sites}\n\
         [[route]]\npath = \"/there\"\nbackend = \"legacy\"\n{legacy}"
    ));
    let chain = Chain {
        world,
        acceptor,
        gateway,
        edge,
    };
    let mut raw = chain.raw();
    let answer = raw.ask(&["GET /nowhere", accept]);
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.one("cache-control"), Some("no-store"));
    let line = chain.refused("/nowhere", 404, "no_route");
    let id = line["request_id"].as_str().unwrap();
    if json {
        assert_eq!(answer.one("content-type"), Some("application/json"));
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(body["error"], "no_route");
        assert_eq!(body["request_id"], id);
        assert!(!body["message"].as_str().unwrap().is_empty());
    } else {
        assert_eq!(
            answer.one("content-type"),
            Some("text/plain; charset=utf-8")
        );
        assert!(answer.text().starts_with("no_route: "));
        assert!(answer.text().contains(id));
    }
    // the connection goes on, and HEAD has no body
    raw.request(&["HEAD /nowhere", accept]);
    let head = raw.try_answer(true).unwrap();
    assert_eq!(head.status(), 404);
    assert_eq!(raw.ask(&["GET /there"]).text(), "/there");
}

/// What came before it is answered, in its order; then the rule that it breaks.
#[test]
fn a_bad_head_waits_for_the_answers_before_it() {
    let (chain, _backend, seen) = behind("", "");
    let mut raw = chain.raw();
    raw.send(
        "GET /one HTTP/1.1\r\nHost: site.test\r\n\r\n\
         POST /two HTTP/1.1\r\nHost: site.test\r\nContent-Length: 2\r\n\r\nok\
         POST /three HTTP/1.1\r\nHost: site.test\r\nContent-Length: 2\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /four HTTP/1.1\r\nHost: site.test\r\n\r\n",
    );
    assert_eq!(raw.answer().text(), "/one");
    assert_eq!(raw.answer().status(), 200);
    let refused = raw.answer();
    assert_eq!(refused.status(), 400);
    assert_eq!(refused.one("connection"), Some("close"));
    assert!(refused.one("date").unwrap().ends_with(" GMT"));
    assert_eq!(
        refused.text(),
        "request_invalid: Content-Length and Transfer-Encoding stand together\n"
    );
    raw.ends();
    assert_eq!(seen.targets(), ["/one", "/two"]);
    chain.gateway.refusal("request_invalid");
}

/// Nobody takes a body that breaks for one that has ended.
#[test]
fn a_body_that_breaks_ends_nowhere() {
    let (chain, _backend, seen) = behind("", "");
    let mut raw = chain.raw();
    raw.request(&["POST /breaks", "Transfer-Encoding: chunked"]);
    raw.send("3\r\nabc\r\n");
    std::thread::sleep(Duration::from_millis(200));
    raw.send("3\r\nabcX0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n");
    assert_eq!(raw.answer().status(), 400);
    raw.ends();
    let line = chain.gateway.refusal("request_invalid");
    assert!(says(&line, "detail", "CR LF where its size says"), "{line}");
    until("the end at the backend", || {
        let all = seen.all();
        let cut = |m: &Message| m.start == "POST /breaks HTTP/1.1 (cut)";
        (all.len() == 1 && all.iter().all(cut)).then_some(())
    });
}

/// Bytes behind an upgrade that was not granted are the next request, and judged like one.
#[test]
fn an_upgrade_that_is_not_granted_changes_nothing() {
    let (chain, _backend, seen) = behind("", "");
    let upgrade =
        "GET /up HTTP/1.1\r\nHost: site.test\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
    let next = "GET /next HTTP/1.1\r\nHost: site.test\r\n\r\n";
    let mut raw = chain.raw();
    raw.send(format!(
        "{upgrade}{next}{upgrade}{next}GET /bad HTTP/1.1\n\n"
    ));
    for target in ["/up", "/next", "/up", "/next"] {
        assert_eq!(raw.answer().text(), target);
    }
    assert_eq!(raw.answer().status(), 400);
    raw.ends();
    assert_eq!(seen.targets(), ["/up", "/next", "/up", "/next"]);
}

#[test]
fn requests_may_come_a_byte_at_a_time() {
    let (chain, _backend, seen) = behind("", "");
    let mut raw = chain.raw();
    let text = "POST /slow HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: chunked\r\n\r\n\
                3\r\nabc\r\n0\r\nX-End: y\r\n\r\nGET /next HTTP/1.1\r\nHost: site.test\r\n\r\n";
    for byte in text.bytes() {
        raw.send([byte]);
    }
    assert_eq!(raw.answer().status(), 200);
    assert_eq!(raw.answer().text(), "/next");
    let all = seen.all();
    assert_eq!((all.len(), all[0].body.as_slice()), (2, &b"abc"[..]));
}
