//! Which headers are removed and set on the way to a backend: those in which a peer could claim
//! to be somebody (`Forwarded` of RFC 7239, `X-Forwarded-*` and the client-certificate headers)
//! and those that end at each hop (RFC 9110 section 7.6.1).
//!
//! The order is the rule: strip first, set last. What a client lists in `Connection` is removed
//! from what the client sent, and can't reach what is set afterwards; [`prepare_request`] keeps
//! that order.

use std::{borrow::Cow, fmt::Write as _, net::IpAddr};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, FORWARDED, TE, UPGRADE},
};

mod names;

#[cfg(test)]
mod tests;

use super::http1::{has_token, members, names::name};
use names::{
    HOP_BY_HOP, NEVER_HOP_BY_HOP, NEVER_IN_TRAILERS, OVERRIDES, fold, is_claim, is_for_proxies,
    is_respelt,
};

/// `X-Forwarded-For`.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `X-Forwarded-Proto`.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// `X-Forwarded-Host`.
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Whether what a source says of those before it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Replace it.
    Untrusted,
    /// One of `trusted_proxies`: keep it and append.
    TrustedProxy,
}

/// What is left of a request's headers.
#[derive(Clone, Copy, Debug)]
pub struct Policy<'a> {
    /// Whether the source is believed.
    pub trust: Trust,
    /// Overrides that stay (see [`is_override`]), in this spelling.
    pub keep: &'a [HeaderName],
    /// Names with an underscore stay. A backend that turns headers into variables takes each for
    /// the name with hyphens.
    pub underscored: bool,
}

impl Policy<'_> {
    /// No override stays, and names with underscores do.
    #[must_use]
    pub const fn of(trust: Trust) -> Self {
        Self {
            trust,
            keep: &[],
            underscored: true,
        }
    }
}

/// The scheme that the client used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In plain text.
    Http,
    /// Inside TLS.
    Https,
}

impl Scheme {
    /// As it stands in a header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// What we know ourselves of one request's way to us.
#[derive(Clone, Copy, Debug)]
pub struct Hop<'a> {
    /// The peer's address, after any PROXY header.
    pub client: IpAddr,
    /// Our own address or name, for `by=`; `None` leaves it out.
    pub by: Option<IpAddr>,
    /// How the client spoke to us.
    pub scheme: Scheme,
    /// The effective host, as `wire::host` gave it; empty where the request names none.
    pub host: &'a str,
}

/// A hop as header values; connections keep one for their requests, which mostly name one host.
#[derive(Clone, Debug)]
pub struct Stamp {
    client: HeaderValue,
    element: HeaderValue,
    proto: HeaderValue,
    host: Option<HeaderValue>,
}

impl Stamp {
    /// Writes the values.
    #[must_use]
    pub fn new(hop: &Hop<'_>) -> Self {
        let text = |text: &str| {
            // addresses are header text, and what `wire::host` lets pass is
            HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
        };
        Self {
            client: text(&hop.client.to_canonical().to_string()),
            element: text(&element(hop)),
            proto: HeaderValue::from_static(hop.scheme.as_str()),
            host: HeaderValue::from_str(hop.host)
                .ok()
                .filter(|value| !value.is_empty()),
        }
    }

    /// The effective host; `None` where the request names none.
    #[must_use]
    pub fn host(&self) -> Option<&HeaderValue> {
        self.host.as_ref()
    }
}

/// Makes a request's headers ours: strips hop-by-hop fields and what the source may not claim,
/// then sets the forwarding headers. Credentials and the client-certificate header are set after
/// this by the caller. Whether a name is left that has another spelling ([`is_other_spelling`]).
pub fn prepare_request(headers: &mut HeaderMap, stamp: &Stamp, trust: Trust) -> bool {
    prepare_request_by(headers, stamp, &Policy::of(trust))
}

/// The same with a policy of its own.
pub fn prepare_request_by(headers: &mut HeaderMap, stamp: &Stamp, policy: &Policy<'_>) -> bool {
    let respelt = strip(headers, |name, folded| is_forbidden(name, folded, policy));
    set_forwarding(headers, stamp, policy.trust);
    respelt
}

