//! The acceptor's http mode: what a backend gets from gateways of ours, from those of other makes,
//! and from clients whose bytes a gateway only passes on.

use std::{io::Write as _, net::SocketAddr};

use portcullis::pki::{Reason, Role};

use super::{
    Chain,
    basics::Nginx,
    h2::{self, block},
    raw::{Message, Peer, Raw, Seen, answering, mirror, ok},
};
use crate::world::{Backend, Client, Running, World, run, until};

const GATEWAY: &str = "spiffe://example.internal/gateway/edge-1";
const ACCEPTOR: &str = "spiffe://example.internal/acceptor/legacy";

/// An acceptor in http mode, and a gateway of another make: a TLS client with our certificate.
struct Beside {
    world: World,
    acceptor: Running,
    address: SocketAddr,
}

impl Beside {
    fn new(world: World, backend: &str, more: &str) -> Self {
        let (acceptor, address) = world.http_acceptor(backend, more);
        Self {
            world,
            acceptor,
            address,
        }
    }

    fn foreign(&self) -> Client {
        let leaf = self.world.leaf(Role::Gateway, "edge-1");
        self.world
            .client()
            .certificate(&leaf)
            .source(self.world.other_ip(4))
    }

    fn raw(&self) -> Raw {
        self.raw_as(&self.foreign())
    }

    fn raw_as(&self, client: &Client) -> Raw {
        Raw::new(client.connect(self.address, "legacy.internal").unwrap())
    }

    fn line(&self, path: &str) -> serde_json::Value {
        self.acceptor.line(path, |line| {
            line["message"] == "access" && line["path"] == path
        })
    }
}

/// Behind an acceptor that a gateway of another make speaks to.
fn beside(more: &str) -> (Beside, Backend, Seen) {
    let world = World::new();
    let (backend, seen) = mirror(world.address());
    let to = backend.address.to_string();
    (Beside::new(world, &to, more), backend, seen)
}

/// Both ends in http mode.
fn both(acceptor: &str, backend: &str) -> (Chain, Backend, Seen) {
    let world = World::new();
    let (mirror, seen) = mirror(world.address());
    let chain = Chain::both(world, &mirror.address.to_string(), acceptor, "", backend);
    (chain, mirror, seen)
}

fn digest(world: &World, role: Role, name: &str) -> String {
    let leaf = world.leaf(role, name);
    let (_, text) = run(
        "openssl",
        &[
            "x509",
            "-in",
            leaf.certificate.to_str().unwrap(),
            "-noout",
            "-fingerprint",
            "-sha256",
        ],
    );
    let hex = text.trim().split('=').nth(1).unwrap().to_owned();
    hex.replace(':', "").to_ascii_lowercase()
}

/// Pages, HEAD, 204, 304 and a body through both ends, over each pair of protocols.
#[rstest::rstest]
#[case("--http1.1", "", "http/1.1", "http/1.1")]
#[case("--http2", "", "http/1.1", "http/1.1")]
#[case("--http1.1", "http2", "h2", "h2")]
#[case("--http2", "http2", "http/1.1", "h2")]
#[case("--http2", "", "h2", "http/1.1")]
fn nginx_through_both(
    #[case] flag: &str,
    #[case] listen: &str,
    #[case] link: &str,
    #[case] protocol: &str,
) {
    let world = World::new();
    let nginx = Nginx::start(&world, listen);
    let chain = Chain::both(
        world,
        &nginx.address.to_string(),
        &format!("protocol = \"{protocol}\""),
        "",
        &format!("protocol = \"{link}\""),
    );
    let format = "\n%{http_code}";
    let (_, page) = chain.curl(&[flag, "-w", format], "/page");
    assert_eq!(page, "a page of nginx\n\n200", "{}", chain.acceptor.text());
    let (_, head) = chain.curl(&[flag, "-I"], "/page");
    let head = head.to_ascii_lowercase();
    assert!(head.contains("content-length: 16"), "{head}");
    let (_, nothing) = chain.curl(&[flag, "-w", format], "/nothing");
    assert_eq!(nothing, "\n204");
    if protocol == "http/1.1" {
        let (_, made) = chain.curl(&[flag, "-d", "a body"], "/made");
        assert_eq!(made, format!("POST:site.test:{}:6", chain.edge.port()));
    }
    let line = chain.acceptor.line("/page", |line| line["path"] == "/page");
    assert_eq!(line["decision"], "admitted");
    assert_eq!(line["status"], 200);
    assert_eq!(line["identity"], GATEWAY);
    let (ours, theirs) = (&line["request_id"], &chain.line("/page")["request_id"]);
    assert_eq!(ours, theirs, "one name in both logs");
}

