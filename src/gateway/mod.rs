//! The gateway: routes, the link to acceptors, and what is done with clients' bytes.

pub mod backend;
pub mod dial;
pub mod http;
pub mod routes;
pub mod tcp;

use std::net::SocketAddr;

use crate::wire::ConnectionId;

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
}
