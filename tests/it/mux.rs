//! Links of tcp mode that carry many clients at once (`portcullis/3`).

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use portcullis::{
    pki::{Reason, Role},
    wire::{
        link::{self, ConnectionId, Frame, Open},
        mux::{AHEAD, Header, Kind, MAX_DATA, MAX_STREAMS},
    },
};

use rstest::rstest;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::world::{Backend, Client, Running, TlsStream, World, answers, broken, says, until};

struct Chain {
    world: World,
    backend: Backend,
    acceptor: Running,
    link: SocketAddr,
    gateway: Running,
    edge: SocketAddr,
}

const MUX: &str = "tunnel = \"mux\"";
/// One link, however many clients.
const ONE_THREAD: &str = "[runtime]\nworkers = 1";

fn chain_to(backend: impl FnOnce(&World) -> Backend, acceptor: &str, gateway: &str) -> Chain {
    let world = World::new();
    let backend = backend(&world);
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), acceptor);
    let (gateway, edge) = world.plain_gateway("tcp", link, "", &format!("{MUX}\n{gateway}"));
    Chain {
        world,
        backend,
        acceptor,
        link,
        gateway,
        edge,
    }
}

fn chain() -> Chain {
    chain_to(|world| Backend::echo(world.address()), "", "")
}

impl Chain {
    fn client(&self) -> TlsStream {
        self.world.client().connect(self.edge, "site.test").unwrap()
    }

    fn answering(&self) -> TlsStream {
        let mut stream = self.client();
        assert!(answers(&mut stream));
        stream
    }

    /// The link connections so far.
    fn links(&self) -> usize {
        let accepted = self
            .acceptor
            .metric("portcullis_connections_accepted_total{listener=\"legacy\"");
        // counts are small and whole
        format!("{accepted:.0}").parse().unwrap()
    }

    /// Access lines of the acceptor that ended for this reason, once there are so many.
    fn cut(&self, reason: &str, times: usize) {
        until(reason, || {
            let of = |line: &serde_json::Value| {
                line["message"] == "access"
                    && line["reason"] == reason
                    && line["decision"] == "ended"
            };
            (self.acceptor.count(of) >= times).then_some(())
        });
    }
}

fn end(stream: &mut TlsStream) {
    stream.conn.send_close_notify();
    stream.flush().unwrap();
}

#[test]
fn many_clients_share_few_links_and_each_keeps_its_own_name_and_ends() {
    let chain = chain();
    let mut clients: Vec<TlsStream> = (0..60).map(|_| chain.answering()).collect();
    let cores = std::thread::available_parallelism().unwrap().get();
    let links = chain.links();
    assert!((1..=cores * 2).contains(&links), "{links}");
    assert_eq!(chain.backend.connections(), 60);
    for (n, stream) in clients.iter_mut().enumerate() {
        let word = "x".repeat(n * 3000 + 1);
        stream.write_all(word.as_bytes()).unwrap();
        end(stream);
        let mut back = String::new();
        stream.read_to_string(&mut back).unwrap();
        assert_eq!(back.len(), word.len());
    }
    let ids = |side: &Running| -> Vec<String> {
        until("the lines", || {
            let lines = side.lines().into_iter();
            let mut ids: Vec<_> = lines
                .filter(|line| line["message"] == "access")
                .map(|line| {
                    assert_eq!(line["decision"], "admitted", "{line}");
                    line["connection"].as_str().unwrap().to_owned()
                })
                .collect();
            ids.sort();
            (ids.len() == 60).then_some(ids)
        })
    };
    assert_eq!(ids(&chain.gateway), ids(&chain.acceptor));
    // the acceptor knows each client, not its gateway alone
    let line = chain.acceptor.access("admitted");
    assert!(says(&line, "client", "127."), "{line}");
    assert!(chain.links() <= cores * 2);
}

#[test]
fn a_thread_whose_clients_stay_has_a_link_of_its_own() {
    let world = |world: &World| Backend::echo(world.address());
    let chain = chain_to(world, "", "[runtime]\nworkers = 3");
    // each goes where the fewest live
    let mut clients = Vec::new();
    until("three links", || {
        clients.push(chain.answering());
        (chain.links() == 3).then_some(())
    });
    assert!(clients.len() < 16, "{}", clients.len());
    // and more of them share these
    clients.extend((0..6).map(|_| chain.answering()));
    assert!(clients.iter_mut().all(answers));
    assert_eq!(chain.links(), 3);
}

