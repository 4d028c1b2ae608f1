//! Certificates from an ACME CA, by the real binary and a CA that nobody here wrote.

mod lapses;
mod odd;
mod pebble;

use std::{net::IpAddr, os::unix::fs::PermissionsExt as _, path::Path};

use serde_json::Value;

pub(crate) use self::pebble::{Options, Pebble};
use crate::world::{BINARY, Client, Running, World, get, get_from, named_backend, run, says, text};

/// What both roles have, with an identity of this name that the CA has to prove at `ip`.
pub(crate) fn common(
    world: &World,
    ca: &Pebble,
    trust: &Path,
    name: &str,
    ip: IpAddr,
    more: &str,
) -> String {
    ca.resolves(name, ip);
    std::fs::create_dir_all(world.path(name)).unwrap();
    format!(
        "[identity]\nsource = \"acme\"\nurl = {:?}\ndomains = [{name:?}]\n\
         contact = \"mailto:ops@example.org\"\nacme_trust = {:?}\nacme_http = \"{ip}:{}\"\n\
         certificate = \"{name}/cert.pem\"\nkey = \"{name}/key.pem\"\ntrust = {trust:?}\n{more}\n\n\
         [log]\nformat = \"json\"\n\n",
        ca.url(),
        world.authority.trust(),
        ca.http_port,
    )
}

pub(crate) fn admin(world: &World, role: &str) -> String {
    let socket = world.path(&format!("{role}.sock"));
    format!("[admin]\naddress = \"unix:{}\"\n\n", socket.display())
}

/// An acceptor called `legacy.test` that lets in `edge.test`.
fn acceptor_text(world: &World, ca: &Pebble, root: &Path, link: &str, backend: &str) -> String {
    common(world, ca, root, "legacy.test", world.ip(), "")
        + &admin(world, "acceptor")
        + &format!(
            "[[listener]]\nname = \"legacy\"\naddress = \"{link}\"\nmode = \"http\"\n\
             backend = \"{backend}\"\ntrusted_ips = [{:?}]\ngateways = [\"dns:edge.test\"]\n",
            world.near()
        )
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn serial(side: &Running) -> String {
    let (_, body) = side.admin("/status.json").unwrap();
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status["renewal"]["source"], "acme");
    status["identity"]["serial"].as_str().unwrap().to_owned()
}

#[test]
fn both_ends_of_the_link_have_their_first_certificate_from_an_acme_ca() {
    let world = World::new();
    let mut ca = Pebble::started(&world, Options::default());
    let root = ca.root(&world);
    let backend = named_backend(&world, "the backend");
    let link = world.address();
    let acceptor = acceptor_text(
        &world,
        &ca,
        &root,
        &link.to_string(),
        &backend.address.to_string(),
    );
    let config = world.write("acceptor.toml", &acceptor);
    // nothing is there yet, and that is no fault
    let (ok, said) = run(BINARY, &["check", text(&config)]);
    assert!(ok && said.contains("it is asked for at"), "{said}");
    let acceptor = world.start("acceptor", &acceptor);
    let edge = world.address();
    let gateway = common(&world, &ca, &root, "edge.test", world.other_ip(2), "")
        + &admin(&world, "gateway")
        + &world
            .gateway_text("http", edge, link, "", "")
            .replace("legacy.internal", "legacy.test");
    let started = world.start("gateway", &gateway);
    let request = || {
        let mut client = world.client().connect(edge, "site.test").unwrap();
        get(&mut client, "/")
    };
    assert_eq!(request(), (200, "the backend".to_owned()));
    for (side, name) in [(&acceptor, "legacy.test"), (&started, "edge.test")] {
        let (_, ready) = side.admin("/readyz?verbose").unwrap();
        assert!(ready.contains("ok   renewal: due"), "{ready}");
        side.line("the first certificate", |line| {
            line["message"] == "our first certificate is here"
        });
        assert_eq!(mode(&world.path(&format!("{name}/key.pem"))), 0o600);
        assert_eq!(mode(&world.path(&format!("{name}/cert.pem"))), 0o644);
    }
    let kept = world.path("state/acme");
    assert_eq!(mode(&kept), 0o700);
    let accounts: Vec<_> = std::fs::read_dir(&kept)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    // one account for both: they share a folder here
    assert_eq!(accounts.len(), 1, "{accounts:?}");
    assert_eq!(mode(&accounts[0]), 0o600);
    // what is on disk is enough to start again: the CA is not asked
    let before = serial(&started);
    ca.stop();
    assert!(started.stop().success());
    let started = world.start("gateway", &gateway);
    assert_eq!(request().0, 200);
    assert_eq!(serial(&started), before);
}

