//! One request: judged, stamped, sent to the backend, answered.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header};
use hyper::body::Body as _;

use super::{
    Connection, HttpAcceptor, Word,
    pool::{PoolFor, Sender},
    rewrite::{rewrite, target, with_authority},
};
use crate::{
    admit::{Denial, Denied},
    config::BackendProtocol,
    serve::http::{
        Answer,
        body::{Account, RequestBody},
        client_body::ClientBody,
        errors,
        exchange::{Answered, RequestId, doubtful, is_never_passed},
        expect::{self, Interim},
        hops::{self, Outcome},
        host::AskedHost,
        send::{Patience, send},
        upgrade::{ClientSide, Wanted},
    },
    telemetry::access::Access,
    wire::{forwarded, path},
};

/// Refusals go to programs.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Answers one request, whatever comes.
pub(super) async fn answer(
    connection: Arc<Connection>,
    request: Request<ClientBody>,
) -> Answer<Sender> {
    let began = Instant::now();
    let under_way = connection.activity.begin();
    let acceptor = connection.acceptor();
    // an admitted gateway names its requests; who only speaks through one does not
    let named = connection.client.word != Word::Clients;
    let request_id = RequestId::of(request.headers(), named, &connection);
    let mut account = Account {
        record: acceptor
            .as_ref()
            .filter(|acceptor| acceptor.access)
            .map(|acceptor| Box::new(record(acceptor, &connection, &request, &request_id))),
        began,
        metrics: Arc::clone(&connection.metrics),
        status: 0,
        bytes_out: 0,
        complete: false,
        under_way: Some(under_way),
        has_body: !request.body().is_end_stream(),
        received: None,
        broken: None,
    };
    let answered = match &acceptor {
        Some(acceptor) => {
            let asked = Asked {
                connection: &connection,
                acceptor,
                request_id: &request_id,
            };
            forward(&asked, request, &mut account).await
        }
        None => Err(Denied::new(
            Denial::Draining,
            "the listener is in http mode no more",
        )),
    };
    match answered {
        Ok(answered) => answered.respond(&connection, account),
        Err(denied) => {
            let mut answer = refuse(&connection, &denied, &request_id, account);
            let require = acceptor.as_ref().and_then(|a| a.require.as_deref());
            if let Some(require) = require.filter(|_| answer.status() == StatusCode::UNAUTHORIZED) {
                require.challenge(answer.headers_mut());
            }
            answer
        }
    }
}

fn refuse(
    connection: &Connection,
    denied: &Denied,
    request_id: &RequestId,
    account: Account,
) -> Answer<Sender> {
    let request_id = request_id.text(connection);
    let mut answer = errors::refusal(denied, Some(&JSON), &request_id, account);
    // the gateway's next link is refused for the same reason, so that it tries another acceptor
    if denied.reason == Denial::BackendUnreachable && !connection.activity.is_http2() {
        let close = HeaderValue::from_static("close");
        answer.headers_mut().insert(header::CONNECTION, close);
    }
    answer
}

fn record(
    acceptor: &HttpAcceptor,
    connection: &Connection,
    request: &Request<ClientBody>,
    id: &RequestId,
) -> Access {
    let gateway = &connection.client;
    Access {
        listener: connection.listener.to_string(),
        connection: connection.name.clone(),
        source: Some(connection.source),
        client: gateway
            .client
            .filter(|_| gateway.word == Word::Clients)
            .map(|(source, _)| source),
        identity: connection.identity.clone(),
        rule: gateway.permit.grant().rule.clone(),
        sni: gateway.sni.clone().unwrap_or_default(),
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        request_id: id.text(connection),
        backend: acceptor.backend.address.to_string(),
        decision: "admitted",
        ..Access::default()
    }
}

/// A request's surroundings.
struct Asked<'a> {
    connection: &'a Arc<Connection>,
    /// The rules of this moment.
    acceptor: &'a HttpAcceptor,
    request_id: &'a RequestId,
}

