//! HTTP/1.1 towards clients, by our own lines: requests that come in any pieces, one behind the
//! other, from clients that are slow, old, or leave.

use std::{
    io::{BufReader, Read as _, Write as _},
    sync::mpsc,
    time::Duration,
};

use super::{
    Chain,
    raw::{self, Message, Peer, Raw, Seen, answering, mirror, ok},
};
use crate::world::{Backend, World};

/// A backend that gives each request its body back, behind its target.
fn echo(world: &World) -> (Backend, Seen) {
    answering(world.address(), |request| {
        ok(&format!("{} {}", request.target(), request.text()))
    })
}

#[test]
fn a_request_may_be_cut_anywhere() {
    let world = World::new();
    let (backend, _seen) = echo(&world);
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    let text = "POST /cut HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: chunked\r\n\r\n\
                2;x\r\nab\r\n3\r\ncde\r\n0\r\nX-End: y\r\n\r\n";
    // each piece is a record, and read by itself
    for cut in 1..text.len() {
        let (first, second) = text.split_at(cut);
        raw.send(first);
        raw.send(second);
        assert_eq!(raw.answer().text(), "/cut abcde", "cut at {cut}");
    }
}

#[test]
fn requests_with_bodies_wait_for_each_other() {
    let world = World::new();
    let (backend, seen) = echo(&world);
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    let mut text = String::new();
    for turn in 0..30 {
        text += &match turn % 3 {
            0 => format!("GET /{turn} HTTP/1.1\r\nHost: site.test\r\n\r\n"),
            1 => format!(
                "POST /{turn} HTTP/1.1\r\nHost: site.test\r\nContent-Length: 5\r\n\r\nsized"
            ),
            _ => format!(
                "POST /{turn} HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: chunked\r\n\r\n\
                 7\r\nchunked\r\n0\r\n\r\n"
            ),
        };
    }
    raw.send(text);
    for turn in 0..30 {
        let body = ["", "sized", "chunked"][turn % 3];
        assert_eq!(raw.answer().text(), format!("/{turn} {body}"));
    }
    assert_eq!(seen.all().len(), 30);
    // and the connection is as good as before
    assert_eq!(raw.ask(&["GET /after"]).text(), "/after ");
}

/// A backend that says when a request has come and when its connection has ended, and answers
/// nothing.
fn silent(world: &World) -> (Backend, mpsc::Receiver<&'static str>) {
    let (tell, told) = mpsc::channel();
    let backend = Backend::serve(world.address(), move |stream| {
        let mut peer = Peer::new(stream);
        while peer.head().is_some() {
            tell.send("came").unwrap();
        }
        tell.send("ended").unwrap();
    });
    (backend, told)
}

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_client_that_leaves_takes_its_request_back() {
    let world = World::new();
    let (backend, told) = silent(&world);
    let chain = Chain::new(world, backend.address, "", "");
    let body = "Content-Length: 2\r\n\r\nab";
    for rest in ["\r\n", body, "Upgrade: x\r\nConnection: upgrade\r\n\r\n"] {
        let mut raw = chain.raw();
        raw.send(format!("POST /x HTTP/1.1\r\nHost: site.test\r\n{rest}"));
        assert_eq!(told.recv_timeout(PATIENCE), Ok("came"), "{rest}");
        drop(raw);
        assert_eq!(told.recv_timeout(PATIENCE), Ok("ended"), "{rest}");
    }
    assert_eq!(chain.gateway.access("ended")["reason"], "peer_reset");
}

#[test]
fn a_client_that_half_closes_has_left() {
    let world = World::new();
    let (backend, told) = silent(&world);
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    raw.request(&["GET /half"]);
    assert_eq!(told.recv_timeout(PATIENCE), Ok("came"));
    raw.tls().conn.send_close_notify();
    raw.tls().flush().unwrap();
    assert_eq!(told.recv_timeout(PATIENCE), Ok("ended"));
    raw.ends();
    // between requests, and in a head, it is an end like any other
    for begun in ["", "GET /half HTTP/1.1\r\nHo"] {
        let mut raw = chain.raw();
        raw.send(begun);
        raw.tls().conn.send_close_notify();
        raw.tls().flush().unwrap();
        raw.ends();
    }
}

