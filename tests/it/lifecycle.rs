//! The life of a process: reload, drain, what it says when it can't start, the admin listener, the
//! service manager.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::{UnixDatagram, UnixStream},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use portcullis::pki::{CrlOptions, IssueRequest, Reason, Role};
use rustix::process::Signal;

use crate::world::{
    BINARY, Backend, Client, PATIENCE, Running, TlsStream, World, echo, get, named_backend, says,
    text, until,
};

fn answers(stream: &mut TlsStream) -> bool {
    let mut back = [0; 4];
    stream.write_all(b"word").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"word"
}

fn leaf_of(stream: &TlsStream) -> Vec<u8> {
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

fn fingerprint(running: &Running) -> String {
    let (_, body) = running.admin("/status.json").unwrap();
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    status["identity"]["fingerprint"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn again(world: &World, role: Role, name: &str, sans: &[&str]) {
    let request = IssueRequest {
        force: true,
        ..IssueRequest::new(role, name)
    };
    world.issue_as(&sans.iter().fold(request, |request, san| request.san(san)));
}

#[test]
fn certificates_keys_and_lists_change_under_a_live_connection() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (gateway, acceptor, edge) = world.chain(&backend.address.to_string());
    let mut live = world.client().connect(edge, "site.test").unwrap();
    assert!(answers(&mut live));
    let before = leaf_of(&live);

    // the edge's own certificate
    again(&world, Role::Server, "site", &["site.test", "*.site.test"]);
    until("the new certificate at the edge", || {
        let stream = world.client().connect(edge, "site.test").ok()?;
        (leaf_of(&stream) != before).then_some(())
    });
    assert!(answers(&mut live));

    // both identities on the link
    for (side, role, name, sans) in [
        (&gateway, Role::Gateway, "edge-1", &[][..]),
        (
            &acceptor,
            Role::Acceptor,
            "legacy",
            &["legacy.internal"][..],
        ),
    ] {
        let old = fingerprint(side);
        again(&world, role, name, sans);
        until("the new identity", || {
            (fingerprint(side) != old).then_some(())
        });
        assert!(answers(&mut live));
        assert!(answers(
            &mut world.client().connect(edge, "site.test").unwrap()
        ));
    }

    // the CRLs, by SIGHUP too
    world.authority.write_crls(CrlOptions::default()).unwrap();
    for side in [&gateway, &acceptor] {
        side.reload();
        let (_, ready) = side.admin("/readyz?verbose").unwrap();
        assert!(ready.contains("ok   reload:"), "{ready}");
        assert!(side.metric("portcullis_reloads_total{result=\"success\"}") >= 2.0);
        assert!(side.metric("portcullis_reloads_total{result=\"failure\"}") < 3.0);
    }
    assert!(answers(&mut live));
}

/// A close with unread bytes in the socket is a reset, which may take the answer along.
#[test]
fn who_still_sends_when_the_admin_listener_closes_hears_its_answer() {
    let world = World::new();
    let (acceptor, _) = world.plain_acceptor(&world.address().to_string(), "");
    let socket = acceptor.config.with_extension("sock");
    let mut stream = UnixStream::connect(socket).unwrap();
    // more than all buffers hold
    let body = vec![b'x'; 8 << 20];
    write!(
        stream,
        "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .unwrap();
    stream.write_all(&body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
}

#[test]
fn a_changed_configuration_moves_routes_and_listeners_and_leaves_bytes_alone() {
    let world = World::new();
    let one = Backend::greeting(world.address(), "one");
    let (_acceptor, link) = world.plain_acceptor(&one.address.to_string(), "");
    let edge = world.address();
    let text =
        world.common(Role::Gateway, "edge-1") + &world.gateway_text("tcp", edge, link, "", "");
    let gateway = world.start("gateway", &text);
    let mut live = world.client().connect(edge, "site.test").unwrap();
    live.read_exact(&mut [0; 3]).unwrap();
    assert!(answers(&mut live));

    let more = world.address();
    let site = world.leaf(Role::Server, "site");
    world.write(
        "gateway.toml",
        &format!(
            "{text}\n[[listener]]\nname = \"more\"\naddress = \"{more}\"\nmode = \"tcp\"\n\
             certificate = {:?}\nkey = {:?}\n",
            site.certificate, site.key
        ),
    );
    // noticed without a signal
    until("the new listener", || TcpStream::connect(more).ok());
    let mut other = world.client().connect(more, "site.test").unwrap();
    other.read_exact(&mut [0; 3]).unwrap();
    assert!(answers(&mut other));
    assert!(answers(&mut live));

    world.write("gateway.toml", &text);
    gateway.reload();
    until("the end of the listener", || TcpStream::connect(more).err());
    assert!(answers(&mut live));
}

#[test]
fn a_broken_file_leaves_the_last_good_state_and_is_said_everywhere() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (gateway, _acceptor, edge) = world.chain(&backend.address.to_string());
    let mut live = world.client().connect(edge, "site.test").unwrap();
    let config = world.path("gateway.toml");
    let good = std::fs::read_to_string(&config).unwrap();
    let site = world.leaf(Role::Server, "site");
    let crl = world.authority.crl();
    let other = world.self_signed("other");
    let roots = std::fs::read_to_string(world.authority.trust()).unwrap();
    let client = Client::new(&world.write("client-trust.pem", &roots));
    let key_of_another = std::fs::read_to_string(&other.key).unwrap();
    let expected_failures = gateway.metric("portcullis_reloads_total{result=\"failure\"}");
    let breaks = |file: &Path, broken: &str, said: &str| {
        let whole = std::fs::read_to_string(file).unwrap();
        let before = gateway.metric("portcullis_reloads_total{result=\"failure\"}");
        let taken = gateway.metric("portcullis_reloads_total{result=\"success\"}");
        let name = file.file_name().unwrap().to_str().unwrap();
        replace(file, broken);
        until(name, || {
            (gateway.metric("portcullis_reloads_total{result=\"failure\"}") > before).then_some(())
        });
        // also where the last good configuration is loaded anew with the files of today
        let counted = gateway.metric("portcullis_reloads_total{result=\"success\"}");
        assert_eq!(counted, taken, "{name}");
        let (status, ready) = gateway.admin("/readyz?verbose").unwrap();
        assert_eq!(status, 200, "it still works: {ready}");
        assert!(
            ready.contains("warn reload:") && ready.contains(said),
            "{name}: {ready}"
        );
        gateway.line(said, |line| {
            line["level"] == "ERROR" && says(line, "problem", said)
        });
        assert!(
            answers(&mut client.connect(edge, "site.test").unwrap()),
            "{name}"
        );
        replace(file, &whole);
        until("the good file", || {
            let (_, ready) = gateway.admin("/readyz?verbose")?;
            ready.contains("ok   reload:").then_some(())
        });
    };
    breaks(&config, &good.replace("mode =", "mood ="), "mood");
    breaks(&site.certificate, "nothing at all\n", "cert.pem");
    breaks(&site.key, &key_of_another, "key.pem");
    breaks(
        &crl,
        "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
        "crl.pem",
    );
    breaks(&world.authority.trust(), "", "trust.pem");
    let whole = std::fs::read_to_string(&crl).unwrap();
    std::fs::remove_file(&crl).unwrap();
    until("the missing list", || {
        let (_, ready) = gateway.admin("/readyz?verbose")?;
        (ready.contains("warn reload:") && ready.contains("crl.pem")).then_some(())
    });
    assert!(answers(&mut client.connect(edge, "site.test").unwrap()));
    replace(&crl, &whole);
    assert!(
        gateway.metric("portcullis_reloads_total{result=\"failure\"}") >= expected_failures + 5.0
    );
    assert!(answers(&mut live));
}

fn replace(file: &Path, text: &str) {
    portcullis::pki::store::write_file(file, text.as_bytes(), 0o600).unwrap();
}

/// Sends so many bytes, at least `over` long, then ends.
fn slow_source(world: &World, parts: u64, over: Duration) -> Backend {
    Backend::serve(world.address(), move |mut stream| {
        let part = vec![7; 100_000];
        for _ in 0..parts {
            if stream.write_all(&part).is_err() {
                return;
            }
            std::thread::sleep(over / u32::try_from(parts).unwrap());
        }
    })
}

#[test]
fn a_drain_lets_transfers_end_and_takes_nobody_new() {
    for role in ["gateway", "acceptor"] {
        let world = World::new();
        let backend = slow_source(&world, 20, Duration::from_secs(2));
        let (gateway, acceptor, edge) = world.chain(&backend.address.to_string());
        let mut stream = world.client().connect(edge, "site.test").unwrap();
        stream.read_exact(&mut [0; 1000]).unwrap();
        let (stopped, _other) = if role == "gateway" {
            (gateway, acceptor)
        } else {
            (acceptor, gateway)
        };
        stopped.signal(Signal::TERM);
        stopped.line("draining", |line| line["message"] == "draining");
        until("the end of listening", || {
            world
                .client()
                .connect(edge, "site.test")
                .and_then(|mut late| late.read(&mut [0]))
                .err()
        });
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest.len() + 1000, 2_000_000, "{role}");
        let mut stopped = stopped;
        assert!(stopped.ended().success(), "{role}");
        let line = stopped.line("stopped", |line| line["message"] == "stopped");
        assert_eq!(line["cut"], 0, "{role}");
    }
}

#[test]
fn who_is_shut_out_does_not_stay_to_the_end_of_a_drain() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let patient = "limits = { drain_timeout = \"2m\" }";
    let (mut acceptor, link) = world.plain_acceptor(&backend.address.to_string(), patient);
    let (_gateway, edge) = world.plain_gateway("tcp", link, "", "");
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    assert!(answers(&mut stream));
    acceptor.signal(Signal::TERM);
    acceptor.line("draining", |line| line["message"] == "draining");
    assert!(answers(&mut stream));
    world
        .authority
        .revoke("gateway/edge-1", Reason::KeyCompromise)
        .unwrap();
    assert!(stream.read(&mut [0]).is_err());
    let ended = acceptor.ended_within(Duration::from_secs(20));
    assert!(ended.is_some_and(|status| status.success()));
    let line = acceptor.refusal("rules_changed");
    assert!(says(&line, "detail", "certificate_revoked"), "{line}");
}

#[test]
fn what_outlasts_the_drain_is_cut_and_looks_it() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    // what counts is the configuration that is in force when it ends
    let (mut gateway, edge) = world.plain_gateway(
        "tcp",
        link,
        "limits = { drain_timeout = \"2m\" }",
        "tunnel = \"direct\"",
    );
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    let file = world.path("gateway.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    replace(&file, &text.replace("\"2m\"", "\"700ms\""));
    gateway.reload();
    assert!(answers(&mut stream));
    let began = Instant::now();
    gateway.signal(Signal::TERM);
    let read = stream.read(&mut [0]);
    assert!(read.is_err(), "it looks complete: {read:?}");
    assert!(began.elapsed() >= Duration::from_millis(600));
    assert!(gateway.ended().success());
    assert!(began.elapsed() < Duration::from_secs(8));
    assert_eq!(gateway.access("ended")["reason"], "draining");
    assert_eq!(
        gateway.line("stopped", |line| line["message"] == "stopped")["cut"],
        1
    );
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (mut gateway, _acceptor, edge) = world.chain(&backend.address.to_string());
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    assert!(answers(&mut stream));
    gateway.signal(Signal::TERM);
    gateway.line("draining", |line| line["message"] == "draining");
    std::thread::sleep(Duration::from_millis(500));
    assert!(gateway.alive(), "it did not wait for the live connection");
    let began = Instant::now();
    gateway.signal(Signal::TERM);
    gateway.ended();
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn kept_links_hold_no_gateway_back() {
    for ready in [0, 2] {
        let world = World::new();
        let backend = named_backend(&world, "it");
        let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
        let (mut gateway, edge) = world.plain_gateway(
            "http",
            link,
            "limits = { drain_timeout = \"2m\" }",
            &format!("pool = {{ ready = {ready} }}"),
        );
        let mut stream = world.client().connect(edge, "site.test").unwrap();
        assert_eq!(get(&mut stream, "/").0, 200);
        drop(stream);
        gateway.signal(Signal::TERM);
        let ended = gateway.ended_within(Duration::from_secs(20));
        assert!(
            ended.is_some_and(|status| status.success()),
            "ready = {ready}: it waits for links that no client uses"
        );
    }
}

