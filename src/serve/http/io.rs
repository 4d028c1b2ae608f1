//! The client's stream as hyper sees it: counted for its deadlines, and closed so that the last
//! answer arrives.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::activity::Activity;
use crate::{
    admit::{Denial, Denied},
    serve::ServerStream,
};

/// How long a closed connection's last bytes are read away, and how long a pause of them may be.
const LINGER: Duration = Duration::from_secs(3);
const LINGER_QUIET: Duration = Duration::from_millis(500);

/// The client's TLS stream.
pub(crate) struct ClientIo {
    stream: ServerStream,
    activity: Arc<Activity>,
    /// While a closed connection's last bytes are read away.
    linger: Option<Box<Linger>>,
}

/// Reading away what a client still sends: a close with unread bytes is a reset, which would take
/// our answer along (RFC 9112 section 9.6).
struct Linger {
    until: Instant,
    quiet: Pin<Box<tokio::time::Sleep>>,
}

impl ClientIo {
    pub(crate) fn new(stream: ServerStream, activity: Arc<Activity>) -> Self {
        Self {
            stream,
            activity,
            linger: None,
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
        let this = self.get_mut();
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if !this.activity.may_be_sending() {
                return Poll::Ready(Ok(()));
            }
        }
        this.read_away(cx);
        if this.linger.is_some() {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
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
    /// Clears `linger` when the client has ended, or long enough has been waited.
    fn read_away(&mut self, cx: &mut Context<'_>) {
        let linger = self.linger.get_or_insert_with(|| {
            Box::new(Linger {
                until: Instant::now() + LINGER,
                quiet: Box::pin(tokio::time::sleep(LINGER_QUIET)),
            })
        });
        let mut sink = [0; 4096];
        let io = self.stream.get_mut().0;
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

/// The answer to a head that does not come to its end, where hyper would say nothing.
const LATE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\
    Content-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\nContent-Length: 57\r\n\r\n\
    request_timeout: the request head did not arrive in time\n";

impl ClientIo {
    /// Says 408 and closes.
    pub(crate) async fn say_late(mut self) {
        let saying = async {
            self.write_all(LATE).await?;
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

/// Why hyper gave a connection up.
pub(crate) fn denied_by(error: &hyper::Error) -> Denied {
    let reason = if error.is_parse_too_large() {
        Denial::HeaderTooLarge
    } else if error.is_parse() || breaks_http2(error) {
        Denial::RequestInvalid
    } else {
        Denial::PeerReset
    };
    Denied::new(reason, error.to_string())
}
