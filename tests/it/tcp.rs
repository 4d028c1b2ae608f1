//! tcp mode through both roles: real programs, ends and breaks of streams, the choice of an
//! acceptor.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr},
    os::unix::net::UnixListener,
    process::{Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use portcullis::pki::Role;

use crate::world::{Backend, PATIENCE, Running, TlsStream, World, echo, says, text, until};

fn answers(stream: &mut TlsStream) -> bool {
    let mut back = [0; 4];
    stream.write_all(b"word").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"word"
}

fn word(stream: &mut TlsStream, len: usize) -> io::Result<String> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes)?;
    Ok(String::from_utf8(bytes).unwrap())
}

fn end(stream: &mut TlsStream) {
    stream.conn.send_close_notify();
    stream.flush().unwrap();
}

#[test]
fn redis_serves_its_own_client_and_a_pipeline_of_ten_thousand() {
    let world = World::new();
    let redis = world.redis();
    let (gateway, _acceptor, edge) = world.chain(&redis.address.to_string());
    let (ip, port) = (edge.ip().to_string(), edge.port().to_string());
    let trust = world.authority.trust();
    let base = [
        "-h",
        &ip,
        "-p",
        &port,
        "--tls",
        "--sni",
        "site.test",
        "--cacert",
        text(&trust),
    ];
    let ask = |more: &[&str]| {
        let (ok, said) = crate::world::run("redis-cli", &[&base[..], more].concat());
        assert!(ok, "{said}");
        said.trim().to_owned()
    };
    assert_eq!(ask(&["SET", "gate", "shut"]), "OK");
    assert_eq!(ask(&["GET", "gate"]), "shut");
    let big = "x".repeat(200_000);
    let mut child = Command::new("redis-cli")
        .args(base)
        .arg("--pipe")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut commands = String::new();
    for n in 0..10_000 {
        commands.push_str(&format!("SET key:{n} {n}\r\n"));
    }
    commands.push_str(&format!(
        "*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$200000\r\n{big}\r\n"
    ));
    input.write_all(commands.as_bytes()).unwrap();
    drop(input);
    let said = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("errors: 0, replies: 10001"), "{said}");
    assert_eq!(ask(&["GET", "key:9999"]), "9999");
    assert_eq!(ask(&["STRLEN", "big"]), "200000");
    // redis-cli closes the socket and says nothing before: that is told from an end
    let line = gateway.line("the pipeline", |line| {
        line["bytes_in"].as_u64().is_some_and(|n| n > 380_000)
    });
    assert_eq!(line["reason"], "truncated");
}

#[test]
fn a_backend_that_speaks_first_is_heard_before_the_client_says_a_word() {
    let world = World::new();
    let backend = Backend::greeting(world.address(), "220 ready\r\n");
    let (_gateway, _acceptor, edge) = world.chain(&backend.address.to_string());
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    assert_eq!(word(&mut stream, 11).unwrap(), "220 ready\r\n");
    assert!(answers(&mut stream));
}

#[test]
fn the_certificate_and_the_route_follow_the_name_that_was_asked_for() {
    let world = World::new();
    let other = world.issue(Role::Server, "other", &["other.test"]);
    let (one, two) = (
        Backend::greeting(world.address(), "one"),
        Backend::greeting(world.address(), "two"),
    );
    let (_a, first) = world.plain_acceptor(&one.address.to_string(), "");
    let second = world.address();
    let file = "acceptor-2";
    let _b = world.start_as(
        "acceptor",
        file,
        &(world.common_as(&world.leaf(Role::Acceptor, "legacy"), file, "")
            + &world.acceptor_text(
                second,
                &two.address.to_string(),
                &format!("trusted_ips = [{:?}]", world.near()),
            )),
    );
    let edge = world.address();
    let site = world.leaf(Role::Server, "site");
    let link = |name: &str, to: SocketAddr| {
        format!(
            "[backend.{name}]\nacceptors = [\"{to}\"]\nserver_name = \"legacy.internal\"\nbind = \"{}\"\n",
            world.ip()
        )
    };
    let gateway = world.gateway(&format!(
        "[[listener]]\nname = \"public\"\naddress = \"{edge}\"\nmode = \"tcp\"\n\
         certificate = {:?}\nkey = {:?}\n\
         [[listener.tls_certificate]]\ncertificate = {:?}\nkey = {:?}\n\
         [[route]]\nhost = [\"other.test\"]\nbackend = \"two\"\n\
         [[route]]\nhost = [\"site.test\", \"*.deep.site.test\", \"a.site.test\"]\nbackend = \"one\"\n{}{}",
        site.certificate,
        site.key,
        other.certificate,
        other.key,
        link("one", first),
        link("two", second)
    ));
    // the client checks the name in the certificate that it got
    for (name, hears) in [
        ("site.test", "one"),
        ("OTHER.test", "two"),
        ("a.site.test", "one"),
    ] {
        let mut stream = world.client().connect(edge, name).unwrap();
        assert_eq!(word(&mut stream, 3).unwrap(), hears, "{name}");
    }
    let came = (one.connections(), two.connections());
    let mut stream = world.client().connect(edge, "b.site.test").unwrap();
    assert!(word(&mut stream, 1).is_err());
    let line = gateway.refused_after("public", "no_route");
    assert!(says(&line, "detail", "b.site.test"), "{line}");
    assert_eq!((one.connections(), two.connections()), came);
}

