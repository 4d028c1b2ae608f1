//! A TLS connection after its handshake, whoever keeps its records.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

use super::records::RecordStream;
use crate::net::{Buffered, Hold, WriteLast};

/// A TLS connection. What is in it is boxed: it is handed on many times, and every hand would keep
/// room for it.
#[derive(Debug)]
pub enum TlsStream<IO> {
    /// TLS 1.3, opened and sealed by [`records`](super::records).
    Own(Box<RecordStream<IO>>),
    /// Kept by rustls: TLS 1.2, and `records = "rustls"`.
    Rustls(Box<tokio_rustls::TlsStream<Buffered<IO>>>),
}

impl<IO> TlsStream<IO> {
    /// The socket.
    #[must_use]
    pub fn io(&self) -> &IO {
        match self {
            Self::Own(stream) => stream.io(),
            Self::Rustls(stream) => stream.get_ref().0.get_ref(),
        }
    }

    /// The socket; what is read from it is missing in the stream.
    pub fn io_mut(&mut self) -> &mut IO {
        match self {
            Self::Own(stream) => stream.io_mut(),
            Self::Rustls(stream) => stream.get_mut().0.get_mut(),
        }
    }
}

impl<IO: Hold> Hold for TlsStream<IO> {
    fn may_lose(&self) -> bool {
        self.io().may_lose()
    }

    fn has_sent(&self) -> bool {
        self.io().has_sent()
    }

    fn hold(&mut self) {
        if let Self::Own(stream) = self {
            stream.hold();
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Own(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Rustls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncBufRead for TlsStream<IO> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        match self.get_mut() {
            Self::Own(stream) => Pin::new(stream.as_mut()).poll_fill_buf(cx),
            Self::Rustls(stream) => Pin::new(stream.as_mut()).poll_fill_buf(cx),
        }
    }

    fn consume(self: Pin<&mut Self>, amt: usize) {
        match self.get_mut() {
            Self::Own(stream) => Pin::new(stream).consume(amt),
            Self::Rustls(stream) => Pin::new(stream).consume(amt),
        }
    }
}

impl<IO: AsyncRead + WriteLast + Unpin> AsyncWrite for TlsStream<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Own(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Rustls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Own(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Rustls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Own(stream) => Pin::new(stream).poll_flush(cx),
            Self::Rustls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Own(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Rustls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
