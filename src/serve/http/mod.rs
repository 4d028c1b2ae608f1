//! What both roles share of http mode: a connection with its deadlines, bodies with their limits,
//! refusals, and how a request goes out and its answer comes back (RFC 9110, 9112 and 9113; HTTP/2
//! is spoken by hyper, HTTP/1.1 to the next hop by `hop`). What a role decides for itself, where a
//! request goes and what it looks like there, is in `gateway/http` and `acceptor/http`.

pub(crate) mod activity;
pub(crate) mod body;
pub(crate) mod client;
pub(crate) mod client_body;
mod date;
pub(crate) mod errors;
pub(crate) mod exchange;
pub(crate) mod expect;
mod frames;
mod gather;
pub(crate) mod hop;
pub(crate) mod hops;
pub(crate) mod host;
mod http1;
mod http2;
mod http2_tunnel;
pub(crate) mod io;
pub(crate) mod kept;
mod outbox;
pub(crate) mod received;
pub(crate) mod retries;
pub(crate) mod send;
pub(crate) mod stream;
pub(crate) mod upgrade;

use std::{
    convert::Infallible,
    future::Future,
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::{Request, Response, service::Service};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    activity::{Activity, Watch, Wish},
    body::{RequestBody, ResponseBody},
    client::SendFailed,
    client_body::ClientBody,
    expect::Interim,
    hop::AnswerBody,
    host::AskedHost,
    io::ClientIo,
    stream::ClientStream,
};
use super::{BoxFuture, Closed, Said, Snapshot, Supervision};
use crate::{
    admit::{Denial, Denied, PeerFacts},
    config::Limits,
    drain::Drain,
    identity::CertFacts,
    telemetry::{access::Access, metrics::ListenerMetrics},
    wire::{ConnectionId, trace},
};

/// What a connection is told from outside.
enum Turn {
    Finish,
    /// The next answer is the last; what rests until then goes on resting.
    Outdated,
    Cut(Denied),
    /// Nothing has happened for a while.
    Rest,
}

/// How long, from the beginning of a drain, a connection is kept for a request that may be on its way:
/// a client's first, and one of a gateway's pool that has not heard of the drain.
pub(crate) const LAST_CALL: Duration = Duration::from_secs(2);

/// Waits for whatever speaks first; `goes`: it is time to finish.
async fn turn(
    watch: &mut Watch,
    supervision: &mut Supervision,
    goes: Pin<&mut impl Future<Output = ()>>,
) -> Turn {
    tokio::select! {
        biased;
        said = supervision.said() => match said {
            Said::Ended(why) => Turn::Cut(why),
            Said::Outdated => Turn::Outdated,
        },
        wish = watch.next() => match wish {
            Wish::GoAway => Turn::Finish,
            Wish::Cut(why) => Turn::Cut(why),
            Wish::Rest => Turn::Rest,
        },
        () = goes => Turn::Finish,
    }
}

/// Its body is boxed: an answer is handed on many times, and every hand would have to move all that
/// the body holds on to.
pub(crate) type Answer<K> = Response<Box<ResponseBody<K>>>;

/// A connection to the next hop, taken for one request.
pub(crate) trait Upstream: Send + Unpin + 'static {
    /// It carried a request before.
    fn is_reused(&self) -> bool;

    /// It speaks HTTP/2, whose windows may be shut while its socket takes bytes.
    fn is_http2(&self) -> bool;

    /// What the connection has broken of, if it has; waits a moment for that.
    fn broke(&self) -> impl Future<Output = Option<Denied>> + Send + 'static {
        async { None }
    }

    /// Sends a request.
    fn send(
        &mut self,
        request: Request<RequestBody>,
        interim: Interim<'_>,
    ) -> impl Future<Output = Result<Response<AnswerBody>, SendFailed>> + Send;

    /// Gives the connection back for the next request, once its answer has passed.
    fn keep(self, answer: AnswerBody);

    /// Resolves when the connection has to end, for bytes that are no longer HTTP.
    fn ended(
        &self,
        rules: &watch::Receiver<Arc<Snapshot>>,
    ) -> impl Future<Output = Denied> + Send + 'static;
}

