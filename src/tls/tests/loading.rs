//! What a load finds wrong, and that it finds all of it.

use std::os::unix::fs::PermissionsExt;

use rcgen::ExtendedKeyUsagePurpose as Eku;

use super::mint::*;
use crate::{
    config::{Identity, SecretRef},
    tls::{LinkRole, MaterialError},
};

pub(super) fn good(folder: &Folder) -> (Ca, Identity) {
    let ca = Ca::root("root");
    let leaf = ca.leaf(client("edge.internal"));
    let identity = folder.identity("own", &leaf, &[], &[&ca]);
    (ca, identity)
}

pub(super) fn errors(identity: &Identity) -> Vec<MaterialError> {
    load(identity, LinkRole::Gateway).unwrap_err()
}

#[track_caller]
pub(super) fn assert_error(errors: &[MaterialError], words: &[&str]) {
    assert!(
        errors
            .iter()
            .any(|e| words.iter().all(|w| e.to_string().contains(w))),
        "no error with {words:?} in {errors:#?}"
    );
}

#[test]
fn good_material_loads_and_says_who_it_is() {
    let folder = Folder::new();
    let ca = Ca::root("root");
    let leaf = ca.leaf(client("spiffe://example.internal/gateway/edge-1"));
    let identity = folder.identity("own", &leaf, &[], &[&ca]);
    let generation = load(&identity, LinkRole::Gateway).unwrap();
    assert_eq!(
        generation.own_domain.as_ref().unwrap().as_str(),
        "example.internal"
    );
    assert_eq!(generation.not_after, generation.leaf.not_after);
    assert_eq!(
        load(&identity, LinkRole::Gateway).unwrap().id,
        generation.id
    );
    // new content is a new generation
    let more = format!("{}{}", ca.pem, Ca::root("second").pem);
    folder.write("own-trust.pem", more);
    assert_ne!(
        load(&identity, LinkRole::Gateway).unwrap().id,
        generation.id
    );
}

#[test]
fn all_problems_come_at_once() {
    let folder = Folder::new();
    let (_, mut identity) = good(&folder);
    identity.key = folder.path().join("absent.key");
    identity.trust = Some(folder.write("empty.pem", ""));
    identity.pinned = vec![folder.write("noise.pem", "no certificate")];
    let found = errors(&identity);
    assert_error(&found, &["absent.key", "No such file"]);
    assert_error(&found, &["empty.pem", "no certificate in it"]);
    assert_error(&found, &["noise.pem", "no certificate in it"]);
    assert_eq!(found.len(), 3, "{found:#?}");
}

#[test]
fn a_key_of_another_certificate_is_found() {
    let folder = Folder::new();
    let (ca, mut identity) = good(&folder);
    identity.key = folder.write("other.key", ca.leaf(client("other")).key);
    assert_error(
        &errors(&identity),
        &["other.key", "not the key of the first certificate"],
    );
}

#[test]
fn swapped_files_are_told_apart() {
    let folder = Folder::new();
    let (_, mut identity) = good(&folder);
    std::mem::swap(&mut identity.certificate, &mut identity.key);
    let found = errors(&identity);
    assert_error(
        &found,
        &["own.pem", "holds a certificate, not a private key"],
    );
    assert_error(&found, &["own.key", "no certificate in it"]);
}

#[test]
fn dates_role_and_order_of_our_own_chain_are_checked() {
    let folder = Folder::new();
    let ca = Ca::root("root");
    let old = ca.leaf(Spec {
        from: -9,
        to: -1,
        ..client("old.internal")
    });
    let found = errors(&folder.identity("old", &old, &[], &[&ca]));
    assert_error(&found, &["old.internal", "certificate_expired", "renew"]);

    let usage = vec![Eku::ServerAuth];
    let wrong = ca.leaf(Spec {
        usage,
        ..client("edge.internal")
    });
    let identity = folder.identity("wrong", &wrong, &[], &[&ca]);
    assert_error(&errors(&identity), &["lacks extended key usage clientAuth"]);
    assert!(load(&identity, LinkRole::Acceptor).is_ok());

    let issuing = ca.below("issuing");
    let leaf = issuing.leaf(client("edge.internal"));
    // root before issuing
    let identity = folder.identity("order", &leaf, &[&ca, &issuing], &[&ca]);
    assert_error(
        &errors(&identity),
        &["next certificate in the file", "leaf first"],
    );
    // an issuer of the right name and another key
    let namesake = ca.below("issuing");
    let identity = folder.identity("namesake", &leaf, &[&namesake], &[&ca]);
    assert_error(&errors(&identity), &["its signature is not by"]);
    // in order, with the root behind
    let identity = folder.identity("fine", &leaf, &[&issuing, &ca], &[&ca]);
    assert!(load(&identity, LinkRole::Gateway).is_ok());
}

