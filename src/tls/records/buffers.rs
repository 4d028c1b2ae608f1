//! What a connection borrows while data moves.

use crate::net::Chunk;

/// Where the kernel's copies are quick (see `net/pool.rs`).
const PAGE: usize = 4096;

/// Octets from the socket: opened and not taken, then records that are still closed.
pub(super) struct Input {
    chunk: Chunk,
    /// Opened content.
    plain: (usize, usize),
    start: usize,
    end: usize,
}

impl Input {
    /// Begins with what was kept of a record.
    pub(super) fn resume(tail: &[u8]) -> Self {
        let mut chunk = Chunk::take();
        let start = before_page(tail.len());
        let end = start.saturating_add(tail.len());
        if let Some(place) = chunk.wide_mut().get_mut(start..end) {
            place.copy_from_slice(tail);
        }
        Self {
            chunk,
            plain: (0, 0),
            start,
            end,
        }
    }

    pub(super) fn plain(&self) -> &[u8] {
        let (start, end) = self.plain;
        self.chunk.wide().get(start..end).unwrap_or_default()
    }

    pub(super) fn take(&mut self, n: usize) {
        let (start, end) = self.plain;
        self.plain = (start.saturating_add(n).min(end), end);
    }

    /// What is still closed.
    pub(super) fn closed(&self) -> &[u8] {
        self.chunk
            .wide()
            .get(self.start..self.end)
            .unwrap_or_default()
    }

    /// What follows `skip` octets of what is closed, up to `len` of them.
    pub(super) fn payload_mut(&mut self, skip: usize, len: usize) -> &mut [u8] {
        let (start, end) = (
            self.start.saturating_add(skip),
            self.start.saturating_add(len),
        );
        self.chunk
            .wide_mut()
            .get_mut(start..end)
            .unwrap_or_default()
    }

    /// Goes on behind a record of `len` octets whose opened content, behind `skip`, is `content`
    /// long.
    pub(super) fn advance(&mut self, len: usize, skip: usize, content: usize) {
        let plain = self.start.saturating_add(skip);
        self.plain = (plain, plain.saturating_add(content));
        self.start = self.start.saturating_add(len).min(self.end);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.plain().is_empty() && self.start == self.end
    }

    /// Room behind what is closed, which is moved so that the room begins with a page. Nothing
    /// opened may be left.
    pub(super) fn room(&mut self) -> &mut [u8] {
        let len = self.end.saturating_sub(self.start);
        let start = before_page(len);
        if start != self.start {
            self.chunk
                .wide_mut()
                .copy_within(self.start..self.end, start);
            (self.start, self.end) = (start, start.saturating_add(len));
        }
        self.plain = (0, 0);
        self.chunk
            .wide_mut()
            .get_mut(self.end..)
            .unwrap_or_default()
    }

    /// So much of the room is filled.
    pub(super) fn filled(&mut self, n: usize) {
        self.end = self.end.saturating_add(n);
    }
}

/// Where something of `len` octets begins that ends with a page.
fn before_page(len: usize) -> usize {
    len.next_multiple_of(PAGE).saturating_sub(len)
}

/// Sealed records that the socket has not taken.
pub(super) struct Output {
    chunk: Chunk,
    start: usize,
    end: usize,
}

impl Output {
    /// Leaves `start` octets free at the front.
    pub(super) fn new(start: usize) -> Self {
        Self {
            chunk: Chunk::take(),
            start,
            end: start,
        }
    }

    pub(super) fn waiting(&self) -> &[u8] {
        self.chunk
            .wide()
            .get(self.start..self.end)
            .unwrap_or_default()
    }

    pub(super) fn sent(&mut self, n: usize) {
        self.start = self.start.saturating_add(n).min(self.end);
    }

    pub(super) fn room(&self) -> usize {
        self.chunk.wide().len().saturating_sub(self.end)
    }

    /// Room for a record of `len` octets, which counts as written.
    pub(super) fn record(&mut self, len: usize) -> Option<&mut [u8]> {
        let (start, end) = (self.end, self.end.checked_add(len)?);
        let record = self.chunk.wide_mut().get_mut(start..end)?;
        self.end = end;
        Some(record)
    }

    /// Takes back the last record, which was not sealed.
    pub(super) fn undo(&mut self, len: usize) {
        self.end = self.end.saturating_sub(len).max(self.start);
    }
}
