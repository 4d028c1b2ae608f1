//! Requests (PKCS#10, RFC 2986): made on the host that will use the key, and signed here. Of a
//! request the key and names are taken, each name judged by the role's profile; its extensions
//! never become a certificate's.

use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DistinguishedName, DnType, PublicKeyData};
use x509_parser::{
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    extensions::{GeneralName, ParsedExtension},
    objects::{oid_registry, oid2sn},
    oid_registry::{OID_PKCS9_EXTENSION_REQUEST, Oid},
    prelude::FromDer,
};

use super::{
    Algorithm, Authority, PkiError, Role,
    algorithm::{describe, key_from_file, key_to_pem},
    install::Owner,
    issue::{Desk, Draft, Issued, LeafKey},
    profile::{Profile, San, check_name},
    store,
};
use crate::identity::{Sha256, SpiffeId};

/// A key and a request for it, on the host that will use them.
#[derive(Clone, Debug)]
pub struct KeyRequest {
    /// What it asks to be.
    pub role: Role,
    /// The name that it asks for.
    pub name: String,
    /// DNS names and IP addresses that it asks for.
    pub sans: Vec<String>,
    /// Of the key.
    pub algorithm: Algorithm,
    /// Where `key.pem` and `NAME.csr` go.
    pub out: PathBuf,
    /// Who gets them.
    pub owner: Option<Owner>,
}

/// What [`KeyRequest::make`] wrote.
#[derive(Clone, Debug)]
pub struct Requested {
    /// PKCS#8, 0600, or 0640 with a named group.
    pub key: PathBuf,
    /// The key was there already, and is kept.
    pub key_kept: bool,
    /// PKCS#10 in PEM form.
    pub request: PathBuf,
    /// Of the public key: the authority's operator can compare it.
    pub spki: Sha256,
}

impl KeyRequest {
    /// Makes the key, if `key.pem` is not there yet, and the request.
    ///
    /// # Errors
    /// The name is none, or a file can't be read or written.
    pub fn make(&self) -> Result<Requested, PkiError> {
        check_name(&self.name)?;
        let sans = self
            .sans
            .iter()
            .map(|text| San::parse(text))
            .collect::<Result<Vec<_>, _>>()?;
        // the key has a mode of its own; whoever it is for must get to it
        let mode = if self.owner.is_some() { 0o755 } else { 0o700 };
        store::make_folder(&self.out, mode)?;
        let key_file = self.out.join("key.pem");
        let key_kept = key_file.exists();
        let key = if key_kept {
            key_from_file(&key_file, None)?
        } else {
            let key = self.algorithm.generate()?;
            let mode = match self.owner {
                Some(owner) if owner.by_group() => 0o640,
                _ => store::PRIVATE,
            };
            self.put(&key_file, key_to_pem(&key, None)?.as_bytes(), mode)?;
            key
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("{}/{}", self.role, self.name));
        params.subject_alt_names = sans
            .iter()
            .map(San::general_name)
            .collect::<Result<_, _>>()?;
        let pem = params
            .serialize_request(&key)
            .and_then(|request| request.pem())
            .map_err(|e| PkiError::crypto("sign the request", e))?;
        let request = self.out.join(format!("{}.csr", self.name));
        self.put(&request, pem.as_bytes(), store::PUBLIC)?;
        Ok(Requested {
            key: key_file,
            key_kept,
            request,
            spki: Sha256::of(&key.subject_public_key_info()),
        })
    }

    fn put(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
        store::write_owned(path, bytes, mode, self.owner.map(Owner::ids))
            .map_err(|e| PkiError::file("write", path, e))
    }
}

/// What to sign.
#[derive(Clone, Debug)]
pub struct SignRequest {
    /// PKCS#10, PEM or DER.
    pub request: Vec<u8>,
    /// Where the request names a role, the same one.
    pub role: Option<Role>,
    /// Where the request names itself, the same.
    pub name: Option<String>,
    /// Default: the profile's.
    pub days: Option<u32>,
    /// Replaces a key and certificate of the same role and name.
    pub force: bool,
}

impl SignRequest {
    /// As the request says, with the profile's defaults.
    #[must_use]
    pub fn new(request: Vec<u8>) -> Self {
        Self {
            request,
            role: None,
            name: None,
            days: None,
            force: false,
        }
    }
}