/// What a role knows of the one who speaks to it.
pub(crate) trait Client: Send + Sync + 'static {
    /// The connection's name.
    fn id(&self) -> ConnectionId;
    /// The name that was asked for in the handshake.
    fn sni(&self) -> Option<&str>;
    /// Our own address on this connection; unspecified where it has none.
    fn local(&self) -> IpAddr;
    /// The one whose bytes the peer passes on as they are.
    fn behind(&self) -> Option<IpAddr> {
        None
    }
    /// Others stand behind it, for whom it reads.
    fn is_shared(&self) -> bool {
        false
    }
    /// It sends requests of many over kept connections, and goes on doing so until it is told.
    fn has_pool(&self) -> bool {
        false
    }
}

/// The process's secret for ids.
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// What all requests of a connection share.
pub(crate) struct Connection<C> {
    /// What is in force at the listener: each request is answered by the rules of its moment.
    pub(crate) rules: watch::Receiver<Arc<Snapshot>>,
    /// What the connection began with, for its own life.
    pub(crate) limits: Arc<Limits>,
    pub(crate) listener: Arc<str>,
    pub(crate) metrics: Arc<ListenerMetrics>,
    pub(crate) drain: Drain,
    pub(crate) client: C,
    /// The connection's id as text, for every request.
    pub(crate) name: String,
    /// The host that was asked for last.
    host: Mutex<Option<Arc<AskedHost>>>,
    /// Requests so far.
    pub(crate) requests: AtomicU64,
    /// Of those, the ones that began a trace.
    traced: AtomicU64,
    pub(crate) peer: Option<Arc<PeerFacts>>,
    /// The peer's certificates, leaf first; empty without.
    chain: Arc<[CertificateDer<'static>]>,
    pub(crate) identity: String,
    pub(crate) source: SocketAddr,
    pub(crate) activity: Arc<Activity>,
    /// Upgraded connections outlive their requests; they end with this one all the same.
    upgrades: LazyLock<TaskTracker>,
    /// Cancelled when the rules no longer admit the peer. Made for those, like their tracker.
    cut: LazyLock<CancellationToken>,
}

/// What a connection begins with.
pub(crate) struct Beginning<'a, C> {
    pub(crate) id: ConnectionId,
    pub(crate) http2: bool,
    pub(crate) client: C,
    pub(crate) peer: Option<Arc<PeerFacts>>,
    pub(crate) identity: String,
    pub(crate) source: SocketAddr,
    pub(crate) supervision: &'a Supervision,
    pub(crate) listener: &'a Arc<str>,
    pub(crate) limits: &'a Arc<Limits>,
    pub(crate) metrics: &'a Arc<ListenerMetrics>,
    pub(crate) drain: &'a Drain,
}

/// Tasks of HTTP/2 streams towards a next hop belong to the drain, as those of clients do
/// ([`http2_tunnel`]). A pointer for each connection: hyper clones it for every stream, and the
/// drain's own counts are shared by all threads.
#[derive(Clone)]
pub(crate) struct Executor(Arc<Drain>);

impl Executor {
    pub(crate) fn new(drain: Drain) -> Self {
        Self(Arc::new(drain))
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// A peer's verified certificate.
pub(crate) struct Caller<'a> {
    pub(crate) peer: &'a PeerFacts,
    pub(crate) leaf: &'a [u8],
    rest: &'a [CertificateDer<'static>],
}

impl<'a> Caller<'a> {
    /// What it sent behind its leaf, without a root (RFC 9440 section 2.3).
    pub(crate) fn issuers(&self) -> impl Iterator<Item = &'a [u8]> {
        let is_root = |der: &&CertificateDer<'_>| {
            CertFacts::read(der).is_ok_and(|facts| facts.subject == facts.issuer)
        };
        self.rest
            .iter()
            .filter(move |der| !is_root(der))
            .map(|der| der.as_ref())
    }
}