#[test]
fn a_backend_is_told_of_client_and_gateway() {
    let (chain, _backend, seen) = both("", "");
    let client = chain.world.client().source(chain.world.other_ip(7));
    assert_eq!(chain.raw_as(&client).ask(&["GET /"]).status(), 200);
    let request = seen.last();
    let (from, gateway) = (chain.world.other_ip(7), chain.world.ip());
    let list = format!("{from}, {gateway}");
    assert_eq!(request.one("x-forwarded-for"), Some(list.as_str()));
    assert_eq!(request.one("x-forwarded-proto"), Some("https"));
    assert_eq!(request.one("x-forwarded-host"), Some("site.test"));
    assert_eq!(request.one("host"), Some("site.test"));
    assert_eq!(request.all("via"), ["1.1 portcullis", "1.1 portcullis"]);
    let element = format!("for={gateway};by={gateway};host=site.test;proto=https");
    assert_eq!(request.one("forwarded"), Some(element.as_str()));
    let hash = digest(&chain.world, Role::Gateway, "edge-1");
    let expected = format!(
        "By={ACCEPTOR};Hash={hash};Subject=\"O=example.internal, CN=gateway/edge-1\";URI={GATEWAY}"
    );
    assert_eq!(
        request.one("x-forwarded-client-cert"),
        Some(expected.as_str())
    );
}

/// A client's certificate, which the gateway stamps, stands before the gateway's.
#[test]
fn the_gateways_word_of_its_caller_stands_first() {
    let world = World::new();
    let (backend, seen) = mirror(world.address());
    let device = world.issue(Role::Client, "device-1", &[]);
    let listener = format!(
        "client_ca = {:?}\nclient_crl = {:?}\nclients = [\"spiffe://example.internal/client/*\"]",
        world.authority.trust(),
        world.authority.crl()
    );
    let chain = Chain::both(
        world,
        &backend.address.to_string(),
        "",
        &listener,
        "client_cert_header = \"xfcc\"",
    );
    let client = chain.world.client().certificate(&device);
    let mut raw = chain.raw_as(&client);
    for _twice in 0..2 {
        let forged = "X-Forwarded-Client-Cert: Hash=00;URI=spiffe://example.internal/client/root";
        assert_eq!(raw.ask(&["GET /", forged]).status(), 200);
        let request = seen.last();
        let value = request.one("x-forwarded-client-cert").unwrap();
        let (of_client, of_gateway) = value.split_once(",By=").unwrap();
        let uri = "URI=spiffe://example.internal/client/device-1";
        assert!(of_client.contains(uri), "{value}");
        assert!(of_client.starts_with(&format!("By={GATEWAY};")), "{value}");
        assert!(
            of_gateway.starts_with(ACCEPTOR) && of_gateway.ends_with(&format!("URI={GATEWAY}")),
            "{value}"
        );
        assert!(!value.contains("root"), "{value}");
    }
    // without a certificate of its own nobody stands before the gateway
    let (plain, _backend, seen) = both("", "");
    let forged = "X-Forwarded-Client-Cert: Hash=00";
    assert_eq!(plain.raw().ask(&["GET /", forged]).status(), 200);
    let request = seen.last();
    let value = request.one("x-forwarded-client-cert").unwrap();
    assert!(
        !value.contains("Hash=none") && value.starts_with(&format!("By={ACCEPTOR};")),
        "{value}"
    );
}

