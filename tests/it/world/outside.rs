//! What others make and say: OpenSSL's and Java's certificates, OpenSSL's view of a handshake.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    process::{Command, Stdio},
};

use super::{Leaf, World, run, text};

/// A CA that none of ours knows, made by OpenSSL.
pub(crate) struct Stranger {
    pub(crate) certificate: std::path::PathBuf,
    pub(crate) key: std::path::PathBuf,
}

fn openssl(arguments: &[&str]) {
    let (ok, said) = run("openssl", arguments);
    assert!(ok, "openssl {arguments:?}: {said}");
}

impl World {
    /// `openssl req -x509` as everybody types it: CA:TRUE, and no names.
    pub(crate) fn self_signed(&self, name: &str) -> Leaf {
        let (certificate, key) = (
            self.path(&format!("{name}.pem")),
            self.path(&format!("{name}.key")),
        );
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "30",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            text(&key),
            "-out",
            text(&certificate),
        ]);
        private(&key);
        Leaf { certificate, key }
    }

    /// `keytool -genkeypair`: RSA, by way of PKCS#12.
    pub(crate) fn keytool(&self, name: &str) -> Leaf {
        let store = self.path(&format!("{name}.p12"));
        let (certificate, key) = (
            self.path(&format!("{name}.pem")),
            self.path(&format!("{name}.key")),
        );
        let (ok, said) = run(
            "keytool",
            &[
                "-genkeypair",
                "-alias",
                name,
                "-keyalg",
                "RSA",
                "-keysize",
                "2048",
                "-validity",
                "30",
                "-dname",
                &format!("CN={name}"),
                "-storetype",
                "PKCS12",
                "-keystore",
                text(&store),
                "-storepass",
                "changeit",
            ],
        );
        assert!(ok, "{said}");
        let from = ["pkcs12", "-in", text(&store), "-passin", "pass:changeit"];
        let mut certs = from.to_vec();
        certs.extend(["-nokeys", "-out", text(&certificate)]);
        openssl(&certs);
        let mut keys = from.to_vec();
        keys.extend(["-nocerts", "-nodes", "-out", text(&key)]);
        openssl(&keys);
        private(&key);
        Leaf { certificate, key }
    }

    /// A CA of somebody else's.
    pub(crate) fn stranger(&self, name: &str) -> Stranger {
        let Leaf { certificate, key } = self.self_signed(name);
        Stranger { certificate, key }
    }

    /// A leaf of that CA; `names` as OpenSSL writes them (`URI:spiffe://…,DNS:…`).
    pub(crate) fn signed_by(&self, ca: &Stranger, name: &str, names: &str) -> Leaf {
        let (certificate, key) = (
            self.path(&format!("{name}.pem")),
            self.path(&format!("{name}.key")),
        );
        let request = self.path(&format!("{name}.csr"));
        let extensions = self.write(
            &format!("{name}.ext"),
            &format!(
                "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n\
                 extendedKeyUsage=clientAuth,serverAuth\nsubjectAltName={names}\n"
            ),
        );
        openssl(&[
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            text(&key),
            "-out",
            text(&request),
        ]);
        openssl(&[
            "x509",
            "-req",
            "-in",
            text(&request),
            "-CA",
            text(&ca.certificate),
            "-CAkey",
            text(&ca.key),
            "-CAcreateserial",
            "-days",
            "30",
            "-extfile",
            text(&extensions),
            "-out",
            text(&certificate),
        ]);
        private(&key);
        Leaf { certificate, key }
    }

    /// What `openssl s_client` says of a connection to `to`, from our own address or `source`. It waits
    /// for the server's end; a server that admits it has to close.
    pub(crate) fn s_client(
        &self,
        to: SocketAddr,
        leaf: Option<&Leaf>,
        source: Option<IpAddr>,
        more: &[&str],
    ) -> String {
        let mut command = Command::new("openssl");
        command
            .args(["s_client", "-connect", &to.to_string()])
            .args(["-CAfile", text(&self.authority.trust()), "-ign_eof"])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(leaf) = leaf {
            command.args(["-cert", text(&leaf.certificate), "-key", text(&leaf.key)]);
            command.args(["-cert_chain", text(&leaf.certificate)]);
        }
        let source = source.unwrap_or_else(|| self.ip());
        command.args(["-bind", &format!("{source}:0")]);
        let mut child = command.spawn().unwrap();
        // kept open: an end of ours must not be what ends it
        let mut stdin = child.stdin.take().unwrap();
        drop(stdin.write_all(b"hello\n"));
        let deadline = std::time::Instant::now() + super::PATIENCE;
        while child.try_wait().unwrap().is_none() {
            if std::time::Instant::now() > deadline {
                drop(child.kill());
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let mut said = String::new();
        for pipe in [
            child
                .stdout
                .take()
                .map(|p| Box::new(p) as Box<dyn std::io::Read>),
            child
                .stderr
                .take()
                .map(|p| Box::new(p) as Box<dyn std::io::Read>),
        ] {
            let mut bytes = Vec::new();
            pipe.unwrap().read_to_end(&mut bytes).unwrap();
            said.push_str(&String::from_utf8_lossy(&bytes));
        }
        said
    }
}

/// Keys that others can read are refused.
fn private(key: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600)).unwrap();
}
