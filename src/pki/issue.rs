//! Issuing: a request, judged by the role's profile and the root's constraints, becomes a leaf.
//! A leaf is never a CA and never outlives its issuer (RFC 5280 section 4.2.1.9, 4.1.2.5).

use std::path::PathBuf;

use rcgen::{CertificateParams, IsCa, KeyPair, PublicKeyData, SerialNumber, SubjectPublicKeyInfo};

use super::{
    Algorithm, Authority, PkiError, Reason, Role,
    algorithm::{describe, key_from_file, key_to_pem},
    authority::{after, backdated, date, new_serial},
    ca::{CaKind, Signer, subject},
    change::Change,
    profile::{Profile, San, check_name, spiffe_id},
    state::{Record, State},
    store::{Lock, PRIVATE, PUBLIC, make_folder},
};
use crate::{
    clock,
    identity::{CertFacts, Serial, Sha256, SpiffeId, TrustDomain, UnixSeconds},
};

/// What to issue. [`IssueRequest::new`] asks for the profile's defaults.
#[derive(Clone, Debug)]
pub struct IssueRequest {
    /// Decides the profile.
    pub role: Role,
    /// One segment of a SPIFFE path, and a folder's name.
    pub name: String,
    /// DNS names (one leading `*.` label may stand) and IP addresses.
    pub sans: Vec<String>,
    /// Default: the profile's.
    pub days: Option<u32>,
    /// Of the key.
    pub algorithm: Algorithm,
    /// Signed by its own key, to be pinned by the other side.
    pub self_signed: bool,
    /// Overrides "a minute ago"; for demonstrations and tests.
    pub not_before: Option<UnixSeconds>,
    /// Overrides `days`; for demonstrations and tests of expired certificates.
    pub not_after: Option<UnixSeconds>,
    /// Replaces a key and certificate of the same role and name.
    pub force: bool,
}

impl IssueRequest {
    /// A request with the profile's defaults.
    #[must_use]
    pub fn new(role: Role, name: &str) -> Self {
        Self {
            role,
            name: name.to_owned(),
            sans: Vec::new(),
            days: None,
            algorithm: Algorithm::default(),
            self_signed: false,
            not_before: None,
            not_after: None,
            force: false,
        }
    }

    /// Adds a DNS name or IP address.
    #[must_use]
    pub fn san(mut self, san: &str) -> Self {
        self.sans.push(san.to_owned());
        self
    }
}

/// What was issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// For which role.
    pub role: Role,
    /// The last segment of its SPIFFE ID.
    pub name: String,
    /// `certs/ROLE/NAME`.
    pub folder: PathBuf,
    /// Leaf, then issuing CA (nothing more when self-signed).
    pub certificate: PathBuf,
    /// PKCS#8, 0600; not there where the key was made elsewhere.
    pub key: PathBuf,
    /// The leaf.
    pub facts: CertFacts,
    /// What was not done as asked, and why.
    pub notes: Vec<String>,
}

impl Authority {
    /// Issues a certificate with a new key.
    ///
    /// # Errors
    /// The profile, the constraints or the name forbid it, a key of that name is there already
    /// (without `force`), or the CA's key can't be used.
    pub fn issue(&self, request: &IssueRequest) -> Result<Issued, PkiError> {
        check_name(&request.name)?;
        let profile = Profile::load(&self.folder().join("profiles"), request.role)?;
        let mut desk = Desk::open(self)?;
        let draft = Draft {
            role: request.role,
            name: &request.name,
            sans: request
                .sans
                .iter()
                .map(|text| San::parse(text))
                .collect::<Result<Vec<_>, _>>()?,
            days: request.days.unwrap_or(profile.default_days),
            not_before: request.not_before,
            not_after: request.not_after,
        };
        // whatever is wrong with the names is said before a key is made
        desk.judge(&profile, &draft)?;
        desk.refuse_overwrite(&draft, request.force)?;
        let signer = match request.self_signed {
            true => None,
            false => Some(desk.signer()?),
        };
        let key = LeafKey::New(request.algorithm.generate()?);
        let issued = desk.certify("issue", &profile, &draft, &key, signer.as_ref())?;
        desk.commit()?;
        Ok(issued)
    }
}

/// What a leaf is to be, whoever asked for it.
pub(super) struct Draft<'a> {
    pub(super) role: Role,
    pub(super) name: &'a str,
    pub(super) sans: Vec<San>,
    pub(super) days: u32,
    pub(super) not_before: Option<UnixSeconds>,
    pub(super) not_after: Option<UnixSeconds>,
}

/// Whose key it is.
pub(super) enum LeafKey {
    /// Made now, to be kept beside the certificate.
    New(KeyPair),
    /// Kept where it is; `requested`: which is elsewhere.
    Kept {
        /// The public half.
        public: SubjectPublicKeyInfo,
        /// It came with a request.
        requested: bool,
    },
}

impl LeafKey {
    /// A public key in DER.
    pub(super) fn kept(spki: &[u8], requested: bool) -> Result<Self, PkiError> {
        let public = SubjectPublicKeyInfo::from_der(spki)
            .map_err(|e| PkiError::crypto("read the public key", e))?;
        Ok(Self::Kept { public, requested })
    }