#[test]
fn a_spiffe_id_of_ours_stands_beside_no_other_uri() {
    let folder = Folder::new();
    let ca = Ca::root("root");
    let loaded = |name: &str, more: rcgen::SanType| {
        let leaf = ca.leaf_with(client("spiffe://example.internal/gateway/edge-1"), |p| {
            p.subject_alt_names.push(more);
        });
        load(
            &folder.identity(name, &leaf, &[], &[&ca]),
            LinkRole::Gateway,
        )
    };
    let uri = |uri: &str| rcgen::SanType::URI(uri.try_into().unwrap());
    for (name, more, said) in [
        (
            "two",
            "spiffe://example.internal/gateway/edge-2",
            "2 SPIFFE IDs",
        ),
        (
            "other",
            "https://edge-1.example",
            "2 URIs, one of them a SPIFFE ID",
        ),
    ] {
        let found = loaded(name, uri(more)).unwrap_err();
        assert_error(
            &found,
            &[said, "issue it with its SPIFFE ID as its only URI"],
        );
    }
    let dns = rcgen::SanType::DnsName("edge-1.example".try_into().unwrap());
    loaded("dns", dns).unwrap();
}

#[test]
fn a_chain_whose_key_usage_no_peer_takes_is_an_error() {
    use rcgen::KeyUsagePurpose as Use;
    let folder = Folder::new();
    let ca = Ca::root("root");
    let leaf = ca.leaf_with(client("edge.internal"), |p| {
        p.key_usages = vec![Use::KeyEncipherment];
    });
    let identity = folder.identity("leaf", &leaf, &[], &[&ca]);
    assert_error(&errors(&identity), &["key usage digitalSignature"]);
    let mute = ca.below_with("mute", |p| p.key_usages = vec![Use::CrlSign]);
    let leaf = mute.leaf(client("edge.internal"));
    let identity = folder.identity("issuer", &leaf, &[&mute], &[&ca]);
    assert_error(
        &errors(&identity),
        &["key usage keyCertSign", "has cRLSign"],
    );
}

#[test]
fn our_own_self_signed_certificate_without_usage_is_fine() {
    let folder = Folder::new();
    let (own, _) = openssl_self_signed("ours");
    let identity = folder.identity("self", &own, &[], &[&Ca::root("root")]);
    assert!(load(&identity, LinkRole::Gateway).is_ok());
    assert!(load(&identity, LinkRole::Acceptor).is_ok());
}

#[test]
fn a_leaf_among_the_roots_is_an_error() {
    let folder = Folder::new();
    let (ca, mut identity) = good(&folder);
    let leaf = ca.leaf(server("acceptor.internal"));
    identity.trust = Some(folder.write("mixed.pem", format!("{}{}", ca.pem, leaf.pem)));
    assert_error(
        &errors(&identity),
        &["mixed.pem", "acceptor.internal", "no CA", "pinned"],
    );
}

#[test]
fn one_pin_a_file_and_no_pin_among_the_roots() {
    let folder = Folder::new();
    let (_, mut identity) = good(&folder);
    let (one, _) = openssl_self_signed("one");
    let (two, _) = openssl_self_signed("two");
    identity.pinned = vec![folder.write("two.pem", format!("{}{}", one.pem, two.pem))];
    assert_error(&errors(&identity), &["two.pem", "2 certificates"]);

    identity.pinned = vec![folder.write("one.pem", &one.pem)];
    identity.trust = Some(folder.write("both.pem", &one.pem));
    assert_error(
        &errors(&identity),
        &["pinned and trusted", "never an anchor"],
    );
}

#[test]
fn open_key_files_are_refused() {
    let folder = Folder::new();
    let (_, identity) = good(&folder);
    for (mode, fine) in [
        (0o644, false),
        (0o604, false),
        (0o602, false),
        (0o600, true),
        (0o400, true),
    ] {
        std::fs::set_permissions(&identity.key, PermissionsExt::from_mode(mode)).unwrap();
        let loaded = load(&identity, LinkRole::Gateway);
        assert_eq!(loaded.is_ok(), fine, "{mode:o}");
        if let Err(found) = loaded {
            assert_error(
                &found,
                &[
                    "own.key",
                    &format!("mode {mode:04o}"),
                    "everybody",
                    "chmod 600",
                ],
            );
        }
    }
    // our own group may read
    std::fs::set_permissions(&identity.key, PermissionsExt::from_mode(0o640)).unwrap();
    assert!(load(&identity, LinkRole::Gateway).is_ok());
}

