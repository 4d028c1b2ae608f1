//! Upgrades: WebSocket and others pass, what must not does not.

use std::io::{Read as _, Write as _};

use super::{
    Chain,
    h2::{self, block},
    raw::{Message, Peer, Seen, ok},
};
use crate::{
    mux::{PASSES, sent},
    world::{Backend, World},
};

/// A frame of RFC 6455 as a client sends it.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut bytes = vec![0x80 | opcode];
    match u16::try_from(payload.len()).unwrap() {
        n if n < 126 => bytes.push(0x80 | n as u8),
        n => {
            bytes.push(0x80 | 126);
            bytes.extend(n.to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    bytes
}

/// Reads one frame; its opcode and payload, unmasked.
fn read_frame(stream: &mut impl std::io::Read) -> std::io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let mut length = usize::from(head[1] & 0x7f);
    if length == 126 {
        let mut long = [0; 2];
        stream.read_exact(&mut long)?;
        length = usize::from(u16::from_be_bytes(long));
    }
    let mut mask = [0; 4];
    if head[1] & 0x80 != 0 {
        stream.read_exact(&mut mask)?;
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    Ok((head[0] & 0x0f, payload))
}

/// A server's frame.
fn unmasked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80 | opcode];
    match u16::try_from(payload.len()).unwrap() {
        n if n < 126 => bytes.push(n as u8),
        n => {
            bytes.push(126);
            bytes.extend(n.to_be_bytes());
        }
    }
    bytes.extend(payload);
    bytes
}

/// Agrees to every upgrade but at `/no`. A WebSocket is greeted in the same segment as the 101 and
/// has its frames echoed; other protocols have their bytes echoed. Its 101 has a length, which says
/// nothing there and should not be sent (RFC 9110 section 8.6).
fn upgrading(world: &World) -> (Backend, Seen) {
    let seen = Seen::default();
    let notes = seen.clone();
    let backend = Backend::serve(world.address(), move |stream| {
        let mut peer = Peer::new(stream);
        while let Some(mut request) = peer.head() {
            if peer.body(&mut request).is_err() {
                return;
            }
            notes.push(request.clone());
            let wanted = request.one("upgrade").map(str::to_owned);
            let Some(protocol) = wanted.filter(|_| request.target() != "/no") else {
                peer.send(ok("no"));
                continue;
            };
            if request.target() == "/403" {
                peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
                continue;
            }
            let mut accept = accept(&request);
            if request.target() == "/forged" {
                accept = "AAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned();
            }
            let mut answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\
                 Sec-WebSocket-Accept: {accept}\r\nContent-Length: 5\r\n\r\n"
            )
            .into_bytes();
            if protocol != "websocket" {
                peer.send(&answer);
                let mut byte = [0; 1];
                while peer.stream.read_exact(&mut byte).is_ok() && peer.send(byte) {}
                return;
            }
            answer.extend(unmasked(1, b"welcome"));
            peer.send(&answer);
            while let Ok((opcode, payload)) = read_frame(&mut peer.stream) {
                peer.send(unmasked(opcode, &payload));
                if opcode == 8 {
                    return peer.close();
                }
            }
            notes.push(Message {
                start: "ended without close".into(),
                ..Message::default()
            });
            return;
        }
    });
    (backend, seen)
}

pub(super) fn accept(request: &Message) -> String {
    use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
    let key = request.one("sec-websocket-key").unwrap_or_default();
    let both = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, both.as_bytes());
    portcullis::wire::base64::encode(hash.as_ref())
}

/// RFC 9110 section 7.8: a server switches to what it was asked for, and says to what.
#[rstest::rstest]
#[case("Upgrade: custom/2\r\n", 101)]
#[case("Upgrade: CUSTOM/2\r\n", 101)]
#[case("Upgrade: other\r\n", 502)]
#[case("Upgrade: custom/2, other\r\n", 502)]
#[case("Upgrade: custom/2\r\nUpgrade: other\r\n", 502)]
#[case("Upgrade:\r\n", 502)]
#[case("", 502)]
fn a_switch_is_to_what_was_asked_for(#[case] line: &str, #[case] status: u16) {
    let answer = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n{line}\r\n");
    let backend = Backend::serve(World::new().address(), move |stream| {
        let mut peer = Peer::new(stream);
        while peer.head().is_some() && peer.send(&answer) {}
    });
    let address = backend.address.to_string();
    for chain in [
        Chain::new(World::new(), backend.address, "", ""),
        Chain::both(World::new(), &address, "", "", ""),
    ] {
        let mut raw = chain.raw();
        let answer = raw.ask(&["GET /", "Connection: upgrade", "Upgrade: custom/2"]);
        assert_eq!(answer.status(), status, "{line}");
    }
}

