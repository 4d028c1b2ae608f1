//! Link connections that carry many clients, or requests of http mode, at once: which one a client's stream goes
//! on, when another is opened, and when one takes no client any more.

mod held;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustls_pki_types::CertificateDer;
use tokio::sync::oneshot;

pub(super) use self::held::Links;
use self::held::{Next, Turn};
use super::{
    BackendRuntime, ClientFacts, Link,
    backend::{AcceptorState, Lease},
    dial::{self, Dialled, LinkStream, Purpose},
    reuse::{Facts, Upstream},
    way::{Ahead, Rules, Way},
};
use crate::{
    admit::{Denial, Denied},
    config::Tunnel as Wanted,
    identity::UnixSeconds,
    serve::{link::refusal, mux},
    wire::mux::{Break, Side, Welcome},
    workers::Home,
};

/// So often a link may be gone before it answers, for one client.
const ATTEMPTS: usize = 3;

/// The way to the backend for one client.
pub(super) struct Carried {
    pub(super) upstream: Upstream,
    pub(super) lease: Lease,
    /// When the acceptor's chain ends.
    pub(super) until: Option<UnixSeconds>,
    /// The acceptor's chain, leaf first.
    pub(super) chain: Arc<[CertificateDer<'static>]>,
    /// How much of what the client had said went ahead.
    pub(super) ahead: usize,
    /// How long it took.
    pub(super) connect: Duration,
    /// What has to be kept of a connection that is used again.
    pub(super) facts: Option<Box<Facts>>,
    /// The thread that hears it.
    pub(super) home: Home,
}

impl From<Link> for Carried {
    fn from(link: Link) -> Self {
        Self {
            facts: link.reused.then(|| Box::new(Facts::of(&link))),
            upstream: Upstream::new(link.stream, link.reused),
            lease: link.lease,
            until: link.until,
            chain: link.chain,
            ahead: 0,
            connect: link.connect,
            home: Home::here(),
        }
    }
}

/// What a new connection was agreed to be.
enum Agreed {
    /// A link for many.
    Many(Way),
    /// The client's own.
    One(Box<Carried>),
}

impl BackendRuntime {
    /// Whether a client's first octets may be sent before an acceptor has admitted it. Where there
    /// is another acceptor they wait: one that hangs may have them or not, and then it could not be
    /// left for the other.
    pub(super) fn sends_ahead(&self) -> bool {
        let many = matches!(self.config.tunnel, Wanted::Auto | Wanted::Mux);
        many && self.acceptors().len() == 1
    }

    /// Opens the way to the first acceptor that admits us, as `tunnel` says; `ahead` is what may be
    /// sent before, which is nothing unless [`Self::sends_ahead`].
    ///
    /// # Errors
    /// Why the last one that was tried did not.
    pub(super) async fn carry(
        self: &Arc<Self>,
        client: &ClientFacts,
        rules: &Rules,
        ahead: &mut Ahead,
    ) -> Result<Carried, Denied> {
        match self.config.tunnel {
            Wanted::Auto | Wanted::Mux => {}
            Wanted::Reuse | Wanted::Direct => {
                return self.connect(client).await.map(Carried::from);
            }
        }
        let mut last = None;
        for acceptor in self.order() {
            match self.carry_to(&acceptor, client, rules, ahead).await {
                Ok(carried) => return Ok(carried),
                Err(denied) => last = Some(denied),
            }
        }
        Err(last.unwrap_or_else(|| self.unreachable()))
    }

    /// Opens the way to one acceptor for requests of http mode, one after the other.
    ///
    /// # Errors
    /// Where it stopped.
    pub(super) async fn carry_requests(
        self: &Arc<Self>,
        acceptor: &Arc<AcceptorState>,
        client: &ClientFacts,
        rules: &Rules,
    ) -> Result<Carried, Denied> {
        if acceptor.dialler.shared.is_some() {
            let nothing = &mut Ahead::default();
            return self.carry_to(acceptor, client, rules, nothing).await;
        }
        self.connect_to(acceptor, client).await.map(Carried::from)
    }

