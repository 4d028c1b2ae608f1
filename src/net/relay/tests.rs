use std::{pin::Pin, task::ready};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    time::Instant,
};

use super::*;

fn options() -> RelayOptions {
    RelayOptions {
        idle_timeout: Duration::from_secs(60),
        write_timeout: Duration::from_secs(10),
        ..RelayOptions::default()
    }
}

/// (client, server, relay)
fn chain(
    size: usize,
    options: RelayOptions,
) -> (
    DuplexStream,
    DuplexStream,
    tokio::task::JoinHandle<RelayEnd>,
) {
    let (client, mut a) = duplex(size);
    let (mut b, server) = duplex(size);
    #[expect(clippy::disallowed_methods, reason = "a test waits for its own task")]
    let task = tokio::spawn(async move { relay(&mut a, &mut b, &options).await });
    (client, server, task)
}

#[tokio::test]
async fn every_byte_arrives_in_both_directions() {
    let (client, server, task) = chain(1000, options());
    let sent: Vec<u8> = (0..3_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let (mut client_read, mut client_write) = tokio::io::split(client);
    let (mut server_read, mut server_write) = tokio::io::split(server);
    let echo = async {
        tokio::io::copy(&mut server_read, &mut server_write)
            .await
            .unwrap();
        server_write.shutdown().await.unwrap();
    };
    let send = async {
        client_write.write_all(&sent).await.unwrap();
        client_write.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (_, _, read) = tokio::join!(echo, send, client_read.read_to_end(&mut got));
    read.unwrap();
    assert!(got == sent);
    let end = task.await.unwrap();
    assert!(matches!(end.cause, RelayCause::Finished), "{end:?}");
    assert_eq!((end.a_to_b, end.b_to_a), (3_000_000, 3_000_000));
}

#[tokio::test]
async fn a_half_close_stays_a_half_close() {
    let (mut client, mut server, task) = chain(1000, options());
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut question = Vec::new();
    server.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
    assert!(matches!(task.await.unwrap().cause, RelayCause::Finished));
}

/// Ends like a TLS stream that was cut: bytes, then an error in place of the end.
struct Cut(bool);

impl Hold for Cut {}

impl AsyncRead for Cut {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        buf.put_slice(b"half of it");
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Cut {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_cut_stream_is_told_from_an_ended_one() {
    let (mut b, mut server) = duplex(1000);
    let end = relay(&mut Cut(false), &mut b, &options()).await;
    // what came is handed on all the same
    let mut came = [0; 10];
    server.read_exact(&mut came).await.unwrap();
    assert_eq!((&came, end.a_to_b), (b"half of it", 10));
    assert!(
        matches!(
            end.cause,
            RelayCause::Failed {
                side: Side::A,
                truncated: true,
                ..
            }
        ),
        "{end:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn silence_ends_at_the_idle_timeout_and_a_byte_puts_it_off() {
    let (mut client, mut server, task) = chain(1000, options());
    let began = Instant::now();
    for _ in 0..4 {
        sleep(Duration::from_secs(40)).await;
        client.write_all(b"x").await.unwrap();
        server.read_u8().await.unwrap();
    }
    assert!(matches!(task.await.unwrap().cause, RelayCause::Idle));
    let lived = began.elapsed().as_secs();
    assert!((220..=260).contains(&lived), "{lived}");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_read_is_cut() {
    let (mut client, _server, task) = chain(1000, options());
    drop(timeout(Duration::from_secs(5), client.write_all(&[0; 200_000])).await);
    let end = task.await.unwrap();
    assert!(
        matches!(end.cause, RelayCause::WriteStalled { side: Side::B }),
        "{end:?}"
    );
}

/// Says so much and was reset, of which only who writes to it is told; a late one says nothing at the
/// first try.
struct Reset {
    rest: usize,
    late: bool,
}

impl Reset {
    fn of(rest: usize) -> Self {
        Self { rest, late: false }
    }
}

impl Hold for Reset {}

impl AsyncRead for Reset {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.late) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let some = self.rest.min(buf.remaining());
        buf.put_slice(&vec![7; some]);
        self.rest -= some;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Reset {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        _buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Whatever comes of it, and however slowly who gets it takes it: more than a buffer holds.
#[tokio::test]
async fn all_that_was_said_before_a_reset_arrives() {
    for side in [Side::A, Side::B] {
        let (mut other, mut near) = duplex(1000);
        let mut reset = Reset::of(300_000);
        let mut got = Vec::new();
        let options = options();
        let relaying = async {
            let end = match side {
                Side::A => relay(&mut reset, &mut near, &options).await,
                Side::B => relay(&mut near, &mut reset, &options).await,
            };
            drop(near);
            end
        };
        let other = async {
            other.write_all(b"for nobody").await.unwrap();
            other.read_to_end(&mut got).await
        };
        let (end, read) = tokio::join!(relaying, other);
        read.unwrap();
        let failed = matches!(end.cause, RelayCause::Failed { side: of, .. } if of == side);
        assert!(failed, "{end:?}");
        assert_eq!(got.len(), 300_000);
    }
}

/// Uploads, and keeps what it is told; a slow one takes a part of it at every other try, and only
/// has it once it is flushed.
#[derive(Default)]
struct Uploads {
    slow: bool,
    waits: bool,
    unsent: Vec<u8>,
    heard: Vec<u8>,
    ended: bool,
}

impl Uploads {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.waits = self.slow && !self.waits;
        if self.waits {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

impl Hold for Uploads {}

impl AsyncRead for Uploads {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        buf.put_slice(b"more");
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Uploads {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_ready(cx));
        let taken = buf.get(..1000).unwrap_or(buf);
        self.unsent.extend_from_slice(taken);
        Poll::Ready(Ok(taken.len()))
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_ready(cx));
        let unsent = std::mem::take(&mut self.unsent);
        self.heard.extend_from_slice(&unsent);
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        self.ended = true;
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn what_was_said_before_a_reset_arrives_and_is_no_end() {
    let cases = [
        (false, 10, false),
        (false, 10, true),
        (true, 10, false),
        (true, 100_000, true),
    ];
    for (slow, len, late) in cases {
        let mut client = Uploads {
            slow,
            ..Uploads::default()
        };
        let mut reset = Reset { rest: len, late };
        let end = relay(&mut client, &mut reset, &options()).await;
        let failed = matches!(
            end.cause,
            RelayCause::Failed {
                side: Side::B,
                truncated: false,
                ..
            }
        );
        assert!(failed, "{end:?}");
        assert!(!client.ended, "an end, slow: {slow}, {len}");
        assert_eq!(client.heard.len(), len, "slow: {slow}, late: {late}");
    }
}

/// Takes nothing, and the kernel still has something for it.
struct Deaf;

impl Hold for Deaf {
    fn may_lose(&self) -> bool {
        true
    }
    fn has_sent(&self) -> bool {
        false
    }
}

impl AsyncRead for Deaf {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        buf.put_slice(b"more");
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Deaf {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        _buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_of_what_was_said_before_a_reset_is_waited_for_once() {
    let options = options();
    let began = Instant::now();
    let end = relay(&mut Deaf, &mut Reset::of(300_000), &options).await;
    let failed = matches!(end.cause, RelayCause::Failed { side: Side::B, .. });
    assert!(failed, "{end:?}");
    let (took, limit) = (began.elapsed(), options.write_timeout);
    assert!(took >= limit && took <= limit * 5 / 4, "{took:?}");
}
