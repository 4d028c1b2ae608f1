//! Certificates that ended while nobody ran, that are born old, or that can't be kept.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use portcullis::{
    identity::UnixSeconds,
    pki::{IssueRequest, Role},
};

use super::{
    Options, Pebble,
    odd::{Desk, OddCa},
    shown,
};
use serde_json::json;

use crate::world::{Client, Running, World, get_from, named_backend, says, text, until};

/// The file of the one listener's certificate that comes from a CA.
fn shown_file(world: &World) -> PathBuf {
    let mut all = std::fs::read_dir(world.path("state/acme"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    all.find(|path| path.extension().is_some_and(|end| end == "pem"))
        .unwrap()
}

#[test]
fn a_listeners_certificate_that_ended_while_nobody_ran_is_ordered_and_shuts_no_other_site() {
    let world = World::new();
    let mut ca = Pebble::started(&world, Options::default());
    let backend = named_backend(&world, "the backend");
    let (_acceptor, link) = world.http_acceptor(&backend.address.to_string(), "");
    let at = std::net::SocketAddr::new(world.ip(), ca.tls_port);
    let listener = shown(&world, &ca, "www.test", at, "challenge = \"tls-alpn-01\"");
    let (gateway, edge) = world.plain_gateway("http", link, &listener, "");
    until("the certificate", || {
        Client::new(&ca.root(&world)).connect(at, "www.test").ok()
    });
    let config = gateway.config.clone();
    assert!(gateway.stop().success());
    ca.stop();
    // months pass
    let now = portcullis::clock::now().0;
    let old = world.issue_as(&IssueRequest {
        not_before: Some(UnixSeconds(now - 7_200)),
        not_after: Some(UnixSeconds(now - 3_600)),
        ..IssueRequest::new(Role::Server, "old").san("www.test")
    });
    let file = shown_file(&world);
    std::fs::copy(&old.certificate, &file).unwrap();
    std::fs::copy(&old.key, file.with_extension("key")).unwrap();
    let (ok, said) = crate::world::run(crate::world::BINARY, &["check", text(&config)]);
    assert!(ok && said.contains("www.test"), "{said}");
    let gateway = Running::start("gateway", &config);
    let mut client = world.client().connect(edge, "site.test").unwrap();
    assert_eq!(get_from(&mut client, "site.test", "/").0, 200);
    assert!(world.client().connect(at, "www.test").is_err());
    gateway.refused("ordered", "certificate_pending");
    ca.start();
    let client = Client::new(&ca.root(&world));
    let mut stream = until("the certificate", || client.connect(at, "www.test").ok());
    assert_eq!(get_from(&mut stream, "www.test", "/").0, 200);
    // one that will do ends the count of what was in vain
    until("the end of it", || tries(&world).is_none().then_some(()));
}

/// What is kept of orders in vain.
fn tries(world: &World) -> Option<serde_json::Value> {
    let mut all = std::fs::read_dir(world.path("state/acme")).ok()?;
    let file = all.find_map(|entry| {
        let path = entry.ok()?.path();
        path.file_name()?
            .to_str()?
            .starts_with("tries-")
            .then_some(path)
    })?;
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

/// A gateway with a listener whose certificate comes from this CA.
fn gateway(world: &World, ca: &OddCa) -> Running {
    gateway_for(world, ca, "www.test")
}

fn gateway_for(world: &World, ca: &OddCa, name: &str) -> Running {
    let at = world.address();
    let listener = format!(
        "[[listener]]\nname = \"ordered\"\naddress = \"{at}\"\nmode = \"http\"\n\
         certificate = {{ acme = {:?}, domains = [{name:?}], trust = {:?} }}\n",
        ca.url(),
        world.authority.trust(),
    );
    world
        .plain_gateway("http", world.address(), &listener, "")
        .0
}

#[test]
fn a_ca_whose_certificates_are_due_at_once_is_not_asked_in_a_loop() {
    let world = World::new();
    let ca = OddCa::start(&world, (-80_000, 6_400), |_, _, _| None);
    let gateway = gateway(&world, &ca);
    gateway.line("the certificate", |line| {
        line["message"] == "a certificate of a listener is here"
    });
    let line = gateway.line("the reason", |line| {
        line["message"] == "no certificate is ordered" && says(line, "error", "is the clock right")
    });
    assert!(says(&line, "key", "www.test"), "{line}");
    let (_, ready) = gateway.admin("/readyz?verbose").unwrap();
    assert!(ready.contains("due for renewal at once"), "{ready}");
    // the pauses grow, as after failures
    until("the next order", || {
        (ca.desk.asked("/order") == 2).then_some(())
    });
    let kept = tries(&world).unwrap();
    assert_eq!(kept["failures"], 2);
    assert!(kept["again"].as_i64().unwrap() - portcullis::clock::now().0 > 11);
    // what came is in force all the same
    assert_eq!(gateway.denied("ordered", "certificate_pending"), 0.0);
}

/// The one error of a gateway whose order comes to nothing with this CA.
fn failure(world: &World, ca: &OddCa) -> String {
    let line = gateway(world, ca).line("the failure", |line| {
        says(line, "message", "a certificate of a listener can't be had")
    });
    line["error"].as_str().unwrap().to_owned()
}

#[test]
fn a_ca_without_words_or_with_a_token_that_is_none_is_said() {
    let authorization = |status: &str, token: &str| {
        let (status, token) = (status.to_owned(), token.to_owned());
        move |desk: &Desk, path: &str, _: &[u8]| {
            let (urls, body) = match path {
                "/order" => (
                    desk.url("/order/1"),
                    json!({ "status": "pending", "authorizations": [desk.url("/name")],
                            "finalize": desk.url("/finalize") }),
                ),
                "/name" => (
                    String::new(),
                    json!({ "status": status, "identifier": { "type": "dns", "value": "www.test" },
                            "challenges": [{ "type": "tls-alpn-01", "url": desk.url("/begin"),
                                             "token": token }] }),
                ),
                _ => return None,
            };
            Some((200, urls, body.to_string()))
        }
    };
    for (status, token, expected) in [
        (
            "invalid",
            "token",
            "the CA refuses www.test by tls-alpn-01: it is invalid: the CA says no more",
        ),
        (
            "pending",
            "../../x",
            "the CA's token for www.test by tls-alpn-01 is none (RFC 8555 section 8.1): \"../../x\"",
        ),
    ] {
        let world = World::new();
        let ca = OddCa::start(&world, (0, 86_400), authorization(status, token));
        assert_eq!(failure(&world, &ca), expected);
        assert_eq!(ca.desk.asked("/begin"), 0);
    }
    let world = World::new();
    let ca = OddCa::start(&world, (0, 86_400), |_, path, _| {
        let body = "{\"status\":\"invalid\",\"finalize\":\"x\"}";
        (path == "/order/1").then(|| (200, String::new(), body.to_owned()))
    });
    assert_eq!(
        failure(&world, &ca),
        "the CA refuses the order: it is invalid: the CA says no more"
    );
}

#[test]
fn what_a_ca_makes_of_a_chain_fills_no_log() {
    let world = World::new();
    let ca = OddCa::start(&world, (0, 86_400), |desk, path, payload| {
        let (status, more, chain) = desk.usual(path, payload);
        (path == "/certificate").then(|| (status, more, chain.repeat(2_000)))
    });
    let said = failure(&world, &ca);
    assert!(
        said.starts_with("the certificate that came is of no use: "),
        "{said:.300}"
    );
    assert!(said.len() < 4_000, "{} bytes", said.len());
    let kept = tries(&world).unwrap();
    assert_eq!(kept["failure"].as_str(), Some(&*said));
}

#[test]
fn the_longest_name_has_its_files() {
    let world = World::new();
    let ca = OddCa::start(&world, (0, 86_400), |_, _, _| None);
    let name = [["a"; 60].concat().as_str(); 4].join(".") + ".a.test";
    let gateway = gateway_for(&world, &ca, &name);
    gateway.line("the certificate", |line| {
        line["message"] == "a certificate of a listener is here"
    });
    // of its 255 bytes a file beside it takes some more
    let file = shown_file(&world);
    assert!(text(&file).contains("/aaaa"), "{}", file.display());
}

#[test]
fn what_an_order_would_lack_is_told_beforehand_and_no_certificate_is_lost_to_it() {
    let world = World::new();
    let ca = OddCa::start(&world, (0, 86_400), |_, _, _| None);
    let trust = world.authority.trust();
    let acceptor = |more: &str| {
        format!(
            "[identity]\nsource = \"acme\"\nurl = {:?}\ndomains = [\"legacy.test\"]\n\
             acme_http = \"{}\"\ncertificate = \"nowhere/cert.pem\"\nkey = \"key.pem\"\n\
             trust = {trust:?}\n{more}\n[log]\nformat = \"json\"\n\n",
            ca.url(),
            world.address(),
        ) + &world.acceptor_text(
            world.address(),
            "127.0.0.1:9",
            &format!("trusted_ips = [{:?}]", world.near()),
        )
    };
    let secret = "external_account = { key_id = \"x\", key = { file = \"no-secret\" } }\n";
    let config = acceptor(&format!("acme_trust = \"no-root.pem\"\n{secret}"));
    let config = world.write("acceptor.toml", &config);
    let (ok, said) = crate::world::run(crate::world::BINARY, &["check", text(&config)]);
    assert!(ok, "{said}");
    let lacks = "warning: no certificate can be ordered for legacy.test: ";
    assert_eq!(said.matches(lacks).count(), 3, "{said}");
    for lack in ["no-root.pem", "no-secret", "there is no folder "] {
        assert!(said.contains(lack), "{said}");
    }
    let config = world.write(
        "acceptor.toml",
        &acceptor(&format!("acme_trust = {trust:?}")),
    );
    let acceptor = Running::launch("acceptor", &config);
    let line = acceptor.line("the refusal", |line| {
        line["message"] == "waiting for a certificate"
    });
    assert!(says(&line, "error", "can't write "), "{line}");
    assert!(says(&line, "error", "nowhere/"), "{line}");
    assert_eq!(ca.desk.asked("/order"), 0);
}

#[test]
fn a_certificate_whose_files_are_gone_stays_in_force_and_the_next_is_ordered() {
    let world = World::new();
    let away = Arc::new(AtomicBool::new(false));
    let is_away = Arc::clone(&away);
    let ca = OddCa::start(&world, (0, 86_400), move |_, path, _| {
        let refuses = is_away.load(Ordering::SeqCst) && path == "/order";
        refuses.then(|| (503, String::new(), String::new()))
    });
    let gateway = gateway(&world, &ca);
    gateway.line("the certificate", |line| {
        line["message"] == "a certificate of a listener is here"
    });
    let root = world.write("odd-root.pem", ca.desk.root());
    let text = std::fs::read_to_string(&gateway.config).unwrap();
    let at = text.split("address = ").find_map(|rest| {
        let (address, rest) = rest.split_once('\n')?;
        let ours = rest.starts_with("mode = \"http\"\ncertificate = { acme");
        ours.then(|| address.trim_matches('"').parse().unwrap())
    });
    let at = at.unwrap();
    let client = Client::new(&root);
    until("the site", || client.connect(at, "www.test").ok());
    until("the end of the order", || {
        tries(&world).is_none().then_some(())
    });
    // a folder that was cleaned, or is not mounted
    away.store(true, Ordering::SeqCst);
    let file = shown_file(&world);
    std::fs::remove_file(&file).unwrap();
    std::fs::remove_file(file.with_extension("key")).unwrap();
    gateway.reload();
    gateway.line("the refusal", |line| says(line, "error", "it answered 503"));
    assert!(client.connect(at, "www.test").is_ok());
}
