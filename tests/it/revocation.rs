//! Revocation that bites: whatever changes on disk, every live connection that would not be
//! admitted any more ends within two seconds, with a reason, and no other is touched.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "each test has some of the changes"
)]

use std::{
    io::{Read as _, Write as _},
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use portcullis::{
    pki::{Authority, InitOptions, IssueRequest, Reason, Role},
    wire::link,
};
use rstest::rstest;

use crate::world::{
    Backend, Client, Edge, Leaf, Links, Open, Running, Ways, World, answers, broken, get, says,
    switching, until,
};

/// What is promised, from the write to the end of the last connection.
const PROMISED: Duration = Duration::from_secs(2);

/// Another authority, and a leaf of it.
struct Partner {
    authority: Authority,
    leaf: Leaf,
}

impl Partner {
    fn new(world: &World, role: Role, name: &str) -> Self {
        let authority = Authority::init(&world.path("partner"), InitOptions::default()).unwrap();
        let issued = authority.issue(&IssueRequest::new(role, name)).unwrap();
        Self {
            authority,
            leaf: Leaf {
                certificate: issued.certificate,
                key: issued.key,
            },
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// The first certificate of a chain.
fn first(path: &Path) -> String {
    let text = read(path);
    let end = "-----END CERTIFICATE-----\n";
    text.split_inclusive(end).next().unwrap().to_owned()
}

pub(crate) fn fingerprint(leaf: &Leaf) -> String {
    use portcullis::identity::CertFacts;
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let der = CertificateDer::from_pem_file(&leaf.certificate).unwrap();
    CertFacts::read(&der).unwrap().fingerprint.to_string()
}

/// Replaces words of a configuration, in one step.
fn edit(world: &World, process: &Running, from: &str, to: &str) {
    let text = read(&process.config);
    assert!(text.contains(from), "{from} in {text}");
    let name = process.config.file_name().unwrap().to_str().unwrap();
    world.write(name, &text.replace(from, to));
}

/// What changes where the peer is judged.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    Crl,
    TrustFile,
    BundleNames,
    PinnedFile,
    PeerNames,
    Denied,
    TrustedRange,
    UntrustedRange,
    ServerName,
}

use Change::{
    BundleNames, Crl, Denied, PeerNames, PinnedFile, ServerName, TrustFile, TrustedRange,
    UntrustedRange,
};

#[rstest]
#[case(Crl, "certificate_revoked")]
#[case(TrustFile, "certificate_unknown_issuer")]
#[case(BundleNames, "issuer_not_for_name")]
#[case(PinnedFile, "certificate_unknown_issuer")]
#[case(PeerNames, "name_not_allowed")]
#[case(Denied, "certificate_denied")]
#[case(TrustedRange, "source_untrusted")]
#[case(UntrustedRange, "source_denied")]
fn an_acceptor_ends_every_link_that_a_change_shuts_out(#[case] change: Change, #[case] why: &str) {
    let world = World::new();
    let partner = Partner::new(&world, Role::Gateway, "edge-1");
    let of_partner = matches!(change, TrustFile | BundleNames | PinnedFile);
    let leaf = match of_partner {
        true => partner.leaf.clone(),
        false => world.leaf(Role::Gateway, "edge-1"),
    };
    let other = world.issue(Role::Gateway, "edge-2", &[]);
    let (victims, others) = (world.other_ip(2), world.other_ip(3));

    let partner_root = read(&partner.authority.trust());
    let ours = read(&world.authority.trust());
    let roots = match change {
        TrustFile => format!("{ours}{partner_root}"),
        _ => ours.clone(),
    };
    let trust = world.write("roots.pem", &roots);
    let bundle = world.write("bundle.pem", &partner_root);
    let pinned = world.write("pinned.pem", &first(&partner.leaf.certificate));
    let mut identity = format!(
        "trust = {trust:?}\ncrl = [{:?}, {:?}]\n",
        world.authority.crl(),
        partner.authority.crl()
    );
    match change {
        BundleNames => {
            identity += &format!(
                "[[identity.trust_bundle]]\nfile = {bundle:?}\nnames = [\"spiffe://example.internal/gateway/*\"]\n"
            );
        }
        PinnedFile => identity += &format!("pinned = {pinned:?}\n"),
        _ => {}
    }
    let (http_backend, tcp_backend) = (switching(&world), Backend::echo(world.address()));
    let links = Links {
        http: world.address(),
        tcp: world.address(),
    };
    let from = format!("trusted_ips = [\"{victims}\", \"{others}\"]");
    let text = world.identity(&world.leaf(Role::Acceptor, "legacy"), "acceptor", &identity)
        + &world.acceptor_text_in("http", links.http, &http_backend.address.to_string(), &from)
        + &world
            .acceptor_text_in("tcp", links.tcp, &tcp_backend.address.to_string(), &from)
            .replace("name = \"legacy\"", "name = \"stream\"");
    let names = "gateways = [\"spiffe://example.internal/gateway/*\"";
    let text = match change {
        PinnedFile => text.replace(names, &format!("{names}, \"pinned:{}\"", pinned.display())),
        _ => text,
    };
    let acceptor = world.start("acceptor", &text);
    let start =
        |name: &str, leaf: &Leaf, bind: IpAddr| Edge::start(&world, name, leaf, bind, links, "");
    let mut victim = start("edge-1", &leaf, victims);
    let mut bystander = start("edge-2", &other, others);

    let begun = Instant::now();
    match change {
        Crl => {
            world
                .authority
                .revoke("gateway/edge-1", Reason::KeyCompromise)
                .unwrap();
        }
        TrustFile => drop(world.write("roots.pem", &ours)),
        BundleNames => edit(
            &world,
            &acceptor,
            "names = [\"spiffe://example.internal/gateway/*\"]",
            "names = [\"dns:elsewhere.example\"]",
        ),
        PinnedFile => drop(world.write("pinned.pem", &first(&other.certificate))),
        PeerNames => edit(&world, &acceptor, "gateway/*", "gateway/edge-2"),
        Denied => {
            let denied = format!("denied = [\"sha256:{}\"]\n\n[log]", fingerprint(&leaf));
            edit(&world, &acceptor, "[log]", &denied);
        }
        TrustedRange => edit(&world, &acceptor, &format!("\"{victims}\", "), ""),
        UntrustedRange => {
            let with = format!("{from}\nuntrusted_ips = [\"{victims}\"]");
            edit(&world, &acceptor, &from, &with);
        }
        ServerName => unreachable!("of whom is dialled"),
    }
    for stream in victim.open.tunnels() {
        assert!(broken(stream), "{change:?}");
    }
    let took = begun.elapsed();
    assert!(took < PROMISED, "{change:?} took {took:?}");
    // the two tunnels, the switched one, and the link that was kept for the next request; where
    // its gateway reads the same list, that may have let go of the idle one first
    let lines = if change == Crl { 3..=4 } else { 4..=4 };
    until("every link's line", || {
        lines
            .contains(&ended(&acceptor, "", "/edge-1"))
            .then_some(())
    });
    let line = acceptor.refusal("rules_changed");
    assert_eq!(line["decision"], "ended");
    let detail = line["detail"].as_str().unwrap();
    assert!(detail.contains(why), "{change:?}: {line}");
    assert_eq!(get(&mut victim.open.kept, "/").0, 502, "{change:?}");
    assert!(bystander.open.works(), "{change:?}");
    assert_eq!(ended(&acceptor, "", "/edge-2"), 0, "{change:?}");
}

/// A handshake proves who a gateway is; what it may do is asked when it names its client, which may
/// be much later.
#[rstest]
#[case("tcp")]
#[case("http")]
fn a_gateway_that_is_shut_out_before_it_names_a_client_reaches_no_backend(#[case] mode: &str) {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let address = backend.address.to_string();
    let (acceptor, link) = match mode {
        "tcp" => world.plain_acceptor(&address, ""),
        _ => world.http_acceptor(&address, ""),
    };
    let client = world
        .client()
        .certificate(&world.leaf(Role::Gateway, "edge-1"))
        .source(world.ip())
        .alpn("portcullis/1");
    let mut waits = client.connect(link, "legacy.internal").unwrap();
    until("its admission", || {
        let admitted = acceptor.metric("portcullis_connections_admitted_total");
        (admitted > 0.5).then_some(())
    });
    world
        .authority
        .revoke("gateway/edge-1", Reason::KeyCompromise)
        .unwrap();
    acceptor.line("the reload", |line| line["message"] == "reloaded");
    let open = link::Frame::Open(Box::new(link::Open::new(link::ConnectionId([7; 16]))));
    let asked = [
        &link::encode(&open)[..],
        b"GET / HTTP/1.1\r\nHost: site.test\r\n\r\n",
    ];
    waits.write_all(&asked.concat()).unwrap();
    waits.flush().unwrap();
    drop(waits.read_to_end(&mut Vec::new()));
    let line = acceptor.line("its end", |line| line["reason"] == "rules_changed");
    assert!(says(&line, "detail", "certificate_revoked"), "{line}");
    assert_eq!(backend.connections(), 0);
}

/// The line of each connection that a change ended, by who it was.
fn ended(process: &Running, listener: &str, identity: &str) -> usize {
    process.count(|line| {
        let says = |key: &str, end: &str| line[key].as_str().is_some_and(|i| i.ends_with(end));
        line["reason"] == "rules_changed"
            && says("listener", listener)
            && says("identity", identity)
    })
}

#[rstest]
#[case(Crl, "certificate_revoked")]
#[case(TrustFile, "certificate_unknown_issuer")]
#[case(PinnedFile, "certificate_unknown_issuer")]
#[case(PeerNames, "name_not_allowed")]
#[case(UntrustedRange, "source_denied")]
fn a_gateway_ends_every_client_that_a_change_shuts_out(#[case] change: Change, #[case] why: &str) {
    let world = World::new();
    let partner = Partner::new(&world, Role::Client, "one");
    let leaf = match change {
        TrustFile | PinnedFile => partner.leaf.clone(),
        _ => world.issue(Role::Client, "one", &[]),
    };
    let other = world.issue(Role::Client, "two", &[]);
    let ours = read(&world.authority.trust());
    let roots = match change {
        TrustFile => ours.clone() + &read(&partner.authority.trust()),
        _ => ours.clone(),
    };
    let trust = world.write("callers.pem", &roots);
    let pinned = world.write("pinned.pem", &first(&partner.leaf.certificate));
    let (victims, others) = (world.other_ip(2), world.other_ip(3));
    let mut names = "\"spiffe://example.internal/client/*\"".to_owned();
    let mut client = format!(
        "client_ca = {trust:?}\nclient_crl = [{:?}, {:?}]\n",
        world.authority.crl(),
        partner.authority.crl()
    );
    if change == PinnedFile {
        client += &format!("client_pinned = {pinned:?}\n");
        names += &format!(", \"pinned:{}\"", pinned.display());
    }
    client += &format!("clients = [{names}]");
    let (http_backend, tcp_backend) = (switching(&world), Backend::echo(world.address()));
    let (_http, http) = world.http_acceptor(&http_backend.address.to_string(), "");
    let tcp = world.address();
    let text = world.common_as(&world.leaf(Role::Acceptor, "legacy"), "stream", "")
        + &world.acceptor_text(
            tcp,
            &tcp_backend.address.to_string(),
            &format!("trusted_ips = [{:?}]", world.near()),
        );
    let _tcp = world.start_as("acceptor", "stream", &text);
    let ways = Ways {
        prefix: "",
        bind: world.ip(),
        links: Links { http, tcp },
        client: &client,
        link: "",
        web: "",
    };
    let (text, at) = ways.text(&world);
    let gateway = world.gateway(&text);
    let caller = |leaf: &Leaf, from| {
        let client = Client::new(&world.authority.trust()).certificate(leaf);
        Open::new(&client.source(from), at)
    };
    let mut victim = caller(&leaf, victims);
    let mut bystander = caller(&other, others);

    let begun = Instant::now();
    match change {
        Crl => {
            world
                .authority
                .revoke("client/one", Reason::KeyCompromise)
                .unwrap();
        }
        TrustFile => drop(world.write("callers.pem", &ours)),
        PinnedFile => drop(world.write("pinned.pem", &first(&other.certificate))),
        PeerNames => edit(&world, &gateway, "/client/*", "/client/two"),
        UntrustedRange => {
            let with = format!("deny = [\"{victims}\"]\nclient_ca =");
            edit(&world, &gateway, "client_ca =", &with);
        }
        BundleNames | Denied | TrustedRange | ServerName => {
            unreachable!("callers have none of these")
        }
    }
    for stream in victim.tunnels() {
        assert!(broken(stream), "{change:?}");
    }
    // a kept one has no request under way: its end may be orderly
    let _orderly = !broken(&mut victim.kept);
    let took = begun.elapsed();
    assert!(took < PROMISED, "{change:?} took {took:?}");
    for (listener, lines) in [("web", 2), ("direct", 1), ("reused", 1)] {
        until("every connection's line", || {
            (ended(&gateway, listener, "/one") == lines).then_some(())
        });
    }
    let line = gateway.refusal("rules_changed");
    let detail = line["detail"].as_str().unwrap();
    assert!(detail.contains(why), "{change:?}: {line}");
    assert!(bystander.works(), "{change:?}");
    assert_eq!(ended(&gateway, "", "/two"), 0, "{change:?}");
}

#[rstest]
#[case(Crl, "certificate_revoked")]
#[case(PeerNames, "name_not_allowed")]
#[case(Denied, "certificate_denied")]
#[case(ServerName, "server_name_mismatch")]
fn a_gateway_ends_every_link_to_an_acceptor_that_a_change_shuts_out(
    #[case] change: Change,
    #[case] why: &str,
) {
    let world = World::new();
    let names = ["legacy.internal", "other.internal"];
    let other = world.issue(Role::Acceptor, "other", &names);
    let (http_backend, tcp_backend) = (switching(&world), Backend::echo(world.address()));
    let trusted = format!("trusted_ips = [{:?}]", world.near());
    let start = |file: &str, leaf: &Leaf| {
        let links = Links {
            http: world.address(),
            tcp: world.address(),
        };
        let (http, tcp) = (&http_backend.address, &tcp_backend.address);
        let text = world.common_as(leaf, file, "")
            + &world.acceptor_text_in("http", links.http, &http.to_string(), &trusted)
            + &world
                .acceptor_text_in("tcp", links.tcp, &tcp.to_string(), &trusted)
                .replace("name = \"legacy\"", "name = \"stream\"");
        (world.start_as("acceptor", file, &text), links)
    };
    let leaf = world.leaf(Role::Acceptor, "legacy");
    let (_first, to_victim) = start("first", &leaf);
    let (_second, to_other) = start("second", &other);
    let ways = |prefix, links| {
        let link = "acceptor_ids = [\"spiffe://example.internal/acceptor/*\"]";
        let ways = Ways {
            prefix,
            bind: world.ip(),
            links,
            client: "",
            link,
            web: "",
        };
        ways.text(&world)
    };
    let (one, at_victim) = ways("one-", to_victim);
    let (two, at_other) = ways("two-", to_other);
    let gateway = world.gateway(&(one + &two));
    let mut victim = Open::new(&world.client(), at_victim);
    let mut bystander = Open::new(&world.client(), at_other);

    let begun = Instant::now();
    match change {
        Crl => {
            world
                .authority
                .revoke("acceptor/legacy", Reason::KeyCompromise)
                .unwrap();
        }
        PeerNames => edit(&world, &gateway, "/acceptor/*", "/acceptor/other"),
        Denied => {
            let denied = format!("denied = [\"sha256:{}\"]\n\n[log]", fingerprint(&leaf));
            edit(&world, &gateway, "[log]", &denied);
        }
        // the other one's certificate has both
        ServerName => {
            let name = |name: &str| format!("server_name = \"{name}\"");
            let to = name("other.internal");
            edit(&world, &gateway, &name("legacy.internal"), &to);
        }
        _ => unreachable!("the rest is of those who come"),
    }
    for stream in victim.tunnels() {
        assert!(broken(stream), "{change:?}");
    }
    let took = begun.elapsed();
    assert!(took < PROMISED, "{change:?} took {took:?}");
    let line = gateway.refusal("rules_changed");
    let detail = line["detail"].as_str().unwrap();
    assert!(detail.contains(why), "{change:?}: {line}");
    assert_eq!(get(&mut victim.kept, "/").0, 502, "{change:?}");
    assert!(bystander.works(), "{change:?}");
}

#[test]
fn a_configuration_that_can_not_be_read_keeps_no_revocation_out() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (gateway, acceptor, edge) = world.chain(&backend.address.to_string());
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    assert!(answers(&mut stream));
    edit(&world, &acceptor, "trusted_ips", "trusted_ipz");
    acceptor.line("the refusal", |line| {
        line["message"]
            .as_str()
            .is_some_and(|said| said.starts_with("reload refused"))
    });
    assert!(answers(&mut stream));
    world
        .authority
        .revoke("gateway/edge-1", Reason::KeyCompromise)
        .unwrap();
    acceptor.line("its end", |line| {
        line["decision"] == "ended" && line["reason"] == "rules_changed"
    });
    // it is said all the same that the configuration is not in force
    let (_, said) = acceptor.admin("/readyz?verbose").unwrap();
    assert!(
        said.contains("warn reload") && said.contains("trusted_ipz"),
        "{said}"
    );
    drop(gateway);
}

/// Why a configuration that can be read is refused.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Slip {
    NoSuchFile,
    AddressInUse,
}

#[rstest]
#[case(Slip::NoSuchFile)]
#[case(Slip::AddressInUse)]
fn a_configuration_that_is_refused_keeps_no_revocation_out(#[case] slip: Slip) {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (gateway, acceptor, edge) = world.chain(&backend.address.to_string());
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    assert!(answers(&mut stream));
    let taken = std::net::TcpListener::bind(world.address()).unwrap();
    let (at, tls) = match slip {
        Slip::NoSuchFile => {
            let missing = world.path("missing.pem");
            let tls = format!("backend_tls = {{ trust = {missing:?}, server_name = \"a.test\" }}");
            (world.address(), tls)
        }
        Slip::AddressInUse => (taken.local_addr().unwrap(), String::new()),
    };
    let more = format!("trusted_ips = [{:?}]\n{tls}", world.near());
    let second = world.acceptor_text(at, &backend.address.to_string(), &more);
    let second = second.replace("name = \"legacy\"", "name = \"second\"");
    edit(
        &world,
        &acceptor,
        "[[listener]]",
        &format!("{second}\n[[listener]]"),
    );
    acceptor.line("the refusal", |line| {
        line["message"]
            .as_str()
            .is_some_and(|said| said.starts_with("reload refused"))
    });
    assert!(answers(&mut stream));
    world
        .authority
        .revoke("gateway/edge-1", Reason::KeyCompromise)
        .unwrap();
    acceptor.line("its end", |line| {
        line["decision"] == "ended" && line["reason"] == "rules_changed"
    });
    let (_, said) = acceptor.admin("/readyz?verbose").unwrap();
    assert!(said.contains("warn reload"), "{said}");
    drop(gateway);
}
