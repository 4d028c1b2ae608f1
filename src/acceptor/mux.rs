//! tcp mode over a link that carries many clients at once: each stream is a client of its own,
//! with its place in the listener's limits, its backend connection, and its line in the log.

use std::{
    future::pending,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    LETS_GO_FIRST, TcpAcceptor,
    backend::BackendStream,
    tcp::{Client, in_force},
};
use crate::{
    admit::{Denial, Denied, Permit},
    drain::Drain,
    serve::{Admitted, Aside, Closed, Said, ServerStream, Slot, Slots, Snapshot, link, mux},
    telemetry::{Resting, access::Access},
    wire::{
        link::Open,
        mux::{Break, Side},
    },
};

/// What the streams of a link have in common.
struct Carrier {
    permit: Permit,
    /// What the log says of each.
    record: Access,
    source: SocketAddr,
    local: SocketAddr,
    /// What the listener does now.
    rules: watch::Receiver<Arc<Snapshot>>,
    slots: Slots,
    drain: Drain,
    live: AtomicUsize,
    /// The handshake was no client's yet.
    fresh: AtomicBool,
    lent: Lent,
}

/// A client's place in the limits.
enum Seat<'a> {
    /// The link's own: it takes no more places than it has clients.
    Lent(&'a Lent),
    Own(#[expect(dead_code, reason = "it is held")] Slot),
}

/// The place that the link itself took, for one of its clients.
#[derive(Default)]
struct Lent {
    taken: AtomicBool,
    /// The same again, of a client that the link has not outlived.
    kept: Mutex<Option<Slot>>,
}

impl Lent {
    fn kept(&self) -> MutexGuard<'_, Option<Slot>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link gives its place back.
    fn keep(&self, slots: &Slots, source: IpAddr) {
        let mut kept = self.kept();
        if self.taken.load(Ordering::Relaxed) {
            *kept = Some(slots.again(source));
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if let Self::Lent(lent) = self {
            let mut kept = lent.kept();
            lent.taken.store(false, Ordering::Relaxed);
            *kept = None;
        }
    }
}

/// Carries the streams of a gateway's link until it ends.
pub(super) async fn streams(role: Arc<TcpAcceptor>, admitted: Box<Admitted>) -> Closed {
    let opened = Instant::now();
    let carrier = Arc::new(Carrier {
        permit: admitted.permit.clone(),
        record: admitted.record(&role.listener),
        source: admitted.source,
        local: admitted.local,
        rules: admitted.supervision.rules(),
        slots: admitted.slots.clone(),
        drain: admitted.drain.clone(),
        live: AtomicUsize::new(0),
        fresh: AtomicBool::new(true),
        lent: Lent::default(),
    });
    let closed = Closed {
        cause: drive(&role, &carrier, admitted).await,
        ..Closed::default()
    };
    carrier.lent.keep(&carrier.slots, carrier.source.ip());
    // what ends with clients on it is told by their lines
    if closed.cause.is_some() && carrier.live.load(Ordering::Relaxed) == 0 {
        let mut record = carrier.record.clone();
        closed.settle(&mut record, opened);
        if !carrier.fresh.load(Ordering::Relaxed) {
            (record.decision, record.handshake) = ("ended", None);
        }
        if role.access {
            record.emit();
        }
    }
    closed
}

/// Welcomes the gateway and carries its streams; why the link ended, if not as it should.
async fn drive(
    role: &TcpAcceptor,
    carrier: &Arc<Carrier>,
    admitted: Box<Admitted>,
) -> Option<Denied> {
    let Admitted {
        mut stream,
        mut supervision,
        stopping,
        ..
    } = *admitted;
    let first = role.limits.handshake_timeout;
    let welcome = tokio::time::timeout(first, mux::write_welcome(&mut stream));
    if !matches!(welcome.await, Ok(Ok(()))) {
        let why = "the gateway took no welcome";
        return Some(Denied::new(Denial::PeerReset, why));
    }
    let link = mux::Link::new(Side::Acceptor);
    let limits = mux::Limits {
        first: Some(first),
        idle: role.limits.keepalive_timeout.saturating_add(LETS_GO_FIRST),
    };
    let abort = |stream: &ServerStream| stream.io().abort();
    let driver = mux::Driver::new(stream, link.clone(), Side::Acceptor, limits, abort);
    let begin = |stream, open| {
        let carrier = Arc::clone(carrier);
        carrier.live.fetch_add(1, Ordering::Relaxed);
        let drain = carrier.drain.clone();
        drain.spawn(async move { carrier.carry(stream, open).await });
    };
    let leaving = async {
        stopping.cancelled().await;
        link.leave();
        pending().await
    };
    // what came before the link broke has yet to go on, under the same rules
    let cut = {
        let link = link.clone();
        async move {
            loop {
                match supervision.said().await {
                    Said::Outdated => link.leave(),
                    Said::Ended(why) => {
                        // before the driver is gone: the first reason stays
                        link.cut(why.clone());
                        return why;
                    }
                }
            }
        }
    };
    let mut cut = Box::pin(cut);
    let over = {
        let ended = pin!(async {
            tokio::select! {
                biased;
                why = &mut cut => why,
                never = leaving => never,
            }
        });
        tokio::select! {
            biased;
            over = Box::pin(driver.run(begin)) => over,
            why = Aside::new(ended) => return Some(why),
        }
    };
    if carrier.live.load(Ordering::Relaxed) > 0 {
        let carrier = Arc::clone(carrier);
        let drain = carrier.drain.clone();
        drain.spawn(async move {
            tokio::select! {
                _why = cut => {}
                () = carrier.until_idle() => {}
            }
        });
    }
    over
}

impl Carrier {
    /// Carries one client, by the configuration of its moment.
    async fn carry(&self, mut stream: mux::Stream, open: Open) {
        if let Some(role) = in_force(&self.rules) {
            let opened = Instant::now();
            let (closed, record) = self.relay(&role, &mut stream, open).await;
            role.metrics.transferred(closed.bytes_in, closed.bytes_out);
            if let Some(denied) = &closed.cause {
                role.metrics.cut(denied.reason);
            }
            closed.tell(record, opened);
        } else {
            // the listener has another mode now: the gateway asks again, and learns it
            stream.refuse(Denial::Draining.code());
            stream.link().leave();
        }
        self.live.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns when no stream is left.
    async fn until_idle(&self) {
        while self.live.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn relay(
        &self,
        role: &TcpAcceptor,
        stream: &mut mux::Stream,
        open: Open,
    ) -> (Closed, Option<Resting>) {
        // boxed: the opening's state is not kept while bytes are relayed
        let (reached, record) = Box::pin(self.admit(role, stream, open)).await;
        let (seat, mut backend) = match reached {
            Ok(reached) => reached,
            Err(denied) => {
                stream.refuse(denied.reason.code());
                return (Closed::refused(denied), record);
            }
        };
        // of any other break who reads is told, behind what came before
        let (options, cut) = (role.options(), stream.cut());
        let ended = async {
            cut.await;
            Denied::new(Denial::PeerReset, Break::Cut.to_string())
        };
        let mut closed = link::carry(stream, &mut backend, &options, ended).await;
        if let Some(cause) = &mut closed.cause {
            if cause.reason == Denial::PeerReset
                && let Some(why) = stream.link_ended()
            {
                *cause = why;
            }
            stream.reset();
            backend.abort();
        }
        drop(seat);
        (closed, record)
    }

    /// Takes a place for a client and opens its way to the backend.
    async fn admit(
        &self,
        role: &TcpAcceptor,
        stream: &mux::Stream,
        open: Open,
    ) -> (Result<(Seat<'_>, BackendStream), Denied>, Option<Resting>) {
        let mut record = self.record.clone();
        record.backend = role.backend.address.to_string();
        if !self.fresh.swap(false, Ordering::Relaxed) {
            // the handshake was another client's
            (record.handshake, record.total) = (None, Duration::ZERO);
        }
        let client = Client::of(open);
        let seat = if self.lent.taken.swap(true, Ordering::Relaxed) {
            let slot = self.slots.enter(self.source.ip(), &role.limits);
            slot.map(Seat::Own)
        } else {
            Ok(Seat::Lent(&self.lent))
        };
        let reached = match seat {
            Ok(seat) => {
                let reached = self.reach(role, stream, client, &mut record).await;
                reached.map(|backend| (seat, backend))
            }
            Err(denied) => Err(denied),
        };
        (reached, role.rest(record))
    }

    /// Connects to the backend, unless the gateway gives up first.
    async fn reach(
        &self,
        role: &TcpAcceptor,
        stream: &mux::Stream,
        client: Client,
        record: &mut Access,
    ) -> Result<BackendStream, Denied> {
        let began = Instant::now();
        let gateway = (self.source, self.local);
        let dialled = tokio::select! {
            biased;
            why = stream.broken() => Err(stream
                .link_ended()
                .unwrap_or_else(|| Denied::new(Denial::PeerReset, why.to_string()))),
            dialled = role.dial(&self.permit, gateway, client, record) => dialled,
        };
        let backend = dialled?;
        stream.admit();
        record.connect = Some(began.elapsed());
        Ok(backend)
    }
}
