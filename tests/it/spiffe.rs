//! Identities from a SPIFFE Workload API: a gRPC server that nobody here wrote hands them out.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::{Duration, Instant},
};

use portcullis::pki::{Authority, InitOptions, IssueRequest, Reason, Role};
use serde_json::{Value, json};

use crate::world::{BINARY, Backend, Running, World, get, named_backend, run, says, text, until};

/// The interpreter that has Debian's packages, whatever others there are.
const PYTHON: &str = "/usr/bin/python3";

/// An agent of one workload.
pub(crate) struct Agent {
    pub(crate) socket: PathBuf,
    state: PathBuf,
    server: Option<Child>,
}

impl Agent {
    pub(crate) fn new(world: &World, name: &str, state: &Value) -> Self {
        let agent = Self {
            socket: world.path(&format!("{name}-agent.sock")),
            state: world.path(&format!("{name}-agent.json")),
            server: None,
        };
        agent.hands_out(state);
        agent
    }

    pub(crate) fn started(mut self) -> Self {
        self.start();
        self
    }

    fn start(&mut self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/spiffe.py");
        let mut child = Command::new(PYTHON)
            .args([script, text(&self.socket), text(&self.state)])
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
        self.server = Some(child);
    }

    fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            drop(server.kill());
            drop(server.wait());
        }
    }

    /// In one step: nobody reads a half.
    fn hands_out(&self, state: &Value) {
        portcullis::pki::store::write_file(&self.state, state.to_string().as_bytes(), 0o600)
            .unwrap();
    }

    /// Everything that both roles have, for `FILE.toml`.
    fn common(&self, world: &World, file: &str, more: &str) -> String {
        format!(
            "[identity]\nsource = \"spiffe\"\nsocket = \"unix:{}\"\n{more}\n\n\
             [log]\nformat = \"json\"\n\n[admin]\naddress = \"unix:{}\"\n\n",
            self.socket.display(),
            world.path(&format!("{file}.sock")).display(),
        )
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop();
    }
}

fn read(path: PathBuf) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// A new certificate of an authority, with `bundle` as the roots of its domain.
fn svid(by: &Authority, role: Role, name: &str, sans: &[&str], bundle: &str) -> Value {
    let mut request = sans
        .iter()
        .fold(IssueRequest::new(role, name), |request, san| {
            request.san(san)
        });
    request.force = true;
    let issued = by.issue(&request).unwrap();
    json!({
        "id": format!("spiffe://example.internal/{role}/{name}"),
        "chain": read(issued.certificate),
        "key": read(issued.key),
        "bundle": bundle,
    })
}

pub(crate) fn gateway_svid(by: &Authority, bundle: &str) -> Value {
    svid(by, Role::Gateway, "edge-1", &[], bundle)
}

pub(crate) fn acceptor_svid(by: &Authority, bundle: &str) -> Value {
    svid(by, Role::Acceptor, "legacy", &["legacy.internal"], bundle)
}

pub(crate) fn only(svid: &Value) -> Value {
    json!({ "svids": [svid] })
}

/// Gateway and acceptor, each with an agent of its own.
struct Chain {
    // processes first: they end before their agents
    gateway: Running,
    acceptor: Running,
    edge: std::net::SocketAddr,
    agents: [Agent; 2],
    _backend: Backend,
    trust: String,
}

impl Chain {
    fn start(world: &World, mode: &str) -> Self {
        let trust = read(world.authority.trust());
        let gateway_agent = Agent::new(
            world,
            "gateway",
            &only(&gateway_svid(&world.authority, &trust)),
        );
        let acceptor_agent = Agent::new(
            world,
            "acceptor",
            &only(&acceptor_svid(&world.authority, &trust)),
        );
        let agents = [gateway_agent.started(), acceptor_agent.started()];
        let backend = named_backend(world, "the backend");
        let link = world.address();
        let text = agents[1].common(world, "acceptor", "")
            + &world.acceptor_text_in(
                "tcp",
                link,
                &backend.address.to_string(),
                &format!("trusted_ips = [{:?}]\n", world.near()),
            );
        let acceptor = world.start("acceptor", &text);
        let edge = world.address();
        let text =
            agents[0].common(world, "gateway", "") + &world.gateway_text(mode, edge, link, "", "");
        let gateway = world.start("gateway", &text);
        Self {
            gateway,
            acceptor,
            edge,
            agents,
            _backend: backend,
            trust,
        }
    }

