//! A client's HTTP/1 connection (RFC 9112): requests are read, handed on and answered one after the
//! other. Between them no more is kept than the stream and what watches over it.

mod answering;
mod coming;
mod out;
mod shared;
#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    future::{Future as _, pending, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::Poll,
};

use http::{HeaderMap, Request, Version};
use hyper::service::Service;
use tokio::time::Instant;

use self::{
    answering::Answering,
    out::Out,
    shared::{Came, Reader, Shared},
};
use super::{
    Answer, Client, Connection, LAST_CALL, Turn, Upstream, activity::Watch,
    client_body::ClientBody, errors, io::ClientIo, turn, upgrade,
};
use crate::{
    admit::{Denial, Denied},
    serve::{Aside, Supervision},
    wire::{framing::Arrived, http1::reply::Asked},
};

pub(super) use shared::Shared as Http1;
pub(crate) use shared::{Http1Body, Switched};

/// A map of headers with more room than this is not used again.
const SPARE: usize = 128;

/// How soon a connection is to be over.
#[derive(Default)]
struct Haste(AtomicU8);

impl Haste {
    const NONE: u8 = 0;
    /// The next answer is the last, whenever that is: of an idle connection that we close the other
    /// end hears too late, and what it sends meanwhile is lost.
    const OUTDATED: u8 = 1;
    /// One more request may come, and is the last.
    const LAST_CALL: u8 = 2;
    /// What has begun to come is the last.
    const ALL: u8 = 3;

    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, haste: u8) {
        self.0.store(haste, Ordering::Relaxed);
    }

    fn is_any(&self) -> bool {
        self.get() != Self::NONE
    }

    /// It is over soon, whether a request comes or not.
    fn ends(&self) -> bool {
        self.get() >= Self::LAST_CALL
    }
}

/// How a connection went on.
enum Next {
    /// Between requests, and all bytes in both directions have passed.
    Rests,
    /// It is over, for a reason or as it should.
    Over(Option<Denied>),
}

impl<C: Client> Connection<C> {
    pub(super) async fn http1<S, K>(
        &self,
        io: Box<ClientIo>,
        service: S,
        mut watch: Watch,
        supervision: &mut Supervision,
    ) -> Option<Denied>
    where
        S: Service<Request<ClientBody>, Response = Answer<K>, Error = Infallible>,
        K: Upstream,
    {
        let shared = Shared::new(io);
        let haste = Haste::default();
        let cause = loop {
            let told = match self.rest(&shared, &mut watch, supervision).await {
                None => false,
                Some(Turn::Cut(why)) => {
                    watch.ended(&why);
                    drop(shared.end());
                    return Some(why);
                }
                Some(Turn::Outdated) => {
                    haste.set(Haste::OUTDATED);
                    continue;
                }
                Some(Turn::Finish | Turn::Rest) => true,
            };
            // boxed: between requests it keeps no room
            let requests = self.requests(&shared, &service, &mut watch, supervision, &haste, told);
            let serving = Box::pin(requests);
            match serving.await {
                Next::Rests => {}
                Next::Over(cause) => break self.activity.end().or(cause),
            }
        };
        // whoever still reads a body finds that it has ended
        drop(shared.end());
        cause
    }

    /// Waits for the next request's first byte, or for the client's end; for what speaks before.
    async fn rest(
        &self,
        shared: &Shared,
        watch: &mut Watch,
        supervision: &mut Supervision,
    ) -> Option<Turn> {
        watch.rest();
        let draining = self.drain.draining();
        let turn = {
            let goes = pin!(draining.cancelled());
            let turned = pin!(turn(watch, supervision, goes));
            tokio::select! {
                biased;
                () = poll_fn(|cx| shared.poll_readable(cx)) => None,
                turn = Aside::new(turned) => Some(turn),
            }
        };
        watch.wake();
        turn
    }

    /// Answers requests until the connection is over, or quiet. `told`: it is to be over soon.
    async fn requests<S, K>(
        &self,
        shared: &Arc<Shared>,
        service: &S,
        watch: &mut Watch,
        supervision: &mut Supervision,
        haste: &Haste,
        told: bool,
    ) -> Next
    where
        S: Service<Request<ClientBody>, Response = Answer<K>, Error = Infallible>,
        K: Upstream,
    {
        let draining = self.drain.draining();
        // the end of the last call, where it has begun
        let mut until = Instant::now() + LAST_CALL;
        if told {
            self.hasten(haste).await;
        }
        let why = {
            let mut serving = pin!(self.answers(shared, service, haste));
            loop {
                let turn = {
                    let goes = pin!(async {
                        match haste.get() {
                            Haste::NONE | Haste::OUTDATED => draining.cancelled().await,
                            Haste::LAST_CALL => tokio::time::sleep_until(until).await,
                            _ => pending().await,
                        }
                    });
                    let turned = pin!(turn(watch, supervision, goes));
                    tokio::select! {
                        biased;
                        cause = serving.as_mut() => return Next::Over(cause),
                        turn = Aside::new(turned) => turn,
                    }
                };
                match turn {
                    // it goes as soon as it can
                    Turn::Rest if haste.ends() => {}
                    Turn::Outdated if haste.is_any() => {}
                    Turn::Outdated => haste.set(Haste::OUTDATED),
                    // an idle connection is told to go; what is under way is finished
                    Turn::Finish => {
                        until = Instant::now() + LAST_CALL;
                        self.hasten(haste).await;
                    }
                    Turn::Rest => return Next::Rests,
                    Turn::Cut(why) => {
                        // before what is under way is dropped, which says why
                        watch.ended(&why);
                        break why;
                    }
                }
            }
        };
        if self.is_told_late(&why)
            && let Some(io) = shared.end()
        {
            Box::pin(io.say_late()).await;
        }
        Next::Over(Some(why))
    }