const WEBSOCKET: &[&str] = &[
    "GET /chat",
    "Connection: keep-alive, Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

fn chain() -> (Chain, Backend, Seen) {
    let world = World::new();
    let (backend, seen) = upgrading(&world);
    let chain = Chain::new(world, backend.address, "", "");
    (chain, backend, seen)
}

#[test]
fn a_websocket_talks_both_ways_until_it_closes() {
    let (chain, _backend, seen) = chain();
    let mut raw = chain.raw();
    let answer = raw.ask(WEBSOCKET);
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.one("upgrade"), Some("websocket"));
    assert_eq!(
        answer
            .one("connection")
            .map(str::to_ascii_lowercase)
            .as_deref(),
        Some("upgrade")
    );
    assert_eq!(
        answer.one("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    let request = seen.last();
    assert_eq!(request.one("upgrade"), Some("websocket"));
    assert_eq!(request.one("connection"), Some("upgrade"));
    let mut next = || read_frame(raw.reader()).unwrap();
    assert_eq!(next(), (1, b"welcome".to_vec()));
    for payload in [b"hello".to_vec(), vec![7; 40_000]] {
        raw.send(frame(2, &payload));
        assert_eq!(read_frame(raw.reader()).unwrap(), (2, payload));
    }
    raw.send(frame(8, &[3, 232]));
    assert_eq!(read_frame(raw.reader()).unwrap(), (8, vec![3, 232]));
    let mut rest = Vec::new();
    // a clean end: rustls reports a missing close_notify as an error
    raw.reader().read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    raw.tls().conn.send_close_notify();
    raw.tls().flush().unwrap();
    let line = chain.line("/chat");
    assert_eq!(line["status"], 101);
    assert_eq!(line["decision"], "admitted");
    assert_eq!(line["bytes_in"], 6 + 5 + 8 + 40_000 + 6 + 2);
    assert_eq!(line["bytes_out"], 2 + 7 + 2 + 5 + 4 + 40_000 + 2 + 2);
}

/// What stands in the sockets is the client's own, however slowly it reads.
#[rstest::rstest]
fn what_a_backend_said_before_its_reset_comes_through_an_upgrade_that_is_read_late(
    #[values("tcp", "http")] mode: &str,
) {
    let world = World::new();
    let (told, was_reset) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let backend = Backend::serve(world.address(), move |stream| {
        let mut peer = Peer::new(stream);
        while let Some(request) = peer.head() {
            if request.target() != "/more" {
                peer.send(ok("yes"));
                continue;
            }
            let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: custom/2\r\n\r\n";
            peer.send(switch);
            peer.send([7; PASSES]);
            sent(peer.stream.get_ref());
            peer.reset();
            return told.lock().unwrap().send(()).unwrap();
        }
    });
    let chain = match mode {
        "tcp" => Chain::new(world, backend.address, "", ""),
        _ => Chain::both(world, &backend.address.to_string(), "", "", ""),
    };
    let (mut other, mut late) = (chain.raw(), chain.raw());
    let socket = socket2::SockRef::from(&late.tls().sock);
    socket.set_recv_buffer_size(32 << 10).unwrap();
    let asks = ["GET /more", "Connection: upgrade", "Upgrade: custom/2"];
    late.request(&asks);
    was_reset
        .recv_timeout(std::time::Duration::from_secs(20))
        .unwrap();
    // each of these is a turn of everything else
    for _ in 0..50 {
        assert_eq!(other.ask(&["GET /"]).status(), 200);
    }
    assert_eq!(late.answer().status(), 101);
    let mut got = Vec::new();
    assert!(late.reader().read_to_end(&mut got).is_err(), "an end");
    assert_eq!(got.len(), PASSES);
    let line = chain.line("/more");
    assert_eq!(line["reason"], "upstream_broken", "{line}");
}

#[test]
fn a_websocket_ends_when_its_client_goes() {
    let (chain, _backend, seen) = chain();
    let mut raw = chain.raw();
    assert_eq!(raw.ask(WEBSOCKET).status(), 101);
    read_frame(raw.reader()).unwrap();
    drop(raw);
    crate::world::until("the end at the backend", || {
        seen.all()
            .iter()
            .any(|m| m.start == "ended without close")
            .then_some(())
    });
    assert_eq!(chain.line("/chat")["status"], 101);
}

#[test]
fn other_protocols_upgrade_too() {
    let (chain, _backend, _seen) = chain();
    let mut raw = chain.raw();
    // bytes that come with the request belong to the new protocol
    raw.send(
        "GET /x HTTP/1.1\r\nHost: site.test\r\nConnection: upgrade\r\nUpgrade: custom/2\r\n\r\nearly",
    );
    let answer = raw.answer();
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.one("upgrade"), Some("custom/2"));
    raw.send("bytes");
    let mut back = [0; 10];
    raw.reader().read_exact(&mut back).unwrap();
    assert_eq!(&back, b"earlybytes");
    raw.tls().conn.send_close_notify();
    raw.tls().flush().unwrap();
    raw.ends();
}

#[test]
fn a_refused_upgrade_is_an_answer_like_any_other() {
    let (chain, backend, seen) = chain();
    let mut raw = chain.raw();
    let mut lines = WEBSOCKET.to_vec();
    lines[0] = "GET /no";
    let answer = raw.ask(&lines);
    assert_eq!((answer.status(), answer.text()), (200, "no".to_owned()));
    assert_eq!(seen.last().one("upgrade"), Some("websocket"));
    // both connections go on
    assert_eq!(raw.ask(&["GET /next"]).text(), "no");
    assert_eq!(backend.connections(), 1);
}

#[rstest::rstest]
#[case(&["GET /h2c", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"])]
#[case(&["GET /upper", "Connection: Upgrade", "Upgrade: H2C"])]
#[case(&["GET /many", "Connection: Upgrade", "Upgrade: websocket, h2c"])]
#[case(&["GET /twice", "Connection: Upgrade", "Upgrade: websocket", "Upgrade: h2c"])]
#[case(&["GET /unlisted", "Upgrade: websocket"])]
fn what_is_no_upgrade_is_not_passed_on(#[case] lines: &[&str]) {
    let (chain, _backend, seen) = chain();
    let answer = chain.raw().ask(lines);
    assert_eq!((answer.status(), answer.text()), (200, "no".to_owned()));
    let request = seen.last();
    for name in ["upgrade", "http2-settings", "connection"] {
        assert_eq!(request.one(name), None, "{request:?}");
    }
}

#[test]
fn nobody_is_switched_who_did_not_ask() {
    let world = World::new();
    let backend = Backend::serve(world.address(), |stream| {
        let mut peer = Peer::new(stream);
        while peer.head().is_some() {
            peer.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
            );
        }
    });
    let chain = Chain::new(world, backend.address, "", "");
    assert_eq!(chain.raw().ask(&["GET /asked-nothing"]).status(), 502);
    chain.refused("/asked-nothing", 502, "upstream_broken");
}