#[test]
fn an_end_is_of_one_direction_and_a_backend_may_speak_first() {
    let serve = |mut stream: std::net::TcpStream| {
        stream.write_all(b"220 ready\r\n").unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        // the answer comes behind the client's end
        stream.write_all(all.to_uppercase().as_bytes()).unwrap();
    };
    let chain = chain_to(|world| Backend::serve(world.address(), serve), "", "");
    for _ in 0..3 {
        let mut stream = chain.client();
        let mut hello = [0; 11];
        stream.read_exact(&mut hello).unwrap();
        stream.write_all(b"word").unwrap();
        end(&mut stream);
        let mut back = String::new();
        stream.read_to_string(&mut back).unwrap();
        assert_eq!(back, "WORD");
    }
    // and the other way: the backend ends first, and still reads
    let (told, heard) = mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let serve = move |mut stream: std::net::TcpStream| {
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        told.lock().unwrap().send(all).unwrap();
    };
    let chain = chain_to(|world| Backend::serve(world.address(), serve), "", "");
    let mut stream = chain.client();
    let mut back = String::new();
    stream.read_to_string(&mut back).unwrap();
    assert_eq!(back, "bye");
    stream.write_all(b"still here").unwrap();
    end(&mut stream);
    assert_eq!(
        heard.recv_timeout(Duration::from_secs(20)).unwrap(),
        "still here"
    );
}

#[test]
fn a_stream_that_breaks_breaks_alone() {
    let chain = chain_to(
        |world| {
            Backend::serve(world.address(), |mut stream| {
                let mut first = [0; 4];
                if stream.read_exact(&mut first).is_ok() && &first == b"kill" {
                    let socket = socket2::SockRef::from(&stream);
                    socket.set_linger(Some(Duration::ZERO)).unwrap();
                    return;
                }
                drop(stream.write_all(&first));
                crate::world::echo(&mut stream);
                drop(stream.shutdown(Shutdown::Write));
            })
        },
        "",
        ONE_THREAD,
    );
    let mut others = [chain.answering(), chain.answering()];
    // the client goes without an end
    let gone = chain.answering();
    gone.sock.shutdown(Shutdown::Both).unwrap();
    chain.gateway.refusal("truncated");
    let line = chain.acceptor.access("ended");
    assert!(says(&line, "reason", "peer_reset"), "{line}");
    assert!(says(&line, "detail", "reset the stream"), "{line}");
    // the backend resets: the client must not see an end
    let mut killed = chain.client();
    killed.write_all(b"kill").unwrap();
    assert!(broken(&mut killed));
    chain.gateway.refusal("upstream_broken");
    for stream in &mut others {
        assert!(answers(stream));
    }
    assert_eq!(chain.links(), 1);
}

/// The system tells of a reset once: whoever was told first, the rest reads like an end.
#[test]
fn an_answer_that_its_backend_resets_under_an_upload_never_looks_whole() {
    const SAID: usize = 30_000;
    for tunnel in ["mux", "reuse", "direct"] {
        let world = World::new();
        let backend = Backend::serve(world.address(), move |mut stream| {
            stream.read_exact(&mut [0; 4]).unwrap();
            stream.write_all(&[7; SAID]).unwrap();
            // until its socket takes no more
            let mut before = 0;
            until("a full socket", || {
                let waits = rustix::io::ioctl_fionread(&stream).unwrap();
                let full = waits > 0 && std::mem::replace(&mut before, waits) == waits;
                full.then_some(())
            });
            let socket = socket2::SockRef::from(&stream);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
        });
        let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
        let tunnel_key = format!("tunnel = {tunnel:?}");
        let (_gateway, edge) = world.plain_gateway("tcp", link, "", &tunnel_key);
        for _ in 0..3 {
            let mut client = world.client().connect(edge, "site.test").unwrap();
            // more than the backend's socket takes, less than all on the way do
            client.write_all(&[1; 900_000]).unwrap();
            let mut got = Vec::new();
            let read = client.read_to_end(&mut got);
            assert!(read.is_err(), "{tunnel}: {} octets, then an end", got.len());
            assert!(got.iter().all(|octet| *octet == 7) && got.len() <= SAID);
        }
        acceptor.refusal("upstream_broken");
    }
}

/// Fits into a stream's window: it passes the link whoever reads it.
pub(crate) const PASSES: usize = 250_000;

/// Waits until everything that was written has gone out.
pub(crate) fn sent(stream: &std::net::TcpStream) {
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_notsent_lowat(1).unwrap();
    until("the last octet", || {
        let mut one = [PollFd::new(stream, PollFlags::OUT)];
        poll(&mut one, Some(&Timespec::default())).unwrap();
        (!one[0].revents().is_empty()).then_some(())
    });
}

