//! What a peer with this authority's `trust.pem` and `crl.pem` would say of a certificate: the
//! same judgement as in a handshake, without one.

use std::path::Path;

use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::{Authority, PkiError, Role, state::State, store};
use crate::{
    admit::Denial,
    clock,
    config::Revocation,
    identity::{CertFacts, UnixSeconds},
    tls::{Usage, Verification},
};

/// A certificate that peers accept.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The leaf.
    pub facts: CertFacts,
    /// The role that it was judged for.
    pub role: Role,
    /// The earliest end along its chain.
    pub not_after: UnixSeconds,
}

impl Authority {
    /// Judges the leaf in a PEM file, with the rest of the file as its chain. Without a role, the
    /// one in its SPIFFE ID is taken, else the one that its extended key usage allows.
    ///
    /// # Errors
    /// The file can't be read, or a peer would refuse the certificate: which rule it breaks.
    pub fn verify(&self, file: &Path, role: Option<Role>) -> Result<Verified, PkiError> {
        let chain = certificates(&store::read(file)?, file)?;
        let [leaf, rest @ ..] = chain.as_slice() else {
            return Err(PkiError::invalid(format!(
                "{} holds no certificate in PEM form",
                file.display()
            )));
        };
        let refused =
            |reason: String| PkiError::Refused(format!("{}: refused: {reason}", file.display()));
        let facts = CertFacts::read(leaf).map_err(|e| refused(e.to_string()))?;
        let Some(role) = role.or_else(|| guess(&facts)) else {
            return Err(PkiError::invalid(
                "the certificate names no role: say which with --as",
            ));
        };
        self.check_role(&facts, role).map_err(refused)?;
        self.check_issuer(&facts).map_err(refused)?;
        let revocation = Revocation {
            files: vec![self.crl()],
            tolerate_expired: false,
            leaf_only: false,
        };
        let verification = Verification::load(&self.trust(), &revocation).map_err(|all| {
            let lines: Vec<String> = all.iter().map(ToString::to_string).collect();
            PkiError::invalid(lines.join("\n"))
        })?;
        let usage = match role {
            Role::Gateway | Role::Client => Usage::ClientAuth,
            Role::Acceptor | Role::Server => Usage::ServerAuth,
        };
        let proven = verification
            .prove(leaf, rest, usage, clock::now())
            .map_err(|denied| {
                // as a peer's log has it
                let (code, hint) = (denied.reason.code(), denied.reason.hint());
                refused(format!("{code}: {denied}; {hint}"))
            })?;
        Ok(Verified {
            facts,
            role,
            not_after: proven.chain_not_after,
        })
    }

    /// What a CA of ours signed that is revoked, or that a rotation has ended, is told as that: to
    /// a peer it is a certificate without a CRL, or of a stranger.
    fn check_issuer(&self, facts: &CertFacts) -> Result<(), String> {
        let state = State::load(&self.state_folder()).map_err(|e| e.to_string())?;
        let mut all = state.authorities.iter();
        let Some(ca) = all.find(|ca| ca.subject == facts.issuer) else {
            return Ok(());
        };
        let of = facts.display_name();
        match (ca.revoked, ca.is_trusted()) {
            (Some(revoked), _) => Err(format!(
                "{of} was signed by the {}, which is revoked since {} ({}): `portcullis pki renew`",
                ca.title(),
                UnixSeconds(revoked.at),
                revoked.reason.as_str()
            )),
            (None, false) => Err(format!(
                "{of} was signed by the {}, which is not trusted any more: `portcullis pki renew`",
                ca.title()
            )),
            (None, true) => Ok(()),
        }
    }

    /// An ID of our own trust domain speaks for the role in its path and no other.
    fn check_role(&self, facts: &CertFacts, role: Role) -> Result<(), String> {
        let state = State::load(&self.state_folder()).map_err(|e| e.to_string())?;
        if let Some(many) = facts.ambiguity() {
            return Err(format!(
                "it carries {many}; {}",
                Denial::CertificateAmbiguous.hint()
            ));
        }
        match facts.spiffe.as_slice() {
            [id] if id.domain().as_str() == state.trust_domain
                && id.role() != Some(role.as_str()) =>
            {
                Err(format!("{id} is not an ID of the role {role}"))
            }
            _ => Ok(()),
        }
    }
}

/// Every certificate of a PEM file.
pub(super) fn certificates(
    bytes: &[u8],
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|e| PkiError::invalid(format!("{}: not PEM: {e}", file.display())))
}

fn guess(facts: &CertFacts) -> Option<Role> {
    let named = facts.spiffe.first().and_then(|id| id.role());
    Role::ALL
        .into_iter()
        .find(|role| named == Some(role.as_str()))
        .or(match (facts.usage.server_auth, facts.usage.client_auth) {
            (true, false) => Some(Role::Server),
            (false, true) => Some(Role::Client),
            _ => None,
        })
}