#[test]
fn connect_and_trace_are_refused() {
    let (chain, backend, _seen) = chain();
    for (start, path) in [
        ("CONNECT site.test:443", ""),
        ("TRACE /trace", "/trace"),
        // which some backends take for the same
        ("trace /small", "/small"),
        ("Connect /small2", "/small2"),
    ] {
        let mut raw = chain.raw();
        let answer = raw.ask(&[start]);
        assert_eq!(answer.status(), 405, "{start}");
        if !path.is_empty() {
            chain.refused(path, 405, "method_not_allowed");
        }
    }
    block(async {
        let mut sender = chain.h2().await;
        let request = http::Request::builder()
            .method("CONNECT")
            .uri("site.test:443");
        let (response, mut stream) = sender
            .send_request(request.body(()).unwrap(), false)
            .unwrap();
        assert_eq!(response.await.unwrap().status(), 405);
        stream.send_reset(h2::Reason::CANCEL);
        let request = h2::request("TRACE", "/trace2").body(()).unwrap();
        assert_eq!(h2::ask(&sender, request).await.unwrap().status(), 405);
    });
    assert_eq!(backend.connections(), 0);
}

/// A request of RFC 8441.
pub(super) fn extended(path: &str, protocol: &'static str) -> http::Request<()> {
    h2::request("CONNECT", path)
        .extension(::h2::ext::Protocol::from_static(protocol))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .header("origin", "https://site.test")
        .body(())
        .unwrap()
}

/// A WebSocket's stream of HTTP/2.
pub(super) struct Stream {
    pub(super) send: ::h2::SendStream<bytes::Bytes>,
    pub(super) receive: ::h2::RecvStream,
    head: http::response::Parts,
    came: Vec<u8>,
}

impl Stream {
    pub(super) async fn open(sender: &h2::Sender, request: http::Request<()>) -> Self {
        let mut sender = sender.clone().ready().await.unwrap();
        let (response, send) = sender.send_request(request, false).unwrap();
        let (head, receive) = response.await.unwrap().into_parts();
        Self {
            send,
            receive,
            head,
            came: Vec::new(),
        }
    }

    pub(super) fn write(&mut self, bytes: Vec<u8>, last: bool) {
        self.send.send_data(bytes.into(), last).unwrap();
    }

    pub(super) async fn read(&mut self, length: usize) -> Vec<u8> {
        while self.came.len() < length {
            let data = self.receive.data().await.expect("more").unwrap();
            self.receive
                .flow_control()
                .release_capacity(data.len())
                .unwrap();
            self.came.extend_from_slice(&data);
        }
        self.came.drain(..length).collect()
    }
}

