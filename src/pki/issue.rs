//! Issuing: a request, judged by the role's profile and the root's constraints, becomes a leaf.
//! A leaf is never a CA and never outlives its issuer (RFC 5280 section 4.2.1.9, 4.1.2.5).

use std::path::PathBuf;

use rcgen::{CertificateParams, IsCa, KeyPair, SerialNumber};

use super::{
    Algorithm, Authority, PkiError, Role,
    algorithm::key_to_pem,
    authority::{Ca, Signer, after, backdated, date, new_serial, subject},
    profile::{Profile, San, spiffe_id},
    state::{Record, State, audit},
    store::{self, PRIVATE, PUBLIC, make_folder},
};
use crate::{
    clock,
    identity::{CertFacts, Serial, TrustDomain, UnixSeconds},
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
    /// `certs/ROLE/NAME`.
    pub folder: PathBuf,
    /// Leaf, then issuing CA (nothing more when self-signed).
    pub certificate: PathBuf,
    /// PKCS#8, 0600.
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
        let profile = Profile::load(&self.folder().join("profiles"), request.role)?;
        let _lock = self.lock()?;
        let mut state = State::load(&self.state_folder())?;
        let domain = TrustDomain::parse(&state.trust_domain)
            .map_err(|e| PkiError::invalid(e.to_string()))?;
        let id = spiffe_id(&domain, request.role, &request.name)?;
        let sans = request
            .sans
            .iter()
            .map(|text| San::parse(text))
            .collect::<Result<Vec<_>, _>>()?;
        sans.iter().try_for_each(|san| state.permitted.check(san))?;
        let folder = self.certificate_folder(request.role, &request.name);
        let key_path = folder.join("key.pem");
        if key_path.exists() && !request.force {
            return Err(PkiError::invalid(format!(
                "{} is there already: --force replaces it (the old certificate stays valid until it \
                 ends or is revoked)",
                key_path.display()
            )));
        }
        let signer = match request.self_signed {
            true => None,
            false => Some(self.signer(Ca::Issuing)?),
        };

        let now = clock::now();
        let mut params = CertificateParams::default();
        params.subject_alt_names = profile.names(request.role, &id, &sans)?;
        params.distinguished_name = subject(&domain, &format!("{}/{}", request.role, request.name));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = profile.key_usages();
        params.extended_key_usages = profile.purposes();
        let serial = new_serial()?;
        params.serial_number = Some(SerialNumber::from(serial.clone()));
        let notes = set_dates(&mut params, request, &profile, signer.as_ref(), now)?;

        let key = request.algorithm.generate()?;
        let (pem, facts) = sign(params, &key, signer.as_ref())?;
        let record = Record {
            serial: Serial::new(&serial).to_string(),
            role: request.role,
            name: request.name.clone(),
            self_signed: request.self_signed,
            algorithm: request.algorithm,
            sans: sans.iter().map(San::to_string).collect(),
            not_before: facts.not_before.0,
            not_after: facts.not_after.0,
            fingerprint: facts.fingerprint.to_string(),
            revoked: None,
        };
        audit(
            &self.state_folder(),
            now,
            "issue",
            &[
                ("role", request.role.as_str()),
                ("name", &record.name),
                ("serial", &record.serial),
                ("fingerprint", &record.fingerprint),
            ],
        )?;
        state.certificates.push(record);
        state.save(&self.state_folder())?;

        make_folder(&folder, 0o700)?;
        let certificate = folder.join("cert.pem");
        // a watcher that loads between the two writes finds a pair that doesn't match, keeps
        // what it has, and loads again after the second
        store::write(&key_path, key_to_pem(&key, None)?.as_bytes(), PRIVATE)?;
        store::write(&certificate, pem.as_bytes(), PUBLIC)?;
        Ok(Issued {
            folder,
            certificate,
            key: key_path,
            facts,
            notes,
        })
    }
}

fn sign(
    mut params: CertificateParams,
    key: &KeyPair,
    signer: Option<&Signer>,
) -> Result<(String, CertFacts), PkiError> {
    let wrong = |e: rcgen::Error| PkiError::crypto("sign the certificate", e);
    let (certificate, chain) = match signer {
        None => (params.self_signed(key).map_err(wrong)?, ""),
        Some(signer) => {
            params.use_authority_key_identifier_extension = true;
            let made = params.signed_by(key, &signer.issuer).map_err(wrong)?;
            (made, signer.pem.as_str())
        }
    };
    let facts = CertFacts::read(certificate.der())
        .map_err(|e| PkiError::crypto("read the new certificate back", e))?;
    Ok((certificate.pem() + chain, facts))
}

/// Sets both dates and says what was cut off.
fn set_dates(
    params: &mut CertificateParams,
    request: &IssueRequest,
    profile: &Profile,
    signer: Option<&Signer>,
    now: UnixSeconds,
) -> Result<Vec<String>, PkiError> {
    let days = request.days.unwrap_or(profile.default_days);
    if days == 0 || days > profile.max_days {
        return Err(PkiError::invalid(format!(
            "--days {days} for {}: its profile allows 1 to {}",
            request.role, profile.max_days
        )));
    }
    let not_before = request.not_before.unwrap_or_else(|| backdated(now));
    let mut not_after = request.not_after.unwrap_or_else(|| after(now, days));
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
