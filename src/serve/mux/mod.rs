//! A link that carries many streams at once: one task owns the connection ([`Driver`]), and each
//! stream is read and written by a task of its own ([`Stream`]). Between them stands the state of
//! `wire/mux` under a lock that is held for no copy of octets and across no wait.

mod company;
mod driver;
mod incoming;
mod stream;

#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::Duration,
};

pub use driver::{Driver, Limits};
pub use stream::Stream;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::{
    admit::{Denial, Denied},
    net::Octets,
    tls::alert::{self, Side as Tls},
    wire::{
        link::{self, Open},
        mux::{HEADER_LEN, Header, Kind, Mux, Side, Welcome},
    },
};

/// How long the last word to a peer may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// A link, for whoever opens streams on it or ends it.
#[derive(Clone)]
pub struct Link(Arc<Mutex<State>>);

struct State {
    mux: Mux<Octets>,
    /// The driver, while it sleeps.
    driver: Option<Waker>,
    /// Why the link is no more.
    ended: Option<Denied>,
}

impl Link {
    /// A link without streams.
    #[must_use]
    pub fn new(side: Side) -> Self {
        Self(Arc::new(Mutex::new(State {
            mux: Mux::new(side),
            driver: None,
            ended: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acts on the state, and wakes whom that concerns.
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut woken = Vec::new();
        let mut state = self.lock();
        let result = act(&mut state);
        state.mux.woken(&mut woken);
        let driver = state.mux.has_work().then(|| state.driver.take()).flatten();
        drop(state);
        woken.into_iter().chain(driver).for_each(Waker::wake);
        result
    }

    /// Begins a stream for a client; `None`: this link takes no more.
    /// What is to go `ahead` of the answer is what [`Mux::open`] takes.
    #[must_use]
    pub fn open(&self, open: &Open, ahead: Option<Octets>) -> Option<Stream> {
        let id = self.with(|state| state.mux.open(open, ahead))?;
        Some(Stream::new(self.clone(), id))
    }

    /// Streams under way; `None`: another can't begin.
    #[must_use]
    pub fn load(&self) -> Option<usize> {
        let state = self.lock();
        state.mux.has_room().then(|| state.mux.live())
    }

    /// It takes no stream any more; without any it closes.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.lock().mux.is_leaving()
    }

    /// No stream begins any more, and the link closes when the last has ended.
    pub fn leave(&self) {
        self.with(|state| state.mux.leave());
    }

    /// Breaks every stream, for this reason; the first one stays. What came before is handed on.
    pub fn end(&self, why: Denied) {
        self.with(|state| {
            state.ended.get_or_insert(why);
            state.mux.break_all();
        });
    }

    /// The same where nothing more may be handed on: what was under way is broken for this reason,
    /// though the link were no more.
    pub fn cut(&self, why: Denied) {
        self.with(|state| {
            state.ended = Some(why);
            state.mux.cut_all();
        });
    }

    /// Why it is no more.
    #[must_use]
    pub fn ended(&self) -> Option<Denied> {
        self.lock().ended.clone()
    }

    fn poll<T>(&self, act: impl FnOnce(&mut Mux<Octets>) -> Poll<T>) -> Poll<T> {
        self.with(|state| act(&mut state.mux))
    }
}

/// Says that the gateway is in, and what we can do.
///
/// # Errors
/// The connection is broken.
pub async fn write_welcome(stream: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
    let welcome = Welcome { ahead: true }.bytes();
    let header = Header {
        kind: Kind::Admitted,
        len: welcome.len(),
        stream: 0,
    };
    stream
        .write_all(&[&header.bytes(), welcome].concat())
        .await?;
    stream.flush().await
}

/// Reads that we are in, the acceptor's first word, and what it can do.
///
/// # Errors
/// Why we are not.
pub async fn read_welcome(stream: &mut (impl AsyncRead + Unpin)) -> Result<Welcome, Denied> {
    let broken = |error: std::io::Error| alert::explain(&error, Tls::Client);
    let invalid = |what: String| Denied::new(Denial::LinkViolation, what);
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).await.map_err(broken)?;
    let header = Header::read(header).map_err(|violation| invalid(violation.to_string()))?;
    let mut payload = vec![0; header.len.min(link::MAX_PAYLOAD)];
    match (header.kind, header.stream) {
        (Kind::Admitted, 0) => {
            stream.read_exact(&mut payload).await.map_err(broken)?;
            Welcome::read(&payload).map_err(|error| invalid(error.to_string()))
        }
        (Kind::Refused, 0) => {
            stream.read_exact(&mut payload).await.map_err(broken)?;
            Err(super::link::refusal(&String::from_utf8_lossy(&payload)))
        }
        (kind, _) => Err(invalid(format!(
            "the acceptor's first frame is {kind:?}, expected ADMITTED"
        ))),
    }
}
