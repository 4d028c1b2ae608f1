//! The header of a frame, and what it may say.

use super::{MAX_DATA, Violation};
use crate::wire::{
    cursor::Cursor,
    link::{FrameError, MAX_CODE, MAX_PAYLOAD},
};

/// Type, length and stream.
pub const HEADER_LEN: usize = 8;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Gateway to acceptor: a client's stream begins.
    Open = 1,
    /// Acceptor to gateway: the backend is open. Of stream 0: the gateway is in.
    Admitted = 2,
    /// Acceptor to gateway: the stream is not carried. Of stream 0, either way: the link ends.
    Refused = 3,
    /// Octets.
    Data = 4,
    /// The end of a direction.
    Fin = 5,
    /// The stream is broken.
    Reset = 6,
    /// Are you there?
    Ping = 7,
    /// Yes.
    Pong = 8,
    /// So many octets more may be sent.
    Window = 9,
    /// Acceptor to gateway: no OPEN more.
    GoAway = 10,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Open,
        Self::Admitted,
        Self::Refused,
        Self::Data,
        Self::Fin,
        Self::Reset,
        Self::Ping,
        Self::Pong,
        Self::Window,
        Self::GoAway,
    ];
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// Octets behind the header.
    pub len: usize,
    /// Whose it is; 0: the link's.
    pub stream: u32,
}

impl Header {
    /// Reads a header. What is wrong is told by it alone, so that nobody waits for the payload.
    ///
    /// # Errors
    /// The type is unknown, or the length or the stream is not one for it.
    pub fn read([kind, a, b, c, stream @ ..]: [u8; HEADER_LEN]) -> Result<Self, Violation> {
        let kind = Kind::ALL
            .into_iter()
            .find(|known| *known as u8 == kind)
            .ok_or(Violation::Type(kind))?;
        let len = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
        let stream = u32::from_be_bytes(stream);
        let fits = match kind {
            Kind::Open => 1..=MAX_PAYLOAD,
            Kind::Admitted => 0..=MAX_PAYLOAD,
            Kind::Refused => 1..=MAX_CODE,
            Kind::Data => 1..=MAX_DATA,
            Kind::Fin | Kind::Reset | Kind::GoAway => 0..=0,
            Kind::Ping | Kind::Pong => 8..=8,
            Kind::Window => 4..=4,
        };
        if !fits.contains(&len) {
            return Err(Violation::Length(kind, len));
        }
        let of_link = match kind {
            Kind::Ping | Kind::Pong | Kind::GoAway => true,
            Kind::Admitted | Kind::Refused => stream == 0,
            Kind::Open | Kind::Data | Kind::Fin | Kind::Reset | Kind::Window => false,
        };
        if of_link != (stream == 0) {
            return Err(Violation::Place(kind, stream));
        }
        Ok(Self { kind, len, stream })
    }

    /// Its octets.
    #[must_use]
    pub fn bytes(self) -> [u8; HEADER_LEN] {
        let [_, a, b, c] = u32::try_from(self.len).unwrap_or_default().to_be_bytes();
        let [d, e, f, g] = self.stream.to_be_bytes();
        [self.kind as u8, a, b, c, d, e, f, g]
    }
}

/// What an acceptor can do, as it says with the ADMITTED of stream 0. One of an earlier release says
/// nothing, and a gateway of one does not look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Welcome {
    /// Up to [`AHEAD`](super::AHEAD) octets of a client may follow its OPEN before that is answered;
    /// none of them reaches a backend before ADMITTED.
    pub ahead: bool,
}

/// The field that says [`Welcome::ahead`].
const AHEAD: u8 = 1;

impl Welcome {
    /// Reads it.
    ///
    /// # Errors
    /// Fields that are cut short. What is not known grants nothing.
    pub fn read(payload: &[u8]) -> Result<Self, FrameError> {
        let mut cursor = Cursor::new(payload);
        let mut welcome = Self::default();
        while !cursor.is_empty() {
            let (kind, value) = cursor.tlv().ok_or(FrameError::Overrun)?;
            welcome.ahead |= kind == AHEAD && value.is_empty();
        }
        Ok(welcome)
    }

    /// Its octets.
    #[must_use]
    pub fn bytes(self) -> &'static [u8] {
        match self.ahead {
            true => &[AHEAD, 0, 0],
            false => &[],
        }
    }
}
