//! The PROXY protocol in each place: from balancers, from foreign gateways, to backends and to
//! foreign servers.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use portcullis::pki::Role;

use crate::world::{Backend, Client, PATIENCE, Running, TlsStream, World, echo, until};

/// A version 2 header for TCP over IPv4.
fn v2(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (SocketAddr::V4(source), SocketAddr::V4(destination)) = (source, destination) else {
        panic!("IPv4 only");
    };
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend(source.ip().octets());
    header.extend(destination.ip().octets());
    header.extend(source.port().to_be_bytes());
    header.extend(destination.port().to_be_bytes());
    header
}

fn v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    format!(
        "PROXY TCP4 {} {} {} {}\r\n",
        source.ip(),
        destination.ip(),
        source.port(),
        destination.port()
    )
    .into_bytes()
}

/// The same for UDP.
fn udp(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut header = v2(source, destination);
    header[13] = 0x12;
    header
}

const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
const UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

fn client_of_balancer() -> SocketAddr {
    "198.51.100.7:4711".parse().unwrap()
}

fn public() -> SocketAddr {
    "203.0.113.9:443".parse().unwrap()
}

fn answers(stream: &mut TlsStream) -> bool {
    let mut back = [0; 4];
    stream.write_all(b"word").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"word"
}

/// A connection that begins with these bytes and goes on with TLS; whether a word comes back.
fn enters(client: &Client, to: SocketAddr, name: &str, header: &[u8]) -> bool {
    let mut stream = client.tcp(to).unwrap();
    stream.write_all(header).unwrap();
    client
        .over(stream, name)
        .is_ok_and(|mut stream| answers(&mut stream))
}

/// What comes back before the end.
fn silence(client: &Client, to: SocketAddr, header: &[u8]) -> Vec<u8> {
    let mut stream = client.tcp(to).unwrap();
    stream.write_all(header).unwrap();
    let mut bytes = Vec::new();
    drop(stream.read_to_end(&mut bytes));
    bytes
}

#[test]
fn a_backend_is_told_the_client_in_the_version_that_it_expects() {
    for (version, client_port) in [("v1", 0), ("v2", 0)] {
        let world = World::new();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        let backend = Backend::serve(world.address(), move |mut stream| {
            let mut bytes = vec![0; 512];
            let mut got = 0;
            // the header and the word may come apart
            while !bytes[..got].ends_with(b"word") {
                got += stream.read(&mut bytes[got..]).unwrap();
            }
            noted.lock().unwrap().extend_from_slice(&bytes[..got]);
            stream.write_all(b"word").unwrap();
        });
        let (acceptor, link) = world.plain_acceptor(
            &backend.address.to_string(),
            &format!("send_proxy = \"{version}\""),
        );
        let (_gateway, edge) = world.plain_gateway("tcp", link, "", "");
        let client = world.client().source(world.other_ip(55));
        let mut stream = client.connect(edge, "site.test").unwrap();
        let source = stream.sock.local_addr().unwrap();
        assert_ne!(source.port(), client_port);
        assert!(answers(&mut stream));
        let expected = match version {
            "v1" => v1(source, edge),
            _ => v2(source, edge),
        };
        assert_eq!(*seen.lock().unwrap(), [&expected[..], b"word"].concat());
        drop(stream);
        let line = until("the line", || {
            acceptor
                .lines()
                .into_iter()
                .find(|l| l["message"] == "access")
        });
        assert_eq!(line["client"], source.to_string());
    }
}

