//! What requests mean, whoever reads them: methods, hosts, paths, names of headers, traces.

use super::{
    Chain, backend,
    h2::{self, block},
    raw::{Peer, Seen, answering, mirror, ok},
    site,
};
use crate::world::{Backend, World};

fn behind(listener: &str) -> (Chain, Backend, Seen) {
    let world = World::new();
    let (backend, seen) = mirror(world.address());
    let chain = Chain::new(world, backend.address, listener, "");
    (chain, backend, seen)
}

/// In front of a mirror that gets what these `[[route]]` tables say.
pub(super) fn routed(listener: &str, routes: &str) -> (Chain, Backend, Seen) {
    let world = World::new();
    let (mirror, seen) = mirror(world.address());
    let (acceptor, link) = world.plain_acceptor(&mirror.address.to_string(), "");
    let edge = world.address();
    let text = format!(
        "[[listener]]\nname = \"public\"\naddress = \"{edge}\"\nmode = \"http\"\n{}{listener}\n\
         {routes}\n{}",
        site(&world),
        backend(&world, "legacy", link, "pool = { ready = 0 }")
    );
    let gateway = world.gateway(&text);
    let chain = Chain {
        world,
        acceptor,
        gateway,
        edge,
    };
    (chain, mirror, seen)
}

#[test]
fn via_says_how_each_message_was_received() {
    let world = World::new();
    let (backend, seen) = answering(world.address(), |request| match request.target() {
        "/old" => b"HTTP/1.0 200 OK\r\nVia: 1.1 inner\r\nContent-Length: 0\r\n\r\n".to_vec(),
        _ => ok("new"),
    });
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    let answer = raw.ask(&["GET /new", "Via: 1.0 before"]);
    assert_eq!(answer.one("via"), Some("1.1 portcullis"));
    assert_eq!(seen.last().all("via"), ["1.0 before", "1.1 portcullis"]);
    let answer = raw.ask(&["GET /old"]);
    assert_eq!(answer.all("via"), ["1.1 inner", "1.0 portcullis"]);
    let mut raw = chain.raw();
    raw.send("GET /ten HTTP/1.0\r\nHost: site.test\r\n\r\n");
    assert_eq!(raw.answer().status(), 200);
    assert_eq!(seen.last().one("via"), Some("1.0 portcullis"));
    block(async {
        let sender = chain.h2().await;
        let request = h2::request("GET", "/two").body(()).unwrap();
        let answer = h2::ask(&sender, request).await.unwrap();
        assert_eq!(answer.head.headers()["via"], "1.1 portcullis");
    });
    assert_eq!(seen.last().one("via"), Some("2 portcullis"));
}

/// The version of an answer is that of who sends it (RFC 9112 section 2.3): a backend of HTTP/1.0
/// costs no client its connection, and where its answer ends is said.
#[rstest::rstest]
#[case("")]
#[case("Content-Length: 4\r\n")]
fn an_old_backend_makes_no_old_answers(#[case] length: &str) {
    let world = World::new();
    let answer = format!("HTTP/1.0 200 OK\r\n{length}\r\nsome");
    let backend = Backend::serve(world.address(), move |stream| {
        let mut peer = Peer::new(stream);
        if peer.head().is_some() {
            peer.send(&answer);
        }
        peer.close();
    });
    let address = backend.address.to_string();
    for chain in [
        Chain::new(World::new(), backend.address, "", ""),
        Chain::both(World::new(), &address, "", "", ""),
    ] {
        let mut raw = chain.raw();
        for _ in 0..2 {
            let answer = raw.ask(&["GET /"]);
            assert_eq!(answer.start, "HTTP/1.1 200 OK");
            assert_eq!(answer.one("connection"), None);
            assert_eq!(answer.text(), "some");
        }
    }
}

