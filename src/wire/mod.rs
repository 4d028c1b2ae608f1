//! What stands on the wire before and around the bytes that we pass: PROXY headers, the link's
//! frames, the `PostgreSQL` start, and the parts of an HTTP head that carry trust. Pure functions
//! over bytes and `http` types; nothing here reads a socket.

pub mod acme;
pub mod base64;
pub mod client_cert;
pub mod cursor;
pub mod digest;
pub mod forwarded;
pub mod frames;
pub mod framing;
pub mod hello;
pub mod host;
pub mod http1;
pub mod link;
pub mod mux;
pub mod path;
pub mod proxy;
pub mod signature;
pub mod starttls;
pub mod svid;
pub mod trace;

pub use link::{ALPN as LINK_ALPN, ConnectionId};
