//! What a refused caller is told: a status and a code, nothing that it may not know.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::{
    Answer, Upstream,
    body::{Account, ResponseBody},
    date::date,
};
use crate::{
    admit::{Blame, Denial, Denied},
    wire::framing::Fault,
};

/// The methods of RFC 9110 and RFC 5789 that are passed on; what a backend makes of them, and of
/// others, it says itself.
pub(super) const FORWARDED: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// The answer to a refused request; JSON where `Accept` asks for it.
pub(crate) fn refusal<K: Upstream>(
    denied: &Denied,
    accept: Option<&HeaderValue>,
    request_id: &str,
    mut account: Account,
) -> Answer<K> {
    let status =
        StatusCode::from_u16(denied.reason.http_status()).unwrap_or(StatusCode::BAD_GATEWAY);
    account.status = status.as_u16();
    account.metrics.refused(denied.reason);
    if let Some(record) = &mut account.record {
        record.decision = "refused";
        record.reason = Some(denied.reason);
        record.detail.clone_from(&denied.detail);
    }
    let (code, message) = public(denied.reason);
    let json = accept.is_some_and(|value| {
        value
            .as_bytes()
            .windows(4)
            .any(|w| w.eq_ignore_ascii_case(b"json"))
    });
    let (kind, text) = if json {
        let body =
            serde_json::json!({ "error": code, "message": message, "request_id": request_id });
        ("application/json", body.to_string())
    } else {
        (
            "text/plain; charset=utf-8",
            format!("{code}: {message}\nrequest {request_id}\n"),
        )
    };
    let mut response = Response::new(ResponseBody::own(Some(Bytes::from(text)), account));
    *response.status_mut() = status;
    common(response.headers_mut(), kind);
    if denied.reason == Denial::MethodNotAllowed {
        response
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static(FORWARDED));
    }
    response
}

/// The reason of a refusal for how a request is framed.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "every other fault is one of form"
)]
pub(crate) fn misframed(fault: Fault) -> Denied {
    let reason = match fault {
        Fault::HeadTooLarge | Fault::TooManyFields => Denial::HeaderTooLarge,
        Fault::TargetTooLong => Denial::TargetTooLarge,
        _ => Denial::RequestInvalid,
    };
    Denied::new(reason, fault.to_string())
}

/// The answer to a head that is no request: its detail speaks of the caller's own bytes alone.
pub(crate) fn head_refusal(denied: &Denied) -> Bytes {
    let status =
        StatusCode::from_u16(denied.reason.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
    let text = format!("{}: {}\n", denied.reason.code(), denied.detail);
    let date = date();
    let date = String::from_utf8_lossy(&date);
    Bytes::from(format!(
        "HTTP/1.1 {status}\r\nDate: {date}\r\nConnection: close\r\n\
         Content-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\n\
         Content-Length: {}\r\n\r\n{text}",
        text.len()
    ))
}

fn common(headers: &mut HeaderMap, kind: &'static str) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

/// What is wrong behind us is our business: the caller learns only that it is.
fn public(reason: Denial) -> (&'static str, &'static str) {
    match reason.blame() {
        Blame::Peer => (reason.code(), reason.meaning()),
        Blame::Upstream if reason.http_status() == 504 => {
            ("gateway_timeout", "the service did not answer in time")
        }
        Blame::Upstream => ("bad_gateway", "the service can't be reached"),
        Blame::Local => ("unavailable", "try again later"),
    }
}
