//! A reload changes what is decided next, and what may live on; nothing else.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    path::Path,
    process::Command,
    sync::{Mutex, mpsc},
};

use portcullis::pki::{Reason, Role, store::write_file};
use rstest::rstest;
use rustix::process::Signal;
use serde_json::Value;

use crate::world::{
    BINARY, Backend, Running, World, answers, broken, get, named_backend, says, until,
};

#[test]
fn a_kept_connection_stays_and_its_next_request_meets_the_new_routes() {
    let world = World::new();
    let backend = named_backend(&world, "one");
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) = world.plain_gateway("http", link, "", "");
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    assert_eq!(get(&mut stream, "/a"), (200, "one".into()));
    let text = std::fs::read_to_string(&gateway.config).unwrap();
    let narrowed = text.replace(
        "[[route]]\nbackend = \"legacy\"",
        "[[route]]\npath = \"/b\"\nbackend = \"legacy\"",
    );
    assert_ne!(text, narrowed);
    world.write("gateway.toml", &narrowed);
    gateway.reload();
    assert_eq!(get(&mut stream, "/b").0, 200);
    assert_eq!(get(&mut stream, "/a").0, 404);
    gateway.refusal("no_route");
}

#[test]
fn a_link_to_an_acceptor_that_is_revoked_ends_and_others_live() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) = world.plain_gateway("tcp", link, "", "");
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    let mut echo = [0; 2];
    stream.write_all(b"hi").unwrap();
    stream.read_exact(&mut echo).unwrap();
    // another revocation: the new CRL is read, and this link is still good
    world.issue(Role::Acceptor, "other", &["other.internal"]);
    world
        .authority
        .revoke("acceptor/other", Reason::Superseded)
        .unwrap();
    gateway.reload();
    stream.write_all(b"yo").unwrap();
    stream.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"yo");
    world
        .authority
        .revoke("acceptor/legacy", Reason::KeyCompromise)
        .unwrap();
    gateway.reload();
    let line = gateway.refusal("rules_changed");
    assert_eq!(line["decision"], "ended");
    assert!(says(&line, "detail", "certificate_revoked"), "{line}");
    assert!(stream.read_exact(&mut echo).is_err(), "no orderly end");
}

/// Hands bytes on until they end.
fn pass(mut from: TcpStream, mut to: TcpStream) {
    drop(std::io::copy(&mut from, &mut to));
    drop(to.shutdown(Shutdown::Write));
}

/// The way to an acceptor that makes its gateway wait for a word, and leads there only if it `opens`.
fn slow_way(world: &World, link: SocketAddr, opens: bool) -> (Backend, mpsc::Sender<()>) {
    let (go, wait) = mpsc::channel();
    let (wait, near) = (Mutex::new(wait), world.client().source(world.ip()));
    let slow = Backend::serve(world.address(), move |stream| {
        let told = wait.lock().unwrap().recv();
        if opens && told.is_ok() {
            let far = near.tcp(link).unwrap();
            let (from, to) = (stream.try_clone().unwrap(), far.try_clone().unwrap());
            std::thread::spawn(move || pass(from, to));
            pass(far, stream);
        }
    });
    (slow, go)
}

/// The acceptor that it was to go to comes to nothing, or opens its link too late.
#[rstest]
fn a_client_whose_acceptor_is_taken_out_meanwhile_gets_to_the_one_that_came(
    #[values("mux", "reuse", "direct")] tunnel: &str,
    #[values((true, "said"), (true, ""), (false, "said"))] (opens, said): (bool, &str),
) {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (slow, go) = slow_way(&world, link, opens);
    let keys = format!("tunnel = {tunnel:?}\nconnect_timeout = \"20s\"");
    let (gateway, edge) = world.plain_gateway("tcp", slow.address, "", &keys);
    let client = world.client();
    let mut stream = client.ask(edge, "site.test", said.as_bytes()).unwrap();
    until("the first acceptor", || {
        (slow.connections() > 0).then_some(())
    });
    let text = std::fs::read_to_string(&gateway.config).unwrap();
    let moved = text.replace(&slow.address.to_string(), &link.to_string());
    world.write("gateway.toml", &moved);
    gateway.reload();
    go.send(()).unwrap();
    let mut back = vec![0; said.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, said.as_bytes());
    assert!(answers(&mut stream), "{}", gateway.text());
    drop(stream);
    let line = gateway.line("the client's", |line| line["message"] == "access");
    assert_eq!(line["acceptor"], link.to_string(), "{line}");
    assert_eq!(line["bytes_out"], said.len() + 4, "{line}");
}

