//! tcp mode: an admitted gateway's bytes pass to the backend as they are.

use std::{any::Any, net::SocketAddr, pin::pin, sync::Arc, time::Instant};

use tokio::{io::AsyncReadExt, sync::watch};

use super::{
    LETS_GO_FIRST,
    backend::{BackendStream, SharedDial},
};
use crate::{
    admit::{Denial, Denied, Permit},
    config::Limits,
    net::RelayOptions,
    serve::{
        Admitted, BoxFuture, Closed, Role, Said, ServerStream, Snapshot, Supervision, Tunnel, link,
    },
    telemetry::{Resting, access::Access, metrics::ListenerMetrics},
    tls::{LINK_ALPN, MUX_LINK_ALPN, REUSED_LINK_ALPN},
    wire::{ConnectionId, link::Open, proxy},
};

/// What an acceptor's listener in tcp mode does.
pub struct TcpAcceptor {
    /// The listener's name.
    pub listener: Arc<str>,
    /// The way to the backend.
    pub backend: SharedDial,
    /// A foreign gateway's first bytes are a PROXY header.
    pub expect_proxy: bool,
    /// Limits.
    pub limits: Limits,
    /// Access lines are written.
    pub access: bool,
    /// Of the listener.
    pub metrics: Arc<ListenerMetrics>,
}

/// A gateway's connection, and the way to the backend.
struct Ends {
    stream: ServerStream,
    backend: BackendStream,
    supervision: Supervision,
}

/// What the gateway said of its client.
#[derive(Default)]
pub(super) struct Client {
    addresses: Option<(SocketAddr, SocketAddr)>,
    /// The gateway's name for the connection; ours is replaced by it in the log.
    id: Option<ConnectionId>,
    identity: String,
}

impl Role for TcpAcceptor {
    fn serve(self: Arc<Self>, admitted: Admitted) -> BoxFuture<Closed> {
        // boxed: it is handed on, and every hand would keep room for it
        let admitted = Box::new(admitted);
        if admitted.alpn.as_deref() == Some(REUSED_LINK_ALPN) {
            return Box::pin(self.streams(admitted));
        }
        if admitted.alpn.as_deref() == Some(MUX_LINK_ALPN) {
            return Box::pin(super::mux::streams(self, admitted));
        }
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
}

/// What came in place of the next OPEN.
enum Over {
    /// Nothing that anybody has to hear of: the gateway has no client for the connection, or we
    /// stop.
    Quietly,
    /// It ends for a reason.
    For(Denied),
}

impl TcpAcceptor {
    /// What stays of a record while bytes are carried: nothing, where nobody reads it.
    pub(super) fn rest(&self, record: Access) -> Option<Resting> {
        self.access.then(|| record.rest())
    }

    pub(super) fn options(&self) -> RelayOptions {
        RelayOptions {
            idle_timeout: self.limits.idle_timeout,
            write_timeout: self.limits.write_timeout,
            ..RelayOptions::default()
        }
    }

    /// Opens the way to the backend, and keeps what carrying bytes takes, and no more.
    async fn join(&self, admitted: Box<Admitted>) -> (Result<Box<Ends>, Denied>, Option<Resting>) {
        let mut record = admitted.record(&self.listener);
        record.backend = self.backend.address.to_string();
        let joined = self.ends(admitted, &mut record).await;
        (joined, self.rest(record))
    }

    async fn ends(
        &self,
        mut admitted: Box<Admitted>,
        record: &mut Access,
    ) -> Result<Box<Ends>, Denied> {
        let ours = admitted.alpn.as_deref() == Some(LINK_ALPN);
        let backend = match self.open(&mut admitted, ours, record).await {
            Ok(backend) => backend,
            Err(denied) => {
                if ours {
                    super::refuse(&mut admitted.stream, denied.reason).await;
                }
                return Err(denied);
            }
        };
        let Admitted {
            stream,
            supervision,
            ..
        } = *admitted;
        Ok(Box::new(Ends {
            stream,
            backend,
            supervision,
        }))
    }

    async fn carry(&self, mut ends: Box<Ends>) -> Closed {
        let Ends {
            stream,
            backend,
            supervision,
        } = &mut *ends;
        let (options, ended) = (self.options(), pin!(supervision.ended()));
        let end = link::carry(stream, backend, &options, ended).await;
        if end.cause.is_some() {
            stream.io().abort();
            backend.abort();
        }
        end
    }