    async fn carry_to(
        self: &Arc<Self>,
        acceptor: &Arc<AcceptorState>,
        client: &ClientFacts,
        rules: &Rules,
        ahead: &mut Ahead,
    ) -> Result<Carried, Denied> {
        let mut gone = Denied::new(Denial::UpstreamBroken, "no link");
        let mut attempts = 0;
        while attempts < ATTEMPTS {
            let way = match self.next(acceptor) {
                Next::On(way, turn) => {
                    if let Some(turn) = turn {
                        self.open_another(acceptor, turn);
                    }
                    if self.judged(&way, acceptor, rules).is_err() {
                        // it takes nobody any more: the next one may do
                        attempts += 1;
                        continue;
                    }
                    way
                }
                Next::Wait(attempt) => {
                    attempt.wait().await?;
                    continue;
                }
                Next::Dial(turn) => match self.dial_in_turn(acceptor, client, rules, turn).await? {
                    Agreed::Many(way) => way,
                    Agreed::One(carried) => return Ok(*carried),
                },
                Next::Plain => {
                    // kept ones have carried a client of tcp mode, and would another
                    if !client.http
                        && let Some(kept) = self.reopen(acceptor, client).await
                    {
                        return kept.map(Carried::from);
                    }
                    match self.dial_many(acceptor, client, rules).await? {
                        Agreed::Many(way) => way,
                        Agreed::One(carried) => return Ok(*carried),
                    }
                }
            };
            if let Some(answer) = self.stream(way.clone(), acceptor, client, ahead).await {
                return answer;
            }
            // it was gone meanwhile, and not a byte of the client has come to a backend
            attempts += 1;
            if let Some(why) = way.link.ended() {
                gone = why;
            }
        }
        let gone = named(acceptor, gone);
        Err(self.failed(acceptor, client, gone))
    }

    /// The same as [`Self::dial_many`], in a task of its own: others wait for the link, and who had
    /// the turn may go. A dial that went with its client would be begun again for each of them.
    async fn dial_in_turn(
        self: &Arc<Self>,
        acceptor: &Arc<AcceptorState>,
        client: &ClientFacts,
        rules: &Rules,
        turn: Turn,
    ) -> Result<Agreed, Denied> {
        let (mut tell, told) = oneshot::channel();
        let (backend, acceptor) = (Arc::clone(self), Arc::clone(acceptor));
        let (client, rules) = (client.clone(), rules.clone());
        self.links.drain.spawn(async move {
            let draining = backend.links.drain.draining();
            let dialled = tokio::select! {
                biased;
                dialled = Box::pin(backend.dial_many(&acceptor, &client, &rules)) => dialled,
                () = async { draining.cancelled().await; tell.closed().await } => return,
            };
            if let Err(denied) = &dialled {
                turn.failed(denied);
            }
            drop(turn);
            match tell.send(dialled) {
                // nobody is left who could use it
                Err(Ok(Agreed::Many(way))) if backend.links.are_closed() => way.link.leave(),
                Err(Ok(Agreed::One(carried))) => carried.upstream.abort(),
                Err(Ok(Agreed::Many(_)) | Err(_)) | Ok(()) => {}
            }
        });
        let ended = |_| Denied::new(Denial::Draining, "the process ends");
        told.await.map_err(ended)?
    }

    /// Opens a connection for many. One that is for many is judged by what is in force once it is
    /// open: it was dialled by rules of before.
    async fn dial_many(
        self: &Arc<Self>,
        acceptor: &Arc<AcceptorState>,
        client: &ClientFacts,
        rules: &Rules,
    ) -> Result<Agreed, Denied> {
        let link = self.connect_for(acceptor, client, Purpose::Many).await?;
        let agreed = self.agreed(acceptor, link);
        if let Agreed::Many(way) = &agreed {
            let judged = self.judged(way, acceptor, rules);
            judged.map_err(|why| self.failed(acceptor, client, named(acceptor, why)))?;
        }
        Ok(agreed)
    }

    /// Whether what is in force now admits the acceptor of a link; else the link takes nobody any more.
    fn judged(&self, way: &Way, acceptor: &AcceptorState, rules: &Rules) -> Result<(), Denied> {
        let now = rules.borrow().clone();
        let judged = way.judged(self.name(), acceptor, &now);
        judged.inspect_err(|_| way.link.leave())
    }

    /// Takes a connection for what was agreed on it.
    fn agreed(&self, acceptor: &AcceptorState, link: Link) -> Agreed {
        if let Some(welcome) = link.mux {
            self.links.found_shared(acceptor.index);
            let way = self.adopt(acceptor, link.stream, link.chain, link.until, welcome);
            return Agreed::Many(way);
        }
        if self.links.found_plain(acceptor.index) && self.config.tunnel == Wanted::Mux {
            tracing::warn!(
                backend = %self.name(),
                acceptor = %acceptor.name,
                "tunnel = \"mux\" is not to be had there: each client, or request at once, has a link connection of its own"
            );
        }
        Agreed::One(Box::new(Carried::from(link)))
    }

