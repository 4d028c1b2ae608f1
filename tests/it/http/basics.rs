//! Methods, statuses, bodies, trailers, routes, hosts, certificates at the edge, kept connections.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::Barrier,
    time::Duration,
};

use http::{HeaderMap, HeaderValue};
use portcullis::pki::Role;

use super::{
    Chain, backend,
    h2::{self, block},
    raw::{Peer, answering, mirror, ok},
    site,
};
use crate::world::{Backend, World, until};

/// nginx with one server; killed when dropped.
pub(super) struct Nginx {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Nginx {
    pub(super) fn start(world: &World, listen: &str) -> Self {
        let address = world.address();
        let folder = world.path("nginx");
        std::fs::create_dir_all(folder.join("www")).unwrap();
        world.write("nginx/www/page", "a page of nginx\n");
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {kind};\n"))
            .collect();
        let config = format!(
            "daemon off; user root; worker_processes 1; pid nginx.pid; error_log error.log crit;\n\
             events {{}}\nhttp {{ access_log off; {temporary}\nserver {{ listen {address} {listen};\n\
             root www; client_max_body_size 0; location /nothing {{ return 204; }}\n\
             location /made {{ return 200 $request_method:$http_host:$content_length; }} }} }}\n"
        );
        world.write("nginx/nginx.conf", &config);
        let child = Command::new("nginx")
            .arg("-p")
            .arg(&folder)
            .args(["-c", "nginx.conf"])
            .stdin(Stdio::null())
            .spawn()
            .expect("nginx: run scripts/test, it installs it");
        until("nginx", || std::net::TcpStream::connect(address).ok());
        Self { child, address }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        drop(
            Command::new("kill")
                .arg(self.child.id().to_string())
                .status(),
        );
        drop(self.child.wait());
    }
}

/// Pages, HEAD, 204, 304 and a body through nginx, over each pair of protocols.
#[rstest::rstest]
#[case("--http1.1", "1.1", "", "http/1.1")]
#[case("--http2", "2", "", "http/1.1")]
#[case("--http1.1", "1.1", "http2", "h2")]
#[case("--http2", "2", "http2", "h2")]
fn nginx_and_curl(
    #[case] flag: &str,
    #[case] version: &str,
    #[case] listen: &str,
    #[case] protocol: &str,
) {
    let world = World::new();
    let nginx = Nginx::start(&world, listen);
    let more = format!("protocol = \"{protocol}\"");
    let chain = Chain::new(world, nginx.address, "", &more);
    let format = "\n%{http_version} %{http_code}";
    let (_, page) = chain.curl(&[flag, "-w", format], "/page");
    assert_eq!(page, format!("a page of nginx\n\n{version} 200"));
    let (_, head) = chain.curl(&[flag, "-I"], "/page");
    assert!(
        head.to_ascii_lowercase().contains("content-length: 16"),
        "{head}"
    );
    let (_, nothing) = chain.curl(&[flag, "-w", format], "/nothing");
    assert_eq!(nothing, format!("\n{version} 204"));
    let etag = head.lines().find_map(|line| line.strip_prefix("etag: "));
    let etag = etag.or_else(|| head.lines().find_map(|line| line.strip_prefix("ETag: ")));
    let condition = format!("If-None-Match: {}", etag.unwrap());
    let (_, same) = chain.curl(&[flag, "-H", &condition, "-w", format], "/page");
    assert_eq!(same, format!("\n{version} 304"));
    if protocol == "http/1.1" {
        // over HTTP/2 nginx answers before the body, which this curl takes for an error
        let (_, made) = chain.curl(&[flag, "-d", "a body"], "/made");
        assert_eq!(made, format!("POST:site.test:{}:6", chain.edge.port()));
    }
    let line = chain.line("/page");
    assert_eq!(line["decision"], "admitted");
    assert_eq!(line["status"], 200);
    assert_eq!(line["method"], "GET");
    assert_eq!(line["backend"], "legacy");
    assert_eq!(line["bytes_out"], 16);
    // a missing page is the backend's answer, not ours
    let (_, missing) = chain.curl(&[flag, "-w", format], "/missing");
    assert!(
        missing.contains("nginx") && missing.ends_with(" 404"),
        "{missing}"
    );
    assert_eq!(chain.line("/missing")["decision"], "admitted");
}

#[test]
fn head_has_a_length_and_no_body() {
    let world = World::new();
    let (backend, seen) = mirror(world.address());
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    raw.request(&["HEAD /one"]);
    let answer = raw.try_answer(true).unwrap();
    assert_eq!(answer.one("content-length"), Some("1234"));
    // the next answer on the same connection begins where it must
    assert_eq!(raw.ask(&["GET /two"]).text(), "/two");
    block(async {
        let sender = chain.h2().await;
        let answer = h2::ask(&sender, h2::request("HEAD", "/three").body(()).unwrap()).await;
        let answer = answer.unwrap();
        assert_eq!(answer.head.headers()["content-length"], "1234");
        assert!(answer.body.is_empty());
    });
    assert_eq!(seen.targets(), ["/one", "/two", "/three"]);
    assert_eq!(backend.connections(), 1, "one kept connection was enough");
}

#[test]
fn answers_without_a_body_keep_the_connection() {
    let world = World::new();
    let (backend, _seen) = answering(world.address(), |request| match request.target() {
        "/204" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        "/304" => {
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: \"x\"\r\n\r\n".to_vec()
        }
        _ => ok("after"),
    });
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    assert_eq!(raw.ask(&["GET /204"]).status(), 204);
    let unchanged = raw.ask(&["GET /304"]);
    assert_eq!(unchanged.one("etag"), Some("\"x\""));
    assert_eq!(raw.ask(&["GET /"]).text(), "after");
    block(async {
        let sender = chain.h2().await;
        for (path, status) in [("/204", 204), ("/304", 304), ("/", 200)] {
            let answer = h2::ask(&sender, h2::request("GET", path).body(()).unwrap()).await;
            assert_eq!(answer.unwrap().status(), status);
        }
    });
    assert_eq!(backend.connections(), 1);
}

#[test]
fn trailers_pass_in_http_1() {
    let world = World::new();
    let (backend, seen) = answering(world.address(), |_| {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
          5\r\nhello\r\n0\r\nX-Sum: down\r\n\r\n"
            .to_vec()
    });
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    raw.send(
        "POST /t HTTP/1.1\r\nHost: site.test\r\nTE: trailers\r\nConnection: TE\r\nTrailer: X-Sum\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: up\r\n\r\n",
    );
    let answer = raw.answer();
    assert_eq!(answer.text(), "hello");
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "down".to_owned())]);
    let request = seen.last();
    assert_eq!(request.body, b"hi");
    assert_eq!(request.trailers, [("x-sum".to_owned(), "up".to_owned())]);
}

