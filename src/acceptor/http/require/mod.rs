//! `[[listener.require]]`: what each request proves beyond its connection, a shared secret in a
//! header or a signature (RFC 9421). Every rule has to be met. What is compared is of one size for
//! all secrets: HMACs under a key that lives as long as the rules, each of them compared each time,
//! in a time that says nothing of where or whether they differ.

use std::{fmt, sync::Arc};

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac, rand};
use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts};

use crate::{
    admit::{Denial, Denied},
    clock,
    config::{
        RequiredHeader, RequiredKey, RequiredSignature, Requirement, SecretRef,
        secret::{self, SecretError},
    },
    serve::http::body::BodyError,
    telemetry::metrics::{LastUsed, Metrics},
    wire::{
        forwarded,
        signature::{
            self, Algorithm, Component, Demand, Message, SIGNATURE, SIGNATURE_INPUT,
            SignatureError, VerifyingKey, content_digest::Expected,
        },
    },
};

/// Of what a log line says of a signature.
const LONGEST_DETAIL: usize = 256;

/// A listener's rules, loaded. There is at least one.
pub struct Requirements {
    rules: Box<[Rule]>,
    /// What carries a proof: gone from heads and trailers in every spelling.
    names: Arc<[HeaderName]>,
    /// What nobody says in trailers: these, and what is signed in a head.
    trailers: Arc<[HeaderName]>,
    /// Of those, what the backend gets as it came.
    kept: Box<[HeaderName]>,
    /// What a signature has to cover: another spelling of it would not be covered.
    covered: Box<[HeaderName]>,
}

enum Rule {
    Secret(Box<SharedSecret>),
    Signature(Signed),
}

/// `kind = "header"`.
struct SharedSecret {
    name: HeaderName,
    /// What whoever has none is told.
    scheme: &'static str,
    key: hmac::Key,
    secrets: Box<[(hmac::Tag, LastUsed)]>,
}

/// `kind = "signature"`.
struct Signed {
    demand: Demand,
    /// Of each key.
    used: Box<[LastUsed]>,
}

