//! The stream and those who share it, over a socket.

use std::{
    io::Write as _,
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use super::{super::activity::Activity, super::io::ClientIo, Shared, shared::Http1Body};
use crate::{
    net::{Buffered, Socket},
    serve::http::stream::ClientStream,
    wire::framing::Length,
};

/// A connection without TLS, and its client's end.
fn connection() -> (Arc<Shared>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    server.set_nonblocking(true).unwrap();
    let socket = Socket::Tcp(tokio::net::TcpStream::from_std(server).unwrap());
    (over(socket), client)
}

fn over(socket: Socket) -> Arc<Shared> {
    let stream = ClientStream::Plain(Box::new(Buffered::new(socket)));
    let io = ClientIo::new(stream, Activity::new(false));
    Shared::new(Box::new(io))
}

/// The next part, once it has come: its octets, or `None` for trailers.
async fn part(body: &mut Http1Body) -> Option<Vec<u8>> {
    let frame = std::future::poll_fn(|cx| body.poll_frame(cx)).await;
    let frame = frame.unwrap().unwrap();
    frame.into_data().ok().map(|data| data.to_vec())
}

fn settled(shared: &Shared) -> Poll<bool> {
    shared.poll_settled(&mut Context::from_waker(Waker::noop()), false)
}

#[tokio::test]
async fn what_a_read_leaves_of_what_came_is_no_part_of_its_own() {
    // which holds all of it at once
    let (mut client, server) = UnixStream::pair().unwrap();
    server.set_nonblocking(true).unwrap();
    let shared = over(Socket::Unix(
        tokio::net::UnixStream::from_std(server).unwrap(),
    ));
    let sent: Vec<u8> = (0..2 << 16).map(|n: u32| n.to_be_bytes()[2]).collect();
    client.write_all(&sent).unwrap();
    let mut body = shared.begin(Length::Sized(2 << 16), false).unwrap();
    let mut came = Vec::new();
    for len in [65_280, 65_280, 512] {
        let next = part(&mut body).await.unwrap();
        assert_eq!(next.len(), len);
        came.extend(next);
    }
    assert!(came == sent);
}

#[tokio::test]
async fn the_next_request_waits_for_who_still_reads_the_last() {
    let (shared, mut client) = connection();
    let mut first = shared.begin(Length::Chunked, false).unwrap();
    client
        .write_all(b"5\r\nfirst\r\n0\r\nX-End: y\r\n\r\nsecond")
        .unwrap();
    assert_eq!(part(&mut first).await.unwrap(), b"first");
    // its trailers are not read: whatever is read next is not to be the next request's
    assert_eq!(settled(&shared), Poll::Pending);
    assert_eq!(part(&mut first).await, None);
    assert_eq!(settled(&shared), Poll::Ready(true));
    let mut second = shared.begin(Length::Sized(6), false).unwrap();
    drop(first);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(shared.answer_begins(&mut cx), "the second has a reader");
    assert_eq!(part(&mut second).await.unwrap(), b"second");
}

#[tokio::test]
async fn a_body_reads_no_other_request_s() {
    let (shared, mut client) = connection();
    let mut first = shared.begin(Length::Chunked, false).unwrap();
    let mut second = shared.begin(Length::Sized(6), false).unwrap();
    client.write_all(b"second").unwrap();
    let stale = std::future::poll_fn(|cx| first.poll_frame(cx)).await;
    assert!(matches!(stale, Some(Err(_))));
    assert_eq!(part(&mut second).await.unwrap(), b"second");
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn who_waits_for_a_body_hears_that_the_connection_is_over() {
    for close in [true, false] {
        let (shared, _client) = connection();
        let mut body = shared.begin(Length::Sized(6), false).unwrap();
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&flag));
        assert!(
            body.poll_frame(&mut Context::from_waker(&waker))
                .is_pending()
        );
        if close {
            let closing = std::future::poll_fn(|cx| shared.poll_close(cx, None));
            drop(tokio::time::timeout(Duration::from_millis(1), closing).await);
        } else {
            drop(shared.end());
        }
        assert!(flag.0.load(Ordering::SeqCst));
        let over = std::future::poll_fn(|cx| body.poll_frame(cx)).await;
        // said one look later, so that what came before is on its way
        assert!(matches!(over, Some(Err(_))));
    }
}