#[test]
fn the_certificate_comes_as_the_backend_likes_it() {
    let (beside, _backend, seen) = beside("client_cert_header = \"rfc9440\"");
    let forged = [
        "GET /",
        "Host: a",
        "Client-Cert: :AAAA:",
        "Client_Cert_Chain: :AAAA:",
    ];
    ask(&mut beside.raw(), &forged);
    let request = seen.last();
    let leaf = request.one("client-cert").unwrap();
    assert!(leaf.starts_with(":MII") && leaf.ends_with(':'), "{leaf}");
    assert!(
        request
            .one("client-cert-chain")
            .unwrap()
            .starts_with(":MII")
    );
    assert_eq!(request.one("x-forwarded-client-cert"), None);

    let (beside, _backend, seen) = self::beside("client_cert_header = \"off\"");
    let forged = ["GET /", "Host: a", "X-Forwarded-Client-Cert: Hash=00"];
    ask(&mut beside.raw(), &forged);
    let names = format!("{:?}", seen.last().headers).to_ascii_lowercase();
    assert!(!names.contains("client-cert"), "{names}");
}

/// Sends these lines and nothing else.
fn ask(raw: &mut Raw, lines: &[&str]) -> Message {
    let (start, headers) = lines.split_first().unwrap();
    let mut text = format!("{start} HTTP/1.1\r\n");
    for header in headers {
        text += &format!("{header}\r\n");
    }
    raw.send(text + "\r\n");
    raw.answer()
}

/// What no gateway of another make may say, and what it may.
const CLAIMS: &[&str] = &[
    "Forwarded: for=6.6.6.6",
    "FORWARDED: for=6.6.6.6",
    "X-Real-IP: 6.6.6.6",
    "X_Real_IP: 6.6.6.6",
    "X-Client-IP: 6.6.6.6",
    "True-Client-IP: 6.6.6.6",
    "true_client_ip: 6.6.6.6",
    "X-Forwarded-Host: 6.6.6.6",
    "X-Forwarded-Client-Cert: Hash=6.6.6.6",
    "x_forwarded_client_cert: Hash=6.6.6.6",
    "X-Forwarded_Client-Cert: Hash=6.6.6.6",
    "Client-Cert: :6.6.6.6:",
    "Client_Cert: :6.6.6.6:",
    "Client-Cert-Chain: :6.6.6.6:",
    "X-SSL-Client-Verify: 6.6.6.6",
    "SSL-Client-S-DN: 6.6.6.6",
    "SSL_CLIENT_VERIFY: 6.6.6.6",
    "X_Forwarded_For: 6.6.6.6",
    "X-Forwarded_Proto: 6.6.6.6",
    "Proxy: 6.6.6.6",
    "X-Original-URL: /6.6.6.6",
    "Transfer_Encoding: 6.6.6.6",
    "Content_Length: 6.6.6.6",
    "X_Request_Id: 6.6.6.6",
];