fn reset(stream: &std::net::TcpStream) {
    let socket = socket2::SockRef::from(stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

/// A backend that echoes, but for who says `more`: it hears [`PASSES`] octets, and `then` comes.
fn generous(world: &World, then: impl Fn(std::net::TcpStream) + Send + Sync + 'static) -> Backend {
    Backend::serve(world.address(), move |mut stream| {
        let mut first = [0; 4];
        stream.read_exact(&mut first).unwrap();
        if &first == b"more" {
            stream.write_all(&[7; PASSES]).unwrap();
            return then(stream);
        }
        drop(stream.write_all(&first));
        crate::world::echo(&mut stream);
    })
}

/// What its window holds is the client's own, however slowly it reads.
#[rstest]
fn what_a_backend_said_before_its_reset_comes_to_a_client_that_reads_late(
    #[values("mux", "reuse", "direct")] tunnel: &str,
) {
    let world = World::new();
    let (told, was_reset) = mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let backend = generous(&world, move |stream| {
        sent(&stream);
        reset(&stream);
        drop(stream);
        told.lock().unwrap().send(()).unwrap();
    });
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let keys = format!("tunnel = {tunnel:?}\n{ONE_THREAD}");
    let (gateway, edge) = world.plain_gateway("tcp", link, "", &keys);
    let client = || world.client().connect(edge, "site.test").unwrap();
    let (mut other, mut late) = (client(), client());
    let socket = socket2::SockRef::from(&late.sock);
    socket.set_recv_buffer_size(32 << 10).unwrap();
    late.write_all(b"more").unwrap();
    was_reset.recv_timeout(Duration::from_secs(20)).unwrap();
    if tunnel == "mux" {
        acceptor.refusal("upstream_broken");
    }
    // what comes behind the reset has come
    assert!(answers(&mut other));
    let mut got = Vec::new();
    assert!(late.read_to_end(&mut got).is_err(), "an end");
    assert_eq!(got.len(), PASSES);
    let line = gateway.refusal("upstream_broken");
    assert_eq!(line["bytes_out"], PASSES, "{line}");
}

/// The client's own direction is open, and that is what breaks.
#[test]
fn an_answer_that_came_whole_arrives_whole_where_its_link_breaks_under_an_upload() {
    let (told, was_said) = mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let then = move |mut stream: std::net::TcpStream| {
        sent(&stream);
        stream.shutdown(Shutdown::Write).unwrap();
        told.lock().unwrap().send(()).unwrap();
        drop(stream.read_to_end(&mut Vec::new()));
    };
    let chain = chain_to(|world| generous(world, then), ONE_THREAD, ONE_THREAD);
    let (mut other, mut late) = (chain.answering(), chain.client());
    let socket = socket2::SockRef::from(&late.sock);
    socket.set_recv_buffer_size(32 << 10).unwrap();
    late.write_all(b"more").unwrap();
    was_said.recv_timeout(Duration::from_secs(20)).unwrap();
    // each of these is a turn of everything else on the threads and the link
    assert!((0..50).all(|_| answers(&mut other)));
    chain.acceptor.signal(rustix::process::Signal::KILL);
    let ended = |line: &serde_json::Value| line["message"] == "link ended";
    chain.gateway.line("the link's end", ended);
    let mut got = Vec::new();
    let read = late.read_to_end(&mut got);
    assert!(
        read.is_ok() && got.len() == PASSES,
        "{}: {read:?}",
        got.len()
    );
    // and what is said from now on is not taken for heard
    until("the break", || late.write_all(b"more").err());
    let of = |line: &serde_json::Value| line["bytes_out"] == PASSES;
    let line = chain.gateway.line("the client's", of);
    assert_eq!(line["reason"], "upstream_broken", "{line}");
}

/// What came before its gateway broke off goes on to a backend that reads late, for as long as that
/// gateway is let in.
#[rstest]
fn what_a_client_said_before_its_link_broke_comes_to_its_backend_unless_the_gateway_is_shut_out(
    #[values(false, true)] revoked: bool,
) {
    let (go, wait) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    let (wait, tell) = (std::sync::Mutex::new(wait), std::sync::Mutex::new(tell));
    let serve = move |mut stream: std::net::TcpStream| {
        let socket = socket2::SockRef::from(&stream);
        socket.set_recv_buffer_size(8 << 10).unwrap();
        let mut first = [0; 4];
        stream.read_exact(&mut first).unwrap();
        if &first != b"late" {
            drop(stream.write_all(&first));
            return crate::world::echo(&mut stream);
        }
        wait.lock().unwrap().recv().unwrap();
        let mut got = Vec::new();
        let end = stream.read_to_end(&mut got);
        tell.lock()
            .unwrap()
            .send((got.len(), end.is_err()))
            .unwrap();
    };
    let chain = chain_to(
        |world| Backend::serve(world.address(), serve),
        ONE_THREAD,
        ONE_THREAD,
    );
    let (mut other, mut late) = (chain.answering(), chain.client());
    late.write_all(b"late").unwrap();
    late.write_all(&[7; PASSES]).unwrap();
    // each of these is a turn of everything else on the threads and the link
    assert!((0..50).all(|_| answers(&mut other)));
    chain.gateway.signal(rustix::process::Signal::KILL);
    without_links(&chain);
    if revoked {
        let authority = &chain.world.authority;
        authority
            .revoke("gateway/edge-1", Reason::KeyCompromise)
            .unwrap();
        chain.cut("rules_changed", 1);
    }
    go.send(()).unwrap();
    let (got, broke) = told.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(broke, "an end");
    assert_eq!(got == PASSES, !revoked, "{got}");
}

#[test]
fn a_slow_reader_holds_up_nobody_else() {
    let chain = chain_to(
        |world| {
            Backend::serve(world.address(), |mut stream| {
                let mut first = [0; 4];
                stream.read_exact(&mut first).unwrap();
                if &first == b"more" {
                    let part = [7; 65536];
                    while stream.write_all(&part).is_ok() {}
                    return;
                }
                if &first == b"idle" {
                    std::thread::sleep(Duration::from_secs(20));
                    return;
                }
                drop(stream.write_all(&first));
                crate::world::echo(&mut stream);
            })
        },
        "",
        ONE_THREAD,
    );
    let mut other = chain.answering();
    // one client that reads nothing, and one whose backend reads nothing
    let mut deaf = chain.client();
    deaf.write_all(b"more").unwrap();
    let mut flood = chain.client();
    flood.write_all(b"idle").unwrap();
    flood
        .sock
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let part = [7; 65536];
    let mut taken = 0;
    while flood.write_all(&part).is_ok() && taken < (64 << 20) {
        taken += part.len();
    }
    assert!(taken < (64 << 20), "nothing held the flood up");
    let began = Instant::now();
    for _ in 0..50 {
        assert!(answers(&mut other));
    }
    assert!(answers(&mut chain.answering()));
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(chain.links(), 1);
    assert!(chain.acceptor.resident() < 200 && chain.gateway.resident() < 200);
    // and those who are held up hear of a link that breaks, behind what came before
    chain.acceptor.signal(rustix::process::Signal::KILL);
    assert!(deaf.read_to_end(&mut Vec::new()).is_err());
    until("the ends", || {
        let of = |line: &serde_json::Value| {
            line["message"] == "access" && line["reason"] == "upstream_broken"
        };
        (chain.gateway.count(of) >= 3).then_some(())
    });
}

/// Octets that no two places share.
fn octets(seed: u32, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.extend(state.to_be_bytes());
    }
    bytes
}

#[test]
fn much_passes_both_ways_at_once_and_unchanged() {
    let chain = chain();
    std::thread::scope(|threads| {
        for seed in 0..4 {
            let stream = chain.client();
            threads.spawn(move || {
                let sent = octets(seed, 8 << 20);
                let mut stream = stream;
                let mut got = Vec::new();
                let mut buffer = vec![0; 100_000];
                // as much ahead as the echo can hold is enough to fill every window
                for part in sent.chunks(150_000) {
                    stream.write_all(part).unwrap();
                    while got.len() + (100 << 10) < part.as_ptr() as usize - sent.as_ptr() as usize
                    {
                        let n = stream.read(&mut buffer).unwrap();
                        assert!(n > 0);
                        got.extend(&buffer[..n]);
                    }
                }
                end(&mut stream);
                stream.read_to_end(&mut got).unwrap();
                assert!(got == sent, "stream {seed} has changed");
            });
        }
    });
    until("the count", || {
        let bytes = chain
            .acceptor
            .metric("portcullis_transferred_bytes_total{listener=\"legacy\",direction=\"in\"}");
        ((bytes - f64::from(32 << 20)).abs() < 0.5).then_some(())
    });
}

#[test]
fn a_refusal_is_one_client_s_and_a_limit_counts_clients() {
    let chain = chain_to(
        |world| Backend::echo(world.address()),
        "limits = { connections = 3 }",
        ONE_THREAD,
    );
    // the first has the link's place
    let mut held = [chain.answering(), chain.answering(), chain.answering()];
    let mut fourth = chain.client();
    assert!(broken(&mut fourth));
    let line = chain.gateway.refusal("upstream_refused");
    assert!(says(&line, "detail", "too_many_connections"), "{line}");
    let line = chain.acceptor.refusal("too_many_connections");
    assert_eq!(line["decision"], "refused", "{line}");
    for stream in &mut held {
        assert!(answers(stream));
    }
    let [first, _second, _third] = held;
    drop(first);
    until("the place", || answers(&mut chain.client()).then_some(()));
    assert_eq!(chain.links(), 1);
}

#[test]
fn another_acceptor_is_asked_where_one_refuses_drains_or_is_gone() {
    let world = World::new();
    let (one, two) = (
        Backend::greeting(world.address(), "one"),
        Backend::greeting(world.address(), "two"),
    );
    let (first, at) = world.plain_acceptor(&one.address.to_string(), "");
    let second = world.address();
    let file = "acceptor-2";
    let from = format!("trusted_ips = [{:?}]", world.near());
    let text = world.common_as(&world.leaf(Role::Acceptor, "legacy"), file, "")
        + &world.acceptor_text(second, &two.address.to_string(), &from);
    let _other = world.start_as("acceptor", file, &text);
    let more = format!("{MUX}\nbalance = \"round-robin\"");
    let address = world.address();
    let text = world
        .gateway_text("tcp", address, at, "", &more)
        .replace(&format!("[\"{at}\"]"), &format!("[\"{at}\", \"{second}\"]"));
    let gateway = world.gateway(&text);
    let hello = || {
        let mut stream = world.client().connect(address, "site.test").unwrap();
        let mut word = [0; 3];
        stream.read_exact(&mut word).unwrap();
        (String::from_utf8(word.to_vec()).unwrap(), stream)
    };
    let mut kept = until("the first acceptor", || {
        let (word, stream) = hello();
        (word == "one").then_some(stream)
    });
    // its streams go on while it drains, and new ones go elsewhere
    first.signal(rustix::process::Signal::TERM);
    until("the drain", || {
        first.text().contains("draining").then_some(())
    });
    until("the word to the gateway", || {
        (hello().0 == "two").then_some(())
    });
    for _ in 0..6 {
        assert_eq!(hello().0, "two");
    }
    assert!(answers(&mut kept));
    end(&mut kept);
    assert_eq!(
        kept.read(&mut [0]).unwrap(),
        0,
        "the end of what was carried to its end"
    );
    let mut first = first;
    assert_eq!(first.ended().code(), Some(0));
    assert_eq!(hello().0, "two");
    assert_eq!(gateway.count(|line| line["decision"] == "refused"), 0);
}

#[test]
fn a_broken_link_breaks_its_streams_and_a_new_one_takes_the_next() {
    let chain = chain();
    let mut open = [chain.answering(), chain.answering(), chain.answering()];
    let config = chain.acceptor.config.clone();
    chain.acceptor.signal(rustix::process::Signal::KILL);
    for stream in &mut open {
        assert!(broken(stream));
    }
    let acceptor = chain.acceptor;
    drop(acceptor);
    chain.gateway.refusal("upstream_broken");
    let line = chain
        .gateway
        .line("the link's end", |line| line["message"] == "link ended");
    assert!(says(&line, "reason", "upstream_broken"), "{line}");
    let _acceptor = Running::start("acceptor", &config);
    until("the new link", || {
        let stream = chain.world.client().connect(chain.edge, "site.test");
        answers(&mut stream.unwrap()).then_some(())
    });
}

#[test]
fn a_revoked_gateway_loses_every_stream_at_once() {
    let chain = chain();
    let mut open: Vec<TlsStream> = (0..5).map(|_| chain.answering()).collect();
    // the gateway reads the list too, and would close its links itself
    chain.gateway.signal(rustix::process::Signal::STOP);
    chain.world.issue(Role::Gateway, "other", &[]);
    let revoke = |name: &str| {
        let authority = &chain.world.authority;
        authority.revoke(name, Reason::KeyCompromise).unwrap();
    };
    revoke("gateway/other");
    chain.acceptor.reload();
    let before = Instant::now();
    revoke("gateway/edge-1");
    chain.cut("rules_changed", 5);
    assert!(before.elapsed() < Duration::from_secs(10));
    let line = chain.acceptor.access("ended");
    assert!(says(&line, "detail", "certificate_revoked"), "{line}");
    chain.gateway.signal(rustix::process::Signal::CONT);
    for stream in &mut open {
        assert!(broken(stream));
    }
    assert!(broken(&mut chain.client()));
    chain.acceptor.refused("legacy", "certificate_revoked");
}

#[test]
fn reloads_of_both_ends_lose_no_byte() {
    let chain = chain();
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::scope(|threads| {
        for _ in 0..3 {
            let mut long = chain.answering();
            let (stop, chain) = (Arc::clone(&stop), &chain);
            threads.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    assert!(answers(&mut long));
                    assert!(answers(&mut chain.client()));
                }
            });
        }
        for _ in 0..3 {
            chain.acceptor.reload();
            chain.gateway.reload();
        }
        stop.store(true, Ordering::Relaxed);
    });
    // each reload of the gateway has links of its own, and the old ones close with their streams
    assert!(chain.links() >= 2, "{}", chain.links());
    let cut = |line: &serde_json::Value| line["reason"] == "rules_changed";
    assert_eq!(chain.acceptor.count(cut) + chain.gateway.count(cut), 0);
    until("the end of old links", || {
        let active = chain
            .acceptor
            .metric("portcullis_connections_active{listener=\"legacy\"");
        // some of the last generation
        (active < 4.5).then_some(())
    });
}

