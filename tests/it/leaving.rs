//! Listeners that a reload moved or took out: their connections live on for a while, and whoever is
//! shut out meanwhile is not let stay that long.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use portcullis::pki::{Authority, InitOptions, IssueRequest, Reason, Role};
use rstest::rstest;

use crate::world::{
    Backend, Client, Leaf, Running, TlsStream, World, answers, broken, says, until,
};

/// What is promised, from the write to the end of the last connection.
const PROMISED: Duration = Duration::from_secs(2);

/// A gateway whose listener `second` asks for clients of an authority that nothing else names.
struct Removed {
    world: World,
    _acceptor: Running,
    gateway: Running,
    /// The configuration without it.
    without: String,
    partner: Authority,
    key: PathBuf,
    stream: TlsStream,
}

impl Removed {
    fn new() -> Self {
        let world = World::new();
        let partner = Authority::init(&world.path("partner"), InitOptions::default()).unwrap();
        let caller = partner
            .issue(&IssueRequest::new(Role::Client, "one"))
            .unwrap();
        let caller = Leaf {
            certificate: caller.certificate,
            key: caller.key,
        };
        let backend = Backend::echo(world.address());
        let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
        let site = world.leaf(Role::Server, "site");
        let key = world.write("second.key", &std::fs::read_to_string(site.key).unwrap());
        let without = world.common(Role::Gateway, "edge-1")
            + "[limits]\ndrain_timeout = \"5m\"\n"
            + &world.gateway_text("tcp", world.address(), link, "", "");
        let at = world.address();
        let second = format!(
            "[[listener]]\nname = \"second\"\naddress = \"{at}\"\nmode = \"tcp\"\n\
             certificate = {:?}\nkey = {key:?}\nclient_ca = {:?}\nclient_crl = {:?}\n\
             client_cert = \"require\"\nclients = [\"spiffe://example.internal/client/one\"]\n",
            site.certificate,
            partner.trust(),
            partner.crl()
        );
        let gateway = world.start("gateway", &(without.clone() + &second));
        let client = Client::new(&world.authority.trust()).certificate(&caller);
        let stream = client.connect(at, "site.test").unwrap();
        Self {
            world,
            _acceptor: acceptor,
            gateway,
            without,
            partner,
            key,
            stream,
        }
    }

    fn take_out(&mut self) {
        assert!(answers(&mut self.stream), "{}", self.gateway.text());
        self.world.write("gateway.toml", &self.without);
        self.gateway.reload();
        assert!(answers(&mut self.stream), "it has drain_timeout");
    }

    /// The detail of its end, which has to come in time.
    fn end(&mut self, since: Instant) -> String {
        assert!(broken(&mut self.stream));
        let took = since.elapsed();
        assert!(took < PROMISED, "{took:?}");
        let line = self.gateway.refusal("rules_changed");
        assert_eq!(line["decision"], "ended");
        line["detail"].as_str().unwrap().to_owned()
    }
}

/// The list is named by the listener that is gone, and by nothing else.
#[test]
fn a_listener_that_was_taken_out_ends_its_callers_that_are_revoked() {
    let mut removed = Removed::new();
    removed.take_out();
    let begun = Instant::now();
    removed
        .partner
        .revoke("client/one", Reason::KeyCompromise)
        .unwrap();
    let detail = removed.end(begun);
    assert!(detail.contains("certificate_revoked"), "{detail}");
}

#[test]
fn a_listener_that_is_taken_out_hears_of_what_changed_together_with_it() {
    let mut removed = Removed::new();
    assert!(answers(&mut removed.stream));
    let begun = Instant::now();
    removed
        .partner
        .revoke("client/one", Reason::KeyCompromise)
        .unwrap();
    removed.world.write("gateway.toml", &removed.without);
    removed.gateway.reload();
    let detail = removed.end(begun);
    assert!(detail.contains("certificate_revoked"), "{detail}");
}

