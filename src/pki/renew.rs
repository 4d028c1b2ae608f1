//! Renewal: a new certificate for the same role, name and SANs, with the same key or a new one.
//! Safe to run from a timer: what is not due is left alone.

use std::collections::HashSet;

use super::{
    Algorithm, Authority, CrlReport, PkiError, Record,
    authority::read_leaf,
    crl::{CrlOptions, Roots, Signers, crls_due},
    issue::{Desk, Draft, Issued, LeafKey},
    profile::{Profile, San},
    state::State,
};
use crate::identity::UnixSeconds;

/// What to renew.
#[derive(Clone, Debug, Default)]
pub struct RenewOptions {
    /// `NAME` or `ROLE/NAME`; empty: everything, the CRLs that are due too.
    pub names: Vec<String>,
    /// Only what ends within so many days. Default: what is named, or what has a third of its
    /// life left. What hangs on a CA that is being rotated out is due in any case.
    pub within: Option<u32>,
    /// With a new key.
    pub rekey: bool,
    /// Default: the life that it had.
    pub days: Option<u32>,
}

/// What became of one certificate.
#[derive(Debug)]
pub enum Renewal {
    /// There is a new one.
    Done(Box<Issued>),
    /// It is not time yet.
    NotDue,
    /// It can't be, and why; a timer need not worry.
    Skipped(String),
    /// It should have been.
    Failed(PkiError),
}

/// What became of all.
#[derive(Debug)]
pub struct RenewReport {
    /// The certificate that was looked at, and what became of it.
    pub renewals: Vec<(Record, Renewal)>,
    /// New CRLs, where they were due.
    pub crls: Option<CrlReport>,
}

impl Authority {
    /// Renews what is due. One that fails does not keep the others from it.
    ///
    /// # Errors
    /// Nothing goes by a name, or the store can't be read or written.
    pub fn renew(&self, options: &RenewOptions) -> Result<RenewReport, PkiError> {
        let mut desk = Desk::open(self)?;
        let chosen = choose(&desk.state, &options.names)?;
        let mut renewals = Vec::new();
        for record in chosen {
            let moves = options.names.is_empty() && desk.state.is_leaving(&record);
            let renewal = match judge(&record, options, moves, desk.now) {
                Some(left_alone) => left_alone,
                None => match desk.renew(&record, options) {
                    Ok(issued) => Renewal::Done(Box::new(issued)),
                    Err(Refusal::Skip(why)) => Renewal::Skipped(why),
                    Err(Refusal::Failed(error)) => {
                        // nothing of it may come along with the next one
                        desk.reset()?;
                        Renewal::Failed(error)
                    }
                },
            };
            renewals.push((record, renewal));
        }
        let crls = if options.names.is_empty() && crls_due(self, &desk.state, desk.now)? {
            let crl = CrlOptions {
                days: desk.state.crl_days,
                ..CrlOptions::default()
            };
            let signers = Signers::load(self, &desk.state, Roots::WhereKept)?;
            let now = desk.now;
            let report = signers.write_crls(self, &mut desk.state, crl, now, &mut desk.change)?;
            let number = report.number.to_string();
            desk.change.audit(now, "crl", &[("number", &number)]);
            desk.commit()?;
            Some(report)
        } else {
            None
        };
        Ok(RenewReport { renewals, crls })
    }
}

/// `None`: it is to be renewed. `moves`: because its CA will not be trusted for long.
fn judge(
    record: &Record,
    options: &RenewOptions,
    moves: bool,
    now: UnixSeconds,
) -> Option<Renewal> {
    let named = !options.names.is_empty();
    if let Some(revoked) = record.revoked {
        let text = format!(
            "{} is revoked since {} ({}): `portcullis pki issue` makes a new one",
            record.title(),
            UnixSeconds(revoked.at),
            revoked.reason.as_str()
        );
        return Some(refusal(named, text));
    }
    if record.self_signed {
        let text = format!(
            "{} is self-signed, and pinned as it is by the other side: `portcullis pki issue \
             --self-signed --force` makes a new one, to be pinned beside the old",
            record.title()
        );
        return Some(refusal(named, text));
    }
    let due = match (options.within, named) {
        (Some(days), _) => record.ends_within(days, now),
        (None, true) => true,
        (None, false) => matches!(record.standing(now), "expires soon" | "expired"),
    };
    if !due && !moves {
        return Some(Renewal::NotDue);
    }
    if options.rekey && record.requested {
        let text = format!(
            "the key of {} is on the host that asked for it: run `portcullis pki request` there, \
             and `portcullis pki sign --force` here",
            record.title()
        );
        return Some(refusal(named, text));
    }
    None
}

