//! One request: judged, routed, written anew, sent, answered.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, uri,
};
use hyper::body::{Body as _, Incoming};

use super::{
    AskedHost, Connection, HttpGateway,
    body::{Account, Received, RequestBody, ResponseBody},
    errors, expect,
    pool::{Pool, Sender},
    rewrite::{REQUEST_ID, rewrite, target, via, with_authority},
    send::send,
    upgrade,
};
use crate::{
    admit::{Denial, Denied},
    config::{BackendProtocol, PathNormalisation, Route, UnderscoreHeaders},
    gateway::{BackendRuntime, routes},
    telemetry::access::Access,
    wire::{
        forwarded::{self, Trust},
        host, path,
    },
};

/// Answers one request, whatever comes.
pub(super) async fn answer(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
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
    let request_id = RequestId::of(request.headers(), trust, &connection);
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

fn record(connection: &Connection, request: &Request<Incoming>, id: &RequestId) -> Access {
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

/// What a request is called in our log and the backend's.
pub(super) enum RequestId {
    /// By a trusted proxy.
    Kept(HeaderValue),
    /// By us: its number in the connection's name.
    Made(u64),
}

impl RequestId {
    fn of(headers: &HeaderMap, trust: Trust, connection: &Connection) -> Self {
        let sent = (trust == Trust::TrustedProxy).then(|| headers.get(REQUEST_ID));
        match sent.flatten() {
            Some(id) if (1..=128).contains(&id.len()) && id.to_str().is_ok() => {
                Self::Kept(id.clone())
            }
            _ => Self::Made(connection.requests.fetch_add(1, Ordering::Relaxed)),
        }
    }

    pub(super) fn text(&self, connection: &Connection) -> String {
        match self {
            Self::Kept(id) => id.to_str().unwrap_or_default().to_owned(),
            Self::Made(number) => {
                let mut digits = itoa::Buffer::new();
                [&connection.name, "-", digits.format(*number)].concat()
            }
        }
    }

    pub(super) fn value(&self, connection: &Connection) -> HeaderValue {
        match self {
            Self::Kept(id) => id.clone(),
            // hex digits, a hyphen and a number
            Self::Made(_) => HeaderValue::try_from(self.text(connection))
                .unwrap_or_else(|_| HeaderValue::from_static("unknown")),
        }
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

/// An answer of the backend.
struct Answered {
    response: Response<Incoming>,
    sender: Sender,
    received: Arc<Received>,
    /// The client's side of an upgrade that the backend agreed to.
    client_upgrade: Option<hyper::upgrade::OnUpgrade>,
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
    request: &Request<Incoming>,
    account: &mut Account,
) -> Result<Judged<'c>, Denied> {
    let (connection, gateway) = (asked.connection, asked.gateway);
    if matches!(*request.method(), Method::TRACE | Method::CONNECT) {
        return Err(Denied::new(
            Denial::MethodNotAllowed,
            request.method().to_string(),
        ));
    }
    let invalid =
        |error: &dyn std::fmt::Display| Denied::new(Denial::RequestInvalid, error.to_string());
    let host = connection
        .asked_host(gateway, request)
        .map_err(|error| invalid(&error))?;
    if let Some(record) = &mut account.record {
        record.host.clone_from(&host.text);
    }
    if host.misdirected {
        return Err(Denied::new(Denial::Misdirected, host.text.as_str()));
    }
    if coded(request.headers()) {
        return Err(invalid(&"a transfer coding other than chunked"));
    }
    if gateway.underscores == UnderscoreHeaders::Refuse
        && let Some(name) = host::underscored(request.headers()).next()
    {
        return Err(invalid(&format!(
            "the header name {name} has an underscore: underscore_headers = \"refuse\""
        )));
    }
    path::check(request.uri().path()).map_err(|error| invalid(&error))?;
    if request.uri().path() == "*" && request.method() != Method::OPTIONS {
        return Err(invalid(&"\"*\" is a target of OPTIONS alone"));
    }
    let name = host.name();
    let limit = gateway.limits.body_bytes;
    if limit != 0 && request.body().size_hint().lower() > limit {
        return Err(Denied::new(
            Denial::BodyTooLarge,
            format!("limits.body_bytes = {limit}"),
        ));
    }
    let (path, method) = (request.uri().path(), request.method().as_str());
    let route = routes::match_http(&gateway.routes, &gateway.listener, name, path, method)
        .ok_or_else(|| {
            Denied::new(
                Denial::NoRoute,
                format!("{method} {}{path}", name.unwrap_or("-")),
            )
        })?;
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
    Ok(Judged {
        route,
        runtime,
        pool,
        host,
    })
}

/// A transfer coding ends at this hop (RFC 9112 section 7): one that is not undone here would be
/// lost, and its body handed on as something else.
fn coded(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    let chunked = |value: &HeaderValue| {
        value
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"chunked")
    };
    lines.next().is_some_and(|only| !chunked(only)) || lines.next().is_some()
}

/// The path as routes and backend are to see it.
fn normalise(request: &mut Request<Incoming>) -> Result<(), Denied> {
    let uri = request.uri();
    let invalid =
        |error: &dyn std::fmt::Display| Denied::new(Denial::RequestInvalid, error.to_string());
    let Some(path) = path::normalise(uri.path()).map_err(|error| invalid(&error))? else {
        return Ok(());
    };
    let whole = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(
        whole
            .parse()
            .map_err(|error: uri::InvalidUri| invalid(&error))?,
    );
    *request.uri_mut() = Uri::from_parts(parts).map_err(|error| invalid(&error))?;
    Ok(())
}

async fn forward(
    asked: &Asked<'_>,
    mut request: Request<Incoming>,
    account: &mut Account,
) -> Result<Answered, Denied> {
    if asked.gateway.paths == PathNormalisation::Normalise {
        normalise(&mut request)?;
    }
    let judged = judge(asked, &request, account)?;
    let wanted = (request.version() == Version::HTTP_11)
        .then(|| forwarded::requested_upgrade(request.headers()))
        .flatten();
    let client_upgrade = wanted.as_ref().map(|_| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    // hyper tells nobody of an interim answer in HTTP/2: there the body is asked for at once
    let expects = judged.runtime.config.protocol == BackendProtocol::Http1
        && parts.version != Version::HTTP_10
        && !body.is_end_stream()
        && expect::is_expected(&parts.headers);
    rewrite(&mut parts.headers, parts.version, asked, &judged)?;
    if let Some(protocol) = wanted {
        parts
            .headers
            .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, protocol);
    }
    parts.uri = target(&parts.uri, &judged)?;
    if judged.runtime.config.protocol == BackendProtocol::Http2 {
        parts.uri = with_authority(parts.uri, &mut parts.headers)?;
    }
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    let (mut body, received) = RequestBody::new(body, &asked.gateway.limits);
    account.received = Some(Arc::clone(&received));
    let mut awaited = None;
    if expects {
        let (held, asked) = expect::hold();
        body = body.held(held);
        awaited = Some(asked);
        parts.headers.insert(header::EXPECT, expect::EXPECTATION);
    }
    let mut request = Request::from_parts(parts, body);
    expect::heed(&mut request, judged.runtime.metrics(), awaited);
    let counted = judged.runtime.metrics().under_way();
    let sent = send(asked, &judged, request, &received).await;
    drop(counted);
    let (sender, response) = sent?;
    if let Some(record) = &mut account.record {
        sender.acceptor().clone_into(&mut record.acceptor);
    }
    if coded(response.headers()) {
        return Err(Denied::new(
            Denial::UpstreamBroken,
            "a transfer coding other than chunked",
        ));
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS && client_upgrade.is_none() {
        return Err(Denied::new(
            Denial::UpstreamBroken,
            "101 to a request that asked for no upgrade",
        ));
    }
    Ok(Answered {
        response,
        sender,
        received,
        client_upgrade,
    })
}

impl Answered {
    fn respond(self, connection: &Arc<Connection>, mut account: Account) -> Response<ResponseBody> {
        let Self {
            response,
            sender,
            received,
            client_upgrade,
        } = self;
        let status = response.status();
        account.status = status.as_u16();
        if status == StatusCode::SWITCHING_PROTOCOLS
            && let Some(client) = client_upgrade
        {
            return switch(connection, response, sender, client, account);
        }
        let (mut parts, inner) = response.into_parts();
        // chunks win over a length (RFC 9112 section 6.3): what was not counted is not told
        if parts.headers.contains_key(header::TRANSFER_ENCODING) {
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        forwarded::strip_hop_by_hop(&mut parts.headers);
        parts.headers.append(header::VIA, via(parts.version));
        parts.extensions.clear();
        Response::from_parts(
            parts,
            ResponseBody::Upstream {
                inner,
                sender: Some(sender),
                received,
                account,
            },
        )
    }
}

fn switch(
    connection: &Arc<Connection>,
    mut response: Response<Incoming>,
    sender: Sender,
    client: hyper::upgrade::OnUpgrade,
    account: Account,
) -> Response<ResponseBody> {
    let upstream = hyper::upgrade::on(&mut response);
    let protocol = response.headers().get(header::UPGRADE).cloned();
    let mut headers = std::mem::take(response.headers_mut());
    forwarded::strip_hop_by_hop(&mut headers);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        headers.insert(header::UPGRADE, protocol);
    }
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
    let carried = Arc::clone(connection);
    let over_link = sender.supervision(&connection.rules);
    let task = connection.upgrades.track_future(async move {
        upgrade::carry(carried, client, upstream, over_link, account).await;
        // the link connection lived as long as the bytes did
        drop(sender);
    });
    connection.drain.spawn(task);
    let mut answer = Response::new(ResponseBody::Own(None, shown));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = headers;
    answer
}