#[test]
fn a_unix_socket_is_a_backend() {
    let world = World::new();
    let path = world.path("backend.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                echo(&mut stream);
                drop(stream.shutdown(Shutdown::Write));
            });
        }
    });
    let (_gateway, acceptor, edge) = world.chain(&format!("unix:{}", path.display()));
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    assert!(answers(&mut stream));
    end(&mut stream);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert!(
        acceptor.access("admitted")["backend"]
            .as_str()
            .unwrap()
            .ends_with("backend.sock")
    );
}

#[test]
fn a_backend_with_tls_of_its_own_is_asked_for_its_name() {
    let world = World::new();
    let ca = world.stranger("backend-ca");
    let leaf = world.signed_by(&ca, "backend", "DNS:legacy.local");
    let backend = Backend::tls(world.address(), &leaf, echo);
    let run = |file: &str, trust: &std::path::Path, name: &str| {
        let address = world.address();
        let text = world.common_as(&world.leaf(Role::Acceptor, "legacy"), file, "")
            + &world.acceptor_text(
                address,
                &backend.address.to_string(),
                &format!(
                    "trusted_ips = [{:?}]\nbackend_tls = {{ trust = {trust:?}, server_name = \"{name}\" }}",
                    world.near()
                ),
            );
        let acceptor = world.start_as("acceptor", file, &text);
        let edge = world.address();
        let gateway_file = format!("gateway-{file}");
        let text = world.common_as(&world.leaf(Role::Gateway, "edge-1"), &gateway_file, "")
            + &world.gateway_text("tcp", edge, address, "", "");
        let gateway = world.start_as("gateway", &gateway_file, &text);
        let came = world
            .client()
            .connect(edge, "site.test")
            .is_ok_and(|mut stream| answers(&mut stream));
        (acceptor, gateway, came)
    };
    assert!(run("right", &ca.certificate, "legacy.local").2);
    let trust = world.authority.trust();
    for (file, trust, name, why) in [
        (
            "name",
            &ca.certificate,
            "elsewhere.local",
            "elsewhere.local",
        ),
        ("trust", &trust, "legacy.local", "trusted roots"),
    ] {
        let (acceptor, gateway, came) = run(file, trust, name);
        assert!(!came, "{file}");
        for side in [(&acceptor, "legacy"), (&gateway, "public")] {
            let line = side.0.refused_after(side.1, "backend_unreachable");
            if side.1 == "legacy" {
                assert!(says(&line, "detail", why), "{line}");
            }
        }
    }
}

#[test]
fn each_direction_ends_by_itself() {
    let world = World::new();
    let (tell, heard) = mpsc::channel();
    let tell = Mutex::new(tell);
    let backend = Backend::serve(world.address(), move |mut stream| {
        stream.write_all(b"all that I have").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = String::new();
        let read = stream.read_to_string(&mut rest);
        tell.lock().unwrap().send((read.is_ok(), rest)).unwrap();
    });
    let (gateway, acceptor, edge) = world.chain(&backend.address.to_string());
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    let mut said = String::new();
    // ends cleanly, while our direction is open
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "all that I have");
    for _ in 0..3 {
        stream.write_all(b"and I go on ").unwrap();
        stream.flush().unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    end(&mut stream);
    let (clean, rest) = heard.recv_timeout(PATIENCE).unwrap();
    assert!(clean);
    assert_eq!(rest, "and I go on and I go on and I go on ");
    for side in [&gateway, &acceptor] {
        let line = side.access("admitted");
        assert!(line["reason"].is_null(), "{line}");
        assert_eq!(
            (&line["bytes_in"], &line["bytes_out"]),
            (&36.into(), &15.into())
        );
    }
    assert!(gateway.ended_for("public", "none") >= 1.0);
}