#[test]
fn a_client_that_the_rules_of_now_do_not_admit_gets_to_no_acceptor_of_theirs() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (slow, go) = slow_way(&world, link, true);
    let keys = "tunnel = \"mux\"\nconnect_timeout = \"20s\"";
    let (gateway, edge) = world.plain_gateway("tcp", slow.address, "", keys);
    let mut stream = world.client().ask(edge, "site.test", b"said").unwrap();
    until("the first acceptor", || {
        (slow.connections() > 0).then_some(())
    });
    let text = std::fs::read_to_string(&gateway.config).unwrap();
    let moved = text.replace(&slow.address.to_string(), &link.to_string());
    let asks = format!(
        "mode = \"tcp\"\nclient_cert = \"require\"\nclient_ca = {:?}\nclients = [\"spiffe://example.internal/client/*\"]",
        world.authority.trust()
    );
    world.write("gateway.toml", &moved.replace("mode = \"tcp\"", &asks));
    gateway.reload();
    go.send(()).unwrap();
    assert!(broken(&mut stream));
    let line = gateway.refusal("rules_changed");
    assert!(says(&line, "detail", "certificate_missing"), "{line}");
    assert_eq!(backend.connections(), 0);
}

#[test]
fn a_listener_that_is_taken_out_gives_its_connections_time_and_then_ends_them() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (kept, removed) = (world.address(), world.address());
    let both = world.common(Role::Gateway, "edge-1")
        + "[limits]\ndrain_timeout = \"1s\"\n"
        + &world.gateway_text("tcp", kept, link, "", "");
    let site = world.leaf(Role::Server, "site");
    let second = format!(
        "[[listener]]\nname = \"second\"\naddress = \"{removed}\"\nmode = \"tcp\"\n\
         certificate = {:?}\nkey = {:?}\n",
        site.certificate, site.key
    );
    let gateway = world.start("gateway", &(both.clone() + &second));
    let mut stays = world.client().connect(kept, "site.test").unwrap();
    let mut goes = world.client().connect(removed, "site.test").unwrap();
    let mut echo = [0; 2];
    for stream in [&mut stays, &mut goes] {
        stream.write_all(b"hi").unwrap();
        stream.read_exact(&mut echo).unwrap();
    }
    world.write("gateway.toml", &both);
    gateway.reload();
    goes.write_all(b"ok").unwrap();
    goes.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"ok", "it has drain_timeout");
    until("the end of the removed listener's connection", || {
        goes.read_exact(&mut echo).err()
    });
    gateway.refusal("draining");
    until("the port's end", || world.client().tcp(removed).err());
    stays.write_all(b"on").unwrap();
    stays.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"on");
}

