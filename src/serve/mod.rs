//! The one accept loop, shared by both roles: source check, PROXY header, starttls, handshake,
//! decision. What comes out is an [`Admitted`] connection, which holds the [`Permit`].

pub mod accept;
mod aside;
pub(crate) mod http;
pub mod link;
pub mod mux;
mod preface;
mod record;
pub mod rules;
pub mod supervise;
mod table;
pub mod tunnel;

use std::{any::Any, future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use accept::Serving;
pub use aside::Aside;
pub use rules::{ListenerRules, Shown, Snapshot};
pub use supervise::{LinkSupervision, Supervision};
pub(crate) use supervise::{Said, judge_link, speaking, spread};
pub use table::{Slot, Slots};
pub use tunnel::Tunnel;

use crate::{
    admit::{Denial, Denied, PeerFacts, Permit},
    config::ProxyVersion,
    drain::Drain,
    net::{Buffered, Socket},
    tls::{TlsStream, handshake::SessionFacts},
    wire::{ConnectionId, proxy},
};

/// A TLS stream from a client or gateway.
pub type ServerStream = TlsStream<Socket>;

/// A fresh name for a connection.
#[must_use]
pub fn new_connection_id() -> ConnectionId {
    let mut id = [0; 16];
    if aws_lc_rs::rand::fill(&mut id).is_err() {
        // ids then repeat, which costs clarity in the log and nothing else
        tracing::warn!("no randomness for connection ids");
    }
    ConnectionId(id)
}

/// A connection that was let in.
pub struct Admitted {
    /// Its name.
    pub id: ConnectionId,
    /// The TLS stream.
    pub stream: ServerStream,
    /// The proof that every rule said yes.
    pub permit: Permit,
    /// The peer's certificate, where one was asked for and shown.
    pub peer: Option<Arc<PeerFacts>>,
    /// The peer's address: the socket's, or a trusted PROXY header's.
    pub source: SocketAddr,
    /// Our address on this connection, or the PROXY header's destination.
    pub local: SocketAddr,
    /// The protocol agreed by ALPN.
    pub alpn: Option<Vec<u8>>,
    /// The name that the peer asked for.
    pub sni: Option<String>,
    /// What was negotiated.
    pub session: SessionFacts,
    /// How long accept and handshake took.
    pub handshake: std::time::Duration,
    /// Says when the connection has to end.
    pub supervision: Supervision,
    /// The process's drain.
    pub drain: Drain,
    /// Cancelled when the listener takes no connection any more.
    pub stopping: CancellationToken,
    /// Places for clients that share the connection.
    pub slots: Slots,
}

/// A PostgreSQL cancel request that came without TLS, and was let in by its source alone: a
/// listener that asks for certificates refuses it.
pub struct CancelRequest {
    /// The connection's name.
    pub id: ConnectionId,
    /// The proof that every rule said yes.
    pub permit: Permit,
    /// The client's address.
    pub source: SocketAddr,
    /// Our address on this connection.
    pub local: SocketAddr,
    /// The request, whole.
    pub message: Vec<u8>,
    /// Says when the connection has to end.
    pub supervision: Supervision,
}

/// A connection without TLS, which was let in by its source alone.
pub struct Plain {
    /// Its name.
    pub id: ConnectionId,
    /// The bytes.
    pub io: Buffered<Socket>,
    /// The proof that every rule said yes.
    pub permit: Permit,
    /// The client's address.
    pub source: SocketAddr,
    /// Our address on this connection.
    pub local: SocketAddr,
    /// Says when the connection has to end.
    pub supervision: Supervision,
}

/// How a connection ended, for the metrics.
#[derive(Clone, Debug, Default)]
pub struct Closed {
    /// Why; `None`: both sides were done.
    pub cause: Option<Denied>,
    /// Bytes from the peer.
    pub bytes_in: u64,
    /// Bytes to the peer.
    pub bytes_out: u64,
}

impl Closed {
    /// It ended for a reason, before any byte passed.
    #[must_use]
    pub fn refused(denied: Denied) -> Self {
        Self {
            cause: Some(denied),
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// The closed reason.
    #[must_use]
    pub fn reason(&self) -> Option<Denial> {
        self.cause.as_ref().map(|denied| denied.reason)
    }
}

/// A future that owns its connection; boxed so that each phase's state is gone when it is over.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a role does with an admitted connection.
pub trait Role: Any + Send + Sync + 'static {
    /// Carries the connection to its end, and writes its access record.
    fn serve(self: Arc<Self>, admitted: Admitted) -> BoxFuture<Closed>;

    /// Begins what goes on beside connections; called once, when the role is put in force.
    fn begin(&self, rules: watch::Receiver<Arc<Snapshot>>) {
        drop(rules);
    }

    /// Judges the acceptor at the other end of a live link connection by the rules in force.
    ///
    /// # Errors
    /// Why it would be refused today.
    fn judge_link(
        &self,
        backend: &str,
        acceptor: &str,
        chain: &[CertificateDer<'static>],
    ) -> Result<(), Denied> {
        let _unused = (backend, acceptor, chain);
        Err(Denied::new(
            Denial::RulesChanged,
            "the listener dials acceptors no more",
        ))
    }

    /// Answers a connection without TLS. Only listeners in redirect mode get any.
    fn plain(self: Arc<Self>, plain: Plain) -> BoxFuture<Closed> {
        drop(plain);
        Box::pin(async { Closed::refused(Denied::new(Denial::NotTls, "")) })
    }

    /// Hands a cancel request on. Only listeners with `starttls = "postgres"` get any.
    fn cancel(self: Arc<Self>, request: CancelRequest) -> BoxFuture<Closed> {
        drop(request);
        Box::pin(async { Closed::refused(Denied::new(Denial::StarttlsPlaintext, "")) })
    }
}

/// The PROXY header for a client and the address that it dialled; without them the form that
/// speaks for nobody.
#[must_use]
pub fn proxy_header(version: ProxyVersion, client: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    match (version, client) {
        (ProxyVersion::V1, Some((source, destination))) => proxy::encode_v1(source, destination),
        (ProxyVersion::V2, Some((source, destination))) => {
            proxy::encode_v2(source, destination, proxy::Extras::default())
        }
        (ProxyVersion::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
        (ProxyVersion::V2, None) => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec(),
    }
}
