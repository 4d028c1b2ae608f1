//! What an acceptor asks of each request beyond its connection: shared secrets and signatures, from
//! gateways of ours and of other makes.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use bytes::Bytes;
use portcullis::{
    identity::UnixSeconds,
    pki::Role,
    wire::signature::{Component, Signer, SigningKey, content_digest},
};

use super::{
    Chain,
    credentials::Server,
    h2::{self, block},
    raw::{Message, Peer, Raw, Seen, mirror},
};
use crate::world::{Backend, Client, Running, World, run, text, until};

const SECRET: &str = "correct-horse-battery";
const NEXT: &str = "the-next-long-secret";
const KEY: &str = "a-shared-key-of-32-bytes-or-more";

/// The rule for `X-Backend-Secret`, with these files.
fn header_rule(files: &[&str], more: &str) -> String {
    let secrets: Vec<String> = files
        .iter()
        .map(|file| format!("{{ file = {file:?} }}"))
        .collect();
    format!(
        "[[listener.require]]\nkind = \"header\"\nheader = \"X-Backend-Secret\"\n\
         secrets = [{}]\n{more}\n",
        secrets.join(", ")
    )
}

/// The gateway's side of it.
const HEADER_CREDENTIALS: &str =
    "credentials = { headers = [{ name = \"X-Backend-Secret\", value = { file = \"ours\" } }] }";

/// The rule for signatures of `edge`.
fn signature_rule(algorithm: &str, key: &str, more: &str) -> String {
    format!(
        "[[listener.require]]\nkind = \"signature\"\n\
         keys = [{{ key_id = \"edge\", algorithm = {algorithm:?}, key = {{ file = {key:?} }} }}]\n\
         components = [\"@method\", \"@authority\", \"@path\", \"@query\", \"content-digest\"]\n{more}\n"
    )
}

/// An acceptor, and gateways of other makes: TLS clients with a gateway's certificate.
struct Beside {
    world: World,
    acceptor: Running,
    address: SocketAddr,
    _backend: Backend,
    seen: Seen,
}

fn beside(world: World, rules: &str) -> Beside {
    let (backend, seen) = mirror(world.address());
    let (acceptor, address) = world.http_acceptor(&backend.address.to_string(), rules);
    Beside {
        world,
        acceptor,
        address,
        _backend: backend,
        seen,
    }
}

impl Beside {
    fn foreign(&self) -> Client {
        let leaf = self.world.leaf(Role::Gateway, "edge-1");
        self.world
            .client()
            .certificate(&leaf)
            .source(self.world.other_ip(4))
    }

    fn raw(&self) -> Raw {
        let client = self.foreign();
        Raw::new(client.connect(self.address, "legacy.internal").unwrap())
    }

    /// Refused on a connection of its own, with the reason in body and log; nothing is passed on.
    fn refused(&self, lines: &[&str], status: u16, reason: &str) -> Message {
        let before = self.seen.all().len();
        let answer = self.raw().ask(lines);
        assert_eq!(answer.status(), status, "{lines:?}: {answer:?}");
        assert_eq!(answer.one("content-type"), Some("application/json"));
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(body["error"], reason, "{lines:?}");
        let line = self.acceptor.refusal(reason);
        assert_eq!(line["status"], status, "{line}");
        assert_eq!(line["level"], "WARN", "{line}");
        assert_eq!(self.seen.all().len(), before, "{lines:?} was passed on");
        answer
    }

    fn last_used(&self, file: &str) -> f64 {
        last_used(&self.acceptor, &self.world, "x-backend-secret", file)
    }
}

fn last_used(acceptor: &Running, world: &World, rule: &str, file: &str) -> f64 {
    acceptor.metric(&format!(
        "portcullis_secret_last_used_timestamp_seconds{{listener=\"legacy\",rule=\"{rule}\",secret=\"{}\"}}",
        text(&world.path(file))
    ))
}

