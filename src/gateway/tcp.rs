//! tcp mode: a client's bytes go to a backend, one link connection for each client connection.

use std::{collections::HashMap, sync::Arc, time::Instant};

use super::{BackendRuntime, ClientFacts, Link, routes};
use crate::{
    admit::{Denial, Denied},
    config::{Limits, Route},
    net::RelayOptions,
    serve::{Admitted, BoxFuture, Closed, Role, link},
    telemetry::access::Access,
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

impl Role for TcpGateway {
    fn serve(self: Arc<Self>, admitted: Admitted) -> BoxFuture<Closed> {
        Box::pin(async move {
            let opened = Instant::now();
            let mut record = self.record(&admitted);
            let closed = self.carry(admitted, &mut record).await;
            if self.access {
                record.total += opened.elapsed();
                record.bytes_in = closed.bytes_in;
                record.bytes_out = closed.bytes_out;
                if let Some(denied) = &closed.cause {
                    record.reason = Some(denied.reason);
                    record.detail.clone_from(&denied.detail);
                    record.decision = if record.connect.is_some() {
                        "ended"
                    } else {
                        "refused"
                    };
                }
                record.emit();
            }
            closed
        })
    }
}

impl TcpGateway {
    fn record(&self, admitted: &Admitted) -> Access {
        Access {
            listener: self.listener.to_string(),
            connection: admitted.id.to_string(),
            source: Some(admitted.source),
            local: Some(admitted.local),
            identity: admitted.permit.grant().identity.clone(),
            rule: admitted.permit.grant().rule.clone(),
            sni: admitted.sni.clone().unwrap_or_default(),
            tls: admitted.session.to_string(),
            handshake: Some(admitted.handshake),
            total: admitted.handshake,
            decision: "admitted",
            ..Access::default()
        }
    }

    async fn carry(&self, admitted: Admitted, record: &mut Access) -> Closed {
        let link = match Box::pin(self.open(&admitted, record)).await {
            Ok(link) => link,
            Err(denied) => {
                // nothing was said by a backend: the client must not take it for an answer
                admitted.stream.get_ref().0.get_ref().abort();
                return Closed::refused(denied);
            }
        };
        record.connect = Some(link.connect);
        record.acceptor = link.lease.acceptor().to_owned();
        let options = RelayOptions {
            idle_timeout: self.limits.idle_timeout,
            write_timeout: self.limits.write_timeout,
            ..RelayOptions::default()
        };
        let Admitted {
            mut stream,
            mut supervision,
            ..
        } = admitted;
        let Link {
            stream: mut upstream,
            lease,
            ..
        } = link;
        let end = link::carry(&mut stream, &mut upstream, options, &mut supervision).await;
        if end.cause.is_some() {
            stream.get_ref().0.get_ref().abort();
            upstream.get_ref().0.get_ref().abort();
        }
        drop(lease);
        end
    }

    async fn open(&self, admitted: &Admitted, record: &mut Access) -> Result<Link, Denied> {
        let sni = admitted.sni.as_deref();
        let route = routes::match_tcp(&self.routes, &self.listener, sni).ok_or_else(|| {
            Denied::new(Denial::NoRoute, format!("SNI {}", sni.unwrap_or("absent")))
        })?;
        record.route.clone_from(&route.label);
        routes::check_clients(route, admitted.peer.as_deref())?;
        record.backend.clone_from(&route.backend);
        let backend = self.backends.get(&route.backend).ok_or_else(|| {
            Denied::new(
                Denial::NoRoute,
                format!("backend {} is not loaded", route.backend),
            )
        })?;
        let client = ClientFacts {
            connection_id: admitted.id,
            source: admitted.source,
            destination: admitted.local,
            sni: admitted.sni.clone(),
            identity: admitted
                .peer
                .as_ref()
                .map(|_| admitted.permit.grant().identity.clone()),
        };
        backend.connect(&client).await
    }
}
