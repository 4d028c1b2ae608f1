//! Every way in which a certificate is refused, and the few in which it is not.

mod revocation;
mod trust;

use std::sync::Arc;

use rcgen::{ExtendedKeyUsagePurpose as Eku, IsCa, KeyUsagePurpose as Use, NameConstraints};
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

#[rstest]
#[case::encipherment(
    "edge.internal",
    vec![Use::KeyEncipherment],
    &["expected key usage digitalSignature", "it has keyEncipherment"]
)]
#[case::signs_certificates("edge.internal", vec![Use::DigitalSignature, Use::KeyCertSign], &[])]
#[case::svid("spiffe://a.example/gateway/x", vec![Use::DigitalSignature], &[])]
#[case::svid_with_cert_sign(
    "spiffe://a.example/gateway/x",
    vec![Use::DigitalSignature, Use::KeyCertSign],
    &["SPIFFE ID", "keyCertSign nor cRLSign", "it has digitalSignature, keyCertSign"]
)]
#[case::svid_with_crl_sign(
    "spiffe://a.example/gateway/x",
    vec![Use::DigitalSignature, Use::CrlSign],
    &["SPIFFE ID", "it has digitalSignature, cRLSign"]
)]
#[case::unrestricted("edge.internal", vec![], &[])]
fn a_leaf_does_what_its_key_usage_allows(
    #[case] name: &'static str,
    #[case] uses: Vec<Use>,
    #[case] refused: &[&str],
) {
    let world = World::new();
    let leaf = world
        .issuing
        .leaf_with(client(name), |p| p.key_usages = uses);
    if refused.is_empty() {
        assert!(world.prove(&leaf, &[&world.issuing]).is_ok());
    } else {
        let denied = world.refusal(&leaf, &[&world.issuing]);
        assert_says(&denied, Denial::CertificateWrongUsage, refused);
    }
}

#[test]
fn an_issuer_without_key_cert_sign_makes_no_peers() {
    let world = World::new();
    for uses in [vec![Use::DigitalSignature], vec![Use::CrlSign]] {
        let mute = world.root.below_with("mute", |p| p.key_usages = uses);
        let leaf = mute.leaf(client("edge.internal"));
        assert_says(
            &world.refusal(&leaf, &[&mute]),
            Denial::CertificateInvalid,
            &["its issuer may not sign", "expected key usage keyCertSign"],
        );
    }
    // an extension that is not there restricts nothing
    let free = world.root.below_with("free", |p| p.key_usages = Vec::new());
    let leaf = free.leaf(client("edge.internal"));
    assert!(world.prove(&leaf, &[&free]).is_ok());
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

    // of names that nobody compares
    let by_person = || {
        let mut person = rcgen::DistinguishedName::new();
        person.push(rcgen::DnType::OrganizationName, "partner");
        rcgen::GeneralSubtree::DirectoryName(person)
    };
    let bound = world.root.below_with("bound", |p| {
        p.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![by_person()],
            excluded_subtrees: Vec::new(),
        });
    });
    assert_says(
        &world.refusal(&bound.leaf(client("edge.internal")), &[&bound]),
        Denial::CertificateInvalid,
        &["directory names", "not compared"],
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