/// RFC 9110 section 7.6.2: each of our ends takes one off, and who finds none answers.
#[test]
fn an_options_goes_no_further_than_it_says() {
    let world = World::new();
    let (backend, seen) = mirror(world.address());
    let address = backend.address.to_string();
    let plain = Chain::new(World::new(), backend.address, "", "");
    let both = Chain::both(world, &address, "", "", "");
    for (chain, ends) in [(plain, 1), (both, 2)] {
        let mut raw = chain.raw();
        let before = seen.all().len();
        for hops in 0..ends {
            let line = format!("Max-Forwards: {hops}");
            let answer = raw.ask(&["OPTIONS /a", &line]);
            assert_eq!(answer.status(), 200, "{answer:?}");
            assert!(answer.one("allow").unwrap().contains("GET"), "{answer:?}");
            assert_eq!(answer.text(), "");
        }
        assert_eq!(raw.ask(&["OPTIONS /a", "Max-Forwards: x"]).status(), 400);
        assert_eq!(seen.all().len(), before, "the backend hears nothing");
        let mut raw = chain.raw();
        assert_eq!(raw.ask(&["OPTIONS /a", "Max-Forwards: 5"]).status(), 200);
        let left = (5 - ends).to_string();
        assert_eq!(seen.last().one("max-forwards"), Some(left.as_str()));
        assert_eq!(raw.ask(&["GET /a", "Max-Forwards: 0"]).text(), "/a");
        assert_eq!(raw.ask(&["TRACE /a", "Max-Forwards: 0"]).status(), 405);
        block(async {
            let sender = chain.h2().await;
            let request = h2::request("OPTIONS", "/a").header("max-forwards", "0");
            let answer = h2::ask(&sender, request.body(()).unwrap()).await.unwrap();
            assert_eq!(answer.status(), 200);
            assert!(answer.head.headers().contains_key("allow"));
        });
        assert_eq!(seen.last().start, "GET /a HTTP/1.1");
    }
}

/// RFC 9112 section 3.2.4. Routes judge it as `*`, which lies below no prefix.
#[test]
fn options_of_a_whole_server_is_one_however_it_is_written() {
    let (chain, _backend, seen) = behind("");
    let mut raw = chain.raw();
    for (target, expected) in [
        ("*", "*"),
        ("https://site.test", "*"),
        ("https://site.test/", "/"),
        ("https://site.test?a", "/?a"),
        ("https://site.test/a", "/a"),
    ] {
        raw.send(format!(
            "OPTIONS {target} HTTP/1.1\r\nHost: site.test\r\n\r\n"
        ));
        assert_eq!(raw.answer().status(), 200, "{target}");
        let line = format!("OPTIONS {expected} HTTP/1.1");
        assert_eq!(seen.last().start, line, "{target}");
    }
    let (chain, _backend, seen) = routed("", "[[route]]\npath = \"/in\"\nbackend = \"legacy\"");
    for target in ["*", "https://site.test"] {
        let mut raw = chain.raw();
        raw.send(format!(
            "OPTIONS {target} HTTP/1.1\r\nHost: site.test\r\n\r\n"
        ));
        assert_eq!(raw.answer().status(), 404, "{target}");
    }
    assert!(seen.all().is_empty());
}

#[test]
fn a_host_that_nobody_speaks_for_is_misdirected() {
    let (chain, _backend, seen) = routed(
        "",
        "[[route]]\nhost = \"named.test\"\nbackend = \"legacy\"\n[[route]]\nbackend = \"legacy\"",
    );
    let mut raw = chain.raw();
    for (host, status) in [
        ("site.test", 200),
        ("SITE.test:8443", 200),
        ("named.test", 200),
        ("other.test", 421),
        ("sub.site.test", 200),
        ("a.sub.site.test", 421),
        ("203.0.113.9", 421),
        ("[2001:db8::1]:443", 421),
        ("site.test", 200),
        // what was dialled is right, whatever the certificate says
        (&chain.edge.to_string(), 200),
    ] {
        raw.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(raw.answer().status(), status, "{host}");
    }
    assert_eq!(seen.all().len(), 6);
    block(async {
        let sender = chain.h2().await;
        let request = http::Request::get("https://other.test/h2")
            .body(())
            .unwrap();
        assert_eq!(h2::ask(&sender, request).await.unwrap().status(), 421);
    });
    chain.refused("/h2", 421, "misdirected");
    assert_eq!(seen.all().len(), 6);
}

