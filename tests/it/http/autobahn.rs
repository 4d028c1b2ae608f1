//! The Autobahn WebSocket suite through both ends, as a client and as a server: fragments, control
//! frames between them, messages up to 16 MiB, closes of every kind, broken UTF-8, compression.
//! All of it passes as it is, so that who speaks at the two ends passes as if nobody stood between.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
};

use super::Chain;
use crate::world::World;

/// The interpreter that has Debian's packages, whatever others there are.
const PYTHON: &str = "/usr/bin/python3";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/http/autobahn.py");
/// Where scripts/test puts the suite.
const SUITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/autobahn");

/// A part of the script; it ends with the test.
struct Part(Child);

impl Part {
    fn start(arguments: &[&str]) -> Self {
        let child = Command::new(PYTHON)
            .arg(SCRIPT)
            .args(arguments)
            .env("PYTHONPATH", SUITE)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        Self(child.unwrap())
    }

    /// Starts a server and waits until it listens.
    fn serve(arguments: &[&str]) -> (Self, BufReader<std::process::ChildStdout>) {
        let mut part = Self::start(arguments);
        let mut said = BufReader::new(part.0.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(
            line, "ready\n",
            "python3-websockets and the suite: run scripts/test, it installs both"
        );
        (part, said)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Hundreds of cases, and none failed.
fn passed(said: &str) {
    let count = said.trim().rsplit('\n').next().unwrap();
    let cases = count.strip_suffix(" cases, 0 failed");
    let cases: u32 = cases.unwrap_or_else(|| panic!("{said}")).parse().unwrap();
    assert!(cases > 200, "{said}");
}

#[test]
fn the_suite_as_a_client_finds_nothing_between_itself_and_a_server() {
    let world = World::new();
    let address = world.address();
    let (_echo, _said) = Part::serve(&["echo", &address.to_string()]);
    let chain = Chain::new(world, address, "", "");
    let trust = chain.world.authority.trust();
    let edge = chain.edge.to_string();
    let mut suite = Part::start(&["suite", &edge, trust.to_str().unwrap()]);
    let mut said = String::new();
    let mut out = suite.0.stdout.take().unwrap();
    out.read_to_string(&mut said).unwrap();
    passed(&said);
}

#[test]
fn the_suite_as_a_server_finds_nothing_between_itself_and_a_client() {
    let world = World::new();
    let address = world.address();
    let (_suite, mut out) = Part::serve(&["server", &address.to_string()]);
    let chain = Chain::new(world, address, "", "");
    let trust = chain.world.authority.trust();
    let edge = chain.edge.to_string();
    let mut client = Part::start(&["client", &edge, trust.to_str().unwrap()]);
    assert!(client.0.wait().unwrap().success());
    let mut said = String::new();
    out.read_to_string(&mut said).unwrap();
    passed(&said);
}
