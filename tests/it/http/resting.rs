//! A quiet connection keeps next to nothing, and its client sees no difference.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    Chain,
    raw::{Raw, mirror},
};
use crate::world::World;

/// Longer than a connection has to be quiet before it rests.
const QUIET: Duration = Duration::from_millis(800);

#[test]
fn requests_go_on_after_a_rest() {
    let world = World::new();
    let (backend, seen) = mirror(world.address());
    // both ends speak HTTP, and rest
    let at = backend.address.to_string();
    let chain = Chain::both(world, &at, "", "", "");
    let mut raw = chain.raw();
    sleep(QUIET);
    assert_eq!(raw.ask(&["GET /first"]).status(), 200);
    sleep(QUIET);
    // a head in two parts
    raw.send("GET /sec");
    sleep(QUIET);
    raw.send("ond HTTP/1.1\r\nHost: site.test\r\n\r\n");
    assert_eq!(raw.answer().status(), 200);
    sleep(QUIET);
    // two at once, and a part of one more
    raw.send(
        "GET /third HTTP/1.1\r\nHost: site.test\r\n\r\n\
         GET /fourth HTTP/1.1\r\nHost: site.test\r\n\r\nPOST /fif",
    );
    assert_eq!(raw.answer().status(), 200);
    assert_eq!(raw.answer().status(), 200);
    sleep(QUIET);
    // a body in two parts
    raw.send("th HTTP/1.1\r\nHost: site.test\r\nContent-Length: 10\r\n\r\n12345");
    sleep(QUIET);
    raw.send("67890");
    assert_eq!(raw.answer().status(), 200);
    sleep(QUIET);
    // what is refused is refused
    raw.send("GET /six\x01 HTTP/1.1\r\n");
    assert_eq!(raw.answer().status(), 400);
    raw.ends();
    let targets = seen.targets();
    assert_eq!(
        targets,
        ["/first", "/second", "/third", "/fourth", "/fifth"]
    );
    assert_eq!(seen.last().body, b"1234567890");
    chain.gateway.refusal("request_invalid");
}

#[test]
fn a_drain_ends_connections_at_rest_as_it_should() {
    let world = World::new();
    let (backend, _seen) = mirror(world.address());
    let chain = Chain::new(world, backend.address, "", "");
    let (mut used, mut fresh) = (chain.raw(), chain.raw());
    assert_eq!(used.ask(&["GET /one"]).status(), 200);
    sleep(QUIET);
    let began = Instant::now();
    assert!(chain.gateway.stop().success());
    assert!(began.elapsed() < Duration::from_secs(10));
    for raw in [&mut used, &mut fresh] {
        // a TLS end, not a torn connection
        assert!(std::io::Read::read(raw.tls(), &mut [0]).is_ok_and(|n| n == 0));
    }
}

/// What one connection more costs, once others have rested and given back what they had.
#[test]
fn connections_at_rest_keep_no_buffers() {
    const MANY: usize = 400;
    let world = World::new();
    let (backend, _seen) = mirror(world.address());
    let limits = "[listener.limits]\nconnections_per_ip = 0";
    let chain = Chain::new(world, backend.address, limits, "");
    let client = chain.world.client();
    let mut held: Vec<Raw> = Vec::new();
    let mut open = || {
        for _ in 0..MANY {
            let mut raw = chain.raw_as(&client);
            assert_eq!(raw.ask(&["GET /rest"]).status(), 200);
            held.push(raw);
        }
        sleep(QUIET);
    };
    open();
    let before = chain.gateway.resident();
    open();
    open();
    let grown = chain.gateway.resident().saturating_sub(before) * 1024;
    let each = grown / (2 * MANY as u64);
    // TLS keeps some, and 16 more are two buffers
    assert!(each < 30, "{each} KiB for each");
    // and all of them live
    for raw in &mut held {
        assert_eq!(raw.ask(&["GET /again"]).status(), 200);
    }
}
