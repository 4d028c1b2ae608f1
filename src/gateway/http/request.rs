//! One request: judged, routed, written anew, sent, answered.

use std::{sync::Arc, time::Instant};

use http::{Request, Version, header, request::Parts};
use hyper::body::Body as _;

use super::{
    Connection, HttpGateway,
    pool::{Pool, PoolFor, Sender},
    proven::Dispatch,
    rewrite::{rewrite, target, with_authority},
};
use crate::{
    admit::{Denial, Denied},
    config::{BackendProtocol, PathNormalisation, Route, UnderscoreHeaders},
    gateway::{BackendRuntime, routes},
    serve::http::{
        Answer,
        body::{Account, RequestBody},
        client_body::ClientBody,
        errors,
        exchange::{Answered, RequestId, doubtful, is_never_passed},
        expect::{self, Interim},
        hops::{self, Outcome},
        host::AskedHost,
        send::Patience,
        upgrade::{ClientSide, Wanted},
    },
    telemetry::access::Access,
    wire::{forwarded::Trust, host},
};

/// Answers one request, whatever comes.
pub(super) async fn answer(
    connection: Arc<Connection>,
    request: Request<ClientBody>,
) -> Answer<Sender> {
    let began = Instant::now();
    let under_way = connection.activity.begin();
    let gateway = connection.gateway();
    let trust = if gateway
        .as_ref()
        .is_some_and(|gateway| gateway.trusted_proxies.contains(connection.source.ip()))
    {
        Trust::TrustedProxy
    } else {
        Trust::Untrusted
    };
    let request_id = RequestId::of(request.headers(), trust == Trust::TrustedProxy, &connection);
    let accept = request.headers().get(header::ACCEPT).cloned();
    let mut account = Account {
        record: gateway
            .as_ref()
            .is_some_and(|gateway| gateway.access)
            .then(|| Box::new(record(&connection, &request, &request_id))),
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
    let answered = match &gateway {
        Some(gateway) => {
            let asked = Asked {
                connection: &connection,
                gateway,
                trust,
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
            let request_id = request_id.text(&connection);
            errors::refusal(&denied, accept.as_ref(), &request_id, account)
        }
    }
}

fn record(connection: &Connection, request: &Request<ClientBody>, id: &RequestId) -> Access {
    Access {
        listener: connection.listener.to_string(),
        connection: connection.name.clone(),
        source: Some(connection.source),
        identity: connection.identity.clone(),
        sni: connection.client.sni.clone().unwrap_or_default(),
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        request_id: id.text(connection),
        decision: "admitted",
        ..Access::default()
    }
}

/// A request's surroundings.
pub(super) struct Asked<'a> {
    pub(super) connection: &'a Arc<Connection>,
    /// The rules of this moment.
    pub(super) gateway: &'a HttpGateway,
    pub(super) trust: Trust,
    pub(super) request_id: &'a RequestId,
}

/// A request that may go on.
pub(super) struct Judged<'c> {
    pub(super) route: &'c Arc<Route>,
    pub(super) runtime: &'c Arc<BackendRuntime>,
    pub(super) pool: &'c Pool,
    pub(super) host: Arc<AskedHost>,
}

fn judge<'c>(
    asked: &Asked<'c>,
    request: &Request<ClientBody>,
    wanted: Option<&Wanted>,
    account: &mut Account,
) -> Result<Judged<'c>, Denied> {
    let (connection, gateway) = (asked.connection, asked.gateway);
    let websocket = matches!(wanted, Some(Wanted::WebSocket));
    let tunnel = matches!(wanted, Some(Wanted::Tunnel { .. }));
    let refused = || Denied::new(Denial::MethodNotAllowed, request.method().to_string());
    if is_never_passed(request.method()) && !websocket && !tunnel {
        return Err(refused());
    }
    let invalid =
        |error: &dyn std::fmt::Display| Denied::new(Denial::RequestInvalid, error.to_string());
    let host = connection
        .asked_host_at(gateway, request)
        .map_err(|error| invalid(&error))?;
    if let Some(record) = &mut account.record {
        record.host.clone_from(&host.text);
    }
    if host.misdirected {
        return Err(Denied::new(Denial::Misdirected, host.text.as_str()));
    }
    if let Some(doubt) = doubtful(request) {
        return Err(invalid(&doubt));
    }
    if gateway.underscores == UnderscoreHeaders::Refuse
        && let Some(name) = host::underscored(request.headers()).next()
    {
        return Err(invalid(&format!(
            "the header name {name} has an underscore: underscore_headers = \"refuse\""
        )));
    }
    // a tunnel names no path
    let path = if tunnel {
        "/"
    } else {
        routes::path_of(request)?
    };
    let name = host.name();
    let limit = gateway.limits.body_bytes;
    if limit != 0 && request.body().size_hint().lower() > limit {
        return Err(Denied::new(
            Denial::BodyTooLarge,
            format!("limits.body_bytes = {limit}"),
        ));
    }
    // it becomes a GET
    let method = if websocket {
        "GET"
    } else {
        request.method().as_str()
    };
    let route = routes::find_http(&gateway.routes, &gateway.listener, name, path, method)
        .map_err(|denied| if tunnel { refused() } else { denied })?;
    if let Some(record) = &mut account.record {
        record.route.clone_from(&route.label);
        record.backend.clone_from(&route.backend);
    }
    routes::check_clients(route, connection.peer.as_deref())?;
    let (runtime, pool) = gateway.backends.get(&route.backend).ok_or_else(|| {
        Denied::new(
            Denial::NoRoute,
            format!("backend {} is not loaded", route.backend),
        )
    })?;
    if (websocket || tunnel) && runtime.config.protocol != BackendProtocol::Http1 {
        return Err(Denied::new(
            Denial::MethodNotAllowed,
            format!(
                "backend {} speaks h2: WebSockets and tunnels need protocol = \"http/1.1\"",
                route.backend
            ),
        ));
    }
    Ok(Judged {
        route,
        runtime,
        pool,
        host,
    })
}