/// As gRPC does: a body, and the outcome in trailers, both ways.
#[test]
fn trailers_pass_in_http_2() {
    let world = World::new();
    let backend = h2::echo(world.address());
    let chain = Chain::new(world, backend.address, "", "protocol = \"h2\"");
    block(async {
        let sender = chain.h2().await;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        trailers.insert("x-forwarded-for", HeaderValue::from_static("127.0.0.1"));
        let request = h2::request("POST", "/echo.Service/Call")
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        let answer = h2::post(&sender, request, b"a message", Some(trailers))
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.text(), "a message");
        let back = answer.trailers.unwrap();
        assert_eq!(back["grpc-status"], "0");
        assert!(!back.contains_key("x-forwarded-for"), "{back:?}");
        let got = answer.head.headers();
        assert_eq!(got["x-path"], "/echo.Service/Call");
        assert_eq!(got["x-authority"], "site.test");
        assert_eq!(got["x-got-te"], "trailers");
        assert!(!got.contains_key("x-got-host"), "{got:?}");
        assert!(!got["x-scheme"].is_empty());
    });
    let line = chain.line("/echo.Service/Call");
    assert_eq!(
        (&line["bytes_in"], &line["bytes_out"]),
        (&9.into(), &9.into())
    );
}

#[test]
fn a_big_upload_waits_for_continue() {
    let world = World::new();
    let (backend, seen) = answering(world.address(), |request| {
        ok(&request.body.len().to_string())
    });
    let chain = Chain::new(world, backend.address, "", "");
    let file = chain.world.write("big", &"7".repeat(3 << 20));
    let data = format!("@{}", file.display());
    // in HTTP/2 clients don't wait for long: nobody can be relied on to say it there
    for (flag, patience) in [("--http1.1", "30"), ("--http2", "1")] {
        let arguments = [
            flag,
            "-H",
            "Expect: 100-continue",
            "--expect100-timeout",
            patience,
        ];
        let mut arguments = arguments.to_vec();
        arguments.extend(["--data-binary", &data]);
        let began = std::time::Instant::now();
        let (done, text) = chain.curl(&arguments, "/up");
        assert!(done && text == "3145728", "{text} {}", chain.gateway.text());
        assert!(began.elapsed() < Duration::from_secs(20), "nobody said 100");
    }
    assert_eq!(seen.last().one("expect"), Some("100-continue"));
    assert_eq!(chain.line("/up")["bytes_in"], 3 << 20);
    // by hand: the body is sent only once it has been asked for
    let mut raw = chain.raw();
    raw.request(&["POST /hand", "Expect: 100-continue", "Content-Length: 4"]);
    assert_eq!(raw.head().unwrap().status(), 100);
    raw.send("body");
    assert_eq!(raw.answer().text(), "4");
}