#[test]
fn an_idle_process_ends_at_once_when_told() {
    let world = World::new();
    let (acceptor, _) = world.plain_acceptor(&world.address().to_string(), "");
    let began = Instant::now();
    assert_eq!(acceptor.stop().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn what_keeps_it_from_starting_is_one_error_and_the_right_exit_code() {
    let world = World::new();
    let link = world.address();
    let held = TcpListener::bind(world.address()).unwrap();
    let taken = held.local_addr().unwrap();
    let good = |edge: SocketAddr| {
        world.common(Role::Gateway, "edge-1") + &world.gateway_text("tcp", edge, link, "", "")
    };
    let free = world.address();
    let site = world.leaf(Role::Server, "site");
    let missing = good(free).replace(text(&site.certificate), "/nowhere/site.pem");
    let cases = [
        ("taken", good(taken), 1, taken.to_string()),
        ("missing", missing, 2, "/nowhere/site.pem".to_owned()),
        (
            "typo",
            good(free).replace("mode =", "mood ="),
            2,
            "mood".to_owned(),
        ),
        (
            "syntax",
            good(free) + "[[listener\n",
            2,
            "syntax.toml".to_owned(),
        ),
        (
            "mismatch",
            good(free).replace(
                text(&site.key),
                text(&world.leaf(Role::Gateway, "edge-1").key),
            ),
            2,
            "key".to_owned(),
        ),
    ];
    for (name, config, code, said) in cases {
        let file = world.write(&format!("{name}.toml"), &config);
        let mut running = Running::launch("gateway", &file);
        assert_eq!(
            running.ended().code(),
            Some(code),
            "{name}: {}",
            running.text()
        );
        let errors: Vec<_> = running
            .text()
            .lines()
            .filter(|line| !line.starts_with('{'))
            .map(str::to_owned)
            .collect();
        let all = errors.join("\n");
        assert!(all.contains(&said), "{name}: {}", running.text());
        assert!(!all.contains("panicked"), "{name}: {all}");
        if code == 1 {
            assert_eq!(errors.len(), 1, "{name}: {all}");
        }
        // nothing was bound on the way; the address is free again
        assert!(TcpStream::connect(free).is_err(), "{name}");
    }
    let absent = world.path("absent.toml");
    let mut running = Running::launch("gateway", &absent);
    assert_eq!(running.ended().code(), Some(2));
    assert!(running.text().contains("absent.toml"), "{}", running.text());

    // the other role's configuration
    let file = world.write("other-role.toml", &good(free));
    let mut running = Running::launch("acceptor", &file);
    assert_eq!(running.ended().code(), Some(2));
}

/// One request by hand: status and body.
fn ask(to: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

/// The scheme's case says nothing; two hosts are none, wherever they stand, and so are two tokens.
fn one_host_and_any_case(get: &impl Fn(&str, &str, &str) -> u16, host: &str, token: &str) {
    let lower = token.replace("Bearer", "bearer");
    assert_eq!(get("/metrics", host, &lower), 200);
    let wrong = "Authorization: Bearer another-one-of-enough-length\r\n";
    for both in [[token, wrong], [wrong, token], [token, token]] {
        assert_eq!(get("/metrics", host, &both.concat()), 401, "{both:?}");
    }
    let second = format!("Host: rebound.example\r\n{token}");
    assert_eq!(get("/metrics", host, &second), 403);
    assert_eq!(get("http://rebound.example/metrics", host, token), 403);
    assert_eq!(get(&format!("http://{host}/metrics"), host, token), 200);
}

#[test]
fn the_admin_listener_on_tcp_asks_for_its_token_and_for_a_host_of_its_own() {
    let world = World::new();
    let admin = world.address();
    world.write("token", "a-token-of-enough-length\n");
    let listener = world.acceptor_text(
        world.address(),
        &world.address().to_string(),
        &format!("trusted_ips = [{:?}]", world.near()),
    );
    let common = world.common(Role::Acceptor, "legacy");
    let unix = format!(
        "address = \"unix:{}\"",
        world.path("acceptor.sock").display()
    );
    assert!(common.contains(&unix));
    let config = common.replace(
        &unix,
        &format!("address = \"{admin}\"\ntoken = {{ file = \"token\" }}"),
    ) + &listener;
    let file = world.write("acceptor.toml", &config);
    let running = Running::launch("acceptor", &file);
    running.line("the admin listener", |line| {
        line["message"] == "admin listener"
    });
    let with = |method: &str, path: &str, host: &str, more: &str| {
        ask(
            admin,
            &format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n"),
        )
    };
    let host = admin.to_string();
    let token = "Authorization: Bearer a-token-of-enough-length\r\n";
    let get = |path: &str, host: &str, more: &str| with("GET", path, host, more).0;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(path, &host, ""), 200, "{path}");
    }
    for path in ["/readyz?verbose", "/metrics", "/status.json", "/", "/else"] {
        assert_eq!(get(path, &host, ""), 401, "{path}");
        assert_eq!(
            get(
                path,
                &host,
                "Authorization: Bearer a-token-of-enough-lengtH\r\n"
            ),
            401,
            "{path}"
        );
        let allowed = get(path, &host, token);
        assert!(allowed == 200 || allowed == 404, "{path}: {allowed}");
        // a page elsewhere, by a name that leads here
        assert_eq!(get(path, "rebound.example", token), 403, "{path}");
        let origin = format!("{token}Origin: https://elsewhere.example\r\n");
        assert_eq!(get(path, &host, &origin), 403, "{path}");
    }
    assert_eq!(get("/healthz", "rebound.example", ""), 403);
    one_host_and_any_case(&get, &host, token);
    assert_eq!(with("POST", "/metrics", &host, token).0, 405);
    let (_, metrics) = with("GET", "/metrics", &host, token);
    assert!(metrics.contains("# EOF"), "{metrics}");
    // a token that is too short is none; a good one takes the place of the old
    world.write("token", "short\n");
    running.line("the refusal", |line| says(line, "problem", "token"));
    assert_eq!(get("/metrics", &host, token), 200);
    world.write("token", "another-token-of-enough-length\n");
    let newer = "Authorization: Bearer another-token-of-enough-length\r\n";
    until("the new token", || {
        (get("/metrics", &host, newer) == 200).then_some(())
    });
    assert_eq!(get("/metrics", &host, token), 401);
    assert!(
        !running.text().contains("token-of-enough"),
        "the token is in the log"
    );

    // over TCP a token is not optional
    let config = config.replace("token = { file = \"token\" }\n", "");
    let file = world.write("without.toml", &config);
    let mut without = Running::launch("acceptor", &file);
    if without.ended_within(Duration::from_secs(3)).is_none() {
        assert_eq!(get("/metrics", &host, ""), 401);
    }
}

#[test]
fn the_admin_socket_answers_its_owner_and_nobody_else() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new();
    let (acceptor, _) = world.plain_acceptor(&world.address().to_string(), "");
    for (path, status) in [
        ("/healthz", 200),
        ("/readyz", 200),
        ("/readyz?verbose", 200),
        ("/metrics", 200),
        ("/status.json", 200),
        ("/nothing", 404),
    ] {
        assert_eq!(acceptor.admin(path).unwrap().0, status, "{path}");
    }
    let mode = std::fs::metadata(world.path("acceptor.sock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o007, 0, "{mode:o}");
    let (_, status) = acceptor.admin("/status.json").unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["schema"], 1);
    assert_eq!(status["role"], "acceptor");
    assert_eq!(
        status["identity"]["name"],
        "spiffe://example.internal/acceptor/legacy"
    );
}

#[test]
fn the_service_manager_hears_of_each_state() {
    let world = World::new();
    let path = world.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = |wanted: &str| {
        let end = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < end, "{wanted} was not said");
            let mut bytes = [0; 4096];
            let len = manager.recv(&mut bytes).unwrap();
            let said = String::from_utf8_lossy(&bytes[..len]).into_owned();
            if said.lines().any(|line| line.starts_with(wanted)) {
                return said;
            }
        }
    };
    let address = world.address();
    let config = world.common(Role::Acceptor, "legacy")
        + &world.acceptor_text(
            address,
            &world.address().to_string(),
            &format!("trusted_ips = [{:?}]", world.near()),
        );
    let file = world.write("acceptor.toml", &config);
    let mut running = Running::launch_by(
        Command::new(BINARY)
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "400000"),
        "acceptor",
        &file,
    );
    let ready = hear("READY=1");
    assert!(ready.contains(&address.to_string()), "{ready}");
    // bound before it says so
    TcpStream::connect(address).unwrap();
    hear("WATCHDOG=1");
    running.signal(Signal::HUP);
    let reloading = hear("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    hear("READY=1");
    // a reload that is refused ends as well: the manager must not wait for ever
    world.write("acceptor.toml", "mode = 1\n");
    hear("RELOADING=1");
    hear("READY=1");
    running.signal(Signal::TERM);
    hear("STOPPING=1");
    assert!(running.ended().success());
}

