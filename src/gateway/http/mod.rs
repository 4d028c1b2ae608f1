//! http mode: HTTP/1.1 and HTTP/2 in, requests routed one by one over kept link connections.
//! What is forwarded is written anew from the parsed message.

mod carried;
mod links;
mod pool;
mod proven;
mod request;
mod rewrite;
mod standing;

use std::{
    any::Any,
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use hyper::{Request, service::service_fn};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use self::pool::{Opening, Pool};
use super::{BackendRuntime, ClientFacts, backend, routes};
use crate::{
    admit::{Denied, SourceRanges},
    config::{GatewayListener, Limits, PathNormalisation, Route, UnderscoreHeaders},
    drain::Drain,
    serve::{
        Admitted, BoxFuture, Closed, Role, Snapshot, Supervision,
        http::{self, Beginning, Client, client_body::ClientBody, host::AskedHost, io::ClientIo},
    },
    telemetry::metrics::ListenerMetrics,
    tls::ShownNames,
    wire::{
        ConnectionId,
        host::{Host, HostError},
    },
};

/// What a gateway's listener in http mode does.
pub struct HttpGateway {
    listener: Arc<str>,
    limits: Arc<Limits>,
    trusted_proxies: SourceRanges,
    routes: Vec<Arc<Route>>,
    /// A tree: names are few, and to compare them costs less than a keyed hash of one.
    backends: BTreeMap<String, (Arc<BackendRuntime>, Pool)>,
    metrics: Arc<ListenerMetrics>,
    drain: Drain,
    access: bool,
    paths: PathNormalisation,
    underscores: UnderscoreHeaders,
    /// The hosts that its certificates are for.
    shown: ShownNames,
    /// Tells it from those before and after a reload.
    serial: u64,
}

/// A client's connection.
type Connection = http::Connection<ClientFacts>;

impl Client for ClientFacts {
    fn id(&self) -> ConnectionId {
        self.connection_id
    }

    fn sni(&self) -> Option<&str> {
        self.sni.as_deref()
    }

    fn local(&self) -> IpAddr {
        self.destination.ip()
    }
}

impl HttpGateway {
    /// A listener's http mode.
    #[must_use]
    pub fn new(
        (listener, shown): (&GatewayListener, ShownNames),
        trusted_proxies: SourceRanges,
        routes: Vec<Arc<Route>>,
        backends: &HashMap<String, Arc<BackendRuntime>>,
        metrics: Arc<ListenerMetrics>,
        drain: Drain,
        access: bool,
    ) -> Self {
        let with_pool = |(name, runtime): (&String, &Arc<BackendRuntime>)| {
            (
                name.clone(),
                (
                    Arc::clone(runtime),
                    Pool::new(
                        Arc::clone(runtime),
                        listener.limits.write_timeout,
                        drain.clone(),
                    ),
                ),
            )
        };
        Self {
            listener: Arc::clone(&listener.name),
            limits: Arc::new(listener.limits.clone()),
            trusted_proxies,
            routes,
            backends: backends.iter().map(with_pool).collect(),
            metrics,
            drain,
            access,
            paths: listener.path_normalisation,
            underscores: listener.underscore_headers,
            shown,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl HttpGateway {
    /// The own pool for requests that were made for another's: to the same backend, with the same
    /// credentials in them.
    fn pool_in_place_of(&self, other: &Pool) -> Option<&Pool> {
        let before = &other.backend().config;
        let (runtime, pool) = self.backends.get(&before.name)?;
        let now = &runtime.config;
        let same = now.protocol == before.protocol && now.credentials == before.credentials;
        same.then_some(pool)
    }
}

/// How many http modes there have been.
static SERIAL: AtomicU64 = AtomicU64::new(0);

impl Connection {
    /// The host that a request names, judged by this gateway.
    fn asked_host_at(
        &self,
        gateway: &HttpGateway,
        request: &Request<ClientBody>,
    ) -> Result<Arc<AskedHost>, HostError> {
        self.asked_host(request, gateway.serial, |host| {
            self.is_misdirected(gateway, host)
        })
    }

    /// Whether a request for this host came the wrong way (RFC 9110 section 7.4): it is not what
    /// the caller dialled, the certificate that it was shown is not for it, and no route names it.
    /// Rules of one site are not to be passed in a connection to another.
    fn is_misdirected(&self, gateway: &HttpGateway, host: &Host) -> bool {
        let sni = self.client.sni.as_deref();
        let dialled = match host {
            Host::Name(name) => sni.is_some_and(|sni| sni.eq_ignore_ascii_case(name)),
            Host::Address(ip) => self.client.destination.ip() == *ip,
        };
        let named = || match host {
            Host::Name(name) => routes::names_host(&gateway.routes, &gateway.listener, name),
            Host::Address(_) => false,
        };
        // a proxy of ours may carry requests for all of its sites in one connection
        let vouched = || gateway.trusted_proxies.contains(self.source.ip());
        !(dialled || gateway.shown.cover(sni, host) || named() || vouched())
    }

    /// For links that this connection's requests need.
    fn opening(&self) -> Opening<'_> {
        Opening {
            client: &self.client,
            rules: &self.rules,
        }
    }

    /// The http mode in force at this connection's listener.
    fn gateway(&self) -> Option<Arc<HttpGateway>> {
        let role: Arc<dyn Any + Send + Sync> = self.rules.borrow().role.clone();
        role.downcast().ok()
    }
}

impl Role for HttpGateway {
    fn begin(&self, rules: watch::Receiver<Arc<Snapshot>>) {
        let served = |name: &str| {
            self.routes.iter().any(|route| {
                let here = route
                    .listener
                    .as_deref()
                    .is_none_or(|l| l == &*self.listener);
                here && route.backend == name
            })
        };
        for (name, (_, pool)) in &self.backends {
            if served(name) {
                pool.keep_ready(rules.clone());
            }
        }
    }

    fn judge_link(
        &self,
        backend: &str,
        acceptor: &str,
        chain: &[CertificateDer<'static>],
    ) -> Result<(), Denied> {
        let runtime = self.backends.get(backend).map(|(runtime, _)| runtime);
        backend::judge_link(runtime, acceptor, chain)
    }

    fn serve(self: Arc<Self>, admitted: Admitted) -> BoxFuture<Closed> {
        // prepared outside the future, which then holds only what lives as long as the connection
        let (connection, io, supervision) = self.connection(admitted);
        // from here on nothing holds this role: after a reload it goes, and its kept links with it
        drop(self);
        let shared = Arc::clone(&connection);
        let service = service_fn(move |request: Request<ClientBody>| {
            // boxed: a connection keeps room for the future of a request between requests
            let answer = Box::pin(request::answer(Arc::clone(&shared), request));
            async move { Ok::<_, Infallible>(answer.await) }
        });
        connection.carry(io, service, supervision)
    }
}

impl HttpGateway {
    /// What the connection's requests share, its stream, and what watches over it.
    fn connection(&self, admitted: Admitted) -> (Arc<Connection>, Box<ClientIo>, Supervision) {
        let Admitted {
            id,
            stream,
            permit,
            peer,
            source,
            local,
            alpn,
            sni,
            supervision,
            ..
        } = admitted;
        let identity = permit.grant().identity.clone();
        let client = ClientFacts {
            connection_id: id,
            source,
            destination: local,
            sni,
            identity: peer.as_ref().map(|_| identity.clone()),
            http: true,
        };
        let beginning = Beginning {
            id,
            http2: alpn.as_deref() == Some(b"h2"),
            client,
            peer,
            identity,
            source,
            supervision: &supervision,
            listener: &self.listener,
            limits: &self.limits,
            metrics: &self.metrics,
            drain: &self.drain,
        };
        let (connection, io) = Connection::begin(stream, beginning);
        (connection, io, supervision)
    }
}
