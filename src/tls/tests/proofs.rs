//! Every way in which a certificate is refused, and the few in which it is not.

use std::sync::Arc;

use rcgen::{ExtendedKeyUsagePurpose as Eku, IsCa, KeyUsagePurpose, NameConstraints};
use rstest::rstest;
use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::mint::*;
use crate::{
    admit::{Denial, Denied, PeerFacts, Proof},
    config::{Identity, Revocation, TrustBundle},
    identity::{PeerName, PeerNames, UnixSeconds},
    tls::{Generation, LinkRole, Usage},
};

/// An acceptor's view of others: its identity, to be changed by each test.
struct World {
    folder: Folder,
    root: Ca,
    issuing: Ca,
    identity: Identity,
}

impl World {
    fn new() -> Self {
        let folder = Folder::new();
        let root = Ca::root("root");
        let issuing = root.below("issuing");
        let own = issuing.leaf(server("acceptor.internal"));
        let identity = folder.identity("own", &own, &[&issuing], &[&root]);
        Self {
            folder,
            root,
            issuing,
            identity,
        }
    }

    fn with_crls(mut self, crls: &[String]) -> Self {
        self.identity.revocation = Some(self.folder.revocation(crls));
        self
    }

    fn generation(&self) -> Arc<Generation> {
        load(&self.identity, LinkRole::Acceptor).unwrap()
    }

    /// Proves a gateway's leaf that came with `above`.
    fn prove(&self, leaf: &Leaf, above: &[&Ca]) -> Result<Arc<PeerFacts>, Denied> {
        self.prove_at(leaf, above, now())
    }

    fn prove_at(
        &self,
        leaf: &Leaf,
        above: &[&Ca],
        now: UnixSeconds,
    ) -> Result<Arc<PeerFacts>, Denied> {
        prove(&self.generation(), leaf, above, now)
    }

    fn refusal(&self, leaf: &Leaf, above: &[&Ca]) -> Denied {
        self.prove(leaf, above).unwrap_err()
    }
}

fn prove(
    generation: &Generation,
    leaf: &Leaf,
    above: &[&Ca],
    now: UnixSeconds,
) -> Result<Arc<PeerFacts>, Denied> {
    let above: Vec<_> = above
        .iter()
        .map(|ca| CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap())
        .collect();
    let leaf = CertificateDer::from(leaf.der.clone());
    generation
        .verification
        .prove(&leaf, &above, Usage::ClientAuth, now)
}

#[track_caller]
fn assert_says(denied: &Denied, reason: Denial, words: &[&str]) {
    assert_eq!(denied.reason, reason, "{denied}");
    for word in words {
        assert!(denied.detail.contains(word), "{word:?} not in {denied}");
    }
}

#[test]
fn a_chain_to_the_root_is_proven_and_ends_with_its_shortest_life() {
    let world = World::new();
    let leaf = world.issuing.leaf(client("edge.internal"));
    let peer = world.prove(&leaf, &[&world.issuing]).unwrap();
    assert_eq!(
        peer.proof,
        Proof::Chain {
            bundle: None,
            root: "CN=root".into()
        }
    );
    assert_eq!(peer.chain_not_after, peer.leaf.not_after);

    let short = world.root.below_with("short", |p| {
        p.not_after = time::OffsetDateTime::from_unix_timestamp(in_days(3).0).unwrap();
    });
    let leaf = short.leaf(client("edge.internal"));
    let peer = world.prove(&leaf, &[&short]).unwrap();
    assert!(peer.chain_not_after < peer.leaf.not_after);
}

#[test]
fn a_stranger_is_unknown() {
    let world = World::new();
    let stranger = Ca::root("stranger");
    let leaf = stranger.leaf(client("edge.internal"));
    let denied = world.refusal(&leaf, &[]);
    assert_says(
        &denied,
        Denial::CertificateUnknownIssuer,
        &["edge.internal", "stranger", "root"],
    );

    // the stranger sends its own root along
    let denied = world.refusal(&leaf, &[&stranger]);
    assert_eq!(denied.reason, Denial::CertificateUnknownIssuer);

    // the same name, another key
    let namesake = Ca::root("root");
    let leaf = namesake.leaf(client("edge.internal"));
    let denied = world.refusal(&leaf, &[&namesake]);
    assert_says(&denied, Denial::CertificateUnknownIssuer, &["did not sign"]);

    // the intermediate was not sent
    let leaf = world.issuing.leaf(client("edge.internal"));
    let denied = world.refusal(&leaf, &[]);
    assert_says(
        &denied,
        Denial::CertificateUnknownIssuer,
        &["intermediates"],
    );
}

#[test]
fn dates_are_those_of_every_certificate_of_the_path() {
    let world = World::new();
    let old = world.issuing.leaf(Spec {
        from: -9,
        to: -1,
        ..client("old.internal")
    });
    let denied = world.refusal(&old, &[&world.issuing]);
    assert_says(
        &denied,
        Denial::CertificateExpired,
        &["old.internal", "expired at"],
    );

    let early = world.issuing.leaf(Spec {
        from: 1,
        to: 9,
        ..client("early.internal")
    });
    let denied = world.refusal(&early, &[&world.issuing]);
    assert_says(
        &denied,
        Denial::CertificateNotYetValid,
        &["early.internal", "valid from"],
    );

    // an issuer that ended before its leaf is named, not the leaf
    let ended = world.root.below_with("ended", |p| {
        p.not_after = time::OffsetDateTime::from_unix_timestamp(in_days(-1).0).unwrap();
        p.not_before = time::OffsetDateTime::from_unix_timestamp(in_days(-9).0).unwrap();
    });
    let leaf = ended.leaf(client("edge.internal"));
    let denied = world.refusal(&leaf, &[&ended]);
    assert_says(&denied, Denial::CertificateExpired, &["CN=ended (serial"]);
}

