//! An answer's body, taken off what was read.

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;

use super::answer::Length;
use crate::wire::framing::{Chunks, Fault, Progress};

/// A body as far as it has come.
#[derive(Debug)]
pub struct Decoder(State);

#[derive(Debug)]
enum State {
    Ended,
    Sized(u64),
    Chunked(Box<Chunks>),
    Close,
}

/// What was taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Octets of the body, not copied.
    Data(Bytes),
    /// What stood behind them; the body has ended.
    Trailers(HeaderMap),
    /// The body has ended.
    End,
}

impl Decoder {
    /// A body that ends so.
    #[must_use]
    pub fn new(length: Length) -> Self {
        Self(match length {
            Length::Absent | Length::Sized(0) | Length::Tunnel => State::Ended,
            Length::Sized(length) => State::Sized(length),
            Length::Chunked => State::Chunked(Box::new(Chunks::of_answer())),
            Length::Close => State::Close,
        })
    }

    /// Whether nothing more belongs to it.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self.0, State::Ended)
    }

    /// What is left of it, where that is known.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        match self.0 {
            State::Ended => Some(0),
            State::Sized(left) => Some(left),
            State::Chunked(_) | State::Close => None,
        }
    }

    /// So many octets of data come next, before anything else.
    #[must_use]
    pub fn data_next(&self) -> u64 {
        match &self.0 {
            State::Ended => 0,
            State::Sized(left) => *left,
            State::Chunked(chunks) => chunks.data_left().unwrap_or(0),
            State::Close => u64::MAX,
        }
    }

    /// So many of them came.
    pub fn took(&mut self, n: usize) {
        match &mut self.0 {
            State::Sized(left) => {
                *left = left.saturating_sub(u64::try_from(n).unwrap_or(u64::MAX));
                if *left == 0 {
                    self.0 = State::Ended;
                }
            }
            State::Chunked(chunks) => chunks.took(n),
            State::Ended | State::Close => {}
        }
    }

    /// Takes what is there; `None`: more has to come first.
    ///
    /// # Errors
    /// Its chunks have two readings.
    pub fn read(&mut self, buf: &mut BytesMut) -> Result<Option<Piece>, Fault> {
        match &mut self.0 {
            State::Ended => Ok(Some(Piece::End)),
            _ if buf.is_empty() => Ok(None),
            State::Close => Ok(Some(Piece::Data(buf.split().freeze()))),
            State::Sized(left) => {
                let here = usize::try_from(*left).map_or(buf.len(), |left| left.min(buf.len()));
                self.took(here);
                Ok(Some(Piece::Data(buf.split_to(here).freeze())))
            }
            State::Chunked(chunks) => {
                let piece = chunked(chunks, buf)?;
                if matches!(piece, Some(Piece::End | Piece::Trailers(_))) {
                    self.0 = State::Ended;
                }
                Ok(piece)
            }
        }
    }

    /// The connection has ended: whether that is this body's end.
    #[must_use]
    pub fn close(&mut self) -> bool {
        if matches!(self.0, State::Close) {
            self.0 = State::Ended;
        }
        self.is_ended()
    }
}

fn chunked(chunks: &mut Chunks, buf: &mut BytesMut) -> Result<Option<Piece>, Fault> {
    while !buf.is_empty() {
        match chunks.read(buf)? {
            Progress::More => return Ok(None),
            Progress::Data(n) => return Ok(Some(Piece::Data(buf.split_to(n).freeze()))),
            Progress::Passed(n) => buf.advance(n),
            Progress::Ended(n) => {
                buf.advance(n);
                let trailers = chunks.take_trailers();
                return Ok(Some(trailers.map_or(Piece::End, Piece::Trailers)));
            }
        }
    }
    Ok(None)
}
