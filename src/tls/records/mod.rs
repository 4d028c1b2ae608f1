//! TLS 1.3's record layer after the handshake (RFC 8446 sections 4.6, 5 and 6), in place of the
//! buffered connection of rustls. rustls makes the handshake and the next keys; what is here opens
//! and seals records, and owns what comes between them: key updates, tickets, alerts, ends.
//!
//! An idle connection holds keys, counters and its socket: buffers are borrowed while data moves
//! and given back when a read says "not ready". Full records are opened from the socket's buffer
//! into the reader's, and sealed from the writer's buffer into the socket's: nothing is copied.
//!
//! Errors are those of rustls, so that one table (`tls/alert.rs`) explains both.

mod buffers;
mod drive;
mod early;
mod error;
#[cfg(any(test, fuzzing))]
pub mod harness;
mod key;
mod secrets;
mod session;
mod slices;
mod stream;
mod suites;

pub(crate) use drive::{client, server};
pub(crate) use secrets::{Cipher, noter};
pub use stream::RecordStream;
pub(crate) use suites::suite;

/// Octets of a record's header.
const HEADER: usize = 5;
/// Octets that authenticate a record.
const TAG: usize = 16;
/// The most content of a record.
const MAX_CONTENT: usize = 1 << 14;
/// The most of an encrypted record behind its header.
const MAX_PAYLOAD: usize = MAX_CONTENT + 256;
/// What a record of ours adds to its content: header, type and tag.
const OVERHEAD: usize = HEADER + 1 + TAG;

/// Records of one key that we seal before we take the next: RFC 8446 section 5.5 allows AES-GCM
/// 2^24.5 of full size.
const KEY_RECORDS: u64 = 1 << 23;
/// Key updates between two records with data; BoringSSL and rustls allow as many.
const KEY_UPDATES: u8 = 32;
/// Records without content one after the other; OpenSSL and rustls allow as many.
const EMPTY_RECORDS: u8 = 32;
/// Warnings (`user_canceled`) of a connection, as in rustls and BoringSSL.
const WARNINGS: u8 = 4;
/// The longest handshake message, as in rustls.
const MAX_MESSAGE: usize = 0xffff;

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Alert = 21,
    Handshake = 22,
    Data = 23,
}

#[cfg(test)]
mod tests;
