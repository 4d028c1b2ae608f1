//! What the sender and the judge of a proof write alike: names of headers, components of signatures
//! (RFC 9421), and how their keys are written down.

use http::HeaderName;

use super::reader::{Table, Value};
use crate::wire::{
    forwarded,
    signature::{Algorithm, Component},
};

/// The name of a header that can carry a proof.
pub(super) fn judge_name(text: &str) -> Result<HeaderName, String> {
    let name = HeaderName::from_bytes(text.as_bytes())
        .map_err(|_invalid| "expected letters, digits and hyphens".to_owned())?;
    if forwarded::is_written_by_us(&name) {
        return Err(format!(
            "{name} has a meaning of its own on the way: choose another name"
        ));
    }
    Ok(name)
}

/// The id of a key, or a tag.
pub(super) fn printable(value: &Value<'_>) -> Option<String> {
    value.parsed("1 to 256 printable ASCII characters", |text| {
        let fits = !text.is_empty() && text.len() <= 256;
        (fits && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))).then(|| text.to_owned())
    })
}

/// `algorithm`.
pub(super) fn algorithm(table: &Table<'_>) -> Option<Algorithm> {
    let words = [
        (Algorithm::HmacSha256.as_str(), Algorithm::HmacSha256),
        (Algorithm::Ed25519.as_str(), Algorithm::Ed25519),
    ];
    table
        .need("algorithm", "\"hmac-sha256\" or \"ed25519\"")
        .and_then(|value| value.word(&words, &[]))
}

/// `key_encoding`.
pub(super) fn key_is_base64(table: &Table<'_>, algorithm: Option<Algorithm>) -> bool {
    let encoding = table.get("key_encoding");
    if let (Some(Algorithm::Ed25519), Some(encoding)) = (algorithm, &encoding) {
        encoding.bad("an Ed25519 key is PEM", "remove `key_encoding`");
    }
    let encodings = [("text", false), ("base64", true)];
    encoding
        .and_then(|value| value.word(&encodings, &[]))
        .unwrap_or(false)
}

/// `components`: at least one, none twice, none that ends at the next hop.
pub(super) fn components(value: &Value<'_>) -> Option<Vec<Component>> {
    let items = value.list()?;
    if items.is_empty() {
        value.bad(
            "`components` is empty: the signature would prove nothing",
            "expected such as [\"@method\", \"@path\", \"@authority\", \"content-digest\"]",
        );
        return None;
    }
    let mut components = Vec::new();
    for item in items {
        let read = item.judged("a component", |text| {
            Component::parse(text).map_err(|error| error.to_string())
        });
        let Some(component) = read else { continue };
        if let Component::Field(name) | Component::Octets(name) = &component
            && forwarded::is_hop_by_hop(name)
        {
            item.bad(
                format!("{name} ends at the next hop"),
                "a signature covers what reaches the backend: leave it out",
            );
        }
        if components.contains(&component) {
            item.bad(format!("{component} stands here twice"), "remove one");
        } else {
            components.push(component);
        }
    }
    Some(components)
}
