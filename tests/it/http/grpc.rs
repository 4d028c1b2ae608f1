//! gRPC (over HTTP/2 at both ends) with a client and a server that nobody here wrote: unary and
//! streaming calls, with what stands in trailers.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use super::Chain;
use crate::world::{World, run};

/// The interpreter that has Debian's packages, whatever others there are.
const PYTHON: &str = "/usr/bin/python3";

/// A process that ends with the test.
struct Server(Child);

impl Server {
    fn start(address: &str) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/http/grpc_server.py");
        let mut child = Command::new(PYTHON)
            .args([script, address])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        assert_eq!(
            line, "ready\n",
            "python3-grpcio: run scripts/test, it installs it"
        );
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[rstest::rstest]
#[case("tcp")]
#[case("http")]
fn calls_of_every_kind_pass_with_their_trailers(#[case] acceptor: &str) {
    let world = World::new();
    let address = world.address();
    let _server = Server::start(&address.to_string());
    let h2 = "protocol = \"h2\"";
    let chain = match acceptor {
        "http" => Chain::both(world, &address.to_string(), h2, "", h2),
        _ => Chain::new(world, address, "", h2),
    };
    let trust = chain.world.authority.trust();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/http/grpc_client.py");
    let edge = chain.edge.to_string();
    let (done, said) = run(PYTHON, &[script, &edge, trust.to_str().unwrap()]);
    assert!(done, "{said}\n{}", chain.gateway.text());
    assert_eq!(said.trim(), "all well");
    let line = chain.line("/test.Echo/ManyIn");
    assert_eq!(line["status"], 200, "{line}");
}
