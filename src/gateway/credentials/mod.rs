//! What a backend expects of whoever may speak to it, added to each request. Values are prepared
//! once: a request pays for a look at its names and a reference count. Their octets are wiped when
//! the last request that holds them is done.

mod digest;
mod oauth2;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts, uri::Authority};
use zeroize::Zeroizing;

pub(crate) use digest::Digest;
pub(crate) use oauth2::Tokens;

use crate::{
    config::{
        self, Authorization, Login, RequestSignature, SecretRef,
        secret::{self, SecretError},
    },
    identity::UnixSeconds,
    tls::MaterialError,
    wire::{
        base64, forwarded,
        signature::{self, Algorithm, Message, SignatureError, Signer, SigningKey},
    },
};

/// A backend's credentials, loaded.
pub struct Credentials {
    /// The same with each request.
    fixed: Box<[(HeaderName, HeaderValue)]>,
    /// Every header that is ours to write.
    names: Arc<[HeaderName]>,
    /// What nobody else says in trailers: these, and the hash that is signed.
    trailers: Arc<[HeaderName]>,
    /// Those that are written for each request anew.
    varying: Box<[HeaderName]>,
    /// One of them has an underscore: a backend may take other spellings for it.
    underscored: bool,
    signing: Option<Signing>,
    digest: Option<Digest>,
    tokens: Option<Tokens>,
}

/// What can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The roots of a token endpoint.
    #[error(transparent)]
    Trust(#[from] MaterialError),
}

/// How requests are signed.
pub struct Signing {
    signer: Signer,
    /// How much of a body is kept for its hash.
    pub(super) body_bytes: usize,
}