/// Waits until the acceptor has no link connection.
fn without_links(chain: &Chain) {
    until("the end of every link", || {
        let active = chain
            .acceptor
            .metric("portcullis_connections_active{listener=\"legacy\"");
        (active < 0.5).then_some(())
    });
}

/// So much does not fit into what the kernel holds for a connection.
const MUCH: usize = 12 << 20;

/// The link has done its part for a client that reads slowly, and is let go.
#[test]
fn an_answer_that_has_passed_the_link_whole_arrives_whole_after_its_end() {
    let chain = chain_to(
        |world| {
            Backend::serve(world.address(), |mut stream| {
                stream.read_to_end(&mut Vec::new()).unwrap();
                drop(stream.write_all(&vec![7; MUCH]));
            })
        },
        "",
        "",
    );
    let mut stream = chain.client();
    let socket = socket2::SockRef::from(&stream.sock);
    socket.set_recv_buffer_size(32 << 10).unwrap();
    stream.write_all(b"give").unwrap();
    end(&mut stream);
    let mut got = 0;
    let mut part = vec![0; 64 << 10];
    let passed = |line: &serde_json::Value| line["message"] == "access";
    while chain.acceptor.count(passed) == 0 {
        got += stream.read(&mut part).unwrap();
        assert!(got < MUCH, "the link was never ahead of its reader");
        // what is left may all be on this side of the link: its line is given time to come
        if MUCH - got < 2 << 20 {
            std::thread::sleep(Duration::from_millis(30));
        }
    }
    chain.gateway.reload();
    without_links(&chain);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(got + rest.len(), MUCH);
    let line = chain.gateway.access("admitted");
    assert_eq!(line["bytes_out"], MUCH, "{line}");
}