#[test]
fn a_backend_that_resets_leaves_no_complete_looking_answer() {
    let world = World::new();
    let (tell, arrived) = mpsc::channel::<()>();
    let arrived = Mutex::new(arrived);
    let backend = Backend::serve(world.address(), move |mut stream| {
        let mut one = [0];
        stream.read_exact(&mut one).unwrap();
        stream.write_all(b"half of it").unwrap();
        // a reset may overtake what was not read
        arrived.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        socket2::SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    });
    let (gateway, acceptor, edge) = world.chain(&backend.address.to_string());
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    stream.write_all(b"?").unwrap();
    assert_eq!(word(&mut stream, 10).unwrap(), "half of it");
    tell.send(()).unwrap();
    let read = stream.read(&mut [0]);
    assert!(read.is_err(), "it looks complete: {read:?}");
    for (side, listener) in [(&acceptor, "legacy"), (&gateway, "public")] {
        let line = side.access("ended");
        assert_eq!(line["reason"], "upstream_broken", "{line}");
        assert!(side.ended_for(listener, "upstream_broken") >= 1.0);
    }
}

#[test]
fn a_client_that_vanishes_leaves_no_complete_looking_request() {
    let world = World::new();
    let (tell, heard) = mpsc::channel();
    let tell = Mutex::new(tell);
    let backend = Backend::serve(world.address(), move |mut stream| {
        let mut bytes = vec![0; 4];
        stream.read_exact(&mut bytes).unwrap();
        tell.lock().unwrap().send((true, bytes.clone())).unwrap();
        let read = stream.read_to_end(&mut bytes);
        tell.lock().unwrap().send((read.is_ok(), bytes)).unwrap();
    });
    let (gateway, acceptor, edge) = world.chain(&backend.address.to_string());
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    stream.write_all(b"half").unwrap();
    // a reset may overtake what the backend has not read
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap().1, b"half");
    // the socket ends, and TLS does not
    stream.sock.shutdown(Shutdown::Both).unwrap();
    let (clean, bytes) = heard.recv_timeout(PATIENCE).unwrap();
    assert!(!clean, "it looks complete");
    assert_eq!(bytes, b"half");
    assert_eq!(gateway.access("ended")["reason"], "truncated");
    assert_eq!(acceptor.access("ended")["reason"], "peer_reset");
}

/// Whoever closes without a word has still said what it said.
#[test]
fn what_came_before_a_break_arrives_and_is_no_end() {
    let world = World::new();
    let (tell, heard) = mpsc::channel();
    let tell = Mutex::new(tell);
    let backend = Backend::serve(world.address(), move |mut stream| {
        let mut first = [0; 3];
        if stream.read_exact(&mut first).is_ok() && &first == b"ask" {
            // a socket that is closed with octets unread is reset
            until("more of it", || {
                let more = stream.peek(&mut [0; 4]);
                more.is_ok_and(|n| n > 0).then_some(())
            });
            drop(stream.write_all(&[7; 3000]));
            return;
        }
        let mut rest = Vec::new();
        let clean = stream.read_to_end(&mut rest).is_ok();
        tell.lock().unwrap().send((clean, rest.len())).unwrap();
    });
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    for tunnel in ["direct", "reuse", "mux"] {
        let more = format!("tunnel = \"{tunnel}\"");
        let (_gateway, edge) = world.plain_gateway("tcp", link, "", &more);
        for _ in 0..8 {
            let mut stream = world.client().connect(edge, "site.test").unwrap();
            stream.write_all(&[7; 203]).unwrap();
            drop(stream);
            let heard = heard.recv_timeout(PATIENCE).unwrap();
            assert_eq!(heard, (false, 200), "{tunnel}");
            let mut stream = world.client().connect(edge, "site.test").unwrap();
            stream.write_all(b"ask more").unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap_err();
            assert_eq!(answer.len(), 3000, "{tunnel}");
        }
    }
}

/// Bytes that are never the same twice, cheap to make.
struct Flood {
    chunk: Vec<u8>,
    next: u64,
    digest: aws_lc_rs::digest::Context,
}

impl Flood {
    const CHUNK: usize = 64 << 10;

