//! Sessions that go on: whoever holds one is judged again, by all that is in force, and nobody
//! gets in by a ticket who would not get in without.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr},
    process::{Command, Stdio},
};

use portcullis::pki::{Authority, InitOptions, Reason, Role};
use rstest::rstest;

use crate::{
    revocation::fingerprint,
    world::{Backend, Leaf, PATIENCE, Running, World, says, text, until},
};

/// Answers the first bytes with a word, and ends.
fn one_word(world: &World) -> Backend {
    Backend::serve(world.address(), |mut stream| {
        let mut asked = [0; 64];
        let _some = stream.read(&mut asked);
        drop(stream.write_all(b"greetings"));
        drop(stream.shutdown(Shutdown::Write));
        while let Ok(1..) = stream.read(&mut asked) {}
    })
}

/// Somebody with OpenSSL, a certificate, and the session that he was given last.
struct Caller<'a> {
    world: &'a World,
    leaf: Leaf,
    from: IpAddr,
    /// Where he keeps it.
    session: std::path::PathBuf,
}

impl<'a> Caller<'a> {
    fn new(world: &'a World, leaf: Leaf) -> Self {
        Self {
            leaf,
            from: world.ip(),
            session: world.path("session.pem"),
            world,
        }
    }

    /// What OpenSSL says of a connection with the session at hand, if there is one.
    fn come(&self, to: SocketAddr) -> String {
        let mut options = vec!["-servername", "legacy.internal"];
        options.extend(["-sess_out", text(&self.session)]);
        if self.session.exists() {
            options.extend(["-sess_in", text(&self.session)]);
        }
        let from = Some(self.from);
        self.world.s_client(to, Some(&self.leaf), from, &options)
    }

    fn comes_anew(&self, to: SocketAddr) {
        let said = self.come(to);
        assert!(
            said.contains("New, TLSv1.3") && said.contains("greetings"),
            "{said}"
        );
        assert!(self.session.exists(), "no ticket came: {said}");
    }

    fn goes_on(&self, to: SocketAddr) {
        let said = self.come(to);
        assert!(
            said.contains("Reused, TLSv1.3") && said.contains("greetings"),
            "{said}"
        );
    }

    fn is_refused(&self, to: SocketAddr, alert: &str) {
        assert!(self.session.exists());
        let said = self.come(to);
        assert!(
            said.contains(&format!("alert {alert}")) && !said.contains("greetings"),
            "{said}"
        );
    }
}

fn handshakes(process: &Running, kind: &str) -> f64 {
    process.metric(&format!(
        "portcullis_handshakes_total{{listener=\"legacy\",kind=\"{kind}\"}}"
    ))
}

fn links(gateway: &Running, kind: &str) -> f64 {
    gateway.metric(&format!(
        "portcullis_link_handshakes_total{{backend=\"legacy\",kind=\"{kind}\"}}"
    ))
}

fn edit(process: &Running, from: &str, to: &str) {
    let was = std::fs::read_to_string(&process.config).unwrap();
    assert!(was.contains(from), "{from} in {was}");
    rewrite(process, &was.replace(from, to));
}

fn rewrite(process: &Running, text: &str) {
    portcullis::pki::store::write_file(&process.config, text.as_bytes(), 0o600).unwrap();
}

fn revoke(world: &World, name: &str) {
    world.authority.revoke(name, Reason::KeyCompromise).unwrap();
}

/// Does it, and waits until the process has loaded it.
fn reloaded_by(process: &Running, change: impl FnOnce()) {
    let loads = || process.count(|line| line["message"] == "reloaded");
    let before = loads();
    change();
    until("the reload", || (loads() > before).then_some(()));
}

/// What changes between a caller's two connections.
#[derive(Clone, Copy, Debug)]
enum Change {
    Revoked,
    Denied,
    Names,
    Trust,
}

