//! Admission: source ranges, the rules of a peer, and a chain proven against a long CRL.

use std::{hint::black_box, net::IpAddr};

use criterion::Criterion;
use ipnet::IpNet;
use portcullis::{
    admit::{
        ConnectionFacts, DeniedList, OwnRole, PeerRule, PeerRules, SourceRanges, SourceRules,
        decide_peer, decide_source,
    },
    clock,
    identity::{PeerName, PeerNames},
    tls::{LinkRole, Usage},
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use crate::material::{GATEWAY, Material};

/// /28 and /64 networks with gaps between them, so that nothing merges.
fn ranges(prefixes: u32) -> SourceRanges {
    let v4 = (0..prefixes / 2).map(|n| IpNet::new(IpAddr::from((n << 12).to_be_bytes()), 28));
    let v6 = (0..prefixes / 2).map(|n| {
        let high = 0x2001_0db8_0000_0000_u64 | u64::from(n) << 1;
        IpNet::new(IpAddr::from((u128::from(high) << 64).to_be_bytes()), 64)
    });
    SourceRanges::new(v4.chain(v6).filter_map(Result::ok))
}

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("admission");
    for prefixes in [10, 1_000, 1_000_000] {
        let rules = SourceRules {
            trusted: Some(ranges(prefixes)),
            denied: SourceRanges::new([]),
        };
        let mut n = 0_u32;
        group.bench_function(format!("source, {prefixes} prefixes"), |bencher| {
            bencher.iter(|| {
                // steps over the whole space, in and out of the prefixes
                n = n.wrapping_add(2_654_435_761);
                decide_source(black_box(IpAddr::from(n.to_be_bytes())), &rules).is_ok()
            });
        });
    }

    let material = Material::new();
    let leaf = CertificateDer::from_pem_file(material.path("gateway.pem")).unwrap();
    let names = (0..20).map(|n| format!("spiffe://other.internal/gateway/edge-{n}"));
    let names = names.chain([GATEWAY.to_owned()]);
    let rules = PeerRules {
        rules: vec![PeerRule {
            from: None,
            peers: Some(PeerNames(
                names.map(|name| PeerName::parse(&name).unwrap()).collect(),
            )),
        }],
        certificate_required: true,
        denied: DeniedList::default(),
        own_domain: None,
        role: OwnRole::Gateway,
    };
    for entries in [0, 100_000] {
        if entries > 0 {
            material.crl(entries);
        }
        let (generation, _) = material.generation(LinkRole::Acceptor);
        let prove = || {
            generation
                .verification
                .prove(&leaf, &[], Usage::ClientAuth, clock::now())
                .unwrap()
        };
        // signature of the leaf included; that of the list is checked once and remembered
        group.bench_function(format!("chain, CRL of {entries}"), |bencher| {
            bencher.iter(prove);
        });
        if entries == 0 {
            let peer = prove();
            let facts = ConnectionFacts {
                source: IpAddr::from([127, 0, 0, 1]),
                peer: Some(&peer),
                now: clock::now(),
            };
            group.bench_function("peer, the last of 21 names", |bencher| {
                bencher.iter(|| decide_peer(black_box(&facts), &rules).unwrap());
            });
        }
    }
    group.finish();
}
