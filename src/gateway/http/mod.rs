//! http mode: HTTP/1.1 and HTTP/2 in, requests routed one by one over kept link connections.
//! What is forwarded is written anew from the parsed message. The strict framing guard will stand
//! between the TLS stream and hyper, in `io`.

mod activity;
mod body;
mod errors;
mod expect;
mod io;
mod pool;
mod request;
mod rewrite;
mod send;
mod upgrade;

use std::{
    any::Any,
    collections::HashMap,
    convert::Infallible,
    future::Future,
    hash::{BuildHasher as _, RandomState},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use http::{HeaderValue, Version, header, uri};
use hyper::{
    Request, Response,
    body::Incoming,
    server::conn::{http1, http2},
    service::{Service, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    activity::{Activity, Watch, Wish},
    body::ResponseBody,
    io::ClientIo,
    pool::{Opening, Pool},
};
use super::{BackendRuntime, ClientFacts, backend, routes};
use crate::{
    admit::{Denial, Denied, PeerFacts, SourceRanges},
    config::{GatewayListener, Limits, PathNormalisation, Route, UnderscoreHeaders},
    drain::Drain,
    identity::CertFacts,
    serve::{Admitted, Aside, BoxFuture, Closed, Role, Snapshot, Supervision},
    telemetry::{access::Access, metrics::ListenerMetrics},
    tls::ShownNames,
    wire::{
        forwarded::{Hop, Scheme, Stamp},
        host::{self, Authority, Host, HostError},
        trace,
    },
};

/// Runs a connection beside its deadlines. A macro, since hyper's two kinds of connections have
/// the same methods and no common trait.
macro_rules! drive {
    ($connection:expr, $watch:expr, $supervision:expr, $draining:expr) => {{
        let mut connection = $connection;
        let mut graceful = false;
        loop {
            let turn = {
                let turned = pin!(turn(&mut $watch, $supervision, &$draining, graceful));
                tokio::select! {
                    biased;
                    done = connection.as_mut() => {
                        break done.err().map(|error| io::denied_by(&error));
                    }
                    turn = Aside::new(turned) => turn,
                }
            };
            match turn {
                Turn::Finish if graceful => {}
                // an idle connection is told to go; what is under way is finished
                Turn::Finish => {
                    graceful = true;
                    connection.as_mut().graceful_shutdown();
                }
                Turn::Cut(why) => {
                    $watch.ended(&why);
                    break Some(why);
                }
            }
        }
    }};
}

/// What a connection is told from outside.
enum Turn {
    Finish,
    Cut(Denied),
}

/// Waits for whatever speaks first.
async fn turn(
    watch: &mut Watch,
    supervision: &mut Supervision,
    draining: &CancellationToken,
    graceful: bool,
) -> Turn {
    tokio::select! {
        biased;
        why = supervision.ended() => Turn::Cut(why),
        wish = watch.next() => match wish {
            Wish::GoAway => Turn::Finish,
            Wish::Cut(why) => Turn::Cut(why),
        },
        () = draining.cancelled(), if !graceful => Turn::Finish,
    }
}

/// What a gateway's listener in http mode does.
pub struct HttpGateway {
    listener: Arc<str>,
    limits: Limits,
    trusted_proxies: SourceRanges,
    routes: Vec<Arc<Route>>,
    backends: HashMap<String, (Arc<BackendRuntime>, Pool)>,
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

type Answer = Response<ResponseBody>;

/// What all requests of a connection share.
struct Connection {
    /// What is in force at the listener: each request is answered by the rules of its moment.
    rules: watch::Receiver<Arc<Snapshot>>,
    /// What the connection began with, for its own life.
    limits: Limits,
    listener: Arc<str>,
    metrics: Arc<ListenerMetrics>,
    drain: Drain,
    client: ClientFacts,
    /// The connection's id as text, for every request.
    name: String,
    /// The host that was asked for last.
    host: Mutex<Option<Arc<AskedHost>>>,
    /// Requests so far.
    requests: AtomicU64,
    /// Of those, the ones that began a trace.
    traced: AtomicU64,
    peer: Option<Arc<PeerFacts>>,
    /// The caller's certificates, leaf first; empty without.
    chain: Arc<[CertificateDer<'static>]>,
    identity: String,
    source: SocketAddr,
    activity: Arc<Activity>,
    /// Upgraded connections outlive hyper's; they end with this one all the same.
    upgrades: TaskTracker,
    /// Cancelled when the rules no longer admit the peer.
    cut: CancellationToken,
}

/// Tasks of HTTP/2 streams belong to the drain.
#[derive(Clone)]
struct Executor(Drain);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, future: F) {
        self.0.spawn(future);
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
                    Pool::new(Arc::clone(runtime), drain.clone()),
                ),
            )
        };
        Self {
            listener: Arc::clone(&listener.name),
            limits: listener.limits.clone(),
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

/// The process's secret for ids.
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
/// How many http modes there have been.
static SERIAL: AtomicU64 = AtomicU64::new(0);

/// A host that was asked for.
struct AskedHost {
    /// The one Host line that says it; `None`: other parts of the request have a say.
    line: Option<HeaderValue>,
    /// `None`: HTTP/1.0 may name none.
    authority: Option<Authority>,
    /// In one spelling; empty where there is none.
    text: String,
    stamp: Stamp,
    /// By whose rules the next is answered.
    judged_by: u64,
    /// Neither the certificate shown here nor a route is for it.
    misdirected: bool,
}

impl AskedHost {
    /// The name, where it is one.
    fn name(&self) -> Option<&str> {
        match &self.authority.as_ref()?.host {
            Host::Name(name) => Some(name),
            Host::Address(_) => None,
        }
    }
}

/// A caller's verified certificate.
struct Caller<'a> {
    peer: &'a PeerFacts,
    leaf: &'a [u8],
    rest: &'a [CertificateDer<'static>],
}

