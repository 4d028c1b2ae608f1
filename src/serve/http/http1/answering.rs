//! An answer as it is written.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, response};
use http_body::Body as _;

use super::{
    super::{Answer, Upstream, body::ResponseBody, date::date},
    out::Out,
    shared::{Shared, gone},
};
use crate::{
    admit::{Denial, Denied},
    wire::http1::{
        reply::{self, Asked, Ending},
        write::{self, CHUNK_END, CHUNKS_END},
    },
};

/// An answer, as far as it is written.
pub(super) struct Answering<K: Upstream> {
    /// What is left of its body; `None`: nothing.
    body: Option<Box<ResponseBody<K>>>,
    ending: Ending,
    /// Trailers may be sent.
    trailers: bool,
    /// The connection is closed behind it.
    closes: bool,
}

impl<K: Upstream> Answering<K> {
    /// Writes its head, and gives back what is left of that. `keep`: the connection may stay.
    pub(super) fn begin(
        answer: Answer<K>,
        asked: Asked,
        keep: bool,
        out: &mut Out,
    ) -> (Self, response::Parts, bool) {
        let (parts, body) = answer.into_parts();
        let length = if body.is_end_stream() {
            Some(0)
        } else {
            body.size_hint().exact()
        };
        let head = (parts.status, &parts.headers);
        let (ending, stays) = reply::head(out.front(), asked, head, length, keep, &date());
        // one that is empty has passed
        let body = (ending != Ending::Sized(0)).then_some(body);
        let answering = Self {
            body,
            ending,
            trailers: asked.trailers,
            closes: !stays && !asked.switches(parts.status),
        };
        (answering, parts, stays)
    }

    /// Only the connection's end tells the client that it is whole.
    pub(super) fn ends_with_connection(&self) -> bool {
        self.ending == Ending::Close
    }

    /// Writes on; resolves when all of it has been written, or the connection has to go.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        shared: &Shared,
        out: &mut Out,
    ) -> Poll<Result<(), Denied>> {
        match self.poll_written(cx, shared, out) {
            // whether the client leaves is seen meanwhile
            Poll::Pending => shared.poll_beside(cx, out, true).map(Err),
            written => written,
        }
    }

    fn poll_written(
        &mut self,
        cx: &mut Context<'_>,
        shared: &Shared,
        out: &mut Out,
    ) -> Poll<Result<(), Denied>> {
        loop {
            let waits = match self.take(cx, out) {
                Ok(waits) => waits,
                Err(denied) => {
                    // what came before is not kept back
                    let _as_far_as_it_goes = shared.poll_write(cx, out).is_ready();
                    return Poll::Ready(Err(denied));
                }
            };
            let written = if self.closes && self.body.is_none() {
                ready!(shared.poll_write_last(cx, out))
            } else {
                ready!(shared.poll_write(cx, out))
            };
            if let Err(error) = written {
                return Poll::Ready(Err(gone(&error)));
            }
            if self.body.is_none() {
                return Poll::Ready(Ok(()));
            }
            if waits {
                return Poll::Pending;
            }
        }
    }

    /// Takes what there is of the body: whether more has to be waited for.
    fn take(&mut self, cx: &mut Context<'_>, out: &mut Out) -> Result<bool, Denied> {
        while out.has_room()
            && let Some(body) = &mut self.body
        {
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(None) => self.end(out, None)?,
                Poll::Ready(Some(Err(error))) => {
                    self.body = None;
                    return Err(Denied::new(Denial::PeerReset, error.to_string()));
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        let last = body.is_end_stream();
                        if !last && is_last(&self.ending, &data) {
                            // its end may come by itself, and is asked for once
                            let _end = Pin::new(&mut *body).poll_frame(cx).is_ready();
                        }
                        self.data(data, last, out)?;
                    }
                    Err(frame) => {
                        let trailers = frame.into_trailers().ok().filter(|_| self.trailers);
                        self.end(out, trailers.as_ref())?;
                    }
                },
            }
        }
        Ok(false)
    }

    fn data(&mut self, mut data: Bytes, last: bool, out: &mut Out) -> Result<(), Denied> {
        if !data.is_empty() {
            match &mut self.ending {
                Ending::Sized(left) => {
                    data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left = left.saturating_sub(u64::try_from(data.len()).unwrap_or(u64::MAX));
                    out.part(data, b"");
                }
                Ending::Chunked(_) => {
                    write::chunk_size(out.front(), data.len());
                    out.part(data, CHUNK_END);
                }
                Ending::Close => out.part(data, b""),
            }
        }
        if last || self.ending == Ending::Sized(0) {
            self.end(out, None)?;
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Out, trailers: Option<&HeaderMap>) -> Result<(), Denied> {
        self.body = None;
        match &self.ending {
            Ending::Sized(0) | Ending::Close => Ok(()),
            Ending::Sized(left) => Err(Denied::new(
                Denial::PeerReset,
                format!("the answer's body ended {left} bytes before its end"),
            )),
            Ending::Chunked(announced) => {
                if out.is_open() {
                    reply::last_chunk(out.front(), announced, trailers);
                } else {
                    out.end_part(CHUNKS_END);
                }
                Ok(())
            }
        }
    }
}

/// Whether a part is the last by the length that was announced.
fn is_last(ending: &Ending, data: &Bytes) -> bool {
    let n = u64::try_from(data.len()).unwrap_or(u64::MAX);
    matches!(ending, Ending::Sized(left) if *left <= n)
}
