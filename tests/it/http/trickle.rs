//! HTTP/2 clients that open their windows by little at a time: who goes on reading is served, and who
//! only holds on is not.

use std::{
    io::{self, Read as _, Write as _},
    time::Duration,
};

use super::{
    Chain,
    bad_h2::{
        DATA, END_HEADERS, END_STREAM, HEADERS, SETTINGS, WINDOW_UPDATE, frame, head as request,
    },
    raw::{answering, ok},
};
use crate::world::{Backend, PATIENCE, TlsStream, World, says};

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
    let mut stream = client.connect(chain.edge, "site.test").unwrap();
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
        assert!(says(&line, "detail", "limits.body_min_rate"), "{line}");
    }
}