/// Both ends, over each protocol of the link, with what the gateway adds and the acceptor asks for.
#[rstest::rstest]
#[case("http/1.1", "http/1.1", "")]
#[case("h2", "http/1.1", "")]
#[case("http/1.1", "http/1.1", "strip = false")]
fn a_gateways_secret_opens_the_backend(
    #[case] link: &str,
    #[case] protocol: &str,
    #[case] strip: &str,
) {
    let world = World::new();
    world.write("ours", &format!("{SECRET}\n"));
    world.write("theirs", SECRET);
    let (backend, seen) = mirror(world.address());
    let rules = format!(
        "protocol = {protocol:?}\n{}",
        header_rule(&["theirs"], strip)
    );
    let more = format!("protocol = {link:?}\n{HEADER_CREDENTIALS}");
    let chain = Chain::both(world, &backend.address.to_string(), &rules, "", &more);
    let guesses = [
        "POST /a",
        "X-Backend-Secret: guess",
        "X_Backend_Secret: guess",
        "Connection: X-Backend-Secret",
        "TE: trailers",
        "Trailer: X-Backend-Secret",
        "Transfer-Encoding: chunked",
    ];
    let mut raw = chain.raw();
    raw.request(&guesses);
    raw.send("2\r\nhi\r\n0\r\nX-Backend-Secret: guess\r\n\r\n");
    assert_eq!(raw.answer().status(), 200, "{}", chain.acceptor.text());
    let came = seen.last();
    let kept = (!strip.is_empty()).then_some(SECRET);
    assert_eq!(came.one("x-backend-secret"), kept);
    assert!(!format!("{came:?}").contains("guess"), "{came:?}");
    assert!(came.trailers.is_empty(), "{came:?}");
    let used = last_used(&chain.acceptor, &chain.world, "x-backend-secret", "theirs");
    assert!(used > 1e9, "{used}");
    // another secret is refused, and the client hears it
    chain.world.write("ours", "not-the-right-secret");
    chain.gateway.reload();
    assert_eq!(chain.raw().ask(&["GET /wrong"]).status(), 403);
    chain.acceptor.refusal("secret_wrong");
    assert!(!seen.targets().contains(&"/wrong".to_owned()));
    for role in [&chain.gateway, &chain.acceptor] {
        let pages = ["/status.json", "/metrics", "/readyz?verbose"];
        let said = pages.map(|page| role.admin(page).unwrap().1).concat() + &role.text();
        assert!(
            !said.contains(SECRET) && !said.contains("not-the-right"),
            "{said}"
        );
    }
}

#[test]
fn who_has_no_secret_is_refused() {
    let world = World::new();
    world.write("secret", &format!("{SECRET}\n"));
    world.write("next", NEXT);
    let beside = beside(world, &header_rule(&["secret", "next"], ""));
    let right = format!("X-Backend-Secret: {SECRET}");
    let next = format!("X-Backend-Secret: {NEXT}");
    let underscores = format!("X_Backend_Secret: {SECRET}");
    let longer = format!("X-Backend-Secret: {SECRET}{NEXT}");
    let list = format!("X-Backend-Secret: {SECRET}, {SECRET}");
    let missing = beside.refused(&["GET /none"], 401, "secret_missing");
    assert_eq!(
        missing.one("www-authenticate"),
        Some("Secret realm=\"backend\"")
    );
    // who asks is told what is wrong, never what is asked for
    let said = format!("{missing:?}").to_ascii_lowercase();
    assert!(
        !said.contains("x-backend") && !said.contains("horse"),
        "{said}"
    );
    beside.refused(&["GET /none", &underscores], 401, "secret_missing");
    for wrong in [
        "X-Backend-Secret: guess",
        "X-Backend-Secret:",
        &longer,
        &list,
    ] {
        let answer = beside.refused(&["GET /wrong", wrong], 403, "secret_wrong");
        assert_eq!(answer.one("www-authenticate"), None);
    }
    for more in [
        right.as_str(),
        &next,
        "X-Backend-Secret: x",
        "x-backend-secret:",
    ] {
        beside.refused(&["GET /twice", &right, more], 403, "secret_repeated");
    }
    // a body is not asked for
    let mut raw = beside.raw();
    raw.request(&["POST /", "Expect: 100-continue", "Content-Length: 4"]);
    assert_eq!(raw.head().unwrap().status(), 401);
    assert_eq!(beside.last_used("secret"), 0.0);
    for proof in [&right, &next] {
        assert_eq!(beside.raw().ask(&["GET /right", proof]).status(), 200);
    }
    assert!(beside.last_used("secret") > 1e9 && beside.last_used("next") > 1e9);
    let counted = |reason: &str| {
        beside.acceptor.metric(&format!(
            "portcullis_requests_refused_total{{listener=\"legacy\",reason=\"{reason}\"}}"
        ))
    };
    assert_eq!(counted("secret_missing"), 3.0);
    assert_eq!(counted("secret_wrong"), 4.0);
    assert_eq!(counted("secret_repeated"), 4.0);
    let log = beside.acceptor.text();
    assert!(
        !log.contains("horse") && !log.contains("next-long"),
        "{log}"
    );
    assert_eq!(beside.seen.targets(), ["/right", "/right"]);
    let (_, said) = run(crate::world::BINARY, &["explain", "secret_wrong"]);
    assert!(said.contains("secret_wrong"), "{said}");
    let config = text(&beside.acceptor.config);
    let leaf = beside.world.leaf(Role::Gateway, "edge-1");
    let from = beside.world.other_ip(4).to_string();
    let (_, said) = run(
        crate::world::BINARY,
        &[
            "explain",
            config,
            "--from",
            &from,
            "--cert",
            text(&leaf.certificate),
        ],
    );
    let needs = "  each request needs: x-backend-secret as in ";
    assert!(said.contains(needs) && said.contains("/next"), "{said}");
}