    /// It is time to finish. Who may be about to ask is not shut out: that is told by the answer.
    async fn hasten(&self, haste: &Haste) {
        let may_ask = self.activity.is_fresh() || self.client.has_pool();
        let told = haste.ends() || !may_ask;
        haste.set(if told { Haste::ALL } else { Haste::LAST_CALL });
        // what has come to the socket is heard of before anybody looks
        tokio::task::yield_now().await;
    }

    /// Reads requests and answers them until the connection is over.
    async fn answers<S, K>(
        &self,
        shared: &Arc<Shared>,
        service: &S,
        haste: &Haste,
    ) -> Option<Denied>
    where
        S: Service<Request<ClientBody>, Response = Answer<K>, Error = Infallible>,
        K: Upstream,
    {
        let limit = self.limits.header_bytes;
        let finishes = || haste.is_any();
        let mut reader = Reader::default();
        let mut out = Out::default();
        loop {
            let came =
                poll_fn(|cx| shared.poll_head(cx, &mut reader, limit, haste.get() == Haste::ALL))
                    .await;
            let arrived = match came {
                Came::Request(arrived) => arrived,
                Came::End => return close(shared, None).await,
                Came::Refused(fault) => {
                    let denied = errors::misframed(fault);
                    self.activity.refused(&denied);
                    return close(shared, Some(&denied)).await.or(Some(denied));
                }
            };
            let keep = arrived.keep;
            if !keep {
                self.activity.says_last();
            }
            let asked = Asked::new(
                &arrived.parts.method,
                arrived.parts.version == Version::HTTP_10,
                arrived.trailers,
            );
            let answer = match call(shared, service, arrived, &mut out).await {
                Ok(answer) => answer,
                Err(denied) => return Some(denied),
            };
            let status = answer.status();
            let keep =
                poll_fn(|cx| Poll::Ready(shared.answer_begins(cx))).await && keep && !finishes();
            let (mut answering, parts, stays) = Answering::begin(answer, asked, keep, &mut out);
            let written = poll_fn(|cx| answering.poll(cx, shared, &mut out)).await;
            if let Err(denied) = written {
                if answering.ends_with_connection() {
                    shared.abort();
                }
                return Some(denied);
            }
            if asked.switches(status) {
                // what is left of the request would be taken for the other protocol
                return (!shared.switch()).then(|| {
                    let detail = "the bytes became another protocol's before the request's end";
                    Denied::new(Denial::RequestInvalid, detail)
                });
            }
            reader.spare = spare(parts.headers);
            // told that it stays, a client may have asked again
            let goes_on = stays && poll_fn(|cx| shared.poll_settled(cx, haste.ends())).await;
            if !goes_on {
                return close(shared, None).await;
            }
        }
    }

    /// Whether a head came too late whose sender hears that it did: bytes of it had come.
    pub(super) fn is_told_late(&self, cause: &Denied) -> bool {
        cause.reason == Denial::RequestTimeout
            && !self.activity.is_http2()
            && self.activity.bytes().0 > 0
    }
}

/// Hands a request on, and waits for its answer's head; gives up what a client left behind.
async fn call<S, K>(
    shared: &Arc<Shared>,
    service: &S,
    arrived: Arrived,
    out: &mut Out,
) -> Result<Answer<K>, Denied>
where
    S: Service<Request<ClientBody>, Response = Answer<K>, Error = Infallible>,
    K: Upstream,
{
    let Arrived {
        mut parts,
        length,
        upgrade,
        expects,
        ..
    } = arrived;
    let body = shared.begin(length, expects);
    let body = body.map_or(ClientBody::None, ClientBody::Http1);
    if upgrade {
        upgrade::may_switch(&mut parts, shared);
    }
    let mut calling = pin!(service.call(Request::from_parts(parts, body)));
    poll_fn(|cx| match calling.as_mut().poll(cx) {
        Poll::Ready(Ok(answer)) => Poll::Ready(Ok(answer)),
        Poll::Ready(Err(never)) => match never {},
        Poll::Pending => shared.poll_beside(cx, out, false).map(Err),
    })
    .await
}

/// Closes the connection so that what was written arrives.
async fn close(shared: &Shared, refused: Option<&Denied>) -> Option<Denied> {
    let closed = poll_fn(|cx| shared.poll_close(cx, refused)).await;
    closed.err().map(|error| shared::gone(&error))
}

/// What may be used again for the next head.
fn spare(headers: HeaderMap) -> HeaderMap {
    if headers.capacity() > SPARE {
        return HeaderMap::new();
    }
    headers
}
