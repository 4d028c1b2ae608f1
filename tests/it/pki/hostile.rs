//! Requests that ask for what nobody may have, and disks that take no more, through the program.

use std::{fmt::Write as _, path::Path};

use super::{judge, openssl, portcullis, run, text};
use portcullis::pki::{Authority, InitOptions, IssueRequest, Role};

/// An authority for names below `.internal`, and a key that is not its own.
struct Place {
    home: tempfile::TempDir,
    authority: Authority,
}

impl Place {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let options = InitOptions {
            permit_dns: vec![".internal".to_owned()],
            permit_ip: vec!["10.0.0.0/8".to_owned()],
            ..InitOptions::default()
        };
        let authority = Authority::init(&home.path().join("pki"), options).unwrap();
        let place = Self { home, authority };
        openssl(&[
            "genpkey",
            "-algorithm",
            "ED25519",
            "-out",
            &place.path("key"),
        ]);
        place
    }

    fn path(&self, name: &str) -> String {
        text(&self.home.path().join(name)).to_owned()
    }

    /// Has a request signed that OpenSSL makes of these.
    fn sign(&self, common: &str, extensions: &[&str], more: &[&str]) -> (bool, String) {
        let mut config = "[req]\ndistinguished_name=dn\nprompt=no\n".to_owned();
        if !extensions.is_empty() {
            config += "req_extensions=e\n";
        }
        let _infallible = write!(
            config,
            "[dn]\nCN={common}\n[e]\n{}\n",
            extensions.join("\n")
        );
        let (file, csr) = (self.path("req.cnf"), self.path("req.csr"));
        portcullis::pki::store::write_file(Path::new(&file), config.as_bytes(), 0o600).unwrap();
        let key = self.path("key");
        openssl(&["req", "-new", "-key", &key, "-config", &file, "-out", &csr]);
        let dir = ["--dir", text(self.authority.folder())];
        portcullis(&[&["pki", "sign", &csr, "--force"], more, &dir].concat())
    }
}

/// Common name, subject alternative names (`~` is our trust domain), and what the refusal says.
const REFUSED: [(&str, &str, &str); 28] = [
    ("x", "URI:~/gateway/.x", "\".x\""),
    ("x", "URI:~/gateway/..", "dot segment"),
    ("x", "URI:~/gateway/x/.", "dot segment"),
    ("x", "URI:~/gateway/", "empty segment"),
    ("x", "URI:~//gateway/x", "empty segment"),
    ("x", "URI:~/gateway/%2e%2e", "%2e%2e"),
    ("x", "URI:spiffe://Example.internal/gateway/x", "lower-case"),
    (
        "x",
        "URI:spiffe://b.test/gateway/x",
        "spiffe://b.test/gateway/x",
    ),
    (
        "gateway/x",
        "URI:spiffe://b.test/gateway/x",
        "spiffe://b.test/gateway/x",
    ),
    ("gateway/x", "URI:~/gateway/x,URI:~/gateway/y", "gateway/y"),
    ("gateway/x", "URI:~/acceptor/x", "acceptor/x"),
    (
        "gateway/x",
        "URI:https://x.internal/",
        "https://x.internal/",
    ),
    ("gateway/.", "", "dot segment"),
    ("gateway/..", "", "dot segment"),
    ("gateway/.x", "", "\".x\""),
    ("gateway/../x", "", "slash"),
    ("gateway/a b", "", "\"a b\""),
    ("gateway/", "", "empty segment"),
    (
        "acceptor/x",
        "DNS:www.example.com",
        "permit www.example.com",
    ),
    (
        "acceptor/x",
        "DNS:a.internal,DNS:internal",
        "permit internal",
    ),
    ("acceptor/x", "DNS:*", "DNS:*"),
    ("acceptor/x", "DNS:a.*.internal", "DNS:a.*.internal"),
    ("acceptor/x", "IP:192.0.2.1", "permit 192.0.2.1"),
    ("acceptor/x", "IP:fd00::1", "permit fd00::1"),
    ("acceptor/x", "email:a@b.internal", "a@b.internal"),
    ("acceptor/x", "RID:1.2.3.4", "1.2.3.4"),
    ("acceptor/x", "otherName:1.2.3.4;UTF8:x", "1.2.3.4"),
    ("acceptor/x", "dirName:dn", "acceptor/x"),
];