#[test]
fn a_certificate_is_renewed_before_its_end_and_a_ca_that_is_away_is_waited_for() {
    let world = World::new();
    // renewed after two thirds of this
    let mut ca = Pebble::started(
        &world,
        Options {
            life: 18,
            ..Options::default()
        },
    );
    let root = ca.root(&world);
    let backend = named_backend(&world, "the backend");
    let text = acceptor_text(
        &world,
        &ca,
        &root,
        &world.address().to_string(),
        &backend.address.to_string(),
    );
    let acceptor = world.start("acceptor", &text);
    let first = serial(&acceptor);
    let renewed = |line: &Value| line["message"] == "our certificate is renewed";
    let line = acceptor.line("the renewal", renewed);
    assert_eq!(line["replaces"], first);
    crate::world::until("the new one in force", || {
        (serial(&acceptor) != first).then_some(())
    });
    assert!(acceptor.metric("portcullis_identity_renewals_total{result=\"success\"}") >= 1.0);
    ca.stop();
    let failed = acceptor.line("the failure", |line| {
        line["message"]
            .as_str()
            .is_some_and(|said| said.starts_with("our certificate can't be renewed"))
    });
    assert!(
        failed["error"]
            .as_str()
            .unwrap()
            .contains(&ca.at.to_string()),
        "{failed}"
    );
    assert!(failed["next_try"].is_string(), "{failed}");
    let (_, ready) = acceptor.admin("/readyz?verbose").unwrap();
    assert!(ready.contains("warn renewal:"), "{ready}");
    assert!(acceptor.metric("portcullis_identity_renewals_total{result=\"failure\"}") >= 1.0);
    assert_eq!(acceptor.count(renewed), 1);
}

#[test]
fn what_the_ca_refuses_is_said_and_not_asked_again_at_once() {
    let world = World::new();
    let ca = Pebble::started(
        &world,
        Options {
            blocked: vec!["legacy.test"],
            ..Options::default()
        },
    );
    let root = ca.root(&world);
    let text = acceptor_text(
        &world,
        &ca,
        &root,
        &world.address().to_string(),
        "127.0.0.1:9",
    );
    let config = world.write("acceptor.toml", &text);
    let refusal = |line: &Value| {
        line["message"] == "waiting for a certificate"
            && says(
                line,
                "error",
                "the CA refuses the order: rejectedIdentifier",
            )
    };
    let acceptor = Running::launch("acceptor", &config);
    let line = acceptor.line("the refusal", refusal);
    assert!(line["next_try"].is_string(), "{line}");
    drop(acceptor);
    let asked = ca.said("POST /order-plz");
    assert!(asked > 0);
    // a supervisor that starts it again and again is no hammer
    let mut again = Running::launch("acceptor", &config);
    again.line("the refusal", refusal);
    assert_eq!(ca.said("POST /order-plz"), asked);
    // and it does not wait for ever
    let ended = again.ended();
    assert_eq!(ended.code(), Some(1));
    assert!(
        again.text().contains("no certificate in 30s"),
        "{}",
        again.text()
    );
    assert_eq!(ca.said("POST /order-plz"), asked);
}

#[test]
fn a_name_that_leads_elsewhere_is_not_proven() {
    let world = World::new();
    let ca = Pebble::started(&world, Options::default());
    let root = ca.root(&world);
    let text = acceptor_text(
        &world,
        &ca,
        &root,
        &world.address().to_string(),
        "127.0.0.1:9",
    );
    ca.resolves("legacy.test", world.other_ip(9));
    let config = world.write("acceptor.toml", &text);
    let acceptor = Running::launch("acceptor", &config);
    let line = acceptor.line("the refusal", |line| {
        line["message"] == "waiting for a certificate"
    });
    let said = line["error"].as_str().unwrap();
    assert!(
        said.contains("the CA refuses legacy.test by http-01: "),
        "{said}"
    );
}

#[test]
fn an_account_is_bound_to_the_one_that_the_ca_knows() {
    let world = World::new();
    let secret = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let ca = Pebble::started(
        &world,
        Options {
            external: Some(("kid-1", secret)),
            ..Options::default()
        },
    );
    let root = ca.root(&world);
    let at = world.address().to_string();
    let plain = acceptor_text(&world, &ca, &root, &at, "127.0.0.1:9");
    let config = world.write("acceptor.toml", &plain);
    let stranger = Running::launch("acceptor", &config);
    stranger.line("the refusal", |line| {
        says(line, "error", "set external_account")
    });
    drop(stranger);
    world.write("eab", secret);
    let bound = plain.replace(
        "acme_trust",
        "external_account = { key_id = \"kid-1\", key = { file = \"eab\" } }\nacme_trust",
    );
    std::fs::remove_dir_all(world.path("state/acme")).unwrap();
    let acceptor = world.start("acceptor", &bound);
    assert!(!serial(&acceptor).is_empty());
}

