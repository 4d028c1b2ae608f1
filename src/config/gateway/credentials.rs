//! `[backend.NAME.credentials]`: what the backend expects, and which of it can stand together.

use http::HeaderName;

use super::super::{
    Authorization, ClientAuthentication, Credentials, DigestLogin, Login, OAuth2, RequestSignature,
    SecretHeader, SecretRef, TlsOptions,
    common::Head,
    defaults, proof,
    reader::{Table, Value},
    values::{judge_endpoint, secret, size},
};
use crate::wire::forwarded;

/// More than any backend asks for.
const MOST_HEADERS: usize = 16;
/// Of a body, for its hash or to be sent again.
const MOST_KEPT: u64 = 64 << 20;
/// What writes `Authorization`.
const SCHEMES: [&str; 4] = ["bearer", "basic", "digest", "oauth2"];

/// Reads the table; `None`: there is none, or it has problems.
pub(super) fn read(
    backend: &Table<'_>,
    name: &str,
    head: &Head,
    has_http: bool,
) -> Option<Credentials> {
    let value = backend.get("credentials")?;
    if !has_http {
        let help = "they are headers: route to this backend from a listener with mode = \"http\"";
        value.bad("`credentials` on a backend without http listeners", help);
    }
    let table = value.table(format!("[backend.{name}.credentials]"))?;
    let short = table.flag("danger_short_secret").is_some();
    let mut taken: Vec<(HeaderName, String)> = Vec::new();
    let authorization = read_authorization(&table, short, &head.tls);
    for scheme in SCHEMES {
        if table.get(scheme).is_some() {
            taken.push((http::header::AUTHORIZATION, format!("`{scheme}`")));
        }
    }
    let headers = table
        .get("headers")
        .map(|value| read_headers(&value, short, &mut taken))
        .unwrap_or_default();
    let signature = table
        .get("signature")
        .map(|value| read_signature(&value, short));
    let none = taken.is_empty() && signature.is_none();
    let found = Credentials {
        headers,
        authorization,
        signature: signature.flatten(),
    };
    if none {
        value.bad(
            "`credentials` names none",
            "add headers, bearer, basic, digest, signature or oauth2, or leave the table out",
        );
    }
    table.finish();
    Some(found)
}

fn read_authorization(table: &Table<'_>, short: bool, tls: &TlsOptions) -> Option<Authorization> {
    let mut first: Option<&str> = None;
    for scheme in SCHEMES {
        let Some(value) = table.get(scheme) else {
            continue;
        };
        if let Some(first) = first {
            value.bad(
                format!("`{scheme}` and `{first}` both write Authorization"),
                "a request has one Authorization: keep one of them",
            );
        }
        first.get_or_insert(scheme);
    }
    let bearer = table
        .get("bearer")
        .and_then(|value| secret(&value, short))
        .map(Authorization::Bearer);
    let basic = table
        .get("basic")
        .and_then(|value| read_login(&value, "basic", short, &mut |_| ()))
        .map(Authorization::Basic);
    let digest = table.get("digest").and_then(|value| {
        let mut body_bytes = None;
        let login = read_login(&value, "digest", short, &mut |table| {
            body_bytes = table.get("body_bytes").and_then(|value| kept_size(&value));
        })?;
        if !login.username.is_ascii() {
            value.bad(
                "`digest` with a user name that is not ASCII",
                "ask the backend's owner for one in ASCII",
            );
        }
        Some(Authorization::Digest(DigestLogin {
            login,
            body_bytes: body_bytes.unwrap_or(defaults::REPEATED_BODY),
        }))
    });
    let oauth2 = table
        .get("oauth2")
        .and_then(|value| read_oauth2(&value, short, tls))
        .map(|oauth2| Authorization::OAuth2(Box::new(oauth2)));
    bearer.or(basic).or(digest).or(oauth2)
}

