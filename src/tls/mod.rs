//! TLS (RFC 8446, RFC 5246): one crypto provider, material loaded and cross-checked as one
//! [`Generation`], peers proven by webpki or by a pin, and handshakes that judge the peer before
//! they end, so that a refused peer gets the right alert and the log the exact reason.

pub mod alert;
mod chains;
pub mod challenge;
pub mod check;
pub mod client;
pub mod crl;
pub mod edge;
mod eras;
pub mod error;
mod first_bytes;
pub mod generation;
pub mod handshake;
pub mod key;
mod key_use;
mod known;
pub mod material;
pub mod ocsp;
mod open;
pub mod pace;
mod pending;
pub mod provider;
pub mod records;
mod refusal;
pub mod revocation;
pub mod server;
mod sessions;
mod shown;
mod signed;
pub mod staple;
mod stream;
pub mod svid;
pub mod tickets;
pub mod unverified;
pub mod verify;

pub use chains::Chain;
pub use client::{ClientTls, NameCheck};
pub use crl::Crl;
pub use edge::EdgeMaterial;
pub use error::{MaterialError, SetupError};
pub use generation::{Generation, LinkRole};
pub use handshake::{Accepted, Judge, SessionFacts, accept};
pub use open::{Connected, connect, connect_ahead, leave};
pub use server::ServerTls;
pub use shown::ShownNames;
pub use staple::{Staple, Staples};
pub use stream::TlsStream;
pub use svid::HeldSvid;
pub use verify::{Usage, Verification};

#[cfg(test)]
mod tests;

/// The application protocol of the link between our own two ends (RFC 7301).
pub const LINK_ALPN: &[u8] = crate::wire::LINK_ALPN;
/// The same where a connection carries one client after the other.
pub const REUSED_LINK_ALPN: &[u8] = crate::wire::link::REUSED_ALPN;
/// The same where a connection carries many clients at once.
pub const MUX_LINK_ALPN: &[u8] = crate::wire::mux::ALPN;
