//! 400 days of two hosts that hold no CA key: the clock is moved, and no hand touches either.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use portcullis::{
    identity::UnixSeconds,
    pki::{IssueRequest, Reason, Role},
};
use serde_json::Value;

use super::{Host, serial};
use crate::world::{
    Backend, Client, Clock, Leaf, Machine, PATIENCE, Running, TlsStream, World, answers, get, until,
};

const DAY: i64 = 86_400;
/// Less than what a renewal that is due leaves of a certificate (25 days) and of a CRL (15): a
/// clock that jumps over a whole life leaves nobody the time to renew.
const STEP: i64 = 5;
const DAYS: i64 = 400;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const EDGE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
const ACCEPTOR: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 2);
const GATEWAY_TO_PKI: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 1);
const PKI_OF_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 2);
const ACCEPTOR_TO_PKI: Ipv4Addr = Ipv4Addr::new(10, 77, 3, 1);
const PKI_OF_ACCEPTOR: Ipv4Addr = Ipv4Addr::new(10, 77, 3, 2);

fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::from((ip, port))
}

/// One process, and the files of its host.
struct Node {
    process: Running,
    crl: PathBuf,
    /// Of each certificate that it had.
    serials: Vec<String>,
}

impl Node {
    fn status(&self) -> Value {
        let (_, text) = self.process.admin("/status.json").unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// When the chain in force ends.
    fn end(&self) -> i64 {
        self.status()["identity"]["not_after"].as_i64().unwrap()
    }

    /// Its certificate is not due, every list is in force for days, and nothing is amiss.
    fn is_fresh(&self, clock: &Clock) -> bool {
        let status = self.status();
        let now = clock.now().0;
        let seconds = |value: &Value| value.as_i64().unwrap_or(0);
        let checks = status["checks"].as_array().unwrap().iter();
        seconds(&status["identity"]["not_after"]) > now
            && seconds(&status["renewal"]["due"]) > now
            && checks.clone().all(|check| check["ok"] == true)
            && self.lists(now).iter().all(|left| *left > 14 * DAY)
    }

    /// How long the lists in force are good for, by the metrics.
    fn lists(&self, now: i64) -> Vec<i64> {
        let (_, text) = self.process.admin("/metrics").unwrap();
        let ends = text.lines().filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            let wanted = name.starts_with("portcullis_crl_next_update_timestamp_seconds{");
            wanted.then(|| value.parse::<i64>().unwrap() - now)
        });
        let ends: Vec<i64> = ends.collect();
        assert_eq!(ends.len(), 2, "the issuing CA's and the root's: {text}");
        ends
    }

    fn note(&mut self) {
        let now = serial(&self.process);
        if self.serials.last() != Some(&now) {
            self.serials.push(now);
        }
    }
}

