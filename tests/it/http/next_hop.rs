//! What a next hop may do in HTTP/1.1 while a request is under way, and between two of them.

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use bytes::Bytes;

use super::{
    Chain,
    h2::{self, block},
    raw::{Peer, Seen, answering, ok},
};
use crate::world::{Backend, World};

const MIB: usize = 1 << 20;

/// The answer begins with the request's head, and ends with what is known at the request's end.
#[rstest::rstest]
#[case("http/1.1")]
#[case("h2")]
fn an_answer_may_begin_before_its_request_has_ended(#[case] client: &str) {
    let world = World::new();
    let backend = Backend::serve(world.address(), |stream| {
        let mut peer = Peer::new(stream);
        while let Some(mut request) = peer.head() {
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegan\r\n");
            if peer.body(&mut request).is_err() {
                return;
            }
            let text = format!("ended {}", request.body.len());
            peer.send(format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len()));
        }
    });
    let chain = Chain::new(world, backend.address, "", "pool = { ready = 0 }");
    let piece = "x".repeat(MIB);
    if client == "h2" {
        block(async {
            let mut sender = chain.h2().await;
            let request = h2::request("POST", "/").body(()).unwrap();
            let (response, mut out) = sender.send_request(request, false).unwrap();
            let mut body = response.await.unwrap().into_body();
            let first = body.data().await.unwrap().unwrap();
            assert_eq!(&first[..], b"began");
            out.send_data(Bytes::from_static(b"hello"), true).unwrap();
            let second = body.data().await.unwrap().unwrap();
            assert_eq!(&second[..], b"ended 5");
        });
        return;
    }
    let mut raw = chain.raw();
    // the connections on both sides are used again
    for _ in 0..3 {
        raw.request(&["POST /", &format!("Content-Length: {}", 4 * MIB)]);
        let head = raw.head().unwrap();
        assert_eq!(head.status(), 200);
        assert_eq!(super::raw::chunk(raw.reader()).unwrap(), b"began");
        for _ in 0..4 {
            raw.send(&piece);
        }
        let end = super::raw::chunk(raw.reader()).unwrap();
        assert_eq!(end, format!("ended {}", 4 * MIB).into_bytes());
        assert_eq!(super::raw::chunk(raw.reader()).unwrap(), b"");
        let mut end = [0; 2];
        raw.reader().read_exact(&mut end).unwrap();
    }
}

/// A client that reads nothing before it has sent all must not wait for one that does not read
/// before it has answered, nor the other way round: both directions go on by themselves.
#[test]
fn a_long_answer_does_not_hold_up_the_request_that_it_answers() {
    const LENGTH: usize = 16 * MIB;
    let world = World::new();
    let backend = Backend::serve(world.address(), |stream| {
        let mut out = stream.try_clone().unwrap();
        let mut peer = Peer::new(stream);
        let Some(mut request) = peer.head() else {
            return;
        };
        let answering = std::thread::spawn(move || {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
            out.write_all(head.as_bytes())
                .and_then(|()| out.write_all(&vec![b'y'; LENGTH]))
        });
        drop(peer.body(&mut request));
        drop(answering.join());
    });
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    raw.request(&["POST /", &format!("Content-Length: {LENGTH}")]);
    let piece = "x".repeat(MIB);
    for _ in 0..LENGTH / MIB {
        raw.send(&piece);
    }
    let answer = raw.answer();
    assert_eq!((answer.status(), answer.body.len()), (200, LENGTH));
}

/// A backend that answers and closes without a look at the body.
#[test]
fn an_early_answer_arrives_though_its_connection_closes() {
    let world = World::new();
    let backend = Backend::serve(world.address(), |stream| {
        let mut peer = Peer::new(stream);
        if peer.head().is_some() {
            peer.send("HTTP/1.1 413 Too Much\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno");
            // what is unread at a close makes it a reset, which takes the answer along
            std::thread::sleep(Duration::from_millis(300));
        }
    });
    let chain = Chain::new(world, backend.address, "", "");
    for _ in 0..3 {
        let mut raw = chain.raw();
        raw.request(&["POST /big", &format!("Content-Length: {}", 64 * MIB)]);
        raw.send("begun");
        let answer = raw.answer();
        assert_eq!((answer.status(), answer.text().as_str()), (413, "no"));
    }
}

