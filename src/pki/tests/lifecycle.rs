//! Requests, renewals and older stores.

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};

use super::{super::*, pem, store};
use crate::identity::CertFacts;

fn csr(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    change(&mut params);
    params
        .serialize_request(&key)
        .unwrap()
        .pem()
        .unwrap()
        .into_bytes()
}

fn named(common: &str, sans: &[&str]) -> Vec<u8> {
    csr(|params| {
        params.distinguished_name.push(DnType::CommonName, common);
        params.subject_alt_names = sans
            .iter()
            .map(|text| match text.split_once(':') {
                Some(("uri", uri)) => SanType::URI(uri.try_into().unwrap()),
                Some(("email", mail)) => SanType::Rfc822Name(mail.try_into().unwrap()),
                Some(("ip", ip)) => SanType::IpAddress(ip.parse().unwrap()),
                _ => SanType::DnsName((*text).try_into().unwrap()),
            })
            .collect();
    })
}

#[test]
fn a_request_gets_what_its_role_allows_and_no_more() {
    let (_folder, authority) = store();
    let greedy = csr(|params| {
        params
            .distinguished_name
            .push(DnType::CommonName, "gateway/edge-1");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::Any,
        ];
        params.custom_extensions = vec![CustomExtension::from_oid_content(
            &[1, 3, 6, 1, 4, 1, 99999, 1],
            vec![5, 0],
        )];
    });
    let issued = authority.sign(&SignRequest::new(greedy)).unwrap();
    assert!(!issued.facts.is_ca);
    assert!(issued.facts.usage.client_auth && !issued.facts.usage.server_auth);
    assert!(issued.facts.usage.other.is_empty());
    assert_eq!(issued.notes.len(), 4, "{:?}", issued.notes);
    assert!(!issued.key.exists());
    authority.verify(&issued.certificate, None).unwrap();
    let record = &authority.records().unwrap()[0];
    assert!(record.requested && record.algorithm == "ecdsa-p256");
}

#[test]
fn names_that_are_not_allowed_are_refused_by_name() {
    let (_folder, authority) = store();
    let refused = |asked: SignRequest| authority.sign(&asked).unwrap_err().to_string();
    for (sans, word) in [
        (&["email:a@b.example"][..], "a@b.example"),
        (&["uri:https://b.example/"], "https://b.example/"),
        (
            &["uri:spiffe://example.internal/gateway/other"],
            "gateway/other",
        ),
        (&["bad name"], "bad name"),
    ] {
        let said = refused(SignRequest {
            role: Some(Role::Gateway),
            name: Some("edge-1".to_owned()),
            ..SignRequest::new(named("x", sans))
        });
        assert!(said.contains(word), "{said}");
    }
    // two answers to who it is
    let two = [
        "uri:spiffe://example.internal/acceptor/legacy",
        "legacy.internal",
    ];
    let said = refused(SignRequest::new(named("gateway/edge-1", &two)));
    assert!(
        said.contains("acceptor/legacy") && said.contains("gateway/edge-1"),
        "{said}"
    );
    // of another role, or of none
    let asked = SignRequest {
        role: Some(Role::Acceptor),
        ..SignRequest::new(named("gateway/edge-1", &["a.internal"]))
    };
    assert!(refused(asked).contains("asks to be gateway/edge-1, not acceptor/edge-1"));
    assert!(refused(SignRequest::new(named("edge-1", &[]))).contains("--role"));
    assert!(refused(SignRequest::new(named("acceptor/a", &[]))).contains("--san"));
    assert!(authority.records().unwrap().is_empty());
    // twice the same extension: two readers may each see another one
    let twice = csr(|params| {
        params.subject_alt_names = vec![SanType::DnsName("a.internal".try_into().unwrap())];
        // SEQUENCE { [2] "b" }
        let other =
            CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 3, 0x82, 1, b'b']);
        params.custom_extensions = vec![other];
    });
    let said = refused(SignRequest {
        role: Some(Role::Gateway),
        name: Some("edge-1".to_owned()),
        ..SignRequest::new(twice)
    });
    assert!(
        said.contains("twice") && said.contains("2.5.29.17"),
        "{said}"
    );
    assert!(authority.records().unwrap().is_empty());
    // its own SPIFFE ID may stand in it
    let own = named("x", &["uri:spiffe://example.internal/gateway/edge-1"]);
    let issued = authority.sign(&SignRequest::new(own)).unwrap();
    assert_eq!((issued.role, &*issued.name), (Role::Gateway, "edge-1"));
}

