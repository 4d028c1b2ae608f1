//! A request on its way out: its head and what is there of its body in one write, the rest as the
//! next hop takes it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, Request, header, request::Parts};
use http_body::{Body as _, Frame};
use tokio::io::AsyncWrite as _;

use super::{HopError, Io};
use crate::{
    admit::Denied,
    serve::http::{body::RequestBody, client::SendFailed, gather::Gather},
    wire::http1::{
        request::{Coding, announced, write_head},
        write::{self, CHUNK_END, CHUNKS_END, LAST_CHUNK},
    },
};

/// What stands in one record of TLS: a write that fails has brought no more than a part of one,
/// and nobody reads that.
const RECORD: usize = 16 << 10;

/// A request as far as it is sent.
pub(super) struct Outgoing {
    parts: Parts,
    body: RequestBody,
    /// `None`: the head waits for the body to show whether it is one.
    coding: Option<Coding>,
    /// Trailers that may follow.
    announced: Vec<HeaderName>,
    /// The head, chunks, trailers.
    gather: Gather,
    /// The body was looked at before the head is written.
    looked: bool,
    /// All of the body is taken.
    ended: bool,
    /// The body gave something.
    used: bool,
    /// A byte may have gone out.
    touched: bool,
    /// Something is written and may not have gone out.
    unflushed: bool,
    done: bool,
}

impl Outgoing {
    pub(super) fn new(request: Request<RequestBody>) -> Self {
        let (parts, body) = request.into_parts();
        let mut outgoing = Self {
            coding: None,
            announced: Vec::new(),
            gather: Gather::default(),
            looked: false,
            ended: body.is_end_stream(),
            used: false,
            touched: false,
            unflushed: false,
            done: false,
            parts,
            body,
        };
        if let Some(coding) = outgoing.known() {
            outgoing.begin(coding);
        }
        outgoing
    }

    /// How the body is to be written, where that is known before any of it is there.
    fn known(&self) -> Option<Coding> {
        let stated = self.parts.headers.get(header::CONTENT_LENGTH);
        let stated = stated.map(|text| text.to_str().ok().and_then(|text| text.parse().ok()));
        if self.ended {
            // a length of nothing is passed on as it came; any other is no body's
            return Some(match stated {
                Some(_) => Coding::Sized(0),
                None => Coding::Absent,
            });
        }
        if let Some(length) = stated.flatten().or_else(|| self.body.size_hint().exact()) {
            return Some(Coding::Sized(length));
        }
        // who opens a stream of HTTP/2 for one of these mostly closes it without a body, and many
        // a backend refuses chunks there
        let seldom = matches!(self.parts.method, Method::GET | Method::HEAD);
        let waits = seldom && !self.parts.headers.contains_key(header::EXPECT);
        (!waits).then_some(Coding::Chunked)
    }

    fn begin(&mut self, coding: Coding) {
        let parts = &self.parts;
        if coding == Coding::Chunked && parts.headers.contains_key(header::TRAILER) {
            self.announced = announced(&parts.headers);
        }
        // most heads fit, with what was added here to what came
        let front = self.gather.front();
        front.reserve(1 << 10);
        write_head(front, &parts.method, &parts.uri, &parts.headers, coding);
        self.coding = Some(coding);
    }

    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether its body waits to be asked for.
    pub(super) fn is_held(&self) -> bool {
        self.body.is_held()
    }

    pub(super) fn is_touched(&self) -> bool {
        self.touched
    }

    /// Whether a part of it may be all that comes of it.
    pub(super) fn is_cut(&self) -> bool {
        self.touched && !self.done
    }

    /// There is no answer to it: what is left of the request.
    pub(super) fn failed(self, denied: Denied) -> SendFailed {
        // a request without fields is none that was sent: their table became an answer's
        let had_fields = !self.parts.headers.is_empty();
        let had_no_body = self.ended && !self.looked;
        let is_unsent = !self.touched && !self.used;
        let may_repeat = had_fields && had_no_body && self.parts.method.is_safe();
        let request =
            (is_unsent || may_repeat).then(|| Box::new(Request::from_parts(self.parts, self.body)));
        let (unsent, repeatable) = match is_unsent {
            true => (request, None),
            false => (None, request),
        };
        SendFailed {
            denied,
            unsent,
            repeatable,
        }
    }

