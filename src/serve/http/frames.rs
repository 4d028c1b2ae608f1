//! A client's HTTP/2 stream: its frames are metered, and when it has to go it is told why
//! (RFC 9113 section 5.4.1), which hyper leaves no way to say.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{activity::Activity, io::ClientIo};
use crate::wire::frames::{Meter, goaway};

/// Metered.
pub(super) struct FramedIo {
    io: Box<ClientIo>,
    activity: Arc<Activity>,
    meter: Box<Meter>,
    /// All that was to be written has been: whatever comes next stands between frames.
    whole: bool,
    /// The last word was said.
    said: bool,
}

impl FramedIo {
    pub(super) fn new(io: Box<ClientIo>, activity: Arc<Activity>) -> Self {
        Self {
            io,
            activity,
            meter: Box::default(),
            whole: true,
            said: false,
        }
    }

    /// Says GOAWAY where it still can be understood; hyper is told that the client has ended.
    fn part(&mut self, cx: &mut Context<'_>, code: u32) {
        if std::mem::replace(&mut self.said, true) || !self.whole {
            return;
        }
        let io = Pin::new(&mut self.io);
        // who takes no bytes misses it
        if io.poll_write(cx, &goaway(code)).is_ready() {
            let _taken_or_not = Pin::new(&mut self.io).poll_flush(cx).is_ready();
        }
    }

    fn wrote(&mut self, written: &Poll<io::Result<usize>>, of: usize) {
        if let Poll::Ready(Ok(n)) = written {
            self.whole = *n == of;
            self.meter.wrote(*n);
        }
    }
}

impl AsyncRead for FramedIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(code) = this.activity.parting() {
            this.part(cx, code);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let came = buf.filled().get(before..).unwrap_or_default();
        if let Err(fault) = this.meter.read(came, || this.activity.millis()) {
            buf.set_filled(before);
            this.activity.abused_by(fault.what());
            this.activity.part(fault.code());
            this.part(cx, fault.code());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FramedIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.wrote(&written, buf.len());
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        let of = bufs.iter().map(|buf| buf.len()).sum();
        this.wrote(&written, of);
        written
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