/// Whoever names one wants it; a timer goes on.
fn refusal(named: bool, text: String) -> Renewal {
    if named {
        Renewal::Failed(PkiError::invalid(text))
    } else {
        Renewal::Skipped(text)
    }
}

enum Refusal {
    Skip(String),
    Failed(PkiError),
}

impl From<PkiError> for Refusal {
    fn from(error: PkiError) -> Self {
        Self::Failed(error)
    }
}

impl Desk<'_> {
    fn reset(&mut self) -> Result<(), PkiError> {
        self.state = State::load(&self.authority.state_folder())?;
        self.change = super::change::Change::new(self.authority.folder());
        Ok(())
    }

    fn renew(&mut self, record: &Record, options: &RenewOptions) -> Result<Issued, Refusal> {
        let folder = self.authority.certificate_folder(record.role, &record.name);
        let path = folder.join("cert.pem");
        if !path.exists() {
            return Err(Refusal::Skip(format!(
                "{}: {} is gone, so is the reason to renew it",
                record.title(),
                path.display()
            )));
        }
        let (der, facts) = read_leaf(&path)?;
        if facts.fingerprint.to_string() != record.fingerprint {
            return Err(PkiError::invalid(format!(
                "{} is {}, not {}, the last that was issued: put that one back, or `portcullis pki \
                 issue --force`",
                path.display(),
                facts.display_name(),
                record.title()
            ))
            .into());
        }
        let profile = Profile::load(&self.authority.folder().join("profiles"), record.role)?;
        let draft = Draft {
            role: record.role,
            name: &record.name,
            sans: record
                .sans
                .iter()
                .map(|text| San::parse(text))
                .collect::<Result<Vec<_>, _>>()?,
            days: options
                .days
                .unwrap_or_else(|| record.days().clamp(1, profile.max_days)),
            not_before: None,
            not_after: None,
        };
        self.judge(&profile, &draft)?;
        let (act, key) = if options.rekey {
            let algorithm = Algorithm::of_record(&record.algorithm);
            ("rekey", LeafKey::New(algorithm.generate()?))
        } else {
            let spki = super::algorithm::spki_of(&der)?;
            ("renew", LeafKey::kept(&spki, record.requested)?)
        };
        let signer = self.signer()?;
        let issued = self.certify(act, &profile, &draft, &key, Some(&signer))?;
        self.commit()?;
        Ok(issued)
    }
}

/// The newest of one name.
pub(super) fn named(state: &State, name: &str) -> Result<Record, PkiError> {
    let found = choose(state, &[name.to_owned()])?;
    found
        .into_iter()
        .next()
        .ok_or_else(|| PkiError::invalid(format!("nothing was issued with the name {name:?}")))
}

/// The newest of each role and name, or of those named.
fn choose(state: &State, names: &[String]) -> Result<Vec<Record>, PkiError> {
    let mut seen = HashSet::new();
    let mut all = Vec::new();
    for record in state.certificates.iter().rev() {
        if seen.insert((record.role, record.name.as_str())) {
            all.push(record);
        }
    }
    all.reverse();
    if names.is_empty() {
        return Ok(all.into_iter().cloned().collect());
    }
    let mut chosen: Vec<Record> = Vec::new();
    for name in names {
        let found: Vec<&&Record> = all
            .iter()
            .filter(|r| r.name == *name || format!("{}/{}", r.role, r.name) == *name)
            .collect();
        match found.as_slice() {
            [] => {
                return Err(PkiError::invalid(format!(
                    "nothing was issued with the name {name:?}: `portcullis pki list` shows what was"
                )));
            }
            [one] => chosen.push((**one).clone()),
            [one, two, ..] => {
                return Err(PkiError::invalid(format!(
                    "{name:?} is the name of a {} and of a {}: say {}/{name} or {}/{name}",
                    one.role, two.role, one.role, two.role
                )));
            }
        }
    }
    Ok(chosen)
}
