//! What a gateway does with several acceptors, and what it tells a backend of its caller.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use portcullis::pki::Role;

use crate::world::{Backend, Running, World, get, named_backend, until};

/// Two acceptors on one identity, in front of two backends.
struct Pair {
    world: World,
    _acceptor: Running,
    links: [SocketAddr; 2],
}

impl Pair {
    fn new(world: World, backends: [SocketAddr; 2]) -> Self {
        let links = [world.address(), world.address()];
        let listener = |link: SocketAddr, backend: SocketAddr| {
            format!(
                "[[listener]]\naddress = \"{link}\"\nmode = \"tcp\"\nbackend = \"{backend}\"\n\
                 trusted_ips = [\"{}\"]\ngateways = [\"spiffe://example.internal/gateway/*\"]\n",
                world.ip()
            )
        };
        let text = listener(links[0], backends[0]) + &listener(links[1], backends[1]);
        let acceptor = world.acceptor(&text);
        Self {
            world,
            _acceptor: acceptor,
            links,
        }
    }

    fn gateway(&self, mode: &str, more: &str) -> (Running, SocketAddr) {
        let edge = self.world.address();
        let text = self.world.gateway_text(mode, edge, self.links[0], "", more);
        let one = format!("acceptors = [\"{}\"]", self.links[0]);
        let both = format!("acceptors = [\"{}\", \"{}\"]", self.links[0], self.links[1]);
        assert!(text.contains(&one));
        (self.world.gateway(&text.replace(&one, &both)), edge)
    }
}

fn two_named(world: &World) -> [Backend; 2] {
    [named_backend(world, "one"), named_backend(world, "two")]
}

#[test]
fn round_robin_takes_turns_with_each_request_though_links_are_kept() {
    let world = World::new();
    let backends = two_named(&world);
    let pair = Pair::new(world, backends.each_ref().map(|b| b.address));
    let (_gateway, edge) = pair.gateway("http", "balance = \"round-robin\"\npool = { ready = 0 }");
    let mut stream = pair.world.client().connect(edge, "site.test").unwrap();
    let answers: Vec<String> = (0..10).map(|_| get(&mut stream, "/").1).collect();
    assert_eq!(
        answers.iter().filter(|a| *a == "one").count(),
        5,
        "{answers:?}"
    );
    assert_eq!(
        backends.each_ref().map(Backend::connections),
        [1, 1],
        "links are kept"
    );
}

#[test]
fn ready_links_are_open_before_the_first_request() {
    let world = World::new();
    let backends = two_named(&world);
    let pair = Pair::new(world, backends.each_ref().map(|b| b.address));
    let (_gateway, edge) = pair.gateway("http", "pool = { ready = 3 }");
    let open = || backends.iter().map(Backend::connections).sum::<usize>();
    until("three ready links", || (open() == 3).then_some(()));
    let mut stream = pair.world.client().connect(edge, "site.test").unwrap();
    assert_eq!(get(&mut stream, "/").0, 200);
    assert_eq!(open(), 3, "a ready link carried it");
}

#[test]
fn an_unhealthy_acceptor_gets_nothing_until_it_is_well_again() {
    let world = World::new();
    let well = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&well);
    let sick = Backend::serve(world.address(), move |mut stream| {
        let mut head = Vec::new();
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() {
            head.push(byte[0]);
            if head.ends_with(b"\r\n\r\n") {
                let status = if state.load(Ordering::SeqCst) {
                    "200 OK"
                } else {
                    "503 Down"
                };
                head.clear();
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\nsick");
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        }
    });
    let other = named_backend(&world, "other");
    let pair = Pair::new(world, [sick.address, other.address]);
    let (gateway, edge) = pair.gateway(
        "http",
        "balance = \"round-robin\"\nhealth = { path = \"/healthz\", interval = \"50ms\", \
         timeout = \"2s\", unhealthy_after = 2, healthy_after = 2 }",
    );
    let gauge = format!(
        "portcullis_acceptor_healthy{{backend=\"legacy\",acceptor=\"{}\"}}",
        pair.links[0]
    );
    let mut stream = pair.world.client().connect(edge, "site.test").unwrap();
    let mut both = || -> Vec<String> { (0..8).map(|_| get(&mut stream, "/").1).collect() };
    assert!(both().contains(&"sick".to_owned()));
    well.store(false, Ordering::SeqCst);
    until("the verdict", || {
        (gateway.metric(&gauge) == 0.0 && gateway.text().contains("acceptor is unhealthy"))
            .then_some(())
    });
    assert_eq!(both(), ["other"; 8]);
    well.store(true, Ordering::SeqCst);
    until("its recovery", || {
        (gateway.metric(&gauge) == 1.0).then_some(())
    });
    assert!(both().contains(&"sick".to_owned()));
}

