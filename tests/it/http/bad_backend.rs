//! What a backend does wrong: nobody gets an answer that is not his, nor one that looks whole and
//! is not, and no request is done twice that may be done once only.

use std::time::Duration;

use super::{
    Chain,
    h2::{self, block},
    raw::{Message, Peer, Seen, ok},
};
use crate::world::{Backend, World, until};

/// A backend that answers each request so, and notes it; it goes on as long as it is asked.
fn saying(
    world: &World,
    bytes: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static,
) -> (Backend, Seen) {
    super::raw::answering(world.address(), bytes)
}

/// Bytes behind an answer are nobody's: they must not become the next caller's answer.
#[rstest::rstest]
#[case::a_second_answer(
    "GET",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
)]
#[case::a_body_too_long(
    "GET",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 evil\r\nContent-Length: 0\r\n\r\n"
)]
#[case::a_body_after_head(
    "HEAD",
    "HTTP/1.1 200 OK\r\nContent-Length: 55\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
)]
#[case::a_body_after_204(
    "GET",
    "HTTP/1.1 204 No Content\r\nContent-Length: 40\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
)]
#[case::a_body_after_304(
    "GET",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 40\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
)]
#[case::behind_chunks(
    "GET",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
)]
#[case::behind_trailers(
    "GET",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
)]
#[case::behind_bare_line_feeds(
    "GET",
    "HTTP/1.1 200 OK\nContent-Length: 2\n\nokHTTP/1.1 200 OK\nContent-Length: 4\n\nevil"
)]
#[case::behind_an_interim_answer(
    "GET",
    "HTTP/1.1 103 Early Hints\r\nContent-Length: 44\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
)]
fn what_follows_an_answer_is_nobodys(#[case] method: &str, #[case] first: &'static str) {
    let world = World::new();
    let (backend, seen) = saying(&world, move |request| match request.target() {
        "/first" => first.as_bytes().to_vec(),
        _ => ok("mine"),
    });
    let chain = Chain::new(world, backend.address, "", "pool = { ready = 0 }");
    for n in 0..10 {
        let mut raw = chain.raw();
        raw.request(&[&format!("{method} /first")]);
        let answer = raw.try_answer(method == "HEAD").unwrap();
        assert!(!answer.text().contains("evil"), "{answer:?}");
        let path = format!("/next/{n}");
        let answer = chain.raw().ask(&[&format!("GET {path}")]);
        assert_eq!(
            (answer.status(), answer.text()),
            (200, "mine".to_owned()),
            "{n}"
        );
    }
    assert!(seen.all().len() >= 20);
}

#[rstest::rstest]
#[case::two_lengths("Content-Length: 2\r\nContent-Length: 4\r\n\r\nokok")]
#[case::listed_lengths("Content-Length: 2, 4\r\n\r\nokok")]
#[case::equal_lengths("Content-Length: 2\r\nContent-Length: 2\r\n\r\nok")]
#[case::equal_listed_lengths("Content-Length: 2, 2\r\n\r\nok")]
#[case::signed_length("Content-Length: +2\r\n\r\nok")]
#[case::a_length_and_chunks(
    "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
)]
#[case::chunks_and_a_length(
    "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n2\r\nok\r\n0\r\n\r\n"
)]
#[case::folded("X-Folded: a\r\n b\r\nContent-Length: 2\r\n\r\nok")]
#[case::chunked_not_last("Transfer-Encoding: chunked, gzip\r\n\r\nok")]
#[case::no_number("Content-Length: two\r\n\r\nok")]
#[case::unknown_coding("Transfer-Encoding: gzip, unknown\r\n\r\nok")]
#[case::a_coding_more("Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")]
#[case::chunked_twice(
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
)]
#[case::bare_cr("X-Cr: a\rSet-Cookie: evil=1\r\nContent-Length: 2\r\n\r\nok")]
#[case::nul("X-Nul: a\0b\r\nContent-Length: 2\r\n\r\nok")]
#[case::no_colon("X-Nothing\r\nContent-Length: 2\r\n\r\nok")]
#[case::space("X-Space : a\r\nContent-Length: 2\r\n\r\nok")]
fn a_head_that_can_be_read_in_two_ways(#[case] rest: &'static str) {
    let world = World::new();
    let (backend, _seen) = saying(&world, move |_| {
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{rest}").into_bytes()
    });
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    raw.request(&["GET /"]);
    let answer = raw.try_answer(false).unwrap();
    assert_eq!(answer.status(), 502, "{answer:?}");
    assert_eq!(answer.one("set-cookie"), None);
    chain.refused("/", 502, "upstream_broken");
}

