//! A reader over a slice that can't run past its end: every access says what was missing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes not read yet. Every method takes from the front and returns `None` at the end.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    /// Starts at the front of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What is left.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// Nothing is left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// An IPv4 address in network order.
    pub fn ipv4(&mut self) -> Option<IpAddr> {
        self.array::<4>()
            .map(|octets| Ipv4Addr::from(octets).into())
    }

    /// An IPv6 address in network order; IPv4-mapped ones come out as IPv4.
    pub fn ipv6(&mut self) -> Option<IpAddr> {
        self.array::<16>()
            .map(|octets| Ipv6Addr::from(octets).to_canonical())
    }

    /// One TLV of `type u8 | length u16 | value`: `None` when the length runs past the end.
    pub fn tlv(&mut self) -> Option<(u8, &'a [u8])> {
        let kind = self.u8()?;
        let length = self.u16()?;
        Some((kind, self.take(usize::from(length))?))
    }
}
