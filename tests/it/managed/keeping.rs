//! Both roles renew themselves, at work.

use std::os::unix::fs::PermissionsExt as _;

use portcullis::pki::{Reason, Role};

use super::{Host, Served, issued, launch, on_its_host, serial, trusted};
use crate::world::{Backend, PATIENCE, Running, World, get, named_backend, says, until};

/// A gateway and an acceptor in http mode whose certificates are due, and `pki serve`.
struct Pair {
    acceptor: Running,
    gateway: Running,
    hosts: [Host; 2],
    _backend: Backend,
    edge: std::net::SocketAddr,
}

impl Pair {
    fn start(world: &World, source: &str, left: i64) -> Self {
        let backend = named_backend(world, "backend");
        let acceptor_host =
            on_its_host(world, Role::Acceptor, "legacy", &["legacy.internal"], left);
        let gateway_host = on_its_host(world, Role::Gateway, "edge-1", &[], left);
        let link = world.address();
        let text = acceptor_host.common(world, "acceptor", source)
            + &world.acceptor_text_in(
                "http",
                link,
                &backend.address.to_string(),
                &format!("trusted_ips = [{:?}]\n", world.near()),
            );
        let acceptor = world.start("acceptor", &text);
        let edge = world.address();
        let text = gateway_host.common(world, "gateway", source)
            + &world.gateway_text("http", edge, link, "", "");
        let gateway = world.start("gateway", &text);
        Self {
            acceptor,
            gateway,
            hosts: [acceptor_host, gateway_host],
            _backend: backend,
            edge,
        }
    }
}

#[test]
fn both_roles_renew_themselves_from_pki_serve() {
    let world = World::new();
    let served = Served::start(&world, "");
    let pair = Pair::start(&world, &served.source(), 90);
    let roles = [
        (&pair.acceptor, Role::Acceptor, "legacy"),
        (&pair.gateway, Role::Gateway, "edge-1"),
    ];
    let mut client = world.client().connect(pair.edge, "site.test").unwrap();
    for ((process, role, name), host) in roles.iter().zip(&pair.hosts) {
        until("a renewal in force", || {
            assert_eq!(get(&mut client, "/").0, 200);
            (process.metric("portcullis_identity_renewals_total{result=\"success\"}") > 0.0)
                .then_some(())
        });
        let kept = world.leaf(*role, name).certificate;
        assert_eq!(
            std::fs::read(&host.leaf.certificate).unwrap(),
            std::fs::read(kept).unwrap()
        );
        // one file for a moment, and none that is left over
        let folder = host.leaf.key.parent().unwrap();
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["cert.pem", "crl.pem", "key.pem", "trust.pem"]);
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&host.leaf.key) & 0o777, 0o600);
        assert!(issued(&world.authority, *role, name) >= 2);
        until("its serial", || {
            let records = world.authority.records().unwrap();
            let last = records.iter().rfind(|r| r.role == *role).unwrap();
            (serial(process) == last.serial).then_some(())
        });
    }
    // what renewed speaks to what renewed
    let mut fresh = world.client().connect(pair.edge, "site.test").unwrap();
    assert_eq!(get(&mut fresh, "/").0, 200);
    let line = served.process.line("a renewal", |line| {
        line["message"] == "certificate renewed" && line["holder"] == "gateway/edge-1"
    });
    assert!(line["replaces"].is_string() && line["not_after"].is_string());
    assert!(
        served
            .process
            .metric("portcullis_pki_renewals_total{result=\"ok\"}")
            >= 2.0
    );
    let audit = std::fs::read_to_string(world.authority.folder().join("state/audit.log")).unwrap();
    assert!(
        audit.contains(" renew-held role=\"gateway\" name=\"edge-1\""),
        "{audit}"
    );
}

#[test]
fn a_revocation_reaches_every_host_and_ends_renewals() {
    let world = World::new();
    let served = Served::start(&world, "");
    let pair = Pair::start(&world, &served.source(), 250);
    let mut client = world.client().connect(pair.edge, "site.test").unwrap();
    assert_eq!(get(&mut client, "/").0, 200);
    world
        .authority
        .revoke("gateway/edge-1", Reason::KeyCompromise)
        .unwrap();
    // fetched, in force, and the live connection is ended
    pair.acceptor.line("the end of the link", |line| {
        line["message"] == "access" && line["reason"] == "rules_changed"
    });
    assert!(get(&mut client, "/").0 >= 500);
    pair.acceptor.refusal("certificate_revoked");
    let crl = std::fs::read(&pair.hosts[0].crl).unwrap();
    assert_eq!(crl, std::fs::read(world.authority.crl()).unwrap());
    served.process.refusal("certificate_revoked");
    pair.gateway.line("a refused refresh", |line| {
        line["message"]
            .as_str()
            .is_some_and(|said| said.starts_with("trust and CRLs can't be refreshed"))
    });
}

