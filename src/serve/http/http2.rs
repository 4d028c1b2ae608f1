//! A client's HTTP/2 connection.

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use hyper::{Method, Request, body::Incoming, server::conn::http2, service::Service};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::{
    Answer, Client, Connection, Turn, Upstream,
    activity::Watch,
    client_body::ClientBody,
    frames::framed,
    http2_tunnel::{Asked, Executor},
    io::{self, ClientIo},
    turn,
};
use crate::{
    admit::{Denial, Denied},
    serve::{Aside, Supervision},
    wire::frames as h2_frames,
};

/// How long an HTTP/2 client that has to go may take to hear it.
const PARTING: Duration = Duration::from_secs(1);

/// The error code that an HTTP/2 client hears when it has to go; `None`: nothing more is said.
fn last_word(why: &Denied) -> Option<u32> {
    if why.reason == Denial::RequestInvalid {
        return Some(h2_frames::CALM);
    }
    let late = [Denial::RequestTimeout, Denial::IdleTimeout];
    late.contains(&why.reason).then_some(h2_frames::NO_ERROR)
}

/// A role's service, as hyper calls it.
struct Streams<S> {
    service: S,
    asked: Arc<Asked>,
}

impl<S: Service<Request<ClientBody>>> Service<Request<Incoming>> for Streams<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, mut request: Request<Incoming>) -> S::Future {
        if request.method() == Method::CONNECT {
            request.extensions_mut().insert(Arc::clone(&self.asked));
        }
        self.service.call(request.map(ClientBody::Http2))
    }
}

impl<C: Client> Connection<C> {
    pub(super) async fn http2<S, K>(
        &self,
        io: Box<ClientIo>,
        service: S,
        mut watch: Watch,
        supervision: &mut Supervision,
    ) -> Option<Denied>
    where
        S: Service<Request<ClientBody>, Response = Answer<K>, Error = Infallible>,
        S::Future: Send + 'static,
        K: Upstream,
    {
        let draining = self.drain.draining();
        let executor = Executor::new(self.drain.clone());
        let streams = Streams {
            service,
            asked: Arc::clone(executor.asked()),
        };
        let mut builder = http2::Builder::new(executor);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.limits.streams)
            .max_header_list_size(u32::try_from(self.limits.header_bytes).unwrap_or(u32::MAX))
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .max_frame_size(64 << 10)
            .max_send_buf_size(256 << 10)
            .enable_connect_protocol();
        let (io, mut gathering) = framed(io, Arc::clone(&self.activity));
        let mut held = pin!(builder.serve_connection(TokioIo::new(io), streams));
        let mut graceful = false;
        let (cause, over) = loop {
            let turn = {
                let goes = pin!(async {
                    match graceful {
                        true => pending().await,
                        false => draining.cancelled().await,
                    }
                });
                let turned = pin!(turn(&mut watch, supervision, goes));
                tokio::select! {
                    biased;
                    done = poll_fn(|cx| gathering.poll(cx, held.as_mut())) => {
                        break (done.err().map(|error| io::denied_by(&error)), true);
                    }
                    turn = Aside::new(turned) => turn,
                }
            };
            match turn {
                // it goes as soon as it can
                Turn::Finish | Turn::Outdated if graceful => {}
                // an idle connection is told to go; what is under way is finished
                Turn::Finish | Turn::Outdated => {
                    graceful = true;
                    held.as_mut().graceful_shutdown();
                }
                Turn::Cut(why) => {
                    watch.ended(&why);
                    break (Some(why), false);
                }
                // its streams' state is hyper's
                Turn::Rest => {}
            }
        };
        if !over && let Some(code) = cause.as_ref().and_then(last_word) {
            self.activity.part(code);
            // hyper hears that the client has ended, and ends too
            let parted = poll_fn(|cx| gathering.poll(cx, held.as_mut()));
            drop(tokio::time::timeout(PARTING, parted).await);
        }
        self.activity.abuse().or(cause)
    }
}
