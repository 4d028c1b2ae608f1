//! What one listener is told by the configuration in force; swapped as a whole.

use std::{net::IpAddr, sync::Arc};

use rustls_pki_types::CertificateDer;

use super::Role;
use crate::{
    admit::{
        ConnectionFacts, Denied, Grant, PeerFacts, PeerRules, SourceRanges, SourceRules,
        decide_peer, decide_source,
    },
    config::Limits,
    identity::UnixSeconds,
    tls::{ServerTls, Usage, Verification},
};

/// Everything the accept loop asks.
pub struct ListenerRules {
    /// The listener's name.
    pub name: Arc<str>,
    /// Which sources may connect.
    pub source: SourceRules,
    /// Balancers, whose PROXY header names the source.
    pub proxy_from: Option<SourceRanges>,
    /// Handshake material; `None`: nothing is encrypted, and only a role that lets nobody in
    /// ([`Role::plain`]) sees what comes.
    pub tls: Option<Arc<ServerTls>>,
    /// Proves peers again when the rules change; `None`: no certificate is asked for.
    pub verification: Option<Arc<Verification>>,
    /// Which proven peers may enter.
    pub peers: PeerRules,
    /// Limits.
    pub limits: Limits,
    /// PostgreSQL's plain-text upgrade comes first.
    pub starttls_postgres: bool,
    /// Refusals and connections are written to the access log.
    pub access: bool,
}

impl ListenerRules {
    /// The decision on a proven peer, or on the absence of one.
    ///
    /// # Errors
    /// The reason that refuses.
    pub fn judge(
        &self,
        source: IpAddr,
        peer: Option<&PeerFacts>,
        now: UnixSeconds,
    ) -> Result<Grant, Denied> {
        decide_peer(&ConnectionFacts { source, peer, now }, &self.peers)
    }

    /// Judges a live connection again, from its source and chain, by these rules.
    ///
    /// # Errors
    /// The reason for which it would be refused today.
    pub fn judge_again(
        &self,
        source: IpAddr,
        chain: &[CertificateDer<'static>],
        now: UnixSeconds,
    ) -> Result<Grant, Denied> {
        decide_source(source, &self.source)?;
        let Some(verification) = self.verification.as_ref().filter(|_| !chain.is_empty()) else {
            return self.judge(source, None, now);
        };
        // a CRL that went stale refuses new handshakes and cuts no live connection
        let peer = verification.prove_again(chain, Usage::ClientAuth, now)?;
        self.judge(source, Some(&peer), now)
    }
}

/// A listener's rules and what its role does with those who pass.
pub struct Snapshot {
    /// The rules.
    pub rules: ListenerRules,
    /// The role.
    pub role: Arc<dyn Role>,
}
