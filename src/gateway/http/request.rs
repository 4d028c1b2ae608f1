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
    Connection, HttpGateway,
    body::{Account, Received, RequestBody, ResponseBody},
    errors,
    pool::{Pool, Sender},
    upgrade,
};
use crate::{
    admit::{Denial, Denied},
    config::{BackendProtocol, ClientCertHeader, HostHeader, Route},
    gateway::{BackendRuntime, routes},
    telemetry::access::Access,
    wire::{
        client_cert,
        forwarded::{self, Trust},
        host::{self, Host},
        path,
    },
};

const REQUEST_ID: &str = "x-request-id";

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
    let request_id = request_id(request.headers(), trust, &connection);
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
        Err(denied) => errors::refusal(&denied, accept.as_ref(), &request_id, account),
    }
}

fn record(connection: &Connection, request: &Request<Incoming>, request_id: &str) -> Access {
    Access {
        listener: connection.listener.to_string(),
        connection: connection.name.clone(),
        source: Some(connection.source),
        identity: connection.identity.clone(),
        sni: connection.client.sni.clone().unwrap_or_default(),
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        request_id: request_id.to_owned(),
        decision: "admitted",
        ..Access::default()
    }
}

/// A request's surroundings.
struct Asked<'a> {
    connection: &'a Arc<Connection>,
    /// The rules of this moment.
    gateway: &'a HttpGateway,
    trust: Trust,
    request_id: &'a str,
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
struct Judged<'c> {
    route: &'c Arc<Route>,
    runtime: &'c Arc<BackendRuntime>,
    pool: &'c Pool,
    host: String,
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
    let authority = host::effective_host(
        request.version(),
        request.uri(),
        request.headers(),
        &uri::Scheme::HTTPS,
    )
    .map_err(|error| invalid(&error))?;
    let named = authority.as_ref().map(ToString::to_string);
    let named = named.unwrap_or_default();
    if let Some(record) = &mut account.record {
        record.host.clone_from(&named);
    }
    path::check(request.uri().path()).map_err(|error| invalid(&error))?;
    let name = authority
        .as_ref()
        .and_then(|authority| match &authority.host {
            Host::Name(name) => Some(name.as_str()),
            Host::Address(_) => None,
        });
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
        host: named,
    })
}