impl fmt::Debug for Credentials {
    /// Which headers, never what they say.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Loads what the configuration refers to.
    ///
    /// # Errors
    /// Every secret that can't be had, or can't stand where it is to stand.
    pub fn load(wanted: &config::Credentials) -> Result<Self, Vec<CredentialError>> {
        let mut problems: Vec<CredentialError> = Vec::new();
        let mut fixed = Vec::new();
        let authorization = match &wanted.authorization {
            None => None,
            Some(Authorization::Bearer(token)) => Some(bearer(token)),
            Some(Authorization::Basic(login)) => Some(basic(login)),
            Some(Authorization::Digest(_) | Authorization::OAuth2(_)) => None,
        };
        let headers = wanted
            .headers
            .iter()
            .map(|header| (header.name.clone(), custom(&header.value)));
        let mut varying = Vec::new();
        let signing = match wanted.signature.as_ref().map(Signing::load) {
            None => None,
            Some(Ok(signing)) => {
                varying.extend([signature::SIGNATURE_INPUT, signature::SIGNATURE]);
                Some(signing)
            }
            Some(Err(problem)) => {
                problems.push(problem.into());
                None
            }
        };
        let digest = match &wanted.authorization {
            Some(Authorization::Digest(login)) => {
                varying.push(header::AUTHORIZATION);
                Digest::load(login)
                    .map_err(|problem| problems.push(problem.into()))
                    .ok()
            }
            Some(Authorization::Bearer(_) | Authorization::Basic(_) | Authorization::OAuth2(_))
            | None => None,
        };
        let tokens = match &wanted.authorization {
            Some(Authorization::OAuth2(endpoint)) => {
                varying.push(header::AUTHORIZATION);
                Tokens::load(endpoint)
                    .map_err(|found| problems.extend(found))
                    .ok()
            }
            Some(Authorization::Bearer(_) | Authorization::Basic(_) | Authorization::Digest(_))
            | None => None,
        };
        let authorization = authorization.map(|value| (header::AUTHORIZATION, value));
        for (name, value) in headers.chain(authorization) {
            match value {
                Ok(value) => fixed.push((name, value)),
                Err(problem) => problems.push(problem.into()),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let names = fixed.iter().map(|(name, _)| name).chain(&varying);
        let names: Arc<[HeaderName]> = names.cloned().collect();
        let trailers = match signing.as_ref().is_some_and(Signing::covers_body) {
            true => names
                .iter()
                .chain([&signature::content_digest::CONTENT_DIGEST])
                .cloned()
                .collect(),
            false => Arc::clone(&names),
        };
        Ok(Self {
            fixed: fixed.into(),
            underscored: names.iter().any(forwarded::is_other_spelling),
            names,
            trailers,
            varying: varying.into(),
            signing,
            digest,
            tokens,
        })
    }

    /// Goes on with the nonce or token of what was in force before, where it still fits.
    pub fn take_over(&self, before: &Self) {
        if let (Some(now), Some(before)) = (&self.digest, &before.digest) {
            now.take_over(before);
        }
        if let (Some(now), Some(before)) = (&self.tokens, &before.tokens) {
            now.take_over(before);
        }
    }

    /// Whether something is made anew for each request.
    #[must_use]
    pub fn vary(&self) -> bool {
        self.signing.is_some() || self.digest.is_some() || self.tokens.is_some()
    }

    /// A token endpoint's tokens, where they are asked for.
    pub(crate) fn tokens(&self) -> Option<&Tokens> {
        self.tokens.as_ref()
    }

    /// Digest authentication, where it is asked for.
    pub(crate) fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// How requests are signed, where they are.
    #[must_use]
    pub fn signing(&self) -> Option<&Signing> {
        self.signing.as_ref()
    }

    /// Every header that is ours to write: nobody else may in trailers.
    #[must_use]
    pub fn trailers(&self) -> &Arc<[HeaderName]> {
        &self.trailers
    }

    /// Sets what is the same with each request, after whatever a client sent under these names is
    /// gone. `spellings`: other spellings of some name are still there.
    pub fn apply(&self, headers: &mut HeaderMap, spellings: bool) {
        if spellings || self.underscored {
            forwarded::remove_all_spellings(headers, &self.names);
            if self.signing.as_ref().is_some_and(Signing::covers_body) {
                forwarded::remove_merged(headers, &["content-digest"]);
            }
        }
        for name in &self.varying {
            headers.remove(name);
        }
        for (name, value) in &self.fixed {
            // replaces every line of this name
            headers.insert(name, value.clone());
        }
    }
}

impl Signing {
    fn load(wanted: &RequestSignature) -> Result<Self, SecretError> {
        let key = match wanted.algorithm {
            Algorithm::HmacSha256 => {
                SigningKey::hmac_sha256(&secret::load_key(&wanted.key, wanted.key_is_base64)?)
            }
            Algorithm::Ed25519 => SigningKey::ed25519(&secret::load_document(&wanted.key)?)
                .map_err(|_no_key| {
                    let reason = "expected an Ed25519 private key: a PEM section PRIVATE KEY";
                    SecretError::unfit(&wanted.key, reason)
                })?,
        };
        Ok(Self {
            signer: Signer::new(
                &wanted.label,
                wanted.components.clone(),
                &wanted.key_id,
                wanted.tag.as_deref(),
                key,
            ),
            body_bytes: wanted.body_bytes,
        })
    }

    /// Whether the body's hash is covered.
    #[must_use]
    pub fn covers_body(&self) -> bool {
        self.signer.covers_body()
    }

    /// Signs a request whose other fields are all there.
    ///
    /// # Errors
    /// It can't be signed.
    pub fn sign(&self, parts: &mut Parts, now: UnixSeconds) -> Result<(), SignatureError> {
        let host = parts.headers.get(header::HOST);
        let host = host.and_then(|value| value.to_str().ok());
        let authority = host.or_else(|| parts.uri.authority().map(Authority::as_str));
        let message = Message {
            method: parts.method.as_str(),
            scheme: "https",
            authority: authority.unwrap_or_default(),
            path: parts.uri.path(),
            query: parts.uri.query(),
            headers: &parts.headers,
        };
        let signed = self.signer.sign_what_is_there(&message, now)?;
        parts
            .headers
            .insert(signature::SIGNATURE_INPUT, signed.input);
        parts.headers.insert(signature::SIGNATURE, signed.signature);
        Ok(())
    }
}

/// A token as RFC 6750 section 2.1 carries it.
fn bearer(token: &SecretRef) -> Result<HeaderValue, SecretError> {
    let secret = secret::load(token, false)?;
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
    if !secret.iter().all(fits) {
        return Err(SecretError::unfit(
            token,
            "a bearer token has letters, digits and -._~+/= alone (RFC 6750)",
        ));
    }
    value_of(token, joined(b"Bearer ", &secret))
}

/// Name and password as RFC 7617 section 2 carries them.
fn basic(login: &Login) -> Result<HeaderValue, SecretError> {
    let password = secret::load(&login.password, false)?;
    let pair = joined(&[login.username.as_bytes(), b":"].concat(), &password);
    let text = Zeroizing::new(base64::encode(&pair));
    value_of(&login.password, joined(b"Basic ", text.as_bytes()))
}

fn custom(secret: &SecretRef) -> Result<HeaderValue, SecretError> {
    let octets = secret::load_field(secret)?;
    value_of(secret, octets)
}

fn joined(one: &[u8], two: &[u8]) -> Zeroizing<Vec<u8>> {
    // with room for both, so that growing leaves no copy behind
    let mut whole = Zeroizing::new(Vec::with_capacity(one.len().saturating_add(two.len())));
    whole.extend_from_slice(one);
    whole.extend_from_slice(two);
    whole
}

/// A value that is wiped with its last copy, is never shown, and is no entry of a header table.
fn value_of(secret: &SecretRef, octets: Zeroizing<Vec<u8>>) -> Result<HeaderValue, SecretError> {
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(octets))
        .map_err(|_invalid| SecretError::unfit(secret, "it can't stand in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests;
