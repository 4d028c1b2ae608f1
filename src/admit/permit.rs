//! The proof that every rule said yes.

use std::{net::IpAddr, sync::Arc};

use super::{Grant, PeerFacts};

/// Leave to open a connection towards a backend. Only `serve` issues one.
#[derive(Clone, Debug)]
pub struct Permit {
    source: IpAddr,
    grant: Grant,
    peer: Option<Arc<PeerFacts>>,
}

impl Permit {
    /// Made by `serve` alone, once `decide_source` and `decide_peer` have said yes.
    #[must_use]
    pub fn issue(source: IpAddr, grant: Grant, peer: Option<Arc<PeerFacts>>) -> Self {
        Self {
            source,
            grant,
            peer,
        }
    }

    /// The source that was judged.
    #[must_use]
    pub fn source(&self) -> IpAddr {
        self.source
    }

    /// Why it was let in.
    #[must_use]
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// The proven peer.
    #[must_use]
    pub fn peer(&self) -> Option<&PeerFacts> {
        self.peer.as_deref()
    }
}