#[test]
fn a_socket_of_the_service_manager_is_taken_by_its_name() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let edge = world.address();
    let config = |name: &str| {
        let placeholder: SocketAddr = "127.0.0.1:1".parse().unwrap();
        world.common(Role::Gateway, "edge-1")
            + &world
                .gateway_text("tcp", placeholder, link, "", "")
                .replacen(&placeholder.to_string(), &format!("systemd:{name}"), 1)
    };
    let activated = |edge: SocketAddr, file: &str, name: &str| {
        let file = world.write(file, &config(name));
        let running = Running::launch_by(
            Command::new("systemd-socket-activate").args([
                "-l",
                &edge.to_string(),
                "--fdname=public",
                BINARY,
            ]),
            "gateway",
            &file,
        );
        // it listens in our place, and starts us with the first connection
        let first = until("the socket", || TcpStream::connect(edge).ok());
        (running, first)
    };
    let (gateway, first) = activated(edge, "gateway.toml", "public");
    let gateway = gateway.ready();
    // the connection that started it is served too
    let mut stream = world.client().over(first, "site.test").unwrap();
    assert!(answers(&mut stream), "{}", gateway.text());
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    assert!(answers(&mut stream));
    // the socket survives a reload
    gateway.reload();
    assert!(answers(&mut stream));
    assert!(answers(
        &mut world.client().connect(edge, "site.test").unwrap()
    ));

    let (mut wrong, _first) = activated(world.address(), "wrong.toml", "private");
    assert_eq!(wrong.ended().code(), Some(1));
    let said = wrong.text();
    assert!(
        said.contains("FileDescriptorName=private") && said.contains("public"),
        "{said}"
    );
}