    fn new(seed: u8) -> Self {
        let mut chunk = vec![0; Self::CHUNK];
        aws_lc_rs::rand::fill(&mut chunk).unwrap();
        chunk[8] = seed;
        Self {
            chunk,
            next: 0,
            digest: aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256),
        }
    }

    fn next(&mut self) -> &[u8] {
        self.chunk[..8].copy_from_slice(&self.next.to_be_bytes());
        self.next += 1;
        self.digest.update(&self.chunk);
        &self.chunk
    }

    fn finish(self) -> Vec<u8> {
        self.digest.finish().as_ref().to_vec()
    }
}

#[test]
fn a_gibibyte_goes_each_way_at_once_and_arrives_whole() {
    const CHUNKS: usize = (1 << 30) / Flood::CHUNK;
    let world = World::new();
    let (tell, heard) = mpsc::channel();
    let tell = Mutex::new(tell);
    let backend = Backend::serve(world.address(), move |mut stream| {
        let mut back = stream.try_clone().unwrap();
        let sender = std::thread::spawn(move || {
            let mut flood = Flood::new(1);
            for _ in 0..CHUNKS {
                back.write_all(flood.next()).unwrap();
            }
            back.shutdown(Shutdown::Write).unwrap();
            flood.finish()
        });
        let got = drink(&mut stream);
        tell.lock()
            .unwrap()
            .send((got, sender.join().unwrap()))
            .unwrap();
    });
    let (gateway, acceptor, edge) = world.chain(&backend.address.to_string());
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    let mut flood = Flood::new(2);
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut buffer = vec![0; Flood::CHUNK];
    for _ in 0..CHUNKS {
        stream.write_all(flood.next()).unwrap();
        stream.read_exact(&mut buffer).unwrap();
        digest.update(&buffer);
    }
    end(&mut stream);
    assert_eq!(stream.read(&mut buffer).unwrap(), 0);
    let sent = flood.finish();
    let got = digest.finish().as_ref().to_vec();
    let (theirs, back) = heard.recv_timeout(PATIENCE).unwrap();
    assert_eq!(theirs, sent);
    assert_eq!(got, back);
    for side in [&gateway, &acceptor] {
        let line = side.access("admitted");
        assert_eq!(line["bytes_in"], 1 << 30);
        assert_eq!(line["bytes_out"], 1 << 30);
    }
}

/// SHA-256 of everything up to a clean end.
fn drink(stream: &mut impl Read) -> Vec<u8> {
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => return digest.finish().as_ref().to_vec(),
            n => digest.update(&buffer[..n]),
        }
    }
}

/// A gateway with several acceptors.
fn gateway_to(world: &World, acceptors: &[SocketAddr], more: &str) -> (Running, SocketAddr) {
    let edge = world.address();
    let placeholder: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let list: Vec<_> = acceptors.iter().map(|a| format!("\"{a}\"")).collect();
    let text = world
        .gateway_text("tcp", edge, placeholder, "", more)
        .replace(&format!("\"{placeholder}\""), &list.join(", "));
    (world.gateway(&text), edge)
}

fn acceptor_for(
    world: &World,
    file: &str,
    backend: SocketAddr,
    sources: &str,
) -> (Running, SocketAddr) {
    let address = world.address();
    let text = world.common_as(&world.leaf(Role::Acceptor, "legacy"), file, "")
        + &world.acceptor_text(
            address,
            &backend.to_string(),
            &format!("trusted_ips = [{sources:?}]"),
        );
    (world.start_as("acceptor", file, &text), address)
}

#[test]
fn the_next_acceptor_is_taken_when_one_is_down_refuses_us_or_says_nothing() {
    let world = World::new();
    let backend = Backend::greeting(world.address(), "hello");
    let silent = Backend::serve(world.address(), |stream| {
        std::thread::sleep(PATIENCE);
        drop(stream);
    });
    let nobody = world.address();
    let (strict, refuses) = acceptor_for(&world, "strict", backend.address, "192.0.2.1");
    let near = world.near();
    let (_good, good) = acceptor_for(&world, "good", backend.address, &near);
    let (gateway, edge) = gateway_to(
        &world,
        &[nobody, refuses, silent.address, good],
        "connect_timeout = \"700ms\"",
    );
    // whichever comes first, the good one is found
    for _ in 0..4 {
        let mut stream = world.client().connect(edge, "site.test").unwrap();
        assert_eq!(word(&mut stream, 5).unwrap(), "hello");
    }
    strict.refused("legacy", "source_untrusted");
    for reason in [
        "upstream_unreachable",
        "upstream_refused",
        "upstream_timeout",
    ] {
        let begins = format!(
            "portcullis_link_connect_failed_total{{backend=\"legacy\",reason=\"{reason}\"}}"
        );
        assert!(
            gateway.metric(&begins) >= 1.0,
            "{reason}: {}",
            gateway.text()
        );
        gateway.line(reason, |line| {
            line["message"] == "link connection failed" && line["reason"] == reason
        });
    }
    gateway.line("the good one", |line| {
        line["message"] == "access" && line["acceptor"] == good.to_string().as_str()
    });
    // their pauses end by themselves: while they fail they are seen
    until("three that are the last choice", || {
        let mut stream = world.client().connect(edge, "site.test").unwrap();
        assert_eq!(word(&mut stream, 5).unwrap(), "hello");
        let (_, ready) = gateway.admin("/readyz?verbose").unwrap();
        ready.contains("1 of 4 acceptors usable").then_some(())
    });
}

