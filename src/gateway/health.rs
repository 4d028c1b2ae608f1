//! Active checks of acceptors: an admitted link connection, or an answer to a request over one.
//! An unhealthy acceptor is the last choice; where all are, they are tried all the same.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::{BackendRuntime, ClientFacts, Link, backend::AcceptorState};
use crate::{
    clock,
    config::{BackendProtocol, Health},
    drain::Drain,
    wire::signature::content_digest::{self, CONTENT_DIGEST},
};

/// What active checks say of an acceptor; healthy until they say otherwise.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    unhealthy: AtomicBool,
    /// Checks in a row that say otherwise.
    against: AtomicU32,
}

impl Verdict {
    pub(super) fn is_healthy(&self) -> bool {
        !self.unhealthy.load(Ordering::Relaxed)
    }

    /// Takes the result of a check; after `after` in a row the verdict changes. Whether it did.
    fn settle(&self, good: bool, after: u32) -> bool {
        if good == self.is_healthy() {
            self.against.store(0, Ordering::Relaxed);
            return false;
        }
        let against = self
            .against
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        if against < after {
            return false;
        }
        self.against.store(0, Ordering::Relaxed);
        self.unhealthy.store(!good, Ordering::Relaxed);
        true
    }
}

/// Checks a backend's acceptors until told to stop, where `health` asks for it.
pub fn start(backend: &Arc<BackendRuntime>, drain: &Drain, stop: &CancellationToken) {
    let Some(health) = backend.config.health.clone() else {
        return;
    };
    for acceptor in backend.acceptors() {
        let check = follow(
            Arc::downgrade(backend),
            Arc::clone(acceptor),
            health.clone(),
            stop.clone(),
        );
        drain.spawn(check);
    }
}

async fn follow(
    backend: Weak<BackendRuntime>,
    acceptor: Arc<AcceptorState>,
    health: Health,
    stop: CancellationToken,
) {
    loop {
        let Some(runtime) = backend.upgrade() else {
            return;
        };
        let probe = tokio::time::timeout(health.timeout, check(&runtime, &acceptor, &health));
        let found = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            found = probe => found.unwrap_or_else(|_| Err(format!(
                "no answer within health.timeout = {:?}", health.timeout
            ))),
        };
        settle(&runtime, &acceptor, &health, found);
        drop(runtime);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(health.interval) => {}
        }
    }
}

fn settle(
    backend: &BackendRuntime,
    acceptor: &AcceptorState,
    health: &Health,
    found: Result<(), String>,
) {
    let good = found.is_ok();
    let after = if good {
        health.healthy_after
    } else {
        health.unhealthy_after
    };
    let changed = acceptor.verdict.settle(good, after);
    backend
        .metrics()
        .healthy(&acceptor.name, acceptor.is_healthy());
    let name = &backend.config.name;
    match (changed, found) {
        (false, _) => {}
        (true, Ok(())) => {
            tracing::info!(backend = %name, acceptor = %acceptor.name, "acceptor is healthy again");
        }
        (true, Err(why)) => {
            tracing::warn!(backend = %name, acceptor = %acceptor.name, %why, "acceptor is unhealthy");
        }
    }
}

async fn check(
    backend: &BackendRuntime,
    acceptor: &Arc<AcceptorState>,
    health: &Health,
) -> Result<(), String> {
    let link = backend
        .connect_to(acceptor, &ClientFacts::ours())
        .await
        .map_err(|denied| denied.to_string())?;
    match &health.path {
        None => {
            let mut stream = link.stream;
            // a clean end; whether it arrives does not matter to the check
            drop(stream.shutdown().await);
            Ok(())
        }
        Some(path) => ask(backend, link, path)
            .await
            .map_err(|error| error.to_string()),
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Signed, where requests are.
fn proven(
    backend: &BackendRuntime,
    request: Request<Empty<Bytes>>,
) -> Result<Request<Empty<Bytes>>, Failure> {
    let Some(signing) = backend.credentials().and_then(|made| made.signing()) else {
        return Ok(request);
    };
    let (mut parts, body) = request.into_parts();
    if signing.covers_body() {
        parts
            .headers
            .insert(CONTENT_DIGEST, content_digest::of_body([]));
    }
    signing.sign(&mut parts, clock::now())?;
    Ok(Request::from_parts(parts, body))
}

async fn ask(backend: &BackendRuntime, link: Link, path: &str) -> Result<(), Failure> {
    let io = TokioIo::new(link.stream);
    let host = backend.config.own_host();
    // an acceptor or a backend that asks for proof asks everybody
    let mut headers = HeaderMap::new();
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static("portcullis-health"),
    );
    if let Some(credentials) = backend.credentials() {
        credentials.apply(&mut headers, false);
    }
    if let Some(tokens) = backend.credentials().and_then(|made| made.tokens()) {
        let token = tokens.get().await?;
        headers.insert(header::AUTHORIZATION, token.value());
    }
    let status = match backend.config.protocol {
        BackendProtocol::Http1 => {
            let (mut sender, connection) = http1::handshake(io).await?;
            headers.insert(header::HOST, HeaderValue::try_from(host)?);
            let mut request = Request::get(path).body(Empty::<Bytes>::new())?;
            *request.headers_mut() = headers;
            let request = proven(backend, request)?;
            let answer = sender.send_request(request);
            tokio::select! {
                answer = answer => answer?.status(),
                ended = connection => {
                    ended?;
                    return Err("the connection closed before an answer".into());
                }
            }
        }
        BackendProtocol::Http2 => {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            let mut request =
                Request::get(format!("https://{host}{path}")).body(Empty::<Bytes>::new())?;
            *request.headers_mut() = headers;
            let request = proven(backend, request)?;
            let answer = sender.send_request(request);
            tokio::select! {
                answer = answer => answer?.status(),
                ended = connection => {
                    ended?;
                    return Err("the connection closed before an answer".into());
                }
            }
        }
    };
    // who asks us for an answer to its challenge is there
    let challenged = status == StatusCode::UNAUTHORIZED
        && backend
            .credentials()
            .is_some_and(|made| made.digest().is_some());
    if status.is_success() || status.is_redirection() || challenged {
        Ok(())
    } else {
        Err(format!("{path} answered {status}, expected 200 to 399").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_changes_after_so_many_in_a_row() {
        let verdict = Verdict::default();
        let settle = |good: bool| verdict.settle(good, if good { 2 } else { 3 });
        let changes: Vec<bool> = [false, false, true, false, false, false]
            .map(settle)
            .to_vec();
        assert_eq!(changes, [false, false, false, false, false, true]);
        assert!(!verdict.is_healthy());
        assert!(!settle(true) && !settle(false) && !settle(true) && !verdict.is_healthy());
        assert!(settle(true) && verdict.is_healthy());
    }
}
