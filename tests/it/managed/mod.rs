//! Identities that keep themselves valid: `pki serve` and those who ask it.

mod api;
mod keeping;
mod large_list;
mod long_life;

use std::{net::SocketAddr, path::PathBuf, process::Command};

use portcullis::{
    identity::UnixSeconds,
    pki::{Authority, IssueRequest, Role},
};

use crate::world::{BINARY, Leaf, Running, World};

/// `pki serve` of a world's authority.
pub(crate) struct Served {
    pub(crate) process: Running,
    pub(crate) address: SocketAddr,
}

impl Served {
    /// Its identity is `server/pki`, which renews itself from the store; `more` stands in its
    /// listener.
    pub(crate) fn start(world: &World, more: &str) -> Self {
        let address = world.address();
        let more = format!("{}{more}", trusted(world));
        let text = text(world, address, &more);
        let config = world.write("pki.toml", &text);
        Self {
            process: launch(&config).ready(),
            address,
        }
    }

    /// What an identity that asks it has in its configuration.
    pub(crate) fn source(&self) -> String {
        format!(
            "source = \"renew\"\nurl = \"https://{}\"\nrefresh = \"500ms\"\n",
            self.address
        )
    }
}

/// This world's addresses, and the one that the system takes where nobody says which.
pub(crate) fn trusted(world: &World) -> String {
    format!("trusted_ips = [{:?}, \"127.0.0.1\"]\n", world.near())
}

/// The whole configuration of `pki serve`.
pub(crate) fn text(world: &World, address: SocketAddr, more: &str) -> String {
    let ip = world.ip().to_string();
    let mut request = IssueRequest::new(Role::Server, "pki").san(&ip);
    request.force = true;
    let leaf = world.issue_as(&request);
    let folder = world.authority.folder();
    world.common_as(
        &leaf,
        "pki",
        &format!("source = \"pki\"\ndir = {folder:?}\nrefresh = \"500ms\"\n"),
    ) + &format!(
        "[pki]\ndir = {folder:?}\n\n[[listener]]\nname = \"pki\"\naddress = \"{address}\"\n{more}\n"
    )
}

pub(crate) fn launch(config: &std::path::Path) -> Running {
    Running::launch_by(Command::new(BINARY).arg("pki"), "serve", config)
}

pub(crate) fn now() -> i64 {
    portcullis::clock::now().0
}

/// A certificate of which so many of 300 seconds are left, and copies of it, its key, trust and
/// CRLs in a folder of their own, as on another host.
pub(crate) fn on_its_host(world: &World, role: Role, name: &str, sans: &[&str], left: i64) -> Host {
    let mut request = sans
        .iter()
        .fold(IssueRequest::new(role, name), |request, san| {
            request.san(san)
        });
    request.not_before = Some(UnixSeconds(now() + left - 300));
    request.not_after = Some(UnixSeconds(now() + left));
    request.force = true;
    let leaf = world.issue_as(&request);
    Host::new(world, &format!("{role}-host"), &leaf)
}

/// The files of a host that holds no CA key.
pub(crate) struct Host {
    pub(crate) leaf: Leaf,
    pub(crate) trust: PathBuf,
    pub(crate) crl: PathBuf,
}

impl Host {
    pub(crate) fn new(world: &World, folder: &str, leaf: &Leaf) -> Self {
        std::fs::create_dir_all(world.path(folder)).unwrap();
        let copy = |from: &std::path::Path, name: &str| {
            let text = std::fs::read_to_string(from).unwrap();
            world.write(&format!("{folder}/{name}"), &text)
        };
        Self {
            leaf: Leaf {
                certificate: copy(&leaf.certificate, "cert.pem"),
                key: copy(&leaf.key, "key.pem"),
            },
            trust: copy(&world.authority.trust(), "trust.pem"),
            crl: copy(&world.authority.crl(), "crl.pem"),
        }
    }

    /// `[identity]` and the rest that every role has.
    pub(crate) fn common(&self, world: &World, file: &str, source: &str) -> String {
        world.identity(
            &self.leaf,
            file,
            &format!("trust = {:?}\ncrl = {:?}\n{source}", self.trust, self.crl),
        )
    }
}

/// The serial number of the identity in force.
pub(crate) fn serial(process: &Running) -> String {
    let (_, text) = process.admin("/status.json").unwrap();
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    status["identity"]["serial"].as_str().unwrap().to_owned()
}

/// How many certificates a role's name has got.
pub(crate) fn issued(authority: &Authority, role: Role, name: &str) -> usize {
    let records = authority.records().unwrap();
    let of_name = |r: &&portcullis::pki::Record| r.role == role && r.name == name;
    records.iter().filter(of_name).count()
}
