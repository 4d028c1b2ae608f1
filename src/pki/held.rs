//! Renewal by whoever holds a certificate in force: the same role, name and SANs, with the key of
//! a new request. Nothing of the request but its public key reaches the certificate.

use rcgen::CertificateParams;
use zeroize::Zeroizing;

use super::{
    Algorithm, Authority, Passphrase, PkiError, Reason,
    algorithm::{key_from_file, key_to_pem},
    authority::{BACKDATE, after},
    ca::CaKind,
    issue::{Desk, Draft, Issued, LeafKey},
    profile::{Profile, San},
    request::Request,
    state::{Record, State},
    store,
};
use crate::identity::{CertFacts, UnixSeconds};

/// Certificates of one role and name that may be in force at once by renewal: a holder that asks
/// again and again fills no disk.
const MOST_IN_FORCE: usize = 16;

/// Why a renewal is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewalDenial {
    /// The certificate that was shown is not in the store.
    Unknown,
    /// It is revoked.
    Revoked,
    /// It has ended, or has not begun.
    NotInForce,
    /// It is signed by its own key: whoever pinned it would not take another.
    SelfSigned,
    /// Less than half of its life is over, and its issuer is the one in use.
    TooEarly,
    /// Too many certificates of the name are in force.
    TooMany,
    /// The request can't be read, or its signature is wrong.
    MalformedRequest,
    /// The request asks for names that the certificate does not have.
    OtherNames,
    /// The key, the profile or the constraints forbid it today.
    Forbidden,
    /// The store can't be read or written, or the CA's key can't be used.
    Store,
}

impl RenewalDenial {
    /// As logs, metrics and answers call it.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Unknown => "unknown_certificate",
            Self::Revoked => "revoked",
            Self::NotInForce => "not_in_force",
            Self::SelfSigned => "self_signed",
            Self::TooEarly => "too_early",
            Self::TooMany => "too_many",
            Self::MalformedRequest => "malformed_request",
            Self::OtherNames => "other_names",
            Self::Forbidden => "forbidden",
            Self::Store => "store",
        }
    }
}

/// A renewal that was refused.
#[derive(Debug, thiserror::Error)]
#[error("{}: {detail}", reason.code())]
pub struct RenewalRefused {
    /// The rule.
    pub reason: RenewalDenial,
    /// Which certificate, and what to do.
    pub detail: String,
}

fn refused(reason: RenewalDenial, detail: impl Into<String>) -> RenewalRefused {
    RenewalRefused {
        reason,
        detail: detail.into(),
    }
}

fn of_store(error: &PkiError) -> RenewalRefused {
    refused(RenewalDenial::Store, error.to_string())
}

/// The store's own failures, told apart from what it forbids.
fn of_desk(error: &PkiError) -> RenewalRefused {
    match error {
        PkiError::Invalid(_) | PkiError::Refused(_) => {
            refused(RenewalDenial::Forbidden, error.to_string())
        }
        PkiError::File { .. } | PkiError::Unfinished(_) | PkiError::Crypto { .. } => {
            of_store(error)
        }
    }
}

/// What was issued.
#[derive(Clone, Debug)]
pub struct Renewed {
    /// Leaf, then issuing CA.
    pub pem: String,
    /// The leaf.
    pub facts: CertFacts,
    /// ROLE/NAME.
    pub holder: String,
}

impl Authority {
    /// Whether the key of the issuing CA in force is there and can be used. What a killed command
    /// has left half done is completed first.
    ///
    /// # Errors
    /// It is not.
    pub fn check_issuing_key(&self) -> Result<(), PkiError> {
        let _lock = self.lock()?;
        let state = State::load(&self.state_folder())?;
        self.signer(state.current(CaKind::Issuing)?).map(drop)
    }

