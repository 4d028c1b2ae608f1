//! tcp mode: a client's bytes go to a backend, one link connection for each client connection.

use std::{
    any::Any,
    collections::HashMap,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Instant,
};

use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncBufRead, AsyncReadExt, AsyncWriteExt};

use super::{
    BackendRuntime, ClientFacts,
    backend::{self, Lease},
    mux::Carried,
    reuse::{Facts, Upstream},
    routes,
    way::{Ahead, Rules},
};
use crate::{
    admit::{Denial, Denied, PeerFacts},
    config::{Limits, Route},
    net::{Octets, Progress, RelayOptions},
    serve::{
        Admitted, BoxFuture, CancelRequest, Closed, Role, ServerStream, Supervision, judge_link,
        link, spread,
    },
    telemetry::{Resting, access::Access},
    wire::mux::AHEAD,
};

/// What a gateway's listener in tcp mode does.
pub struct TcpGateway {
    /// The listener's name.
    pub listener: Arc<str>,
    /// Routes, in order.
    pub routes: Vec<Arc<Route>>,
    /// Backends by name.
    pub backends: Arc<HashMap<String, Arc<BackendRuntime>>>,
    /// Limits.
    pub limits: Limits,
    /// Access lines are written.
    pub access: bool,
}

/// A client's connection, and its way to the backend.
struct Ends {
    stream: ServerStream,
    upstream: Upstream,
    supervision: Supervision,
    facts: Option<Box<Facts>>,
    lease: Lease,
    /// How much of what the client said has gone already.
    ahead: usize,
}

/// For whom a way to a backend is looked for.
struct Wanted<'a> {
    client: &'a ClientFacts,
    peer: Option<&'a PeerFacts>,
    /// What may go ahead is in it.
    stream: Option<&'a mut ServerStream>,
}

impl Role for TcpGateway {
    fn serve(self: Arc<Self>, admitted: Admitted) -> BoxFuture<Closed> {
        // boxed: it is over once the way to the backend is open
        let admitted = Box::new(admitted);
        Box::pin(async move {
            let opened = Instant::now();
            // boxed: its state is gone while bytes are carried
            let (joined, record) = Box::pin(self.join(admitted)).await;
            let closed = match joined {
                Ok((role, ends)) => role.carry(ends).await,
                Err(denied) => Closed::refused(denied),
            };
            closed.tell(record, opened);
            closed
        })
    }

    fn judge_link(
        &self,
        backend: &str,
        acceptor: &str,
        chain: &[CertificateDer<'static>],
    ) -> Result<(), Denied> {
        backend::judge_link(self.backends.get(backend), acceptor, chain)
    }

    fn cancel(self: Arc<Self>, request: CancelRequest) -> BoxFuture<Closed> {
        Box::pin(async move {
            let began = Instant::now();
            let mut record = Access {
                listener: self.listener.to_string(),
                connection: request.id.to_string(),
                source: Some(request.source),
                local: Some(request.local),
                rule: request.permit.grant().rule.clone(),
                decision: "admitted",
                detail: "a cancel request without TLS".to_owned(),
                ..Access::default()
            };
            let sent = request.message.len();
            let handed = Arc::clone(&self).hand_on(request, &mut record).await;
            record.total = began.elapsed();
            if let Err(denied) = &handed {
                record.decision = "refused";
                record.reason = Some(denied.reason);
                record.detail.clone_from(&denied.detail);
            }
            let sent = if handed.is_ok() {
                u64::try_from(sent).unwrap_or(0)
            } else {
                0
            };
            record.bytes_in = sent;
            if self.access {
                record.emit();
            }
            Closed {
                cause: handed.err(),
                bytes_in: sent,
                bytes_out: 0,
            }
        })
    }
}

impl TcpGateway {
    /// Opens the way to the backend, and keeps what carrying bytes takes, and no more; of the
    /// record nothing, where nobody reads it.
    async fn join(
        self: Arc<Self>,
        admitted: Box<Admitted>,
    ) -> (Result<(Arc<Self>, Box<Ends>), Denied>, Option<Resting>) {
        let mut record = admitted.record(&self.listener);
        let access = self.access;
        let joined = self.ends(admitted, &mut record).await;
        (joined, access.then(|| record.rest()))
    }