#[rstest::rstest]
#[case("")]
#[case("http/1.1")]
fn a_foreign_gateways_claims_end_here(#[case] alpn: &str) {
    let (beside, backend, seen) = beside("");
    let client = if alpn.is_empty() {
        beside.foreign()
    } else {
        beside.foreign().alpn(alpn)
    };
    let mut raw = beside.raw_as(&client);
    let said = [
        "GET /said",
        "Host: shop.example",
        "X-Forwarded-For: 198.51.100.7",
        "X-Forwarded-Proto: http",
        "X-Request-Id: of-the-gateway",
    ];
    let judge = |request: &Message| {
        let all = format!("{:?}", request.headers);
        assert!(!all.contains("6.6.6.6"), "{all}");
        let gateway = beside.world.other_ip(4);
        let list = format!("198.51.100.7, {gateway}");
        assert_eq!(request.one("x-forwarded-for"), Some(list.as_str()));
        assert_eq!(request.one("x-forwarded-proto"), Some("http"));
        assert_eq!(request.one("host"), Some("shop.example"));
        assert_eq!(request.one("x-request-id"), Some("of-the-gateway"));
        let by = beside.address.ip();
        let element = format!("for={gateway};by={by};host=shop.example;proto=https");
        assert_eq!(request.one("forwarded"), Some(element.as_str()));
        let value = request.one("x-forwarded-client-cert").unwrap();
        assert!(value.contains(&format!(";URI={GATEWAY}")), "{value}");
        let fold = |(name, _): &(String, String)| name.to_ascii_lowercase().replace('_', "-");
        let mut names: Vec<String> = request.headers.iter().map(fold).collect();
        let before = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), before, "two spellings of one name: {all}");
    };
    for claim in CLAIMS {
        let mut lines = said.to_vec();
        lines.push(claim);
        assert_eq!(ask(&mut raw, &lines).status(), 200, "{claim}");
        judge(&seen.last());
    }
    let mut lines = said.to_vec();
    lines.extend(CLAIMS);
    lines.push("Connection: X-Forwarded-For, X-Forwarded-Client-Cert, X-Request-Id");
    assert_eq!(ask(&mut raw, &lines).status(), 200);
    judge(&seen.last());
    assert_eq!(backend.connections(), 1, "kept");
    let line = beside.line("/said");
    assert_eq!(line["request_id"], "of-the-gateway");
    assert_eq!(line["identity"], GATEWAY);
}

#[test]
fn claims_in_trailers_end_here_too() {
    let (beside, _backend, seen) = beside("");
    let mut raw = beside.raw();
    raw.send(
        "POST /t HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum, X-Forwarded-Client-Cert, X_Forwarded_For, Forwarded\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\
         X-Forwarded-Client-Cert: Hash=00\r\nX_Forwarded_For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\
         X-Sum: kept\r\n\r\n",
    );
    assert_eq!(raw.answer().status(), 200);
    let request = seen.last();
    assert_eq!(request.body, b"hi");
    assert_eq!(request.trailers, [("x-sum".to_owned(), "kept".to_owned())]);
}

/// A gateway in tcp mode passes a client's bytes on: what they claim is the client's word.
#[test]
fn a_clients_own_bytes_are_not_believed() {
    let world = World::new();
    let (backend, seen) = mirror(world.address());
    let (acceptor, link) = world.http_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) = world.plain_gateway("tcp", link, "", "");
    let client = world.client().source(world.other_ip(8));
    let mut raw = Raw::new(client.connect(edge, "site.test").unwrap());
    let mut lines = vec![
        "GET /",
        "Host: site.test",
        "X-Forwarded-For: 6.6.6.6",
        "X-Forwarded-Proto: 6.6.6.6",
        "X-Request-Id: 6.6.6.6",
    ];
    lines.extend(CLAIMS);
    assert_eq!(ask(&mut raw, &lines).status(), 200);
    let request = seen.last();
    let all = format!("{:?}", request.headers);
    assert!(!all.contains("6.6.6.6"), "{all}");
    let from = world.other_ip(8).to_string();
    assert_eq!(request.one("x-forwarded-for"), Some(from.as_str()));
    assert_eq!(request.one("x-forwarded-proto"), Some("https"));
    let line = acceptor.line("/", |line| line["path"] == "/");
    assert!(
        line["client"].as_str().unwrap().starts_with(&from),
        "{line}"
    );
    drop(gateway);
}

