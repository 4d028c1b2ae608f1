//! What is cut is never passed off as complete: tunnels and request bodies whose one end breaks.

use std::{
    io::{self, Read as _},
    net::{Shutdown, TcpStream},
    sync::mpsc::{self, Receiver},
};

use portcullis::pki::Reason as Why;
use rstest::rstest;
use rustix::process::Signal;

use super::{
    Chain,
    raw::{Peer, Raw},
    upgrade::accept,
};
use crate::world::{Backend, PATIENCE, World};

/// What a backend's reading came to.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Whole(Vec<u8>),
    Cut,
}

impl End {
    fn of(read: io::Result<usize>, got: Vec<u8>) -> Self {
        match read {
            Ok(_) => Self::Whole(got),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Self::Cut,
            Err(error) => panic!("neither an end nor a reset: {error}"),
        }
    }
}

/// A backend that agrees to every upgrade and says `half`. Then it does as the first byte that comes
/// says: it resets, ends and reads on, or reads on and answers the end with `last`.
fn obedient(world: &World) -> (Backend, Receiver<End>) {
    let (told, ends) = mpsc::channel();
    let backend = Backend::serve(world.address(), move |stream| {
        let mut peer = Peer::new(stream);
        let request = peer.head().unwrap();
        let accept = accept(&request);
        let protocol = request.one("upgrade").unwrap();
        peer.send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\nhalf"
        ));
        let (mut order, mut got) = ([0], Vec::new());
        // a reset is told once
        let read = peer.stream.read(&mut order).and_then(|n| {
            match &order[..n] {
                b"r" => return Ok(0),
                b"e" => peer.stream.get_ref().shutdown(Shutdown::Write).unwrap(),
                _ => {}
            }
            peer.stream.read_to_end(&mut got)
        });
        if order == *b"r" {
            return peer.reset();
        }
        drop(told.send(End::of(read, got)));
        peer.send("last");
    });
    (backend, ends)
}

/// Behind an acceptor in this mode.
fn chain(mode: &str) -> (Chain, Backend, Receiver<End>) {
    let world = World::new();
    let (backend, ends) = obedient(&world);
    let chain = match mode {
        "http" => Chain::both(world, &backend.address.to_string(), "", "", ""),
        _ => Chain::new(world, backend.address, "", ""),
    };
    (chain, backend, ends)
}

fn revoke(chain: &Chain, who: &str) {
    let authority = &chain.world.authority;
    authority.revoke(who, Why::KeyCompromise).unwrap();
}

/// A tunnel of another protocol, whose first word has come.
fn upgraded(chain: &Chain) -> Raw {
    let mut raw = chain.raw();
    let asked = ["GET /x", "Connection: upgrade", "Upgrade: custom/2"];
    assert_eq!(raw.ask(&asked).status(), 101);
    let mut half = [0; 4];
    raw.reader().read_exact(&mut half).unwrap();
    assert_eq!(&half, b"half");
    raw
}

#[rstest]
fn a_tunnel_whose_gateway_is_gone_is_reset_for_the_backend(
    #[values("tcp", "http")] mode: &str,
    #[values(false, true)] revoked: bool,
) {
    let (chain, _backend, ends) = chain(mode);
    let _raw = upgraded(&chain);
    if revoked {
        revoke(&chain, "gateway/edge-1");
    } else {
        chain.gateway.signal(Signal::KILL);
    }
    assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), End::Cut);
}

/// Not every backend minds where a body ends.
#[rstest]
fn a_request_that_is_cut_is_reset_for_the_backend(
    #[values("tcp", "http")] mode: &str,
    #[values(false, true)] dies: bool,
) {
    let (told, ends) = mpsc::channel();
    let (heard, began) = mpsc::channel();
    let world = World::new();
    let backend = Backend::serve(world.address(), move |stream: TcpStream| {
        let mut peer = Peer::new(stream);
        peer.head().unwrap();
        peer.stream.read_exact(&mut [0; 10]).unwrap();
        heard.send(()).unwrap();
        let mut got = Vec::new();
        let read = peer.stream.read_to_end(&mut got);
        drop(told.send(End::of(read, got)));
    });
    let chain = match mode {
        "http" => Chain::both(world, &backend.address.to_string(), "", "", ""),
        _ => Chain::new(world, backend.address, "", ""),
    };
    let mut raw = chain.raw();
    raw.request(&["POST /upload", "Transfer-Encoding: chunked"]);
    raw.send("5\r\nfirst\r\n");
    began.recv_timeout(PATIENCE).unwrap();
    if dies {
        chain.gateway.signal(Signal::KILL);
    } else {
        drop(raw);
    }
    assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), End::Cut);
}