/// RFC 9110 section 15: there is no class of answers beyond 599.
#[rstest::rstest]
#[case(600, 502, "HTTP/1.1 502 Bad Gateway")]
#[case(999, 502, "HTTP/1.1 502 Bad Gateway")]
#[case(599, 599, "HTTP/1.1 599 ")]
#[case(299, 299, "HTTP/1.1 299 ")]
fn a_status_is_one_of_five_classes(#[case] said: u16, #[case] told: u16, #[case] line: &str) {
    let answer =
        move |_: &Message| format!("HTTP/1.1 {said} x\r\nContent-Length: 0\r\n\r\n").into();
    let world = World::new();
    let (backend, _seen) = saying(&world, answer);
    let chain = Chain::new(world, backend.address, "", "");
    assert_eq!(chain.raw().ask(&["GET /"]).start, line);
    block(async {
        let sender = chain.h2().await;
        let request = h2::request("GET", "/").body(()).unwrap();
        assert_eq!(h2::ask(&sender, request).await.unwrap().status(), told);
    });
}

/// An answer that nobody asked for ends the connection, and is not the next one's.
#[test]
fn what_comes_unasked_is_nobodys() {
    let world = World::new();
    let backend = Backend::serve(world.address(), |stream| {
        let mut peer = Peer::new(stream);
        while let Some(request) = peer.head() {
            if request.target() != "/first" {
                peer.send(ok("mine"));
                continue;
            }
            peer.send(ok("first"));
            std::thread::sleep(Duration::from_millis(50));
            peer.send(ok("evil"));
        }
    });
    let chain = Chain::new(world, backend.address, "", "pool = { ready = 0 }");
    for _ in 0..5 {
        assert_eq!(chain.raw().ask(&["GET /first"]).text(), "first");
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(chain.raw().ask(&["GET /next"]).text(), "mine");
    }
}

/// An answer before the request's end, and what the backend then says of the rest.
#[test]
fn what_answers_half_a_request_is_not_reused() {
    let world = World::new();
    let backend = Backend::serve(world.address(), |stream| {
        let mut peer = Peer::new(stream);
        while let Some(mut request) = peer.head() {
            if request.target() == "/early" {
                peer.send(ok("early"));
                let _rest = peer.body(&mut request);
                peer.send(ok("evil"));
            } else {
                peer.send(ok("mine"));
            }
        }
    });
    let chain = Chain::new(world, backend.address, "", "pool = { ready = 0 }");
    for _ in 0..5 {
        let mut raw = chain.raw();
        raw.request(&["POST /early", "Content-Length: 10"]);
        raw.send("12345");
        assert_eq!(raw.answer().text(), "early");
        assert_eq!(chain.raw().ask(&["GET /next"]).text(), "mine");
        let _sent = raw.try_send("67890");
        assert_eq!(chain.raw().ask(&["GET /next"]).text(), "mine");
        // his own next is his, or none
        let own = "GET /own HTTP/1.1\r\nHost: site.test\r\n\r\n";
        if raw.try_send(own).is_ok()
            && let Ok(answer) = raw.try_answer(false)
        {
            assert_eq!(answer.text(), "mine");
        }
        assert_eq!(chain.raw().ask(&["GET /next"]).text(), "mine");
    }
}

#[test]
fn heads_of_answers_have_bounds() {
    let world = World::new();
    let (backend, _seen) = saying(&world, |request| {
        let fields: String = match request.target() {
            "/long" => format!("X-Long: {}\r\n", "x".repeat(2 << 20)),
            "/many" => (0..10_000).map(|n| format!("X-{n}: y\r\n")).collect(),
            _ => format!("X-Fits: {}\r\n", "x".repeat(16 << 10)),
        };
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{fields}Content-Length: 2\r\n\r\nok")
            .into_bytes()
    });
    let chain = Chain::new(world, backend.address, "", "");
    for path in ["/long", "/many"] {
        assert_eq!(chain.raw().ask(&[&format!("GET {path}")]).status(), 502);
        chain.refused(path, 502, "upstream_broken");
    }
    assert_eq!(chain.raw().ask(&["GET /fits"]).status(), 200);
}