    /// Issues the successor of the certificate `shown`, which its holder has proven to have, for
    /// the key of the request (PKCS#10, RFC 2986, in PEM or DER).
    ///
    /// # Errors
    /// The rule that refuses it.
    pub fn renew_held(&self, shown: &CertFacts, request: &[u8]) -> Result<Renewed, RenewalRefused> {
        let spki = read_request(request, shown)?;
        let key = LeafKey::kept(&spki, true).map_err(|e| of_desk(&e))?;
        let mut desk = Desk::open(self).map_err(|e| of_store(&e))?;
        let record = find(&desk.state, shown)?.clone();
        desk.judge_held(&record)?;
        let issued = desk.succeed("renew-held", &record, &key)?;
        let pem = store::read_text(&issued.certificate).map_err(|e| of_store(&e))?;
        Ok(Renewed {
            pem,
            facts: issued.facts,
            holder: format!("{}/{}", issued.role, issued.name),
        })
    }

    /// Issues the successor of a certificate of this host with a new key, both kept in
    /// `certs/ROLE/NAME`; one that has ended too: whoever can read the CA's key needs no proof.
    /// The key comes encrypted where there is a passphrase.
    ///
    /// # Errors
    /// The rule that refuses it.
    pub fn renew_here(
        &self,
        own: &CertFacts,
        passphrase: Option<&Passphrase>,
    ) -> Result<(Zeroizing<String>, Renewed), RenewalRefused> {
        let mut desk = Desk::open(self).map_err(|e| of_store(&e))?;
        let record = find(&desk.state, own)?.clone();
        let algorithm = Algorithm::of_record(&record.algorithm);
        let key = LeafKey::New(algorithm.generate().map_err(|e| of_store(&e))?);
        let issued = desk.succeed("rekey", &record, &key)?;
        let read = || {
            let key = key_from_file(&issued.key, None)?;
            let pem = store::read_text(&issued.certificate)?;
            Ok((key_to_pem(&key, passphrase)?, pem))
        };
        let (key, pem) = read().map_err(|e: PkiError| of_store(&e))?;
        let renewed = Renewed {
            pem,
            facts: issued.facts,
            holder: format!("{}/{}", issued.role, issued.name),
        };
        Ok((key, renewed))
    }
}

impl Desk<'_> {
    /// Whether its holder may renew it now: in force, neither too early nor too often.
    fn judge_held(&self, record: &Record) -> Result<(), RenewalRefused> {
        let now = self.now;
        if now.0 < record.not_before || now.0 > record.not_after {
            return Err(refused(
                RenewalDenial::NotInForce,
                format!(
                    "it holds from {} to {}: issue another by hand",
                    UnixSeconds(record.not_before),
                    UnixSeconds(record.not_after)
                ),
            ));
        }
        if let Some((lost, at)) = lost_since(&self.state, record) {
            return Err(refused(
                RenewalDenial::Revoked,
                format!(
                    "{} is revoked since {at} because somebody else may have its key, who may \
                     have renewed it to this: issue another by hand, and `portcullis pki revoke \
                     {}/{}` first if this one is not known to be the holder's",
                    lost.title(),
                    record.role,
                    record.name
                ),
            ));
        }
        let life = record.not_after.saturating_sub(record.not_before);
        let half = record.not_before.saturating_add(life / 2);
        if now.0 < half && !self.state.is_leaving(record) {
            return Err(refused(
                RenewalDenial::TooEarly,
                format!(
                    "half of its life is over at {}; `portcullis pki issue --force` replaces it \
                     before",
                    UnixSeconds(half)
                ),
            ));
        }
        let of_name = |other: &&Record| other.role == record.role && other.name == record.name;
        let records = self.state.certificates.iter().filter(of_name);
        let in_force = records.filter(|other| other.is_valid(now)).count();
        if in_force >= MOST_IN_FORCE {
            let title = format!("{}/{}", record.role, record.name);
            return Err(refused(
                RenewalDenial::TooMany,
                format!(
                    "{in_force} certificates of {title} are in force: who asks so often? \
                     `portcullis pki revoke {title}` ends them"
                ),
            ));
        }
        Ok(())
    }

    fn succeed(
        &mut self,
        act: &str,
        record: &Record,
        key: &LeafKey,
    ) -> Result<Issued, RenewalRefused> {
        let profiles = self.authority.folder().join("profiles");
        let profile = Profile::load(&profiles, record.role).map_err(|e| of_desk(&e))?;
        let sans = record.sans.iter().map(|text| San::parse(text));
        let life = record.not_after.saturating_sub(record.not_before);
        let longest = after(UnixSeconds(0), profile.max_days).0;
        let draft = Draft {
            role: record.role,
            name: &record.name,
            sans: sans.collect::<Result<_, _>>().map_err(|e| of_desk(&e))?,
            days: profile.default_days,
            not_before: None,
            not_after: Some(UnixSeconds(self.now.0.saturating_add(life.min(longest)))),
        };
        let signer = self.signer().map_err(|e| of_store(&e))?;
        let issued = self
            .certify(act, &profile, &draft, key, Some(&signer))
            .map_err(|e| of_desk(&e))?;
        self.commit().map_err(|e| of_store(&e))?;
        Ok(issued)
    }
}