async fn forward(
    asked: &Asked<'_>,
    mut request: Request<Incoming>,
    account: &mut Account,
) -> Result<Answered, Denied> {
    let judged = judge(asked, &request, account)?;
    let wanted = (request.version() == Version::HTTP_11)
        .then(|| forwarded::requested_upgrade(request.headers()))
        .flatten();
    let client_upgrade = wanted.as_ref().map(|_| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    rewrite(&mut parts.headers, asked, &judged)?;
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
    let (body, received) = RequestBody::new(body, &asked.gateway.limits);
    account.received = Some(Arc::clone(&received));
    let request = Request::from_parts(parts, body);
    let counted = judged.runtime.metrics().under_way();
    let sent = send(asked, &judged, request, &received).await;
    drop(counted);
    let (sender, response) = sent?;
    if let Some(record) = &mut account.record {
        sender.acceptor().clone_into(&mut record.acceptor);
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

type Sent = (Sender, Response<Incoming>);

/// Sends a request; once more on a new connection where the kept one had been closed meanwhile:
/// not a byte of the request was sent, or it is one that may be sent twice (RFC 9110 section
/// 9.2.2).
async fn send(
    asked: &Asked<'_>,
    judged: &Judged<'_>,
    request: Request<RequestBody>,
    received: &Arc<Received>,
) -> Result<Sent, Denied> {
    let mut sender = judged.pool.take(asked.connection.opening()).await?;
    let copy = sender.reused.then(|| copy(&request, received)).flatten();
    let again = match respond_in_time(asked, &mut sender, request, received).await {
        Ok(response) => return Ok((sender, response)),
        Err(Failure::Unsent(request)) if sender.reused => *request,
        Err(Failure::Denied(denied)) => match copy {
            Some(copy) if denied.reason == Denial::UpstreamBroken => copy,
            _ => return Err(denied),
        },
        Err(failure) => return Err(failure.denied()),
    };
    // boxed: the rare case keeps no room in every request
    Box::pin(resend(asked, judged, again, received)).await
}

async fn resend(
    asked: &Asked<'_>,
    judged: &Judged<'_>,
    request: Request<RequestBody>,
    received: &Received,
) -> Result<Sent, Denied> {
    judged.runtime.metrics().retried();
    let mut fresh = judged.pool.open(asked.connection.opening()).await?;
    match respond_in_time(asked, &mut fresh, request, received).await {
        Ok(response) => Ok((fresh, response)),
        Err(failure) => Err(failure.denied()),
    }
}

/// A request without a body and with a safe method.
fn copy(request: &Request<RequestBody>, received: &Arc<Received>) -> Option<Request<RequestBody>> {
    if !request.method().is_safe() || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(RequestBody::none(received));
    request.method().clone_into(copy.method_mut());
    request.uri().clone_into(copy.uri_mut());
    request.headers().clone_into(copy.headers_mut());
    *copy.version_mut() = request.version();
    Some(copy)
}

enum Failure {
    Unsent(Box<Request<RequestBody>>),
    Denied(Denied),
}

impl Failure {
    fn denied(self) -> Denied {
        match self {
            Self::Unsent(_) => {
                Denied::new(Denial::UpstreamBroken, "closed before the request was sent")
            }
            Self::Denied(denied) => denied,
        }
    }
}

async fn respond_in_time(
    asked: &Asked<'_>,
    sender: &mut Sender,
    request: Request<RequestBody>,
    received: &Received,
) -> Result<Response<Incoming>, Failure> {
    let limit = asked.gateway.limits.response_timeout;
    let mut sending = std::pin::pin!(sender.send(request));
    loop {
        let was_done = received.is_done();
        match tokio::time::timeout(limit, sending.as_mut()).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(failed)) => {
                return Err(match failed.unsent {
                    Some(request) => Failure::Unsent(request),
                    None => Failure::Denied(broken(&failed.error)),
                });
            }
            // the clock runs from the request's end: before that the client may be the slow one
            Err(_) if !was_done => {}
            Err(_) => {
                let detail = format!("limits.response_timeout = {limit:?}");
                return Err(Failure::Denied(Denied::new(
                    Denial::UpstreamTimeout,
                    detail,
                )));
            }
        }
    }
}

/// The client's own fault is told from the backend's.
fn broken(error: &hyper::Error) -> Denied {
    use std::error::Error as _;
    let mut cause = error.source();
    while let Some(inner) = cause {
        match inner.downcast_ref::<super::body::BodyError>() {
            Some(super::body::BodyError::TooLarge) => {
                return Denied::new(Denial::BodyTooLarge, inner.to_string());
            }
            Some(super::body::BodyError::TooSlow) => {
                return Denied::new(Denial::RequestTooSlow, inner.to_string());
            }
            Some(super::body::BodyError::Broken(error)) => {
                return Denied::new(
                    Denial::RequestInvalid,
                    format!("the request's body broke: {error}"),
                );
            }
            None => cause = inner.source(),
        }
    }
    Denied::new(Denial::UpstreamBroken, error.to_string())
}

/// Origin form (RFC 9112 section 3.2.1) with the route's prefix rewritten.
fn target(original: &Uri, judged: &Judged<'_>) -> Result<Uri, Denied> {
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
fn with_authority(uri: Uri, headers: &mut HeaderMap) -> Result<Uri, Denied> {
    let host = headers.remove(header::HOST);
    let mut parts = uri.into_parts();
    parts.scheme = Some(uri::Scheme::HTTPS);
    parts.authority = host.and_then(|host| uri::Authority::try_from(host.as_bytes()).ok());
    Uri::from_parts(parts).map_err(|error| Denied::new(Denial::RequestInvalid, error.to_string()))
}

fn rewrite(headers: &mut HeaderMap, asked: &Asked<'_>, judged: &Judged<'_>) -> Result<(), Denied> {
    let connection = asked.connection;
    let stamp = connection.stamp(&judged.host);
    forwarded::prepare_request(headers, &stamp, asked.trust);
    // answered by us: the body is asked for when the backend's connection takes it
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
    headers.insert(header::HOST, host);
    headers.insert(REQUEST_ID, value(asked.request_id)?);
    headers.append(header::VIA, HeaderValue::from_static("1.1 portcullis"));
    Ok(())
}

/// HTTP/2 splits cookies; HTTP/1.1 knows one line (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
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

/// Kept from a trusted proxy, else the connection's name and the request's number in it.
fn request_id(headers: &HeaderMap, trust: Trust, connection: &Connection) -> String {
    let sent = headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok());
    match sent {
        Some(id) if trust == Trust::TrustedProxy && (1..=128).contains(&id.len()) => id.to_owned(),
        _ => {
            let number = connection.requests.fetch_add(1, Ordering::Relaxed);
            format!("{}-{number}", connection.name)
        }
    }
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
        forwarded::strip_hop_by_hop(&mut parts.headers);
        parts
            .headers
            .append(header::VIA, HeaderValue::from_static("1.1 portcullis"));
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