#[test]
fn http_2_from_a_foreign_gateway() {
    let world = World::new();
    let backend = h2::echo(world.address());
    let beside = Beside::new(world, &backend.address.to_string(), "protocol = \"h2\"");
    let chain = Chain {
        edge: beside.address,
        gateway: beside.world.gateway(&format!(
            "[[listener]]\nname = \"idle\"\naddress = \"{}\"\nmode = \"tcp\"\n{}\n[[route]]\nbackend = \"legacy\"\n{}",
            beside.world.address(),
            super::site(&beside.world),
            super::backend(&beside.world, "legacy", beside.address, ""),
        )),
        acceptor: beside.acceptor,
        world: beside.world,
    };
    let leaf = chain.world.leaf(Role::Gateway, "edge-1");
    let client = chain.world.client().certificate(&leaf);
    block(async {
        let config = client.alpn("h2").config();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket
            .bind(SocketAddr::new(chain.world.other_ip(4), 0))
            .unwrap();
        let socket = socket.connect(chain.edge).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("legacy.internal").unwrap();
        let stream = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config))
            .connect(name, socket)
            .await
            .unwrap();
        let sender = h2::over(stream).await;
        let request = h2::request("POST", "/echo")
            .header("x-forwarded-client-cert", "Hash=none")
            .header("x-real-ip", "6.6.6.6")
            .body(())
            .unwrap();
        let answer = h2::post(&sender, request, b"a message", None)
            .await
            .unwrap();
        assert_eq!(answer.text(), "a message");
        let got = answer.head.headers();
        assert_eq!(got["x-path"], "/echo");
        assert_eq!(got["x-authority"], "site.test");
        assert!(!got.contains_key("x-got-x-real-ip"), "{got:?}");
        let value = got["x-got-x-forwarded-client-cert"].to_str().unwrap();
        assert!(
            value.contains(GATEWAY) && !value.contains("Hash=none"),
            "{value}"
        );
        // RFC 9113 section 8.5: nobody asks an acceptor for a tunnel
        let connect = http::Request::builder()
            .method("CONNECT")
            .uri("site.test:443")
            .body(())
            .unwrap();
        let refused = h2::ask(&sender, connect).await.unwrap();
        assert_eq!(refused.status(), 405);
        assert!(refused.text().contains("method_not_allowed"));
    });
}

/// What has two readings, or is nobody's business, is refused before the backend sees a byte.
#[rstest::rstest]
#[case("GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request_invalid")]
#[case("GET /a/..;/b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request_invalid")]
#[case("GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request_invalid")]
#[case("GET / HTTP/1.1\r\n\r\n", 400, "request_invalid")]
#[case("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "request_invalid")]
#[case(
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    400,
    "request_invalid"
)]
#[case("GET / HTTP/1.1\nHost: a\n\n", 400, "request_invalid")]
#[case("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405, "method_not_allowed")]
#[case(
    "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
    405,
    "method_not_allowed"
)]
#[case(
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n",
    413,
    "body_too_large"
)]
fn doubts_are_refused(#[case] request: &str, #[case] status: u16, #[case] reason: &str) {
    let (beside, backend, seen) = beside("[listener.limits]\nbody_bytes = \"10000B\"");
    let mut raw = beside.raw();
    raw.send(request);
    let answer = raw.answer();
    assert_eq!(answer.status(), status);
    if answer.one("content-type") == Some("application/json") {
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(body["error"], reason);
    } else {
        // a head that no parser has seen
        assert!(!answer.body.is_empty() && reason == "request_invalid");
    }
    let line = beside.acceptor.refusal(reason);
    assert_eq!(line["status"], status, "{line}");
    assert!(seen.all().is_empty());
    assert_eq!(backend.connections(), 0);
}

#[test]
fn a_lost_backend_is_said_and_found_again() {
    let world = World::new();
    let address = world.address();
    let chain = Chain::both(world, &address.to_string(), "", "", "");
    let mut raw = chain.raw();
    assert_eq!(raw.ask(&["GET /first"]).status(), 502);
    let line = chain.refused("/first", 502, "backend_unreachable");
    let detail = line["detail"].as_str().unwrap();
    assert!(detail.contains("legacy") || !detail.is_empty(), "{line}");
    let (_backend, _seen) = mirror(address);
    let found = || (raw.ask(&["GET /again"]).status() == 200).then_some(());
    until("the backend", found);
}

