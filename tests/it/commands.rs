//! Commands beside the roles: `doctor`, `status`, `explain`, and what is not there yet.

use portcullis::pki::{Reason, Role};

use crate::world::{Backend, World, text};

/// Exit code and everything printed.
fn portcullis(arguments: &[&str]) -> (i32, String) {
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(arguments)
        .output()
        .unwrap();
    let said = [done.stdout, done.stderr].concat();
    (
        done.status.code().unwrap(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn doctor_finds_a_well_chain_well_and_names_the_hop_that_is_not() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, _edge) = world.plain_gateway("http", link, "", "");
    let file = text(&gateway.config);
    let (code, said) = portcullis(&["doctor", file]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("handshake and admission: admitted"), "{said}");
    let (code, said) = portcullis(&["doctor", text(&acceptor.config)]);
    assert_eq!(code, 0, "{said}");

    world
        .authority
        .revoke("gateway/edge-1", Reason::KeyCompromise)
        .unwrap();
    acceptor.reload();
    let (code, said) = portcullis(&["doctor", file, "--json"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("upstream_refused"), "{said}");
    let json: serde_json::Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    assert_eq!(json["schema"], 1);

    drop(acceptor);
    let (code, said) = portcullis(&["doctor", file, "--backend", "legacy"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("FAIL backend legacy acceptor"), "{said}");
    assert!(said.contains("refused"), "{said}");
    let (code, said) = portcullis(&["doctor", file, "--backend", "other"]);
    assert_eq!(code, 2, "{said}");
}

#[test]
fn status_shows_a_running_process() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    drop(world.client().source(world.other_ip(200)).tcp(link));
    acceptor.refusal("source_untrusted");
    let admin = format!("unix:{}", acceptor.config.with_extension("sock").display());
    let (code, said) = portcullis(&["status", "--admin", &admin]);
    assert_eq!(code, 0, "{said}");
    assert!(said.starts_with("acceptor "), "{said}");
    assert!(said.contains("1 source_untrusted"), "{said}");
    let (code, said) = portcullis(&["status", "--admin", &admin, "--json"]);
    assert_eq!(code, 0, "{said}");
    let json: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(json["listeners"][0]["denied"], 1);
    drop(acceptor);
    let (code, said) = portcullis(&["status", "--admin", &admin]);
    assert_eq!(code, 1, "{said}");
}

#[test]
fn explain_says_what_the_acceptor_would() {
    let world = World::new();
    let (acceptor, _link) = world.plain_acceptor("127.0.0.1:9", "");
    let file = text(&acceptor.config);
    let ip = world.ip().to_string();
    let leaf = world.leaf(Role::Gateway, "edge-1");
    let good = [
        "explain",
        file,
        "--from",
        &ip,
        "--cert",
        text(&leaf.certificate),
    ];
    let (code, said) = portcullis(&good);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("admitted by"), "{said}");
    let elsewhere = [
        "explain",
        file,
        "--from",
        "192.0.2.1",
        "--cert",
        text(&leaf.certificate),
    ];
    assert!(
        portcullis(&elsewhere)
            .1
            .contains("refused: source_untrusted")
    );
    assert!(
        portcullis(&["explain", file, "--from", &ip])
            .1
            .contains("refused: certificate_missing")
    );
    let mut late = good.to_vec();
    late.extend(["--at", "2035-01-01T00:00:00Z"]);
    assert!(portcullis(&late).1.contains("refused: certificate_expired"));
    world
        .authority
        .revoke("gateway/edge-1", Reason::Superseded)
        .unwrap();
    assert!(portcullis(&good).1.contains("refused: certificate_revoked"));
    let (code, said) = portcullis(&["explain", "crl_expired"]);
    assert!(code == 0 && said.contains("portcullis pki crl"), "{said}");
}

#[test]
fn check_names_what_lets_nobody_in() {
    let world = World::new();
    let (acceptor, link) = world.plain_acceptor("127.0.0.1:9", "");
    let (gateway, _edge) = world.plain_gateway(
        "tcp",
        link,
        "",
        "acceptor_ids = [\"spiffe://example.internal/acceptor/*\", \
         \"spiffe://example.internal/gateway/x\", \"spiffe://other.internal/gateway/x\"]",
    );
    let (code, said) = portcullis(&["check", text(&gateway.config)]);
    assert_eq!(code, 0, "{said}");
    let idle = |said: &str| said.matches("lets nobody in").count();
    assert_eq!(idle(&said), 1, "{said}");
    let what = "backend legacy: acceptor_ids: spiffe://example.internal/gateway/x lets nobody in";
    assert!(said.contains(what), "{said}");

    // callers, and those of one route
    let config = std::fs::read_to_string(&gateway.config).unwrap();
    let asking = format!(
        "mode = \"tcp\"\nclient_ca = {:?}\nclients = [\"spiffe://example.internal/*\", \
         \"spiffe://example.internal/gateway/*\"]",
        world.authority.trust()
    );
    let narrow = "[[route]]\nclients = [\"spiffe://example.internal/gateway/edge-1\"]";
    let config = config.replacen("mode = \"tcp\"", &asking, 1);
    let wrong = world.write("callers.toml", &config.replacen("[[route]]", narrow, 1));
    let (code, said) = portcullis(&["check", text(&wrong)]);
    assert_eq!(code, 0, "{said}");
    for what in [
        "listener public: spiffe://example.internal/gateway/* lets nobody in",
        "clients: spiffe://example.internal/gateway/edge-1 lets nobody in",
    ] {
        assert!(said.contains(what), "{said}");
    }

    let config = std::fs::read_to_string(&acceptor.config).unwrap();
    assert_eq!(idle(&portcullis(&["check", text(&acceptor.config)]).1), 0);
    let wrong = world.write("wrong.toml", &config.replace("/gateway/", "/acceptor/"));
    let (code, said) = portcullis(&["check", text(&wrong)]);
    assert_eq!(code, 0, "{said}");
    let what = "listener legacy: spiffe://example.internal/acceptor/* lets nobody in";
    assert!(said.contains(what), "{said}");
}

#[test]
fn what_was_typed_wrong_ends_with_2() {
    let (code, said) = portcullis(&["status", "--admin", "foo"]);
    assert!(
        code == 2 && said.contains("unix:/path or IP:PORT"),
        "{said}"
    );

    let world = World::new();
    let dir = text(world.authority.folder());
    let folder = world.path("request");
    let request = [
        "pki",
        "request",
        "gateway",
        "edge-9",
        "--out",
        text(&folder),
    ];
    let (code, said) = portcullis(&request);
    assert_eq!(code, 0, "{said}");
    let csr = std::fs::read_dir(&folder).unwrap();
    let csr = csr
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "csr"));
    let csr = csr.unwrap();
    let sign = ["pki", "--dir", dir, "sign", text(&csr)];
    for other in [["--role", "acceptor"], ["--name", "other"]] {
        let (code, said) = portcullis(&[&sign[..], &other].concat());
        assert!(
            code == 2 && said.contains("the request asks to be gateway/edge-9"),
            "{said}"
        );
    }
    assert_eq!(portcullis(&sign).0, 0);
}

