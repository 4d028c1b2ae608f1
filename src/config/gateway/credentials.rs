//! `[backend.NAME.credentials]`: what the backend expects, and which of it can stand together.

use http::HeaderName;

use super::super::{
    Authorization, Credentials, Login, SecretHeader, SecretRef,
    reader::{Table, Value},
    values::secret,
};
use crate::wire::forwarded;

/// More than any backend asks for.
const MOST_HEADERS: usize = 16;
/// What writes `Authorization`.
const SCHEMES: [&str; 4] = ["bearer", "basic", "digest", "oauth2"];

/// Reads the table; `None`: there is none, or it has problems.
pub(super) fn read(backend: &Table<'_>, name: &str, has_http: bool) -> Option<Credentials> {
    let value = backend.get("credentials")?;
    if !has_http {
        let help = "they are headers: route to this backend from a listener with mode = \"http\"";
        value.bad("`credentials` on a backend without http listeners", help);
    }
    let table = value.table(format!("[backend.{name}.credentials]"))?;
    table.later(&["digest", "signature", "oauth2"]);
    let short = table.flag("danger_short_secret").is_some();
    let mut taken: Vec<(HeaderName, String)> = Vec::new();
    let authorization = read_authorization(&table, short);
    for scheme in SCHEMES {
        if table.get(scheme).is_some() {
            taken.push((http::header::AUTHORIZATION, format!("`{scheme}`")));
        }
    }
    let headers = table
        .get("headers")
        .map(|value| read_headers(&value, short, &mut taken))
        .unwrap_or_default();
    let found = Credentials {
        headers,
        authorization,
    };
    if found.headers.is_empty() && taken.is_empty() {
        value.bad(
            "`credentials` names none",
            "add headers, bearer or basic, or leave the table out",
        );
    }
    table.finish();
    Some(found)
}

fn read_authorization(table: &Table<'_>, short: bool) -> Option<Authorization> {
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
        .and_then(|value| read_login(&value, "basic", short))
        .map(Authorization::Basic);
    bearer.or(basic)
}

/// `{ username = "…", password = <secret> }`.
fn read_login(value: &Value<'_>, scheme: &str, short: bool) -> Option<Login> {
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
        .and_then(|value| value.judged("the name of a header", judge_name));
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

fn judge_name(text: &str) -> Result<HeaderName, String> {
    let name = HeaderName::from_bytes(text.as_bytes())
        .map_err(|_invalid| "expected letters, digits and hyphens".to_owned())?;
    if forwarded::is_written_by_us(&name) {
        return Err(format!(
            "{name} is written by the gateway for its own purposes: choose another name"
        ));
    }
    Ok(name)
}
