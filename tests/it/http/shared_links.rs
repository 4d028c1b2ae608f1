//! Requests of http mode as streams of few link connections (`portcullis/3`).

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Barrier, Mutex,
        mpsc::{self, Receiver},
    },
    time::Duration,
};

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use super::bad_h2::{self, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, SETTINGS, frame};
use crate::world::{Backend, Running, World, get, until};

/// Requests that are under way at once.
const MANY: usize = 24;

/// The link connections that an acceptor has had.
fn links(acceptor: &Running) -> usize {
    let accepted = acceptor.metric("portcullis_connections_accepted_total{listener=\"legacy\"");
    // counts are small and whole
    format!("{accepted:.0}").parse().unwrap()
}

/// Reads a head; whether there was one before the end.
fn head(stream: &mut TcpStream) -> io::Result<bool> {
    let mut head = Vec::new();
    let mut one = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut one)? == 0 {
            return Ok(false);
        }
        head.push(one[0]);
    }
    Ok(true)
}

/// Answers when so many have asked, on each connection again and again; how each ended.
fn together(world: &World, many: usize) -> (Backend, Receiver<io::Result<bool>>) {
    let all = Arc::new(Barrier::new(many));
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let backend = Backend::serve(world.address(), move |mut stream| {
        let tell = tell.lock().unwrap().clone();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let end = loop {
            match head(&mut stream) {
                Ok(true) => {}
                end => break end,
            }
            all.wait();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
            stream.write_all(answer).unwrap();
        };
        tell.send(end).unwrap();
    });
    (backend, told)
}

/// Asks once by each of so many clients, all at once.
fn ask(world: &World, edge: SocketAddr, many: usize) {
    std::thread::scope(|threads| {
        for _ in 0..many {
            threads.spawn(|| {
                let mut stream = world.client().connect(edge, "site.test").unwrap();
                assert_eq!(get(&mut stream, "/"), (200, "hi".into()));
            });
        }
    });
}

#[test]
fn requests_at_once_share_few_links_unless_each_is_to_have_its_own() {
    for (tunnel, shares) in [
        ("", true),
        ("tunnel = \"mux\"", true),
        ("tunnel = \"direct\"", false),
    ] {
        let world = World::new();
        let (backend, _ends) = together(&world, MANY);
        let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
        let (_gateway, edge) = world.plain_gateway("http", link, "", tunnel);
        ask(&world, edge, MANY);
        ask(&world, edge, MANY);
        let cores = std::thread::available_parallelism().unwrap().get();
        let links = links(&acceptor);
        assert_eq!(links <= cores * 2, shares, "{tunnel}: {links}");
        assert!(shares || links >= MANY, "{tunnel}: {links}");
        // the backend has a connection for each, and keeps it
        let connections = backend.connections();
        assert!((MANY..MANY + 8).contains(&connections), "{connections}");
    }
}

#[test]
fn what_is_idle_ends_as_it_should_and_the_backend_sees_an_end() {
    let world = World::new();
    let (backend, ends) = together(&world, 2);
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let more = "pool = { ready = 0, idle_timeout = \"1s\" }";
    let (_gateway, edge) = world.plain_gateway("http", link, "", more);
    ask(&world, edge, 2);
    for _ in 0..2 {
        let end = ends.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(!end.unwrap());
    }
}

#[test]
fn an_acceptor_that_drains_does_not_wait_for_what_is_idle() {
    let world = World::new();
    let (backend, _ends) = together(&world, 2);
    let address = backend.address.to_string();
    let (mut acceptor, link) =
        world.plain_acceptor(&address, "limits = { drain_timeout = \"60s\" }");
    let (_gateway, edge) = world.plain_gateway("http", link, "", "");
    ask(&world, edge, 2);
    acceptor.signal(Signal::TERM);
    let ended = acceptor.ended_within(Duration::from_secs(20));
    assert!(ended.is_some_and(|status| status.success()));
    until("the log", || {
        acceptor.text().contains("stopped").then_some(())
    });
}

