//! Links of tcp mode that carry one client after the other (`portcullis/2`).

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr},
};

use portcullis::pki::{Reason, Role};
use rustix::process::Signal;

use crate::world::{Backend, Running, TlsStream, World, says, until};

struct Chain {
    world: World,
    backend: Backend,
    acceptor: Running,
    gateway: Running,
    edge: SocketAddr,
}

const REUSE: &str = "tunnel = \"reuse\"";

fn chain(more: &str) -> Chain {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) = world.plain_gateway("tcp", link, "", more);
    Chain {
        world,
        backend,
        acceptor,
        gateway,
        edge,
    }
}

impl Chain {
    fn client(&self) -> TlsStream {
        self.world.client().connect(self.edge, "site.test").unwrap()
    }

    /// A client's whole visit; what came back behind its end.
    fn visit(&self, word: &str) -> String {
        let mut stream = self.client();
        stream.write_all(word.as_bytes()).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        let mut back = String::new();
        stream.read_to_string(&mut back).unwrap();
        back
    }

    /// The link connections so far.
    fn links(&self) -> f64 {
        self.acceptor
            .metric("portcullis_connections_accepted_total{listener=\"legacy\"")
    }

    /// Waits until the gateway knows that so many visits are over: then the link is free.
    fn over(&self, visits: usize) {
        until("the visits' ends", || {
            let ended = |line: &serde_json::Value| line["message"] == "access";
            (self.gateway.count(ended) >= visits).then_some(())
        });
    }
}

#[test]
fn clients_follow_each_other_on_one_link() {
    let chain = chain(REUSE);
    for n in 1..=5 {
        let word = "x".repeat(n * 40_000);
        assert_eq!(chain.visit(&word), word);
        chain.over(n);
    }
    assert!((chain.links() - 1.0).abs() < 0.5);
    assert_eq!(chain.backend.connections(), 5);
    // each client has a line of its own at both ends, under one name
    until("the acceptor's lines", || {
        (chain.acceptor.count(|line| line["message"] == "access") == 5).then_some(())
    });
    let ids = |side: &Running| -> Vec<String> {
        let lines = side.lines().into_iter();
        lines
            .filter(|line| line["message"] == "access")
            .map(|line| {
                assert_eq!(line["decision"], "admitted", "{line}");
                line["connection"].as_str().unwrap().to_owned()
            })
            .collect()
    };
    assert_eq!(ids(&chain.gateway), ids(&chain.acceptor));
    let bytes = chain
        .acceptor
        .metric("portcullis_transferred_bytes_total{listener=\"legacy\",direction=\"in\"}");
    assert!((bytes - 600_000.0).abs() < 0.5);
    // clients at the same time do not share
    let (mut one, mut other) = (chain.client(), chain.client());
    for stream in [&mut one, &mut other] {
        stream.write_all(b"hi").unwrap();
        stream.read_exact(&mut [0; 2]).unwrap();
    }
    assert!((chain.links() - 2.0).abs() < 0.5);
}

#[test]
fn a_direct_tunnel_is_one_client_s() {
    let chain = chain("tunnel = \"direct\"");
    for n in 1..=3 {
        assert_eq!(chain.visit("word"), "word");
        chain.over(n);
    }
    assert!((chain.links() - 3.0).abs() < 0.5);
}

#[test]
fn a_stream_that_breaks_takes_its_link_along_and_nobody_elses() {
    let chain = chain(REUSE);
    assert_eq!(chain.visit("word"), "word");
    chain.over(1);
    let mut broken = chain.client();
    broken.write_all(b"half a").unwrap();
    broken.read_exact(&mut [0; 6]).unwrap();
    // no close_notify: what it sent may be cut short
    broken.sock.shutdown(Shutdown::Both).unwrap();
    chain.gateway.refusal("truncated");
    let line = chain.acceptor.line("the broken stream", |line| {
        line["decision"] == "ended" && line["message"] == "access"
    });
    assert!(
        says(&line, "reason", "peer_reset") || says(&line, "reason", "truncated"),
        "{line}"
    );
    assert_eq!(chain.visit("next"), "next");
    assert!(
        (chain.links() - 2.0).abs() < 0.5,
        "a broken link was used again"
    );
}

