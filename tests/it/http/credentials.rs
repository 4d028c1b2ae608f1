//! What the gateway adds for a backend, and what it lets nobody else say: against raw backends
//! and against servers that ask for it in their own ways.

use std::{
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::{
    Chain,
    raw::{answering, ok},
};
use crate::world::{Running, World, run, until};

const SECRET: &str = "correct-horse-battery";

/// `[backend.legacy.credentials]` with `headers` under X-Backend-Secret, from the file `secret`.
fn shared_secret(world: &World) -> String {
    world.write("secret", &format!("{SECRET}\n"));
    "credentials = { headers = [{ name = \"X-Backend-Secret\", value = { file = \"secret\" } }] }"
        .to_owned()
}

#[test]
fn what_a_client_says_under_our_names_never_arrives() {
    let world = World::new();
    let (backend, seen) = answering(world.address(), |_| ok("fine"));
    world.write("secret", SECRET);
    world.write("token", "mF_9.B5f-4.1JqM-long\n");
    let more = "credentials = { bearer = { file = \"token\" }, headers = [\
        { name = \"X-Backend-Secret\", value = { file = \"secret\" } }] }";
    let chain = Chain::new(
        world,
        backend.address,
        "underscore_headers = \"keep\"",
        more,
    );
    let mut raw = chain.raw();
    raw.request(&[
        "POST /a",
        "Authorization: Basic Z3Vlc3M6Z3Vlc3M=",
        "X-Backend-Secret: guess",
        "x-backend-secret: guess",
        "X_Backend_Secret: guess",
        "X-Backend_Secret: guess",
        "X-Other: stays",
        // a list of what ends here must not take away what is set here
        "Connection: keep-alive, X-Backend-Secret, Authorization",
        "TE: trailers",
        "Trailer: X-Backend-Secret, X_Backend_Secret, X-Sum",
        "Transfer-Encoding: chunked",
    ]);
    raw.send(
        "2\r\nhi\r\n0\r\nX-Backend-Secret: guess\r\nX_Backend_Secret: guess\r\nX-Sum: 1\r\n\r\n",
    );
    assert_eq!(raw.answer().status(), 200);
    let came = seen.last();
    assert_eq!(came.one("x-backend-secret"), Some(SECRET));
    assert_eq!(
        came.one("authorization"),
        Some("Bearer mF_9.B5f-4.1JqM-long")
    );
    assert_eq!(came.one("x-other"), Some("stays"));
    let all = format!("{came:?}");
    assert!(!all.contains("guess"), "{all}");
    assert_eq!(came.trailers.len(), 1, "{all}");
    // nobody is told: not the log, not the status, not the metrics
    for page in ["/status.json", "/metrics", "/readyz?verbose"] {
        let (_, said) = chain.gateway.admin(page).unwrap();
        assert!(!said.contains(SECRET) && !said.contains("mF_9"), "{said}");
    }
    let log = chain.gateway.text();
    assert!(log.contains("\"/a\""), "{log}");
    assert!(!log.contains(SECRET) && !log.contains("mF_9"), "{log}");
}

#[test]
fn a_changed_file_is_taken_and_a_bad_one_is_not() {
    let world = World::new();
    let (backend, seen) = answering(world.address(), |_| ok("fine"));
    let more = shared_secret(&world);
    let chain = Chain::new(world, backend.address, "", &more);
    let mut raw = chain.raw();
    let mut sent = || {
        assert_eq!(raw.ask(&["GET /"]).status(), 200);
        seen.last().one("x-backend-secret").unwrap().to_owned()
    };
    assert_eq!(sent(), SECRET);
    chain.world.write("secret", "a-second-long-secret\n");
    until("the new secret", || {
        (sent() == "a-second-long-secret").then_some(())
    });
    for bad in ["", "short\n", "a-long-secret\twith-a-tab\n"] {
        let refusals = || {
            chain.gateway.count(|line| {
                let message = line["message"].as_str().unwrap_or_default();
                message.starts_with("reload refused") && line["level"] == "ERROR"
            })
        };
        let before = refusals();
        chain.world.write("secret", bad);
        until("the refusal", || (refusals() > before).then_some(()));
        assert_eq!(sent(), "a-second-long-secret");
    }
    let (status, said) = chain.gateway.admin("/readyz?verbose").unwrap();
    assert!(said.contains("secret"), "{status} {said}");
    assert!(!chain.gateway.text().contains("a-long-secret"));
    chain.world.write("secret", "a-third-long-secret");
    until("the next secret", || {
        (sent() == "a-third-long-secret").then_some(())
    });
}

#[test]
fn a_secret_that_is_not_there_stops_the_start_at_its_place() {
    let world = World::new();
    let more = "[backend.legacy.credentials]\n\
        bearer = { env = \"PORTCULLIS_NO_SUCH_VARIABLE\" }\n\
        headers = [{ name = \"X-A\", value = { file = \"nowhere\" } }, \
        { name = \"X-B\", value = { credential = \"nothing\" } }]\n";
    let acceptor = world.address();
    let config = world.common(portcullis::pki::Role::Gateway, "edge-1")
        + &world.gateway_text("http", world.address(), acceptor, "", more);
    let file = world.write("gateway.toml", &config);
    let mut process = Running::launch("gateway", &file);
    assert_eq!(process.ended().code(), Some(2));
    let said = process.text();
    for (place, key) in [
        ("PORTCULLIS_NO_SUCH_VARIABLE is not set", "bearer ="),
        ("nowhere", "headers"),
        ("credential nothing", "headers"),
    ] {
        assert!(said.contains(place), "{place}: {said}");
        let line = config
            .lines()
            .position(|line| line.starts_with(key))
            .unwrap()
            + 1;
        assert!(
            said.contains(&format!("gateway.toml:{line}:")),
            "{key} in line {line}: {said}"
        );
    }
}

/// A server of somebody else's; killed when dropped.
pub(super) struct Server(Child);

impl Server {
    pub(super) fn start(command: &mut Command, address: std::net::SocketAddr) -> Self {
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{command:?}: {error}: run scripts/test, it installs it")
            });
        let server = Self(child);
        until("the server", || std::net::TcpStream::connect(address).ok());
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[rstest::rstest]
#[case("http/1.1", "")]
#[case("h2", "http2")]
fn nginx_auth_basic_admits_us_and_nobody_else(#[case] protocol: &str, #[case] listen: &str) {
    let world = World::new();
    let address = world.address();
    let (ok, hash) = run("openssl", &["passwd", "-apr1", "-salt", "saltsalt", SECRET]);
    assert!(ok, "{hash}");
    world.write("password", SECRET);
    let folder = world.path("nginx");
    std::fs::create_dir_all(&folder).unwrap();
    world.write("nginx/users", &format!("svc:{hash}"));
    world.write("nginx/x", "a page\n");
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {kind};\n"))
        .collect();
    world.write("nginx/nginx.conf", &format!(
        "daemon off; master_process off; user root; pid nginx.pid; error_log error.log crit;\nevents {{}}\n\
         http {{ access_log off; {temporary}\nserver {{ listen {address} {listen}; auth_basic \"legacy\";\n\
         auth_basic_user_file users; root .; add_header X-User $remote_user; }} }}\n"
    ));
    let _nginx = Server::start(
        Command::new("nginx")
            .arg("-p")
            .arg(&folder)
            .args(["-c", "nginx.conf"]),
        address,
    );
    // who asks nginx itself is asked who it is
    let (_, refused) = run(
        "curl",
        &[
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            if listen.is_empty() {
                "--http1.1"
            } else {
                "--http2-prior-knowledge"
            },
            &format!("http://{address}/x"),
        ],
    );
    assert_eq!(refused, "401");
    let more = format!(
        "protocol = {protocol:?}\n\
         credentials = {{ basic = {{ username = \"svc\", password = {{ file = \"password\" }} }} }}"
    );
    let chain = Chain::new(world, address, "", &more);
    for client in [&["-u", "root:guess"][..], &[][..]] {
        let (ok, said) = chain.curl(&[client, &["-i"]].concat(), "/x");
        assert!(
            ok && said.contains("x-user: svc") && said.ends_with("a page\n"),
            "{said}"
        );
    }
    chain.world.write("password", "another-long-password");
    until("the wrong password", || {
        let (_, said) = chain.curl(&["-o", "/dev/null", "-w", "%{http_code}"], "/x");
        (said == "401").then_some(())
    });
}

/// A server with a shared secret, in the way of its framework.
fn server_with_secret(world: &World, kind: &str, address: std::net::SocketAddr) -> Server {
    const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/http/");
    let mut command = match kind {
        "tornado" => {
            let mut python = Command::new("/usr/bin/python3");
            python.arg(format!("{HERE}secret_tornado.py"));
            python
        }
        "express" => {
            let mut node = Command::new("node");
            // where Debian's packages are, whichever node it is
            node.env("NODE_PATH", "/usr/share/nodejs:/usr/lib/nodejs");
            node.arg(format!("{HERE}secret_express.js"));
            node
        }
        _ => {
            let program = world.path("server");
            let built = Command::new("go")
                .args(["build", "-o"])
                .arg(&program)
                .arg(format!("{HERE}secret_server.go"))
                .env("GO111MODULE", "off")
                .env(
                    "GOCACHE",
                    concat!(env!("CARGO_MANIFEST_DIR"), "/target/go-cache"),
                )
                .output()
                .expect("go: run scripts/test, it installs it");
            assert!(
                built.status.success(),
                "{}",
                String::from_utf8_lossy(&built.stderr)
            );
            Command::new(program)
        }
    };
    Server::start(command.arg(address.to_string()).arg(SECRET), address)
}

#[rstest::rstest]
#[case("tornado")]
#[case("express")]
#[case("go")]
fn a_shared_secret_opens_the_servers_that_ask_for_one(#[case] kind: &str) {
    let world = World::new();
    let address = world.address();
    let _server = server_with_secret(&world, kind, address);
    // who comes by another way has no secret
    let direct = format!("http://{address}/");
    let status = [
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "--max-time",
        "20",
    ];
    for guess in ["X-Other: x", "X-Backend-Secret: guess", "X-Backend-Secret;"] {
        let (_, refused) = run("curl", &[&status[..], &["-H", guess, &direct]].concat());
        assert_eq!(refused, "403", "{guess}");
    }
    let more = shared_secret(&world);
    let chain = Chain::new(world, address, "", &more);
    for (arguments, wanted) in [
        (&[][..], format!("{kind}\n")),
        (&["-H", "X-Backend-Secret: guess"], format!("{kind}\n")),
        (&["--http1.1", "-d", "hello"], format!("{kind} 5\n")),
        (
            &[
                "-H",
                "Transfer-Encoding: chunked",
                "--http1.1",
                "-d",
                "hello",
            ],
            format!("{kind} 5\n"),
        ),
    ] {
        let (done, said) = chain.curl(arguments, "/a/b");
        assert!(done && said == wanted, "{said}");
    }
    // a wrong secret is the backend's to refuse, and the client hears so
    chain.world.write("secret", "not-the-right-secret");
    chain.gateway.reload();
    let (_, refused) = chain.curl(&["-o", "/dev/null", "-w", "%{http_code}"], "/");
    assert_eq!(refused, "403");
}

/// What docs/operate/rotate-a-secret.md says, with traffic all the while.
#[test]
fn a_rotated_secret_costs_no_request() {
    let world = World::new();
    let accepted = Arc::new(Mutex::new(vec![SECRET.to_owned()]));
    let asked = Arc::clone(&accepted);
    let (backend, seen) = answering(world.address(), move |request| {
        let sent = request
            .one("x-backend-secret")
            .unwrap_or_default()
            .to_owned();
        if asked.lock().unwrap().contains(&sent) {
            ok("fine")
        } else {
            b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n".to_vec()
        }
    });
    let more = shared_secret(&world);
    let chain = Chain::new(world, backend.address, "", &more);
    let (stop, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (stop, sent) = (&stop, &sent);
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
        some();
        // both are taken, then the gateway's file changes, then the old one goes
        accepted
            .lock()
            .unwrap()
            .push("the-next-long-secret".to_owned());
        some();
        chain.world.write("secret", "the-next-long-secret\n");
        until("the next secret", || {
            (seen.last().one("x-backend-secret") == Some("the-next-long-secret")).then_some(())
        });
        // those that were under way
        some();
        accepted.lock().unwrap().remove(0);
        some();
        stop.store(true, Ordering::Relaxed);
        let all = clients
            .into_iter()
            .flat_map(|client| client.join().unwrap());
        all.collect::<Vec<_>>()
    });
    assert!(statuses.len() > 400);
    let wrong = statuses.iter().filter(|status| **status != 200).count();
    assert_eq!(wrong, 0, "of {}", statuses.len());
}

