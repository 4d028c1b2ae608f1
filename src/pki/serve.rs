//! `pki serve`: a few requests of HTTP/1.1 (RFC 9112) on a connection whose certificate the
//! listener has proven. Who comes renews itself, or reads trust and CRLs; nothing else is here.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::Semaphore, time::Instant};

use super::{Authority, Leaving, RenewalDenial, RenewalRefused, Renewed, store};
use crate::{
    admit::PeerFacts,
    config::Limits,
    identity::Sha256,
    serve::{Admitted, BoxFuture, Closed, Role, http::io::ClientIo},
    telemetry::metrics::{ListenerMetrics, Metrics},
};

/// A request holds one key, a name or two and a signature.
pub const LARGEST_REQUEST: usize = 64 << 10;
/// Of one connection, all in all: nothing here takes long.
const LIFE: Duration = Duration::from_secs(30);
/// Waiting for the store, when others renew.
const WAIT: Duration = Duration::from_secs(10);
/// Renewals at once: the store has one lock, and what waits for it holds a thread.
const AT_ONCE: usize = 2;

/// What a listener of `pki serve` does.
pub struct AuthorityRole {
    listener: Arc<str>,
    authority: Authority,
    limits: Limits,
    access: bool,
    metrics: Arc<Metrics>,
    counts: Arc<ListenerMetrics>,
    turns: Arc<Semaphore>,
    leaving: Arc<Leaving>,
}

impl AuthorityRole {
    /// For one listener; `authority` has the passphrase of its keys.
    #[must_use]
    pub fn new(
        listener: &Arc<str>,
        authority: Authority,
        limits: Limits,
        access: bool,
        metrics: &Arc<Metrics>,
    ) -> Self {
        Self {
            listener: Arc::clone(listener),
            authority,
            limits,
            access,
            metrics: Arc::clone(metrics),
            counts: metrics.listener(listener),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            leaving: Arc::default(),
        }
    }
}

impl Role for AuthorityRole {
    fn serve(self: Arc<Self>, admitted: Admitted) -> BoxFuture<Closed> {
        Box::pin(self.carry(admitted))
    }
}

