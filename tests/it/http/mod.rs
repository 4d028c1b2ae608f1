//! http mode end to end: real clients, the gateway, an acceptor in tcp mode, raw and real backends.

mod acceptor;
mod autobahn;
mod bad_backend;
mod bad_h2;
mod bad_http;
mod basics;
mod conformance_h2;
mod credentials;
mod cut;
mod digest;
mod draining;
mod expect;
mod explained;
mod forwarding;
mod framing;
mod grpc;
mod h2;
mod http1;
mod malformed_h2;
mod next_hop;
mod oauth2;

mod raw;
mod require;
mod resting;
mod revoked;
mod semantics;
mod shared_links;
mod shut_out;
mod signed;
mod streaming;
mod trickle;
mod tunnel;
mod upgrade;

use std::net::SocketAddr;

use serde_json::Value;

use self::raw::Raw;
use crate::world::{Client, Running, World, run};

/// A gateway in http mode, an acceptor, and what stands behind.
struct Chain {
    world: World,
    acceptor: Running,
    gateway: Running,
    edge: SocketAddr,
}

impl Chain {
    /// In front of a backend; `listener` stands in the gateway's listener, `more` in
    /// `[backend.legacy]`.
    fn new(world: World, backend: SocketAddr, listener: &str, more: &str) -> Self {
        let beside = world.plain_acceptor(&backend.to_string(), "");
        Self::to(world, beside, listener, more)
    }

    /// The same with an acceptor in http mode; `acceptor` stands in its listener.
    fn both(world: World, backend: &str, acceptor: &str, listener: &str, more: &str) -> Self {
        let beside = world.http_acceptor(backend, acceptor);
        Self::to(world, beside, listener, more)
    }

    fn to(world: World, beside: (Running, SocketAddr), listener: &str, more: &str) -> Self {
        let (acceptor, link) = beside;
        let (gateway, edge) = world.plain_gateway("http", link, listener, more);
        Self {
            world,
            acceptor,
            gateway,
            edge,
        }
    }

    /// An HTTP/1.1 connection by hand.
    fn raw(&self) -> Raw {
        self.raw_as(&self.world.client())
    }

    fn raw_as(&self, client: &Client) -> Raw {
        Raw::new(client.connect(self.edge, "site.test").unwrap())
    }

    fn url(&self, path: &str) -> String {
        format!("https://site.test:{}{path}", self.edge.port())
    }

    /// Runs curl; whether it succeeded, and what it printed.
    fn curl(&self, arguments: &[&str], path: &str) -> (bool, String) {
        let trust = self.world.authority.trust();
        let resolve = format!("*:{}:{}", self.edge.port(), self.edge.ip());
        let url = self.url(path);
        let fixed = ["-sS", "--max-time", "60", "--resolve", &resolve, "--cacert"];
        let mut all = fixed.to_vec();
        all.extend([trust.to_str().unwrap()]);
        all.extend(arguments);
        all.push(&url);
        run("curl", &all)
    }

    /// The access line of the request for this path.
    fn line(&self, path: &str) -> Value {
        self.gateway.line(path, |line| {
            line["message"] == "access" && line["path"] == path
        })
    }

    /// The access line of the request for this path, which was refused with this status for this
    /// reason.
    fn refused(&self, path: &str, status: u16, reason: &str) -> Value {
        let line = self.line(path);
        assert_eq!(line["decision"], "refused", "{line}");
        assert_eq!(line["reason"], reason, "{line}");
        assert_eq!(line["status"], status, "{line}");
        line
    }
}

/// Lines of `[[listener]]` that name the site's certificate.
fn site(world: &World) -> String {
    let site = world.leaf(portcullis::pki::Role::Server, "site");
    format!(
        "certificate = {:?}\nkey = {:?}\n",
        site.certificate, site.key
    )
}

/// `[backend.NAME]` behind this acceptor.
fn backend(world: &World, name: &str, acceptor: SocketAddr, more: &str) -> String {
    format!(
        "[backend.{name}]\nacceptors = [\"{acceptor}\"]\nserver_name = \"legacy.internal\"\n\
         bind = \"{}\"\n{more}\n",
        world.ip()
    )
}