/// A gateway with a listener `ordered`, whose certificate is for `name` and comes from the CA.
fn shown(world: &World, ca: &Pebble, name: &str, at: std::net::SocketAddr, how: &str) -> String {
    ca.resolves(name, at.ip());
    format!(
        "[[listener]]\nname = \"ordered\"\naddress = \"{at}\"\nmode = \"http\"\n\
         certificate = {{ acme = {:?}, domains = [{name:?}], trust = {:?}, {how} }}\n",
        ca.url(),
        world.authority.trust(),
    )
}

#[test]
fn a_listener_refuses_until_its_certificate_has_come_by_tls_alpn_01() {
    let world = World::new();
    let mut ca = Pebble::new(&world, Options::default());
    let backend = named_backend(&world, "the backend");
    let (_acceptor, link) = world.http_acceptor(&backend.address.to_string(), "");
    let at = std::net::SocketAddr::new(world.ip(), ca.tls_port);
    let text = shown(&world, &ca, "www.test", at, "challenge = \"tls-alpn-01\"");
    let (gateway, edge) = world.plain_gateway("http", link, &text, "");
    assert!(world.client().connect(at, "www.test").is_err());
    gateway.refused("ordered", "certificate_pending");
    let request = || {
        let mut client = world.client().connect(edge, "site.test").unwrap();
        get(&mut client, "/")
    };
    // nobody else waits for it
    assert_eq!(request().0, 200);
    gateway.line("the failure", |line| {
        line["message"]
            .as_str()
            .is_some_and(|said| said.starts_with("a certificate of a listener can't be had"))
    });
    let (ok, ready) = gateway.admin("/readyz?verbose").unwrap();
    assert_eq!(ok, 200);
    assert!(ready.contains("warn certificate "), "{ready}");
    ca.start();
    let client = Client::new(&ca.root(&world));
    let mut stream = crate::world::until("the certificate", || client.connect(at, "www.test").ok());
    assert_eq!(get_from(&mut stream, "www.test", "/").0, 200);
    gateway.refused("ordered", "acme_challenge");
    let (_, ready) = gateway.admin("/readyz?verbose").unwrap();
    assert!(ready.contains("ok   certificate "), "{ready}");
    let (_, status) = gateway.admin("/status.json").unwrap();
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["certificates"][0]["failure"], "");
    assert!(status["certificates"][0]["last_success"].is_number());
    // nothing is being proven now
    let said = world.s_client(
        at,
        None,
        None,
        &["-servername", "www.test", "-alpn", "acme-tls/1"],
    );
    assert!(said.contains("no application protocol"), "{said}");
    assert_eq!(request().0, 200);
    // it is on disk
    ca.stop();
    let config = gateway.config.clone();
    assert!(gateway.stop().success());
    let again = Running::start("gateway", &config);
    let mut stream = client.connect(at, "www.test").unwrap();
    assert_eq!(get_from(&mut stream, "www.test", "/").0, 200);
    assert_eq!(again.denied("ordered", "certificate_pending"), 0.0);
}

#[test]
fn a_listener_has_its_certificate_by_http_01_through_the_one_in_redirect_mode() {
    let world = World::new();
    let ca = Pebble::started(&world, Options::default());
    let backend = named_backend(&world, "the backend");
    let (_acceptor, link) = world.http_acceptor(&backend.address.to_string(), "");
    let at = world.address();
    let ordered = shown(&world, &ca, "web.test", at, "challenge = \"http-01\"");
    let plain = std::net::SocketAddr::new(world.ip(), ca.http_port);
    let redirect =
        format!("[[listener]]\nname = \"plain\"\naddress = \"{plain}\"\nmode = \"redirect\"\n");
    let edge = world.address();
    let text = |more: &str| world.gateway_text("http", edge, link, more, "");
    let alone = world.common(portcullis::pki::Role::Gateway, "edge-1") + &text(&ordered);
    let config = world.write("gateway.toml", &alone);
    let (ok, said) = run(BINARY, &["check", crate::world::text(&config)]);
    assert!(
        !ok && said.contains("without a listener in redirect mode"),
        "{said}"
    );
    let gateway = world.gateway(&text(&(ordered + &redirect)));
    let client = Client::new(&ca.root(&world));
    let mut stream = crate::world::until("the certificate", || client.connect(at, "web.test").ok());
    assert_eq!(get_from(&mut stream, "web.test", "/").0, 200);
    assert_eq!(gateway.denied("ordered", "acme_challenge"), 0.0);
}