#[test]
fn an_early_answer_ends_the_connection_behind_it() {
    let world = World::new();
    let backend = Backend::serve(world.address(), |stream| {
        let mut peer = Peer::new(stream);
        if peer.head().is_some() {
            peer.send(ok("early"));
            drop(peer.body(&mut Message::default()));
            let mut rest = Vec::new();
            drop(peer.stream.read_to_end(&mut rest));
        }
    });
    let chain = Chain::new(world, backend.address, "", "");
    for head in ["Content-Length: 1000000", "Transfer-Encoding: chunked"] {
        let mut raw = chain.raw();
        raw.request(&["POST /early", head]);
        raw.send("5\r\nfirst\r\n");
        assert_eq!(raw.answer().text(), "early", "{head}");
        // what is sent behind it is no request
        drop(raw.try_send("GET /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n"));
        raw.ends();
    }
}

#[test]
fn a_body_that_nobody_read_is_read_away_where_it_has_come() {
    let world = World::new();
    let (backend, _seen) = mirror(world.address());
    let limits = "[listener.limits]\nheader_timeout = \"1s\"\n";
    let chain = Chain::new(world, backend.address, limits, "");
    let mut raw = chain.raw();
    for _ in 0..3 {
        raw.send("TRACE /x HTTP/1.1\r\nHost: site.test\r\nContent-Length: 4\r\n\r\nbody");
        let answer = raw.answer();
        assert_eq!((answer.status(), answer.one("connection")), (405, None));
    }
    // the connection is idle behind that, and awaits no head
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(raw.ask(&["GET /next"]).text(), "/next");
    // one that has not come is not waited for
    raw.send("TRACE /x HTTP/1.1\r\nHost: site.test\r\nContent-Length: 4\r\n\r\nbo");
    let answer = raw.answer();
    assert_eq!(
        (answer.status(), answer.one("connection")),
        (405, Some("close"))
    );
    raw.ends();
}

/// An answer in whatever pieces its reader takes.
fn slowly(raw: &mut Raw) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while raw.tls().read(&mut byte).unwrap() == 1 {
        bytes.push(byte[0]);
    }
    bytes
}

