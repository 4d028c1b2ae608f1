//! The authority itself: its folder, its two CAs, and how they come to be.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use time::OffsetDateTime;

use super::{
    Algorithm, PkiError, Role,
    algorithm::Passphrase,
    ca::{CaKind, CaPlan, CaRecord, CaStanding},
    change::{self, Change},
    constraints::Permitted,
    crl::{CrlOptions, Signers},
    state::{Record, State},
    store::{self, Lock, PUBLIC, make_folder},
};
use crate::{
    clock,
    identity::{CertFacts, TrustDomain, UnixSeconds},
};

/// Clocks of two hosts differ; a certificate must be usable at once.
pub(super) const BACKDATE: i64 = 60;

/// What `init` needs to know.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// The trust domain of every SPIFFE ID. Default: `example.internal`.
    pub trust_domain: String,
    /// Of both CA keys. Default: ECDSA P-256.
    pub algorithm: Algorithm,
    /// Life of both CAs. Default: 3650 days.
    pub days: u32,
    /// DNS subtrees; empty: any.
    pub permit_dns: Vec<String>,
    /// Networks; empty: any.
    pub permit_ip: Vec<String>,
    /// Encrypts both CA keys.
    pub passphrase: Option<Passphrase>,
    /// Replaces an authority that is there already.
    pub force: bool,
}

impl Default for InitOptions {
    fn default() -> Self {
        Self {
            trust_domain: "example.internal".to_owned(),
            algorithm: Algorithm::default(),
            days: 3650,
            permit_dns: Vec::new(),
            permit_ip: Vec::new(),
            passphrase: None,
            force: false,
        }
    }
}

/// A store on disk. Each command reads it anew under its lock, so that two processes, or two
/// threads, never work on different pictures.
#[derive(Clone, Debug)]
pub struct Authority {
    folder: PathBuf,
    passphrase: Option<Passphrase>,
}

impl Authority {
    /// Makes a new authority: both CAs, their CRLs, the profiles (those already in the folder
    /// are kept), an empty state.
    ///
    /// # Errors
    /// There is one already (without `force`), an option is wrong, or a file can't be written.
    pub fn init(folder: &Path, options: InitOptions) -> Result<Self, PkiError> {
        let domain = TrustDomain::parse(&options.trust_domain)
            .map_err(|e| PkiError::invalid(format!("--trust-domain: {e}")))?;
        let permitted = Permitted::parse(&options.permit_dns, &options.permit_ip)?;
        if !(1..=36_500).contains(&options.days) {
            return Err(PkiError::invalid("--days of a CA must be 1 to 36500"));
        }
        make_folder(folder, 0o755)?;
        let authority = Self {
            folder: folder.to_owned(),
            passphrase: options.passphrase,
        };
        make_folder(&authority.state_folder(), 0o700)?;
        let lock = authority.lock()?;
        authority.refuse_overwrite(options.force)?;
        // an operator's own profiles stay
        make_folder(&folder.join("profiles"), 0o755)?;
        let mut change = Change::new(folder);
        for role in Role::ALL {
            let path = folder.join("profiles").join(format!("{role}.toml"));
            if !path.exists() {
                change.write(path, role.default_profile().as_bytes(), PUBLIC);
            }
        }
        let now = clock::now();
        let plan = CaPlan {
            domain: &domain,
            permitted: &permitted,
            algorithm: options.algorithm,
            days: options.days,
        };
        let root = plan.make(None, now)?;
        let issuing = plan.make(Some(&root), now)?;
        let mut state = authority.state_after_init(&domain, permitted.clone(), options.force);
        let mut signers = Signers::default();
        let above = root.facts.serial.to_string();
        for (kind, signer) in [(CaKind::Root, root), (CaKind::Issuing, issuing)] {
            let ca = CaRecord::new(kind, CaStanding::Current, &signer.facts, &above);
            authority.place(&ca, &signer, &mut change)?;
            signers.add(&ca, signer);
            state.authorities.push(ca);
        }
        change.write(authority.trust(), signers.bundle(&state)?, PUBLIC);
        signers.write_crls(
            &authority,
            &mut state,
            CrlOptions::default(),
            now,
            &mut change,
        )?;
        state.save(&authority.state_folder(), &mut change)?;
        change.audit(now, "init", &[("trust_domain", domain.as_str())]);
        change.commit()?;
        drop(lock);
        Ok(authority)
    }