/// What had come to a backend that then broke is sent again only where that does no harm.
#[test]
fn a_request_that_may_be_done_once_is_sent_once() {
    let world = World::new();
    let seen = Seen::default();
    let notes = seen.clone();
    let backend = Backend::serve(world.address(), move |stream| {
        let mut peer = Peer::new(stream);
        // the first request of a connection is answered, the second breaks it
        for turn in 0..2 {
            let Some(mut request) = peer.head() else {
                return;
            };
            drop(peer.body(&mut request));
            notes.push(request);
            if turn == 0 {
                peer.send(ok("first"));
            }
        }
        peer.reset();
    });
    let chain = Chain::new(world, backend.address, "", "pool = { ready = 0 }");
    let mut raw = chain.raw();
    for (request, status, times) in [
        ("POST /once", 502, 1),
        ("PUT /put", 502, 1),
        ("GET /twice", 200, 2),
        ("HEAD /head", 200, 2),
    ] {
        assert_eq!(raw.ask(&["POST /opens", "Content-Length: 0"]).status(), 200);
        raw.request(&[request, "Content-Length: 0"]);
        let answer = raw.try_answer(request.starts_with("HEAD")).unwrap();
        assert_eq!(answer.status(), status, "{request}");
        let path = request.split(' ').nth(1).unwrap();
        let came = seen.targets().iter().filter(|t| *t == path).count();
        assert_eq!(came, times, "{request}");
        if status == 200 {
            // its connection has had its first request
            raw.ask(&["POST /breaks", "Content-Length: 0"]);
        }
    }
}

/// A backend that breaks every kept connection does not get twice as many requests for ever.
#[test]
fn requests_are_sent_again_within_a_budget() {
    let world = World::new();
    let backend = Backend::serve(world.address(), |stream| {
        let mut peer = Peer::new(stream);
        // the first request of a connection is answered, the second breaks it
        if peer.head().is_some() && peer.send(ok("first")) && peer.head().is_some() {
            peer.reset();
        }
    });
    let chain = Chain::new(world, backend.address, "", "pool = { ready = 0 }");
    let mut raw = chain.raw();
    let began = std::time::Instant::now();
    let statuses: Vec<_> = (0..600).map(|_| raw.ask(&["GET /"]).status()).collect();
    let refused = statuses.iter().filter(|status| **status == 502).count();
    let retries = chain.gateway.metric("portcullis_backend_retries_total{");
    // 128 at once, 10 a second from then on
    let most = 130.0 + 10.0 * began.elapsed().as_secs_f64();
    assert!(retries >= 128.0 && retries <= most, "{retries} of {most}");
    assert!(refused > 0 && statuses.iter().all(|status| matches!(status, 200 | 502)));
    assert!(statuses.iter().take(128).all(|status| *status == 200));
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let world = World::new();
    let (backend, _seen) = saying(&world, |request| {
        if request.target() == "/0" {
            std::thread::sleep(Duration::from_millis(200));
        }
        ok(request.target())
    });
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    let all: String = (0..20)
        .map(|n| format!("GET /{n} HTTP/1.1\r\nHost: site.test\r\n\r\n"))
        .collect();
    raw.send(all);
    for n in 0..20 {
        assert_eq!(raw.answer().text(), format!("/{n}"));
    }
}

/// A backend that answers before the upload's end and reads the rest away.
#[test]
fn a_refused_upload_is_told_so() {
    let world = World::new();
    let backend = Backend::serve(world.address(), |stream| {
        let mut peer = Peer::new(stream);
        if let Some(mut request) = peer.head() {
            peer.send(
                "HTTP/1.1 413 Too Much\r\nConnection: close\r\nContent-Length: 5\r\n\r\nearly",
            );
            drop(peer.body(&mut request));
        }
    });
    let chain = Chain::new(world, backend.address, "", "");
    let file = chain.world.write("big", &"x".repeat(20 << 20));
    let data = format!("@{}", file.display());
    for framing in ["X-Framing: length", "Transfer-Encoding: chunked"] {
        let arguments = [
            "--http1.1",
            "-w",
            " %{http_code}",
            "-H",
            "Expect:",
            "-H",
            framing,
        ];
        let mut arguments = arguments.to_vec();
        arguments.extend(["--data-binary", &data]);
        let (_, text) = chain.curl(&arguments, "/up");
        assert!(text.starts_with("early 413"), "{framing}: {text}");
    }
}

/// Interim answers are the backend's word to us; the last one is the caller's.
#[test]
fn interim_answers_are_no_answers() {
    let world = World::new();
    let (backend, _seen) = saying(&world, |_| {
        let mut bytes =
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
                .to_vec();
        bytes.extend(ok("last"));
        bytes
    });
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    for _ in 0..2 {
        assert_eq!(raw.ask(&["GET /"]).text(), "last");
    }
    assert_eq!(backend.connections(), 1);
    let counted = "portcullis_backend_interim_answers_total{backend=\"legacy\"}";
    assert_eq!(chain.gateway.metric(counted), 4.0);
}