    fn spki(&self) -> Vec<u8> {
        match self {
            Self::New(pair) => pair.subject_public_key_info(),
            Self::Kept { public, .. } => public.subject_public_key_info(),
        }
    }
}

/// The authority with its lock held: what is being changed, and the time of it.
pub(super) struct Desk<'a> {
    pub(super) authority: &'a Authority,
    pub(super) state: State,
    pub(super) now: UnixSeconds,
    pub(super) change: Change,
    pub(super) domain: TrustDomain,
    _lock: Lock,
}

impl<'a> Desk<'a> {
    pub(super) fn open(authority: &'a Authority) -> Result<Self, PkiError> {
        let lock = authority.lock()?;
        let state = State::load(&authority.state_folder())?;
        let domain = TrustDomain::parse(&state.trust_domain)
            .map_err(|e| PkiError::invalid(e.to_string()))?;
        Ok(Self {
            authority,
            state,
            now: clock::now(),
            change: Change::new(authority.folder()),
            domain,
            _lock: lock,
        })
    }

    /// Makes the change, and is ready for the next one.
    pub(super) fn commit(&mut self) -> Result<(), PkiError> {
        let folder = self.authority.folder();
        self.state
            .save(&self.authority.state_folder(), &mut self.change)?;
        std::mem::replace(&mut self.change, Change::new(folder)).commit()
    }

    /// The issuing CA that signs now.
    pub(super) fn signer(&self) -> Result<Signer, PkiError> {
        let ca = self.state.current(CaKind::Issuing)?;
        if ca.revoked.is_some() {
            return Err(PkiError::invalid(format!(
                "the {} is revoked, nothing that it signs is worth anything: run `portcullis pki \
                 rotate issuing --dir {}`",
                ca.title(),
                self.authority.folder().display()
            )));
        }
        if self.now.0 >= ca.not_after {
            return Err(PkiError::invalid(format!(
                "the {} ended at {}: run `portcullis pki rotate {} --dir {}`",
                ca.title(),
                UnixSeconds(ca.not_after),
                // a root ends no sooner than what it signed
                match self.state.current(CaKind::Root)?.not_after > self.now.0 {
                    true => "issuing",
                    false => "root",
                },
                self.authority.folder().display()
            )));
        }
        let signer = self.authority.signer(ca)?;
        signer.has_begun(self.now)?;
        Ok(signer)
    }

    /// Whether role and constraints allow the names; the SPIFFE ID.
    pub(super) fn judge(&self, profile: &Profile, draft: &Draft<'_>) -> Result<SpiffeId, PkiError> {
        let id = spiffe_id(&self.domain, draft.role, draft.name)?;
        let permitted = &self.state.permitted;
        draft.sans.iter().try_for_each(|san| permitted.check(san))?;
        let _names = profile.names(draft.role, &id, &draft.sans)?;
        Ok(id)
    }

    /// A key or certificate of that name stays unless forced.
    pub(super) fn refuse_overwrite(&self, draft: &Draft<'_>, force: bool) -> Result<(), PkiError> {
        let folder = self.authority.certificate_folder(draft.role, draft.name);
        let found = ["key.pem", "cert.pem"]
            .map(|name| folder.join(name))
            .into_iter()
            .find(|path| path.exists());
        match found {
            Some(path) if !force => Err(PkiError::invalid(format!(
                "{} is there already: --force replaces it (the old certificate stays valid until it \
                 ends or is revoked)",
                path.display()
            ))),
            _ => Ok(()),
        }
    }

    /// Whether `key.pem` of that name is there and is this key.
    pub(super) fn holds_key(&self, draft: &Draft<'_>, key: &LeafKey) -> bool {
        let folder = self.authority.certificate_folder(draft.role, draft.name);
        let held = key_from_file(&folder.join("key.pem"), None);
        held.is_ok_and(|held| held.subject_public_key_info() == key.spki())
    }

