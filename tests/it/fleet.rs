//! The configurations of docs/operate/fleet.md, as they stand there, with hosts and folders mapped to
//! this test's.

use std::net::{IpAddr, SocketAddr};

use portcullis::pki::Role;

use crate::{
    acme::{Options, Pebble},
    spiffe::{Agent, acceptor_svid, gateway_svid, only},
    world::{Backend, Running, World, get, named_backend, text},
};

const PAGE: &str = include_str!("../../docs/operate/fleet.md");

/// The fenced block behind `<!-- file: NAME -->`.
fn block(name: &str) -> String {
    let (_, after) = PAGE
        .split_once(&format!("<!-- file: {name} -->"))
        .unwrap_or_else(|| panic!("no block {name:?} in fleet.md"));
    let (_, code) = after.split_once("```toml\n").unwrap();
    code.split_once("\n```").unwrap().0.to_owned()
}

/// A gateway and an acceptor on two addresses of one world.
struct Fleet {
    world: World,
    backend: Backend,
    link: SocketAddr,
    edge: SocketAddr,
}

impl Fleet {
    fn new() -> Self {
        let world = World::new();
        let site = world.leaf(Role::Server, "site");
        for (from, to) in [(&site.certificate, "site.pem"), (&site.key, "site.key")] {
            world.write(to, &std::fs::read_to_string(from).unwrap());
        }
        // nothing binds the gateway's own address here
        world.write(
            "gateway-ranges.txt",
            &format!("{}\n127.0.0.1\n", world.near()),
        );
        Self {
            backend: named_backend(&world, "the backend"),
            link: world.address(),
            edge: SocketAddr::new(world.other_ip(2), world.address().port()),
            world,
        }
    }

    fn acceptor(&self) -> IpAddr {
        self.world.ip()
    }

    fn gateway(&self) -> IpAddr {
        self.edge.ip()
    }

    /// Starts a role with a block of the page.
    fn start(&self, role: &str, name: &str, maps: &[(&str, &str)]) -> Running {
        let folder = text(&self.world.path("")).trim_end_matches('/').to_owned();
        let mut mapped = block(&format!("{name} {role}.toml"));
        for (from, to) in maps {
            assert!(mapped.contains(from), "{role}: {from}");
            mapped = mapped.replace(from, to);
        }
        std::fs::create_dir_all(self.world.path(&format!("{role}-state"))).unwrap();
        let mapped = mapped
            .replace("/etc/portcullis/", &format!("{folder}/"))
            .replace("/var/lib/portcullis/", &format!("{folder}/{role}-state/"))
            .replace("/run/portcullis/", &format!("{folder}/"))
            .replace("0.0.0.0:9443", &self.link.to_string())
            .replace("10.0.4.7:9443", &self.link.to_string())
            .replace("0.0.0.0:8443", &self.edge.to_string())
            .replace("127.0.0.1:8080", &self.backend.address.to_string());
        self.world.start(role, &mapped)
    }

    fn passes(&self) {
        let mut client = self.world.client().connect(self.edge, "site.test").unwrap();
        assert_eq!(get(&mut client, "/"), (200, "the backend".to_owned()));
    }
}

#[test]
fn the_files_for_spire_work_with_a_workload_api() {
    let fleet = Fleet::new();
    let trust = std::fs::read_to_string(fleet.world.authority.trust()).unwrap();
    let mine = [
        gateway_svid(&fleet.world.authority, &trust),
        acceptor_svid(&fleet.world.authority, &trust),
    ];
    let [gateway, acceptor] = [("gateway", &mine[0]), ("acceptor", &mine[1])]
        .map(|(role, svid)| Agent::new(&fleet.world, role, &only(svid)).started());
    let socket = "/run/spire/agent.sock";
    let _acceptor = fleet.start("acceptor", "spire", &[(socket, text(&acceptor.socket))]);
    let _gateway = fleet.start("gateway", "spire", &[(socket, text(&gateway.socket))]);
    fleet.passes();
}

#[test]
fn the_files_for_an_acme_ca_work_with_one() {
    let fleet = Fleet::new();
    let world = &fleet.world;
    let ca = Pebble::started(world, Options::default());
    let root = ca.root(world);
    ca.resolves("legacy.internal", fleet.acceptor());
    ca.resolves("1.edge.internal", fleet.gateway());
    let url = ca.url();
    // here the CA's own server has a certificate of another root
    let theirs = format!("acme_trust  = {:?}", world.authority.trust());
    let common = [
        ("https://ca.internal/acme/acme/directory", url.as_str()),
        (
            "acme_trust  = \"/etc/portcullis/ca-root.pem\"",
            theirs.as_str(),
        ),
        ("/etc/portcullis/ca-root.pem", text(&root)),
    ];
    let at = |ip: IpAddr| SocketAddr::new(ip, ca.http_port).to_string();
    let start = |role: &str, ip: IpAddr| {
        let answers = format!("{}\"", at(ip));
        let maps = [&common[..], &[("0.0.0.0:80\"", answers.as_str())]].concat();
        fleet.start(role, "acme", &maps)
    };
    let _acceptor = start("acceptor", fleet.acceptor());
    let _gateway = start("gateway", fleet.gateway());
    fleet.passes();
}