/// Makes the headers of a request ours that an admitted gateway sent. What it says in
/// `X-Forwarded-For` is kept and its own address appended, `X-Forwarded-Proto` is kept, and
/// `Forwarded` is written anew. `ours`: it is one of our own in http mode, which has judged the
/// client's headers already, so that `X-Forwarded-Host` and what a route keeps pass too. Whether a
/// name is left that has another spelling.
pub fn prepare_behind_gateway(headers: &mut HeaderMap, stamp: &Stamp, ours: bool) -> bool {
    let kept = |name: &str| match name {
        "x-forwarded-for" | "x-forwarded-proto" => true,
        "x-forwarded-host" => ours,
        _ => false,
    };
    let respelt = strip(headers, |name, folded| {
        let never = is_for_proxies(folded) || !ours && names::is_override(folded);
        never || is_claim(folded) && !kept(name)
    });
    append(headers, &X_FORWARDED_FOR, &stamp.client);
    headers.insert(FORWARDED, stamp.element.clone());
    keep_one_word(headers, stamp);
    respelt
}

/// Removes what ends at this hop, and what `Connection` lists, except fields that a client may
/// not take away. Of `TE` only `trailers` is left. For requests and responses.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    strip(headers, |_, _| false);
}

/// Removes what ends at this hop, and what is unwanted otherwise. One pass over the names: most
/// messages hold nothing of all that. Whether a name is left that has another spelling.
fn strip(headers: &mut HeaderMap, unwanted: impl Fn(&str, &str) -> bool) -> bool {
    let mut doomed: Vec<HeaderName> = Vec::new();
    let (mut connection, mut te, mut respelt) = (false, false, false);
    for name in headers.keys() {
        let folded = match *name {
            // these say more than that they end here
            CONNECTION => {
                connection = true;
                continue;
            }
            TE => {
                te = true;
                continue;
            }
            _ => fold(name.as_str()),
        };
        if HOP_BY_HOP.contains(&&*folded) || unwanted(name.as_str(), &folded) {
            doomed.push(name.clone());
        } else {
            respelt |= matches!(folded, Cow::Owned(_));
        }
    }
    if connection {
        doomed.extend(listed(headers));
        headers.remove(CONNECTION);
    }
    for name in doomed {
        headers.remove(name);
    }
    if te {
        let mut lines = headers.get_all(TE).iter();
        if lines.any(|line| has_token(line.as_bytes(), b"trailers")) {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(TE);
        }
    }
    respelt
}

/// The fields that `Connection` lists and that go because of it. What ends at this hop anyway is
/// not made a name of.
fn listed(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    let ends_here = |option: &&[u8]| {
        let mut known = HOP_BY_HOP.iter();
        known.any(|name| name.as_bytes().eq_ignore_ascii_case(option))
    };
    let goes = |name: &HeaderName| {
        let folded = fold(name.as_str());
        !NEVER_HOP_BY_HOP.contains(&&*folded) && !is_claim(&folded)
    };
    connection_options(headers)
        .filter(move |option| !ends_here(option))
        .filter_map(|option| name(option).ok())
        .filter(goes)
}

/// The protocol that a request asks to upgrade to, to be called before [`strip_hop_by_hop`]:
/// `Connection` names `upgrade` and exactly one `Upgrade` line names one protocol. HTTP in another
/// version (`h2c` in clear text, its drafts, `HTTP/2.0`) is never one: requests in it would be judged
/// by nobody.
#[must_use]
pub fn requested_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut lines = headers.get_all(UPGRADE).iter();
    let (only, more) = (lines.next()?, lines.next());
    let upgrade = UPGRADE.as_str().as_bytes();
    let listed = connection_options(headers).any(|option| option.eq_ignore_ascii_case(upgrade));
    let text = only.to_str().ok()?;
    let single = more.is_none() && !text.contains(',') && !text.trim().is_empty();
    (listed && single && !is_http(text)).then(|| only.clone())
}

/// Whether a lenient server would take a protocol for HTTP.
fn is_http(protocol: &str) -> bool {
    let name = protocol.trim().trim_matches('"');
    let name = name.split('/').next().unwrap_or_default().trim_end();
    let drafts = name
        .get(..3)
        .is_some_and(|three| three.eq_ignore_ascii_case("h2c"));
    drafts
        || ["h2", "http"]
            .iter()
            .any(|http| name.eq_ignore_ascii_case(http))
}

fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| members(value.as_bytes()))
}

/// Whether a source may not say this, in any spelling. From a trusted proxy only the spellings
/// with underscores or punctuation go, which a backend would merge with the right ones, and names
/// that nobody may send.
fn is_forbidden(name: &str, folded: &str, policy: &Policy<'_>) -> bool {
    if name.contains('_') && !policy.underscored {
        return true;
    }
    let kept = || policy.keep.iter().any(|kept| kept.as_str() == name);
    let never = is_for_proxies(folded) || names::is_override(folded) && !kept();
    never || is_claim(folded) && (policy.trust == Trust::Untrusted || is_respelt(name))
}

/// Removes what a source may not claim.
pub fn strip_claims(headers: &mut HeaderMap, trust: Trust) {
    let policy = Policy::of(trust);
    remove_where(headers, |name, folded| is_forbidden(name, folded, &policy));
}

/// Whether this is one of the headers that replace path, host or method of a request: removed,
/// unless a route keeps it.
#[must_use]
pub fn is_override(name: &HeaderName) -> bool {
    names::is_override(name.as_str())
}

/// Those headers, in alphabetical order.
pub fn overrides() -> impl Iterator<Item = &'static str> {
    OVERRIDES.iter().copied()
}

/// Removes from a request's trailers what has no place there: claims, routing, framing and
/// credentials, and what its head is rid of or gets from us.
pub fn strip_request_trailers(trailers: &mut HeaderMap) {
    remove_where(trailers, |_, folded| {
        is_never_trailer(folded) || is_for_proxies(folded) || names::SET.contains(&folded)
    });
}

/// Removes from an answer's trailers what has no place there: claims, routing, framing and credentials.
pub fn strip_answer_trailers(trailers: &mut HeaderMap) {
    remove_where(trailers, |_, folded| is_never_trailer(folded));
}

/// Whether a field may stand behind an answer's body, by [`strip_answer_trailers`].
#[must_use]
pub fn may_trail(name: &HeaderName) -> bool {
    !is_never_trailer(&fold(name.as_str()))
}

fn is_never_trailer(folded: &str) -> bool {
    is_claim(folded)
        || folded == "proxy"
        || names::is_override(folded)
        || HOP_BY_HOP.contains(&folded)
        || NEVER_IN_TRAILERS.contains(&folded)
}

/// Removes every spelling of a name that we set ourselves: call it before a credential or a
/// client-certificate header is set.
pub fn remove_spellings(headers: &mut HeaderMap, name: &HeaderName) {
    let wanted = fold(name.as_str());
    remove_where(headers, |_, folded| folded == wanted);
}

/// Removes every spelling of names that we set ourselves, in one pass.
pub fn remove_all_spellings(headers: &mut HeaderMap, names: &[HeaderName]) {
    let ours = |folded: &str| names.iter().any(|name| fold(name.as_str()) == folded);
    remove_where(headers, |_, folded| ours(folded));
}

/// Whether a name has more than letters, digits and hyphens.
#[must_use]
pub fn is_other_spelling(name: &HeaderName) -> bool {
    is_respelt(name.as_str())
}

/// Whether any name has a byte that a backend which turns headers into variables would merge with
/// the hyphen: an underscore, or punctuation.
#[must_use]
pub fn has_respelt(headers: &HeaderMap) -> bool {
    headers.keys().any(is_other_spelling)
}

/// Removes these names but `kept` ones, and every other spelling of all of them.
pub fn remove_spellings_but(headers: &mut HeaderMap, names: &[HeaderName], kept: &[HeaderName]) {
    for name in names.iter().filter(|name| !kept.contains(name)) {
        headers.remove(name);
    }
    // few requests have another spelling of anything
    if names.iter().any(is_other_spelling) || has_respelt(headers) {
        let doomed = |name: &&HeaderName| {
            names.iter().any(|ours| is_same_to_backends(ours, name)) && !kept.contains(name)
        };
        let doomed: Vec<HeaderName> = headers.keys().filter(doomed).cloned().collect();
        for name in doomed {
            headers.remove(name);
        }
    }
}

