//! What `pki serve` gives, and to whom.

use std::{
    io::{Read as _, Write as _},
    process::Command,
};

use portcullis::{
    identity::CertFacts,
    pki::{Reason, Role, key_and_request},
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::{Served, issued, on_its_host};
use crate::world::{BINARY, Leaf, World, run};

fn facts(leaf: &Leaf) -> CertFacts {
    let pem = std::fs::read(&leaf.certificate).unwrap();
    CertFacts::read(&CertificateDer::from_pem_slice(&pem).unwrap()).unwrap()
}

/// One request; status and body, or why there was no answer.
fn ask(
    world: &World,
    served: &Served,
    leaf: &Leaf,
    head: &str,
    body: &str,
) -> Result<(u16, String), String> {
    let name = world.ip().to_string();
    let client = world.client().certificate(leaf).alpn("http/1.1");
    let mut stream = client
        .connect(served.address, &name)
        .map_err(|error| error.to_string())?;
    write!(
        stream,
        "{head} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .map_err(|error| error.to_string())?;
    let status = answer.split(' ').nth(1).ok_or("no status")?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("no body")?;
    Ok((status.parse().unwrap(), body.to_owned()))
}

#[test]
fn a_holder_gets_its_own_names_and_nothing_else() {
    let world = World::new();
    let served = Served::start(&world, "");
    let sans = ["legacy.internal", "10.9.8.7"];
    let leaf = on_its_host(&world, Role::Acceptor, "legacy", &sans, 100).leaf;
    let shown = facts(&leaf);
    let (_, request) = key_and_request(&shown, None).unwrap();
    let (status, body) = ask(&world, &served, &leaf, "POST /v1/renew", &request).unwrap();
    assert_eq!(status, 200, "{body}");
    let new = CertFacts::read(&CertificateDer::from_pem_slice(body.as_bytes()).unwrap()).unwrap();
    assert_eq!(
        (&new.uris, &new.dns, &new.ips),
        (&shown.uris, &shown.dns, &shown.ips)
    );
    assert!(!new.is_ca && new.usage.server_auth && !new.usage.client_auth);
    assert!(new.spki != shown.spki && new.not_after > shown.not_after);
    let life = |facts: &CertFacts| facts.not_after.0 - facts.not_before.0;
    assert!((life(&new) - life(&shown)).abs() <= 120, "the same life");

    // a request by OpenSSL that asks for the same names, and one for more
    let csr = |sans: &str, more: &[&str]| {
        let key = world.path("csr.key");
        let mut command = Command::new("openssl");
        command
            .args(["req", "-new", "-newkey", "ec", "-pkeyopt"])
            .args(["ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x"])
            .arg("-keyout")
            .arg(key)
            .args(["-addext", &format!("subjectAltName={sans}")])
            .args(more);
        let done = command.output().unwrap();
        assert!(done.status.success());
        String::from_utf8(done.stdout).unwrap()
    };
    let post = |request: &str| ask(&world, &served, &leaf, "POST /v1/renew", request).unwrap();
    assert_eq!(post(&csr("DNS:legacy.internal", &[])).0, 200);
    for (request, status, code) in [
        (csr("DNS:other.internal", &[]), 403, "other_names"),
        (
            csr("URI:spiffe://example.internal/gateway/edge-1", &[]),
            403,
            "other_names",
        ),
        (
            csr(
                "DNS:legacy.internal",
                &["-addext", "basicConstraints=critical,CA:TRUE"],
            ),
            403,
            "other_names",
        ),
        ("hello".to_owned(), 400, "malformed_request"),
        (request.replace('M', "N"), 400, "malformed_request"),
        ("x".repeat(70_000), 400, "malformed_request"),
    ] {
        let (got, said) = post(&request);
        assert!(got == status && said.starts_with(code), "{got} {said}");
        served.process.line(code, |line| {
            line["message"] == "renewal refused" && line["reason"] == code
        });
        let counted = format!("portcullis_pki_renewals_total{{result=\"{code}\"}}");
        assert!(served.process.metric(&counted) >= 1.0);
    }
    for (head, status) in [
        ("GET /v1/renew", 405),
        ("POST /v1/trust", 405),
        ("GET /", 404),
        ("GET /v1/../state/state.json", 404),
    ] {
        assert_eq!(
            ask(&world, &served, &leaf, head, "").unwrap().0,
            status,
            "{head}"
        );
    }
    let (status, trust) = ask(&world, &served, &leaf, "GET /v1/trust", "").unwrap();
    let ours = std::fs::read_to_string(world.authority.trust()).unwrap();
    assert_eq!((status, trust), (200, ours));
}

#[test]
fn who_may_not_renew_is_refused_by_name() {
    let world = World::new();
    let served = Served::start(&world, "holders = [\"spiffe://example.internal/*\"]\n");
    let renew = |leaf: &Leaf| {
        let (_, request) = key_and_request(&facts(leaf), None).unwrap();
        ask(&world, &served, leaf, "POST /v1/renew", &request)
    };
    // half of its life is not over
    let young = world.leaf(Role::Gateway, "edge-1");
    let (status, said) = renew(&young).unwrap();
    assert!(status == 429 && said.starts_with("too_early"), "{said}");
    // ended, or by another authority: the handshake refuses
    let ended = on_its_host(&world, Role::Gateway, "ended", &[], -5).leaf;
    renew(&ended).unwrap_err();
    served.process.refused("pki", "certificate_expired");
    let other = World::new();
    renew(&other.leaf(Role::Gateway, "edge-1")).unwrap_err();
    served.process.refused("pki", "certificate_unknown_issuer");
    // no certificate at all
    let name = world.ip().to_string();
    let nobody = world
        .client()
        .alpn("http/1.1")
        .connect(served.address, &name);
    let refused = nobody.and_then(|mut stream| {
        stream.write_all(b"GET /v1/trust HTTP/1.1\r\nHost: x\r\n\r\n")?;
        stream.read_exact(&mut [0; 1])
    });
    refused.unwrap_err();
    served.process.refused("pki", "certificate_missing");
    // from elsewhere
    let far = world
        .client()
        .certificate(&young)
        .source(world.other_ip(99));
    assert!(far.connect(served.address, &name).is_err());
    served.process.refused("pki", "source_untrusted");
    // revoked in the store, before its own CRL is loaded anew: the record decides
    let stolen = on_its_host(&world, Role::Gateway, "stolen", &[], 100).leaf;
    assert_eq!(renew(&stolen).unwrap().0, 200);
    world
        .authority
        .revoke("stolen", Reason::KeyCompromise)
        .unwrap();
    match renew(&stolen) {
        Ok((status, said)) => assert!(status == 403 && said.starts_with("revoked"), "{said}"),
        Err(_handshake) => {}
    }
    assert_eq!(issued(&world.authority, Role::Gateway, "stolen"), 2);
    // both certificates of the name, the one that it got last too
    let records = world.authority.records().unwrap();
    assert!(
        records
            .iter()
            .filter(|r| r.name == "stolen")
            .all(|r| r.revoked.is_some())
    );
}

#[test]
fn who_still_sends_when_it_is_refused_hears_why() {
    let world = World::new();
    let served = Served::start(&world, "");
    let leaf = world.leaf(Role::Gateway, "edge-1");
    // more than all buffers hold
    let body = "x".repeat(16 << 20);
    let (status, said) = ask(&world, &served, &leaf, "POST /v1/renew", &body).unwrap();
    assert!(
        status == 400 && said.starts_with("malformed_request"),
        "{said}"
    );
}

#[test]
fn a_holder_that_asks_again_and_again_fills_no_disk() {
    let world = World::new();
    let served = Served::start(&world, "");
    let leaf = on_its_host(&world, Role::Gateway, "greedy", &[], 100).leaf;
    let (_, request) = key_and_request(&facts(&leaf), None).unwrap();
    let statuses: Vec<u16> = (0..18)
        .map(|_| {
            ask(&world, &served, &leaf, "POST /v1/renew", &request)
                .unwrap()
                .0
        })
        .collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 15);
    assert!(statuses.ends_with(&[429, 429]), "{statuses:?}");
    assert_eq!(issued(&world.authority, Role::Gateway, "greedy"), 16);
}

#[test]
fn its_configuration_is_checked_like_the_others() {
    let world = World::new();
    let address = world.address();
    let good = super::text(&world, address, "trusted_ips = [\"10.0.0.0/8\"]\n");
    let config = world.write("pki.toml", &good);
    let path = config.to_str().unwrap();
    let (ok, said) = run(BINARY, &["check", path]);
    assert!(ok && said.contains("ok (pki)"), "{said}");
    let (ok, said) = run(BINARY, &["pki", "serve", "--config", path, "--check"]);
    assert!(ok, "{said}");
    let (ok, said) = run(BINARY, &["gateway", "--config", path]);
    assert!(
        !ok && said.contains("not a configuration of `portcullis gateway`"),
        "{said}"
    );
    for (from, to, wanted) in [
        ("trusted_ips", "trusted_ipz", "unknown key `trusted_ipz`"),
        (
            "trusted_ips = [\"10.0.0.0/8\"]",
            "",
            "`trusted_ips` is missing",
        ),
        ("[pki]\ndir = ", "[pki]\ndri = ", "unknown key `dri`"),
        ("source = \"pki\"", "source = \"acme\"", "needs `domains`"),
        ("source = \"pki\"", "source = \"spiffe\"", "needs `socket`"),
        ("source = \"pki\"", "source = \"renew\"", "needs `url`"),
        (
            "[pki]\n",
            "[pki]\nca_passphrase = \"x\"\n",
            "no reference to a secret",
        ),
    ] {
        let text = good.replace(from, to);
        assert_ne!(text, good, "{from}");
        world.write("pki.toml", &text);
        let (ok, said) = run(BINARY, &["check", path]);
        assert!(!ok && said.contains(wanted), "{wanted}: {said}");
        assert!(said.contains("pki.toml:"), "{said}");
    }
    // a store whose key can't be used is found out before anybody needs it
    std::fs::rename(
        world.authority.folder().join("issuing/ca.key"),
        world.path("away.key"),
    )
    .unwrap();
    world.write("pki.toml", &good);
    let (ok, said) = run(BINARY, &["check", path]);
    assert!(!ok && said.contains("ca.key"), "{said}");
}

#[test]
fn lists_that_are_due_are_written_anew() {
    let world = World::new();
    let number = || {
        let text = std::fs::read_to_string(world.authority.folder().join("state/state.json"));
        let state: serde_json::Value = serde_json::from_str(&text.unwrap()).unwrap();
        state["issuing_crl_number"].as_u64().unwrap()
    };
    let before = number();
    let served = Served::start(&world, "");
    served
        .process
        .line("a look", |line| line["message"] == "listening");
    assert_eq!(number(), before, "fresh lists are left alone");
    drop(served);
    // a list for one day, which was written 20 hours ago as far as it can tell
    let days = portcullis::pki::CrlOptions {
        days: 1,
        ..Default::default()
    };
    world.authority.write_crls(days).unwrap();
    assert_eq!(world.authority.keep_crls().unwrap(), None);
}

#[test]
fn a_holder_that_is_revoked_is_not_listened_to_any_more() {
    let world = World::new();
    let served = Served::start(&world, "");
    let name = world.ip().to_string();
    let connect = |holder: &str| {
        let leaf = world.issue(Role::Gateway, holder, &[]);
        let client = world.client().certificate(&leaf).alpn("http/1.1");
        let mut stream = client.connect(served.address, &name).unwrap();
        assert_eq!(status(&mut stream), 200);
        stream
    };
    let (mut victim, mut bystander) = (connect("stolen"), connect("kept"));
    let begun = std::time::Instant::now();
    world
        .authority
        .revoke("stolen", Reason::KeyCompromise)
        .unwrap();
    drop(victim.read(&mut [0]));
    assert!(begun.elapsed() < std::time::Duration::from_secs(2));
    let line = served.process.line("its end", |line| {
        line["message"] == "access" && line["reason"] == "rules_changed"
    });
    assert!(
        line["identity"]
            .as_str()
            .unwrap()
            .ends_with("gateway/stolen"),
        "{line}"
    );
    assert_eq!(status(&mut bystander), 200);
}

/// What a kept connection answers.
fn status(stream: &mut crate::world::TlsStream) -> u16 {
    write!(stream, "GET /v1/status HTTP/1.1\r\nHost: pki\r\n\r\n").unwrap();
    let (mut heard, mut byte) = (String::new(), [0]);
    while !heard.ends_with('}') {
        stream.read_exact(&mut byte).unwrap();
        heard.push(char::from(byte[0]));
    }
    stream.read_exact(&mut byte).unwrap();
    heard.split(' ').nth(1).unwrap().parse().unwrap()
}
