//! Requests, renewals and what `list` says of them, through the program and judged by OpenSSL.

use std::os::unix::fs::PermissionsExt as _;

use super::{judge, openssl, portcullis, run, text};
use portcullis::pki::{Authority, InitOptions, IssueRequest, Role};

/// An authority, and the folder of another host.
struct Place {
    home: tempfile::TempDir,
    authority: Authority,
}

impl Place {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let authority = Authority::init(&home.path().join("pki"), InitOptions::default()).unwrap();
        Self { home, authority }
    }

    fn path(&self, name: &str) -> String {
        text(&self.home.path().join(name)).to_owned()
    }

    fn pki(&self, arguments: &[&str]) -> (bool, String) {
        let dir = ["--dir", text(self.authority.folder())];
        portcullis(&[&["pki"], arguments, &dir].concat())
    }

    fn done(&self, arguments: &[&str]) -> String {
        let (ok, said) = self.pki(arguments);
        assert!(ok, "{arguments:?}: {said}");
        said
    }

    fn refused(&self, arguments: &[&str]) -> String {
        let (ok, said) = self.pki(arguments);
        assert!(!ok, "{arguments:?}: {said}");
        said
    }
}

fn public(of: &str, path: &str) -> String {
    match of {
        "x509" => openssl(&["x509", "-in", path, "-noout", "-pubkey"]),
        _ => openssl(&["pkey", "-in", path, "-pubout"]),
    }
}

#[test]
fn a_key_never_leaves_the_host_that_asked() {
    let place = Place::new();
    let host = place.path("host");
    let ask = [
        "pki",
        "request",
        "acceptor",
        "legacy",
        "--san",
        "legacy.internal",
        "--out",
        &host,
    ];
    let (ok, said) = portcullis(&ask);
    assert!(ok, "{said}");
    let (key, csr) = (format!("{host}/key.pem"), format!("{host}/legacy.csr"));
    let mode = std::fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let shown = openssl(&["req", "-in", &csr, "-noout", "-verify", "-text"]);
    for expected in ["verify OK", "acceptor/legacy", "DNS:legacy.internal"] {
        assert!(shown.contains(expected), "{expected} in {shown}");
    }
    // again: the key stays, the request is for it
    let before = std::fs::read(&key).unwrap();
    let (ok, said) = portcullis(&ask);
    assert!(ok && said.contains("kept"), "{said}");
    assert_eq!(std::fs::read(&key).unwrap(), before);

    place.done(&["sign", &csr]);
    let folder = place.authority.certificate_folder(Role::Acceptor, "legacy");
    let certificate = folder.join("cert.pem");
    let (ok, said) = judge(&place.authority, &certificate);
    assert!(ok, "{said}");
    assert!(!folder.join("key.pem").exists());
    assert_eq!(public("x509", text(&certificate)), public("pkey", &key));
    let said = place.refused(&["sign", &csr]);
    assert!(said.contains("--force"), "{said}");

    // to the host it goes without a key, over what is there
    let (ok, said) = portcullis(&["pki", "install", text(&folder), "--to", &host]);
    assert!(ok, "{said}");
    assert_eq!(std::fs::read(&key).unwrap(), before);
    // and is renewed without one
    place.done(&["renew", "legacy"]);
    assert_eq!(public("x509", text(&certificate)), public("pkey", &key));
    let said = place.refused(&["renew", "legacy", "--rekey"]);
    assert!(said.contains("portcullis pki request"), "{said}");
}

#[test]
fn a_key_that_lies_where_its_certificate_goes_is_left_there() {
    let place = Place::new();
    let folder = place.authority.certificate_folder(Role::Gateway, "edge-1");
    let (key, csr) = (folder.join("key.pem"), folder.join("edge-1.csr"));
    let (ok, said) = portcullis(&[
        "pki",
        "request",
        "gateway",
        "edge-1",
        "--out",
        text(&folder),
    ]);
    assert!(ok, "{said}");
    let before = std::fs::read(&key).unwrap();
    place.done(&["sign", text(&csr)]);
    place.done(&["sign", text(&csr), "--force"]);
    place.done(&["renew", "edge-1"]);
    assert_eq!(std::fs::read(&key).unwrap(), before);
    // another's would never fit
    let host = place.path("host");
    let (ok, said) = portcullis(&["pki", "request", "gateway", "edge-1", "--out", &host]);
    assert!(ok, "{said}");
    place.refused(&["sign", &format!("{host}/edge-1.csr")]);
    place.done(&["sign", &format!("{host}/edge-1.csr"), "--force"]);
    assert!(!key.exists());
}

