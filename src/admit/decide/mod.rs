//! `decide`: from facts to a grant or a denial. The accept loop, the live re-check, `explain` and
//! `doctor` call these and nothing else.

use std::net::IpAddr;

use super::{Denial, Denied, SourceRanges};
use crate::identity::{CertFacts, PeerName, PeerNames, Serial, Sha256, TrustDomain, UnixSeconds};

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
    /// Fingerprints of the certificates above the leaf, up to the root; none where it is pinned.
    pub above: Vec<Sha256>,
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
    /// Fingerprints of leaves, and of what may stand above them.
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
    if rules.denied.contains(source) {
        return Err(Denied::new(Denial::SourceDenied, source.to_string()));
    }
    match &rules.trusted {
        Some(trusted) if !trusted.contains(source) => {
            Err(Denied::new(Denial::SourceUntrusted, source.to_string()))
        }
        _ => Ok(()),
    }
}

/// Judges a proven peer (or the absence of one). Order: certificate present, dates of the chain
/// and leaf, denied list, ambiguous SPIFFE ID, role in our own domain, the bundle's names, rules.
///
/// # Errors
/// The first reason that refuses.
pub fn decide_peer(facts: &ConnectionFacts<'_>, rules: &PeerRules) -> Result<Grant, Denied> {
    let Some(peer) = facts.peer else {
        if rules.certificate_required {
            return Err(Denied::new(Denial::CertificateMissing, ""));
        }
        return Ok(Grant {
            rule: "no certificate".into(),
            identity: "-".into(),
            until: None,
        });
    };
    let leaf = &peer.leaf;
    check_dates(peer, facts.now)?;
    check_denied_list(peer, &rules.denied)?;
    if let Proof::Chain { bundle, root } = &peer.proof {
        check_spiffe(leaf, rules)?;
        if let Some(names) = bundle {
            check_bundle(leaf, names, root)?;
        }
    }
    let matched = rules
        .rules
        .iter()
        .filter(|rule| {
            rule.from
                .as_ref()
                .is_none_or(|from| from.contains(facts.source))
        })
        .find_map(|rule| match &rule.peers {
            None => Some("any".to_owned()),
            Some(names) => names.first_match(leaf).map(ToString::to_string),
        });
    match matched {
        Some(rule) => Ok(Grant {
            rule,
            identity: leaf.display_name(),
            until: Some(peer.chain_not_after),
        }),
        None => Err(Denied::new(
            Denial::NameNotAllowed,
            format!("{} is {}", leaf.describe(), names_of(leaf)),
        )),
    }
}

fn check_dates(peer: &PeerFacts, now: UnixSeconds) -> Result<(), Denied> {
    let leaf = &peer.leaf;
    if now < leaf.not_before {
        return Err(Denied::new(
            Denial::CertificateNotYetValid,
            format!(
                "{} begins {} ({})",
                leaf.describe(),
                leaf.not_before.relative_to(now),
                leaf.not_before
            ),
        ));
    }
    let end = leaf.not_after.min(peer.chain_not_after);
    if now > end {
        return Err(Denied::new(
            Denial::CertificateExpired,
            format!("{} ended {} ({end})", leaf.describe(), end.relative_to(now)),
        ));
    }
    Ok(())
}

/// Serial numbers are those of leaves alone: a CA may have numbered its own certificate as another
/// CA numbered a leaf.
fn check_denied_list(peer: &PeerFacts, denied: &DeniedList) -> Result<(), Denied> {
    let leaf = &peer.leaf;
    let listed = |print: &&Sha256| denied.fingerprints.contains(print);
    let entry = if listed(&&leaf.fingerprint) {
        format!("sha256:{}", leaf.fingerprint)
    } else if denied.serials.contains(&leaf.serial) {
        format!("serial:{}", leaf.serial)
    } else if let Some(issuer) = peer.above.iter().find(listed) {
        format!("sha256:{issuer}, which stands above it")
    } else {
        return Ok(());
    };
    Err(Denied::new(
        Denial::CertificateDenied,
        format!("{} is denied by {entry}", leaf.describe()),
    ))
}