    /// Opens an authority that `init` made.
    ///
    /// # Errors
    /// There is none in the folder, or its state is of another version.
    pub fn open(folder: &Path) -> Result<Self, PkiError> {
        let authority = Self {
            folder: folder.to_owned(),
            passphrase: None,
        };
        if change::interrupted(folder) {
            drop(authority.lock()?);
        }
        if !authority.state_folder().join("state.json").exists() {
            return Err(PkiError::invalid(format!(
                "{} holds no authority: make one with `portcullis pki init --dir {0}`",
                folder.display()
            )));
        }
        State::load(&authority.state_folder())?;
        Ok(authority)
    }

    /// The passphrase of the CA keys.
    #[must_use]
    pub fn with_passphrase(mut self, passphrase: Option<Passphrase>) -> Self {
        self.passphrase = passphrase;
        self
    }

    /// The folder of this authority.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `trust.pem`: the roots, for `trust =`.
    #[must_use]
    pub fn trust(&self) -> PathBuf {
        self.folder.join("trust.pem")
    }

    /// `crl.pem`: both CRLs, for `crl =`.
    #[must_use]
    pub fn crl(&self) -> PathBuf {
        self.folder.join("crl.pem")
    }

    /// `certs/ROLE/NAME`, whether or not it is there.
    #[must_use]
    pub fn certificate_folder(&self, role: Role, name: &str) -> PathBuf {
        self.folder.join("certs").join(role.as_str()).join(name)
    }

    /// Everything that was issued, oldest first.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn records(&self) -> Result<Vec<Record>, PkiError> {
        Ok(State::load(&self.state_folder())?.certificates)
    }

    pub(super) fn state_folder(&self) -> PathBuf {
        self.folder.join("state")
    }

    pub(super) fn passphrase(&self) -> Option<&Passphrase> {
        self.passphrase.as_ref()
    }

    /// Waits for the lock, and ends what a killed command began.
    pub(super) fn lock(&self) -> Result<Lock, PkiError> {
        let lock = store::lock(&self.state_folder())?;
        change::recover(&self.folder)?;
        Ok(lock)
    }

    fn refuse_overwrite(&self, force: bool) -> Result<(), PkiError> {
        if force {
            return Ok(());
        }
        let keys = ["root/ca.key", "issuing/ca.key"].map(|key| self.folder.join(key));
        let state = self.state_folder().join("state.json");
        match keys.iter().chain([&state]).find(|path| path.exists()) {
            Some(path) => Err(PkiError::invalid(format!(
                "{} is there already: choose another --dir, or --force to replace the authority; \
                 everything that it issued is then worth nothing",
                path.display()
            ))),
            None => Ok(()),
        }
    }

    /// CRL numbers go on growing even when an authority is replaced by force.
    fn state_after_init(&self, domain: &TrustDomain, permitted: Permitted, force: bool) -> State {
        let mut state = State::new(domain.as_str().to_owned(), permitted);
        if force && let Ok(old) = State::load(&self.state_folder()) {
            state.issuing_crl_number = old.issuing_crl_number;
            state.root_crl_number = old.root_crl_number;
        }
        state
    }
}

/// 20 random bytes, the top bit clear (RFC 5280 section 4.1.2.2: at most 20 octets, positive).
/// Never derived from the key: a renewal with the same key must not share a revocation.
pub(super) fn new_serial() -> Result<Vec<u8>, PkiError> {
    let mut serial = [0_u8; 20];
    aws_lc_rs::rand::fill(&mut serial).map_err(|e| PkiError::crypto("draw a serial", e))?;
    let [first, ..] = &mut serial;
    *first &= 0x7f;
    Ok(serial.to_vec())
}

pub(super) fn date(at: UnixSeconds) -> Result<OffsetDateTime, PkiError> {
    OffsetDateTime::from_unix_timestamp(at.0)
        .ok()
        .filter(|date| (1970..=9999).contains(&date.year()))
        .ok_or_else(|| PkiError::invalid(format!("a date of {at} can't stand in a certificate")))
}

pub(super) fn backdated(now: UnixSeconds) -> UnixSeconds {
    UnixSeconds(now.0 - BACKDATE)
}

pub(super) fn after(now: UnixSeconds, days: u32) -> UnixSeconds {
    let life = Duration::from_secs(u64::from(days) * 86_400).as_secs();
    UnixSeconds(now.0.saturating_add_unsigned(life))
}

/// The first certificate of a PEM file.
pub(super) fn read_leaf(path: &Path) -> Result<(CertificateDer<'static>, CertFacts), PkiError> {
    let bytes = store::read(path)?;
    let wrong = |reason: String| PkiError::invalid(format!("{}: {reason}", path.display()));
    let der = CertificateDer::from_pem_slice(&bytes)
        .map_err(|e| wrong(format!("no certificate in PEM form: {e}")))?;
    let facts = CertFacts::read(&der).map_err(|e| wrong(e.to_string()))?;
    Ok((der, facts))
}
