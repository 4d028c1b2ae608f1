//! `[[listener.require]]` of an acceptor: what each request has to prove beyond its connection.

use std::time::Duration;

use http::HeaderName;

use super::{
    Mode, SecretRef, defaults, proof,
    reader::{Table, Value},
    values::{duration, secret},
};
use crate::wire::{
    forwarded,
    signature::{Algorithm, Component},
};

/// More are not needed while secrets change.
const MOST_SECRETS: usize = 16;
/// More than any backend asks for.
const MOST_RULES: usize = 16;

/// One `[[listener.require]]`: every one has to be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// `kind = "header"`
    Header(RequiredHeader),
    /// `kind = "signature"`
    Signature(RequiredSignature),
}

/// `kind = "header"`: a shared secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredHeader {
    /// `header`.
    pub name: HeaderName,
    /// `secrets`: one of them is its whole value; at least one.
    pub secrets: Vec<SecretRef>,
    /// `strip`.
    pub strip: bool,
}

/// `kind = "signature"`: RFC 9421.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredSignature {
    /// `keys`: one of them signs; at least one.
    pub keys: Vec<RequiredKey>,
    /// `components`: what is covered at least.
    pub components: Vec<Component>,
    /// `max_age`.
    pub max_age: Duration,
    /// `tag`.
    pub tag: Option<String>,
    /// `strip`.
    pub strip: bool,
}

/// An entry of `keys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredKey {
    /// `key_id`.
    pub key_id: String,
    /// `algorithm`.
    pub algorithm: Algorithm,
    /// `key`: the shared key, or a public key in PEM.
    pub key: SecretRef,
    /// `key_encoding = "base64"`.
    pub key_is_base64: bool,
}

impl Requirement {
    /// What it is called: its header, or `signature`.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Header(rule) => rule.name.as_str(),
            Self::Signature(_) => "signature",
        }
    }

    /// Where its secrets and keys are kept.
    pub fn places(&self) -> impl Iterator<Item = &SecretRef> {
        let (secrets, keys): (&[_], &[RequiredKey]) = match self {
            Self::Header(rule) => (&rule.secrets, &[]),
            Self::Signature(rule) => (&[], &rule.keys),
        };
        secrets.iter().chain(keys.iter().map(|key| &key.key))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Header,
    Signature,
}

/// Reads the rules of a listener; `None`: there are problems.
pub(super) fn read(listener: &Table<'_>, mode: Option<Mode>) -> Option<Vec<Requirement>> {
    let Some(value) = listener.get("require") else {
        return Some(Vec::new());
    };
    if mode == Some(Mode::Tcp) {
        value.bad(
            "`require` is for mode = \"http\"",
            "tcp mode passes bytes as they are: it sees no requests",
        );
    }
    let items = value.list()?;
    if items.is_empty() {
        value.bad(
            "`require` asks for nothing",
            "add a [[listener.require]], or leave it out",
        );
    }
    if items.len() > MOST_RULES {
        value.bad(
            format!("{} rules are too many", items.len()),
            format!("expected at most {MOST_RULES}"),
        );
    }
    let mut taken = Vec::new();
    // every rule is read before one can end this
    let read: Vec<_> = items
        .iter()
        .map(|item| read_rule(item, &mut taken))
        .collect();
    read.into_iter().collect()
}

fn read_rule(item: &Value<'_>, taken: &mut Vec<HeaderName>) -> Option<Requirement> {
    let table = item.table("[[listener.require]]")?;
    let words = [("header", Kind::Header), ("signature", Kind::Signature)];
    let kind = table
        .need(
            "kind",
            "\"header\": a shared secret; \"signature\": RFC 9421",
        )
        .and_then(|value| value.word(&words, &[]));
    let short = table.flag("danger_short_secret").is_some();
    let strip = table.get("strip");
    let strip = strip.is_none_or(|value| value.boolean().unwrap_or(true));
    check_keys(&table, kind);
    let read = match kind {
        Some(Kind::Header) => read_header(&table, short, strip, taken).map(Requirement::Header),
        Some(Kind::Signature) => read_signature(&table, short, strip).map(Requirement::Signature),
        None => None,
    };
    table.finish();
    read
}