/// HTTP/2's parser lets white space around values pass, which is malformed (RFC 9113 section 8.2.1).
#[test]
fn values_of_an_answer_lose_the_white_space_around_them() {
    let world = World::new();
    let backend = h2::speaking(world.address(), |_request, mut respond| async move {
        let padded = http::HeaderValue::from_static(" \tone two\t ");
        let head = http::Response::builder()
            .header("x-head", &padded)
            .header("x-empty", " ");
        let mut out = respond.send_response(head.body(()).unwrap(), false)?;
        out.send_data(bytes::Bytes::from_static(b"body"), false)?;
        let name = http::HeaderName::from_static("x-trailer");
        out.send_trailers([(name, padded)].into_iter().collect())
    });
    let address = backend.address.to_string();
    let h2 = "protocol = \"h2\"";
    for chain in [
        Chain::new(World::new(), backend.address, "", h2),
        Chain::both(World::new(), &address, h2, "", h2),
    ] {
        block(async {
            let sender = chain.h2().await;
            let request = h2::request("GET", "/").header("te", "trailers");
            let answer = h2::ask(&sender, request.body(()).unwrap()).await.unwrap();
            assert_eq!(answer.head.headers()["x-head"], "one two");
            assert_eq!(answer.head.headers()["x-empty"], "");
            assert_eq!(answer.text(), "body");
            assert_eq!(answer.trailers.unwrap()["x-trailer"], "one two");
        });
    }
}

/// HTTP/2's parser lets a body pass, and a length, where none can be.
#[rstest::rstest]
fn an_answer_that_can_have_no_body_gets_none_from_http_2(#[values(204, 304)] status: u16) {
    let world = World::new();
    let backend = h2::speaking(world.address(), move |request, mut respond| async move {
        let wrong = request.uri().path() == "/wrong";
        let mut head = http::Response::builder();
        if wrong {
            head = head.status(status).header("content-length", 4);
        }
        let mut out = respond.send_response(head.body(()).unwrap(), false)?;
        out.send_data(bytes::Bytes::from_static(b"evil"), true)
    });
    let address = backend.address.to_string();
    let h2 = "protocol = \"h2\"";
    for chain in [
        Chain::new(World::new(), backend.address, "", h2),
        Chain::both(World::new(), &address, h2, "", h2),
    ] {
        block(async {
            let sender = chain.h2().await;
            for (path, expected, body) in [("/wrong", status, ""), ("/right", 200, "evil")] {
                let request = h2::request("GET", path).body(()).unwrap();
                let answer = h2::ask(&sender, request).await.unwrap();
                assert_eq!(answer.head.status(), expected);
                assert_eq!(answer.text(), body, "{path}");
                let length = answer.head.headers().get("content-length");
                assert!(expected != 204 || length.is_none(), "{length:?}");
            }
        });
        let mut raw = chain.raw();
        assert_eq!(raw.ask(&["GET /wrong"]).status(), status);
        assert_eq!(raw.ask(&["GET /right"]).text(), "evil");
    }
}

/// Nor do they hold a caller for ever.
#[test]
fn interim_answers_without_end_are_a_timeout() {
    let world = World::new();
    let backend = Backend::serve(world.address(), |stream| {
        let mut peer = Peer::new(stream);
        if peer.head().is_some() {
            while peer.send("HTTP/1.1 102 Processing\r\n\r\n") {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    });
    let limits = "[listener.limits]\nresponse_timeout = \"1s\"";
    let chain = Chain::new(world, backend.address, limits, "");
    assert_eq!(chain.raw().ask(&["GET /for-ever"]).status(), 504);
    chain.refused("/for-ever", 504, "upstream_timeout");
}

/// A caller that leaves frees what its request held.
#[test]
fn a_caller_that_leaves_is_not_served_on() {
    let world = World::new();
    let ended = Seen::default();
    let notes = ended.clone();
    let backend = Backend::serve(world.address(), move |stream| {
        let mut peer = Peer::new(stream);
        while peer.head().is_some() {}
        notes.push(Message::default());
    });
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    raw.request(&["GET /left"]);
    std::thread::sleep(Duration::from_millis(300));
    drop(raw);
    until("the end at the backend", || {
        (ended.all().len() == 1).then_some(())
    });
    assert_eq!(chain.line("/left")["reason"], "peer_reset");
    block(async {
        let mut sender = chain.h2().await;
        let request = h2::request("GET", "/left/h2").body(()).unwrap();
        let (response, mut stream) = sender.send_request(request, true).unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        stream.send_reset(h2::Reason::CANCEL);
        drop(response);
        tokio::time::sleep(Duration::from_millis(300)).await;
    });
    until("the end at the backend", || {
        (ended.all().len() == 2).then_some(())
    });
    assert_eq!(chain.line("/left/h2")["reason"], "peer_reset");
}