#[test]
fn openssls_requests_are_signed_for_every_key_that_peers_take() {
    let place = Place::new();
    for (name, key) in [
        ("rsa-2048", &["-newkey", "rsa:2048"][..]),
        ("rsa-4096", &["-newkey", "rsa:4096"]),
        (
            "p-256",
            &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
        ),
        (
            "p-384",
            &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"],
        ),
        ("ed25519", &["-newkey", "ed25519"]),
    ] {
        let (key_file, csr) = (
            place.path(&format!("{name}.key")),
            place.path(&format!("{name}.csr")),
        );
        let common = format!("/CN={name}");
        let head = [
            "req", "-new", "-nodes", "-keyout", &key_file, "-out", &csr, "-subj", &common,
        ];
        let names = ["-addext", "subjectAltName=DNS:web.internal,IP:10.1.2.3"];
        openssl(&[&head[..], key, &names].concat());
        place.done(&["sign", &csr, "--role", "server"]);
        let folder = place.authority.certificate_folder(Role::Server, name);
        let (ok, said) = judge(&place.authority, &folder.join("cert.pem"));
        assert!(ok, "{name}: {said}");
        let certificate = folder.join("cert.pem");
        assert_eq!(
            public("x509", text(&certificate)),
            public("pkey", &key_file)
        );
    }
    // weak, odd, or with more than a role may have
    for (name, options, word) in [
        ("weak", &["-newkey", "rsa:1024"][..], "RSA of 1024 bits"),
        (
            "odd",
            &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"],
            "expected ECDSA P-256",
        ),
        (
            "mail",
            &[
                "-newkey",
                "ed25519",
                "-addext",
                "subjectAltName=email:a@b.example",
            ],
            "a@b.example",
        ),
    ] {
        let (key_file, csr) = (place.path("k"), place.path(&format!("{name}.csr")));
        let head = [
            "req", "-new", "-nodes", "-keyout", &key_file, "-out", &csr, "-subj", "/CN=x",
        ];
        openssl(&[&head[..], options].concat());
        let said = place.refused(&["sign", &csr, "--role", "client"]);
        assert!(said.contains(word) && said.contains(&csr), "{said}");
    }
}

#[test]
fn extensions_are_asked_for_in_vain() {
    let place = Place::new();
    let (key_file, csr) = (place.path("k"), place.path("ca.csr"));
    openssl(&[
        "req",
        "-new",
        "-nodes",
        "-newkey",
        "ed25519",
        "-keyout",
        &key_file,
        "-out",
        &csr,
        "-subj",
        "/CN=greedy",
        "-addext",
        "basicConstraints=critical,CA:TRUE",
        "-addext",
        "keyUsage=keyCertSign",
    ]);
    let said = place.done(&["sign", &csr, "--role", "client"]);
    assert!(said.contains("asks to be a CA"), "{said}");
    let certificate = place
        .authority
        .certificate_folder(Role::Client, "greedy")
        .join("cert.pem");
    let shown = openssl(&["x509", "-in", text(&certificate), "-noout", "-text"]);
    assert!(
        shown.contains("CA:FALSE") && !shown.contains("Certificate Sign"),
        "{shown}"
    );
}

#[test]
fn everything_but_the_roots_own_business_works_without_the_root() {
    let place = Place::new();
    std::fs::rename(
        place.authority.folder().join("root"),
        place.home.path().join("safe"),
    )
    .unwrap();
    place.done(&["issue", "gateway", "edge-1"]);
    place.done(&["renew", "--all", "--within", "400d", "--rekey"]);
    let host = place.path("host");
    let (ok, said) = portcullis(&["pki", "request", "client", "anna", "--out", &host]);
    assert!(ok, "{said}");
    place.done(&["sign", &format!("{host}/anna.csr")]);
    place.done(&["revoke", "anna"]);
    let said = place.done(&["crl"]);
    assert!(said.contains("the root's is kept"), "{said}");
    place.done(&["list"]);
    let leaf = place
        .authority
        .certificate_folder(Role::Gateway, "edge-1")
        .join("cert.pem");
    place.done(&["verify", text(&leaf)]);
    let (ok, said) = judge(&place.authority, &leaf);
    assert!(ok, "{said}");
    // what is its business says so
    let list: serde_json::Value = serde_json::from_str(&place.done(&["list", "--json"])).unwrap();
    let issuing = list["authorities"][1]["serial"].as_str().unwrap();
    let said = place.refused(&["revoke", issuing]);
    assert!(
        said.contains("root/ca.key") && said.contains("put it back"),
        "{said}"
    );
    std::fs::rename(
        place.home.path().join("safe"),
        place.authority.folder().join("root"),
    )
    .unwrap();
    place.done(&["revoke", issuing]);
    let (ok, said) = judge(&place.authority, &leaf);
    assert!(!ok, "{said}");
    // its list is gone too: peers that look at leaves alone refuse them as well
    let crl = std::fs::read_to_string(place.authority.crl()).unwrap();
    assert_eq!(crl.matches("BEGIN X509 CRL").count(), 1);
    let said = place.refused(&["verify", text(&leaf)]);
    assert!(
        said.contains("issuing CA") && said.contains("is revoked since"),
        "{said}"
    );
    let said = place.refused(&["issue", "gateway", "edge-2"]);
    assert!(said.contains("pki rotate issuing"), "{said}");
}