/// A certificate of the same role and name that was revoked, because somebody else may have its
/// key, when this one was there already: whoever has one has renewed it, or could. What is issued
/// afterwards is nobody's but the holder's.
fn lost_since<'a>(state: &'a State, record: &Record) -> Option<(&'a Record, UnixSeconds)> {
    let issued = record.not_before.saturating_add(BACKDATE);
    state.certificates.iter().find_map(|other| {
        let revoked = other.revoked?;
        // in the very second: a key made at the authority is new
        let before = issued < revoked.at || issued == revoked.at && record.requested;
        let same = other.role == record.role && other.name == record.name;
        (same && before && revoked.reason == Reason::KeyCompromise)
            .then_some((other, UnixSeconds(revoked.at)))
    })
}

/// The record of a certificate that can be renewed.
fn find<'a>(state: &'a State, shown: &CertFacts) -> Result<&'a Record, RenewalRefused> {
    let mut records = state.certificates.iter();
    let Some(record) = records.find(|record| record.sha256() == Some(shown.fingerprint)) else {
        return Err(refused(
            RenewalDenial::Unknown,
            format!("{} is not in the store: issue it here", shown.describe()),
        ));
    };
    if let Some(revoked) = record.revoked {
        return Err(refused(
            RenewalDenial::Revoked,
            format!(
                "{} is revoked since {}: issue another by hand",
                shown.describe(),
                UnixSeconds(revoked.at)
            ),
        ));
    }
    if record.self_signed {
        return Err(refused(
            RenewalDenial::SelfSigned,
            format!("{} is pinned by its peers", shown.describe()),
        ));
    }
    Ok(record)
}

/// A new key of the same kind as that of `leaf`, encrypted when there is a passphrase, and the
/// request for its certificate. The request names nothing: names are the authority's to know.
///
/// # Errors
/// The key can't be made.
pub fn key_and_request(
    leaf: &CertFacts,
    passphrase: Option<&Passphrase>,
) -> Result<(Zeroizing<String>, String), PkiError> {
    let key = Algorithm::like(leaf).generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let request = params
        .serialize_request(&key)
        .and_then(|request| request.pem())
        .map_err(|e| PkiError::crypto("make a request", e))?;
    Ok((key_to_pem(&key, passphrase)?, request))
}

/// The key of a request, whose names are compared with those of the certificate; one without
/// names asks for the same.
fn read_request(request: &[u8], shown: &CertFacts) -> Result<Vec<u8>, RenewalRefused> {
    let request = Request::read(request)
        .map_err(|e| refused(RenewalDenial::MalformedRequest, e.to_string()))?;
    let has = |san: &San| match san {
        San::Dns(name) => shown.dns.contains(name),
        San::Ip(ip) => shown.ips.contains(ip),
    };
    let other = request
        .sans
        .iter()
        .find(|san| !has(san))
        .map(San::to_string)
        .or_else(|| {
            let mut uris = request.uris.iter();
            uris.find(|uri| !shown.uris.contains(uri)).cloned()
        });
    if let Some(other) = other {
        return Err(refused(
            RenewalDenial::OtherNames,
            format!("{other:?} is no name of {}", shown.describe()),
        ));
    }
    // a renewal gets what it had: whoever asks for more is told, and not given less
    if let Some(left_out) = request.left_out.first() {
        return Err(refused(RenewalDenial::OtherNames, left_out));
    }
    Ok(request.spki)
}
