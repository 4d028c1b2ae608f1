//! Paths of the admin listener, and who may ask for them.

use http::uri::Scheme;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
};

use super::{Context, status};
use crate::wire::host::{Host, effective_host};

pub(super) fn answer(request: &Request<Incoming>, context: &Context) -> Response<Full<Bytes>> {
    if let Some(refusal) = refuse(request, context) {
        return plain(refusal, "refused\n");
    }
    match request.uri().path() {
        "/healthz" => plain(StatusCode::OK, "ok\n"),
        "/readyz" => {
            let verbose = request.uri().query() == Some("verbose");
            let (ready, text) = status::readiness(&context.process, verbose);
            plain(
                if ready {
                    StatusCode::OK
                } else {
                    StatusCode::SERVICE_UNAVAILABLE
                },
                &text,
            )
        }
        "/metrics" => typed(
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            context.process.metrics.encode(),
        ),
        "/status.json" => typed("application/json", status::json(&context.process)),
        _ => plain(
            StatusCode::NOT_FOUND,
            "there are /healthz /readyz /metrics /status.json\n",
        ),
    }
}

/// Method, Host and Origin (against rebinding), then the token.
fn refuse(request: &Request<Incoming>, context: &Context) -> Option<StatusCode> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Some(StatusCode::METHOD_NOT_ALLOWED);
    }
    if !context.tcp {
        return None;
    }
    if request.headers().contains_key(header::ORIGIN) || !is_ours(request) {
        return Some(StatusCode::FORBIDDEN);
    }
    let open = request.uri().path() == "/healthz"
        || request.uri().path() == "/readyz" && request.uri().query().is_none();
    if open || has_token(request.headers(), context) {
        return None;
    }
    Some(StatusCode::UNAUTHORIZED)
}

/// A page elsewhere can make a browser send a name of its own that resolves to us, but no address.
/// One that is named twice, in two lines or in the target and a line, is none.
fn is_ours(request: &Request<Incoming>) -> bool {
    let version = request.version();
    let host = effective_host(version, request.uri(), request.headers(), &Scheme::HTTP);
    match host {
        Ok(Some(authority)) => match authority.host {
            Host::Address(_) => true,
            Host::Name(name) => name == "localhost",
        },
        Ok(None) | Err(_) => false,
    }
}

fn has_token(headers: &HeaderMap, context: &Context) -> bool {
    // the scheme is one in any case (RFC 9110 section 11.1)
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    // who reads the first and who reads the last would let in two: more than one is none
    let only = lines.next().filter(|_| lines.next().is_none());
    let given = only.and_then(|value| {
        let (scheme, token) = value.as_bytes().split_at_checked(b"Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
    });
    match (&context.access.token, given) {
        // the digests have one length: time tells nothing of the token's
        (Some(token), Some(given)) => {
            let digest =
                |bytes: &[u8]| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
            aws_lc_rs::constant_time::verify_slices_are_equal(
                digest(token).as_ref(),
                digest(given).as_ref(),
            )
            .is_ok()
        }
        _ => false,
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = typed("text/plain; charset=utf-8", text.to_owned());
    *response.status_mut() = status;
    response
}

fn typed(kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(
        header::CACHE_CONTROL,
        header::HeaderValue::from_static("no-store"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        header::HeaderValue::from_static("nosniff"),
    );
    response
}