#[test]
fn an_admitted_link_is_a_check_where_no_path_is_given() {
    let world = World::new();
    let backends = [
        Backend::echo(world.address()),
        Backend::echo(world.address()),
    ];
    let pair = Pair::new(world, backends.each_ref().map(|b| b.address));
    let (gateway, _edge) = pair.gateway("tcp", "health = { interval = \"50ms\" }");
    until("both verdicts", || {
        let healthy = |link: SocketAddr| {
            let gauge =
                format!("portcullis_acceptor_healthy{{backend=\"legacy\",acceptor=\"{link}\"}}");
            gateway.metric(&gauge) == 1.0
        };
        pair.links.into_iter().all(healthy).then_some(())
    });
}

/// The backend's answer is the head that it got.
fn mirror(world: &World) -> Backend {
    Backend::serve(world.address(), |mut stream| {
        let mut head = Vec::new();
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() {
            head.push(byte[0]);
            if head.ends_with(b"\r\n\r\n") {
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", head.len());
                drop(stream.write_all(&[answer.as_bytes(), &head].concat()));
                head.clear();
            }
        }
    })
}

#[test]
fn the_caller_s_certificate_is_handed_on_as_configured_and_never_taken_from_the_caller() {
    for (kind, ours, sent) in [
        (
            "xfcc",
            "x-forwarded-client-cert: by=spiffe://example.internal/gateway/edge-1;hash=",
            true,
        ),
        ("rfc9440", "client-cert: :", true),
        ("off", "client-cert", false),
    ] {
        let world = World::new();
        let backend = mirror(&world);
        let client = world.issue(Role::Client, "ops", &[]);
        let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
        let listener = format!(
            "client_ca = {:?}\nclient_crl = {:?}\nclient_cert = \"optional\"\n\
             clients = [\"spiffe://example.internal/client/*\"]",
            world.authority.trust(),
            world.authority.crl()
        );
        let more = format!("client_cert_header = \"{kind}\"");
        let (_gateway, edge) = world.plain_gateway("http", link, &listener, &more);
        let ask = |certified: bool| {
            let base = world.client();
            let who = if certified {
                base.certificate(&client)
            } else {
                base
            };
            let mut stream = who.connect(edge, "site.test").unwrap();
            stream
                .write_all(
                    b"GET / HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\
                      X-Forwarded-Client-Cert: Hash=forged\r\nX_Forwarded_Client_Cert: forged\r\n\
                      Client-Cert: :Zm9yZ2Vk:\r\nClient-Cert-Chain: :Zm9yZ2Vk:\r\n\r\n",
                )
                .unwrap();
            let mut answer = Vec::new();
            drop(stream.read_to_end(&mut answer));
            String::from_utf8_lossy(&answer).to_ascii_lowercase()
        };
        let with = ask(true);
        assert!(with.contains("200 ok"), "{kind}: {with}");
        assert_eq!(with.contains(ours), sent, "{kind}: {with}");
        let without = ask(false);
        for seen in [&with, &without] {
            assert!(
                !seen.contains("forged") && !seen.contains("zm9yz2vk"),
                "{kind}: {seen}"
            );
        }
        assert!(!without.contains("client-cert"), "{kind}: {without}");
        if kind == "rfc9440" {
            assert!(
                with.contains("client-cert-chain: :"),
                "the issuing CA: {with}"
            );
        }
    }
}