/// The same the other way: the backend has ended its own direction, and reads slowly.
#[test]
fn an_upload_that_has_passed_the_link_whole_arrives_whole_after_its_end() {
    let (go, wait) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    let (wait, tell) = (std::sync::Mutex::new(wait), std::sync::Mutex::new(tell));
    let hurry = Arc::new(AtomicBool::new(false));
    let passed = Arc::clone(&hurry);
    let serve = move |mut stream: std::net::TcpStream| {
        let socket = socket2::SockRef::from(&stream);
        socket.set_recv_buffer_size(32 << 10).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut part = vec![0; 64 << 10];
        let mut got = 0;
        while !passed.load(Ordering::Relaxed) {
            // a reader slower than the link
            std::thread::sleep(Duration::from_millis(5));
            got += stream.read(&mut part).unwrap();
        }
        wait.lock().unwrap().recv().unwrap();
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest).map(|n| got + n);
        tell.lock().unwrap().send(end).unwrap();
    };
    let chain = chain_to(|world| Backend::serve(world.address(), serve), "", "");
    let mut stream = chain.client();
    stream.write_all(&vec![7; MUCH]).unwrap();
    end(&mut stream);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    chain.gateway.access("admitted");
    hurry.store(true, Ordering::Relaxed);
    chain.gateway.reload();
    until("the link's end", || {
        let links = chain.acceptor.ended_for("legacy", "none");
        (links > 0.5).then_some(())
    });
    go.send(()).unwrap();
    let end = told.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(end.unwrap(), MUCH);
}