#[test]
fn a_foreign_gateway_names_its_client_in_exactly_one_header() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (acceptor, link) =
        world.plain_acceptor(&backend.address.to_string(), "expect_proxy = true");
    let client = world
        .client()
        .certificate(&world.leaf(Role::Gateway, "edge-1"))
        .source(world.ip());
    for header in [
        v1(client_of_balancer(), public()),
        v2(client_of_balancer(), public()),
    ] {
        let mut stream = client.connect(link, "legacy.internal").unwrap();
        // the header and the first bytes of the stream in one write: none of those is lost
        stream.write_all(&[&header[..], b"word"].concat()).unwrap();
        let mut back = [0; 4];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"word");
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        drop(stream.read(&mut back));
    }
    let line = acceptor.access("admitted");
    assert_eq!(line["client"], client_of_balancer().to_string());

    // a second one is the client's own bytes, and who names nobody speaks for the gateway
    let second = v1("192.0.2.66:1".parse().unwrap(), public());
    for header in [&v1(client_of_balancer(), public())[..], LOCAL, UNKNOWN] {
        let mut stream = client.connect(link, "legacy.internal").unwrap();
        stream.write_all(&[header, &second].concat()).unwrap();
        let mut back = vec![0; second.len()];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, second);
    }
    let came = backend.connections();
    assert_eq!(came, 5);

    let unix = [b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8", &[b'a'; 216][..]].concat();
    for (bytes, reason) in [
        (
            &b"no header at all, but bytes of the client's own"[..],
            "proxy_header_missing",
        ),
        (
            b"PROXY TCP4 198.51.100.7 nonsense 1 2\r\n",
            "proxy_header_invalid",
        ),
        (&unix[..], "proxy_header_invalid"),
        (&udp(client_of_balancer(), public()), "proxy_header_invalid"),
    ] {
        let mut stream = client.connect(link, "legacy.internal").unwrap();
        stream.write_all(bytes).unwrap();
        assert!(!matches!(stream.read(&mut [0]), Ok(1)));
        acceptor.refused_after("legacy", reason);
    }
    assert_eq!(backend.connections(), came);

    // ours is known by its ALPN and says who its client is without
    let (gateway, edge) = world.plain_gateway("tcp", link, "", "");
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    assert!(answers(&mut stream), "{}", gateway.text());
}

#[test]
fn an_expectation_that_is_switched_off_is_none() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (_acceptor, link) =
        world.plain_acceptor(&backend.address.to_string(), "expect_proxy = false");
    let client = world
        .client()
        .certificate(&world.leaf(Role::Gateway, "edge-1"))
        .source(world.ip());
    assert!(answers(
        &mut client.connect(link, "legacy.internal").unwrap()
    ));
}

/// What holds for a listener behind a balancer in both roles. `trusted` is a source that the
/// listener admits, `untrusted` one that it doesn't.
fn behind_a_balancer(
    side: &Running,
    listener: &str,
    to: SocketAddr,
    name: &str,
    balancer: &Client,
    stranger: &Client,
    trusted: SocketAddr,
) {
    assert!(enters(balancer, to, name, &v1(trusted, public())));
    assert!(enters(balancer, to, name, &v2(trusted, public())));
    let line = side.line("the client's address", |line| {
        line["message"] == "access" && line["source"] == trusted.to_string().as_str()
    });
    assert_eq!(line["local"], public().to_string());

    // the header has to come from the balancer, and only from it
    assert!(!enters(balancer, to, name, b""));
    side.refused(listener, "proxy_header_missing");
    assert!(!enters(stranger, to, name, &v1(trusted, public())));
    assert!(!enters(stranger, to, name, &v2(trusted, public())));
    side.refused(listener, "proxy_header_unexpected");
    side.denied_times(listener, "proxy_header_unexpected", 2);
    assert!(enters(stranger, to, name, b""));

    // the address in it is judged as if it were the socket's
    let untrusted = "192.0.2.66:1".parse().unwrap();
    assert_eq!(silence(balancer, to, &v2(untrusted, public())), b"");
    let line = side.line("the untrusted client", |line| {
        line["message"] == "access" && line["reason"] == "source_untrusted"
    });
    assert_eq!(line["source"], untrusted.to_string());

    // probes: no answer, no line, counted
    for probe in [LOCAL, UNKNOWN, b""] {
        let mut stream = balancer.tcp(to).unwrap();
        stream.write_all(probe).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut bytes = Vec::new();
        drop(stream.read_to_end(&mut bytes));
        assert_eq!(bytes, b"");
    }
    until("three probes", || {
        (side.denied(listener, "balancer_probe") > 2.5).then_some(())
    });
    assert_eq!(silence(balancer, to, b"PROXY TCP9 nonsense\r\n"), b"");
    side.refused(listener, "proxy_header_invalid");
    // a client behind a Unix socket is none of them: nothing could judge it, and that is said
    let unix = [b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8", &[b'a'; 216][..]].concat();
    assert_eq!(silence(balancer, to, &unix), b"");
    side.denied_times(listener, "proxy_header_invalid", 2);
    // no client of TCP has addresses of UDP
    assert!(!enters(balancer, to, name, &udp(trusted, public())));
    side.denied_times(listener, "proxy_header_invalid", 3);
    // nor is one that says half a header
    for half in [&b"PROXY TCP4 198."[..], &v2(trusted, public())[..20], b"P"] {
        let mut stream = balancer.tcp(to).unwrap();
        stream.write_all(half).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        drop(stream.read_to_end(&mut Vec::new()));
    }
    side.denied_times(listener, "proxy_header_invalid", 6);
    assert_eq!(side.count(|line| line["reason"] == "balancer_probe"), 0);
}

#[test]
fn a_gateway_behind_a_balancer() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) = world.plain_gateway(
        "tcp",
        link,
        &format!(
            "allow = [\"198.51.100.0/24\", {:?}]\nproxy_protocol = {{ from = [\"{}\"] }}",
            world.near(),
            world.other_ip(99)
        ),
        "",
    );
    behind_a_balancer(
        &gateway,
        "public",
        edge,
        "site.test",
        &world.client().source(world.other_ip(99)),
        &world.client().source(world.other_ip(5)),
        client_of_balancer(),
    );
}

