//! The stream of an HTTP/1 connection, shared by the connection, the body of its request, and what
//! the connection may become. The body reads for itself, in whatever task it is asked; the
//! connection reads between bodies, and alone writes. At rest nothing is kept but the stream.

mod body;
mod switched;

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use http::HeaderMap;
use tokio::task::coop::has_budget_remaining;

pub(crate) use self::{body::Http1Body, switched::Switched};
use super::{
    super::{body::BodyError, errors, io::ClientIo},
    coming::{Coming, Part},
    out::Out,
};
use crate::{
    admit::{Denial, Denied},
    wire::framing::{Arrived, Fault, Head, Length},
};

/// So many parts of a body that nobody reads are read away, where they have come.
const DRAINED: usize = 4;

/// The stream, and how far the request under way has come.
pub(crate) struct Shared {
    inner: Mutex<Inner>,
}

struct Inner {
    /// `None`: the connection is over.
    io: Option<Box<ClientIo>>,
    /// The beginning of a head, or of a line, whose rest has not come.
    held: Vec<u8>,
    body: Coming,
    /// The number of the request under way: a body that outlives its own reads no other's.
    turn: u64,
    /// Somebody may still read the body.
    has_reader: bool,
    /// Who waits for more of it, in whatever task.
    reader: Option<Waker>,
    /// The client waits to be told to go on.
    expects: bool,
    /// It is to be told.
    asked: bool,
    /// The next request has begun to come.
    ahead: bool,
    /// The connection's task.
    task: Option<Waker>,
    becomes: Becomes,
}

/// What becomes of the connection.
enum Becomes {
    /// Nothing else; who waits for it.
    Same(Option<Waker>),
    /// The bytes are another protocol's.
    Other,
}

/// What came in place of a request, or it.
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart where it comes from"
)]
pub(super) enum Came {
    Request(Arrived),
    /// The client has ended, or is to hear no more.
    End,
    Refused(Fault),
}

/// What is used again from request to request.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) head: Head,
    pub(super) spare: HeaderMap,
}

fn over() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the connection is over")
}

impl Inner {
    fn io(&mut self) -> io::Result<&mut ClientIo> {
        self.io.as_deref_mut().ok_or_else(over)
    }

    /// The connection's task looks again, unless it is the one that asks.
    fn wake(&self, cx: Option<&Context<'_>>) {
        let task = self.task.as_ref();
        let own = |task: &&Waker| cx.is_some_and(|cx| task.will_wake(cx.waker()));
        if let Some(task) = task.filter(|task| !own(task)) {
            task.wake_by_ref();
        }
    }

    /// The body's next part, without a word to the client.
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Part>, BodyError>> {
        let Some(io) = self.io.as_deref_mut() else {
            return Poll::Ready(Err(BodyError::Unfinished));
        };
        let part = ready!(self.body.poll(cx, io, &mut self.held));
        if let Err(error) = &part {
            self.body = Coming::Broken;
            if let BodyError::Framing(fault) = error {
                io.activity().refused(&errors::misframed(*fault));
            }
        }
        if !self.body.is_coming() {
            self.held = Vec::new();
            self.wake(Some(cx));
        }
        Poll::Ready(part)
    }

    /// Whether something of the body has still to come, or to be handed on.
    fn is_unsettled(&self) -> bool {
        self.body.is_coming() || self.has_reader && matches!(self.body, Coming::Trailers(_))
    }

    /// Nothing more of the body will be read; whoever waits for it is told.
    fn give_up_body(&mut self) {
        self.body = Coming::Broken;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Reads away what has come of a body that nobody reads.
    fn drain(&mut self, cx: &mut Context<'_>) {
        if self.has_reader {
            return;
        }
        for _ in 0..DRAINED {
            if !self.body.is_coming() || !matches!(self.poll_part(cx), Poll::Ready(Ok(Some(_)))) {
                break;
            }
        }
    }
}

impl Shared {
    pub(super) fn new(io: Box<ClientIo>) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                io: Some(io),
                held: Vec::new(),
                body: Coming::Whole,
                turn: 0,
                has_reader: false,
                reader: None,
                expects: false,
                asked: false,
                ahead: false,
                task: None,
                becomes: Becomes::Same(None),
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is something to read, or the client has ended: a read tells.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        match inner.io() {
            // what breaks here breaks the read as well
            Ok(io) => io.poll_fill(cx).map(|_read_later| ()),
            Err(_over) => Poll::Ready(()),
        }
    }