    /// What both agents hand out: an identity of `by` each, with this bundle.
    fn hand_out(&self, by: &Authority, bundle: &str) {
        let updates = |side: &Running| {
            side.count(|line| line["message"] == "an update of our identity is in force")
        };
        let before = [updates(&self.gateway), updates(&self.acceptor)];
        self.agents[0].hands_out(&only(&gateway_svid(by, bundle)));
        self.agents[1].hands_out(&only(&acceptor_svid(by, bundle)));
        until("both updates", || {
            (updates(&self.gateway) > before[0] && updates(&self.acceptor) > before[1])
                .then_some(())
        });
    }
}

#[test]
fn identities_and_roots_are_replaced_under_load_and_no_request_fails() {
    let world = World::new();
    let other = Authority::init(&world.path("other"), InitOptions::default()).unwrap();
    let chain = Chain::start(&world, "http");
    let both = chain.trust.clone() + &read(other.trust());
    let stop = AtomicBool::new(false);
    let answered = AtomicU32::new(0);
    let load = |kept: bool| {
        let connect = || world.client().connect(chain.edge, "site.test").unwrap();
        let mut stream = connect();
        while !stop.load(Ordering::Relaxed) {
            if !kept {
                stream = connect();
            }
            let got =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| get(&mut stream, "/")));
            let Ok((200, body)) = got else {
                stop.store(true, Ordering::Relaxed);
                panic!("a request failed: {got:?}\n{}", chain.gateway.text());
            };
            assert_eq!(body, "the backend");
            answered.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(3));
        }
    };
    let goes_on = || {
        let now = answered.load(Ordering::Relaxed);
        until("answers", || {
            (answered.load(Ordering::Relaxed) > now + 30).then_some(())
        });
    };
    std::thread::scope(|scope| {
        scope.spawn(|| load(false));
        scope.spawn(|| load(true));
        goes_on();
        // an update each, then a new authority: both trusted, its certificates, it alone
        chain.hand_out(&world.authority, &chain.trust);
        goes_on();
        chain.hand_out(&world.authority, &both);
        goes_on();
        chain.hand_out(&other, &both);
        goes_on();
        chain.hand_out(&other, &read(other.trust()));
        goes_on();
        assert!(!stop.swap(true, Ordering::Relaxed), "a request failed");
    });
    for side in [&chain.gateway, &chain.acceptor] {
        assert!(
            side.metric("portcullis_identity_renewals_total{result=\"success\"}") >= 4.0,
            "{}",
            side.text()
        );
        let (_, body) = side.admin("/status.json").unwrap();
        let status: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status["renewal"]["source"], "spiffe");
        assert_eq!(status["renewal"]["failure"], "");
        let (ok, ready) = side.admin("/readyz?verbose").unwrap();
        assert_eq!(ok, 200);
        assert!(ready.contains("ok   renewal:"), "{ready}");
    }
    // no key of an identity is on disk but in the state of the test's own agent
    let folder = world.path("state");
    let kept = std::fs::read_dir(folder).map_or(0, Iterator::count);
    assert_eq!(kept, 0);
}

/// Ends the live tunnel by what the acceptor's agent says, and tells how long it took.
fn shut_out(chain: &Chain, world: &World, state: &Value, reason: &str) {
    let mut client = world.client().connect(chain.edge, "site.test").unwrap();
    assert_eq!(get(&mut client, "/").0, 200);
    let begun = Instant::now();
    chain.agents[1].hands_out(state);
    chain.acceptor.line("the end of the link", |line| {
        line["message"] == "access" && line["reason"] == "rules_changed"
    });
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    drop(world.client().connect(chain.edge, "site.test"));
    chain.acceptor.refusal(reason);
}