#[test]
fn an_acceptor_behind_a_balancer() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (acceptor, link) = world.plain_acceptor(
        &backend.address.to_string(),
        &format!("proxy_protocol = {{ from = [\"{}\"] }}", world.other_ip(99)),
    );
    let ours = world
        .client()
        .certificate(&world.leaf(Role::Gateway, "edge-1"));
    behind_a_balancer(
        &acceptor,
        "legacy",
        link,
        "legacy.internal",
        &ours.clone().source(world.other_ip(99)),
        &ours.source(world.other_ip(5)),
        SocketAddr::new(world.other_ip(7), 4711),
    );
}

#[test]
fn a_foreign_server_behind_the_gateway_is_told_the_client() {
    for version in ["v1", "v2"] {
        let world = World::new();
        let leaf = world.leaf(Role::Acceptor, "legacy");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        // a server that knows nothing of ours: no ALPN, no OPEN
        let server = Backend::tls(world.address(), &leaf, move |stream| {
            let len = if version == "v1" {
                let mut line = Vec::new();
                while !line.ends_with(b"\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    line.push(byte[0]);
                }
                noted.lock().unwrap().extend_from_slice(&line);
                0
            } else {
                28
            };
            let mut header = vec![0; len];
            stream.read_exact(&mut header).unwrap();
            noted.lock().unwrap().extend_from_slice(&header);
            echo(stream);
        });
        let (gateway, edge) = world.plain_gateway(
            "tcp",
            server.address,
            "",
            &format!("proxy_protocol = \"{version}\""),
        );
        let mut stream = world.client().connect(edge, "site.test").unwrap();
        let source = stream.sock.local_addr().unwrap();
        assert!(answers(&mut stream), "{}", gateway.text());
        let expected = match version {
            "v1" => v1(source, edge),
            _ => v2(source, edge),
        };
        assert_eq!(*seen.lock().unwrap(), expected);
    }
}

#[test]
fn a_header_that_comes_slowly_is_waited_for_and_one_that_never_ends_is_not() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) = world.plain_gateway(
        "tcp",
        link,
        &format!(
            "proxy_protocol = {{ from = [\"{}\"] }}\nlimits = {{ handshake_timeout = \"1500ms\" }}",
            world.ip()
        ),
        "",
    );
    let balancer = world.client().source(world.ip());
    let header = v2(client_of_balancer(), public());
    let mut stream = balancer.tcp(edge).unwrap();
    for byte in &header {
        stream.write_all(std::slice::from_ref(byte)).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(answers(&mut balancer.over(stream, "site.test").unwrap()));

    let began = std::time::Instant::now();
    let mut stream = balancer.tcp(edge).unwrap();
    stream.write_all(&header[..20]).unwrap();
    assert!(!matches!(stream.read(&mut [0]), Ok(1)));
    assert!(began.elapsed() < PATIENCE / 2);
    gateway.refused("public", "handshake_timeout");
}

