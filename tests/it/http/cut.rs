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
    h2::{self, Reason, block},
    raw::{Peer, Raw},
    upgrade::{Stream, accept, extended},
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
fn chain(mode: &str, listener: &str) -> (Chain, Backend, Receiver<End>) {
    let world = World::new();
    let (backend, ends) = obedient(&world);
    let chain = match mode {
        "http" => Chain::both(world, &backend.address.to_string(), "", listener, ""),
        _ => Chain::new(world, backend.address, listener, ""),
    };
    (chain, backend, ends)
}

/// What cuts a tunnel.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Backend,
    Acceptor,
    Idle,
    Revoked,
}

impl Cut {
    fn listener(self) -> &'static str {
        match self {
            Self::Idle => "limits = { idle_timeout = \"400ms\" }",
            Self::Backend | Self::Acceptor | Self::Revoked => "",
        }
    }

    /// What is said to the backend; `a` is an order for nothing.
    fn order(self) -> Vec<u8> {
        match self {
            Self::Backend => b"r".to_vec(),
            Self::Acceptor | Self::Idle | Self::Revoked => b"a".to_vec(),
        }
    }

    fn happens(self, chain: &Chain) {
        match self {
            Self::Backend | Self::Idle => {}
            Self::Acceptor => chain.acceptor.signal(Signal::KILL),
            Self::Revoked => revoke(chain, "acceptor/legacy"),
        }
    }
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

/// Why no more comes of a stream.
async fn broken(stream: &mut Stream) -> ::h2::Error {
    loop {
        match stream.receive.data().await {
            Some(Ok(data)) if data.is_empty() && !stream.receive.is_end_stream() => {}
            Some(Err(error)) => return error,
            end => panic!("an end in order: {end:?}"),
        }
    }
}

#[rstest]
fn a_tunnel_that_is_cut_is_reset_for_a_client_of_http_2(
    #[values("tcp", "http")] mode: &str,
    #[values(Cut::Backend, Cut::Acceptor, Cut::Idle, Cut::Revoked)] cut: Cut,
) {
    let (chain, _backend, _ends) = chain(mode, cut.listener());
    block(async {
        let sender = chain.h2().await;
        let mut stream = Stream::open(&sender, extended("/chat", "websocket")).await;
        assert_eq!(stream.read(4).await, b"half");
        stream.write(cut.order(), false);
        cut.happens(&chain);
        let error = broken(&mut stream).await;
        assert_eq!(error.reason(), Some(Reason::CANCEL), "{error}");
        assert!(error.is_remote());
    });
}

#[rstest]
fn a_tunnel_that_is_cut_is_reset_for_a_client_of_http_1(
    #[values("tcp", "http")] mode: &str,
    #[values(Cut::Backend, Cut::Acceptor, Cut::Idle, Cut::Revoked)] cut: Cut,
) {
    let (chain, _backend, _ends) = chain(mode, cut.listener());
    let mut raw = upgraded(&chain);
    raw.send(cut.order());
    cut.happens(&chain);
    let error = raw.reader().read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[rstest]
fn each_direction_of_a_stream_ends_for_itself(#[values("tcp", "http")] mode: &str) {
    let (chain, _backend, ends) = chain(mode, "");
    block(async {
        let sender = chain.h2().await;
        // the client first
        let mut stream = Stream::open(&sender, extended("/chat", "websocket")).await;
        stream.write(b"a, and more".to_vec(), true);
        assert_eq!(stream.read(8).await, b"halflast");
        assert!(h2::ended(&mut stream.receive).await);
        // the backend first
        let mut stream = Stream::open(&sender, extended("/chat", "websocket")).await;
        stream.write(b"e".to_vec(), false);
        assert_eq!(stream.read(4).await, b"half");
        assert!(h2::ended(&mut stream.receive).await);
        stream.write(vec![7; 90_000], true);
        // what was written goes out while this connection is driven
        let ended = tokio::task::spawn_blocking(move || {
            [(); 2].map(|()| ends.recv_timeout(PATIENCE).unwrap())
        });
        let ended = ended.await.unwrap();
        assert_eq!(ended[0], End::Whole(b", and more".to_vec()));
        assert_eq!(ended[1], End::Whole(vec![7; 90_000]));
    });
}

/// hyper reads a stream that its client resets so as one that ended.
#[rstest]
fn a_client_that_resets_its_stream_resets_the_backend(
    #[values("tcp", "http")] mode: &str,
    #[values(Reason::CANCEL, Reason::NO_ERROR)] reason: Reason,
    #[values(b"a", b"e")] order: &[u8],
) {
    let (chain, _backend, ends) = chain(mode, "");
    block(async {
        let sender = chain.h2().await;
        let mut stream = Stream::open(&sender, extended("/chat", "websocket")).await;
        assert_eq!(stream.read(4).await, b"half");
        stream.write(order.to_vec(), false);
        if order == b"e" {
            assert!(h2::ended(&mut stream.receive).await);
        }
        stream.write(b"a part".to_vec(), false);
        stream.send.send_reset(reason);
        let ended = tokio::task::spawn_blocking(move || ends.recv_timeout(PATIENCE).unwrap());
        assert_eq!(ended.await.unwrap(), End::Cut);
        // others are none the worse for it
        Stream::open(&sender, extended("/chat", "websocket")).await;
    });
}

#[rstest]
fn a_tunnel_whose_gateway_is_gone_is_reset_for_the_backend(
    #[values("tcp", "http")] mode: &str,
    #[values(false, true)] revoked: bool,
) {
    let (chain, _backend, ends) = chain(mode, "");
    let _raw = upgraded(&chain);
    if revoked {
        revoke(&chain, "gateway/edge-1");
    } else {
        chain.gateway.signal(Signal::KILL);
    }
    assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), End::Cut);
}

/// Nor does a process that is told twice to stop pass off as whole what it leaves.
#[rstest]
fn a_tunnel_that_a_second_signal_cuts_is_reset_for_both(
    #[values("tcp", "http")] mode: &str,
    #[values(false, true)] gateway: bool,
) {
    let (mut chain, _backend, ends) = chain(mode, "");
    let mut raw = upgraded(&chain);
    let told = match gateway {
        true => &mut chain.gateway,
        false => &mut chain.acceptor,
    };
    told.signal(Signal::TERM);
    told.line("draining", |line| line["message"] == "draining");
    told.signal(Signal::TERM);
    raw.reader().read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), End::Cut);
    told.ended();
}

#[rstest]
fn a_tunnel_that_a_drain_cuts_is_reset_for_both(#[values("tcp", "http")] mode: &str) {
    let (chain, _backend, ends) = chain(mode, "limits = { drain_timeout = \"300ms\" }");
    let mut raw = upgraded(&chain);
    block(async {
        let sender = chain.h2().await;
        let mut stream = Stream::open(&sender, extended("/chat", "websocket")).await;
        assert_eq!(stream.read(4).await, b"half");
        chain.gateway.signal(Signal::TERM);
        broken(&mut stream).await;
    });
    raw.reader().read_to_end(&mut Vec::new()).unwrap_err();
    for _ in 0..2 {
        assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), End::Cut);
    }
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
