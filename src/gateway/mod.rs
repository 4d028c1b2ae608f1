//! The gateway: routes, the link to acceptors, and what is done with clients' bytes.

pub mod backend;
pub mod credentials;
pub mod dial;
pub mod health;
pub mod http;
mod mux;
pub mod ocsp;
pub mod redirect;
pub mod reuse;
pub mod routes;
pub mod tcp;
mod way;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::{serve::new_connection_id, wire::ConnectionId};

pub use backend::{BackendRuntime, Link};

/// What the acceptor is told of a client.
#[derive(Clone, Debug)]
pub struct ClientFacts {
    /// Names the connection in both logs.
    pub connection_id: ConnectionId,
    /// The client's address.
    pub source: SocketAddr,
    /// The address that it dialled.
    pub destination: SocketAddr,
    /// The name that it asked for.
    pub sni: Option<String>,
    /// Its certificate's name.
    pub identity: Option<String>,
    /// We speak http ourselves for it, in place of passing its bytes on.
    pub http: bool,
}

impl ClientFacts {
    /// For a link that is opened for no client: a check, or a connection kept ready.
    #[must_use]
    pub fn ours() -> Self {
        let nobody = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        Self {
            connection_id: new_connection_id(),
            source: nobody,
            destination: nobody,
            sni: None,
            identity: None,
            http: true,
        }
    }

    /// The client's address and the one that it dialled; `None` where there is no client.
    #[must_use]
    pub fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        (!self.source.ip().is_unspecified()).then_some((self.source, self.destination))
    }
}