#[test]
fn a_websocket_in_a_stream_talks_both_ways_until_it_closes() {
    let (chain, _backend, seen) = chain();
    block(async {
        let sender = chain.h2().await;
        // by then the gateway's settings are here
        let plain = h2::request("GET", "/plain").body(()).unwrap();
        assert_eq!(h2::ask(&sender, plain).await.unwrap().text(), "no");
        assert!(sender.is_extended_connect_protocol_enabled());
        let mut stream = Stream::open(&sender, extended("/chat", "websocket")).await;
        assert_eq!(stream.head.status, 200);
        for name in [
            "sec-websocket-accept",
            "connection",
            "upgrade",
            "content-length",
        ] {
            assert!(!stream.head.headers.contains_key(name), "{name}");
        }
        let request = seen.last();
        assert_eq!(request.start, "GET /chat HTTP/1.1");
        for (name, value) in [
            ("host", "site.test"),
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "chat"),
            ("origin", "https://site.test"),
            ("via", "2 portcullis"),
        ] {
            assert_eq!(request.one(name), Some(value), "{request:?}");
        }
        assert_eq!(request.one("sec-websocket-key").unwrap().len(), 24);
        assert_eq!(stream.read(9).await, unmasked(1, b"welcome"));
        for payload in [b"hello".to_vec(), vec![7; 60_000]] {
            stream.write(frame(2, &payload), false);
            let echo = unmasked(2, &payload);
            assert_eq!(stream.read(echo.len()).await, echo);
            // others use the connection meanwhile
            let plain = h2::request("GET", "/plain").body(()).unwrap();
            assert_eq!(h2::ask(&sender, plain).await.unwrap().text(), "no");
        }
        stream.write(frame(8, &[3, 232]), true);
        assert_eq!(stream.read(4).await, unmasked(8, &[3, 232]));
        assert!(h2::ended(&mut stream.receive).await);
    });
    let line = chain.line("/chat");
    assert_eq!(line["status"], 200);
    assert_eq!(line["decision"], "admitted");
    assert_eq!(line["bytes_in"], 6 + 5 + 8 + 60_000 + 6 + 2);
    assert_eq!(line["bytes_out"], 2 + 7 + 2 + 5 + 4 + 60_000 + 2 + 2);
}

#[test]
fn a_websocket_in_a_stream_ends_when_its_client_goes() {
    let (chain, _backend, seen) = chain();
    block(async {
        let sender = chain.h2().await;
        let mut stream = Stream::open(&sender, extended("/chat", "websocket")).await;
        stream.read(9).await;
        stream.send.send_reset(h2::Reason::CANCEL);
        while !seen.targets().contains(&"without".to_owned()) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let plain = h2::request("GET", "/plain").body(()).unwrap();
        assert_eq!(h2::ask(&sender, plain).await.unwrap().text(), "no");
    });
}

#[test]
fn a_stream_becomes_no_websocket_unless_the_backend_agrees() {
    let (chain, _backend, _seen) = chain();
    block(async {
        let sender = chain.h2().await;
        for (path, protocol, status) in [
            ("/403", "websocket", 403),
            ("/no", "websocket", 502),
            ("/forged", "websocket", 502),
            ("/other", "custom/2", 405),
            ("/h2c", "h2c", 405),
        ] {
            let stream = Stream::open(&sender, extended(path, protocol)).await;
            assert_eq!(stream.head.status, status, "{path}");
            // the connection is none the worse for it
            let plain = h2::request("GET", "/plain").body(()).unwrap();
            assert_eq!(h2::ask(&sender, plain).await.unwrap().text(), "no");
        }
    });
    chain.refused("/no", 502, "upstream_broken");
    chain.refused("/forged", 502, "upstream_broken");
    chain.refused("/other", 405, "method_not_allowed");
}

/// An echo of many megabytes stands still while its client does not read, and comes whole.
#[test]
fn a_websocket_in_a_stream_waits_for_a_slow_reader() {
    let (chain, _backend, _seen) = chain();
    block(async {
        let sender = chain.h2().await;
        let mut stream = Stream::open(&sender, extended("/chat", "websocket")).await;
        stream.read(9).await;
        let payload = vec![9; 60_000];
        for _ in 0..100 {
            stream.write(frame(2, &payload), false);
        }
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let echo = unmasked(2, &payload);
        for _ in 0..100 {
            assert_eq!(stream.read(echo.len()).await, echo);
        }
    });
}

#[test]
fn a_backend_of_http_2_is_asked_for_no_websocket() {
    let world = World::new();
    let (backend, _seen) = upgrading(&world);
    let chain = Chain::new(world, backend.address, "", "protocol = \"h2\"");
    block(async {
        let sender = chain.h2().await;
        let stream = Stream::open(&sender, extended("/chat", "websocket")).await;
        assert_eq!(stream.head.status, 405);
    });
}
