//! Upgrades (RFC 9110 section 7.8), tunnels (section 9.3.6) and WebSockets over HTTP/2 (RFC 8441):
//! once both sides have agreed, bytes pass as they are.

use std::{future::poll_fn, io, sync::Arc};

use aws_lc_rs::{
    digest::{SHA1_FOR_LEGACY_USE_ONLY, digest},
    rand,
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header, request, uri};
use hyper::ext::Protocol;

use super::{
    Connection,
    body::Account,
    hop::Tunnel,
    http1::{Http1, Switched},
    http2_tunnel::{AskedTunnel, StreamTunnel},
};
use crate::{
    admit::{Denial, Denied},
    net::{RelayCause, RelayOptions, relay},
    serve::link::denied_by,
    wire::{base64, forwarded, http1::members},
};

/// RFC 6455 section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The connection of a request that asks for an upgrade or a tunnel.
#[derive(Clone)]
struct MaySwitch(Arc<Http1>);

/// Notes the connection that a request may switch.
pub(super) fn may_switch(parts: &mut request::Parts, connection: &Arc<Http1>) {
    parts.extensions.insert(MaySwitch(Arc::clone(connection)));
}

/// The client's side of a change of protocol.
pub(crate) enum ClientSide {
    Http1(Arc<Http1>),
    Http2(AskedTunnel),
}

/// The client's bytes once the protocol has changed.
enum ClientBytes {
    Http1(Switched),
    Http2(StreamTunnel),
}

impl ClientSide {
    /// That of a request.
    pub(crate) fn of<B>(request: &mut Request<B>) -> Self {
        match request.extensions_mut().remove::<MaySwitch>() {
            Some(MaySwitch(connection)) => Self::Http1(connection),
            None => Self::Http2(AskedTunnel::of(request)),
        }
    }

    /// Waits until the client was told.
    async fn told(self) -> io::Result<ClientBytes> {
        match self {
            Self::Http1(connection) => poll_fn(|cx| connection.poll_switched(cx))
                .await
                .map(ClientBytes::Http1)
                .ok_or_else(|| io::Error::other("the client's connection ended before")),
            Self::Http2(asked) => asked.told().await.map(ClientBytes::Http2),
        }
    }
}

/// What a request asks its connection, or its stream of HTTP/2, to become.
pub(crate) enum Wanted {
    /// An upgrade (RFC 9110 section 7.8).
    Protocol(HeaderValue),
    /// A WebSocket in a stream (RFC 8441 section 5).
    WebSocket,
    /// A tunnel (RFC 9110 section 9.3.6) to a port of the host.
    Tunnel { port: Option<u16> },
}

impl Wanted {
    /// What this request asks for, if that is anything we know.
    pub(crate) fn of<B>(request: &Request<B>) -> Option<Self> {
        if request.method() != Method::CONNECT {
            let http1 = request.version() == Version::HTTP_11;
            let protocol = http1.then(|| forwarded::requested_upgrade(request.headers()));
            return protocol.flatten().map(Self::Protocol);
        }
        match request.extensions().get::<Protocol>() {
            None => Some(Self::Tunnel {
                port: request.uri().port_u16(),
            }),
            Some(protocol) => (protocol.as_ref() == b"websocket").then_some(Self::WebSocket),
        }
    }

    /// Writes it into the request to the next hop, whose headers are ours already.
    pub(crate) fn ask(
        self,
        client: ClientSide,
        parts: &mut request::Parts,
        host: &str,
    ) -> Result<Box<Switch>, Denied> {
        let form = match self {
            Self::Protocol(protocol) => {
                upgrade_to(&mut parts.headers, protocol.clone());
                Form::Upgrade(protocol)
            }
            Self::WebSocket => ask_websocket(parts)?,
            Self::Tunnel { port } => ask_tunnel(parts, host, port)?,
        };
        Ok(Box::new(Switch { client, form }))
    }
}

fn upgrade_to(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

/// Whether an answer switches to this protocol and to no other (RFC 9110 section 7.8).
fn names(answer: &HeaderMap, asked: &[u8]) -> bool {
    let lines = answer.get_all(header::UPGRADE).iter();
    let mut named = lines.flat_map(|line| members(line.as_bytes())).peekable();
    let asked = asked.trim_ascii();
    named.peek().is_some() && named.all(|protocol| protocol.eq_ignore_ascii_case(asked))
}

fn invalid(error: &dyn std::fmt::Display) -> Denied {
    Denied::new(Denial::RequestInvalid, error.to_string())
}

/// The next hop is asked by an upgrade, with a key of ours: HTTP/2 has none (RFC 6455 section 4.1).
fn ask_websocket(parts: &mut request::Parts) -> Result<Form, Denied> {
    let mut nonce = [0; 16];
    rand::fill(&mut nonce)
        .map_err(|error| Denied::new(Denial::UpstreamUnreachable, error.to_string()))?;
    let key = base64::encode(&nonce);
    let value = HeaderValue::from_str(&key).map_err(|error| invalid(&error))?;
    parts.method = Method::GET;
    let headers = &mut parts.headers;
    upgrade_to(headers, HeaderValue::from_static("websocket"));
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::SEC_WEBSOCKET_ACCEPT);
    headers.insert(header::SEC_WEBSOCKET_KEY, value);
    Ok(Form::WebSocket { key })
}