#[test]
fn too_few_descriptors_for_the_limits_are_said_at_start() {
    let world = World::new();
    for (limit, connections, warned) in [(200, 200, true), (4000, 200, false)] {
        let file = format!("acceptor-{limit}");
        let config = world.common_as(&world.leaf(Role::Acceptor, "legacy"), &file, "")
            + &world.acceptor_text(
                world.address(),
                &world.address().to_string(),
                &format!(
                    "trusted_ips = [{:?}]\nlimits = {{ connections = {connections} }}",
                    world.near()
                ),
            );
        let config = world.write(&format!("{file}.toml"), &config);
        let acceptor = Running::launch_by(
            Command::new("sh").args([
                "-c",
                &format!("ulimit -n {limit}; exec \"$0\" \"$@\""),
                BINARY,
            ]),
            "acceptor",
            &config,
        )
        .ready();
        let lines = acceptor
            .count(|line| line["level"] == "WARN" && says(line, "message", "file descriptors"));
        assert_eq!(lines == 1, warned, "{}", acceptor.text());
        let told = acceptor.metric("portcullis_file_descriptors_limit");
        assert!((told - f64::from(limit)).abs() < 0.5, "{told}");
    }
}

#[test]
fn a_backend_that_the_world_can_reach_is_warned_about_with_its_process() {
    let world = World::new();
    for (bind, exposed) in [("0.0.0.0", true), ("127.0.0.1", false)] {
        let listener = TcpListener::bind((bind, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                echo(&mut stream);
            }
        });
        let file = format!("acceptor-{exposed}");
        let config = world.common_as(&world.leaf(Role::Acceptor, "legacy"), &file, "")
            + &world.acceptor_text(
                world.address(),
                &format!("127.0.0.1:{port}"),
                &format!("trusted_ips = [{:?}]", world.near()),
            );
        let acceptor = world.start_as("acceptor", &file, &config);
        let gauge = "portcullis_backend_exposed{listener=\"legacy\"}";
        let (status, ready) = acceptor.admin("/readyz?verbose").unwrap();
        // a warning: traffic passes all the same
        assert_eq!(status, 200);
        let us = format!("pid {}", std::process::id());
        if exposed {
            let line = acceptor.line("the warning", |line| {
                says(line, "message", "can be reached round the acceptor")
            });
            assert_eq!(line["level"], "WARN");
            assert_eq!(line["address"], format!("0.0.0.0:{port}"));
            assert!(says(&line, "process", &us), "{line}");
            assert!(
                ready.contains(&format!("can be reached round us: 0.0.0.0:{port}"))
                    && ready.contains(&us),
                "{ready}"
            );
            assert!((acceptor.metric(gauge) - 1.0).abs() < 0.1);
        } else {
            assert!(ready.contains("listens on loopback alone"), "{ready}");
            assert!(!acceptor.text().contains("round the acceptor"));
            assert!(acceptor.metric(gauge).abs() < 0.1);
        }
    }
}

