//! Rotation: who is trusted when, and what keeps it from ending.

use super::{super::*, store};

fn options(kind: CaKind) -> RotateOptions {
    RotateOptions {
        kind,
        prepare: false,
        algorithm: None,
        days: 3650,
    }
}

fn count(path: &std::path::Path, label: &str) -> usize {
    let text = std::fs::read_to_string(path).unwrap();
    text.matches(&format!("BEGIN {label}")).count()
}

/// Roots in the bundle and lists in `crl.pem`.
fn published(authority: &Authority) -> [usize; 2] {
    [
        count(&authority.trust(), "CERTIFICATE"),
        count(&authority.crl(), "X509 CRL"),
    ]
}

fn keys(authority: &Authority) -> usize {
    ["root", "issuing"]
        .iter()
        .map(|folder| {
            let folder = authority.folder().join(folder);
            let below = std::fs::read_dir(&folder)
                .unwrap()
                .filter(|entry| entry.as_ref().unwrap().path().join("ca.key").exists());
            below.count() + usize::from(folder.join("ca.key").exists())
        })
        .sum()
}

#[test]
fn both_are_trusted_until_nothing_hangs_on_the_old() {
    for kind in [CaKind::Issuing, CaKind::Root] {
        let (folder, authority) = store();
        let issue = |name: &str| {
            authority
                .issue(&IssueRequest::new(Role::Gateway, name))
                .unwrap()
        };
        let old = issue("edge-1").certificate;
        let copy = folder.path().join("old.pem");
        std::fs::copy(&old, &copy).unwrap();
        assert!(authority.finish_rotation(kind, true).is_err(), "none");

        let rotated = authority.rotate(&options(kind)).unwrap();
        let with_root = usize::from(kind == CaKind::Root);
        assert_eq!(rotated.old.len(), 1 + with_root);
        assert_eq!(rotated.new.len(), 1 + with_root);
        assert_eq!(published(&authority), [1 + with_root, 3 + with_root]);
        let new = issue("edge-2").certificate;
        for leaf in [&copy, &new] {
            authority.verify(leaf, None).unwrap();
        }
        assert!(authority.rotate(&options(kind)).is_err(), "one at a time");
        // an old leaf can still be revoked: in its own CA's list
        let doomed = folder.path().join("doomed.pem");
        std::fs::copy(&old, &doomed).unwrap();

        let said = authority
            .finish_rotation(kind, false)
            .unwrap_err()
            .to_string();
        assert!(
            said.contains("gateway/edge-1") && said.contains("pki renew --all"),
            "{said}"
        );
        let report = authority.renew(&RenewOptions::default()).unwrap();
        let done = |(record, renewal): &(Record, Renewal)| {
            matches!(renewal, Renewal::Done(_)).then(|| record.name.clone())
        };
        let renewed: Vec<_> = report.renewals.iter().filter_map(done).collect();
        assert_eq!(renewed, ["edge-1"]);
        let said = authority
            .finish_rotation(kind, false)
            .unwrap_err()
            .to_string();
        assert!(said.contains("pki revoke SERIAL"), "{said}");
        let superseded = authority.records().unwrap()[0].serial.clone();
        authority.revoke(&superseded, Reason::Superseded).unwrap();
        let said = authority.verify(&doomed, None).unwrap_err().to_string();
        assert!(said.contains("revoked"), "{said}");

        let ended = authority.finish_rotation(kind, false).unwrap();
        assert_eq!(ended.len(), 1 + with_root);
        assert_eq!(published(&authority), [1, 2]);
        assert_eq!(keys(&authority), 2, "the old keys are gone");
        assert!(authority.verify(&copy, None).is_err());
        for leaf in [&old, &new] {
            authority.verify(leaf, None).unwrap();
        }
        // and again
        authority.rotate(&options(kind)).unwrap();
        authority.finish_rotation(kind, true).unwrap();
        assert_eq!(published(&authority), [1, 2]);
        assert!(authority.verify(&new, None).is_err());
    }
}

#[test]
fn a_prepared_ca_is_trusted_and_signs_when_told() {
    for kind in [CaKind::Issuing, CaKind::Root] {
        let (_folder, authority) = store();
        let issue = |name: &str| {
            let request = IssueRequest::new(Role::Client, name);
            authority.issue(&request).unwrap().facts.issuer
        };
        let before = issue("one");
        let mut prepare = options(kind);
        prepare.prepare = true;
        authority.rotate(&prepare).unwrap();
        let with_root = usize::from(kind == CaKind::Root);
        assert_eq!(published(&authority), [1 + with_root, 3 + with_root]);
        assert_eq!(issue("two"), before);
        assert!(authority.rotate(&prepare).is_err(), "twice");
        assert!(authority.finish_rotation(kind, true).is_err());
        let bundle = std::fs::read(authority.trust()).unwrap();
        // switching takes no root's key
        let root = authority.folder().join("root/ca.key");
        if kind == CaKind::Issuing {
            std::fs::remove_file(root).unwrap();
        }
        authority.rotate(&options(kind)).unwrap();
        assert_eq!(std::fs::read(authority.trust()).unwrap(), bundle);
        assert_ne!(issue("three"), before);
        // the end revokes the old one by the root's list
        let ended = authority.finish_rotation(kind, true);
        assert_eq!(ended.is_ok(), kind == CaKind::Root, "{ended:?}");
    }
}

