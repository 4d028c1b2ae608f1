//! HTTP/2 clients that open their windows by little at a time: who goes on reading is served, and who
//! only holds on is not.

use std::{
    io::{self, Read as _, Write as _},
    time::Duration,
};

use portcullis::pki::Role;

use super::{
    Chain,
    bad_h2::{
        DATA, END_HEADERS, END_STREAM, HEADERS, PING, SETTINGS, WINDOW_UPDATE, frame,
        head as request,
    },
    raw::{answering, ok},
};
use crate::world::{Backend, PATIENCE, TlsStream, World};

/// More than is kept for a client that can't take it, and less.
const LONG: usize = 1 << 20;
const SHORT: usize = 4_000;

fn chain(body: usize, limits: &str) -> (Chain, Backend) {
    let world = World::new();
    let (backend, _) = answering(world.address(), move |_| ok(&"x".repeat(body)));
    let limits = format!("[listener.limits]\nwrite_timeout = \"3s\"\n{limits}");
    (Chain::new(world, backend.address, &limits, ""), backend)
}

/// A client whose windows are shut, and which has asked for /h2.
fn asks(chain: &Chain) -> TlsStream {
    let client = chain.world.client().alpn("h2");
    asks_over(client.connect(chain.edge, "site.test").unwrap())
}

fn asks_over(mut stream: TlsStream) -> TlsStream {
    stream.sock.set_read_timeout(Some(PATIENCE)).unwrap();
    let no_window = [0, 4, 0, 0, 0, 0];
    let bytes = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, 0, &no_window),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &request(b"GET")),
    ];
    stream.write_all(&bytes.concat()).unwrap();
    stream
}

/// Reads up to such a frame that carries something; how much.
fn next(stream: &mut TlsStream, wanted: u8) -> usize {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let [a, b, c, kind, ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        stream.read_exact(&mut vec![0; length]).unwrap();
        if kind == wanted && length > 0 {
            return length;
        }
    }
}

/// Asks for a head alone, in this stream, and has it.
fn asks_again(stream: &mut TlsStream, number: u32) {
    let flags = END_HEADERS | END_STREAM;
    let asked = frame(HEADERS, flags, number, &request(b"HEAD"));
    stream.write_all(&asked).unwrap();
    next(stream, HEADERS);
}

/// Opens the window by so much and takes that; how much it was.
fn takes(stream: &mut TlsStream, octets: u32) -> io::Result<usize> {
    stream.write_all(&frame(WINDOW_UPDATE, 0, 1, &octets.to_be_bytes()))?;
    let mut taken = 0;
    while taken < octets as usize {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let [a, b, c, kind, flags, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload)?;
        if kind == DATA {
            taken += payload.len();
            if flags & END_STREAM != 0 {
                break;
            }
        }
    }
    Ok(taken)
}

/// Takes so little at a time, after a pause each time, and so much in all, if it may.
fn trickles(stream: &mut TlsStream, (octets, pause): (u32, u64), all: usize) -> usize {
    let mut taken = 0;
    while taken < all {
        std::thread::sleep(Duration::from_millis(pause));
        match takes(stream, octets) {
            Ok(n) => taken += n,
            Err(_) => break,
        }
    }
    taken
}

#[rstest::rstest]
#[case::of_a_long_answer(LONG)]
#[case::of_what_is_kept_for_it(SHORT)]
fn who_reads_little_at_a_time_is_served(#[case] body: usize) {
    let limits = "body_min_rate = \"20B\"\nkeepalive_timeout = \"1s\"\nheader_timeout = \"2s\"";
    let (chain, _backend) = chain(body, limits);
    let mut stream = asks(&chain);
    assert_eq!(trickles(&mut stream, (50, 60), SHORT), SHORT);
}

#[rstest::rstest]
#[case::of_a_long_answer(LONG)]
#[case::of_what_is_kept_for_it(SHORT)]
fn who_reads_next_to_nothing_is_not_waited_for(#[case] body: usize) {
    let (chain, _backend) = chain(body, "");
    let mut stream = asks(&chain);
    assert_ne!(trickles(&mut stream, (100, 500), SHORT), SHORT);
    chain.gateway.ended_for("public", "write_timeout");
    if body == LONG {
        let line = chain.line("/h2");
        assert_eq!(line["decision"], "ended", "{line}");
        assert_eq!(line["reason"], "write_timeout", "{line}");
    }
}

/// h2 answers a head that is too large by itself, as no answer that was kept for a client.
#[test]
fn what_is_refused_after_a_pause_is_no_slow_reading() {
    let (chain, _backend) = chain(9, "header_bytes = \"8KiB\"");
    let client = chain.world.client().alpn("h2");
    let mut stream = client.connect(chain.edge, "site.test").unwrap();
    stream.sock.set_read_timeout(Some(PATIENCE)).unwrap();
    let bytes = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, 0, &[]),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &request(b"GET")),
    ];
    stream.write_all(&bytes.concat()).unwrap();
    assert_eq!(next(&mut stream, DATA), 9);
    // longer than limits.write_timeout: it is owed nothing
    std::thread::sleep(Duration::from_secs(4));
    let mut large = request(b"GET");
    for name in [&b"a"[..], b"b"] {
        large.extend([0, 1]);
        large.extend(name);
        // 8,000 octets
        large.extend([127, 193, 61]);
        large.extend([b'x'; 8_000]);
    }
    let refused = frame(HEADERS, END_HEADERS | END_STREAM, 3, &large);
    stream.write_all(&refused).unwrap();
    next(&mut stream, HEADERS);
    // it is looked at several times
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(250));
        stream.write_all(&frame(PING, 0, 0, &[7; 8])).unwrap();
        assert_eq!(next(&mut stream, PING), 8);
    }
}

/// A page may let a download rest while it goes on asking.
#[test]
fn who_lets_one_answer_rest_and_takes_others_is_served() {
    let (chain, _backend) = chain(LONG, "");
    let mut stream = asks(&chain);
    for number in 1..=16 {
        std::thread::sleep(Duration::from_millis(500));
        asks_again(&mut stream, 2 * number + 1);
    }
}

/// A gateway reads as its clients do: one that is slow is no reason to cut them all.
#[test]
fn a_gateway_that_reads_next_to_nothing_is_waited_for() {
    let world = World::new();
    let (backend, _) = answering(world.address(), |_| ok(&"x".repeat(LONG)));
    let limits = "[listener.limits]\nwrite_timeout = \"3s\"";
    let (_acceptor, address) = world.http_acceptor(&backend.address.to_string(), limits);
    let leaf = world.leaf(Role::Gateway, "edge-1");
    let client = world.client().certificate(&leaf).alpn("h2");
    let client = client.source(world.other_ip(4));
    let mut stream = asks_over(client.connect(address, "legacy.internal").unwrap());
    assert_eq!(trickles(&mut stream, (100, 500), 1_600), 1_600);
}

/// What was kept for a client that did not read is its own, whenever it does.
#[test]
fn who_takes_the_rest_late_is_served_on() {
    let (chain, _backend) = chain(500, "");
    let mut stream = asks(&chain);
    assert_eq!(takes(&mut stream, 100).unwrap(), 100);
    // longer than limits.write_timeout
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(takes(&mut stream, 400).unwrap(), 400);
    std::thread::sleep(Duration::from_secs(2));
    asks_again(&mut stream, 3);
}