    /// One client after the other on one connection, each by the configuration of its moment.
    async fn streams(self: Arc<Self>, mut admitted: Box<Admitted>) -> Closed {
        let mut total = Closed::default();
        let mut role = self;
        let mut first = true;
        loop {
            // boxed: while a client is there it keeps no room
            let next = Box::pin(role.next(&mut admitted, first));
            let open = match next.await {
                Ok(open) => open,
                Err(Over::Quietly) => return total,
                Err(Over::For(denied)) => {
                    total.cause = Some(denied);
                    let mut record = admitted.record(&role.listener);
                    total.settle(&mut record, Instant::now());
                    if !first {
                        (record.decision, record.handshake) = ("ended", None);
                    }
                    if role.access {
                        record.emit();
                    }
                    return total;
                }
            };
            let Some(current) = in_force(&admitted.supervision.rules()) else {
                // the listener has another mode now: the gateway asks again, and learns it
                return total;
            };
            role = current;
            let (closed, free) = Box::pin(role.stream(&mut admitted, open, first)).await;
            // counted now: the connection may live on for long
            role.metrics.transferred(closed.bytes_in, closed.bytes_out);
            total.cause = closed.cause;
            if !free {
                return total;
            }
            first = false;
        }
    }

    /// Waits for the gateway's next client.
    async fn next(&self, admitted: &mut Admitted, first: bool) -> Result<Open, Over> {
        let wait = if first {
            self.limits.handshake_timeout
        } else {
            self.limits.keepalive_timeout.saturating_add(LETS_GO_FIRST)
        };
        let draining = admitted.drain.draining();
        let (stream, supervision) = (&mut admitted.stream, &mut admitted.supervision);
        let over = async {
            if first {
                // it was opened for a client, who is about to be named
                return Over::For(supervision.ended().await);
            }
            match supervision.said().await {
                Said::Ended(why) => Over::For(why),
                Said::Outdated => Over::Quietly,
            }
        };
        let going = || Ok(Err(Denied::new(Denial::Draining, "")));
        let read = tokio::select! {
            biased;
            over = over => match over {
                Over::For(why) => {
                    stream.io().abort();
                    return Err(Over::For(why));
                }
                Over::Quietly => going(),
            },
            // boxed: an idle connection keeps no more than it must
            read = tokio::time::timeout(wait, Box::pin(link::read_open(stream))) => read,
            () = draining.cancelled(), if !first => going(),
        };
        let over = match read {
            Ok(Ok(open)) => return Ok(open),
            Ok(Err(denied)) if first || denied.reason == Denial::OpenInvalid => Over::For(denied),
            Err(_elapsed) if first => Over::For(Denied::new(
                Denial::HandshakeTimeout,
                "the gateway named no client in time",
            )),
            // between two clients nothing is lost
            Ok(Err(_)) | Err(_) => {
                super::farewell(stream).await;
                return Err(Over::Quietly);
            }
        };
        if let Over::For(denied) = &over {
            super::refuse(stream, denied.reason).await;
        }
        Err(over)
    }

    /// Carries one client's stream; whether the connection can carry another.
    async fn stream(&self, admitted: &mut Admitted, open: Open, first: bool) -> (Closed, bool) {
        let opened = Instant::now();
        let reaching = Box::pin(self.next_backend(admitted, open, first));
        let (reached, record) = reaching.await;
        let mut backend = match reached {
            Ok(backend) => backend,
            Err(denied) => {
                Box::pin(super::refuse(&mut admitted.stream, denied.reason)).await;
                let closed = Closed::refused(denied);
                closed.tell(record, opened);
                return (closed, false);
            }
        };
        let Admitted {
            stream,
            supervision,
            ..
        } = admitted;
        let mut tunnel = Tunnel::new(stream);
        let (options, ended) = (self.options(), pin!(supervision.ended()));
        let closed = link::carry(&mut tunnel, &mut backend, &options, ended).await;
        if closed.cause.is_some() {
            tunnel.get_ref().io().abort();
            backend.abort();
        }
        closed.tell(record, opened);
        let free = closed.cause.is_none() && tunnel.finish().is_ok();
        (closed, free)
    }

    /// Opens the way to the backend for one client of several.
    async fn next_backend(
        &self,
        admitted: &mut Admitted,
        open: Open,
        first: bool,
    ) -> (Result<BackendStream, Denied>, Option<Resting>) {
        let mut record = admitted.record(&self.listener);
        record.backend = self.backend.address.to_string();
        if !first {
            // the handshake was another client's
            record.handshake = None;
            record.total = std::time::Duration::ZERO;
        }
        let client = Client::of(open);
        let reached = self.reach(admitted, client, true, &mut record).await;
        (reached, self.rest(record))
    }

    async fn open(
        &self,
        admitted: &mut Admitted,
        ours: bool,
        record: &mut Access,
    ) -> Result<BackendStream, Denied> {
        let limit = self.limits.handshake_timeout;
        let reading = self.client(&mut admitted.stream, ours);
        let client = tokio::time::timeout(limit, reading)
            .await
            .unwrap_or_else(|_elapsed| {
                Err(Denied::new(
                    Denial::HandshakeTimeout,
                    "the gateway named no client in time",
                ))
            })?;
        self.reach(admitted, client, ours, record).await
    }

