//! tcp mode: a client's bytes go to a backend, one link connection for each client connection.

use std::{
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
};
use crate::{
    admit::{Denial, Denied, PeerFacts},
    config::{Limits, Route},
    identity::UnixSeconds,
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

impl Role for TcpGateway {
    fn serve(self: Arc<Self>, admitted: Admitted) -> BoxFuture<Closed> {
        // boxed: it is over once the way to the backend is open
        let admitted = Box::new(admitted);
        Box::pin(async move {
            let opened = Instant::now();
            // boxed: its state is gone while bytes are carried
            let (joined, record) = Box::pin(self.join(admitted)).await;
            let closed = match joined {
                Ok(ends) => self.carry(ends).await,
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
            let handed = self.hand_on(request, &mut record).await;
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
    async fn join(&self, admitted: Box<Admitted>) -> (Result<Box<Ends>, Denied>, Option<Resting>) {
        let mut record = admitted.record(&self.listener);
        let joined = self.ends(admitted, &mut record).await;
        (joined, self.access.then(|| record.rest()))
    }

    async fn ends(
        &self,
        mut admitted: Box<Admitted>,
        record: &mut Access,
    ) -> Result<Box<Ends>, Denied> {
        let carried = match self.open(&mut admitted, record).await {
            Ok(carried) => carried,
            Err(denied) => {
                // nothing was said by a backend: the client must not take it for an answer
                admitted.stream.io().abort();
                return Err(denied);
            }
        };
        record.connect = Some(carried.connect);
        record.acceptor = carried.lease.acceptor().to_owned();
        let Admitted {
            stream,
            mut supervision,
            ..
        } = *admitted;
        let Carried {
            upstream,
            lease,
            chain,
            until,
            facts,
            ahead,
            ..
        } = carried;
        if let Err(why) = watch(&mut supervision, &lease, chain, until) {
            stream.io().abort();
            upstream.abort();
            return Err(why);
        }
        Ok(Box::new(Ends {
            stream,
            upstream,
            supervision,
            facts,
            lease,
            ahead,
        }))
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
            let broken = upstream.broken();
            let ended = pin!(async {
                tokio::select! {
                    biased;
                    why = supervision.ended() => why,
                    why = broken => why,
                }
            });
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

    /// Opens the link that the routes choose.
    async fn open(&self, admitted: &mut Admitted, record: &mut Access) -> Result<Carried, Denied> {
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
        let rules = admitted.supervision.rules();
        let peer = admitted.peer.as_deref();
        let backend = self.route(&client, peer, record)?;
        let stream = &mut admitted.stream;
        let ahead = match backend.sends_ahead() {
            true => said(stream).await,
            false => None,
        };
        let carried = backend.carry(&client, &rules, ahead.as_ref()).await?;
        Pin::new(stream).consume(carried.ahead);
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
    async fn hand_on(&self, mut request: CancelRequest, record: &mut Access) -> Result<(), Denied> {
        let client = ClientFacts {
            connection_id: request.id,
            source: request.source,
            destination: request.local,
            sni: None,
            identity: None,
            http: false,
        };
        let supervision = &mut request.supervision;
        let rules = supervision.rules();
        let backend = self.route(&client, None, record)?;
        let carried = backend.carry(&client, &rules, None).await?;
        record.connect = Some(carried.connect);
        carried.lease.acceptor().clone_into(&mut record.acceptor);
        let Carried {
            mut upstream,
            lease,
            chain,
            until,
            ..
        } = carried;
        let judged = watch(supervision, &lease, chain, until);
        judged.inspect_err(|_| upstream.abort())?;
        let exchange = async {
            upstream.write_all(&request.message).await?;
            upstream.shutdown().await?;
            let mut rest = [0; 64];
            while upstream.read(&mut rest).await? > 0 {}
            Ok(())
        };
        let exchange = async {
            tokio::time::timeout(self.limits.handshake_timeout, exchange)
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
fn watch(
    supervision: &mut Supervision,
    lease: &Lease,
    chain: Arc<[CertificateDer<'static>]>,
    until: Option<UnixSeconds>,
) -> Result<(), Denied> {
    let (backend, acceptor) = (Arc::clone(lease.backend()), Arc::clone(lease.state()));
    supervision.watch_link(
        spread(until),
        Box::new(move |now| judge_link(now, &backend, &acceptor.name, &chain)),
    );
    supervision.judged()
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
