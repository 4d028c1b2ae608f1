//! Where one HTTP/1 request ends and the next begins (RFC 9112 sections 2, 5, 6 and 7), judged on
//! the bytes themselves before a parser sees them. Whatever two servers could read in two ways is
//! refused, also where the RFC lets a server repair it: a repaired message is one that somebody
//! behind us may read otherwise.
//!
//! A head passes whole or not at all; of a body passes what is judged.

pub(super) mod chunks;
mod head;

#[cfg(test)]
mod tests;

use chunks::{Chunks, Progress};
use head::Head;

pub use head::MAX_TARGET;

/// Why bytes are no request that has one reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not `method SP target SP HTTP/1.1 CRLF`.
    #[error("the request line is not \"METHOD target HTTP/1.1\" with single spaces")]
    RequestLine,
    /// Neither HTTP/1.1 nor HTTP/1.0.
    #[error("the version is neither HTTP/1.1 nor HTTP/1.0")]
    Version,
    /// RFC 9112 section 3.2.
    #[error(
        "the request target has none of the four forms, or one that does not go with its method"
    )]
    Target,
    /// The target is longer than any that is handed on.
    #[error("the request target is longer than {MAX_TARGET} bytes")]
    TargetTooLong,
    /// A line that does not end with CR LF.
    #[error("a line ends with a bare LF, or has a CR inside")]
    LineEnd,
    /// RFC 9112 section 5.2.
    #[error("a field line begins with white space (obsolete line folding)")]
    Folded,
    /// RFC 9112 section 5.1.
    #[error("white space stands before a field's colon")]
    SpaceBeforeColon,
    /// Not a token, or no colon.
    #[error("a field line is not \"name: value\" with a token for a name")]
    FieldName,
    /// A control character other than a tab.
    #[error("a field value has a control character")]
    FieldValue,
    /// Not one plain decimal number.
    #[error("Content-Length is not one decimal number without sign, padding or list")]
    Length,
    /// More than one.
    #[error("Content-Length stands there more than once")]
    LengthRepeated,
    /// RFC 9112 section 6.1.
    #[error("Content-Length and Transfer-Encoding stand together")]
    LengthAndCoding,
    /// Anything but one `chunked`.
    #[error("Transfer-Encoding is anything but one \"chunked\" in HTTP/1.1")]
    Coding,
    /// A CONNECT request with a body.
    #[error("a CONNECT request with Content-Length or Transfer-Encoding")]
    ConnectContent,
    /// Longer than `limits.header_bytes`.
    #[error("the head is longer than limits.header_bytes")]
    HeadTooLarge,
    /// A chunk's size is no plain hexadecimal number, or too large.
    #[error("a chunk's size is not a hexadecimal number of at most 16 digits")]
    ChunkSize,
    /// A chunk extension that is too long or has a control character.
    #[error(
        "a chunk extension is longer than {} bytes or has a control character",
        chunks::MAX_EXTENSION
    )]
    ChunkExtension,
    /// Chunk data does not end where its size says.
    #[error("a chunk's data does not end with CR LF where its size says")]
    ChunkEnd,
    /// Fields that decide about framing or routing, in trailers.
    #[error("the trailers carry a field that frames or routes a message")]
    Trailer,
    /// Longer than what is handed on.
    #[error("the trailers are longer than {} bytes", chunks::MAX_TRAILERS)]
    TrailersTooLarge,
}

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

/// How a request's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    /// After so many octets; none: at once.
    Sized(u64),
    /// With its last chunk.
    Chunked,
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
                let Some(end) = head.read(bytes).map_err(Stop::Head)? else {
                    if bytes.len() > self.header_bytes {
                        return Err(Stop::Head(Fault::HeadTooLarge));
                    }
                    return Ok(None);
                };
                if end > self.header_bytes {
                    return Err(Stop::Head(Fault::HeadTooLarge));
                }
                self.upgrade = head.asks_for_upgrade();
                self.phase = match head.length().map_err(Stop::Head)? {
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
                Progress::Passed(passed) => Ok(Some(passed)),
                Progress::Ended(passed) => {
                    self.phase = Phase::Head(Head::default());
                    Ok(Some(passed))
                }
            },
        }
    }
}