    /// Connects to the backend for a client, and says so.
    async fn reach(
        &self,
        admitted: &mut Admitted,
        client: Client,
        ours: bool,
        record: &mut Access,
    ) -> Result<BackendStream, Denied> {
        // the gateway may have taken its time to name a client, and the backend takes its own
        admitted.supervision.judged()?;
        let began = Instant::now();
        let gateway = (admitted.source, admitted.local);
        let dialling = self.dial(&admitted.permit, gateway, client, record);
        let backend = dialling.await?;
        let judged = admitted.supervision.judged();
        judged.inspect_err(|_| backend.abort())?;
        if ours {
            link::write_admitted(&mut admitted.stream).await?;
        }
        record.connect = Some(began.elapsed());
        Ok(backend)
    }

    /// Connects to the backend for a client, or for the gateway where it named none.
    pub(super) async fn dial(
        &self,
        permit: &Permit,
        gateway: (SocketAddr, SocketAddr),
        client: Client,
        record: &mut Access,
    ) -> Result<BackendStream, Denied> {
        if let Some(id) = client.id {
            record.connection = id.to_string();
        }
        if let Some((source, _)) = client.addresses {
            record.client = Some(source);
        }
        record.client_identity = client.identity;
        let addresses = client.addresses.or(Some(gateway));
        self.backend.connect(permit, addresses).await
    }

    /// Reads what comes before the client's own bytes.
    async fn client(&self, stream: &mut ServerStream, ours: bool) -> Result<Client, Denied> {
        if ours {
            return link::read_open(stream).await.map(Client::of);
        }
        if self.expect_proxy {
            return Ok(Client {
                addresses: read_header(stream).await?,
                ..Client::default()
            });
        }
        Ok(Client::default())
    }
}

impl Client {
    pub(super) fn of(open: Open) -> Self {
        Self {
            addresses: open.source.zip(open.destination),
            id: Some(open.connection),
            identity: open.identity.unwrap_or_default(),
        }
    }
}

/// What the connection's listener does now; `None`: its mode is another one.
pub(super) fn in_force(rules: &watch::Receiver<Arc<Snapshot>>) -> Option<Arc<TcpAcceptor>> {
    let role: Arc<dyn Any + Send + Sync> = rules.borrow().role.clone();
    role.downcast().ok()
}

/// No PROXY header has fewer octets: `PROXY UNKNOWN` and CR LF; version 2 has 16.
const SHORTEST_HEADER: usize = 15;

/// A PROXY header inside TLS, from a foreign gateway; exactly one, and not a byte more is read: what
/// follows is the client's own, whatever it looks like.
async fn read_header(
    stream: &mut ServerStream,
) -> Result<Option<(SocketAddr, SocketAddr)>, Denied> {
    let mut bytes = Vec::with_capacity(proxy::V1_MAX_LEN);
    let mut need = SHORTEST_HEADER;
    loop {
        let have = bytes.len();
        bytes.resize(need, 0);
        let Some(missing) = bytes.get_mut(have..) else {
            break;
        };
        stream.read_exact(missing).await.map_err(|error| {
            Denied::new(
                Denial::ProxyHeaderMissing,
                format!("the gateway closed first: {error}"),
            )
        })?;
        match proxy::parse(&bytes) {
            Ok(proxy::Parsed::Complete { header, len }) if len == bytes.len() => {
                let addresses = header.source().zip(header.destination());
                // LOCAL and UNKNOWN name nobody: the gateway speaks for itself
                if addresses.is_none() && !header.is_probe() {
                    return Err(Denied::new(
                        Denial::ProxyHeaderInvalid,
                        "the header names Unix sockets, expected IP addresses",
                    ));
                }
                return Ok(addresses);
            }
            Ok(proxy::Parsed::Complete { .. }) => break,
            Ok(proxy::Parsed::Incomplete { need: next }) => need = next.max(need.saturating_add(1)),
            Err(error) => {
                let reason = if proxy::looks_like_proxy(&bytes) {
                    Denial::ProxyHeaderInvalid
                } else {
                    Denial::ProxyHeaderMissing
                };
                return Err(Denied::new(reason, error.to_string()));
            }
        }
    }
    Err(Denied::new(
        Denial::ProxyHeaderInvalid,
        "the header's length is not its own",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{net::Socket, tls::records::RecordStream};

    fn two<A, B, F: Future>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    fn four<A, B, C, D, F: Future>(_: impl FnOnce(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Counted by type, as at the gateway.
    #[test]
    fn a_connection_at_rest_keeps_little() {
        let stream = size_of::<RecordStream<Socket>>();
        let timer = size_of::<tokio::time::Sleep>();
        let direct = [
            ("future", two(TcpAcceptor::carry)),
            ("ends", size_of::<Ends>()),
            ("stream", stream),
            ("timer", timer),
        ];
        let reused = [
            ("connection", two(TcpAcceptor::streams)),
            ("client", four(TcpAcceptor::stream)),
            ("admitted", size_of::<Admitted>()),
            ("stream", stream),
            ("timer", timer),
        ];
        let sum = |kept: &[(&str, usize)]| kept.iter().map(|(_, size)| size).sum::<usize>();

        assert!(sum(&direct) <= 1_600, "{}: {direct:?}", sum(&direct));
        assert!(sum(&reused) <= 2_320, "{}: {reused:?}", sum(&reused));
    }
}