impl Authority {
    /// Signs a request: `certs/ROLE/NAME/cert.pem`, without a key beside it.
    ///
    /// # Errors
    /// It is no request or not signed by its own key, its key is not to be certified, or a name in
    /// it is not allowed to its role: which.
    pub fn sign(&self, asked: &SignRequest) -> Result<Issued, PkiError> {
        let request = Request::read(&asked.request)?;
        request.check_ids()?;
        let mut desk = Desk::open(self)?;
        let (role, name) = request.who(asked.role, asked.name.as_deref(), desk.domain.as_str())?;
        check_name(&name)?;
        let profile = Profile::load(&self.folder().join("profiles"), role)?;
        let draft = Draft {
            role,
            name: &name,
            sans: request.sans.clone(),
            days: asked.days.unwrap_or(profile.default_days),
            not_before: None,
            not_after: None,
        };
        let id = desk.judge(&profile, &draft)?;
        if let Some(uri) = request.uris.iter().find(|uri| **uri != id.to_string()) {
            return Err(PkiError::Invalid(format!(
                "the request names {uri:?}, which a certificate for {role}/{name} can't carry: it \
                 gets {id}"
            )));
        }
        let key = LeafKey::kept(&request.spki, true)?;
        if !(desk.holds_key(&draft, &key) && desk.state.has_none(role, &name)) {
            desk.refuse_overwrite(&draft, asked.force)?;
        }
        let signer = desk.signer()?;
        let mut issued = desk.certify("sign", &profile, &draft, &key, Some(&signer))?;
        desk.commit()?;
        issued.notes.extend(request.left_out);
        Ok(issued)
    }
}

/// A request whose signature is that of its key.
pub(super) struct Request {
    pub(super) spki: Vec<u8>,
    common_name: Option<String>,
    pub(super) sans: Vec<San>,
    pub(super) uris: Vec<String>,
    /// What it asks for and does not get.
    pub(super) left_out: Vec<String>,
}

