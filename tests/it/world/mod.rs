//! What every end-to-end test stands on: a folder with an authority of its own, loopback addresses
//! of its own, and the real binary in either role.
#![allow(dead_code, reason = "not every test file uses everything")]

mod backend;
mod edge;
mod http;
mod machines;
mod outside;
mod running;
mod service;
mod tls;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

#[allow(unused_imports, reason = "for signatures of tests")]
pub(crate) use backend::{Backend, TlsConnection, echo};
pub(crate) use edge::{Edge, Links, Open, Ways, answers, broken, switching};
pub(crate) use http::{answering, get, get_from, named_backend};
#[allow(unused_imports, reason = "for signatures of tests")]
pub(crate) use machines::{Clock, Machine};
#[allow(unused_imports, reason = "for signatures of tests")]
pub(crate) use outside::Stranger;
use portcullis::pki::{Authority, InitOptions, IssueRequest, Role};
pub(crate) use running::{BINARY, Running, says};
#[allow(unused_imports, reason = "for signatures of tests")]
pub(crate) use service::Service;
#[allow(unused_imports, reason = "for signatures of tests")]
pub(crate) use tls::{Client, TlsStream};

/// How long anything that must happen may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Worlds so far, and ports that they took.
static NEXT: AtomicU16 = AtomicU16::new(1);
static PORTS: AtomicU16 = AtomicU16::new(0);

/// A certificate and its key.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// A folder, an authority, and addresses that no other test of this process uses.
pub(crate) struct World {
    folder: tempfile::TempDir,
    pub(crate) authority: Authority,
    ip: Ipv4Addr,
}

