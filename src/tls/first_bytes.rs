//! What a connection begins with, before it is known to be TLS.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Sees the first bytes of a connection go by, and keeps TLS alerts from those who speak no TLS.
pub(super) struct FirstBytes<IO> {
    pub(super) inner: IO,
    pub(super) seen: Vec<u8>,
}

impl<IO> FirstBytes<IO> {
    pub(super) fn new(inner: IO) -> Self {
        Self {
            inner,
            seen: Vec::new(),
        }
    }

    /// The first byte begins no handshake record.
    pub(super) fn is_foreign(&self) -> bool {
        self.seen.first().is_some_and(|first| *first != 0x16)
    }

    pub(super) fn is_http(&self) -> bool {
        self.seen.first_chunk::<4>().is_some_and(|first| {
            [
                b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI", b"DELE", b"PATC", b"CONN", b"TRAC",
                b"PRI ",
            ]
            .contains(&first)
        })
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for FirstBytes<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(cx, buf);
        // rustls takes no more than one message, so this has an end
        this.seen
            .extend_from_slice(buf.filled().get(before..).unwrap_or_default());
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for FirstBytes<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_foreign() {
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut this.inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
