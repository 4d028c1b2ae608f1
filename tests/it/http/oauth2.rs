//! Tokens of a token endpoint: fetched once, renewed early, never told on.

use std::{
    io::{Read as _, Write as _},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use portcullis::pki::Role;

use super::{
    Chain,
    raw::{Seen, answering, ok},
};
use crate::world::{Backend, TlsConnection, World, until};

const SECRET: &str = "the-client's secret & more";

/// A token endpoint: each token is numbered.
struct Endpoint {
    backend: Backend,
    /// What it was sent, head and form.
    asked: Arc<Mutex<Vec<String>>>,
    /// Its status; 200 with a token.
    status: Arc<AtomicUsize>,
}

impl Endpoint {
    fn start(world: &World, life: u32) -> Self {
        let address = world.address();
        let leaf = world.issue(Role::Server, "ids", &[&address.ip().to_string()]);
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let status = Arc::new(AtomicUsize::new(200));
        let (notes, answers) = (Arc::clone(&asked), Arc::clone(&status));
        let backend = Backend::tls(address, &leaf, move |stream| {
            let request = request(stream);
            // slow enough that others come meanwhile
            std::thread::sleep(Duration::from_millis(200));
            let number = {
                let mut notes = notes.lock().unwrap();
                notes.push(request.clone());
                notes.len()
            };
            let status = answers.load(Ordering::SeqCst);
            let body = if status == 200 {
                format!(
                    "{{\"access_token\":\"token-{number}\",\"token_type\":\"Bearer\",\"expires_in\":{life}}}"
                )
            } else {
                // one that tells all it knows
                format!("{{\"error\":\"invalid_client\",\"error_description\":{request:?}}}")
            };
            let head = format!(
                "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).unwrap();
        });
        Self {
            backend,
            asked,
            status,
        }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// One request with a body of known length.
fn request(stream: &mut TlsConnection) -> String {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    let head = String::from_utf8(seen).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap()];
    stream.read_exact(&mut body).unwrap();
    head + &String::from_utf8(body).unwrap()
}

fn chain(life: u32, more: &str) -> (Chain, Endpoint, Seen) {
    let world = World::new();
    let (backend, seen) = answering(world.address(), |_| ok("fine"));
    let endpoint = Endpoint::start(&world, life);
    world.write("client-secret", SECRET);
    let more = format!(
        "credentials = {{ oauth2 = {{ token_url = \"https://{}/oauth/token?x=1\", client_id = \"edge:1\", \
         client_secret = {{ file = \"client-secret\" }}, trust = {:?}, scopes = [\"read\", \"write:all\"]{more} }} }}",
        endpoint.backend.address,
        world.authority.trust(),
    );
    let chain = Chain::new(world, backend.address, "", &more);
    (chain, endpoint, seen)
}

#[test]
fn many_requests_share_one_token_which_is_renewed_before_it_ends() {
    let (chain, endpoint, seen) = chain(10, "");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut raw = chain.raw();
                for _ in 0..3 {
                    let answer = raw.ask(&["GET /", "Authorization: Bearer of-the-client"]);
                    assert_eq!(answer.status(), 200);
                }
            });
        }
    });
    let tokens: Vec<_> = seen
        .all()
        .iter()
        .map(|m| m.one("authorization").unwrap().to_owned())
        .collect();
    assert_eq!(tokens.len(), 24);
    assert!(
        tokens.iter().all(|token| token == "Bearer token-1"),
        "{tokens:?}"
    );
    let asked = endpoint.asked();
    assert_eq!(asked.len(), 1);
    let head = asked[0].to_ascii_lowercase();
    assert!(
        head.starts_with("post /oauth/token?x=1 http/1.1\r\n"),
        "{head}"
    );
    assert!(
        head.contains(&format!("host: {}\r\n", endpoint.backend.address)),
        "{head}"
    );
    // edge%3A1:the-client%27s%20secret%20%26%20more
    let basic = "Basic ZWRnZSUzQTE6dGhlLWNsaWVudCUyN3MlMjBzZWNyZXQlMjAlMjYlMjBtb3Jl";
    assert!(
        asked[0].contains(&format!("authorization: {basic}\r\n")),
        "{}",
        asked[0]
    );
    assert!(asked[0].ends_with("\r\n\r\ngrant_type=client_credentials&scope=read%20write%3Aall"));
    // after four fifths of its life, while it still holds
    std::thread::sleep(Duration::from_millis(8_200));
    let mut raw = chain.raw();
    assert_eq!(raw.ask(&["GET /"]).status(), 200);
    assert_eq!(seen.last().one("authorization"), Some("Bearer token-2"));
    // a failure while it holds costs nobody a request
    endpoint.status.store(500, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(8_200));
    assert_eq!(raw.ask(&["GET /"]).status(), 200);
    assert_eq!(seen.last().one("authorization"), Some("Bearer token-2"));
    assert_eq!(endpoint.asked().len(), 3);
}