#[test]
fn every_problem_of_a_file_is_told_at_once_with_its_place() {
    let world = World::new();
    let (acceptor, _link) = world.plain_acceptor("127.0.0.1:9", "");
    let text_now = std::fs::read_to_string(&acceptor.config).unwrap();
    let at = |text: &str, of: &str| {
        let line = text.lines().position(|l| l.contains(of)).unwrap() + 1;
        format!("acceptor.toml:{line}:")
    };
    // what the files hold
    let other = world.leaf(Role::Server, "site");
    let own = world.leaf(Role::Acceptor, "legacy");
    let mismatched = text_now
        .replace(text(&own.key), text(&other.key))
        .replace(text(&world.authority.crl()), "/nowhere/crl.pem");
    world.write("acceptor.toml", &mismatched);
    let (code, said) = portcullis(&["check", text(&acceptor.config)]);
    assert_eq!(code, 2, "{said}");
    for of in ["key = ", "/nowhere/crl.pem"] {
        assert!(said.contains(&at(&mismatched, of)), "{of}: {said}");
    }
    assert!(said.contains("^^^"), "{said}");
    // and what the text says, in the same run
    let misspelt = mismatched.replace("trusted_ips", "trusted_ip");
    world.write("acceptor.toml", &misspelt);
    let (code, said) = portcullis(&["acceptor", "--config", text(&acceptor.config)]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("did you mean `trusted_ips`?"), "{said}");
    assert!(said.contains(&at(&misspelt, "/nowhere/crl.pem")), "{said}");
}

#[test]
fn what_a_server_shows_is_shown() {
    let world = World::new();
    let nowhere = world.address();
    let (_open, open) = world.plain_gateway("tcp", nowhere, "", "");
    // it asks for a certificate, of which there is none
    let closed = world.address();
    let asking = format!(
        "client_ca = {:?}\nclient_crl = {:?}\ndanger_any_client = true",
        world.authority.trust(),
        world.authority.crl()
    );
    let text_of = world.common_as(&world.leaf(Role::Gateway, "edge-1"), "closed", "")
        + &world.gateway_text("tcp", closed, nowhere, &asking, "");
    let _closed = world.start_as("gateway", "closed", &text_of);
    let leaf = world.leaf(Role::Server, "site");
    for address in [open, closed] {
        let (code, said) = portcullis(&["pki", "show", &address.to_string()]);
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("nothing of it was verified"), "{said}");
        let (code, filed) = portcullis(&["pki", "show", text(&leaf.certificate)]);
        assert_eq!(code, 0, "{filed}");
        // how many days are left may have changed between the two
        let lines = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| !line.contains("ends in"));
            lines.map(str::to_owned).collect()
        };
        let filed = lines(&filed);
        assert!(lines(&said).starts_with(&filed), "{said}");
        assert!(filed.concat().matches("subject").count() == 2, "{said}");
    }
    let nobody = world.address().to_string();
    let (code, said) = portcullis(&["pki", "show", &nobody]);
    assert!(code == 1 && said.contains("refused"), "{said}");
    let plain = Backend::greeting(world.address(), "220 hello\r\n");
    let (code, said) = portcullis(&["pki", "show", &plain.address.to_string()]);
    assert!(code == 1 && said.contains("no TLS handshake"), "{said}");
    for wrong in ["127.0.0.1:0", "nobody", "a b:443"] {
        let (code, said) = portcullis(&["pki", "show", wrong]);
        assert!(code == 2 && said.contains("no HOST:PORT"), "{said}");
    }
}

#[test]
fn what_is_to_come_says_so() {
    for command in [
        &["prove", "gateway.toml"][..],
        &["unit", "gateway.toml", "--check"],
    ] {
        let (code, said) = portcullis(command);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("not supported yet"), "{said}");
    }
}
