//! Pins, bundles with names of their own, and cross-signed roots.

use super::*;
use crate::tls::check::trust_warnings;

#[test]
fn a_pin_is_believed_whatever_it_is_and_never_an_anchor() {
    let mut world = World::new();
    let (pinned, as_ca) = openssl_self_signed("partner");
    assert_says(
        &world.refusal(&pinned, &[]),
        Denial::CertificateUnknownIssuer,
        &["self-signed", "pinned"],
    );

    world.identity.pinned = vec![world.folder.write("partner.pem", &pinned.pem)];
    assert_eq!(world.prove(&pinned, &[]).unwrap().proof, Proof::Pinned);

    // what it signed is refused, sent with or without it
    let minted = as_ca.leaf(client("minted.internal"));
    for above in [vec![], vec![&as_ca]] {
        assert_says(
            &world.refusal(&minted, &above),
            Denial::CertificateUnknownIssuer,
            &["never an anchor"],
        );
    }

    // the same key and names in another certificate are another certificate
    let (other, _) = openssl_self_signed("partner");
    assert_eq!(
        world.refusal(&other, &[]).reason,
        Denial::CertificateUnknownIssuer
    );
}

#[test]
fn pins_alone_are_enough_and_admit_nobody_else() {
    let mut world = World::new();
    let (pinned, _) = openssl_self_signed("partner");
    world.identity.trust = None;
    world.identity.pinned = vec![world.folder.write("partner.pem", &pinned.pem)];
    assert!(world.prove(&pinned, &[]).is_ok());
    let leaf = world.issuing.leaf(client("edge.internal"));
    assert_says(
        &world.refusal(&leaf, &[&world.issuing]),
        Denial::CertificateUnknownIssuer,
        &["there is no trust"],
    );
}

#[test]
fn a_pin_is_bound_to_its_dates() {
    let mut world = World::new();
    let (pinned, _) = openssl_self_signed("partner");
    world.identity.pinned = vec![world.folder.write("partner.pem", &pinned.pem)];
    let late = world.prove_at(&pinned, &[], in_days(31)).unwrap_err();
    assert_says(&late, Denial::CertificateExpired, &["partner"]);
    let early = world.prove_at(&pinned, &[], in_days(-2)).unwrap_err();
    assert_says(&early, Denial::CertificateNotYetValid, &["partner"]);
}

// bundles

fn names(of: &[&str]) -> PeerNames {
    PeerNames(of.iter().map(|n| PeerName::parse(n).unwrap()).collect())
}

#[test]
fn a_bundle_hands_its_names_on_and_trust_wins_over_it() {
    let mut world = World::new();
    let partner = Ca::root("partner root");
    let bundle = names(&["dns:*.partner.example"]);
    world.identity.bundles = vec![TrustBundle {
        file: world.folder.write("partner.pem", &partner.pem),
        names: bundle.clone(),
    }];
    let theirs = partner.leaf(client("edge.partner.example"));
    let proof = world.prove(&theirs, &[]).unwrap().proof.clone();
    assert_eq!(
        proof,
        Proof::Chain {
            bundle: Some(bundle),
            root: "CN=partner root".into()
        }
    );
    let ours = world.issuing.leaf(client("edge.internal"));
    let proof = world.prove(&ours, &[&world.issuing]).unwrap().proof.clone();
    assert_eq!(
        proof,
        Proof::Chain {
            bundle: None,
            root: "CN=root".into()
        }
    );

    // the same root in trust and in a bundle
    world.identity.bundles[0].file = world.folder.write("both.pem", &world.root.pem);
    let proof = world.prove(&ours, &[&world.issuing]).unwrap().proof.clone();
    assert_eq!(
        proof,
        Proof::Chain {
            bundle: None,
            root: "CN=root".into()
        }
    );
}

#[test]
fn a_root_in_two_bundles_speaks_for_the_names_of_both() {
    let mut world = World::new();
    let partner = Ca::root("partner root");
    let file = world.folder.write("partner.pem", &partner.pem);
    world.identity.bundles = ["dns:a.example", "dns:b.example"]
        .map(|name| TrustBundle {
            file: file.clone(),
            names: names(&[name]),
        })
        .to_vec();
    let leaf = partner.leaf(client("a.example"));
    let Proof::Chain {
        bundle: Some(found),
        ..
    } = world.prove(&leaf, &[]).unwrap().proof.clone()
    else {
        panic!("a bundle's root proved without its names");
    };
    assert_eq!(found, names(&["dns:a.example", "dns:b.example"]));
}

#[test]
fn a_partner_that_we_cross_signed_keeps_its_narrow_names() {
    // its CA is an intermediate below our root, and in a bundle of its own
    let mut world = World::new();
    let partner = world.root.below("partner ca");
    let bundle = names(&["dns:*.partner.example"]);
    world.identity.bundles = vec![TrustBundle {
        file: world.folder.write("partner.pem", &partner.pem),
        names: bundle.clone(),
    }];
    let leaf = partner.leaf(client("edge.internal"));
    let proof = world.prove(&leaf, &[&partner]).unwrap().proof.clone();
    assert!(matches!(proof, Proof::Chain { bundle: Some(found), .. } if found == bundle));
}