/// Whatever a backend answers early is the answer, and a refused one costs no upload.
#[test]
fn an_expectation_may_fail() {
    let world = World::new();
    let backend = Backend::serve(world.address(), |stream| {
        let mut peer = Peer::new(stream);
        if let Some(request) = peer.head() {
            let status = request.target().trim_start_matches('/').to_owned();
            peer.send(format!(
                "HTTP/1.1 {status} No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
            ));
            std::thread::sleep(Duration::from_millis(300));
            peer.close();
        }
    });
    let chain = Chain::new(world, backend.address, "", "");
    for status in [417, 413] {
        let mut raw = chain.raw();
        let target = format!("POST /{status}");
        raw.request(&[&target, "Expect: 100-continue", "Content-Length: 4"]);
        let answer = raw.head().unwrap();
        assert_eq!(answer.status(), status, "before any 100");
        let mut body = Vec::new();
        drop(std::io::Read::read_to_end(raw.reader(), &mut body));
        assert_eq!(body, b"no");
    }
    // ours: no route, so nothing is asked for
    let mut raw = chain.raw();
    raw.request(&[
        "POST /%2e%2e/up",
        "Expect: 100-continue",
        "Content-Length: 4",
    ]);
    let head = raw.head().unwrap();
    assert_eq!(head.status(), 400, "before any 100");
}

/// A gateway whose routes choose by host, path and method, in front of one mirror.
fn routed(world: World, mirror: SocketAddr) -> Chain {
    let sites = site(&world);
    let legacy = |acceptor| {
        ["one", "two", "shop", "bare"]
            .map(|name| backend(&world, name, acceptor, ""))
            .concat()
    };
    let (acceptor, link) = world.plain_acceptor(&mirror.to_string(), "");
    let edge = world.address();
    let text = format!(
        "[[listener]]\nname = \"public\"\naddress = \"{edge}\"\nmode = \"http\"\n{sites}\n\
         [[route]]\nhost = [\"*.site.test\"]\nbackend = \"shop\"\n\
         [[route]]\nhost = [\"site.test\"]\npath = \"/orders/\"\nmethods = [\"GET\", \"POST\"]\n\
         backend = \"one\"\nrewrite_prefix = \"/v2/\"\n\
         [[route]]\nhost = [\"site.test\"]\npath = \"/open\"\nbackend = \"two\"\n\
         [[route]]\nhost = [\"site.test\"]\npath = \"/bare/\"\nbackend = \"bare\"\nrewrite_prefix = \"/\"\n{}",
        legacy(link)
    );
    let gateway = world.gateway(&text);
    Chain {
        world,
        acceptor,
        gateway,
        edge,
    }
}

