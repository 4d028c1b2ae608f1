//! Ours in others' stores: PKCS#12 judged by OpenSSL and Java.

use super::{ALGORITHMS, openssl, portcullis, run, text};
use portcullis::pki::{Authority, InitOptions, IssueRequest, Role, store::write_file};

const PASSWORD: &str = "changeit now";

/// An authority with a client for each kind of key, named for it.
struct Place {
    home: tempfile::TempDir,
    authority: Authority,
}

impl Place {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let authority = Authority::init(&home.path().join("pki"), InitOptions::default()).unwrap();
        for algorithm in ALGORITHMS {
            let request = IssueRequest {
                algorithm,
                ..IssueRequest::new(Role::Client, algorithm.as_str())
            };
            authority.issue(&request).unwrap();
        }
        write_file(&home.path().join("word"), PASSWORD.as_bytes(), 0o600).unwrap();
        Self { home, authority }
    }

    fn at(&self, name: &str) -> String {
        text(&self.home.path().join(name)).to_owned()
    }

    fn export(&self, name: &str, format: &str, out: &str) -> (bool, String) {
        let (dir, place) = (text(self.authority.folder()), self.at("word"));
        let password = format!("file={place}");
        let words = ["pki", "--dir", dir, "export", name, "--format", format];
        portcullis(&[&words[..], &["--out", out, "--password", &password]].concat())
    }
}

#[test]
fn a_pkcs12_file_opens_in_openssl_and_in_javas_keytool() {
    let place = Place::new();
    for algorithm in ALGORITHMS {
        let name = algorithm.as_str();
        let out = place.at(&format!("{name}.p12"));
        let (ok, said) = place.export(name, "pkcs12", &out);
        assert!(ok, "{said}");
        let word = format!("pass:{PASSWORD}");
        let opened = openssl(&["pkcs12", "-in", &out, "-passin", &word, "-nodes", "-info"]);
        let subject = format!("client/{name}");
        for expected in ["MAC: sha256", "PBES2, PBKDF2, AES-256-CBC", &subject] {
            assert!(opened.contains(expected), "{expected} in {opened}");
        }
        assert_eq!(opened.matches("BEGIN CERTIFICATE").count(), 2);
        let key = place.at("opened.key");
        write_file(std::path::Path::new(&key), opened.as_bytes(), 0o600).unwrap();
        let folder = place.authority.certificate_folder(Role::Client, name);
        let own = folder.join("key.pem");
        assert_eq!(
            openssl(&["pkey", "-in", &key, "-pubout"]),
            openssl(&["pkey", "-in", text(&own), "-pubout"])
        );
        let wrong = ["pkcs12", "-in", &out, "-passin", "pass:wrong one", "-nodes"];
        assert!(!run("openssl", &wrong).0);

        let from = ["-keystore", &out, "-storepass", PASSWORD];
        let list = ["-list", "-v", "-storetype", "PKCS12"];
        let (ok, said) = run("keytool", &[&list[..], &from].concat());
        assert!(ok, "{said}");
        for expected in ["PrivateKeyEntry", "Certificate chain length: 2", &subject] {
            assert!(said.contains(expected), "{expected} in {said}");
        }
        // the key itself, not its listing alone
        let again = place.at(&format!("{name}.again"));
        let from = [
            "-importkeystore",
            "-srckeystore",
            &out,
            "-srcstorepass",
            PASSWORD,
        ];
        let to = ["-destkeystore", &again, "-deststorepass", PASSWORD];
        let which = [
            "-srcalias",
            &subject,
            "-deststoretype",
            "PKCS12",
            "-noprompt",
        ];
        let (ok, said) = run("keytool", &[&from[..], &to, &which].concat());
        assert!(ok, "{said}");
    }
    let audit = place.authority.folder().join("state/audit.log");
    let audit = std::fs::read_to_string(audit).unwrap();
    assert_eq!(audit.matches(" export ").count(), ALGORITHMS.len());
}

