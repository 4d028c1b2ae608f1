//! http mode: an admitted gateway's requests are parsed, checked, stamped and passed on over kept
//! connections to the backend (RFC 9110, 9112 and 9113). Our own gateways name their client first
//! (OPEN, see `wire/link`); gateways of other makes speak HTTP at once.

mod pool;
mod request;
mod require;
mod rewrite;

use std::{
    any::Any,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use ::http::uri;
use hyper::{Request, service::service_fn};
use tokio::{io::AsyncBufReadExt as _, sync::watch};

pub use self::require::Requirements;
use self::{pool::Pool, rewrite::Certificate};
use super::{BackendDial, LETS_GO_FIRST, backend::SharedDial, farewell};
use crate::{
    admit::{Denial, Denied, Permit},
    config::{AcceptorListener, BackendProtocol, ClientCertHeader, Limits},
    drain::Drain,
    serve::{
        Admitted, BoxFuture, Closed, Role, Snapshot, Supervision,
        http::{self, Beginning, Client, client_body::ClientBody, io::ClientIo},
        link,
    },
    telemetry::metrics::{ListenerMetrics, Metrics, RequestMetrics},
    tls::LINK_ALPN,
    wire::{ConnectionId, link::Open},
};

/// What an HTTP/2 connection begins with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What an acceptor's listener in http mode does.
pub struct HttpAcceptor {
    listener: Arc<str>,
    limits: Arc<Limits>,
    backend: SharedDial,
    protocol: BackendProtocol,
    client_cert_header: ClientCertHeader,
    /// What each request has to prove.
    require: Option<Box<Requirements>>,
    /// The URI in our own certificate.
    own_uri: Option<String>,
    pool: Pool,
    metrics: Arc<ListenerMetrics>,
    requests: Arc<RequestMetrics>,
    drain: Drain,
    access: bool,
    /// Tells it from those before and after a reload.
    serial: u64,
}

/// How many http modes there have been.
static SERIAL: AtomicU64 = AtomicU64::new(0);

/// Whose word the headers of a connection's requests are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// A gateway's of ours, which parsed and rewrote them.
    Ours,
    /// A gateway's of another make.
    Foreign,
    /// A client's: a gateway of ours passes its bytes on as they are.
    Clients,
}

/// What is known of the gateway behind a connection.
pub(super) struct Gateway {
    id: ConnectionId,
    /// The proof that it may reach the backend.
    permit: Permit,
    sni: Option<String>,
    local: IpAddr,
    word: Word,
    /// The client whose bytes it passes on, and the address that it dialled.
    client: Option<(SocketAddr, SocketAddr)>,
    /// The headers for its certificate, once they were needed.
    certificate: OnceLock<Certificate>,
}

impl Client for Gateway {
    fn id(&self) -> ConnectionId {
        self.id
    }

    fn sni(&self) -> Option<&str> {
        self.sni.as_deref()
    }

    fn local(&self) -> IpAddr {
        self.local
    }

    fn behind(&self) -> Option<IpAddr> {
        self.client
            .filter(|_| self.word == Word::Clients)
            .map(|(source, _)| source.ip())
    }

    fn is_shared(&self) -> bool {
        self.word != Word::Clients
    }

    fn has_pool(&self) -> bool {
        self.word == Word::Ours
    }
}

/// A gateway's connection.
type Connection = http::Connection<Gateway>;

impl Connection {
    /// The http mode in force at this connection's listener.
    fn acceptor(&self) -> Option<Arc<HttpAcceptor>> {
        let role: Arc<dyn Any + Send + Sync> = self.rules.borrow().role.clone();
        role.downcast().ok()
    }
}

/// A connection that can take requests.
type Ready = (Arc<Connection>, Box<ClientIo>, Supervision);

