//! Who gets through an acceptor, who does not, and what each side says of it.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    time::{Duration, Instant},
};

use portcullis::{
    clock,
    identity::UnixSeconds,
    pki::{IssueRequest, Reason, Role},
};

use crate::world::{Backend, Client, Leaf, Running, World, says, text, until};

/// An acceptor before an echo backend, asked by a gateway's certificate from any source.
struct Gate {
    acceptor: Running,
    address: SocketAddr,
    backend: Backend,
}

fn gate(world: &World, more: &str) -> Gate {
    let backend = Backend::echo(world.address());
    let (acceptor, address) = world.plain_acceptor(&backend.address.to_string(), more);
    Gate {
        acceptor,
        address,
        backend,
    }
}

/// The same with the whole `[identity]`'s trust, and the whole listener behind its backend.
fn gate_with(world: &World, trust: &str, listener: &str) -> Gate {
    let backend = Backend::echo(world.address());
    let address = world.address();
    let leaf = world.leaf(Role::Acceptor, "legacy");
    let text = world.identity(&leaf, "acceptor", trust)
        + &format!(
            "[[listener]]\nname = \"legacy\"\naddress = \"{address}\"\nmode = \"tcp\"\n\
             backend = \"{}\"\n{listener}\n",
            backend.address
        );
    Gate {
        acceptor: world.start("acceptor", &text),
        address,
        backend,
    }
}

impl Gate {
    /// Whether a word comes back.
    fn echoes(&self, client: &Client) -> bool {
        self.speak(client).is_some()
    }

    /// A connection over which a word came back.
    fn speak(&self, client: &Client) -> Option<crate::world::TlsStream> {
        let mut stream = client.connect(self.address, "legacy.internal").ok()?;
        answers(&mut stream).then_some(stream)
    }

    /// What OpenSSL hears when it comes with this certificate.
    fn alert(&self, world: &World, leaf: Option<&Leaf>) -> String {
        let said = world.s_client(self.address, leaf, None, &[]);
        said.lines()
            .find_map(|line| line.split_once(":SSL alert number "))
            .map(|(before, number)| {
                let name = before.split(':').nth(5).unwrap_or_default().to_owned();
                format!("{number} {name}")
            })
            .unwrap_or_else(|| panic!("no alert: {said}\n{}", self.acceptor.text()))
    }

    /// The backend saw nobody.
    fn nobody_came(&self) {
        assert_eq!(self.backend.connections(), 0);
    }
}

fn answers(stream: &mut crate::world::TlsStream) -> bool {
    let mut back = [0; 4];
    stream.write_all(b"word").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"word"
}

fn edge(world: &World) -> Client {
    world
        .client()
        .certificate(&world.leaf(Role::Gateway, "edge-1"))
        .source(world.ip())
}

/// Not one byte comes, and the connection is over.
fn reset(client: &Client, to: SocketAddr, say: &[u8]) {
    let mut stream = match client.tcp(to) {
        // it can be over before we look
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
        other => other.unwrap(),
    };
    // may fail: it can be reset already
    drop(stream.write_all(say));
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes);
    assert_eq!(bytes, b"", "{end:?}");
    if let Err(error) = end {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

/// Our own gateway in front of the gate; what its client gets, and its log.
fn through_our_gateway(world: &World, gate: &Gate, more: &str) -> (Running, bool) {
    let (gateway, edge) = world.plain_gateway("tcp", gate.address, "", more);
    let came = world
        .client()
        .connect(edge, "site.test")
        .is_ok_and(|mut stream| answers(&mut stream));
    (gateway, came)
}

#[test]
fn an_untrusted_source_is_cut_before_a_byte_of_tls() {
    let world = World::new();
    let gate = gate(&world, "");
    let stranger = edge(&world).source(world.other_ip(200));
    reset(&stranger, gate.address, b"");
    reset(
        &stranger,
        gate.address,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    );
    let line = gate.acceptor.refused("legacy", "source_untrusted");
    assert!(
        line["source"]
            .as_str()
            .unwrap()
            .starts_with(&format!("{}:", world.other_ip(200)))
    );
    gate.acceptor.denied_times("legacy", "source_untrusted", 2);
    assert!(stranger.connect(gate.address, "legacy.internal").is_err());
    gate.nobody_came();
    assert!(gate.echoes(&edge(&world)));
    assert!(gate.echoes(&edge(&world).source(world.other_ip(2))));
}

#[test]
fn a_gateway_at_an_untrusted_source_hears_of_trusted_ips() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let address = world.address();
    let listener = world.acceptor_text(
        address,
        &backend.address.to_string(),
        &format!("trusted_ips = [\"{}\"]", world.other_ip(9)),
    );
    let acceptor = world.acceptor(&listener);
    let gate = Gate {
        acceptor,
        address,
        backend,
    };
    let (gateway, came) = through_our_gateway(&world, &gate, "");
    assert!(!came);
    gate.acceptor.refused("legacy", "source_untrusted");
    let line = gateway.refusal("upstream_refused");
    assert_eq!(line["decision"], "refused");
    assert!(says(&line, "detail", "trusted_ips"), "{line}");
    assert!(gateway.ended_for("public", "upstream_refused") >= 1.0);
    gate.nobody_came();
}

