//! Link connections of tcp mode that carry one client after the other: kept when a client's stream
//! has ended in both directions, taken for the next, and never used beyond `pool`, their
//! certificate, or a reload.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    task::unconstrained,
};
use tokio_util::sync::CancellationToken;

use super::{
    BackendRuntime, ClientFacts, Link,
    backend::Lease,
    dial::{self, LinkStream},
};
use crate::{
    admit::Denied,
    clock,
    config::{Pool, Tunnel as Wanted},
    drain::Drain,
    identity::UnixSeconds,
    net::{Hold, Octets},
    serve::{Tunnel, link, mux, spread},
    workers::Home,
};

/// The way to the backend for one client.
pub(super) enum Upstream {
    /// The connection is the client's.
    Direct(LinkStream),
    /// It is used again.
    Tunnel(Tunnel<LinkStream>),
    /// It is shared with others.
    Stream(mux::Stream),
}

impl Upstream {
    pub(super) fn new(stream: LinkStream, reused: bool) -> Self {
        if reused {
            Self::Tunnel(Tunnel::new(stream))
        } else {
            Self::Direct(stream)
        }
    }

    /// The link that it shares.
    pub(super) fn link(&self) -> Option<&mux::Link> {
        match self {
            Self::Direct(_) | Self::Tunnel(_) => None,
            Self::Stream(stream) => Some(stream.link()),
        }
    }

    /// Resets the connection, or its own stream of one.
    pub(super) fn abort(&self) {
        let stream = match self {
            Self::Direct(stream) => stream,
            Self::Tunnel(tunnel) => tunnel.get_ref(),
            Self::Stream(stream) => return stream.reset(),
        };
        stream.io().abort();
    }

    /// The connection, where it can carry another client.
    pub(super) fn free(self) -> Option<LinkStream> {
        match self {
            Self::Direct(_) | Self::Stream(_) => None,
            Self::Tunnel(tunnel) => tunnel.finish().ok(),
        }
    }
}

impl Hold for Upstream {
    fn hold(&mut self) {
        match self {
            Self::Direct(stream) => stream.hold(),
            Self::Tunnel(tunnel) => tunnel.hold(),
            // frames go out together anyway
            Self::Stream(_) => {}
        }
    }

    fn says_its_end(&self) -> bool {
        match self {
            Self::Direct(_) | Self::Tunnel(_) => false,
            Self::Stream(stream) => stream.says_its_end(),
        }
    }

    fn may_lose(&self) -> bool {
        match self {
            Self::Direct(stream) => stream.may_lose(),
            Self::Tunnel(tunnel) => tunnel.may_lose(),
            // a reset goes behind it
            Self::Stream(_) => false,
        }
    }

    fn has_sent(&self) -> bool {
        match self {
            Self::Direct(stream) => stream.has_sent(),
            Self::Tunnel(tunnel) => tunnel.has_sent(),
            Self::Stream(_) => true,
        }
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self {
            Self::Direct(_) | Self::Tunnel(_) => Poll::Pending,
            Self::Stream(stream) => stream.poll_broken(cx),
        }
    }

    fn poll_lend(&mut self, cx: &mut Context<'_>) -> Option<Poll<io::Result<Option<Octets>>>> {
        match self {
            Self::Direct(_) | Self::Tunnel(_) => None,
            Self::Stream(stream) => stream.poll_lend(cx),
        }
    }

    fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        octets: &mut Option<Octets>,
    ) -> Option<Poll<io::Result<usize>>> {
        match self {
            Self::Direct(_) | Self::Tunnel(_) => None,
            Self::Stream(stream) => stream.poll_give(cx, octets),
        }
    }
}

