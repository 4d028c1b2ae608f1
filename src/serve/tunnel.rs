//! One client's stream on a link connection that is used again (`portcullis/2`): DATA frames, one
//! FIN for each direction, and the connection is free for the next OPEN once both have passed.
//!
//! There is no frame for a stream that breaks: the connection is reset, as TCP itself would be, so
//! that neither end can take a broken stream for a whole one, or read one stream's rest as the
//! next one's beginning.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    net::Hold,
    wire::link::{DATA, FIN, HEADER_LEN, MAX_DATA, header, header_of},
};

/// A stream in frames over a connection that outlives it.
#[derive(Debug)]
pub struct Tunnel<S> {
    inner: S,
    incoming: Incoming,
    outgoing: Outgoing,
}

#[derive(Debug, Default)]
struct Incoming {
    /// A header that is not whole yet.
    header: [u8; HEADER_LEN],
    have: usize,
    /// Octets of the frame under way that have yet to come.
    left: usize,
    ended: bool,
}

#[derive(Debug)]
struct Outgoing {
    /// The header of the frame under way, and how much of it is written.
    header: [u8; HEADER_LEN],
    written: usize,
    /// Octets that the header announced and that are yet to be written.
    owed: usize,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    Ending,
    Ended,
}

impl<S> Tunnel<S> {
    /// A stream that begins now: behind the OPEN of its client.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            incoming: Incoming::default(),
            outgoing: Outgoing {
                header: [0; HEADER_LEN],
                written: HEADER_LEN,
                owed: 0,
                end: End::Open,
            },
        }
    }

    /// The connection.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The connection, if both directions have ended as they should; else it can only be reset.
    ///
    /// # Errors
    /// The stream itself, unchanged.
    pub fn finish(self) -> Result<S, Self> {
        if self.incoming.ended && self.outgoing.end == End::Ended {
            Ok(self.inner)
        } else {
            Err(self)
        }
    }
}

impl<S: Hold> Hold for Tunnel<S> {
    fn hold(&mut self) {
        self.inner.hold();
    }

    fn may_lose(&self) -> bool {
        self.inner.may_lose()
    }

    fn has_sent(&self) -> bool {
        self.inner.has_sent()
    }
}

impl<S: AsyncRead + Unpin> Tunnel<S> {
    /// Reads up to the next octets of the stream; false: it has ended.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let incoming = &mut self.incoming;
        while incoming.left == 0 && !incoming.ended {
            let missing = incoming.header.get_mut(incoming.have..).unwrap_or_default();
            let mut buf = ReadBuf::new(missing);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buf))?;
            match buf.filled().len() {
                0 => return Poll::Ready(Err(cut_short())),
                n => incoming.have = incoming.have.saturating_add(n),
            }
            if incoming.have < HEADER_LEN {
                continue;
            }
            incoming.have = 0;
            match header_of(incoming.header) {
                (DATA, len) if len > 0 => incoming.left = len,
                (FIN, 0) => incoming.ended = true,
                (kind, len) => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!(
                            "link frame of type {kind} and {len} bytes inside a stream, expected DATA or FIN"
                        ),
                    )));
                }
            }
        }
        Poll::Ready(Ok(!incoming.ended))
    }
}

fn cut_short() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the link closed in the middle of a stream",
    )
}