#[rstest]
#[case(Change::Revoked, "certificate_revoked", "certificate revoked")]
#[case(Change::Denied, "certificate_denied", "access denied")]
#[case(Change::Names, "name_not_allowed", "access denied")]
#[case(Change::Trust, "certificate_unknown_issuer", "unknown ca")]
fn a_ticket_outlives_no_change(#[case] change: Change, #[case] why: &str, #[case] alert: &str) {
    let world = World::new();
    let backend = one_word(&world);
    let (acceptor, to) = world.plain_acceptor(&backend.address.to_string(), "");
    let caller = Caller::new(&world, world.leaf(Role::Gateway, "edge-1"));
    caller.comes_anew(to);
    caller.goes_on(to);
    // the ticket of a session that went on is as good
    caller.goes_on(to);
    assert_eq!(
        (
            handshakes(&acceptor, "full"),
            handshakes(&acceptor, "resumed")
        ),
        (1.0, 2.0)
    );
    let line = acceptor.line("a session that went on", |line| line["resumed"] == true);
    let identity = "spiffe://example.internal/gateway/edge-1";
    assert_eq!(line["identity"], identity, "{line}");
    assert_eq!(line["rule"], "spiffe://example.internal/gateway/*");
    reloaded_by(&acceptor, || match change {
        Change::Revoked => revoke(&world, "gateway/edge-1"),
        Change::Denied => {
            let denied = format!(
                "denied = [\"sha256:{}\"]\n\n[log]",
                fingerprint(&caller.leaf)
            );
            edit(&acceptor, "[log]", &denied);
        }
        Change::Names => edit(&acceptor, "gateway/*", "gateway/edge-7"),
        Change::Trust => {
            let options = InitOptions::default();
            let other = Authority::init(&world.path("other"), options).unwrap();
            let ours = &world.authority;
            let was = std::fs::read_to_string(&acceptor.config).unwrap();
            let now = was
                .replace(text(&ours.trust()), text(&other.trust()))
                .replace(text(&ours.crl()), text(&other.crl()));
            rewrite(&acceptor, &now);
        }
    });
    caller.is_refused(to, alert);
    acceptor.refused("legacy", why);
}

#[test]
fn a_session_is_judged_by_the_rules_of_its_new_connection() {
    let world = World::new();
    let backend = one_word(&world);
    let (near, far) = (world.other_ip(2), world.other_ip(3));
    let to = world.address();
    let rules = format!(
        "[[listener.rule]]\nfrom = [\"{near}\"]\ngateways = [\"spiffe://example.internal/gateway/*\"]\n\
         [[listener.rule]]\nfrom = [\"{far}\"]\ngateways = [\"spiffe://example.internal/gateway/edge-7\"]\n"
    );
    let text = world.acceptor_text(to, &backend.address.to_string(), "");
    let (head, _gateways) = text.split_once("gateways").unwrap();
    let config = format!("{head}{rules}");
    let acceptor = world.acceptor(&config);
    let mut caller = Caller::new(&world, world.leaf(Role::Gateway, "edge-1"));
    caller.from = near;
    caller.comes_anew(to);
    caller.goes_on(to);
    // the same process, the same load, the same ticket: another source
    caller.from = far;
    caller.is_refused(to, "access denied");
    acceptor.refused("legacy", "name_not_allowed");
}

#[test]
fn sessions_do_not_cross_listeners() {
    let world = World::new();
    let backend = one_word(&world);
    let (to, other) = (world.address(), world.address());
    let trusted = format!("trusted_ips = [{:?}]", world.near());
    let at = |address| world.acceptor_text(address, &backend.address.to_string(), &trusted);
    let strict = at(other)
        .replace("name = \"legacy\"", "name = \"strict\"")
        .replace("gateway/*", "gateway/edge-7");
    let acceptor = world.acceptor(&(at(to) + &strict));
    let caller = Caller::new(&world, world.leaf(Role::Gateway, "edge-1"));
    caller.comes_anew(to);
    caller.is_refused(other, "access denied");
    acceptor.refused("strict", "name_not_allowed");
}

/// One client through the chain; whether it was served.
fn served(world: &World, edge: SocketAddr) -> bool {
    let stream = world.client().connect(edge, "site.test");
    stream.is_ok_and(|mut stream| {
        let mut heard = String::new();
        drop(stream.write_all(b"hello"));
        drop(stream.read_to_string(&mut heard));
        heard == "greetings"
    })
}