#[test]
fn when_no_acceptor_answers_the_client_is_cut_and_the_reason_is_the_last_one() {
    let world = World::new();
    let silent = Backend::serve(world.address(), |stream| {
        std::thread::sleep(PATIENCE);
        drop(stream);
    });
    let (gateway, edge) = gateway_to(&world, &[silent.address], "connect_timeout = \"500ms\"");
    let began = Instant::now();
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    let read = stream.read(&mut [0]);
    assert!(read.is_err(), "it looks like an answer: {read:?}");
    assert!(began.elapsed() < Duration::from_secs(5));
    let line = gateway.refused_after("public", "upstream_timeout");
    assert!(says(&line, "detail", "connect_timeout"), "{line}");
}

#[test]
fn acceptors_take_turns_and_the_least_busy_comes_first() {
    let world = World::new();
    let one = Backend::greeting(world.address(), "one");
    let two = Backend::greeting(world.address(), "two");
    let near = world.near();
    let (_one, first) = acceptor_for(&world, "one", one.address, &near);
    let (_two, second) = acceptor_for(&world, "two", two.address, &near);
    {
        let (_gateway, edge) = gateway_to(&world, &[first, second], "balance = \"round-robin\"");
        for _ in 0..6 {
            let mut stream = world.client().connect(edge, "site.test").unwrap();
            word(&mut stream, 3).unwrap();
        }
        assert_eq!((one.connections(), two.connections()), (3, 3));
    }
    let (_gateway, edge) = gateway_to(&world, &[first, second], "balance = \"least-requests\"");
    let mut held = world.client().connect(edge, "site.test").unwrap();
    let busy = word(&mut held, 3).unwrap();
    for _ in 0..4 {
        let mut stream = world.client().connect(edge, "site.test").unwrap();
        assert_ne!(word(&mut stream, 3).unwrap(), busy);
        end(&mut stream);
        // its end is known here before it is known there
        drop(stream.read(&mut [0]));
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_backend_that_is_down_is_told_as_such_at_both_ends() {
    let world = World::new();
    let (gateway, acceptor, edge) = world.chain(&world.address().to_string());
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    assert!(stream.read(&mut [0]).is_err());
    acceptor.refused_after("legacy", "backend_unreachable");
    gateway.refused_after("public", "backend_unreachable");
}

#[test]
fn the_backend_sees_the_source_address_that_was_configured() {
    let world = World::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let backend = Backend::serve(world.address(), move |mut stream| {
        noted.lock().unwrap().push(stream.peer_addr().unwrap().ip());
        echo(&mut stream);
    });
    let own = world.other_ip(77);
    let (_acceptor, link) = world.plain_acceptor(
        &backend.address.to_string(),
        &format!("source_address = \"{own}\""),
    );
    let (_gateway, edge) = world.plain_gateway("tcp", link, "", "");
    assert!(answers(
        &mut world.client().connect(edge, "site.test").unwrap()
    ));
    assert_eq!(*seen.lock().unwrap(), [own]);
}

#[test]
fn clients_need_a_certificate_where_one_is_asked_for() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let staff = world.issue(Role::Client, "staff-1", &[]);
    let guest = world.issue(Role::Client, "guest-1", &[]);
    let gone = world.issue(Role::Client, "gone-1", &[]);
    world
        .authority
        .revoke("client/gone-1", portcullis::pki::Reason::Superseded)
        .unwrap();
    let ca = world.stranger("elsewhere");
    let stranger = world.signed_by(&ca, "mimic", "URI:spiffe://example.internal/client/staff-1");
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) = world.plain_gateway(
        "tcp",
        link,
        &format!(
            "client_ca = {:?}\nclient_crl = {:?}\nclient_cert = \"require\"\n\
             clients = [\"spiffe://example.internal/client/staff-1\", \"spiffe://example.internal/client/gone-1\"]",
            world.authority.trust(),
            world.authority.crl()
        ),
        "",
    );
    let enters = |leaf: Option<&crate::world::Leaf>| {
        let client = match leaf {
            Some(leaf) => world.client().certificate(leaf),
            None => world.client(),
        };
        client
            .connect(edge, "site.test")
            .is_ok_and(|mut stream| answers(&mut stream))
    };
    let gateway_leaf = world.leaf(Role::Gateway, "edge-1");
    for (leaf, reason) in [
        (None, "certificate_missing"),
        (Some(&guest), "name_not_allowed"),
        (Some(&gone), "certificate_revoked"),
        (Some(&stranger), "certificate_unknown_issuer"),
    ] {
        assert!(!enters(leaf), "{reason}");
        gateway.refused("public", reason);
    }
    assert!(!enters(Some(&gateway_leaf)));
    assert_eq!(backend.connections(), 0);
    assert!(enters(Some(&staff)));
    let line = gateway.access("ended");
    assert_eq!(line["identity"], "spiffe://example.internal/client/staff-1");
}

