//! A connection that has become another protocol's, with what of that was read already.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Hop, Io};
use crate::net::Hold;

/// The stream from there on. It ends with a reset, unless it was said to be done.
pub(crate) struct Tunnel {
    read: BytesMut,
    io: Box<dyn Io>,
    finished: bool,
}

impl Tunnel {
    pub(super) fn new(hop: &mut Hop) -> Option<Self> {
        Some(Self {
            read: std::mem::take(&mut hop.buf),
            io: hop.io.take()?,
            finished: false,
        })
    }

    /// Both directions have ended as they should.
    pub(crate) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if !self.finished {
            self.io.abort();
        }
    }
}

/// What carries on after HTTP/1.1 writes as it sees fit.
impl Hold for Tunnel {
    fn may_lose(&self) -> bool {
        self.io.may_lose()
    }

    fn has_sent(&self) -> bool {
        self.io.has_sent()
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let n = this.read.len().min(buf.remaining());
        buf.put_slice(this.read.get(..n).unwrap_or_default());
        this.read.advance(n);
        if this.read.is_empty() {
            this.read = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