    /// The table of its fields, once it is sent: it is good for the answer's.
    pub(super) fn table(&mut self) -> Option<&mut HeaderMap> {
        self.done.then_some(&mut self.parts.headers)
    }

    /// Sends on: ready once everything has gone out.
    pub(super) fn poll(
        &mut self,
        io: &mut Box<dyn Io>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), HopError>> {
        while !self.done {
            // a short body goes out with its head
            if !self.ended && (!self.looked || !self.has_more()) {
                self.looked = true;
                match self.poll_body(cx)? {
                    Poll::Ready(()) => continue,
                    Poll::Pending if self.has_more() => {}
                    Poll::Pending => {
                        ready!(self.poll_flush(io, cx))?;
                        return Poll::Pending;
                    }
                }
            }
            if self.has_more() {
                ready!(self.poll_write(io, cx))?;
            } else {
                ready!(self.poll_flush(io, cx))?;
                self.done = self.ended;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn has_more(&self) -> bool {
        !self.gather.is_empty()
    }

    /// Takes the body's next part.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, HopError> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            return Ok(Poll::Pending);
        };
        match frame {
            None => self.end(false)?,
            Some(frame) => {
                self.used = true;
                self.take(frame?)?;
            }
        }
        Ok(Poll::Ready(()))
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<(), HopError> {
        if self.coding.is_none() {
            // nothing yet
            if frame.data_ref().is_some_and(Bytes::is_empty) {
                return match self.body.is_end_stream() {
                    true => self.end(false),
                    false => Ok(()),
                };
            }
            self.begin(Coding::Chunked);
        }
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                if let (Ok(trailers), Some(Coding::Chunked)) = (frame.into_trailers(), self.coding)
                {
                    // what may not pass was taken out of them
                    write::last_chunk(
                        self.gather.front(),
                        &self.announced,
                        Some(&trailers),
                        |_| true,
                    );
                    self.ended = true;
                    return Ok(());
                }
                return self.end(false);
            }
        };
        let last = self.body.is_end_stream();
        // a chunk without octets would be the last
        if !data.is_empty() {
            let tail = match &mut self.coding {
                Some(Coding::Sized(left)) => {
                    let len = u64::try_from(data.len()).unwrap_or(u64::MAX);
                    *left = left.checked_sub(len).ok_or(HopError::Length)?;
                    b"".as_slice()
                }
                Some(Coding::Chunked) => {
                    write::chunk_size(self.gather.front(), data.len());
                    CHUNK_END
                }
                Some(Coding::Absent) | None => return Err(HopError::Length),
            };
            self.gather.part(data, tail);
        }
        if last { self.end(true) } else { Ok(()) }
    }

    /// The body has ended, behind `data` perhaps.
    fn end(&mut self, behind: bool) -> Result<(), HopError> {
        match self.coding {
            None => self.begin(Coding::Absent),
            Some(Coding::Sized(0) | Coding::Absent) => {}
            Some(Coding::Sized(_)) => return Err(HopError::Length),
            Some(Coding::Chunked) if behind && !self.gather.is_open() => {
                self.gather.end_part(CHUNKS_END);
            }
            Some(Coding::Chunked) => {
                self.gather.front().extend_from_slice(LAST_CHUNK);
            }
        }
        self.ended = true;
        Ok(())
    }

    fn poll_write(
        &mut self,
        io: &mut Box<dyn Io>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), HopError>> {
        let whole = self.gather.left();
        if let Err(error) = ready!(self.gather.poll_write(cx, io)) {
            self.touched |= whole > RECORD || error.kind() == io::ErrorKind::WriteZero;
            return Poll::Ready(Err(HopError::Io(error)));
        }
        (self.touched, self.unflushed) = (true, true);
        Poll::Ready(Ok(()))
    }

    fn poll_flush(
        &mut self,
        io: &mut Box<dyn Io>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), HopError>> {
        if self.unflushed {
            ready!(Pin::new(io).poll_flush(cx)).map_err(HopError::Io)?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}
