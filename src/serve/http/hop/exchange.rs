//! One request and the head of its answer. Both directions go on at once: an answer may come before
//! the request's end.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Request, Response};
use tokio::time::{Sleep, sleep};

use super::{
    AnswerBody, Hop, HopError, SHORT,
    answer::Http1Answer,
    outgoing::Outgoing,
    shared::{self, Shared},
};
use crate::{
    serve::http::{body::RequestBody, client::SendFailed, expect::Interim},
    wire::http1::answer::{Asked, Head, Heads, Length},
};

/// More interim answers than anybody has a use for.
const MAX_INTERIM: u32 = 1000;
/// So long an answer is waited for on a connection that takes nothing more.
const MOMENT: Duration = Duration::from_secs(2);

/// Sends a request and waits for its answer's head.
pub(crate) async fn send(
    hop: Box<Hop>,
    request: Request<RequestBody>,
    interim: Interim<'_>,
) -> Result<Response<AnswerBody>, SendFailed> {
    let mut exchange = Exchange {
        hop,
        asked: Asked::of(request.method()),
        out: Outgoing::new(request),
        heads: Heads::default(),
        interim,
        interims: 0,
        switched: None,
        broken: None,
    };
    match poll_fn(|cx| exchange.poll(cx)).await {
        Ok(head) => Ok(exchange.answered(head)),
        Err(error) => Err(exchange.out.failed(error.denied())),
    }
}

struct Exchange<'a> {
    hop: Box<Hop>,
    out: Outgoing,
    asked: Asked,
    heads: Heads,
    interim: Interim<'a>,
    interims: u32,
    /// The answer that makes the connection another protocol's, once the request is sent.
    switched: Option<Head>,
    /// Why the request can't be sent to its end, and how long an answer is waited for.
    broken: Option<(HopError, Pin<Box<Sleep>>)>,
}

impl Exchange<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, HopError>> {
        loop {
            self.hop.fated()?;
            self.poll_write(cx)?;
            if self.out.is_done()
                && let Some(head) = self.switched.take()
            {
                return Poll::Ready(Ok(head));
            }
            if self.switched.is_some() {
                return self.wait(cx);
            }
            match self.poll_read(cx)? {
                Poll::Pending => return self.wait(cx),
                // the body that was asked for can go
                Poll::Ready(None) => {}
                Poll::Ready(Some(head)) if head.length == Length::Tunnel => {
                    self.switched = Some(head);
                }
                Poll::Ready(Some(head)) => return Poll::Ready(Ok(head)),
            }
        }
    }

    fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, HopError>> {
        let late = |(_, over): &mut (HopError, Pin<Box<Sleep>>)| over.as_mut().poll(cx).is_ready();
        if let Some((error, _)) = self.broken.take_if(late) {
            return Poll::Ready(Err(error));
        }
        if let Some(fate) = &self.hop.fate {
            fate.wake_reader(cx);
            // sealed since it was looked at, it has woken nobody
            self.hop.fated()?;
        }
        Poll::Pending
    }

    /// Sends what can be sent. A next hop that takes no more may still answer.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<(), HopError> {
        if self.broken.is_some() || self.out.is_done() {
            return Ok(());
        }
        let sent = self.out.poll(self.hop.io()?, cx);
        self.hop.owes = self.out.is_cut();
        match sent {
            Poll::Ready(Err(error)) if error.may_be_answered() => {
                self.broken = Some((error, Box::pin(sleep(MOMENT))));
                Ok(())
            }
            Poll::Ready(done) => done,
            Poll::Pending => Ok(()),
        }
    }

    /// The next head: `None` for an interim answer that has asked for the body.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<Poll<Option<Head>>, HopError> {
        loop {
            if !self.hop.buf.is_empty() {
                // nor may it begin then, and end behind the request
                if !self.out.is_touched() {
                    return Err(HopError::Unasked);
                }
                // an answer that comes before all of the request is sent has one of its own
                let mut other = HeaderMap::new();
                // left as it is until a head is whole, so that the request can be sent again
                let table = self.out.table().unwrap_or(&mut other);
                if let Some(head) = self.heads.read(&mut self.hop.buf, self.asked, table)? {
                    if !head.is_interim() {
                        return Ok(Poll::Ready(Some(head)));
                    }
                    self.interims = self.interims.saturating_add(1);
                    if self.interims > MAX_INTERIM {
                        return Err(HopError::Interim(MAX_INTERIM));
                    }
                    if self.interim.came(head.status) {
                        return Ok(Poll::Ready(None));
                    }
                    continue;
                }
            }
            match self.hop.poll_fill(cx, SHORT) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Ok(0)) => return Err(self.because(HopError::Closed)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Err(self.because(error)),
            }
        }
    }

    /// What TLS says of an end is the reason of it; else what came first.
    fn because(&mut self, error: HopError) -> HopError {
        match self.broken.take() {
            Some((first, _)) if !error.is_explained() => first,
            _ => error,
        }
    }

    fn answered(self, head: Head) -> Response<AnswerBody> {
        let Self { hop, out, .. } = self;
        let Head {
            status,
            version,
            headers,
            length,
            keep_alive,
        } = head;
        let owner = if out.is_done() {
            shared::Owner::Alone(hop)
        } else {
            // a body that was not asked for is not read
            let deaf = self.broken.is_some() || out.is_held();
            shared::Owner::Shared(Shared::begin(hop, out, deaf))
        };
        let body = AnswerBody::Http1(Http1Answer::new(owner, length, keep_alive));
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.version_mut() = version;
        *response.headers_mut() = headers;
        response
    }
}