impl World {
    /// With gateway `edge-1`, acceptor `legacy` (for `legacy.internal`) and server `site` (for
    /// `site.test` and `*.site.test`).
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority =
            Authority::init(&folder.path().join("pki"), InitOptions::default()).unwrap();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let second = 10 + (number % 200) as u8;
        let third = ((std::process::id() + 97 * u32::from(number / 200)) % 250) as u8;
        let world = Self {
            folder,
            authority,
            ip: Ipv4Addr::new(127, second, third, 1),
        };
        world.issue(Role::Gateway, "edge-1", &[]);
        world.issue(Role::Acceptor, "legacy", &["legacy.internal"]);
        world.issue(Role::Server, "site", &["site.test", "*.site.test"]);
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, private, in one step as an operator's tools would.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        portcullis::pki::store::write_file(&path, text.as_bytes(), 0o600).unwrap();
        path
    }

    /// The own address that everything of this world listens on.
    pub(crate) fn ip(&self) -> IpAddr {
        IpAddr::V4(self.ip)
    }

    /// Another own address, to connect from.
    pub(crate) fn other_ip(&self, last: u8) -> IpAddr {
        let [a, b, c, _] = self.ip.octets();
        IpAddr::V4(Ipv4Addr::new(a, b, c, last))
    }

    /// An address with a port that is free, below those that the system gives to outgoing
    /// connections, and that no other world has: some listen on every address.
    pub(crate) fn address(&self) -> SocketAddr {
        loop {
            let taken = u32::from(PORTS.fetch_add(1, Ordering::Relaxed));
            let port = 11_000 + ((std::process::id() * 101 + taken) % 21_000) as u16;
            if let Ok(free) = TcpListener::bind((self.ip, port)) {
                return free.local_addr().unwrap();
            }
        }
    }

    pub(crate) fn issue(&self, role: Role, name: &str, sans: &[&str]) -> Leaf {
        let request = sans
            .iter()
            .fold(IssueRequest::new(role, name), |request, san| {
                request.san(san)
            });
        self.issue_as(&request)
    }

    pub(crate) fn issue_as(&self, request: &IssueRequest) -> Leaf {
        let issued = self.authority.issue(request).unwrap();
        Leaf {
            certificate: issued.certificate,
            key: issued.key,
        }
    }

    pub(crate) fn leaf(&self, role: Role, name: &str) -> Leaf {
        let folder = self.authority.certificate_folder(role, name);
        Leaf {
            certificate: folder.join("cert.pem"),
            key: folder.join("key.pem"),
        }
    }

    /// `[identity]` with the authority's trust and CRL, JSON logs, an admin socket `NAME.sock`.
    pub(crate) fn common(&self, role: Role, name: &str) -> String {
        self.common_as(&self.leaf(role, name), role.as_str(), "")
    }

    /// The same with any certificate, for a process whose configuration is `FILE.toml`; `more`
    /// stands in `[identity]`.
    pub(crate) fn common_as(&self, leaf: &Leaf, file: &str, more: &str) -> String {
        let trust = format!(
            "trust = {:?}\ncrl = {:?}\n{more}",
            self.authority.trust(),
            self.authority.crl(),
        );
        self.identity(leaf, file, &trust)
    }

    /// `[identity]` with what `trust` says, JSON logs, an admin socket `FILE.sock`.
    pub(crate) fn identity(&self, leaf: &Leaf, file: &str, trust: &str) -> String {
        format!(
            "[identity]\ncertificate = {:?}\nkey = {:?}\n{trust}\n\n\
             [log]\nformat = \"json\"\n\n[admin]\naddress = \"unix:{}\"\n\n",
            leaf.certificate,
            leaf.key,
            self.path(&format!("{file}.sock")).display(),
        )
    }

    /// Starts `portcullis gateway` with [`World::common`] of `edge-1` and this text.
    pub(crate) fn gateway(&self, text: &str) -> Running {
        let text = self.common(Role::Gateway, "edge-1") + text;
        self.start("gateway", &text)
    }

    /// Starts `portcullis acceptor` with [`World::common`] of `legacy` and this text.
    pub(crate) fn acceptor(&self, text: &str) -> Running {
        let text = self.common(Role::Acceptor, "legacy") + text;
        self.start("acceptor", &text)
    }

    /// Starts a role with the whole text of a configuration.
    pub(crate) fn start(&self, role: &str, text: &str) -> Running {
        self.start_as(role, role, text)
    }

    /// The same from `FILE.toml`, so that one role can run more than once.
    pub(crate) fn start_as(&self, role: &str, file: &str, text: &str) -> Running {
        let config = self.write(&format!("{file}.toml"), text);
        Running::start(role, &config)
    }

    /// An acceptor in front of `backend` that lets in every gateway of ours from this world's
    /// addresses; `more` stands in its listener.
    pub(crate) fn plain_acceptor(&self, backend: &str, more: &str) -> (Running, SocketAddr) {
        self.acceptor_in("tcp", backend, more)
    }

    /// The same in http mode.
    pub(crate) fn http_acceptor(&self, backend: &str, more: &str) -> (Running, SocketAddr) {
        self.acceptor_in("http", backend, more)
    }

    fn acceptor_in(&self, mode: &str, backend: &str, more: &str) -> (Running, SocketAddr) {
        let address = self.address();
        let text = self.acceptor_text_in(
            mode,
            address,
            backend,
            &format!("trusted_ips = [{:?}]\n{more}", self.near()),
        );
        (self.acceptor(&text), address)
    }

    /// The addresses that [`World::plain_acceptor`] trusts: our own, and the 14 around it.
    pub(crate) fn near(&self) -> String {
        let [a, b, c, _] = self.ip.octets();
        format!("{a}.{b}.{c}.0/28")
    }

    /// An acceptor's listener `legacy` that admits every gateway of ours; `more` says from where.
    pub(crate) fn acceptor_text(&self, address: SocketAddr, backend: &str, more: &str) -> String {
        self.acceptor_text_in("tcp", address, backend, more)
    }

    /// The same in either mode.
    pub(crate) fn acceptor_text_in(
        &self,
        mode: &str,
        address: SocketAddr,
        backend: &str,
        more: &str,
    ) -> String {
        format!(
            "[[listener]]\nname = \"legacy\"\naddress = \"{address}\"\nmode = \"{mode}\"\n\
             backend = \"{backend}\"\ngateways = [\"spiffe://example.internal/gateway/*\"]\n{more}\n"
        )
    }

    /// A gateway with one listener in `mode` and one route to `acceptor`; `more` stands in its
    /// listener, `backend` in `[backend.legacy]`.
    pub(crate) fn plain_gateway(
        &self,
        mode: &str,
        acceptor: SocketAddr,
        more: &str,
        backend: &str,
    ) -> (Running, SocketAddr) {
        let address = self.address();
        let text = self.gateway_text(mode, address, acceptor, more, backend);
        (self.gateway(&text), address)
    }

    /// The text that [`World::plain_gateway`] starts with.
    pub(crate) fn gateway_text(
        &self,
        mode: &str,
        address: SocketAddr,
        acceptor: SocketAddr,
        more: &str,
        backend: &str,
    ) -> String {
        let site = self.leaf(Role::Server, "site");
        // tests count connections: none is opened that no client asked for
        let pool = if mode == "http" && !backend.contains("pool") {
            "pool = { ready = 0 }\n"
        } else {
            ""
        };
        format!(
            "[[listener]]\nname = \"public\"\naddress = \"{address}\"\nmode = \"{mode}\"\n\
             certificate = {:?}\nkey = {:?}\n{more}\n\n[[route]]\nbackend = \"legacy\"\n\n\
             [backend.legacy]\nacceptors = [\"{acceptor}\"]\nserver_name = \"legacy.internal\"\n\
             bind = \"{}\"\n{pool}{backend}\n",
            site.certificate, site.key, self.ip
        )
    }

    /// Both roles in tcp mode before a backend: gateway, acceptor, and where clients connect.
    pub(crate) fn chain(&self, backend: &str) -> (Running, Running, SocketAddr) {
        let (acceptor, link) = self.plain_acceptor(backend, "");
        let (gateway, edge) = self.plain_gateway("tcp", link, "", "");
        (gateway, acceptor, edge)
    }

    /// A TLS client that trusts this world's authority.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.authority.trust())
    }
}

/// Runs a program to its end; whether it succeeded, and all that it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let done = std::process::Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}: run scripts/test, it installs it"));
    let text = [done.stdout, done.stderr].concat();
    (
        done.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// Waits until `look` finds something.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A path as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