#[test]
fn a_trusted_proxy_may_ask_for_any_host() {
    let world = World::new();
    let (backend, seen) = mirror(world.address());
    let proxy = world.other_ip(5);
    let listener = format!("trusted_proxies = [\"{proxy}\"]");
    let chain = Chain::new(world, backend.address, &listener, "");
    for (source, status) in [(proxy, 200), (chain.world.other_ip(6), 421)] {
        let mut raw = chain.raw_as(&chain.world.client().source(source));
        raw.send("GET / HTTP/1.1\r\nHost: other.test\r\n\r\n");
        assert_eq!(raw.answer().status(), status);
    }
    assert_eq!(seen.all().len(), 1);
}

#[test]
fn a_host_may_be_an_address_or_a_name_of_any_alphabet() {
    let (chain, _backend, seen) = routed(
        "",
        "[[route]]\nhost = \"xn--bcher-kva.test\"\nbackend = \"legacy\"\n[[route]]\nbackend = \"legacy\"",
    );
    let mut raw = chain.raw();
    raw.send("GET / HTTP/1.1\r\nHost: XN--Bcher-KVA.test\r\n\r\n");
    assert_eq!(raw.answer().status(), 200);
    assert_eq!(seen.last().one("host"), Some("xn--bcher-kva.test"));
    for host in [
        "bücher.test",
        "b\u{fc}cher.test:443",
        "[::1",
        "::1",
        "[fe80::1%25eth0]",
    ] {
        let mut raw = chain.raw();
        raw.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(raw.answer().status(), 400, "{host}");
    }
    assert_eq!(seen.all().len(), 1);
}

#[test]
fn a_literal_of_version_6_is_a_host() {
    let world = World::new();
    let (backend, seen) = mirror(world.address());
    let proxy = world.other_ip(5);
    let listener = format!("trusted_proxies = [\"{proxy}\"]");
    let chain = Chain::new(world, backend.address, &listener, "");
    let mut raw = chain.raw_as(&chain.world.client().source(proxy));
    raw.send("GET / HTTP/1.1\r\nHost: [2001:DB8:0::1]:8443\r\n\r\n");
    assert_eq!(raw.answer().status(), 200);
    assert_eq!(seen.last().one("host"), Some("[2001:db8::1]:8443"));
}

/// Names that tell a backend another path, host or method than the rules have judged.
const OVERRIDES: [&str; 7] = [
    "X-Original-URL: /6.6.6.6",
    "X-Rewrite-URL: /6.6.6.6",
    "X-HTTP-Method-Override: 6.6.6.6",
    "X-HTTP-Method: 6.6.6.6",
    "X-Method-Override: 6.6.6.6",
    "X-Original-Host: 6.6.6.6",
    "Proxy: 6.6.6.6",
];

#[test]
fn overrides_go_unless_a_route_keeps_them() {
    let (chain, _backend, seen) = routed(
        "",
        "[[route]]\npath = \"/rpc\"\nkeep_headers = [\"X-HTTP-Method-Override\"]\nbackend = \"legacy\"\n\
         [[route]]\nbackend = \"legacy\"",
    );
    let mut raw = chain.raw();
    for (path, kept) in [("/", 0), ("/rpc/x", 1)] {
        for line in OVERRIDES {
            for line in [line.to_owned(), line.replacen('-', "_", 9)] {
                let target = format!("POST {path}");
                assert_eq!(
                    raw.ask(&[&target, "Content-Length: 0", &line]).status(),
                    200
                );
                let passed = format!("{:?}", seen.last()).contains("6.6.6.6");
                let wanted = kept == 1 && line.starts_with("X-HTTP-Method-Override:");
                assert_eq!(passed, wanted, "{path} {line}");
            }
        }
    }
}