#[test]
fn who_is_made_for_the_link_is_no_client_whatever_else_matches() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let staff = world.issue(Role::Client, "staff-1", &["staff-1.internal"]);
    let other = world.issue(Role::Gateway, "edge-2", &["edge-2.internal"]);
    for clients in [
        "danger_any_client = true",
        "clients = [\"dns:*.internal\", \"spiffe://example.internal/*\"]",
    ] {
        let (gateway, edge) = world.plain_gateway(
            "tcp",
            link,
            &format!(
                "client_ca = {:?}\nclient_crl = {:?}\n{clients}",
                world.authority.trust(),
                world.authority.crl()
            ),
            "",
        );
        let enters = |leaf: &crate::world::Leaf| {
            let client = world.client().certificate(leaf);
            let stream = client.connect(edge, "site.test");
            stream.is_ok_and(|mut stream| answers(&mut stream))
        };
        assert!(enters(&staff), "{}", gateway.text());
        assert!(!enters(&other));
        gateway.refused("public", "certificate_wrong_role");
        let (done, said) = crate::world::run(
            env!("CARGO_BIN_EXE_portcullis"),
            &[
                "explain",
                text(&gateway.config),
                "--from",
                "127.0.0.1",
                "--cert",
                text(&other.certificate),
            ],
        );
        assert!(done && said.contains("certificate_wrong_role"), "{said}");
    }
}

#[test]
fn allow_and_deny_at_the_edge() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) = world.plain_gateway(
        "tcp",
        link,
        &format!(
            "allow = [{:?}]\ndeny = [\"{}\"]",
            world.near(),
            world.other_ip(3)
        ),
        "",
    );
    let enters = |last: u8| {
        world
            .client()
            .source(world.other_ip(last))
            .connect(edge, "site.test")
            .is_ok_and(|mut stream| answers(&mut stream))
    };
    assert!(enters(2));
    assert!(!enters(3));
    assert!(!enters(200));
    gateway.refused("public", "source_denied");
    gateway.refused("public", "source_untrusted");
}

#[test]
fn an_unknown_or_absent_name_and_a_foreign_alpn_change_nothing_without_hosts() {
    let world = World::new();
    let backend = Backend::greeting(world.address(), "hello");
    let (gateway, acceptor, edge) = world.chain(&backend.address.to_string());
    let (_, said) = crate::world::run(
        "sh",
        &[
            "-c",
            &format!(
                "sleep 2 | timeout 10 openssl s_client -quiet -noservername -alpn h2 -connect {edge} -CAfile {}",
                text(&world.authority.trust())
            ),
        ],
    );
    assert!(said.contains("hello"), "{said}{}", gateway.text());
    let line = gateway.line("the end", |line| line["message"] == "access");
    assert!(line["sni"].is_null(), "{line}");
    let client = world.client().alpn("h2");
    let mut stream = client.connect(edge, "site.test").unwrap();
    assert_eq!(word(&mut stream, 5).unwrap(), "hello");
    assert_eq!(stream.conn.alpn_protocol(), None);
    drop(acceptor);
}

