//! What a backend is told about a request's way, whoever claims what; and what ends at each hop.

use std::net::SocketAddr;

use super::{
    Chain,
    h2::{self, block},
    raw::{Message, Seen, answering, mirror},
};
use crate::world::{Backend, World};

fn behind(listener: &str) -> (Chain, Backend, Seen) {
    let world = World::new();
    let (backend, seen) = mirror(world.address());
    let chain = Chain::new(world, backend.address, listener, "");
    (chain, backend, seen)
}

/// The names that a backend got, folded as CGI, WSGI or Rack fold them.
fn folded(message: &Message) -> Vec<String> {
    let fold = |(name, _): &(String, String)| name.to_ascii_lowercase().replace('_', "-");
    message.headers.iter().map(fold).collect()
}

const FORGED: &[&str] = &[
    "X-Forwarded-For: 6.6.6.6",
    "x-forwarded-for: 6.6.6.6",
    "X_Forwarded_For: 6.6.6.6",
    "X-Forwarded_For: 6.6.6.6",
    "X-Forwarded-Proto: http6.6.6.6",
    "X_FORWARDED_PROTO: 6.6.6.6",
    "X-Forwarded-Host: 6.6.6.6",
    "X-Forwarded-Port: 6.6.6.6",
    "X-Forwarded-Prefix: 6.6.6.6",
    "Forwarded: for=6.6.6.6",
    "FORWARDED: for=6.6.6.6;proto=http",
    "X-Real-IP: 6.6.6.6",
    "X_REAL_IP: 6.6.6.6",
    "X-Client-IP: 6.6.6.6",
    "True-Client-IP: 6.6.6.6",
    "CF-Connecting-IP: 6.6.6.6",
    "X-Forwarded-Client-Cert: Hash=6.6.6.6",
    "Client-Cert: :6.6.6.6:",
    "Client_Cert: :6.6.6.6:",
    "Client-Cert-Chain: :6.6.6.6:",
    "X-SSL-Client-Verify: 6.6.6.6",
    "SSL_CLIENT_S_DN: 6.6.6.6",
    "Proxy: 6.6.6.6",
    "X-Original-URL: /6.6.6.6",
    "X_Request_Id: 6.6.6.6",
    "X-Request_ID: 6.6.6.6",
    "Content_Length: 6.6.6.6",
    "Transfer_Encoding: 6.6.6.6",
    "Proxy-Client-IP: 6.6.6.6",
    "Proxy-Foo: 6.6.6.6",
    "X-ARR-ClientCert: 6.6.6.6",
    "X-Amzn-Mtls-Clientcert-Leaf: 6.6.6.6",
    "X-TLS-Client-Cert: 6.6.6.6",
    "X-Client-DN: 6.6.6.6",
    "Ssl-Cert: 6.6.6.6",
    "Forwarded-For: 6.6.6.6",
    "Ali-CDN-Real-IP: 6.6.6.6",
    "Remote-User: 6.6.6.6",
    "X-Remote-User: 6.6.6.6",
];

fn assert_ours(request: &Message, edge: SocketAddr, host: &str) {
    let all = format!("{:?}", request.headers);
    assert!(!all.contains("6.6.6.6"), "{all}");
    let source = "127.0.0.1";
    let source = request.one("x-forwarded-for").filter(|ip| *ip == source);
    let source = source.unwrap_or_else(|| panic!("{all}"));
    assert_eq!(request.one("x-forwarded-proto"), Some("https"));
    assert_eq!(request.one("x-forwarded-host"), Some(host));
    let element = format!("for={source};by={};host={host};proto=https", edge.ip());
    assert_eq!(request.one("forwarded"), Some(element.as_str()));
    let mut names = folded(request);
    let before = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), before, "two spellings of one name: {all}");
}