#[test]
fn routes_choose_by_host_path_and_method() {
    let world = World::new();
    let (backend, seen) = mirror(world.address());
    let chain = routed(world, backend.address);
    let mut raw = chain.raw();
    for (method, path, expected) in [
        ("GET", "/orders", "/v2"),
        ("POST", "/orders/7?a=/orders/", "/v2/7?a=/orders/"),
        ("DELETE", "/open/x%20y", "/open/x%20y"),
        ("GET", "/bare", "/"),
        ("GET", "/bare/x", "/x"),
    ] {
        let answer = raw.ask(&[&format!("{method} {path}"), "Content-Length: 0"]);
        assert_eq!(answer.text(), expected, "{method} {path}");
    }
    assert_eq!(chain.line("/orders/7")["backend"], "one");
    assert_eq!(chain.line("/open/x%20y")["backend"], "two");
    let before = seen.all().len();
    for (method, path) in [
        ("GET", "/ordersx"),
        ("DELETE", "/orders/8"),
        ("GET", "/Open"),
        ("GET", "/"),
    ] {
        let answer = raw.ask(&[&format!("{method} {path}"), "Content-Length: 0"]);
        assert_eq!(answer.status(), 404, "{method} {path}");
        chain.refused(path, 404, "no_route");
    }
    assert_eq!(seen.all().len(), before, "nothing of these came through");
    raw.send("GET /any HTTP/1.1\r\nHost: A.Site.Test\r\n\r\n");
    assert_eq!(raw.answer().text(), "/any");
    assert_eq!(chain.line("/any")["backend"], "shop");
    raw.send("GET /other HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n");
    assert_eq!(raw.answer().status(), 421, "neither certificate nor route");
    assert_eq!(
        chain.refused("/other", 421, "misdirected")["host"],
        "elsewhere.test"
    );
}

#[rstest::rstest]
#[case("GET /missing HTTP/1.1\r\n\r\n", 400)]
#[case(
    "GET /twice HTTP/1.1\r\nHost: site.test\r\nHost: site.test\r\n\r\n",
    400
)]
#[case("GET /list HTTP/1.1\r\nHost: site.test, other.test\r\n\r\n", 400)]
#[case("GET /user HTTP/1.1\r\nHost: me@site.test\r\n\r\n", 400)]
#[case(
    "GET https://other.test/differs HTTP/1.1\r\nHost: site.test\r\n\r\n",
    400
)]
#[case(
    "GET https://site.test/absolute HTTP/1.1\r\nHost: site.test\r\n\r\n",
    200
)]
#[case("GET /port HTTP/1.1\r\nHost: site.test:443\r\n\r\n", 200)]
#[case("GET /dot HTTP/1.1\r\nHost: SITE.test.\r\n\r\n", 200)]
fn a_request_is_for_one_host(#[case] request: &str, #[case] status: u16) {
    let world = World::new();
    let (backend, seen) = mirror(world.address());
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    raw.send(request);
    assert_eq!(raw.answer().status(), status);
    let path = request.split(' ').nth(1).unwrap();
    let path = path.rsplit('/').next().unwrap();
    let path = format!("/{path}");
    if status == 200 {
        assert_eq!(seen.last().target(), path, "origin form");
        assert_eq!(seen.last().one("host"), Some("site.test"));
    } else {
        chain.refused(&path, status, "request_invalid");
        assert!(seen.all().is_empty());
    }
}

#[rstest::rstest]
#[case("", "site.test")]
#[case("host_header = \"preserve\"", "site.test")]
#[case("host_header = \"backend\"", "legacy.internal")]
#[case("host_header = \"old.example\"", "old.example")]
fn the_backend_is_told_a_host(#[case] more: &str, #[case] expected: &str) {
    let world = World::new();
    let (backend, seen) = mirror(world.address());
    let chain = Chain::new(world, backend.address, "", more);
    assert_eq!(chain.raw().ask(&["GET /"]).status(), 200);
    assert_eq!(seen.last().one("host"), Some(expected));
    assert_eq!(seen.last().one("x-forwarded-host"), Some("site.test"));
}

#[test]
fn http_1_0_is_answered_in_its_own_way() {
    let world = World::new();
    let (backend, seen) = answering(world.address(), |_| {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n".to_vec()
    });
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    raw.send("GET /old HTTP/1.0\r\nHost: site.test\r\n\r\n");
    let answer = raw.answer();
    assert_eq!(answer.one("transfer-encoding"), None, "{answer:?}");
    assert_eq!(answer.text(), "one");
    assert!(seen.last().start.ends_with("HTTP/1.1"));
    let mut raw = chain.raw();
    raw.send("GET /nameless HTTP/1.0\r\n\r\n");
    assert_eq!(raw.answer().status(), 200);
    assert_eq!(seen.last().all("host").len(), 1);
}