#[test]
fn a_request_that_is_not_signed_by_its_key_is_refused() {
    let (_folder, authority) = store();
    let good = named("gateway/edge-1", &[]);
    let (_, block) = x509_parser::pem::parse_x509_pem(&good).unwrap();
    for at in [block.contents.len() - 1, block.contents.len() / 2] {
        let mut forged = block.contents.clone();
        forged[at] ^= 1;
        assert!(authority.sign(&SignRequest::new(forged)).is_err());
    }
    let mut long = block.contents.clone();
    long.push(0);
    assert!(authority.sign(&SignRequest::new(long)).is_err());
    authority.sign(&SignRequest::new(block.contents)).unwrap();
}

#[test]
fn a_key_that_was_compromised_is_never_certified_again() {
    let (_folder, authority) = store();
    let request = named("gateway/edge-1", &[]);
    authority.sign(&SignRequest::new(request.clone())).unwrap();
    authority.revoke("edge-1", Reason::KeyCompromise).unwrap();
    let again = SignRequest {
        force: true,
        ..SignRequest::new(request)
    };
    let said = authority.sign(&again).unwrap_err().to_string();
    assert!(said.contains("make a new key"), "{said}");
}

#[test]
fn what_is_renewed_keeps_its_names_its_key_and_its_life() {
    let (_folder, authority) = store();
    let mut request = IssueRequest::new(Role::Acceptor, "a")
        .san("a.internal")
        .san("10.0.0.1");
    request.days = Some(30);
    let first = authority.issue(&request).unwrap().facts;
    let renew = |rekey| {
        let options = RenewOptions {
            names: vec!["acceptor/a".to_owned()],
            rekey,
            ..RenewOptions::default()
        };
        let mut report = authority.renew(&options).unwrap();
        match report.renewals.remove(0).1 {
            Renewal::Done(issued) => issued.facts,
            other @ (Renewal::NotDue | Renewal::Skipped(_) | Renewal::Failed(_)) => {
                panic!("{other:?}")
            }
        }
    };
    let second = renew(false);
    assert_eq!(first.spki, second.spki);
    assert_ne!(first.serial, second.serial);
    assert_eq!(first.dns, second.dns);
    assert_eq!(first.ips, second.ips);
    let life = second.not_after.0 - second.not_before.0;
    assert_eq!(life, 30 * 86_400 + 60);
    assert_ne!(renew(true).spki, second.spki);
    let standings: Vec<_> = authority
        .records()
        .unwrap()
        .iter()
        .map(|r| r.standing(crate::clock::now()))
        .collect();
    assert_eq!(standings, ["superseded", "superseded", "in force"]);
}

#[test]
fn nothing_is_signed_before_its_ca_begins() {
    let (_folder, authority) = store();
    let issued = authority
        .issue(&IssueRequest::new(Role::Gateway, "edge-1"))
        .unwrap();
    let read = || {
        let cert = std::fs::read(&issued.certificate).unwrap();
        (cert, std::fs::read(authority.crl()).unwrap())
    };
    let before = read();
    let name = vec!["gateway/edge-1".to_owned()];
    crate::clock::set_ahead(-86_400);
    let mut refused = vec![
        authority
            .issue(&IssueRequest::new(Role::Gateway, "edge-2"))
            .map(drop),
        authority.write_crls(CrlOptions::default()).map(drop),
        authority.revoke(&name[0], Reason::Superseded).map(drop),
    ];
    let options = RenewOptions {
        names: name,
        ..RenewOptions::default()
    };
    if let Renewal::Failed(error) = authority.renew(&options).unwrap().renewals.remove(0).1 {
        refused.push(Err(error));
    }
    crate::clock::set_ahead(0);
    assert_eq!(refused.len(), 4);
    for refusal in refused {
        let said = refusal.unwrap_err().to_string();
        assert!(
            said.contains("begins at") && said.contains("set the clock"),
            "{said}"
        );
    }
    assert_eq!(read(), before);
    assert_eq!(authority.records().unwrap().len(), 1);
}

