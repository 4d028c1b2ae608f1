//! What a connection has become: its bytes as they are.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Shared;
use crate::net::Hold;

/// A connection that has become another: its bytes as they are. It ends with a reset, unless it was
/// said to be done.
pub(crate) struct Switched {
    shared: Arc<Shared>,
    finished: bool,
}

impl Switched {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            finished: false,
        }
    }

    /// Both directions have ended as they should.
    pub(crate) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Switched {
    fn drop(&mut self) {
        if !self.finished {
            self.shared.abort();
        }
    }
}

/// What carries on after HTTP/1.1 writes as it sees fit.
impl Hold for Switched {
    fn may_lose(&self) -> bool {
        self.shared.lock().io().is_ok_and(|io| io.may_lose())
    }

    fn has_sent(&self) -> bool {
        self.shared.lock().io().map_or(true, |io| io.has_sent())
    }
}

impl AsyncRead for Switched {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(self.shared.lock().io()?).poll_read(cx, buf)
    }
}

impl AsyncWrite for Switched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.shared.lock().io()?).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.shared.lock().io()?).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.shared.lock().io()?).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.shared.lock().io()?).poll_shutdown(cx)
    }
}
