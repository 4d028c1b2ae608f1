//! PostgreSQL behind `starttls = "postgres"`: psql, its cancel requests, and what must not pass.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use portcullis::pki::Reason;
use rustix::process::{Pid, Signal, kill_process};

use crate::world::{Backend, Running, World, says, text, until};

const SSL_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
const GSS_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x30";

fn chain(world: &World, backend: &str) -> (Running, Running, SocketAddr) {
    let (acceptor, link) = world.plain_acceptor(backend, "");
    let (gateway, edge) = world.plain_gateway("tcp", link, "starttls = \"postgres\"", "");
    (gateway, acceptor, edge)
}

fn psql(world: &World, to: SocketAddr, options: &str, command: &str) -> Command {
    let mut psql = Command::new("psql");
    psql.args(["-X", "-A", "-t", "-c", command])
        .arg(format!(
            "host=site.test hostaddr={} port={} user=postgres dbname=postgres \
             gssencmode=disable sslrootcert={} {options}",
            to.ip(),
            to.port(),
            world.authority.trust().display()
        ))
        .stdin(Stdio::null());
    psql
}

fn asked(world: &World, to: SocketAddr, options: &str, command: &str) -> (bool, String) {
    let done = psql(world, to, options, command).output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    (
        done.status.success(),
        String::from_utf8_lossy(&said).trim().to_owned(),
    )
}

#[test]
fn psql_of_any_mode_with_tls_gets_its_answer_and_plain_text_a_readable_refusal() {
    let world = World::new();
    let postgres = world.postgres();
    let (gateway, _acceptor, edge) = chain(&world, &postgres.address.to_string());
    for options in [
        "sslmode=require",
        "sslmode=verify-ca",
        "sslmode=verify-full",
        "sslmode=prefer gssencmode=prefer",
    ] {
        let (ok, said) = asked(&world, edge, options, "select 6 * 7");
        assert!(ok, "{options}: {said}");
        assert_eq!(said, "42", "{options}");
    }
    // a large answer and a large question
    let (ok, said) = asked(
        &world,
        edge,
        "sslmode=verify-full",
        "select length(string_agg(repeat('x', 1000), '')) from generate_series(1, 20000)",
    );
    assert!(ok, "{said}");
    assert_eq!(said, "20000000");

    let wrong = format!(
        "host=elsewhere.test hostaddr={} port={} user=postgres dbname=postgres sslmode=verify-full sslrootcert={}",
        edge.ip(),
        edge.port(),
        text(&world.authority.trust())
    );
    let (ok, said) = crate::world::run("psql", &["-X", &wrong, "-c", "select 1"]);
    assert!(!ok && said.contains("elsewhere.test"), "{said}");

    let (ok, said) = asked(&world, edge, "sslmode=disable", "select 1");
    assert!(!ok);
    assert!(said.contains("FATAL"), "not readable: {said}");
    assert!(
        said.to_lowercase().contains("tls") || said.contains("SSL"),
        "{said}"
    );
    gateway.refused("public", "starttls_plaintext");
}

#[test]
fn tls_at_once_with_its_own_alpn_needs_no_request() {
    let world = World::new();
    let postgres = world.postgres();
    let (_gateway, _acceptor, edge) = chain(&world, &postgres.address.to_string());
    let mut stream = world
        .client()
        .alpn("postgresql")
        .connect(edge, "site.test")
        .unwrap();
    // clients of PostgreSQL 17 refuse a server that doesn't agree on it
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"postgresql"[..]));
    let parameters = b"user\0postgres\0database\0postgres\0\0";
    let len = u32::try_from(8 + parameters.len()).unwrap();
    stream.write_all(&len.to_be_bytes()).unwrap();
    stream.write_all(&196_608u32.to_be_bytes()).unwrap();
    stream.write_all(parameters).unwrap();
    let mut answer = [0; 9];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"R\0\0\0\x08\0\0\0\0");
}

#[test]
fn a_query_is_cancelled_by_the_interrupt_of_its_client() {
    let world = World::new();
    let postgres = world.postgres();
    let (_gateway, _acceptor, edge) = chain(&world, &postgres.address.to_string());
    let child = psql(&world, edge, "sslmode=require", "select pg_sleep(20)")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let running = "select count(*) from pg_stat_activity where query = 'select pg_sleep(20)'";
    until("the query", || {
        let (ok, said) = asked(&world, postgres.address, "sslmode=disable", running);
        (ok && said == "1").then_some(())
    });
    let began = Instant::now();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let done = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(began.elapsed() < Duration::from_secs(10), "{said}");
    assert!(said.contains("canceling statement"), "{said}");
}

