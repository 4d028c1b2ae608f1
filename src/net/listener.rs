//! Listening sockets: bound once, before anything runs.

use std::{
    fmt,
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::{fs::PermissionsExt, net::UnixStream as StdUnixStream},
    path::Path,
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, Type};
use tokio::net::{TcpListener, UnixListener};

use super::{
    Inherited, Socket,
    socket::{canonical, tune_listener},
};
use crate::config::ListenAddress;

/// Connections that the kernel holds ready for us; systemd's default for sockets is the same.
const BACKLOG: i32 = 4096;

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// Unix.
    Unix(UnixListener),
}

/// A listener that can't be had.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address}: {reason}")]
pub struct BindError {
    /// Where.
    pub address: ListenAddress,
    /// Why, and what to do.
    pub reason: String,
}

impl Listener {
    /// Binds. A Unix socket file that nobody answers on is replaced.
    ///
    /// # Errors
    /// The address is taken, not ours, or not handed over.
    pub fn bind(address: &ListenAddress, inherited: &Inherited) -> Result<Self, BindError> {
        let bound = match address {
            ListenAddress::Tcp(address) => bind_tcp(*address),
            ListenAddress::Unix(path) => bind_unix(path),
            ListenAddress::Systemd(name) => return take(address, name, inherited),
        };
        bound.map_err(|error| BindError {
            address: address.clone(),
            reason: hint(&error),
        })
    }

    /// Where it really listens: port 0 has become a port.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(tcp) => tcp.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Accepts one connection; Unix sockets have the unspecified address as source.
    ///
    /// # Errors
    /// See [`AcceptBackoff`].
    pub async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// The same for one who says where the connection is to live: it is heard by the runtime that
    /// this is polled in.
    ///
    /// # Errors
    /// See [`AcceptBackoff`].
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Socket, SocketAddr)>> {
        Poll::Ready(Ok(match self {
            Self::Tcp(tcp) => {
                let (stream, source) = ready!(tcp.poll_accept(cx))?;
                // the one place where IPv4-mapped sources become IPv4
                (Socket::Tcp(stream), canonical(source))
            }
            Self::Unix(unix) => {
                let (stream, _) = ready!(unix.poll_accept(cx))?;
                (
                    Socket::Unix(stream),
                    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
                )
            }
        }))
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<Listener> {
    let socket = socket2::Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    // what is accepted has it from here, which takes six calls less for each
    tune_listener(&socket);
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into()).map(Listener::Tcp)
}

fn bind_unix(path: &Path) -> io::Result<Listener> {
    if path.exists() {
        if StdUnixStream::connect(path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another process answers there",
            ));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(Listener::Unix(listener))
}

fn take(address: &ListenAddress, name: &str, inherited: &Inherited) -> Result<Listener, BindError> {
    let bad = |reason: String| BindError {
        address: address.clone(),
        reason,
    };
    let fd = inherited.take(name).ok_or_else(|| {
        let names = inherited.names();
        let there = if names.is_empty() { "none was".to_owned() } else { names.join(", ") };
        bad(format!("no socket of that name was handed over ({there}): set FileDescriptorName={name} in the .socket unit"))
    })?;
    let socket = socket2::Socket::from(fd);
    let set = socket
        .set_nonblocking(true)
        .and_then(|()| socket.local_addr());
    let local = set.map_err(|error| bad(error.to_string()))?;
    let listener = if local.is_unix() {
        UnixListener::from_std(socket.into()).map(Listener::Unix)
    } else {
        tune_listener(&socket);
        TcpListener::from_std(socket.into()).map(Listener::Tcp)
    };
    listener.map_err(|error| bad(error.to_string()))
}

fn hint(error: &io::Error) -> String {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "other errors speak for themselves"
    )]
    let next = match error.kind() {
        io::ErrorKind::AddrInUse => ": find its holder with ss -ltnp",
        io::ErrorKind::PermissionDenied => {
            ": ports below 1024 need CAP_NET_BIND_SERVICE or a .socket unit"
        }
        io::ErrorKind::AddrNotAvailable => ": this host has no such address",
        _ => "",
    };
    format!("{error}{next}")
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

/// How long to wait after a failed accept: not at all for what is one connection's fault,
/// 5 ms doubling to 1 s for what is the system's (no descriptors, no memory).
#[derive(Debug, Default)]
pub struct AcceptBackoff(Option<Duration>);

impl AcceptBackoff {
    const FIRST: Duration = Duration::from_millis(5);
    const LONGEST: Duration = Duration::from_secs(1);

    /// An accept succeeded.
    pub fn reset(&mut self) {
        self.0 = None;
    }

    /// The pause after this error; `None`: go on at once.
    pub fn after(&mut self, error: &io::Error) -> Option<Duration> {
        let one_connection = matches!(
            error.kind(),
            io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::Interrupted
        );
        if one_connection {
            return None;
        }
        let pause = self.0.map_or(Self::FIRST, |last| {
            last.saturating_mul(2).min(Self::LONGEST)
        });
        self.0 = Some(pause);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DialAddress;

    #[test]
    fn a_system_error_pauses_longer_each_time_and_success_forgets() {
        let mut backoff = AcceptBackoff::default();
        let full = io::Error::from_raw_os_error(24);
        let pauses: Vec<_> = (0..10)
            .filter_map(|_| backoff.after(&full))
            .map(|p| p.as_millis())
            .collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.after(&full), Some(AcceptBackoff::FIRST));
        assert_eq!(
            backoff.after(&io::ErrorKind::ConnectionAborted.into()),
            None
        );
    }

    #[tokio::test]
    async fn what_is_accepted_is_tuned_as_what_is_dialled() {
        let listener = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let to = listener.local_address().unwrap();
        let to = DialAddress::Ip(to);
        let (dialled, accepted) = tokio::join!(crate::net::dial(&to, None), listener.accept());
        let options = |socket: &Socket| {
            let Socket::Tcp(tcp) = socket else {
                unreachable!("it is TCP");
            };
            let socket = socket2::SockRef::from(tcp);
            (
                socket.tcp_nodelay().unwrap(),
                socket.tcp_notsent_lowat().unwrap(),
                socket.keepalive().unwrap(),
                socket.tcp_keepalive_time().unwrap(),
                socket.tcp_keepalive_interval().unwrap(),
                socket.tcp_keepalive_retries().unwrap(),
            )
        };
        let accepted = options(&accepted.unwrap().0);
        assert_eq!(accepted, options(&dialled.unwrap()));
        assert!(accepted.0 && accepted.2, "{accepted:?}");
    }

    #[tokio::test]
    async fn a_unix_socket_that_nobody_answers_on_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let address = ListenAddress::Unix(dir.path().join("s"));
        let none = Inherited::default();
        let first = Listener::bind(&address, &none).unwrap();
        assert!(Listener::bind(&address, &none).is_err());
        drop(first);
        assert!(Listener::bind(&address, &none).is_ok());
    }
}
