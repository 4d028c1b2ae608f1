//! The acceptor: what an admitted gateway may do, and the way to the backend.

mod backend;
pub mod tcp;

pub use backend::{BACKEND_CONNECT_TIMEOUT, BackendDial, BackendStream};
pub use tcp::TcpAcceptor;