/// A gateway that admits the client's own spellings: none of them reaches the backend.
#[rstest::rstest]
#[case("")]
#[case("strip = false")]
fn other_spellings_end_at_the_acceptor(#[case] strip: &str) {
    let world = World::new();
    world.write("secret", SECRET);
    let beside = beside(world, &header_rule(&["secret"], strip));
    let right = format!("x-BACKEND-secret: {SECRET}");
    let mut raw = beside.raw();
    raw.request(&[
        "POST /",
        &right,
        "X_Backend_Secret: guess",
        "X-Backend_Secret: guess",
        "Trailer: X-Sum, X-Backend-Secret, X_Backend_Secret",
        "Transfer-Encoding: chunked",
    ]);
    raw.send(
        "2\r\nhi\r\n0\r\nX-Backend-Secret: guess\r\nX_Backend_Secret: guess\r\nX-Sum: 1\r\n\r\n",
    );
    assert_eq!(raw.answer().status(), 200);
    let came = beside.seen.last();
    let kept = (!strip.is_empty()).then_some(SECRET);
    assert_eq!(came.one("x-backend-secret"), kept);
    assert!(!format!("{came:?}").contains("guess"), "{came:?}");
    assert_eq!(came.trailers.len(), 1, "{came:?}");
}

/// A token in `Authorization`, the whole value of which is the secret.
#[test]
fn a_token_in_authorization() {
    let world = World::new();
    world.write("token", "mF_9.B5f-4.1JqM-long\n");
    world.write("whole", "Bearer mF_9.B5f-4.1JqM-long\n");
    let rule = "[[listener.require]]\nkind = \"header\"\nheader = \"Authorization\"\n\
                secrets = [{ file = \"whole\" }]\n";
    let (backend, seen) = mirror(world.address());
    let more = "credentials = { bearer = { file = \"token\" } }";
    let chain = Chain::both(world, &backend.address.to_string(), rule, "", more);
    assert_eq!(chain.raw().ask(&["GET /"]).status(), 200);
    assert_eq!(seen.last().one("authorization"), None);
    let leaf = chain.world.leaf(Role::Gateway, "edge-1");
    let foreign = chain.world.client().certificate(&leaf);
    let acceptor = chain.acceptor.text();
    let address = acceptor.lines().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        (line["message"] == "listening").then(|| line["address"].as_str().map(str::to_owned))?
    });
    let foreign = foreign.source(chain.world.other_ip(4));
    let address = address.unwrap().parse().unwrap();
    let mut raw = Raw::new(foreign.connect(address, "legacy.internal").unwrap());
    let refused = raw.ask(&["GET /", "Authorization:"]);
    assert_eq!(refused.status(), 403);
    let refused = raw.ask(&["GET /"]);
    assert_eq!(refused.status(), 401);
    assert_eq!(
        refused.one("www-authenticate"),
        Some("Bearer realm=\"backend\"")
    );
}