    async fn ends(
        self: Arc<Self>,
        admitted: Box<Admitted>,
        record: &mut Access,
    ) -> Result<(Arc<Self>, Box<Ends>), Denied> {
        let client = ClientFacts {
            connection_id: admitted.id,
            source: admitted.source,
            destination: admitted.local,
            sni: admitted.sni.clone(),
            identity: admitted
                .peer
                .as_ref()
                .map(|_| admitted.permit.grant().identity.clone()),
            http: false,
        };
        let Admitted {
            mut stream,
            mut supervision,
            peer,
            ..
        } = *admitted;
        let wanted = Wanted {
            client: &client,
            peer: peer.as_deref(),
            stream: Some(&mut stream),
        };
        match self.way(wanted, &mut supervision, record).await {
            Ok((role, carried)) => {
                let ends = Ends {
                    stream,
                    upstream: carried.upstream,
                    supervision,
                    facts: carried.facts,
                    lease: carried.lease,
                    ahead: carried.ahead,
                };
                Ok((role, Box::new(ends)))
            }
            Err(denied) => {
                // nothing was said by a backend: the client must not take it for an answer
                stream.io().abort();
                Err(denied)
            }
        }
    }

    /// Opens the way to the backend. Where other rules came meanwhile, and nothing of the client
    /// has gone to a backend, a way that came to nothing is looked for once more by theirs.
    async fn way(
        self: Arc<Self>,
        mut wanted: Wanted<'_>,
        supervision: &mut Supervision,
        record: &mut Access,
    ) -> Result<(Arc<Self>, Carried), Denied> {
        let mut role = self;
        loop {
            let mut spent = false;
            let opened = role.open(&mut wanted, supervision, &mut spent, record);
            let denied = match Box::pin(opened).await {
                Ok(carried) => return Ok((role, carried)),
                Err(denied) => denied,
            };
            if spent {
                return Err(denied);
            }
            // a client that these do not admit has no second way
            supervision.judged()?;
            let now = in_force(&supervision.rules());
            match now.filter(|now| !Arc::ptr_eq(now, &role)) {
                Some(now) => {
                    tracing::debug!(%denied, "looked for by the rules that came meanwhile");
                    (record.connect, record.acceptor) = (None, String::new());
                    role = now;
                }
                None => return Err(denied),
            }
        }
    }

    async fn carry(&self, mut ends: Box<Ends>) -> Closed {
        let options = RelayOptions {
            idle_timeout: self.limits.idle_timeout,
            write_timeout: self.limits.write_timeout,
            progress: Progress::begun(ends.ahead),
        };
        let Ends {
            stream,
            upstream,
            supervision,
            ..
        } = &mut *ends;
        let end = {
            let ended = pin!(supervision.ended());
            link::carry(stream, upstream, &options, ended).await
        };
        let Ends {
            stream,
            upstream,
            facts,
            lease,
            ..
        } = *ends;
        if end.cause.is_some() {
            stream.io().abort();
            upstream.abort();
        } else if let Some((stream, facts)) = upstream.free().zip(facts)
            && let Some(backend) = self.backends.get(&**lease.backend())
        {
            backend.kept.put(stream, *facts, &backend.config.pool);
        }
        drop(lease);
        end
    }

    /// Opens the link that the routes choose, and has it watched; `spent`: what the client has said
    /// may be at a backend, whatever came of it.
    async fn open(
        &self,
        wanted: &mut Wanted<'_>,
        supervision: &mut Supervision,
        spent: &mut bool,
        record: &mut Access,
    ) -> Result<Carried, Denied> {
        let backend = self.route(wanted.client, wanted.peer, record)?;
        let mut ahead = Ahead::of(match &mut wanted.stream {
            Some(stream) if backend.sends_ahead() => said(stream).await,
            Some(_) | None => None,
        });
        let rules = supervision.rules();
        let carried = backend.carry(wanted.client, &rules, &mut ahead).await;
        *spent = ahead.spent;
        let carried = carried?;
        record.connect = Some(carried.connect);
        record.acceptor = carried.lease.acceptor().to_owned();
        if let Some(stream) = &mut wanted.stream {
            Pin::new(&mut **stream).consume(carried.ahead);
        }
        if let Err(why) = watch(supervision, &carried) {
            carried.upstream.abort();
            *spent = carried.ahead > 0;
            return Err(why);
        }
        Ok(carried)
    }

