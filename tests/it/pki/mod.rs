//! The authority's files, judged by OpenSSL.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod export;
mod hostile;
mod interop;
mod lifecycle;
mod lists;
mod rotation;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use portcullis::pki::{Algorithm, Authority, InitOptions, IssueRequest, Reason, Role};

const ALGORITHMS: [Algorithm; 4] = [
    Algorithm::EcdsaP256,
    Algorithm::EcdsaP384,
    Algorithm::Ed25519,
    Algorithm::Rsa3072,
];

/// Exit status and everything that was printed.
fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let done = Command::new(program).args(arguments).output().unwrap();
    let text = [done.stdout, done.stderr].concat();
    (
        done.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

fn openssl(arguments: &[&str]) -> String {
    let (ok, text) = run("openssl", arguments);
    assert!(ok, "openssl {arguments:?}: {text}");
    text
}

fn portcullis(arguments: &[&str]) -> (bool, String) {
    run(env!("CARGO_BIN_EXE_portcullis"), arguments)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `openssl verify` with everything that a peer is given.
fn judge(authority: &Authority, certificate: &Path) -> (bool, String) {
    let (trust, crl) = (authority.trust(), authority.crl());
    let leaf = text(certificate);
    let arguments = [
        "verify",
        "-x509_strict",
        "-crl_check_all",
        "-CAfile",
        text(&trust),
        "-CRLfile",
        text(&crl),
        "-untrusted",
        leaf,
        leaf,
    ];
    run("openssl", &arguments)
}

#[test]
fn openssl_agrees_with_every_algorithm_and_role() {
    for algorithm in ALGORITHMS {
        let folder = tempfile::tempdir().unwrap();
        let options = InitOptions {
            algorithm,
            permit_dns: vec![".internal".into()],
            permit_ip: vec!["10.0.0.0/8".into()],
            ..InitOptions::default()
        };
        let authority = Authority::init(&folder.path().join("pki"), options).unwrap();
        for role in Role::ALL {
            let request = IssueRequest {
                algorithm,
                ..IssueRequest::new(role, "edge.one")
                    .san("a.internal")
                    .san("10.1.2.3")
            };
            let issued = authority.issue(&request).unwrap();
            let (ok, said) = judge(&authority, &issued.certificate);
            assert!(ok, "{algorithm:?} {role}: {said}");
            let shown = openssl(&["x509", "-in", text(&issued.certificate), "-noout", "-text"]);
            let purpose = match role {
                Role::Gateway | Role::Client => "TLS Web Client Authentication",
                Role::Acceptor | Role::Server => "TLS Web Server Authentication",
            };
            let names = format!(
                "URI:spiffe://example.internal/{role}/edge.one, DNS:a.internal, IP Address:10.1.2.3"
            );
            for expected in [purpose, &names, "CA:FALSE", "Authority Key Identifier"] {
                assert!(shown.contains(expected), "{expected} in {shown}");
            }
            openssl(&["pkey", "-in", text(&issued.key), "-noout", "-check"]);
            let own = openssl(&["pkey", "-in", text(&issued.key), "-pubout"]);
            let certified = openssl(&[
                "x509",
                "-in",
                text(&issued.certificate),
                "-noout",
                "-pubkey",
            ]);
            assert_eq!(own, certified);
        }
        for (file, length) in [("root", "pathlen:1"), ("issuing", "pathlen:0")] {
            let ca = authority.folder().join(file).join("ca.pem");
            let shown = openssl(&["x509", "-in", text(&ca), "-noout", "-text"]);
            for expected in [length, "CA:TRUE", "DNS:.internal", "IP:10.0.0.0/255.0.0.0"] {
                assert!(shown.contains(expected), "{expected} in {shown}");
            }
            let crl = authority.folder().join(file).join("crl.pem");
            let checked = openssl(&["crl", "-in", text(&crl), "-noout", "-CAfile", text(&ca)]);
            assert!(checked.contains("verify OK"), "{checked}");
        }
    }
}

#[test]
fn a_revoked_certificate_is_revoked_for_openssl_and_for_us() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("pki");
    let authority = Authority::init(&dir, InitOptions::default()).unwrap();
    let [bad, good] = ["bad", "good"].map(|name| {
        authority
            .issue(&IssueRequest::new(Role::Gateway, name))
            .unwrap()
    });
    let (ok, said) = portcullis(&[
        "pki",
        "--dir",
        text(&dir),
        "revoke",
        "bad",
        "--reason",
        "key-compromise",
    ]);
    assert!(ok, "{said}");
    let (ok, said) = judge(&authority, &bad.certificate);
    assert!(!ok && said.contains("certificate revoked"), "{said}");
    assert!(judge(&authority, &good.certificate).0);
    let shown = openssl(&[
        "crl",
        "-in",
        text(&dir.join("issuing/crl.pem")),
        "-noout",
        "-text",
        "-crlnumber",
    ]);
    let serial = bad.facts.serial.to_string().to_uppercase();
    for expected in [serial.as_str(), "Key Compromise", "crlNumber=0x"] {
        assert!(shown.contains(expected), "{expected} in {shown}");
    }
    for (issued, accepted) in [(&bad, false), (&good, true)] {
        let verify = [
            "pki",
            "--dir",
            text(&dir),
            "verify",
            text(&issued.certificate),
        ];
        let (ok, said) = portcullis(&verify);
        assert_eq!(ok, accepted, "{said}");
        assert_eq!(said.contains("revoked"), !accepted, "{said}");
    }
    // nor is the good one good for another role
    let (ok, _) = portcullis(&[
        "pki",
        "--dir",
        text(&dir),
        "verify",
        text(&good.certificate),
        "--as",
        "acceptor",
    ]);
    assert!(!ok);
    let _unused = authority.revoke("good", Reason::Superseded).unwrap();
    assert!(!judge(&authority, &good.certificate).0);
}

#[test]
fn a_self_signed_certificate_is_a_leaf_that_signs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::init(&folder.path().join("pki"), InitOptions::default()).unwrap();
    for algorithm in ALGORITHMS {
        let request = IssueRequest {
            self_signed: true,
            force: true,
            algorithm,
            ..IssueRequest::new(Role::Acceptor, "partner").san("partner.example")
        };
        let issued = authority.issue(&request).unwrap();
        let path = text(&issued.certificate);
        let shown = openssl(&["x509", "-in", path, "-noout", "-text"]);
        assert!(
            shown.contains("CA:FALSE") && !shown.contains("CA:TRUE"),
            "{shown}"
        );
        openssl(&["verify", "-CAfile", path, "-partial_chain", path]);
        assert!(!judge(&authority, &issued.certificate).0);
    }
}

