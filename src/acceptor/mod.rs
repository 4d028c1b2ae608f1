//! The acceptor: what an admitted gateway may do, and the way to the backend.

mod backend;
pub mod http;
pub mod tcp;

pub use backend::{BACKEND_CONNECT_TIMEOUT, BackendDial, BackendStream};
pub use http::{HttpAcceptor, Requirements};
pub use tcp::TcpAcceptor;

use crate::{
    admit::Denial,
    serve::{ServerStream, link},
};

/// Tells a gateway of ours why, in one word.
async fn refuse(stream: &mut ServerStream, reason: Denial) {
    let telling = link::write_refused(stream, reason);
    // a gateway that does not read is not waited for
    drop(tokio::time::timeout(BACKEND_CONNECT_TIMEOUT, telling).await);
}