#[test]
fn a_roots_list_is_spoken_of_sixty_days_ahead() {
    let place = Place::new();
    assert!(!place.done(&["list"]).contains("warning"));
    place.done(&["crl", "--root-days", "59"]);
    let said = place.done(&["list"]);
    assert!(said.contains("warning: the CRL of the root CA"), "{said}");
    assert!(said.contains("pki crl"), "{said}");
    // a timer writes it anew while the key is here
    let said = place.done(&["renew", "--all"]);
    assert!(said.contains("crl.pem"), "{said}");
    assert!(!place.done(&["list"]).contains("warning"));
    assert!(place.done(&["renew", "--all"]).contains("nothing is due"));
}

#[test]
fn a_process_killed_at_any_moment_leaves_pairs_that_fit() {
    let place = Place::new();
    for name in ["edge-1", "edge-2"] {
        place.done(&["issue", "gateway", name]);
    }
    let mut died = 0;
    for round in 0..40_u64 {
        let arguments = [
            "pki", "renew", "--all", "--within", "400d", "--rekey", "--dir",
        ];
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(arguments)
            .arg(place.authority.folder())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_micros(700 * round));
        drop(child.kill());
        died += usize::from(!child.wait().unwrap().success());
        place.done(&["list"]);
        for name in ["edge-1", "edge-2"] {
            let folder = place.authority.certificate_folder(Role::Gateway, name);
            let certificate = folder.join("cert.pem");
            let key = folder.join("key.pem");
            assert_eq!(
                public("x509", text(&certificate)),
                public("pkey", text(&key))
            );
            place.done(&["verify", text(&certificate)]);
        }
    }
    assert!(died > 3, "{died}");
}

#[test]
fn two_writers_never_issue_the_same_thing() {
    let place = Place::new();
    let start = |arguments: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["pki", "--dir", text(place.authority.folder())])
            .args(arguments)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let all = |arguments: &[&str]| {
        let children: Vec<_> = (0..6).map(|_| start(arguments)).collect();
        let ended = children.into_iter().map(|mut child| child.wait().unwrap());
        ended.filter(std::process::ExitStatus::success).count()
    };
    assert_eq!(all(&["issue", "client", "anna", "--days", "20"]), 1);
    assert_eq!(place.authority.records().unwrap().len(), 1);
    // timers that meet: the first renews for 90 days, the others find nothing due
    assert_eq!(
        all(&["renew", "--all", "--within", "30d", "--days", "90"]),
        6
    );
    let records = place.authority.records().unwrap();
    assert_eq!(records.len(), 2);
    let audit = place.authority.folder().join("state/audit.log");
    let audit = std::fs::read_to_string(audit).unwrap();
    for (act, record) in ["issue", "renew"].iter().zip(&records) {
        let line = audit
            .lines()
            .find(|line| line.contains(&format!(" {act} ")));
        assert!(line.unwrap().contains(&record.serial), "{audit}");
    }
}

/// The page that says what the fields mean.
const PAGE: &str = include_str!("../../../docs/reference/pki-list.md");

/// Values that differ each time, as what they are.
fn shape(value: &serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), shape(v))).collect(),
        Value::Array(list) => list.iter().map(shape).collect(),
        Value::String(text) => {
            let hex = |text: &str| text.len() > 30 && text.bytes().all(|b| b.is_ascii_hexdigit());
            let end = text.len().saturating_sub(8);
            Value::String(match text.strip_prefix("sha256:") {
                Some(digest) if hex(digest) => "sha256:HEX".to_owned(),
                _ if hex(text) => "HEX".to_owned(),
                _ if text.ends_with('Z') && text.contains('T') => "TIME".to_owned(),
                _ if text.contains(" CA ") => text[..end].to_owned() + "TAG",
                _ => text.clone(),
            })
        }
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_)) => plain.clone(),
    }
}