#[test]
fn a_list_from_the_agent_ends_live_connections() {
    let world = World::new();
    let chain = Chain::start(&world, "tcp");
    let warned = chain.acceptor.text();
    assert!(warned.contains("hands out no CRL"), "{warned}");
    let mine = acceptor_svid(&world.authority, &chain.trust);
    world
        .authority
        .revoke("gateway/edge-1", Reason::KeyCompromise)
        .unwrap();
    let crl = read(world.authority.crl());
    let state = json!({ "svids": [mine], "crl": crl });
    shut_out(&chain, &world, &state, "certificate_revoked");
}

#[test]
fn a_root_that_goes_ends_live_connections() {
    let world = World::new();
    let other = Authority::init(&world.path("other"), InitOptions::default()).unwrap();
    let chain = Chain::start(&world, "tcp");
    // our own chain need not lead to our own trust
    let mine = acceptor_svid(&world.authority, &read(other.trust()));
    shut_out(&chain, &world, &only(&mine), "certificate_unknown_issuer");
}

#[test]
fn a_federated_bundle_speaks_for_its_own_domain_alone() {
    let world = World::new();
    let options = |domain: &str| InitOptions {
        trust_domain: domain.to_owned(),
        ..InitOptions::default()
    };
    let partner = Authority::init(&world.path("partner"), options("partner.test")).unwrap();
    // the partner's second authority uses our names
    let thief = Authority::init(&world.path("thief"), options("example.internal")).unwrap();
    let trust = read(world.authority.trust());
    let mine = acceptor_svid(&world.authority, &trust);
    let state = json!({
        "svids": [mine],
        "federated": {
            "spiffe://partner.test": read(partner.trust()) + &read(thief.trust()),
            "spiffe://example.internal": read(thief.trust()),
        },
    });
    let agent = Agent::new(&world, "acceptor", &state).started();
    let backend = named_backend(&world, "the backend");
    let link = world.address();
    let listener = format!(
        "[[listener]]\nname = \"legacy\"\naddress = \"{link}\"\nmode = \"http\"\nbackend = \"{}\"\n\
         gateways = [\"spiffe://example.internal/gateway/*\", \"spiffe://partner.test/gateway/*\"]\n\
         trusted_ips = [{:?}]\n",
        backend.address,
        world.near()
    );
    let acceptor = world.start(
        "acceptor",
        &(agent.common(&world, "acceptor", "") + &listener),
    );
    acceptor.line("the bundle that is left out", |line| {
        says(line, "what", "our own trust domain")
    });
    let leaf = |by: &Authority| {
        let issued = by
            .issue(&IssueRequest::new(Role::Gateway, "edge-1"))
            .unwrap();
        crate::world::Leaf {
            certificate: issued.certificate,
            key: issued.key,
        }
    };
    let client = |leaf: &crate::world::Leaf| world.client().source(world.ip()).certificate(leaf);
    let mut friend = client(&leaf(&partner))
        .connect(link, "legacy.internal")
        .unwrap();
    assert_eq!(get(&mut friend, "/").0, 200);
    drop(client(&leaf(&thief)).connect(link, "legacy.internal"));
    let line = acceptor.access("refused");
    assert_eq!(line["reason"], "issuer_not_for_name", "{line}");
}