#[test]
fn without_its_authority_an_identity_lasts_and_says_how_long() {
    let world = World::new();
    let served = Served::start(&world, "");
    let source = served.source();
    let address = served.address;
    drop(served);
    let pair = Pair::start(&world, &source, 60);
    let line = pair.gateway.line("the failure", |line| {
        line["message"]
            .as_str()
            .is_some_and(|said| said.starts_with("our certificate can't be renewed"))
    });
    assert_eq!(line["level"], "ERROR");
    assert!(says(&line, "ends", "in "), "{line}");
    let mut client = world.client().connect(pair.edge, "site.test").unwrap();
    assert_eq!(get(&mut client, "/").0, 200);
    let (ready, said) = pair.gateway.admin("/readyz?verbose").unwrap();
    assert!(ready == 200 && said.contains("warn renewal"), "{said}");
    assert!(
        pair.gateway
            .metric("portcullis_identity_renewals_total{result=\"failure\"}")
            > 0.0
    );
    // it is back, and found by itself
    let text = super::text(&world, address, &trusted(&world));
    let _served = launch(&world.write("pki.toml", &text)).ready();
    let end = std::time::Instant::now() + PATIENCE * 2;
    while pair
        .gateway
        .metric("portcullis_identity_renewals_total{result=\"success\"}")
        < 1.0
    {
        assert!(std::time::Instant::now() < end, "{}", pair.gateway.text());
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[test]
fn a_renewal_that_was_cut_off_is_completed_at_the_start() {
    let world = World::new();
    let served = Served::start(&world, "");
    let host = on_its_host(&world, Role::Gateway, "edge-1", &[], 250);
    let link = world.address();
    let edge = world.address();
    let text = host.common(&world, "gateway", &served.source())
        + &world.gateway_text("tcp", edge, link, "", "");
    // the key of the new pair is in place, its certificate is not
    let old = std::fs::read_to_string(&host.leaf.certificate).unwrap();
    let new = on_its_host(&world, Role::Gateway, "edge-1", &[], 280).leaf;
    let read = |path| std::fs::read_to_string(path).unwrap();
    let (key, certificate) = (read(&new.key), read(&new.certificate));
    let both = format!("{key}{certificate}");
    world.write("gateway-host/cert.pem", &old);
    world.write("gateway-host/.key.pem.renewed", &both);
    let gateway = world.start("gateway", &text);
    assert_eq!(read(&host.leaf.key), key);
    assert_eq!(read(&host.leaf.certificate).trim(), certificate.trim());
    assert!(!world.path("gateway-host/.key.pem.renewed").exists());
    gateway.line("the completion", |line| {
        line["message"] == "a renewal that was cut off is complete"
    });
}

/// The new certificate can't be written, as on a full disk: the key stays as it is, and the pair is
/// kept until both can be.
#[test]
fn a_renewal_that_cannot_be_placed_is_completed_later() {
    let world = World::new();
    let folder = world.authority.folder().to_owned();
    let mut host = on_its_host(&world, Role::Gateway, "edge-1", &[], 20);
    let source = format!("source = \"pki\"\ndir = {folder:?}\nrefresh = \"500ms\"\n");
    let edge = world.address();
    let link = world.address();
    let text = |host: &Host| {
        host.common(&world, "gateway", &source) + &world.gateway_text("tcp", edge, link, "", "")
    };
    let proper = host.leaf.certificate.clone();
    // can be read there, and nothing can be written beside it
    let open = std::fs::File::open(&proper).unwrap();
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&open);
    host.leaf.certificate = format!("/proc/{}/fd/{descriptor}", std::process::id()).into();
    let before = std::fs::read(&host.leaf.key).unwrap();
    let gateway = world.start("gateway", &text(&host));
    let pair = world.path("gateway-host/.key.pem.renewed");
    gateway.line("the failure", |line| {
        line["message"] == "our certificate can't be renewed: it stays in force until it ends"
    });
    drop(gateway);
    assert!(pair.exists());
    assert!(std::fs::read(&host.leaf.key).unwrap() == before);
    host.leaf.certificate = proper;
    let gateway = world.start("gateway", &text(&host));
    gateway.line("the completion", |line| {
        line["message"] == "a renewal that was cut off is complete"
    });
    assert!(std::fs::read(&host.leaf.key).unwrap() != before);
}

#[test]
fn a_store_on_the_same_host_renews_even_what_has_ended() {
    let world = World::new();
    let folder = world.authority.folder().to_owned();
    let host = on_its_host(&world, Role::Gateway, "edge-1", &[], -10);
    let source = format!("source = \"pki\"\ndir = {folder:?}\nrefresh = \"500ms\"\n");
    let edge = world.address();
    let text = host.common(&world, "gateway", &source)
        + &world.gateway_text("tcp", edge, world.address(), "", "");
    let gateway = world.start("gateway", &text);
    assert_eq!(issued(&world.authority, Role::Gateway, "edge-1"), 3);
    let records = world.authority.records().unwrap();
    assert_eq!(serial(&gateway), records.last().unwrap().serial);
    // a revocation in the store is known here too
    world
        .authority
        .revoke("acceptor/legacy", Reason::KeyCompromise)
        .unwrap();
    until("the CRL", || {
        let ours = std::fs::read(&host.crl).unwrap();
        (ours == std::fs::read(world.authority.crl()).unwrap()).then_some(())
    });
    let (ok, said) = crate::world::run(
        crate::world::BINARY,
        &["check", gateway.config.to_str().unwrap()],
    );
    assert!(
        ok && !said.contains("CA key"),
        "loopback is not public: {said}"
    );
    let public = text.replace(&edge.to_string(), &format!("0.0.0.0:{}", edge.port()));
    let config = world.write("public.toml", &public);
    let (ok, said) = crate::world::run(crate::world::BINARY, &["check", config.to_str().unwrap()]);
    assert!(ok && said.contains("CA key"), "{said}");
}