#[test]
fn a_root_that_is_away_can_be_rotated_and_its_key_is_not_mistaken_for_the_new_one() {
    let (folder, authority) = store();
    let key = authority.folder().join("root/ca.key");
    let away = folder.path().join("away.key");
    std::fs::rename(&key, &away).unwrap();
    assert!(authority.rotate(&options(CaKind::Issuing)).is_err());
    authority.rotate(&options(CaKind::Root)).unwrap();
    assert_eq!(published(&authority), [2, 4]);
    std::fs::copy(&away, &key).unwrap();
    let said = authority
        .write_crls(CrlOptions::default())
        .unwrap_err()
        .to_string();
    assert!(said.contains("another CA's was put there"), "{said}");
}

#[test]
fn a_new_issuing_ca_never_outlives_its_root_and_keeps_the_constraints() {
    let folder = tempfile::tempdir().unwrap();
    let options = InitOptions {
        days: 30,
        permit_dns: vec![".internal".to_owned()],
        algorithm: Algorithm::Ed25519,
        ..InitOptions::default()
    };
    let authority = Authority::init(&folder.path().join("pki"), options).unwrap();
    let rotated = authority.rotate(&self::options(CaKind::Issuing)).unwrap();
    let all = authority.authorities().unwrap();
    assert_eq!(rotated.new[0].not_after, all[0].not_after);
    let facts =
        crate::identity::CertFacts::read(&super::pem(&authority.folder().join("issuing/ca.pem")))
            .unwrap();
    assert_eq!(facts.key, "Ed25519");
    let outside = IssueRequest::new(Role::Client, "anna").san("a.example");
    assert!(authority.issue(&outside).is_err());
}

#[test]
fn what_hangs_on_a_ca_that_was_ended_by_force_is_renewed_all_the_same() {
    let (_folder, authority) = store();
    let issue = |name: &str| {
        authority
            .issue(&IssueRequest::new(Role::Gateway, name))
            .unwrap()
    };
    let lost = issue("edge-1");
    for kind in [CaKind::Issuing, CaKind::Root] {
        authority.rotate(&options(kind)).unwrap();
        authority.finish_rotation(kind, true).unwrap();
        authority.verify(&lost.certificate, None).unwrap_err();
        authority.renew(&RenewOptions::default()).unwrap();
        authority.verify(&lost.certificate, None).unwrap();
        // and once is enough
        let again = authority.renew(&RenewOptions::default()).unwrap();
        let left_alone = |(_, renewal): &(Record, Renewal)| matches!(renewal, Renewal::NotDue);
        assert!(again.renewals.iter().all(left_alone), "{again:?}");
    }
}

fn issuing(authority: &Authority, standing: CaStanding) -> CaRecord {
    let mut all = authority.authorities().unwrap().into_iter();
    all.find(|ca| (ca.kind, ca.standing) == (CaKind::Issuing, standing))
        .unwrap()
}

#[test]
fn a_prepared_ca_that_was_revoked_never_signs_and_another_takes_its_place() {
    for kind in [CaKind::Issuing, CaKind::Root] {
        let (_folder, authority) = store();
        let leaf = authority
            .issue(&IssueRequest::new(Role::Gateway, "edge-1"))
            .unwrap();
        let prepare = RotateOptions {
            prepare: true,
            ..options(kind)
        };
        let was = published(&authority);
        authority.rotate(&prepare).unwrap();
        let (both, held) = (published(&authority), keys(&authority));
        let next = issuing(&authority, CaStanding::Next).serial;
        authority
            .revoke_authority(&next, Reason::KeyCompromise)
            .unwrap();

        let said = authority.rotate(&options(kind)).unwrap_err().to_string();
        assert!(said.contains(&next) && said.contains("--prepare"), "{said}");
        authority.rotate(&prepare).unwrap();
        assert_eq!((published(&authority), keys(&authority)), (both, held));
        assert!(authority.rotate(&prepare).is_err(), "one at a time");
        authority.verify(&leaf.certificate, None).unwrap();
        authority.rotate(&options(kind)).unwrap();
        assert_ne!(issuing(&authority, CaStanding::Current).serial, next);
        authority.renew(&RenewOptions::default()).unwrap();
        authority.finish_rotation(kind, true).unwrap();
        authority.verify(&leaf.certificate, None).unwrap();
        assert_eq!((published(&authority), keys(&authority)), (was, 2));
    }
}

#[test]
fn a_new_ca_that_is_revoked_gives_way_to_another_while_the_old_one_is_trusted() {
    for kind in [CaKind::Issuing, CaKind::Root] {
        let (_folder, authority) = store();
        let leaf = authority
            .issue(&IssueRequest::new(Role::Gateway, "edge-1"))
            .unwrap();
        let was = published(&authority);
        authority.rotate(&options(kind)).unwrap();
        let current = issuing(&authority, CaStanding::Current).serial;
        authority
            .revoke_authority(&current, Reason::KeyCompromise)
            .unwrap();
        // what hangs on the old one need not go before its successor is there
        let prepare = RotateOptions {
            prepare: true,
            ..options(CaKind::Issuing)
        };
        authority.rotate(&prepare).unwrap();
        authority.rotate(&options(CaKind::Issuing)).unwrap();
        authority.verify(&leaf.certificate, None).unwrap();
        assert!(authority.rotate(&prepare).is_err(), "one at a time");
        authority.renew(&RenewOptions::default()).unwrap();
        authority.verify(&leaf.certificate, None).unwrap();
        authority.finish_rotation(kind, true).unwrap();
        authority.verify(&leaf.certificate, None).unwrap();
        assert_eq!((published(&authority), keys(&authority)), (was, 2));
    }
}