#[test]
fn a_client_forges_nothing_in_any_spelling() {
    let (chain, _backend, seen) = behind("");
    let mut raw = chain.raw_as(&chain.world.client().source([127, 0, 0, 1].into()));
    let mut lines = vec!["GET /all"];
    lines.extend(FORGED);
    assert_eq!(raw.ask(&lines).status(), 200);
    assert_ours(&seen.last(), chain.edge, "site.test");
    // one by one, so that none hides behind another
    for forged in FORGED {
        assert_eq!(raw.ask(&["GET /one", forged]).status(), 200, "{forged}");
        assert_ours(&seen.last(), chain.edge, "site.test");
    }
    let before = seen.all().len();
    block(async {
        let sender = chain.h2().await;
        let mut request = h2::request("GET", "/h2");
        for forged in FORGED {
            let (name, value) = forged.split_once(": ").unwrap();
            request = request.header(name.to_ascii_lowercase(), value);
        }
        let answer = h2::ask(&sender, request.body(()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
    });
    assert_eq!(seen.all().len(), before + 1);
    assert_ours(&seen.last(), chain.edge, "site.test");
}

#[test]
fn a_client_forges_nothing_in_trailers() {
    let (chain, _backend, seen) = behind("");
    let names = "X-Request-Id, X_Request_Id, traceparent, tracestate, Via, Proxy-Client-IP, \
                 X-Forwarded-For, X-TLS-Client-Cert, Remote-User, X-Sum";
    let mut text = format!(
        "POST /t HTTP/1.1\r\nHost: site.test\r\nTrailer: {names}\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n"
    );
    for name in names.split(", ") {
        text += &format!("{name}: of the client\r\n");
    }
    let mut raw = chain.raw();
    raw.send(&(text + "\r\n"));
    assert_eq!(raw.answer().status(), 200);
    let kept = ("x-sum".to_owned(), "of the client".to_owned());
    assert_eq!(seen.last().trailers, [kept]);
}

#[test]
fn a_trusted_proxy_is_believed_and_others_are_not() {
    let world = World::new();
    let (backend, seen) = mirror(world.address());
    let (proxy, other) = (world.other_ip(5), world.other_ip(6));
    let listener = format!("trusted_proxies = [\"{proxy}\"]");
    let chain = Chain::new(world, backend.address, &listener, "");
    let lines = [
        "GET /",
        "X-Forwarded-For: 198.51.100.7",
        "X_Forwarded_For: 6.6.6.6",
        "X-Forwarded-Proto: http",
        "X-Forwarded-Host: shown.example",
        "X-Real-IP: 198.51.100.7",
        "Forwarded: for=198.51.100.7",
        "X-Request-Id: of-the-proxy",
    ];
    let client = chain.world.client();
    chain.raw_as(&client.clone().source(proxy)).ask(&lines);
    let believed = seen.last();
    let list = format!("198.51.100.7, {proxy}");
    assert_eq!(believed.one("x-forwarded-for"), Some(list.as_str()));
    assert_eq!(believed.one("x-forwarded-proto"), Some("http"));
    assert_eq!(believed.one("x-forwarded-host"), Some("shown.example"));
    assert_eq!(believed.one("x-real-ip"), Some("198.51.100.7"));
    assert_eq!(believed.one("x-request-id"), Some("of-the-proxy"));
    assert!(
        believed
            .one("forwarded")
            .unwrap()
            .starts_with("for=198.51.100.7, for=")
    );
    assert!(believed.all("x_forwarded_for").is_empty());
    chain.raw_as(&client.source(other)).ask(&lines);
    let replaced = seen.last();
    assert_eq!(
        replaced.one("x-forwarded-for"),
        Some(other.to_string().as_str())
    );
    assert_eq!(replaced.one("x-forwarded-proto"), Some("https"));
    assert_eq!(replaced.one("x-forwarded-host"), Some("site.test"));
    assert_eq!(replaced.one("x-real-ip"), None);
    assert_ne!(replaced.one("x-request-id"), Some("of-the-proxy"));
}

#[test]
fn hop_by_hop_headers_end_here_both_ways() {
    let world = World::new();
    let (backend, seen) = answering(world.address(), |_| {
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop, Content-Length\r\nKeep-Alive: timeout=5\r\n\
          X-Hop: gone\r\nProxy-Connection: keep-alive\r\nUpgrade: h2c\r\nX-Kept: yes\r\n\
          Server: legacy/1\r\nContent-Length: 2\r\n\r\nok"
            .to_vec()
    });
    let chain = Chain::new(world, backend.address, "", "");
    let lines = [
        "GET /",
        "Connection: close, X-Listed, X-Forwarded-For, Cookie, Host, Authorization",
        "X-Listed: gone",
        "Cookie: kept",
        "Authorization: kept",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic gone",
        "TE: gzip, trailers",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
        "X-Kept: yes",
    ];
    let answer = chain.raw().ask(&lines);
    let request = seen.last();
    for gone in [
        "x-listed",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "upgrade",
        "http2-settings",
        "connection",
    ] {
        assert_eq!(request.one(gone), None, "{gone}: {request:?}");
    }
    assert_eq!(request.one("te"), Some("trailers"));
    for kept in ["cookie", "authorization"] {
        assert_eq!(request.one(kept), Some("kept"));
    }
    assert_eq!(request.one("x-kept"), Some("yes"));
    assert_eq!(request.one("host"), Some("site.test"));
    assert!(
        request.one("x-forwarded-for").is_some(),
        "a client can't list it away"
    );
    assert_eq!(request.one("via"), Some("1.1 portcullis"));
    assert_eq!(answer.text(), "ok");
    for gone in ["x-hop", "keep-alive", "proxy-connection", "upgrade"] {
        assert_eq!(answer.one(gone), None, "{gone}: {answer:?}");
    }
    assert_eq!(answer.one("connection"), Some("close"), "our own word");
    assert_eq!(answer.one("x-kept"), Some("yes"));
    assert_eq!(answer.one("server"), Some("legacy/1"));
    assert_eq!(answer.one("via"), Some("1.1 portcullis"));
    assert_eq!(backend.connections(), 1);
    // and over HTTP/2 no such header may appear at all
    block(async {
        let sender = chain.h2().await;
        let answer = h2::ask(&sender, h2::request("GET", "/").body(()).unwrap()).await;
        let answer = answer.unwrap();
        assert_eq!(answer.text(), "ok");
        assert!(!answer.head.headers().contains_key("connection"));
        assert_eq!(answer.head.headers()["x-kept"], "yes");
    });
    assert_eq!(
        backend.connections(),
        1,
        "a client's close is not the link's"
    );
}

#[test]
fn cookies_that_http_2_split_are_one_line() {
    let (chain, _backend, seen) = behind("");
    block(async {
        let sender = chain.h2().await;
        let request = h2::request("GET", "/")
            .header("cookie", "a=1")
            .header("cookie", "b=2");
        h2::ask(&sender, request.body(()).unwrap()).await.unwrap();
    });
    assert_eq!(seen.last().one("cookie"), Some("a=1; b=2"));
}

#[test]
fn a_request_has_one_name_in_all_logs() {
    let (chain, _backend, seen) = behind("");
    let mut raw = chain.raw();
    assert_eq!(
        raw.ask(&["GET /named", "X-Request-Id: forged"]).status(),
        200
    );
    let line = chain.line("/named");
    assert_eq!(seen.last().one("x-request-id"), line["request_id"].as_str());
    assert_ne!(line["request_id"], "forged");
    // what a client writes can't begin a line of the log
    raw.ask(&["GET /a%0aline", "User-Agent: x"]);
    chain.refused("/a%0aline", 400, "request_invalid");
    let link = chain
        .acceptor
        .line("the link", |line| line["message"] == "listening");
    assert_eq!(link["listener"], "legacy");
}
