//! The acceptor: what an admitted gateway may do, and the way to the backend.

mod backend;
pub mod http;
mod mux;
pub mod tcp;

pub use backend::{BACKEND_CONNECT_TIMEOUT, BackendDial, BackendStream};
pub use http::{HttpAcceptor, Requirements};
pub use tcp::TcpAcceptor;

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use crate::{
    admit::Denial,
    serve::{ServerStream, link},
};

/// So much longer than `limits.keepalive_timeout` an unused connection is kept: a gateway that
/// keeps its own for the same time lets go first, and never sends into a connection that closes.
const LETS_GO_FIRST: Duration = Duration::from_secs(15);

/// Closes so that the other end knows that nothing was cut.
async fn farewell(stream: &mut ServerStream) {
    let closing = stream.shutdown();
    drop(tokio::time::timeout(Duration::from_secs(1), closing).await);
}

/// Tells a gateway of ours why, in one word.
async fn refuse(stream: &mut ServerStream, reason: Denial) {
    let telling = link::write_refused(stream, reason);
    // a gateway that does not read is not waited for
    drop(tokio::time::timeout(BACKEND_CONNECT_TIMEOUT, telling).await);
}
