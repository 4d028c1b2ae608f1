//! What strangers send, and what they don't: nothing of it panics, stays for ever, or takes
//! somebody else's place.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use portcullis::pki::Role;

use crate::world::{Backend, Client, PATIENCE, Running, TlsStream, World, says, until};

fn answers(stream: &mut TlsStream) -> bool {
    let mut back = [0; 4];
    stream.write_all(b"word").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"word"
}

/// A listener of each role, with these limits, that both let this world's addresses in.
struct Both {
    gateway: Running,
    acceptor: Running,
    edge: SocketAddr,
    link: SocketAddr,
    backend: Backend,
}

fn both(world: &World, limits: &str) -> Both {
    each(world, limits, limits)
}

fn each(world: &World, gateway: &str, acceptor: &str) -> Both {
    over(world, gateway, acceptor, "")
}

fn over(world: &World, gateway: &str, acceptor: &str, tunnel: &str) -> Both {
    let backend = Backend::echo(world.address());
    let table = |limits: &str| format!("limits = {{ {limits} }}");
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), &table(acceptor));
    let (gateway, edge) = world.plain_gateway("tcp", link, &table(gateway), tunnel);
    Both {
        gateway,
        acceptor,
        edge,
        link,
        backend,
    }
}

impl Both {
    /// Each with its listener's name, its address, and a client that it admits.
    fn sides<'a>(
        &'a self,
        world: &World,
    ) -> [(&'a Running, &'static str, SocketAddr, Client, &'static str); 2] {
        [
            (
                &self.gateway,
                "public",
                self.edge,
                world.client().source(world.ip()),
                "site.test",
            ),
            (
                &self.acceptor,
                "legacy",
                self.link,
                gateway_client(world),
                "legacy.internal",
            ),
        ]
    }
}

fn gateway_client(world: &World) -> Client {
    world
        .client()
        .certificate(&world.leaf(Role::Gateway, "edge-1"))
        .source(world.ip())
}

/// Sends, says that it is done, and returns what came back.
fn shout(client: &Client, to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = client.tcp(to).unwrap();
    // it may be refused before all is sent
    drop(stream.write_all(bytes));
    drop(stream.shutdown(std::net::Shutdown::Write));
    let mut back = Vec::new();
    drop(stream.read_to_end(&mut back));
    back
}

/// How long it takes until the other side ends the connection.
fn cut(stream: &mut TcpStream) -> Duration {
    let began = Instant::now();
    let mut buffer = [0; 4096];
    while let Ok(1..) = stream.read(&mut buffer) {}
    assert!(began.elapsed() < PATIENCE, "it was not cut");
    began.elapsed()
}

fn total(side: &Running, listener: &str) -> u64 {
    let (_, body) = side.admin("/status.json").unwrap();
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    status["listeners"]
        .as_array()
        .unwrap()
        .iter()
        .find(|l| l["name"] == listener)
        .unwrap()["denied"]
        .as_u64()
        .unwrap()
}

#[test]
fn noise_is_refused_and_counted_and_harms_nobody() {
    let world = World::new();
    let both = both(&world, "handshake_timeout = \"2s\"");
    for (side, listener, to, client, name) in both.sides(&world) {
        let mut sent = 0;
        for seed in 0..60_usize {
            let mut noise = vec![0; 1 + (seed * 97) % 3000];
            aws_lc_rs::rand::fill(&mut noise).unwrap();
            match seed % 6 {
                // never a PROXY header, never TLS
                0 => noise[0] = b'A',
                // a handshake record of nonsense
                1 => noise.splice(0..0, *b"\x16\x03\x01\x02\x00").for_each(drop),
                // a ClientHello that says to be 16 MiB
                2 => noise
                    .splice(0..0, *b"\x16\x03\x01\x40\x00\x01\xff\xff\xff\x03\x03")
                    .for_each(drop),
                // an alert, application data, SSLv2
                3 => noise
                    .splice(0..0, *b"\x15\x03\x03\x00\x02\x02\x28")
                    .for_each(drop),
                4 => noise.splice(0..0, *b"\x17\x03\x03\x01\x00").for_each(drop),
                _ => noise.splice(0..0, *b"\x80\x2e\x01\x00\x02").for_each(drop),
            }
            let back = shout(&client, to, &noise);
            assert!(back.len() < 512, "{} bytes answered to noise", back.len());
            sent += 1;
        }
        until("the count", || {
            (total(side, listener) >= sent).then_some(())
        });
        assert_eq!(total(side, listener), sent);
        let mut stream = client.connect(to, name).unwrap();
        assert!(answers(&mut stream), "{listener}");
        assert!(!side.text().contains("panicked"), "{}", side.text());
    }
    assert_eq!(both.backend.connections(), 2);
}

