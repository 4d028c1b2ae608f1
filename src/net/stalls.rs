//! A stream whose writes end in time: a next hop that takes no byte of what it is owed must not
//! hold its sender for ever.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::{Abort, Hold, Octets};

/// Nothing was taken for this long: what an [`io::Error`] of [`Stalls`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stalled(pub Duration);

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the next hop takes no bytes: limits.write_timeout = {:?}",
            self.0
        )
    }
}

impl std::error::Error for Stalled {}

impl Stalled {
    /// Whether a stream broke for this.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref::<Self>().copied()
    }
}

/// A stream that breaks when its other end takes nothing for `limit`.
#[derive(Debug)]
pub struct Stalls<S> {
    inner: S,
    limit: Duration,
    since: Option<Instant>,
    /// Armed again only when it fires: most stalls are short.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Stalls<S> {
    /// Bounds a stream's stalls.
    pub fn new(inner: S, limit: Duration) -> Self {
        Self {
            inner,
            limit,
            since: None,
            timer: None,
        }
    }

    fn within<T>(
        &mut self,
        polled: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.since = None;
            return polled;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        while timer.as_mut().poll(cx).is_ready() {
            let left = limit.saturating_sub(since.elapsed());
            if left.is_zero() {
                let stalled = Stalled(limit);
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, stalled)));
            }
            timer.as_mut().reset(Instant::now() + left);
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalls<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, buf)
    }
}

/// What is given is written, and bounded.
impl<S: Abort> Abort for Stalls<S> {
    fn abort(&mut self) {
        self.inner.abort();
    }
}

impl<S: Hold> Hold for Stalls<S> {
    fn hold(&mut self) {
        self.inner.hold();
    }

    fn poll_lend(&mut self, cx: &mut Context<'_>) -> Option<Poll<io::Result<Option<Octets>>>> {
        self.inner.poll_lend(cx)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalls<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_write(cx, buf);
        this.within(polled, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        this.within(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_flush(cx);
        this.within(polled, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_shutdown(cx);
        this.within(polled, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stall_ends_and_progress_puts_it_off() {
        let limit = Duration::from_secs(10);
        let (near, mut far) = duplex(10);
        let mut near = Stalls::new(near, limit);
        near.write_all(&[0; 10]).await.unwrap();
        for _ in 0..3 {
            let took = async {
                sleep(Duration::from_secs(8)).await;
                far.read_exact(&mut [0; 10]).await
            };
            let (wrote, read) = tokio::join!(near.write_all(&[0; 10]), took);
            wrote.unwrap();
            read.unwrap();
        }
        let error = near.write_all(&[0; 10]).await.unwrap_err();
        assert_eq!(Stalled::of(&error), Some(Stalled(limit)));
    }
}
