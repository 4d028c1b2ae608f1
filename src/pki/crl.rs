//! CRLs (RFC 5280 section 5): one of every trusted CA, with numbers that only grow. Peers with
//! `crl_policy = "require"` need a list of every issuer, so `crl.pem` always holds all.

use std::path::Path;

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};

use super::{
    Authority, PkiError,
    algorithm::to_pem,
    authority::{after, backdated, date},
    ca::{CaKind, CaRecord, CaStanding, Signer},
    change::Change,
    state::{Revoked, State},
    store::{self, PUBLIC},
    verify::certificates,
};
use crate::{
    clock,
    identity::{Serial, Sha256, UnixSeconds},
};

/// A root's list takes somebody who fetches its key: that is told so many days ahead.
pub(super) const ROOT_CRL_WARNING: i64 = 60;
const DAY: i64 = 86_400;

/// How long the lists are good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrlOptions {
    /// The issuing CA's, in days.
    pub days: u32,
    /// The root's, in days.
    pub root_days: u32,
}

impl Default for CrlOptions {
    fn default() -> Self {
        Self {
            days: 30,
            root_days: 365,
        }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrlReport {
    /// End of the issuing CA's list.
    pub next_update: UnixSeconds,
    /// Number of the issuing CA's list.
    pub number: u64,
    /// How many certificates it revokes.
    pub revoked: usize,
    /// End of the root's list; `None`: its key is away, the list that was there is kept.
    pub root_next_update: Option<UnixSeconds>,
}

impl Authority {
    /// Writes the CRLs of every CA anew: the issuing ones', and the root's where its key is here.
    ///
    /// # Errors
    /// The issuing CA's key can't be used, or a file can't be written.
    pub fn write_crls(&self, options: CrlOptions) -> Result<CrlReport, PkiError> {
        let _lock = self.lock()?;
        let mut state = State::load(&self.state_folder())?;
        let now = clock::now();
        let signers = Signers::load(self, &state, Roots::WhereKept)?;
        let mut change = Change::new(self.folder());
        let report = signers.write_crls(self, &mut state, options, now, &mut change)?;
        change.audit(now, "crl", &[("number", &report.number.to_string())]);
        state.save(&self.state_folder(), &mut change)?;
        change.commit()?;
        Ok(report)
    }

    /// Writes the CRLs anew when one is due, where the key for it is here.
    ///
    /// # Errors
    /// A list can't be read or written, or the issuing CA's key can't be used.
    pub fn keep_crls(&self) -> Result<Option<CrlReport>, PkiError> {
        let state = State::load(&self.state_folder())?;
        if !crls_due(self, &state, clock::now())? {
            return Ok(None);
        }
        let options = CrlOptions {
            days: state.crl_days,
            ..CrlOptions::default()
        };
        self.write_crls(options).map(Some)
    }

    /// What ends soon and takes somebody's hand, one line each: the root's CRL 60 days ahead, the
    /// issuing CA's a week ahead, a CA a year (or a third of its life) ahead.
    ///
    /// # Errors
    /// The store can't be read.
    pub fn warnings(&self) -> Result<Vec<String>, PkiError> {
        let state = State::load(&self.state_folder())?;
        let now = clock::now();
        let lists = lists_of(self)?;
        let within = |at: i64, days: i64| at <= now.0.saturating_add(days * DAY);
        let dir = self.folder().display();
        let mut said = Vec::new();
        for ca in state.authorities.iter().filter(|ca| ca.is_trusted()) {
            let list = lists.iter().find(|list| list.issuer == ca.subject);
            if let Some(list) = list
                && ca.revoked.is_none()
            {
                let (days, key) = match ca.kind {
                    CaKind::Root => (ROOT_CRL_WARNING, "with root/ca.key back in place, "),
                    CaKind::Issuing => (7.min(i64::from(state.crl_days) / 2), ""),
                };
                if within(list.next_update.0, days) {
                    said.push(format!(
                        "the CRL of the {} {} ({}), and peers then refuse everybody below it: \
                         {key}run `portcullis pki crl --dir {dir}` and hand crl.pem out",
                        ca.title(),
                        ends(list.next_update, now),
                        list.next_update
                    ));
                }
            }
            let third = ca.not_after.saturating_sub(ca.not_before) / DAY / 3;
            if ca.standing == CaStanding::Current && within(ca.not_after, third.min(365)) {
                let not_after = UnixSeconds(ca.not_after);
                said.push(format!(
                    "the {} {} ({not_after}), and what it signs no later: run `portcullis pki \
                     rotate {} --dir {dir}`",
                    ca.title(),
                    ends(not_after, now),
                    ca.kind
                ));
            }
        }
        Ok(said)
    }
}

fn ends(at: UnixSeconds, now: UnixSeconds) -> String {
    let verb = if at < now { "ended" } else { "ends" };
    format!("{verb} {}", at.relative_to(now))
}

/// Which keys of roots a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Roots {
    /// None: their lists are kept.
    Away,
    /// Those that are here.
    WhereKept,
    /// The one in force, or nothing is done.
    Needed,
}

/// The CAs that a command signs with, and the lists in force of those that it has no key of.
#[derive(Default)]
pub(super) struct Signers {
    signers: Vec<(String, Signer)>,
    lists: Vec<List>,
    /// Certificates of `trust.pem`.
    trusted: Vec<(String, String)>,
}

/// One CRL in force.
struct List {
    issuer: String,
    next_update: UnixSeconds,
    pem: String,
}

impl Signers {
    /// Loads every issuing CA that is trusted and not revoked, and the roots.
    pub(super) fn load(
        authority: &Authority,
        state: &State,
        roots: Roots,
    ) -> Result<Self, PkiError> {
        let mut all = Self {
            lists: lists_of(authority)?,
            trusted: certificates_of(&authority.trust())?,
            ..Self::default()
        };
        for ca in state.authorities.iter().filter(|ca| ca.is_trusted()) {
            let wanted = match (ca.kind, roots) {
                (CaKind::Issuing, _) => ca.revoked.is_none(),
                (CaKind::Root, Roots::Away) => false,
                (CaKind::Root, Roots::WhereKept) => authority.has_key(ca),
                (CaKind::Root, Roots::Needed) => {
                    let here = authority.has_key(ca);
                    if !here && ca.standing == CaStanding::Current {
                        let folder = authority.ca_folder(ca);
                        return Err(PkiError::invalid(format!(
                            "this takes the key of the {}, which is not in {}: put it back for \
                             the time of the command",
                            ca.title(),
                            folder.join("ca.key").display()
                        )));
                    }
                    here
                }
            };
            if wanted {
                all.add(ca, authority.signer(ca)?);
            }
        }
        Ok(all)
    }

