//! The admin listener: /healthz, /readyz, /metrics, /status.json. Read-only.

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
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
};
use zeroize::Zeroizing;

use super::reload::Process;
use crate::{
    clock,
    config::{self, Admin, ListenAddress},
    net::{AcceptBackoff, BindError, Buffered, Inherited, Listener, Socket},
    tls::{EdgeMaterial, ServerTls},
};

/// Connections at once: an operator, a prober and two scrapers leave room.
const CONNECTIONS: usize = 64;
/// Longest life of a connection: nothing here takes long.
const LIFE: Duration = Duration::from_secs(30);

/// What an answer needs.
struct Context {
    process: Arc<Process>,
    token: Option<Zeroizing<Vec<u8>>>,
    /// Over TCP everything but health needs the token.
    tcp: bool,
    tls: Option<ServerTls>,
}

/// Binds the admin listener and starts it.
///
/// # Errors
/// It can't be bound, or its token or certificate can't be loaded.
pub fn start(admin: &Admin, process: &Arc<Process>) -> Result<(), BindError> {
    let bad = |reason: String| BindError {
        address: admin.address.clone(),
        reason,
    };
    let token = match &admin.token {
        Some(secret) => Some(
            config::secret::load(secret, false).map_err(|e| bad(format!("admin.token: {e}")))?,
        ),
        None => None,
    };
    let tls = match &admin.certificate {
        Some(files) => {
            let options = process.with(|f| f.map(|f| f.loaded.config.common().tls.clone()));
            let parts = [(
                files.certificate.as_path(),
                files.key.as_path(),
                files.key_passphrase.as_ref(),
            )];
            let options = options.ok_or_else(|| bad("nothing is loaded".to_owned()))?;
            let material = EdgeMaterial::load_parts(parts, None, &options, None, clock::now())
                .map_err(|errors| {
                    bad(errors
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join("; "))
                })?;
            let alpn = vec![b"http/1.1".to_vec()];
            Some(
                ServerTls::server(&material, &options, alpn, false)
                    .map_err(|e| bad(e.to_string()))?,
            )
        }
        None => None,
    };
    let listener = Listener::bind(&admin.address, &Inherited::default())?;
    let shown = listener
        .local_address()
        .map_or_else(|| admin.address.to_string(), |a| a.to_string());
    tracing::info!(address = %shown, "admin listener");
    let tcp = !matches!(admin.address, ListenAddress::Unix(_));
    let context = Arc::new(Context {
        process: Arc::clone(process),
        token,
        tcp,
        tls,
    });
    process.drain.spawn(accept(listener, context));
    Ok(())
}

async fn accept(listener: Listener, context: Arc<Context>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut backoff = AcceptBackoff::default();
    let stop = context.process.drain.draining();
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
                let context = Arc::clone(&context);
                let drain = context.process.drain.clone();
                drain.spawn(async move {
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
    match &context.tls {
        None => answer_all(socket, Arc::clone(&context)).await,
        Some(tls) => {
            let anybody: crate::tls::Judge = Arc::new(|_peer| {
                // the token is what admits here
                Ok(crate::admit::Grant {
                    rule: "admin".to_owned(),
                    identity: "-".to_owned(),
                    until: None,
                })
            });
            if let Ok(accepted) = crate::tls::accept(Buffered::new(socket), tls, anybody).await {
                answer_all(accepted.stream, Arc::clone(&context)).await;
            }
        }
    }
}

async fn answer_all(io: impl AsyncRead + AsyncWrite + Unpin + Send, context: Arc<Context>) {
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
        .serve_connection(TokioIo::new(io), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection");
    }
}