#[test]
fn a_gateway_resumes_its_links_and_judges_the_acceptor_anew() {
    let world = World::new();
    let backend = one_word(&world);
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) = world.plain_gateway("tcp", link, "", "tunnel = \"direct\"");
    for _ in 0..3 {
        assert!(served(&world, edge));
    }
    assert_eq!(
        (links(&gateway, "full"), links(&gateway, "resumed")),
        (1.0, 2.0)
    );
    until("the acceptor's count", || {
        (handshakes(&acceptor, "resumed") >= 2.0).then_some(())
    });
    reloaded_by(&gateway, || revoke(&world, "acceptor/legacy"));
    assert!(!served(&world, edge));
    let line = gateway.line("a link that failed", |line| {
        line["message"] == "link connection failed"
    });
    assert_eq!(line["reason"], "upstream_untrusted", "{line}");
    assert!(says(&line, "detail", "certificate_revoked"), "{line}");
    assert_eq!(links(&gateway, "resumed"), 2.0);
}

#[test]
fn a_gateway_that_is_revoked_reads_so_though_it_holds_a_ticket() {
    let world = World::new();
    let backend = one_word(&world);
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    // the gateway does not see the list, and goes on in good faith
    let edge = world.address();
    let trust = format!("trust = {:?}\n", world.authority.trust());
    let config = world.identity(&world.leaf(Role::Gateway, "edge-1"), "gateway", &trust)
        + &world.gateway_text("tcp", edge, link, "", "tunnel = \"direct\"");
    let gateway = world.start("gateway", &config);
    assert!(served(&world, edge) && served(&world, edge));
    reloaded_by(&acceptor, || revoke(&world, "gateway/edge-1"));
    assert!(!served(&world, edge));
    acceptor.refused("legacy", "certificate_revoked");
    let line = gateway.line("a link that failed", |line| {
        line["message"] == "link connection failed"
    });
    assert_eq!(line["reason"], "upstream_refused", "{line}");
    assert!(says(&line, "detail", "certificate_revoked"), "{line}");
}

#[test]
fn links_of_http_mode_resume_too() {
    let world = World::new();
    let backend = crate::world::named_backend(&world, "the backend");
    let (acceptor, link) = world.http_acceptor(&backend.address.to_string(), "");
    let pool = "pool = { ready = 0, idle = 0 }";
    let (gateway, edge) = world.plain_gateway("http", link, "", pool);
    until("a link whose session went on", || {
        let mut stream = world.client().connect(edge, "site.test").unwrap();
        assert_eq!(crate::world::get(&mut stream, "/").0, 200);
        (links(&gateway, "resumed") >= 1.0).then_some(())
    });
    assert!(handshakes(&acceptor, "resumed") >= 1.0);
}

/// What OpenSSL says of a session at a client-facing listener, which is kept in `session`.
fn visit(world: &World, edge: SocketAddr, session: &std::path::Path) -> String {
    let kept = text(session);
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-connect", &edge.to_string()])
        .args(["-servername", "site.test", "-ign_eof", "-sess_out", kept])
        .args(["-CAfile", text(&world.authority.trust())]);
    if session.exists() {
        command.args(["-sess_in", kept]);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    drop(stdin.write_all(b"hello\n"));
    let end = std::time::Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        assert!(std::time::Instant::now() < end);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let mut said = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    said
}

#[test]
fn tickets_of_callers_without_certificates_survive_a_reload_and_no_new_certificate() {
    let world = World::new();
    let backend = one_word(&world);
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) = world.plain_gateway("tcp", link, "", "");
    let session = world.path("visitor.pem");
    let said = visit(&world, edge, &session);
    assert!(said.contains("New, TLSv1.3"), "{said}");
    // a reload that changes something else
    reloaded_by(&gateway, || {
        edit(&gateway, "bind = ", "connect_timeout = \"2s\"\nbind = ")
    });
    let said = visit(&world, edge, &session);
    assert!(said.contains("Reused, TLSv1.3"), "{said}");
    // another certificate, as after a theft of its key: the tickets go with it
    let site = world.leaf(Role::Server, "site");
    reloaded_by(&gateway, || {
        let again = world.issue(Role::Server, "site-2", &["site.test", "*.site.test"]);
        let folder = |leaf: &Leaf| text(leaf.certificate.parent().unwrap()).to_owned() + "/";
        edit(&gateway, &folder(&site), &folder(&again));
    });
    let said = visit(&world, edge, &session);
    assert!(
        said.contains("New, TLSv1.3") && said.contains("greetings"),
        "{said}"
    );
}