    pub(super) fn add(&mut self, ca: &CaRecord, signer: Signer) {
        self.signers.push((ca.serial.clone(), signer));
    }

    pub(super) fn of(&self, ca: &CaRecord) -> Option<&Signer> {
        let found = self.signers.iter().find(|(serial, _)| *serial == ca.serial);
        found.map(|(_, signer)| signer)
    }

    /// `trust.pem`: every trusted root.
    pub(super) fn bundle(&self, state: &State) -> Result<String, PkiError> {
        let mut text = String::new();
        for ca in &state.authorities {
            if ca.kind != CaKind::Root || !ca.is_trusted() {
                continue;
            }
            let kept = || {
                let found = self.trusted.iter().find(|(of, _)| *of == ca.fingerprint);
                found.map(|(_, pem)| pem.as_str())
            };
            let pem = self.of(ca).map(|signer| signer.pem.as_str());
            let Some(pem) = pem.or_else(kept) else {
                return Err(PkiError::invalid(format!(
                    "neither trust.pem nor the root's folder holds the {}: put ca.pem back",
                    ca.title()
                )));
            };
            text += pem;
        }
        Ok(text)
    }

    /// Has the lists written of every CA that is here, and `crl.pem` of all.
    pub(super) fn write_crls(
        &self,
        authority: &Authority,
        state: &mut State,
        options: CrlOptions,
        now: UnixSeconds,
        change: &mut Change,
    ) -> Result<CrlReport, PkiError> {
        for (what, days) in [("--days", options.days), ("--root-days", options.root_days)] {
            if !(1..=3650).contains(&days) {
                return Err(PkiError::invalid(format!(
                    "{what} of a CRL must be 1 to 3650"
                )));
            }
        }
        state.crl_days = options.days;
        state.issuing_crl_number += 1;
        let is_root = |ca: &CaRecord| ca.kind == CaKind::Root && ca.is_trusted();
        let roots = state.authorities.iter().filter(|ca| is_root(ca));
        if roots.clone().any(|ca| self.of(ca).is_some()) {
            state.root_crl_number += 1;
        }
        let next_update = after(now, options.days);
        let root_end = after(now, options.root_days);
        let mut root_next_update = None;
        let mut count = 0;
        let mut all = String::new();
        for kind in [CaKind::Issuing, CaKind::Root] {
            for ca in &state.authorities {
                if ca.kind != kind || !ca.is_trusted() || ca.revoked.is_some() {
                    continue;
                }
                let Some(signer) = self.of(ca) else {
                    all += &self.kept(ca)?.pem;
                    continue;
                };
                let plan = match kind {
                    CaKind::Issuing => Plan {
                        number: state.issuing_crl_number,
                        now,
                        next_update,
                        revoked: revoked_leaves(state, ca)?,
                    },
                    CaKind::Root => Plan {
                        number: state.root_crl_number,
                        now,
                        next_update: root_end,
                        revoked: revoked_authorities(state, ca)?,
                    },
                };
                match kind {
                    CaKind::Issuing => count += plan.revoked.len(),
                    CaKind::Root if ca.standing == CaStanding::Current => {
                        root_next_update = Some(root_end);
                    }
                    CaKind::Root => {}
                }
                let pem = plan.sign(signer)?;
                let folder = authority.ca_folder(ca);
                change.write(folder.join("crl.pem"), pem.as_bytes(), PUBLIC);
                all += &pem;
            }
        }
        change.write(authority.crl(), all, PUBLIC);
        Ok(CrlReport {
            next_update,
            number: state.issuing_crl_number,
            revoked: count,
            root_next_update,
        })
    }

