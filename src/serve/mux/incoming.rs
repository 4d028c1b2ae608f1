//! The frame that comes on a link, as far as it has come.

use crate::{
    net::Octets,
    wire::mux::{HEADER_LEN, Header},
};

/// The frame that comes.
pub(super) enum Incoming {
    Header([u8; HEADER_LEN], usize),
    /// DATA; `false`: nobody wants it.
    Data(u32, Octets, usize, bool),
    Other(Header, Vec<u8>, usize),
}

impl Incoming {
    pub(super) const fn next() -> Self {
        Self::Header([0; HEADER_LEN], 0)
    }

    /// What has yet to come, and how much has.
    pub(super) fn missing(&mut self) -> (&mut [u8], &mut usize) {
        let (whole, have) = match self {
            Self::Header(bytes, have) => (&mut bytes[..], have),
            Self::Data(_, octets, have, _) => (octets.bytes_mut(), have),
            Self::Other(_, payload, have) => (&mut payload[..], have),
        };
        (whole.get_mut(*have..).unwrap_or_default(), have)
    }
}
