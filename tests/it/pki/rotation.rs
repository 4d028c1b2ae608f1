//! Everything is rotated, root included, while both roles are at work.

use std::{
    io::{Read as _, Write as _},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::{Duration, Instant},
};

use super::{openssl, portcullis, text};
use crate::world::{
    Backend, Links, Running, TlsStream, Ways, World, answers, broken, get, named_backend, says,
    until,
};
use portcullis::{
    pki::{Reason, RenewOptions, Role},
    wire::link::{self, ConnectionId, Frame, Open},
};

/// Ends the load, also when the test fails.
struct Load {
    stop: AtomicBool,
    answered: AtomicU32,
}

impl Load {
    /// Requests on connections of their own, or on one that is kept, until the end. One that is
    /// refused or broken fails the test.
    fn run(&self, world: &World, edge: std::net::SocketAddr, kept: bool) {
        let connect = || world.client().connect(edge, "site.test").unwrap();
        let mut stream = connect();
        while !self.stop.load(Ordering::Relaxed) {
            if !kept {
                stream = connect();
            }
            let (status, body) = get(&mut stream, "/");
            assert_eq!((status, &*body), (200, "the backend"));
            self.answered.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Waits until some more were answered.
    fn goes_on(&self) {
        let now = self.answered.load(Ordering::Relaxed);
        until("answers", || {
            (self.answered.load(Ordering::Relaxed) > now + 30).then_some(())
        });
    }
}

struct Stop<'a>(&'a Load);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

fn issuer(world: &World, role: Role, name: &str) -> String {
    let certificate = world.leaf(role, name).certificate;
    openssl(&[
        "x509",
        "-in",
        text(&certificate),
        "-noout",
        "-issuer",
        "-pubkey",
    ])
}

fn certificate_in_force(side: &Running) -> serde_json::Value {
    let (_, body) = side.admin("/status.json").unwrap();
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    status["identity"].clone()
}

#[test]
fn everything_is_rotated_under_load_and_no_request_fails() {
    let world = World::new();
    let backend = named_backend(&world, "the backend");
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (http, http_edge) = world.plain_gateway("http", link, "", "");
    let tcp_edge = world.address();
    let leaf = world.leaf(Role::Gateway, "edge-1");
    let config =
        world.common_as(&leaf, "tcp", "") + &world.gateway_text("tcp", tcp_edge, link, "", "");
    let tcp = world.start_as("gateway", "tcp", &config);
    let all = [&acceptor, &http, &tcp];
    let settle = || all.iter().for_each(|side| side.reload());
    let dir = text(world.authority.folder());
    let pki = |arguments: &[&str]| {
        let (ok, said) = portcullis(&[&["pki", "--dir", dir], arguments].concat());
        assert!(ok, "{arguments:?}: {said}");
    };
    let load = Load {
        stop: AtomicBool::new(false),
        answered: AtomicU32::new(0),
    };
    let leaves = [
        (Role::Gateway, "edge-1"),
        (Role::Acceptor, "legacy"),
        (Role::Server, "site"),
    ];
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let _stop = Stop(&load);
        for (edge, kept) in [(http_edge, false), (http_edge, true), (tcp_edge, false)] {
            let (world, load) = (&world, &load);
            scope.spawn(move || {
                let _stop = Stop(load);
                load.run(world, edge, kept);
            });
        }
        load.goes_on();
        for what in ["issuing", "root"] {
            let before = leaves.map(|(role, name)| issuer(&world, role, name));
            let shown = certificate_in_force(&acceptor);
            pki(&["rotate", what, "--prepare"]);
            settle();
            load.goes_on();
            pki(&["rotate", what]);
            settle();
            load.goes_on();
            pki(&["renew", "--all", "--rekey"]);
            settle();
            load.goes_on();
            let after = leaves.map(|(role, name)| issuer(&world, role, name));
            for (before, after) in before.iter().zip(&after) {
                assert_ne!(before.lines().next(), after.lines().next(), "issuer");
                assert_ne!(before.lines().nth(3), after.lines().nth(3), "key");
            }
            assert_ne!(certificate_in_force(&acceptor), shown);
            pki(&["rotate", what, "--finish", "--force"]);
            settle();
            load.goes_on();
            for side in all {
                let (_, ready) = side.admin("/readyz?verbose").unwrap();
                assert!(ready.contains("ok   reload:"), "{ready}");
            }
        }
        assert!(!load.stop.load(Ordering::Relaxed), "a request failed");
    });
    assert!(load.answered.load(Ordering::Relaxed) > 200);
    assert!(begun.elapsed() > Duration::from_millis(100));
    for reason in [
        "certificate_untrusted",
        "revocation_unknown",
        "rules_changed",
    ] {
        assert!(
            !acceptor
                .text()
                .contains(&format!("\"reason\":\"{reason}\"")),
            "{reason}: {}",
            acceptor.text()
        );
    }
}

#[test]
fn a_ca_is_rotated_as_the_page_says() {
    let world = World::new();
    let dir = text(world.authority.folder());
    let page = include_str!("../../../docs/operate/pki-rotation.md");
    let mut ran = 0;
    for line in page.lines() {
        if let Some(command) = line.strip_prefix("    portcullis ") {
            let words: Vec<&str> = command.split_whitespace().collect();
            let (ok, said) = portcullis(&[&words[..], &["--dir", dir]].concat());
            assert!(ok, "{command}: {said}");
            ran += 1;
        }
    }
    assert!(ran >= 3);
    let finish = ["pki", "rotate", "issuing", "--finish", "--dir", dir];
    let (ok, said) = portcullis(&finish);
    assert!(!ok && said.contains("gateway/edge-1"), "{said}");
    for record in world.authority.records().unwrap() {
        if record.superseded.is_some() {
            let revoke = ["pki", "revoke", &record.serial, "--dir", dir];
            let (ok, said) = portcullis(&[&revoke[..], &["--reason", "superseded"]].concat());
            assert!(ok, "{said}");
        }
    }
    let (ok, said) = portcullis(&finish);
    assert!(ok && said.contains("ended the issuing CA"), "{said}");
}