#[test]
fn key_formats_of_every_tool_load() {
    let folder = Folder::new();
    let ca = Ca::root("root");
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ] {
        let leaf = ca.leaf(Spec {
            algorithm,
            ..client("edge.internal")
        });
        let identity = folder.identity("own", &leaf, &[], &[&ca]);
        assert!(load(&identity, LinkRole::Gateway).is_ok(), "{algorithm:?}");
    }
}

#[test]
fn an_encrypted_key_needs_its_passphrase() {
    use pkcs8::{LineEnding, PrivateKeyInfoOwned, der::Decode};
    use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
    let folder = Folder::new();
    let ca = Ca::root("root");
    let leaf = ca.leaf(client("edge.internal"));
    let mut identity = folder.identity("own", &leaf, &[], &[&ca]);
    let plain = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
    let info = PrivateKeyInfoOwned::from_der(plain.secret_der()).unwrap();
    let locked = info
        .encrypt("correct horse battery")
        .unwrap()
        .to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF)
        .unwrap();
    identity.key = folder.write("locked.key", locked.as_bytes());
    assert_error(
        &errors(&identity),
        &["locked.key", "encrypted", "key_passphrase"],
    );

    identity.key_passphrase = Some(SecretRef::File(folder.write("wrong", "correct horse")));
    assert_error(&errors(&identity), &["locked.key", "can't be decrypted"]);

    let right = folder.write("right", "correct horse battery\n");
    identity.key_passphrase = Some(SecretRef::File(right.clone()));
    assert!(load(&identity, LinkRole::Gateway).is_ok());

    std::fs::set_permissions(&right, PermissionsExt::from_mode(0o644)).unwrap();
    assert_error(&errors(&identity), &["right", "everybody"]);

    identity.key_passphrase = Some(SecretRef::File(folder.write("empty", "\n")));
    assert_error(&errors(&identity), &["passphrase", "empty"]);
}

#[test]
fn check_warns_of_what_will_not_last() {
    let folder = Folder::new();
    let ca = Ca::root("root");
    let leaf = ca.leaf(Spec {
        to: 2,
        ..client("edge.internal")
    });
    let mut identity = folder.identity("own", &leaf, &[], &[&ca]);
    identity.revocation = Some(folder.revocation(&[Ca::root("x").crl_until(1, &[], -1)]));
    let (_, warnings) =
        crate::tls::check::identity(&identity, &options(), LinkRole::Gateway, now()).unwrap();
    for words in [
        "our own chain ends",
        "the CRL of \"CN=x\"",
        "no CRL of \"CN=root\"",
    ] {
        assert!(
            warnings.iter().any(|w| w.contains(words)),
            "{words}: {warnings:#?}"
        );
    }
}

#[test]
fn the_established_reader_sees_the_same_certificates() {
    let folder = Folder::new();
    let (one, two) = (Ca::root("one"), Ca::root("two"));
    let leaf = one.leaf(client("edge.internal"));
    let crlf = one.pem.replace('\n', "\r\n");
    for pem in [
        one.pem.clone(),
        format!("{}{}", one.pem, two.pem),
        format!(
            "subject=CN = one\nissuer=CN = one\n{}\n\n# two\n{}",
            one.pem, two.pem
        ),
        format!("{}{}{}", leaf.key, leaf.pem, one.pem),
        format!("{crlf}{}", one.crl(1, &[])),
        one.pem.trim_end().to_owned(),
    ] {
        let theirs: Vec<_> = rustls_pemfile::certs(&mut pem.as_bytes())
            .collect::<Result<_, _>>()
            .unwrap();
        assert!(!theirs.is_empty());
        let ours = crate::tls::material::load_chain(&folder.write("some.pem", &pem)).unwrap();
        assert_eq!(ours, theirs, "{pem}");
    }
    // half a section is an error to both
    let cut = one.pem.split_at(one.pem.len() / 2).0;
    let theirs = rustls_pemfile::certs(&mut cut.as_bytes()).collect::<Result<Vec<_>, _>>();
    assert!(theirs.is_err());
    assert!(crate::tls::material::load_chain(&folder.write("cut.pem", cut)).is_err());
}