#[test]
fn an_exception_inside_the_trusted_range_wins() {
    let world = World::new();
    let gate = gate(
        &world,
        &format!("untrusted_ips = [\"{}\"]", world.other_ip(3)),
    );
    reset(&edge(&world).source(world.other_ip(3)), gate.address, b"");
    gate.acceptor.refused("legacy", "source_denied");
    assert!(gate.echoes(&edge(&world).source(world.other_ip(2))));
}

#[test]
fn mapped_addresses_count_as_ipv4() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let port = world.address().port();
    let any: SocketAddr = format!("[::]:{port}").parse().unwrap();
    let listener = world.acceptor_text(
        any,
        &backend.address.to_string(),
        &format!("trusted_ips = [{:?}]", world.near()),
    );
    let gate = Gate {
        acceptor: world.acceptor(&listener),
        address: SocketAddr::new(world.ip(), port),
        backend,
    };
    assert!(gate.echoes(&edge(&world)));
    let line = until("the end", || {
        gate.acceptor
            .lines()
            .into_iter()
            .find(|l| l["decision"] == "admitted" || l["decision"] == "ended")
    });
    assert!(
        line["source"]
            .as_str()
            .unwrap()
            .starts_with(&format!("{}:", world.ip()))
    );
    reset(&edge(&world).source(world.other_ip(200)), gate.address, b"");
    gate.acceptor.refused("legacy", "source_untrusted");
}

#[test]
fn a_range_file_opens_and_shuts_while_it_runs_and_a_bad_one_changes_nothing() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let address = world.address();
    let near = world.other_ip(2);
    world.write("ranges.txt", &format!("# egress\n{}\n", world.ip()));
    let gate = Gate {
        acceptor: world.acceptor(&world.acceptor_text(
            address,
            &backend.address.to_string(),
            "trusted_ips = [{ file = \"ranges.txt\" }]",
        )),
        address,
        backend,
    };
    let newcomer = edge(&world).source(near);
    assert!(gate.echoes(&edge(&world)));
    assert!(!gate.echoes(&newcomer));
    gate.acceptor.refused("legacy", "source_untrusted");

    world.write("ranges.txt", &format!("{}\n{near}\n", world.ip()));
    until("the new range", || gate.echoes(&newcomer).then_some(()));

    // one bad entry: nothing of the file counts, neither what it adds nor what it takes away
    let third = world.other_ip(4);
    world.write("ranges.txt", &format!("{third}\n300.1.2.3\n"));
    let refused = gate.acceptor.line("the refusal", |line| {
        line["message"]
            .as_str()
            .is_some_and(|m| m.starts_with("reload refused"))
    });
    assert_eq!(refused["level"], "ERROR");
    assert!(says(&refused, "problem", "ranges.txt:2"), "{refused}");
    assert!(gate.echoes(&newcomer));
    assert!(!gate.echoes(&edge(&world).source(third)));
    let (status, ready) = gate.acceptor.admin("/readyz?verbose").unwrap();
    assert_eq!(status, 200);
    assert!(
        ready.contains("warn reload:") && ready.contains("300.1.2.3"),
        "{ready}"
    );
    assert!(
        gate.acceptor
            .metric("portcullis_reloads_total{result=\"failure\"}")
            >= 1.0
    );

    // an empty list admits nobody, so it is no list
    world.write("ranges.txt", "# nobody\n");
    until("the second refusal", || {
        (gate
            .acceptor
            .metric("portcullis_reloads_total{result=\"failure\"}")
            >= 2.0)
            .then_some(())
    });
    assert!(gate.echoes(&newcomer));

    // a live connection from a range that is taken away ends
    let mut live = gate.speak(&newcomer).unwrap();
    world.write("ranges.txt", &format!("{}\n", world.ip()));
    ends(&mut live);
    assert!(!gate.echoes(&newcomer));
    let line = gate.acceptor.refusal("rules_changed");
    assert!(
        line["detail"]
            .as_str()
            .unwrap()
            .starts_with("source_untrusted")
    );
    assert!(gate.acceptor.ended_for("legacy", "rules_changed") >= 1.0);
    let (_, ready) = gate.acceptor.admin("/readyz?verbose").unwrap();
    assert!(ready.contains("ok   reload:"), "{ready}");
}

/// A live connection is over soon.
fn ends(stream: &mut crate::world::TlsStream) {
    let began = Instant::now();
    let mut byte = [0];
    let read = stream.read(&mut byte);
    assert!(!matches!(read, Ok(1)), "a byte came");
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "it lived on: {read:?}"
    );
}