#[test]
fn a_foreign_acceptor_with_protocols_of_its_own_is_asked_again_without_ours() {
    let world = World::new();
    let leaf = world.leaf(Role::Acceptor, "legacy");
    let server = Backend::tls_with(world.address(), &leaf, &["h2", "http/1.1"], |stream| {
        echo(stream);
    });
    let (gateway, edge) = world.plain_gateway("tcp", server.address, "", "");
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    stream.write_all(b"hello").unwrap();
    assert_eq!(word(&mut stream, 5).unwrap(), "hello", "{}", gateway.text());
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_foreign_gateway_may_offer_protocols_of_its_own() {
    let world = World::new();
    let backend = Backend::greeting(world.address(), "hello");
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let client = world
        .client()
        .certificate(&world.leaf(Role::Gateway, "edge-1"))
        .source(world.ip());
    for client in [client.clone(), client.alpn("http/1.1")] {
        let mut stream = client.connect(link, "legacy.internal").unwrap();
        let heard = word(&mut stream, 5);
        assert!(heard.is_ok_and(|w| w == "hello"), "{}", acceptor.text());
        assert_eq!(stream.conn.alpn_protocol(), None);
    }
}

#[test]
fn unix_sockets_all_the_way() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let link = world.path("link.sock");
    let text = world
        .acceptor_text(
            world.address(),
            &backend.address.to_string(),
            "danger_any_source = true\nsend_proxy = \"v1\"",
        )
        .lines()
        .map(|line| {
            if line.starts_with("address") {
                format!("address = \"unix:{}\"\n", link.display())
            } else {
                format!("{line}\n")
            }
        })
        .collect::<String>();
    let acceptor = world.acceptor(&text);
    let edge = world.address();
    let placeholder: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let text = world
        .gateway_text("tcp", edge, placeholder, "", "")
        .replace(
            &placeholder.to_string(),
            &format!("unix:{}", link.display()),
        )
        .replace(&format!("bind = \"{}\"\n", world.ip()), "");
    let gateway = world.gateway(&text);
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    let source = stream.sock.local_addr().unwrap();
    stream.write_all(b"word").unwrap();
    // the backend gives the header back as well
    let expected = format!(
        "PROXY TCP4 {} {} {} {}\r\nword",
        source.ip(),
        edge.ip(),
        source.port(),
        edge.port()
    );
    let heard = word(&mut stream, expected.len());
    assert!(
        heard.as_ref().is_ok_and(|w| *w == expected),
        "{heard:?}\n{}{}",
        gateway.text(),
        acceptor.text()
    );
}

#[test]
fn a_listener_of_both_families_names_ipv4_clients_as_such() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (_acceptor, link) =
        world.plain_acceptor(&backend.address.to_string(), "send_proxy = \"v1\"");
    let port = world.address().port();
    let any: SocketAddr = format!("[::]:{port}").parse().unwrap();
    let gateway = world.gateway(&world.gateway_text("tcp", any, link, "", ""));
    for to in [
        SocketAddr::new(world.ip(), port),
        format!("[::1]:{port}").parse().unwrap(),
    ] {
        let mut stream = world.client().connect(to, "site.test").unwrap();
        let source = stream.sock.local_addr().unwrap();
        stream.write_all(b"word").unwrap();
        let family = if to.is_ipv4() { "TCP4" } else { "TCP6" };
        let expected = format!(
            "PROXY {family} {} {} {} {}\r\nword",
            source.ip(),
            to.ip(),
            source.port(),
            to.port()
        );
        let heard = word(&mut stream, expected.len());
        assert!(
            heard.as_ref().is_ok_and(|w| *w == expected),
            "{heard:?}, expected {expected:?}\n{}",
            gateway.text()
        );
    }
}

#[test]
fn an_acceptor_whose_backend_is_down_or_that_drains_hands_over_to_the_next() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let near = world.near();
    let (dead, first) = acceptor_for(&world, "dead", world.address(), &near);
    let (good, second) = acceptor_for(&world, "good", backend.address, &near);
    let (third_process, third) = acceptor_for(&world, "third", backend.address, &near);
    let (gateway, edge) = gateway_to(&world, &[first, second, third], "");
    let enters = || {
        world
            .client()
            .connect(edge, "site.test")
            .is_ok_and(|mut stream| answers(&mut stream))
    };
    for _ in 0..3 {
        assert!(enters(), "{}", gateway.text());
    }
    dead.refused_after("legacy", "backend_unreachable");
    // one drains: those that it has live on, and new ones go elsewhere
    let mut held: Vec<_> = (0..4)
        .map(|_| world.client().connect(edge, "site.test").unwrap())
        .collect();
    assert!(held.iter_mut().all(answers));
    good.signal(rustix::process::Signal::TERM);
    good.line("draining", |line| line["message"] == "draining");
    for _ in 0..4 {
        assert!(enters(), "{}", gateway.text());
    }
    assert!(held.iter_mut().all(answers));
    drop(third_process);
}

