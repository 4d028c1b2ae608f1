//! Revocation: who has to have a list, and what a list says.

use super::*;

#[test]
fn a_revoked_leaf_is_refused_and_its_neighbour_is_not() {
    let world = World::new();
    let bad = world.issuing.leaf(client("bad.internal"));
    let good = world.issuing.leaf(client("good.internal"));
    let crls = [world.issuing.crl(2, &[&bad.serial]), world.root.crl(1, &[])];
    let world = world.with_crls(&crls);
    assert_says(
        &world.refusal(&bad, &[&world.issuing]),
        Denial::CertificateRevoked,
        &["bad.internal", "since", "KeyCompromise", "number 0x02"],
    );
    assert!(world.prove(&good, &[&world.issuing]).is_ok());
}

#[test]
fn a_revoked_issuer_is_refused_unless_only_the_leaf_counts() {
    let world = World::new();
    let leaf = world.issuing.leaf(client("edge.internal"));
    let serial = {
        let der = CertificateDer::from_pem_slice(world.issuing.pem.as_bytes()).unwrap();
        crate::identity::CertFacts::read(&der).unwrap().serial.0
    };
    let crls = [world.issuing.crl(1, &[]), world.root.crl(1, &[&serial])];
    let mut world = world.with_crls(&crls);
    assert_says(
        &world.refusal(&leaf, &[&world.issuing]),
        Denial::CertificateRevoked,
        &["CN=issuing (serial"],
    );
    scope_leaf(&mut world);
    assert!(world.prove(&leaf, &[&world.issuing]).is_ok());
}

fn revocation(world: &mut World) -> &mut Revocation {
    world.identity.revocation.as_mut().unwrap()
}

fn scope_leaf(world: &mut World) {
    revocation(world).leaf_only = true;
}

#[test]
fn every_issuer_needs_a_crl_and_the_one_without_is_named() {
    // the engine refuses the whole chain too, without a word on whose list is missing
    let world = World::new();
    let leaf = world.issuing.leaf(client("edge.internal"));
    let crls = [world.issuing.crl(1, &[])];
    let mut world = world.with_crls(&crls);
    assert_says(
        &world.refusal(&leaf, &[&world.issuing]),
        Denial::RevocationUnknown,
        &["no CRL of \"CN=root\"", "CN=issuing (serial"],
    );
    scope_leaf(&mut world);
    assert!(world.prove(&leaf, &[&world.issuing]).is_ok());

    let crls = [world.root.crl(1, &[])];
    let mut world = world.with_crls(&crls);
    for leaf_only in [false, true] {
        revocation(&mut world).leaf_only = leaf_only;
        assert_says(
            &world.refusal(&leaf, &[&world.issuing]),
            Denial::RevocationUnknown,
            &["no CRL of \"CN=issuing\""],
        );
    }
}

#[test]
fn an_old_crl_in_front_hides_no_revocation() {
    // the engine alone takes the first list of an issuer, and lets the revoked certificate in
    let world = World::new();
    let bad = world.issuing.leaf(client("bad.internal"));
    let (old, new) = (
        world.issuing.crl(7, &[]),
        world.issuing.crl(8, &[&bad.serial]),
    );
    let root = world.root.crl(1, &[]);
    let mut world = world;
    for order in [
        [&old, &new, &root],
        [&new, &old, &root],
        [&root, &old, &new],
    ] {
        world = world.with_crls(&order.map(Clone::clone));
        assert_eq!(
            world.refusal(&bad, &[&world.issuing]).reason,
            Denial::CertificateRevoked
        );
        // all in one file
        world = world.with_crls(&[order.map(String::as_str).concat()]);
        assert_eq!(
            world.refusal(&bad, &[&world.issuing]).reason,
            Denial::CertificateRevoked
        );
    }
}