#[test]
fn a_rule_without_its_secret_stops_the_start_at_its_place() {
    let world = World::new();
    world.write("empty", "\n");
    world.write("good", SECRET);
    let rules = [
        "[[listener.require]]\nkind = \"header\"\nheader = \"X-A\"\nsecrets = [{ file = \"good\" },\n",
        "  { file = \"nowhere\" },\n",
        "  { env = \"PORTCULLIS_NO_SUCH_VARIABLE\" },\n",
        "  { file = \"empty\" }]\n",
        &signature_rule("ed25519", "good", ""),
    ]
    .concat();
    let near = format!("trusted_ips = [{:?}]\n{rules}", world.near());
    let config = world.common(Role::Acceptor, "legacy")
        + &world.acceptor_text_in("http", world.address(), "127.0.0.1:1", &near);
    let file = world.write("acceptor.toml", &config);
    for command in [&["acceptor", "--config"][..], &["check"]] {
        let (done, said) = run(crate::world::BINARY, &[command, &[text(&file)]].concat());
        assert!(!done, "{said}");
        for (what, key) in [
            ("nowhere", "  { file = \"nowhere\""),
            ("PORTCULLIS_NO_SUCH_VARIABLE is not set", "  { env"),
            ("the secret is empty", "  { file = \"empty\""),
            (
                "expected an Ed25519 public key",
                "secrets = [{ file = \"good\"",
            ),
        ] {
            assert!(said.contains(what), "{what}: {said}");
            let line = config.lines().position(|line| line.starts_with(key));
            let place = format!("acceptor.toml:{}:", line.unwrap() + 1);
            assert!(said.contains(&place), "{what} at {place}: {said}");
        }
        assert!(!said.contains("horse"), "{said}");
    }
}

/// What does not load changes nothing: neither who is let in nor who is not.
#[test]
fn a_bad_file_leaves_the_last_good_secret_in_force() {
    let world = World::new();
    world.write("secret", SECRET);
    let beside = beside(world, &header_rule(&["secret"], ""));
    let mut raw = beside.raw();
    let mut ask = |secret: &str| {
        let line = format!("X-Backend-Secret: {secret}");
        raw.ask(&["GET /", &line]).status()
    };
    assert_eq!((ask(SECRET), ask(NEXT)), (200, 403));
    for bad in ["", "\n", "short\n", "a-long-secret\twith-a-tab\n"] {
        let refusals = || {
            beside.acceptor.count(|line| {
                let message = line["message"].as_str().unwrap_or_default();
                message.starts_with("reload refused") && line["level"] == "ERROR"
            })
        };
        let before = refusals();
        beside.world.write("secret", bad);
        until("the refusal", || (refusals() > before).then_some(()));
        assert_eq!((ask(SECRET), ask(NEXT), ask("")), (200, 403, 403));
    }
    let before = beside.acceptor.count(|line| line["level"] == "ERROR");
    std::fs::remove_file(beside.world.path("secret")).unwrap();
    until("the refusal", || {
        let now = beside.acceptor.count(|line| line["level"] == "ERROR");
        (now > before).then_some(())
    });
    assert_eq!((ask(SECRET), ask(NEXT)), (200, 403));
    let (_, said) = beside.acceptor.admin("/readyz?verbose").unwrap();
    assert!(said.contains("warn reload"), "{said}");
    beside.world.write("secret", NEXT);
    until("the next secret", || (ask(NEXT) == 200).then_some(()));
    assert_eq!(ask(SECRET), 403);
}

