//! redirect mode: plain port 80 of a gateway.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use crate::{
    acme::{Options, Pebble},
    world::{BINARY, PATIENCE, Running, World, run, text, until},
};

/// A gateway with a listener `plain` in redirect mode; `more` stands in it.
fn gateway(world: &World, more: &str) -> (Running, SocketAddr) {
    let plain = world.address();
    let (gateway, _edge) = world.plain_gateway("http", world.address(), &listener(plain, more), "");
    (gateway, plain)
}

fn listener(at: SocketAddr, more: &str) -> String {
    format!("[[listener]]\nname = \"plain\"\naddress = \"{at}\"\nmode = \"redirect\"\n{more}\n")
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends a request that ends its connection, and reads all that comes.
fn ask(to: SocketAddr, request: &str) -> String {
    let mut stream = connect(to);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn location(answer: &str) -> &str {
    assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
    let mut lines = answer.lines();
    lines
        .find_map(|line| line.strip_prefix("location: "))
        .unwrap()
}

/// One head on a kept connection.
fn head(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    String::from_utf8(seen).unwrap()
}

#[test]
fn requests_are_sent_to_https_at_the_host_that_they_name() {
    let world = World::new();
    let (gateway, at) = gateway(&world, "");
    for (request, goes_to) in [
        (
            "GET /a/b?c=d HTTP/1.1\r\nHost: Site.Test:80",
            "https://site.test/a/b?c=d",
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 2\r\nHost: site.test.",
            "https://site.test/",
        ),
        (
            "GET /.well-known/acme-challenge/x HTTP/1.1\r\nHost: site.test",
            "https://site.test/.well-known/acme-challenge/x",
        ),
        (
            "GET http://other.test/x HTTP/1.1\r\nHost: other.test",
            "https://other.test/x",
        ),
        (
            "GET / HTTP/1.1\r\nHost: [2001:db8::1]:8080",
            "https://[2001:db8::1]/",
        ),
    ] {
        let answer = ask(at, &format!("{request}\r\nConnection: close\r\n\r\nhi"));
        assert_eq!(location(&answer), goes_to, "{request}");
    }
    // kept, as in http mode
    let mut stream = connect(at);
    for path in ["/1", "/2"] {
        write!(stream, "GET {path} HTTP/1.1\r\nHost: site.test\r\n\r\n").unwrap();
        assert_eq!(
            location(&head(&mut stream)),
            format!("https://site.test{path}")
        );
    }
    let line = gateway.line("a request", |line| {
        line["message"] == "access" && line["path"] == "/2"
    });
    assert_eq!(line["listener"], "plain");
    assert_eq!(line["status"], 308);
    assert_eq!(line["host"], "site.test");
    assert_eq!(line["decision"], "admitted");
    let counted = "portcullis_requests_total{listener=\"plain\",class=\"3xx\"}";
    assert!(gateway.metric(counted) >= 7.0);
}

#[test]
fn what_is_no_request_for_one_host_is_refused() {
    let world = World::new();
    let (gateway, at) = gateway(&world, "[listener.limits]\nheader_bytes = \"8KiB\"\n");
    let long = format!(
        "GET / HTTP/1.1\r\nHost: site.test\r\nX: {}",
        "x".repeat(9_000)
    );
    for (request, status, reason) in [
        ("GET / HTTP/1.1\r\nX: y", "400", "request_invalid"),
        ("GET / HTTP/1.0", "400", "request_invalid"),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b",
            "400",
            "request_invalid",
        ),
        (
            "GET / HTTP/1.1\r\nHost: site.test@evil.test",
            "400",
            "request_invalid",
        ),
        (
            "GET / HTTP/1.1\r\nHost: evil.test/x",
            "400",
            "request_invalid",
        ),
        (
            "GET http://a.test/ HTTP/1.1\r\nHost: b.test",
            "400",
            "request_invalid",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
            "400",
            "request_invalid",
        ),
        ("TRACE / HTTP/1.1\r\nHost: a", "405", "method_not_allowed"),
        (
            "CONNECT a:443 HTTP/1.1\r\nHost: a:443",
            "405",
            "method_not_allowed",
        ),
        (long.as_str(), "431", "header_too_large"),
    ] {
        let answer = ask(at, &format!("{request}\r\nConnection: close\r\n\r\n"));
        let said = answer.split(' ').nth(1);
        assert_eq!(said, Some(status), "{request}: {answer}");
        assert!(answer.contains(reason), "{request}: {answer}");
        assert!(!answer.to_lowercase().contains("location:"), "{answer}");
        gateway.refusal(reason);
    }
    // who speaks TLS there is told what this is
    let mut stream = connect(at);
    stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00").unwrap();
    let mut answer = String::new();
    drop(stream.read_to_string(&mut answer));
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[test]
fn sources_and_deadlines_are_those_of_every_listener() {
    let world = World::new();
    let more = format!(
        "deny = [\"{}\"]\nhttps_port = 8443\n[listener.limits]\nheader_timeout = \"300ms\"\n",
        world.other_ip(5)
    );
    let (gateway, at) = gateway(&world, &more);
    let answer = ask(
        at,
        "GET / HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(location(&answer), "https://site.test:8443/");
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::new(world.other_ip(5), 0).into())
        .unwrap();
    socket.connect(&at.into()).unwrap();
    let mut denied = TcpStream::from(socket);
    denied.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(!matches!(denied.read(&mut [0; 16]), Ok(1..)));
    gateway.refused("plain", "source_denied");
    // a method may begin as a PROXY header does
    for (first, rest) in [("P", "OST"), ("PRO", "PFIND")] {
        let mut stream = connect(at);
        stream.set_nodelay(true).unwrap();
        stream.write_all(first.as_bytes()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        let rest = format!("{rest} /in HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n");
        stream.write_all(rest.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(location(&answer), "https://site.test:8443/in");
    }
    let mut stream = connect(at);
    stream
        .write_all(b"PROXY TCP4 198.51.100.7 203.0.113.9 1 2\r\n")
        .unwrap();
    assert!(!matches!(stream.read(&mut [0; 16]), Ok(1..)));
    gateway.refused("plain", "proxy_header_unexpected");
    // half a head is not waited for
    let slow = ask(at, "GET / HTTP/1.1\r\nHost: si");
    assert!(slow.starts_with("HTTP/1.1 408 "), "{slow}");
    gateway.refusal("request_timeout");
}

#[test]
fn it_is_moved_and_removed_by_a_reload_and_drains() {
    let world = World::new();
    let (first, second) = (world.address(), world.address());
    let edge = world.address();
    let text_at = |at| world.gateway_text("http", edge, world.address(), &listener(at, ""), "");
    let gateway = world.gateway(&text_at(first));
    let common = world.common(portcullis::pki::Role::Gateway, "edge-1");
    let answers = |at: SocketAddr| {
        TcpStream::connect(at).is_ok_and(|_| {
            let request = "GET / HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n";
            ask(at, request).starts_with("HTTP/1.1 308 ")
        })
    };
    assert!(answers(first));
    world.write("gateway.toml", &(common.clone() + &text_at(second)));
    gateway.reload();
    until("the new address", || answers(second).then_some(()));
    until("the end of the old one", || (!answers(first)).then_some(()));
    let without = world.gateway_text("http", edge, world.address(), "", "");
    world.write("gateway.toml", &(common + &without));
    gateway.reload();
    until("the end of it", || (!answers(second)).then_some(()));
    assert!(gateway.stop().success());
}

#[test]
fn an_idle_connection_does_not_hold_up_a_stop() {
    let world = World::new();
    let (gateway, at) = gateway(&world, "");
    let mut stream = connect(at);
    write!(stream, "GET / HTTP/1.1\r\nHost: site.test\r\n\r\n").unwrap();
    assert!(head(&mut stream).starts_with("HTTP/1.1 308 "));
    let begun = std::time::Instant::now();
    assert!(gateway.stop().success());
    assert!(begun.elapsed() < std::time::Duration::from_secs(15));
}

#[test]
fn what_has_no_place_there_is_refused_by_check() {
    let world = World::new();
    let plain = listener(world.address(), "certificate = \"site.pem\"\n");
    let said = world.common(portcullis::pki::Role::Gateway, "edge-1")
        + &world.gateway_text("http", world.address(), world.address(), &plain, "");
    let config = world.write("gateway.toml", &said);
    let (ok, said) = run(BINARY, &["check", text(&config)]);
    assert!(
        !ok && said.contains("`certificate` in redirect mode"),
        "{said}"
    );
}

#[test]
fn a_gateway_is_proven_to_its_ca_by_its_listener_in_redirect_mode() {
    let world = World::new();
    // the second certificate is ordered while the listener is at work
    let ca = Pebble::started(
        &world,
        Options {
            life: 18,
            ..Options::default()
        },
    );
    let root = ca.root(&world);
    let plain = SocketAddr::new(world.ip(), ca.http_port);
    let own = crate::acme::common(&world, &ca, &root, "edge.test", world.ip(), "");
    let own: String = own
        .lines()
        .filter(|line| !line.starts_with("acme_http"))
        .map(|line| format!("{line}\n"))
        .collect();
    let edge = world.address();
    let rest = |more: &str| {
        own.clone()
            + &crate::acme::admin(&world, "gateway")
            + &world.gateway_text("http", edge, world.address(), more, "")
    };
    let config = world.write("gateway.toml", &rest(""));
    let (ok, said) = run(BINARY, &["check", text(&config)]);
    assert!(!ok && said.contains("needs `acme_http`"), "{said}");
    let gateway = world.start("gateway", &rest(&listener(plain, "")));
    let proven = |line: &serde_json::Value| {
        line["message"] == "access"
            && line["status"] == 200
            && line["path"]
                .as_str()
                .is_some_and(|path| path.starts_with("/.well-known/acme-challenge/"))
    };
    assert_eq!(gateway.count(proven), 0);
    gateway.line("the renewal", |line| {
        line["message"] == "our certificate is renewed"
    });
    gateway.line("the proof", proven);
}