/// Whether the backend is asked whether it wants the body. A body that is kept is asked for by us,
/// and hyper tells nobody of an interim answer in HTTP/2: there it is asked for at once.
fn passes_expectation(judged: &Judged<'_>, parts: &Parts, body: &ClientBody) -> bool {
    judged.runtime.config.protocol == BackendProtocol::Http1
        && parts.version != Version::HTTP_10
        && !body.is_end_stream()
        && expect::is_expected(&parts.headers)
}

async fn forward(
    asked: &Asked<'_>,
    mut request: Request<ClientBody>,
    account: &mut Account,
) -> Result<Outcome<Sender>, Denied> {
    let wanted = Wanted::of(&request);
    let tunnel = matches!(wanted, Some(Wanted::Tunnel { .. }));
    if asked.gateway.paths == PathNormalisation::Normalise && !tunnel {
        routes::normalise(&mut request)?;
    }
    let judged = judge(asked, &request, wanted.as_ref(), account)?;
    if !hops::take(&request.method().clone(), request.headers_mut())? {
        let methods = judged.route.methods.as_deref();
        return Ok(Outcome::Last(hops::allowed(methods)));
    }
    let http1 = judged.runtime.config.protocol == BackendProtocol::Http1;
    let wanted = wanted.filter(|_| http1);
    let client = wanted.as_ref().map(|_| ClientSide::of(&mut request));
    let (mut parts, body) = request.into_parts();
    let proof = judged.runtime.credentials().filter(|made| made.vary());
    let expects = proof.is_none() && passes_expectation(&judged, &parts, &body);
    rewrite(&mut parts.headers, parts.version, asked, &judged)?;
    parts.uri = target(&parts.uri, &judged)?;
    if !http1 {
        parts.uri = with_authority(parts.uri, &mut parts.headers)?;
    }
    let switch = wanted.zip(client);
    let switch = switch
        .map(|(wanted, client)| wanted.ask(client, &mut parts, &judged.host.text))
        .transpose()?;
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    let (mut body, mut received) = RequestBody::new(body, &asked.gateway.limits);
    account.received = Some(Arc::clone(&received));
    if let Some(credentials) = judged.runtime.credentials() {
        body = body.without(credentials.trailers());
    }
    let mut awaited = None;
    if expects {
        let (held, asked) = expect::hold();
        body = body.held(held);
        awaited = Some(asked);
        parts.headers.insert(header::EXPECT, expect::EXPECTATION);
    }
    let request = Request::from_parts(parts, body);
    let metrics = judged.runtime.metrics().requests();
    let counted = metrics.under_way();
    let ways = PoolFor {
        pool: judged.pool,
        opening: asked.connection.opening(),
    };
    let patience = Patience {
        limit: asked.gateway.limits.response_timeout,
        activity: &asked.connection.activity,
        interim: Interim {
            metrics,
            asked: awaited.as_deref(),
        },
    };
    let dispatch = Dispatch {
        proof,
        ways: &ways,
        patience,
        upgrade: switch.is_some(),
    };
    let sent = dispatch.send(request, &mut received).await;
    drop(counted);
    let (sender, response) = sent?;
    if let Some(record) = &mut account.record {
        sender.acceptor().clone_into(&mut record.acceptor);
    }
    Answered {
        response,
        sender,
        received,
        switch,
    }
    .checked()
}
