//! A client's HTTP/1 connection: hyper's while requests come. Between them no more is kept than the
//! stream and what watches over it.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
};

use hyper::{Request, body::Incoming, server::conn::http1, service::Service};
use hyper_util::rt::TokioIo;

use super::{
    Answer, Client, Connection, Turn, Upstream,
    activity::Watch,
    io::{self, ClientIo},
    turn,
};
use crate::{
    admit::{Denial, Denied},
    serve::{Aside, Supervision},
};

/// How a connection went on.
enum Next<S> {
    /// Between requests, and all bytes in both directions have passed.
    Rests(Box<ClientIo>, S),
    /// It is over, for a reason or as it should.
    Over(Option<Denied>),
}

impl<C: Client> Connection<C> {
    pub(super) async fn http1<S, K>(
        &self,
        mut io: Box<ClientIo>,
        mut service: S,
        mut watch: Watch,
        supervision: &mut Supervision,
    ) -> Option<Denied>
    where
        S: Service<Request<Incoming>, Response = Answer<K>, Error = Infallible>,
        S::Future: Send + 'static,
        K: Upstream,
    {
        loop {
            let finish = match self.rest(&mut io, &mut watch, supervision).await {
                None => false,
                Some(Turn::Cut(why)) => {
                    watch.ended(&why);
                    return Some(why);
                }
                Some(Turn::Finish | Turn::Rest) => true,
            };
            // boxed: between requests it keeps no room
            let serving = Box::pin(self.requests(io, service, &mut watch, supervision, finish));
            match serving.await {
                Next::Rests(stream, same) => (io, service) = (stream, same),
                Next::Over(cause) => return self.activity.end().or(cause),
            }
        }
    }

    /// Waits for the next request's first byte, or for the client's end; for what speaks before.
    async fn rest(
        &self,
        io: &mut ClientIo,
        watch: &mut Watch,
        supervision: &mut Supervision,
    ) -> Option<Turn> {
        watch.rest();
        let draining = self.drain.draining();
        let turn = {
            let turned = pin!(turn(watch, supervision, &draining, false));
            tokio::select! {
                biased;
                () = io.readable() => None,
                turn = Aside::new(turned) => Some(turn),
            }
        };
        watch.wake();
        turn
    }

    /// Answers requests until the connection is over, or quiet. `finish`: it is to be over soon.
    async fn requests<S, K>(
        &self,
        io: Box<ClientIo>,
        service: S,
        watch: &mut Watch,
        supervision: &mut Supervision,
        finish: bool,
    ) -> Next<S>
    where
        S: Service<Request<Incoming>, Response = Answer<K>, Error = Infallible>,
        S::Future: Send + 'static,
        K: Upstream,
    {
        let draining = self.drain.draining();
        let mut builder = http1::Builder::new();
        // up to 100 fields in a head: with a number of our own hyper would allocate their table
        // for each request
        builder
            .half_close(false)
            // the guard has judged the length
            .max_buf_size(self.limits.header_bytes.saturating_add(8 << 10));
        let mut held = builder
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        let mut graceful = finish;
        if graceful {
            Pin::new(&mut held).graceful_shutdown();
        }
        let why = loop {
            let turn = {
                let turned = pin!(turn(watch, supervision, &draining, graceful));
                tokio::select! {
                    biased;
                    done = Pin::new(&mut held) => {
                        return Next::Over(done.err().map(|error| io::denied_by(&error)));
                    }
                    turn = Aside::new(turned) => turn,
                }
            };
            match turn {
                // it goes as soon as it can
                Turn::Finish | Turn::Rest if graceful => {}
                // an idle connection is told to go; what is under way is finished
                Turn::Finish => {
                    graceful = true;
                    Pin::new(&mut held).graceful_shutdown();
                }
                Turn::Rest => {
                    let Some(parts) = held.into_parts() else {
                        return Next::Over(None);
                    };
                    let mut io = parts.io.into_inner();
                    io.take_back(&parts.read_buf);
                    return Next::Rests(io, parts.service);
                }
                Turn::Cut(why) => break why,
            }
        };
        watch.ended(&why);
        if self.is_told_late(&why)
            && let Some(parts) = held.into_parts()
        {
            Box::pin(parts.io.into_inner().say_late()).await;
        }
        Next::Over(Some(why))
    }

    /// Whether a head came too late whose sender hears that it did: bytes of it had come.
    pub(super) fn is_told_late(&self, cause: &Denied) -> bool {
        cause.reason == Denial::RequestTimeout
            && !self.activity.is_http2()
            && self.activity.bytes().0 > 0
    }
}
