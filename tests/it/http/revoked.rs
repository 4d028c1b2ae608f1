//! Requests whose acceptor is shut out while they are under way, or before they are: none reaches
//! it any more, and none that broke looks whole to what stands behind.

use std::{
    io::{BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use portcullis::pki::{Reason, Role};
use rstest::rstest;
use rustix::process::Signal;

use super::{Chain, raw};
use crate::world::{Backend, TlsStream, World, named_backend, says, until};

/// Requests at once.
const MANY: usize = 8;

/// What came to a backend that never answers.
#[derive(Default)]
struct Came {
    requests: AtomicUsize,
    octets: AtomicUsize,
    /// How each connection ended: `true`, as if all were said.
    ends: Mutex<Vec<bool>>,
}

impl Came {
    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn ends(&self) -> Vec<bool> {
        self.ends.lock().unwrap().clone()
    }
}

/// Takes requests and answers none.
fn silent(world: &World) -> (Backend, Arc<Came>) {
    let came = Arc::<Came>::default();
    let notes = Arc::clone(&came);
    let take = move |mut stream: TcpStream| {
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        let whole = loop {
            match stream.read(&mut buffer) {
                Ok(0) => break true,
                Err(_) => break false,
                Ok(n) => {
                    notes.octets.fetch_add(n, Ordering::SeqCst);
                    seen.extend_from_slice(&buffer[..n]);
                    if seen.ends_with(b"\r\n\r\n") {
                        notes.requests.fetch_add(1, Ordering::SeqCst);
                    }
                }
            }
        };
        notes.ends.lock().unwrap().push(whole);
    };
    (Backend::serve(world.address(), take), came)
}

fn ask(world: &World, edge: SocketAddr) -> BufReader<TlsStream> {
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: site.test\r\n\r\n")
        .unwrap();
    BufReader::new(stream)
}

fn answer(stream: &mut BufReader<TlsStream>) -> (u16, String) {
    let mut answer = raw::head(stream).unwrap().unwrap();
    raw::body(stream, &mut answer, false).unwrap();
    (answer.status(), answer.text())
}

fn edit(world: &World, chain: &Chain, from: &str, to: &str) {
    let text = std::fs::read_to_string(&chain.gateway.config).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    world.write("gateway.toml", &text.replace(from, to));
}

/// A chain whose backend holds `MANY` requests on links that were kept, all of which may be sent
/// twice.
fn under_way(tunnel: &str) -> (Chain, Arc<Came>, Vec<BufReader<TlsStream>>) {
    let world = World::new();
    let (backend, came) = silent(&world);
    world.write("token", "mF_9.B5f-4.1JqM-long\n");
    let more = format!(
        "tunnel = \"{tunnel}\"\npool = {{ ready = {MANY} }}\n\
         credentials = {{ bearer = {{ file = \"token\" }} }}"
    );
    let chain = Chain::new(world, backend.address, "", &more);
    until("the links", || {
        (backend.connections() >= MANY).then_some(())
    });
    let asked = [(); MANY].map(|()| ask(&chain.world, chain.edge));
    until("the requests", || (came.requests() == MANY).then_some(()));
    (chain, came, asked.into())
}

#[rstest]
#[case("auto")]
#[case("reuse")]
#[case("direct")]
fn no_request_is_sent_again_to_an_acceptor_that_was_revoked(#[case] tunnel: &str) {
    let (chain, came, asked) = under_way(tunnel);
    let authority = &chain.world.authority;
    authority
        .revoke("acceptor/legacy", Reason::KeyCompromise)
        .unwrap();
    chain.gateway.reload();
    for mut stream in asked {
        assert_eq!(answer(&mut stream).0, 502);
    }
    let line = chain.gateway.refusal("upstream_untrusted");
    assert!(says(&line, "detail", "certificate_revoked"), "{line}");
    let ends = until("their ends", || {
        Some(came.ends()).filter(|ends| ends.len() >= MANY)
    });
    assert_eq!(came.requests(), MANY, "and none twice");
    // those that were kept for nobody may end in order
    let whole = ends.iter().filter(|whole| **whole).count();
    assert!(ends.len() - whole >= MANY, "{ends:?}");
}

#[test]
fn a_request_is_sent_again_by_what_is_in_force_then() {
    let (chain, came, asked) = under_way("auto");
    let world = &chain.world;
    let other = named_backend(world, "two");
    let link = world.address();
    let near = format!("trusted_ips = [{:?}]", world.near());
    let text = world.common_as(&world.leaf(Role::Acceptor, "legacy"), "second", "")
        + &world.acceptor_text(link, &other.address.to_string(), &near);
    let _second = world.start_as("acceptor", "second", &text);
    let text = std::fs::read_to_string(&chain.gateway.config).unwrap();
    let acceptors = text.lines().find(|line| line.starts_with("acceptors"));
    edit(
        world,
        &chain,
        acceptors.unwrap(),
        &format!("acceptors = [\"{link}\"]"),
    );
    chain.gateway.reload();
    for mut stream in asked {
        assert_eq!(answer(&mut stream), (200, "two".to_owned()));
    }
    assert_eq!(came.requests(), MANY);
}

#[rstest]
#[case("auto", "http/1.1")]
#[case("direct", "http/1.1")]
#[case("direct", "h2")]
fn no_request_goes_to_an_acceptor_that_was_revoked_while_it_was_dialled(
    #[case] tunnel: &str,
    #[case] protocol: &str,
) {
    let world = World::new();
    let (backend, came) = silent(&world);
    let more = format!(
        "tunnel = \"{tunnel}\"\nprotocol = \"{protocol}\"\nconnect_timeout = \"60s\"\n\
         pool = {{ ready = 0 }}"
    );
    let chain = Chain::new(world, backend.address, "", &more);
    chain.acceptor.signal(Signal::STOP);
    let mut stream = BufReader::new(
        chain
            .world
            .client()
            .connect(chain.edge, "site.test")
            .unwrap(),
    );
    stream
        .get_mut()
        .write_all(b"POST /pay HTTP/1.1\r\nHost: site.test\r\nContent-Length: 5\r\n\r\nmoney")
        .unwrap();
    until("the request", || {
        let under_way = "portcullis_backend_active{backend=\"legacy\"}";
        (chain.gateway.metric(under_way) > 0.5).then_some(())
    });
    let authority = &chain.world.authority;
    authority
        .revoke("acceptor/legacy", Reason::KeyCompromise)
        .unwrap();
    chain.gateway.reload();
    chain.acceptor.signal(Signal::CONT);
    assert_eq!(answer(&mut stream).0, 502);
    let line = chain.gateway.refusal("upstream_untrusted");
    assert!(says(&line, "detail", "certificate_revoked"), "{line}");
    // the acceptor may have dialled it before it was told
    until("its backend's end", || {
        (came.ends().len() == backend.connections()).then_some(())
    });
    assert_eq!(came.octets.load(Ordering::SeqCst), 0);
}
