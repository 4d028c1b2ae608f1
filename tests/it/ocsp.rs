//! Staples (RFC 6960, RFC 6066 section 8): openssl's authority, openssl's responder, the real
//! gateway, and openssl's client that asks for the status.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::Value;

use crate::world::{Backend, Clock, Leaf, Running, World, run, says, text, until};

/// An authority made by openssl, with what `openssl ocsp` reads.
struct OpenSsl {
    folder: PathBuf,
}

const CONFIG: &str = "\
[ca]
default_ca = own
[own]
database = index.txt
serial = serial
new_certs_dir = .
certificate = ca.pem
private_key = ca.key
default_md = sha256
default_days = 30
policy = any
unique_subject = no
[any]
commonName = supplied
[req]
distinguished_name = none
[none]
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[responder]
basicConstraints = CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = OCSPSigning
";

impl OpenSsl {
    fn new(world: &World) -> Self {
        let own = Self {
            folder: world.path("openssl"),
        };
        std::fs::create_dir(&own.folder).unwrap();
        own.write("index.txt", "");
        own.write("serial", "8F01\n");
        own.write("openssl.cnf", CONFIG);
        own.authority("ca", "OpenSSL root");
        own.issue("responder", "[x]\n", "responder");
        own
    }

    fn write(&self, name: &str, content: &str) {
        portcullis::pki::store::write_file(&self.folder.join(name), content.as_bytes(), 0o600)
            .unwrap();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn run(&self, arguments: &[&str]) {
        let done = Command::new("openssl")
            .current_dir(&self.folder)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "openssl {arguments:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    }

    fn key(&self, name: &str) {
        let key = format!("{name}.key");
        // an RSA signature always has the same length: it can be put in another's place
        let curve = match name {
            "responder" => ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
            _ => ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        };
        self.run(&[&["genpkey"], &curve[..], &["-out", &key]].concat());
        self.write(&key, &std::fs::read_to_string(self.file(&key)).unwrap());
    }

    fn authority(&self, name: &str, subject: &str) {
        self.key(name);
        let (key, out) = (format!("{name}.key"), format!("{name}.pem"));
        let subject = format!("/CN={subject}");
        self.run(&[
            "req",
            "-x509",
            "-config",
            "openssl.cnf",
            "-extensions",
            "authority",
            "-key",
            &key,
            "-subj",
            &subject,
            "-days",
            "60",
            "-out",
            &out,
        ]);
    }

    /// A certificate of ours with these extensions, in `index.txt`; the issuer stands behind it.
    fn issue(&self, name: &str, extensions: &str, section: &str) -> Leaf {
        let (key, csr) = (format!("{name}.key"), format!("{name}.csr"));
        if !self.file(&key).exists() {
            self.key(name);
        }
        let subject = format!("/CN={name}");
        self.run(&[
            "req",
            "-new",
            "-config",
            "openssl.cnf",
            "-key",
            &key,
            "-subj",
            &subject,
            "-out",
            &csr,
        ]);
        self.write("issue.cnf", &(CONFIG.to_owned() + extensions));
        let single = format!("{name}.single");
        self.run(&[
            "ca",
            "-batch",
            "-notext",
            "-config",
            "issue.cnf",
            "-extensions",
            section,
            "-in",
            &csr,
            "-out",
            &single,
        ]);
        let chain = format!("{name}.pem");
        let read = |file: &str| std::fs::read_to_string(self.file(file)).unwrap();
        self.write(&chain, &(read(&single) + &read("ca.pem")));
        Leaf {
            certificate: self.file(&chain),
            key: self.file(&key),
        }
    }

    /// A server's certificate that names this responder.
    fn site(&self, responder: SocketAddr, more: &str) -> Leaf {
        let extensions = format!(
            "[site]\nbasicConstraints = CA:FALSE\nsubjectAltName = DNS:site.test\n\
             extendedKeyUsage = serverAuth\nauthorityInfoAccess = OCSP;URI:http://{responder}/\n{more}\n"
        );
        self.issue("site", &extensions, "site")
    }

    /// `openssl ocsp` with a responder's certificate of its own, whose answers last this long.
    fn responder(&self, at: SocketAddr, minutes: &str, signer: &str) -> Responder {
        // openssl takes no address: it listens on all
        let port = at.port().to_string();
        let (certificate, key) = (format!("{signer}.pem"), format!("{signer}.key"));
        let log = std::fs::File::create(self.file("responder.log")).unwrap();
        let child = Command::new("openssl")
            .current_dir(&self.folder)
            .args([
                "ocsp",
                "-index",
                "index.txt",
                "-CA",
                "ca.pem",
                "-rsigner",
                &certificate,
            ])
            .args(["-rkey", &key, "-port", &port, "-nmin", minutes])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let responder = Responder { child };
        // a connection that asks nothing would keep it from the next one
        until("the responder", || {
            let log = std::fs::read_to_string(self.file("responder.log")).ok()?;
            log.to_lowercase().contains("waiting for").then_some(())
        });
        responder
    }
}

struct Responder {
    child: Child,
}

impl Drop for Responder {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A server's certificate whose responder is at this address.
pub(crate) fn leaf_with_responder(world: &World, at: SocketAddr) -> Leaf {
    OpenSsl::new(world).site(at, "")
}

/// What a client sees that asks for the status.
fn status(edge: SocketAddr, trust: &Path) -> String {
    status_by(edge, trust, "-tls1_3")
}

fn status_by(edge: SocketAddr, trust: &Path, version: &str) -> String {
    let at = edge.to_string();
    let (_, said) = run(
        "openssl",
        &[
            "s_client",
            "-connect",
            &at,
            "-servername",
            "site.test",
            "-status",
            version,
            "-CAfile",
            text(trust),
            "-verify_return_error",
        ],
    );
    assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
    said
}

fn is_good(said: &str) -> bool {
    said.contains("OCSP Response Status: successful") && said.contains("Cert Status: good")
}

const NOTHING: &str = "OCSP response: no response sent";

/// A gateway that shows this certificate to clients, and where.
struct Edge {
    gateway: Running,
    address: SocketAddr,
    _acceptor: Running,
    _backend: Backend,
}

fn edge(world: &World, leaf: &Leaf, more: &str) -> Edge {
    let backend = Backend::echo(world.address());
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let address = world.address();
    let text = gateway_text(world, address, link, leaf, more);
    Edge {
        gateway: world.gateway(&text),
        address,
        _acceptor: acceptor,
        _backend: backend,
    }
}

fn gateway_text(
    world: &World,
    address: SocketAddr,
    link: SocketAddr,
    leaf: &Leaf,
    more: &str,
) -> String {
    let ours = world.leaf(portcullis::pki::Role::Server, "site");
    world
        .gateway_text("tcp", address, link, more, "")
        .replace(text(&ours.certificate), text(&leaf.certificate))
        .replace(text(&ours.key), text(&leaf.key))
}

fn failures(gateway: &Running, leaf: &Leaf, reason: &str) -> f64 {
    gateway.metric(&format!(
        "portcullis_ocsp_failures_total{{certificate=\"{}\",reason=\"{reason}\"}}",
        leaf.certificate.display()
    ))
}

fn next_update(gateway: &Running, leaf: &Leaf) -> f64 {
    gateway.metric(&format!(
        "portcullis_ocsp_next_update_timestamp_seconds{{certificate=\"{}\"}}",
        leaf.certificate.display()
    ))
}

fn now() -> f64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    since.as_secs_f64()
}

fn said(line: &Value, begins: &str) -> bool {
    line["message"]
        .as_str()
        .is_some_and(|m| m.starts_with(begins))
}

#[test]
fn a_good_answer_is_stapled_and_outlives_its_responder_and_reloads() {
    let world = World::new();
    let openssl = OpenSsl::new(&world);
    let at = world.address();
    let site = openssl.site(at, "");
    let responder = openssl.responder(at, "60", "responder");
    let Edge {
        gateway, address, ..
    } = &edge(&world, &site, "");
    gateway.line("the answer", |line| said(line, "OCSP answer: good"));
    let seen = status(*address, &openssl.file("ca.pem"));
    assert!(is_good(&seen), "{seen}");
    let seen = status_by(*address, &openssl.file("ca.pem"), "-tls1_2");
    assert!(is_good(&seen) && seen.contains("TLSv1.2"), "{seen}");
    let left = next_update(gateway, &site) - now();
    assert!((3000.0..3700.0).contains(&left), "{left}");
    let check = format!(
        "ok   ocsp {}: good, stapled until",
        site.certificate.display()
    );
    let (_, ready) = gateway.admin("/readyz?verbose").unwrap();
    assert!(ready.contains(&check), "{ready}");

    drop(responder);
    for _ in 0..2 {
        gateway.reload();
        let seen = status(*address, &openssl.file("ca.pem"));
        assert!(is_good(&seen), "{seen}");
    }
    // and nobody asked again, in vain
    assert!(failures(gateway, &site, "unreachable") < 0.5);
    assert_eq!(gateway.count(|line| said(line, "OCSP answer")), 1);

    // a new certificate is asked for anew; without an answer it is shown all the same
    let again = openssl.site(at, "");
    assert_eq!(again.certificate, site.certificate);
    gateway.reload();
    let line = gateway.line("the failure", |line| said(line, "no OCSP answer to staple"));
    assert_eq!(line["reason"], "unreachable");
    let seen = status(*address, &openssl.file("ca.pem"));
    assert!(seen.contains(NOTHING), "{seen}");
    assert!(next_update(gateway, &site).abs() < 0.5);
    let (code, ready) = gateway.admin("/readyz?verbose").unwrap();
    assert_eq!(code, 200, "{ready}");
    assert!(
        ready.contains("nothing is stapled: the last attempt: unreachable"),
        "{ready}"
    );

    // it comes back, and is found
    let _responder = openssl.responder(at, "60", "responder");
    until("the answer", || {
        is_good(&status(*address, &openssl.file("ca.pem"))).then_some(())
    });
}

#[test]
fn a_revoked_certificate_is_shown_so_and_said_loudly() {
    let world = World::new();
    let openssl = OpenSsl::new(&world);
    let at = world.address();
    let site = openssl.site(at, "");
    openssl.run(&["ca", "-config", "openssl.cnf", "-revoke", "site.pem"]);
    let _responder = openssl.responder(at, "60", "responder");
    let address = world.address();
    let config = world.common(portcullis::pki::Role::Gateway, "edge-1")
        + &gateway_text(&world, address, world.address(), &site, "");
    // it is ready until it knows, so that is not waited for
    let gateway = Running::launch("gateway", &world.write("gateway.toml", &config));
    until("the start", || gateway.admin("/healthz"));
    let line = gateway.line("the answer", |line| says(line, "message", "REVOKED"));
    assert_eq!(line["level"], "ERROR");
    let at = address.to_string();
    let ca = openssl.file("ca.pem");
    let (_, seen) = run(
        "openssl",
        &["s_client", "-connect", &at, "-status", "-CAfile", text(&ca)],
    );
    assert!(seen.contains("Cert Status: revoked"), "{seen}");
    let (code, ready) = gateway.admin("/readyz?verbose").unwrap();
    assert_eq!(code, 503);
    assert!(
        ready.contains("fail ocsp ") && ready.contains("REVOKED since"),
        "{ready}"
    );
}

#[test]
fn a_signer_without_the_right_is_not_believed() {
    let world = World::new();
    let openssl = OpenSsl::new(&world);
    let at = world.address();
    // our issuer made it, for something else
    openssl.issue("other", "[other]\nextendedKeyUsage = serverAuth\n", "other");
    let site = openssl.site(at, "");
    let _responder = openssl.responder(at, "60", "other");
    refused(&world, &openssl, &site, "untrusted_signer");
}

#[test]
fn an_answer_without_an_end_is_not_stapled() {
    let world = World::new();
    let openssl = OpenSsl::new(&world);
    let at = world.address();
    let site = openssl.site(at, "");
    let child = Command::new("openssl")
        .current_dir(&openssl.folder)
        .args([
            "ocsp",
            "-index",
            "index.txt",
            "-CA",
            "ca.pem",
            "-rsigner",
            "responder.pem",
        ])
        .args(["-rkey", "responder.key", "-port", &at.port().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _responder = Responder { child };
    refused(&world, &openssl, &site, "out_of_date");
}

/// Starts a gateway with this certificate: no answer is taken, for this reason.
fn refused(world: &World, openssl: &OpenSsl, site: &Leaf, reason: &str) {
    let Edge {
        gateway, address, ..
    } = &edge(world, site, "");
    let line = gateway.line(reason, |line| {
        said(line, "no OCSP answer to staple") && line["reason"] == reason
    });
    assert_eq!(line["level"], "WARN");
    let seen = status(*address, &openssl.file("ca.pem"));
    assert!(seen.contains(NOTHING), "{seen}");
    assert!(failures(gateway, site, reason) > 0.5);
    assert!(next_update(gateway, site).abs() < 0.5);
    let (_, ready) = gateway.admin("/readyz?verbose").unwrap();
    assert!(
        ready.contains(&format!("the last attempt: {reason}")),
        "{ready}"
    );
}

/// A server that answers every question with the same octets, and counts them.
fn parrot(at: SocketAddr, answer: Vec<u8>) -> Arc<AtomicUsize> {
    parrot_of(at, vec![answer])
}

/// The same with one answer after the other; the last one is repeated.
fn parrot_of(at: SocketAddr, answers: Vec<Vec<u8>>) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(at).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let turn = count.fetch_add(1, Ordering::SeqCst);
            let answer = answers.get(turn).or_else(|| answers.last()).unwrap();
            let mut head = [0; 4096];
            drop(stream.read(&mut head));
            drop(stream.write_all(answer));
        }
    });
    asked
}

