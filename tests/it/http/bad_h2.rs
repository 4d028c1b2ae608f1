//! HTTP/2 frames that cost their sender little and a careless server much. The gateway holds
//! little for them, the backend sees little of them, and others are served on.

use std::{
    io::{self, Read as _, Write as _},
    time::{Duration, Instant},
};

use super::{
    Chain,
    raw::{Seen, answering, ok},
};
use crate::world::{Backend, TlsStream, World, says, until};

pub(super) const SETTINGS: u8 = 4;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const PRIORITY: u8 = 2;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const DATA: u8 = 0;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// `:method`, `:scheme`, `:path` /h2 and `:authority` site.test, without compression.
pub(super) fn head(method: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (&b":method"[..], method),
        (b":scheme", b"https"),
        (b":path", b"/h2"),
        (b":authority", b"site.test"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend(text);
        }
    }
    block
}

pub(super) struct Attack {
    chain: Chain,
    _backend: Backend,
    seen: Seen,
    before: usize,
}

impl Attack {
    pub(super) fn new() -> Self {
        let world = World::new();
        let (backend, seen) = answering(world.address(), |request| {
            if request.target() == "/h2" {
                std::thread::sleep(Duration::from_millis(50));
            }
            ok("served")
        });
        let limits = "[listener.limits]\nheader_timeout = \"1s\"\nwrite_timeout = \"2s\"";
        let chain = Chain::new(world, backend.address, limits, "");
        let before = resident(&chain);
        Self {
            chain,
            _backend: backend,
            seen,
            before,
        }
    }

    pub(super) fn connect(&self) -> TlsStream {
        let client = self.chain.world.client().alpn("h2");
        let mut stream = client.connect(self.chain.edge, "site.test").unwrap();
        let preface = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            &frame(SETTINGS, 0, 0, &[])[..],
        ];
        stream.write_all(&preface.concat()).unwrap();
        stream
    }

    /// Sends such bytes until the gateway ends it, or for so many seconds.
    fn flood(
        &self,
        stream: &mut TlsStream,
        seconds: u64,
        mut bytes: impl FnMut(u32) -> Vec<u8>,
    ) -> io::Result<()> {
        let began = Instant::now();
        stream
            .sock
            .set_write_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        for turn in 0.. {
            if began.elapsed() > Duration::from_secs(seconds) {
                return Ok(());
            }
            stream.write_all(&bytes(turn))?;
            stream.flush()?;
        }
        Ok(())
    }

    /// Sends such bytes and reads what comes, until the gateway says GOAWAY, for so many seconds;
    /// the error code.
    fn told(
        &self,
        stream: &mut TlsStream,
        seconds: u64,
        mut bytes: impl FnMut(u32) -> Vec<u8>,
    ) -> Option<u32> {
        let began = Instant::now();
        let quick = Some(Duration::from_millis(1));
        stream.sock.set_read_timeout(quick).unwrap();
        let (mut came, mut turn, mut open) = (Vec::new(), 0, true);
        while began.elapsed() < Duration::from_secs(seconds) {
            if open {
                let more = bytes(turn);
                // what can't be written now is lost, and with it the stream: then only read
                open = stream
                    .write_all(&more)
                    .and_then(|()| stream.flush())
                    .is_ok();
                turn += 1;
            }
            let mut some = [0; 16 << 10];
            match stream.read(&mut some) {
                Ok(0) => return goaway(&came),
                Ok(n) => came.extend(&some[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return goaway(&came),
            }
            if let Some(code) = goaway(&came) {
                return Some(code);
            }
        }
        None
    }

    /// What must hold after each.
    pub(super) fn survived(&self) {
        let grown = resident(&self.chain).saturating_sub(self.before);
        assert!(grown < 20 * 1024, "the gateway grew by {grown} KiB");
        let answer = self.chain.raw().ask(&["GET /other"]);
        assert_eq!(answer.text(), "served");
    }
}

/// Sends these, and waits until they were looked at, by the refusal of a last request with this
/// number; the error code of a GOAWAY that came instead.
pub(super) fn looked_at(stream: &mut TlsStream, mut bytes: Vec<u8>, last: u32) -> Option<u32> {
    let ends = END_HEADERS | END_STREAM;
    bytes.extend(frame(HEADERS, ends, last, &head(b"TRACE")));
    // what ends it comes as a word before the end
    drop(stream.write_all(&bytes).and_then(|()| stream.flush()));
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let [a, b, c, kind, _flags, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).unwrap();
        match kind {
            HEADERS if u32::from_be_bytes(id) == last => return None,
            GOAWAY => return Some(u32::from_be_bytes(payload[4..8].try_into().unwrap())),
            _ => {}
        }
    }
}