impl HttpAcceptor {
    /// A listener's http mode.
    #[must_use]
    pub fn new(
        listener: &AcceptorListener,
        backend: BackendDial,
        require: Option<Requirements>,
        own_uri: Option<String>,
        metrics: &Metrics,
        drain: Drain,
        access: bool,
    ) -> Self {
        let backend = Arc::new(backend);
        let limits = &listener.limits;
        let requests = metrics.requests_to(&listener.name);
        Self {
            listener: Arc::clone(&listener.name),
            limits: Arc::new(Limits {
                keepalive_timeout: limits.keepalive_timeout.saturating_add(LETS_GO_FIRST),
                ..limits.clone()
            }),
            pool: Pool::new(
                Arc::clone(&backend),
                listener.protocol,
                limits.write_timeout,
                Arc::clone(&requests),
                drain.clone(),
            ),
            backend,
            protocol: listener.protocol,
            client_cert_header: listener.client_cert_header,
            require: require.map(Box::new),
            own_uri,
            metrics: metrics.listener(&listener.name),
            requests,
            drain,
            access,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl HttpAcceptor {
    /// How the backend is spoken to.
    fn scheme(&self) -> uri::Scheme {
        match &self.backend.tls {
            Some(_) => uri::Scheme::HTTPS,
            None => uri::Scheme::HTTP,
        }
    }
}

impl Role for HttpAcceptor {
    fn begin(&self, rules: watch::Receiver<Arc<Snapshot>>) {
        drop(rules);
        self.pool.tidy();
    }

    fn serve(self: Arc<Self>, admitted: Admitted) -> BoxFuture<Closed> {
        Box::pin(async move {
            // boxed: what comes before the first request keeps no room while requests come
            let ready = Box::pin(self.prepare(admitted)).await;
            let (connection, io, supervision) = match ready {
                Ok(ready) => ready,
                Err(closed) => return closed,
            };
            // from here on nothing holds this role: after a reload it goes, and its kept
            // connections with it
            drop(self);
            let shared = Arc::clone(&connection);
            let service = service_fn(move |request: Request<ClientBody>| {
                // boxed: a connection keeps room for the future of a request between requests
                let answer = Box::pin(request::answer(Arc::clone(&shared), request));
                async move { Ok::<_, Infallible>(answer.await) }
            });
            connection.carry(io, service, supervision).await
        })
    }
}

impl HttpAcceptor {
    /// Everything before the first request.
    async fn prepare(&self, mut admitted: Admitted) -> Result<Ready, Closed> {
        let opened = Instant::now();
        let open = match self.open(&mut admitted).await {
            Ok(open) => open,
            Err(denied) => {
                let closed = Closed::refused(denied);
                if self.access {
                    let mut record = admitted.record(&self.listener);
                    record.backend = self.backend.address.to_string();
                    closed.settle(&mut record, opened);
                    record.emit();
                }
                return Err(closed);
            }
        };
        let http2 = match admitted.alpn.as_deref() {
            Some(b"h2") => true,
            Some(b"http/1.1") => false,
            _ => self.begins_http2(&mut admitted).await?,
        };
        Ok(self.connection(admitted, open, http2))
    }

    /// What a gateway of ours says first.
    async fn open(&self, admitted: &mut Admitted) -> Result<Option<Open>, Denied> {
        if admitted.alpn.as_deref() != Some(LINK_ALPN) {
            return Ok(None);
        }
        let (stream, supervision) = (&mut admitted.stream, &mut admitted.supervision);
        let reading = link::read_open(stream);
        let read = tokio::time::timeout(self.limits.handshake_timeout, reading).await;
        let late = |_elapsed| {
            Err(Denied::new(
                Denial::HandshakeTimeout,
                "the gateway named no client in time",
            ))
        };
        // it may have taken its time
        let named = read.unwrap_or_else(late);
        let opened = match named.and_then(|open| supervision.judged().map(|()| open)) {
            // a backend that can't be reached is told before a request is lost on it
            Ok(open) => self.pool.reach(&admitted.permit).await.map(|()| open),
            Err(denied) => Err(denied),
        };
        match opened {
            Ok(open) => {
                link::write_admitted(stream).await?;
                Ok(Some(open))
            }
            Err(denied) => {
                super::refuse(stream, denied.reason).await;
                Err(denied)
            }
        }
    }

    /// Waits for the first bytes, and tells the version of HTTP by them.
    async fn begins_http2(&self, admitted: &mut Admitted) -> Result<bool, Closed> {
        let draining = self.drain.draining();
        // the first request may be on its way
        let over = async {
            draining.cancelled().await;
            tokio::time::sleep(http::LAST_CALL).await;
        };
        let (stream, supervision) = (&mut admitted.stream, &mut admitted.supervision);
        let closed = tokio::select! {
            biased;
            first = stream.fill_buf() => match first {
                Ok([]) => Closed::default(),
                // nobody's method begins so
                Ok(bytes) => {
                    return Ok(bytes.len() > 3
                        && (bytes.starts_with(PREFACE) || PREFACE.starts_with(bytes)));
                }
                Err(error) => Closed::refused(Denied::new(Denial::PeerReset, error.to_string())),
            },
            // that it is outdated the first request hears
            why = supervision.ended() => Closed::refused(why),
            () = over => Closed::default(),
            // an unused connection of a pool
            () = tokio::time::sleep(self.limits.keepalive_timeout) => Closed::default(),
        };
        if closed.cause.is_none() {
            farewell(stream).await;
        }
        Err(closed)
    }

    fn connection(&self, admitted: Admitted, open: Option<Open>, http2: bool) -> Ready {
        let Admitted {
            id,
            stream,
            permit,
            peer,
            source,
            local,
            sni,
            mut supervision,
            ..
        } = admitted;
        let word = match &open {
            None => Word::Foreign,
            Some(open) if open.http => Word::Ours,
            Some(_) => Word::Clients,
        };
        if word != Word::Ours {
            supervision.stays();
        }
        let beginning = Beginning {
            // the gateway's name for it, in both logs
            id: open.as_ref().map_or(id, |open| open.connection),
            http2,
            peer,
            identity: permit.grant().identity.clone(),
            source,
            supervision: &supervision,
            listener: &self.listener,
            limits: &self.limits,
            metrics: &self.metrics,
            drain: &self.drain,
            client: Gateway {
                id: open.as_ref().map_or(id, |open| open.connection),
                permit,
                sni,
                local: local.ip(),
                word,
                client: open.and_then(|open| open.source.zip(open.destination)),
                certificate: OnceLock::new(),
            },
        };
        let (connection, io) = Connection::begin(stream, beginning);
        (connection, io, supervision)
    }
}