    /// Signs a leaf and has it, its record and its line in the audit log written.
    pub(super) fn certify(
        &mut self,
        act: &str,
        profile: &Profile,
        draft: &Draft<'_>,
        key: &LeafKey,
        signer: Option<&Signer>,
    ) -> Result<Issued, PkiError> {
        let id = self.judge(profile, draft)?;
        let spki = key.spki();
        let algorithm = describe(&spki)?;
        self.refuse_key(&Sha256::of(&spki), signer)?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = profile.names(draft.role, &id, &draft.sans)?;
        params.distinguished_name =
            subject(&self.domain, &format!("{}/{}", draft.role, draft.name));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = profile.key_usages();
        params.extended_key_usages = profile.purposes();
        let serial = new_serial()?;
        params.serial_number = Some(SerialNumber::from(serial.clone()));
        let notes = set_dates(&mut params, draft, profile, signer, self.now)?;
        let (pem, facts) = sign(params, key, signer)?;
        profile.inspect(&facts, &id, &draft.sans, signer.map(|s| s.facts.not_after))?;

        let record = Record {
            serial: Serial::new(&serial).to_string(),
            role: draft.role,
            name: draft.name.to_owned(),
            self_signed: signer.is_none(),
            algorithm,
            sans: draft.sans.iter().map(San::to_string).collect(),
            not_before: facts.not_before.0,
            not_after: facts.not_after.0,
            fingerprint: facts.fingerprint.to_string(),
            issuer: signer.map(|signer| signer.facts.serial.to_string()),
            spki: facts.spki.to_string(),
            requested: matches!(
                key,
                LeafKey::Kept {
                    requested: true,
                    ..
                }
            ),
            superseded: None,
            revoked: None,
        };
        let about = [
            ("role", draft.role.as_str()),
            ("name", &record.name),
            ("serial", &record.serial),
            ("fingerprint", &record.fingerprint),
        ];
        self.change.audit(self.now, act, &about);
        self.state.add(record, self.now);

        let folder = self.authority.certificate_folder(draft.role, draft.name);
        make_folder(&folder, 0o700)?;
        let (certificate, key_file) = (folder.join("cert.pem"), folder.join("key.pem"));
        // a watcher that loads between the two names finds a pair that doesn't match, keeps
        // what it has, and loads again after the second
        match key {
            LeafKey::New(pair) => {
                let pem = key_to_pem(pair, None)?;
                self.change.write(key_file.clone(), pem.as_bytes(), PRIVATE);
            }
            // another's beside it would be a pair that never fits
            LeafKey::Kept { .. } if act != "renew" && !self.holds_key(draft, key) => {
                self.change.remove(key_file.clone());
            }
            LeafKey::Kept { .. } => {}
        }
        self.change.write(certificate.clone(), pem, PUBLIC);
        Ok(Issued {
            role: draft.role,
            name: draft.name.to_owned(),
            folder,
            certificate,
            key: key_file,
            facts,
            notes,
        })
    }

    /// A key that somebody else may have, or that is a CA's, is never certified.
    fn refuse_key(&self, spki: &Sha256, signer: Option<&Signer>) -> Result<(), PkiError> {
        let hex = spki.to_string();
        let lost = self.state.certificates.iter().find(|record| {
            let reason = record.revoked.map(|revoked| revoked.reason);
            record.spki == hex && reason == Some(Reason::KeyCompromise)
        });
        if let Some(record) = lost {
            return Err(PkiError::Refused(format!(
                "the key is that of {}, which was revoked because somebody else may have it: make \
                 a new key",
                record.title()
            )));
        }
        if signer.is_some_and(|signer| signer.facts.spki == *spki) {
            return Err(PkiError::Refused(
                "the key is the issuing CA's own: make one for this certificate".to_owned(),
            ));
        }
        Ok(())
    }
}

fn sign(
    mut params: CertificateParams,
    key: &LeafKey,
    signer: Option<&Signer>,
) -> Result<(String, CertFacts), PkiError> {
    let wrong = |e: rcgen::Error| PkiError::crypto("sign the certificate", e);
    let (certificate, chain) = match (signer, key) {
        (None, LeafKey::New(pair)) => (params.self_signed(pair).map_err(wrong)?, ""),
        (None, LeafKey::Kept { .. }) => {
            return Err(PkiError::invalid(
                "a self-signed certificate takes its private key: issue it with a new one",
            ));
        }
        (Some(signer), key) => {
            params.use_authority_key_identifier_extension = true;
            let made = match key {
                LeafKey::New(pair) => params.signed_by(pair, &signer.issuer),
                LeafKey::Kept { public, .. } => params.signed_by(public, &signer.issuer),
            };
            (made.map_err(wrong)?, signer.pem.as_str())
        }
    };
    let facts = CertFacts::read(certificate.der())
        .map_err(|e| PkiError::crypto("read the new certificate back", e))?;
    Ok((certificate.pem() + chain, facts))
}

/// Sets both dates and says what was cut off.
fn set_dates(
    params: &mut CertificateParams,
    draft: &Draft<'_>,
    profile: &Profile,
    signer: Option<&Signer>,
    now: UnixSeconds,
) -> Result<Vec<String>, PkiError> {
    let days = draft.days;
    if days == 0 || days > profile.max_days {
        return Err(PkiError::invalid(format!(
            "--days {days} for {}: its profile allows 1 to {}",
            draft.role, profile.max_days
        )));
    }
    let not_before = draft.not_before.unwrap_or_else(|| backdated(now));
    let mut not_after = draft.not_after.unwrap_or_else(|| after(now, days));
    let mut notes = Vec::new();
    if let Some(signer) = signer
        && not_after > signer.facts.not_after
    {
        not_after = signer.facts.not_after;
        notes.push(format!(
            "the certificate ends with its issuer, {not_after}, not after {days} days"
        ));
    }
    if not_before >= not_after {
        return Err(PkiError::invalid(format!(
            "the certificate would end ({not_after}) before it begins ({not_before})"
        )));
    }
    params.not_before = date(not_before)?;
    params.not_after = date(not_after)?;
    Ok(notes)
}