/// What docs/operate/rotate-a-secret.md says, with traffic all the while.
#[test]
fn a_secret_is_rotated_at_both_ends_without_a_failed_request() {
    let world = World::new();
    world.write("ours", SECRET);
    world.write("secret-1", SECRET);
    let (backend, seen) = mirror(world.address());
    let rules = |files: &[&str]| header_rule(files, "");
    let to = backend.address.to_string();
    let chain = Chain::both(world, &to, &rules(&["secret-1"]), "", HEADER_CREDENTIALS);
    let rewrite = |from: &str, into: &str| {
        let config = std::fs::read_to_string(&chain.acceptor.config).unwrap();
        assert!(config.contains(from), "{config}");
        chain
            .world
            .write("acceptor.toml", &config.replace(from, into));
        chain.acceptor.reload();
    };
    let (stop, sent) = (&AtomicBool::new(false), &AtomicUsize::new(0));
    let statuses = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let mut raw = chain.raw();
                scope.spawn(move || {
                    let mut statuses = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        statuses.push(raw.ask(&["GET /"]).status());
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                    statuses
                })
            })
            .collect();
        let some = || {
            let before = sent.load(Ordering::Relaxed);
            until("traffic", || {
                (sent.load(Ordering::Relaxed) > before + 100).then_some(())
            });
        };
        let used = |file: &str| last_used(&chain.acceptor, &chain.world, "x-backend-secret", file);
        some();
        // the new one is added where it is asked for
        chain.world.write("secret-2", NEXT);
        rewrite(&rules(&["secret-1"]), &rules(&["secret-2", "secret-1"]));
        some();
        assert_eq!(used("secret-2"), 0.0);
        // the gateway's file changes
        chain.world.write("ours", NEXT);
        until("the new secret in use", || {
            (used("secret-2") > 0.0).then_some(())
        });
        some();
        // the old one is used no more
        let quiet = used("secret-1");
        std::thread::sleep(std::time::Duration::from_millis(2100));
        assert_eq!(used("secret-1"), quiet);
        assert!(used("secret-2") > quiet);
        // and goes
        rewrite(&rules(&["secret-2", "secret-1"]), &rules(&["secret-2"]));
        some();
        let (_, metrics) = chain.acceptor.admin("/metrics").unwrap();
        assert!(metrics.contains("secret-2") && !metrics.contains("secret-1"));
        let (_, status) = chain.acceptor.admin("/status.json").unwrap();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let secrets = status["secrets"].as_array().unwrap();
        assert_eq!(secrets.len(), 1, "{status}");
        assert!(secrets[0]["last_used"].as_i64().unwrap() > 1_000_000_000);
        let socket = format!("unix:{}", text(&chain.world.path("acceptor.sock")));
        let (_, shown) = run(crate::world::BINARY, &["status", "--admin", &socket]);
        assert!(shown.contains("secret-2: last used"), "{shown}");
        stop.store(true, Ordering::Relaxed);
        let all = clients
            .into_iter()
            .flat_map(|client| client.join().unwrap());
        all.collect::<Vec<_>>()
    });
    assert!(statuses.len() > 400);
    let wrong = statuses.iter().filter(|status| **status != 200).count();
    assert_eq!(wrong, 0, "of {}: {}", statuses.len(), chain.acceptor.text());
    assert!(!seen.all().is_empty());
}

/// nginx as the gateway, with a gateway's certificate and the secret, or without.
#[test]
fn nginx_with_the_secret_gets_in_and_without_it_does_not() {
    let world = World::new();
    world.write("secret", SECRET);
    let beside = beside(world, &header_rule(&["secret"], ""));
    let (world, front) = (&beside.world, beside.world.address());
    let leaf = world.leaf(Role::Gateway, "edge-1");
    let folder = world.path("nginx");
    std::fs::create_dir_all(&folder).unwrap();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {kind};\n"))
        .collect();
    world.write(
        "nginx/nginx.conf",
        &format!(
            "daemon off; master_process off; user root; pid nginx.pid; error_log error.log crit;\nevents {{}}\n\
             http {{ access_log off; {temporary}\nserver {{ listen {front};\n\
             proxy_ssl_certificate {}; proxy_ssl_certificate_key {};\n\
             proxy_ssl_trusted_certificate {}; proxy_ssl_verify on; proxy_ssl_verify_depth 3;\n\
             proxy_ssl_protocols TLSv1.3; proxy_ssl_name legacy.internal; proxy_ssl_server_name on;\n\
             proxy_bind {}; proxy_http_version 1.1;\n\
             location /right {{ proxy_set_header X-Backend-Secret {SECRET}; proxy_pass https://{}; }}\n\
             location / {{ proxy_pass https://{}; }} }} }}\n",
            text(&leaf.certificate),
            text(&leaf.key),
            text(&world.authority.trust()),
            world.other_ip(4),
            beside.address,
            beside.address,
        ),
    );
    let mut nginx = std::process::Command::new("nginx");
    nginx.arg("-p").arg(&folder).args(["-c", "nginx.conf"]);
    let _nginx = Server::start(&mut nginx, front);
    let get = |path: &str, more: &[&str]| {
        let url = format!("http://{front}{path}");
        let fixed = ["-s", "--max-time", "20", "-w", " %{http_code}", &url];
        run("curl", &[&fixed[..], more].concat()).1
    };
    assert_eq!(
        get("/right", &[]),
        "/right 200",
        "{}",
        beside.acceptor.text()
    );
    assert_eq!(
        get("/right", &["-H", "X-Backend-Secret: guess"]),
        "/right 200"
    );
    assert_eq!(beside.seen.last().one("x-backend-secret"), None);
    let bare = get("/bare", &[]);
    assert!(
        bare.ends_with(" 401") && bare.contains("secret_missing"),
        "{bare}"
    );
    let guess = get("/guess", &["-H", "X-Backend-Secret: guess"]);
    assert!(guess.ends_with(" 403"), "{guess}");
    assert_eq!(beside.seen.targets(), ["/right", "/right"]);
}