#[test]
fn clients_behind_a_balancer_are_counted_by_their_own_addresses() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) = world.plain_gateway(
        "tcp",
        link,
        &format!(
            "deny = [\"198.51.100.66\"]\nproxy_protocol = {{ from = [\"{}\"] }}\n\
             limits = {{ connections_per_ip = 1 }}",
            world.ip()
        ),
        "",
    );
    let balancer = world.client().source(world.ip());
    let enter = |source: &str| {
        let mut stream = balancer.tcp(edge).unwrap();
        stream
            .write_all(&v2(source.parse().unwrap(), public()))
            .unwrap();
        let mut stream = balancer.over(stream, "site.test").ok()?;
        answers(&mut stream).then_some(stream)
    };
    let _one = enter("198.51.100.1:1").unwrap();
    let _two = enter("198.51.100.2:1").unwrap();
    assert!(enter("198.51.100.1:2").is_none());
    let line = gateway.refused("public", "too_many_from_address");
    assert_eq!(line["source"], "198.51.100.1:2");
    assert!(enter("198.51.100.66:1").is_none());
    gateway.refused("public", "source_denied");
}

#[test]
fn what_a_balancer_adds_is_skipped_and_what_it_garbles_is_refused() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) = world.plain_gateway(
        "tcp",
        link,
        &format!(
            "proxy_protocol = {{ from = [\"{}\"] }}\nlimits = {{ handshake_timeout = \"1500ms\" }}",
            world.ip()
        ),
        "",
    );
    let balancer = world.client().source(world.ip());
    let with = |more: &[u8]| {
        let mut header = v2(client_of_balancer(), public());
        let len = u16::try_from(12 + more.len()).unwrap();
        header[14..16].copy_from_slice(&len.to_be_bytes());
        header.extend(more);
        header
    };
    // as AWS writes it: PP2_TYPE_AWS with the endpoint's id; and padding
    let mut aws = b"\xea\x00\x17\x01vpce-08d2bf15fac5001c9".to_vec();
    aws.extend([0x04, 0x0f, 0xa0]);
    aws.extend(vec![0; 4000]);
    assert!(enters(&balancer, edge, "site.test", &with(&aws)));
    // the checksum is the balancer's own; a wrong one is damage
    let refused_before = gateway.denied("public", "proxy_header_invalid");
    let mut wrong = with(b"\x03\x00\x04\xde\xad\xbe\xef");
    assert!(!enters(&balancer, edge, "site.test", &wrong));
    // a type-length-value that runs out of the header
    wrong = with(b"\x01\x00\xff\x00");
    assert!(!enters(&balancer, edge, "site.test", &wrong));
    // an address block that is shorter than its family
    wrong = v2(client_of_balancer(), public());
    wrong[15] = 4;
    assert!(!enters(&balancer, edge, "site.test", &wrong));
    until("the refusals", || {
        (gateway.denied("public", "proxy_header_invalid") > refused_before + 2.5).then_some(())
    });
    for seed in 0..40_usize {
        let mut noise = vec![0; 1 + seed * 53];
        aws_lc_rs::rand::fill(&mut noise).unwrap();
        let start: &[u8] = match seed % 3 {
            0 => b"PROXY TCP4 ",
            1 => b"\r\n\r\n\0\r\nQUIT\n\x21",
            _ => b"",
        };
        let mut stream = balancer.tcp(edge).unwrap();
        drop(stream.write_all(&[start, &noise].concat()));
        let mut bytes = Vec::new();
        drop(stream.read_to_end(&mut bytes));
        assert_eq!(bytes, b"");
    }
    assert!(enters(
        &balancer,
        edge,
        "site.test",
        &v2(client_of_balancer(), public())
    ));
    assert!(!gateway.text().contains("panicked"));
}