/// Nobody can judge any more who is left: absence is never permission.
#[test]
fn a_listener_that_was_taken_out_ends_with_its_files() {
    let mut removed = Removed::new();
    removed.take_out();
    let begun = Instant::now();
    std::fs::remove_file(&removed.key).unwrap();
    let detail = removed.end(begun);
    assert!(detail.contains("its files do not load"), "{detail}");
    removed.gateway.line("the reason", |line| {
        line["level"] == "ERROR" && says(line, "problem", "second.key")
    });
}

#[rstest]
#[case::the_crl(true)]
#[case::a_range(false)]
fn an_acceptor_that_lost_a_listener_ends_the_links_that_are_shut_out(#[case] crl: bool) {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let ranges = world.write("ranges.txt", &world.near());
    let from = format!("trusted_ips = [{{ file = {ranges:?} }}]");
    let (stays, goes) = (world.address(), world.address());
    let to = backend.address.to_string();
    let without = world.common(Role::Acceptor, "legacy")
        + "[limits]\ndrain_timeout = \"5m\"\n"
        + &world.acceptor_text(stays, &to, "trusted_ips = [\"127.0.0.0/8\"]");
    let second = world
        .acceptor_text(goes, &to, &from)
        .replace("\"legacy\"", "\"second\"");
    let acceptor = world.start("acceptor", &(without.clone() + &second));
    let (_gateway, edge) = world.plain_gateway("tcp", goes, "", "");
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    assert!(answers(&mut stream));
    world.write("acceptor.toml", &without);
    acceptor.reload();
    assert!(answers(&mut stream), "it has drain_timeout");
    let begun = Instant::now();
    let why = if crl {
        let gateway = "gateway/edge-1";
        world
            .authority
            .revoke(gateway, Reason::KeyCompromise)
            .unwrap();
        "certificate_revoked"
    } else {
        world.write("ranges.txt", "192.0.2.0/24\n");
        "source_untrusted"
    };
    assert!(broken(&mut stream));
    assert!(begun.elapsed() < PROMISED, "{:?}", begun.elapsed());
    let line = acceptor.refusal("rules_changed");
    assert!(says(&line, "detail", why), "{line}");
    until("the end of its listener", || world.client().tcp(goes).err());
}

#[test]
fn a_listener_that_moved_ends_its_old_connections_too() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (_gateway, edge) = world.plain_gateway("tcp", link, "", "");
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    assert!(answers(&mut stream));
    // twice, so that the first address is not the one before
    let mut text = std::fs::read_to_string(&acceptor.config).unwrap();
    let mut at = link;
    for _ in 0..2 {
        let next = world.address();
        text = text.replace(&at.to_string(), &next.to_string());
        world.write("acceptor.toml", &text);
        acceptor.line("the move", |line| {
            line["message"] == "listening" && line["address"] == next.to_string()
        });
        at = next;
    }
    assert!(answers(&mut stream), "{}", acceptor.text());
    world
        .authority
        .revoke("gateway/edge-1", Reason::KeyCompromise)
        .unwrap();
    acceptor.line("its end", |line| {
        line["decision"] == "ended" && line["reason"] == "rules_changed"
    });
    assert!(!answers(&mut stream));
}

/// Nothing that judges its callers has changed: the pair in force stays for them too.
#[test]
fn a_listener_that_was_taken_out_keeps_its_callers_beside_a_key_that_does_not_fit() {
    let mut removed = Removed::new();
    removed.take_out();
    let own = removed.world.leaf(Role::Gateway, "edge-1");
    let other = removed.world.issue(Role::Gateway, "other", &[]);
    let other = std::fs::read(other.key).unwrap();
    portcullis::pki::store::write_file(&own.key, &other, 0o600).unwrap();
    removed.gateway.line("the refusal", |line| {
        says(line, "message", "reload refused")
    });
    assert!(answers(&mut removed.stream), "{}", removed.gateway.text());
}