fn ed25519(world: &World) {
    let (private, public) = (world.path("ed.key"), world.path("ed.pub"));
    for arguments in [
        &["genpkey", "-algorithm", "ed25519", "-out", text(&private)][..],
        &[
            "pkey",
            "-in",
            text(&private),
            "-pubout",
            "-out",
            text(&public),
        ],
    ] {
        let (done, said) = run("openssl", arguments);
        assert!(done, "{said}");
    }
}

/// What our gateway signs our acceptor believes, bodies of every kind included.
#[rstest::rstest]
#[case("hmac-sha256", "hmac.key", "hmac.key", "http/1.1", "")]
#[case("ed25519", "ed.key", "ed.pub", "h2", "strip = false")]
fn a_gateways_signature_opens_the_backend(
    #[case] algorithm: &str,
    #[case] private: &str,
    #[case] public: &str,
    #[case] link: &str,
    #[case] strip: &str,
) {
    let world = World::new();
    world.write("hmac.key", KEY);
    ed25519(&world);
    let (backend, seen) = mirror(world.address());
    let more = format!(
        "protocol = {link:?}\ncredentials = {{ signature = {{ key_id = \"edge\", \
         key = {{ file = {private:?} }}, algorithm = {algorithm:?}, components = [\"@method\", \
         \"@authority\", \"@path\", \"@query\", \"content-digest\"] }} }}"
    );
    let rules = signature_rule(algorithm, public, strip);
    let to = backend.address.to_string();
    let chain = Chain::both(world, &to, &rules, "", &more);
    let big = chain.world.write("big", &"x".repeat(300_000));
    let upload = format!("@{}", text(&big));
    let requests: [&[&str]; 5] = [
        &[],
        &["--http1.1", "-d", "name=value"],
        &["--data-binary", &upload],
        &[
            "--http1.1",
            "--data-binary",
            &upload,
            "-H",
            "Transfer-Encoding: chunked",
        ],
        &[
            "--http1.1",
            "--data-binary",
            &upload,
            "-H",
            "Expect: 100-continue",
        ],
    ];
    for arguments in requests {
        let client = ["-H", "Signature: sig1=:AAAA:", "-w", " %{http_code}"];
        let (_, said) = chain.curl(&[arguments, &client].concat(), "/a/b?c=d&e=%20f");
        assert_eq!(said, "/a/b?c=d&e=%20f 200", "{}", chain.acceptor.text());
        let came = seen.last();
        assert_eq!(came.one("signature").is_some(), !strip.is_empty());
        assert_eq!(came.one("signature-input").is_some(), !strip.is_empty());
        assert!(came.one("content-digest").is_some());
        let bodies = [0, 10, 300_000];
        assert!(bodies.contains(&came.body.len()));
    }
    assert!(last_used(&chain.acceptor, &chain.world, "signature", public) > 1e9);
}

/// What somebody else's implementation signs our acceptor believes, and nothing else.
#[rstest::rstest]
#[case("hmac", "hmac-sha256", "hmac.key", "hmac.key")]
#[case("ed25519", "ed25519", "ed.key", "ed.pub")]
fn a_signer_of_pypi_gets_in(
    #[case] kind: &str,
    #[case] algorithm: &str,
    #[case] private: &str,
    #[case] public: &str,
) {
    const PYTHON: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/target/tests-python/bin/python"
    );
    const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/http/sign_request.py");
    let world = World::new();
    world.write("hmac.key", &format!("{KEY}\n"));
    ed25519(&world);
    let beside = beside(world, &signature_rule(algorithm, public, "tag = \"app\""));
    let key = beside.world.path(private);
    let url = "https://site.test/a/b?c=d";
    let (done, fields) = run(PYTHON, &[SCRIPT, kind, text(&key), "POST", url, "hello"]);
    assert!(done, "{fields}");
    let fields: Vec<&str> = fields.lines().collect();
    let send = |target: &str, length: &str, body: &str| {
        let mut raw = beside.raw();
        let start = format!("POST {target}");
        let length = format!("Content-Length: {length}");
        raw.request(&[&[start.as_str(), &length], &fields[..]].concat());
        raw.send(body);
        raw.answer()
    };
    let answer = send("/a/b?c=d", "5", "hello");
    assert_eq!(answer.status(), 200, "{}", beside.acceptor.text());
    let came = beside.seen.last();
    assert_eq!(came.body, b"hello");
    assert!(came.one("signature").is_none() && came.one("signature-input").is_none());
    // signed for another target, or for another body
    assert_eq!(send("/a/c?c=d", "5", "hello").status(), 403);
    assert_eq!(send("/a/b?c=e", "5", "hello").status(), 403);
    beside.acceptor.refusal("signature_wrong");
    assert_eq!(send("/a/b?c=d", "5", "jello").status(), 400);
    assert_eq!(send("/a/b?c=d", "0", "").status(), 400);
    let lines = [&["POST /a/b?c=d"][..], &fields[..]].concat();
    assert_eq!(
        beside.raw().ask(&lines).status(),
        400,
        "no body is another body"
    );
    let whole = |message: &&Message| !message.start.ends_with("(cut)");
    assert_eq!(beside.seen.all().iter().filter(whole).count(), 1);
    let missing = beside.refused(&["GET /"], 401, "signature_missing");
    assert_eq!(
        missing.one("www-authenticate"),
        Some("Signature realm=\"backend\"")
    );
}

