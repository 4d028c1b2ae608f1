//! The certificate authority: a root, an issuing CA, role profiles, CRLs and the folder that
//! holds them (RFC 5280, SPIFFE X.509-SVID). Nothing here opens a socket.
//!
//! [`Authority`] is the whole API; [`store`] owns every file that is written.

pub mod algorithm;
pub mod authority;
mod ca;
mod change;
mod constraints;
mod crl;
mod error;
mod export;
mod held;
pub mod install;
mod issue;
mod leaving;
pub mod profile;
mod renew;
mod request;
mod revoke;
mod rotate;
pub mod serve;
pub mod state;
pub mod store;
mod verify;

pub use algorithm::{Algorithm, Passphrase};
pub use authority::{Authority, InitOptions};
pub use ca::{CaKind, CaRecord, CaStanding};
pub use crl::{CrlOptions, CrlReport};
pub use error::PkiError;
pub use export::{ExportFormat, ExportPassword};
pub use held::{RenewalDenial, RenewalRefused, Renewed, key_and_request};
pub use issue::{IssueRequest, Issued};
pub use leaving::Leaving;
pub use profile::Role;
pub use renew::{RenewOptions, RenewReport, Renewal};
pub use request::{KeyRequest, Requested, SignRequest};
pub use rotate::{RotateOptions, Rotated};
pub use state::{Reason, Record, Revoked};
pub use verify::Verified;

#[cfg(test)]
mod tests;