#[test]
fn certificates_are_exported_alone_and_no_file_is_replaced_unasked() {
    let place = Place::new();
    for (format, inform) in [("pem", "PEM"), ("der", "DER")] {
        let out = place.at(format);
        let (ok, said) = place.export("ed25519", format, &out);
        assert!(ok, "{said}");
        let shown = openssl(&["x509", "-in", &out, "-inform", inform, "-noout", "-subject"]);
        assert!(shown.contains("client/ed25519"), "{shown}");
        assert!(
            !std::fs::read(&out)
                .unwrap()
                .windows(7)
                .any(|w| w == b"PRIVATE")
        );
        let (ok, said) = place.export("ed25519", format, &out);
        assert!(!ok && said.contains("--force"), "{said}");
    }
    // what programs would read in different ways is no password
    for word in ["short", "p\u{e4}ssword"] {
        let file = place.home.path().join("word");
        write_file(&file, word.as_bytes(), 0o600).unwrap();
        let (ok, said) = place.export("ed25519", "pkcs12", &place.at("no.p12"));
        assert!(!ok && said.contains("ASCII"), "{said}");
    }
}

#[test]
fn a_partner_gets_certificate_fingerprints_and_networks_in_one_file() {
    let place = Place::new();
    let (dir, out) = (text(place.authority.folder()), place.at("partner.txt"));
    let name = ALGORITHMS[0].as_str();
    let holder = format!("client/{name}");
    let export = |more: &[&str]| {
        let words = ["pki", "--dir", dir, "export", "partner", &holder];
        portcullis(&[&words[..], &["--out", &out], more].concat())
    };
    let (ok, said) = export(&[]);
    assert!(!ok && said.contains("--egress"), "{said}");
    let (ok, said) = export(&["--egress", "203.0.113.300"]);
    assert!(!ok && said.contains("expected a network"), "{said}");
    for all in ["0.0.0.0/0", "::/0", "0.0.0.0/1,128.0.0.0/1"] {
        let (ok, said) = export(&["--egress", all]);
        assert!(!ok && said.contains("everybody"), "{all}: {said}");
    }
    let (ok, said) = export(&["--egress", "203.0.113.4,2001:db8::/48"]);
    assert!(ok, "{said}");
    let sheet = std::fs::read_to_string(&out).unwrap();
    assert!(
        sheet.contains("connects from  203.0.113.4/32, 2001:db8::/48"),
        "{sheet}"
    );
    assert!(sheet.contains(&format!("spiffe://example.internal/{holder}")));
    assert!(!sheet.contains("PRIVATE KEY"));

    // what OpenSSL reads from it is the certificate, and the fingerprints are its
    let own = place
        .authority
        .certificate_folder(Role::Client, name)
        .join("cert.pem");
    let hex = |said: String| {
        let (_, hex) = said.trim().split_once('=').unwrap();
        hex.replace(':', "").to_lowercase()
    };
    let of = |file: &str| openssl(&["x509", "-in", file, "-noout", "-fingerprint", "-sha256"]);
    let fingerprint = hex(of(&out));
    assert_eq!(fingerprint, hex(of(text(&own))));
    assert!(
        sheet.contains(&format!("sha256         {fingerprint}")),
        "{sheet}"
    );
    // and the root in it verifies it
    let blocks: Vec<&str> = sheet.split("-----BEGIN").collect();
    assert_eq!(blocks.len(), 4, "leaf, issuer, root");
    let [issuer, root] = [(2, "issuer.pem"), (3, "root.pem")].map(|(block, name)| {
        let path = place.at(name);
        let pem = format!("-----BEGIN{}", blocks[block]);
        write_file(std::path::Path::new(&path), pem.as_bytes(), 0o600).unwrap();
        path
    });
    let said = openssl(&["verify", "-CAfile", &root, "-untrusted", &issuer, &out]);
    assert!(said.contains(": OK"), "{said}");
    // it is not replaced unasked
    let (ok, said) = export(&["--egress", "203.0.113.4"]);
    assert!(!ok && said.contains("--force"), "{said}");
}