#[test]
fn danger_is_said_aloud_at_every_start() {
    let world = World::new();
    let text = world.acceptor_text(
        world.address(),
        &world.address().to_string(),
        "danger_any_source = true",
    );
    let acceptor = world.acceptor(&text);
    let line = acceptor.line("the danger", |line| {
        says(line, "warning", "danger_any_source")
    });
    assert_eq!(line["level"], "WARN");
    let (_, status) = acceptor.admin("/status.json").unwrap();
    assert!(status.contains("danger_any_source"), "{status}");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new();
    let key = world.leaf(Role::Acceptor, "legacy").key;
    let config = world.common(Role::Acceptor, "legacy")
        + &world.acceptor_text(
            world.address(),
            &world.address().to_string(),
            &format!("trusted_ips = [{:?}]", world.near()),
        );
    let file = world.write("acceptor.toml", &config);
    let allow = |mode| {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    allow(0o644);
    let mut running = Running::launch("acceptor", &file);
    assert_eq!(running.ended().code(), Some(2), "{}", running.text());
    assert!(running.text().contains("key.pem"), "{}", running.text());
    allow(0o600);
    drop(Running::start("acceptor", &file));
}

#[test]
fn a_folder_that_is_swapped_behind_links_is_noticed() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let mount = world.path("mount");
    // as Kubernetes mounts ConfigMaps: file -> ..data -> ..generation
    let generation = |name: &str, ranges: &str| {
        std::fs::create_dir_all(mount.join(name)).unwrap();
        replace(&mount.join(name).join("ranges.txt"), ranges);
        let new = mount.join("..new");
        std::os::unix::fs::symlink(name, &new).unwrap();
        std::fs::rename(new, mount.join("..data")).unwrap();
    };
    generation("..one", &format!("{}\n", world.ip()));
    std::os::unix::fs::symlink("..data/ranges.txt", mount.join("ranges.txt")).unwrap();
    let address = world.address();
    let _acceptor = world.acceptor(&world.acceptor_text(
        address,
        &backend.address.to_string(),
        "trusted_ips = [{ file = \"mount/ranges.txt\" }]",
    ));
    let client = world
        .client()
        .certificate(&world.leaf(Role::Gateway, "edge-1"));
    let enters = |last: u8| {
        client
            .clone()
            .source(world.other_ip(last))
            .connect(address, "legacy.internal")
            .is_ok_and(|mut stream| answers(&mut stream))
    };
    assert!(enters(1));
    assert!(!enters(2));
    let began = Instant::now();
    generation("..two", &format!("{}\n", world.other_ip(2)));
    until("the new generation", || enters(2).then_some(()));
    assert!(began.elapsed() < Duration::from_secs(10), "only by polling");
    assert!(!enters(1));
}

