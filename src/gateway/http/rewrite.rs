//! What a request looks like towards the backend: target, host, forwarding and identity headers.

use http::{HeaderMap, HeaderValue, Uri, Version, header, uri};

use super::request::{Asked, Judged};
use crate::{
    admit::{Denial, Denied},
    config::{ClientCertHeader, HostHeader, UnderscoreHeaders},
    gateway::routes,
    serve::http::exchange::{REQUEST_ID, join_cookies, via},
    wire::{
        client_cert,
        forwarded::{self, Policy},
        trace,
    },
};

/// What we write, and a backend that turns headers into variables would merge with other spellings.
const WRITTEN: [&str; 2] = ["content-length", "x-request-id"];

/// Origin form (RFC 9112 section 3.2.1) with the route's prefix rewritten.
pub(super) fn target(original: &Uri, judged: &Judged<'_>) -> Result<Uri, Denied> {
    let Some(path) = routes::rewritten(judged.route, original.path()) else {
        let whole = original.path_and_query().cloned();
        return Ok(whole.map_or_else(|| Uri::from_static("/"), Uri::from));
    };
    let text = match original.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    text.parse()
        .map_err(|error: uri::InvalidUri| Denied::new(Denial::RequestInvalid, error.to_string()))
}

/// In HTTP/2 the host stands in `:authority`, and nowhere else (RFC 9113 section 8.3.1).
pub(super) fn with_authority(uri: Uri, headers: &mut HeaderMap) -> Result<Uri, Denied> {
    let host = headers.remove(header::HOST);
    let mut parts = uri.into_parts();
    parts.scheme = Some(uri::Scheme::HTTPS);
    parts.authority = host.and_then(|host| uri::Authority::try_from(host.as_bytes()).ok());
    Uri::from_parts(parts).map_err(|error| Denied::new(Denial::RequestInvalid, error.to_string()))
}

pub(super) fn rewrite(
    headers: &mut HeaderMap,
    received: Version,
    asked: &Asked<'_>,
    judged: &Judged<'_>,
) -> Result<(), Denied> {
    let connection = asked.connection;
    let stamp = &judged.host.stamp;
    let policy = Policy {
        trust: asked.trust,
        keep: &judged.route.keep_headers,
        underscored: asked.gateway.underscores != UnderscoreHeaders::Drop,
    };
    let respelt = forwarded::prepare_request_by(headers, stamp, &policy);
    // set again where the backend is to be asked
    headers.remove(header::EXPECT);
    let backend = &judged.runtime.config;
    let value = |text: &str| {
        HeaderValue::from_str(text)
            .map_err(|error| Denied::new(Denial::RequestInvalid, error.to_string()))
    };
    let host = match (&backend.host_header, stamp.host()) {
        (HostHeader::Preserve, Some(host)) => host.clone(),
        (HostHeader::Literal(text), _) => value(text)?,
        // HTTP/1.0 may name none
        (HostHeader::Preserve, None) | (HostHeader::Backend, _) => value(&backend.own_host())?,
    };
    if let Some(caller) = connection.caller() {
        match backend.client_cert_header {
            ClientCertHeader::Off => {}
            ClientCertHeader::Xfcc => {
                let by = judged.runtime.own_uri();
                let element = client_cert::xfcc(&caller.peer.leaf, by, None);
                headers.insert(client_cert::X_FORWARDED_CLIENT_CERT, element);
            }
            ClientCertHeader::Rfc9440 => {
                headers.insert(
                    client_cert::CLIENT_CERT,
                    client_cert::client_cert(caller.leaf),
                );
                if let Some(chain) = client_cert::client_cert_chain(caller.issuers()) {
                    headers.insert(client_cert::CLIENT_CERT_CHAIN, chain);
                }
            }
        }
    }
    join_cookies(headers);
    if let Some(credentials) = judged.runtime.credentials() {
        credentials.apply(headers, respelt);
    }
    headers.insert(header::HOST, host);
    if respelt {
        forwarded::remove_merged(headers, &WRITTEN);
    }
    trace::carry(headers, || connection.trace_ids());
    headers.insert(REQUEST_ID, asked.request_id.value(connection));
    headers.append(header::VIA, via(received));
    Ok(())
}
