//! The authority against a real folder, read back by our own reader; `tests/it/pki.rs` asks
//! OpenSSL the same questions.

mod audit;
mod compromise;
mod crash;
mod lifecycle;
mod rotation;

use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;
use crate::identity::{CertFacts, UnixSeconds};

fn store() -> (tempfile::TempDir, Authority) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::init(&folder.path().join("pki"), InitOptions::default()).unwrap();
    (folder, authority)
}

fn mode(path: &std::path::Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn keys_and_state_are_private_from_the_start() {
    let (_folder, authority) = store();
    let issued = authority
        .issue(&IssueRequest::new(Role::Gateway, "edge-1"))
        .unwrap();
    let pki = authority.folder();
    for path in [
        "root/ca.key",
        "issuing/ca.key",
        "state/state.json",
        "state/audit.log",
    ] {
        assert_eq!(mode(&pki.join(path)), 0o600, "{path}");
    }
    for path in ["root", "issuing", "state", "certs/gateway/edge-1"] {
        assert_eq!(mode(&pki.join(path)), 0o700, "{path}");
    }
    assert_eq!(mode(&issued.key), 0o600);
    assert_eq!(mode(&authority.trust()), 0o644);
    assert_eq!(
        issued.facts.uris,
        ["spiffe://example.internal/gateway/edge-1"]
    );
    assert!(issued.facts.usage.client_auth && !issued.facts.usage.server_auth);
}

#[test]
fn nothing_is_overwritten_unless_forced() {
    let (_folder, authority) = store();
    let request = IssueRequest::new(Role::Client, "anna");
    let first = authority.issue(&request).unwrap();
    let key = std::fs::read(&first.key).unwrap();
    assert_eq!(authority.issue(&request).unwrap_err().exit_code(), 2);
    assert_eq!(std::fs::read(&first.key).unwrap(), key);
    assert!(Authority::init(authority.folder(), InitOptions::default()).is_err());
    let mut forced = request;
    forced.force = true;
    authority.issue(&forced).unwrap();
    assert_ne!(std::fs::read(&first.key).unwrap(), key);
    assert_eq!(authority.records().unwrap().len(), 2);
}

#[test]
fn a_server_needs_a_name_to_be_connected_by() {
    let (_folder, authority) = store();
    for role in [Role::Acceptor, Role::Server] {
        assert!(authority.issue(&IssueRequest::new(role, "a")).is_err());
        let named = IssueRequest::new(role, "a")
            .san("a.internal")
            .san("10.0.0.1");
        assert_eq!(authority.issue(&named).unwrap().facts.dns, ["a.internal"]);
    }
    // a refused request leaves no trace
    assert_eq!(authority.records().unwrap().len(), 2);
}

#[test]
fn an_expired_certificate_can_be_made_for_a_demonstration() {
    let (_folder, authority) = store();
    let mut request = IssueRequest::new(Role::Gateway, "old");
    let now = crate::clock::now();
    request.not_before = Some(UnixSeconds(now.0 - 7200));
    request.not_after = Some(UnixSeconds(now.0 - 3600));
    let issued = authority.issue(&request).unwrap();
    assert_eq!(issued.facts.not_after, UnixSeconds(now.0 - 3600));
    assert_eq!(authority.records().unwrap()[0].standing(now), "expired");
}

#[test]
fn profiles_are_read_from_the_store() {
    let (_folder, authority) = store();
    let path = authority.folder().join("profiles/gateway.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    store::write_file(&path, text.replace("= 397", "= 91").as_bytes(), 0o644).unwrap();
    let mut request = IssueRequest::new(Role::Gateway, "edge-1");
    request.days = Some(92);
    assert!(
        authority
            .issue(&request)
            .unwrap_err()
            .to_string()
            .contains("91")
    );
    store::write_file(&path, (text + "\nis_ca = true\n").as_bytes(), 0o644).unwrap();
    request.days = None;
    assert!(authority.issue(&request).is_err());
}

#[test]
fn concurrent_issues_all_count() {
    let (_folder, authority) = store();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let authority = authority.clone();
            scope.spawn(move || {
                authority
                    .issue(&IssueRequest::new(Role::Client, &format!("c{n}")))
                    .unwrap()
            });
        }
    });
    let records = authority.records().unwrap();
    let serials: std::collections::HashSet<_> = records.iter().map(|r| &r.serial).collect();
    assert_eq!((records.len(), serials.len()), (8, 8));
}