impl OwnRole {
    /// Its segment of a SPIFFE path.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Acceptor => "acceptor",
            Self::Client => "client",
        }
    }
}

/// The names that let nobody in: of our own trust domain, with another role than is asked for.
pub fn of_another_role<'n>(
    names: &'n PeerNames,
    own_domain: Option<&TrustDomain>,
    role: OwnRole,
) -> impl Iterator<Item = &'n PeerName> {
    let strange = move |domain: &TrustDomain, path: &str| {
        let segment = path.split('/').nth(1).unwrap_or_default();
        Some(domain) == own_domain && segment != role.as_str()
    };
    names.0.iter().filter(move |name| match name {
        PeerName::Spiffe(id) => strange(id.domain(), id.path()),
        PeerName::SpiffePrefix { domain, prefix } => prefix != "/" && strange(domain, prefix),
        PeerName::Dns(_)
        | PeerName::Fingerprint(_)
        | PeerName::Spki(_)
        | PeerName::Pinned { .. } => false,
    })
}

/// At most one SPIFFE ID, which is its only URI, and in our own domain the right role, whatever else
/// matches.
fn check_spiffe(leaf: &CertFacts, rules: &PeerRules) -> Result<(), Denied> {
    let Some(first) = leaf.spiffe.first() else {
        return Ok(());
    };
    if let Some(many) = leaf.ambiguity() {
        return Err(Denied::new(
            Denial::CertificateAmbiguous,
            format!("{} carries {many}", leaf.describe()),
        ));
    }
    let role = rules.role.as_str();
    if Some(first.domain()) == rules.own_domain.as_ref() && first.role() != Some(role) {
        return Err(Denied::new(
            Denial::CertificateWrongRole,
            format!(
                "{} is {first}, expected spiffe://{}/{role}/…",
                leaf.describe(),
                first.domain().as_str()
            ),
        ));
    }
    Ok(())
}

/// A root with names speaks for those only: every name that the leaf carries must be among them.
fn check_bundle(leaf: &CertFacts, names: &PeerNames, root: &str) -> Result<(), Denied> {
    let stranger = leaf
        .spiffe
        .iter()
        .find(|id| !names.0.iter().any(|name| name.covers_spiffe(id)))
        .map(ToString::to_string)
        .or_else(|| {
            leaf.dns
                .iter()
                .find(|dns| !names.0.iter().any(|name| name.covers_dns(dns)))
                .map(|dns| format!("dns:{dns}"))
        });
    let nameless = leaf.spiffe.is_empty() && leaf.dns.is_empty();
    let by_value = names.first_match(leaf).is_some();
    match stranger {
        Some(name) => Err(Denied::new(
            Denial::IssuerNotForName,
            format!("{root} may not speak for {name}: {}", leaf.describe()),
        )),
        None if nameless && !by_value => Err(Denied::new(
            Denial::IssuerNotForName,
            format!(
                "{root} may speak for its names only, and {} carries none",
                leaf.describe()
            ),
        )),
        None => Ok(()),
    }
}

fn names_of(leaf: &CertFacts) -> String {
    let mut names: Vec<String> = leaf.spiffe.iter().map(ToString::to_string).collect();
    names.extend(leaf.dns.iter().map(|dns| format!("dns:{dns}")));
    names.push(format!("sha256:{}", leaf.fingerprint));
    names.join(", ")
}

impl DeniedList {
    /// Adds `sha256:HEX` or `serial:HEX`.
    ///
    /// # Errors
    /// What was expected.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let expected = || {
            format!("{text:?} is neither sha256: with 64 hex digits nor serial: with hex digits")
        };
        match text.split_once(':') {
            Some(("sha256", hex)) => {
                self.fingerprints
                    .push(Sha256::parse(hex).ok_or_else(expected)?);
            }
            Some(("serial", hex)) => self.serials.push(Serial::parse(hex).ok_or_else(expected)?),
            _ => return Err(expected()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