/// The error code of the last GOAWAY among these frames.
fn goaway(mut frames: &[u8]) -> Option<u32> {
    let mut code = None;
    while let [a, b, c, kind, ..] = *frames {
        let end = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
        let Some(whole) = frames.get(..end) else {
            break;
        };
        if kind == GOAWAY {
            code = Some(u32::from_be_bytes(whole[13..17].try_into().unwrap()));
        }
        frames = &frames[end..];
    }
    code
}

fn resident(chain: &Chain) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", chain.gateway.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// CVE-2023-44487: requests that are taken back as soon as they are made.
#[test]
fn requests_taken_back_at_once() {
    let attack = Attack::new();
    let mut stream = attack.connect();
    let ended = attack.flood(&mut stream, 10, |turn| {
        let mut bytes = Vec::new();
        for n in 0..100 {
            let id = (turn * 100 + n) * 2 + 1;
            bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, id, &head(b"GET")));
            bytes.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
        }
        bytes
    });
    assert!(ended.is_err(), "it may go on for ever");
    assert!(attack.seen.all().len() < 100);
    // slower, so that each is under way before it is taken back
    let mut stream = attack.connect();
    let mut asked = 0;
    let ended = attack.flood(&mut stream, 15, |turn| {
        asked = turn;
        std::thread::sleep(Duration::from_millis(3));
        let mut bytes = frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            turn * 2 + 1,
            &head(b"GET"),
        );
        if let Some(before) = turn.checked_sub(1) {
            bytes.extend(frame(RST_STREAM, 0, before * 2 + 1, &8_u32.to_be_bytes()));
        }
        bytes
    });
    assert!(
        ended.is_err(),
        "it may go on for ever, {asked} times so far"
    );
    // on a busy machine some may still come together, and h2 ends it
    let refused = |line: &serde_json::Value| {
        line["message"] == "access" && line["reason"] == "request_invalid" && line["path"].is_null()
    };
    until("a line for each connection", || {
        (attack.chain.gateway.count(refused) == 2).then_some(())
    });
    attack.survived();
}

/// Requests that the gateway itself refuses are no better company for those that are taken back.
#[test]
fn requests_taken_back_beside_requests_that_go_nowhere() {
    let attack = Attack::new();
    let mut stream = attack.connect();
    let code = (0..100).find_map(|turn| {
        // room for every refusal
        let mut bytes = frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 20).to_be_bytes());
        let first = turn * 50 + 1;
        for n in 0..20 {
            let id = first + n * 2;
            let back = n < 9;
            let method: &[u8] = if back { b"GET" } else { b"TRACE" };
            bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, id, &head(method)));
            if back {
                bytes.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
            }
        }
        looked_at(&mut stream, bytes, first + 40)
    });
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
    let line = attack.chain.gateway.refusal("request_invalid");
    assert!(says(&line, "detail", "taken back"), "{line}");
    attack.survived();
}

/// CVE-2024-27316 and its like: a head that never ends.
#[test]
fn a_head_without_end() {
    let attack = Attack::new();
    let mut stream = attack.connect();
    stream
        .write_all(&frame(HEADERS, END_STREAM, 1, &head(b"GET")))
        .unwrap();
    let mut field = vec![0, 1, b'x', 100];
    field.extend([b'y'; 100]);
    let many = field.repeat(100);
    let ended = attack.flood(&mut stream, 10, |_| frame(CONTINUATION, 0, 1, &many));
    assert!(ended.is_err(), "it may go on for ever");
    // the same with nothing in it
    let mut stream = attack.connect();
    stream
        .write_all(&frame(HEADERS, END_STREAM, 1, &head(b"GET")))
        .unwrap();
    let empty = frame(CONTINUATION, 0, 1, &[]).repeat(100);
    let ended = attack.flood(&mut stream, 10, |_| empty.clone());
    assert!(ended.is_err(), "it may go on for ever");
    assert!(attack.seen.all().is_empty());
    attack.survived();
}