#[test]
fn what_the_endpoint_says_of_a_failure_is_not_told_on() {
    let (chain, endpoint, seen) = chain(300, ", client_authentication = \"post\"");
    endpoint.status.store(401, Ordering::SeqCst);
    let mut raw = chain.raw();
    let answer = raw.ask(&["GET /a", "Accept: application/json"]);
    assert_eq!(answer.status(), 502);
    assert!(answer.text().contains("bad_gateway"), "{}", answer.text());
    assert!(
        !answer.text().contains("invalid_client"),
        "{}",
        answer.text()
    );
    let line = chain.refused("/a", 502, "credential_unavailable");
    assert!(
        line["detail"]
            .as_str()
            .unwrap()
            .ends_with("it answered 401: invalid_client"),
        "{line}"
    );
    assert!(seen.all().is_empty());
    let form = endpoint.asked().remove(0);
    let secret = "the-client%27s%20secret%20%26%20more";
    assert!(
        form.ends_with(&format!("&client_id=edge%3A1&client_secret={secret}")),
        "{form}"
    );
    assert!(
        !form.to_ascii_lowercase().contains("authorization:"),
        "{form}"
    );
    let log = chain.gateway.text();
    assert!(!log.contains(SECRET) && !log.contains(secret), "{log}");
    // soon after it is asked again
    endpoint.status.store(200, Ordering::SeqCst);
    until("a token", || {
        (raw.ask(&["GET /b"]).status() == 200).then_some(())
    });
    assert_eq!(seen.last().one("authorization"), Some("Bearer token-2"));
}

#[test]
fn an_endpoint_of_another_ca_gets_no_secret() {
    let world = World::new();
    let (backend, _seen) = answering(world.address(), |_| ok("fine"));
    let endpoint = Endpoint::start(&world, 300);
    let stranger = world.stranger("stranger");
    world.write("client-secret", SECRET);
    let more = format!(
        "credentials = {{ oauth2 = {{ token_url = \"https://{}/\", client_id = \"edge\", \
         client_secret = {{ file = \"client-secret\" }}, trust = {:?} }} }}",
        endpoint.backend.address, stranger.certificate,
    );
    let chain = Chain::new(world, backend.address, "", &more);
    assert_eq!(chain.raw().ask(&["GET /a"]).status(), 502);
    chain.refused("/a", 502, "credential_unavailable");
    assert!(endpoint.asked().is_empty());
}

/// A server of oauthlib's; killed when dropped.
struct OAuthlib(Child);

impl Drop for OAuthlib {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[rstest::rstest]
#[case("basic")]
#[case("post")]
fn oauthlib_gives_us_tokens_and_believes_them(#[case] kind: &str) {
    const PYTHON: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/target/tests-python/bin/python"
    );
    const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/http/token_server.py");
    let world = World::new();
    let address = world.address();
    let leaf = world.issue(Role::Server, "ids", &[&address.ip().to_string()]);
    let child = Command::new(PYTHON)
        .args([SCRIPT, &address.to_string()])
        .args([&leaf.certificate, &leaf.key])
        .arg(SECRET)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{PYTHON}: {error}: run scripts/test, it installs it"));
    let _server = OAuthlib(child);
    until("the server", || {
        // a byte, so that the server does not wait for one
        let mut stream = std::net::TcpStream::connect(address).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()
    });
    world.write("client-secret", SECRET);
    let more = format!(
        "credentials = {{ oauth2 = {{ token_url = \"https://{address}/token\", client_id = \"edge 1\", \
         client_secret = {{ file = \"client-secret\" }}, trust = {:?}, scopes = [\"read\", \"write\"], \
         client_authentication = {kind:?} }} }}",
        world.authority.trust(),
    );
    let chain = Chain::new(world, address, "", &more);
    let mut raw = chain.raw();
    for _ in 0..2 {
        let answer = raw.ask(&["GET /a"]);
        assert_eq!(
            (answer.status(), answer.text().as_str()),
            (200, "read write"),
            "{}",
            chain.gateway.text()
        );
    }
    chain.world.write("client-secret", "another-long-secret");
    chain.gateway.reload();
    assert_eq!(raw.ask(&["GET /b"]).status(), 502);
    let line = chain.refused("/b", 502, "credential_unavailable");
    assert!(
        line["detail"].as_str().unwrap().ends_with("invalid_client"),
        "{line}"
    );
}
