//! Digest authentication towards Apache's mod_auth_digest, which passes on what it admits to a raw
//! backend.

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::{
    Chain,
    raw::{Seen, answering, ok},
};
use crate::world::{World, run, text, until};

const PASSWORD: &str = "correct-horse-battery";

/// Apache in front of a backend; killed when dropped.
struct Apache {
    child: Child,
    address: SocketAddr,
    folder: PathBuf,
}

impl Apache {
    fn start(world: &World, behind: SocketAddr, lifetime: u32) -> Self {
        let address = world.address();
        // not in the world's own folder, which another user can't enter
        let folder = std::env::temp_dir().join(format!("portcullis-apache-{address}"));
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir_all(&folder).unwrap();
        let put = |name: &str, content: &str, mode| {
            let path = folder.join(name);
            portcullis::pki::store::write_file(&path, content.as_bytes(), mode).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        let plain = world.write("plain", &format!("svc:legacy:{PASSWORD}"));
        let (done, hash) = run("openssl", &["dgst", "-md5", "-r", text(&plain)]);
        assert!(done, "{hash}");
        put("users", &format!("svc:legacy:{}\n", &hash[..32]), 0o644);
        let modules: String = [
            "mpm_event",
            "authn_core",
            "authn_file",
            "authz_core",
            "authz_user",
            "auth_digest",
            "proxy",
            "proxy_http",
        ]
        .iter()
        .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
        .collect();
        let at = folder.display();
        put(
            "httpd.conf",
            &format!(
                "ServerRoot {at}\nPidFile {at}/pid\nListen {address}\nServerName legacy\n{modules}\
                 User #65534\nGroup #65534\nErrorLog {at}/error.log\nDefaultRuntimeDir {at}\n\
                 LogFormat \"%>s %m %U\" short\nCustomLog {at}/access.log short\n\
                 ProxyPass / http://{behind}/\n<Location />\nAuthType Digest\nAuthName legacy\n\
                 AuthDigestProvider file\nAuthUserFile {at}/users\nAuthDigestNonceLifetime {lifetime}\n\
                 Require valid-user\n</Location>\n"
            ),
            0o644,
        );
        let child = Command::new("/usr/sbin/apache2")
            .args(["-X", "-f"])
            .arg(folder.join("httpd.conf"))
            .stdin(Stdio::null())
            .spawn()
            .expect("apache2: run scripts/test, it installs it");
        let apache = Self {
            child,
            address,
            folder,
        };
        until("Apache", || std::net::TcpStream::connect(address).ok());
        apache
    }

    /// Requests that it answered so far, as status and method.
    fn log(&self) -> Vec<String> {
        let all = std::fs::read_to_string(self.folder.join("access.log")).unwrap_or_default();
        all.lines().map(str::to_owned).collect()
    }

    fn count(&self, begin: &str) -> usize {
        self.log()
            .iter()
            .filter(|line| line.starts_with(begin))
            .count()
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// A chain in front of Apache, and what came to the backend behind it.
fn chain(lifetime: u32) -> (Chain, Apache, Seen) {
    let world = World::new();
    let (backend, seen) = answering(world.address(), |_| ok("fine"));
    let apache = Apache::start(&world, backend.address, lifetime);
    world.write("password", PASSWORD);
    let more =
        "credentials = { digest = { username = \"svc\", password = { file = \"password\" } } }";
    let chain = Chain::new(world, apache.address, "", more);
    (chain, apache, seen)
}

#[test]
fn apache_asks_once_and_then_the_nonce_is_used() {
    let (chain, apache, seen) = chain(300);
    let mut raw = chain.raw();
    for number in 0..20 {
        let path = format!("GET /a/{number}?q=\"%20x");
        let path = path.replace('"', "%22");
        let answer = raw.ask(&[&path, "Authorization: Digest username=\"root\""]);
        assert_eq!((answer.status(), answer.text().as_str()), (200, "fine"));
        // ours alone: the client is not told of it
        assert_eq!(answer.one("authentication-info"), None);
    }
    raw.request(&["POST /form", "Content-Length: 5"]);
    raw.send("hello");
    assert_eq!(raw.answer().status(), 200);
    assert_eq!(seen.last().body, b"hello");
    // the count stands with each: Apache looks at it with its list of clients
    let came = seen.all();
    assert_eq!(came.len(), 21);
    let authorization = came
        .last()
        .unwrap()
        .one("authorization")
        .unwrap()
        .to_owned();
    assert!(authorization.contains("nc=00000015"), "{authorization}");
    assert_eq!(apache.count("401"), 1, "{:?}", apache.log());
    assert_eq!(apache.count("200"), 21);
}

#[test]
fn a_stale_nonce_is_renewed_and_the_body_sent_again() {
    let (chain, apache, seen) = chain(1);
    let mut raw = chain.raw();
    assert_eq!(raw.ask(&["GET /"]).status(), 200);
    std::thread::sleep(Duration::from_millis(2_100));
    raw.request(&["POST /form", "Content-Length: 5"]);
    raw.send("hello");
    assert_eq!(raw.answer().status(), 200);
    assert_eq!(seen.last().body, b"hello");
    assert_eq!(seen.all().len(), 2);
    assert_eq!(
        (apache.count("401"), apache.count("401 POST /form")),
        (2, 1),
        "{:?}",
        apache.log()
    );
}

#[test]
fn a_body_that_can_t_be_sent_twice_waits_for_a_nonce() {
    let (chain, apache, seen) = chain(300);
    let big = chain.world.write("big", &"x".repeat(1_000_000));
    for arguments in [
        &["--http1.1", "-H", "Transfer-Encoding: chunked"][..],
        &["--http1.1"],
        &["--http2"],
    ] {
        let upload = [
            "-T",
            text(&big),
            "-X",
            "POST",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
        ];
        let (done, said) = chain.curl(&[arguments, &upload].concat(), "/up");
        assert!(done && said == "200", "{said} {:?}", apache.log());
        assert_eq!(seen.last().body.len(), 1_000_000);
        // the nonce that was asked for is no longer fresh
        std::thread::sleep(Duration::from_millis(2_100));
    }
    let uploads: Vec<_> = apache
        .log()
        .into_iter()
        .filter(|line| line.contains("POST"))
        .collect();
    assert_eq!(uploads, ["200 POST /up"; 3]);
    assert_eq!(apache.count("401 HEAD /up"), 3, "{:?}", apache.log());
}

#[test]
fn a_wrong_password_is_not_tried_again_and_again() {
    let (chain, apache, _seen) = chain(300);
    chain.world.write("password", "not-the-right-password");
    chain.gateway.reload();
    let mut raw = chain.raw();
    for _ in 0..3 {
        assert_eq!(raw.ask(&["GET /"]).status(), 401);
    }
    // one without an answer, one with it; then one each
    assert_eq!(apache.count("401"), 4, "{:?}", apache.log());
    let complaints = || {
        chain.gateway.count(|line| {
            line["message"] == "a backend refuses our digest" && line["level"] == "WARN"
        })
    };
    assert_eq!(complaints(), 1);
    chain.world.write("password", PASSWORD);
    chain.gateway.reload();
    assert_eq!(raw.ask(&["GET /"]).status(), 200);
    assert!(!chain.gateway.text().contains(PASSWORD));
}

/// httpbin's server, which knows SHA-256 too; killed when dropped.
struct Httpbin(Child);

impl Drop for Httpbin {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn httpbin_believes_either_hash() {
    const PYTHON: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/target/tests-python/bin/python"
    );
    let world = World::new();
    let address = world.address();
    let script = format!(
        "from httpbin import app; app.run(host={:?}, port={})",
        address.ip().to_string(),
        address.port()
    );
    let child = Command::new(PYTHON)
        .args(["-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{PYTHON}: {error}: run scripts/test, it installs it"));
    let _server = Httpbin(child);
    until("httpbin", || std::net::TcpStream::connect(address).ok());
    world.write("password", PASSWORD);
    let more =
        "credentials = { digest = { username = \"svc\", password = { file = \"password\" } } }";
    let chain = Chain::new(world, address, "", more);
    for algorithm in ["MD5", "SHA-256"] {
        let path = format!("/digest-auth/auth/svc/{PASSWORD}/{algorithm}");
        for _ in 0..2 {
            let (done, said) = chain.curl(&["-w", " %{http_code}"], &path);
            assert!(
                done && said.ends_with(" 200") && said.contains("\"user\": \"svc\""),
                "{algorithm}: {said}"
            );
        }
    }
    // one that we do not know is the client's to hear of
    let (_, said) = chain.curl(
        &["-o", "/dev/null", "-w", "%{http_code}"],
        "/digest-auth/auth-int/svc/x/SHA-256",
    );
    assert_eq!(said, "401");
}