    /// Reads the next head. `finish`: a request that has not begun to come is not waited for; one
    /// that has is answered.
    pub(super) fn poll_head(
        &self,
        cx: &mut Context<'_>,
        reader: &mut Reader,
        limit: usize,
        finish: bool,
    ) -> Poll<Came> {
        let mut inner = self.lock();
        let Inner { io, held, .. } = &mut *inner;
        let Some(io) = io.as_deref_mut() else {
            return Poll::Ready(Came::End);
        };
        loop {
            let came = match io.poll_fill(cx) {
                // a task that has done much is told to wait, though there may be more
                Poll::Pending if finish && held.is_empty() && has_budget_remaining() => {
                    return Poll::Ready(Came::End);
                }
                Poll::Pending => {
                    io.activity().waits(held.is_empty());
                    return Poll::Pending;
                }
                Poll::Ready(Ok(came)) if !came.is_empty() => came,
                // one that breaks between requests has ended
                Poll::Ready(_) => {
                    io.activity().waits(false);
                    return Poll::Ready(Came::End);
                }
            };
            let (before, all) = (held.len(), came.len());
            if before > 0 {
                held.extend_from_slice(came);
            }
            let bytes = if before > 0 { held.as_slice() } else { came };
            let head = &mut reader.head;
            let read = head.read(bytes, limit).and_then(|end| {
                let Some(end) = end else {
                    return Ok(None);
                };
                let spare = std::mem::take(&mut reader.spare);
                let arrived = head.take(bytes.get(..end).unwrap_or_default(), spare)?;
                Ok(Some((end, arrived)))
            });
            if before == 0 && matches!(read, Ok(None)) {
                held.extend_from_slice(came);
            }
            io.activity().waits(false);
            io.activity().head_comes();
            match read {
                Ok(Some((end, arrived))) => {
                    io.consume(end.saturating_sub(before));
                    *held = Vec::new();
                    return Poll::Ready(Came::Request(arrived));
                }
                Ok(None) => io.consume(all),
                Err(fault) => {
                    io.consume(all);
                    return Poll::Ready(Came::Refused(fault));
                }
            }
        }
    }

    /// A request has come, whose body ends like this.
    pub(super) fn begin(self: &Arc<Self>, length: Length, expects: bool) -> Option<Http1Body> {
        let mut inner = self.lock();
        inner.body = Coming::new(length);
        inner.turn = inner.turn.wrapping_add(1);
        inner.has_reader = inner.body.is_coming();
        inner.reader = None;
        inner.expects = expects;
        (inner.asked, inner.ahead) = (false, false);
        let turn = inner.turn;
        inner
            .has_reader
            .then(|| Http1Body::new(Arc::clone(self), turn, length))
    }

    /// What goes on beside a request: the client is told to go on, and whether it leaves is seen.
    /// `begun`: its answer has begun, and nothing may stand in front of that.
    pub(super) fn poll_beside(
        &self,
        cx: &mut Context<'_>,
        out: &mut Out,
        begun: bool,
    ) -> Poll<Denied> {
        let mut inner = self.lock();
        if !inner.task.as_ref().is_some_and(|t| t.will_wake(cx.waker())) {
            inner.task = Some(cx.waker().clone());
        }
        if std::mem::take(&mut inner.asked) && !begun {
            out.front()
                .extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        let Inner {
            io,
            body,
            ahead,
            expects,
            ..
        } = &mut *inner;
        let Some(io) = io.as_deref_mut() else {
            return Poll::Ready(gone(&over()));
        };
        if !begun
            && !out.is_empty()
            && let Poll::Ready(Err(error)) = out.poll_write(cx, io)
        {
            return Poll::Ready(gone(&error));
        }
        // nobody reads a body that the client waits to be asked for
        let read = body.is_coming() && !*expects;
        if *ahead || read || matches!(body, Coming::Broken) {
            return Poll::Pending;
        }
        match io.poll_fill(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(came)) if !came.is_empty() => {
                *ahead = !body.is_coming();
                Poll::Pending
            }
            Poll::Ready(Ok(_)) => Poll::Ready(Denied::new(
                Denial::PeerReset,
                "the client ended before its answer did",
            )),
            Poll::Ready(Err(error)) => Poll::Ready(gone(&error)),
        }
    }

