//! A link that carries many clients' streams at once, agreed by ALPN [`ALPN`]: frames of `type u8 |
//! length u24 | stream u32 | payload`, and what both ends may do with them. Pure: bytes come and go
//! as values, time is an argument, and a [`Waker`](std::task::Waker) is handed back to be woken.
//!
//! The acceptor says ADMITTED of stream 0 as soon as the gateway is in, and with it what it can do
//! ([`Welcome`]). OPEN, with a number above all before, names a client; ADMITTED or REFUSED answers
//! it, and nothing of the client is sent before ADMITTED, but for a few octets where the acceptor
//! takes them. DATA stays within the window that the reader gave; WINDOW widens it. FIN ends a
//! direction, RESET the stream; before the answer to OPEN a gateway says it to few only, as an
//! acceptor takes few of those. REFUSED of stream 0 is the last word of an end that breaks the link
//! off, and says why. PING is answered by PONG; GOAWAY asks for no further OPEN.

mod codec;
mod ends;
mod incoming;
mod outgoing;
mod state;
mod stream;

#[cfg(test)]
mod tests;

pub use codec::{HEADER_LEN, Header, Kind, Welcome};
pub use incoming::Event;
pub use outgoing::Piece;
pub use state::{Mux, Side};

use super::link::FrameError;

/// The protocol name in TLS.
pub const ALPN: &[u8] = b"portcullis/3";
/// The most octets of one DATA: smaller ones cost more, and larger ones gain nothing.
pub const MAX_DATA: usize = 64 << 10;
/// Streams at once on one link.
pub const MAX_STREAMS: usize = 256;
/// What may be sent of a stream before its reader takes any.
pub const WINDOW: usize = 256 << 10;
/// The widest window, of a stream whose reader keeps pace.
pub const MAX_WINDOW: usize = 4 << 20;
/// By so much all windows of a link together may be wider than [`WINDOW`] each.
pub const GROWTH: usize = 32 << 20;
/// The least that WINDOW gives: crumbs are a flood.
pub const MIN_GRANT: usize = 32 << 10;
/// What a writer may have waiting for its turn on the link.
pub const QUEUE: usize = 64 << 10;
/// What may follow OPEN before its answer, where the acceptor says so.
pub const AHEAD: usize = 16 << 10;
/// Octets of answers that wait to be written; with more nothing is read.
pub const MAX_CONTROL: usize = 512 << 10;

/// Octets of a stream, owned.
pub trait Payload: Sized {
    /// The octets; never none.
    fn bytes(&self) -> &[u8];

    /// Takes what comes behind, where both are small: many crumbs must not cost more than they
    /// hold.
    ///
    /// # Errors
    /// The other, unchanged: it stands by itself.
    fn join(&mut self, behind: Self) -> Result<(), Self>;
}

/// Octets up to so many stand together.
pub const JOINED: usize = 16 << 10;

impl Payload for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn join(&mut self, behind: Self) -> Result<(), Self> {
        if self.len().saturating_add(behind.len()) > JOINED {
            return Err(behind);
        }
        self.extend(behind);
        Ok(())
    }
}

/// Why a stream is over before its ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Break {
    /// The other end reset it.
    #[error("the other end of the link reset the stream")]
    Reset,
    /// The acceptor refused it, for this reason.
    #[error("the acceptor answered {0:?}")]
    Refused(String),
    /// The link that carried it is no more.
    #[error("the link broke")]
    Link,
    /// Nothing of it may go on: the link was ended for what the other end is, or did.
    #[error("the link was cut")]
    Cut,
    /// We reset it ourselves.
    #[error("the stream is over")]
    Over,
}

/// What no end of ours does: the link ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Never given.
    #[error("a frame of type {0}, which no version has")]
    Type(u8),
    /// Too long, too short, or empty where that says nothing.
    #[error("{0:?} of {1} bytes")]
    Length(Kind, usize),
    /// On a stream where it belongs to the link, or the other way round.
    #[error("{0:?} on stream {1}")]
    Place(Kind, u32),
    /// The other end's to send.
    #[error("{0:?} from the wrong end")]
    Direction(Kind),
    /// Too early, too late, or twice.
    #[error("{0:?} of stream {1} out of turn")]
    Order(Kind, u32),
    /// A number that was used.
    #[error("OPEN of stream {0}, expected a number above {1}")]
    Used(u32, u32),
    /// A stream that never was.
    #[error("{0:?} of stream {1}, which was never opened")]
    Unopened(Kind, u32),
    /// More streams than a link carries.
    #[error("OPEN of stream {0}, and {MAX_STREAMS} are open")]
    Streams(u32),
    /// More than the reader gave leave for, or than may go ahead of the answer to OPEN.
    #[error("DATA of stream {0} beyond its window")]
    Credit(u32),
    /// A window that is too wide, or widened by a crumb.
    #[error(
        "WINDOW of stream {0} by {1} bytes: expected {MIN_GRANT} or more, to {MAX_WINDOW} in all"
    )]
    Window(u32, u32),
    /// Too many, for no use.
    #[error("a flood of {0:?}")]
    Flood(Kind),
    /// What OPEN, ADMITTED or REFUSED say.
    #[error("{0}")]
    Frame(#[from] FrameError),
}