/// A backend that answers before it has read is heard, whether it reads on or not.
#[test]
fn an_early_answer_arrives_and_what_is_still_read_does_too() {
    let world = World::new();
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let backend = Backend::serve(world.address(), move |mut stream| {
        let tell = tell.lock().unwrap().clone();
        assert!(head(&mut stream).unwrap());
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        stream.write_all(answer).unwrap();
        let mut body = Vec::new();
        let mut part = [0; 1000];
        while !body.ends_with(b"\r\n0\r\n\r\n") {
            match stream.read(&mut part) {
                Ok(n @ 1..) => body.extend_from_slice(&part[..n]),
                end => {
                    tell.send(end.map(|_| body)).unwrap();
                    return;
                }
            }
        }
        tell.send(Ok(body)).unwrap();
    });
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (_gateway, edge) = world.plain_gateway("http", link, "", "");
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    let head = "POST / HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(b"5\r\nfirst\r\n").unwrap();
    stream.flush().unwrap();
    // the answer has passed before the request's end
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nhi") {
        let mut one = [0];
        assert_eq!(stream.read(&mut one).unwrap(), 1);
        answer.push(one[0]);
    }
    stream.write_all(b"4\r\nlast\r\n0\r\n\r\n").unwrap();
    stream.flush().unwrap();
    let body = told.recv_timeout(Duration::from_secs(20)).unwrap().unwrap();
    let body = String::from_utf8(body).unwrap();
    assert!(body.contains("first") && body.contains("last"), "{body}");
}

#[test]
fn a_backend_that_refuses_a_body_and_closes_is_heard() {
    let world = World::new();
    let backend = Backend::serve(world.address(), |mut stream| {
        if head(&mut stream).unwrap() {
            let answer = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig";
            stream.write_all(answer).unwrap();
            // what comes is left unread: the close is a reset
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (_gateway, edge) = world.plain_gateway("http", link, "", "");
    let heard = (0..10).filter(|_| {
        let mut stream = world.client().connect(edge, "site.test").unwrap();
        let head = "POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: 3000000\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let part = [7; 50_000];
        for _ in 0..60 {
            if stream.write_all(&part).is_err() {
                break;
            }
        }
        drop(stream.flush());
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).is_ok() && answer.ends_with(b"413")
    });
    let heard = heard.count();
    // a reset may overtake it in the backend's own socket
    assert!(heard >= 5, "{heard} of 10");
}

#[test]
fn a_configuration_that_somebody_still_holds_opens_nothing_ahead() {
    let world = World::new();
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let backend = Backend::serve(world.address(), move |mut stream| {
        while head(&mut stream).unwrap_or(false) {
            let _told = wait.lock().unwrap().recv_timeout(Duration::from_secs(20));
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"));
        }
    });
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) = world.plain_gateway("http", link, "", "pool = { ready = 4 }");
    std::thread::scope(|threads| {
        let asked = threads.spawn(|| {
            let mut stream = world.client().connect(edge, "site.test").unwrap();
            get(&mut stream, "/")
        });
        until("the request", || {
            (gateway.metric("portcullis_backend_active") > 0.5).then_some(())
        });
        gateway.reload();
        // the new configuration opens what it wants ahead
        until("quiet", || {
            let before = links(&acceptor);
            std::thread::sleep(Duration::from_millis(1500));
            (links(&acceptor) == before).then_some(())
        });
        let now = links(&acceptor);
        assert!(now <= 12, "{now}");
        go.send(()).unwrap();
        assert_eq!(asked.join().unwrap(), (200, "hi".into()));
    });
}

/// However many requests are taken back, by whoever comes again and again: the link that they share
/// with others holds.
#[test]
fn requests_that_are_taken_back_at_once_cost_nobody_else_a_link() {
    let world = World::new();
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let backend = Backend::serve(world.address(), move |mut stream| {
        let mut first = [0; 9];
        if stream.read_exact(&mut first).is_ok() && &first == b"GET /held" {
            // what is left unread would make the close a reset
            assert!(head(&mut stream).unwrap());
            let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(answer).unwrap();
            // it is never idle
            let pause = Duration::from_millis(200);
            while wait.lock().unwrap().recv_timeout(pause).is_err() {
                stream.write_all(b"3\r\non \r\n").unwrap();
            }
            stream.write_all(b"3\r\nend\r\n0\r\n\r\n").unwrap();
        }
    });
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) = world.plain_gateway("http", link, "", "");
    let mut held = world.client().connect(edge, "site.test").unwrap();
    held.write_all(b"GET /held HTTP/1.1\r\nHost: site.test\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let mut read_to = |end: &[u8]| {
        let mut one = [0];
        while !answer.ends_with(end) {
            held.read_exact(&mut one).unwrap();
            answer.push(one[0]);
        }
    };
    read_to(b"on \r\n");
    for _ in 0..12 {
        let client = world.client().alpn("h2");
        let mut stream = client.connect(edge, "site.test").unwrap();
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &[]));
        // fewer than make a client unwelcome, and few enough at a time to be looked at
        for turn in 0..27 {
            let first = turn * 40 + 1;
            for n in 0..18 {
                let id = first + n * 2;
                let get = bad_h2::head(b"GET");
                bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, id, &get));
                bytes.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
            }
            let bytes = std::mem::take(&mut bytes);
            assert_eq!(bad_h2::looked_at(&mut stream, bytes, first + 36), None);
        }
    }
    let ended = |line: &serde_json::Value| line["message"] == "link ended";
    assert_eq!(gateway.count(ended), 0);
    let flood = |line: &serde_json::Value| line["reason"] == "link_violation";
    assert_eq!(acceptor.count(flood), 0);
    go.send(()).unwrap();
    read_to(b"end\r\n0\r\n\r\n");
}