impl<'a> Caller<'a> {
    /// What it sent behind its leaf, without a root (RFC 9440 section 2.3).
    fn issuers(&self) -> impl Iterator<Item = &'a [u8]> {
        let is_root = |der: &&CertificateDer<'_>| {
            CertFacts::read(der).is_ok_and(|facts| facts.subject == facts.issuer)
        };
        self.rest
            .iter()
            .filter(move |der| !is_root(der))
            .map(|der| der.as_ref())
    }
}

impl Connection {
    /// The caller, where it showed a certificate that was verified.
    fn caller(&self) -> Option<Caller<'_>> {
        let (leaf, rest) = self.chain.split_first()?;
        Some(Caller {
            peer: self.peer.as_deref()?,
            leaf,
            rest,
        })
    }

    /// The host that a request names, judged, with the headers that follow from it.
    fn asked_host(
        &self,
        gateway: &HttpGateway,
        request: &Request<Incoming>,
    ) -> Result<Arc<AskedHost>, HostError> {
        let mut lines = request.headers().get_all(header::HOST).iter();
        // one line in origin form says all of it, and is mostly the same as the last one
        let line = lines.next().filter(|_| {
            lines.next().is_none()
                && request.version() == Version::HTTP_11
                && request.uri().authority().is_none()
        });
        let mut kept = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = &*kept
            && line.is_some()
            && same.line.as_ref() == line
            && same.judged_by == gateway.serial
        {
            return Ok(Arc::clone(same));
        }
        let authority = host::effective_host(
            request.version(),
            request.uri(),
            request.headers(),
            &uri::Scheme::HTTPS,
        )?;
        let text = authority.as_ref().map(ToString::to_string);
        let text = text.unwrap_or_default();
        let stamp = Stamp::new(&Hop {
            client: self.source.ip(),
            by: Some(self.client.destination.ip()).filter(|ip| !ip.is_unspecified()),
            scheme: Scheme::Https,
            host: &text,
        });
        let asked = Arc::new(AskedHost {
            line: line.cloned(),
            judged_by: gateway.serial,
            misdirected: authority
                .as_ref()
                .is_some_and(|authority| self.is_misdirected(gateway, &authority.host)),
            authority,
            text,
            stamp,
        });
        *kept = Some(Arc::clone(&asked));
        Ok(asked)
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

    /// Ids of a new trace: the connection's random id, and a keyed hash of it and a count. One
    /// hash and no system call for each request.
    fn trace_ids(&self) -> trace::Ids {
        let traced = self.traced.fetch_add(1, Ordering::Relaxed);
        let id = u128::from_be_bytes(self.client.connection_id.0);
        let hash = KEY.hash_one((id, traced));
        let high = u64::try_from(id >> 64).unwrap_or(0);
        [high, hash, hash.rotate_left(32) ^ high]
    }

    /// The http mode in force at this connection's listener.
    fn gateway(&self) -> Option<Arc<HttpGateway>> {
        let role: Arc<dyn Any + Send + Sync> = self.rules.borrow().role.clone();
        role.downcast().ok()
    }

    /// Waits for upgraded connections, which are supervised like any other.
    async fn outlast_upgrades(&self, supervision: &mut Supervision) -> Option<Denied> {
        self.upgrades.close();
        tokio::select! {
            biased;
            () = self.upgrades.wait() => None,
            why = supervision.ended() => Some(why),
        }
    }
}