/// What no reload can change is said at each one that asks for it, and not when it is taken back.
#[test]
fn keys_that_take_a_restart_say_so() {
    let world = World::new();
    let backend = named_backend(&world, "one");
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, _edge) = world.plain_gateway("http", link, "", "");
    let text = std::fs::read_to_string(&gateway.config).unwrap();
    let told = |gateway: &Running| {
        gateway.count(|line| {
            let message = line["message"].as_str().unwrap_or_default();
            message.starts_with("a changed key takes a restart")
        })
    };
    let log = "[log]\nformat = \"json\"\n";
    assert!(text.contains(log), "{text}");
    let changed = text.replace(log, "[log]\nformat = \"text\"\nlevel = \"warn\"\n")
        + "\n[runtime]\nworkers = 3\nscheduling = \"inherit\"\n[limits]\nhandshakes = 7\n";
    world.write("gateway.toml", &changed);
    gateway.reload();
    for key in [
        "runtime.workers",
        "runtime.scheduling",
        "log.level",
        "log.format",
        "limits.handshakes",
    ] {
        gateway.line(key, |line| line["key"] == key);
    }
    world.write("gateway.toml", &text);
    gateway.reload();
    let before = told(&gateway);
    gateway.reload();
    assert_eq!(told(&gateway), before);
}

/// Whatever replaces key and certificate writes one after the other, and may take its time.
#[test]
fn a_pair_that_is_replaced_by_half_is_waited_for_and_not_for_ever() {
    let world = World::new();
    let backend = named_backend(&world, "one");
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) = world.plain_gateway("http", link, "", "");
    let own = world.leaf(Role::Gateway, "edge-1");
    let [second, third] = ["edge-2", "edge-3"].map(|name| world.issue(Role::Gateway, name, &[]));
    let replace = |own: &Path, by: &Path| {
        let bytes = std::fs::read(by).unwrap();
        write_file(own, &bytes, 0o600).unwrap();
    };
    let errors = || gateway.count(|line| line["level"] == "ERROR");
    let now_has = |name: &str| {
        until("the new identity", || {
            let (_, status) = gateway.admin("/status.json").unwrap();
            status.contains(&format!("/gateway/{name}\"")).then_some(())
        });
        let mut stream = world.client().connect(edge, "site.test").unwrap();
        assert_eq!(get(&mut stream, "/"), (200, "one".into()));
    };

    replace(&own.key, &second.key);
    until("a look at the pair", || {
        let waits = |line: &Value| says(line, "message", "a key does not fit its certificate");
        (gateway.count(waits) > 0 || errors() > 0).then_some(())
    });
    replace(&own.certificate, &second.certificate);
    now_has("edge-2");
    assert_eq!(errors(), 0, "{}", gateway.text());

    // the other half does not come: what is in force stays, and that is said
    replace(&own.key, &third.key);
    let line = gateway.line("the refusal", |line| line["level"] == "ERROR");
    assert!(says(&line, "problem", "it is not the key of"), "{line}");
    now_has("edge-2");
    replace(&own.certificate, &third.certificate);
    now_has("edge-3");
}

#[test]
fn who_waits_for_half_a_pair_hears_signals_and_says_in_the_end_that_none_came() {
    let world = World::new();
    let (acceptor, _) = world.plain_acceptor(&world.address().to_string(), "");
    let config = acceptor.config.clone();
    acceptor.stop();
    let own = world.leaf(Role::Acceptor, "legacy");
    let good = std::fs::read(&own.key).unwrap();
    let other = std::fs::read(world.issue(Role::Gateway, "other", &[]).key).unwrap();

    // a service manager that wants to be told often that it lives
    let mut command = Command::new(BINARY);
    let manager = world.path("nobody");
    let beats = command
        .env("NOTIFY_SOCKET", manager)
        .env("WATCHDOG_USEC", "200000");
    let running = Running::launch_by(beats, "acceptor", &config).ready();
    write_file(&own.key, &other, 0o600).unwrap();
    let line = running.line("the refusal", |line| line["level"] == "ERROR");
    assert!(says(&line, "problem", "it is not the key of"), "{line}");
    write_file(&own.key, &good, 0o600).unwrap();
    running.stop();

    write_file(&own.key, &other, 0o600).unwrap();
    let mut starting = Running::launch("acceptor", &config);
    let waits = |line: &Value| says(line, "message", "a key does not fit its certificate");
    starting.line("a look at the pair", waits);
    starting.signal(Signal::TERM);
    assert_eq!(starting.ended().code(), Some(0), "{}", starting.text());
}

