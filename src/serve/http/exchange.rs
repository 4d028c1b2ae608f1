//! A request and its answer on their way through: how they are called, what is checked of both,
//! and how an answer is passed on.

use std::sync::{Arc, atomic::Ordering};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header, uri::PathAndQuery,
};

use super::{
    Answer, Client, Connection, Upstream,
    body::{Account, ResponseBody},
    hop::AnswerBody,
    hops::Outcome,
    received::Received,
    upgrade::{self, Switch},
};
use crate::{
    admit::{Denial, Denied},
    wire::forwarded,
};

/// Names a request in our log and the backend's.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a request is called in our log and the backend's.
pub(crate) enum RequestId {
    /// By a trusted proxy.
    Kept(HeaderValue),
    /// By us: its number in the connection's name.
    Made(u64),
}

impl RequestId {
    /// `keep`: the one who sent the request may name it.
    pub(crate) fn of<C>(headers: &HeaderMap, keep: bool, connection: &Connection<C>) -> Self {
        let sent = keep.then(|| headers.get(REQUEST_ID));
        match sent.flatten() {
            Some(id) if (1..=128).contains(&id.len()) && id.to_str().is_ok() => {
                Self::Kept(id.clone())
            }
            _ => Self::Made(connection.requests.fetch_add(1, Ordering::Relaxed)),
        }
    }

    pub(crate) fn text<C>(&self, connection: &Connection<C>) -> String {
        match self {
            Self::Kept(id) => id.to_str().unwrap_or_default().to_owned(),
            Self::Made(number) => {
                let mut digits = itoa::Buffer::new();
                [&connection.name, "-", digits.format(*number)].concat()
            }
        }
    }

    pub(crate) fn value<C>(&self, connection: &Connection<C>) -> HeaderValue {
        match self {
            Self::Kept(id) => id.clone(),
            // hex digits, a hyphen and a number
            Self::Made(_) => HeaderValue::try_from(self.text(connection))
                .unwrap_or_else(|_| HeaderValue::from_static("unknown")),
        }
    }
}

/// HTTP/2 splits cookies; HTTP/1.1 knows one line (RFC 9113 section 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().count() < 2 {
        return;
    }
    let lines: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(one) = HeaderValue::from_bytes(&lines.join(b"; ".as_slice())) {
        headers.insert(header::COOKIE, one);
    }
}

/// An answer of the backend.
pub(crate) struct Answered<K: Upstream> {
    pub(crate) response: Response<AnswerBody>,
    pub(crate) sender: K,
    pub(crate) received: Arc<Received>,
    /// What the backend was asked to become.
    pub(crate) switch: Option<Box<Switch>>,
}

/// Whether a method passes only where something else allows it, if at all. In any case: some backends
/// take `trace` for TRACE.
pub(crate) fn is_never_passed(method: &Method) -> bool {
    let held = [Method::TRACE, Method::CONNECT];
    held.iter()
        .any(|held| method.as_str().eq_ignore_ascii_case(held.as_str()))
}

/// Who received a message, and how it was spoken (RFC 9110 section 7.6.3).
pub(crate) fn via(received: Version) -> HeaderValue {
    // constants: to be checked when they are made, not with each message
    const HTTP_2: HeaderValue = HeaderValue::from_static("2 portcullis");
    const HTTP_10: HeaderValue = HeaderValue::from_static("1.0 portcullis");
    const HTTP_11: HeaderValue = HeaderValue::from_static("1.1 portcullis");
    match received {
        Version::HTTP_2 => HTTP_2,
        Version::HTTP_10 => HTTP_10,
        _ => HTTP_11,
    }
}

/// A transfer coding ends at this hop (RFC 9112 section 7): one that is not undone here would be
/// lost, and its body handed on as something else.
pub(crate) fn coded(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    let chunked = |value: &HeaderValue| {
        value
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"chunked")
    };
    lines.next().is_some_and(|only| !chunked(only)) || lines.next().is_some()
}

/// Why a request has two readings in HTTP/1.1. What comes as that has been judged by its bytes
/// ([`crate::wire::framing`]); HTTP/2's parser takes lengths that repeat each other, are padded or
/// empty, letters beyond ASCII in a target, any scheme, and white space around values.
pub(crate) fn doubtful<B>(request: &Request<B>) -> Option<&'static str> {
    if request.version() != Version::HTTP_2 {
        return None;
    }
    let (headers, target) = (request.headers(), request.uri());
    if coded(headers) {
        return Some("a transfer coding other than chunked");
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let digits = length.as_bytes();
        let padded = digits.len() > 1 && digits.first() == Some(&b'0');
        if padded || digits.is_empty() || lengths.next().is_some() {
            return Some(
                "a Content-Length that stands more than once, with leading zeros, or empty",
            );
        }
    }
    let known = |scheme: &str| {
        ["https", "http"]
            .iter()
            .any(|one| scheme.eq_ignore_ascii_case(one))
    };
    if target.scheme_str().is_some_and(|scheme| !known(scheme)) {
        return Some("a scheme that is neither https nor http");
    }
    if blank_ended(headers) {
        return Some("a field value that begins or ends with white space");
    }
    let whole = target.path_and_query();
    let path = whole.map_or("", |path| path.as_str());
    if path.starts_with('?') {
        return Some("the request target has a query and no path");
    }
    // one that is nothing but a fragment reads as "/", and would be written as nothing
    let is_nothing = |whole: PathAndQuery| Uri::from(whole).path().is_empty();
    if path == "/" && whole.cloned().is_some_and(is_nothing) {
        return Some("the request target has a fragment and no path");
    }
    let visible = path.bytes().all(|byte| byte.is_ascii_graphic());
    (!visible).then_some("the request target has bytes beyond ASCII")
}