/// The target is in authority form (RFC 9112 section 3.2.3), and `Host` says the same.
fn ask_tunnel(parts: &mut request::Parts, host: &str, port: Option<u16>) -> Result<Form, Denied> {
    let port = port.ok_or_else(|| invalid(&"CONNECT without a port"))?;
    let end = format!(":{port}");
    let text = if host.ends_with(&end) {
        host.to_owned()
    } else {
        [host, &end].concat()
    };
    let value = HeaderValue::from_str(&text).map_err(|error| invalid(&error))?;
    parts.uri = text
        .parse()
        .map_err(|error: uri::InvalidUri| invalid(&error))?;
    parts.headers.insert(header::HOST, value);
    Ok(Form::Tunnel)
}

/// A change of protocol that the next hop was asked for.
pub(crate) struct Switch {
    client: ClientSide,
    form: Form,
}

enum Form {
    /// To this protocol.
    Upgrade(HeaderValue),
    /// With the key that the answer's accept value has to come from.
    WebSocket {
        key: String,
    },
    Tunnel,
}

impl Switch {
    /// What is wrong with the answer.
    pub(super) fn fault(&self, status: StatusCode, headers: &HeaderMap) -> Option<&'static str> {
        let switched = status == StatusCode::SWITCHING_PROTOCOLS;
        match &self.form {
            Form::Upgrade(asked) => (switched && !names(headers, asked.as_bytes()))
                .then_some("101 to another protocol than was asked for, or to none"),
            Form::Tunnel => switched.then_some("101 to a CONNECT"),
            // whoever asked would take it for a WebSocket
            Form::WebSocket { .. } if !switched => status
                .is_success()
                .then_some("neither 101 nor an error to a WebSocket's handshake"),
            Form::WebSocket { key } => {
                let both = [key.as_str(), GUID].concat();
                let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, both.as_bytes());
                let expected = base64::encode(hash.as_ref());
                let accept = headers.get(header::SEC_WEBSOCKET_ACCEPT);
                let agreed = accept.is_some_and(|accept| accept.as_bytes() == expected.as_bytes());
                if !agreed {
                    return Some("101 without the Sec-WebSocket-Accept of its key");
                }
                (!names(headers, b"websocket")).then_some("101 to something else than a WebSocket")
            }
        }
    }

    /// Whether this answer agrees to it.
    pub(super) fn is_agreed(&self, status: StatusCode) -> bool {
        match self.form {
            Form::Upgrade(_) | Form::WebSocket { .. } => status == StatusCode::SWITCHING_PROTOCOLS,
            Form::Tunnel => status.is_success(),
        }
    }

    /// The client's side, and the status that tells it; the headers lose what says nothing there.
    pub(super) fn accept(
        self,
        headers: &mut HeaderMap,
        protocol: Option<HeaderValue>,
    ) -> (ClientSide, StatusCode) {
        // it says nothing here, and some send one (RFC 9110 sections 8.6 and 9.3.6)
        headers.remove(header::CONTENT_LENGTH);
        let status = match self.form {
            Form::Upgrade(_) => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                if let Some(protocol) = protocol {
                    headers.insert(header::UPGRADE, protocol);
                }
                StatusCode::SWITCHING_PROTOCOLS
            }
            // a stream becomes one by a plain success (RFC 8441 section 5)
            Form::WebSocket { .. } => {
                headers.remove(header::SEC_WEBSOCKET_ACCEPT);
                StatusCode::OK
            }
            Form::Tunnel => StatusCode::OK,
        };
        (self.client, status)
    }
}

/// Carries an upgraded connection to its end. Both sides are reset, unless both have said that they
/// are done: no `return` lets what was cut look complete.
pub(super) async fn carry<C>(
    connection: Arc<Connection<C>>,
    client: ClientSide,
    upstream: Option<Tunnel>,
    over: impl Future<Output = Denied>,
    mut account: Account,
) {
    let limits = &connection.limits;
    let Some(mut upstream) = upstream else {
        // nobody agrees to an upgrade in HTTP/2
        return;
    };
    let client = match client.told().await {
        Ok(client) => client,
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
    let force = connection.drain.forced();
    let end = tokio::select! {
        biased;
        () = force.cancelled() => return,
        () = connection.cut.cancelled() => return,
        why = over => {
            account.broken = Some(why);
            return;
        }
        end = async {
            match client {
                ClientBytes::Http1(mut client) => {
                    let end = relay(&mut client, &mut upstream, &options).await;
                    if matches!(end.cause, RelayCause::Finished) {
                        client.finish();
                    }
                    end
                }
                ClientBytes::Http2(mut client) => {
                    let line = client.line();
                    line.driven(relay(&mut client, &mut upstream, &options)).await
                }
            }
        } => end,
    };
    if matches!(end.cause, RelayCause::Finished) {
        upstream.finish();
    }
    account.broken = denied_by(end.cause);
    account.complete = account.broken.is_none();
    account.bytes_out = end.b_to_a;
    account.received = None;
    if let Some(record) = &mut account.record {
        record.bytes_in = end.a_to_b;
    }
}