fn with_clients(world: World, mirror: SocketAddr, listener: &str) -> Chain {
    let (sites, trust) = (site(&world), world.authority.trust());
    world.issue(Role::Client, "ops", &["ops.staff.example"]);
    world.issue(Role::Client, "desk", &["desk.staff.example"]);
    world.issue(Role::Client, "guest", &["guest.example"]);
    let (acceptor, link) = world.plain_acceptor(&mirror.to_string(), "");
    let edge = world.address();
    let legacy = backend(&world, "legacy", link, "");
    let text = format!(
        "[[listener]]\nname = \"public\"\naddress = \"{edge}\"\nmode = \"http\"\n{sites}\
         client_ca = {trust:?}\nclients = [\"dns:*.staff.example\"]\n{listener}\n\
         [[route]]\npath = \"/admin\"\nclients = [\"dns:ops.staff.example\"]\nbackend = \"legacy\"\n\
         [[route]]\nbackend = \"legacy\"\n{legacy}"
    );
    let gateway = world.gateway(&text);
    Chain {
        world,
        acceptor,
        gateway,
        edge,
    }
}

#[test]
fn clients_show_a_certificate_at_the_edge() {
    let world = World::new();
    let (backend, seen) = mirror(world.address());
    let chain = with_clients(world, backend.address, "");
    let client = |name| {
        let leaf = chain.world.leaf(Role::Client, name);
        chain.world.client().certificate(&leaf)
    };
    let mut ops = chain.raw_as(&client("ops"));
    assert_eq!(ops.ask(&["GET /admin/x"]).text(), "/admin/x");
    assert_eq!(
        chain.line("/admin/x")["identity"],
        "spiffe://example.internal/client/ops"
    );
    let mut desk = chain.raw_as(&client("desk"));
    assert_eq!(desk.ask(&["GET /desk"]).text(), "/desk");
    // in whatever spelling the backend would read it
    for path in [
        "/admin",
        "/admin/y",
        "/%61dmin/z",
        "//admin/w",
        "/admin;v=1/u",
    ] {
        assert_eq!(desk.ask(&[&format!("GET {path}")]).status(), 403, "{path}");
        chain.refused(path, 403, "client_not_allowed");
    }
    assert_eq!(seen.targets(), ["/admin/x", "/desk"]);
    // refused in the handshake: its alert comes with the first read
    let refused = |client: crate::world::Client| match client.connect(chain.edge, "site.test") {
        Err(_) => true,
        Ok(stream) => {
            let mut raw = super::Raw::new(stream);
            raw.try_send("GET /never HTTP/1.1\r\nHost: site.test\r\n\r\n")
                .is_err()
                || raw.head().is_err()
        }
    };
    assert!(refused(client("guest")));
    chain.gateway.refusal("name_not_allowed");
    assert!(refused(chain.world.client()));
    chain.gateway.refusal("certificate_missing");
    let other = World::new();
    let stranger = other.issue(Role::Client, "ops", &["ops.staff.example"]);
    assert!(refused(chain.world.client().certificate(&stranger)));
    chain.gateway.refusal("certificate_unknown_issuer");
    assert_eq!(seen.all().len(), 2);
}

#[test]
fn an_optional_certificate_opens_only_what_it_is_for() {
    let world = World::new();
    let (backend, seen) = mirror(world.address());
    let chain = with_clients(world, backend.address, "client_cert = \"optional\"");
    let mut nobody = chain.raw();
    assert_eq!(nobody.ask(&["GET /open"]).text(), "/open");
    assert_eq!(nobody.ask(&["GET /admin"]).status(), 403);
    chain.refused("/admin", 403, "client_not_allowed");
    let leaf = chain.world.leaf(Role::Client, "ops");
    let mut ops = chain.raw_as(&chain.world.client().certificate(&leaf));
    assert_eq!(ops.ask(&["GET /admin/x"]).text(), "/admin/x");
    assert_eq!(seen.targets(), ["/open", "/admin/x"]);
}

#[test]
fn sources_are_allowed_and_denied() {
    let world = World::new();
    let (backend, _seen) = mirror(world.address());
    let (good, bad) = (world.other_ip(5), world.other_ip(6));
    let net = world.other_ip(4);
    let listener = format!("allow = [\"{net}/30\"]\ndeny = [\"{bad}\"]");
    let chain = Chain::new(world, backend.address, &listener, "");
    let from = |ip| chain.world.client().source(ip);
    assert_eq!(chain.raw_as(&from(good)).ask(&["GET /"]).status(), 200);
    assert!(from(bad).connect(chain.edge, "site.test").is_err());
    chain.gateway.refusal("source_denied");
    let stranger = chain.world.other_ip(99);
    assert!(from(stranger).connect(chain.edge, "site.test").is_err());
    chain.gateway.refusal("source_untrusted");
}

