//! The admin listener: /healthz, /readyz, /metrics, /status.json. Read-only.

mod access;
mod answer;
mod status;

use std::{sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use super::reload::Process;
use crate::{
    config::{Admin, ListenAddress},
    net::{AcceptBackoff, BindError, Buffered, Listener, Socket},
    serve::http::{io::ClientIo, stream::ClientStream},
};
pub use access::AdminAccess;

/// Connections at once: an operator, a prober and two scrapers leave room.
const CONNECTIONS: usize = 64;
/// Longest life of a connection: nothing here takes long.
const LIFE: Duration = Duration::from_secs(30);

/// What an answer needs.
struct Context {
    process: Arc<Process>,
    access: Arc<AdminAccess>,
    /// Over TCP everything but health needs the token.
    tcp: bool,
}

/// Binds the admin listener and starts it. Who may ask is what the configuration in force says.
///
/// # Errors
/// It can't be bound.
pub fn start(admin: &Admin, process: &Arc<Process>) -> Result<(), BindError> {
    let listener = Listener::bind(&admin.address, &process.inherited)?;
    let shown = listener
        .local_address()
        .map_or_else(|| admin.address.to_string(), |a| a.to_string());
    tracing::info!(address = %shown, "admin listener");
    let tcp = !matches!(admin.address, ListenAddress::Unix(_));
    process
        .drain
        .spawn(accept(listener, Arc::clone(process), tcp));
    Ok(())
}

async fn accept(listener: Listener, process: Arc<Process>, tcp: bool) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut backoff = AcceptBackoff::default();
    let stop = process.drain.draining();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, _source)) => {
                backoff.reset();
                // full: the newcomer is closed
                let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
                    continue;
                };
                // taken out of the configuration: nobody may ask
                let access = process.with(|f| f.and_then(|f| f.loaded.admin.clone()));
                let Some(access) = access else { continue };
                let context = Arc::new(Context {
                    process: Arc::clone(&process),
                    access,
                    tcp,
                });
                process.drain.spawn(async move {
                    let stop = context.process.drain.draining();
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => {}
                        _ = tokio::time::timeout(LIFE, serve(socket, context)) => {}
                    }
                    drop(place);
                });
            }
            Err(error) => {
                if let Some(pause) = backoff.after(&error) {
                    tracing::error!(%error, "admin accept failed");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

async fn serve(socket: Socket, context: Arc<Context>) {
    let socket = Buffered::new(socket);
    match &context.access.tls {
        None => answer_all(ClientStream::Plain(Box::new(socket)), Arc::clone(&context)).await,
        Some(tls) => {
            let anybody: crate::tls::Judge = Arc::new(|_peer| {
                // the token is what admits here
                Ok(crate::admit::Grant {
                    rule: "admin".to_owned(),
                    identity: "-".to_owned(),
                    until: None,
                })
            });
            if let Ok(accepted) = crate::tls::accept(socket, tls, anybody).await {
                answer_all(accepted.stream.into(), Arc::clone(&context)).await;
            }
        }
    }
}

async fn answer_all(stream: ClientStream, context: Arc<Context>) {
    let service = service_fn(|request: Request<Incoming>| {
        let context = Arc::clone(&context);
        async move {
            Ok::<Response<Full<Bytes>>, std::convert::Infallible>(answer::answer(
                &request, &context,
            ))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(5))
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(ClientIo::lingering(stream)), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection");
    }
}