#[rstest::rstest]
#[case("", 200, None)]
#[case("underscore_headers = \"drop\"", 200, None)]
#[case("underscore_headers = \"keep\"", 200, Some("a"))]
#[case("underscore_headers = \"refuse\"", 400, None)]
fn names_with_an_underscore(
    #[case] listener: &str,
    #[case] status: u16,
    #[case] passed: Option<&str>,
) {
    let (chain, _backend, seen) = behind(listener);
    let mut raw = chain.raw();
    let answer = raw.ask(&["GET /", "X_Plain_Name: a", "X-Other: b"]);
    assert_eq!(answer.status(), status);
    if status == 200 {
        assert_eq!(seen.last().one("x_plain_name"), passed);
        assert_eq!(seen.last().one("x-other"), Some("b"));
        // what would be merged with a name of ours never passes
        raw.ask(&["GET /", "X_Forwarded_For: 6.6.6.6", "X_Request-ID: 6.6.6.6"]);
        assert!(!format!("{:?}", seen.last()).contains("6.6.6.6"));
    } else {
        chain.refused("/", 400, "request_invalid");
        assert_eq!(chain.raw().ask(&["GET /plain", "X-Other: b"]).status(), 200);
    }
}

/// Paths that two servers would read as two.
const AMBIGUOUS: [&str; 14] = [
    "/a/../admin",
    "/a/./admin",
    "/a/%2e%2e/admin",
    "/a/.%2E/admin",
    "/a%2fadmin",
    "/a%2Fadmin",
    "/a%5cadmin",
    "/a\\admin",
    "/a/..;/admin",
    "/a/..;x=y/admin",
    "/a%00",
    "/a%ff",
    "/a%c0%afadmin",
    "/a%zz",
];

#[test]
fn paths_with_two_readings_are_refused_in_both_versions() {
    let (chain, _backend, seen) = behind("");
    for path in AMBIGUOUS {
        let mut raw = chain.raw();
        assert_eq!(raw.ask(&[&format!("GET {path}")]).status(), 400, "{path}");
    }
    block(async {
        for path in AMBIGUOUS.iter().filter(|path| !path.contains('\\')) {
            let sender = chain.h2().await;
            let request = h2::request("GET", path).body(()).unwrap();
            let status = h2::ask(&sender, request).await.unwrap().status();
            assert_eq!(status, 400, "{path}");
        }
    });
    assert!(seen.all().is_empty(), "{:?}", seen.targets());
    // what has one reading passes as it came
    for path in [
        "/%61%7E/caf%C3%A9?q=%2e%2e/..&%zz",
        "/a//b;c=d/...",
        "/%252e%252e/",
    ] {
        assert_eq!(chain.raw().ask(&[&format!("GET {path}")]).text(), path);
    }
}

#[test]
fn paths_are_resolved_where_the_listener_says_so() {
    let (chain, _backend, seen) = routed(
        "path_normalisation = \"normalise\"",
        "[[route]]\npath = \"/admin\"\nmethods = [\"PUT\"]\nbackend = \"legacy\"\n\
         [[route]]\npath = \"/a\"\nbackend = \"legacy\"",
    );
    let mut raw = chain.raw();
    for (path, expected) in [
        ("/a/b/../c?x=/../%2e", "/a/c?x=/../%2e"),
        ("/a/%2e%2e/a/%61", "/a/%61"),
        ("/b/..%2fa%2Fd", "/a/d"),
        ("/a/.", "/a/"),
    ] {
        assert_eq!(
            raw.ask(&[&format!("GET {path}")]).text(),
            expected,
            "{path}"
        );
    }
    // the rules see the path that the backend would
    let before = seen.all().len();
    for path in ["/a/../admin", "/a/%2e%2e%2fadmin"] {
        assert_eq!(raw.ask(&[&format!("GET {path}")]).status(), 404, "{path}");
        chain.refused(path, 404, "no_route");
    }
    for path in [
        "/a/../../etc",
        "/a/..;/b",
        "/a/../%5c",
        "/a/../%00",
        "/a\\..\\b",
    ] {
        let mut raw = chain.raw();
        assert_eq!(raw.ask(&[&format!("GET {path}")]).status(), 400, "{path}");
    }
    assert_eq!(seen.all().len(), before);
    block(async {
        let sender = chain.h2().await;
        let request = h2::request("GET", "/a/x/../y").body(()).unwrap();
        assert_eq!(h2::ask(&sender, request).await.unwrap().text(), "/a/y");
    });
}

