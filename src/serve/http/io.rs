//! The client's stream: counted for its deadlines, and closed so that the last answer arrives.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf as _, BufMut, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::{activity::Activity, errors, stream::ClientStream};
use crate::{
    admit::{Denial, Denied},
    net::Hold as _,
};

/// How long a closed connection's last bytes are read away, and how long a pause of them may be.
const LINGER: Duration = Duration::from_secs(3);
const LINGER_QUIET: Duration = Duration::from_millis(500);

/// The client's stream.
pub(crate) struct ClientIo {
    stream: ClientStream,
    activity: Arc<Activity>,
    /// The last word before the close, where there is one.
    last: Option<Bytes>,
    /// While a closed connection's last bytes are read away.
    linger: Option<Box<Linger>>,
    closed: bool,
}

/// Reading away what a client still sends: a close with unread bytes is a reset, which would take
/// our answer along (RFC 9112 section 9.6).
struct Linger {
    until: Instant,
    quiet: Pin<Box<tokio::time::Sleep>>,
}

impl ClientIo {
    pub(crate) fn new(stream: ClientStream, activity: Arc<Activity>) -> Self {
        Self {
            stream,
            activity,
            last: None,
            linger: None,
            closed: false,
        }
    }

    /// For a server that has no deadlines of ours: whatever its client still sends at the end is read
    /// away.
    pub(crate) fn lingering(stream: ClientStream) -> Self {
        Self::new(stream, Activity::new(false))
    }

    pub(super) fn activity(&self) -> &Activity {
        &self.activity
    }

    /// What has come and was not consumed, more of it where that is nothing; nothing: the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<&[u8]>> {
        self.stream.poll_fill(cx)
    }

    /// What is written from now on is the last: the end goes out with it.
    pub(super) fn hold(&mut self) {
        self.stream.hold();
    }

    /// Whether a reset throws away what has not left yet.
    pub(super) fn may_lose(&mut self) -> bool {
        self.stream.socket().may_lose()
    }

    /// Whether everything that was flushed has left.
    pub(super) fn has_sent(&mut self) -> bool {
        self.stream.socket().has_sent()
    }

    /// Its end will be a reset.
    pub(super) fn abort(&mut self) {
        self.stream.socket().abort();
    }

    /// So much of what has come is done with.
    pub(super) fn consume(&mut self, n: usize) {
        if n > 0 {
            self.activity.read(n);
            self.stream.consume(n);
        }
    }

    /// Reads as much as there is and goes in.
    pub(super) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        piece: &mut impl BufMut,
    ) -> Poll<std::io::Result<usize>> {
        poll_read_buf(Pin::new(self), cx, piece)
    }
}