    /// Opens another link beside those that are busy.
    fn open_another(self: &Arc<Self>, acceptor: &Arc<AcceptorState>, turn: Turn) {
        let (backend, acceptor) = (Arc::clone(self), Arc::clone(acceptor));
        self.links.drain.spawn(async move {
            let dialling = Box::pin(acceptor.dialler.dial_mux());
            match tokio::time::timeout(backend.config.connect_timeout, dialling).await {
                Ok(Ok(Some(Dialled {
                    stream,
                    chain,
                    until,
                    resumed,
                    mux: Some(welcome),
                    ..
                }))) => {
                    backend.metrics().handshake(resumed);
                    let way = backend.adopt(&acceptor, stream, chain, until, welcome);
                    // nobody is left who could use it
                    if backend.links.are_closed() {
                        way.link.leave();
                    }
                }
                // clients have their links, and find out themselves when they need another
                Ok(Ok(Some(_) | None)) | Err(_) => {}
                Ok(Err(denied)) => tracing::debug!(%denied, "no further link"),
            }
            drop(turn);
        });
    }

    /// Starts what carries the streams of a connection.
    fn adopt(
        &self,
        acceptor: &AcceptorState,
        stream: LinkStream,
        chain: Arc<[CertificateDer<'static>]>,
        until: Option<UnixSeconds>,
        welcome: Welcome,
    ) -> Way {
        let link = mux::Link::new(Side::Gateway);
        let limits = mux::Limits {
            first: None,
            idle: self.config.pool.idle_timeout,
        };
        let abort = |stream: &LinkStream| stream.io().abort();
        let driver = mux::Driver::new(stream, link.clone(), Side::Gateway, limits, abort);
        let (forced, ending) = (self.links.drain.forced(), link.clone());
        let (name, at) = (Arc::clone(self.name()), acceptor.name.clone());
        self.links.drain.spawn(async move {
            let ended = tokio::select! {
                biased;
                ended = Box::pin(driver.run(|_, _| {})) => ended,
                () = async {
                    forced.cancelled().await;
                    ending.end(Denied::new(Denial::Draining, "drain_timeout is over"));
                } => None,
            };
            if let Some(why) = ended {
                tracing::warn!(
                    backend = %name,
                    acceptor = %at,
                    reason = why.reason.code(),
                    detail = %why.detail,
                    "link ended"
                );
            }
        });
        let way = Way::new(link, chain, until, welcome);
        self.links.keep(acceptor.index, &way);
        way
    }

    /// Begins a client's stream; `None`: the link takes it no more.
    async fn stream(
        &self,
        way: Way,
        acceptor: &Arc<AcceptorState>,
        client: &ClientFacts,
        ahead: &mut Ahead,
    ) -> Option<Result<Carried, Denied>> {
        let limit = self.config.connect_timeout;
        let lease = self.lease(acceptor);
        let began = Instant::now();
        let (mut stream, sent) = way.open(&dial::open(client), ahead)?;
        if self.links.are_closed() {
            // it serves this client alone
            way.link.leave();
        }
        let denied = match tokio::time::timeout(limit, stream.admitted()).await {
            // its backend has heard nothing, and the client neither: there is another link
            Ok(Ok(())) if sent == 0 && way.link.ended().is_some() => return None,
            Ok(Ok(())) => {
                acceptor.succeeded();
                return Some(Ok(Carried {
                    upstream: Upstream::Stream(stream),
                    lease,
                    until: way.until,
                    chain: way.chain,
                    ahead: sent,
                    connect: began.elapsed(),
                    facts: None,
                    home: way.home,
                }));
            }
            Ok(Err(Break::Refused(code))) if code == Denial::Draining.code() => {
                way.link.leave();
                return None;
            }
            Ok(Err(Break::Refused(code))) => refusal(&code),
            Ok(Err(why @ (Break::Reset | Break::Link | Break::Cut | Break::Over))) => {
                if sent == 0 || !stream.was_said() {
                    return None;
                }
                // a backend may have them, and must not get them twice
                ahead.spent = true;
                let why = format!("{why}, and the client's first bytes were on it");
                Denied::new(Denial::UpstreamBroken, why)
            }
            Err(_elapsed) => {
                // the next asks on another
                way.link.leave();
                ahead.spent = sent > 0 && stream.was_said();
                let why = format!("not admitted within connect_timeout = {limit:?}");
                Denied::new(Denial::UpstreamTimeout, why)
            }
        };
        Some(Err(self.failed(acceptor, client, named(acceptor, denied))))
    }
}

/// Adds which acceptor it was.
fn named(acceptor: &AcceptorState, denied: Denied) -> Denied {
    Denied {
        detail: format!("acceptor {}: {}", acceptor.name, denied.detail),
        ..denied
    }
}