#[test]
fn an_encrypted_store_needs_its_passphrase() {
    let folder = tempfile::tempdir().unwrap();
    let secret = |text: &str| {
        let path = folder.path().join("secret");
        store::write_file(&path, text.as_bytes(), 0o600).unwrap();
        Passphrase::read(&path)
    };
    let right = secret("correct horse\n").unwrap();
    let options = InitOptions {
        passphrase: Some(right.clone()),
        ..InitOptions::default()
    };
    let pki = folder.path().join("pki");
    Authority::init(&pki, options).unwrap();
    let key = std::fs::read_to_string(pki.join("root/ca.key")).unwrap();
    assert!(key.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
    let closed = Authority::open(&pki).unwrap();
    let request = IssueRequest::new(Role::Client, "anna");
    assert!(
        closed
            .issue(&request)
            .unwrap_err()
            .to_string()
            .contains("--passphrase-file")
    );
    let wrong = closed
        .clone()
        .with_passphrase(secret("battery staple").ok());
    assert!(wrong.issue(&request).is_err());
    closed.with_passphrase(Some(right)).issue(&request).unwrap();
    assert!(secret("short\n").is_err());
}

#[test]
fn revoking_says_what_it_can_not_do() {
    let (_folder, authority) = store();
    let mut pinned = IssueRequest::new(Role::Gateway, "pinned");
    pinned.self_signed = true;
    authority.issue(&pinned).unwrap();
    for request in [
        IssueRequest::new(Role::Gateway, "twin"),
        IssueRequest::new(Role::Client, "twin"),
    ] {
        authority.issue(&request).unwrap();
    }
    let refused = |target: &str| {
        let error = authority.revoke(target, Reason::KeyCompromise).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    };
    assert!(refused("nobody").contains("pki list"));
    assert!(refused("pinned").contains("self-signed"));
    assert!(refused("twin").contains("gateway/twin or client/twin"));
    assert_eq!(
        authority
            .revoke("client/twin", Reason::Superseded)
            .unwrap()
            .len(),
        1
    );
    assert!(refused("client/twin").contains("already"));
    let serial = authority.records().unwrap()[1].serial.clone();
    authority
        .revoke(&serial.to_uppercase(), Reason::Unspecified)
        .unwrap();
    let lists: Vec<_> = authority
        .records()
        .unwrap()
        .iter()
        .map(|r| r.revoked.is_some())
        .collect();
    assert_eq!(lists, [false, true, true]);
}

#[test]
fn crl_numbers_only_grow_and_an_absent_root_key_is_no_obstacle() {
    let (_folder, authority) = store();
    let first = authority.write_crls(CrlOptions::default()).unwrap();
    assert!(first.root_next_update.is_some());
    std::fs::remove_file(authority.folder().join("root/ca.key")).unwrap();
    let second = authority.write_crls(CrlOptions::default()).unwrap();
    assert_eq!(second.number, first.number + 1);
    assert_eq!(second.root_next_update, None);
    let text = std::fs::read_to_string(authority.crl()).unwrap();
    assert_eq!(text.matches("BEGIN X509 CRL").count(), 2);
}

#[test]
fn a_revocation_keeps_the_life_that_the_operator_chose() {
    let (_folder, authority) = store();
    authority
        .issue(&IssueRequest::new(Role::Client, "anna"))
        .unwrap();
    let options = CrlOptions {
        days: 90,
        ..CrlOptions::default()
    };
    authority.write_crls(options).unwrap();
    authority.revoke("anna", Reason::Unspecified).unwrap();
    let text = std::fs::read(authority.folder().join("issuing/crl.pem")).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(&text).unwrap();
    let (_, crl) = x509_parser::parse_x509_crl(&pem.contents).unwrap();
    let life = crl.next_update().unwrap().timestamp() - crl.last_update().timestamp();
    assert!(life >= 90 * 86_400, "{life}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_request_makes_a_ca_or_outlives_its_issuer(
        role in proptest::sample::select(Role::ALL.to_vec()),
        name in "[a-zA-Z0-9._-]{1,20}|\\PC{0,12}",
        sans in proptest::collection::vec("[a-z*.]{0,12}|10\\.0\\.0\\.[0-9]|\\PC{0,8}", 0..3),
        days in proptest::option::of(0..500_u32),
        not_after in proptest::option::of(0..9_000_000_000_i64),
        self_signed: bool,
    ) {
        thread_local! {
            static STORE: (tempfile::TempDir, Authority) = short_store();
        }
        STORE.with(|(_, authority)| -> Result<(), TestCaseError> {
            let request = IssueRequest {
                sans,
                days,
                not_after: not_after.map(UnixSeconds),
                self_signed,
                force: true,
                ..IssueRequest::new(role, &name)
            };
            let Ok(issued) = authority.issue(&request) else {
                return Ok(());
            };
            let issuer = CertFacts::read(&pem(&authority.folder().join("issuing/ca.pem"))).unwrap();
            prop_assert!(!issued.facts.is_ca);
            prop_assert!(issued.facts.not_before < issued.facts.not_after);
            if !self_signed {
                prop_assert!(issued.facts.not_after <= issuer.not_after);
            }
            prop_assert_eq!(issued.facts.spiffe.len(), 1);
            prop_assert!(issued.folder.starts_with(authority.folder().join("certs")));
            prop_assert_eq!(issued.folder.parent(), Some(&*authority.folder().join("certs").join(role.as_str())));
            Ok(())
        })?;
    }
}

/// CAs of 30 days, so that the default of 90 is cut.
fn short_store() -> (tempfile::TempDir, Authority) {
    let folder = tempfile::tempdir().unwrap();
    let options = InitOptions {
        days: 30,
        ..InitOptions::default()
    };
    let authority = Authority::init(&folder.path().join("pki"), options).unwrap();
    (folder, authority)
}

fn pem(path: &std::path::Path) -> rustls_pki_types::CertificateDer<'static> {
    use rustls_pki_types::pem::PemObject;
    rustls_pki_types::CertificateDer::from_pem_file(path).unwrap()
}

#[test]
fn a_leaf_is_cut_to_its_issuer_and_says_so() {
    let (_folder, authority) = short_store();
    let issued = authority
        .issue(&IssueRequest::new(Role::Gateway, "edge-1"))
        .unwrap();
    let issuer = CertFacts::read(&pem(&authority.folder().join("issuing/ca.pem"))).unwrap();
    assert_eq!(issued.facts.not_after, issuer.not_after);
    assert!(issued.notes[0].contains("ends with its issuer"));
}