impl AuthorityRole {
    async fn carry(self: Arc<Self>, admitted: Admitted) -> Closed {
        let opened = std::time::Instant::now();
        let mut record = admitted.record(&self.listener);
        let Admitted {
            stream,
            peer,
            mut supervision,
            drain,
            source,
            ..
        } = admitted;
        let draining = drain.draining();
        let answering = Arc::clone(&self);
        let service = service_fn(move |request: Request<Incoming>| {
            let role = Arc::clone(&answering);
            let peer = peer.clone();
            async move {
                let began = std::time::Instant::now();
                let answer = role.answer(request, peer.as_deref(), source).await;
                role.counts
                    .request(answer.status().as_u16(), began.elapsed().as_secs_f64());
                Ok::<_, std::convert::Infallible>(answer)
            }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_buf_size(16 << 10)
            .serve_connection(TokioIo::new(ClientIo::lingering(stream.into())), service);
        let mut served = std::pin::pin!(served);
        let end = Instant::now() + LIFE;
        let mut closing = false;
        let cause = loop {
            tokio::select! {
                biased;
                done = &mut served => {
                    if let Err(error) = done {
                        tracing::debug!(%error, "a connection of pki serve");
                    }
                    break None;
                }
                denied = supervision.ended() => break Some(denied),
                () = draining.cancelled(), if !closing => {
                    closing = true;
                    served.as_mut().graceful_shutdown();
                }
                () = tokio::time::sleep_until(end) => break None,
            }
        };
        let closed = Closed {
            cause,
            ..Closed::default()
        };
        closed.settle(&mut record, opened);
        if self.access {
            record.emit();
        }
        closed
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: Option<&PeerFacts>,
        source: std::net::SocketAddr,
    ) -> Response<Full<Bytes>> {
        // the listener lets nobody in without; were it to, nobody is served
        let Some(peer) = peer else {
            return text(StatusCode::FORBIDDEN, "no certificate was shown\n");
        };
        let method = request.method().clone();
        match (&method, request.uri().path()) {
            (&Method::POST, "/v1/renew") => self.renew(request, peer, source).await,
            (&Method::GET, "/v1/trust") => self.file(&request, self.authority.trust()).await,
            (&Method::GET, "/v1/crl") => self.file(&request, self.authority.crl()).await,
            (&Method::GET, "/v1/status") => self.status(peer).await,
            (_, "/v1/renew" | "/v1/trust" | "/v1/crl" | "/v1/status") => text(
                StatusCode::METHOD_NOT_ALLOWED,
                "POST /v1/renew, GET the others\n",
            ),
            _ => text(
                StatusCode::NOT_FOUND,
                "there are POST /v1/renew, GET /v1/trust, /v1/crl and /v1/status\n",
            ),
        }
    }

    async fn renew(
        &self,
        request: Request<Incoming>,
        peer: &PeerFacts,
        source: std::net::SocketAddr,
    ) -> Response<Full<Bytes>> {
        match self.renewed(request, peer).await {
            Ok(renewed) => {
                self.metrics.pki_renewal("ok");
                tracing::info!(
                    holder = %renewed.holder,
                    %source,
                    replaces = %peer.leaf.serial,
                    serial = %renewed.facts.serial,
                    fingerprint = %renewed.facts.fingerprint,
                    not_after = %renewed.facts.not_after,
                    "certificate renewed"
                );
                typed(
                    StatusCode::OK,
                    "application/pem-certificate-chain",
                    renewed.pem.into_bytes(),
                )
            }
            Err(refused) => {
                self.metrics.pki_renewal(refused.reason.code());
                tracing::warn!(
                    holder = %peer.leaf.display_name(),
                    serial = %peer.leaf.serial,
                    %source,
                    reason = refused.reason.code(),
                    detail = %refused.detail,
                    "renewal refused"
                );
                let status = match refused.reason {
                    RenewalDenial::Store => StatusCode::SERVICE_UNAVAILABLE,
                    RenewalDenial::MalformedRequest => StatusCode::BAD_REQUEST,
                    RenewalDenial::TooEarly | RenewalDenial::TooMany => {
                        StatusCode::TOO_MANY_REQUESTS
                    }
                    RenewalDenial::Unknown
                    | RenewalDenial::Revoked
                    | RenewalDenial::NotInForce
                    | RenewalDenial::SelfSigned
                    | RenewalDenial::OtherNames
                    | RenewalDenial::Forbidden => StatusCode::FORBIDDEN,
                };
                // what is wrong with our own store is for our own log
                let told = if refused.reason == RenewalDenial::Store {
                    "store: its log says why\n".to_owned()
                } else {
                    format!("{refused}\n")
                };
                text(status, &told)
            }
        }
    }

    async fn renewed(
        &self,
        request: Request<Incoming>,
        peer: &PeerFacts,
    ) -> Result<Renewed, RenewalRefused> {
        let refuse = |reason, detail: String| RenewalRefused { reason, detail };
        let reading = Limited::new(request.into_body(), LARGEST_REQUEST).collect();
        let body = tokio::time::timeout(self.limits.header_timeout, reading)
            .await
            .map_err(|_elapsed| {
                refuse(
                    RenewalDenial::MalformedRequest,
                    "the request did not come in time".to_owned(),
                )
            })?
            .map_err(|error| refuse(RenewalDenial::MalformedRequest, error.to_string()))?
            .to_bytes();
        let busy = || {
            refuse(
                RenewalDenial::Store,
                format!("others held the store for {WAIT:?}"),
            )
        };
        let turn = tokio::time::timeout(WAIT, Arc::clone(&self.turns).acquire_owned());
        let turn = turn.await.ok().and_then(Result::ok).ok_or_else(busy)?;
        let authority = self.authority.clone();
        let leaf = peer.leaf.clone();
        // the lock of the store waits, and the disk too
        let signing = tokio::task::spawn_blocking(move || {
            let done = authority.renew_held(&leaf, &body);
            drop(turn);
            done
        });
        signing
            .await
            .unwrap_or_else(|error| Err(refuse(RenewalDenial::Store, error.to_string())))
    }

    /// A public file of the store, unless the asker has it.
    async fn file(
        &self,
        request: &Request<Incoming>,
        path: std::path::PathBuf,
    ) -> Response<Full<Bytes>> {
        let read = tokio::task::spawn_blocking(move || store::read(&path)).await;
        let bytes = match read {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return unavailable(&error),
            Err(error) => return unavailable(&error),
        };
        let tag = format!("\"{}\"", Sha256::of(&bytes));
        let known = request
            .headers()
            .get(header::IF_NONE_MATCH)
            .is_some_and(|value| value.as_bytes() == tag.as_bytes());
        let mut answer = if known {
            text(StatusCode::NOT_MODIFIED, "")
        } else {
            typed(StatusCode::OK, "application/x-pem-file", bytes)
        };
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            answer.headers_mut().insert(header::ETAG, tag);
        }
        answer
    }

    /// Whether the asker should renew at once, whatever its dates.
    async fn status(&self, peer: &PeerFacts) -> Response<Full<Bytes>> {
        let authority = self.authority.clone();
        let fingerprint = peer.leaf.fingerprint;
        let leaving = Arc::clone(&self.leaving);
        let asked = tokio::task::spawn_blocking(move || leaving.has(&authority, &fingerprint));
        let asked = asked.await;
        match asked {
            Ok(Ok(renew)) => typed(
                StatusCode::OK,
                "application/json",
                format!("{{\"schema\":1,\"renew\":{renew}}}\n").into_bytes(),
            ),
            Ok(Err(error)) => unavailable(&error),
            Err(error) => unavailable(&error),
        }
    }
}

fn unavailable(error: &dyn std::fmt::Display) -> Response<Full<Bytes>> {
    tracing::error!(%error, "the store can't be read");
    text(StatusCode::SERVICE_UNAVAILABLE, "store: its log says why\n")
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    typed(
        status,
        "text/plain; charset=utf-8",
        text.as_bytes().to_vec(),
    )
}

fn typed(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
