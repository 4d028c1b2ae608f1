//! Sockets: listening, dialling, buffering, and carrying bytes from one side to the other.

mod buffered;
mod dial;
pub mod exposure;
pub mod fd;
mod hold;
mod inherited;
mod listener;
mod octets;
mod pool;
mod relay;
mod socket;
mod stalls;

pub use buffered::Buffered;
pub use dial::{dial, dial_brief};
pub use hold::{Abort, Hold, WriteLast};
pub use inherited::Inherited;
pub use listener::{AcceptBackoff, BindError, Listener};
pub use octets::Octets;
pub(crate) use pool::{Chunk, PIECE};
pub use relay::{Progress, RelayCause, RelayEnd, RelayOptions, Side, relay};
pub use socket::Socket;
pub use stalls::{Stalled, Stalls};
