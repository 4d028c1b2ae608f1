//! The frames of the gateway-acceptor link, agreed by ALPN [`ALPN`]: `type u8 | length u24 |
//! payload`. One OPEN goes up and one ADMITTED or REFUSED comes down. In version 1 raw bytes follow
//! ADMITTED; in version 2 ([`REUSED_ALPN`]) DATA frames do, and after a FIN each way the next OPEN.
//! A link that carries many streams at once has frames of its own: `wire/mux`.

use std::{fmt, net::SocketAddr};

pub(in crate::wire) mod codec;

#[cfg(test)]
mod tests;

pub use codec::{decode, encode, header, header_of};

/// The protocol name in TLS; its number is the version of the frames.
pub const ALPN: &[u8] = b"portcullis/1";
/// The same for a link that is used again.
pub const REUSED_ALPN: &[u8] = b"portcullis/2";
/// Octets of a stream.
pub const DATA: u8 = 4;
/// The end of a stream in one direction.
pub const FIN: u8 = 5;
/// The most octets that one DATA announces. They are passed on as they come, so it bounds no
/// memory.
pub const MAX_DATA: usize = (1 << 24) - 1;
/// Type and length.
pub const HEADER_LEN: usize = 4;
/// The longest payload.
pub const MAX_PAYLOAD: usize = 4096;
/// The longest server name in OPEN.
pub const MAX_AUTHORITY: usize = 255;
/// The longest client identity in OPEN.
pub const MAX_IDENTITY: usize = 512;
/// The longest code in REFUSED.
pub const MAX_CODE: usize = 64;

/// What a connection is called in the logs of both ends. `Display` is lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub [u8; 16]);

/// What the gateway says of a client before its first byte. All but the connection id is the
/// gateway's word, to be believed because the gateway was admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Made by the gateway.
    pub connection: ConnectionId,
    /// The client's address.
    pub source: Option<SocketAddr>,
    /// The address that the client dialled.
    pub destination: Option<SocketAddr>,
    /// The server name that the client asked for; visible ASCII, at most [`MAX_AUTHORITY`].
    pub authority: Option<String>,
    /// The client's identity where it showed a certificate; no control characters, at most
    /// [`MAX_IDENTITY`] bytes.
    pub identity: Option<String>,
    /// The gateway's own http mode speaks here: what its requests say of their clients is its
    /// word, not the clients'.
    pub http: bool,
}

impl Open {
    /// An OPEN that says nothing but the id.
    #[must_use]
    pub const fn new(connection: ConnectionId) -> Self {
        Self {
            connection,
            source: None,
            destination: None,
            authority: None,
            identity: None,
            http: false,
        }
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Gateway to acceptor: a client's connection begins.
    Open(Box<Open>),
    /// Acceptor to gateway: the gateway was admitted and the backend was reached.
    Admitted,
    /// Acceptor to gateway: the code of a [`crate::admit::Denial`]. The connection closes.
    Refused(String),
}

/// Why bytes are no frame. Nothing but closing is right then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Reserved or never given.
    #[error("link frame has type {0}, expected 1 (OPEN), 2 (ADMITTED) or 3 (REFUSED)")]
    Type(u8),
    /// Too long.
    #[error("link frame announces {0} bytes, expected at most {MAX_PAYLOAD}")]
    TooLong(usize),
    /// OPEN ends before its version or mode.
    #[error("OPEN ends before its {0}")]
    Short(&'static str),
    /// Another release.
    #[error("OPEN has version {0}, expected 1")]
    Version(u8),
    /// A later mode.
    #[error("OPEN asks for mode {0}, expected 0 (direct)")]
    Mode(u8),
    /// A field runs past the end.
    #[error("a field of the link frame runs past its end")]
    Overrun,
    /// A field stands twice.
    #[error("field {0} of OPEN stands more than once")]
    Repeated(u8),
    /// A field can't be what it should.
    #[error("field {kind} of OPEN is malformed: expected {expected}")]
    Field {
        /// Its type.
        kind: u8,
        /// In words.
        expected: &'static str,
    },
    /// No connection id.
    #[error("OPEN carries no connection id")]
    NoConnection,
    /// REFUSED without a code.
    #[error("REFUSED carries no code of 1 to {MAX_CODE} lower-case letters, digits or underscores")]
    Code,
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // written whole: ids are shown with every request
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            if let [high, low] = pair {
                (*high, *low) = (hex_digit(byte >> 4), hex_digit(byte & 15));
            }
        }
        f.pad(str::from_utf8(&text).unwrap_or_default())
    }
}

fn hex_digit(value: u8) -> u8 {
    match value {
        0..=9 => value.saturating_add(b'0'),
        _ => value.saturating_sub(10).saturating_add(b'a'),
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection:{self}")
    }
}
