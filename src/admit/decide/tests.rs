use super::*;
use crate::identity::{ExtendedUsage, PeerName, SpiffeId};

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

fn leaf(spiffe: &[&str], dns: &[&str]) -> CertFacts {
    CertFacts {
        fingerprint: Sha256([7; 32]),
        spki: Sha256([8; 32]),
        serial: Serial(vec![1, 2]),
        subject: "CN=edge-1".into(),
        issuer: "CN=issuing".into(),
        not_before: UnixSeconds(NOW.0 - 100),
        not_after: UnixSeconds(NOW.0 + 100),
        dns: dns.iter().map(ToString::to_string).collect(),
        ips: vec![],
        uris: spiffe.iter().map(ToString::to_string).collect(),
        spiffe: spiffe
            .iter()
            .map(|id| SpiffeId::parse(id).unwrap())
            .collect(),
        usage: ExtendedUsage::default(),
        key_uses: None,
        is_ca: false,
        key: "ECDSA P-256".into(),
        key_proves: true,
    }
}

fn chained(leaf: CertFacts) -> PeerFacts {
    let chain_not_after = leaf.not_after;
    PeerFacts {
        leaf,
        proof: Proof::Chain {
            bundle: None,
            root: "CN=root".into(),
        },
        above: vec![Sha256([3; 32]), Sha256([4; 32])],
        chain_not_after,
    }
}

fn names(list: &[&str]) -> PeerNames {
    PeerNames(
        list.iter()
            .map(|name| PeerName::parse(name).unwrap())
            .collect(),
    )
}

fn rules(gateways: &[&str]) -> PeerRules {
    PeerRules {
        rules: vec![PeerRule {
            from: None,
            peers: Some(names(gateways)),
        }],
        certificate_required: true,
        denied: DeniedList::default(),
        own_domain: Some(TrustDomain::parse("example.internal").unwrap()),
        role: OwnRole::Gateway,
    }
}

fn ask(peer: Option<&PeerFacts>, rules: &PeerRules) -> Result<Grant, Denial> {
    let source = "203.0.113.9".parse().unwrap();
    decide_peer(
        &ConnectionFacts {
            source,
            peer,
            now: NOW,
        },
        rules,
    )
    .map_err(|denied| denied.reason)
}

const EDGE: &str = "spiffe://example.internal/gateway/edge-1";

#[test]
fn a_named_gateway_is_admitted_and_the_rule_is_said() {
    let peer = chained(leaf(&[EDGE], &[]));
    let grant = ask(
        Some(&peer),
        &rules(&["spiffe://example.internal/gateway/*"]),
    )
    .unwrap();
    assert_eq!(grant.rule, "spiffe://example.internal/gateway/*");
    assert_eq!(grant.identity, EDGE);
    assert_eq!(grant.until, Some(peer.leaf.not_after));
}

#[test]
fn absence_is_never_permission() {
    let peer = chained(leaf(&[EDGE], &[]));
    assert_eq!(ask(Some(&peer), &rules(&[])), Err(Denial::NameNotAllowed));
    let mut none = rules(&[EDGE]);
    none.rules.clear();
    assert_eq!(ask(Some(&peer), &none), Err(Denial::NameNotAllowed));
    assert_eq!(ask(None, &rules(&[EDGE])), Err(Denial::CertificateMissing));
}

#[test]
fn another_role_of_our_own_domain_is_refused_whatever_matches() {
    let peer = chained(leaf(
        &["spiffe://example.internal/acceptor/legacy"],
        &["edge.example"],
    ));
    assert_eq!(
        ask(Some(&peer), &rules(&["dns:edge.example"])),
        Err(Denial::CertificateWrongRole)
    );
    let foreign = chained(leaf(
        &["spiffe://other.example/acceptor/x"],
        &["edge.example"],
    ));
    assert!(ask(Some(&foreign), &rules(&["dns:edge.example"])).is_ok());
}

#[test]
fn a_spiffe_id_with_another_uri_is_refused() {
    let two = leaf(&[EDGE, "spiffe://example.internal/gateway/edge-2"], &[]);
    let mut other = leaf(&[EDGE], &["edge.example"]);
    other.uris.push("https://edge.example".into());
    for leaf in [two, other] {
        assert_eq!(
            ask(Some(&chained(leaf)), &rules(&[EDGE])),
            Err(Denial::CertificateAmbiguous)
        );
    }
    // of those that have none, URIs are nobody's name
    let mut none = leaf(&[], &["edge.example"]);
    none.uris = vec!["https://edge.example".into(), "urn:edge".into()];
    assert!(ask(Some(&chained(none)), &rules(&["dns:edge.example"])).is_ok());
}

