//! The page docs/operate/stolen-gateway.md, walked: one of two gateways is in other hands.

use std::{net::SocketAddr, process::Command};

use portcullis::pki::{IssueRequest, Role};

use crate::world::{
    BINARY, Backend, Client, Edge, Links, Running, TlsStream, World, answers, broken, get, run,
    says, switching, text, until,
};

/// The gateway of that name, which proves itself to the backend by the secret.
fn edge(world: &World, name: &str, links: Links) -> Edge {
    let credentials =
        "credentials = { headers = [{ name = \"X-Secret\", value = { file = \"secret\" } }] }";
    let leaf = world.leaf(Role::Gateway, name);
    Edge::start(world, name, &leaf, world.ip(), links, credentials)
}

fn pki(world: &World, arguments: &[&str]) {
    let done = Command::new(BINARY)
        .arg("pki")
        .args(arguments)
        .arg("--dir")
        .arg(world.authority.folder())
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// Connects with the stolen key, without the gateway's program.
fn thief(world: &World, to: SocketAddr) -> Option<TlsStream> {
    let client = Client::new(&world.authority.trust())
        .certificate(&world.leaf(Role::Gateway, "edge-1"))
        .source(world.ip());
    let mut stream = client.connect(to, "legacy.internal").ok()?;
    answers(&mut stream).then_some(stream)
}

fn shut_out(world: &World, acceptor: &Running, stolen: &mut Edge, opened: &mut TlsStream) {
    let command = ["revoke", "gateway/edge-1", "--reason", "key-compromise"];
    pki(world, &command);
    for stream in stolen.open.tunnels().into_iter().chain([opened]) {
        assert!(broken(stream));
    }
    for listener in ["legacy", "stream"] {
        assert!(acceptor.ended_for(listener, "rules_changed") >= 1.0);
    }
    let line = acceptor.line("what ended", |line| {
        line["reason"] == "rules_changed" && line["decision"] == "ended"
    });
    assert!(says(&line, "identity", "/gateway/edge-1"), "{line}");
    assert!(says(&line, "detail", "certificate_revoked"), "{line}");
    assert_eq!(get(&mut stolen.open.kept, "/").0, 502);
    acceptor.refused("legacy", "certificate_revoked");
}

#[test]
fn a_stolen_gateway_is_shut_out_everywhere_and_the_other_goes_on() {
    let world = World::new();
    world.issue(Role::Gateway, "edge-2", &[]);
    world.write("secret", "a secret that was stolen");
    let (http_backend, tcp_backend) = (switching(&world), Backend::echo(world.address()));
    let (http, tcp) = (world.address(), world.address());
    let links = Links { http, tcp };
    let trusted = format!("trusted_ips = [{:?}]", world.near());
    let config = world.acceptor_text_in("http", http, &http_backend.address.to_string(), &trusted)
        + &world
            .acceptor_text_in("tcp", tcp, &tcp_backend.address.to_string(), &trusted)
            .replace("name = \"legacy\"", "name = \"stream\"");
    let acceptor = world.acceptor(&config);
    let mut stolen = edge(&world, "edge-1", links);
    let mut other = edge(&world, "edge-2", links);
    // whoever took the key also opened a connection of his own
    let mut opened = thief(&world, tcp).unwrap();

    // 1: the link's certificate
    shut_out(&world, &acceptor, &mut stolen, &mut opened);
    assert!(thief(&world, tcp).is_none());
    acceptor.refused("stream", "certificate_revoked");
    // the other gateway has noticed nothing
    assert!(other.open.works());
    assert_eq!(
        get(&mut other.open.kept, "/"),
        (200, "a secret that was stolen".into())
    );
    let of_other = |line: &serde_json::Value| {
        let identity = line["identity"].as_str();
        line["reason"] == "rules_changed" && identity.is_some_and(|i| i.ends_with("edge-2"))
    };
    assert_eq!(acceptor.count(of_other), 0);

    // 2: what it knew of the backend
    world.write("secret", "a secret that nobody has seen");
    until("the new secret", || {
        (get(&mut other.open.kept, "/").1 == "a secret that nobody has seen").then_some(())
    });

    // 3: the key of the public site
    let seen = |edge: SocketAddr| {
        let stream = world.client().connect(edge, "site.test").unwrap();
        stream.conn.peer_certificates().unwrap()[0].to_vec()
    };
    let before = seen(other.at);
    world.issue_as(
        &IssueRequest {
            force: true,
            ..IssueRequest::new(Role::Server, "site")
        }
        .san("site.test"),
    );
    until("the new site key", || {
        (seen(other.at) != before).then_some(())
    });
    assert!(other.open.works());

    // 4: its place is taken by another, under another name
    world.issue(Role::Gateway, "edge-3", &[]);
    let mut third = edge(&world, "edge-3", links);
    assert!(third.open.works());

    // what its page ends with
    let leaf = world.leaf(Role::Gateway, "edge-1").certificate;
    let (leaf, dir) = (text(&leaf), text(world.authority.folder()));
    let from = world.ip().to_string();
    let config = text(&acceptor.config);
    for ask in [
        &["pki", "verify", leaf, "--dir", dir][..],
        &["explain", config, "--from", &from, "--cert", leaf],
    ] {
        let (_, said) = run(BINARY, ask);
        assert!(said.contains("certificate_revoked"), "{ask:?}: {said}");
    }
}