    fn kept(&self, ca: &CaRecord) -> Result<&List, PkiError> {
        let found = self.lists.iter().find(|list| list.issuer == ca.subject);
        found.ok_or_else(|| {
            PkiError::invalid(format!(
                "crl.pem holds no CRL of the {}, and its key is not here to write one: put \
                 crl.pem back from a backup, or the key, and run `portcullis pki crl`",
                ca.title()
            ))
        })
    }
}

/// Whether a list has half of its life behind it, or, a root's whose key is here, 60 days left.
pub(super) fn crls_due(
    authority: &Authority,
    state: &State,
    now: UnixSeconds,
) -> Result<bool, PkiError> {
    let lists = lists_of(authority)?;
    let half = i64::from(state.crl_days) * DAY / 2;
    Ok(state
        .authorities
        .iter()
        .filter(|ca| ca.is_trusted() && ca.revoked.is_none())
        .any(|ca| {
            let left = match ca.kind {
                CaKind::Issuing => half,
                CaKind::Root if authority.has_key(ca) => ROOT_CRL_WARNING * DAY,
                CaKind::Root => return false,
            };
            lists
                .iter()
                .find(|list| list.issuer == ca.subject)
                .is_none_or(|list| list.next_update.0.saturating_sub(now.0) < left)
        }))
}

/// The lists in `crl.pem`, and in the CAs' folders where it lacks one.
fn lists_of(authority: &Authority) -> Result<Vec<List>, PkiError> {
    let mut found = Vec::new();
    let folder = authority.folder();
    for path in [
        authority.crl(),
        folder.join("issuing/crl.pem"),
        folder.join("root/crl.pem"),
    ] {
        if !path.exists() {
            continue;
        }
        let wrong = |reason: &dyn ToString| {
            PkiError::invalid(format!("{}: {}", path.display(), reason.to_string()))
        };
        for block in x509_parser::pem::Pem::iter_from_buffer(&store::read(&path)?) {
            let block = block.map_err(|e| wrong(&e))?;
            let (_, list) = x509_parser::parse_x509_crl(&block.contents).map_err(|e| wrong(&e))?;
            found.push(List {
                issuer: list.issuer().to_string(),
                next_update: UnixSeconds(list.next_update().map_or(i64::MAX, |at| at.timestamp())),
                pem: to_pem("X509 CRL", &block.contents)?,
            });
        }
    }
    Ok(found)
}

/// Fingerprint and PEM of each certificate of a bundle.
fn certificates_of(path: &Path) -> Result<Vec<(String, String)>, PkiError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    certificates(&store::read(path)?, path)?
        .iter()
        .map(|der| Ok((Sha256::of(der).to_string(), to_pem("CERTIFICATE", der)?)))
        .collect()
}

fn revoked_leaves(state: &State, by: &CaRecord) -> Result<Vec<RevokedCertParams>, PkiError> {
    state
        .certificates
        .iter()
        .filter(|record| record.issuer.as_ref() == Some(&by.serial))
        .filter_map(|record| Some((&record.serial, record.revoked?)))
        .map(entry)
        .collect()
}

fn revoked_authorities(state: &State, by: &CaRecord) -> Result<Vec<RevokedCertParams>, PkiError> {
    state
        .authorities
        .iter()
        .filter(|ca| ca.kind == CaKind::Issuing && ca.root == by.serial)
        .filter_map(|ca| Some((&ca.serial, ca.revoked?)))
        .map(entry)
        .collect()
}

fn entry((serial, revoked): (&String, Revoked)) -> Result<RevokedCertParams, PkiError> {
    let Some(parsed) = Serial::parse(serial) else {
        // left out, it would be let in: the whole list is refused instead
        return Err(PkiError::invalid(format!(
            "the state holds {serial:?} as a serial number, which is none"
        )));
    };
    Ok(RevokedCertParams {
        serial_number: SerialNumber::from(parsed.0),
        revocation_time: date(UnixSeconds(revoked.at))?,
        reason_code: revoked.reason.code(),
        invalidity_date: None,
    })
}

struct Plan {
    number: u64,
    now: UnixSeconds,
    next_update: UnixSeconds,
    revoked: Vec<RevokedCertParams>,
}

impl Plan {
    fn sign(self, signer: &Signer) -> Result<String, PkiError> {
        signer.has_begun(self.now)?;
        CertificateRevocationListParams {
            this_update: date(backdated(self.now))?,
            next_update: date(self.next_update)?,
            crl_number: SerialNumber::from(self.number),
            issuing_distribution_point: None,
            revoked_certs: self.revoked,
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&signer.issuer)
        .and_then(|list| list.pem())
        .map_err(|e| PkiError::crypto("sign the CRL", e))
    }
}