#[test]
fn an_answer_may_be_read_a_byte_at_a_time() {
    let world = World::new();
    let body = "0123456789abcdef".repeat(20_000);
    let sent = body.clone();
    let (backend, _seen) = answering(world.address(), move |request| {
        if request.target() == "/sized" {
            return ok(&sent);
        }
        let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for part in sent.as_bytes().chunks(7_777) {
            bytes.extend(format!("{:x}\r\n", part.len()).into_bytes());
            bytes.extend(part);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        bytes
    });
    let chain = Chain::new(world, backend.address, "", "");
    for target in ["/sized", "/chunks"] {
        let mut raw = chain.raw();
        raw.request(&[&format!("GET {target}"), "Connection: close"]);
        let bytes = slowly(&mut raw);
        let mut stream = BufReader::new(bytes.as_slice());
        let mut answer = raw::head(&mut stream).unwrap().unwrap();
        raw::body(&mut stream, &mut answer, false).unwrap();
        assert_eq!(answer.one("connection"), Some("close"));
        assert!(answer.text() == body, "{target}: another body");
    }
}

#[test]
fn http_1_0_stays_where_it_asks_to() {
    let world = World::new();
    let (backend, _seen) = mirror(world.address());
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    for turn in 0..3 {
        raw.send(format!(
            "GET /{turn} HTTP/1.0\r\nHost: site.test\r\nConnection: keep-alive\r\n\r\n"
        ));
        let answer = raw.answer();
        assert_eq!(answer.start, "HTTP/1.1 200 OK", "the version is ours");
        assert_eq!(answer.one("connection"), Some("keep-alive"));
        assert_eq!(answer.text(), format!("/{turn}"));
    }
    raw.send("GET /last HTTP/1.0\r\nHost: site.test\r\n\r\nGET /none HTTP/1.0\r\n\r\n");
    let answer = raw.answer();
    assert_eq!(
        (answer.one("connection"), answer.text()),
        (Some("close"), "/last".to_owned())
    );
    raw.ends();
}

/// A close with bytes that nobody read is a reset, which may take the answer along.
#[test]
fn a_last_answer_is_not_lost_for_what_comes_behind_its_request() {
    let world = World::new();
    let (go, gone) = mpsc::channel::<()>();
    let (tell, came) = mpsc::channel();
    let gone = std::sync::Mutex::new(gone);
    let backend = Backend::serve(world.address(), move |stream| {
        let mut peer = Peer::new(stream);
        if peer.head().is_some() {
            tell.send(()).unwrap();
            gone.lock().unwrap().recv().unwrap();
            peer.send(ok("last"));
        }
    });
    let chain = Chain::new(world, backend.address, "", "");
    for close in ["HTTP/1.0\r\n", "HTTP/1.1\r\nConnection: close\r\n"] {
        let mut raw = chain.raw();
        raw.send(format!("GET / {close}Host: site.test\r\n\r\n"));
        came.recv().unwrap();
        for _ in 0..200 {
            raw.send([b'x'; 1000]);
        }
        go.send(()).unwrap();
        assert_eq!(raw.answer().text(), "last");
        raw.ends();
        // for a moment what it goes on to send is read away
        for _ in 0..20 {
            raw.send("more");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_date_is_added_where_none_was_said() {
    let world = World::new();
    let (backend, _seen) = answering(world.address(), |request| match request.target() {
        "/own" => b"HTTP/1.1 204 No Content\r\nDate: then\r\n\r\n".to_vec(),
        _ => b"HTTP/1.1 299 Fine\r\nContent-Length: 0\r\n\r\n".to_vec(),
    });
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    let own = raw.ask(&["GET /own"]);
    assert_eq!(own.one("date"), Some("then"));
    let added = raw.ask(&["GET /none"]);
    assert_eq!(added.status(), 299);
    let date = added.one("date").unwrap();
    assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
}

/// What the client still sends is the other protocol's, and not what a close may read away.
#[test]
fn a_backend_that_half_closes_still_reads_what_it_switched_to() {
    const SENT: usize = 8 << 20;
    let world = World::new();
    let (tell, told) = mpsc::channel();
    let (go, gone) = mpsc::channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let backend = Backend::serve(world.address(), move |stream| {
        let mut peer = Peer::new(stream);
        if peer.head().is_some() {
            peer.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: pipe\r\n\r\n",
            );
            // bytes wait everywhere on the way when the end passes them
            gone.lock().unwrap().recv().unwrap();
            let stream = peer.stream.get_ref();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            std::thread::sleep(Duration::from_millis(200));
            let mut all = Vec::new();
            let read = peer.stream.read_to_end(&mut all);
            tell.send((read.is_ok(), all.len())).unwrap();
        }
    });
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    raw.request(&["GET /", "Connection: upgrade", "Upgrade: pipe"]);
    assert_eq!(raw.head().unwrap().status(), 101);
    let sending = std::thread::spawn(move || {
        for _ in 0..SENT / 4096 {
            raw.send([b'x'; 4096]);
        }
        raw.tls().conn.send_close_notify();
        raw.send("");
        raw
    });
    std::thread::sleep(Duration::from_millis(300));
    go.send(()).unwrap();
    let mut raw = sending.join().unwrap();
    assert_eq!(told.recv().unwrap(), (true, SENT));
    raw.ends();
}

/// Its length is told by the connection's end alone: one that is cut must not end in order.
#[test]
fn an_answer_to_http_1_0_that_breaks_ends_with_a_reset() {
    let world = World::new();
    let backend = Backend::serve(world.address(), |stream| {
        let mut peer = Peer::new(stream);
        if peer.head().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n");
            std::thread::sleep(Duration::from_millis(200));
            peer.reset();
        }
    });
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    raw.send("GET / HTTP/1.0\r\nHost: site.test\r\n\r\n");
    assert_eq!(raw.head().unwrap().status(), 200);
    let mut rest = Vec::new();
    let end = raw.reader().read_to_end(&mut rest);
    assert_eq!(rest, b"part");
    let kind = end.unwrap_err().kind();
    assert_eq!(kind, std::io::ErrorKind::ConnectionReset);
}