impl AsyncRead for Upstream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Direct(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_read(cx, buf),
            Self::Stream(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Direct(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_write(cx, buf),
            Self::Stream(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Direct(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_write_vectored(cx, bufs),
            Self::Stream(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Direct(stream) => stream.is_write_vectored(),
            Self::Tunnel(tunnel) => tunnel.is_write_vectored(),
            Self::Stream(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Direct(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_flush(cx),
            Self::Stream(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Direct(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_shutdown(cx),
            Self::Stream(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A connection between two clients.
pub(super) struct Kept {
    stream: LinkStream,
    /// The thread that hears it.
    home: Home,
    /// The acceptor's place among the backend's.
    acceptor: usize,
    chain: Arc<[CertificateDer<'static>]>,
    until: Option<UnixSeconds>,
    /// From then on it takes no client.
    retires: Option<UnixSeconds>,
    opened: Instant,
    since: Instant,
}

/// What became of an OPEN on a kept connection.
pub(super) enum Reopened {
    /// The acceptor admitted the client.
    Admitted(Kept),
    /// The acceptor answered otherwise.
    Refused(Denied),
    /// There was no answer: the connection had been closed.
    Gone,
}

impl Kept {
    /// Names the next client.
    pub(super) async fn open(mut self, client: &ClientFacts) -> Reopened {
        let said = link::write_open(&mut self.stream, dial::open(client)).await;
        if said.is_err() {
            return Reopened::Gone;
        }
        match link::read_answer(&mut self.stream).await {
            Ok(Ok(())) => Reopened::Admitted(self),
            Ok(Err(denied)) => Reopened::Refused(denied),
            Err(_closed) => Reopened::Gone,
        }
    }

    pub(super) fn into_link(self, lease: Lease, connect: Duration) -> Link {
        Link {
            stream: self.stream,
            home: self.home,
            lease,
            until: self.until,
            chain: self.chain,
            connect,
            opened: self.opened,
            reused: true,
            mux: None,
        }
    }

    fn fits(&self, pool: &Pool) -> bool {
        let over = self.retires.is_some_and(|end| clock::now() > end);
        !over && self.opened.elapsed() < pool.max_age && self.since.elapsed() < pool.idle_timeout
    }

    /// Nothing came from the acceptor, not even an end.
    fn is_quiet(&mut self) -> bool {
        // a task that has done much would be told to wait, and nothing would be asked
        let mut one = [0];
        let read = unconstrained(self.stream.read(&mut one));
        read.now_or_never().is_none()
    }
}

/// What has to be kept of a link while its client's stream is under way.
pub(super) struct Facts {
    home: Home,
    acceptor: usize,
    chain: Arc<[CertificateDer<'static>]>,
    until: Option<UnixSeconds>,
    opened: Instant,
}

impl Facts {
    pub(super) fn of(link: &Link) -> Self {
        Self {
            home: link.home,
            acceptor: link.lease.state().index,
            chain: Arc::clone(&link.chain),
            until: link.until,
            opened: link.opened,
        }
    }
}

/// A backend's connections between two clients, the last used at the end; `None`: none is kept any
/// more.
pub(super) struct KeptLinks(Mutex<Option<Vec<Kept>>>);

impl Default for KeptLinks {
    fn default() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }
}

impl KeptLinks {
    fn with<T>(&self, look: impl FnOnce(&mut Option<Vec<Kept>>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The one that was used last, of this thread if there is one: the others may then expire.
    pub(super) fn take(&self, acceptor: usize, pool: &Pool) -> Option<Kept> {
        loop {
            let mut kept = self.with(|list| {
                let list = list.as_mut()?;
                let of_it = |kept: &Kept| kept.acceptor == acceptor;
                let here = |kept: &Kept| of_it(kept) && kept.home == Home::here();
                let at = list.iter().rposition(here);
                let at = at.or_else(|| list.iter().rposition(of_it))?;
                Some(list.remove(at))
            })?;
            if kept.fits(pool) && kept.is_quiet() {
                return Some(kept);
            }
        }
    }

    pub(super) fn put(&self, stream: LinkStream, facts: Facts, pool: &Pool) {
        let kept = Kept {
            stream,
            home: facts.home,
            acceptor: facts.acceptor,
            chain: facts.chain,
            until: facts.until,
            retires: spread(facts.until),
            opened: facts.opened,
            since: Instant::now(),
        };
        if !kept.fits(pool) {
            return;
        }
        self.with(|list| {
            if let Some(list) = list
                && list.len() < pool.idle
            {
                list.push(kept);
            }
        });
    }

    fn expire(&self, pool: &Pool) {
        self.with(|list| {
            if let Some(list) = list {
                list.retain_mut(|kept| kept.fits(pool) && kept.is_quiet());
            }
        });
    }

    fn close(&self) {
        drop(self.with(Option::take));
    }
}

/// Looks after a backend's kept connections until told to stop: then another configuration is in
/// force, and they are closed.
pub fn start(backend: &Arc<BackendRuntime>, drain: &Drain, stop: &CancellationToken) {
    if backend.config.tunnel == Wanted::Direct {
        return;
    }
    let weak = Arc::downgrade(backend);
    let stop = stop.clone();
    let every = (backend.config.pool.idle_timeout / 4).max(Duration::from_millis(250));
    drain.spawn(async move {
        while tokio::time::timeout(every, stop.cancelled()).await.is_err() {
            let Some(backend) = weak.upgrade() else {
                return;
            };
            backend.kept.expire(&backend.config.pool);
            backend.links.expire(&backend.config.pool);
        }
        if let Some(backend) = weak.upgrade() {
            backend.kept.close();
            backend.links.close();
        }
    });
}