#[test]
fn a_listener_moves_or_stays_where_it_is() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (old, new) = (world.address(), world.address());
    let held = TcpListener::bind(world.address()).unwrap();
    let taken = held.local_addr().unwrap();
    let text = |edge: SocketAddr| {
        world.common(Role::Gateway, "edge-1") + &world.gateway_text("tcp", edge, link, "", "")
    };
    let gateway = world.start("gateway", &text(old));
    let mut live = world.client().connect(old, "site.test").unwrap();
    assert!(answers(&mut live));

    // to a place that is taken: nothing changes
    world.write("gateway.toml", &text(taken));
    until("the refusal", || {
        let (_, ready) = gateway.admin("/readyz?verbose")?;
        (ready.contains("warn reload:") && ready.contains(&taken.to_string())).then_some(())
    });
    assert!(answers(
        &mut world.client().connect(old, "site.test").unwrap()
    ));

    world.write("gateway.toml", &text(new));
    until("the move", || TcpStream::connect(old).err());
    assert!(answers(
        &mut world.client().connect(new, "site.test").unwrap()
    ));
    assert!(answers(&mut live));
    let (_, ready) = gateway.admin("/readyz?verbose").unwrap();
    assert!(
        ready.contains("ok   reload:") && ready.contains(&new.to_string()),
        "{ready}"
    );
}

