//! What is written of each act.

use super::{super::*, store};

#[test]
fn every_act_of_the_audit_log_is_described() {
    let page = include_str!("../../../docs/reference/pki-store.md");
    let (_, table) = page.split_once("| act | when |").unwrap();
    let described: std::collections::BTreeSet<_> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let (folder, authority) = store();
    let out = folder.path().join("host");
    let asked = KeyRequest {
        role: Role::Gateway,
        name: "edge-2".to_owned(),
        sans: Vec::new(),
        algorithm: Algorithm::default(),
        out,
        owner: None,
    };
    let csr = std::fs::read(asked.make().unwrap().request).unwrap();
    let anna = IssueRequest::new(Role::Client, "anna");
    authority.issue(&anna).unwrap();
    authority.sign(&SignRequest::new(csr)).unwrap();
    for rekey in [false, true] {
        let names = vec!["anna".to_owned()];
        let options = RenewOptions {
            names,
            rekey,
            ..RenewOptions::default()
        };
        authority.renew(&options).unwrap();
    }
    let word = folder.path().join("word");
    store::write_file(&word, b"a password", 0o600).unwrap();
    let password = ExportPassword::load(&crate::config::SecretRef::File(word)).unwrap();
    authority
        .export("anna", &ExportFormat::Pkcs12(password))
        .unwrap();
    authority.revoke("anna", Reason::Superseded).unwrap();
    authority.write_crls(CrlOptions::default()).unwrap();
    for prepare in [true, false] {
        let (kind, algorithm, days) = (CaKind::Issuing, None, 3650);
        let options = RotateOptions {
            kind,
            prepare,
            algorithm,
            days,
        };
        authority.rotate(&options).unwrap();
    }
    let old = authority.authorities().unwrap()[1].serial.clone();
    authority
        .revoke_authority(&old, Reason::KeyCompromise)
        .unwrap();
    // revoked with its CA, the leaf is in nobody's way
    authority.finish_rotation(CaKind::Issuing, false).unwrap();
    let log = std::fs::read_to_string(authority.folder().join("state/audit.log")).unwrap();
    let done = log.lines().filter_map(|line| line.split(' ').nth(1));
    assert_eq!(described, done.collect());
}
