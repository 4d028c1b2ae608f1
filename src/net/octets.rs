//! Octets that are handed from one task to another: few in memory of their size, many in a
//! borrowed buffer.

use std::io::IoSlice;

use bytes::Bytes;

use super::pool::{Chunk, MUCH, SIZE};
use crate::wire::mux::{JOINED, Payload};

/// Some octets, at most 64 KiB.
#[derive(Debug)]
pub struct Octets(Memory);

#[derive(Debug)]
enum Memory {
    Few(Vec<u8>),
    /// More than half of the buffer.
    Many(Chunk, usize),
}

impl Octets {
    /// Room for so many; what is in it says nothing.
    #[must_use]
    pub fn room(len: usize) -> Self {
        if len > MUCH && len <= SIZE {
            Self(Memory::Many(Chunk::take(), len))
        } else {
            Self(Memory::Few(vec![0; len.min(SIZE)]))
        }
    }

    /// A copy.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.len() <= MUCH {
            return Self(Memory::Few(bytes.to_vec()));
        }
        let mut octets = Self::room(bytes.len());
        for (to, from) in octets.bytes_mut().chunks_mut(SIZE).zip(bytes.chunks(SIZE)) {
            if to.len() == from.len() {
                to.copy_from_slice(from);
            }
        }
        octets
    }

    /// A copy of the first `n` of several pieces.
    #[must_use]
    pub fn gathered(pieces: &[IoSlice<'_>], n: usize) -> Self {
        if let [piece] = pieces {
            return Self::of(piece.get(..n).unwrap_or(piece));
        }
        let mut octets = Self::room(n);
        let mut to = octets.bytes_mut();
        for piece in pieces {
            let len = piece.len().min(to.len());
            let (here, rest) = to.split_at_mut(len);
            here.copy_from_slice(piece.get(..len).unwrap_or_default());
            to = rest;
        }
        octets
    }

    /// The first `len` of a buffer.
    pub(super) fn whole(chunk: Chunk, len: usize) -> Self {
        Self(Memory::Many(chunk, len.min(SIZE)))
    }

    /// The buffer that they are in, and how many they are; few are in none.
    pub(super) fn into_chunk(self) -> Option<(Chunk, usize)> {
        match self.0 {
            Memory::Few(_) => None,
            Memory::Many(chunk, len) => Some((chunk, len)),
        }
    }

    /// Whether they are in a buffer, which can be handed on.
    #[must_use]
    pub fn are_many(&self) -> bool {
        matches!(self.0, Memory::Many(..))
    }

    /// To be written to.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Memory::Few(bytes) => bytes,
            Memory::Many(chunk, len) => chunk.bytes_mut().get_mut(..*len).unwrap_or_default(),
        }
    }
}

impl AsRef<[u8]> for Octets {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl From<Octets> for Bytes {
    /// As they are: their buffer is given back with the last of them.
    fn from(octets: Octets) -> Self {
        Self::from_owner(octets)
    }
}

impl Payload for Octets {
    fn bytes(&self) -> &[u8] {
        match &self.0 {
            Memory::Few(bytes) => bytes,
            Memory::Many(chunk, len) => chunk.bytes().get(..*len).unwrap_or_default(),
        }
    }

    fn join(&mut self, behind: Self) -> Result<(), Self> {
        match (&mut self.0, &behind.0) {
            (Memory::Few(bytes), Memory::Few(more))
                if bytes.len().saturating_add(more.len()) <= JOINED =>
            {
                bytes.extend(more);
                Ok(())
            }
            _ => Err(behind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_joined_and_many_keep_their_place() {
        for len in [1, 100, SIZE / 2, SIZE / 2 + 1, SIZE] {
            let sent: Vec<u8> = (0..len).map(|n| n.to_le_bytes()[0]).collect();
            let octets = Octets::of(&sent);
            assert_eq!(octets.bytes(), sent);
            assert_eq!(Octets::room(len).bytes_mut().len(), len);
        }
        let mut first = Octets::of(b"ab");
        first.join(Octets::of(b"cd")).unwrap();
        assert_eq!(first.bytes(), b"abcd");
        let big = Octets::of(&vec![1; JOINED]);
        assert_eq!(first.join(big).unwrap_err().bytes().len(), JOINED);
        assert_eq!(first.bytes(), b"abcd");
    }
}