/// With a second acceptor whose backend lives, nobody notices.
#[test]
fn another_acceptor_takes_over_from_a_lost_backend() {
    let world = World::new();
    let dead = world.address();
    let (backend, _seen) = mirror(world.address());
    let (lost, first) = world.http_acceptor(&dead.to_string(), "");
    let second = world.address();
    let text = world.common(Role::Acceptor, "legacy")
        + &world.acceptor_text_in(
            "http",
            second,
            &backend.address.to_string(),
            &format!("trusted_ips = [{:?}]", world.near()),
        );
    let text = text.replace("acceptor.sock", "second.sock");
    let live = world.start_as("acceptor", "second", &text);
    let edge = world.address();
    let text = format!(
        "[[listener]]\nname = \"public\"\naddress = \"{edge}\"\nmode = \"http\"\n{}\n\
         [[route]]\nbackend = \"legacy\"\n\n[backend.legacy]\nacceptors = [\"{first}\", \"{second}\"]\n\
         server_name = \"legacy.internal\"\nbind = \"{}\"\npool = {{ ready = 0 }}\n",
        super::site(&world),
        world.ip()
    );
    let gateway = world.gateway(&text);
    let client = world.client();
    let mut statuses = Vec::new();
    for _ in 0..6 {
        let mut raw = Raw::new(client.connect(edge, "site.test").unwrap());
        statuses.push(raw.ask(&["GET /"]).status());
    }
    assert_eq!(statuses, [200; 6]);
    drop((lost, live, gateway));
}

#[test]
fn kept_connections_that_close_are_replaced() {
    let world = World::new();
    // closes after every second answer, without a word
    let backend = Backend::serve(world.address(), |stream| {
        let mut peer = Peer::new(stream);
        for _ in 0..2 {
            let Some(mut request) = peer.head() else {
                return;
            };
            if peer.body(&mut request).is_err() {
                return;
            }
            peer.send(ok(request.target()));
        }
        peer.close();
    });
    let beside = Beside::new(world, &backend.address.to_string(), "");
    let mut raw = beside.raw();
    for turn in 0..20 {
        let target = format!("GET /{turn}");
        assert_eq!(
            ask(&mut raw, &[&target, "Host: a"]).text(),
            format!("/{turn}")
        );
    }
    assert!(backend.connections() >= 10);
}

/// One request in is at most one out: a body that is cut ends the backend's connection.
#[test]
fn a_cut_body_is_never_whole() {
    let (beside, backend, seen) = beside("");
    let mut raw = beside.raw();
    raw.send("POST /cut HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nfour");
    drop(raw);
    let cut = until("the cut request", || seen.all().pop());
    assert!(cut.start.ends_with("(cut)"), "{cut:?}");
    assert_eq!(ask(&mut beside.raw(), &["GET /", "Host: a"]).status(), 200);
    assert_eq!(
        backend.connections(),
        2,
        "a connection in doubt is not kept"
    );
}

#[test]
fn a_truncated_answer_is_never_whole() {
    let world = World::new();
    let (backend, _seen) = answering(world.address(), |request| {
        match request.target() {
        "/length" => b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 10\r\n\r\nfour".to_vec(),
        _ => b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n".to_vec(),
    }
    });
    let chain = Chain::both(world, &backend.address.to_string(), "", "", "");
    for target in ["GET /length", "GET /chunks"] {
        let mut raw = chain.raw();
        raw.request(&[target]);
        assert!(raw.try_answer(false).is_err(), "{target}");
    }
}