#[test]
fn what_is_bad_is_refused_and_the_last_good_stays() {
    let world = World::new();
    let mut chain = Chain::start(&world, "http");
    let mut client = world.client().connect(chain.edge, "site.test").unwrap();
    assert_eq!(get(&mut client, "/").0, 200);
    let good = gateway_svid(&world.authority, &chain.trust);
    let mut other_key = good.clone();
    other_key["key"] = gateway_svid(&world.authority, &chain.trust)["key"].clone();
    let mut other_name = good.clone();
    other_name["id"] = "spiffe://example.internal/gateway/edge-2".into();
    let mut no_bundle = good.clone();
    no_bundle["bundle"] = "".into();
    for (state, said) in [
        (
            only(&other_key),
            "it is not the key of the first certificate",
        ),
        (only(&other_name), "which it was handed out for"),
        (only(&no_bundle), "it is empty"),
        (json!({ "svids": [] }), "register an entry"),
    ] {
        chain.agents[0].hands_out(&state);
        let line = chain.gateway.line(said, |line| says(line, "error", said));
        assert_eq!(line["level"], "ERROR");
        assert_eq!(get(&mut client, "/").0, 200);
        let mut fresh = world.client().connect(chain.edge, "site.test").unwrap();
        assert_eq!(get(&mut fresh, "/").0, 200);
        let (_, ready) = chain.gateway.admin("/readyz?verbose").unwrap();
        assert!(ready.contains(said), "{ready}");
    }
    // a reload keeps the identity that is in force
    chain.gateway.reload();
    assert_eq!(get(&mut client, "/").0, 200);
    let is_denied = |line: &Value| {
        line["error"].as_str().is_some_and(|e| {
            e.contains("permission denied: the agent has no entry")
                && e.contains("no identity issued")
        })
    };
    chain.agents[0].hands_out(&json!({ "deny": true }));
    chain.gateway.line("the denial", is_denied);
    assert_eq!(get(&mut client, "/").0, 200);
    chain.agents[0].stop();
    chain.gateway.line("the agent's end", |line| {
        line["message"]
            .as_str()
            .is_some_and(|said| said.starts_with("the Workload API can't be had"))
            && !is_denied(line)
    });
    let mut fresh = world.client().connect(chain.edge, "site.test").unwrap();
    assert_eq!(get(&mut fresh, "/").0, 200);
    chain.agents[0].hands_out(&only(&good));
    chain.agents[0].start();
    chain.gateway.line("the update", |line| {
        line["message"] == "an update of our identity is in force"
    });
    assert_eq!(get(&mut client, "/").0, 200);
    let (_, ready) = chain.gateway.admin("/readyz?verbose").unwrap();
    assert!(ready.contains("ok   renewal:"), "{ready}");
}

/// An identity of an hour must not end for a slip of the pen elsewhere; nor is that forgotten for it.
#[test]
fn an_update_comes_into_force_beside_a_site_s_key_that_does_not_fit() {
    let world = World::new();
    let chain = Chain::start(&world, "http");
    let other = std::fs::read(world.issue(Role::Gateway, "other", &[]).key).unwrap();
    portcullis::pki::store::write_file(&world.leaf(Role::Server, "site").key, &other, 0o600)
        .unwrap();
    chain.gateway.line("the refusal", |line| {
        says(line, "message", "reload refused")
    });
    chain.hand_out(&world.authority, &chain.trust);
    let (_, ready) = chain.gateway.admin("/readyz?verbose").unwrap();
    assert!(ready.contains("warn reload:"), "{ready}");
}

#[test]
fn a_start_waits_for_its_entry_and_check_needs_no_agent() {
    let world = World::new();
    let trust = read(world.authority.trust());
    let agent = Agent::new(&world, "acceptor", &json!({ "deny": true }));
    let link = world.address();
    let id = "id = \"spiffe://example.internal/acceptor/legacy\"";
    let config = agent.common(&world, "acceptor", id)
        + &world.acceptor_text_in(
            "tcp",
            link,
            "127.0.0.1:1",
            &format!("trusted_ips = [{:?}]\n", world.near()),
        );
    let config = world.write("acceptor.toml", &config);
    let (ok, said) = run(BINARY, &["check", text(&config)]);
    assert!(
        ok && said.contains("it is judged when the process starts"),
        "{said}"
    );
    let agent = agent.started();
    let waiting = Running::launch("acceptor", &config);
    waiting.line("why it waits", |line| {
        line["error"]
            .as_str()
            .is_some_and(|e| e.starts_with("permission denied"))
    });
    std::net::TcpStream::connect(link).unwrap_err();
    // the first is not ours
    let first = gateway_svid(&world.authority, &trust);
    let ours = acceptor_svid(&world.authority, &trust);
    agent.hands_out(&json!({ "svids": [first, ours] }));
    let acceptor = waiting.ready();
    let (_, body) = acceptor.admin("/status.json").unwrap();
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        status["identity"]["name"],
        "spiffe://example.internal/acceptor/legacy"
    );
}