/// A table entry named over and over: a few bytes become megabytes.
#[test]
fn a_head_that_grows_when_it_is_read() {
    let attack = Attack::new();
    let mut stream = attack.connect();
    let mut block = head(b"GET");
    // into the table: x: 3000 bytes; then 10,000 times the same in a byte each
    block.extend([0x40, 1, b'x', 0x7f, 0xb9, 0x16]);
    block.extend(vec![b'y'; 3000]);
    block.extend(vec![0xbe; 10_000]);
    stream
        .write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block))
        .unwrap();
    stream.flush().unwrap();
    let patience = Some(Duration::from_secs(1));
    stream.sock.set_read_timeout(patience).unwrap();
    drop(stream.read_to_end(&mut Vec::new()));
    assert!(attack.seen.all().is_empty());
    attack.survived();
}

/// Frames that ask for an answer each, from a client that reads none.
#[rstest::rstest]
#[case(PING, &[0; 8])]
#[case(SETTINGS, &[])]
fn answers_that_nobody_reads(#[case] kind: u8, #[case] payload: &[u8]) {
    let attack = Attack::new();
    let mut stream = attack.connect();
    let many = frame(kind, 0, 0, payload).repeat(500);
    let ended = attack.flood(&mut stream, 1, |_| many.clone());
    drop(ended);
    attack.survived();
}

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const ENHANCE_YOUR_CALM: u32 = 11;

/// The same from a client that reads them, and frames that mean nothing: who sends many and asks
/// for nothing is told to calm down.
#[rstest::rstest]
#[case::pings(&frame(PING, 0, 0, &[0; 8]))]
#[case::settings(&frame(SETTINGS, 0, 0, &[]))]
#[case::priorities(&frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]))]
#[case::unknown(&frame(0xbe, 0, 0, b"any"))]
fn frames_of_no_use_end_with_a_goaway(#[case] one: &[u8]) {
    let attack = Attack::new();
    let mut stream = attack.connect();
    let many = one.repeat(50);
    let code = attack.told(&mut stream, 20, |_| many.clone());
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
    let line = attack.chain.gateway.refusal("request_invalid");
    assert!(says(&line, "detail", "frames"), "{line}");
    attack.survived();
}

/// Who asks for something may ping as often as that takes.
#[test]
fn frames_beside_work_are_welcome() {
    let attack = Attack::new();
    let mut stream = attack.connect();
    let mut sent = 0;
    let code = attack.told(&mut stream, 4, |turn| {
        sent += 10;
        let request = frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            turn * 2 + 1,
            &head(b"PUT"),
        );
        let mut bytes = frame(PING, 0, 0, &[0; 8]).repeat(2);
        bytes.extend(request);
        std::thread::sleep(Duration::from_millis(60));
        bytes
    });
    assert_eq!(code, None, "after {sent} pings");
    attack.survived();
}

#[test]
fn each_attack_is_told_the_right_error() {
    let attack = Attack::new();
    let request = |id| frame(HEADERS, END_HEADERS | END_STREAM, id, &head(b"GET"));
    let mut stream = attack.connect();
    let code = attack.told(&mut stream, 10, |turn| {
        let mut bytes = Vec::new();
        for n in 0..100 {
            let id = (turn * 100 + n) * 2 + 1;
            bytes.extend(request(id));
            bytes.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
        }
        bytes
    });
    assert_eq!(code, Some(ENHANCE_YOUR_CALM), "rapid reset");
    let mut stream = attack.connect();
    let code = attack.told(&mut stream, 15, |turn| {
        std::thread::sleep(Duration::from_millis(2));
        let mut bytes = request(turn * 2 + 1);
        if let Some(before) = turn.checked_sub(1) {
            let reset = 8_u32.to_be_bytes();
            bytes.extend(frame(RST_STREAM, 0, before * 2 + 1, &reset));
        }
        bytes
    });
    assert_eq!(code, Some(ENHANCE_YOUR_CALM), "slower resets");
    for (what, first, many) in [
        ("continuations", END_STREAM, frame(CONTINUATION, 0, 1, b"")),
        ("a long head", END_STREAM, {
            let mut field = vec![0, 1, b'x', 100];
            field.extend([b'y'; 100]);
            frame(CONTINUATION, 0, 1, &field.repeat(100))
        }),
    ] {
        let mut stream = attack.connect();
        let code = attack.told(&mut stream, 10, |turn| match turn {
            0 => frame(HEADERS, first, 1, &head(b"GET")),
            _ => many.clone(),
        });
        assert_eq!(code, Some(ENHANCE_YOUR_CALM), "{what}");
    }
    // windows: a zero step, and one too far
    for (what, step, expected) in [
        ("no step", 0_u32, PROTOCOL_ERROR),
        ("a window too wide", 0x7fff_ffff, FLOW_CONTROL_ERROR),
    ] {
        let mut stream = attack.connect();
        let code = attack.told(&mut stream, 10, |_| {
            frame(WINDOW_UPDATE, 0, 0, &step.to_be_bytes())
        });
        assert_eq!(code, Some(expected), "{what}");
    }
    attack.survived();
}