/// Whether a backend that turns headers into variables takes one name for the other.
#[must_use]
pub fn is_same_to_backends(one: &HeaderName, other: &HeaderName) -> bool {
    fold(one.as_str()) == fold(other.as_str())
}

/// Whether a field ends at the next hop.
#[must_use]
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(&name.as_str())
}

/// Whether a name has a meaning of its own on the way to a backend, so that it can't carry a
/// credential: framing, routing, forwarding, and what the gateway writes for every request.
#[must_use]
pub fn is_written_by_us(name: &HeaderName) -> bool {
    let folded = fold(name.as_str());
    is_claim(&folded)
        || names::is_override(&folded)
        || is_for_proxies(&folded)
        || HOP_BY_HOP.contains(&&*folded)
        || names::SET.contains(&&*folded)
        || names::WRITTEN.contains(&&*folded)
}

/// Removes the spellings with underscores or punctuation of names that are in lower case with
/// hyphens: a backend that turns headers into variables would merge them with the right ones.
pub fn remove_merged(headers: &mut HeaderMap, names: &[&str]) {
    remove_where(headers, |name, folded| {
        is_respelt(name) && names.contains(&folded)
    });
}

fn remove_where(headers: &mut HeaderMap, unwanted: impl Fn(&str, &str) -> bool) {
    let doomed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| unwanted(name.as_str(), &fold(name.as_str())))
        .cloned()
        .collect();
    for name in doomed {
        headers.remove(name);
    }
}

fn set_forwarding(headers: &mut HeaderMap, stamp: &Stamp, trust: Trust) {
    if trust == Trust::Untrusted {
        // what an untrusted source said is gone already
        headers.insert(X_FORWARDED_FOR, stamp.client.clone());
        headers.insert(FORWARDED, stamp.element.clone());
        headers.insert(X_FORWARDED_PROTO, stamp.proto.clone());
        if let Some(host) = &stamp.host {
            headers.insert(X_FORWARDED_HOST, host.clone());
        }
        return;
    }
    append(headers, &X_FORWARDED_FOR, &stamp.client);
    append(headers, &FORWARDED, &stamp.element);
    keep_one_word(headers, stamp);
}

/// What the one before us says of scheme and host stands where it is one word.
fn keep_one_word(headers: &mut HeaderMap, stamp: &Stamp) {
    for (name, ours) in [
        (X_FORWARDED_PROTO, Some(&stamp.proto)),
        // HTTP/1.0 may name no host: then nothing is said of one
        (X_FORWARDED_HOST, stamp.host.as_ref()),
    ] {
        // two answers are none
        let kept = headers.get_all(&name).iter().count() == 1;
        if !kept {
            match ours {
                Some(value) => headers.insert(name, value.clone()),
                None => headers.remove(name),
            };
        }
    }
}

fn append(headers: &mut HeaderMap, name: &HeaderName, element: &HeaderValue) {
    let mut list: Vec<u8> = Vec::new();
    for value in headers.get_all(name) {
        if !value.as_bytes().trim_ascii().is_empty() {
            list.extend(value.as_bytes());
            list.extend(b", ");
        }
    }
    if list.is_empty() {
        headers.insert(name, element.clone());
        return;
    }
    list.extend(element.as_bytes());
    // Both parts are header text already; were they not, nothing of the client's may stay.
    match HeaderValue::from_bytes(&list) {
        Ok(value) => headers.insert(name, value),
        Err(_not_text) => headers.remove(name),
    };
}

/// One element of `Forwarded` (RFC 7239 section 4).
#[must_use]
pub fn element(hop: &Hop<'_>) -> String {
    let mut text = format!("for={}", node(hop.client));
    // Writing to a String can't fail.
    if let Some(by) = hop.by {
        let _infallible = write!(text, ";by={}", node(by));
    }
    if !hop.host.is_empty() {
        let _infallible = write!(text, ";host={}", quoted(hop.host));
    }
    let _infallible = write!(text, ";proto={}", hop.scheme.as_str());
    text
}

/// RFC 7239 section 6: IPv6 addresses are bracketed, and quoted because of it.
fn node(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("\"[{ip}]\""),
    }
}

fn quoted(text: &str) -> String {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.bytes().all(token) {
        return text.to_owned();
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
