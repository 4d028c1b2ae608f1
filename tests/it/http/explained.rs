//! What `explain` says of a request is what the process does with it.

use std::process::Command;

use super::semantics::routed;
use crate::world::{text, until};

#[rstest::rstest]
#[case::refuse("", &["/a/../bob", "/%2e%2e/bob", "/a%2fbob"], "request_invalid")]
#[case::normalise(
    "path_normalisation = \"normalise\"",
    &["/a/../bob", "/%2e%2e/x", "/a%2fbob", "/a/%2e%2e/bob"],
    ""
)]
fn explain_says_what_the_process_does(
    #[case] listener: &str,
    #[case] spellings: &[&str],
    #[case] expected: &str,
) {
    let routes = "[[route]]\nhost = \"site.test\"\npath = \"/bob\"\nmethods = [\"POST\"]\n\
                  backend = \"legacy\"\n\n\
                  [[route]]\nhost = \"site.test\"\npath = \"/x\"\nbackend = \"legacy\"\n";
    let (chain, _backend, _seen) = routed(listener, routes);
    let file = text(&chain.gateway.config);
    let ip = chain.world.ip().to_string();
    let others = [
        "/x",
        "/x?/bob",
        "/bob",
        "/bob?x",
        "//bob",
        "/b%6fb",
        "/%zz",
        "/a\\b",
        "x",
        "",
        "*",
        "/x#y",
        "https://site.test/x",
        "https://other.test/x",
        "/",
    ];
    let hosts = ["site.test:443", "SITE.test.", "a@site.test", "site test"];
    let asked = spellings
        .iter()
        .chain(&others)
        .map(|path| ("site.test", *path));
    let asked: Vec<_> = asked.chain(hosts.map(|host| (host, "/x"))).collect();
    for (number, (host, path)) in asked.iter().enumerate() {
        let mut raw = chain.raw();
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let status = raw.answer().status();
        let line = until("an access line for each request", || {
            let lines = chain.gateway.lines().into_iter();
            lines
                .filter(|line| line["status"].as_u64() > Some(0))
                .nth(number)
        });
        assert_eq!(line["status"], status, "{host:?} {path:?}: {line}");
        let process = match line["reason"].as_str() {
            Some(reason) => format!("refused: {reason}: "),
            None => format!(
                "{} leads to backend legacy",
                line["route"].as_str().unwrap()
            ),
        };
        let explained = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args([
                "explain", file, "--from", &ip, "--host", host, "--path", path,
            ])
            .output()
            .unwrap();
        let explained = String::from_utf8(explained.stdout).unwrap();
        assert!(
            explained.contains(&process),
            "{host:?} {path:?}: {line}, explain: {explained}"
        );
        if spellings.contains(path) && !expected.is_empty() {
            assert_eq!(line["reason"], expected, "{path}");
        }
    }
}
