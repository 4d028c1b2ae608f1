//! What is held back, and what takes it along.

use std::{
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::*;

/// A pipe that counts what is written to it.
struct Counted(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl WriteLast for Counted {}

struct Pair {
    client: RecordStream<Counted>,
    server: RecordStream<Counted>,
    /// Writes of each so far.
    writes: (Arc<AtomicUsize>, Arc<AtomicUsize>),
}

impl Pair {
    /// A server that gives tickets, and a client that says its last words of the handshake `ahead`
    /// of what it writes, or at once.
    async fn new(ahead: bool) -> Self {
        let ends = ends();
        let mut giving = ServerConfig::clone(&ends.server);
        giving.send_tls13_tickets = 2;
        let (near, far) = tokio::io::duplex(1 << 20);
        let writes = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let mut near = Buffered::new(Counted(near, Arc::clone(&writes.0)));
        let mut far = Buffered::new(Counted(far, Arc::clone(&writes.1)));
        let mut accepting = Box::pin(server(&mut far, Arc::new(giving), Vec::new()));
        let opened = tokio::select! {
            opened = client(&mut near, ends.client.clone(), name(), ahead) => opened.unwrap(),
            _ = &mut accepting => unreachable!("the client has said nothing yet"),
        };
        let mut client = opened.into_stream(near).unwrap();
        if ahead {
            client.write_all(b"first").await.unwrap();
        }
        let accepted = accepting.await.unwrap();
        let server = accepted.into_stream(far).unwrap();
        Self {
            client,
            server,
            writes,
        }
    }

    /// How often the server wrote.
    fn said(&self) -> usize {
        self.writes.1.load(Ordering::Relaxed)
    }

    /// The server reads until it has to wait.
    async fn hear(&mut self) -> Vec<u8> {
        let mut heard = Vec::new();
        while let Some(read) = self.server.read_buf(&mut heard).now_or_never() {
            read.unwrap();
        }
        heard
    }
}

#[tokio::test]
async fn a_ticket_goes_out_with_the_first_answer() {
    let mut pair = Pair::new(false).await;
    let before = pair.said();
    pair.client.write_all(b"question").await.unwrap();
    assert_eq!(pair.hear().await, b"question");
    assert_eq!(pair.said(), before);
    pair.server.write_all(b"answer").await.unwrap();
    assert_eq!(pair.said(), before + 1);
    let mut answer = [0; 6];
    pair.client.read_exact(&mut answer).await.unwrap();
    assert_eq!((&answer, pair.client.session.counts().1), (b"answer", 2));
}

#[tokio::test]
async fn a_client_that_says_nothing_has_its_ticket_at_once() {
    let mut pair = Pair::new(false).await;
    let before = pair.said();
    assert_eq!(pair.hear().await, b"");
    assert_eq!(pair.said(), before + 1);
    assert!(pair.server.output.is_none() && pair.server.input.is_none());
    assert_eq!(pair.hear().await, b"");
    assert_eq!(pair.said(), before + 1);
    pair.server.flush().await.unwrap();
    assert_eq!(pair.said(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_takes_its_time_is_not_waited_for() {
    let mut pair = Pair::new(false).await;
    let before = pair.said();
    pair.client.write_all(b"question").await.unwrap();
    pair.hear().await;
    tokio::time::advance(Duration::from_millis(150)).await;
    pair.hear().await;
    assert_eq!(pair.said(), before);
    tokio::time::advance(Duration::from_millis(60)).await;
    pair.hear().await;
    assert_eq!(pair.said(), before + 1);
}

#[tokio::test]
async fn a_flush_or_an_end_takes_the_ticket_along() {
    let mut pair = Pair::new(false).await;
    let before = pair.said();
    pair.server.flush().await.unwrap();
    assert_eq!(pair.said(), before + 1);
    let mut pair = Pair::new(false).await;
    pair.server.shutdown().await.unwrap();
    assert_eq!(pair.said(), before + 1);
    assert_eq!(pair.client.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn what_a_client_says_last_in_the_handshake_goes_with_what_it_says_first() {
    let mut pair = Pair::new(true).await;
    // the hello, and all the rest
    assert_eq!(pair.writes.0.load(Ordering::Relaxed), 2);
    assert_eq!(pair.hear().await, b"first");
}

#[tokio::test]
async fn the_end_goes_out_with_what_was_held_for_it() {
    let mut pair = Pair::new(false).await;
    pair.hear().await;
    let before = pair.said();
    pair.server.hold();
    for part in [&b"all "[..], b"that ", b"is left"] {
        pair.server.write_all(part).await.unwrap();
    }
    assert_eq!(pair.said(), before);
    pair.server.shutdown().await.unwrap();
    assert_eq!(pair.said(), before + 1);
    let mut heard = Vec::new();
    pair.client.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"all that is left");
}

#[tokio::test]
async fn what_is_held_and_does_not_fit_goes_out_before() {
    let mut pair = Pair::new(false).await;
    let much = vec![7; 300_000];
    let mut heard = Vec::new();
    pair.server.hold();
    let (said, read) = tokio::join!(
        async {
            pair.server.write_all(&much).await?;
            pair.server.shutdown().await
        },
        pair.client.read_to_end(&mut heard)
    );
    said.unwrap();
    read.unwrap();
    assert!(heard == much);
}

#[tokio::test]
async fn who_holds_back_and_reads_all_the_same_is_not_waited_for() {
    let mut pair = Pair::new(false).await;
    pair.hear().await;
    let before = pair.said();
    pair.server.hold();
    pair.server.write_all(b"x").await.unwrap();
    assert_eq!(pair.said(), before);
    pair.hear().await;
    assert_eq!(pair.said(), before + 1);
    pair.client.read_exact(&mut [0]).await.unwrap();
}

/// A waker that counts.
#[derive(Default)]
struct Woken(AtomicUsize);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_read_that_waits_leaves_a_writer_its_wake() {
    let Pair {
        mut client,
        mut server,
        ..
    } = Pair::new(false).await;
    let (writer, reader) = (Arc::<Woken>::default(), Arc::<Woken>::default());
    server.hold();
    let part = vec![7; 60_000];
    // until the pipe is full
    let waker = Arc::clone(&writer).into();
    let mut cx = Context::from_waker(&waker);
    while Pin::new(&mut server).poll_write(&mut cx, &part).is_ready() {}
    let waker = Arc::clone(&reader).into();
    let mut room = [0; 1];
    let read = Pin::new(&mut server).poll_read(
        &mut Context::from_waker(&waker),
        &mut ReadBuf::new(&mut room),
    );
    assert!(read.is_pending());
    let mut got = vec![0; 200_000];
    client.read_exact(&mut got).await.unwrap();
    assert!(
        writer.0.load(Ordering::Relaxed) > 0,
        "nobody told the writer"
    );
    // and what it writes then still arrives, with its end
    let rest = client.read_to_end(&mut got);
    let close = async {
        server.write_all(b"last").await?;
        server.shutdown().await
    };
    let (rest, closed) = tokio::join!(rest, close);
    closed.unwrap();
    rest.unwrap();
    assert!(got.ends_with(b"last"));
}