#[test]
fn a_link_takes_no_client_beyond_its_age_and_none_keeps_it_open() {
    let chain = chain_to(
        |world| Backend::echo(world.address()),
        "",
        "pool = { max_age = \"1s\", idle_timeout = \"1s\" }",
    );
    let mut first = chain.answering();
    until("the second link", || {
        assert!(answers(&mut chain.answering()));
        (chain.links() >= 2).then_some(())
    });
    assert!(answers(&mut first));
    drop(first);
    until("the end of both", || {
        let active = chain
            .acceptor
            .metric("portcullis_connections_active{listener=\"legacy\"");
        (active < 0.5).then_some(())
    });
    assert!(chain.acceptor.ended_for("legacy", "none") >= 2.0);
}

#[test]
fn an_acceptor_that_cannot_is_spoken_to_as_ever_and_that_is_said_once() {
    let world = World::new();
    let backend = crate::world::named_backend(&world, "http");
    // in http mode an acceptor passes one client's bytes on, by version 1
    let (_acceptor, link) = world.http_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) = world.plain_gateway("tcp", link, "", MUX);
    for _ in 0..3 {
        let mut stream = world.client().connect(edge, "site.test").unwrap();
        assert_eq!(crate::world::get(&mut stream, "/"), (200, "http".into()));
    }
    let said = |line: &serde_json::Value| says(line, "message", "is not to be had there");
    assert_eq!(gateway.count(said), 1);
}

