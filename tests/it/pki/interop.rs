//! Others' certificates at both of our ends, and ours at others'.

use std::{
    io::Read as _,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::{openssl, run, text};
use crate::world::{Backend, Leaf, Running, World, named_backend, until};
use portcullis::pki::{Role, store::write_file};

/// Keys as OpenSSL makes them.
const OPENSSL: [(&str, &[&str]); 6] = [
    (
        "rsa-2048",
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    ),
    (
        "rsa-3072",
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"],
    ),
    (
        "rsa-4096",
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"],
    ),
    (
        "p-256",
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    ),
    (
        "p-384",
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
    ),
    ("ed25519", &["-algorithm", "ED25519"]),
];
/// Keys as GnuTLS makes them.
const GNUTLS: [(&str, &[&str]); 4] = [
    ("rsa-3072", &["--key-type=rsa", "--bits=3072"]),
    ("p-256", &["--key-type=ecdsa", "--curve=secp256r1"]),
    ("p-384", &["--key-type=ecdsa", "--curve=secp384r1"]),
    ("ed25519", &["--key-type=ed25519"]),
];
const GATEWAY: &str = "extendedKeyUsage=clientAuth\nsubjectAltName=DNS:edge.corp.test\n";
const ACCEPTOR: &str = "extendedKeyUsage=serverAuth\nsubjectAltName=DNS:legacy.corp.test\n";
const LEAF: &str = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n\
                    subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n";
const CA: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n\
                  subjectKeyIdentifier=hash\n";

fn leaf(folder: &Path, name: &str) -> Leaf {
    Leaf {
        certificate: folder.join(format!("{name}.pem")),
        key: folder.join(format!("{name}.key")),
    }
}

fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Both ends in tcp mode under somebody else's CA; what a client hears through them.
fn through(world: &World, trust: &Path, gateway: &Leaf, acceptor: &Leaf) -> String {
    let backend = Backend::greeting(world.address(), "greetings");
    let (link, edge) = (world.address(), world.address());
    let trust = format!("trust = {trust:?}\n");
    let config = world.identity(acceptor, "acceptor", &trust)
        + &format!(
            "[[listener]]\nname = \"legacy\"\naddress = \"{link}\"\nmode = \"tcp\"\n\
             backend = \"{}\"\ngateways = [\"dns:edge.corp.test\"]\ntrusted_ips = [{:?}]\n",
            backend.address,
            world.near()
        );
    let there = world.start("acceptor", &config);
    let config = world.identity(gateway, "gateway", &trust)
        + &world
            .gateway_text("tcp", edge, link, "", "")
            .replace("legacy.internal", "legacy.corp.test");
    let here = world.start("gateway", &config);
    let mut heard = [0; 9];
    let heard = world
        .client()
        .connect(edge, "site.test")
        .and_then(|mut stream| stream.read_exact(&mut heard).map(|()| heard));
    match heard {
        Ok(heard) => String::from_utf8_lossy(&heard).into_owned(),
        Err(error) => {
            let said = |side: Running| {
                std::thread::sleep(std::time::Duration::from_millis(200));
                side.text()
            };
            format!("{error}\n{}\n{}", said(here), said(there))
        }
    }
}

/// A key and a certificate by OpenSSL; `by` signs, or it does itself.
fn certify(folder: &Path, name: &str, key: &[&str], extensions: &str, by: Option<&str>) {
    let at = |name: &str, kind: &str| text(&folder.join(format!("{name}.{kind}"))).to_owned();
    let (key_file, csr) = (at(name, "key"), at(name, "csr"));
    if !Path::new(&key_file).exists() {
        openssl(&[&["genpkey", "-out", &key_file], key].concat());
        private(Path::new(&key_file));
    }
    let subject = format!("/O=corp/CN={}", name.trim_end_matches("-again"));
    openssl(&[
        "req", "-new", "-key", &key_file, "-subj", &subject, "-out", &csr,
    ]);
    let ext = at(name, "ext");
    write_file(Path::new(&ext), extensions.as_bytes(), 0o600).unwrap();
    let certificate = at(name, "pem");
    let serial = format!("0x{:x}", 1000 + std::fs::read_dir(folder).unwrap().count());
    let mut sign = vec!["x509", "-req", "-in", &csr, "-days", "30", "-extfile", &ext];
    sign.extend(["-set_serial", &serial, "-out", &certificate]);
    let (ca, ca_key) = by.map_or_else(Default::default, |by| (at(by, "pem"), at(by, "key")));
    if by.is_some() {
        sign.extend(["-CA", &ca, "-CAkey", &ca_key]);
    } else {
        sign.extend(["-signkey", &key_file]);
    }
    openssl(&sign);
}

#[test]
fn openssls_certificates_of_every_kind_work_on_both_ends() {
    for (kind, key) in OPENSSL {
        let world = World::new();
        let folder = world.path("corp");
        std::fs::create_dir(&folder).unwrap();
        certify(&folder, "root", key, CA, None);
        certify(
            &folder,
            "edge",
            key,
            &format!("{LEAF}{GATEWAY}"),
            Some("root"),
        );
        certify(
            &folder,
            "legacy",
            key,
            &format!("{LEAF}{ACCEPTOR}"),
            Some("root"),
        );
        let (gateway, acceptor) = (leaf(&folder, "edge"), leaf(&folder, "legacy"));
        let heard = through(&world, &folder.join("root.pem"), &gateway, &acceptor);
        assert_eq!(heard, "greetings", "{kind}");
    }
}

#[test]
fn gnutls_certificates_of_every_kind_work_on_both_ends() {
    let certtool = |arguments: &[&str]| {
        let (ok, said) = run("certtool", arguments);
        assert!(ok, "certtool {arguments:?}: {said}");
    };
    for (kind, key) in GNUTLS {
        let world = World::new();
        let folder = world.path("gnutls");
        std::fs::create_dir(&folder).unwrap();
        let at = |name: &str| text(&folder.join(name)).to_owned();
        for (name, template) in [
            (
                "root",
                "cn = root\nca\ncert_signing_key\nexpiration_days = 30\n",
            ),
            (
                "edge",
                "cn = edge\ntls_www_client\nsigning_key\ndns_name = edge.corp.test\nexpiration_days = 9\n",
            ),
            (
                "legacy",
                "cn = legacy\ntls_www_server\nsigning_key\ndns_name = legacy.corp.test\nexpiration_days = 9\n",
            ),
        ] {
            let (key_file, file) = (at(&format!("{name}.key")), at(&format!("{name}.pem")));
            let made = [
                "--generate-privkey",
                "--pkcs8",
                "--password=",
                "--no-text",
                "--outfile",
                &key_file,
            ];
            certtool(&[&made[..], key].concat());
            private(Path::new(&key_file));
            let config = at(&format!("{name}.tmpl"));
            write_file(Path::new(&config), template.as_bytes(), 0o600).unwrap();
            let common = [
                "--load-privkey",
                &key_file,
                "--template",
                &config,
                "--outfile",
                &file,
            ];
            if name == "root" {
                certtool(&[&["--generate-self-signed"], &common[..]].concat());
            } else {
                let (ca, ca_key) = (at("root.pem"), at("root.key"));
                let by = ["--load-ca-certificate", &ca, "--load-ca-privkey", &ca_key];
                certtool(&[&["--generate-certificate"], &common[..], &by].concat());
            }
        }
        let (gateway, acceptor) = (leaf(&folder, "edge"), leaf(&folder, "legacy"));
        let heard = through(&world, &folder.join("root.pem"), &gateway, &acceptor);
        assert_eq!(heard, "greetings", "{kind}");
    }
}

#[test]
fn gos_certificates_of_every_kind_work_on_both_ends() {
    let world = World::new();
    let folder = world.path("go");
    std::fs::create_dir(&folder).unwrap();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/pki/interop.go");
    let (ok, said) = run("go", &["run", source, text(&folder)]);
    assert!(ok, "{said}");
    for kind in ["rsa-2048", "p-256", "p-384", "ed25519"] {
        let world = World::new();
        let folder = folder.join(kind);
        let (gateway, acceptor) = (leaf(&folder, "edge"), leaf(&folder, "legacy"));
        let heard = through(&world, &folder.join("root.pem"), &gateway, &acceptor);
        assert_eq!(heard, "greetings", "{kind}");
    }
}

/// The keystore's certificate and key of `name`, as PEM files beside it.
fn out_of_keystore(store: &Path, name: &str) {
    let all = openssl(&[
        "pkcs12",
        "-in",
        text(store),
        "-passin",
        "pass:changeit",
        "-nodes",
    ]);
    let own = format!("friendlyName: {name}\n");
    for bag in all.split("Bag Attributes").filter(|bag| bag.contains(&own)) {
        let (_, pem) = bag.split_once("-----BEGIN ").unwrap();
        let kind = if pem.starts_with("CERT") {
            "pem"
        } else {
            "key"
        };
        let file = store.with_file_name(format!("{name}.{kind}"));
        write_file(&file, format!("-----BEGIN {pem}").as_bytes(), 0o600).unwrap();
    }
}

/// A CA, a gateway's and an acceptor's certificate, by Java.
fn by_keytool(folder: &Path, key: &[&str]) {
    let store = folder.join("all.p12");
    let root = [
        "-ext",
        "bc:critical=ca:true",
        "-ext",
        "ku:critical=keyCertSign,cRLSign",
    ];
    let leaf = ["-signer", "root", "-ext", "ku:critical=digitalSignature"];
    let edge = ["-ext", "eku=clientAuth", "-ext", "san=dns:edge.corp.test"];
    let legacy = ["-ext", "eku=serverAuth", "-ext", "san=dns:legacy.corp.test"];
    for (name, extensions) in [
        ("root", root.to_vec()),
        ("edge", [leaf, edge].concat()),
        ("legacy", [leaf, legacy].concat()),
    ] {
        let subject = format!("CN={name}, O=corp");
        let mut arguments = vec!["-genkeypair", "-alias", name, "-dname", &subject];
        arguments.extend(["-storetype", "PKCS12", "-validity", "9"]);
        keytool(&store, &[&arguments[..], key, &extensions].concat());
        out_of_keystore(&store, name);
    }
}

fn keytool(store: &Path, arguments: &[&str]) {
    let always = ["-keystore", text(store), "-storepass", "changeit"];
    // little is done, and often: a compiler would not pay
    let quick = ["-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC"];
    let (ok, said) = run("keytool", &[arguments, &always, &quick].concat());
    assert!(ok, "keytool {arguments:?}: {said}");
}

#[test]
fn javas_certificates_of_every_kind_work_on_both_ends() {
    let java = |kind: &str, key: &[&str]| {
        let world = World::new();
        let folder = world.path("java");
        std::fs::create_dir(&folder).unwrap();
        by_keytool(&folder, key);
        let (gateway, acceptor) = (leaf(&folder, "edge"), leaf(&folder, "legacy"));
        let heard = through(&world, &folder.join("root.pem"), &gateway, &acceptor);
        assert_eq!(heard, "greetings", "{kind}");
    };
    std::thread::scope(|all| {
        for (kind, key) in [
            ("rsa-2048", &["-keyalg", "RSA", "-keysize", "2048"]),
            ("p-256", &["-keyalg", "EC", "-groupname", "secp256r1"]),
            ("p-384", &["-keyalg", "EC", "-groupname", "secp384r1"]),
            ("ed25519", &["-keyalg", "EdDSA", "-groupname", "Ed25519"]),
        ] {
            let _joined_at_the_end = all.spawn(move || java(kind, key));
        }
    });
}

#[test]
fn a_key_that_java_keeps_gets_a_certificate_of_ours() {
    let world = World::new();
    let (store, csr) = (world.path("own.p12"), world.path("own.csr"));
    let key = [
        "-genkeypair",
        "-alias",
        "own",
        "-keyalg",
        "EC",
        "-dname",
        "CN=gateway/java",
    ];
    keytool(&store, &key);
    keytool(&store, &["-certreq", "-alias", "own", "-file", text(&csr)]);
    let dir = text(world.authority.folder());
    let (ok, said) = super::portcullis(&["pki", "sign", text(&csr), "--dir", dir]);
    assert!(ok && said.contains("gateway/java"), "{said}");
    // and Java takes it, by the root that it was given
    let (trust, chain) = (world.authority.trust(), world.path("chain.pem"));
    let folder = world.authority.certificate_folder(Role::Gateway, "java");
    std::fs::copy(folder.join("cert.pem"), &chain).unwrap();
    let import = ["-importcert", "-noprompt", "-alias"];
    keytool(
        &store,
        &[&import[..], &["root", "-file", text(&trust)]].concat(),
    );
    keytool(
        &store,
        &[&import[..], &["own", "-file", text(&chain)]].concat(),
    );
}

/// A leaf, then the CAs between it and the root, in its file.
fn with_chain(folder: &Path, name: &str, between: &[&str]) -> Leaf {
    let mut leaf = leaf(folder, name);
    let mut chain = std::fs::read(&leaf.certificate).unwrap();
    for ca in between {
        chain.extend(std::fs::read(folder.join(format!("{ca}.pem"))).unwrap());
    }
    leaf.certificate = folder.join(format!("{name}-chain.pem"));
    write_file(&leaf.certificate, &chain, 0o644).unwrap();
    leaf
}

#[test]
fn a_corporate_ca_with_constraints_two_intermediates_and_a_cross_signed_root_works() {
    let world = World::new();
    let folder = world.path("corp");
    std::fs::create_dir(&folder).unwrap();
    let key = OPENSSL[3].1;
    let rsa = OPENSSL[0].1;
    let below = format!("{CA}authorityKeyIdentifier=keyid\n");
    let constrained = format!(
        "{below}nameConstraints=critical,permitted;DNS:.corp.test,permitted;DNS:corp.test\n"
    );
    certify(&folder, "old", rsa, CA, None);
    certify(&folder, "new", key, CA, None);
    // the same name and key as `new`, by the old root
    std::fs::copy(folder.join("new.key"), folder.join("new-again.key")).unwrap();
    certify(&folder, "new-again", key, &below, Some("old"));
    certify(&folder, "policy", rsa, &constrained, Some("new"));
    certify(&folder, "issuing", key, &below, Some("policy"));
    certify(
        &folder,
        "edge",
        key,
        &format!("{LEAF}{GATEWAY}"),
        Some("issuing"),
    );
    certify(
        &folder,
        "legacy",
        key,
        &format!("{LEAF}{ACCEPTOR}"),
        Some("issuing"),
    );
    let outside = ACCEPTOR.replace(
        "DNS:legacy.corp.test",
        "DNS:legacy.corp.test,DNS:legacy.internal",
    );
    certify(
        &folder,
        "stray",
        key,
        &format!("{LEAF}{outside}"),
        Some("issuing"),
    );
    let chain = ["issuing", "policy", "new-again"];
    let all = |name: &str| with_chain(&folder, name, &chain);
    // by either root, with the same files at both ends
    for root in ["old.pem", "new.pem"] {
        let heard = through(&world, &folder.join(root), &all("edge"), &all("legacy"));
        assert_eq!(heard, "greetings", "{root}");
    }
    // a name outside the constraints is refused, and so is a chain with a piece missing
    let heard = through(&world, &folder.join("new.pem"), &all("edge"), &all("stray"));
    assert_ne!(heard, "greetings");
    assert!(heard.contains("constraint"), "{heard}");
    let short = with_chain(&folder, "edge", &["issuing"]);
    let heard = through(&world, &folder.join("new.pem"), &short, &all("legacy"));
    assert_ne!(heard, "greetings");
}

/// Another program in the place of one end; it ends when dropped.
struct Other(Child);

impl Other {
    fn start(program: &str, arguments: &[&str], address: SocketAddr) -> Self {
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap());
        let child = Command::new(program)
            .args(arguments)
            .env("PATH", path)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}: run scripts/test, it installs it"));
        until(program, || TcpStream::connect(address).ok());
        Self(child)
    }

    fn nginx(world: &World, address: SocketAddr, server: &str) -> Self {
        let folder = world.path("");
        let config = world.write(
            "nginx.conf",
            &format!(
                "daemon off;\nmaster_process off;\npid {0}/nginx.pid;\nerror_log {0}/nginx.log;\n\
                 events {{}}\nhttp {{\n  access_log off;\n  client_body_temp_path {0};\n\
                 proxy_temp_path {0};\n  fastcgi_temp_path {0};\n  uwsgi_temp_path {0};\n\
                 scgi_temp_path {0};\n  server {{\n{server}\n  }}\n}}\n",
                folder.display()
            ),
        );
        Self::start("nginx", &["-e", "/dev/null", "-c", text(&config)], address)
    }

    fn haproxy(world: &World, address: SocketAddr, listen: &str) -> Self {
        let config = world.write(
            "haproxy.cfg",
            &format!(
                "defaults\n  timeout connect 10s\n  timeout client 10s\n  timeout server 10s\n\
                 listen other\n{listen}\n"
            ),
        );
        Self::start("haproxy", &["-q", "-db", "-f", text(&config)], address)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Certificate, issuing CA and key in one file, as HAProxy reads them.
fn joined(world: &World, leaf: &Leaf) -> PathBuf {
    let both = [&leaf.certificate, &leaf.key].map(|path| std::fs::read_to_string(path).unwrap());
    world.write("joined.pem", &both.concat())
}

fn ask(mut stream: impl std::io::Read + std::io::Write) -> String {
    write!(stream, "GET / HTTP/1.0\r\nHost: site.test\r\n\r\n").unwrap();
    let mut said = Vec::new();
    // whether it ends with a close_notify is not the question
    drop(stream.read_to_end(&mut said));
    String::from_utf8_lossy(&said).into_owned()
}

#[test]
fn nginx_and_haproxy_accept_our_gateway_and_nobody_without_a_certificate() {
    let world = World::new();
    let backend = named_backend(&world, "the backend");
    let (nginx, haproxy) = (world.address(), world.address());
    let own = world.leaf(Role::Acceptor, "legacy");
    let (trust, crl) = (world.authority.trust(), world.authority.crl());
    let server = format!(
        "listen {nginx} ssl;\nssl_certificate {};\nssl_certificate_key {};\n\
         ssl_client_certificate {};\nssl_crl {};\nssl_verify_client on;\nssl_verify_depth 2;\n\
         ssl_protocols TLSv1.3;\nlocation / {{ return 200 \"seen $ssl_client_s_dn\"; }}",
        own.certificate.display(),
        own.key.display(),
        trust.display(),
        crl.display(),
    );
    let _nginx = Other::nginx(&world, nginx, &server);
    let listen = format!(
        "  mode tcp\n  bind {haproxy} ssl crt {} ca-file {} crl-file {} verify required\n\
         \x20 tcp-request content reject unless {{ ssl_c_s_dn(cn) gateway/edge-1 }}\n\
         \x20 server backend {}",
        joined(&world, &own).display(),
        trust.display(),
        crl.display(),
        backend.address,
    );
    let _haproxy = Other::haproxy(&world, haproxy, &listen);
    for (there, expected) in [(nginx, "seen CN=gateway/edge-1"), (haproxy, "the backend")] {
        let (gateway, edge) = world.plain_gateway("tcp", there, "", "");
        for _ in 0..3 {
            let stream = world.client().connect(edge, "site.test").unwrap();
            let said = ask(stream);
            assert!(said.contains(expected), "{said}\n{}", gateway.text());
        }
        let resumed =
            gateway.metric("portcullis_link_handshakes_total{backend=\"legacy\",kind=\"resumed\"}");
        assert!(resumed >= 1.0, "{there}");
        let stranger = world.client().connect(there, "legacy.internal");
        let said = stranger.map(ask).unwrap_or_default();
        assert!(
            !said.contains("seen CN") && !said.contains("the backend"),
            "{said}"
        );
    }
}

#[test]
fn our_acceptor_accepts_nginx_and_haproxy_with_a_certificate_of_ours() {
    let world = World::new();
    let backend = named_backend(&world, "the backend");
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let own = world.leaf(Role::Gateway, "edge-1");
    let trust = world.authority.trust();
    let (nginx, haproxy) = (world.address(), world.address());
    let server = format!(
        "listen {nginx};\nlocation / {{\nproxy_pass https://{link};\nproxy_http_version 1.1;\n\
         proxy_bind {};\nproxy_ssl_certificate {};\nproxy_ssl_certificate_key {};\n\
         proxy_ssl_trusted_certificate {};\nproxy_ssl_verify on;\nproxy_ssl_verify_depth 2;\n\
         proxy_ssl_name legacy.internal;\nproxy_ssl_server_name on;\nproxy_ssl_protocols TLSv1.3;\n}}",
        world.ip(),
        own.certificate.display(),
        own.key.display(),
        trust.display(),
    );
    let _nginx = Other::nginx(&world, nginx, &server);
    let listen = format!(
        "  mode tcp\n  bind {haproxy}\n  server acceptor {link} source {} ssl crt {} ca-file {} \
         verify required verifyhost legacy.internal sni str(legacy.internal)",
        world.ip(),
        joined(&world, &own).display(),
        trust.display(),
    );
    let _haproxy = Other::haproxy(&world, haproxy, &listen);
    let resumed = "portcullis_handshakes_total{listener=\"legacy\",kind=\"resumed\"}";
    for there in [nginx, haproxy] {
        let before = acceptor.metric(resumed);
        for _ in 0..3 {
            let stream = TcpStream::connect(there).unwrap();
            stream
                .set_read_timeout(Some(std::time::Duration::from_secs(3)))
                .unwrap();
            let said = ask(stream);
            assert!(said.contains("the backend"), "{there}: {said}");
        }
        assert!(acceptor.metric(resumed) > before, "{there}");
    }
}