impl Request {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, PkiError> {
        let wrong = |reason: &dyn ToString| {
            PkiError::invalid(format!("not a request (PKCS#10): {}", reason.to_string()))
        };
        let pem = x509_parser::pem::Pem::iter_from_buffer(bytes)
            .find_map(Result::ok)
            .filter(|_| bytes.windows(5).any(|five| five == b"-----"));
        let der = match &pem {
            Some(pem) if pem.label.ends_with("CERTIFICATE REQUEST") => &pem.contents,
            Some(pem) => {
                return Err(wrong(&format!(
                    "{} where a request was expected",
                    pem.label
                )));
            }
            None => bytes,
        };
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|e| wrong(&e))?;
        if !rest.is_empty() {
            return Err(wrong(&format!("{} bytes behind it", rest.len())));
        }
        // a key that is not taken is told as that: not every signature of it can be verified
        let _algorithm = describe(request.certification_request_info.subject_pki.raw)?;
        request.verify_signature().map_err(|_unproven| {
            PkiError::Invalid(
                "the request is not signed by the key that it holds: whoever made it may not have \
                 that key"
                    .to_owned(),
            )
        })?;
        let info = &request.certification_request_info;
        let mut names = info.subject.iter_common_name();
        let common_name = match (names.next(), names.next()) {
            (Some(name), None) => name.as_str().ok().map(str::to_owned),
            _ => None,
        };
        let mut read = Self {
            spki: info.subject_pki.raw.to_vec(),
            common_name,
            sans: Vec::new(),
            uris: Vec::new(),
            left_out: Vec::new(),
        };
        let mut seen = Vec::new();
        for attribute in info.iter_attributes() {
            if attribute.oid != OID_PKCS9_EXTENSION_REQUEST {
                continue;
            }
            let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute()
            else {
                return Err(wrong(&"the extensions that it asks for are malformed"));
            };
            for extension in &requested.extensions {
                // whoever looks at it may see the one and sign the other
                if seen.contains(&&extension.oid) {
                    return Err(PkiError::Invalid(format!(
                        "the request asks twice for the extension {}",
                        named(&extension.oid)
                    )));
                }
                seen.push(&extension.oid);
                read.extension(&extension.oid, extension.parsed_extension())?;
            }
        }
        Ok(read)
    }

    /// Text that only looks like a SPIFFE ID is nobody's name.
    fn check_ids(&self) -> Result<(), PkiError> {
        let mut ids = self.uris.iter().map(|uri| SpiffeId::parse(uri));
        ids.try_for_each(|id| id.map(drop)).map_err(|e| {
            PkiError::Invalid(format!(
                "the request names {:?}, which is not a SPIFFE ID: {}",
                e.text, e.reason
            ))
        })
    }

    fn extension(
        &mut self,
        oid: &Oid<'_>,
        extension: &ParsedExtension<'_>,
    ) -> Result<(), PkiError> {
        if let ParsedExtension::SubjectAlternativeName(names) = extension {
            return names
                .general_names
                .iter()
                .try_for_each(|name| self.general_name(name));
        }
        let what = if let ParsedExtension::BasicConstraints(constraints) = extension {
            if !constraints.ca {
                return Ok(());
            }
            "asks to be a CA"
        } else if let ParsedExtension::KeyUsage(_) = extension {
            "asks for a key usage"
        } else if let ParsedExtension::ExtendedKeyUsage(_) = extension {
            "asks for an extended key usage"
        } else if let ParsedExtension::ParseError { .. } = extension {
            return Err(PkiError::invalid(format!(
                "the request's extension {} is malformed",
                named(oid)
            )));
        } else {
            return self.leave_out(&format!("asks for the extension {}", named(oid)));
        };
        self.leave_out(what)
    }

    fn leave_out(&mut self, what: &str) -> Result<(), PkiError> {
        self.left_out.push(format!(
            "the request {what}: its role's profile alone says that"
        ));
        Ok(())
    }

    fn general_name(&mut self, name: &GeneralName<'_>) -> Result<(), PkiError> {
        let san = if let GeneralName::DNSName(dns) = name {
            San::parse(dns).map_err(|_malformed| refused_name(&format!("DNS:{dns}")))?
        } else if let GeneralName::IPAddress(octets) = name {
            San::ip(octets).ok_or_else(|| refused_name(&format!("IP:{octets:02x?}")))?
        } else if let GeneralName::URI(uri) = name {
            self.uris.push((*uri).to_owned());
            return Ok(());
        } else {
            return Err(refused_name(&name.to_string()));
        };
        if !self.sans.contains(&san) {
            self.sans.push(san);
        }
        Ok(())
    }

    /// Role and name: what the request says of itself, or what the operator says where it doesn't.
    fn who(
        &self,
        role: Option<Role>,
        name: Option<&str>,
        domain: &str,
    ) -> Result<(Role, String), PkiError> {
        let own = self.uris.iter().find_map(|uri| {
            let id = SpiffeId::parse(uri).ok()?;
            let path = id.path().strip_prefix('/')?.to_owned();
            (id.domain().as_str() == domain).then_some(path)
        });
        let read = |text: Option<&'_ str>| {
            let (role, name) = text?.split_once('/')?;
            Some((Role::parse(role)?, name.to_owned()))
        };
        let (by_id, by_name) = (read(own.as_deref()), read(self.common_name.as_deref()));
        if let (Some(id), Some(name)) = (&by_id, &by_name)
            && id != name
        {
            // whoever looks at it may see the one and sign the other
            return Err(PkiError::Invalid(format!(
                "the request asks to be {}/{} by its SPIFFE ID and {}/{} by its common name: have \
                 it made anew for what it is to be",
                id.0, id.1, name.0, name.1
            )));
        }
        let said = by_id.or(by_name);
        match (said, role, name) {
            (Some((said_role, said_name)), role, name) => {
                let other = role.is_some_and(|role| role != said_role)
                    || name.is_some_and(|name| name != said_name.as_str());
                if other {
                    return Err(PkiError::Invalid(format!(
                        "the request asks to be {said_role}/{said_name}, not {}/{}: have it made \
                         anew for what it is to be",
                        role.unwrap_or(said_role),
                        name.unwrap_or(&said_name)
                    )));
                }
                Ok((said_role, said_name))
            }
            (None, Some(role), Some(name)) => Ok((role, name.to_owned())),
            (None, Some(role), None) => match &self.common_name {
                Some(name) if check_name(name).is_ok() => Ok((role, name.clone())),
                _ => Err(PkiError::invalid(
                    "the request has no common name that could be a name here: say which with --name",
                )),
            },
            (None, None, _) => Err(match self.uris.first() {
                Some(uri) => PkiError::Invalid(format!(
                    "the request names {uri:?}; expected spiffe://{domain}/ROLE/NAME"
                )),
                None => PkiError::invalid(
                    "the request names no role (its common name is not ROLE/NAME): say which with --role",
                ),
            }),
        }
    }
}

/// `subjectKeyIdentifier (2.5.29.14)`, or the number alone.
fn named(oid: &Oid<'_>) -> String {
    match oid2sn(oid, oid_registry()) {
        Ok(name) => format!("{name} ({oid})"),
        Err(_unknown) => oid.to_string(),
    }
}

fn refused_name(name: &str) -> PkiError {
    PkiError::Invalid(format!(
        "the request names {name}, which no role may carry: expected DNS names and IP addresses"
    ))
}