#[test]
fn plain_http_on_a_tls_port_is_told_what_is_wrong() {
    let world = World::new();
    let both = both(&world, "");
    let request = b"GET / HTTP/1.1\r\nHost: site.test\r\n\r\n";
    for (side, listener, to, client, _) in both.sides(&world) {
        let back = shout(&client, to, request);
        let back = String::from_utf8(back).unwrap();
        if listener == "public" {
            assert!(back.starts_with("HTTP/1.1 400 "), "{back}");
            assert!(back.contains("https://"), "{back}");
            let body = back.split_once("\r\n\r\n").unwrap().1;
            assert!(
                back.contains(&format!("Content-Length: {}\r\n", body.len())),
                "{back}"
            );
        }
        side.refused(listener, "not_tls");
    }
    let world = World::new();
    let (_acceptor, link) = world.plain_acceptor(&world.address().to_string(), "");
    let (gateway, edge) = world.plain_gateway("http", link, "", "");
    let (_, said) = crate::world::run(
        "curl",
        &[
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            &format!("http://{edge}/"),
        ],
    );
    assert_eq!(said, "400");
    gateway.refused("public", "not_tls");
}

#[test]
fn who_stops_in_the_handshake_gives_its_place_back_in_time() {
    let world = World::new();
    // a link that outlives its client would take the acceptor's only place
    let limits = "handshake_timeout = \"1s\", connections = 1";
    let both = over(&world, limits, limits, "tunnel = \"direct\"");
    for (side, listener, to, client, name) in both.sides(&world) {
        for start in [
            &b""[..],
            b"\x16",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ] {
            let mut stalled = client.tcp(to).unwrap();
            stalled.write_all(start).unwrap();
            // the only place is taken
            until("the full house", || {
                let mut next = client.tcp(to).ok()?;
                drop(next.write_all(b"\x16"));
                next.set_read_timeout(Some(Duration::from_millis(200)))
                    .unwrap();
                let refused = match next.read(&mut [0]) {
                    Ok(n) => n == 0,
                    Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
                };
                refused.then_some(())
            });
            let took = cut(&mut stalled);
            assert!(took < Duration::from_secs(5), "{took:?}");
            let mut stream = until("a place", || client.connect(to, name).ok().filter(|_| true));
            until("an answer", || {
                if answers(&mut stream) {
                    return Some(());
                }
                stream = client.connect(to, name).ok()?;
                None
            });
            drop(stream);
            until("the place again", || {
                (side.metric(&format!(
                    "portcullis_connections_active{{listener=\"{listener}\"}}"
                )) < 0.5)
                    .then_some(())
            });
        }
        side.refused(listener, "too_many_connections");
        side.refused(listener, "handshake_timeout");
        until("all of them", || {
            (side.denied(listener, "handshake_timeout") > 2.5).then_some(())
        });
    }
}

#[test]
fn a_byte_now_and_then_does_not_stretch_the_handshake() {
    let world = World::new();
    let both = both(&world, "handshake_timeout = \"1200ms\"");
    for (side, listener, to, client, name) in both.sides(&world) {
        // a true ClientHello, one byte at a time
        let hello = client_hello(&world, &client, to);
        let mut stream = client.tcp(to).unwrap();
        let began = Instant::now();
        let mut sent = 0;
        for byte in &hello {
            if stream.write_all(std::slice::from_ref(byte)).is_err() {
                break;
            }
            sent += 1;
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(sent < hello.len());
        assert!(
            began.elapsed() < Duration::from_secs(6),
            "{:?}",
            began.elapsed()
        );
        side.refused(listener, "handshake_timeout");
        // the same bytes in fewer pieces are well
        let mut stream = client.tcp(to).unwrap();
        for part in hello.chunks(200) {
            stream.write_all(part).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut first = [0; 3];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first[..2], b"\x16\x03");
        drop(stream);
        assert!(answers(&mut client.connect(to, name).unwrap()));
    }
}

/// The bytes with which a client would begin.
fn client_hello(world: &World, client: &Client, to: SocketAddr) -> Vec<u8> {
    let listener = std::net::TcpListener::bind(world.address()).unwrap();
    let address = listener.local_addr().unwrap();
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 5];
        stream.read_exact(&mut head).unwrap();
        let len = usize::from(u16::from_be_bytes([head[3], head[4]]));
        let mut rest = vec![0; len];
        stream.read_exact(&mut rest).unwrap();
        [&head[..], &rest].concat()
    });
    assert_ne!(address, to);
    drop(client.connect(address, "site.test"));
    reader.join().unwrap()
}

