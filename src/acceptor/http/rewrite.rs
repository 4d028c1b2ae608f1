//! What a request looks like towards the backend: target, host, forwarding headers, and the
//! gateway's certificate.

use http::{HeaderMap, HeaderValue, Uri, Version, header, uri};

use super::{Connection, HttpAcceptor, Word};
use crate::{
    admit::{Denial, Denied},
    config::ClientCertHeader,
    serve::http::{
        exchange::{REQUEST_ID, RequestId, join_cookies, via},
        host::AskedHost,
    },
    wire::{
        client_cert,
        forwarded::{self, Trust},
        trace,
    },
};

/// What we write, and a backend that turns headers into variables would merge with other spellings.
const WRITTEN: [&str; 5] = [
    "content-length",
    "host",
    "x-request-id",
    "traceparent",
    "tracestate",
];

/// The headers for a gateway's certificate.
#[derive(Clone)]
pub(super) struct Certificate {
    /// For which http mode they were made.
    made_for: u64,
    value: HeaderValue,
    chain: Option<HeaderValue>,
}

/// Origin form (RFC 9112 section 3.2.1).
pub(super) fn target(original: &Uri) -> Uri {
    let whole = original.path_and_query().cloned();
    whole.map_or_else(|| Uri::from_static("/"), Uri::from)
}

/// In HTTP/2 the host stands in `:authority`, and nowhere else (RFC 9113 section 8.3.1).
pub(super) fn with_authority(
    uri: Uri,
    headers: &mut HeaderMap,
    scheme: uri::Scheme,
) -> Result<Uri, Denied> {
    let host = headers.remove(header::HOST);
    let mut parts = uri.into_parts();
    parts.scheme = Some(scheme);
    parts.authority = host.and_then(|host| uri::Authority::try_from(host.as_bytes()).ok());
    Uri::from_parts(parts).map_err(|error| Denied::new(Denial::RequestInvalid, error.to_string()))
}

/// Makes the headers ours.
pub(super) fn rewrite(
    headers: &mut HeaderMap,
    received: Version,
    connection: &Connection,
    acceptor: &HttpAcceptor,
    host: &AskedHost,
    request_id: &RequestId,
) {
    let word = connection.client.word;
    let earlier = (word == Word::Ours && acceptor.client_cert_header == ClientCertHeader::Xfcc)
        .then(|| only(headers))
        .flatten();
    let respelt = match word {
        // nobody has judged a client's own headers yet
        Word::Clients => forwarded::prepare_request(headers, &host.stamp, Trust::Untrusted),
        Word::Ours | Word::Foreign => {
            forwarded::prepare_behind_gateway(headers, &host.stamp, word == Word::Ours)
        }
    };
    // set again where the backend is to be asked
    headers.remove(header::EXPECT);
    stamp_certificate(headers, connection, acceptor, earlier);
    join_cookies(headers);
    if respelt {
        forwarded::remove_merged(headers, &WRITTEN);
    }
    // HTTP/1.0 may name none
    let named = host.stamp.host().cloned();
    let named = named.unwrap_or_else(|| HeaderValue::from_static("localhost"));
    headers.insert(header::HOST, named);
    trace::carry(headers, || connection.trace_ids());
    headers.insert(REQUEST_ID, request_id.value(connection));
    headers.append(header::VIA, via(received));
}

/// What a gateway of ours said of its own caller, where it is one line.
fn only(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut lines = headers.get_all(client_cert::X_FORWARDED_CLIENT_CERT).iter();
    let (first, more) = (lines.next(), lines.next());
    first.filter(|_| more.is_none()).cloned()
}

fn stamp_certificate(
    headers: &mut HeaderMap,
    connection: &Connection,
    acceptor: &HttpAcceptor,
    earlier: Option<HeaderValue>,
) {
    let kept = &connection.client.certificate;
    let of_this_mode = kept.get().filter(|kept| kept.made_for == acceptor.serial);
    let made = match of_this_mode {
        Some(kept) if earlier.is_none() => Some(kept.clone()),
        _ => make(connection, acceptor, earlier.as_ref()),
    };
    let Some(made) = made else { return };
    match acceptor.client_cert_header {
        ClientCertHeader::Off => {}
        ClientCertHeader::Xfcc => {
            headers.insert(client_cert::X_FORWARDED_CLIENT_CERT, made.value.clone());
        }
        ClientCertHeader::Rfc9440 => {
            headers.insert(client_cert::CLIENT_CERT, made.value.clone());
            if let Some(chain) = made.chain.clone() {
                headers.insert(client_cert::CLIENT_CERT_CHAIN, chain);
            }
        }
    }
    if earlier.is_none() {
        // a mode that came with a reload makes its own for each request
        let _kept_before = kept.set(made);
    }
}

fn make(
    connection: &Connection,
    acceptor: &HttpAcceptor,
    earlier: Option<&HeaderValue>,
) -> Option<Certificate> {
    let caller = connection.caller()?;
    let by = acceptor.own_uri.as_deref();
    let (value, chain) = match acceptor.client_cert_header {
        ClientCertHeader::Off => return None,
        ClientCertHeader::Xfcc => (client_cert::xfcc(&caller.peer.leaf, by, earlier), None),
        ClientCertHeader::Rfc9440 => (
            client_cert::client_cert(caller.leaf),
            client_cert::client_cert_chain(caller.issuers()),
        ),
    };
    Some(Certificate {
        made_for: acceptor.serial,
        value,
        chain,
    })
}