#[test]
fn logs_as_text_say_the_same_and_access_lines_can_be_switched_off() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    for (file, log, lines) in [
        ("gateway-text", "format = \"text\"", 1),
        ("gateway-quiet", "format = \"text\"\naccess = false", 0),
        ("gateway-warn", "format = \"text\"\nlevel = \"warn\"", 0),
    ] {
        let edge = world.address();
        let text = world
            .common_as(&world.leaf(Role::Gateway, "edge-1"), file, "")
            .replace("format = \"json\"", log)
            + &world.gateway_text("tcp", edge, link, "", "");
        let gateway = world.start_as("gateway", file, &text);
        let mut stream = world.client().connect(edge, "site.test").unwrap();
        assert!(answers(&mut stream));
        drop(stream);
        assert!(gateway.ended_for("public", "truncated") >= 1.0);
        let said = gateway.text();
        let found: Vec<_> = said.lines().filter(|l| l.contains("truncated")).collect();
        assert_eq!(found.len(), lines, "{file}: {said}");
        assert!(!said.contains('\u{1b}'), "colour in a file: {said}");
        for line in found {
            for part in [
                "decision=",
                "reason=",
                "site.test",
                "backend=",
                "bytes_in=4",
            ] {
                assert!(line.contains(part), "{part}: {line}");
            }
        }
    }
}

