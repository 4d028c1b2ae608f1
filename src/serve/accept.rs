//! The order of checks on a socket: source, caps, PROXY header, starttls, handshake, decision.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    task::{Poll, ready},
    time::{Duration, Instant},
};

use rustls_pki_types::CertificateDer;
use tokio::{io::AsyncReadExt, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{
    Admitted, BoxFuture, CancelRequest, Closed, Plain, Snapshot, Supervision, new_connection_id,
    preface::{self, Claimed, Start},
    rules::Shown,
    spread,
    table::{Slot, Slots, Table},
};
use crate::{
    admit::{Denial, Denied, Permit, decide_source},
    clock,
    drain::Drain,
    identity::UnixSeconds,
    net::{AcceptBackoff, Buffered, Listener, Socket},
    telemetry::{access::Access, metrics::ListenerMetrics},
    tls::{
        handshake::{self, Accepted, Judge},
        pace::Turns,
    },
    wire::ConnectionId,
    workers::Place,
};

/// How long a refused peer's bytes are read away, so that the alert arrives before the reset.
const LINGER: Duration = Duration::from_millis(250);

/// One listener at work.
pub struct Serving {
    snapshot: watch::Sender<Arc<Snapshot>>,
    table: Arc<Table>,
    turns: Turns,
    metrics: Arc<ListenerMetrics>,
    drain: Drain,
    stop: CancellationToken,
    /// Cancelled when a listener that was removed has waited long enough.
    retired: CancellationToken,
}

/// A socket that passed the first checks.
struct Arrival {
    socket: Socket,
    source: SocketAddr,
    slot: Slot,
    snapshot: Arc<Snapshot>,
    /// Subscribed before the snapshot was read: no publication is missed between the two.
    rules: watch::Receiver<Arc<Snapshot>>,
    at: Instant,
    from_balancer: bool,
}

impl Serving {
    /// A listener that is about to run.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>, metrics: Arc<ListenerMetrics>, drain: Drain) -> Arc<Self> {
        let turns = Turns::new(snapshot.rules.limits.handshakes, drain.workers().count());
        let stop = drain.draining().child_token();
        let role = Arc::clone(&snapshot.role);
        let snapshot = watch::Sender::new(snapshot);
        role.begin(snapshot.subscribe());
        Arc::new(Self {
            snapshot,
            table: Arc::default(),
            turns,
            metrics,
            retired: drain.forced().child_token(),
            drain,
            stop,
        })
    }

    /// Puts new rules in force; live connections are judged by them at once.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        let role = Arc::clone(&snapshot.role);
        self.snapshot.send_replace(snapshot);
        role.begin(self.snapshot.subscribe());
    }

    /// The same where the rules are another listener's, which is at work by them already: what goes
    /// on beside connections has begun there.
    pub fn publish_of_other(&self, snapshot: Arc<Snapshot>) {
        self.snapshot.send_replace(snapshot);
    }

    /// Has every live connection judged by the rules in force, of this moment.
    pub fn look_again(&self) {
        self.snapshot.send_modify(|_same| {});
    }

    /// Stops accepting; live connections go on.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Returns when no connection of this listener lives.
    pub async fn until_idle(&self) {
        while self.table.live() > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Ends a listener that is configured no more: its connections have `drain_timeout` to end by
    /// themselves.
    pub async fn retire(&self) {
        self.stop();
        let limit = self.snapshot.borrow().rules.limits.drain_timeout;
        if tokio::time::timeout(limit, self.until_idle())
            .await
            .is_err()
        {
            self.retired.cancel();
        }
    }

    /// Nobody can judge this listener's connections any more: they end.
    pub fn withdraw(&self, why: &'static str) {
        let held = Arc::clone(&self.snapshot.borrow());
        self.snapshot.send_replace(Arc::new(Snapshot {
            rules: held.rules.withdrawn(why),
            role: Arc::clone(&held.role),
        }));
    }

    /// Accepts until stopped.
    pub async fn run(self: Arc<Self>, listener: Listener) {
        let mut backoff = AcceptBackoff::default();
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                accepted = self.accept(&listener) => accepted,
            };
            match accepted {
                Ok((socket, source, place)) => {
                    backoff.reset();
                    self.arrived(socket, source, &place);
                }
                Err(error) => {
                    if let Some(pause) = backoff.after(&error) {
                        tracing::error!(listener = %self.name(), %error, ?pause, "accept failed");
                        tokio::time::sleep(pause).await;
                    }
                }
            }
        }
    }

    /// The next connection, and where it is to live.
    async fn accept(&self, listener: &Listener) -> io::Result<(Socket, SocketAddr, Place)> {
        poll_fn(|cx| {
            let place = self.drain.workers().least();
            let (socket, source) = ready!(place.enter(|| listener.poll_accept(cx)))?;
            Poll::Ready(Ok((socket, source, place)))
        })
        .await
    }

    fn name(&self) -> Arc<str> {
        Arc::clone(&self.snapshot.borrow().rules.name)
    }

    /// Source and caps: no byte is read and no task made for a source that is not trusted.
    fn arrived(self: &Arc<Self>, socket: Socket, source: SocketAddr, place: &Place) {
        let at = Instant::now();
        self.metrics.accepted();
        let subscription = self.snapshot.subscribe();
        let snapshot = Arc::clone(&subscription.borrow());
        let rules = &snapshot.rules;
        let balancers = rules.proxy_from.as_ref();
        let from_balancer = balancers.is_some_and(|ranges| ranges.contains(source.ip()));
        let checked = if from_balancer {
            Ok(())
        } else {
            decide_source(source.ip(), &rules.source)
        };
        let slot = checked.and_then(|()| {
            let mut slot = self.table.enter(&rules.limits)?;
            if !from_balancer {
                slot.count(source.ip(), &rules.limits)?;
            }
            Ok(slot)
        });
        match slot {
            Err(denied) => {
                socket.abort();
                self.refused(&snapshot, new_connection_id(), source, None, &denied, at);
            }
            Ok(slot) => {
                let rules = subscription;
                let arrival = Arrival {
                    socket,
                    source,
                    slot,
                    snapshot,
                    rules,
                    at,
                    from_balancer,
                };
                // boxed: nothing of it stays while the connection lives
                let welcome = Box::pin(Arc::clone(self).welcome(arrival));
                let serving = Arc::clone(self);
                let lodger = place.lodge();
                self.drain.spawn_at(place, async move {
                    let _lives = lodger;
                    let Some((carried, slot)) = welcome.await else {
                        return;
                    };
                    let closed = carried.await;
                    serving.ended(&closed);
                    drop(slot);
                });
            }
        }
    }

    /// Everything between accept and the role, under one deadline; then what the role does.
    async fn welcome(self: Arc<Self>, arrival: Arrival) -> Option<(BoxFuture<Closed>, Slot)> {
        let Arrival {
            socket,
            source,
            mut slot,
            snapshot,
            rules,
            at,
            from_balancer,
        } = arrival;
        let id = new_connection_id();
        let local = socket.local_addr().unwrap_or(UNKNOWN_ADDRESS);
        let limit = snapshot.rules.limits.handshake_timeout;
        let mut seen = Seen { source, local };
        // boxed: its state must not stay allocated while bytes are relayed
        let handshake =
            Box::pin(self.handshake(socket, &snapshot, &mut slot, &mut seen, from_balancer));
        let done = tokio::time::timeout(limit, handshake)
            .await
            .unwrap_or_else(|_elapsed| {
                Err(Denied::new(
                    Denial::HandshakeTimeout,
                    format!("limits.handshake_timeout = {limit:?}"),
                ))
            });
        let role = Arc::clone(&snapshot.role);
        let accepted = match done {
            Ok(Passed::Tls(accepted)) => accepted,
            Ok(Passed::Cancel {
                io,
                permit,
                message,
            }) => {
                let supervision =
                    self.supervise(seen.source.ip(), Arc::default(), None, rules, None);
                self.metrics.admitted();
                let request = CancelRequest {
                    id,
                    permit,
                    source: seen.source,
                    local: seen.local,
                    message,
                    supervision,
                };
                let closed = role.cancel(request).await;
                // the client waits for our end to know that the request was taken
                drop(io);
                self.ended(&closed);
                drop(slot);
                return None;
            }
            Ok(Passed::Plain { io, permit }) => {
                let supervision =
                    self.supervise(seen.source.ip(), Arc::default(), None, rules, None);
                drop(snapshot);
                let plain = Plain {
                    id,
                    io,
                    permit,
                    source: seen.source,
                    local: seen.local,
                    supervision,
                };
                self.metrics.admitted();
                return Some((role.plain(plain), slot));
            }
            Err(denied) => {
                self.refused(&snapshot, id, seen.source, None, &denied, at);
                return None;
            }
        };
        let handshake = at.elapsed();
        let resumed = accepted.session.resumed;
        self.metrics.handshake(handshake.as_secs_f64(), resumed);
        self.metrics.admitted();
        let admitted = self.admit(id, accepted, &snapshot, seen, rules, handshake);
        Some((role.serve(admitted), slot))
    }

    fn ended(&self, closed: &Closed) {
        self.metrics
            .closed(closed.reason(), closed.bytes_in, closed.bytes_out);
    }

    async fn handshake(
        &self,
        socket: Socket,
        snapshot: &Arc<Snapshot>,
        slot: &mut Slot,
        seen: &mut Seen,
        from_balancer: bool,
    ) -> Result<Passed, Denied> {
        let rules = &snapshot.rules;
        let mut io = Buffered::new(socket);
        if from_balancer {
            match preface::read_proxy_header(&mut io).await? {
                Claimed::Probe => {
                    return Err(Denied::new(Denial::BalancerProbe, ""));
                }
                Claimed::Addresses {
                    source,
                    destination,
                } => {
                    *seen = Seen {
                        source: canonical(source),
                        local: canonical(destination),
                    };
                    decide_source(seen.source.ip(), &rules.source)?;
                    slot.count(seen.source.ip(), &rules.limits)?;
                }
            }
        }
        if let Start::PostgresCancel(message) = preface::before_tls(&mut io, rules).await? {
            let grant = rules.judge(seen.source.ip(), None, clock::now())?;
            let permit = Permit::issue(seen.source.ip(), grant, None);
            return Ok(Passed::Cancel {
                io,
                permit,
                message,
            });
        }
        let Some(tls) = &rules.tls else {
            let grant = rules.judge(seen.source.ip(), None, clock::now())?;
            let permit = Permit::issue(seen.source.ip(), grant, None);
            return Ok(Passed::Plain { io, permit });
        };
        let judged = Arc::clone(snapshot);
        let from = seen.source.ip();
        let judge: Judge = Arc::new(move |peer| judged.rules.judge(from, peer, clock::now()));
        // whoever has not said a whole hello waits outside
        let greeted = Box::pin(handshake::greet(io, tls)).await?;
        let handshake = Box::pin(greeted.accept(tls, judge, &self.turns));
        handshake.await.map(Passed::Tls)
    }

    fn admit(
        &self,
        id: ConnectionId,
        accepted: Accepted<Socket>,
        snapshot: &Snapshot,
        seen: Seen,
        rules: watch::Receiver<Arc<Snapshot>>,
        handshake: Duration,
    ) -> Admitted {
        let asked = snapshot.rules.verification.is_some();
        let chain = if asked {
            accepted.chain
        } else {
            Arc::default()
        };
        let peer = accepted.peer;
        let until = spread(accepted.grant.until);
        let shown = snapshot.rules.shown;
        let supervision = self.supervise(seen.source.ip(), chain, until, rules, shown);
        Admitted {
            id,
            permit: Permit::issue(seen.source.ip(), accepted.grant, peer.clone()),
            stream: accepted.stream,
            peer,
            source: seen.source,
            local: seen.local,
            alpn: accepted.alpn,
            sni: accepted.sni,
            session: accepted.session,
            handshake,
            supervision,
            drain: self.drain.clone(),
            stopping: self.stop.clone(),
            slots: Slots::of(&self.table),
        }
    }

    fn supervise(
        &self,
        source: IpAddr,
        chain: Arc<[CertificateDer<'static>]>,
        until: Option<UnixSeconds>,
        rules: watch::Receiver<Arc<Snapshot>>,
        shown: Option<Shown>,
    ) -> Supervision {
        Supervision::new(source, chain, until, rules, self.retired.clone(), shown)
    }

    fn refused(
        &self,
        snapshot: &Snapshot,
        id: ConnectionId,
        source: SocketAddr,
        sni: Option<String>,
        denied: &Denied,
        at: Instant,
    ) {
        self.metrics.denied(denied.reason);
        if !snapshot.rules.access || denied.reason == Denial::BalancerProbe {
            return;
        }
        Access {
            listener: snapshot.rules.name.to_string(),
            connection: id.to_string(),
            source: Some(source),
            sni: sni.unwrap_or_default(),
            total: at.elapsed(),
            decision: "refused",
            reason: Some(denied.reason),
            detail: denied.detail.clone(),
            ..Access::default()
        }
        .emit();
    }
}

/// What got through the checks.
enum Passed {
    Tls(Accepted<Socket>),
    Plain {
        io: Buffered<Socket>,
        permit: Permit,
    },
    Cancel {
        io: Buffered<Socket>,
        permit: Permit,
        message: Vec<u8>,
    },
}

/// Addresses as the rules see them.
#[derive(Clone, Copy)]
struct Seen {
    source: SocketAddr,
    local: SocketAddr,
}

const UNKNOWN_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// IPv4-mapped IPv6 addresses count as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Reads away what a refused peer still sends, for a moment.
pub(super) async fn linger(io: &mut Buffered<Socket>) {
    let mut sink = [0; 1024];
    let read = async {
        while let Ok(1..) = io.get_mut().read(&mut sink).await {}
        io::Result::Ok(())
    };
    drop(tokio::time::timeout(LINGER, read).await);
}
