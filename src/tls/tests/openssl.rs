//! Material and peers of another make: what openssl writes loads, and its client is judged right.

use std::{path::PathBuf, process::Command};

use super::mint::*;
use crate::{
    admit::{Denial, Proof},
    config::{Revocation, SecretRef},
    net::Buffered,
    tls::{LinkRole, ServerTls, Usage, accept, edge::EdgeMaterial},
};

/// Runs openssl in the folder; it must be there and succeed.
#[track_caller]
fn openssl(folder: &Folder, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(folder.path())
        .output()
        .expect("openssl is needed by this test");
    assert!(
        output.status.success(),
        "openssl {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn private(folder: &Folder, name: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.path().join(name);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path
}

#[test]
fn its_key_formats_load() {
    let folder = Folder::new();
    for (name, make) in [
        ("pkcs1.key", "genrsa -traditional -out pkcs1.key 2048"),
        ("pkcs8.key", "genrsa -out pkcs8.key 2048"),
        ("sec1.key", "ecparam -name prime256v1 -genkey -out sec1.key"),
        (
            "ec8.key",
            "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out ec8.key",
        ),
        ("ed.key", "genpkey -algorithm ed25519 -out ed.key"),
        (
            "locked.key",
            "genpkey -algorithm ed25519 -aes-256-cbc -pass pass:abc -out locked.key",
        ),
    ] {
        openssl(&folder, make);
        openssl(
            &folder,
            &format!("req -x509 -key {name} -passin pass:abc -subj /CN=x -days 3 -out {name}.pem"),
        );
        let key = private(&folder, name);
        let passphrase = SecretRef::File(folder.write("pass", "abc\n"));
        let loaded = EdgeMaterial::load_parts(
            [(
                folder.path().join(format!("{name}.pem")).as_path(),
                key.as_path(),
                Some(&passphrase),
            )],
            None,
            &options(),
            None,
            now(),
        );
        assert!(loaded.is_ok(), "{name}: {loaded:#?}");
    }
    openssl(
        &folder,
        "rsa -in pkcs1.key -traditional -aes128 -passout pass:abc -out old.key",
    );
    let found = crate::tls::material::load_key(&private(&folder, "old.key"), None).unwrap_err();
    assert!(
        found.to_string().contains("openssl pkcs8 -topk8"),
        "{found}"
    );
}

#[test]
fn a_key_whose_proof_no_handshake_takes_is_refused_with_its_certificate() {
    let folder = Folder::new();
    openssl(
        &folder,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout root.key -out root.pem -subj /CN=root -days 3 -addext keyUsage=critical,keyCertSign",
    );
    let own = Ca::root("own");
    let mut identity =
        folder.identity("acceptor", &own.leaf(server("acceptor.internal")), &[], &[]);
    identity.trust = Some(folder.path().join("root.pem"));
    folder.write(
        "ext",
        "extendedKeyUsage=clientAuth\nsubjectAltName=DNS:edge.internal\n",
    );
    for (key, fine, named) in [
        ("rsa -pkeyopt rsa_keygen_bits:1024", false, "RSA 1024"),
        ("rsa -pkeyopt rsa_keygen_bits:2047", false, "RSA 2047"),
        ("rsa -pkeyopt rsa_keygen_bits:2048", true, "RSA 2048"),
        (
            "rsa-pss -pkeyopt rsa_keygen_bits:2048",
            false,
            "1.2.840.113549.1.1.10",
        ),
        (
            "ec -pkeyopt ec_paramgen_curve:prime192v1",
            false,
            "1.2.840.10045.3.1.1",
        ),
        (
            "ec -pkeyopt ec_paramgen_curve:secp256k1",
            false,
            "1.3.132.0.10",
        ),
        (
            "ec -pkeyopt ec_paramgen_curve:secp521r1",
            true,
            "ECDSA P-521",
        ),
        ("ed25519", true, "Ed25519"),
        ("ed448", false, "1.3.101.113"),
    ] {
        openssl(
            &folder,
            &format!("req -new -newkey {key} -nodes -keyout leaf.key -out leaf.csr -subj /CN=edge"),
        );
        openssl(
            &folder,
            "x509 -req -in leaf.csr -CA root.pem -CAkey root.key -extfile ext -days 2 -out leaf.pem",
        );
        let chain = crate::tls::material::load_chain(&folder.path().join("leaf.pem")).unwrap();
        let generation = load(&identity, LinkRole::Acceptor).unwrap();
        let proven = generation
            .verification
            .prove(&chain[0], &[], Usage::ClientAuth, now());
        match proven {
            Ok(peer) => assert!(fine && peer.leaf.key == named, "{key}: {}", peer.leaf.key),
            Err(denied) => {
                assert!(!fine, "{key}: {denied}");
                assert_eq!(denied.reason, Denial::CertificateInvalid, "{denied}");
                assert!(denied.detail.contains(named), "{denied}");
            }
        }
        // pinned, such a certificate would let nobody in either
        let mut pinning = identity.clone();
        pinning.pinned = vec![folder.path().join("leaf.pem")];
        assert_eq!(load(&pinning, LinkRole::Acceptor).is_ok(), fine, "{key}");
    }
}

/// An acceptor that pins what `openssl req -x509` made, on a real socket, and what s_client gets.
async fn meet_s_client(
    server: &ServerTls,
    folder: &Folder,
    arguments: &str,
) -> (Result<Proof, Denial>, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut command = Command::new("openssl");
    command
        .args([
            "s_client",
            "-ign_eof",
            "-connect",
            &format!("127.0.0.1:{port}"),
        ])
        .args(arguments.split_whitespace())
        .current_dir(folder.path())
        .stdin(std::process::Stdio::null());
    let client = tokio::task::spawn_blocking(move || command.output().unwrap());
    let (socket, _) = listener.accept().await.unwrap();
    let accepted = accept(Buffered::new(socket), server, anybody()).await;
    let outcome = match accepted {
        Ok(mut accepted) => {
            use tokio::io::AsyncWriteExt;
            accepted.stream.write_all(b"welcome\n").await.unwrap();
            accepted.stream.shutdown().await.unwrap();
            Ok(accepted.peer.unwrap().proof.clone())
        }
        Err(denied) => Err(denied.reason),
    };
    let output = client.await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (outcome, String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test]
async fn its_self_signed_certificate_works_as_a_pin_and_as_nothing_else() {
    let folder = Folder::new();
    for name in ["partner", "other"] {
        openssl(
            &folder,
            &format!(
                "req -x509 -newkey rsa:2048 -nodes -keyout {name}.key -subj /CN={name} -days 3 -out {name}.pem"
            ),
        );
    }
    openssl(
        &folder,
        "req -newkey rsa:2048 -nodes -keyout minted.key -subj /CN=minted -out minted.csr",
    );
    folder.write("minted.ext", "extendedKeyUsage=clientAuth\n");
    let sign =
        "x509 -req -in minted.csr -CA partner.pem -CAkey partner.key -CAcreateserial -days 3";
    openssl(
        &folder,
        &format!("{sign} -extfile minted.ext -out minted.pem"),
    );
    // without extensions it is of version 1
    openssl(&folder, &format!("{sign} -out v1.pem"));
    let ca = Ca::root("root");
    let own = ca.leaf(server("legacy.internal"));
    let mut identity = folder.identity("acceptor", &own, &[], &[&ca]);
    identity.pinned = vec![folder.path().join("partner.pem")];
    let generation = load(&identity, LinkRole::Acceptor).unwrap();
    assert!(
        generation
            .verification
            .pins()
            .all(|pin| pin.is_ca && !pin.usage.present)
    );
    let server = ServerTls::link(&generation, &options()).unwrap();

    let (outcome, said) =
        meet_s_client(&server, &folder, "-cert partner.pem -key partner.key").await;
    assert_eq!(outcome, Ok(Proof::Pinned), "{said}");
    assert!(said.contains("welcome"), "{said}");

    for (arguments, reason, alert) in [
        (
            "-cert other.pem -key other.key",
            Denial::CertificateUnknownIssuer,
            "unknown ca",
        ),
        (
            "-cert minted.pem -key minted.key",
            Denial::CertificateUnknownIssuer,
            "unknown ca",
        ),
        (
            "-cert minted.pem -key minted.key -cert_chain partner.pem",
            Denial::CertificateUnknownIssuer,
            "unknown ca",
        ),
        (
            "-cert v1.pem -key minted.key",
            Denial::CertificateInvalid,
            "bad certificate",
        ),
        ("", Denial::CertificateMissing, "certificate required"),
        (
            "-tls1_2 -cert partner.pem -key partner.key",
            Denial::NoSharedTls,
            "protocol version",
        ),
    ] {
        let (outcome, said) = meet_s_client(&server, &folder, arguments).await;
        assert_eq!(outcome, Err(reason), "{arguments}: {said}");
        assert!(said.contains(alert), "{arguments}: {said}");
    }
}

#[test]
fn its_crls_are_read() {
    let folder = Folder::new();
    folder.write("index.txt", "");
    folder.write("number", "0a\n");
    folder.write(
        "ca.cnf",
        "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\ncrlnumber=number\ndefault_md=sha256\ndefault_crl_days=5\ncrl_extensions=e\n[e]\nauthorityKeyIdentifier=keyid\n",
    );
    openssl(
        &folder,
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -subj /O=Corp/CN=ca -days 30 -out ca.pem",
    );
    openssl(
        &folder,
        "req -newkey rsa:2048 -nodes -keyout leaf.key -subj /CN=leaf -out leaf.csr",
    );
    folder.write(
        "leaf.ext",
        "extendedKeyUsage=clientAuth\nsubjectAltName=DNS:leaf.internal\n",
    );
    openssl(
        &folder,
        "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -set_serial 0x00ff01 -days 3 -extfile leaf.ext -out leaf.pem",
    );
    let make = "ca -config ca.cnf -gencrl -keyfile ca.key -cert ca.pem -out";
    openssl(&folder, &format!("{make} before.crl"));
    openssl(
        &folder,
        "ca -config ca.cnf -revoke leaf.pem -keyfile ca.key -cert ca.pem -crl_reason superseded",
    );
    openssl(&folder, &format!("{make} after.crl"));
    openssl(&folder, "crl -in after.crl -outform der -out after.der");

    let plain = std::fs::read_to_string(folder.path().join("ca.cnf")).unwrap();
    let part = "issuingDistributionPoint=critical,@part\n[part]\nonlyuser=TRUE\n";
    folder.write("ca.cnf", format!("{plain}{part}"));
    openssl(&folder, &format!("{make} part.crl"));

    let ca = Ca::root("root");
    let own = ca.leaf(server("legacy.internal"));
    let mut identity = folder.identity("acceptor", &own, &[], &[&ca]);
    identity.trust = Some(folder.path().join("ca.pem"));
    identity.revocation = Some(Revocation {
        files: vec![folder.path().join("part.crl")],
        tolerate_expired: false,
        leaf_only: false,
    });
    let said = format!("{:?}", load(&identity, LinkRole::Acceptor).unwrap_err());
    assert!(
        said.contains("expected a list of all certificates"),
        "{said}"
    );
    let leaf = crate::tls::material::load_chain(&folder.path().join("leaf.pem")).unwrap();
    for (files, revoked) in [
        (vec!["before.crl"], false),
        (vec!["after.crl"], true),
        (vec!["after.der"], true),
        (vec!["before.crl", "after.der"], true),
    ] {
        identity.revocation = Some(Revocation {
            files: files.iter().map(|f| folder.path().join(f)).collect(),
            tolerate_expired: false,
            leaf_only: false,
        });
        let generation = load(&identity, LinkRole::Acceptor).unwrap();
        let proven = generation
            .verification
            .prove(&leaf[0], &[], Usage::ClientAuth, now());
        let reason = proven.err().map(|d| d.reason);
        assert_eq!(
            reason,
            revoked.then_some(Denial::CertificateRevoked),
            "{files:?}"
        );
    }
}