/// The fields of a signature of ours, made so many seconds ago.
fn signed(body: &[u8], age: i64) -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    headers.insert(
        content_digest::CONTENT_DIGEST,
        content_digest::of_body([body]),
    );
    let parts = ["@method", "@authority", "@path", "@query", "content-digest"];
    let parts = parts.map(|part| Component::parse(part).unwrap());
    let key = SigningKey::hmac_sha256(KEY.as_bytes());
    let signer = Signer::new("sig1", parts.to_vec(), "edge", None, key);
    let message = portcullis::wire::signature::Message {
        method: "POST",
        scheme: "https",
        authority: "site.test",
        path: "/a",
        query: None,
        headers: &headers,
    };
    let made = UnixSeconds(portcullis::clock::now().0 - age);
    let made = signer.sign(&message, made).unwrap();
    headers.insert("signature-input", made.input);
    headers.insert("signature", made.signature);
    headers
}

#[test]
fn a_signature_is_of_now() {
    let world = World::new();
    world.write("hmac.key", KEY);
    let beside = beside(
        world,
        &signature_rule("hmac-sha256", "hmac.key", "max_age = \"20s\""),
    );
    let lines = |age: i64| {
        let fields = signed(b"", age);
        let fields = fields
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
        fields.collect::<Vec<_>>()
    };
    for age in [60, -600] {
        let fields = lines(age);
        let mut all = vec!["POST /a", "Content-Length: 0"];
        all.extend(fields.iter().map(String::as_str));
        beside.refused(&all, 403, "signature_stale");
    }
    let fields = lines(0);
    let mut all = vec!["POST /a", "Content-Length: 0"];
    all.extend(fields.iter().map(String::as_str));
    assert_eq!(beside.raw().ask(&all).status(), 200);
}

/// Over HTTP/2 the end of a body comes apart from its last byte: what is not as signed is never
/// whole at the backend, whether its length is known or not.
#[rstest::rstest]
#[case(true)]
#[case(false)]
fn a_body_that_was_not_signed_is_never_whole(#[case] length_known: bool) {
    let world = World::new();
    world.write("hmac.key", KEY);
    let beside = beside(world, &signature_rule("hmac-sha256", "hmac.key", ""));
    let post = |body: &'static [u8]| {
        block(async {
            let config = beside.foreign().alpn("h2").config();
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            let from = SocketAddr::new(beside.world.other_ip(4), 0);
            socket.bind(from).unwrap();
            let socket = socket.connect(beside.address).await.unwrap();
            let name = rustls::pki_types::ServerName::try_from("legacy.internal").unwrap();
            let stream = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config))
                .connect(name, socket)
                .await
                .unwrap();
            let mut sender = h2::over(stream).await;
            let mut request = h2::request("POST", "/a").body(()).unwrap();
            *request.headers_mut() = signed(b"hello", 0);
            if length_known {
                request.headers_mut().insert("content-length", 5.into());
            }
            let (answer, mut stream) = sender.send_request(request, false).unwrap();
            let (first, rest) = body.split_at(3);
            for part in [first, rest] {
                stream.send_data(Bytes::from_static(part), false).unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            drop(stream.send_data(Bytes::new(), true));
            h2::whole(answer).await.map(|answer| answer.status())
        })
    };
    assert_eq!(post(b"hello").unwrap(), 200);
    assert_eq!(beside.seen.last().body, b"hello");
    let other = post(b"jello");
    assert!(other.is_err() || other.is_ok_and(|status| status == 400));
    until("the cut body", || {
        beside.seen.last().start.ends_with("(cut)").then_some(())
    });
    let all = beside.seen.all();
    assert_eq!(all.len(), 2, "{all:?}");
}