#[test]
fn a_kept_link_that_is_gone_costs_no_client_anything() {
    let chain = chain(REUSE);
    assert_eq!(chain.visit("before"), "before");
    chain.over(1);
    let config = chain.acceptor.config.clone();
    assert_eq!(
        chain.acceptor.stop().code(),
        Some(0),
        "an unused link held the stop up"
    );
    let acceptor = Running::start("acceptor", &config);
    let mut stream = chain
        .world
        .client()
        .connect(chain.edge, "site.test")
        .unwrap();
    stream.write_all(b"after").unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"after");
    assert_eq!(
        chain
            .gateway
            .count(|line| line["message"] == "link connection failed"),
        0
    );
    drop(acceptor);
}

#[test]
fn a_kept_link_ends_with_its_gateways_certificate() {
    let chain = chain(REUSE);
    assert_eq!(chain.visit("word"), "word");
    chain.over(1);
    let revoke = |name: &str| {
        chain
            .world
            .authority
            .revoke(name, Reason::KeyCompromise)
            .unwrap();
    };
    // the gateway reads the list too, and would close what it keeps itself
    chain.gateway.signal(Signal::STOP);
    // somebody else's revocation cuts nothing
    chain.world.issue(Role::Gateway, "other", &[]);
    revoke("gateway/other");
    chain.acceptor.reload();
    revoke("gateway/edge-1");
    let line = chain.acceptor.line("the end of the kept link", |line| {
        line["decision"] == "ended" && line["reason"] == "rules_changed"
    });
    assert!(says(&line, "detail", "certificate_revoked"), "{line}");
    assert!((chain.links() - 1.0).abs() < 0.5);
    chain.gateway.signal(Signal::CONT);
    let mut refused = chain.client();
    assert!(refused.read_exact(&mut [0]).is_err());
    chain.acceptor.refused("legacy", "certificate_revoked");
}

#[test]
fn the_next_client_meets_the_configuration_of_its_moment() {
    let chain = chain(REUSE);
    assert_eq!(chain.visit("word"), "word");
    chain.over(1);
    let moved = Backend::greeting(chain.world.address(), "moved: ");
    let text = std::fs::read_to_string(&chain.acceptor.config).unwrap();
    let text = text.replace(
        &chain.backend.address.to_string(),
        &moved.address.to_string(),
    );
    chain.world.write("acceptor.toml", &text);
    chain.acceptor.reload();
    let mut stream = chain.client();
    let mut hello = [0; 7];
    stream.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"moved: ");
    assert!((chain.links() - 1.0).abs() < 0.5);
}

#[test]
fn only_our_acceptors_links_are_used_again() {
    let world = World::new();
    let backend = crate::world::named_backend(&world, "http");
    // an acceptor in http mode passes one client's bytes on, by version 1
    let (_acceptor, link) = world.http_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) = world.plain_gateway("tcp", link, "", "");
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    assert_eq!(crate::world::get(&mut stream, "/"), (200, "http".into()));
    drop((stream, gateway));
    let (gateway, edge) = world.plain_gateway("tcp", link, "", "tunnel = \"reuse\"");
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    assert!(stream.read_exact(&mut [0]).is_err());
    let line = gateway.access("refused");
    assert!(says(&line, "reason", "upstream"), "{line}");
}

#[test]
fn what_is_kept_is_closed_in_time() {
    let chain = chain(&format!("{REUSE}\npool = {{ idle_timeout = \"1s\" }}"));
    assert_eq!(chain.visit("word"), "word");
    until("the end of the kept link", || {
        let active = chain
            .acceptor
            .metric("portcullis_connections_active{listener=\"legacy\"");
        (active < 0.5).then_some(())
    });
    assert_eq!(chain.visit("again"), "again");
    assert!(chain.acceptor.ended_for("legacy", "none") >= 1.0);
}