#[test]
fn the_engine_alone_would_take_the_first_crl() {
    // why the highest number is kept: this is the trap itself
    use webpki::{CertRevocationList, EndEntityCert, KeyUsage, OwnedCertRevocationList};
    let ca = Ca::root("root");
    let bad = ca.leaf(client("bad.internal"));
    let lists: Vec<CertRevocationList<'_>> = [ca.crl(1, &[]), ca.crl(2, &[&bad.serial])]
        .iter()
        .map(|pem| {
            use rustls::pki_types::CertificateRevocationListDer as Der;
            let der = Der::from_pem_slice(pem.as_bytes()).unwrap();
            OwnedCertRevocationList::from_der(&der).unwrap().into()
        })
        .collect();
    let root = CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap();
    let anchor = webpki::anchor_from_trusted_cert(&root).unwrap();
    let leaf = CertificateDer::from(bad.der);
    let entity = EndEntityCert::try_from(&leaf).unwrap();
    let algorithms = crate::tls::provider::provider(&options()).signature_verification_algorithms;
    let verify = |lists: &[&CertRevocationList<'_>]| {
        let options = webpki::RevocationOptionsBuilder::new(lists)
            .unwrap()
            .build();
        let now = rustls::pki_types::UnixTime::now();
        entity
            .verify_for_usage(
                algorithms.all,
                std::slice::from_ref(&anchor),
                &[],
                now,
                KeyUsage::client_auth(),
                Some(options),
                None,
            )
            .map(|_| ())
    };
    assert_eq!(verify(&[&lists[0], &lists[1]]), Ok(()));
    assert_eq!(
        verify(&[&lists[1], &lists[0]]),
        Err(webpki::Error::CertRevoked)
    );
}

#[test]
fn an_expired_crl_refuses_or_is_tolerated_but_still_revokes() {
    let world = World::new();
    let bad = world.issuing.leaf(client("bad.internal"));
    let good = world.issuing.leaf(client("good.internal"));
    let crls = [
        world.issuing.crl_until(1, &[&bad.serial], -1),
        world.root.crl(1, &[]),
    ];
    let mut world = world.with_crls(&crls);
    assert_says(
        &world.refusal(&good, &[&world.issuing]),
        Denial::CrlExpired,
        &["CN=issuing", "due for renewal"],
    );
    assert_eq!(
        world.refusal(&bad, &[&world.issuing]).reason,
        Denial::CertificateRevoked
    );
    revocation(&mut world).tolerate_expired = true;
    assert!(world.prove(&good, &[&world.issuing]).is_ok());
    assert_eq!(
        world.refusal(&bad, &[&world.issuing]).reason,
        Denial::CertificateRevoked
    );
}

#[test]
fn a_stale_crl_cuts_no_live_connection_and_a_revocation_does() {
    let world = World::new();
    let bad = world.issuing.leaf(client("bad.internal"));
    let good = world.issuing.leaf(client("good.internal"));
    let crls = [
        world.issuing.crl_until(1, &[&bad.serial], -1),
        world.root.crl(1, &[]),
    ];
    let world = world.with_crls(&crls);
    let generation = world.generation();
    let again = |leaf: &Leaf| {
        let issuing = CertificateDer::from_pem_slice(world.issuing.pem.as_bytes()).unwrap();
        let chain = [CertificateDer::from(leaf.der.clone()), issuing];
        generation
            .verification
            .prove_again(&chain, Usage::ClientAuth, now())
    };
    assert!(again(&good).is_ok());
    assert_eq!(again(&bad).unwrap_err().reason, Denial::CertificateRevoked);
    let nobody = generation
        .verification
        .prove_again(&[], Usage::ClientAuth, now());
    assert_eq!(nobody.unwrap_err().reason, Denial::CertificateMissing);
}

#[test]
fn a_crl_that_the_issuer_did_not_sign_says_nothing() {
    let world = World::new();
    let leaf = world.issuing.leaf(client("edge.internal"));
    // the same name, another key
    let impostor = Ca::root("issuing");
    let crls = [impostor.crl(9, &[]), world.root.crl(1, &[])];
    let world = world.with_crls(&crls);
    assert_says(
        &world.refusal(&leaf, &[&world.issuing]),
        Denial::RevocationUnknown,
        &["not signed by that issuer's key"],
    );
    // a list with a higher number of the impostor does not push out the real one
    let crls = [
        impostor.crl(9, &[]),
        world.issuing.crl(1, &[&leaf.serial]),
        world.root.crl(1, &[]),
    ];
    let world = world.with_crls(&crls);
    assert_eq!(
        world.refusal(&leaf, &[&world.issuing]).reason,
        Denial::CertificateRevoked
    );
}