impl Drop for ClientIo {
    /// What a client did not take in time is not left for it: the system would keep it for minutes.
    fn drop(&mut self) {
        let end = self.activity.end();
        if end.is_some_and(|why| why.reason == Denial::WriteTimeout) {
            self.abort();
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        let n = buf.filled().len().saturating_sub(before);
        if n > 0 {
            this.activity.read(n);
        }
        read
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.noted(written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        match &flushed {
            Poll::Pending => this.activity.stalled(),
            Poll::Ready(_) => this.activity.wrote(0),
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.get_mut().poll_close(cx, None)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.noted(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl ClientIo {
    /// Closes it so that what was written arrives. `refused`: the head that is refused by the last
    /// word.
    pub(super) fn poll_close(
        &mut self,
        cx: &mut Context<'_>,
        refused: Option<&Denied>,
    ) -> Poll<std::io::Result<()>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        if self.linger.is_none() {
            if let Some(refused) = refused {
                self.stream.hold();
                ready!(self.poll_last_word(cx, refused))?;
            }
            let said = Pin::new(&mut self.stream).poll_shutdown(cx);
            if said.is_pending() {
                self.activity.stalled();
            }
            ready!(said)?;
            // it took the last of the answer along
            self.activity.wrote(0);
        }
        // another protocol's half-close: its bytes are still to be read
        let upgraded = self.activity.is_upgraded();
        if self.linger.is_some()
            || !upgraded && (self.activity.may_be_sending() || self.more_may_come(cx))
        {
            self.read_away(cx);
            if self.linger.is_some() {
                return Poll::Pending;
            }
        }
        self.closed = true;
        Poll::Ready(Ok(()))
    }

    /// Whether an HTTP/1 client sent more than was read of it, or may do so while the last answer is
    /// on its way: it has neither ended nor said that it would.
    fn more_may_come(&mut self, cx: &mut Context<'_>) -> bool {
        !self.activity.is_http2()
            && match self.stream.poll_fill(cx) {
                Poll::Ready(came) => came.is_ok_and(|more| !more.is_empty()),
                Poll::Pending => {
                    !self.activity.said_last() && self.activity.answered_within(LINGER)
                }
            }
    }

    fn poll_last_word(
        &mut self,
        cx: &mut Context<'_>,
        refused: &Denied,
    ) -> Poll<std::io::Result<()>> {
        let last = self
            .last
            .get_or_insert_with(|| errors::head_refusal(refused));
        while !last.is_empty() {
            let written = Pin::new(&mut self.stream).poll_write(cx, last);
            match written {
                Poll::Pending => {
                    self.activity.stalled();
                    return Poll::Pending;
                }
                Poll::Ready(written) => {
                    let n = written?;
                    self.activity.wrote(n);
                    last.advance(n);
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Clears `linger` when the client has ended, or long enough has been waited.
    fn read_away(&mut self, cx: &mut Context<'_>) {
        let linger = self.linger.get_or_insert_with(|| {
            Box::new(Linger {
                until: Instant::now() + LINGER,
                quiet: Box::pin(tokio::time::sleep(LINGER_QUIET)),
            })
        });
        let mut sink = [0; 4096];
        let io = self.stream.socket();
        loop {
            let mut buf = ReadBuf::new(&mut sink);
            match Pin::new(&mut *io).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(()))
                    if !buf.filled().is_empty() && Instant::now() < linger.until =>
                {
                    linger
                        .quiet
                        .as_mut()
                        .reset(tokio::time::Instant::now() + LINGER_QUIET);
                }
                Poll::Pending if linger.quiet.as_mut().poll(cx).is_pending() => return,
                Poll::Ready(_) | Poll::Pending => break,
            }
        }
        self.linger = None;
    }

    fn noted(&self, written: Poll<std::io::Result<usize>>) -> Poll<std::io::Result<usize>> {
        match &written {
            Poll::Pending => self.activity.stalled(),
            Poll::Ready(Ok(n)) => self.activity.wrote(*n),
            Poll::Ready(Err(_)) => {}
        }
        written
    }
}

impl ClientIo {
    /// Says 408 and closes.
    pub(crate) async fn say_late(mut self: Box<Self>) {
        let late = Denied::new(
            Denial::RequestTimeout,
            "the request head did not arrive in time",
        );
        let answer = errors::head_refusal(&late);
        let saying = async {
            self.stream.write_all(&answer).await?;
            self.shutdown().await
        };
        // who does not read it in time misses it
        drop(tokio::time::timeout(LINGER, saying).await);
    }
}

/// Whether the peer broke a rule of HTTP/2, in place of leaving.
fn breaks_http2(error: &hyper::Error) -> bool {
    use std::error::Error as _;
    let broken = error
        .source()
        .and_then(|cause| cause.downcast_ref::<h2::Error>());
    broken.is_some_and(h2::Error::is_library)
}

/// Why hyper gave an HTTP/2 connection up.
pub(crate) fn denied_by(error: &hyper::Error) -> Denied {
    let reason = if breaks_http2(error) {
        Denial::RequestInvalid
    } else {
        Denial::PeerReset
    };
    Denied::new(reason, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::net::UnixStream;

    use super::*;
    use crate::net::{Buffered, Socket};

    /// A client of HTTP/1.1 whose request was answered a moment ago.
    fn answered() -> (ClientIo, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        let activity = Activity::new(false);
        drop(activity.begin());
        let socket = Box::new(Buffered::new(Socket::Unix(near)));
        (ClientIo::new(ClientStream::Plain(socket), activity), far)
    }

    #[tokio::test]
    async fn who_may_still_be_sending_is_waited_for_to_end() {
        let (mut io, far) = answered();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(io.poll_close(&mut cx, None).is_pending());
        far.try_write(b"a line too many").unwrap();
        assert!(io.poll_close(&mut cx, None).is_pending());
        drop(far);
        io.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn who_asks_for_nothing_more_is_not_waited_for_unless_more_came() {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut io, _far) = answered();
        io.activity.says_last();
        assert!(io.poll_close(&mut cx, None).is_ready());
        let (mut io, far) = answered();
        io.activity.says_last();
        far.try_write(b"\r\n").unwrap();
        std::future::poll_fn(|cx| io.poll_fill(cx).map(drop)).await;
        assert!(io.poll_close(&mut cx, None).is_pending());
    }

    #[tokio::test]
    async fn who_ended_first_is_not_waited_for() {
        let (mut io, far) = answered();
        drop(far);
        let mut cx = Context::from_waker(Waker::noop());
        std::future::poll_fn(|cx| io.poll_fill(cx).map(drop)).await;
        assert!(io.poll_close(&mut cx, None).is_ready());
    }
}