#[test]
fn names_that_nobody_may_have_are_refused_by_name() {
    let place = Place::new();
    let long = format!("URI:~/gateway/{}", "a".repeat(200));
    let long = ("x", &*long, "longer than 128");
    for (common, names, said) in REFUSED.into_iter().chain([long]) {
        let names = names.replace('~', "spiffe://example.internal");
        let san = format!("subjectAltName={names}");
        let extensions = if names.is_empty() { &[][..] } else { &[&*san] };
        let (ok, heard) = place.sign(common, extensions, &[]);
        assert!(!ok && heard.contains(said), "{common} {names}: {heard}");
        // whoever says which role and name does not get it past either
        let (ok, heard) = place.sign("x", extensions, &["--role", "gateway", "--name", common]);
        assert!(!ok, "{common} {names}: {heard}");
    }
    assert!(place.authority.records().unwrap().is_empty());
    // one leading wildcard label within the constraints is a name like any other
    let (ok, heard) = place.sign("acceptor/x", &["subjectAltName=DNS:*.a.internal"], &[]);
    assert!(ok, "{heard}");
}

#[test]
fn extensions_that_are_asked_for_are_named_and_left_out() {
    let place = Place::new();
    let asked = [
        "basicConstraints=critical,CA:TRUE,pathlen:3",
        "keyUsage=critical,keyCertSign,cRLSign",
        "extendedKeyUsage=serverAuth,codeSigning,anyExtendedKeyUsage",
        "nameConstraints=critical,permitted;DNS:example.com",
        "certificatePolicies=1.2.3.4",
        "tlsfeature=status_request",
        "1.3.6.1.4.1.99999.1=critical,ASN1:UTF8String:hello",
    ];
    let (ok, said) = place.sign("gateway/greedy", &asked, &[]);
    assert!(ok, "{said}");
    for what in [
        "to be a CA",
        "key usage",
        "extended key usage",
        "2.5.29.30",
        "2.5.29.32",
    ] {
        assert!(said.contains(what), "{what}: {said}");
    }
    for oid in ["1.3.6.1.5.5.7.1.24", "1.3.6.1.4.1.99999.1"] {
        assert!(said.contains(oid), "{oid}: {said}");
    }
    let folder = place.authority.certificate_folder(Role::Gateway, "greedy");
    let certificate = folder.join("cert.pem");
    let shown = openssl(&["x509", "-in", text(&certificate), "-noout", "-text"]);
    for what in [
        "CA:FALSE",
        "Digital Signature",
        "TLS Web Client Authentication",
    ] {
        assert!(shown.contains(what), "{what}: {shown}");
    }
    for what in [
        "Sign,",
        "Code",
        "Any",
        "Server Auth",
        "Policies",
        "Constraints: critical\n                Permitted",
        "hello",
        "TLS Feature",
        "status_request",
    ] {
        assert!(!shown.contains(&format!(" {what}")), "{what}: {shown}");
    }
    let (ok, said) = judge(&place.authority, &certificate);
    assert!(ok, "{said}");
}

#[test]
fn a_limit_on_file_sizes_is_an_error_and_leaves_the_store_as_it_was() {
    let place = Place::new();
    for at in 0..3 {
        let name = format!("edge-{at}");
        let request = IssueRequest::new(Role::Gateway, &name);
        place.authority.issue(&request).unwrap();
    }
    let folder = place.authority.folder();
    // a file that waited for its place, perhaps a key, goes too
    let files = || {
        let (ok, all) = run("find", &[text(folder), "-type", "f"]);
        assert!(ok, "{all}");
        let mut all: Vec<_> = all.lines().map(str::to_owned).collect();
        all.sort();
        (all, std::fs::read(folder.join("state/state.json")).unwrap())
    };
    let before = files();
    let dir = text(folder);
    let limited = |command: &str| {
        let binary = env!("CARGO_BIN_EXE_portcullis");
        run(
            "sh",
            &[
                "-c",
                &format!("ulimit -f 2; {binary} pki {command} --dir '{dir}'"),
            ],
        )
    };
    for command in ["issue client anna", "revoke edge-1", "renew edge-2 --rekey"] {
        let (ok, said) = limited(command);
        assert!(!ok, "{command}: {said}");
        assert!(
            said.contains("can't write") && said.contains("File too large"),
            "{command}: {said}"
        );
        assert_eq!(files(), before, "{command}");
    }
    let (ok, said) = portcullis(&["pki", "issue", "client", "anna", "--dir", dir]);
    assert!(ok, "{said}");
}