#[test]
fn hundreds_that_stall_do_not_keep_one_that_does_not() {
    let world = World::new();
    let both = both(
        &world,
        "handshake_timeout = \"8s\", handshakes = 2, connections_per_ip = 0",
    );
    for (_, listener, to, client, name) in both.sides(&world) {
        // nothing, half a hello, and a whole one whose answer is never taken up
        let hello = client_hello(&world, &client, to);
        let said: [&[u8]; 3] = [b"", b"\x16\x03\x01\x02\x00\x01", &hello];
        let stalled: Vec<TcpStream> = (0..150)
            .map(|n| {
                let mut stream = client.tcp(to).unwrap();
                stream.write_all(said[n % 3]).unwrap();
                stream
            })
            .collect();
        let began = Instant::now();
        let mut stream = client.connect(to, name).unwrap();
        assert!(answers(&mut stream), "{listener}");
        // who waits for his peer holds no turn
        assert!(
            began.elapsed() < Duration::from_secs(4),
            "{listener}: {:?}",
            began.elapsed()
        );
        drop(stalled);
    }
}

#[test]
fn who_never_reads_is_cut_and_so_is_a_backend_that_never_does() {
    let world = World::new();
    let backend = Backend::serve(world.address(), |mut stream| {
        let part = vec![7; 1 << 16];
        let began = Instant::now();
        while began.elapsed() < PATIENCE && stream.write_all(&part).is_ok() {}
    });
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) =
        world.plain_gateway("tcp", link, "limits = { write_timeout = \"1s\" }", "");
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    stream.read_exact(&mut [0; 10]).unwrap();
    for side in [&gateway, &acceptor] {
        // the backend would have sent gigabytes meanwhile
        assert!(side.resident() < 150, "{} MiB", side.resident());
    }
    let line = gateway.access("ended");
    assert_eq!(line["reason"], "write_timeout");
    assert!(says(&line, "detail", "the peer"), "{line}");
    gateway.ended_for("public", "write_timeout");
    acceptor.access("ended");
    // what is in the buffers comes, and then a break
    let mut rest = Vec::new();
    assert!(stream.read_to_end(&mut rest).is_err(), "it looks complete");

    let world = World::new();
    let deaf = Backend::serve(world.address(), |stream| {
        std::thread::sleep(PATIENCE);
        drop(stream);
    });
    let (acceptor, link) = world.plain_acceptor(
        &deaf.address.to_string(),
        "limits = { write_timeout = \"1s\" }",
    );
    let (gateway, edge) = world.plain_gateway("tcp", link, "", "");
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    let part = vec![7; 1 << 16];
    let began = Instant::now();
    while began.elapsed() < PATIENCE && stream.write_all(&part).is_ok() {}
    assert!(began.elapsed() < PATIENCE);
    let line = acceptor.access("ended");
    assert_eq!(line["reason"], "write_timeout");
    assert!(says(&line, "detail", "the next hop"), "{line}");
    assert_eq!(gateway.access("ended")["reason"], "upstream_broken");
}

#[test]
fn silence_in_both_directions_ends_after_the_idle_timeout_and_a_word_keeps_it() {
    let world = World::new();
    let both = both(&world, "idle_timeout = \"1s\"");
    let mut stream = world.client().connect(both.edge, "site.test").unwrap();
    for _ in 0..4 {
        assert!(answers(&mut stream));
        std::thread::sleep(Duration::from_millis(500));
    }
    let began = Instant::now();
    let read = stream.read(&mut [0]);
    assert!(!matches!(read, Ok(1)));
    assert!(began.elapsed() < Duration::from_secs(5));
    let reasons = [
        both.gateway.access("ended")["reason"].clone(),
        both.acceptor.access("ended")["reason"].clone(),
    ];
    // whichever looked first
    assert!(reasons.contains(&"idle_timeout".into()), "{reasons:?}");
}