#[test]
fn an_issuer_that_may_not_sign_crls_has_none() {
    let world = World::new();
    let quiet = world.root.below_with("quiet", |p| {
        p.key_usages = vec![Use::KeyCertSign, Use::CrlSign];
    });
    // the same CA, certified without cRLSign
    let mute = world
        .root
        .below_with("quiet", |p| p.key_usages = vec![Use::KeyCertSign]);
    let leaf = quiet.leaf(client("edge.internal"));
    let crls = [quiet.crl(1, &[]), world.root.crl(1, &[])];
    let world = world.with_crls(&crls);
    assert!(world.prove(&leaf, &[&quiet]).is_ok());
    let leaf = mute.leaf(client("edge.internal"));
    assert_eq!(
        world.refusal(&leaf, &[&mute]).reason,
        Denial::RevocationUnknown
    );
}

#[test]
fn pins_need_no_crl() {
    let world = World::new();
    let (pinned, _) = openssl_self_signed("partner");
    let crls = [world.root.crl(1, &[])];
    let mut world = world.with_crls(&crls);
    world.identity.pinned = vec![world.folder.write("partner.pem", &pinned.pem)];
    assert!(world.prove(&pinned, &[]).is_ok());
}

#[test]
fn a_list_that_is_not_yet_valid_is_refused_and_clocks_may_differ() {
    let list = |world: &World, ahead: i64| {
        let mut params = world.issuing.crl_params(1, &[], 7);
        let at = now().0 + ahead;
        params.this_update = time::OffsetDateTime::from_unix_timestamp(at).unwrap();
        let list = params.signed_by(&world.issuing.issuer).unwrap();
        list.pem().unwrap()
    };
    let world = World::new();
    let crls = [list(&world, 240), world.root.crl(1, &[])];
    let world = world.with_crls(&crls);
    let leaf = world.issuing.leaf(client("edge.internal"));
    assert!(world.prove(&leaf, &[&world.issuing]).is_ok());
    let crls = [list(&world, 600), world.root.crl(1, &[])];
    let world = world.with_crls(&crls);
    let errors = load(&world.identity, LinkRole::Acceptor).unwrap_err();
    let [error] = errors.as_slice() else {
        panic!("{errors:?}");
    };
    let said = error.to_string();
    assert!(
        said.contains("not yet valid") && said.contains("CN=issuing"),
        "{said}"
    );
    assert!(said.contains("set the clock"), "{said}");
}

#[test]
fn a_partitioned_crl_speaks_for_its_part_alone() {
    use rcgen::{CrlDistributionPoint, CrlIssuingDistributionPoint, CrlScope};
    let at = |uri: &str| CrlDistributionPoint {
        uris: vec![uri.to_owned()],
    };
    let part = |world: &World, scope: CrlScope| {
        let mut params = world.root.crl_params(1, &[], 7);
        params.issuing_distribution_point = Some(CrlIssuingDistributionPoint {
            distribution_point: at("http://crl.example/1"),
            scope: Some(scope),
        });
        params.signed_by(&world.root.issuer).unwrap().pem().unwrap()
    };
    let world = World::new();
    let crls = [
        part(&world, CrlScope::UserCertsOnly),
        world.issuing.crl(1, &[]),
    ];
    let world = world.with_crls(&crls);
    let plain = world.root.leaf(client("edge.internal"));
    assert!(world.prove(&plain, &[]).is_ok());
    for (uri, fine) in [
        ("http://crl.example/1", true),
        ("http://crl.example/2", false),
    ] {
        let leaf = world.root.leaf_with(client("edge.internal"), |p| {
            p.crl_distribution_points = vec![at(uri)];
        });
        assert_eq!(world.prove(&leaf, &[]).is_ok(), fine, "{uri}");
    }
    // it says nothing of the issuing CA
    let below = world.issuing.leaf(client("edge.internal"));
    assert_says(
        &world.refusal(&below, &[&world.issuing]),
        Denial::RevocationUnknown,
        &["no CRL of \"CN=root\""],
    );
    let crls = [
        part(&world, CrlScope::CaCertsOnly),
        world.issuing.crl(1, &[]),
    ];
    let world = world.with_crls(&crls);
    assert!(world.prove(&below, &[&world.issuing]).is_ok());
    assert_eq!(world.refusal(&plain, &[]).reason, Denial::RevocationUnknown);
}
