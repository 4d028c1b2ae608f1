//! Pebble, the ACME server that Let's Encrypt tests clients with, and the names that it resolves.

use std::{
    collections::HashMap,
    fs::File,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use portcullis::pki::Role;
use serde_json::json;

use crate::world::{World, get, until};

/// What a CA is told.
#[derive(Default)]
pub(crate) struct Options {
    /// Seconds that its certificates live; 0: its default.
    pub(crate) life: u64,
    /// Names that it issues nothing for.
    pub(crate) blocked: Vec<&'static str>,
    /// Accounts are made only for this key id and secret.
    pub(crate) external: Option<(&'static str, &'static str)>,
}

/// A CA, on this world's address.
pub(crate) struct Pebble {
    server: Option<Child>,
    config: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) at: SocketAddr,
    management: SocketAddr,
    /// Where it looks for answers to http-01 and tls-alpn-01.
    pub(crate) http_port: u16,
    pub(crate) tls_port: u16,
    dns: Dns,
}

impl Pebble {
    /// One that is not started yet.
    pub(crate) fn new(world: &World, options: Options) -> Self {
        let ip = world.ip().to_string();
        let leaf = world.issue(Role::Server, "ca", &["ca.test", &ip]);
        let (at, management) = (world.address(), world.address());
        let [http, tls] = [world.address().port(), world.address().port()];
        let mut pebble = json!({
            "listenAddress": at.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": leaf.certificate,
            "privateKey": leaf.key,
            "httpPort": http,
            "tlsPort": tls,
            "externalAccountBindingRequired": options.external.is_some(),
            "domainBlocklist": options.blocked,
        });
        if options.life > 0 {
            pebble["certificateValidityPeriod"] = options.life.into();
        }
        if let Some((id, key)) = options.external {
            pebble["externalAccountMACKeys"] = json!({ id: key });
        }
        let config = json!({ "pebble": pebble }).to_string();
        Self {
            server: None,
            config: world.write("pebble.json", &config),
            log: world.path("pebble.log"),
            at,
            management,
            http_port: http,
            tls_port: tls,
            dns: Dns::start(world.address()),
        }
    }

    /// One at work.
    pub(crate) fn started(world: &World, options: Options) -> Self {
        let mut pebble = Self::new(world, options);
        pebble.start();
        pebble
    }

    pub(crate) fn start(&mut self) {
        let out = File::create(&self.log).unwrap();
        let child = Command::new("pebble")
            .args(["-config", self.config.to_str().unwrap()])
            .args(["-dnsserver", &self.dns.at.to_string()])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_AUTHZREUSE", "0")
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap_or_else(|error| panic!("pebble: {error}: run scripts/test, it installs it"));
        self.server = Some(child);
        for at in [self.at, self.management] {
            until("pebble", || TcpStream::connect(at).ok());
        }
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            drop(server.kill());
            drop(server.wait());
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}/dir", self.at)
    }

    /// Makes a name lead to an address.
    pub(crate) fn resolves(&self, name: &str, to: IpAddr) {
        let mut names = self.dns.names.lock().unwrap();
        names.insert(name.to_owned(), to);
    }

    /// The root of what it issues, which it makes anew at each start.
    pub(crate) fn root(&self, world: &World) -> PathBuf {
        let mut stream = world.client().connect(self.management, "ca.test").unwrap();
        let (status, pem) = get(&mut stream, "/roots/0");
        assert_eq!(status, 200, "{pem}");
        world.write("acme-root.pem", &pem)
    }

    /// How often its log says this.
    pub(crate) fn said(&self, what: &str) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.matches(what).count()
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Answers for the names that it was told, and for no others.
struct Dns {
    at: SocketAddr,
    names: Arc<Mutex<HashMap<String, IpAddr>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Dns {
    fn start(at: SocketAddr) -> Self {
        let socket = UdpSocket::bind(at).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let names: Arc<Mutex<HashMap<String, IpAddr>>> = Arc::default();
        let over = Arc::new(AtomicBool::new(false));
        let (known, end) = (Arc::clone(&names), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            let mut packet = [0; 1500];
            while !end.load(Ordering::Relaxed) {
                let Ok((n, from)) = socket.recv_from(&mut packet) else {
                    continue;
                };
                if let Some(answer) = answer(&packet[..n], &known.lock().unwrap()) {
                    drop(socket.send_to(&answer, from));
                }
            }
        });
        Self {
            at,
            names,
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// RFC 1035 section 4: one question, and its answer.
fn answer(query: &[u8], known: &HashMap<String, IpAddr>) -> Option<Vec<u8>> {
    let mut name = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        name.push(String::from_utf8(query.get(at..at + length)?.to_vec()).ok()?);
        at += length;
    }
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    let question = query.get(12..at + 4)?;
    let found = known.get(&name.join(".").to_lowercase());
    let address = match found {
        Some(IpAddr::V4(ip)) if kind == 1 => Some(ip.octets()),
        _ => None,
    };
    let code = if found.is_some() { 0x80 } else { 0x83 };
    let mut answer = vec![query[0], query[1], 0x85, code, 0, 1];
    answer.extend([0, u8::from(address.is_some()), 0, 0, 0, 0]);
    answer.extend(question);
    if let Some(octets) = address {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(octets);
    }
    Some(answer)
}