#[test]
fn the_caps_hold_and_places_come_back() {
    let worlds = [World::new(), World::new()];
    let caps = "connections = 3, connections_per_ip = 2";
    // one after the other: to the acceptor, all of a gateway's connections are of one address
    let both = [each(&worlds[0], caps, ""), each(&worlds[1], "", caps)];
    for (at, world) in worlds.iter().enumerate() {
        let (side, listener, to, client, name) = both[at].sides(world)[at].clone();
        let other = client.clone().source(world.other_ip(8));
        let enter = |client: &Client| {
            client
                .connect(to, name)
                .ok()
                .and_then(|mut stream| answers(&mut stream).then_some(stream))
        };
        let _first = enter(&client).unwrap();
        let second = enter(&client).unwrap();
        assert!(enter(&client).is_none(), "a third of one address");
        side.refused(listener, "too_many_from_address");
        let _third = enter(&other).unwrap();
        assert!(enter(&other).is_none(), "a fourth of all");
        side.refused(listener, "too_many_connections");
        drop(second);
        until("a place", || enter(&client).map(drop));
        // one that is not trusted is told nothing of the house being full
        if listener == "legacy" {
            drop(world.client().source(world.other_ip(200)).tcp(to));
            side.refused(listener, "source_untrusted");
        }
    }
}

#[test]
fn a_gateway_that_speaks_the_link_wrongly_is_refused() {
    let world = World::new();
    let both = both(&world, "handshake_timeout = \"1s\"");
    let client = gateway_client(&world).alpn("portcullis/1");
    for (bytes, reason) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "open_invalid"),
        (b"\x01\xff\xff\xff", "open_invalid"),
        (b"\x01\x00\x00\x04\xde\xad\xbe\xef", "open_invalid"),
        (b"\x02\x00\x00\x00", "open_invalid"),
        (b"", "handshake_timeout"),
        (b"\x01\x00\x00", "handshake_timeout"),
    ] {
        let before = both
            .acceptor
            .count(|l| l["message"] == "access" && l["reason"] == reason);
        let mut stream = client.connect(both.link, "legacy.internal").unwrap();
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"portcullis/1"[..]));
        stream.write_all(bytes).unwrap();
        stream.flush().unwrap();
        let mut back = Vec::new();
        drop(stream.read_to_end(&mut back));
        assert!(back.len() < 100, "{bytes:?}");
        until(reason, || {
            (both
                .acceptor
                .count(|l| l["message"] == "access" && l["reason"] == reason)
                > before)
                .then_some(())
        });
        both.acceptor.ended_for("legacy", reason);
    }
    assert_eq!(both.backend.connections(), 0);
    let mut stream = world.client().connect(both.edge, "site.test").unwrap();
    assert!(answers(&mut stream));
}

#[test]
fn a_process_out_of_descriptors_lives_and_recovers() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let address = world.address();
    let config = world.common(Role::Acceptor, "legacy")
        + &world.acceptor_text(
            address,
            &backend.address.to_string(),
            &format!(
                "trusted_ips = [{:?}]\nlimits = {{ handshake_timeout = \"3s\" }}",
                world.near()
            ),
        );
    let file = world.write("acceptor.toml", &config);
    let mut acceptor = Running::launch_by(
        std::process::Command::new("sh").args([
            "-c",
            "ulimit -n 60; exec \"$0\" \"$@\"",
            crate::world::BINARY,
        ]),
        "acceptor",
        &file,
    )
    .ready();
    let client = gateway_client(&world);
    let held: Vec<_> = (0..100).map(|_| client.tcp(address).unwrap()).collect();
    acceptor.line("the failure", |line| {
        line["level"] == "ERROR" && line["message"] == "accept failed"
    });
    // it does not spin: a failure is followed by a pause
    std::thread::sleep(Duration::from_secs(1));
    let said = acceptor.count(|line| line["message"] == "accept failed");
    assert!(said < 60, "{said} lines in a second");
    assert!(acceptor.alive());
    drop(held);
    until("room", || {
        client
            .connect(address, "legacy.internal")
            .ok()
            .and_then(|mut stream| answers(&mut stream).then_some(()))
    });
}

