//! What a process that is told to stop still answers.

use std::time::Duration;

use portcullis::pki::Role;
use rstest::rstest;
use rustix::process::Signal;

use super::{
    Chain,
    raw::{Raw, answering, mirror, ok},
};
use crate::world::{Running, World, until};

/// Long before `drain_timeout`.
const SOON: Duration = Duration::from_secs(15);

fn begin_to_stop(process: &Running) {
    process.signal(Signal::TERM);
    process.line("draining", |line| line["message"] == "draining");
}

fn ends_soon(process: &mut Running) {
    let ended = process.ended_within(SOON);
    assert!(
        ended.is_some_and(|status| status.success()),
        "{}",
        process.text()
    );
    let line = process.line("stopped", |line| line["message"] == "stopped");
    assert_eq!(line["cut"], 0);
}

/// Nobody told them anything yet: they have no other connection to come back on.
#[test]
fn a_client_that_was_accepted_is_answered_once() {
    let world = World::new();
    let (backend, _seen) = mirror(world.address());
    let mut chain = Chain::new(world, backend.address, "", "");
    let client = chain.world.client();
    let (mut fresh, mut half, _silent) = (chain.raw(), chain.raw(), chain.raw());
    let unshaken = client.tcp(chain.edge).unwrap();
    half.send("GET /half HTTP/1.1\r\nHo");
    until("the connections", || {
        let accepted = "portcullis_connections_accepted_total{listener=\"public\"";
        (chain.gateway.metric(accepted) > 3.5).then_some(())
    });
    begin_to_stop(&chain.gateway);
    let mut unshaken = Raw::new(client.over(unshaken, "site.test").unwrap());
    half.send("st: site.test\r\n\r\n");
    for (raw, path) in [(&mut fresh, "/fresh"), (&mut unshaken, "/unshaken")] {
        raw.request(&[&format!("GET {path}")]);
    }
    for (raw, path) in [
        (&mut fresh, "/fresh"),
        (&mut unshaken, "/unshaken"),
        (&mut half, "/half"),
    ] {
        let answer = raw.answer();
        assert_eq!((answer.status(), answer.text()), (200, path.to_owned()));
        assert_eq!(answer.one("connection"), Some("close"));
        raw.ends();
        assert_eq!(chain.line(path)["decision"], "admitted");
    }
    // nor does the silent one hold it up
    ends_soon(&mut chain.gateway);
}

/// What has come before the word to stop is read before the connection is closed.
#[test]
fn a_request_that_came_before_the_drain_is_answered() {
    let world = World::new();
    let (backend, _seen) = mirror(world.address());
    let mut chain = Chain::new(world, backend.address, "", "");
    let mut kept: Vec<Raw> = (0..20).map(|_| chain.raw()).collect();
    for raw in &mut kept {
        assert_eq!(raw.ask(&["GET /before"]).status(), 200);
    }
    chain.gateway.signal(Signal::STOP);
    for raw in &mut kept {
        raw.request(&["POST /there", "Content-Length: 0"]);
    }
    chain.gateway.signal(Signal::TERM);
    chain.gateway.signal(Signal::CONT);
    for raw in &mut kept {
        assert_eq!(raw.answer().status(), 200);
        raw.ends();
    }
    ends_soon(&mut chain.gateway);
}

/// Its gateway has not heard of the drain, and may not send twice what is no safe request.
#[rstest]
#[case::used("0")]
#[case::fresh("1")]
fn an_acceptor_in_http_mode_answers_what_its_gateway_still_sends(#[case] ready: &str) {
    let world = World::new();
    let (backend, seen) = mirror(world.address());
    let to = backend.address.to_string();
    let more = format!("pool = {{ ready = {ready} }}");
    let mut chain = Chain::both(world, &to, "", "", &more);
    let mut raw = chain.raw();
    if ready == "0" {
        assert_eq!(
            raw.ask(&["POST /before", "Content-Length: 0"]).status(),
            200
        );
    } else {
        until("the ready link", || {
            let active = "portcullis_connections_active{listener=\"legacy\"";
            (chain.acceptor.metric(active) > 0.5).then_some(())
        });
    }
    begin_to_stop(&chain.acceptor);
    let answer = raw.ask(&["POST /after", "Content-Length: 0"]);
    assert_eq!(answer.status(), 200, "{}", chain.gateway.text());
    assert_eq!(seen.last().target(), "/after");
    ends_soon(&mut chain.acceptor);
}

/// On a connection that is the requests' alone an acceptor in tcp mode can't say that it leaves: the
/// gateway finds that it listens no more.
#[rstest]
#[case::busy("")]
#[case::checked("health = { interval = \"1s\" }")]
fn an_acceptor_of_direct_links_is_let_go(#[case] health: &str) {
    const TOGETHER: usize = 8;
    let world = World::new();
    let (backend, _seen) = answering(world.address(), |_| {
        std::thread::sleep(Duration::from_millis(300));
        ok("it")
    });
    let to = backend.address.to_string();
    let (mut first, at) = world.plain_acceptor(&to, "limits = { drain_timeout = \"2m\" }");
    let (file, second) = ("acceptor-2", world.address());
    let from = format!("trusted_ips = [{:?}]", world.near());
    let text = world.common_as(&world.leaf(Role::Acceptor, "legacy"), file, "")
        + &world.acceptor_text(second, &to, &from);
    let _other = world.start_as("acceptor", file, &text);
    let address = world.address();
    let more = format!("tunnel = \"direct\"\n{health}");
    let text = world
        .gateway_text("http", address, at, "", &more)
        .replace(&format!("[\"{at}\"]"), &format!("[\"{at}\", \"{second}\"]"));
    let gateway = world.gateway(&text);
    let client = world.client();
    let ask = |many: usize| {
        let open = || Raw::new(client.connect(address, "site.test").unwrap());
        let mut raws: Vec<Raw> = (0..many).map(|_| open()).collect();
        for raw in &mut raws {
            raw.request(&["POST /", "Content-Length: 0"]);
        }
        for raw in &mut raws {
            assert_eq!(raw.answer().status(), 200, "{}", gateway.text());
        }
    };
    ask(TOGETHER);
    let links = first.metric("portcullis_connections_active{listener=\"legacy\"");
    assert!(links > 0.5, "{links}");
    begin_to_stop(&first);
    if health.is_empty() {
        // more than are kept
        ask(2 * TOGETHER);
    }
    ends_soon(&mut first);
}