impl<S: AsyncRead + Unpin> AsyncRead for Tunnel<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 || !ready!(this.poll_frame(cx))? {
            return Poll::Ready(Ok(()));
        }
        let most = this.incoming.left.min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        ready!(Pin::new(&mut this.inner).poll_read(cx, &mut part))?;
        let n = part.filled().len();
        if n == 0 {
            return Poll::Ready(Err(cut_short()));
        }
        buf.advance(n);
        this.incoming.left = this.incoming.left.saturating_sub(n);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tunnel<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outgoing = &mut this.outgoing;
        if outgoing.end != End::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if outgoing.owed == 0 {
            outgoing.owed = data.len().min(MAX_DATA);
            outgoing.header = header(DATA, outgoing.owed);
            outgoing.written = 0;
        }
        loop {
            let head = outgoing.header.get(outgoing.written..).unwrap_or_default();
            let body = data.get(..outgoing.owed).unwrap_or(data);
            let inner = Pin::new(&mut this.inner);
            let n = if head.is_empty() {
                ready!(inner.poll_write(cx, body))?
            } else {
                // header and octets in one TLS record
                let both = [io::IoSlice::new(head), io::IoSlice::new(body)];
                ready!(inner.poll_write_vectored(cx, &both))?
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_head = n.min(head.len());
            let of_body = n.saturating_sub(of_head);
            outgoing.written = outgoing.written.saturating_add(of_head);
            outgoing.owed = outgoing.owed.saturating_sub(of_body);
            if of_body > 0 {
                return Poll::Ready(Ok(of_body));
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    /// Says FIN. The connection stays open.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outgoing = &mut this.outgoing;
        if outgoing.end == End::Open {
            if outgoing.owed > 0 {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "a frame was announced and is not written whole",
                )));
            }
            outgoing.header = header(FIN, 0);
            outgoing.written = 0;
            outgoing.end = End::Ending;
        }
        while outgoing.written < HEADER_LEN {
            let rest = outgoing.header.get(outgoing.written..).unwrap_or_default();
            match ready!(Pin::new(&mut this.inner).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => outgoing.written = outgoing.written.saturating_add(n),
            }
        }
        ready!(Pin::new(&mut this.inner).poll_flush(cx))?;
        outgoing.end = End::Ended;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    proptest! {
        /// Whatever the pipe lets through at a time, what was written is what is read, and the
        /// connection is free for the next stream.
        #[test]
        fn bytes_and_ends_pass_both_ways_and_again(
            room in 1usize..40,
            streams in proptest::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 1..4),
        ) {
            run(async move {
                let (mut near, mut far) = duplex(room);
                for (forth, back) in streams {
                    let (mut a, mut b) = (Tunnel::new(near), Tunnel::new(far));
                    let (wanted_forth, wanted_back) = (forth.clone(), back.clone());
                    let one = async {
                        let (mut read, mut write) = tokio::io::split(&mut a);
                        let mut seen = Vec::new();
                        let (wrote, got) = tokio::join!(
                            async { write.write_all(&forth).await?; write.shutdown().await },
                            read.read_to_end(&mut seen)
                        );
                        wrote.unwrap();
                        got.unwrap();
                        assert_eq!(seen, wanted_back);
                    };
                    let other = async {
                        let (mut read, mut write) = tokio::io::split(&mut b);
                        let mut seen = Vec::new();
                        let (wrote, got) = tokio::join!(
                            async { write.write_all(&back).await?; write.shutdown().await },
                            read.read_to_end(&mut seen)
                        );
                        wrote.unwrap();
                        got.unwrap();
                        assert_eq!(seen, wanted_forth);
                    };
                    tokio::join!(one, other);
                    near = a.finish().unwrap();
                    far = b.finish().unwrap();
                }
            });
        }

        #[test]
        fn hostile_frames_end_in_an_error_or_an_end(bytes in any::<Vec<u8>>()) {
            run(async move {
                let mut tunnel = Tunnel::new(tokio::io::join(bytes.as_slice(), tokio::io::sink()));
                let mut seen = Vec::new();
                let _either = tunnel.read_to_end(&mut seen).await;
                assert!(seen.len() <= bytes.len());
            });
        }
    }

    #[test]
    fn a_stream_that_is_cut_is_no_end() {
        for (bytes, kind) in [
            (&b""[..], io::ErrorKind::UnexpectedEof),
            (&[DATA, 0], io::ErrorKind::UnexpectedEof),
            (&[DATA, 0, 0, 2, 1], io::ErrorKind::UnexpectedEof),
            (&[DATA, 0, 0, 1, 1], io::ErrorKind::UnexpectedEof),
            (&[DATA, 0, 0, 0], io::ErrorKind::InvalidData),
            (&[FIN, 0, 0, 1, 0], io::ErrorKind::InvalidData),
            (&[1, 0, 0, 0], io::ErrorKind::InvalidData),
        ] {
            let mut tunnel = Tunnel::new(tokio::io::join(bytes, tokio::io::sink()));
            let error = run(tunnel.read_to_end(&mut Vec::new())).unwrap_err();
            assert_eq!(error.kind(), kind, "{bytes:?}");
            assert!(tunnel.finish().is_err());
        }
        // one that ended in one direction is not free either
        let mut tunnel = Tunnel::new(tokio::io::join(&[FIN, 0, 0, 0][..], tokio::io::sink()));
        run(tunnel.read_to_end(&mut Vec::new())).unwrap();
        let mut tunnel = tunnel.finish().unwrap_err();
        run(tunnel.shutdown()).unwrap();
        assert!(tunnel.finish().is_ok());
    }
}
