//! What carries requests to an acceptor: a connection, or a stream of one that is shared.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use crate::{
    drain::Drain,
    gateway::reuse::Upstream,
    net::{Abort, Hold, Octets},
    serve::http::hop::Fate,
};

/// How long the backend may take to answer our end with its own.
const FAREWELL: Duration = Duration::from_secs(1);

/// The way of one request after the other.
pub(super) struct RequestStream {
    /// `None`: it has gone to who waits for its other end.
    upstream: Option<Upstream>,
    /// No more is to come.
    ends: bool,
    /// Whether it may go on, where who uses it is told by that.
    fate: Option<Arc<Fate>>,
    /// How long what was written may take to go.
    limit: Duration,
    drain: Drain,
}

impl RequestStream {
    pub(super) fn new(
        upstream: Upstream,
        fate: Option<Arc<Fate>>,
        limit: Duration,
        drain: Drain,
    ) -> Self {
        Self {
            upstream: Some(upstream),
            ends: false,
            fate,
            limit,
            drain,
        }
    }

    /// What was begun on it has broken.
    fn is_sealed(&self) -> bool {
        self.fate.as_ref().is_some_and(|fate| fate.is_sealed())
    }

    fn upstream(&mut self) -> Result<Pin<&mut Upstream>, io::Error> {
        let upstream = self.upstream.as_mut().map(Pin::new);
        upstream.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for RequestStream {
    /// A stream that is let go before both ends resets the backend's connection, which can't tell
    /// that from a request that broke, and forgets what waits for its turn. One that broke is reset
    /// whatever it is.
    fn drop(&mut self) {
        if !self.ends || self.is_sealed() {
            if let Some(upstream) = &self.upstream {
                upstream.abort();
            }
            return;
        }
        if let Some(mut upstream @ Upstream::Stream(_)) = self.upstream.take() {
            let limit = self.limit;
            self.drain.spawn(async move {
                if let Ok(Ok(())) = tokio::time::timeout(limit, upstream.shutdown()).await {
                    // what still comes nobody asked for
                    let _end = tokio::time::timeout(FAREWELL, upstream.read(&mut [0])).await;
                }
            });
        }
    }
}

impl Abort for RequestStream {
    fn abort(&mut self) {
        if let Some(upstream) = self.upstream.take() {
            upstream.abort();
        }
    }
}

impl Hold for RequestStream {
    fn hold(&mut self) {
        if let Some(upstream) = &mut self.upstream {
            upstream.hold();
        }
    }

    fn may_lose(&self) -> bool {
        self.upstream.as_ref().is_some_and(Hold::may_lose)
    }

    fn has_sent(&self) -> bool {
        self.upstream.as_ref().is_none_or(Hold::has_sent)
    }

    fn poll_lend(&mut self, cx: &mut Context<'_>) -> Option<Poll<io::Result<Option<Octets>>>> {
        self.upstream.as_mut()?.poll_lend(cx)
    }
}

impl AsyncRead for RequestStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().upstream()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for RequestStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().upstream()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().upstream()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().upstream()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_sealed() {
            // an end would look like the request's own
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        this.ends = true;
        this.upstream()?.poll_shutdown(cx)
    }
}
