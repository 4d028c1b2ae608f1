//! A read buffer round a socket: 64 KiB a read, held only while bytes are in it. rustls alone asks
//! for 4 KiB at a time.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pool::{Chunk, SIZE};

/// A stream with a borrowed read buffer.
#[derive(Debug)]
pub struct Buffered<S> {
    inner: S,
    chunk: Option<Chunk>,
    start: usize,
    end: usize,
}

impl<S> Buffered<S> {
    /// Wraps a stream.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            chunk: None,
            start: 0,
            end: 0,
        }
    }

    /// The stream itself.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The stream itself; reading from it skips what is buffered.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The stream; what was read and not consumed is appended to `rest`.
    pub(crate) fn into_inner(self, rest: &mut Vec<u8>) -> S {
        rest.extend_from_slice(self.buffered());
        self.inner
    }

    /// What was read and not consumed.
    #[must_use]
    pub fn buffered(&self) -> &[u8] {
        self.chunk
            .as_ref()
            .and_then(|chunk| chunk.bytes().get(self.start..self.end))
            .unwrap_or_default()
    }

    /// Drops octets from the front of what is buffered.
    pub fn consume(&mut self, n: usize) {
        self.start = self.start.saturating_add(n).min(self.end);
        if self.start == self.end {
            self.chunk = None;
        }
    }
}

impl<S: AsyncRead + Unpin> Buffered<S> {
    /// Reads more behind what is buffered; 0: the stream has ended.
    ///
    /// # Errors
    /// The stream is broken, or the buffer is full.
    pub async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// The same.
    ///
    /// # Errors
    /// The stream is broken, or the buffer is full.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.chunk.is_none() {
            (self.start, self.end) = (0, 0);
        }
        let mut chunk = self.chunk.take().unwrap_or_else(Chunk::take);
        let space = chunk.bytes_mut().get_mut(self.end..).unwrap_or_default();
        if space.is_empty() {
            self.chunk = Some(chunk);
            return Poll::Ready(Err(io::Error::other("64 KiB and no end")));
        }
        let mut buf = ReadBuf::new(space);
        let read = Pin::new(&mut self.inner).poll_read(cx, &mut buf);
        let n = buf.filled().len();
        self.end = self.end.saturating_add(n);
        // an empty buffer goes back before anybody waits
        if self.start < self.end {
            self.chunk = Some(chunk);
        }
        ready!(read)?;
        Poll::Ready(Ok(n))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Buffered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.buffered().is_empty() {
            // who asks for much gets it without a copy
            if buf.remaining() >= SIZE {
                return Pin::new(&mut this.inner).poll_read(cx, buf);
            }
            if ready!(this.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        let take = this.buffered().len().min(buf.remaining());
        buf.put_slice(this.buffered().get(..take).unwrap_or_default());
        this.consume(take);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Buffered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_pass_whole_and_an_idle_stream_holds_no_buffer() {
        let (mut far, near) = tokio::io::duplex(1 << 20);
        let mut near = Buffered::new(near);
        let sent: Vec<u8> = (0..200_000u32).map(|n| n.to_le_bytes()[0]).collect();
        far.write_all(&sent).await.unwrap();
        assert!(near.fill().await.unwrap() > 0);
        near.consume(3);
        let mut got = vec![0; sent.len() - 3];
        near.read_exact(&mut got).await.unwrap();
        assert_eq!(got, sent[3..]);
        let mut one = [0];
        let pending =
            tokio::time::timeout(std::time::Duration::from_millis(5), near.read(&mut one)).await;
        assert!(pending.is_err() && near.chunk.is_none());
        drop(far);
        assert_eq!(near.read(&mut one).await.unwrap(), 0);
    }
}
