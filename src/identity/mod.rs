//! What a certificate says, and the names by which peers are told apart. Pure.

pub mod cert;
pub mod name;
pub mod rule;
pub mod spiffe;

pub use cert::{CertError, CertFacts, ExtendedUsage, KeyUses, Serial, Sha256, UnixSeconds};
pub use name::{DnsName, DnsPattern};
pub use rule::{PeerName, PeerNameError, PeerNames};
pub use spiffe::{SpiffeId, SpiffeIdError, TrustDomain};
