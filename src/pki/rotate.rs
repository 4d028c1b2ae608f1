//! Rotation: a new CA beside the old one. Both are trusted until the rotation is finished, and it
//! is not finished while a certificate that somebody may show hangs on the old one.

use super::{
    Algorithm, Authority, PkiError, Reason, Record, Revoked,
    algorithm::{describe, spki_of},
    authority::read_leaf,
    ca::{CaKind, CaPlan, CaRecord, CaStanding},
    change::Change,
    crl::{CrlOptions, Roots, Signers},
    issue::Desk,
    store::{self, PRIVATE, PUBLIC, make_folder},
};

/// Files of a CA, and their modes.
const FILES: [(&str, u32); 3] = [("ca.key", PRIVATE), ("ca.pem", PUBLIC), ("crl.pem", PUBLIC)];
/// So many certificates are named in a refusal.
const NAMED: usize = 10;

/// What to rotate.
#[derive(Clone, Debug)]
pub struct RotateOptions {
    /// The issuing CA, or the root and with it the issuing CA.
    pub kind: CaKind,
    /// The new one is put into `trust.pem` and `crl.pem`, and signs no leaf yet.
    pub prepare: bool,
    /// Of the new keys. Default: as it was.
    pub algorithm: Option<Algorithm>,
    /// Life of the new CA; an issuing one never outlives its root.
    pub days: u32,
}

/// What a rotation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// The CAs that signed before, trusted until the end of the rotation.
    pub old: Vec<CaRecord>,
    /// The CAs that sign now, or will.
    pub new: Vec<CaRecord>,
}

impl Authority {
    /// Makes a new CA, or takes the one that was prepared, and lets it sign.
    ///
    /// # Errors
    /// A rotation is under way, or a key that this takes is not here: the root's for a new issuing
    /// CA.
    pub fn rotate(&self, options: &RotateOptions) -> Result<Rotated, PkiError> {
        if !(1..=36_500).contains(&options.days) {
            return Err(PkiError::invalid("--days of a CA must be 1 to 36500"));
        }
        let mut desk = Desk::open(self)?;
        let prepared = desk.refuse_second_rotation(options)?;
        let roots = match (options.kind, prepared) {
            (CaKind::Issuing, false) => Roots::Needed,
            _ => Roots::WhereKept,
        };
        let mut signers = Signers::load(self, &desk.state, roots)?;
        if !prepared {
            desk.make_next(options, &mut signers)?;
        }
        let mut rotated = Rotated {
            old: Vec::new(),
            new: Vec::new(),
        };
        if options.prepare {
            rotated.new = desk.with(CaStanding::Next);
        } else {
            desk.switch()?;
            rotated.old = desk.with(CaStanding::Old);
            // a new issuing CA's root has not changed
            let is_new = |ca: &CaRecord| options.kind == CaKind::Root || ca.kind == CaKind::Issuing;
            rotated.new = desk.with(CaStanding::Current);
            rotated.new.retain(is_new);
        }
        let act = if options.prepare {
            "rotate-prepare"
        } else {
            "rotate"
        };
        for ca in &rotated.new {
            let facts = [("kind", ca.kind.as_str()), ("serial", ca.serial.as_str())];
            desk.change.audit(desk.now, act, &facts);
        }
        desk.publish(&signers)?;
        desk.commit()?;
        Ok(rotated)
    }

    /// Ends a rotation: the old CA is not trusted any more, and its key is deleted. Returns what
    /// was ended.
    ///
    /// # Errors
    /// There is none to end; valid certificates hang on the old CA (unless `force`); or the root's
    /// key, which revokes an old issuing CA, is not here.
    pub fn finish_rotation(&self, kind: CaKind, force: bool) -> Result<Vec<CaRecord>, PkiError> {
        let mut desk = Desk::open(self)?;
        let mut old = desk.with(CaStanding::Old);
        let of_root = old.iter().any(|ca| ca.kind == CaKind::Root);
        if old.is_empty() {
            return Err(PkiError::invalid(format!(
                "no rotation is under way: `portcullis pki rotate {kind}` begins one"
            )));
        }
        if of_root != (kind == CaKind::Root) {
            let under_way = if of_root { "root" } else { "issuing" };
            return Err(PkiError::invalid(format!(
                "it is the {under_way} CA that is being rotated: `portcullis pki rotate {under_way} --finish`"
            )));
        }
        if !force {
            desk.refuse_hanging(&old)?;
        }
        let roots = match kind {
            CaKind::Issuing => Roots::Needed,
            CaKind::Root => Roots::WhereKept,
        };
        let signers = Signers::load(self, &desk.state, roots)?;
        desk.end(CaStanding::Old);
        desk.publish(&signers)?;
        desk.commit()?;
        for ca in &mut old {
            ca.standing = CaStanding::Ended;
        }
        Ok(old)
    }
}