/// `{ username = "…", password = <secret> }`, and what `more` reads of it.
fn read_login(
    value: &Value<'_>,
    scheme: &str,
    short: bool,
    more: &mut dyn FnMut(&Table<'_>),
) -> Option<Login> {
    let table = value.table(format!("`{scheme}`"))?;
    let short = table.flag("danger_short_secret").is_some() || short;
    let username = table
        .need("username", "the name that the backend knows us by")
        .and_then(|value| {
            // RFC 7617 section 2: the first colon ends the name
            value.judged("a name", |text| match text {
                "" => Err("expected a name".to_owned()),
                _ if text.contains(':') => Err("a user name has no colon (RFC 7617)".to_owned()),
                _ if text.chars().any(char::is_control) => {
                    Err("a user name has no control characters".to_owned())
                }
                _ => Ok(text.to_owned()),
            })
        });
    let password = table
        .need("password", "{ file = \"password\" }")
        .and_then(|value| secret(&value, short));
    more(&table);
    table.finish();
    Some(Login {
        username: username?,
        password: password?,
    })
}

fn read_headers(
    value: &Value<'_>,
    short: bool,
    taken: &mut Vec<(HeaderName, String)>,
) -> Vec<SecretHeader> {
    let items = value.list().unwrap_or_default();
    if value.is_empty_list() {
        value.bad(
            "`headers` names none",
            "expected [ { name = \"X-Backend-Secret\", value = { file = \"secret\" } } ]",
        );
    }
    if items.len() > MOST_HEADERS {
        value.bad(
            format!("{} headers are too many", items.len()),
            format!("expected at most {MOST_HEADERS}"),
        );
    }
    items
        .iter()
        .filter_map(|item| read_header(item, short, taken))
        .collect()
}

fn read_header(
    item: &Value<'_>,
    short: bool,
    taken: &mut Vec<(HeaderName, String)>,
) -> Option<SecretHeader> {
    let table = item.table("`headers`")?;
    let short = table.flag("danger_short_secret").is_some() || short;
    let place = table.need("name", "the header's name: \"X-Backend-Secret\"");
    let name = place
        .as_ref()
        .and_then(|value| value.judged("the name of a header", proof::judge_name));
    if let (Some(name), Some(place)) = (&name, &place) {
        let clash = taken
            .iter()
            .find(|(other, _)| forwarded::is_same_to_backends(other, name));
        if let Some((_, other)) = clash {
            place.bad(
                format!("`headers` and {other} both write {name}"),
                "what writes the same header can't stand together: remove one",
            );
        }
        taken.push((name.clone(), format!("another entry of `headers` ({name})")));
    }
    let value: Option<SecretRef> = table
        .need("value", "{ file = \"secret\" }")
        .and_then(|value| secret(&value, short));
    table.finish();
    Some(SecretHeader {
        name: name?,
        value: value?,
    })
}

/// How requests are signed.
fn read_signature(value: &Value<'_>, short: bool) -> Option<RequestSignature> {
    let table = value.table("`signature`")?;
    let short = table.flag("danger_short_secret").is_some() || short;
    let key_id = table
        .need("key_id", "what the backend calls the key")
        .and_then(|value| proof::printable(&value));
    let tag = table.get("tag").and_then(|value| proof::printable(&value));
    let label = table.get("label").map_or_else(
        || Some("sig1".to_owned()),
        |value| value.parsed("lower-case letters, digits, '-' and '_'", label),
    );
    let algorithm = proof::algorithm(&table);
    let key = table
        .need("key", "{ file = \"hmac.key\" }, or a private key in PEM")
        .and_then(|value| secret(&value, short));
    let key_is_base64 = proof::key_is_base64(&table, algorithm);
    let components = table
        .need(
            "components",
            "what is signed: [\"@method\", \"@path\", \"content-digest\"]",
        )
        .and_then(|value| proof::components(&value));
    let body_bytes = table
        .get("body_bytes")
        .and_then(|value| kept_size(&value))
        .unwrap_or(defaults::SIGNED_BODY);
    table.finish();
    Some(RequestSignature {
        label: label?,
        key_id: key_id?,
        tag,
        algorithm: algorithm?,
        key: key?,
        key_is_base64,
        components: components?,
        body_bytes,
    })
}

/// A key of a dictionary (RFC 8941 section 3.2).
fn label(text: &str) -> Option<String> {
    let first = text.bytes().next()?;
    let fits =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    (first.is_ascii_lowercase() && text.len() <= 64 && text.bytes().all(fits))
        .then(|| text.to_owned())
}

/// How much of a body is kept: bounded, because every request under way may keep as much.
fn kept_size(value: &Value<'_>) -> Option<usize> {
    let bytes = size(value)?;
    if bytes > MOST_KEPT {
        value.bad(
            format!("`{}` is out of bounds", value.key),
            "expected at most \"64MiB\": each request under way may keep as much",
        );
    }
    usize::try_from(bytes).ok()
}

/// Where tokens come from.
fn read_oauth2(value: &Value<'_>, short: bool, tls: &TlsOptions) -> Option<OAuth2> {
    let table = value.table("`oauth2`")?;
    let short = table.flag("danger_short_secret").is_some() || short;
    let endpoint = table
        .need("token_url", "\"https://ids.example/token\"")
        .and_then(|value| value.judged("an https:// URL", judge_endpoint));
    let client_id = table
        .need("client_id", "what the token endpoint calls us")
        .and_then(|value| {
            value.parsed("a name without control characters", |text| {
                let fits = !text.is_empty() && !text.chars().any(char::is_control);
                fits.then(|| text.to_owned())
            })
        });
    let client_secret = table
        .need("client_secret", "{ file = \"client-secret\" }")
        .and_then(|value| secret(&value, short));
    let trust = table
        .need("trust", "roots of the token endpoint's certificate, in PEM")
        .and_then(|value| value.path());
    // RFC 6749 section 3.3
    let scope = |byte: u8| matches!(byte, b'!' | b'#'..=b'[' | b']'..=b'~');
    let scopes = table.get("scopes").and_then(|value| value.list());
    let scopes = scopes.unwrap_or_default();
    let scopes = scopes.iter().filter_map(|value| {
        value.parsed("a scope: printable ASCII without a space", |text| {
            (!text.is_empty() && text.bytes().all(scope)).then(|| text.to_owned())
        })
    });
    let scopes = scopes.collect();
    let words = [
        ("basic", ClientAuthentication::Basic),
        ("post", ClientAuthentication::Post),
    ];
    let authentication = table
        .get("client_authentication")
        .and_then(|value| value.word(&words, &[]))
        .unwrap_or(ClientAuthentication::Basic);
    table.finish();
    let (address, server_name, host, target) = endpoint?;
    Some(OAuth2 {
        address,
        server_name,
        host,
        target,
        client_id: client_id?,
        client_secret: client_secret?,
        scopes,
        authentication,
        trust: trust?,
        tls: tls.clone(),
    })
}