/// Asks again and again, on a kept connection and on new ones.
struct Traffic {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Traffic {
    fn start(machine: &Machine, client: Client) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let failed = Arc::<Mutex<Vec<String>>>::default();
        let (over, count, told) = (stop.clone(), answered.clone(), failed.clone());
        let thread = machine.on(move || {
            let connect = || client.connect(at(EDGE, 8443), "site.test").unwrap();
            let mut kept = connect();
            while !over.load(Ordering::Relaxed) {
                for fresh in [false, true] {
                    let (status, body) = match fresh {
                        true => get(&mut connect(), "/"),
                        false => get(&mut kept, "/"),
                    };
                    if status == 200 && body == "backend" {
                        count.fetch_add(1, Ordering::Relaxed);
                    } else {
                        told.lock().unwrap().push(format!("{status} {body}"));
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self {
            stop,
            answered,
            failed,
            thread: Some(thread),
        }
    }

    /// So many more are answered, and none failed since the beginning.
    fn goes_on(&self, more: u64, when: &str) {
        let before = self.answered.load(Ordering::Relaxed);
        until("answers", || {
            let failed = self.failed.lock().unwrap();
            assert!(failed.is_empty(), "{when}: {failed:?}");
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!ended, "{when}: a connection broke");
            (self.answered.load(Ordering::Relaxed) >= before + more).then_some(())
        });
    }

    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        assert_eq!(*self.failed.lock().unwrap(), [""; 0]);
        self.answered.load(Ordering::Relaxed)
    }
}

/// What stays open, and until when it may.
struct Tunnel {
    stream: TlsStream,
    end: i64,
}

impl Tunnel {
    fn open(machine: &Machine, client: &Client, nodes: &[&Node; 2]) -> Self {
        let client = client.clone();
        let connected = machine.on(move || client.connect(at(EDGE, 8444), "site.test").unwrap());
        let mut stream = connected.join().unwrap();
        assert!(answers(&mut stream));
        Self {
            stream,
            end: nodes.iter().map(|node| node.end()).min().unwrap(),
        }
    }

    /// Whether it is open; one whose chain has ended is not, soon after.
    fn is_open(&mut self, now: UnixSeconds) -> bool {
        let over = now.0 > self.end;
        let waited = Instant::now();
        while answers(&mut self.stream) {
            if !over {
                return true;
            }
            assert!(
                waited.elapsed() < PATIENCE,
                "open {} s after the end of its chain",
                now.0 - self.end
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(over, "closed {} s before its end", self.end - now.0);
        false
    }
}

#[test]
fn for_400_days_nothing_stops_and_no_hand_touches_it() {
    let world = World::new();
    let [client, gateway, acceptor, pki] = [(); 4].map(|()| Machine::new());
    client.wire(CLIENT, &gateway, EDGE);
    gateway.wire(GATEWAY, &acceptor, ACCEPTOR);
    gateway.wire(GATEWAY_TO_PKI, &pki, PKI_OF_GATEWAY);
    acceptor.wire(ACCEPTOR_TO_PKI, &pki, PKI_OF_ACCEPTOR);
    let mut clock = Clock::new(&world);

    let authority = authority(&world, &pki, &clock);
    let _backend = backends(&acceptor);
    let mut acceptor = self::acceptor(&world, &acceptor, &clock);
    let mut gateway = self::gateway(&world, &gateway, &clock);
    let mut authority = authority;

    let trusting = Client::new(&world.authority.trust());
    let traffic = Traffic::start(&client, trusting.clone());
    let mut tunnel = Tunnel::open(&client, &trusting, &[&gateway, &acceptor]);
    let mut tunnels_ended = 0;
    for day in (STEP..=DAYS).step_by(STEP as usize) {
        clock.advance(STEP * DAY);
        let when = format!("day {day}");
        if !tunnel.is_open(clock.now()) {
            tunnels_ended += 1;
            tunnel = Tunnel::open(&client, &trusting, &[&gateway, &acceptor]);
        }
        let published = || std::fs::read(world.authority.crl()).unwrap();
        for node in [&mut authority, &mut gateway, &mut acceptor] {
            let end = Instant::now() + PATIENCE;
            while !node.is_fresh(&clock) || std::fs::read(&node.crl).unwrap() != published() {
                assert!(
                    Instant::now() < end,
                    "{when}: {}\n{}",
                    node.status(),
                    node.process.text()
                );
                std::thread::sleep(Duration::from_millis(20));
            }
            node.note();
        }
        traffic.goes_on(4, &when);
    }
    let answered = traffic.end();
    assert!(answered > 4 * DAYS as u64 / STEP as u64, "{answered}");
    // 90 days, renewed after 60 to 64.5: six times and the first
    for node in [&authority, &gateway, &acceptor] {
        let many = node.serials.len();
        assert!((6..=8).contains(&many), "{many}: {:?}", node.serials);
        let mut distinct = node.serials.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), many);
        let bad = node.process.count(|line| line["level"] == "ERROR");
        assert_eq!(bad, 0, "{}", node.process.text());
    }
    assert!((4..=6).contains(&tunnels_ended), "{tunnels_ended}");
    let ended = [&gateway, &acceptor].map(|node| {
        node.process
            .count(|line| line["listener"] == "raw" && line["reason"] == "certificate_ended")
    });
    assert!(ended.iter().sum::<usize>() >= tunnels_ended, "{ended:?}");
    // no hand: the root's list of 365 days was written anew too, and nobody holds a CA's key
    let left = authority.lists(clock.now().0);
    assert!(left.iter().any(|left| *left > 200 * DAY), "{left:?}");
}

/// A site's certificate that nobody replaced keeps the identity from nothing.
#[test]
fn what_ended_beside_it_keeps_nothing_new_from_coming_into_force() {
    let world = World::new();
    let mut clock = Clock::new(&world);
    let mut request = IssueRequest::new(Role::Server, "site").san("site.test");
    request.days = Some(30);
    request.force = true;
    world.issue_as(&request);
    let host = Host::new(&world, "gateway-host", &world.leaf(Role::Gateway, "edge-1"));
    let dir = world.authority.folder();
    let source = format!("source = \"pki\"\ndir = {dir:?}\nrefresh = \"200ms\"\n");
    let text = host.common(&world, "gateway", &source)
        + &world.gateway_text("tcp", world.address(), world.address(), "", "");
    let config = world.write("gateway.toml", &remembering(&text, "gateway"));
    let gateway = clock.start("gateway", &config);
    let first = serial(&gateway);
    clock.advance(31 * DAY);
    world
        .authority
        .revoke("acceptor/legacy", Reason::KeyCompromise)
        .unwrap();
    let number = "portcullis_reloads_total{result=\"success\"}";
    until("the list in force", || {
        (gateway.metric(number) > 1.0).then_some(())
    });
    clock.advance(35 * DAY);
    until("the renewal in force", || {
        (serial(&gateway) != first).then_some(())
    });
    gateway.line("a warning", |line| {
        let said = line["warning"].as_str().unwrap_or_default();
        said.contains("chain of listener \"public\" ended at")
    });
    // at a start it is an error, and so is another that has ended
    let again = clock.launch("gateway", &config);
    assert_eq!({ again }.ended().code(), Some(2));
}

/// Files with the key of their own, and nothing of an authority, on each host.
fn managed(pki: Ipv4Addr) -> String {
    format!("source = \"renew\"\nurl = \"https://{pki}:9444\"\nrefresh = \"200ms\"\n")
}

fn node(process: Running, crl: PathBuf) -> Node {
    let serials = vec![serial(&process)];
    Node {
        process,
        crl,
        serials,
    }
}

fn authority(world: &World, machine: &Machine, clock: &Clock) -> Node {
    let request = IssueRequest::new(Role::Server, "pki")
        .san(&PKI_OF_GATEWAY.to_string())
        .san(&PKI_OF_ACCEPTOR.to_string());
    let leaf = world.issue_as(&request);
    let dir = world.authority.folder();
    let source = format!("source = \"pki\"\ndir = {dir:?}\nrefresh = \"200ms\"\n");
    let text = world.common_as(&leaf, "pki", &source)
        + &format!(
            "[pki]\ndir = {dir:?}\n[[listener]]\naddress = \"0.0.0.0:9444\"\n\
             trusted_ips = [\"{GATEWAY_TO_PKI}\", \"{ACCEPTOR_TO_PKI}\"]\n"
        );
    let config = world.write("pki.toml", &remembering(&text, "pki"));
    let process = machine.start(clock, &["pki"], "serve", &config);
    node(process, world.authority.crl())
}

/// Each host remembers the numbers of its lists itself: they are not renewed at the same moment.
fn remembering(text: &str, host: &str) -> String {
    format!("{text}\n[runtime]\nstate_dir = \"state-of-{host}\"\n")
}

fn backends(machine: &Machine) -> [Backend; 2] {
    let begun = machine.on(|| {
        let web = crate::world::answering(at(Ipv4Addr::LOCALHOST, 8080), "backend");
        [web, Backend::echo(at(Ipv4Addr::LOCALHOST, 8081))]
    });
    begun.join().unwrap()
}

fn acceptor(world: &World, machine: &Machine, clock: &Clock) -> Node {
    let leaf = world.leaf(Role::Acceptor, "legacy");
    let host = Host::new(world, "acceptor-host", &leaf);
    let mut text = host.common(world, "acceptor", &managed(PKI_OF_ACCEPTOR));
    for (name, mode, link, backend) in [("web", "http", 9443, 8080), ("raw", "tcp", 9445, 8081)] {
        text += &format!(
            "[[listener]]\nname = \"{name}\"\naddress = \"{ACCEPTOR}:{link}\"\nmode = \"{mode}\"\n\
             backend = \"127.0.0.1:{backend}\"\ntrusted_ips = [\"{GATEWAY}\"]\n\
             gateways = [\"spiffe://example.internal/gateway/edge-1\"]\n"
        );
    }
    let config = world.write("acceptor.toml", &remembering(&text, "acceptor"));
    node(machine.start(clock, &[], "acceptor", &config), host.crl)
}

fn gateway(world: &World, machine: &Machine, clock: &Clock) -> Node {
    let host = Host::new(world, "gateway-host", &world.leaf(Role::Gateway, "edge-1"));
    let Leaf { certificate, key } = site(world);
    let mut text = host.common(world, "gateway", &managed(PKI_OF_GATEWAY));
    for (name, mode, edge, link) in [("web", "http", 8443, 9443), ("raw", "tcp", 8444, 9445)] {
        text += &format!(
            "[[listener]]\nname = \"{name}\"\naddress = \"{EDGE}:{edge}\"\nmode = \"{mode}\"\n\
             certificate = {certificate:?}\nkey = {key:?}\n\
             [[route]]\nlistener = \"{name}\"\nbackend = \"{name}\"\n\
             [backend.{name}]\nacceptors = [\"{ACCEPTOR}:{link}\"]\n\
             server_name = \"legacy.internal\"\n"
        );
    }
    let config = world.write("gateway.toml", &remembering(&text, "gateway"));
    node(machine.start(clock, &[], "gateway", &config), host.crl)
}

/// What clients see is in files that somebody else replaces: here it lasts for the whole time.
fn site(world: &World) -> Leaf {
    let profile = world.authority.folder().join("profiles/server.toml");
    let text = std::fs::read_to_string(&profile).unwrap();
    let longer = text.replace("= 397", "= 500");
    assert_ne!(text, longer);
    portcullis::pki::store::write_file(&profile, longer.as_bytes(), 0o644).unwrap();
    let mut request = IssueRequest::new(Role::Server, "long").san("site.test");
    request.days = Some(450);
    world.issue_as(&request)
}