#[test]
fn encrypted_keys_open_in_openssl_with_their_passphrase() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    portcullis::pki::store::write_file(&secret, b"correct horse\n", 0o600).unwrap();
    let dir = folder.path().join("pki");
    let (dir, secret) = (text(&dir), text(&secret));
    let (ok, said) = portcullis(&["pki", "init", "--dir", dir, "--passphrase-file", secret]);
    assert!(ok, "{said}");
    let key = format!("{dir}/root/ca.key");
    let source = format!("file:{secret}");
    openssl(&["pkey", "-in", &key, "-noout", "-passin", &source]);
    assert!(
        !run(
            "openssl",
            &["pkey", "-in", &key, "-noout", "-passin", "pass:wrong"]
        )
        .0
    );
    let issue = ["pki", "issue", "gateway", "edge-1", "--dir", dir];
    assert!(!portcullis(&issue).0);
    let with = [&issue[..], &["--passphrase-file", secret]].concat();
    let (ok, said) = portcullis(&with);
    assert!(ok, "{said}");
}

#[test]
fn two_processes_at_once_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("pki");
    Authority::init(&dir, InitOptions::default()).unwrap();
    let children: Vec<_> = (0..6)
        .map(|n| {
            Command::new(env!("CARGO_BIN_EXE_portcullis"))
                .args([
                    "pki",
                    "issue",
                    "client",
                    &format!("c{n}"),
                    "--dir",
                    text(&dir),
                ])
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let (_, listed) = portcullis(&["pki", "list", "--json", "--dir", text(&dir)]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["schema"], 1);
    assert_eq!(listed["certificates"].as_array().unwrap().len(), 6);
}

#[test]
fn install_places_whole_files_with_their_modes() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::init(&folder.path().join("pki"), InitOptions::default()).unwrap();
    let issued = authority
        .issue(&IssueRequest::new(Role::Gateway, "edge-1"))
        .unwrap();
    let to: PathBuf = folder.path().join("etc");
    let (ok, said) = portcullis(&["pki", "install", text(&issued.folder), "--to", text(&to)]);
    assert!(ok, "{said}");
    for (name, mode) in [
        ("cert.pem", 0o644),
        ("key.pem", 0o600),
        ("trust.pem", 0o644),
        ("crl.pem", 0o644),
    ] {
        let metadata = to.join(name).metadata().unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{name}");
    }
    assert_eq!(std::fs::read_dir(&to).unwrap().count(), 4, "no leftovers");
    let (ok, said) = portcullis(&[
        "pki",
        "install",
        text(&issued.folder),
        "--to",
        text(&to),
        "--owner",
        "no-such-user",
    ]);
    assert!(!ok && said.contains("no user"), "{said}");
}