/// Whoever replaces a pair by half, or by mistake, must not keep a revocation out.
#[test]
fn a_crl_comes_into_force_beside_a_key_that_does_not_fit() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let live = |name: &str| {
        let leaf = world.issue(Role::Gateway, name, &[]);
        let client = world.client().certificate(&leaf).source(world.ip());
        let mut stream = client.connect(link, "legacy.internal").unwrap();
        assert!(answers(&mut stream));
        stream
    };
    let [mut first, mut second] = ["edge-2", "edge-3"].map(live);
    let own = world.leaf(Role::Acceptor, "legacy");
    let other = std::fs::read(
        world
            .issue(Role::Acceptor, "other", &["other.internal"])
            .key,
    );
    let revoke = |name: &str| {
        let why = Reason::KeyCompromise;
        world.authority.revoke(name, why).unwrap();
    };

    revoke("gateway/edge-2");
    write_file(&own.key, &other.unwrap(), 0o600).unwrap();
    assert!(broken(&mut first));
    acceptor.refusal("rules_changed");
    acceptor.line("the refusal", |line| line["level"] == "ERROR");
    let lines = acceptor.lines();
    let at = |key: &str, value: &str| lines.iter().position(|line| line[key] == value);
    assert!(
        at("reason", "rules_changed") < at("level", "ERROR"),
        "{}",
        acceptor.text()
    );

    // nor is it kept out once the other half is waited for no more
    assert!(answers(&mut second));
    revoke("gateway/edge-3");
    until("the end of the other", || {
        (acceptor.ended_for("legacy", "rules_changed") > 1.5).then_some(())
    });
    assert!(broken(&mut second));
    let (_, ready) = acceptor.admin("/readyz?verbose").unwrap();
    assert!(ready.contains("warn reload:"), "{ready}");
}

/// The same where the pair is what a client-facing listener shows.
#[test]
fn a_crl_comes_into_force_beside_a_site_s_key_that_does_not_fit() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) = world.plain_gateway("tcp", link, "", "");
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    assert!(answers(&mut stream));
    let other = std::fs::read(world.issue(Role::Gateway, "other", &[]).key).unwrap();
    write_file(&world.leaf(Role::Server, "site").key, &other, 0o600).unwrap();
    gateway.line("the refusal", |line| line["level"] == "ERROR");
    world
        .authority
        .revoke("acceptor/legacy", Reason::KeyCompromise)
        .unwrap();
    assert!(broken(&mut stream));
    gateway.refusal("rules_changed");
    // the pair in force is shown
    let errors =
        |line: &Value| line["level"] == "ERROR" && !says(line, "problem", "it is not the key of");
    assert_eq!(gateway.count(errors), 0, "{}", gateway.text());
}

#[test]
fn a_file_that_a_refused_configuration_names_is_waited_for() {
    let world = World::new();
    let backend = named_backend(&world, "one");
    let (_acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) = world.plain_gateway("http", link, "", "");
    let later = world.path("later");
    std::fs::create_dir(&later).unwrap();
    let ranges = later.join("ranges.txt");
    let text = std::fs::read_to_string(&gateway.config).unwrap();
    let deny = format!("mode = \"http\"\ndeny = [{{ file = {ranges:?} }}]");
    let denying = text.replacen("mode = \"http\"", &deny, 1);
    assert_ne!(text, denying);
    world.write("gateway.toml", &denying);
    let line = gateway.line("the refusal", |line| line["level"] == "ERROR");
    assert!(says(&line, "problem", "ranges.txt"), "{line}");
    write_file(&ranges, b"127.0.0.0/8\n", 0o644).unwrap();
    until("the new rule", || {
        let stream = world.client().connect(edge, "site.test");
        stream.is_err().then_some(())
    });
    gateway.refused("public", "source_denied");
}
