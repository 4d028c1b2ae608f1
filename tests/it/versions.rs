//! Versions meet: the version before this one (`tests/previous-version`, which scripts/test builds)
//! and this one carry each other's traffic, and share a store.

use std::{
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use portcullis::pki::Role;
use rstest::rstest;

use crate::world::{
    BINARY, Backend, Links, Open, Running, Ways, World, answers, get, says, switching,
};

/// How long the load lasts, of each pair.
const LOAD: Duration = Duration::from_secs(3);

/// The program of the version before. `None`: this is no checkout that has it.
fn previous() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let commit = std::fs::read_to_string(root.join("tests/previous-version")).unwrap();
    let program = root.join("target/previous").join(commit.trim());
    if program.exists() {
        return Some(program);
    }
    let known = Command::new("git")
        .current_dir(root)
        .args(["cat-file", "-e", &format!("{}^{{commit}}", commit.trim())])
        .output()
        .is_ok_and(|done| done.status.success());
    assert!(
        !known,
        "{program:?} is not there: run scripts/test, it builds it"
    );
    drop(writeln!(
        std::io::stderr(),
        "skipped: this copy has no history, so the version before can't be built"
    ));
    None
}

fn start(world: &World, program: &Path, role: Role, file: &str, text: &str) -> Running {
    let name = if role == Role::Gateway {
        "edge-1"
    } else {
        "legacy"
    };
    let text = world.common_as(&world.leaf(role, name), file, "") + text;
    let config = world.write(&format!("{file}.toml"), &text);
    Running::launch_by(&mut Command::new(program), role.as_str(), &config).ready()
}

/// New connections and kept ones, requests and words, until the time is over; how many of each
/// were answered.
fn load(world: &World, at: [SocketAddr; 3]) -> [u32; 4] {
    let end = Instant::now() + LOAD;
    let counted = |work: &mut dyn FnMut()| {
        let mut times = 0;
        while Instant::now() < end {
            work();
            times += 1;
        }
        times
    };
    let client = world.client();
    let connect = |to| client.connect(to, "site.test").unwrap();
    std::thread::scope(|threads| {
        let kept = threads.spawn(|| {
            let mut stream = connect(at[0]);
            counted(&mut || assert_eq!(get(&mut stream, "/").0, 200))
        });
        let new =
            threads.spawn(|| counted(&mut || assert_eq!(get(&mut connect(at[0]), "/").0, 200)));
        let [direct, reused] = [at[1], at[2]].map(|to| {
            threads.spawn(move || {
                let mut long = connect(to);
                counted(&mut || {
                    assert!(answers(&mut long));
                    let mut short = connect(to);
                    assert!(answers(&mut short));
                    short.conn.send_close_notify();
                    short.flush().unwrap();
                })
            })
        });
        [kept, new, direct, reused].map(|thread| thread.join().unwrap())
    })
}

#[rstest]
#[case(true)]
#[case(false)]
fn this_version_and_the_one_before_carry_each_others_traffic(#[case] gateway_is_new: bool) {
    let Some(previous) = previous() else { return };
    let new = PathBuf::from(BINARY);
    let (edge, gate) = match gateway_is_new {
        true => (&new, &previous),
        false => (&previous, &new),
    };
    let world = World::new();
    let (http_backend, tcp_backend) = (switching(&world), Backend::echo(world.address()));
    let links = Links {
        http: world.address(),
        tcp: world.address(),
    };
    let from = format!("trusted_ips = [{:?}]", world.near());
    let text = world.acceptor_text_in("http", links.http, &http_backend.address.to_string(), &from)
        + &world
            .acceptor_text_in("tcp", links.tcp, &tcp_backend.address.to_string(), &from)
            .replace("name = \"legacy\"", "name = \"stream\"");
    let acceptor = start(&world, gate, Role::Acceptor, "acceptor", &text);
    let ways = Ways {
        prefix: "",
        bind: world.ip(),
        links,
        client: "",
        link: "",
        web: "",
    };
    let (text, at) = ways.text(&world);
    let gateway = start(&world, edge, Role::Gateway, "gateway", &text);
    let mut open = Open::new(&world.client(), at);
    for (which, times) in load(&world, at).into_iter().enumerate() {
        assert!(times >= 10, "load {which}: {times}");
    }
    assert!(open.works());
    // what was believed at one end is what the other said
    for process in [&gateway, &acceptor] {
        let faults = process.count(|line| line["decision"] == "refused");
        assert_eq!(faults, 0, "{}", process.text());
    }
}

#[test]
fn an_acceptor_of_the_version_before_carries_the_clients_of_a_gateway_that_wants_links_for_many() {
    let Some(previous) = previous() else { return };
    let world = World::new();
    let (backend, link) = (Backend::echo(world.address()), world.address());
    let from = format!("trusted_ips = [{:?}]", world.near());
    let text = world.acceptor_text(link, &backend.address.to_string(), &from);
    let acceptor = start(&world, &previous, Role::Acceptor, "acceptor", &text);
    let (gateway, edge) = world.plain_gateway("tcp", link, "", "tunnel = \"mux\"");
    let mut open: Vec<_> = (0..5)
        .map(|_| world.client().connect(edge, "site.test").unwrap())
        .collect();
    for _ in 0..3 {
        assert!(open.iter_mut().all(answers));
    }
    let said = |line: &serde_json::Value| says(line, "message", "is not to be had there");
    let links_for_many = acceptor.metric("portcullis_connections_accepted_total") < 4.5;
    assert_eq!(gateway.count(said), usize::from(!links_for_many));
}

fn pki(program: &Path, world: &World, arguments: &[&str]) -> (bool, String) {
    let done = Command::new(program)
        .arg("pki")
        .args(arguments)
        .arg("--dir")
        .arg(world.authority.folder())
        .output()
        .unwrap();
    let text = [done.stdout, done.stderr].concat();
    (
        done.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn the_version_before_uses_a_store_of_this_one_or_says_why_not() {
    let Some(previous) = previous() else { return };
    let new = PathBuf::from(BINARY);
    let world = World::new();
    let schema = |world: &World| {
        let path = world.authority.folder().join("state/state.json");
        let state: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        state["schema"].as_u64().unwrap()
    };
    let (done, said) = pki(&previous, &world, &["issue", "gateway", "old"]);
    if done {
        // each reads what the other wrote
        let (done, said) = pki(&new, &world, &["renew", "gateway/old"]);
        assert!(done, "{said}");
        let (done, said) = pki(&previous, &world, &["revoke", "gateway/old"]);
        assert!(done, "{said}");
        let (done, said) = pki(&new, &world, &["list"]);
        assert!(done, "{said}");
    } else {
        assert!(
            said.contains(&format!("has schema {}", schema(&world))),
            "{said}"
        );
        assert!(said.contains("use a version at least as"), "{said}");
    }
}
