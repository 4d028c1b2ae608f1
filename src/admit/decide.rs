//! `decide`: from facts to a grant or a denial. The accept loop, the live re-check, `explain` and
//! `doctor` call these and nothing else.

use std::net::IpAddr;

use super::{Denied, SourceRanges};
use crate::identity::{CertFacts, PeerNames, Serial, Sha256, TrustDomain, UnixSeconds};

/// Which sources may open a connection to a listener.
#[derive(Clone, Debug)]
pub struct SourceRules {
    /// `trusted_ips` or `allow`. `None` admits every source: a public edge without `allow`, or
    /// `danger_any_source`.
    pub trusted: Option<SourceRanges>,
    /// `untrusted_ips` or `deny`; wins.
    pub denied: SourceRanges,
}

/// How a peer's certificate was proven. Only `tls::verify` makes one for a live connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It chains to a trusted root.
    Chain {
        /// The names that this root may speak for; `None`: all (plain `trust`).
        bundle: Option<PeerNames>,
        /// The root's subject, for the log.
        root: String,
    },
    /// It is exactly one of `pinned`.
    Pinned,
}

/// A proven peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerFacts {
    /// Its leaf.
    pub leaf: CertFacts,
    /// How it was proven.
    pub proof: Proof,
    /// The earliest not-after of the proven chain, root included.
    pub chain_not_after: UnixSeconds,
}

/// What is known of a connection when rules are asked.
#[derive(Clone, Debug)]
pub struct ConnectionFacts<'a> {
    /// Canonical source address (from the socket or a trusted PROXY header).
    pub source: IpAddr,
    /// The proven peer; `None`: it sent no certificate.
    pub peer: Option<&'a PeerFacts>,
    /// Now.
    pub now: UnixSeconds,
}

/// The role that we ask a peer of our own trust domain to have in its SPIFFE path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnRole {
    /// `/gateway/…`: what an acceptor expects.
    Gateway,
    /// `/acceptor/…`: what a gateway expects of its upstream.
    Acceptor,
    /// `/client/…`: what a gateway expects of its callers.
    Client,
}

/// `identity.denied`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeniedList {
    /// Leaf fingerprints.
    pub fingerprints: Vec<Sha256>,
    /// Leaf serial numbers.
    pub serials: Vec<Serial>,
}

/// One `[[listener.rule]]`, or the listener's `gateways`/`clients` as a single rule.
#[derive(Clone, Debug)]
pub struct PeerRule {
    /// Sources for which it speaks; `None`: all that passed [`decide_source`].
    pub from: Option<SourceRanges>,
    /// Peers it admits; `None`: any proven peer (`danger_any_client`, or an upstream without
    /// `acceptor_ids`, whose server name was verified).
    pub peers: Option<PeerNames>,
}

/// Which proven peers may enter.
#[derive(Clone, Debug)]
pub struct PeerRules {
    /// The first that matches admits; none refuses.
    pub rules: Vec<PeerRule>,
    /// Whether a peer without a certificate is refused.
    pub certificate_required: bool,
    /// Refused whatever else says yes.
    pub denied: DeniedList,
    /// Our own trust domain: that of the SPIFFE ID in our own leaf.
    pub own_domain: Option<TrustDomain>,
    /// The role asked of peers of our own domain.
    pub role: OwnRole,
}

/// Why a peer was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The name that matched, as configured (`spiffe://…/*`), or `any`.
    pub rule: String,
    /// What the peer is called in logs: its SPIFFE ID, else first DNS SAN, else `sha256:…`; `-` without certificate.
    pub identity: String,
    /// When the connection must end: the earliest not-after of the chain.
    pub until: Option<UnixSeconds>,
}

/// Judges a source address: before a TLS byte is read.
///
/// # Errors
/// `SourceDenied`, else `SourceUntrusted`.
pub fn decide_source(source: IpAddr, rules: &SourceRules) -> Result<(), Denied> {
    let _ = (source, rules);
    todo!()
}

/// Judges a proven peer (or the absence of one). Order: certificate present, dates of the chain
/// and leaf, denied list, ambiguous SPIFFE ID, role in our own domain, the bundle's names, rules.
///
/// # Errors
/// The first reason that refuses.
pub fn decide_peer(facts: &ConnectionFacts<'_>, rules: &PeerRules) -> Result<Grant, Denied> {
    let _ = (facts, rules);
    todo!()
}