fn judge(
    asked: &Asked<'_>,
    request: &Request<ClientBody>,
    wanted: Option<&Wanted>,
    account: &mut Account,
) -> Result<Arc<AskedHost>, Denied> {
    let websocket = matches!(wanted, Some(Wanted::WebSocket));
    // a route of our gateway's said so
    let tunnel =
        matches!(wanted, Some(Wanted::Tunnel { .. })) && asked.connection.client.word == Word::Ours;
    if is_never_passed(request.method()) && !websocket && !tunnel {
        return Err(Denied::new(
            Denial::MethodNotAllowed,
            request.method().to_string(),
        ));
    }
    let invalid =
        |error: &dyn std::fmt::Display| Denied::new(Denial::RequestInvalid, error.to_string());
    let host = asked
        .connection
        .asked_host(request, asked.acceptor.serial, |_| false)
        .map_err(|error| invalid(&error))?;
    if let Some(record) = &mut account.record {
        record.host.clone_from(&host.text);
    }
    if let Some(doubt) = doubtful(request) {
        return Err(invalid(&doubt));
    }
    if !tunnel {
        path::check(request.uri().path()).map_err(|error| invalid(&error))?;
    }
    if request.uri().path() == "*" && request.method() != Method::OPTIONS {
        return Err(invalid(&"\"*\" is a target of OPTIONS alone"));
    }
    let limit = asked.acceptor.limits.body_bytes;
    if limit != 0 && request.body().size_hint().lower() > limit {
        return Err(Denied::new(
            Denial::BodyTooLarge,
            format!("limits.body_bytes = {limit}"),
        ));
    }
    if (websocket || tunnel) && asked.acceptor.protocol != BackendProtocol::Http1 {
        return Err(Denied::new(
            Denial::MethodNotAllowed,
            "the backend speaks h2: WebSockets and tunnels need protocol = \"http/1.1\"",
        ));
    }
    Ok(host)
}

/// The one for whom a request is made, as an admitted gateway says last in `X-Forwarded-For`, and
/// our own address. Nobody says a port.
fn spoken_for(connection: &Connection, headers: &HeaderMap) -> Option<(SocketAddr, SocketAddr)> {
    if connection.client.word == Word::Clients {
        return connection.client.client;
    }
    let local = connection.client.local;
    let ours = (!local.is_unspecified()).then(|| (connection.source, SocketAddr::new(local, 0)));
    let last = headers
        .get_all(forwarded::X_FORWARDED_FOR)
        .iter()
        .next_back();
    let said = last.and_then(|list| list.to_str().ok()?.rsplit(',').next()?.trim().parse().ok());
    match (said, ours) {
        (Some(ip), Some((_, local))) => Some((SocketAddr::new(ip, 0), local)),
        (_, ours) => ours,
    }
}

async fn forward(
    asked: &Asked<'_>,
    mut request: Request<ClientBody>,
    account: &mut Account,
) -> Result<Outcome<Sender>, Denied> {
    let (connection, acceptor) = (asked.connection, asked.acceptor);
    let wanted = Wanted::of(&request);
    let host = judge(asked, &request, wanted.as_ref(), account)?;
    let http1 = acceptor.protocol == BackendProtocol::Http1;
    let wanted = wanted.filter(|_| http1);
    let client_side = wanted.as_ref().map(|_| ClientSide::of(&mut request));
    let (mut parts, body) = request.into_parts();
    let require = acceptor.require.as_deref();
    let expected = match require {
        Some(require) => require.judge(&mut parts, body.is_end_stream())?,
        None => None,
    };
    if !hops::take(&parts.method, &mut parts.headers)? {
        return Ok(Outcome::Last(hops::allowed(None)));
    }
    // hyper tells nobody of an interim answer in HTTP/2: there the body is asked for at once
    let expects = http1
        && parts.version != Version::HTTP_10
        && !body.is_end_stream()
        && expect::is_expected(&parts.headers);
    let proxy = acceptor.backend.send_proxy;
    let client = proxy.and_then(|_| spoken_for(connection, &parts.headers));
    rewrite(
        &mut parts.headers,
        parts.version,
        connection,
        acceptor,
        &host,
        asked.request_id,
    );
    parts.uri = target(&parts.uri);
    if !http1 {
        parts.uri = with_authority(parts.uri, &mut parts.headers, acceptor.scheme())?;
    }
    let switch = wanted.zip(client_side);
    let switch = switch
        .map(|(wanted, client)| wanted.ask(client, &mut parts, &host.text))
        .transpose()?;
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    let (mut body, received) = RequestBody::new(body, &acceptor.limits);
    account.received = Some(Arc::clone(&received));
    if let Some(require) = require {
        body = body.without(require.trailers());
    }
    if let Some(expected) = expected {
        body = body.hashed(expected);
    }
    let mut awaited = None;
    if expects {
        let (held, asked) = expect::hold();
        body = body.held(held);
        awaited = Some(asked);
        parts.headers.insert(header::EXPECT, expect::EXPECTATION);
    }
    let counted = acceptor.requests.under_way();
    let ways = PoolFor {
        pool: &acceptor.pool,
        permit: &connection.client.permit,
        client,
    };
    let patience = Patience {
        limit: acceptor.limits.response_timeout,
        activity: &connection.activity,
        interim: Interim {
            metrics: &acceptor.requests,
            asked: awaited.as_deref(),
        },
    };
    let request = Request::from_parts(parts, body);
    let (sender, response) = send(&ways, patience, request, &received).await?;
    drop(counted);
    Answered {
        response,
        sender,
        received,
        switch,
    }
    .checked()
}
