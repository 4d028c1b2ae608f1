//! The engine's errors in our words: which reason, which certificate of the path, which rule.

use rustls::pki_types::CertificateDer;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use super::verify::{Usage, Verification, check_dates};
use crate::{
    admit::{Denial, Denied},
    identity::{CertFacts, Sha256, UnixSeconds},
};

impl Verification {
    /// The engine's answer in our words.
    pub(super) fn denied(
        &self,
        error: &webpki::Error,
        leaf: &CertFacts,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixSeconds,
    ) -> Denied {
        use webpki::Error as E;
        let chain = || {
            std::iter::once(leaf.clone()).chain(
                intermediates
                    .iter()
                    .filter_map(|der| CertFacts::read(der).ok()),
            )
        };
        let invalid = |rule: &str| {
            Denied::new(
                Denial::CertificateInvalid,
                format!("certificate {}: {rule}", leaf.describe()),
            )
        };
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "the engine's list is open; anything new is a broken rule of X.509"
        )]
        match error {
            E::CertExpired { not_after, .. } => chain()
                .filter(|facts| u64::try_from(facts.not_after.0) == Ok(not_after.as_secs()))
                .find_map(|facts| check_dates(&facts, now).err())
                .unwrap_or_else(|| Denied::new(Denial::CertificateExpired, leaf.describe())),
            E::CertNotValidYet { not_before, .. } => chain()
                .filter(|facts| u64::try_from(facts.not_before.0) == Ok(not_before.as_secs()))
                .find_map(|facts| check_dates(&facts, now).err())
                .unwrap_or_else(|| Denied::new(Denial::CertificateNotYetValid, leaf.describe())),
            E::UnknownIssuer | E::InvalidSignatureForPublicKey => self.unknown(leaf),
            E::CaUsedAsEndEntity if self.is_strange(leaf) => self.unknown(leaf),
            E::CaUsedAsEndEntity => {
                invalid("it is a CA's own certificate; expected a leaf, or this one in pinned")
            }
            E::EndEntityUsedAsCa => invalid("its issuer is no CA (basicConstraints CA:FALSE)"),
            E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => chain()
                .find(|facts| {
                    facts.usage.present
                        && match usage {
                            Usage::ClientAuth => !facts.usage.client_auth,
                            Usage::ServerAuth => !facts.usage.server_auth,
                        }
                })
                .map_or_else(
                    || wrong_usage(leaf, usage),
                    |facts| wrong_usage(&facts, usage),
                ),
            E::NameConstraintViolation if self.is_uncompared(leaf, intermediates) => invalid(
                "a CA above it constrains URIs or directory names, which are not compared; expected constraints of DNS names and addresses",
            ),
            E::NameConstraintViolation => {
                invalid("its names are outside the name constraints of a CA above it")
            }
            E::MalformedDnsIdentifier => invalid(
                "a DNS name of it is malformed, or a wildcard of a single label, which no name constraints permit",
            ),
            E::PathLenConstraintViolated => invalid("a CA above it may not have further CAs below"),
            E::UnsupportedCriticalExtension => {
                invalid("a critical extension in its chain is not understood")
            }
            E::InvalidCertValidity => {
                invalid("its chain holds a certificate that ends before it begins")
            }
            E::UnsupportedCertVersion => {
                invalid("its chain holds a certificate older than X.509 v3")
            }
            E::UnsupportedSignatureAlgorithmContext(_)
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => invalid(
                "its chain is signed with an algorithm that is not accepted (RSA below 2048 bits, SHA-1, …)",
            ),
            E::BadDer | E::BadDerTime | E::MalformedExtensions | E::TrailingData(_) => Denied::new(
                Denial::CertificateMalformed,
                format!(
                    "certificate {}, or one sent with it: {error:?}",
                    leaf.describe()
                ),
            ),
            other => invalid(&format!("{other:?}")),
        }
    }

    /// Whether a CA of the chain constrains names that the engine refuses unseen.
    fn is_uncompared(&self, leaf: &CertFacts, intermediates: &[CertificateDer<'_>]) -> bool {
        let read = |der: &CertificateDer<'_>| CertFacts::read(der).ok();
        let issuers: Vec<_> = std::iter::once(leaf.issuer.clone())
            .chain(intermediates.iter().filter_map(read).map(|f| f.issuer))
            .collect();
        let roots = self.roots().iter().map(|root| (&root.facts, &root.der));
        intermediates.iter().any(|der| constrains_others(der))
            || roots
                .filter(|(facts, _)| issuers.contains(&facts.subject))
                .any(|(_, der)| constrains_others(der))
    }

    /// A self-issued certificate that is no root of ours.
    fn is_strange(&self, leaf: &CertFacts) -> bool {
        leaf.subject == leaf.issuer
            && !self
                .roots()
                .iter()
                .any(|root| root.facts.fingerprint == leaf.fingerprint)
    }

    fn unknown(&self, leaf: &CertFacts) -> Denied {
        let mut detail = format!("certificate {}", leaf.describe());
        if leaf.subject == leaf.issuer {
            detail.push_str(": it is self-signed and not one of pinned");
        } else if self.pins().any(|pin| pin.subject == leaf.issuer) {
            detail.push_str(": its issuer is pinned, and a pinned certificate is never an anchor");
        } else if self.roots().is_empty() {
            detail.push_str(": it is not one of pinned, and there is no trust");
        } else if let Some(root) = self.roots().iter().find(|r| r.facts.subject == leaf.issuer) {
            detail.push_str(": a root of that name is trusted, but it did not sign this (key ");
            detail.push_str(&short(&root.facts.spki));
            detail.push(')');
        } else {
            detail.push_str(": its chain leads to none of the trusted roots: ");
            let names: Vec<_> = self
                .roots()
                .iter()
                .take(5)
                .map(|r| format!("{:?}", r.facts.subject))
                .collect();
            detail.push_str(&names.join(", "));
            detail.push_str("; were the intermediates sent?");
        }
        Denied::new(Denial::CertificateUnknownIssuer, detail)
    }
}

/// The leaf, or a certificate above it, is made for something else.
pub(super) fn wrong_usage(facts: &CertFacts, usage: Usage) -> Denied {
    let wanted = match usage {
        Usage::ClientAuth => "clientAuth",
        Usage::ServerAuth => "serverAuth",
    };
    let mut has = Vec::new();
    if facts.usage.server_auth {
        has.push("serverAuth".to_owned());
    }
    if facts.usage.client_auth {
        has.push("clientAuth".to_owned());
    }
    has.extend(facts.usage.other.iter().cloned());
    let has = if has.is_empty() {
        "none".to_owned()
    } else {
        has.join(", ")
    };
    Denied::new(
        Denial::CertificateWrongUsage,
        format!(
            "certificate {}: expected extended key usage {wanted}, it has {has}",
            facts.describe()
        ),
    )
}

/// Its name constraints are of URIs or directory names.
fn constrains_others(ca: &[u8]) -> bool {
    let Ok((_, ca)) = X509Certificate::from_der(ca) else {
        return false;
    };
    let Ok(Some(constraints)) = ca.name_constraints() else {
        return false;
    };
    let constraints = constraints.value;
    let subtrees = [
        &constraints.permitted_subtrees,
        &constraints.excluded_subtrees,
    ];
    subtrees.into_iter().flatten().flatten().any(|subtree| {
        matches!(
            subtree.base,
            GeneralName::URI(_) | GeneralName::DirectoryName(_)
        )
    })
}

fn short(hash: &Sha256) -> String {
    format!(
        "sha256:{}…",
        hash.to_string().chars().take(16).collect::<String>()
    )
}
