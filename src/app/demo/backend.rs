//! The backend that can't defend itself: it answers everybody, and shows what reached it.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::drain::Drain;

/// Its first line, by which the proofs know that the backend itself answered.
pub(super) const GREETING: &str = "hello from the legacy backend";

/// A running backend.
pub(super) struct Backend {
    pub(super) address: SocketAddr,
    reached: Arc<AtomicUsize>,
}

impl Backend {
    /// How many connections reached it so far.
    pub(super) fn reached(&self) -> usize {
        self.reached.load(Ordering::SeqCst)
    }
}

/// Starts it on a free port of loopback.
pub(super) async fn start(drain: &Drain) -> std::io::Result<Backend> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let (tasks, stop) = (drain.clone(), drain.draining());
    let reached = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reached);
    drain.spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let Ok((stream, _)) = accepted else { continue };
            count.fetch_add(1, Ordering::SeqCst);
            let stop = tasks.draining();
            tasks.spawn(async move {
                let connection = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(answer));
                tokio::select! {
                    // a client that breaks off is no news here
                    done = connection => drop(done),
                    () = stop.cancelled() => {}
                }
            });
        }
    });
    Ok(Backend { address, reached })
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut text = format!("{GREETING}\n\n{} {}\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        text.push_str(&format!(
            "{name}: {}\n",
            String::from_utf8_lossy(value.as_bytes())
        ));
    }
    Ok(Response::new(Full::from(text)))
}
