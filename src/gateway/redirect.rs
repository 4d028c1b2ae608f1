//! redirect mode: plain port 80. Requests are sent to https at the host that they name, and the CA
//! that asks for the proof of a name is answered (RFC 8555 section 8.3). Nothing is let in.

use std::{any::Any, convert::Infallible, future::Future, net::IpAddr, sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, uri};
use hyper::{body::Body as _, service::service_fn};
use tokio::sync::watch;

use crate::{
    admit::{Denial, Denied},
    config::{Limits, RedirectListener},
    drain::Drain,
    serve::{
        Admitted, BoxFuture, Closed, Plain, Role, Snapshot,
        http::{
            self as shared, Answer, Beginning, Client, Upstream,
            body::{Account, RequestBody, ResponseBody},
            client::SendFailed,
            client_body::ClientBody,
            errors,
            exchange::RequestId,
            expect::Interim,
            hop::AnswerBody,
            stream::ClientStream,
        },
    },
    telemetry::{access::Access, metrics::ListenerMetrics},
    tls::challenge::{Challenges, PATH},
    wire::{ConnectionId, host, path},
};

/// What a gateway's listener in redirect mode does.
pub struct Redirector {
    listener: Arc<str>,
    https_port: u16,
    limits: Arc<Limits>,
    challenges: Arc<Challenges>,
    metrics: Arc<ListenerMetrics>,
    drain: Drain,
    access: bool,
}

/// Who speaks there.
struct Caller {
    id: ConnectionId,
    local: IpAddr,
}

impl Client for Caller {
    fn id(&self) -> ConnectionId {
        self.id
    }

    fn sni(&self) -> Option<&str> {
        None
    }

    fn local(&self) -> IpAddr {
        self.local
    }
}

type Connection = shared::Connection<Caller>;

/// Behind a redirect there is no next hop.
enum Nowhere {}

impl Upstream for Nowhere {
    fn is_reused(&self) -> bool {
        match *self {}
    }

    fn is_http2(&self) -> bool {
        match *self {}
    }

    async fn send(
        &mut self,
        _request: Request<RequestBody>,
        _interim: Interim<'_>,
    ) -> Result<Response<AnswerBody>, SendFailed> {
        match *self {}
    }

    fn keep(self, _answer: AnswerBody) {}

    fn ended(
        &self,
        _rules: &watch::Receiver<Arc<Snapshot>>,
    ) -> impl Future<Output = Denied> + Send + 'static {
        std::future::pending()
    }
}

/// What a request is told.
enum Said {
    /// The answer to a challenge.
    Proof(String),
    /// Where to go.
    Elsewhere(HeaderValue),
}

impl Redirector {
    /// A listener's redirect mode.
    #[must_use]
    pub fn new(
        listener: &RedirectListener,
        challenges: Arc<Challenges>,
        metrics: Arc<ListenerMetrics>,
        drain: Drain,
        access: bool,
    ) -> Self {
        Self {
            listener: Arc::clone(&listener.name),
            https_port: listener.https_port,
            limits: Arc::new(listener.limits.clone()),
            challenges,
            metrics,
            drain,
            access,
        }
    }

    fn judge<B>(&self, request: &Request<B>, record: Option<&mut Access>) -> Result<Said, Denied> {
        let invalid =
            |error: &dyn std::fmt::Display| Denied::new(Denial::RequestInvalid, error.to_string());
        if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
            let method = request.method().to_string();
            return Err(Denied::new(Denial::MethodNotAllowed, method));
        }
        let authority = host::effective_host(
            request.version(),
            request.uri(),
            request.headers(),
            &uri::Scheme::HTTP,
        )
        .map_err(|error| invalid(&error))?
        .ok_or_else(|| invalid(&"the request names no host that it could be sent to"))?;
        if let Some(record) = record {
            record.host = authority.to_string();
        }
        let at = request.uri().path();
        path::check(at).map_err(|error| invalid(&error))?;
        if let Some(proof) = at
            .strip_prefix(PATH)
            .filter(|_| *request.method() == Method::GET)
            .and_then(|token| self.challenges.answer(token))
        {
            return Ok(Said::Proof(proof));
        }
        // "OPTIONS *" is about a server, and this one says nothing of itself
        let target = match request.uri().path_and_query() {
            Some(target) if at.starts_with('/') => target.as_str(),
            _ => "/",
        };
        let port = match self.https_port {
            443 => String::new(),
            port => format!(":{port}"),
        };
        let url = format!("https://{}{port}{target}", authority.host);
        let url = HeaderValue::from_str(&url).map_err(|error| invalid(&error))?;
        Ok(Said::Elsewhere(url))
    }
}

/// The redirect mode in force at a connection's listener.
fn in_force(connection: &Connection) -> Option<Arc<Redirector>> {
    let role: Arc<dyn Any + Send + Sync> = connection.rules.borrow().role.clone();
    role.downcast().ok()
}

fn answer(connection: &Connection, request: &Request<ClientBody>) -> Answer<Nowhere> {
    let began = Instant::now();
    let under_way = connection.activity.begin();
    let role = in_force(connection);
    let id = RequestId::of(request.headers(), false, connection);
    let record = role.as_ref().is_some_and(|role| role.access).then(|| {
        Box::new(Access {
            listener: connection.listener.to_string(),
            connection: connection.name.clone(),
            source: Some(connection.source),
            identity: connection.identity.clone(),
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            request_id: id.text(connection),
            decision: "admitted",
            ..Access::default()
        })
    });
    let mut account = Account {
        record,
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
    let said = match &role {
        Some(role) => role.judge(request, account.record.as_deref_mut()),
        None => Err(Denied::new(
            Denial::Draining,
            "the listener is in redirect mode no more",
        )),
    };
    let (status, text, location) = match said {
        Ok(Said::Proof(proof)) => (StatusCode::OK, Bytes::from(proof), None),
        Ok(Said::Elsewhere(url)) => (StatusCode::PERMANENT_REDIRECT, Bytes::new(), Some(url)),
        Err(denied) => {
            let accept = request.headers().get(header::ACCEPT);
            return errors::refusal(&denied, accept, &id.text(connection), account);
        }
    };
    account.status = status.as_u16();
    let mut response = Response::new(ResponseBody::own(Some(text), account));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    match location {
        Some(url) => headers.insert(header::LOCATION, url),
        None => headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        ),
    };
    response
}

impl Role for Redirector {
    fn serve(self: Arc<Self>, admitted: Admitted) -> BoxFuture<Closed> {
        // it has no TLS to accept
        drop(admitted);
        let denied = Denied::new(Denial::Draining, "the listener is in redirect mode");
        Box::pin(async { Closed::refused(denied) })
    }

    fn plain(self: Arc<Self>, plain: Plain) -> BoxFuture<Closed> {
        let Plain {
            id,
            io,
            permit,
            source,
            local,
            supervision,
        } = plain;
        let beginning = Beginning {
            id,
            http2: false,
            client: Caller {
                id,
                local: local.ip(),
            },
            peer: None,
            identity: permit.grant().identity.clone(),
            source,
            supervision: &supervision,
            listener: &self.listener,
            limits: &self.limits,
            metrics: &self.metrics,
            drain: &self.drain,
        };
        let stream = ClientStream::Plain(Box::new(io));
        let (connection, io) = Connection::begin(stream, beginning);
        // a reload may have put another in its place: it goes
        drop(self);
        let asked = Arc::clone(&connection);
        let service = service_fn(move |request: Request<ClientBody>| {
            let answer = answer(&asked, &request);
            async move { Ok::<_, Infallible>(answer) }
        });
        connection.carry(io, service, supervision)
    }
}