/// A backend that closes what is idle without a word: nobody is told 502 for that.
#[rstest::rstest]
#[case(true)]
#[case(false)]
fn what_closed_while_it_was_kept_fails_nobody(#[case] reset: bool) {
    let world = World::new();
    let seen = Seen::default();
    let notes = seen.clone();
    let backend = Backend::serve(world.address(), move |stream| {
        let mut peer = Peer::new(stream);
        let Some(mut request) = peer.head() else {
            return;
        };
        drop(peer.body(&mut request));
        notes.push(request);
        peer.send(ok("once"));
        std::thread::sleep(Duration::from_millis(30));
        if reset { peer.reset() } else { peer.close() }
    });
    let chain = Chain::new(world, backend.address, "", "pool = { ready = 0 }");
    let mut raw = chain.raw();
    for request in [
        vec!["GET /", "Content-Length: 0"],
        vec!["POST /none"],
        vec!["POST /zero", "Content-Length: 0"],
        vec!["DELETE /gone", "Content-Length: 0"],
    ] {
        for _ in 0..3 {
            assert_eq!(raw.ask(&request).text(), "once", "{request:?}");
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    for _ in 0..3 {
        raw.request(&["PUT /some", "Content-Length: 4"]);
        raw.send("some");
        assert_eq!(raw.answer().text(), "once");
        assert_eq!(seen.last().text(), "some");
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(seen.all().len(), 15, "each came once");
}

/// Answers without a body, whose heads speak of one.
#[test]
fn answers_without_a_body_keep_their_connection() {
    let world = World::new();
    let (backend, _seen) = answering(world.address(), |request| {
        let status = match request.target() {
            "/204" => "204 No Content",
            "/304" => "304 Not Modified",
            _ => "200 OK",
        };
        let length = if request.start.starts_with("GET /whole") {
            "5\r\n\r\nwhole"
        } else {
            "5\r\n\r\n"
        };
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}").into_bytes()
    });
    let chain = Chain::new(world, backend.address, "", "pool = { ready = 0 }");
    let mut raw = chain.raw();
    for _ in 0..3 {
        for (request, status) in [("HEAD /", 200), ("GET /204", 204), ("GET /304", 304)] {
            raw.request(&[request]);
            let answer = raw.try_answer(true).unwrap();
            assert_eq!(answer.status(), status, "{request}");
            assert_eq!(raw.ask(&["GET /whole"]).text(), "whole", "behind {request}");
        }
    }
    assert_eq!(backend.connections(), 1);
}

/// What follows a GET is its body, where something follows; a stream that is closed empty is none.
#[test]
fn a_get_s_body_passes_and_none_is_made_up() {
    let world = World::new();
    let (backend, seen) = answering(world.address(), |_| ok("yes"));
    let chain = Chain::new(world, backend.address, "", "pool = { ready = 0 }");
    let mut raw = chain.raw();
    raw.request(&["GET /chunks", "Transfer-Encoding: chunked"]);
    raw.send("3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(raw.answer().text(), "yes");
    assert_eq!(seen.last().text(), "abc");
    assert_eq!(seen.last().one("transfer-encoding"), Some("chunked"));
    block(async {
        let mut sender = chain.h2().await;
        let request = h2::request("GET", "/empty").body(()).unwrap();
        let (response, mut out) = sender.send_request(request, false).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        out.send_data(Bytes::new(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    });
    let last = seen.last();
    assert_eq!((last.target(), last.text().as_str()), ("/empty", ""));
    assert_eq!(last.one("transfer-encoding"), None);
    assert_eq!(last.one("content-length"), None);
}

/// Chunks of an old server, whose sizes are padded, and trailers behind them.
#[test]
fn chunks_and_trailers_pass_as_they_were_meant() {
    let world = World::new();
    let (backend, _seen) = answering(world.address(), |_| {
        b"HTTP/1.1 200 OK\r\nTrailer: X-Sum, Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n\
          5   \r\nhello\r\n1;a=b\r\n!\r\n0  \r\nX-Sum: 1\r\nContent-Length: 3\r\n\r\n"
            .to_vec()
    });
    let chain = Chain::new(world, backend.address, "", "pool = { ready = 0 }");
    let mut raw = chain.raw();
    for _ in 0..3 {
        let answer = raw.ask(&["GET /", "TE: trailers"]);
        assert_eq!(answer.text(), "hello!");
        assert_eq!(answer.trailers, [("x-sum".to_owned(), "1".to_owned())]);
    }
    assert_eq!(backend.connections(), 1);
}