/// Whether a value begins or ends with white space: HTTP/1.1 has none there, HTTP/2 must not
/// (RFC 9113 section 8.2.1).
pub(super) fn blank_ended(headers: &HeaderMap) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let mut values = headers.values().map(HeaderValue::as_bytes);
    values.any(|value| blank(value.first()) || blank(value.last()))
}

/// Takes white space off the ends of an answer's values, as HTTP/1.1 does when it is read: h2 lets it
/// pass, and a client of HTTP/2 must refuse it.
pub(super) fn trim(headers: &mut HeaderMap) {
    if !blank_ended(headers) {
        return;
    }
    for value in headers.values_mut() {
        let bare = value.as_bytes().trim_ascii();
        if bare.len() < value.len()
            && let Ok(mut bare) = HeaderValue::from_bytes(bare)
        {
            bare.set_sensitive(value.is_sensitive());
            *value = bare;
        }
    }
}

/// Why an answer's end is in doubt that hyper has read: it takes lengths that repeat each other, and
/// lets chunks win over a length. The others have been judged by their bytes
/// ([`crate::wire::http1::answer`]).
fn ambiguous(headers: &HeaderMap) -> Option<&'static str> {
    if coded(headers) {
        return Some("a transfer coding other than chunked");
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next()?;
    if lengths.next().is_some() || !length.as_bytes().iter().all(u8::is_ascii_digit) {
        return Some("a Content-Length that is not one number");
    }
    let chunked = headers.contains_key(header::TRANSFER_ENCODING);
    chunked.then_some("Content-Length beside Transfer-Encoding")
}

impl<K: Upstream> Answered<K> {
    /// Refuses answers whose end, or whose meaning, is in doubt.
    pub(crate) fn checked(self) -> Result<Outcome<K>, Denied> {
        let (status, headers) = (self.response.status(), self.response.headers());
        let ambiguous = match self.response.body() {
            AnswerBody::Http2(_) => ambiguous(headers),
            AnswerBody::Http1(_) | AnswerBody::Passed => None,
        };
        // RFC 9110 section 15: there is no such class, and no reason that we could write
        let unknown = (status.as_u16() > 599).then_some("a status beyond 599");
        let wrong = ambiguous.or(unknown).or_else(|| match &self.switch {
            Some(switch) => switch.fault(status, headers),
            None => (status == StatusCode::SWITCHING_PROTOCOLS)
                .then_some("101 to a request that asked for no upgrade"),
        });
        match wrong {
            Some(wrong) => Err(Denied::new(Denial::UpstreamBroken, wrong)),
            None => Ok(Outcome::Answered(self)),
        }
    }

    /// Passes it on.
    pub(crate) fn respond<C: Client>(
        self,
        connection: &Arc<Connection<C>>,
        mut account: Account,
    ) -> Answer<K> {
        let Self {
            response,
            sender,
            received,
            switch,
        } = self;
        let status = response.status();
        account.status = status.as_u16();
        if let Some(switch) = switch.filter(|switch| switch.is_agreed(status)) {
            return carry(connection, response, sender, *switch, account);
        }
        let (mut parts, mut inner) = response.into_parts();
        forwarded::strip_hop_by_hop(&mut parts.headers);
        if matches!(inner, AnswerBody::Http2(_)) {
            trim(&mut parts.headers);
            without_body(status, &mut parts.headers, &mut inner);
        }
        parts.headers.append(header::VIA, via(parts.version));
        parts.extensions.clear();
        // the version is ours, not the backend's (RFC 9112 section 2.3): a client of HTTP/1.1 gets
        // chunks, and keeps its connection
        parts.version = Version::HTTP_11;
        Response::from_parts(
            parts,
            Box::new(ResponseBody::Upstream {
                inner,
                sender: Some(sender),
                received,
                account,
            }),
        )
    }
}

/// Answers that have no body (RFC 9110 sections 15.3.5 and 15.4.5) get none: hyper takes what HTTP/2
/// brings of one. What comes of it is refused by its stream's reset.
fn without_body(status: StatusCode, headers: &mut HeaderMap, inner: &mut AnswerBody) {
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        *inner = AnswerBody::Passed;
    }
    if status == StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
    }
}

/// The bytes are no longer HTTP from here on.
fn carry<C: Client, K: Upstream>(
    connection: &Arc<Connection<C>>,
    response: Response<AnswerBody>,
    sender: K,
    switch: Switch,
    mut account: Account,
) -> Answer<K> {
    let (parts, body) = response.into_parts();
    let upstream = body.into_tunnel();
    let mut headers = parts.headers;
    let protocol = headers.get(header::UPGRADE).cloned();
    forwarded::strip_hop_by_hop(&mut headers);
    let (client, status) = switch.accept(&mut headers, protocol);
    account.status = status.as_u16();
    let shown = Account {
        record: None,
        began: account.began,
        metrics: Arc::clone(&account.metrics),
        status: account.status,
        bytes_out: 0,
        complete: true,
        under_way: None,
        has_body: false,
        received: None,
        broken: None,
    };
    connection.activity.upgrade();
    let carried = Arc::clone(connection);
    let over = sender.ended(&connection.rules);
    let task = connection.upgrades.track_future(async move {
        upgrade::carry(carried, client, upstream, over, account).await;
        // the connection lived as long as the bytes did
        drop(sender);
    });
    connection.drain.spawn(task);
    let mut answer = Response::new(ResponseBody::own(None, shown));
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer
}