#[rstest::rstest]
#[case("auto")]
#[case("direct")]
fn no_cancel_request_goes_to_an_acceptor_that_was_revoked_while_it_was_dialled(
    #[case] tunnel: &str,
) {
    let world = World::new();
    let (took, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (taken, over) = (Arc::clone(&took), Arc::clone(&ended));
    let backend = Backend::serve(world.address(), move |mut stream| {
        let mut buffer = [0; 64];
        while let Ok(n) = stream.read(&mut buffer)
            && n > 0
        {
            taken.fetch_add(n, Ordering::SeqCst);
        }
        over.fetch_add(1, Ordering::SeqCst);
    });
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) = world.plain_gateway(
        "tcp",
        link,
        "starttls = \"postgres\"",
        &format!("tunnel = \"{tunnel}\"\nconnect_timeout = \"60s\""),
    );
    acceptor.signal(Signal::STOP);
    let mut stream = world.client().tcp(edge).unwrap();
    stream
        .write_all(b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01\0\0\0\x02")
        .unwrap();
    until("the request", || {
        let active = "portcullis_connections_active{listener=\"public\"}";
        (gateway.metric(active) > 0.5).then_some(())
    });
    world
        .authority
        .revoke("acceptor/legacy", Reason::KeyCompromise)
        .unwrap();
    gateway.reload();
    acceptor.signal(Signal::CONT);
    assert!(!matches!(stream.read(&mut [0]), Ok(1)));
    let line = gateway.line("the refusal", |line| {
        line["message"] == "access" && line["decision"] == "refused"
    });
    assert!(says(&line, "detail", "certificate_revoked"), "{line}");
    // the acceptor may have dialled it before it was told
    until("its backend's end", || {
        (ended.load(Ordering::SeqCst) == backend.connections()).then_some(())
    });
    assert_eq!(took.load(Ordering::SeqCst), 0);
}

#[test]
fn what_stands_behind_the_request_for_tls_closes_the_connection() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (gateway, _acceptor, edge) = chain(&world, &backend.address.to_string());
    let mut stream = world.client().tcp(edge).unwrap();
    let injected = [SSL_REQUEST, b"\0\0\0\x14\0\x03\0\0user\0x\0\0"].concat();
    stream.write_all(&injected).unwrap();
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    assert_eq!(answer, b"", "it was answered");
    gateway.refused("public", "starttls_injection");
    assert_eq!(backend.connections(), 0);

    // the same request alone is answered, after the one for GSS is declined
    let mut stream = world.client().tcp(edge).unwrap();
    let mut one = [0];
    stream.write_all(GSS_REQUEST).unwrap();
    stream.read_exact(&mut one).unwrap();
    assert_eq!(&one, b"N");
    stream.write_all(SSL_REQUEST).unwrap();
    stream.read_exact(&mut one).unwrap();
    assert_eq!(&one, b"S");
    let mut stream = world.client().over(stream, "site.test").unwrap();
    let mut back = [0; 4];
    stream.write_all(b"word").unwrap();
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"word");
}

#[test]
fn noise_and_stalls_before_tls_end_in_time() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) = world.plain_gateway(
        "tcp",
        link,
        "starttls = \"postgres\"\nlimits = { handshake_timeout = \"1s\" }",
        "",
    );
    let twice = [GSS_REQUEST, GSS_REQUEST].concat();
    let cases: [(&[u8], &str); 6] = [
        (b"", "handshake_timeout"),
        (&SSL_REQUEST[..5], "handshake_timeout"),
        (SSL_REQUEST, "handshake_timeout"),
        (&twice, "starttls_injection"),
        (b"GET / HTTP/1.1\r\n\r\n", "not_tls"),
        (b"\xff\xff\xff\xff\x04\xd2\x16\x2f", "not_tls"),
    ];
    for (bytes, reason) in cases {
        let before = gateway.denied("public", reason);
        let began = Instant::now();
        let mut stream = world.client().tcp(edge).unwrap();
        stream.write_all(bytes).unwrap();
        let mut back = Vec::new();
        drop(stream.read_to_end(&mut back));
        assert!(back.len() < 300, "{bytes:?}: {back:?}");
        assert!(began.elapsed() < Duration::from_secs(8), "{bytes:?}");
        until(reason, || {
            (gateway.denied("public", reason) > before).then_some(())
        });
    }
    // one request for GSS after the other, each declined only once
    let mut stream = world.client().tcp(edge).unwrap();
    let mut one = [0];
    stream.write_all(GSS_REQUEST).unwrap();
    stream.read_exact(&mut one).unwrap();
    stream.write_all(GSS_REQUEST).unwrap();
    assert!(!matches!(stream.read(&mut one), Ok(1)));
    // what follows S and is no TLS
    let mut stream = world.client().tcp(edge).unwrap();
    stream.write_all(SSL_REQUEST).unwrap();
    stream.read_exact(&mut one).unwrap();
    stream
        .write_all(b"\0\0\0\x14\0\x03\0\0user\0x\0\0")
        .unwrap();
    let mut back = Vec::new();
    drop(stream.read_to_end(&mut back));
    assert!(back.len() < 100);
    for seed in 0..30_usize {
        let mut noise = vec![0; 1 + seed * 31];
        aws_lc_rs::rand::fill(&mut noise).unwrap();
        let mut stream = world.client().tcp(edge).unwrap();
        drop(stream.write_all(&noise));
        drop(stream.shutdown(std::net::Shutdown::Write));
        drop(stream.read_to_end(&mut Vec::new()));
    }
    assert_eq!(backend.connections(), 0);
    for side in [&gateway, &acceptor] {
        assert!(!side.text().contains("panicked"), "{}", side.text());
    }
}