#[test]
fn a_name_with_more_than_one_address_is_tried_through() {
    let world = World::new();
    let backend = Backend::greeting(world.address(), "hello");
    // one of the two addresses that localhost usually has
    let only = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let _acceptor = world.acceptor(&world.acceptor_text(
        only,
        &backend.address.to_string(),
        "trusted_ips = [\"127.0.0.0/8\"]",
    ));
    let placeholder: SocketAddr = "127.0.0.1:1".parse().unwrap();
    for (file, name, works) in [
        ("named", "server_name = \"legacy.internal\"\n", true),
        ("host", "", false),
    ] {
        let edge = world.address();
        let text = world.common_as(&world.leaf(Role::Gateway, "edge-1"), file, "")
            + &world
                .gateway_text("tcp", edge, placeholder, "", "")
                .replace(
                    &placeholder.to_string(),
                    &format!("localhost:{}", only.port()),
                )
                .replace("server_name = \"legacy.internal\"\n", name)
                .replace(&format!("bind = \"{}\"\n", world.ip()), "");
        let gateway = world.start_as("gateway", file, &text);
        let mut stream = world.client().connect(edge, "site.test").unwrap();
        let heard = word(&mut stream, 5);
        assert_eq!(heard.is_ok(), works, "{heard:?}\n{}", gateway.text());
        if !works {
            // the host in the address is the name that is asked for
            let line = gateway.refused_after("public", "server_name_mismatch");
            assert!(says(&line, "detail", "localhost"), "{line}");
        }
    }
}

#[test]
fn clients_of_tls_1_2_have_ends_and_breaks_too() {
    let world = World::new();
    let backend = Backend::serve(world.address(), |mut stream| {
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        stream.write_all(said.to_uppercase().as_bytes()).unwrap();
    });
    let (gateway, _acceptor, edge) = world.chain(&backend.address.to_string());
    let mut stream = world.client().tls12().connect(edge, "site.test").unwrap();
    stream.write_all(b"to the end").unwrap();
    end(&mut stream);
    let mut back = String::new();
    stream.read_to_string(&mut back).unwrap();
    assert_eq!(back, "TO THE END");
    let line = gateway.access("admitted");
    assert!(
        line["tls"].as_str().unwrap().starts_with("TLSv1.2"),
        "{line}"
    );
}

#[test]
fn sessions_go_on_for_callers_with_and_without_certificates() {
    let world = World::new();
    let backend = Backend::greeting(world.address(), "hello");
    let staff = world.issue(Role::Client, "staff-1", &[]);
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let asked = format!(
        "client_ca = {:?}\nclient_crl = {:?}\nclients = [\"spiffe://example.internal/client/*\"]",
        world.authority.trust(),
        world.authority.crl()
    );
    for (file, more, resumed) in [("open", "", true), ("guarded", asked.as_str(), true)] {
        let edge = world.address();
        let config = world.common_as(&world.leaf(Role::Gateway, "edge-1"), file, "")
            + &world.gateway_text("tcp", edge, link, more, "");
        let _gateway = world.start_as("gateway", file, &config);
        let session = world.path(&format!("{file}.session"));
        let come = |option: &str| {
            crate::world::run(
                "sh",
                &[
                    "-c",
                    &format!(
                        "sleep 2 | timeout 10 openssl s_client -connect {edge} -servername site.test \
                         -CAfile {} -cert {} -key {} -cert_chain {} {option} {}",
                        text(&world.authority.trust()),
                        text(&staff.certificate),
                        text(&staff.key),
                        text(&staff.certificate),
                        text(&session)
                    ),
                ],
            )
            .1
        };
        let first = come("-sess_out");
        assert!(
            first.contains("New, TLSv1.3") && first.contains("hello"),
            "{first}"
        );
        if !session.exists() {
            assert!(!resumed, "no ticket came: {first}");
            continue;
        }
        let second = come("-sess_in");
        assert_eq!(second.contains("Reused, TLSv1.3"), resumed, "{second}");
        assert!(second.contains("hello"), "{second}");
    }
}