    /// An answer begins: whether another request may follow.
    pub(super) fn answer_begins(&self, cx: &mut Context<'_>) -> bool {
        let mut inner = self.lock();
        inner.drain(cx);
        if inner.expects && inner.body.is_coming() {
            // a client that was not asked may leave its body out, and another may not
            return false;
        }
        // whoever still reads may come to its end
        !inner.body.is_coming() && !matches!(inner.body, Coming::Broken) || inner.has_reader
    }

    /// An answer has been written: whether another request may follow, once that is known.
    pub(super) fn poll_settled(&self, cx: &mut Context<'_>, finish: bool) -> Poll<bool> {
        let mut inner = self.lock();
        inner.drain(cx);
        if matches!(inner.body, Coming::Broken) {
            return Poll::Ready(false);
        }
        if inner.is_unsettled() {
            if inner.has_reader && !finish {
                inner.task = Some(cx.waker().clone());
                return Poll::Pending;
            }
            return Poll::Ready(false);
        }
        if let Ok(io) = inner.io() {
            io.activity().read_whole();
        }
        Poll::Ready(true)
    }

    pub(super) fn poll_write(&self, cx: &mut Context<'_>, out: &mut Out) -> Poll<io::Result<()>> {
        out.poll_write(cx, self.lock().io()?)
    }

    /// The same with the last there is: a close follows at once, and takes it along.
    pub(super) fn poll_write_last(
        &self,
        cx: &mut Context<'_>,
        out: &mut Out,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        let io = inner.io()?;
        io.hold();
        out.poll_hand_over(cx, io)
    }

    /// Closes it; `last` is said before, in place of an answer.
    pub(super) fn poll_close(
        &self,
        cx: &mut Context<'_>,
        last: Option<&Denied>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        if inner.body.is_coming() {
            inner.give_up_body();
            inner.io()?.activity().left_unread();
        }
        inner.io()?.poll_close(cx, last)
    }

    /// Its end is that of what is under way, and that has not come to it: a reset tells.
    pub(super) fn abort(&self) {
        if let Ok(io) = self.lock().io() {
            io.abort();
        }
    }

    /// The bytes are another protocol's from here on, if all of the request has come.
    pub(super) fn switch(&self) -> bool {
        let mut inner = self.lock();
        if inner.body.is_coming() || matches!(inner.body, Coming::Broken) {
            return false;
        }
        if let Becomes::Same(Some(waiting)) = std::mem::replace(&mut inner.becomes, Becomes::Other)
        {
            waiting.wake();
        }
        true
    }

    /// The connection is over, unless it has become another: its stream, which nobody else sees
    /// any more.
    pub(super) fn end(&self) -> Option<Box<ClientIo>> {
        let mut inner = self.lock();
        inner.task = None;
        let Becomes::Same(waiting) = &mut inner.becomes else {
            return None;
        };
        if let Some(waiting) = waiting.take() {
            waiting.wake();
        }
        inner.give_up_body();
        inner.io.take()
    }

    /// What the connection has become, once it has.
    pub(crate) fn poll_switched(self: &Arc<Self>, cx: &mut Context<'_>) -> Poll<Option<Switched>> {
        let mut inner = self.lock();
        let is_over = inner.io.is_none();
        match &mut inner.becomes {
            Becomes::Other => Poll::Ready(Some(Switched::new(Arc::clone(self)))),
            Becomes::Same(_) if is_over => Poll::Ready(None),
            Becomes::Same(waiting) => {
                *waiting = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Why a connection is given up that broke.
pub(super) fn gone(error: &io::Error) -> Denied {
    Denied::new(Denial::PeerReset, error.to_string())
}