#[test]
fn dates_are_judged_at_the_moment_of_asking() {
    let mut peer = chained(leaf(&[EDGE], &[]));
    peer.chain_not_after = UnixSeconds(NOW.0 - 1);
    assert_eq!(
        ask(Some(&peer), &rules(&[EDGE])),
        Err(Denial::CertificateExpired)
    );
    let mut peer = chained(leaf(&[EDGE], &[]));
    peer.leaf.not_before = UnixSeconds(NOW.0 + 1);
    assert_eq!(
        ask(Some(&peer), &rules(&[EDGE])),
        Err(Denial::CertificateNotYetValid)
    );
    peer.proof = Proof::Pinned;
    assert_eq!(
        ask(Some(&peer), &rules(&[EDGE])),
        Err(Denial::CertificateNotYetValid)
    );
}

#[test]
fn the_denied_list_wins() {
    let peer = chained(leaf(&[EDGE], &[]));
    for entry in [
        format!("sha256:{}", peer.leaf.fingerprint),
        "serial:01:02".into(),
        // a CA above it
        format!("sha256:{}", Sha256([3; 32])),
        format!("sha256:{}", Sha256([4; 32])),
    ] {
        let mut rules = rules(&[EDGE]);
        rules.denied.add(&entry).unwrap();
        assert_eq!(ask(Some(&peer), &rules), Err(Denial::CertificateDenied));
    }
}

#[test]
fn a_bundle_speaks_for_its_own_names_only() {
    let mut peer = chained(leaf(
        &["spiffe://partner.example/gateway/a"],
        &["a.partner.example"],
    ));
    let bundle = |list: &[&str]| Proof::Chain {
        bundle: Some(names(list)),
        root: "CN=partner".into(),
    };
    let allow = rules(&["dns:*.partner.example"]);
    peer.proof = bundle(&["dns:*.partner.example", "spiffe://partner.example/*"]);
    assert!(ask(Some(&peer), &allow).is_ok());
    peer.proof = bundle(&["dns:*.partner.example"]);
    assert_eq!(ask(Some(&peer), &allow), Err(Denial::IssuerNotForName));
    let mut minted = chained(leaf(&[EDGE], &[]));
    minted.proof = bundle(&["dns:*.partner.example", "spiffe://partner.example/*"]);
    assert_eq!(
        ask(Some(&minted), &rules(&[EDGE])),
        Err(Denial::IssuerNotForName)
    );
    let mut nameless = chained(leaf(&[], &[]));
    nameless.proof = bundle(&["dns:*.partner.example"]);
    assert_eq!(ask(Some(&nameless), &allow), Err(Denial::IssuerNotForName));
}

#[test]
fn a_rule_joins_source_and_name() {
    let peer = chained(leaf(&[EDGE], &[]));
    let elsewhere = SourceRanges::new(["198.51.100.0/24".parse().unwrap()]);
    let mut rules = rules(&[EDGE]);
    rules.rules[0].from = Some(elsewhere);
    assert_eq!(ask(Some(&peer), &rules), Err(Denial::NameNotAllowed));
}

#[test]
fn a_shut_out_source_wins_over_a_trusted_one() {
    let all = SourceRanges::new(["203.0.113.0/24".parse().unwrap()]);
    let one = SourceRanges::new(["203.0.113.9/32".parse().unwrap()]);
    let rules = SourceRules {
        trusted: Some(all),
        denied: one,
    };
    let judge = |ip: &str| decide_source(ip.parse().unwrap(), &rules).map_err(|d| d.reason);
    assert_eq!(judge("203.0.113.8"), Ok(()));
    assert_eq!(judge("203.0.113.9"), Err(Denial::SourceDenied));
    assert_eq!(judge("192.0.2.1"), Err(Denial::SourceUntrusted));
    let nobody = SourceRules {
        trusted: Some(SourceRanges::default()),
        denied: SourceRanges::default(),
    };
    assert!(decide_source("127.0.0.1".parse().unwrap(), &nobody).is_err());
}
