//! CONNECT, where a route says so: tunnels through both ends.

use std::io::{Read as _, Write as _};

use super::{
    Chain, backend,
    h2::{self, block},
    raw::{Peer, Raw, Seen, ok},
    site,
};
use crate::world::{Backend, World, echo, says};

/// Opens tunnels to `inner.test`, and refuses those to port 1.
fn proxy(world: &World) -> (Backend, Seen) {
    let seen = Seen::default();
    let notes = seen.clone();
    let backend = Backend::serve(world.address(), move |stream| {
        let mut peer = Peer::new(stream);
        while let Some(request) = peer.head() {
            notes.push(request.clone());
            if !request.start.starts_with("CONNECT ") {
                peer.send(ok("plain"));
            } else if request.target().ends_with(":1") {
                peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
            } else {
                // the length says nothing here, and what follows is the tunnel's already
                peer.send("HTTP/1.1 200 Connected\r\nContent-Length: 5\r\n\r\nhello");
                let held = peer.stream.buffer().to_vec();
                peer.send(&held);
                echo(peer.stream.get_mut());
                return peer.close();
            }
        }
    });
    (backend, seen)
}

fn tunnelling(mode: &str) -> (Chain, Backend, Seen) {
    let world = World::new();
    let (proxy, seen) = proxy(&world);
    let to = proxy.address.to_string();
    let (acceptor, link) = match mode {
        "http" => world.http_acceptor(&to, ""),
        _ => world.plain_acceptor(&to, ""),
    };
    let edge = world.address();
    let text = format!(
        "[[listener]]\nname = \"public\"\naddress = \"{edge}\"\nmode = \"http\"\n{}\n\
         [[route]]\nhost = [\"inner.test\"]\nmethods = [\"CONNECT\"]\nbackend = \"legacy\"\n\
         [[route]]\nbackend = \"legacy\"\n{}",
        site(&world),
        backend(&world, "legacy", link, "pool = { ready = 0 }")
    );
    let gateway = world.gateway(&text);
    let chain = Chain {
        world,
        acceptor,
        gateway,
        edge,
    };
    (chain, proxy, seen)
}

fn connect(raw: &mut Raw, to: &str, more: &str) -> u16 {
    raw.send(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{more}\r\n"));
    raw.head().unwrap().status()
}

#[rstest::rstest]
#[case("tcp")]
#[case("http")]
fn a_tunnel_opens_where_a_route_says_so(#[case] mode: &str) {
    let (chain, backend, seen) = tunnelling(mode);
    let mut raw = chain.raw();
    assert_eq!(raw.ask(&["GET /"]).text(), "plain");
    // refused by the backend: the connection stays HTTP
    assert_eq!(connect(&mut raw, "inner.test:1", ""), 403);
    let mut no = [0; 2];
    raw.reader().read_exact(&mut no).unwrap();
    assert_eq!(raw.ask(&["GET /"]).text(), "plain");
    // what is sent behind the request waits for the tunnel
    raw.send("CONNECT inner.test:443 HTTP/1.1\r\nHost: inner.test:443\r\n\r\nearly");
    let head = raw.head().unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(head.one("content-length"), None, "{head:?}");
    let mut came = [0; 10];
    raw.reader().read_exact(&mut came).unwrap();
    assert_eq!(&came, b"helloearly");
    raw.tls().write_all(b"later").unwrap();
    raw.tls().flush().unwrap();
    let mut came = [0; 5];
    raw.reader().read_exact(&mut came).unwrap();
    assert_eq!(&came, b"later");
    raw.tls().conn.send_close_notify();
    raw.tls().flush().unwrap();
    raw.ends();
    let asked = seen.last();
    assert_eq!(asked.target(), "inner.test:443");
    assert_eq!(asked.one("host"), Some("inner.test:443"));
    assert_eq!(backend.connections(), 1);
}

#[rstest::rstest]
#[case("tcp")]
#[case("http")]
fn a_stream_of_http_2_becomes_a_tunnel(#[case] mode: &str) {
    let (chain, _backend, seen) = tunnelling(mode);
    block(async {
        let mut sender = chain.h2().await;
        let to = |uri: &str| {
            let request = http::Request::builder().method("CONNECT").uri(uri);
            request.body(()).unwrap()
        };
        // refused by the backend, by a route, by the gateway: each is an answer, and no reset
        for (uri, status) in [
            ("inner.test:1", 403),
            ("site.test:443", 405),
            ("elsewhere.test:443", 421),
        ] {
            let (response, _open) = sender.send_request(to(uri), false).unwrap();
            let answer = h2::whole(response).await.unwrap();
            assert_eq!(answer.status(), status, "{uri}");
        }
        let request = to("inner.test:5432");
        let (response, mut send) = sender.send_request(request, false).unwrap();
        let (head, mut receive) = response.await.unwrap().into_parts();
        assert_eq!(head.status, 200);
        assert!(!head.headers.contains_key("content-length"), "{head:?}");
        send.send_data(bytes::Bytes::from_static(b"there"), true)
            .unwrap();
        let mut came = Vec::new();
        while let Some(data) = receive.data().await {
            let data = data.unwrap();
            receive.flow_control().release_capacity(data.len()).unwrap();
            came.extend_from_slice(&data);
        }
        assert_eq!(came, b"hellothere");
    });
    assert_eq!(seen.last().target(), "inner.test:5432");
}

#[test]
fn no_tunnel_opens_elsewhere() {
    let (chain, backend, _seen) = tunnelling("http");
    // the route without methods takes no CONNECT
    assert_eq!(connect(&mut chain.raw(), "site.test:443", ""), 405);
    assert_eq!(connect(&mut chain.raw(), "elsewhere.test:443", ""), 421);
    for more in ["Content-Length: 2\r\n", "Transfer-Encoding: chunked\r\n"] {
        assert_eq!(connect(&mut chain.raw(), "inner.test:443", more), 400);
    }
    assert_eq!(connect(&mut chain.raw(), "inner.test", ""), 400, "no port");
    assert_eq!(backend.connections(), 0);
}

#[rstest::rstest]
#[case("tcp")]
#[case("http")]
fn tunnels_of_a_revoked_gateway_end(#[case] mode: &str) {
    let (chain, _backend, _seen) = tunnelling(mode);
    let mut raw = chain.raw();
    assert_eq!(connect(&mut raw, "inner.test:443", ""), 200);
    let mut came = [0; 5];
    raw.reader().read_exact(&mut came).unwrap();
    let reason = portcullis::pki::Reason::KeyCompromise;
    let begun = std::time::Instant::now();
    let authority = &chain.world.authority;
    authority.revoke("gateway/edge-1", reason).unwrap();
    assert!(raw.reader().read_exact(&mut came).is_err());
    let took = begun.elapsed();
    assert!(took < std::time::Duration::from_secs(2), "{took:?}");
    let line = chain.acceptor.line("its end", |line| {
        line["message"] == "access" && line["reason"] == "rules_changed"
    });
    assert!(says(&line, "detail", "certificate_revoked"), "{line}");
}