/// What is signed in a head is not said again behind the body, where no signature covers it.
#[rstest::rstest]
#[case::by_the_gateway_what_it_writes(false, &["x-sum", "x-tenant"])]
#[case::by_the_acceptor_what_it_asks_for(true, &["x-sum"])]
fn what_is_signed_is_not_said_in_trailers(#[case] judged: bool, #[case] left: &[&str]) {
    let world = World::new();
    world.write("key", SECRET);
    let (backend, seen) = answering(world.address(), |_| ok("fine"));
    let components = "[\"@method\", \"@path\", \"content-digest\", \"x-tenant\"]";
    let key = "key_id = \"edge\", algorithm = \"hmac-sha256\", key = { file = \"key\" }";
    let signs = format!("credentials.signature = {{ {key}, components = {components} }}");
    let chain = if judged {
        let rule = format!(
            "[[listener.require]]\nkind = \"signature\"\nkeys = [{{ {key} }}]\n\
             components = {components}\n"
        );
        Chain::both(world, &backend.address.to_string(), &rule, "", &signs)
    } else {
        Chain::new(world, backend.address, "", &signs)
    };
    let mut raw = chain.raw();
    raw.request(&[
        "POST /",
        "X-Tenant: a",
        "Trailer: Content-Digest, X-Tenant, X-Sum",
        "Transfer-Encoding: chunked",
    ]);
    raw.send("2\r\nhi\r\n0\r\nContent-Digest: sha-256=:AAAA:\r\nX-Tenant: b\r\nX-Sum: 1\r\n\r\n");
    assert_eq!(raw.answer().status(), 200);
    let came = seen.last();
    assert_eq!(came.all("content-digest").len(), 1, "{came:?}");
    let mut names: Vec<&str> = came.trailers.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    assert_eq!(names, left, "{came:?}");
}