    /// The backend that the routes choose.
    fn route(
        &self,
        client: &ClientFacts,
        peer: Option<&PeerFacts>,
        record: &mut Access,
    ) -> Result<&Arc<BackendRuntime>, Denied> {
        let sni = client.sni.as_deref();
        let route = routes::match_tcp(&self.routes, &self.listener, sni).ok_or_else(|| {
            Denied::new(Denial::NoRoute, format!("SNI {}", sni.unwrap_or("absent")))
        })?;
        record.route.clone_from(&route.label);
        routes::check_clients(route, peer)?;
        record.backend.clone_from(&route.backend);
        self.backends.get(&route.backend).ok_or_else(|| {
            Denied::new(
                Denial::NoRoute,
                format!("backend {} is not loaded", route.backend),
            )
        })
    }

    /// Sends a cancel request to the backend and waits for its end, which is its only answer.
    async fn hand_on(
        self: Arc<Self>,
        mut request: CancelRequest,
        record: &mut Access,
    ) -> Result<(), Denied> {
        let client = ClientFacts {
            connection_id: request.id,
            source: request.source,
            destination: request.local,
            sni: None,
            identity: None,
            http: false,
        };
        let wanted = Wanted {
            client: &client,
            peer: None,
            stream: None,
        };
        let supervision = &mut request.supervision;
        let (role, carried) = self.way(wanted, supervision, record).await?;
        let Carried {
            mut upstream,
            lease: _lease,
            ..
        } = carried;
        let exchange = async {
            upstream.write_all(&request.message).await?;
            upstream.shutdown().await?;
            let mut rest = [0; 64];
            while upstream.read(&mut rest).await? > 0 {}
            Ok(())
        };
        let exchange = async {
            tokio::time::timeout(role.limits.handshake_timeout, exchange)
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                .map_err(|error: io::Error| Denied::new(Denial::UpstreamBroken, error.to_string()))
        };
        let why = tokio::select! {
            biased;
            why = supervision.ended() => why,
            handed = exchange => return handed,
        };
        upstream.abort();
        Err(why)
    }
}

/// What a client has said already, as far as it may go ahead of its admission; it stays in the
/// stream. One that has broken off has said nothing: whoever carries it tells of that.
async fn said(stream: &mut ServerStream) -> Option<Octets> {
    poll_fn(|cx| {
        Poll::Ready(match Pin::new(&mut *stream).poll_fill_buf(cx) {
            Poll::Ready(Ok(bytes)) if !bytes.is_empty() => {
                Some(Octets::of(bytes.get(..AHEAD).unwrap_or(bytes)))
            }
            Poll::Ready(Ok(_) | Err(_)) | Poll::Pending => None,
        })
    })
    .await
}

/// Has a connection's link watched with it, once what is in force has judged it: it may have been
/// dialled by rules of before.
fn watch(supervision: &mut Supervision, carried: &Carried) -> Result<(), Denied> {
    let lease = &carried.lease;
    let (backend, acceptor) = (Arc::clone(lease.backend()), Arc::clone(lease.state()));
    let chain = Arc::clone(&carried.chain);
    supervision.watch_link(
        spread(carried.until),
        Box::new(move |now| judge_link(now, &backend, &acceptor.name, &chain)),
    )
}

/// What the connection's listener does now; `None`: its mode is another one.
fn in_force(rules: &Rules) -> Option<Arc<TcpGateway>> {
    let role: Arc<dyn Any + Send + Sync> = rules.borrow().role.clone();
    role.downcast().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{net::Socket, tls::records::RecordStream};

    fn size<A, B, F: Future>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// Counted by type. Beside it stands what tokio keeps for a task and two sockets; the chains
    /// are shared, and no record is kept where none is written.
    #[test]
    fn a_connection_at_rest_keeps_little() {
        let stream = size_of::<RecordStream<Socket>>();
        let kept = [
            ("future", size(TcpGateway::carry)),
            ("ends", size_of::<Ends>()),
            ("client", stream),
            ("link", stream),
            ("timer", size_of::<tokio::time::Sleep>()),
            ("reused", size_of::<Facts>()),
        ];
        let sum: usize = kept.iter().map(|(_, size)| size).sum();

        assert!(sum <= 2_310, "{sum}: {kept:?}");
    }
}
