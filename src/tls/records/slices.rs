//! What is to be sealed, where it lies in several places.

use std::io::IoSlice;

/// Several slices, read from front to back.
pub(super) struct Slices<'a> {
    bufs: &'a [IoSlice<'a>],
    /// Octets of the first that are taken.
    skip: usize,
    left: usize,
}

impl<'a> Slices<'a> {
    pub(super) fn new(bufs: &'a [IoSlice<'a>]) -> Self {
        let left = bufs
            .iter()
            .fold(0usize, |sum, buf| sum.saturating_add(buf.len()));
        Self {
            bufs,
            skip: 0,
            left,
        }
    }

    pub(super) fn is_one(&self) -> bool {
        self.bufs.len() <= 1
    }

    pub(super) fn left(&self) -> usize {
        self.left
    }

    fn first(&self) -> &'a [u8] {
        let first: &'a [u8] = self.bufs.first().map(|buf| &**buf).unwrap_or_default();
        first.get(self.skip..).unwrap_or_default()
    }

    fn advance(&mut self, n: usize) {
        self.left = self.left.saturating_sub(n);
        self.skip = self.skip.saturating_add(n);
        while let Some((first, rest)) = self.bufs.split_first()
            && self.skip >= first.len()
        {
            self.skip = self.skip.saturating_sub(first.len());
            self.bufs = rest;
        }
    }

    /// The next `n` octets, where they lie in one slice.
    pub(super) fn whole(&mut self, n: usize) -> Option<&'a [u8]> {
        let data = self.first().get(..n)?;
        self.advance(n);
        Some(data)
    }

    pub(super) fn copy(&mut self, mut to: &mut [u8]) {
        while !to.is_empty() && self.left > 0 {
            let from = self.first();
            let n = from.len().min(to.len());
            let (place, rest) = to.split_at_mut(n);
            place.copy_from_slice(from.get(..n).unwrap_or_default());
            self.advance(n);
            to = rest;
        }
    }
}