#[test]
fn the_last_second_is_still_valid_and_the_next_is_not() {
    let world = World::new();
    let leaf = world.issuing.leaf(client("edge.internal"));
    let end = world
        .prove(&leaf, &[&world.issuing])
        .unwrap()
        .leaf
        .not_after;
    assert!(world.prove_at(&leaf, &[&world.issuing], end).is_ok());
    let after = UnixSeconds(end.0 + 1);
    let denied = world.prove_at(&leaf, &[&world.issuing], after).unwrap_err();
    assert_eq!(denied.reason, Denial::CertificateExpired);
}

#[test]
fn an_expired_root_proves_nothing() {
    let mut world = World::new();
    let root = Ca::root_living("worn root", -30, -1);
    world.identity.trust = Some(world.folder.write("worn.pem", &root.pem));
    let leaf = root.leaf(client("edge.internal"));
    let denied = world.refusal(&leaf, &[]);
    assert_says(
        &denied,
        Denial::CertificateExpired,
        &["worn root", "it is the root of"],
    );
}

#[rstest]
#[case::server_only(vec![Eku::ServerAuth], "it has serverAuth")]
#[case::none(vec![], "it has none")]
#[case::other(vec![Eku::Other(vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 2])], "1.3.6.1.4.1.311.20.2.2")]
fn a_certificate_for_another_use_is_refused(#[case] usage: Vec<Eku>, #[case] has: &str) {
    let world = World::new();
    let leaf = world.issuing.leaf(Spec {
        usage,
        ..client("edge.internal")
    });
    let denied = world.refusal(&leaf, &[&world.issuing]);
    assert_says(&denied, Denial::CertificateWrongUsage, &["clientAuth", has]);
}

#[test]
fn both_usages_fit_both_ends() {
    let world = World::new();
    let usage = vec![Eku::ServerAuth, Eku::ClientAuth];
    let leaf = world.issuing.leaf(Spec {
        usage,
        ..client("edge.internal")
    });
    assert!(world.prove(&leaf, &[&world.issuing]).is_ok());
}

#[test]
fn an_issuer_for_servers_only_makes_no_clients() {
    let world = World::new();
    let servers = world.root.below_with("servers", |p| {
        p.extended_key_usages = vec![Eku::ServerAuth];
    });
    let leaf = servers.leaf(client("edge.internal"));
    let denied = world.refusal(&leaf, &[&servers]);
    assert_says(
        &denied,
        Denial::CertificateWrongUsage,
        &["CN=servers (serial"],
    );
}

#[test]
fn rules_of_the_path_are_kept() {
    let world = World::new();
    // a leaf that plays CA
    let mut params = rcgen::CertificateParams::new(vec!["edge.internal".to_owned()]).unwrap();
    params.is_ca = IsCa::ExplicitNoCa;
    let not_ca = world
        .root
        .below_with("not a ca", |p| p.is_ca = IsCa::ExplicitNoCa);
    let leaf = not_ca.leaf(client("edge.internal"));
    assert_says(
        &world.refusal(&leaf, &[&not_ca]),
        Denial::CertificateInvalid,
        &["no CA"],
    );

    // path length
    let last = world.root.below_with("last", |p| {
        p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    });
    let further = last.below("further");
    let leaf = further.leaf(client("edge.internal"));
    assert_says(
        &world.refusal(&leaf, &[&further, &last]),
        Denial::CertificateInvalid,
        &["further CAs"],
    );

    // name constraints
    let bound = world.root.below_with("bound", |p| {
        p.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("inside.example".into())],
            excluded_subtrees: Vec::new(),
        });
    });
    let leaf = bound.leaf(client("outside.example"));
    assert_says(
        &world.refusal(&leaf, &[&bound]),
        Denial::CertificateInvalid,
        &["name constraints"],
    );

    // a CA's own certificate
    let leaf = world.issuing.leaf_with(client("edge.internal"), |p| {
        p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    assert_says(
        &world.refusal(&leaf, &[&world.issuing]),
        Denial::CertificateInvalid,
        &["CA's own certificate", "pinned"],
    );
}

#[test]
fn too_many_certificates_are_not_even_looked_at() {
    let world = World::new();
    let leaf = world.issuing.leaf(client("edge.internal"));
    let many = vec![&world.issuing; 11];
    assert_says(
        &world.refusal(&leaf, &many),
        Denial::CertificateInvalid,
        &["11 others"],
    );
}

#[test]
fn garbage_is_malformed() {
    let world = World::new();
    let mut leaf = world.issuing.leaf(client("edge.internal"));
    leaf.der.truncate(100);
    assert_eq!(
        world.refusal(&leaf, &[]).reason,
        Denial::CertificateMalformed
    );
    leaf.der = vec![0x30; 64];
    assert_eq!(
        world.refusal(&leaf, &[]).reason,
        Denial::CertificateMalformed
    );
}

// pins

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

// revocation

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
        p.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    });
    // the same CA, certified without cRLSign
    let mute = world.root.below_with("quiet", |p| {
        p.key_usages = vec![KeyUsagePurpose::KeyCertSign]
    });
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
