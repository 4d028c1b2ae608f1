//! Admission: every rule that lets a peer in or not, as pure functions from facts to a
//! [`Permit`] or a [`Denied`] with one closed reason.

pub mod decide;
pub mod denial;
mod permit;
pub mod source;

pub use decide::{
    ConnectionFacts, DeniedList, Grant, OwnRole, PeerFacts, PeerRule, PeerRules, Proof,
    SourceRules, decide_peer, decide_source, of_another_role,
};
pub use denial::{Blame, Denial, Denied, Level};
pub use permit::Permit;
pub use source::SourceRanges;