#[test]
fn the_admin_listener_speaks_tls_where_it_is_told_to() {
    let world = World::new();
    let admin = world.address();
    world.write("token", "a-token-of-enough-length\n");
    let site = world.leaf(Role::Server, "site");
    let common = world.common(Role::Acceptor, "legacy");
    let unix = format!(
        "address = \"unix:{}\"",
        world.path("acceptor.sock").display()
    );
    let tls = format!(
        "address = \"{admin}\"\ntoken = {{ file = \"token\" }}\n[admin.tls]\n\
         certificate = {:?}\nkey = {:?}",
        site.certificate, site.key
    );
    let config = common.replace(&unix, &tls)
        + &world.acceptor_text(
            world.address(),
            &world.address().to_string(),
            &format!("trusted_ips = [{:?}]", world.near()),
        );
    let file = world.write("acceptor.toml", &config);
    let running = Running::launch("acceptor", &file);
    running.line("the admin listener", |line| {
        line["message"] == "admin listener"
    });
    let curl = |url: &str, more: &[&str]| {
        let base = ["-sS", "-o", "/dev/null", "-w", "%{http_code}", url];
        crate::world::run("curl", &[&base[..], more].concat()).1
    };
    let trust = world.authority.trust();
    let to = format!("site.test:{}:{}", admin.port(), admin.ip());
    let url = format!("https://{admin}/metrics");
    let token = "Authorization: Bearer a-token-of-enough-length";
    assert_eq!(curl(&url, &["-k", "-H", token]), "200");
    assert_eq!(curl(&url, &["-k"]), "401");
    assert_ne!(
        curl(&format!("http://{admin}/metrics"), &["-H", token]),
        "200"
    );
    // the certificate is the configured one; a name is refused as Host, an address is not
    let named = format!("https://site.test:{}/healthz", admin.port());
    assert_eq!(
        curl(
            &named,
            &[
                "--resolve",
                &to,
                "--cacert",
                text(&trust),
                "-H",
                &format!("Host: {admin}")
            ]
        ),
        "200"
    );
}

#[test]
fn a_list_that_goes_back_is_refused_over_restarts_too() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let before = std::fs::read_to_string(world.authority.crl()).unwrap();
    world.authority.write_crls(CrlOptions::default()).unwrap();
    let after = std::fs::read_to_string(world.authority.crl()).unwrap();
    let (gateway, acceptor, _) = world.chain(&backend.address.to_string());
    let config = acceptor.config.clone();
    drop((gateway, acceptor));

    let publish = |text: &str| {
        portcullis::pki::store::write_file(&world.authority.crl(), text.as_bytes(), 0o644).unwrap();
    };
    let run = |command: &[&str]| {
        let out = Command::new(BINARY)
            .env("STATE_DIRECTORY", world.path("state"))
            .args(command)
            .arg(&config)
            .output()
            .unwrap();
        let said = [out.stderr, out.stdout].concat();
        (out.status.code(), String::from_utf8(said).unwrap())
    };
    publish(&before);
    for command in [&["acceptor", "--config"][..], &["check"]] {
        let (code, said) = run(command);
        assert_eq!(code, Some(2), "{said}");
        assert!(
            said.contains("which this host has had in force: a revocation could be lost")
                && said.contains("crl-numbers.json")
                && said.contains("acceptor.toml:"),
            "{said}"
        );
    }
    publish(&after);
    drop(Running::start("acceptor", &config));

    // a memory that can't be read refuses too
    world.write("state/crl-numbers.json", "{\"schema\": 99, \"lists\": {}}");
    let (code, said) = run(&["acceptor", "--config"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("its schema is 99, this version knows 1"),
        "{said}"
    );
}