impl Desk<'_> {
    fn with(&self, standing: CaStanding) -> Vec<CaRecord> {
        let all = self.state.authorities.iter();
        all.filter(|ca| ca.standing == standing).cloned().collect()
    }

    /// Those of this standing are not trusted any more.
    fn end(&mut self, standing: CaStanding) {
        let revoked = Revoked {
            at: self.now.0,
            reason: Reason::Superseded,
        };
        for ca in &mut self.state.authorities {
            if ca.standing == standing {
                let folder = self.authority.ca_folder(ca);
                for name in ["ca.key", "crl.pem"] {
                    self.change.remove(folder.join(name));
                }
                if ca.kind == CaKind::Issuing {
                    ca.revoked.get_or_insert(revoked);
                }
                ca.standing = CaStanding::Ended;
                let facts = [("kind", ca.kind.as_str()), ("serial", ca.serial.as_str())];
                self.change.audit(self.now, "rotate-finish", &facts);
            }
        }
    }

    /// Whether the new CA is there already. One that is revoked is not: what was prepared gives way,
    /// and the old one need not end before what signs now has a successor.
    fn refuse_second_rotation(&mut self, options: &RotateOptions) -> Result<bool, PkiError> {
        let kind_of = |list: &[CaRecord]| {
            let root = list.iter().any(|ca| ca.kind == CaKind::Root);
            if root { CaKind::Root } else { CaKind::Issuing }
        };
        let old = self.with(CaStanding::Old);
        let in_vain = self.state.current(CaKind::Issuing)?.revoked.is_some();
        if let Some(ca) = old.first().filter(|_| !in_vain) {
            return Err(PkiError::invalid(format!(
                "a rotation is under way: the {} is trusted still; end it with `portcullis pki \
                 rotate {} --finish`",
                ca.title(),
                kind_of(&old)
            )));
        }
        let next = self.with(CaStanding::Next);
        let Some(ca) = next.first() else {
            return Ok(false);
        };
        let kind = kind_of(&next);
        if let Some(ca) = next.iter().find(|ca| ca.revoked.is_some()) {
            if options.prepare {
                self.end(CaStanding::Next);
                return Ok(false);
            }
            return Err(PkiError::invalid(format!(
                "the {} was prepared and is revoked: prepare another with `portcullis pki rotate \
                 {kind} --prepare`",
                ca.title()
            )));
        }
        if kind != options.kind || options.prepare {
            return Err(PkiError::invalid(format!(
                "the {} is prepared: hand trust.pem and crl.pem to every peer, then let it sign \
                 with `portcullis pki rotate {kind}`",
                ca.title()
            )));
        }
        Ok(true)
    }

    /// Makes the new CAs; they wait.
    fn make_next(
        &mut self,
        options: &RotateOptions,
        signers: &mut Signers,
    ) -> Result<(), PkiError> {
        let (der, _) = read_leaf(&self.authority.folder().join("issuing/ca.pem"))?;
        let algorithm = match options.algorithm {
            Some(algorithm) => algorithm,
            None => Algorithm::of_record(&describe(&spki_of(&der)?)?),
        };
        let plan = CaPlan {
            domain: &self.domain,
            permitted: &self.state.permitted,
            algorithm,
            days: options.days,
        };
        let mut made = Vec::new();
        let issuing = match options.kind {
            CaKind::Root => {
                let root = plan.make(None, self.now)?;
                let issuing = plan.make(Some(&root), self.now)?;
                let serial = root.facts.serial.to_string();
                made.push((CaKind::Root, root, serial.clone()));
                (issuing, serial)
            }
            CaKind::Issuing => {
                let root = self.state.current(CaKind::Root)?;
                let Some(signer) = signers.of(root) else {
                    return Err(PkiError::invalid(format!(
                        "the key of the {} is not here",
                        root.title()
                    )));
                };
                (plan.make(Some(signer), self.now)?, root.serial.clone())
            }
        };
        made.push((CaKind::Issuing, issuing.0, issuing.1));
        for (kind, signer, root) in made {
            let ca = CaRecord::new(kind, CaStanding::Next, &signer.facts, &root);
            self.authority.place(&ca, &signer, &mut self.change)?;
            signers.add(&ca, signer);
            self.state.authorities.push(ca);
        }
        Ok(())
    }

    /// Those that wait sign now; those that signed are old.
    fn switch(&mut self) -> Result<(), PkiError> {
        let kinds: Vec<CaKind> = self
            .with(CaStanding::Next)
            .iter()
            .map(|ca| ca.kind)
            .collect();
        let moves = [
            (CaStanding::Current, CaStanding::Old),
            (CaStanding::Next, CaStanding::Current),
        ];
        // all files are read where they are before any is said to go elsewhere
        let before = self.state.authorities.clone();
        for (ca, was) in self.state.authorities.iter_mut().zip(&before) {
            let found = moves.iter().find(|(from, _)| *from == was.standing);
            if let Some((_, to)) = found
                && kinds.contains(&ca.kind)
            {
                ca.standing = *to;
            }
        }
        for (was, is) in before.iter().zip(&self.state.authorities) {
            if was.standing != is.standing {
                relocate(self.authority, was, is, &mut self.change)?;
            }
        }
        Ok(())
    }

    /// Has the bundle and the lists written as the state is now.
    fn publish(&mut self, signers: &Signers) -> Result<(), PkiError> {
        let bundle = signers.bundle(&self.state)?;
        self.change.write(self.authority.trust(), bundle, PUBLIC);
        let options = CrlOptions {
            days: self.state.crl_days,
            ..CrlOptions::default()
        };
        let (authority, now) = (self.authority, self.now);
        let _report =
            signers.write_crls(authority, &mut self.state, options, now, &mut self.change)?;
        Ok(())
    }

    fn refuse_hanging(&self, old: &[CaRecord]) -> Result<(), PkiError> {
        let of_old = |record: &&Record| {
            let by = |ca: &CaRecord| record.issuer.as_ref() == Some(&ca.serial);
            // revoked with its issuer
            old.iter().any(|ca| by(ca) && ca.revoked.is_none()) && record.is_valid(self.now)
        };
        let hanging: Vec<&Record> = self.state.certificates.iter().filter(of_old).collect();
        if hanging.is_empty() {
            return Ok(());
        }
        let (replaced, in_force): (Vec<_>, Vec<_>) = hanging
            .iter()
            .partition(|record| record.superseded.is_some());
        let names = |list: &[&Record]| {
            let mut text: String = list
                .iter()
                .take(NAMED)
                .map(|record| format!("  {}\n", record.title()))
                .collect();
            if list.len() > NAMED {
                text += &format!("  and {} more\n", list.len() - NAMED);
            }
            text
        };
        let mut said = format!(
            "{} valid certificates hang on the old CA, and nobody will accept them after this\n",
            hanging.len()
        );
        if !in_force.is_empty() {
            said += "in force, to be renewed with `portcullis pki renew --all` and installed:\n";
            said += &names(&in_force);
        }
        if !replaced.is_empty() {
            said += "renewed, but valid until the end or `portcullis pki revoke SERIAL --reason \
                     superseded`, for hosts where the new one is not installed:\n";
            said += &names(&replaced);
        }
        said += "--force ends the rotation all the same";
        Err(PkiError::Refused(said))
    }
}

/// Has a CA's files moved to where its new standing puts them.
fn relocate(
    authority: &Authority,
    was: &CaRecord,
    is: &CaRecord,
    change: &mut Change,
) -> Result<(), PkiError> {
    let (from, to) = (authority.ca_folder(was), authority.ca_folder(is));
    for (name, mode) in FILES {
        let (from, to) = (from.join(name), to.join(name));
        // a new CA's are to be written, not read
        let bytes = match change.pending(&from) {
            Some(bytes) => bytes.to_vec(),
            None if from.exists() => store::read(&from)?,
            None => continue,
        };
        if let Some(folder) = to.parent() {
            make_folder(folder, 0o700)?;
        }
        change.forget(&from);
        change.remove(from);
        change.write(to, bytes, mode);
    }
    Ok(())
}
