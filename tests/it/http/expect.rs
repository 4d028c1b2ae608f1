//! `Expect: 100-continue`: who asks for a body, and when.

use std::{
    io::ErrorKind,
    sync::mpsc::{self, Sender},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Chain,
    h2::{self, block},
    raw::{Peer, Raw, Seen, ok},
};
use crate::world::{Backend, World};

/// Says what it is told to, then reads the body and gives it back.
fn telling(world: &World) -> (Backend, Sender<&'static str>, Seen) {
    let (tell, told) = mpsc::channel::<&'static str>();
    let told = std::sync::Mutex::new(told);
    let seen = Seen::default();
    let notes = seen.clone();
    let backend = Backend::serve(world.address(), move |stream| {
        let mut peer = Peer::new(stream);
        while let Some(mut request) = peer.head() {
            notes.push(request.clone());
            for word in told.lock().unwrap().iter() {
                assert_eq!(peer.stream.buffer(), b"", "a body that nobody asked for");
                let quiet = Some(Duration::from_millis(1));
                peer.stream.get_ref().set_read_timeout(quiet).unwrap();
                let mut byte = [0];
                let early = peer.stream.get_ref().peek(&mut byte);
                assert!(early.is_err(), "a body that nobody asked for: {early:?}");
                peer.stream.get_ref().set_read_timeout(None).unwrap();
                if !word.is_empty() {
                    peer.send(word);
                }
                if word.contains(" 100 ") || word.is_empty() {
                    break;
                }
            }
            if peer.body(&mut request).is_err() {
                return;
            }
            peer.send(ok(&String::from_utf8_lossy(&request.body)));
        }
    });
    (backend, tell, seen)
}

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

/// Whether nothing comes for a while.
fn quiet(raw: &mut Raw) -> bool {
    let socket = raw.tls().sock.try_clone().unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(400)))
        .unwrap();
    let error = raw.head().expect_err("nobody has asked");
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[test]
fn a_body_is_asked_for_when_the_backend_asks() {
    let world = World::new();
    let (backend, tell, seen) = telling(&world);
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    for length in ["Content-Length: 4", "Transfer-Encoding: chunked"] {
        raw.request(&["POST /", "Expect: 100-Continue", length]);
        assert!(quiet(&mut raw));
        // another interim answer is no leave
        tell.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            .unwrap();
        assert!(quiet(&mut raw));
        tell.send(CONTINUE).unwrap();
        assert_eq!(raw.head().unwrap().start, "HTTP/1.1 100 Continue");
        let chunked = length.starts_with('T');
        raw.send(if chunked {
            "4\r\nbody\r\n0\r\n\r\n"
        } else {
            "body"
        });
        assert_eq!(raw.answer().text(), "body");
        assert_eq!(seen.last().one("expect"), Some("100-continue"));
    }
    assert_eq!(backend.connections(), 1, "the link is whole");
}

#[test]
fn a_client_that_does_not_wait_is_served_all_the_same() {
    let world = World::new();
    let (backend, tell, _seen) = telling(&world);
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    raw.request(&["POST /", "Expect: 100-continue", "Content-Length: 4"]);
    raw.send("body");
    std::thread::sleep(Duration::from_millis(300));
    tell.send(CONTINUE).unwrap();
    assert_eq!(raw.answer().text(), "body");
    block(async {
        let mut sender = chain.h2().await;
        let request = h2::request("POST", "/h2")
            .header("expect", "100-continue")
            .body(())
            .unwrap();
        let (answer, mut stream) = sender.send_request(request, false).unwrap();
        stream.send_data(Bytes::from_static(b"two"), true).unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        tell.send(CONTINUE).unwrap();
        assert_eq!(h2::whole(answer).await.unwrap().text(), "two");
    });
}

/// RFC 9110 section 10.1.1: who hears nothing need not wait for ever.
#[test]
fn a_backend_that_knows_no_expectation_gets_the_body() {
    let world = World::new();
    let (backend, tell, _seen) = telling(&world);
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    raw.request(&["POST /", "Expect: 100-continue", "Content-Length: 4"]);
    tell.send("").unwrap();
    let began = Instant::now();
    assert_eq!(raw.head().unwrap().status(), 100);
    assert!(began.elapsed() > Duration::from_secs(2));
    raw.send("body");
    assert_eq!(raw.answer().text(), "body");
}

#[test]
fn expectations_without_a_body_and_of_other_kinds_end_here() {
    let world = World::new();
    let (backend, seen) = super::raw::mirror(world.address());
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    for lines in [
        &["GET /", "Expect: 100-continue"][..],
        &["POST /", "Expect: 100-continue", "Content-Length: 0"],
        &["GET /", "Expect: the-worst"],
    ] {
        assert_eq!(raw.ask(lines).status(), 200);
        assert_eq!(seen.last().one("expect"), None);
    }
}
