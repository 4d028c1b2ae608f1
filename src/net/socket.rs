//! A stream socket, TCP or Unix.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::SendFlags,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};

use super::{Hold, WriteLast};

/// Idle time before the kernel asks a silent peer whether it lives; then every `INTERVAL`, six
/// times. HAProxy leaves it to the system (2 h), Go takes 15 s, Envoy and Linux 2 h.
const KEEPALIVE: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_secs(10);

/// Bytes that the kernel takes ahead of what it could send. With its own megabytes in between, a
/// slow reader would seem to take nothing for longer than `limits.write_timeout`.
const UNSENT: u32 = 128 << 10;

/// A connected stream.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
}

impl Socket {
    /// The other end; IPv4-mapped addresses as IPv4. `None` for Unix sockets.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(tcp) => tcp.peer_addr().ok().map(canonical),
            Self::Unix(_) => None,
        }
    }

    /// Our end; IPv4-mapped addresses as IPv4. `None` for Unix sockets.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(tcp) => tcp.local_addr().ok().map(canonical),
            Self::Unix(_) => None,
        }
    }

    /// Sets what every TCP connection of ours has. Those that a listener of ours accepts have it
    /// from there.
    pub(super) fn tune(&self) {
        if let Self::Tcp(tcp) = self {
            told(tune(&SockRef::from(tcp)));
        }
    }

    /// Has the kernel ask a silent peer whether it lives. Four calls: for a connection that lasts.
    pub fn keep_alive(&self) {
        if let Self::Tcp(tcp) = self {
            told(keep_alive(&SockRef::from(tcp)));
        }
    }

    /// Whether everything that was written has gone out, or nothing does any more. What the other end
    /// has given no room for waits here, and a reset would throw it away.
    #[must_use]
    pub fn has_sent(&self) -> bool {
        let Self::Tcp(tcp) = self else {
            return true;
        };
        // from now on the socket is ready for more only when nothing is unsent; there will be no more
        if SockRef::from(tcp).set_tcp_notsent_lowat(1).is_err() {
            return true;
        }
        let mut one = [PollFd::new(tcp, PollFlags::OUT)];
        let found = poll(&mut one, Some(&Timespec::default()));
        found.is_err() || one.iter().all(|one| !one.revents().is_empty())
    }

    /// Makes the close a reset: the other end must not take what it got for all there was.
    pub fn abort(&self) {
        if let Self::Tcp(tcp) = self
            && let Err(error) = SockRef::from(tcp).set_linger(Some(Duration::ZERO))
        {
            tracing::debug!(%error, "SO_LINGER refused");
        }
    }
}

/// What is accepted has it from here.
pub(super) fn tune_listener(socket: &socket2::Socket) {
    told(tune(socket).and_then(|()| keep_alive(socket)));
}

/// No delay for small writes, and little room for unsent ones.
fn tune(socket: &socket2::Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT)
}

fn keep_alive(socket: &socket2::Socket) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(INTERVAL)
        .with_retries(6);
    socket.set_tcp_keepalive(&keepalive)
}

/// A socket that refuses an option works without.
fn told(tuned: io::Result<()>) {
    if let Err(error) = tuned {
        tracing::debug!(%error, "socket option refused");
    }
}

pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // sockets have nothing to flush
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }
}

impl Hold for Socket {
    fn may_lose(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    fn has_sent(&self) -> bool {
        Self::has_sent(self)
    }
}

impl WriteLast for Socket {
    fn poll_write_last(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write_last(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
        }
    }
}

impl WriteLast for TcpStream {
    /// The end would be a packet of its own, and wake the other end once more.
    fn poll_write_last(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
        loop {
            ready!(self.poll_write_ready(cx))?;
            let send = || Ok(rustix::net::send(&*self, buf, flags)?);
            match self.try_io(Interest::WRITABLE, send) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn what_is_written_last_waits_for_the_end_and_comes_with_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut waited = false;
        // the kernel holds it back no longer than 200 ms
        for _ in 0..20 {
            let near = TcpStream::connect(listener.local_addr().unwrap());
            let (near, far) = tokio::join!(near, listener.accept());
            let (mut near, mut far) = (Socket::Tcp(near.unwrap()), far.unwrap().0);
            near.tune();
            near.write_all(b"first, ").await.unwrap();
            let mut first = [0; 7];
            far.read_exact(&mut first).await.unwrap();
            let last = poll_fn(|cx| Pin::new(&mut near).poll_write_last(cx, b"last"));
            assert_eq!(last.await.unwrap(), 4);
            let mut early = [0; 4];
            let peeked = rustix::net::recv(&far, &mut early, rustix::net::RecvFlags::PEEK);
            waited |= peeked.is_err();
            near.shutdown().await.unwrap();
            let mut rest = String::new();
            far.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest, "last");
            // the other direction is still open
            far.write_all(b"heard").await.unwrap();
            let mut answer = [0; 5];
            near.read_exact(&mut answer).await.unwrap();
            if waited {
                return;
            }
        }
        panic!("it went out before the end, every time");
    }

    #[tokio::test]
    async fn what_has_no_room_at_the_other_end_is_told_from_what_was_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(near, listener.accept());
        let (mut near, mut far) = (Socket::Tcp(near.unwrap()), far.unwrap().0);
        near.tune();
        assert!(near.has_sent());
        // until the kernel takes no more
        let part = vec![7; 64 << 10];
        let mut wrote = 0;
        let limit = Duration::from_millis(100);
        while let Ok(n) = tokio::time::timeout(limit, near.write(&part)).await {
            wrote += n.unwrap();
        }
        assert!(!near.has_sent());
        let mut got = vec![0; wrote];
        far.read_exact(&mut got).await.unwrap();
        while !near.has_sent() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        near.abort();
        drop(near);
        assert!(far.read(&mut got).await.is_err());
    }

    #[tokio::test]
    async fn more_than_the_socket_takes_is_written_last_and_comes_whole() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(near, listener.accept());
        let (mut near, mut far) = (Socket::Tcp(near.unwrap()), far.unwrap().0);
        let much: Vec<u8> = (0..20_000_000u32).map(|n| n.to_le_bytes()[1]).collect();
        let write = async {
            let mut left = &much[..];
            while !left.is_empty() {
                let written = poll_fn(|cx| Pin::new(&mut near).poll_write_last(cx, left));
                left = &left[written.await.unwrap()..];
            }
            near.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (read, ()) = tokio::join!(far.read_to_end(&mut got), write);
        assert_eq!(read.unwrap(), much.len());
        assert!(got == much);
    }
}
