//! Requests that the gateway signs (RFC 9421), judged by an implementation that nobody here wrote.

use std::process::{Child, Command, Stdio};

use super::{
    Chain,
    raw::{answering, ok},
};
use crate::world::{World, run, text, until};

/// The interpreter for which `scripts/test` fetched http-message-signatures.
const PYTHON: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/target/tests-python/bin/python"
);
const SCRIPT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/it/http/signed_server.py"
);

struct Server(Child);

impl Server {
    fn start(address: std::net::SocketAddr, kind: &str, key: &std::path::Path) -> Self {
        let child = Command::new(PYTHON)
            .args([SCRIPT, &address.to_string(), kind, text(key)])
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{PYTHON}: {error}: run scripts/test, it installs it"));
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

fn signature(key: &str, algorithm: &str, more: &str) -> String {
    format!(
        "credentials = {{ signature = {{ key_id = \"edge\", key = {{ file = \"{key}\" }}, \
         algorithm = \"{algorithm}\", components = [\"@method\", \"@authority\", \"@path\", \
         \"@query\", \"content-digest\", \"content-type\"]{more} }} }}"
    )
}

/// The gateway's configuration and the verifier's key.
fn key_of(world: &World, kind: &str) -> (String, std::path::PathBuf) {
    if kind == "hmac" {
        let key = world.write("hmac.key", "a-shared-key-of-32-bytes-or-more\n");
        (signature("hmac.key", "hmac-sha256", ""), key)
    } else {
        let (private, public) = (world.path("ed.key"), world.path("ed.pub"));
        let made = run(
            "openssl",
            &["genpkey", "-algorithm", "ed25519", "-out", text(&private)],
        );
        assert!(made.0, "{}", made.1);
        let made = run(
            "openssl",
            &[
                "pkey",
                "-in",
                text(&private),
                "-pubout",
                "-out",
                text(&public),
            ],
        );
        assert!(made.0, "{}", made.1);
        (signature("ed.key", "ed25519", ""), public)
    }
}

/// A chain before the server, with requests of every kind through it.
fn judged(kind: &str) {
    let world = World::new();
    let address = world.address();
    let (more, key) = key_of(&world, kind);
    let _server = Server::start(address, kind, &key);
    let chain = Chain::new(world, address, "", &more);
    let big = chain.world.write("big", &"x".repeat(300_000));
    let upload = format!("@{}", text(&big));
    let requests: [(&[&str], &str, &str); 5] = [
        (&[], "/a/b?c=d&e=%20f", " 0"),
        (&["--http1.1"], "/", " 0"),
        (&["-d", "name=value"], "/form", " 10"),
        (
            &[
                "--http1.1",
                "-T",
                text(&big),
                "-X",
                "POST",
                "-H",
                "Transfer-Encoding: chunked",
            ],
            "/up",
            " 300000",
        ),
        (
            &[
                "--http1.1",
                "--data-binary",
                &upload,
                "-H",
                "Expect: 100-continue",
            ],
            "/up",
            " 300000",
        ),
    ];
    for (arguments, path, end) in requests {
        // what a client says of signatures is nobody's word
        let client = [
            "-H",
            "Signature: sig1=:AAAA:",
            "-H",
            "Signature-Input: sig2=()",
            "-w",
            " %{http_code}",
        ];
        let (done, said) = chain.curl(&[arguments, &client].concat(), path);
        assert!(
            done && said.ends_with(&format!("{end} 200")),
            "{path}: {said}\n{}",
            chain.gateway.text()
        );
        assert!(
            said.contains("@method") && said.contains("@query"),
            "{said}"
        );
        let typed = arguments.contains(&"-d");
        assert_eq!(
            said.contains("content-type"),
            typed || arguments.contains(&"--data-binary"),
            "{said}"
        );
    }
}

#[test]
fn a_verifier_of_pypi_believes_our_hmac() {
    judged("hmac");
}

#[test]
fn a_verifier_of_pypi_believes_our_ed25519() {
    judged("ed25519");
}

#[test]
fn a_body_too_long_to_keep_needs_the_client_s_hash_which_is_checked() {
    let world = World::new();
    let (backend, seen) = answering(world.address(), |_| ok("fine"));
    world.write("hmac.key", "a-shared-key-of-32-bytes-or-more\n");
    let more = signature(
        "hmac.key",
        "hmac-sha256",
        ", body_bytes = \"8B\", tag = \"app\", label = \"edge\"",
    );
    let chain = Chain::new(world, backend.address, "", &more);
    let post = |path: &str, digest: Option<&str>, body: &str| {
        let mut raw = chain.raw();
        let digest = digest.map(|digest| format!("Content-Digest: {digest}"));
        let length = format!("Content-Length: {}", body.len());
        let start = format!("POST {path}");
        let mut lines = vec![start.as_str(), &length];
        lines.extend(digest.as_deref());
        raw.request(&lines);
        raw.send(body);
        raw.answer()
    };
    // kept: the hash is ours, of RFC 9530's empty and short bodies
    assert_eq!(post("/kept", None, "{}").status(), 200);
    let came = seen.last();
    assert_eq!(came.body, b"{}");
    assert_eq!(
        came.one("content-digest"),
        Some("sha-256=:RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o=:")
    );
    let input = came.one("signature-input").unwrap();
    assert!(
        input.starts_with(
            "edge=(\"@method\" \"@authority\" \"@path\" \"@query\" \"content-digest\");created="
        ),
        "{input}"
    );
    assert!(
        input.ends_with(";keyid=\"edge\";alg=\"hmac-sha256\";tag=\"app\""),
        "{input}"
    );
    let body = "{\"hello\": \"world\"}\n";
    let right = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:";
    assert_eq!(post("/long", None, body).status(), 413);
    assert!(
        chain.refused("/long", 413, "body_too_large")["detail"]
            .as_str()
            .unwrap()
            .contains("signature.body_bytes")
    );
    assert_eq!(post("/streamed", Some(right), body).status(), 200);
    assert_eq!(seen.last().one("content-digest"), Some(right));
    assert_eq!(seen.last().body, body.as_bytes());
    assert_eq!(
        post("/other", Some(right), "{\"hello\": \"wolrd\"}\n").status(),
        400
    );
    chain.refused("/other", 400, "request_invalid");
    assert_eq!(post("/malformed", Some("sha-256"), body).status(), 400);
    assert!(!seen.targets().contains(&"/long".to_owned()));
    let whole = |message: &super::raw::Message| {
        message.target() == "/other" && !message.start.ends_with("(cut)")
    };
    assert!(
        !seen.all().iter().any(whole),
        "a body that is not as signed went through"
    );
}