#[test]
fn redis_answers_a_pipeline_over_a_shared_link() {
    let world = World::new();
    let redis = world.redis();
    let (_acceptor, link) = world.plain_acceptor(&redis.address.to_string(), "");
    let (_gateway, edge) = world.plain_gateway("tcp", link, "", MUX);
    let mut streams: Vec<TlsStream> = (0..3)
        .map(|_| world.client().connect(edge, "site.test").unwrap())
        .collect();
    for (n, stream) in streams.iter_mut().enumerate() {
        let mut commands = String::new();
        for key in 0..2000 {
            commands.push_str(&format!("SET {n}:{key} {key}\r\n"));
        }
        commands.push_str(&format!("GET {n}:1999\r\n"));
        stream.write_all(commands.as_bytes()).unwrap();
    }
    for stream in &mut streams {
        let mut answers = vec![0; 2000 * 5 + 10];
        stream.read_exact(&mut answers).unwrap();
        assert!(answers.ends_with(b"$4\r\n1999\r\n"));
    }
}

/// It comes once and whole, however much of it goes ahead of the acceptor's answer.
#[test]
fn what_a_client_says_with_its_handshake_comes_once_and_is_counted() {
    let chain = chain();
    let name = "site.test";
    for len in [1, AHEAD - 1, AHEAD, AHEAD + 1, 300_000] {
        let said: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
        let mut stream = chain.world.client().ask(chain.edge, name, &said).unwrap();
        stream.write_all(b"more").unwrap();
        let mut heard = vec![0; len + 4];
        stream.read_exact(&mut heard).unwrap();
        assert!(heard == [&said[..], b"more"].concat(), "{len}");
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        for side in [&chain.gateway, &chain.acceptor] {
            let line = side.line("the client's", |line| line["bytes_out"] == len + 4);
            assert_eq!(line["bytes_in"], len + 4, "{line}");
        }
    }
    // a backend that is not there has nothing of it, and says so
    let world = World::new();
    let (acceptor, link) = world.plain_acceptor(&world.address().to_string(), "");
    let (gateway, edge) = world.plain_gateway("tcp", link, "", MUX);
    let stream = world.client().ask(edge, name, b"word");
    assert!(stream.is_err() || broken(&mut stream.unwrap()));
    gateway.refusal("backend_unreachable");
    acceptor.refusal("backend_unreachable");
}

/// The gateway's certificate in other hands, which know the frames.
struct Hostile(TlsStream);

impl Hostile {
    fn new(chain: &Chain) -> Self {
        let mut stream = Client::new(&chain.world.authority.trust())
            .certificate(&chain.world.leaf(Role::Gateway, "edge-1"))
            .alpn("portcullis/3")
            .source(chain.world.ip())
            .connect(chain.link, "legacy.internal")
            .unwrap();
        let mut welcome = [0; 11];
        stream.read_exact(&mut welcome).unwrap();
        assert_eq!(welcome, [2, 0, 0, 3, 0, 0, 0, 0, 1, 0, 0]);
        Self(stream)
    }

    fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)?;
        self.0.flush()
    }

    /// The next frame.
    fn hear(&mut self) -> io::Result<(Header, Vec<u8>)> {
        let mut head = [0; 8];
        self.0.read_exact(&mut head)?;
        let header = Header::read(head).unwrap();
        let mut payload = vec![0; header.len];
        self.0.read_exact(&mut payload)?;
        Ok((header, payload))
    }

    /// Opens stream 1 and waits until it is admitted.
    fn opened(chain: &Chain) -> Self {
        let mut hostile = Self::new(chain);
        hostile.say(&opening(1)).unwrap();
        assert_eq!(hostile.hear().unwrap().0.kind, Kind::Admitted);
        hostile
    }

    /// Reads to the acceptor's last word.
    fn last_word(&mut self) -> String {
        loop {
            match self.hear() {
                Ok((header, word)) if header.kind == Kind::Refused && header.stream == 0 => {
                    return String::from_utf8(word).unwrap();
                }
                Ok(_) => {}
                Err(error) => return error.to_string(),
            }
        }
    }
}

fn frame(kind: Kind, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = payload.len();
    [&Header { kind, len, stream }.bytes(), payload].concat()
}

fn opening(stream: u32) -> Vec<u8> {
    let open = Open::new(ConnectionId([7; 16]));
    let whole = link::encode(&Frame::Open(Box::new(open)));
    frame(Kind::Open, stream, &whole[link::HEADER_LEN..])
}

#[test]
fn hostile_frames_end_their_link_by_name_and_nobody_elses() {
    let chain = chain();
    let mut other = chain.answering();
    let floods: [(&str, Vec<u8>); 12] = [
        ("a frame of type 11", vec![11, 0, 0, 0, 0, 0, 0, 1]),
        ("Data of 0 bytes", vec![4, 0, 0, 0, 0, 0, 0, 1]),
        ("Data of 65537 bytes", vec![4, 1, 0, 1, 0, 0, 0, 1]),
        ("expected a number above 1", opening(1)),
        ("which was never opened", frame(Kind::Data, 9, b"x")),
        ("Admitted from the wrong end", frame(Kind::Admitted, 1, &[])),
        (
            "Data of stream 1 out of turn",
            [frame(Kind::Fin, 1, &[]), frame(Kind::Data, 1, b"x")].concat(),
        ),
        (
            "WINDOW of stream 1 by 1 bytes",
            frame(Kind::Window, 1, &1u32.to_be_bytes()).repeat(3),
        ),
        (
            "WINDOW of stream 1 by 4294967295",
            frame(Kind::Window, 1, &u32::MAX.to_be_bytes()),
        ),
        (
            "a flood of Ping",
            frame(Kind::Ping, 0, &[0; 8]).repeat(1000),
        ),
        ("a flood of Reset", frame(Kind::Reset, 1, &[]).repeat(1000)),
        (
            "are open",
            (2..=MAX_STREAMS as u32 + 2).flat_map(opening).collect(),
        ),
    ];
    for (rule, bytes) in floods {
        let mut hostile = Hostile::opened(&chain);
        // it may be cut before it has said all
        drop(hostile.say(&bytes));
        let word = hostile.last_word();
        let line = chain.acceptor.line(rule, |line| {
            line["reason"] == "link_violation" && says(line, "detail", rule)
        });
        assert_eq!(line["message"], "access", "{line}");
        assert!(
            word == "link_violation" || rule.contains("open") || rule.contains("flood"),
            "{rule}: {word}"
        );
        assert!(answers(&mut other), "{rule}");
    }
    assert!(chain.acceptor.ended_for("legacy", "link_violation") >= 12.0);
    until("the places", || {
        let active = chain
            .acceptor
            .metric("portcullis_connections_active{listener=\"legacy\"");
        (active < 1.5).then_some(())
    });
    assert!(chain.acceptor.resident() < 200);
}

#[test]
fn nobody_sends_beyond_the_window_or_keeps_a_link_without_a_client() {
    let chain = chain_to(
        |world| {
            Backend::serve(world.address(), |_stream| {
                std::thread::sleep(Duration::from_secs(15));
            })
        },
        "limits = { handshake_timeout = \"1s\" }",
        "",
    );
    let mut hostile = Hostile::opened(&chain);
    let part = frame(Kind::Data, 1, &[0; MAX_DATA]);
    // what the sockets on the way to the backend take is given leave for again
    for _ in 0..(64 << 20) / MAX_DATA {
        if hostile.say(&part).is_err() {
            break;
        }
    }
    let line = chain.acceptor.refusal("link_violation");
    assert!(says(&line, "detail", "beyond its window"), "{line}");
    let mut silent = Hostile::new(&chain);
    assert_eq!(silent.last_word(), "handshake_timeout");
    chain.acceptor.refusal("handshake_timeout");
}