/// A gateway in tcp mode passes a client's bytes on: the client proves itself, or is refused.
#[test]
fn who_speaks_through_a_tcp_gateway_proves_itself_too() {
    let world = World::new();
    world.write("secret", SECRET);
    let (backend, seen) = mirror(world.address());
    let rules = header_rule(&["secret"], "");
    let (_acceptor, link) = world.http_acceptor(&backend.address.to_string(), &rules);
    let (_gateway, edge) = world.plain_gateway("tcp", link, "", "");
    let mut raw = Raw::new(world.client().connect(edge, "site.test").unwrap());
    assert_eq!(raw.ask(&["GET /"]).status(), 401);
    let proof = format!("X-Backend-Secret: {SECRET}");
    assert_eq!(raw.ask(&["GET /", &proof]).status(), 200);
    assert_eq!(seen.all().len(), 1);
}

/// Upgrades and tunnels prove themselves like any other request.
#[rstest::rstest]
#[case("header")]
#[case("signature")]
fn upgrades_prove_themselves(#[case] kind: &str) {
    let world = World::new();
    world.write("secret", SECRET);
    world.write("ours", SECRET);
    world.write("hmac.key", KEY);
    let seen = Seen::default();
    let notes = seen.clone();
    let backend = Backend::serve(world.address(), move |stream| {
        let mut peer = Peer::new(stream);
        let Some(request) = peer.head() else { return };
        let answer = if request.start.starts_with("CONNECT ") {
            "HTTP/1.1 200 OK\r\n\r\nhello"
        } else {
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello"
        };
        notes.push(request);
        peer.send(answer);
        peer.close();
    });
    let (rules, more) = match kind {
        "header" => (header_rule(&["secret"], ""), HEADER_CREDENTIALS.to_owned()),
        _ => (
            signature_rule("hmac-sha256", "hmac.key", ""),
            "credentials = { signature = { key_id = \"edge\", key = { file = \"hmac.key\" }, \
             algorithm = \"hmac-sha256\", components = [\"@method\", \"@authority\", \"@path\", \
             \"@query\", \"content-digest\"] } }"
                .to_owned(),
        ),
    };
    let (acceptor, link) = world.http_acceptor(&backend.address.to_string(), &rules);
    let edge = world.address();
    let text = world.gateway_text("http", edge, link, "", &more);
    // a route that says so opens tunnels
    let text = text.replace(
        "[[route]]\n",
        "[[route]]\nhost = \"site.test\"\nmethods = [\"GET\", \"CONNECT\"]\n",
    );
    let _gateway = world.gateway(&text);
    let connect = || Raw::new(world.client().connect(edge, "site.test").unwrap());
    let mut hello = [0; 5];
    let mut raw = connect();
    raw.request(&["GET /up?a=b", "Connection: upgrade", "Upgrade: echo"]);
    assert_eq!(raw.answer().status(), 101, "{}", acceptor.text());
    std::io::Read::read_exact(raw.reader(), &mut hello).unwrap();
    assert_eq!(&hello, b"hello");
    let mut raw = connect();
    raw.send("CONNECT site.test:443 HTTP/1.1\r\nHost: site.test:443\r\n\r\n");
    assert_eq!(raw.head().unwrap().status(), 200, "{}", acceptor.text());
    std::io::Read::read_exact(raw.reader(), &mut hello).unwrap();
    assert_eq!(&hello, b"hello");
    for request in seen.all() {
        assert!(request.one("x-backend-secret").is_none() && request.one("signature").is_none());
    }
    assert_eq!(seen.all().len(), 2);
    // without a proof there is neither
    let leaf = world.leaf(Role::Gateway, "edge-1");
    let foreign = world.client().certificate(&leaf).source(world.other_ip(4));
    let mut raw = Raw::new(foreign.connect(link, "legacy.internal").unwrap());
    let refused = raw.ask(&["GET /up", "Connection: upgrade", "Upgrade: echo"]);
    assert_eq!(refused.status(), 401);
    assert_eq!(seen.all().len(), 2);
}