impl<C: Client> Connection<C> {
    /// What the connection's requests share, and its stream.
    pub(crate) fn begin(
        stream: impl Into<ClientStream>,
        beginning: Beginning<'_, C>,
    ) -> (Arc<Self>, Box<ClientIo>) {
        let activity = Activity::new(beginning.http2);
        let io = ClientIo::new(stream.into(), Arc::clone(&activity));
        let connection = Self {
            rules: beginning.supervision.rules(),
            limits: Arc::clone(beginning.limits),
            listener: Arc::clone(beginning.listener),
            metrics: Arc::clone(beginning.metrics),
            drain: beginning.drain.clone(),
            name: beginning.id.to_string(),
            host: Mutex::default(),
            requests: AtomicU64::new(1),
            traced: AtomicU64::new(0),
            client: beginning.client,
            peer: beginning.peer,
            chain: beginning.supervision.chain(),
            identity: beginning.identity,
            source: beginning.source,
            activity,
            upgrades: LazyLock::new(TaskTracker::new),
            cut: LazyLock::new(CancellationToken::new),
        };
        // boxed: it is handed on many times, and every hand would keep room for it
        (Arc::new(connection), Box::new(io))
    }

    /// Serves requests until the connection ends.
    pub(crate) fn carry<S, K>(
        self: Arc<Self>,
        io: Box<ClientIo>,
        service: S,
        supervision: Supervision,
    ) -> BoxFuture<Closed>
    where
        S: Service<Request<ClientBody>, Response = Answer<K>, Error = Infallible>
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
        K: Upstream,
    {
        let watch = self.activity.watch(&self.limits, self.client.is_shared());
        Box::pin(self.carried(io, service, watch, supervision))
    }

    async fn carried<S, K>(
        self: Arc<Self>,
        io: Box<ClientIo>,
        service: S,
        watch: Watch,
        mut supervision: Supervision,
    ) -> Closed
    where
        S: Service<Request<ClientBody>, Response = Answer<K>, Error = Infallible>
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
        K: Upstream,
    {
        // what came before the first request may have taken its time
        let cause = if let Err(why) = supervision.judged() {
            Some(why)
        } else if self.activity.is_http2() {
            // boxed: HTTP/1.1 connections need not have room for it
            Box::pin(self.http2(io, service, watch, &mut supervision)).await
        } else {
            self.http1(io, service, watch, &mut supervision).await
        };
        let cause = match cause {
            Some(cause) => Some(cause),
            None => Box::pin(self.outlast_upgrades(&mut supervision)).await,
        };
        self.cut.cancel();
        if let Some(cause) = &cause {
            self.unanswered(cause);
        }
        let (bytes_in, bytes_out) = self.activity.bytes();
        Closed {
            cause,
            bytes_in,
            bytes_out,
        }
    }

    /// Ids of a new trace: the connection's random id, and a keyed hash of it and a count. One
    /// hash and no system call for each request.
    pub(crate) fn trace_ids(&self) -> trace::Ids {
        let traced = self.traced.fetch_add(1, Ordering::Relaxed);
        let id = u128::from_be_bytes(self.client.id().0);
        let hash = KEY.hash_one((id, traced));
        let high = u64::try_from(id >> 64).unwrap_or(0);
        [high, hash, hash.rotate_left(32) ^ high]
    }

    /// The peer, where it showed a certificate that was verified.
    pub(crate) fn caller(&self) -> Option<Caller<'_>> {
        let (leaf, rest) = self.chain.split_first()?;
        Some(Caller {
            peer: self.peer.as_deref()?,
            leaf,
            rest,
        })
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

    /// The access line of what never became a request: a head that was refused or did not come in
    /// time, or a connection that may not go on.
    fn unanswered(&self, cause: &Denied) {
        let answered = matches!(
            cause.reason,
            Denial::HeaderTooLarge | Denial::TargetTooLarge | Denial::RequestInvalid
        );
        let late = matches!(cause.reason, Denial::RequestTimeout | Denial::IdleTimeout);
        let over = matches!(
            cause.reason,
            Denial::RulesChanged | Denial::CertificateEnded
        );
        if !(answered || late || over) || !self.rules.borrow().rules.access {
            return;
        }
        Access {
            listener: self.listener.to_string(),
            connection: self.name.clone(),
            source: Some(self.source),
            identity: self.identity.clone(),
            sni: self.client.sni().unwrap_or_default().to_owned(),
            status: if answered || self.is_told_late(cause) {
                cause.reason.http_status()
            } else {
                0
            },
            total: self.activity.age(),
            decision: if over || cause.reason == Denial::IdleTimeout {
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

#[cfg(test)]
mod tests;
