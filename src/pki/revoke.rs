//! Revocation (RFC 5280 section 5): both CAs' lists, with numbers that only grow. Peers with
//! `crl_policy = "require"` need a list of every issuer, so `crl.pem` always holds both.

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};

use super::{
    Authority, PkiError, Reason, Record,
    authority::{Ca, after, backdated, date},
    state::{Revoked, State, audit},
    store::{self, PUBLIC},
};
use crate::{
    clock,
    identity::{Serial, UnixSeconds},
};

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
    /// Writes both CRLs anew.
    ///
    /// # Errors
    /// The issuing CA's key can't be used, or a file can't be written.
    pub fn write_crls(&self, options: CrlOptions) -> Result<CrlReport, PkiError> {
        let _lock = self.lock()?;
        let mut state = State::load(&self.state_folder())?;
        let now = clock::now();
        let root = self.has_key(Ca::Root);
        let report = write_crls(self, &mut state, options, now, root)?;
        audit(
            &self.state_folder(),
            now,
            "crl",
            &[("number", &report.number.to_string())],
        )?;
        Ok(report)
    }

    /// Revokes every certificate in force of that name (`NAME` or `ROLE/NAME`), or the one with
    /// that serial number (hex), and writes the issuing CA's CRL.
    ///
    /// # Errors
    /// Nothing, or more than one role, goes by that name; all of it is revoked already; or it is
    /// self-signed, which no list can revoke.
    pub fn revoke(&self, target: &str, reason: Reason) -> Result<Vec<Record>, PkiError> {
        let _lock = self.lock()?;
        let mut state = State::load(&self.state_folder())?;
        let now = clock::now();
        let chosen = choose(&state.certificates, target)?;
        let revoked = Revoked { at: now.0, reason };
        let mut done = Vec::new();
        for record in &mut state.certificates {
            if record.revoked.is_none() && chosen.contains(&record.serial) {
                record.revoked = Some(revoked);
                done.push(record.clone());
            }
        }
        for record in &done {
            let facts = [("name", record.name.as_str()), ("serial", &record.serial)];
            audit(&self.state_folder(), now, "revoke", &facts)?;
        }
        state.save(&self.state_folder())?;
        let options = CrlOptions {
            days: state.crl_days,
            ..CrlOptions::default()
        };
        write_crls(self, &mut state, options, now, false)?;
        Ok(done)
    }
}

/// Serials of what `target` means.
fn choose(records: &[Record], target: &str) -> Result<Vec<String>, PkiError> {
    let named: Vec<&Record> = records
        .iter()
        .filter(|r| r.name == target || format!("{}/{}", r.role, r.name) == target)
        .collect();
    let found = if named.is_empty() {
        let serial = Serial::parse(target);
        records
            .iter()
            .filter(|r| serial.is_some() && r.serial() == serial)
            .collect()
    } else {
        named
    };
    let Some(first) = found.first() else {
        return Err(PkiError::invalid(format!(
            "nothing was issued with the name or serial {target:?}: `pki list` shows what was"
        )));
    };
    if let Some(other) = found.iter().find(|r| r.role != first.role) {
        return Err(PkiError::invalid(format!(
            "{target:?} is the name of a {} and of a {}: say {}/{target} or {}/{target}",
            first.role, other.role, first.role, other.role
        )));
    }
    let open: Vec<&&Record> = found.iter().filter(|r| r.revoked.is_none()).collect();
    if open.is_empty() {
        return Err(PkiError::invalid(format!("{target:?} is revoked already")));
    }
    let signed: Vec<String> = open
        .iter()
        .filter(|r| !r.self_signed)
        .map(|r| r.serial.clone())
        .collect();
    if signed.is_empty() {
        return Err(PkiError::invalid(format!(
            "{target:?} is self-signed, which no CRL can revoke: take it out of `pinned` at the other side"
        )));
    }
    Ok(signed)
}

/// Writes the issuing CA's list, the root's too where `root` says so, and `crl.pem` of both.
pub(super) fn write_crls(
    authority: &Authority,
    state: &mut State,
    options: CrlOptions,
    now: UnixSeconds,
    root: bool,
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
    if root {
        state.root_crl_number += 1;
    }
    // saved before a list with the number exists: no number is ever used twice
    state.save(&authority.state_folder())?;
    let revoked = revoked_leaves(state)?;
    let count = revoked.len();
    let next_update = after(now, options.days);
    let list = Plan {
        number: state.issuing_crl_number,
        now,
        next_update,
        revoked,
    };
    list.write(authority, Ca::Issuing)?;
    let mut root_next_update = None;
    if root {
        let next_update = after(now, options.root_days);
        let list = Plan {
            number: state.root_crl_number,
            now,
            next_update,
            revoked: Vec::new(),
        };
        list.write(authority, Ca::Root)?;
        root_next_update = Some(next_update);
    }
    let both = [Ca::Issuing, Ca::Root]
        .map(|ca| store::read(&authority.folder().join(ca.folder()).join("crl.pem")));
    let [issuing, root] = both;
    store::write(&authority.crl(), &[issuing?, root?].concat(), PUBLIC)?;
    Ok(CrlReport {
        next_update,
        number: state.issuing_crl_number,
        revoked: count,
        root_next_update,
    })
}

fn revoked_leaves(state: &State) -> Result<Vec<RevokedCertParams>, PkiError> {
    let mut entries = Vec::new();
    for record in &state.certificates {
        let Some(revoked) = record.revoked else {
            continue;
        };
        let Some(serial) = record.serial() else {
            // left out, it would be let in: the whole list is refused instead
            return Err(PkiError::invalid(format!(
                "the state holds {:?} as a serial number, which is none",
                record.serial
            )));
        };
        entries.push(RevokedCertParams {
            serial_number: SerialNumber::from(serial.0),
            revocation_time: date(UnixSeconds(revoked.at))?,
            reason_code: revoked.reason.code(),
            invalidity_date: None,
        });
    }
    Ok(entries)
}

struct Plan {
    number: u64,
    now: UnixSeconds,
    next_update: UnixSeconds,
    revoked: Vec<RevokedCertParams>,
}

impl Plan {
    fn write(self, authority: &Authority, ca: Ca) -> Result<(), PkiError> {
        let signer = authority.signer(ca)?;
        let pem = CertificateRevocationListParams {
            this_update: date(backdated(self.now))?,
            next_update: date(self.next_update)?,
            crl_number: SerialNumber::from(self.number),
            issuing_distribution_point: None,
            revoked_certs: self.revoked,
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&signer.issuer)
        .and_then(|list| list.pem())
        .map_err(|e| PkiError::crypto("sign the CRL", e))?;
        let path = authority.folder().join(ca.folder()).join("crl.pem");
        store::write(&path, pem.as_bytes(), PUBLIC)
    }
}