/// A client that goes while its backend is dialled leaves nothing on the link that others would
/// have to go round, and the acceptor hears of it at once.
#[test]
fn requests_that_are_taken_back_from_a_deaf_backend_leave_their_place() {
    let world = World::new();
    let address = world.address();
    let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let backend = until("a free port", || {
        let listener = socket();
        listener.bind(&address.into()).ok()?;
        listener.listen(0).ok()?;
        Some(listener)
    });
    let (acceptor, link) = world.plain_acceptor(&address.to_string(), "");
    let (_gateway, edge) = world.plain_gateway("http", link, "", "connect_timeout = \"60s\"");
    let client = world.client().alpn("h2");
    let mut stream = client.connect(edge, "site.test").unwrap();
    let ask = |id| {
        let get = bad_h2::head(b"GET");
        frame(HEADERS, END_HEADERS | END_STREAM, id, &get)
    };
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([frame(SETTINGS, 0, 0, &[]), ask(1)].concat());
    assert_eq!(bad_h2::looked_at(&mut stream, bytes, 3), None);
    // the link is there; and from now on the backend is deaf, as its queue is full
    let _held = backend.accept().unwrap();
    let mut queue = Vec::new();
    loop {
        let one = socket();
        let queued = one.connect_timeout(&address.into(), Duration::from_millis(300));
        if queued.is_err() {
            break;
        }
        queue.push(one);
    }
    // fewer at a time than make a link busy
    for turn in 0..15 {
        let first = turn * 24 + 5;
        let ids = || (0..10).map(|n| first + n * 2);
        let asked = ids().flat_map(ask).collect();
        assert_eq!(bad_h2::looked_at(&mut stream, asked, first + 20), None);
        let taken_back = ids()
            .flat_map(|id| frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()))
            .collect();
        assert_eq!(bad_h2::looked_at(&mut stream, taken_back, first + 22), None);
    }
    // those that went before their OPEN was written are not among them
    let gone = |line: &serde_json::Value| line["reason"] == "peer_reset";
    until("word of those who have gone", || {
        (acceptor.count(gone) > 50).then_some(())
    });
    assert_eq!(links(&acceptor), 1);
}

/// A handshake that has cost both ends is of use to the next, whoever began it.
#[test]
fn a_link_is_not_dialled_anew_because_who_wanted_it_first_has_gone() {
    let world = World::new();
    let backend = Backend::serve(world.address(), |mut stream| {
        assert!(head(&mut stream).unwrap());
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        stream.write_all(answer).unwrap();
        drop(head(&mut stream));
    });
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (go, wait) = mpsc::channel::<()>();
    let (wait, ours) = (Mutex::new(wait), SocketAddr::from((world.ip(), 0)));
    let slow = Backend::serve(world.address(), move |mut near| {
        wait.lock().unwrap().recv().unwrap();
        let far = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        far.bind(&ours.into()).unwrap();
        far.connect(&link.into()).unwrap();
        let mut far = TcpStream::from(far);
        let (mut from, mut to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        std::thread::spawn(move || io::copy(&mut from, &mut to));
        drop(io::copy(&mut far, &mut near));
    });
    let (_gateway, edge) =
        world.plain_gateway("http", slow.address, "", "connect_timeout = \"60s\"");
    let client = world.client().alpn("h2");
    let mut stream = client.connect(edge, "site.test").unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    for turn in 0..10 {
        let first = turn * 6 + 1;
        let get = bad_h2::head(b"GET");
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, first, &get));
        let asked = std::mem::take(&mut bytes);
        assert_eq!(bad_h2::looked_at(&mut stream, asked, first + 2), None);
        until("the dial", || (slow.connections() > 0).then_some(()));
        let back = frame(RST_STREAM, 0, first, &8_u32.to_be_bytes());
        assert_eq!(bad_h2::looked_at(&mut stream, back, first + 4), None);
    }
    assert_eq!(slow.connections(), 1);
    go.send(()).unwrap();
    // on the same thread, where the link is
    let get = bad_h2::head(b"GET");
    let asked = frame(HEADERS, END_HEADERS | END_STREAM, 61, &get);
    stream.write_all(&asked).unwrap();
    until("an answer", || (backend.connections() > 0).then_some(()));
    assert_eq!((slow.connections(), links(&acceptor)), (1, 1));
}
