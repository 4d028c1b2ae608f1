//! The requests of one connection, judged as the connection reads them. For tests: a connection
//! reads a head where it waits for one, and a body where somebody asks for it.

use http::HeaderMap;

use super::{Chunks, Fault, Head, Length, Progress};

/// What stands behind the bytes that pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The next head is refused. What came before it stands.
    Head(Fault),
    /// The body under way is refused, and the request with it.
    Body(Fault),
    /// The request asks for an upgrade or a tunnel: what follows is the next request only if it is not granted.
    Upgrade,
}

/// A judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// So many of the bytes may be handed on. What is left is to be shown again with what follows.
    pub pass: usize,
    /// Nothing behind them may.
    pub stop: Option<Stop>,
}

#[derive(Debug)]
enum Phase {
    Head(Head),
    Sized(u64),
    Chunked(Chunks),
}

/// Judges the requests of one connection.
#[derive(Debug)]
pub struct Guard {
    phase: Phase,
    /// The request under way asks for an upgrade.
    upgrade: bool,
    header_bytes: usize,
    heads: usize,
}

impl Guard {
    /// A connection's first request is awaited; heads of more than `header_bytes` are refused.
    #[must_use]
    pub fn new(header_bytes: usize) -> Self {
        Self {
            phase: Phase::Head(Head::default()),
            upgrade: false,
            header_bytes,
            heads: 0,
        }
    }

    /// So many heads have passed.
    #[must_use]
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Whether nothing of a request has come since the last one ended.
    #[must_use]
    pub fn is_between(&self) -> bool {
        matches!(&self.phase, Phase::Head(head) if head.is_untouched())
    }

    /// Judges bytes: those that did not pass before, and what came behind them.
    pub fn judge(&mut self, bytes: &[u8]) -> Verdict {
        let mut pass = 0_usize;
        loop {
            let left = bytes.get(pass..).unwrap_or_default();
            if left.is_empty() {
                return Verdict { pass, stop: None };
            }
            match self.step(left) {
                Ok(Some(passed)) => pass = pass.saturating_add(passed),
                Ok(None) => return Verdict { pass, stop: None },
                Err(stop) => {
                    let stop = Some(stop);
                    return Verdict { pass, stop };
                }
            }
            if self.upgrade && self.is_between() {
                self.upgrade = false;
                let stop = Some(Stop::Upgrade);
                return Verdict { pass, stop };
            }
        }
    }

    /// How many of the bytes pass now; `None`: more have to come first.
    fn step(&mut self, bytes: &[u8]) -> Result<Option<usize>, Stop> {
        match &mut self.phase {
            Phase::Head(head) => {
                let read = head.read(bytes, self.header_bytes);
                let Some(end) = read.map_err(Stop::Head)? else {
                    return Ok(None);
                };
                let head_bytes = bytes.get(..end).unwrap_or_default();
                let arrived = head.take(head_bytes, HeaderMap::new());
                let arrived = arrived.map_err(Stop::Head)?;
                self.upgrade = arrived.upgrade;
                self.phase = match arrived.length {
                    Length::Sized(0) => Phase::Head(Head::default()),
                    Length::Sized(length) => Phase::Sized(length),
                    Length::Chunked => Phase::Chunked(Chunks::default()),
                };
                self.heads = self.heads.wrapping_add(1);
                Ok(Some(end))
            }
            Phase::Sized(left) => {
                let here = u64::try_from(bytes.len()).unwrap_or(u64::MAX).min(*left);
                *left = left.saturating_sub(here);
                if *left == 0 {
                    self.phase = Phase::Head(Head::default());
                }
                // no more than there are bytes
                Ok(usize::try_from(here).ok())
            }
            Phase::Chunked(chunks) => match chunks.read(bytes).map_err(Stop::Body)? {
                Progress::More => Ok(None),
                Progress::Passed(passed) | Progress::Data(passed) => Ok(Some(passed)),
                Progress::Ended(passed) => {
                    self.phase = Phase::Head(Head::default());
                    Ok(Some(passed))
                }
            },
        }
    }
}