// roots of one name and key

fn on(days: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(in_days(days).0).unwrap()
}

fn only_within(params: &mut rcgen::CertificateParams, domain: &str) {
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName(domain.to_owned())],
        excluded_subtrees: Vec::new(),
    });
}

#[test]
fn a_root_that_was_renewed_ahead_of_time_takes_nobody_out() {
    let mut world = World::new();
    let old = Ca::root_living("renewed", -1, 3);
    let new = old.certified_again("renewed", |p| {
        p.not_before = on(2);
        p.not_after = on(300);
    });
    let leaf = old.leaf(client("edge.internal"));
    for order in [[&old, &new], [&new, &old]] {
        let both = order.map(|ca| ca.pem.as_str()).concat();
        world.identity.trust = Some(world.folder.write("both.pem", both));
        let peer = world.prove(&leaf, &[]).unwrap();
        assert_eq!(peer.chain_not_after, in_days(3));
        // with the new one alone in force, and with both
        let ends = |days| {
            world
                .prove_at(&leaf, &[], in_days(days))
                .unwrap()
                .chain_not_after
        };
        assert_eq!(
            (ends(2), ends(4)),
            (peer.leaf.not_after, peer.leaf.not_after)
        );
    }
}

#[test]
fn a_root_that_ends_before_its_renewal_begins_is_told() {
    let mut world = World::new();
    let old = Ca::root_living("renewed", -1, 3);
    for (begins, told) in [(2, false), (5, true)] {
        let new = old.certified_again("renewed", |p| {
            p.not_before = on(begins);
            p.not_after = on(300);
        });
        let both = [&*old.pem, &*new.pem].concat();
        world.identity.trust = Some(world.folder.write("both.pem", both));
        let said = trust_warnings(&world.generation().verification, now());
        assert_eq!(
            said.iter().any(|line| line.contains("CN=renewed")),
            told,
            "{said:?}"
        );
    }
}

#[test]
fn a_renewed_root_brings_its_name_constraints_along() {
    let mut world = World::new();
    let old = Ca::root_living("renewed", -9, -1);
    let new = old.certified_again("renewed", |p| {
        p.not_before = on(-2);
        p.not_after = on(300);
        only_within(p, "partner.example");
    });
    let stranger = old.leaf(client("edge.internal"));
    let partner = old.leaf(client("edge.partner.example"));
    for order in [[&old, &new], [&new, &old]] {
        let both = order.map(|ca| ca.pem.as_str()).concat();
        world.identity.trust = Some(world.folder.write("both.pem", both));
        assert!(world.prove(&partner, &[]).is_ok());
        let denied = world.refusal(&stranger, &[]);
        assert!(
            matches!(
                denied.reason,
                Denial::CertificateInvalid | Denial::CertificateExpired
            ),
            "{denied}"
        );
    }
    // one that is in force without them speaks for every name, wherever it stands
    let wide = old.certified_again("renewed", |p| {
        p.not_before = on(-2);
        p.not_after = on(30);
    });
    for order in [[&wide, &new], [&new, &wide]] {
        let both = order.map(|ca| ca.pem.as_str()).concat();
        world.identity.trust = Some(world.folder.write("both.pem", both));
        assert!(world.prove(&stranger, &[]).is_ok());
    }
}

#[test]
fn two_certificates_of_a_root_in_two_bundles_speak_for_the_names_of_both() {
    let mut world = World::new();
    let old = Ca::root_living("partner root", -1, 3);
    let new = old.certified_again("partner root", |p| p.not_after = on(300));
    world.identity.bundles = [
        (&old, "a.pem", "dns:a.example"),
        (&new, "b.pem", "dns:b.example"),
    ]
    .map(|(ca, file, name)| TrustBundle {
        file: world.folder.write(file, &ca.pem),
        names: names(&[name]),
    })
    .to_vec();
    let leaf = old.leaf(client("a.example"));
    let proof = world.prove(&leaf, &[]).unwrap().proof.clone();
    assert!(matches!(
        proof,
        Proof::Chain { bundle: Some(found), .. } if found == names(&["dns:b.example", "dns:a.example"])
    ));
}

#[test]
fn a_proven_chain_names_every_certificate_above_the_leaf() {
    let world = World::new();
    let leaf = world.issuing.leaf(client("edge.internal"));
    let print = |ca: &Ca| {
        let der = CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap();
        crate::identity::Sha256::of(&der)
    };
    let peer = world.prove(&leaf, &[&world.issuing]).unwrap();
    assert_eq!(peer.above, [print(&world.issuing), print(&world.root)]);
}

// revocation