fn http(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[test]
fn garbage_excess_and_redirects_are_refused_with_their_reason() {
    let answers = [
        (http(b"<html>no such page</html>"), "malformed"),
        (http(&vec![0x30; 100_000]), "unreachable"),
        (http(&[0x30, 3, 0x0a, 1, 3]), "responder_error"),
        (
            b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n"
                .to_vec(),
            "unreachable",
        ),
        (b"SSH-2.0-x\r\n".to_vec(), "unreachable"),
    ];
    for (answer, reason) in answers {
        let world = World::new();
        let openssl = OpenSsl::new(&world);
        let at = world.address();
        let site = openssl.site(at, "");
        let _asked = parrot(at, answer);
        refused(&world, &openssl, &site, reason);
    }
}

/// An answer of `openssl ocsp` for the site's certificate, from a file.
fn kept_answer(openssl: &OpenSsl, more: &[&str]) -> Vec<u8> {
    openssl.run(&[
        "ocsp",
        "-issuer",
        "ca.pem",
        "-cert",
        "site.single",
        "-no_nonce",
        "-reqout",
        "q.der",
    ]);
    let base = [
        "ocsp",
        "-index",
        "index.txt",
        "-CA",
        "ca.pem",
        "-rsigner",
        "responder.pem",
        "-rkey",
        "responder.key",
        "-reqin",
        "q.der",
        "-respout",
        "a.der",
    ];
    openssl.run(&[&base[..], more].concat());
    std::fs::read(openssl.file("a.der")).unwrap()
}

#[test]
fn an_answer_about_another_certificate_or_of_the_past_is_not_stapled() {
    let world = World::new();
    let openssl = OpenSsl::new(&world);
    let at = world.address();
    drop(openssl.site(at, ""));
    let of_the_old = kept_answer(&openssl, &["-ndays", "1"]);
    let site = openssl.site(at, "");
    let _asked = parrot(at, http(&of_the_old));
    refused(&world, &openssl, &site, "other_certificate");
}

#[test]
fn an_answer_is_shown_to_its_end_and_no_longer() {
    let world = World::new();
    let openssl = OpenSsl::new(&world);
    let at = world.address();
    let site = openssl.site(at, "");
    let answer = kept_answer(&openssl, &["-nmin", "1"]);
    let asked = parrot(at, http(&shortened(&openssl, answer, 15)));
    let Edge {
        gateway, address, ..
    } = &edge(&world, &site, "");
    gateway.line("the answer", |line| said(line, "OCSP answer: good"));
    let end = next_update(gateway, &site);
    let mut shown = 0;
    while now() < end - 2.0 {
        let seen = status(*address, &openssl.file("ca.pem"));
        assert!(is_good(&seen), "{seen}");
        shown += 1;
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(shown > 2);
    while now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    let seen = status(*address, &openssl.file("ca.pem"));
    assert!(seen.contains(NOTHING), "{seen}");
    // the same old answer is brought again
    gateway.line("its end", |line| line["reason"] == "out_of_date");
    assert!(asked.load(Ordering::SeqCst) >= 2);
    let seen = status(*address, &openssl.file("ca.pem"));
    assert!(seen.contains(NOTHING), "{seen}");
}

#[test]
fn what_was_revoked_does_not_become_good_by_an_older_answer() {
    let world = World::new();
    let openssl = OpenSsl::new(&world);
    let at = world.address();
    let site = openssl.site(at, "");
    let good = kept_answer(&openssl, &["-ndays", "7"]);
    std::thread::sleep(Duration::from_millis(1100));
    openssl.run(&["ca", "-config", "openssl.cnf", "-revoke", "site.pem"]);
    let revoked = kept_answer(&openssl, &["-nmin", "1"]);
    let revoked = shortened(&openssl, revoked, 20);
    let _asked = parrot_of(at, vec![http(&revoked), http(&good)]);
    let address = world.address();
    let config = world.common(portcullis::pki::Role::Gateway, "edge-1")
        + &gateway_text(&world, address, world.address(), &site, "");
    let gateway = Running::launch("gateway", &world.write("gateway.toml", &config));
    gateway.line("the replay", |line| line["reason"] == "older");
    let seen = || {
        let at = address.to_string();
        run("openssl", &["s_client", "-connect", &at, "-status"]).1
    };
    assert!(seen().contains("Cert Status: revoked"), "{}", seen());
    // nor when the newer one has ended, nor by a reload
    until("its end", || seen().contains(NOTHING).then_some(()));
    gateway.reload();
    assert!(seen().contains(NOTHING), "{}", seen());
    let (code, ready) = gateway.admin("/readyz?verbose").unwrap();
    assert_eq!(code, 503);
    assert!(ready.contains("REVOKED since"), "{ready}");
}

#[test]
fn who_demands_a_staple_or_lacks_its_issuer_is_told() {
    let world = World::new();
    let openssl = OpenSsl::new(&world);
    let site = openssl.site(world.address(), "tlsfeature = status_request");
    let Edge {
        gateway, address, ..
    } = &edge(&world, &site, "");
    let line = gateway.line("the failure", |line| {
        said(
            line,
            "no OCSP answer to staple, and the certificate demands one",
        )
    });
    assert_eq!(
        (&line["level"], &line["reason"]),
        (&"ERROR".into(), &"unreachable".into())
    );
    // handshakes go on
    let seen = status(*address, &openssl.file("ca.pem"));
    assert!(seen.contains(NOTHING), "{seen}");
    let (code, ready) = gateway.admin("/readyz?verbose").unwrap();
    assert_eq!(code, 200);
    assert!(
        ready.contains("the certificate demands a staple"),
        "{ready}"
    );

    let alone = std::fs::read_to_string(openssl.file("site.single")).unwrap();
    openssl.write("site.pem", &alone);
    gateway.reload();
    let line = gateway.line("the warning", |line| {
        says(line, "warning", "no OCSP answer is stapled")
    });
    let warning = line["warning"].as_str().unwrap();
    assert!(
        warning.contains("put it behind the leaf; it demands a staple"),
        "{warning}"
    );
    let (_, ready) = gateway.admin("/readyz?verbose").unwrap();
    assert!(!ready.contains("ocsp"), "{ready}");
}

/// The same answer, but it ends in some seconds, signed anew: openssl knows minutes only.
fn shortened(openssl: &OpenSsl, der: Vec<u8>, seconds: u64) -> Vec<u8> {
    dated(openssl, der, None, seconds)
}

/// The same with another begin.
fn dated(openssl: &OpenSsl, mut der: Vec<u8>, begins: Option<f64>, seconds: u64) -> Vec<u8> {
    // past the heads of OCSPResponse and ResponseBytes, status and type, to ResponseData
    let mut at = content(&der, 0).start + 3;
    at = content(&der, content(&der, at).start).start + 11;
    let data = content(&der, content(&der, at).start).start;
    let end = content(&der, data).end;
    let times: Vec<usize> = (data..end)
        .filter(|at| der[*at..].starts_with(&[0x18, 15]))
        .collect();
    // of production, of revocation where there was one, of this update and the next
    assert!((3..=4).contains(&times.len()), "{times:?}");
    let next = times[times.len() - 1];
    let format = time::macros::format_description!("[year][month][day][hour][minute][second]Z");
    let until = std::time::UNIX_EPOCH.elapsed().unwrap() + Duration::from_secs(seconds);
    let begins = begins.map(|at| (times[times.len() - 2], Duration::from_secs_f64(at)));
    for (place, at) in [Some((next, until)), begins].into_iter().flatten() {
        let text = (time::OffsetDateTime::UNIX_EPOCH + at)
            .format(&format)
            .unwrap();
        der[place + 2..place + 17].copy_from_slice(text.as_bytes());
    }
    std::fs::File::create(openssl.file("data.der"))
        .unwrap()
        .write_all(&der[data..end])
        .unwrap();
    openssl.run(&[
        "dgst",
        "-sha256",
        "-sign",
        "responder.key",
        "-out",
        "data.sig",
        "data.der",
    ]);
    let signature = std::fs::read(openssl.file("data.sig")).unwrap();
    let algorithm = content(&der, end).end;
    let place = content(&der, algorithm);
    der[place.start + 1..place.end].copy_from_slice(&signature);
    der
}

/// Where the content of the DER element at this place is.
fn content(der: &[u8], at: usize) -> std::ops::Range<usize> {
    let first = usize::from(der[at + 1]);
    let (digits, length) = if first < 0x80 {
        (0, first)
    } else {
        let digits = first - 0x80;
        let octets = &der[at + 2..at + 2 + digits];
        (
            digits,
            octets
                .iter()
                .fold(0, |all, octet| all << 8 | usize::from(*octet)),
        )
    };
    let start = at + 2 + digits;
    start..start + length
}

#[test]
fn who_names_no_responder_is_not_asked_about_and_who_turns_it_off_neither() {
    let world = World::new();
    let openssl = OpenSsl::new(&world);
    let at = world.address();
    let site = openssl.site(at, "tlsfeature = status_request");
    let asked = parrot(at, http(b"x"));
    let Edge {
        gateway, address, ..
    } = &edge(&world, &site, "ocsp_stapling = false");
    let line = gateway.line("the demand", |line| said(line, "configuration"));
    assert!(says(&line, "warning", "ocsp_stapling is off"), "{line}");
    let seen = status(*address, &openssl.file("ca.pem"));
    assert!(seen.contains(NOTHING), "{seen}");
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    assert!(
        !gateway
            .admin("/metrics")
            .unwrap()
            .1
            .contains("portcullis_ocsp_next_update_timestamp_seconds{")
    );
    // our own authority's certificates name none, and what the link shows is nobody's business
    let world = World::new();
    let openssl = OpenSsl::new(&world);
    let link = openssl.issue(
        "link",
        &format!(
            "[link]\nsubjectAltName = DNS:edge.test\nextendedKeyUsage = clientAuth\n\
             authorityInfoAccess = OCSP;URI:http://{at}/\n"
        ),
        "link",
    );
    let address = world.address();
    let ours = world.leaf(portcullis::pki::Role::Server, "site");
    let text = world.common_as(&link, "gateway", "")
        + &gateway_text(&world, address, world.address(), &ours, "");
    let gateway = world.start("gateway", &text);
    let seen = status(address, &world.authority.trust());
    assert!(seen.contains(NOTHING), "{seen}");
    let (_, metrics) = gateway.admin("/metrics").unwrap();
    assert!(
        !metrics.contains("portcullis_ocsp_next_update"),
        "{metrics}"
    );
    let (_, ready) = gateway.admin("/readyz?verbose").unwrap();
    assert!(!ready.contains("ocsp"), "{ready}");
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[test]
fn a_clock_that_was_ahead_and_is_set_back_keeps_nobody_waiting() {
    let world = World::new();
    let openssl = OpenSsl::new(&world);
    let at = world.address();
    let site = openssl.site(at, "");
    let answer = kept_answer(&openssl, &["-nmin", "60"]);
    let asked = parrot(at, http(&answer));
    let mut clock = Clock::new(&world);
    // a day ahead, this answer is over
    clock.advance(86_400);
    let address = world.address();
    let config = world.common(portcullis::pki::Role::Gateway, "edge-1")
        + &gateway_text(&world, address, world.address(), &site, "");
    let gateway = clock.launch("gateway", &world.write("gateway.toml", &config));
    gateway.line("the refusal", |line| line["reason"] == "out_of_date");
    clock.advance(-86_400);
    gateway.line("the answer", |line| said(line, "OCSP answer: good"));
    assert!(asked.load(Ordering::SeqCst) >= 2);
    assert!(is_good(&status(address, &openssl.file("ca.pem"))));
}

#[test]
fn what_was_revoked_does_not_become_good_by_an_answer_of_the_same_time() {
    let world = World::new();
    let openssl = OpenSsl::new(&world);
    let at = world.address();
    let site = openssl.site(at, "");
    // responders round their times, to a minute or an hour
    let begins = Some(now() - 60.0);
    let good = kept_answer(&openssl, &["-ndays", "7"]);
    let good = dated(&openssl, good, begins, 86_400);
    openssl.run(&["ca", "-config", "openssl.cnf", "-revoke", "site.pem"]);
    let revoked = kept_answer(&openssl, &["-nmin", "1"]);
    let revoked = dated(&openssl, revoked, begins, 20);
    let asked = parrot_of(at, vec![http(&revoked), http(&good)]);
    let config = world.common(portcullis::pki::Role::Gateway, "edge-1")
        + &gateway_text(&world, world.address(), world.address(), &site, "");
    let gateway = Running::launch("gateway", &world.write("gateway.toml", &config));
    gateway.line("the revocation", |line| says(line, "message", "REVOKED"));
    until("the replay", || {
        (asked.load(Ordering::SeqCst) >= 2).then_some(())
    });
    gateway.line("its refusal", |line| line["reason"] == "older");
    let (code, ready) = gateway.admin("/readyz?verbose").unwrap();
    assert_eq!(code, 503);
    assert!(ready.contains("REVOKED since"), "{ready}");
}
