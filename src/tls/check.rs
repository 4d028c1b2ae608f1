//! What `portcullis check` says of material beyond "it loads": the same load as at start, and what
//! an operator should know of the result.

use std::sync::Arc;

use super::{
    edge::EdgeMaterial,
    error::{MaterialError, when},
    generation::{Generation, LinkRole, Trust, load_verification},
    verify::Verification,
};
use crate::{
    config::{GatewayListener, Identity, Revocation, TlsOptions},
    identity::{CertFacts, UnixSeconds},
};

/// Less life than this is worth a warning.
const SOON: i64 = 7 * 24 * 3600;

/// Loads an identity exactly as a start does.
///
/// # Errors
/// All problems at once.
pub fn identity(
    identity: &Identity,
    options: &TlsOptions,
    role: LinkRole,
    now: UnixSeconds,
) -> Result<(Arc<Generation>, Vec<String>), Vec<MaterialError>> {
    let generation = Generation::load(identity, options, role, None, now)?;
    let warnings = warnings(&generation, now);
    Ok((generation, warnings))
}

/// What an operator should know of a client-facing listener's material.
#[must_use]
pub fn edge(listener: &GatewayListener, material: &EdgeMaterial, now: UnixSeconds) -> Vec<String> {
    let mut warnings: Vec<_> = material
        .certificates
        .iter()
        .filter(|own| own.not_after.0 - now.0 < SOON)
        .map(|own| {
            format!(
                "a chain of listener {:?} {} at {}: {}",
                listener.name,
                ends(own.not_after, now),
                when(own.not_after),
                own.leaf.describe()
            )
        })
        .collect();
    if !material.awaited.is_empty() {
        warnings.push(format!(
            "listener {:?} refuses {}: no certificate that holds has come from its CA yet",
            listener.name,
            material.awaited.join(", ")
        ));
    }
    if let Some(verification) = &material.verification {
        warnings.extend(trust_warnings(verification, now));
    }
    warnings
}

impl Verification {
    /// Roots and CRLs alone, for whoever asks what a peer would say of a certificate.
    ///
    /// # Errors
    /// All problems at once.
    pub fn load(
        roots: &std::path::Path,
        revocation: &Revocation,
    ) -> Result<Self, Vec<MaterialError>> {
        let trust = Trust {
            roots: Some(roots),
            bundles: &[],
            pinned: &[],
            revocation: Some(revocation),
            svid: None,
        };
        // only its signature algorithms matter here, and those are not configured
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        load_verification(&trust, &provider, None)
    }
}

fn ends(end: UnixSeconds, now: UnixSeconds) -> &'static str {
    if end < now { "ended" } else { "ends" }
}

/// What is good today and will not be soon.
#[must_use]
pub fn warnings(generation: &Generation, now: UnixSeconds) -> Vec<String> {
    let mut out = Vec::new();
    if generation.not_after.0 - now.0 < SOON {
        out.push(format!(
            "our own chain {} at {}: {}",
            ends(generation.not_after, now),
            when(generation.not_after),
            generation.leaf.describe()
        ));
    }
    out.extend(trust_warnings(&generation.verification, now));
    out
}

/// The same for what we believe of others.
#[must_use]
pub fn trust_warnings(verification: &Verification, now: UnixSeconds) -> Vec<String> {
    let mut out = Vec::new();
    let roots = verification.roots();
    // one that was renewed under its name and key is as good as its latest certificate
    let renewed = |old: &CertFacts| {
        roots.iter().any(|root| {
            let new = &root.facts;
            new.spki == old.spki
                && new.subject == old.subject
                && new.not_after > old.not_after
                // with no time in between
                && new.not_before <= old.not_after.max(now)
        })
    };
    let known = roots
        .iter()
        .map(|root| ("root", &root.facts))
        .filter(|(_, facts)| !renewed(facts));
    for (kind, facts) in known.chain(verification.pins().map(|pin| ("pinned certificate", pin))) {
        if facts.not_after < now {
            out.push(format!(
                "{kind} {} expired at {}: it lets nobody in",
                facts.describe(),
                when(facts.not_after)
            ));
        } else if facts.not_after.0 - now.0 < SOON {
            out.push(format!(
                "{kind} {} ends at {}",
                facts.describe(),
                when(facts.not_after)
            ));
        }
    }
    if let Some(crls) = verification.crls() {
        let effect = if crls.tolerates_expired() {
            "it is used all the same (crl_policy = \"tolerate\")"
        } else {
            "everybody of that issuer is refused"
        };
        for crl in crls.expired(now) {
            out.push(format!(
                "the CRL of {:?} in {} was due for renewal at {}: {effect}",
                crl.issuer,
                crl.file.display(),
                when(crl.next_update)
            ));
        }
        for root in roots.iter().filter(|root| !renewed(&root.facts)) {
            if !crls
                .lists()
                .iter()
                .any(|crl| crl.issuer == root.facts.subject)
            {
                out.push(format!(
                    "no CRL of {:?} is loaded: with crl_policy = \"require\" those it issued are refused",
                    root.facts.subject
                ));
            }
        }
    }
    out
}
