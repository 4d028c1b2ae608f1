//! A client's bytes: inside TLS, or plain at a listener that only sends elsewhere.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncBufRead as _, AsyncRead, AsyncWrite, ReadBuf};

use super::super::ServerStream;
use crate::net::{Buffered, Hold as _, Socket};

/// A connection of HTTP.
pub(crate) enum ClientStream {
    Tls(ServerStream),
    Plain(Box<Buffered<Socket>>),
}

impl From<ServerStream> for ClientStream {
    fn from(stream: ServerStream) -> Self {
        Self::Tls(stream)
    }
}

/// Does the same to whichever it is.
macro_rules! either {
    ($stream:expr, $inner:ident => $act:expr) => {
        match $stream {
            ClientStream::Tls($inner) => $act,
            ClientStream::Plain($inner) => $act,
        }
    };
}

impl ClientStream {
    /// What has come and was not consumed, more of it where that is nothing; nothing: the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        match self {
            Self::Tls(stream) => Pin::new(stream).poll_fill_buf(cx),
            Self::Plain(socket) => {
                if socket.buffered().is_empty() {
                    ready!(socket.poll_fill(cx))?;
                }
                Poll::Ready(Ok(socket.buffered()))
            }
        }
    }

    /// So much of what has come is done with.
    pub(super) fn consume(&mut self, n: usize) {
        match self {
            Self::Tls(stream) => Pin::new(stream).consume(n),
            Self::Plain(socket) => socket.consume(n),
        }
    }

    /// What is written from now on may wait for the end, which then goes out with it.
    pub(super) fn hold(&mut self) {
        if let Self::Tls(stream) = self {
            stream.hold();
        }
    }

    /// Below TLS.
    pub(super) fn socket(&mut self) -> &mut Socket {
        match self {
            Self::Tls(stream) => stream.io_mut(),
            Self::Plain(socket) => socket.get_mut(),
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        either!(self, stream => stream.is_write_vectored())
    }
}