#[test]
fn the_shape_of_the_list_is_the_one_that_is_described() {
    let place = Place::new();
    let request = IssueRequest::new(Role::Acceptor, "legacy").san("legacy.internal");
    place.authority.issue(&request).unwrap();
    place.done(&["renew", "legacy"]);
    let first = place.authority.records().unwrap()[0].serial.clone();
    let said = place.done(&["list"]);
    assert!(
        said.contains("superseded") && said.contains("in force"),
        "{said}"
    );
    place.done(&["revoke", &first, "--reason", "superseded"]);
    let listed: serde_json::Value = serde_json::from_str(&place.done(&["list", "--json"])).unwrap();
    let (_, example) = PAGE.split_once("```json\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let example: serde_json::Value = serde_json::from_str(example).unwrap();
    assert_eq!(
        format!("{:#}", shape(&listed)),
        format!("{:#}", shape(&example)),
        "docs/reference/pki-list.md"
    );
    // one serial, not the name
    assert_eq!(listed["certificates"][1]["standing"], "in force");
    assert_eq!(listed["certificates"][0]["revoked"]["reason"], "superseded");
    for (table, object) in [
        ("authorities", &listed["authorities"][0]),
        ("certificates", &listed["certificates"][0]),
    ] {
        let section = PAGE.split(&format!("## {table}\n")).nth(1).unwrap();
        let section = section.split("\n## ").next().unwrap();
        let described: std::collections::BTreeSet<&str> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        let there = object.as_object().unwrap().keys().map(String::as_str);
        assert_eq!(described, there.collect(), "{table}");
    }
}

#[test]
fn a_passphrase_comes_from_a_file_the_environment_or_the_service_manager() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("pki");
    let program = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["pki", "--dir", text(&dir)]).args(arguments);
        command.env("CA_WORD", "correct horse");
        command.env("CREDENTIALS_DIRECTORY", home.path());
        let done = command.output().unwrap();
        let said = [done.stdout, done.stderr].concat();
        (
            done.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    };
    let (ok, said) = program(&["init", "--passphrase", "env=CA_WORD"]);
    assert!(ok, "{said}");
    let key = std::fs::read_to_string(dir.join("issuing/ca.key")).unwrap();
    assert!(key.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
    let asn1 = openssl(&["asn1parse", "-in", text(&dir.join("issuing/ca.key"))]);
    assert!(asn1.contains("PBES2") && asn1.contains("scrypt"), "{asn1}");
    let (ok, said) = program(&["issue", "client", "anna"]);
    assert!(!ok && said.contains("encrypted"), "{said}");
    let secret = home.path().join("word");
    portcullis::pki::store::write_file(&secret, b"correct horse\n", 0o644).unwrap();
    let place = format!("file={}", text(&secret));
    let (ok, said) = program(&["issue", "client", "anna", "--passphrase", &place]);
    assert!(!ok && said.contains("chmod 600"), "{said}");
    let (ok, said) = program(&["issue", "client", "anna", "--passphrase", "credential=word"]);
    assert!(ok, "{said}");
    let (ok, said) = program(&["renew", "anna", "--rekey", "--passphrase", "env=CA_WORD"]);
    assert!(ok, "{said}");
    let (ok, said) = program(&["crl", "--passphrase", "correct horse"]);
    assert!(!ok && !said.contains("correct horse"), "{said}");
    let (ok, said) = program(&["crl", "--passphrase", "env=CA_WORD_NOT"]);
    assert!(!ok && said.contains("CA_WORD_NOT"), "{said}");
}

const UNITS: [&str; 2] = ["portcullis-pki-renew.service", "portcullis-pki-renew.timer"];

#[test]
fn the_timer_and_its_unit_verify_and_renew() {
    let folder = tempfile::tempdir().unwrap();
    let mut start = String::new();
    for unit in UNITS {
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("scripts/systemd")
            .join(unit);
        let ours = std::fs::read_to_string(source).unwrap().replace(
            "/usr/local/bin/portcullis",
            env!("CARGO_BIN_EXE_portcullis"),
        );
        portcullis::pki::store::write_file(&folder.path().join(unit), ours.as_bytes(), 0o644)
            .unwrap();
        if let Some(line) = ours
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart="))
        {
            start = line.to_owned();
        }
    }
    for unit in UNITS {
        let path = folder.path().join(unit);
        let (ok, said) = run("systemd-analyze", &["verify", text(&path)]);
        assert!(ok && said.trim().is_empty(), "{unit}: {said}");
    }
    let service = folder.path().join(UNITS[0]);
    let rated = [
        "security",
        "--offline=true",
        "--threshold=10",
        text(&service),
    ];
    let (ok, said) = run("systemd-analyze", &rated);
    assert!(ok, "{said}");
    // what it starts is a command that does it
    let place = Place::new();
    let mut request = IssueRequest::new(Role::Gateway, "edge-1");
    request.days = Some(20);
    place.authority.issue(&request).unwrap();
    let start = start.replace("/var/lib/portcullis-pki", text(place.authority.folder()));
    let words: Vec<&str> = start.split_whitespace().collect();
    let (ok, said) = run(words[0], &words[1..]);
    assert!(ok && said.contains("renewed gateway/edge-1"), "{said}");
}