#[test]
fn long_targets_have_a_bound() {
    let (chain, _backend, seen) = behind("[listener.limits]\nheader_bytes = \"256KiB\"");
    let target = |length: usize| format!("/{}", "x".repeat(length - 1));
    let answer = chain.raw().ask(&[&format!("GET {}", target(60 << 10))]);
    assert_eq!((answer.status(), answer.body.len()), (200, 60 << 10));
    let mut raw = chain.raw();
    raw.request(&[&format!("GET {}", target(66 << 10))]);
    assert_eq!(raw.head().unwrap().status(), 414);
    assert_eq!(seen.all().len(), 1);
    block(async {
        let sender = chain.h2().await;
        let request = h2::request("GET", &target(60 << 10)).body(()).unwrap();
        let answer = h2::ask(&sender, request).await.unwrap();
        assert_eq!((answer.status(), answer.body.len()), (200, 60 << 10));
    });
}

#[test]
fn options_of_the_whole_server_pass() {
    let (chain, _backend, seen) = behind("");
    chain.raw().ask(&["OPTIONS *"]);
    assert_eq!(seen.last().start, "OPTIONS * HTTP/1.1");
    let mut raw = chain.raw();
    assert_eq!(raw.ask(&["GET *"]).status(), 400);
    assert_eq!(seen.all().len(), 1);
}

#[test]
fn what_is_never_forwarded_is_told_what_is() {
    let (chain, _backend, seen) = behind("");
    for start in ["TRACE /", "CONNECT site.test:443"] {
        let answer = chain.raw().ask(&[start]);
        assert_eq!(answer.status(), 405, "{start}");
        let allow = answer.one("allow").unwrap();
        assert!(allow.contains("GET, HEAD, POST"), "{allow}");
        assert!(!allow.contains("TRACE") && !allow.contains("CONNECT"));
    }
    // of what it does not know, the backend decides
    assert_eq!(chain.raw().ask(&["PROPFIND /dav"]).status(), 200);
    assert_eq!(seen.targets(), ["/dav"]);
}

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn a_trace_passes_or_begins_here() {
    let (chain, _backend, seen) = behind("");
    let mut raw = chain.raw();
    let parent = format!("traceparent: {PARENT}");
    raw.ask(&["GET /", &parent, "tracestate: a=1,b=2"]);
    assert_eq!(seen.last().one("traceparent"), Some(PARENT));
    assert_eq!(seen.last().one("tracestate"), Some("a=1,b=2"));
    let mut made = std::collections::HashSet::new();
    for lines in [
        &["GET /"][..],
        &["GET /"],
        &["GET /", "tracestate: a=1"],
        &["GET /", "traceparent: 00-0-0-00", "tracestate: a=1"],
        &["GET /", &parent, &parent, "tracestate: a=1"],
    ] {
        raw.ask(lines);
        let request = seen.last();
        let parent = request.one("traceparent").unwrap().to_owned();
        let parts: Vec<_> = parent.split('-').map(str::len).collect();
        assert_eq!(parts, [2, 32, 16, 2], "{parent}");
        assert_ne!(parent, PARENT);
        assert_eq!(request.one("tracestate"), None, "of another trace");
        assert!(made.insert(parent), "twice the same");
    }
}

#[test]
fn answers_without_a_body_have_none() {
    let world = World::new();
    let (backend, _seen) = answering(world.address(), |request| {
        let status = request.target().trim_start_matches('/');
        // a length is no body here: RFC 9110 sections 8.6, 15.3.5 and 15.4.5
        format!("HTTP/1.1 {status} Ok\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\n").into_bytes()
    });
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    for (start, to_head) in [("GET /304", false), ("HEAD /200", true)] {
        raw.request(&[start]);
        let answer = raw.try_answer(to_head).unwrap();
        assert_eq!(answer.one("etag"), Some("\"a\""), "{start}");
    }
    // the same connection: nothing was left on it
    raw.request(&["GET /304"]);
    assert_eq!(raw.try_answer(false).unwrap().status(), 304);
    block(async {
        let sender = chain.h2().await;
        for (method, path, status) in [("GET", "/304", 304), ("HEAD", "/200", 200)] {
            let request = h2::request(method, path).body(()).unwrap();
            let answer = h2::ask(&sender, request).await.unwrap();
            assert_eq!((answer.status(), answer.body.len()), (status, 0));
        }
    });
}
