//! Revocation: of a leaf by the CA that signed it, of an issuing CA by the root.

use super::{
    Authority, PkiError, Reason, Record,
    ca::{CaKind, CaRecord},
    change::Change,
    crl::{CrlOptions, Roots, Signers},
    state::{Revoked, State},
};
use crate::{clock, identity::Serial};

impl Authority {
    /// Revokes every certificate in force of that name (`NAME` or `ROLE/NAME`), or the one with
    /// that serial number (hex), and writes the issuing CA's CRL. Where somebody else may have the
    /// key, every certificate for it goes, and none of that name which was there before renews
    /// itself any more.
    ///
    /// # Errors
    /// Nothing, or more than one role, goes by that name; all of it is revoked already; or it is
    /// self-signed, which no list can revoke.
    pub fn revoke(&self, target: &str, reason: Reason) -> Result<Vec<Record>, PkiError> {
        let _lock = self.lock()?;
        let mut state = State::load(&self.state_folder())?;
        let now = clock::now();
        let mut chosen = choose(&state.certificates, target)?;
        if reason == Reason::KeyCompromise {
            chosen.extend(sharing_keys(&state.certificates, &chosen));
        }
        let revoked = Revoked { at: now.0, reason };
        let mut done = Vec::new();
        for record in &mut state.certificates {
            if record.revoked.is_none() && chosen.contains(&record.serial) {
                record.revoked = Some(revoked);
                done.push(record.clone());
            }
        }
        let mut change = Change::new(self.folder());
        for record in &done {
            let facts = [
                ("role", record.role.as_str()),
                ("name", record.name.as_str()),
                ("serial", &record.serial),
                ("reason", reason.as_str()),
            ];
            change.audit(now, "revoke", &facts);
        }
        let options = CrlOptions {
            days: state.crl_days,
            ..CrlOptions::default()
        };
        let signers = Signers::load(self, &state, Roots::Away)?;
        signers.write_crls(self, &mut state, options, now, &mut change)?;
        state.save(&self.state_folder(), &mut change)?;
        change.commit()?;
        Ok(done)
    }

    /// The issuing CA or root with this serial number (hex), if it is one of ours.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn authority_of(&self, serial: &str) -> Result<Option<CaRecord>, PkiError> {
        let Some(wanted) = Serial::parse(serial) else {
            return Ok(None);
        };
        let mut all = self.authorities()?.into_iter();
        Ok(all.find(|ca| ca.serial().as_ref() == Some(&wanted)))
    }

    /// Revokes an issuing CA, and with it all that it signed. Needs the root's key.
    ///
    /// # Errors
    /// It is none of ours, a root, or revoked already; or the root's key is not here.
    pub fn revoke_authority(&self, serial: &str, reason: Reason) -> Result<CaRecord, PkiError> {
        let _lock = self.lock()?;
        let mut state = State::load(&self.state_folder())?;
        let now = clock::now();
        let wanted = Serial::parse(serial);
        let found = state
            .authorities
            .iter_mut()
            .find(|ca| wanted.is_some() && ca.serial() == wanted);
        let Some(ca) = found else {
            return Err(PkiError::invalid(format!("no CA has the serial {serial}")));
        };
        if ca.kind == CaKind::Root {
            return Err(PkiError::invalid(format!(
                "{} can't be revoked, peers trust it by itself: `portcullis pki rotate root`, hand \
                 trust.pem out, then `portcullis pki rotate root --finish --force`",
                ca.title()
            )));
        }
        if ca.revoked.is_some() {
            return Err(PkiError::invalid(format!(
                "{} is revoked already",
                ca.title()
            )));
        }
        ca.revoked = Some(Revoked { at: now.0, reason });
        let ca = ca.clone();
        let signers = Signers::load(self, &state, Roots::Needed)?;
        let mut change = Change::new(self.folder());
        let options = CrlOptions {
            days: state.crl_days,
            ..CrlOptions::default()
        };
        signers.write_crls(self, &mut state, options, now, &mut change)?;
        let facts = [("serial", ca.serial.as_str()), ("reason", reason.as_str())];
        change.audit(now, "revoke-issuing", &facts);
        state.save(&self.state_folder(), &mut change)?;
        change.commit()?;
        Ok(ca)
    }
}

/// Serials of the others that the keys of these are good for.
fn sharing_keys(records: &[Record], chosen: &[String]) -> Vec<String> {
    let keys: Vec<&str> = records
        .iter()
        .filter(|r| chosen.contains(&r.serial) && !r.spki.is_empty())
        .map(|r| r.spki.as_str())
        .collect();
    records
        .iter()
        .filter(|r| !r.self_signed && keys.contains(&r.spki.as_str()))
        .map(|r| r.serial.clone())
        .collect()
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
