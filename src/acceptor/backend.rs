//! The way to the legacy backend: plain TCP, a Unix socket, or TLS with its own trust.

use std::{
    io::IoSlice,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::{
    admit::{Denial, Denied, Grant, Permit},
    config::{DialAddress, ProxyVersion},
    net::{self, Abort, Buffered, Hold, Socket},
    serve::proxy_header,
    tls::{ClientTls, Judge, TlsStream, connect},
};

/// Longest wait for the backend's socket. Shorter than a gateway's default `connect_timeout`, so
/// that the gateway hears the reason in place of timing out itself.
pub const BACKEND_CONNECT_TIMEOUT: Duration = Duration::from_millis(2500);

/// How a listener's backend is reached.
pub struct BackendDial {
    /// Address.
    pub address: DialAddress,
    /// TLS towards it, and the name it must carry.
    pub tls: Option<(ClientTls, ServerName<'static>)>,
    /// Our own address towards it.
    pub source_address: Option<IpAddr>,
    /// The PROXY header that it expects.
    pub send_proxy: Option<ProxyVersion>,
}

/// An open connection to the backend.
pub enum BackendStream {
    /// Bytes as they are.
    Plain(Socket),
    /// Inside TLS.
    Tls(TlsStream<Socket>),
}

impl BackendDial {
    /// Opens a connection for a client. Takes the permit: no path to the backend without one.
    /// One that comes to last is to be told of it ([`Hold::lasts`]).
    ///
    /// # Errors
    /// `BackendUnreachable`, with what was tried.
    pub async fn connect(
        &self,
        _permit: &Permit,
        client: Option<(SocketAddr, SocketAddr)>,
    ) -> Result<BackendStream, Denied> {
        let opening = Box::pin(self.open(client));
        tokio::time::timeout(BACKEND_CONNECT_TIMEOUT, opening)
            .await
            .unwrap_or_else(|_elapsed| {
                Err(unreachable(
                    &self.address,
                    format!("no answer in {BACKEND_CONNECT_TIMEOUT:?}"),
                ))
            })
    }

    async fn open(
        &self,
        client: Option<(SocketAddr, SocketAddr)>,
    ) -> Result<BackendStream, Denied> {
        let mut socket = net::dial_brief(&self.address, self.source_address)
            .await
            .map_err(|error| unreachable(&self.address, error.to_string()))?;
        if let Some(version) = self.send_proxy {
            // the header stands before TLS, as HAProxy's send-proxy does
            let header = proxy_header(version, client);
            socket
                .write_all(&header)
                .await
                .map_err(|error| unreachable(&self.address, error.to_string()))?;
        }
        let Some((tls, name)) = &self.tls else {
            return Ok(BackendStream::Plain(socket));
        };
        // nobody's rules name a backend: its chain and name are all that is asked
        let judge: Judge = Arc::new(|peer| {
            let identity = peer
                .map(|peer| peer.leaf.display_name())
                .unwrap_or_default();
            Ok(Grant {
                rule: "backend_tls".to_owned(),
                identity,
                until: None,
            })
        });
        let connected = connect(Buffered::new(socket), tls, name.clone(), judge)
            .await
            .map_err(|denied| unreachable(&self.address, denied))?;
        Ok(BackendStream::Tls(connected.stream))
    }
}

fn unreachable(address: &DialAddress, what: impl std::fmt::Display) -> Denied {
    Denied::new(Denial::BackendUnreachable, format!("{address}: {what}"))
}

impl BackendStream {
    /// Makes the close a reset: what was carried is not to look complete.
    pub fn abort(&self) {
        match self {
            Self::Plain(socket) => socket.abort(),
            Self::Tls(stream) => stream.io().abort(),
        }
    }
}

impl Abort for BackendStream {
    fn abort(&mut self) {
        Self::abort(self);
    }
}

impl Hold for BackendStream {
    fn lasts(&mut self) {
        match self {
            Self::Plain(socket) => socket.keep_alive(),
            Self::Tls(stream) => stream.io().keep_alive(),
        }
    }

    fn hold(&mut self) {
        if let Self::Tls(stream) = self {
            stream.hold();
        }
    }

    fn may_lose(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.may_lose(),
            Self::Tls(stream) => stream.may_lose(),
        }
    }

    fn has_sent(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.has_sent(),
            Self::Tls(stream) => stream.has_sent(),
        }
    }
}

impl AsyncRead for BackendStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for BackendStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A backend for messages and metrics.
impl std::fmt::Debug for BackendDial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackendDial")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Shared by every connection of a listener.
pub(super) type SharedDial = Arc<BackendDial>;

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tokio::{io::duplex, net::TcpListener};

    use super::*;
    use crate::net::{RelayOptions, relay};

    #[tokio::test]
    async fn a_dead_backend_is_asked_for_where_its_connection_lasts() {
        let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dial = BackendDial {
            address: DialAddress::Ip(backend.local_addr().unwrap()),
            tls: None,
            source_address: None,
            send_proxy: None,
        };
        let mut stream = dial.open(None).await.unwrap();
        let options = |stream: &BackendStream| {
            let BackendStream::Plain(Socket::Tcp(tcp)) = stream else {
                unreachable!("it is TCP");
            };
            let socket = SockRef::from(tcp);
            (socket.tcp_nodelay().unwrap(), socket.keepalive().unwrap())
        };
        assert_eq!(options(&stream), (true, false));
        let (mut peer, _other) = duplex(64);
        let quickly = RelayOptions {
            idle_timeout: Duration::from_millis(40),
            ..RelayOptions::default()
        };
        relay(&mut peer, &mut stream, &quickly).await;
        assert_eq!(options(&stream), (true, true));
    }
}