#[test]
fn upgrades_and_continue_pass_both_ends() {
    let world = World::new();
    let backend = Backend::serve(world.address(), |stream| {
        let mut peer = Peer::new(stream);
        while let Some(mut request) = peer.head() {
            if request.one("expect").is_some() {
                peer.send("HTTP/1.1 100 Continue\r\n\r\n");
            }
            if peer.body(&mut request).is_err() {
                return;
            }
            if request.one("upgrade") == Some("echo") {
                peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello");
                crate::world::echo(peer.stream.get_mut());
                return peer.close();
            }
            peer.send(ok(&request.body.len().to_string()));
        }
    });
    let chain = Chain::both(world, &backend.address.to_string(), "", "", "");
    let mut raw = chain.raw();
    raw.request(&["POST /", "Expect: 100-continue", "Content-Length: 4"]);
    assert_eq!(raw.head().unwrap().status(), 100);
    raw.send("body");
    assert_eq!(raw.answer().text(), "4");
    raw.request(&["GET /up", "Connection: upgrade", "Upgrade: echo"]);
    assert_eq!(raw.answer().status(), 101);
    let mut hello = [0; 5];
    std::io::Read::read_exact(raw.reader(), &mut hello).unwrap();
    assert_eq!(&hello, b"hello");
    raw.tls().write_all(b"there").unwrap();
    raw.tls().flush().unwrap();
    std::io::Read::read_exact(raw.reader(), &mut hello).unwrap();
    assert_eq!(&hello, b"there");
    raw.tls().conn.send_close_notify();
    raw.tls().flush().unwrap();
    raw.ends();
}

/// A backend that wants a PROXY header gets each client's own, and never another's connection.
#[test]
fn a_proxy_header_speaks_for_one_client() {
    let world = World::new();
    let backend = Backend::serve(world.address(), |stream| {
        let mut peer = Peer::new(stream);
        let mut header = String::new();
        std::io::BufRead::read_line(&mut peer.stream, &mut header).unwrap();
        while peer.head().is_some() {
            peer.send(ok(header.trim_end()));
        }
    });
    let to = backend.address.to_string();
    let chain = Chain::both(world, &to, "send_proxy = \"v1\"", "", "");
    for last in [5, 6, 7] {
        let from = chain.world.other_ip(last);
        let text = chain
            .raw_as(&chain.world.client().source(from))
            .ask(&["GET /"])
            .text();
        assert!(text.starts_with(&format!("PROXY TCP4 {from} ")), "{text}");
    }
    // and one to see whether the backend is there
    assert_eq!(backend.connections(), 4);
}

#[test]
fn a_backend_with_tls_or_a_socket_file() {
    let world = World::new();
    let leaf = world.issue(Role::Server, "inner", &["inner.test"]);
    let backend = Backend::tls(world.address(), &leaf, |stream| {
        let mut head = Vec::new();
        let mut byte = [0];
        while std::io::Read::read_exact(stream, &mut byte).is_ok() {
            head.push(byte[0]);
            if head.ends_with(b"\r\n\r\n") {
                head.clear();
                drop(stream.write_all(&ok("inside tls")));
                drop(stream.flush());
            }
        }
    });
    let more = format!(
        "backend_tls = {{ trust = {:?}, server_name = \"inner.test\" }}",
        world.authority.trust()
    );
    let chain = Chain::both(world, &backend.address.to_string(), &more, "", "");
    let mut raw = chain.raw();
    assert_eq!(raw.ask(&["GET /"]).text(), "inside tls");
    assert_eq!(raw.ask(&["GET /"]).text(), "inside tls");
    assert_eq!(backend.connections(), 1);
}

/// Revoked while requests pass: the next one is not served, and the reason is said.
#[test]
fn a_revoked_gateway_ends() {
    let (beside, _backend, seen) = beside("");
    let mut raw = beside.raw();
    assert_eq!(ask(&mut raw, &["GET /before", "Host: a"]).status(), 200);
    beside
        .world
        .authority
        .revoke("gateway/edge-1", Reason::KeyCompromise)
        .unwrap();
    raw.ends();
    beside.acceptor.line("the end", |line| {
        line["message"] == "access" && line["reason"] == "rules_changed"
    });
    assert_eq!(seen.targets(), ["/before"]);
}
