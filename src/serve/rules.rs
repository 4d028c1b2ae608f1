//! What one listener is told by the configuration in force; swapped as a whole.

use std::{net::IpAddr, num::NonZeroU32, sync::Arc};

use rustls_pki_types::CertificateDer;

use super::Role;
use crate::{
    admit::{
        ConnectionFacts, Denial, Denied, Grant, PeerFacts, PeerRules, SourceRanges, SourceRules,
        decide_peer, decide_source,
    },
    config::Limits,
    identity::{Sha256, UnixSeconds},
    tls::{ServerTls, Usage, Verification},
};

/// A chain of ours, in the few octets that every connection has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown(NonZeroU32);

impl Shown {
    /// Of this chain. Two are the same once in four thousand million times, and a kept connection then
    /// lives as long as its pool says.
    #[must_use]
    pub fn of(chain: &[CertificateDer<'_>]) -> Self {
        let whole: Vec<&[u8]> = chain.iter().map(AsRef::as_ref).collect();
        let [a, b, c, d, ..] = Sha256::of(&whole.concat()).0;
        Self(NonZeroU32::new(u32::from_be_bytes([a, b, c, d])).unwrap_or(NonZeroU32::MIN))
    }
}

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
    /// What gateways of ours are shown: when it is another, their kept connections are let go of.
    pub shown: Option<Shown>,
    /// Limits.
    pub limits: Limits,
    /// PostgreSQL's plain-text upgrade comes first.
    pub starttls_postgres: bool,
    /// Refusals and connections are written to the access log.
    pub access: bool,
    /// Why nobody may be here any more.
    pub withdrawn: Option<&'static str>,
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

    /// The same for nobody.
    pub(super) fn withdrawn(&self, why: &'static str) -> Self {
        Self {
            name: Arc::clone(&self.name),
            source: self.source.clone(),
            proxy_from: self.proxy_from.clone(),
            tls: self.tls.clone(),
            verification: self.verification.clone(),
            peers: self.peers.clone(),
            shown: self.shown,
            limits: self.limits.clone(),
            starttls_postgres: self.starttls_postgres,
            access: self.access,
            withdrawn: Some(why),
        }
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
        if let Some(why) = self.withdrawn {
            return Err(Denied::new(Denial::RulesChanged, why));
        }
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
