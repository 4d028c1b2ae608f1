//! Upgrades (RFC 9110 section 7.8) and WebSockets over HTTP/2 (RFC 8441): once both sides have
//! agreed, bytes pass as they are.

use std::sync::Arc;

use aws_lc_rs::{
    digest::{SHA1_FOR_LEGACY_USE_ONLY, digest},
    rand,
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header, request};
use hyper::{
    ext::Protocol,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;

use super::{Connection, body::Account};
use crate::{
    admit::{Denial, Denied},
    net::{RelayOptions, relay},
    serve::link::denied_by,
    wire::base64,
};

/// RFC 6455 section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A WebSocket that was asked for in HTTP/2. The next hop is asked for it by an upgrade, with a key
/// of ours: HTTP/2 has none.
#[derive(Clone)]
pub(crate) struct WebSocket {
    key: String,
}

impl WebSocket {
    /// Whether a request asks for one (RFC 8441 section 5).
    pub(crate) fn is_asked<B>(request: &Request<B>) -> bool {
        let protocol = || request.extensions().get::<Protocol>();
        request.version() == Version::HTTP_2
            && request.method() == Method::CONNECT
            && protocol().is_some_and(|protocol| protocol.as_ref() == b"websocket")
    }

    /// Turns the request into one for an upgrade (RFC 6455 section 4.1).
    pub(crate) fn ask(parts: &mut request::Parts) -> Result<Self, Denied> {
        let mut nonce = [0; 16];
        rand::fill(&mut nonce)
            .map_err(|error| Denied::new(Denial::UpstreamUnreachable, error.to_string()))?;
        let key = base64::encode(&nonce);
        let value = HeaderValue::from_str(&key)
            .map_err(|error| Denied::new(Denial::RequestInvalid, error.to_string()))?;
        parts.method = Method::GET;
        let headers = &mut parts.headers;
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        headers.insert(header::SEC_WEBSOCKET_KEY, value);
        Ok(Self { key })
    }

    /// What is wrong with the answer.
    pub(super) fn fault(&self, status: StatusCode, headers: &HeaderMap) -> Option<&'static str> {
        if status != StatusCode::SWITCHING_PROTOCOLS {
            // whoever asked would take it for a WebSocket
            return status
                .is_success()
                .then_some("neither 101 nor an error to a WebSocket's handshake");
        }
        let both = [self.key.as_str(), GUID].concat();
        let expected = base64::encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, both.as_bytes()).as_ref());
        let accept = headers.get(header::SEC_WEBSOCKET_ACCEPT);
        let agreed = accept.is_some_and(|accept| accept.as_bytes() == expected.as_bytes());
        (!agreed).then_some("101 without the Sec-WebSocket-Accept of its key")
    }
}

/// Carries an upgraded connection to its end.
pub(super) async fn carry<C>(
    connection: Arc<Connection<C>>,
    client: OnUpgrade,
    upstream: OnUpgrade,
    over: impl Future<Output = Denied>,
    mut account: Account,
) {
    let limits = &connection.limits;
    let (client, upstream): (Upgraded, Upgraded) = match tokio::try_join!(client, upstream) {
        Ok(pair) => pair,
        Err(error) => {
            tracing::debug!(%error, "an agreed upgrade did not happen");
            return;
        }
    };
    let options = RelayOptions {
        idle_timeout: limits.idle_timeout,
        write_timeout: limits.write_timeout,
        ..RelayOptions::default()
    };
    let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
    let force = connection.drain.forced();
    let end = tokio::select! {
        biased;
        () = force.cancelled() => return,
        () = connection.cut.cancelled() => return,
        why = over => {
            account.broken = Some(why);
            return;
        }
        end = relay(&mut client, &mut upstream, &options) => end,
    };
    account.broken = denied_by(end.cause);
    account.complete = account.broken.is_none();
    account.bytes_out = end.b_to_a;
    account.received = None;
    if let Some(record) = &mut account.record {
        record.bytes_in = end.a_to_b;
    }
}