/// An idle client is told to go before it is cut.
#[test]
fn who_says_nothing_is_told_goodbye() {
    let attack = Attack::new();
    let mut stream = attack.connect();
    let code = attack.told(&mut stream, 10, |_| {
        std::thread::sleep(Duration::from_millis(50));
        Vec::new()
    });
    assert_eq!(code, Some(0));
}

/// Streams beyond `limits.streams` are refused one by one, and those within are served.
#[test]
fn streams_have_a_limit_that_is_configured() {
    use super::h2::{self, block};
    let world = World::new();
    let (backend, seen) = answering(world.address(), |_| {
        std::thread::sleep(Duration::from_millis(300));
        ok("served")
    });
    let limits = "[listener.limits]\nstreams = 3";
    let chain = Chain::new(world, backend.address, limits, "");
    let client = chain.world.client().alpn("h2");
    let mut stream = client.connect(chain.edge, "site.test").unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    for n in 0..10 {
        bytes.extend(frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            n * 2 + 1,
            &head(b"GET"),
        ));
    }
    stream.write_all(&bytes).unwrap();
    stream.flush().unwrap();
    until("three are under way", || {
        (seen.all().len() == 3).then_some(())
    });
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(seen.all().len(), 3, "the others were refused");
    // a client that keeps to it waits its turn
    block(async {
        let sender = chain.h2().await;
        let ask = |n: u32| {
            let request = h2::request("GET", &format!("/{n}")).body(()).unwrap();
            h2::ask(&sender, request)
        };
        // by then it knows the limit
        assert_eq!(ask(9).await.unwrap().text(), "served");
        let answers = futures_util::future::join_all((0..9).map(ask)).await;
        for answer in answers {
            assert_eq!(answer.unwrap().text(), "served");
        }
    });
}

/// Frames that carry nothing.
#[test]
fn bodies_of_empty_frames() {
    let attack = Attack::new();
    let mut stream = attack.connect();
    stream
        .write_all(&frame(HEADERS, END_HEADERS, 1, &head(b"POST")))
        .unwrap();
    let empty = frame(DATA, 0, 1, &[]).repeat(500);
    drop(attack.flood(&mut stream, 1, |_| empty.clone()));
    attack.survived();
}

/// Streams beyond the limit, and on a stream of an even number.
#[test]
fn streams_that_may_not_be() {
    let attack = Attack::new();
    for id in [0, 2] {
        let mut stream = attack.connect();
        stream
            .write_all(&frame(HEADERS, END_HEADERS | END_STREAM, id, &head(b"GET")))
            .unwrap();
        stream.flush().unwrap();
        let began = Instant::now();
        drop(stream.read_to_end(&mut Vec::new()));
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "stream {id} is waited for"
        );
    }
    assert!(attack.seen.all().is_empty());
    attack.chain.gateway.refusal("request_invalid");
    attack.survived();
}

/// Names and values that HTTP/1.1 could not carry, or would read in another way.
#[rstest::rstest]
#[case::upper("X-Upper", "a")]
#[case::colon("x:y", "a")]
#[case::space("x y", "a")]
#[case::line("x-line", "a\r\nevil: b")]
#[case::nul("x-nul", "a\0b")]
#[case::pseudo(":evil", "a")]
#[case::twice(":path", "/second")]
#[case::hop("connection", "close")]
#[case::framing("transfer-encoding", "chunked")]
#[case::te("te", "gzip")]
fn heads_that_http_1_would_read_otherwise(#[case] name: &str, #[case] value: &str) {
    let attack = Attack::new();
    let mut stream = attack.connect();
    let mut block = head(b"GET");
    block.push(0);
    for text in [name, value] {
        block.push(text.len() as u8);
        block.extend(text.as_bytes());
    }
    stream
        .write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block))
        .unwrap();
    stream.flush().unwrap();
    stream
        .sock
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    drop(stream.read_to_end(&mut Vec::new()));
    for request in attack.seen.all() {
        // hyper drops what ends at this hop, and passes the rest
        assert!(
            ["connection", "transfer-encoding", "te"].contains(&name),
            "{request:?}"
        );
        assert_eq!(request.one(name), None, "{request:?}");
        assert!(request.one("evil").is_none());
    }
    attack.survived();
}