#[test]
fn each_wrong_certificate_has_its_reason_and_its_alert() {
    let world = World::new();
    let gate = gate(&world, "");
    let ca = world.stranger("stranger-ca");
    let now = clock::now();
    let ago = |seconds| Some(UnixSeconds(now.0 - seconds));
    let expired = world.issue_as(&IssueRequest {
        not_before: ago(7200),
        not_after: ago(3600),
        ..IssueRequest::new(Role::Gateway, "expired")
    });
    let early = world.issue_as(&IssueRequest {
        not_before: ago(-3600),
        ..IssueRequest::new(Role::Gateway, "early")
    });
    let cases: Vec<(&str, Option<Leaf>, &str, &str)> = vec![
        (
            "no certificate",
            None,
            "certificate_missing",
            "116 tlsv13 alert certificate required",
        ),
        (
            "a stranger's CA",
            Some(world.signed_by(&ca, "mimic", "URI:spiffe://example.internal/gateway/edge-1")),
            "certificate_unknown_issuer",
            "48 tlsv1 alert unknown ca",
        ),
        (
            "an acceptor",
            Some(world.leaf(Role::Acceptor, "legacy")),
            "certificate_wrong_usage",
            "43 sslv3 alert unsupported certificate",
        ),
        (
            "a server",
            Some(world.leaf(Role::Server, "site")),
            "certificate_wrong_usage",
            "43 sslv3 alert unsupported certificate",
        ),
        (
            "a client",
            Some(world.issue(Role::Client, "app", &[])),
            "certificate_wrong_role",
            "49 tlsv1 alert access denied",
        ),
        (
            "expired",
            Some(expired),
            "certificate_expired",
            "45 sslv3 alert certificate expired",
        ),
        (
            "not yet valid",
            Some(early),
            "certificate_not_yet_valid",
            "45 sslv3 alert certificate expired",
        ),
    ];
    let mut wrong = Vec::new();
    for (what, leaf, reason, alert) in cases {
        let before = gate.acceptor.denied("legacy", reason);
        let heard = gate.alert(&world, leaf.as_ref());
        gate.acceptor.refused("legacy", reason);
        let counted = until("the count", || {
            Some(gate.acceptor.denied("legacy", reason) - before).filter(|n| *n > 0.5)
        });
        if heard != alert || (counted - 1.0).abs() > 0.1 {
            wrong.push(format!("{what}: heard {heard:?}, counted {counted}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", gate.acceptor.text());
    gate.nobody_came();
    assert!(gate.echoes(&edge(&world)));
}

#[test]
fn a_revoked_gateway_loses_its_live_connection_and_finds_the_gate_shut() {
    let world = World::new();
    let gate = gate(&world, "");
    let other = world.issue(Role::Gateway, "edge-2", &[]);
    let other_client = edge(&world).certificate(&other);
    let (gateway, edge_address) = world.plain_gateway("tcp", gate.address, "", "");
    let mut through = world.client().connect(edge_address, "site.test").unwrap();
    assert!(answers(&mut through));
    let mut live = gate.speak(&edge(&world)).unwrap();
    let mut stays = gate.speak(&other_client).unwrap();

    world
        .authority
        .revoke("gateway/edge-1", Reason::KeyCompromise)
        .unwrap();
    ends(&mut live);
    ends(&mut through);
    let line = gate.acceptor.refusal("rules_changed");
    assert!(
        line["detail"]
            .as_str()
            .unwrap()
            .starts_with("certificate_revoked"),
        "{line}"
    );
    assert_eq!(
        gate.alert(&world, Some(&world.leaf(Role::Gateway, "edge-1"))),
        "44 sslv3 alert certificate revoked"
    );
    gate.acceptor.refused("legacy", "certificate_revoked");
    assert!(
        !world
            .client()
            .connect(edge_address, "site.test")
            .is_ok_and(|mut s| answers(&mut s))
    );
    let line = gateway.refusal("upstream_refused");
    assert!(says(&line, "detail", "certificate_revoked"), "{line}");
    assert!(answers(&mut stays), "another gateway was cut too");
    assert!(gate.echoes(&other_client));
}

/// A CRL of the issuing CA that ended an hour ago.
fn expired_crl(world: &World, number: u64) -> String {
    let folder = world.authority.folder().join("issuing");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let key = rcgen::KeyPair::from_pem(&read("ca.key")).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("ca.pem"), key).unwrap();
    let now = time::OffsetDateTime::now_utc();
    rcgen::CertificateRevocationListParams {
        this_update: now - time::Duration::days(2),
        next_update: now - time::Duration::hours(1),
        crl_number: rcgen::SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    }
    .signed_by(&issuer)
    .unwrap()
    .pem()
    .unwrap()
}

fn trust_line(world: &World) -> String {
    format!("trust = {:?}\n", world.authority.trust())
}

fn admits_ours(world: &World) -> String {
    format!(
        "trusted_ips = [{:?}]\ngateways = [\"spiffe://example.internal/gateway/*\"]",
        world.near()
    )
}

#[test]
fn an_expired_crl_refuses_or_is_tolerated_as_configured() {
    for (policy, admits) in [("require", false), ("tolerate", true)] {
        let world = World::new();
        let root = std::fs::read_to_string(world.authority.folder().join("root/crl.pem")).unwrap();
        world.write("stale.pem", &(expired_crl(&world, 1) + &root));
        let trust = trust_line(&world) + &format!("crl = \"stale.pem\"\ncrl_policy = \"{policy}\"");
        let gate = gate_with(&world, &trust, &admits_ours(&world));
        assert_eq!(gate.echoes(&edge(&world)), admits, "{policy}");
        let (_, ready) = gate.acceptor.admin("/readyz?verbose").unwrap();
        assert!(ready.contains("warn crl:"), "{ready}");
        if !admits {
            let line = gate.acceptor.refused("legacy", "crl_expired");
            assert_eq!(line["level"], "ERROR");
            gate.nobody_came();
        }
        // a fresh list, and nothing is amiss
        let fresh = std::fs::read_to_string(world.authority.crl()).unwrap();
        world.write("stale.pem", &fresh);
        until("the fresh list", || {
            let (_, ready) = gate.acceptor.admin("/readyz?verbose")?;
            (!ready.contains("warn crl:")).then_some(())
        });
        assert!(gate.echoes(&edge(&world)));
    }
}

#[test]
fn a_live_connection_outlives_its_crl_but_not_its_revocation() {
    let world = World::new();
    let root = std::fs::read_to_string(world.authority.folder().join("root/crl.pem")).unwrap();
    let fresh = std::fs::read_to_string(world.authority.crl()).unwrap();
    world.write("crl.pem", &fresh);
    let trust = trust_line(&world) + "crl = \"crl.pem\"";
    let gate = gate_with(&world, &trust, &admits_ours(&world));
    let mut live = gate.speak(&edge(&world)).unwrap();
    world.write("crl.pem", &(expired_crl(&world, 7) + &root));
    until("the stale list", || {
        (!gate.echoes(&edge(&world))).then_some(())
    });
    gate.acceptor.refused("legacy", "crl_expired");
    assert!(answers(&mut live));
}

#[test]
fn an_issuer_without_a_crl_refuses_unless_only_leaves_are_asked_for() {
    let world = World::new();
    let issuing = world.authority.folder().join("issuing/crl.pem");
    for (scope, admits) in [("chain", false), ("leaf", true)] {
        let trust = trust_line(&world) + &format!("crl = {issuing:?}\ncrl_scope = \"{scope}\"");
        let gate = gate_with(&world, &trust, &admits_ours(&world));
        assert_eq!(gate.echoes(&edge(&world)), admits, "{scope}");
        if !admits {
            let line = gate.acceptor.refused("legacy", "revocation_unknown");
            assert!(says(&line, "detail", "no CRL of"), "{line}");
            assert!(says(&line, "next", "crl_scope"), "{line}");
            assert_eq!(
                gate.alert(&world, Some(&world.leaf(Role::Gateway, "edge-1"))),
                "48 tlsv1 alert unknown ca"
            );
        }
    }
}

#[test]
fn denied_certificates_stay_out_by_fingerprint_and_by_serial() {
    let world = World::new();
    let second = world.issue(Role::Gateway, "edge-2", &[]);
    let third = world.issue(Role::Gateway, "edge-3", &[]);
    let facts = |leaf: &Leaf, what: &str| {
        let (ok, said) = crate::world::run(
            "openssl",
            &["x509", "-in", text(&leaf.certificate), "-noout", what],
        );
        assert!(ok, "{said}");
        said.trim().rsplit('=').next().unwrap().to_owned()
    };
    let leaf = world.leaf(Role::Gateway, "edge-1");
    let (ok, fingerprint) = crate::world::run(
        "openssl",
        &[
            "x509",
            "-in",
            text(&leaf.certificate),
            "-noout",
            "-fingerprint",
            "-sha256",
        ],
    );
    assert!(ok);
    let fingerprint = fingerprint
        .trim()
        .rsplit('=')
        .next()
        .unwrap()
        .replace(':', "");
    let trust = trust_line(&world)
        + &format!(
            "crl = {:?}\ndenied = [\"sha256:{fingerprint}\", \"serial:{}\"]",
            world.authority.crl(),
            facts(&second, "-serial")
        );
    let gate = gate_with(&world, &trust, &admits_ours(&world));
    for leaf in [&leaf, &second] {
        assert_eq!(
            gate.alert(&world, Some(leaf)),
            "49 tlsv1 alert access denied"
        );
    }
    gate.acceptor.refused("legacy", "certificate_denied");
    gate.acceptor
        .denied_times("legacy", "certificate_denied", 2);
    gate.nobody_came();
    assert!(gate.echoes(&edge(&world).certificate(&third)));
}

#[test]
fn a_gateway_that_no_rule_names_is_refused_at_both_ends() {
    let world = World::new();
    let second = world.issue(Role::Gateway, "edge-2", &[]);
    let trust = trust_line(&world) + &format!("crl = {:?}", world.authority.crl());
    let listener = format!(
        "trusted_ips = [{:?}]\ngateways = [\"spiffe://example.internal/gateway/edge-2\"]",
        world.near()
    );
    let gate = gate_with(&world, &trust, &listener);
    assert_eq!(
        gate.alert(&world, Some(&world.leaf(Role::Gateway, "edge-1"))),
        "49 tlsv1 alert access denied"
    );
    let line = gate.acceptor.refused("legacy", "name_not_allowed");
    assert!(says(&line, "detail", "edge-1"), "{line}");
    let (gateway, came) = through_our_gateway(&world, &gate, "");
    assert!(!came);
    let line = gateway.refusal("upstream_refused");
    assert!(says(&line, "detail", "access_denied"), "{line}");
    gate.nobody_came();
    assert!(gate.echoes(&edge(&world).certificate(&second)));
}

#[test]
fn rules_bind_a_source_to_an_identity() {
    let world = World::new();
    let second = world.issue(Role::Gateway, "edge-2", &[]);
    let trust = trust_line(&world) + &format!("crl = {:?}", world.authority.crl());
    let (one, two) = (world.other_ip(2), world.other_ip(3));
    let listener = format!(
        "[[listener.rule]]\nfrom = [\"{one}\"]\ngateways = [\"spiffe://example.internal/gateway/edge-1\"]\n\
         [[listener.rule]]\nfrom = [\"{two}\"]\ngateways = [\"spiffe://example.internal/gateway/edge-2\"]"
    );
    let gate = gate_with(&world, &trust, &listener);
    let first = edge(&world);
    let second = edge(&world).certificate(&second);
    assert!(gate.echoes(&first.clone().source(one)));
    assert!(gate.echoes(&second.clone().source(two)));
    let came = gate.backend.connections();
    assert!(!gate.echoes(&first.source(two)));
    assert!(!gate.echoes(&second.clone().source(one)));
    gate.acceptor.refused("legacy", "name_not_allowed");
    gate.acceptor.denied_times("legacy", "name_not_allowed", 2);
    reset(&second.source(world.ip()), gate.address, b"");
    gate.acceptor.refused("legacy", "source_untrusted");
    assert_eq!(gate.backend.connections(), came);
}

/// Two parties that only exchanged certificates, and a third that did not.
struct Parties {
    ours: Leaf,
    theirs: Leaf,
    stranger: Leaf,
    gate: Gate,
    gateway: Running,
    edge: SocketAddr,
}

impl Parties {
    fn new(world: &World, make: impl Fn(&str) -> Leaf) -> Self {
        let (ours, theirs) = (make("the-acceptor"), make("the-gateway"));
        let backend = Backend::echo(world.address());
        let (address, edge) = (world.address(), world.address());
        let acceptor = world.start(
            "acceptor",
            &Self::acceptor_text(world, &ours, &theirs, address, backend.address),
        );
        let gateway = world.start(
            "gateway",
            &Self::gateway_text(world, &theirs, &ours, edge, address),
        );
        Self {
            ours,
            theirs,
            stranger: make("stranger"),
            gate: Gate {
                acceptor,
                address,
                backend,
            },
            gateway,
            edge,
        }
    }

    fn acceptor_text(
        world: &World,
        own: &Leaf,
        pinned: &Leaf,
        address: SocketAddr,
        backend: SocketAddr,
    ) -> String {
        let pin = pinned.certificate.display();
        world.identity(own, "acceptor", &format!("pinned = [\"{pin}\"]"))
            + &format!(
                "[[listener]]\nname = \"legacy\"\naddress = \"{address}\"\nmode = \"tcp\"\n\
                 backend = \"{backend}\"\ntrusted_ips = [{:?}]\ngateways = [\"pinned:{pin}\"]\n",
                world.near()
            )
    }

    fn gateway_text(
        world: &World,
        own: &Leaf,
        pinned: &Leaf,
        edge: SocketAddr,
        acceptor: SocketAddr,
    ) -> String {
        let pin = pinned.certificate.display();
        world.identity(own, "gateway", &format!("pinned = [\"{pin}\"]"))
            + &world.gateway_text("tcp", edge, acceptor, "", "")
    }

    /// A connection through both, over which a word came back.
    fn through(&self, world: &World) -> Option<crate::world::TlsStream> {
        let mut stream = world.client().connect(self.edge, "site.test").ok()?;
        answers(&mut stream).then_some(stream)
    }

    /// What both kinds of certificates have to do.
    fn prove(&self, world: &World) {
        let mut live = self.through(world).unwrap();
        assert_eq!(
            self.gate.alert(world, Some(&self.stranger)),
            "48 tlsv1 alert unknown ca"
        );
        self.gate
            .acceptor
            .refused("legacy", "certificate_unknown_issuer");
        // a pin that is taken away closes its connections
        world.write(
            "acceptor.toml",
            &Self::acceptor_text(
                world,
                &self.ours,
                &self.stranger,
                self.gate.address,
                self.gate.backend.address,
            ),
        );
        ends(&mut live);
        let line = self.gate.acceptor.refusal("rules_changed");
        assert!(
            line["detail"]
                .as_str()
                .unwrap()
                .starts_with("certificate_unknown_issuer"),
            "{line}"
        );
        assert!(self.through(world).is_none());
        assert!(
            self.gateway.refusal("upstream_refused")["detail"]
                .as_str()
                .unwrap()
                .contains("unknown_ca")
        );
    }
}

#[test]
fn two_parties_exchange_what_openssl_req_makes_and_need_no_ca() {
    let world = World::new();
    Parties::new(&world, |name| world.self_signed(name)).prove(&world);
}

#[test]
fn two_parties_exchange_what_keytool_makes_and_need_no_ca() {
    let world = World::new();
    Parties::new(&world, |name| world.keytool(name)).prove(&world);
}

#[test]
fn what_a_pinned_certificate_signs_is_nobody() {
    let world = World::new();
    let parties = Parties::new(&world, |name| world.self_signed(name));
    let ca = crate::world::Stranger {
        certificate: parties.theirs.certificate.clone(),
        key: parties.theirs.key.clone(),
    };
    let child = world.signed_by(&ca, "child", "URI:spiffe://example.internal/gateway/edge-1");
    assert_eq!(
        parties.gate.alert(&world, Some(&child)),
        "48 tlsv1 alert unknown ca"
    );
    let line = parties
        .gate
        .acceptor
        .refused("legacy", "certificate_unknown_issuer");
    assert!(
        says(&line, "detail", "a pinned certificate is never an anchor"),
        "{line}"
    );
    parties.gate.nobody_came();
    assert!(parties.through(&world).is_some());
}

#[test]
fn a_gateway_that_takes_its_pin_away_closes_its_links_and_makes_no_new_ones() {
    let world = World::new();
    let parties = Parties::new(&world, |name| world.self_signed(name));
    let mut live = parties.through(&world).unwrap();
    let text = Parties::gateway_text(
        &world,
        &parties.theirs,
        &parties.stranger,
        parties.edge,
        parties.gate.address,
    );
    world.write("gateway.toml", &text);
    ends(&mut live);
    let line = parties.gateway.refusal("rules_changed");
    let detail = line["detail"].as_str().unwrap();
    assert!(detail.contains("certificate_unknown_issuer"), "{line}");
    assert!(parties.through(&world).is_none());
    let line = parties.gateway.refusal("upstream_untrusted");
    let detail = line["detail"].as_str().unwrap();
    assert!(detail.starts_with("certificate_unknown_issuer"), "{line}");
    assert_eq!(parties.gate.backend.connections(), 1);
}

#[test]
fn a_partner_speaks_for_its_own_names_only() {
    let world = World::new();
    let partner = world.stranger("partner-ca");
    let mine = world.signed_by(&partner, "edge.partner", "DNS:edge.partner.example");
    let forged = world.signed_by(
        &partner,
        "forged",
        "URI:spiffe://example.internal/gateway/edge-1",
    );
    let both = world.signed_by(
        &partner,
        "both",
        "DNS:edge.partner.example,DNS:elsewhere.example",
    );
    let trust = trust_line(&world)
        + &format!(
            "[[identity.trust_bundle]]\nfile = {:?}\nnames = [\"dns:*.partner.example\"]",
            partner.certificate
        );
    let listener = format!(
        "trusted_ips = [{:?}]\ngateways = [\"spiffe://example.internal/gateway/*\", \"dns:*.partner.example\"]",
        world.near()
    );
    let gate = gate_with(&world, &trust, &listener);
    for leaf in [&forged, &both] {
        assert_eq!(
            gate.alert(&world, Some(leaf)),
            "49 tlsv1 alert access denied"
        );
    }
    let line = gate.acceptor.refused("legacy", "issuer_not_for_name");
    assert!(says(&line, "detail", "spiffe://example.internal"), "{line}");
    gate.acceptor
        .denied_times("legacy", "issuer_not_for_name", 2);
    gate.nobody_came();
    assert!(gate.echoes(&edge(&world).certificate(&mine)));
    assert!(gate.echoes(&edge(&world)));
}

#[test]
fn a_gateway_refuses_acceptors_that_are_not_the_right_one() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let edge_2 = world.issue(Role::Acceptor, "other", &["other.internal"]);
    let (_legacy, address) = world.plain_acceptor(&backend.address.to_string(), "");
    let other_address = world.address();
    let _other = world.start_as(
        "acceptor",
        "acceptor-other",
        &(world.common_as(&edge_2, "acceptor-other", "")
            + &world.acceptor_text(
                other_address,
                &backend.address.to_string(),
                &format!("trusted_ips = [{:?}]", world.near()),
            )),
    );
    let cases = [
        (
            "name",
            other_address,
            "",
            "server_name_mismatch",
            "it carries other.internal",
        ),
        (
            "id",
            address,
            "acceptor_ids = [\"spiffe://example.internal/acceptor/other\"]",
            "upstream_untrusted",
            "name_not_allowed: ",
        ),
    ];
    for (what, to, more, reason, detail) in cases {
        let file = format!("gateway-{what}");
        let edge = world.address();
        let text = world.common_as(&world.leaf(Role::Gateway, "edge-1"), &file, "")
            + &world.gateway_text("tcp", edge, to, "", more);
        let gateway = world.start_as("gateway", &file, &text);
        assert!(
            !world
                .client()
                .connect(edge, "site.test")
                .is_ok_and(|mut s| answers(&mut s))
        );
        let line = gateway.refusal(reason);
        assert!(says(&line, "detail", detail), "{line}");
        assert!(gateway.ended_for("public", reason) >= 1.0);
        assert!(
            gateway.metric(&format!(
                "portcullis_link_connect_failed_total{{backend=\"legacy\",reason=\"{reason}\"}}"
            )) >= 1.0
        );
    }
    assert_eq!(backend.connections(), 0);
}

#[test]
fn an_acceptor_that_is_no_acceptor_is_refused_by_its_gateway() {
    let world = World::new();
    let server = world.issue(Role::Server, "legacy-server", &["legacy.internal"]);
    let ca = world.stranger("elsewhere");
    let mimic = world.signed_by(
        &ca,
        "mimic",
        "URI:spiffe://example.internal/acceptor/legacy,DNS:legacy.internal",
    );
    let now = clock::now();
    let expired = world.issue_as(
        &IssueRequest {
            not_before: Some(UnixSeconds(now.0 - 7200)),
            not_after: Some(UnixSeconds(now.0 - 3600)),
            ..IssueRequest::new(Role::Acceptor, "expired")
        }
        .san("legacy.internal"),
    );
    let revoked = world.issue(Role::Acceptor, "revoked", &["legacy.internal"]);
    world
        .authority
        .revoke("acceptor/revoked", Reason::KeyCompromise)
        .unwrap();
    for (name, leaf, reason) in [
        ("role", &server, "certificate_wrong_role"),
        (
            "usage",
            &world.leaf(Role::Gateway, "edge-1"),
            "certificate_wrong_usage",
        ),
        ("issuer", &mimic, "certificate_unknown_issuer"),
        ("expired", &expired, "certificate_expired"),
        ("revoked", &revoked, "certificate_revoked"),
    ] {
        let impostor = Backend::tls(world.address(), leaf, crate::world::echo);
        let file = format!("gateway-{name}");
        let edge = world.address();
        let text = world.common_as(&world.leaf(Role::Gateway, "edge-1"), &file, "")
            + &world.gateway_text("tcp", edge, impostor.address, "", "");
        let gateway = world.start_as("gateway", &file, &text);
        assert!(
            !world
                .client()
                .connect(edge, "site.test")
                .is_ok_and(|mut s| answers(&mut s)),
            "{name}"
        );
        let line = gateway.refusal("upstream_untrusted");
        assert!(
            line["detail"].as_str().unwrap().starts_with(reason),
            "{line}"
        );
    }
}

#[test]
fn a_spiffe_id_stands_beside_no_other_uri() {
    const ID: &str = "URI:spiffe://elsewhere.example/gateway/a";
    let world = World::new();
    let ca = world.stranger("own-ca");
    let one = world.signed_by(&ca, "one", &format!("{ID},DNS:a.elsewhere.example"));
    let listener = format!(
        "trusted_ips = [{:?}]\ngateways = [\"spiffe://elsewhere.example/gateway/*\"]",
        world.near()
    );
    let gate = gate_with(&world, &format!("trust = {:?}", ca.certificate), &listener);
    for (name, names) in [
        (
            "two",
            format!("{ID},URI:spiffe://elsewhere.example/gateway/b"),
        ),
        ("before", format!("URI:https://elsewhere.example/a,{ID}")),
        ("behind", format!("{ID},URI:urn:uuid:1")),
    ] {
        let leaf = world.signed_by(&ca, name, &names);
        assert_eq!(
            gate.alert(&world, Some(&leaf)),
            "49 tlsv1 alert access denied",
            "{name}"
        );
    }
    gate.acceptor
        .denied_times("legacy", "certificate_ambiguous", 3);
    gate.nobody_came();
    assert!(gate.echoes(&edge(&world).certificate(&one)));
}

#[test]
fn peers_are_named_by_dns_fingerprint_or_key_as_well() {
    let world = World::new();
    let second = world.issue(Role::Gateway, "edge-2", &[]);
    let third = world.issue(Role::Gateway, "edge-3", &["edge-3.internal"]);
    let hash = |arguments: &str| {
        let (ok, said) = crate::world::run("sh", &["-c", arguments]);
        assert!(ok, "{said}");
        said.split_whitespace().last().unwrap().to_owned()
    };
    let fingerprint = hash(&format!(
        "openssl x509 -in {} -outform der | openssl dgst -sha256",
        text(&world.leaf(Role::Gateway, "edge-1").certificate)
    ));
    let spki = hash(&format!(
        "openssl x509 -in {} -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256",
        text(&second.certificate)
    ));
    let trust = trust_line(&world) + &format!("crl = {:?}", world.authority.crl());
    let all = [
        ("fingerprint", format!("sha256:{fingerprint}"), 0),
        ("key", format!("spki:sha256:{spki}"), 1),
        ("dns", "dns:*.internal".to_owned(), 2),
    ];
    let clients = [
        edge(&world),
        edge(&world).certificate(&second),
        edge(&world).certificate(&third),
    ];
    for (what, name, fits) in all {
        let listener = format!("trusted_ips = [{:?}]\ngateways = [{name:?}]", world.near());
        let gate = gate_with(&world, &trust, &listener);
        for (at, client) in clients.iter().enumerate() {
            assert_eq!(gate.echoes(client), at == fits, "{what} {at}");
        }
        gate.acceptor.denied_times("legacy", "name_not_allowed", 2);
    }
}

#[test]
fn a_certificate_that_ends_takes_its_connection_along() {
    let world = World::new();
    let gate = gate(&world, "");
    let now = clock::now();
    let short = world.issue_as(&IssueRequest {
        not_after: Some(UnixSeconds(now.0 + 4)),
        ..IssueRequest::new(Role::Gateway, "short")
    });
    let mut stays = gate.speak(&edge(&world)).unwrap();
    let mut live = gate.speak(&edge(&world).certificate(&short)).unwrap();
    ends(&mut live);
    assert!(clock::now().0 >= now.0 + 4, "it ended too soon");
    gate.acceptor.refusal("certificate_ended");
    assert!(gate.acceptor.ended_for("legacy", "certificate_ended") >= 1.0);
    assert!(answers(&mut stays));
}

#[test]
fn old_tls_is_refused_unless_it_is_asked_for() {
    let world = World::new();
    let leaf = world.leaf(Role::Gateway, "edge-1");
    let strict = gate(&world, "");
    let said = world.s_client(strict.address, Some(&leaf), None, &["-tls1_2"]);
    assert!(said.contains("alert protocol version"), "{said}");
    strict.acceptor.refused("legacy", "no_shared_tls");
    strict.nobody_came();
    drop(strict);
    let lax = gate(&world, "tls = { min_version = \"1.2\" }");
    let stranger = world.self_signed("stranger");
    let said = world.s_client(lax.address, Some(&stranger), None, &["-tls1_2"]);
    assert!(said.contains("alert unknown ca"), "{said}");
    let said = world.s_client(lax.address, None, None, &["-tls1_2"]);
    assert!(said.contains("SSL alert number"), "{said}");
    lax.acceptor.refused("legacy", "certificate_missing");
    lax.nobody_came();
    // it stays open until idle, so only the first words are looked at
    let said = crate::world::run(
        "sh",
        &[
            "-c",
            &format!(
                "(echo hello; sleep 1) | timeout 5 openssl s_client -tls1_2 -quiet -connect {} -bind {}:0 -cert {} -key {} -cert_chain {}",
                lax.address,
                world.ip(),
                text(&leaf.certificate),
                text(&leaf.key),
                text(&leaf.certificate)
            ),
        ],
    );
    assert!(
        said.1.contains("hello"),
        "{}{}",
        said.1,
        lax.acceptor.text()
    );
}

#[test]
fn an_encrypted_key_opens_with_its_passphrase_only() {
    let world = World::new();
    let leaf = world.leaf(Role::Acceptor, "legacy");
    let sealed = world.path("sealed.key");
    let (ok, said) = crate::world::run(
        "openssl",
        &[
            "pkcs8",
            "-topk8",
            "-in",
            text(&leaf.key),
            "-out",
            text(&sealed),
            "-v2",
            "aes-256-cbc",
            "-passout",
            "pass:correct horse battery",
        ],
    );
    assert!(ok, "{said}");
    let (ok, said) = crate::world::run("chmod", &["600", text(&sealed)]);
    assert!(ok, "{said}");
    let sealed = Leaf {
        certificate: leaf.certificate,
        key: sealed,
    };
    let address = world.address();
    let config = |file: &str| {
        world.common_as(
            &sealed,
            "acceptor",
            &format!("key_passphrase = {{ file = \"{file}\" }}"),
        ) + &world.acceptor_text(
            address,
            &world.address().to_string(),
            &format!("trusted_ips = [{:?}]", world.near()),
        )
    };
    world.write("wrong.txt", "incorrect horse battery\n");
    let file = world.write("wrong.toml", &config("wrong.txt"));
    let mut wrong = Running::launch("acceptor", &file);
    assert_eq!(wrong.ended().code(), Some(2), "{}", wrong.text());
    assert!(wrong.text().contains("sealed.key"), "{}", wrong.text());
    assert!(!wrong.text().contains("horse"), "{}", wrong.text());
    world.write("right.txt", "correct horse battery\n");
    let right = world.start("acceptor", &config("right.txt"));
    assert!(edge(&world).connect(address, "legacy.internal").is_ok());
    assert!(!right.text().contains("horse"));
}
