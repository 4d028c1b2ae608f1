//! `acme_http`: where the CA's challenge http-01 is answered (RFC 8555 section 8.3). It listens only
//! while an order is under way, says one thing only, and lets nobody in.

use std::{collections::VecDeque, convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::task::{AbortHandle, JoinSet};

use crate::{
    config::ListenAddress,
    net::{AcceptBackoff, Inherited, Listener, Socket},
    tls::challenge::{Challenges, PATH},
};

/// Of one connection, from accept to end.
const WITHIN: Duration = Duration::from_secs(3);
/// Connections at once: a CA looks from a handful of places.
const MOST: usize = 64;

/// Answers until it is dropped.
pub(super) struct Answering {
    listeners: Vec<Listener>,
    challenges: Arc<Challenges>,
}

impl Answering {
    pub(super) fn begin(
        at: &[ListenAddress],
        inherited: &Inherited,
        challenges: &Arc<Challenges>,
    ) -> Result<Self, String> {
        let bind = |address| Listener::bind(address, inherited);
        let listeners = at.iter().map(bind).collect::<Result<_, _>>();
        Ok(Self {
            listeners: listeners.map_err(|error| format!("for the CA's challenge: {error}"))?,
            challenges: Arc::clone(challenges),
        })
    }

    pub(super) async fn run(self) -> Infallible {
        let mut all = JoinSet::new();
        for listener in self.listeners {
            all.spawn(accept(listener, Arc::clone(&self.challenges)));
        }
        while all.join_next().await.is_some() {}
        // others answer
        std::future::pending().await
    }
}

/// The newest connections: whoever holds idle ones open does not keep the CA out.
#[derive(Default)]
struct Few {
    all: JoinSet<()>,
    by_age: VecDeque<AbortHandle>,
}

impl Few {
    fn add(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        while self.all.try_join_next().is_some() {}
        self.by_age.retain(|running| !running.is_finished());
        if self.by_age.len() >= MOST
            && let Some(oldest) = self.by_age.pop_front()
        {
            oldest.abort();
        }
        self.by_age.push_back(self.all.spawn(connection));
    }
}

async fn accept(listener: Listener, challenges: Arc<Challenges>) {
    let mut backoff = AcceptBackoff::default();
    let mut connections = Few::default();
    loop {
        match listener.accept().await {
            Ok((socket, source)) => {
                backoff.reset();
                connections.add(serve(socket, source, Arc::clone(&challenges)));
            }
            Err(error) => {
                if let Some(pause) = backoff.after(&error) {
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

async fn serve(socket: Socket, source: SocketAddr, challenges: Arc<Challenges>) {
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer(&request, &challenges);
        tracing::debug!(%source, path = request.uri().path(), status = %answer.status(), "acme_http");
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(socket), service);
    // the order goes on whatever becomes of one connection
    drop(tokio::time::timeout(WITHIN, served).await);
}

fn answer<B>(request: &Request<B>, challenges: &Challenges) -> Response<Full<Bytes>> {
    let said = request
        .uri()
        .path()
        .strip_prefix(PATH)
        .filter(|_| *request.method() == Method::GET)
        .and_then(|token| challenges.answer(token));
    let status = match said {
        Some(_) => StatusCode::OK,
        None => StatusCode::NOT_FOUND,
    };
    let mut response = Response::new(Full::from(said.unwrap_or_default()));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::{self, error::TryRecvError};

    use super::*;

    #[tokio::test]
    async fn the_oldest_makes_room_for_the_newest() {
        let mut few = Few::default();
        let mut waiting = Vec::new();
        for _ in 0..=MOST {
            let (held, gone) = oneshot::channel::<()>();
            waiting.push(gone);
            few.add(async move {
                let _held = held;
                std::future::pending().await
            });
        }
        let mut waiting = waiting.into_iter();
        assert!(waiting.next().unwrap().await.is_err());
        for mut gone in waiting {
            assert_eq!(gone.try_recv(), Err(TryRecvError::Empty));
        }
    }

    #[test]
    fn it_says_one_thing_only() {
        let challenges = Arc::new(Challenges::default());
        let _offered = challenges.offer("tok", "tok.thumb".to_owned());
        let ask = |method: Method, path: &str| {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .body(())
                .unwrap();
            answer(&request, &challenges).status().as_u16()
        };
        assert_eq!(ask(Method::GET, "/.well-known/acme-challenge/tok"), 200);
        for (method, path) in [
            (Method::GET, "/.well-known/acme-challenge/"),
            (Method::GET, "/.well-known/acme-challenge/tok/"),
            (Method::GET, "/.well-known/acme-challenge/other"),
            (Method::GET, "/"),
            (Method::POST, "/.well-known/acme-challenge/tok"),
        ] {
            assert_eq!(ask(method, path), 404, "{path}");
        }
    }
}