impl fmt::Debug for Requirements {
    /// Which headers, never what they say.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requirements")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl Requirements {
    /// Loads what a listener's rules refer to; `None`: it has none.
    ///
    /// # Errors
    /// Every secret that can't be had, or is none.
    pub fn load(
        wanted: &[Requirement],
        listener: &str,
        metrics: &Metrics,
    ) -> Result<Option<Self>, Vec<SecretError>> {
        if wanted.is_empty() {
            return Ok(None);
        }
        let mut problems = Vec::new();
        let mut rules = Vec::new();
        let (mut names, mut kept, mut covered) = (Vec::new(), Vec::new(), Vec::new());
        for rule in wanted {
            let (of_rule, strip, loaded) = match rule {
                Requirement::Header(rule) => {
                    let loaded = SharedSecret::load(rule, listener, metrics);
                    let of_rule = vec![rule.name.clone()];
                    (of_rule, rule.strip, loaded.map(Box::new).map(Rule::Secret))
                }
                Requirement::Signature(rule) => {
                    let loaded = Signed::load(rule, listener, metrics);
                    let of_rule = vec![SIGNATURE_INPUT, SIGNATURE];
                    covered.extend(rule.components.iter().filter_map(Component::field).cloned());
                    (of_rule, rule.strip, loaded.map(Rule::Signature))
                }
            };
            match loaded {
                Ok(rule) => rules.push(rule),
                Err(found) => problems.extend(found),
            }
            if !strip {
                kept.extend(of_rule.iter().cloned());
            }
            names.extend(of_rule);
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let trailers = names.iter().chain(&covered).cloned().collect();
        Ok(Some(Self {
            trailers,
            rules: rules.into(),
            names: names.into(),
            kept: kept.into(),
            covered: covered.into(),
        }))
    }

    /// Every header that carries a proof or is proven: nobody's to say in trailers.
    pub(super) fn trailers(&self) -> &Arc<[HeaderName]> {
        &self.trailers
    }

    /// Judges a request as it came, then takes what proves it out of its head. What comes back is
    /// what its body has to come to, where that is proven too. `ends`: there is none.
    pub(super) fn judge(&self, parts: &mut Parts, ends: bool) -> Result<Option<Expected>, Denied> {
        let mut expected = None;
        for rule in &self.rules {
            match rule {
                Rule::Secret(rule) => rule.judge(&parts.headers)?,
                Rule::Signature(rule) => expected = rule.judge(parts)?.or(expected),
            }
        }
        for name in &self.kept {
            if let Some(value) = parts.headers.get_mut(name) {
                // no entry of a header table on the way to the backend (RFC 7541 section 7.1.3)
                value.set_sensitive(true);
            }
        }
        forwarded::remove_spellings_but(&mut parts.headers, &self.names, &self.kept);
        if !self.covered.is_empty() {
            forwarded::remove_spellings_but(&mut parts.headers, &self.covered, &self.covered);
        }
        if !ends {
            return Ok(expected);
        }
        if expected.is_some_and(|expected| !expected.fits()) {
            return Err(BodyError::OtherDigest.denied());
        }
        Ok(None)
    }

    /// How to prove oneself (RFC 9110 section 11.6.1): the scheme alone, never the header's name.
    pub(super) fn challenge(&self, headers: &mut HeaderMap) {
        for rule in &self.rules {
            let scheme = match rule {
                Rule::Secret(rule) => rule.scheme,
                Rule::Signature(_) => "Signature realm=\"backend\"",
            };
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
        }
    }
}

impl SharedSecret {
    fn load(
        wanted: &RequiredHeader,
        listener: &str,
        metrics: &Metrics,
    ) -> Result<Self, Vec<SecretError>> {
        let mut problems = Vec::new();
        let key = random_key(wanted.secrets.first()).map_err(|problem| vec![problem])?;
        let mut secrets = Vec::new();
        let mut scheme = "Secret realm=\"backend\"";
        for secret in &wanted.secrets {
            match secret::load_field(secret) {
                Ok(octets) => {
                    if wanted.name == header::AUTHORIZATION {
                        scheme = scheme_of(&octets);
                    }
                    secrets.push((
                        hmac::sign(&key, &octets),
                        metrics.secret(listener, wanted.name.as_str(), &secret.to_string()),
                    ));
                }
                Err(problem) => problems.push(problem),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            name: wanted.name.clone(),
            scheme,
            key,
            secrets: secrets.into(),
        })
    }

    fn judge(&self, headers: &HeaderMap) -> Result<(), Denied> {
        let denied = |reason| Err(Denied::new(reason, self.name.as_str()));
        let mut values = headers.get_all(&self.name).iter();
        let Some(value) = values.next() else {
            return denied(Denial::SecretMissing);
        };
        // two have two readings: which of them is meant?
        if values.next().is_some() {
            return denied(Denial::SecretRepeated);
        }
        match self.find(value.as_bytes()) {
            Some(used) => {
                used.at(clock::now().0);
                Ok(())
            }
            None => denied(Denial::SecretWrong),
        }
    }

    /// Which secret it is. All are compared, whichever fits.
    fn find(&self, value: &[u8]) -> Option<&LastUsed> {
        let tag = hmac::sign(&self.key, value);
        let mut found = None;
        for (of_secret, used) in &self.secrets {
            let fits = verify_slices_are_equal(tag.as_ref(), of_secret.as_ref()).is_ok();
            if fits && found.is_none() {
                found = Some(used);
            }
        }
        found
    }
}

/// The challenge for what stands in `Authorization`.
fn scheme_of(credentials: &[u8]) -> &'static str {
    match credentials.split_first_chunk::<6>() {
        Some((basic, _)) if basic.eq_ignore_ascii_case(b"Basic ") => "Basic realm=\"backend\"",
        _ => "Bearer realm=\"backend\"",
    }
}

