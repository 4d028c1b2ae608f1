//! HTTP message signatures (RFC 9421) of requests, signed and verified: which parts are covered,
//! the signature base, the two fields, and the hash of a body (RFC 9530). Pure: keys and time are
//! arguments.

mod component;
pub mod content_digest;
mod key;
pub mod structured;

#[cfg(test)]
mod tests;

use http::{HeaderMap, HeaderName, HeaderValue};

pub use component::{Component, Message, base};
pub use key::{Algorithm, NoKey, SigningKey, VerifyingKey};

use crate::identity::UnixSeconds;
use structured::{InnerList, Item, byte_sequence};

/// `Signature-Input`.
pub const SIGNATURE_INPUT: HeaderName = HeaderName::from_static("signature-input");
/// `Signature`.
pub const SIGNATURE: HeaderName = HeaderName::from_static("signature");

/// Signatures of one request that are looked at.
const MOST_SIGNATURES: usize = 8;
/// By so many seconds another's clock may be ahead of ours.
const SKEW: i64 = 60;

/// Why a request can't be signed, or is not signed as it has to be. Nothing of a key is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is no signature.
    #[error("no signature")]
    Absent,
    /// A field can't be read.
    #[error("{0}: {1}")]
    Malformed(&'static str, structured::Malformed),
    /// No such component, or none that is supported.
    #[error("the component {0} is unknown or not supported")]
    Component(String),
    /// A component is covered twice.
    #[error("the component {0} is covered twice")]
    Twice(String),
    /// A component is not in the request, or more than once where it may be there once.
    #[error("the component {0} is not in the request once")]
    Missing(String),
    /// A signature does not cover what it has to.
    #[error("the signature does not cover {0}")]
    NotCovered(String),
    /// A parameter is missing or says something else than what is configured.
    #[error("the signature's parameter {0} is missing or wrong")]
    Parameter(&'static str),
    /// Made too long ago, by a clock ahead of ours, or expired.
    #[error("the signature is not of now: {0}")]
    Time(&'static str),
    /// No key of ours has its id.
    #[error("no signature has the id of a key of ours")]
    UnknownKey,
    /// It is not the signature of this request.
    #[error("the signature does not fit the request")]
    Wrong,
}

/// How requests are signed.
#[derive(Debug)]
pub struct Signer {
    label: String,
    components: Vec<Component>,
    /// `("@method" "@path")`
    list: String,
    /// What follows `created`.
    after: String,
    key: SigningKey,
}

/// The two fields of a signature.
#[derive(Clone, Debug)]
pub struct Signed {
    /// `Signature-Input`.
    pub input: HeaderValue,
    /// `Signature`.
    pub signature: HeaderValue,
}

impl Signer {
    /// Signs these components with this key; `label` names the signature among others, `tag` the
    /// application.
    #[must_use]
    pub fn new(
        label: &str,
        components: Vec<Component>,
        key_id: &str,
        tag: Option<&str>,
        key: SigningKey,
    ) -> Self {
        let text = |text: &str| Item::Text(text.to_owned());
        let mut parameters = vec![
            ("keyid".to_owned(), text(key_id)),
            ("alg".to_owned(), text(key.algorithm().as_str())),
        ];
        parameters.extend(tag.map(|tag| ("tag".to_owned(), text(tag))));
        let mut after = String::new();
        structured::write_parameters(&mut after, &parameters);
        Self {
            label: label.to_owned(),
            list: list_of(&components),
            components,
            after,
            key,
        }
    }

    /// Whether the body's hash is covered.
    #[must_use]
    pub fn covers_body(&self) -> bool {
        covers_body(&self.components)
    }

    /// Signs a request at this time.
    ///
    /// # Errors
    /// A component is not in it.
    pub fn sign(&self, message: &Message<'_>, now: UnixSeconds) -> Result<Signed, SignatureError> {
        self.sign_these(message, &self.components, &self.list, now)
    }

    /// Signs a request at this time; parts that it does not have are not covered, which whoever
    /// verifies it sees.
    ///
    /// # Errors
    /// It can't be signed.
    pub fn sign_what_is_there(
        &self,
        message: &Message<'_>,
        now: UnixSeconds,
    ) -> Result<Signed, SignatureError> {
        if self.components.iter().all(|part| part.is_in(message)) {
            return self.sign(message, now);
        }
        let there = self.components.iter().filter(|part| part.is_in(message));
        let components: Vec<Component> = there.cloned().collect();
        let list = list_of(&components);
        self.sign_these(message, &components, &list, now)
    }

    fn sign_these(
        &self,
        message: &Message<'_>,
        components: &[Component],
        list: &str,
        now: UnixSeconds,
    ) -> Result<Signed, SignatureError> {
        let mut digits = itoa::Buffer::new();
        let input = [list, ";created=", digits.format(now.0), &self.after].concat();
        let base = base(message, components, &input)?;
        let signature = byte_sequence(&self.key.sign(&base));
        let field = |value: &str| HeaderValue::try_from([&self.label, "=", value].concat());
        match (field(&input), field(&signature)) {
            (Ok(input), Ok(signature)) => Ok(Signed { input, signature }),
            // labels, ids and tags are judged before: printable ASCII
            _ => Err(SignatureError::Parameter("keyid")),
        }
    }
}

fn covers_body(components: &[Component]) -> bool {
    let mut fields = components.iter().filter_map(Component::field);
    fields.any(|name| *name == content_digest::CONTENT_DIGEST)
}

fn list_of(components: &[Component]) -> String {
    let list = InnerList {
        items: components.iter().map(Component::identifier).collect(),
        parameters: Vec::new(),
    };
    list.write()
}

/// What a signature has to be.
#[derive(Debug)]
pub struct Demand {
    /// Keys by their ids.
    pub keys: Vec<(String, VerifyingKey)>,
    /// What has to be covered; more may be.
    pub components: Vec<Component>,
    /// Seconds after which a signature is old.
    pub max_age: i64,
    /// The application, where it is to be named.
    pub tag: Option<String>,
}

/// A signature that fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Which of the keys made it.
    pub key: usize,
    /// What it covers; each with its place in the request.
    pub components: Vec<Component>,
    /// Chosen by the signer, to be seen once.
    pub nonce: Option<String>,
}

impl Verified {
    /// Whether the body's hash is covered: it has then to be checked as the body passes, with
    /// [`content_digest::Expected`].
    #[must_use]
    pub fn covers_body(&self) -> bool {
        covers_body(&self.components)
    }
}

/// Looks for a signature that meets a demand.
///
/// # Errors
/// Why the last one that has the id of a key of ours does not; or there is none.
pub fn verify(
    message: &Message<'_>,
    demand: &Demand,
    now: UnixSeconds,
) -> Result<Verified, SignatureError> {
    let inputs = joined(message.headers, &SIGNATURE_INPUT).ok_or(SignatureError::Absent)?;
    let signatures = joined(message.headers, &SIGNATURE).ok_or(SignatureError::Absent)?;
    let inputs = structured::lists(&inputs)
        .map_err(|malformed| SignatureError::Malformed("Signature-Input", malformed))?;
    let signatures = structured::octets(&signatures)
        .map_err(|malformed| SignatureError::Malformed("Signature", malformed))?;
    let mut why = SignatureError::UnknownKey;
    for (label, list) in inputs.iter().take(MOST_SIGNATURES) {
        let Some((_, signature)) = signatures.iter().find(|(other, _)| other == label) else {
            continue;
        };
        let id = text(list, "keyid");
        let keys = demand.keys.iter().enumerate();
        // one id may stand for several keys while they change
        for (at, (_, key)) in keys.filter(|(_, (known, _))| Some(known.as_str()) == id) {
            match check(message, demand, now, list, key, signature) {
                Ok(components) => {
                    return Ok(Verified {
                        key: at,
                        components,
                        nonce: text(list, "nonce").map(str::to_owned),
                    });
                }
                Err(error) => why = error,
            }
        }
    }
    Err(why)
}

fn check(
    message: &Message<'_>,
    demand: &Demand,
    now: UnixSeconds,
    list: &InnerList,
    key: &VerifyingKey,
    signature: &[u8],
) -> Result<Vec<Component>, SignatureError> {
    // an algorithm that the message chooses is no choice (RFC 9421 section 7.3.6)
    if parameter(list, "alg").is_some() && text(list, "alg") != Some(key.algorithm().as_str()) {
        return Err(SignatureError::Parameter("alg"));
    }
    if demand.tag.is_some() && text(list, "tag") != demand.tag.as_deref() {
        return Err(SignatureError::Parameter("tag"));
    }
    let created = integer(list, "created").ok_or(SignatureError::Parameter("created"))?;
    if created > now.0.saturating_add(SKEW) {
        return Err(SignatureError::Time(
            "it is from the future: check the clocks",
        ));
    }
    if created < now.0.saturating_sub(demand.max_age) {
        return Err(SignatureError::Time("it is too old"));
    }
    if parameter(list, "expires").is_some() {
        let expires = integer(list, "expires").ok_or(SignatureError::Parameter("expires"))?;
        if expires <= now.0 {
            return Err(SignatureError::Time("it has expired"));
        }
    }
    let components = component::covered(list)?;
    let missing = demand.components.iter().find(|c| !components.contains(c));
    if let Some(missing) = missing {
        return Err(SignatureError::NotCovered(missing.to_string()));
    }
    let base = base(message, &components, &list.write())?;
    if key.verify(&base, signature) {
        Ok(components)
    } else {
        Err(SignatureError::Wrong)
    }
}

fn parameter<'a>(list: &'a InnerList, name: &str) -> Option<&'a Item> {
    let found = list.parameters.iter().find(|(key, _)| key == name);
    found.map(|(_, value)| value)
}

fn text<'a>(list: &'a InnerList, name: &str) -> Option<&'a str> {
    if let Some(Item::Text(text)) = parameter(list, name) {
        return Some(text);
    }
    None
}

fn integer(list: &InnerList, name: &str) -> Option<i64> {
    if let Some(Item::Integer(number)) = parameter(list, name) {
        return Some(*number);
    }
    None
}

/// All lines of a field as one (RFC 8941 section 4.2).
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let lines: Vec<&[u8]> = headers
        .get_all(name)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    (!lines.is_empty()).then(|| lines.join(b", ".as_slice()))
}