#[test]
fn a_storm_of_connections_is_served_and_leaves_nothing_behind() {
    let world = World::new();
    let both = over(&world, "", "", "tunnel = \"direct\"");
    let (threads, each) = (8_u8, 25_u8);
    std::thread::scope(|scope| {
        for n in 0..threads {
            let client = world.client().source(world.other_ip(n + 1));
            let to = both.edge;
            scope.spawn(move || {
                for _ in 0..each {
                    let mut stream = client.connect(to, "site.test").unwrap();
                    assert!(answers(&mut stream));
                    stream.conn.send_close_notify();
                    stream.flush().unwrap();
                    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
                }
            });
        }
    });
    let all = f64::from(threads) * f64::from(each);
    for (side, listener) in [(&both.gateway, "public"), (&both.acceptor, "legacy")] {
        let of = |what: &str| {
            side.metric(&format!(
                "portcullis_connections_{what}{{listener=\"{listener}\""
            ))
        };
        until("the end of all", || (of("active") < 0.5).then_some(()));
        assert!((of("accepted_total") - all).abs() < 0.5);
        assert!((of("admitted_total") - all).abs() < 0.5);
        until("the count", || {
            (side.ended_for(listener, "none") > all - 0.5).then_some(())
        });
        let lines = usize::from(threads) * usize::from(each);
        until("the lines", || {
            (side.count(|l| l["message"] == "access" && l["decision"] == "admitted") == lines)
                .then_some(())
        });
        let bytes = format!(
            "portcullis_transferred_bytes_total{{listener=\"{listener}\",direction=\"in\"}}"
        );
        assert!((side.metric(&bytes) - 4.0 * all).abs() < 0.5);
    }
}

#[test]
fn who_reads_slowly_but_reads_is_not_cut() {
    let world = World::new();
    let backend = Backend::serve(world.address(), |mut stream| {
        let part = vec![7; 1 << 16];
        let began = Instant::now();
        while began.elapsed() < PATIENCE && stream.write_all(&part).is_ok() {}
    });
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) =
        world.plain_gateway("tcp", link, "limits = { write_timeout = \"1s\" }", "");
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    let mut part = vec![0; 40_000];
    for n in 0..60 {
        if let Err(error) = stream.read_exact(&mut part) {
            panic!("cut after {n} parts: {error}\n{}", gateway.text());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn garbage_inside_a_session_breaks_it_and_looks_like_a_break() {
    let world = World::new();
    let (tell, heard) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let backend = Backend::serve(world.address(), move |mut stream| {
        let mut bytes = vec![0; 4];
        stream.read_exact(&mut bytes).unwrap();
        tell.lock().unwrap().send((true, bytes.clone())).unwrap();
        let clean = stream.read_to_end(&mut bytes).is_ok();
        tell.lock().unwrap().send((clean, bytes)).unwrap();
    });
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) = world.plain_gateway("tcp", link, "", "");
    for garbage in [
        &b"plain text in the middle of a session"[..],
        b"\x17\x03\x03\x00\x20not encrypted with any of our keys",
        b"\x16\x03\x03\x00\x04\x00\x00\x00\x00",
    ] {
        let mut stream = world.client().connect(edge, "site.test").unwrap();
        stream.write_all(b"good").unwrap();
        stream.flush().unwrap();
        // a reset may overtake what the backend has not read
        assert_eq!(heard.recv_timeout(PATIENCE).unwrap().1, b"good");
        stream.sock.write_all(garbage).unwrap();
        let (clean, bytes) = heard.recv_timeout(PATIENCE).unwrap();
        assert!(!clean, "it looks complete");
        assert_eq!(bytes, b"good");
        cut(&mut stream.sock);
    }
    let line = gateway.access("ended");
    assert_eq!(line["reason"], "peer_reset", "{line}");
    assert!(!gateway.text().contains("panicked"));
}

#[test]
fn a_chain_of_hundreds_is_refused() {
    let world = World::new();
    let both = both(&world, "");
    let leaf = world.leaf(Role::Gateway, "edge-1");
    let whole = std::fs::read_to_string(&leaf.certificate).unwrap();
    let issuer = whole.find("-----BEGIN").and_then(|first| {
        whole[first + 1..]
            .find("-----BEGIN")
            .map(|second| whole[first + 1 + second..].to_owned())
    });
    let long = crate::world::Leaf {
        certificate: world.write("long.pem", &(whole + &issuer.unwrap().repeat(300))),
        key: leaf.key,
    };
    let client = gateway_client(&world).certificate(&long);
    for _ in 0..3 {
        let entered = client
            .connect(both.link, "legacy.internal")
            .is_ok_and(|mut stream| answers(&mut stream));
        assert!(!entered);
    }
    let refused = until("the refusal", || {
        both.acceptor
            .lines()
            .into_iter()
            .find(|l| l["message"] == "access" && l["decision"] == "refused")
    });
    assert!(
        ["handshake_failed", "certificate_invalid"].contains(&refused["reason"].as_str().unwrap()),
        "{refused}"
    );
    assert_eq!(both.backend.connections(), 0);
    assert!(answers(
        &mut gateway_client(&world)
            .connect(both.link, "legacy.internal")
            .unwrap()
    ));
}