/// A key that nobody knows: what is compared says nothing of what is secret.
fn random_key(whose: Option<&SecretRef>) -> Result<hmac::Key, SecretError> {
    let mut octets = zeroize::Zeroizing::new([0; 32]);
    rand::fill(octets.as_mut_slice()).map_err(|_unspecified| SecretError::Unfit {
        place: whose.map(ToString::to_string).unwrap_or_default(),
        reason: "it can't be compared: the system has no random numbers",
    })?;
    Ok(hmac::Key::new(hmac::HMAC_SHA256, octets.as_slice()))
}

impl Signed {
    fn load(
        wanted: &RequiredSignature,
        listener: &str,
        metrics: &Metrics,
    ) -> Result<Self, Vec<SecretError>> {
        let mut problems = Vec::new();
        let (mut keys, mut used) = (Vec::new(), Vec::new());
        for key in &wanted.keys {
            match load_key(key) {
                Ok(loaded) => {
                    keys.push((key.key_id.clone(), loaded));
                    used.push(metrics.secret(listener, SIGNATURE.as_str(), &key.key.to_string()));
                }
                Err(problem) => problems.push(problem),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            demand: Demand {
                keys,
                components: wanted.components.clone(),
                max_age: i64::try_from(wanted.max_age.as_secs()).unwrap_or(i64::MAX),
                tag: wanted.tag.clone(),
            },
            used: used.into(),
        })
    }

    /// Judges a request whose head nobody has changed yet.
    fn judge(&self, parts: &Parts) -> Result<Option<Expected>, Denied> {
        let host = parts.headers.get(header::HOST);
        let host = host.and_then(|value| value.to_str().ok());
        // a target with a host wins (RFC 9112 section 3.2.2); both are known to say the same
        let authority = parts.uri.authority().map(http::uri::Authority::as_str);
        let message = Message {
            method: parts.method.as_str(),
            scheme: "https",
            authority: authority.or(host).unwrap_or_default(),
            path: parts.uri.path(),
            query: parts.uri.query(),
            headers: &parts.headers,
        };
        let now = clock::now();
        let verified = signature::verify(&message, &self.demand, now).map_err(|error| {
            let reason = match &error {
                SignatureError::Absent => Denial::SignatureMissing,
                SignatureError::Time(_) => Denial::SignatureStale,
                SignatureError::Malformed(..)
                | SignatureError::Component(_)
                | SignatureError::Twice(_)
                | SignatureError::Missing(_)
                | SignatureError::NotCovered(_)
                | SignatureError::Parameter(_)
                | SignatureError::UnknownKey
                | SignatureError::Wrong => Denial::SignatureWrong,
            };
            // a part's name may be the sender's own, and as long as a head
            let detail = error.to_string();
            let detail: String = detail.chars().take(LONGEST_DETAIL).collect();
            Denied::new(reason, detail)
        })?;
        let expected = match verified.covers_body() {
            false => None,
            // what is signed has to be what can be checked
            true => Some(
                Expected::of(&parts.headers)
                    .map_err(|error| Denied::new(Denial::SignatureWrong, error.to_string()))?,
            ),
        };
        if let Some(used) = self.used.get(verified.key) {
            used.at(now.0);
        }
        Ok(expected)
    }
}

fn load_key(wanted: &RequiredKey) -> Result<VerifyingKey, SecretError> {
    match wanted.algorithm {
        Algorithm::HmacSha256 => {
            let key = secret::load_key(&wanted.key, wanted.key_is_base64)?;
            Ok(VerifyingKey::hmac_sha256(&key))
        }
        Algorithm::Ed25519 => {
            VerifyingKey::ed25519(&secret::load_public(&wanted.key)?).map_err(|_no_key| {
                let reason = "expected an Ed25519 public key: a PEM section PUBLIC KEY";
                SecretError::unfit(&wanted.key, reason)
            })
        }
    }
}

#[cfg(test)]
mod tests;
