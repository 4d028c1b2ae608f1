//! Outgoing connections.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
};

use tokio::net::{TcpSocket, UnixStream, lookup_host};

use super::Socket;
use crate::config::DialAddress;

/// Connects, trying every address of a host in turn.
///
/// # Errors
/// The last address's error, with the address.
pub async fn dial(address: &DialAddress, bind: Option<IpAddr>) -> io::Result<Socket> {
    let socket = dial_brief(address, bind).await?;
    socket.keep_alive();
    Ok(socket)
}

/// The same for one who says [`Socket::keep_alive`] if it comes to last: many connections are over
/// at once.
///
/// # Errors
/// As [`dial`].
pub async fn dial_brief(address: &DialAddress, bind: Option<IpAddr>) -> io::Result<Socket> {
    let socket = match address {
        DialAddress::Unix(path) => UnixStream::connect(path).await.map(Socket::Unix)?,
        DialAddress::Ip(address) => connect(*address, bind).await?,
        DialAddress::Host(host, port) => {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            let mut found = None;
            for address in lookup_host((host.as_str(), *port)).await? {
                match connect(address, bind).await {
                    Ok(socket) => {
                        found = Some(socket);
                        break;
                    }
                    Err(error) => {
                        last = io::Error::new(error.kind(), format!("{address}: {error}"))
                    }
                }
            }
            found.ok_or(last)?
        }
    };
    socket.tune();
    Ok(socket)
}

async fn connect(address: SocketAddr, bind: Option<IpAddr>) -> io::Result<Socket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(bind) = bind {
        socket.bind(SocketAddr::new(bind, 0))?;
    }
    socket.connect(address).await.map(Socket::Tcp)
}

impl fmt::Display for DialAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
