//! Where one HTTP/1 request ends and the next begins (RFC 9112 sections 2, 5, 6 and 7), judged on
//! the bytes themselves as they are read. Whatever two servers could read in two ways is refused,
//! also where the RFC lets a server repair it: a repaired message is one that somebody behind us
//! may read otherwise.
//!
//! A head passes whole or not at all; of a body passes what is judged.

mod chunks;
#[cfg(any(test, fuzzing))]
pub mod guard;
mod head;
#[cfg(test)]
mod oracle;

#[cfg(test)]
mod tests;

pub use chunks::{Chunks, Progress};
pub use head::{Arrived, Head, MAX_TARGET};

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
    /// More than any that are handed on.
    #[error("the head has more than {} fields", head::MAX_FIELDS)]
    TooManyFields,
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
    #[error(
        "the trailers are longer than {} bytes or more than {} fields",
        chunks::MAX_TRAILERS,
        head::MAX_FIELDS
    )]
    TrailersTooLarge,
}

/// How a request's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// After so many octets; none: at once.
    Sized(u64),
    /// With its last chunk.
    Chunked,
}

impl Length {
    /// There is no body.
    pub const NONE: Self = Self::Sized(0);
}
