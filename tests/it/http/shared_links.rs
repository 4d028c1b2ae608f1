//! Requests of http mode as streams of few link connections (`portcullis/3`).

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc, Barrier, Mutex,
        mpsc::{self, Receiver},
    },
    time::Duration,
};

use rustix::process::Signal;

use crate::world::{Backend, Running, World, get, until};

/// Requests that are under way at once.
const MANY: usize = 24;

/// The link connections that an acceptor has had.
fn links(acceptor: &Running) -> usize {
    let accepted = acceptor.metric("portcullis_connections_accepted_total{listener=\"legacy\"");
    // counts are small and whole
    format!("{accepted:.0}").parse().unwrap()
}

/// Reads a head; whether there was one.
fn head(stream: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    let mut one = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut one) {
            Ok(1) => head.push(one[0]),
            _ => return false,
        }
    }
    true
}

/// Answers when so many have asked, on each connection again and again; how each ended.
fn together(world: &World, many: usize) -> (Backend, Receiver<std::io::Result<usize>>) {
    let all = Arc::new(Barrier::new(many));
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let backend = Backend::serve(world.address(), move |mut stream| {
        let tell = tell.lock().unwrap().clone();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        while head(&mut stream) {
            all.wait();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
            stream.write_all(answer).unwrap();
        }
        // what stood behind the last request, or why nothing did
        tell.send(stream.read(&mut [0])).unwrap();
    });
    (backend, told)
}

/// Asks once by each of so many clients, all at once.
fn ask(world: &World, edge: std::net::SocketAddr, many: usize) {
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
        assert_eq!(end.unwrap(), 0);
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