fn renew_acceptor(world: &World) {
    let renewal = RenewOptions {
        names: vec!["acceptor/legacy".to_owned()],
        rekey: true,
        ..RenewOptions::default()
    };
    world.authority.renew(&renewal).unwrap();
}

/// A gateway that hears nothing of it keeps its links to an acceptor whose certificate is renewed, and
/// those were opened with the old one.
#[test]
fn what_begins_after_an_acceptors_renewal_outlives_the_old_certificate() {
    let world = World::new();
    let [echo, web] = [
        Backend::echo(world.address()),
        named_backend(&world, "the backend"),
    ];
    let links = Links {
        http: world.address(),
        tcp: world.address(),
    };
    let near = format!("trusted_ips = [{:?}]", world.near());
    let inside = |mode, address, backend: &Backend| {
        let backend = backend.address.to_string();
        let text = world.acceptor_text_in(mode, address, &backend, &near);
        text.replace("name = \"legacy\"", &format!("name = {mode:?}"))
    };
    let text = inside("http", links.http, &web) + &inside("tcp", links.tcp, &echo);
    let acceptor = world.acceptor(&text);
    let (ways, [web, _, reused]) = Ways {
        prefix: "",
        bind: world.ip(),
        links,
        client: "",
        link: "",
        web: "",
    }
    .text(&world);
    let shared = world.address();
    let mux = world.gateway_text("tcp", shared, links.tcp, "", "tunnel = \"mux\"");
    let mux = mux.replace("[[route]]", "[[route]]\nlistener = \"public\"");
    let gateway = world.gateway(&format!("{ways}{mux}[runtime]\nworkers = 1\n"));

    let connect = |to| world.client().connect(to, "site.test").unwrap();
    let visit = |to| {
        let mut stream = connect(to);
        assert!(answers(&mut stream));
        stream
    };
    let mut kept = connect(web);
    let mut asks = || assert_eq!(get(&mut kept, "/").0, 200);
    let opened = |listener: &str| {
        acceptor.metric(&format!(
            "portcullis_connections_accepted_total{{listener={listener:?}"
        ))
    };
    asks();
    let mut old = visit(shared);
    drop(visit(reused));
    let before = world.authority.records().unwrap();
    renew_acceptor(&world);
    acceptor.reload();

    let follow = |listener: &str, mut begin: Box<dyn FnMut() -> Option<TlsStream> + '_>| {
        let had = opened(listener);
        until("a link that shows the new certificate", || {
            let begun = begin();
            (opened(listener) > had + 0.5).then_some(begun)
        })
    };
    let mut begun = [shared, reused].map(|to| follow("tcp", Box::new(move || Some(visit(to)))));
    follow(
        "http",
        Box::new(|| {
            asks();
            None
        }),
    );
    assert!(answers(&mut old), "it lives on");
    let replaced = before.iter().find(|record| record.role == Role::Acceptor);
    let replaced = &replaced.unwrap().serial;
    world
        .authority
        .revoke(replaced, Reason::Superseded)
        .unwrap();
    gateway.reload();
    assert!(broken(&mut old));
    for stream in begun.iter_mut().flatten() {
        assert!(answers(stream));
    }
    asks();
    let cut = gateway.count(|line| says(line, "reason", "rules_changed"));
    assert_eq!(cut, 1, "{}", gateway.text());
}

/// The next answer on it is the last: what is on its way to a link that the acceptor closes is lost, and
/// who has a connection for one client alone is not asked to go.
#[test]
fn a_link_at_rest_hears_of_a_renewal_with_its_next_answer() {
    let world = World::new();
    let backend = named_backend(&world, "the backend");
    let (acceptor, address) = world.http_acceptor(&backend.address.to_string(), "");
    let client = world
        .client()
        .certificate(&world.leaf(Role::Gateway, "edge-1"))
        .source(world.ip())
        .alpn("portcullis/1");
    let opened = |http| {
        let mut stream = client.connect(address, "legacy.internal").unwrap();
        let mut open = Open::new(ConnectionId([7; 16]));
        open.http = http;
        let open = link::encode(&Frame::Open(Box::new(open)));
        stream.write_all(&open).unwrap();
        let mut admitted = link::encode(&Frame::Admitted);
        stream.read_exact(&mut admitted).unwrap();
        stream
    };
    let ask = |stream: &mut TlsStream| {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: site.test\r\n\r\n")
            .unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"the backend") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.extend(byte);
        }
        let answer = String::from_utf8(answer).unwrap().to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 200 "), "{answer}");
        answer.contains("connection: close")
    };
    let [mut fresh, mut kept, mut alone] = [true, true, false].map(opened);
    assert!(!ask(&mut kept));
    renew_acceptor(&world);
    acceptor.reload();
    // longer than a last call: nobody who rests is sent away meanwhile
    std::thread::sleep(Duration::from_millis(2_500));
    assert!(ask(&mut fresh));
    assert!(ask(&mut kept));
    assert!(!ask(&mut alone));
}