#[test]
fn many_streams_run_side_by_side() {
    let world = World::new();
    let (backend, seen) = answering(world.address(), |request| {
        std::thread::sleep(Duration::from_millis(300));
        ok(request.target())
    });
    let chain = Chain::new(world, backend.address, "", "");
    block(async {
        let sender = chain.h2().await;
        for streams in [8, 100] {
            let began = std::time::Instant::now();
            let asked = (0..streams).map(|n| {
                let sender = sender.clone();
                async move {
                    let path = format!("/{streams}/{n}");
                    let request = h2::request("GET", &path).body(()).unwrap();
                    let answer = h2::ask(&sender, request).await.unwrap();
                    assert_eq!(answer.text(), path);
                }
            });
            futures_util::future::join_all(asked).await;
            let one_by_one = Duration::from_millis(300) * streams;
            assert!(began.elapsed() < one_by_one, "{streams} streams in a row");
        }
    });
    assert_eq!(seen.all().len(), 108);
}

#[test]
fn link_connections_are_kept() {
    let world = World::new();
    let (backend, seen) = mirror(world.address());
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    for n in 0..100 {
        assert_eq!(raw.ask(&[&format!("GET /{n}")]).status(), 200);
    }
    assert_eq!(seen.all().len(), 100);
    assert_eq!(backend.connections(), 1);
    // another client, the same connection
    assert_eq!(
        chain
            .raw()
            .ask(&["POST /more", "Content-Length: 0"])
            .status(),
        200
    );
    assert_eq!(backend.connections(), 1);
}

#[rstest::rstest]
#[case("pool = { idle_timeout = \"300ms\", ready = 0 }")]
#[case("pool = { max_age = \"300ms\", ready = 0 }")]
#[case("pool = { idle = 0 }")]
fn a_link_connection_is_not_kept_for_ever(#[case] more: &str) {
    let world = World::new();
    let (backend, _seen) = mirror(world.address());
    let chain = Chain::new(world, backend.address, "", more);
    let mut raw = chain.raw();
    assert_eq!(raw.ask(&["GET /1"]).status(), 200);
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(raw.ask(&["GET /2"]).status(), 200);
    assert_eq!(backend.connections(), 2);
}

/// Many requests at once, again and again, open links once; a quiet second closes what is too many.
#[test]
fn links_of_a_burst_serve_the_next_one() {
    const AT_ONCE: usize = 8;
    let world = World::new();
    let all_here = Barrier::new(AT_ONCE);
    let backend = Backend::serve(world.address(), move |stream| {
        let mut peer = Peer::new(stream);
        while let Some(request) = peer.head() {
            all_here.wait();
            peer.send(ok(request.target()));
        }
    });
    let chain = Chain::new(world, backend.address, "", "pool = { idle = 2, ready = 0 }");
    let burst = || {
        let mut raws: Vec<_> = (0..AT_ONCE).map(|_| chain.raw()).collect();
        std::thread::scope(|scope| {
            for raw in &mut raws {
                scope.spawn(|| assert_eq!(raw.ask(&["GET /"]).status(), 200));
            }
        });
        // the last of them is given back a moment after its answer
        std::thread::sleep(Duration::from_millis(100));
    };
    burst();
    let opened = backend.connections();
    burst();
    let again = backend.connections();
    assert!(again <= opened + 2, "{opened}, then {again}");
    std::thread::sleep(Duration::from_millis(3_500));
    burst();
    assert_eq!(backend.connections(), again + AT_ONCE - 2);
}

/// A backend may close what we keep, at any moment, and often does so just then.
#[test]
fn a_backend_that_closes_kept_connections_costs_no_request() {
    let world = World::new();
    let backend = Backend::serve(world.address(), |stream| {
        let mut peer = Peer::new(stream);
        if let Some(request) = peer.head() {
            peer.send(ok(request.target()));
            // without a word: the gateway believes that it may be kept
            peer.close();
        }
    });
    let chain = Chain::new(world, backend.address, "", "");
    let mut raw = chain.raw();
    for n in 0..30 {
        let path = format!("/{n}");
        let answer = raw.ask(&[&format!("GET {path}")]);
        assert_eq!((answer.status(), answer.text()), (200, path));
    }
}