impl Connection {
    /// The access line of a head that never became a request: hyper answered it itself, or it
    /// did not come in time.
    fn unanswered(&self, cause: &Denied) {
        let answered = matches!(
            cause.reason,
            Denial::HeaderTooLarge | Denial::RequestInvalid
        );
        let late = matches!(cause.reason, Denial::RequestTimeout | Denial::IdleTimeout);
        if !(answered || late) || !self.rules.borrow().rules.access {
            return;
        }
        Access {
            listener: self.listener.to_string(),
            connection: self.name.clone(),
            source: Some(self.source),
            identity: self.identity.clone(),
            sni: self.client.sni.clone().unwrap_or_default(),
            status: if answered || self.is_told_late(cause) {
                cause.reason.http_status()
            } else {
                0
            },
            total: self.activity.age(),
            decision: if cause.reason == Denial::IdleTimeout {
                "ended"
            } else {
                "refused"
            },
            reason: Some(cause.reason),
            detail: cause.detail.clone(),
            ..Access::default()
        }
        .emit();
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
        let http2 = admitted.alpn.as_deref() == Some(b"h2");
        let (connection, io, mut supervision) = self.connection(admitted);
        // from here on nothing holds this role: after a reload it goes, and its kept links with it
        drop(self);
        let watch = connection.activity.watch(&connection.limits);
        let shared = Arc::clone(&connection);
        let service = service_fn(move |request: Request<Incoming>| {
            // boxed: hyper keeps room for the future of a request between requests
            let answer = Box::pin(request::answer(Arc::clone(&shared), request));
            async move { Ok::<_, Infallible>(answer.await) }
        });
        Box::pin(async move {
            let cause = if http2 {
                // boxed: HTTP/1.1 connections need not have room for it
                Box::pin(connection.http2(io, service, watch, &mut supervision)).await
            } else {
                connection.http1(io, service, watch, &mut supervision).await
            };
            let cause = match cause {
                Some(cause) => Some(cause),
                None => connection.outlast_upgrades(&mut supervision).await,
            };
            connection.cut.cancel();
            if let Some(cause) = &cause {
                connection.unanswered(cause);
            }
            let (bytes_in, bytes_out) = connection.activity.bytes();
            Closed {
                cause,
                bytes_in,
                bytes_out,
            }
        })
    }
}

impl HttpGateway {
    /// What the connection's requests share, its stream, and what watches over it.
    fn connection(&self, admitted: Admitted) -> (Arc<Connection>, TokioIo<ClientIo>, Supervision) {
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
        let activity = Activity::new(alpn.as_deref() == Some(b"h2"));
        let io = TokioIo::new(ClientIo::new(stream, Arc::clone(&activity)));
        let identity = permit.grant().identity.clone();
        let client = ClientFacts {
            connection_id: id,
            source,
            destination: local,
            sni,
            identity: peer.as_ref().map(|_| identity.clone()),
        };
        let connection = Connection {
            rules: supervision.rules(),
            limits: self.limits.clone(),
            listener: Arc::clone(&self.listener),
            metrics: Arc::clone(&self.metrics),
            drain: self.drain.clone(),
            name: id.to_string(),
            host: Mutex::default(),
            requests: AtomicU64::new(1),
            traced: AtomicU64::new(0),
            client,
            peer,
            chain: supervision.chain(),
            identity,
            source,
            activity,
            upgrades: TaskTracker::new(),
            cut: CancellationToken::new(),
        };
        (Arc::new(connection), io, supervision)
    }
}

impl Connection {
    async fn http1<S>(
        &self,
        io: TokioIo<ClientIo>,
        service: S,
        mut watch: Watch,
        supervision: &mut Supervision,
    ) -> Option<Denied>
    where
        S: Service<Request<Incoming>, Response = Answer, Error = Infallible>,
        S::Future: Send + 'static,
    {
        let draining = self.drain.draining();
        let mut builder = http1::Builder::new();
        // up to 100 fields in a head: with a number of our own hyper would allocate their table
        // for each request
        builder
            .half_close(false)
            .max_buf_size(self.limits.header_bytes.max(8 << 10));
        let mut held = builder.serve_connection(io, service).with_upgrades();
        let cause = drive!(Pin::new(&mut held), watch, supervision, draining);
        if cause.as_ref().is_some_and(|cause| self.is_told_late(cause))
            && let Some(parts) = held.into_parts()
        {
            Box::pin(parts.io.into_inner().say_late()).await;
        }
        cause
    }

    /// Whether a head came too late whose sender hears that it did: bytes of it had come.
    fn is_told_late(&self, cause: &Denied) -> bool {
        cause.reason == Denial::RequestTimeout
            && !self.activity.is_http2()
            && self.activity.bytes().0 > 0
    }

    async fn http2<S>(
        &self,
        io: TokioIo<ClientIo>,
        service: S,
        mut watch: Watch,
        supervision: &mut Supervision,
    ) -> Option<Denied>
    where
        S: Service<Request<Incoming>, Response = Answer, Error = Infallible>,
        S::Future: Send + 'static,
    {
        let draining = self.drain.draining();
        let mut builder = http2::Builder::new(Executor(self.drain.clone()));
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.limits.streams)
            .max_header_list_size(u32::try_from(self.limits.header_bytes).unwrap_or(u32::MAX))
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .max_frame_size(64 << 10)
            .max_send_buf_size(256 << 10);
        drive!(
            pin!(builder.serve_connection(io, service)),
            watch,
            supervision,
            draining
        )
    }
}
