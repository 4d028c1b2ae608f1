//! Kept link connections of one backend: last in, first out, none older than its limits, none
//! that outlives its certificate.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Instant,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::TokioIo;
use rustls_pki_types::CertificateDer;

use super::{Connection, Executor, body::RequestBody};
use crate::{
    admit::{Denial, Denied},
    clock,
    config::BackendProtocol,
    drain::Drain,
    gateway::{BackendRuntime, backend::Lease},
    identity::UnixSeconds,
    serve::LinkSupervision,
};

/// The pool of one backend.
pub(super) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    backend: Arc<BackendRuntime>,
    idle: Mutex<VecDeque<Kept>>,
    drain: Drain,
}

struct Kept {
    link: LinkSender,
    since: Instant,
}

/// One link connection that can take a request.
struct LinkSender {
    kind: Kind,
    opened: Instant,
    until: Option<UnixSeconds>,
    chain: Arc<[CertificateDer<'static>]>,
    lease: Lease,
}

enum Kind {
    Http1(http1::SendRequest<RequestBody>),
    Http2(http2::SendRequest<RequestBody>),
}

/// A link connection taken for one request.
pub(super) struct Sender {
    link: LinkSender,
    home: Weak<Shared>,
    /// It carried a request before.
    pub(super) reused: bool,
}

/// A request that did not get an answer.
pub(super) struct SendFailed {
    pub(super) error: hyper::Error,
    /// The request, when not a byte of it was sent.
    pub(super) unsent: Option<Box<Request<RequestBody>>>,
}

impl Pool {
    pub(super) fn new(backend: Arc<BackendRuntime>, drain: Drain) -> Self {
        Self {
            shared: Arc::new(Shared {
                backend,
                idle: Mutex::default(),
                drain,
            }),
        }
    }

    /// A kept connection, or a new one.
    pub(super) async fn take(&self, connection: &Connection) -> Result<Sender, Denied> {
        while let Some(mut link) = self.shared.pop() {
            if link.ready().await {
                return Ok(self.sender(link, true));
            }
        }
        // boxed: requests on kept connections need not have room for a handshake
        Box::pin(self.open(connection)).await
    }

    /// A new connection.
    pub(super) async fn open(&self, connection: &Connection) -> Result<Sender, Denied> {
        let shared = &self.shared;
        let link = shared.backend.connect(&connection.client).await?;
        let mut over = supervision(&link.lease, &link.chain, link.until, connection);
        let io = TokioIo::new(link.stream);
        let broken = |error: hyper::Error| Denied::new(Denial::UpstreamBroken, error.to_string());
        let force = shared.drain.forced();
        let kind = match shared.backend.config.protocol {
            BackendProtocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await.map_err(broken)?;
                shared.drain.spawn(async move {
                    tokio::select! {
                        biased;
                        () = force.cancelled() => {}
                        why = over.ended() => told(&over, &why),
                        _ = connection.with_upgrades() => {}
                    }
                });
                Kind::Http1(sender)
            }
            BackendProtocol::Http2 => {
                let executor = Executor(shared.drain.clone());
                let (sender, connection) = http2::handshake(executor, io).await.map_err(broken)?;
                shared.drain.spawn(async move {
                    tokio::select! {
                        biased;
                        () = force.cancelled() => {}
                        why = over.ended() => told(&over, &why),
                        _ = connection => {}
                    }
                });
                Kind::Http2(sender)
            }
        };
        let link = LinkSender {
            kind,
            opened: Instant::now(),
            until: link.until,
            chain: link.chain,
            lease: link.lease,
        };
        Ok(self.sender(link, false))
    }

    fn sender(&self, link: LinkSender, reused: bool) -> Sender {
        Sender {
            link,
            home: Arc::downgrade(&self.shared),
            reused,
        }
    }
}

fn supervision(
    lease: &Lease,
    chain: &Arc<[CertificateDer<'static>]>,
    until: Option<UnixSeconds>,
    connection: &Connection,
) -> LinkSupervision {
    LinkSupervision {
        backend: Arc::clone(lease.backend()),
        acceptor: lease.acceptor().to_owned(),
        chain: Arc::clone(chain),
        until,
        rules: connection.rules.clone(),
    }
}

/// The answers under way on it break; they are told apart by their own access lines.
fn told(link: &LinkSupervision, why: &Denied) {
    tracing::warn!(
        backend = %link.backend,
        acceptor = %link.acceptor,
        reason = why.reason.code(),
        detail = %why.detail,
        "link connection ended"
    );
}

impl Shared {
    fn pop(&self) -> Option<LinkSender> {
        let pool = &self.backend.config.pool;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // the oldest wait in front: what was idle for too long is closed
        while idle
            .front()
            .is_some_and(|kept| kept.since.elapsed() > pool.idle_timeout)
        {
            idle.pop_front();
        }
        while let Some(kept) = idle.pop_back() {
            if self.fits(&kept.link) {
                return Some(kept.link);
            }
        }
        None
    }

    fn fits(&self, link: &LinkSender) -> bool {
        let over = link.until.is_some_and(|until| clock::now() > until);
        !over && link.opened.elapsed() < self.backend.config.pool.max_age
    }

    fn put(&self, link: LinkSender) {
        let room = self.backend.config.pool.idle;
        if self.drain.draining().is_cancelled() || !self.fits(&link) || room == 0 {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() >= room {
            idle.pop_front();
        }
        idle.push_back(Kept {
            link,
            since: Instant::now(),
        });
    }
}

impl LinkSender {
    async fn ready(&mut self) -> bool {
        match &mut self.kind {
            Kind::Http1(sender) => sender.ready().await.is_ok(),
            Kind::Http2(sender) => sender.ready().await.is_ok(),
        }
    }
}

impl Sender {
    /// The acceptor's name.
    pub(super) fn acceptor(&self) -> &str {
        self.link.lease.acceptor()
    }

    /// Watches over the link when its bytes are no longer hyper's.
    pub(super) fn supervision(&self, connection: &Connection) -> LinkSupervision {
        let link = &self.link;
        supervision(&link.lease, &link.chain, link.until, connection)
    }

    /// Sends a request.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, SendFailed> {
        let failed =
            |mut error: hyper::client::conn::TrySendError<Request<RequestBody>>| SendFailed {
                unsent: error.take_message().map(Box::new),
                error: error.into_error(),
            };
        match &mut self.link.kind {
            Kind::Http1(sender) => sender.try_send_request(request).await.map_err(failed),
            Kind::Http2(sender) => sender.try_send_request(request).await.map_err(failed),
        }
    }

    /// Gives the connection back for the next request.
    pub(super) fn keep(self) {
        if let Some(home) = self.home.upgrade() {
            home.put(self.link);
        }
    }
}