/// What belongs to the other kind would be believed to matter.
fn check_keys(table: &Table<'_>, kind: Option<Kind>) {
    let of_header = [table.get("header"), table.get("secrets")];
    let of_signature = [
        table.get("keys"),
        table.get("components"),
        table.get("max_age"),
        table.get("tag"),
    ];
    let (others, name): (&[Option<Value<'_>>], _) = match kind {
        Some(Kind::Header) => (&of_signature, "signature"),
        Some(Kind::Signature) => (&of_header, "header"),
        None => return,
    };
    for value in others.iter().flatten() {
        value.bad(
            format!("`{}` is for kind = {name:?}", value.key),
            "remove it, or change the kind",
        );
    }
}

fn read_header(
    table: &Table<'_>,
    short: bool,
    strip: bool,
    taken: &mut Vec<HeaderName>,
) -> Option<RequiredHeader> {
    let place = table.need("header", "the header's name: \"X-Backend-Secret\"");
    let name = place
        .as_ref()
        .and_then(|value| value.judged("the name of a header", proof::judge_name));
    if let (Some(name), Some(place)) = (&name, &place) {
        let same = |other: &HeaderName| forwarded::is_same_to_backends(other, name);
        if taken.iter().any(same) {
            place.bad(
                "another rule asks for the same header",
                "a header has one value: put all its secrets into one rule",
            );
        }
        taken.push(name.clone());
    }
    let secrets = table
        .need(
            "secrets",
            "[{ file = \"secret\" }]; a second one while it changes",
        )
        .and_then(|value| {
            some(&value, "[{ file = \"secret\" }]", |item| {
                secret(item, short)
            })
        });
    Some(RequiredHeader {
        name: name?,
        secrets: secrets?,
        strip,
    })
}

/// A list that has to hold something, and nothing twice.
fn some<T: PartialEq>(
    value: &Value<'_>,
    expected: &str,
    mut read: impl FnMut(&Value<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let items = value.list()?;
    if items.is_empty() || items.len() > MOST_SECRETS {
        let message = match items.len() {
            0 => format!("`{}` is empty: nobody could meet it", value.key),
            n => format!("{n} `{}` are too many", value.key),
        };
        value.bad(message, format!("expected 1 to {MOST_SECRETS}: {expected}"));
        return None;
    }
    let mut list = Vec::new();
    let mut whole = true;
    for item in &items {
        match read(item) {
            Some(read) if list.contains(&read) => {
                item.bad("it stands here twice", "remove one");
            }
            Some(read) => list.push(read),
            None => whole = false,
        }
    }
    whole.then_some(list)
}

fn read_signature(table: &Table<'_>, short: bool, strip: bool) -> Option<RequiredSignature> {
    let example =
        "[{ key_id = \"edge\", algorithm = \"hmac-sha256\", key = { file = \"hmac.key\" } }]";
    let keys = table
        .need("keys", example)
        .and_then(|value| some(&value, example, |item| read_key(item, short)));
    let components = table
        .need(
            "components",
            "what has to be signed: [\"@method\", \"@authority\", \"@path\", \"@query\", \
             \"content-digest\"]",
        )
        .and_then(|value| proof::components(&value));
    let max_age = match table.get("max_age") {
        None => Some(defaults::SIGNATURE_AGE),
        Some(value) => duration(&value),
    };
    let tag = match table.get("tag") {
        None => Some(None),
        Some(value) => proof::printable(&value).map(Some),
    };
    Some(RequiredSignature {
        keys: keys?,
        components: components?,
        max_age: max_age?,
        tag: tag?,
        strip,
    })
}

fn read_key(item: &Value<'_>, short: bool) -> Option<RequiredKey> {
    let table = item.table("`keys`")?;
    let short = table.flag("danger_short_secret").is_some() || short;
    let key_id = table
        .need("key_id", "what the signer calls the key")
        .and_then(|value| proof::printable(&value));
    let algorithm = proof::algorithm(&table);
    let key = table
        .need("key", "{ file = \"hmac.key\" }, or a public key in PEM")
        .and_then(|value| secret(&value, short));
    let key_is_base64 = proof::key_is_base64(&table, algorithm);
    table.finish();
    Some(RequiredKey {
        key_id: key_id?,
        algorithm: algorithm?,
        key: key?,
        key_is_base64,
    })
}