#[test]
fn a_timer_renews_what_is_due_and_leaves_the_rest() {
    let (_folder, authority) = store();
    for (name, days) in [("short", 5), ("long", 90), ("gone", 5), ("lost", 5)] {
        let mut request = IssueRequest::new(Role::Client, name);
        request.days = Some(days);
        authority.issue(&request).unwrap();
    }
    let mut pinned = IssueRequest::new(Role::Gateway, "pinned");
    pinned.self_signed = true;
    pinned.days = Some(5);
    authority.issue(&pinned).unwrap();
    authority.revoke("lost", Reason::KeyCompromise).unwrap();
    std::fs::remove_dir_all(authority.certificate_folder(Role::Client, "gone")).unwrap();
    let all = |within| {
        let options = RenewOptions {
            within,
            ..RenewOptions::default()
        };
        let report = authority.renew(&options).unwrap();
        assert_eq!(report.crls, None, "written a moment ago");
        report
            .renewals
            .into_iter()
            .map(|(record, renewal)| {
                let what = match renewal {
                    Renewal::Done(_) => "done",
                    Renewal::NotDue => "not due",
                    Renewal::Skipped(_) => "skipped",
                    Renewal::Failed(_) => "failed",
                };
                (record.name, what)
            })
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let told =
        |list: [(&str, &'static str); 5]| list.map(|(name, what)| (name.to_owned(), what)).into();
    let first = all(Some(30));
    assert_eq!(
        first,
        told([
            ("short", "done"),
            ("long", "not due"),
            ("gone", "skipped"),
            ("lost", "skipped"),
            ("pinned", "skipped"),
        ])
    );
    let without = all(None);
    assert_eq!(without["short"], "not due");
}

#[test]
fn a_store_of_the_first_schema_is_read_and_a_newer_one_is_refused() {
    let (_folder, authority) = store();
    for force in [false, true] {
        let mut request = IssueRequest::new(Role::Gateway, "edge-1");
        request.force = force;
        authority.issue(&request).unwrap();
    }
    let path = authority.folder().join("state/state.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut old: serde_json::Value = serde_json::from_str(&text).unwrap();
    old["schema"] = 1.into();
    old.as_object_mut().unwrap().remove("authorities");
    for record in old["certificates"].as_array_mut().unwrap() {
        for key in ["issuer", "spki", "requested", "superseded"] {
            record.as_object_mut().unwrap().remove(key);
        }
    }
    store::write_file(&path, old.to_string().as_bytes(), 0o600).unwrap();
    // nor need the root's folder be there
    std::fs::rename(
        authority.folder().join("root"),
        authority.folder().join("away"),
    )
    .unwrap();
    let authorities = authority.authorities().unwrap();
    assert_eq!(authorities.len(), 2);
    assert!(authority.records().unwrap()[0].superseded.is_some());
    authority.revoke("edge-1", Reason::Superseded).unwrap();
    let crl = std::fs::read_to_string(authority.crl()).unwrap();
    assert_eq!(crl.matches("BEGIN X509 CRL").count(), 2);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("\"schema\": 2"));
    let newer = text.replace("\"schema\": 2", "\"schema\": 3, \"more\": 1");
    store::write_file(&path, newer.as_bytes(), 0o600).unwrap();
    let said = Authority::open(authority.folder()).unwrap_err().to_string();
    assert!(
        said.contains("schema 3") && said.contains("at least as new"),
        "{said}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_request_makes_a_ca_takes_a_role_or_leaves_the_constraints(
        common in "(gateway|acceptor|client|server|root)/[a-z0-9.]{1,8}|[a-z]{0,6}",
        role in proptest::option::of(proptest::sample::select(Role::ALL.to_vec())),
        sans in proptest::collection::vec(
            "[a-z*]{1,5}(\\.[a-z]{1,4}){0,2}\\.internal|[a-z.]{1,9}|ip:(10|11)\\.0\\.0\\.1\
             |uri:spiffe://example.internal/(gateway|client)/[a-z]{1,2}|email:a@b\\.c",
            0..4,
        ),
        ca: bool,
        server: bool,
        days in proptest::option::of(0..500_u32),
    ) {
        thread_local! {
            static STORE: (tempfile::TempDir, Authority) = constrained();
        }
        STORE.with(|(_, authority)| -> Result<(), TestCaseError> {
            let names: Vec<&str> = sans.iter().map(String::as_str).collect();
            let request = csr(|params| {
                params.distinguished_name.push(DnType::CommonName, &common);
                params.subject_alt_names = names
                    .iter()
                    .filter_map(|text| Some(match text.split_once(':') {
                        Some(("uri", uri)) => SanType::URI(uri.try_into().ok()?),
                        Some(("email", mail)) => SanType::Rfc822Name(mail.try_into().ok()?),
                        Some(("ip", ip)) => SanType::IpAddress(ip.parse().ok()?),
                        _ => SanType::DnsName((*text).try_into().ok()?),
                    }))
                    .collect();
                if ca {
                    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                }
                if server {
                    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                }
            });
            let asked = SignRequest { role, days, force: true, ..SignRequest::new(request) };
            let Ok(issued) = authority.sign(&asked) else {
                return Ok(());
            };
            let facts = &issued.facts;
            let issuer = CertFacts::read(&pem(&authority.folder().join("issuing/ca.pem"))).unwrap();
            prop_assert!(!facts.is_ca && facts.not_after <= issuer.not_after);
            prop_assert!(role.is_none_or(|role| role == issued.role));
            if let Some((asked, _)) = common.split_once('/')
                && facts.uris.len() == 1 && !sans.iter().any(|san| san.starts_with("uri:"))
            {
                prop_assert_eq!(asked, issued.role.as_str());
            }
            let id = format!("spiffe://example.internal/{}/{}", issued.role, issued.name);
            prop_assert_eq!(&facts.uris, &[id]);
            let serves = matches!(issued.role, Role::Acceptor | Role::Server);
            prop_assert_eq!(facts.usage.server_auth, serves);
            prop_assert_eq!(facts.usage.client_auth, !serves);
            prop_assert!(facts.dns.iter().all(|name| name.ends_with(".internal")), "{:?}", facts.dns);
            let inside = |ip: &std::net::IpAddr| ip.to_string().starts_with("10.");
            prop_assert!(facts.ips.iter().all(inside));
            Ok(())
        })?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_profile_makes_a_ca_outlives_its_issuer_or_leaves_the_constraints(
        usages in proptest::collection::vec(
            "digital-signature|key-encipherment|key-agreement|key-cert-sign|crl-sign|any", 0..3),
        purposes in proptest::collection::vec("client-auth|server-auth|any|code-signing", 0..3),
        kinds in proptest::collection::vec("dns|ip|uri|email", 0..3),
        spiffe_id: bool,
        san_required: bool,
        days in (0..4000_u32, 0..4000_u32),
        more in proptest::sample::select(vec!["", "is_ca = true\n", "path_length = 3\n"]),
        san in "[a-z]{1,3}(\\.internal|\\.example)|10\\.0\\.0\\.1|11\\.0\\.0\\.1",
        self_signed: bool,
    ) {
        thread_local! {
            static STORE: (tempfile::TempDir, Authority) = constrained();
        }
        STORE.with(|(_, authority)| -> Result<(), TestCaseError> {
            let (default_days, max_days) = days;
            let text = format!(
                "key_usage = {usages:?}\nextended_key_usage = {purposes:?}\nspiffe_id = {spiffe_id}\n\
                 san_kinds = {kinds:?}\nsan_required = {san_required}\n\
                 default_days = {default_days}\nmax_days = {max_days}\n{more}"
            );
            let path = authority.folder().join("profiles/client.toml");
            store::write_file(&path, text.as_bytes(), 0o644).unwrap();
            let mut request = IssueRequest::new(Role::Client, "anna").san(&san);
            request.self_signed = self_signed;
            request.force = true;
            let Ok(issued) = authority.issue(&request) else {
                return Ok(());
            };
            prop_assert!(more.is_empty());
            let der = pem(&issued.certificate);
            let (_, leaf) = x509_parser::parse_x509_certificate(&der).unwrap();
            prop_assert!(!leaf.is_ca());
            let usage = leaf.key_usage().unwrap().unwrap().value;
            prop_assert!(!usage.key_cert_sign() && !usage.crl_sign());
            let purpose = leaf.extended_key_usage().unwrap().unwrap().value;
            prop_assert!(!purpose.any && !purpose.code_signing);
            prop_assert_eq!(purpose.client_auth, purposes.iter().any(|p| p == "client-auth"));
            prop_assert_eq!(purpose.server_auth, purposes.iter().any(|p| p == "server-auth"));
            let issuer = CertFacts::read(&pem(&authority.folder().join("issuing/ca.pem"))).unwrap();
            prop_assert!(self_signed || issued.facts.not_after <= issuer.not_after);
            prop_assert!(san.ends_with(".internal") || san.starts_with("10."), "{}", san);
            Ok(())
        })?;
    }
}

/// CAs of 30 days that permit `.internal` and `10.0.0.0/8`.
fn constrained() -> (tempfile::TempDir, Authority) {
    let folder = tempfile::tempdir().unwrap();
    let options = InitOptions {
        days: 30,
        permit_dns: vec![".internal".to_owned()],
        permit_ip: vec!["10.0.0.0/8".to_owned()],
        ..InitOptions::default()
    };
    let authority = Authority::init(&folder.path().join("pki"), options).unwrap();
    (folder, authority)
}
