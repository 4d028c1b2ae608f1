//! The page docs/operate/stolen-gateway.md, walked: one of two gateways is in other hands.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    process::Command,
};

use portcullis::pki::{IssueRequest, Role};

use crate::world::{BINARY, Backend, Client, Running, TlsStream, World, echo, get, until};

fn answers(stream: &mut TlsStream) -> bool {
    let mut back = [0; 4];
    stream.write_all(b"word").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"word"
}

/// Whether it broke off, without a close that would make it look complete.
fn broken(stream: &mut TlsStream) -> bool {
    stream.read_exact(&mut [0]).is_err()
}

/// Answers requests, switches where it is asked to, and gives back what then comes.
fn switching(world: &World) -> Backend {
    Backend::serve(world.address(), |mut stream| {
        let mut head = Vec::new();
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() {
            head.push(byte[0]);
            if !head.ends_with(b"\r\n\r\n") {
                continue;
            }
            let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
            if text.to_ascii_lowercase().contains("upgrade: echo") {
                let go = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
                stream.write_all(go).unwrap();
                return echo(&mut stream);
            }
            // the secret that came, so that the test sees which
            let secret = text.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("x-secret").then_some(value)
            });
            let body = secret.unwrap_or("none");
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    })
}

/// One gateway's processes, and what is open through it.
struct Edge {
    http: Running,
    tcp: Running,
    at: SocketAddr,
    tunnel: TlsStream,
    switched: TlsStream,
    kept: TlsStream,
}

impl Edge {
    fn start(world: &World, name: &str, secret: &str, http: SocketAddr, tcp: SocketAddr) -> Self {
        let credentials = format!(
            "credentials = {{ headers = [{{ name = \"X-Secret\", value = {{ file = \"{secret}\" }} }}] }}"
        );
        let start = |mode: &str, link: SocketAddr, credentials: &str| {
            let at = world.address();
            let file = format!("{name}-{mode}");
            let text = world.common_as(&world.leaf(Role::Gateway, name), &file, "")
                + &world.gateway_text(mode, at, link, "", credentials);
            (world.start_as("gateway", &file, &text), at)
        };
        let (http, at) = start("http", http, &credentials);
        let (tcp, stream) = start("tcp", tcp, "");
        let connect = |to| world.client().connect(to, "site.test").unwrap();
        let mut tunnel = connect(stream);
        assert!(answers(&mut tunnel));
        let mut switched = connect(at);
        switched
            .write_all(b"GET / HTTP/1.1\r\nHost: site.test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
            .unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            switched.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "));
        assert!(answers(&mut switched));
        let mut kept = connect(at);
        assert_eq!(get(&mut kept, "/").0, 200);
        Self {
            http,
            tcp,
            at,
            tunnel,
            switched,
            kept,
        }
    }
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
    for stream in [&mut stolen.tunnel, &mut stolen.switched, opened] {
        assert!(broken(stream));
    }
    for listener in ["legacy", "stream"] {
        assert!(acceptor.ended_for(listener, "rules_changed") >= 1.0);
    }
    let line = acceptor.line("what ended", |line| {
        line["reason"] == "rules_changed" && line["decision"] == "ended"
    });
    let says = |key: &str, word: &str| line[key].as_str().is_some_and(|text| text.contains(word));
    assert!(says("identity", "/gateway/edge-1"), "{line}");
    assert!(says("detail", "certificate_revoked"), "{line}");
    assert_eq!(get(&mut stolen.kept, "/").0, 502);
    acceptor.refused("legacy", "certificate_revoked");
}

#[test]
fn a_stolen_gateway_is_shut_out_everywhere_and_the_other_goes_on() {
    let world = World::new();
    world.issue(Role::Gateway, "edge-2", &[]);
    world.write("secret", "a secret that was stolen");
    let (http_backend, tcp_backend) = (switching(&world), Backend::echo(world.address()));
    let (http, tcp) = (world.address(), world.address());
    let trusted = format!("trusted_ips = [{:?}]", world.near());
    let text = world.acceptor_text_in("http", http, &http_backend.address.to_string(), &trusted)
        + &world
            .acceptor_text_in("tcp", tcp, &tcp_backend.address.to_string(), &trusted)
            .replace("name = \"legacy\"", "name = \"stream\"");
    let acceptor = world.acceptor(&text);
    let mut stolen = Edge::start(&world, "edge-1", "secret", http, tcp);
    let mut other = Edge::start(&world, "edge-2", "secret", http, tcp);
    // whoever took the key also opened a connection of his own
    let mut opened = thief(&world, tcp).unwrap();

    // 1: the link's certificate
    shut_out(&world, &acceptor, &mut stolen, &mut opened);
    assert!(thief(&world, tcp).is_none());
    acceptor.refused("stream", "certificate_revoked");
    // the other gateway has noticed nothing
    assert!(answers(&mut other.tunnel) && answers(&mut other.switched));
    assert_eq!(
        get(&mut other.kept, "/"),
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
        (get(&mut other.kept, "/").1 == "a secret that nobody has seen").then_some(())
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
    assert!(answers(&mut other.tunnel) && answers(&mut other.switched));

    // 4: its place is taken by another, under another name
    world.issue(Role::Gateway, "edge-3", &[]);
    let mut third = Edge::start(&world, "edge-3", "secret", http, tcp);
    assert!(answers(&mut third.tunnel) && answers(&mut third.switched));
    drop((
        stolen.http,
        stolen.tcp,
        other.http,
        other.tcp,
        third.http,
        third.tcp,
    ));
}
