//! A connection's bytes, as tokio reads and writes them.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustls::{AlertDescription, Error};
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    HEADER, MAX_CONTENT, OVERHEAD, TAG,
    buffers::{Input, Output},
    error::{alert_for, broken, truncated},
    session::{ALERT_RECORD, KEY_UPDATE_RECORD, Opened, REST, Session, record_len},
    slices::Slices,
};
use crate::net::{Buffered, WriteLast};

/// Where records begin that are put together from several slices: a copy that lands a few octets
/// above its source modulo a page is slow (see `net/pool.rs`).
const APART: usize = 64;

/// A way of writing to the socket.
type Write<IO> = fn(Pin<&mut IO>, &mut Context<'_>, &[u8]) -> Poll<io::Result<usize>>;

/// A TLS 1.3 connection after its handshake.
pub struct RecordStream<IO> {
    io: IO,
    pub(super) session: Session,
    pub(super) input: Option<Input>,
    /// The beginning of a record whose rest has not come; what came with the handshake, until it is
    /// asked for: a way to the backend may have to be opened first.
    pub(super) tail: Box<[u8]>,
    pub(super) output: Option<Output>,
    unsent: Option<Box<Unsent>>,
    /// What is written stays until it is flushed, or the end goes with it.
    hold: bool,
    /// What is sealed goes out as reads wait: nobody else sees to it.
    by_reads: bool,
    /// What the peer sent is broken.
    failed: Option<Box<Error>>,
    /// The peer said that it sends no more.
    closed: bool,
    /// close_notify or an alert is sealed: nothing may follow.
    ended: bool,
}

/// The handshake's last words, which go out with what is written first.
struct Unsent {
    octets: Vec<u8>,
    /// Since when a read waits for more meanwhile.
    waits: Option<Instant>,
}

impl<IO> std::fmt::Debug for RecordStream<IO> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordStream")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl<IO> RecordStream<IO> {
    /// `rest` has been read and is not opened; behind it comes what `io` has buffered.
    pub(super) fn new(io: Buffered<IO>, mut rest: Vec<u8>, session: Session) -> Self {
        let io = io.into_inner(&mut rest);
        Self {
            io,
            session,
            input: None,
            // whole records may be among it: they are opened before the socket is asked
            tail: rest.into(),
            output: None,
            unsent: None,
            hold: false,
            by_reads: false,
            failed: None,
            closed: false,
            ended: false,
        }
    }

    /// Puts the handshake's last words in front of all that is written.
    pub(super) fn behind(mut self, octets: Vec<u8>) -> Self {
        let waits = None;
        self.unsent = (!octets.is_empty()).then(|| Box::new(Unsent { octets, waits }));
        self
    }

    /// What is written from now on may wait for the end, which then goes out with it.
    pub fn hold(&mut self) {
        self.hold = true;
    }

    /// The socket.
    pub fn io(&self) -> &IO {
        &self.io
    }

    /// The socket; what is read from it is missing here.
    pub fn io_mut(&mut self) -> &mut IO {
        &mut self.io
    }

    /// Whether nothing more can be read: the peer has ended, or is not to be believed.
    fn is_over(&self) -> io::Result<bool> {
        match &self.failed {
            Some(error) => Err(broken(Error::clone(error))),
            None => Ok(self.closed),
        }
    }

    /// Gives the reader what is opened.
    fn deliver(&mut self, buf: &mut ReadBuf<'_>) {
        let Some(input) = &mut self.input else {
            return;
        };
        let plain = input.plain();
        let n = plain.len().min(buf.remaining());
        buf.put_slice(plain.get(..n).unwrap_or_default());
        input.take(n);
        if input.is_empty() {
            self.input = None;
        }
    }

    /// Opens the next record, if it is there.
    fn open(&mut self, buf: &mut ReadBuf<'_>) -> Result<bool, Error> {
        if self.input.is_none() && record_len(&self.tail)?.is_some_and(|len| len <= self.tail.len())
        {
            self.input = Some(Input::resume(&std::mem::take(&mut self.tail)));
        }
        let Some(input) = &mut self.input else {
            return Ok(false);
        };
        let closed = input.closed();
        let len = match record_len(closed)? {
            Some(len) if len <= closed.len() => len,
            _ => return Ok(false),
        };
        let payload = input.payload_mut(HEADER, len);
        let inner = payload.len().saturating_sub(TAG);
        let direct = (1..=buf.remaining()).contains(&inner);
        let opened = if direct {
            self.session
                .open_into(payload, buf.initialize_unfilled_to(inner))
        } else {
            self.session.open(payload)
        };
        let content = match opened? {
            Opened::Data(n) if direct => {
                buf.advance(n);
                0
            }
            Opened::Data(n) => n,
            Opened::Nothing => 0,
            Opened::Closed => {
                self.closed = true;
                self.input = None;
                return Ok(true);
            }
        };
        input.advance(len, HEADER, content);
        if input.is_empty() {
            self.input = None;
        }
        Ok(true)
    }

    fn alert(&mut self, description: AlertDescription) -> Result<(), Error> {
        self.ended = true;
        let output = begun(&mut self.output, &mut self.unsent, 0);
        // without room the socket has taken nothing for long
        let Some(record) = output.record(ALERT_RECORD) else {
            return Ok(());
        };
        let sealed = self.session.seal_alert(description, record);
        if sealed.is_err() {
            output.undo(ALERT_RECORD);
        }
        sealed
    }

    /// Whether it is to be sealed behind what is held back.
    fn fits(&self, bufs: &[IoSlice<'_>]) -> bool {
        let len = Slices::new(bufs).left();
        let needed = len.saturating_add(2 * OVERHEAD + KEY_UPDATE_RECORD + ALERT_RECORD);
        let output = self.output.as_ref().filter(|_| self.hold);
        len <= MAX_CONTENT && output.is_some_and(|output| needed <= output.room())
    }

    /// Seals what fits, at least an octet: behind what is held back, or from the beginning.
    fn seal(&mut self, bufs: &[IoSlice<'_>]) -> Result<usize, Error> {
        let mut slices = Slices::new(bufs);
        let apart = if slices.is_one() { 0 } else { APART };
        let output = begun(&mut self.output, &mut self.unsent, apart);
        if self.session.update_due()
            && let Some(record) = output.record(KEY_UPDATE_RECORD)
        {
            self.session.seal_update(record)?;
        }
        let mut taken = 0usize;
        loop {
            // an alert always finds room behind it
            let room = output.room().saturating_sub(OVERHEAD + ALERT_RECORD);
            let n = slices.left().min(MAX_CONTENT).min(room);
            let len = n.saturating_add(OVERHEAD);
            if n == 0 {
                return Ok(taken);
            }
            let Some(record) = output.record(len) else {
                return Ok(taken);
            };
            if let Some(data) = slices.whole(n) {
                self.session.seal_from(data, record)?;
            } else {
                let place = record.get_mut(HEADER..HEADER.saturating_add(n));
                slices.copy(place.unwrap_or_default());
                self.session.seal(record)?;
            }
            taken = taken.saturating_add(n);
        }
    }
}

/// Where the next record is sealed: behind the handshake's last words, where they are still there,
/// and `apart` from the page's beginning.
fn begun<'a>(
    output: &'a mut Option<Output>,
    unsent: &mut Option<Box<Unsent>>,
    apart: usize,
) -> &'a mut Output {
    output.get_or_insert_with(|| {
        let mut output = Output::new(apart);
        if let Some(Unsent { octets, .. }) = unsent.take().as_deref()
            && let Some(place) = output.record(octets.len())
        {
            place.copy_from_slice(octets);
        }
        output
    })
}

impl<IO: AsyncRead + AsyncWrite + Unpin> RecordStream<IO> {
    /// Reads more; what is borrowed goes back if nothing is there.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut input = self
            .input
            .take()
            .unwrap_or_else(|| Input::resume(&std::mem::take(&mut self.tail)));
        let mut space = ReadBuf::new(input.room());
        let read = Pin::new(&mut self.io).poll_read(cx, &mut space);
        let n = space.filled().len();
        if n > 0 {
            input.filled(n);
            self.input = Some(input);
        } else if !input.closed().is_empty() {
            self.tail = input.closed().into();
        }
        if read.is_pending() {
            self.pause(cx);
        }
        ready!(read)?;
        if n == 0 {
            return Poll::Ready(Err(truncated()));
        }
        Poll::Ready(Ok(()))
    }

    /// A read waits. What is held back goes out: the other end may wait for it.
    fn pause(&mut self, cx: &mut Context<'_>) {
        if self.hold && self.output.is_some() || self.is_due() {
            begun(&mut self.output, &mut self.unsent, 0);
            (self.hold, self.by_reads) = (false, true);
        }
        // whoever writes next hears of what fails here
        if self.by_reads && self.poll_drain(cx).is_ready() {
            self.by_reads = false;
        }
        if self.output.is_none() {
            self.session.pause();
        }
    }

    /// Whether the handshake's last words must go by themselves. A server's are a ticket, which a
    /// client that has asked for something gets with the answer, unless that takes its time.
    fn is_due(&mut self) -> bool {
        let Some(unsent) = &mut self.unsent else {
            return false;
        };
        if !self.session.is_asked() {
            return true;
        }
        let now = Instant::now();
        let since = *unsent.waits.get_or_insert(now);
        now.saturating_duration_since(since) >= Duration::from_millis(REST.into())
    }

    /// Writes what is sealed.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain_with(cx, IO::poll_write)
    }

    /// The same by one way of writing or another.
    fn poll_drain_with(&mut self, cx: &mut Context<'_>, write: Write<IO>) -> Poll<io::Result<()>> {
        while let Some(output) = &mut self.output {
            let waiting = output.waiting();
            if waiting.is_empty() {
                self.output = None;
                break;
            }
            match ready!(write(Pin::new(&mut self.io), cx, waiting))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => output.sent(n),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Gives the connection up, and tells the peer why.
    fn fail(&mut self, cx: &mut Context<'_>, error: Error) {
        (self.input, self.tail) = (None, Box::default());
        if !self.ended
            && let Some(description) = alert_for(&error)
            && self.alert(description).is_ok()
        {
            // what it does not take now, a shutdown may still bring
            let _tried = self.poll_drain(cx);
        }
        self.ended = true;
        self.failed = Some(Box::new(error));
    }

    fn poll_seal(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.by_reads = false;
        if !self.fits(bufs) {
            // who writes waits for the socket now: a read that waits too must not take its wake
            let held = std::mem::take(&mut self.hold);
            ready!(self.poll_drain(cx))?;
            self.hold = held;
        }
        if self.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if bufs.iter().all(|buf| buf.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        let n = match self.seal(bufs) {
            Ok(n) => n,
            Err(error) => {
                // half a record must not go out, and nothing may go out behind its gap
                (self.output, self.ended) = (None, true);
                return Poll::Ready(Err(broken(error)));
            }
        };
        if self.hold {
            return Poll::Ready(Ok(n));
        }
        // what is sealed is taken, whether the socket takes it now or later
        match self.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(n)),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for RecordStream<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        loop {
            this.deliver(buf);
            if buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let some = buf.filled().len() > before;
            match this.is_over() {
                Ok(false) => {}
                _ if some => return Poll::Ready(Ok(())),
                over => return Poll::Ready(over.map(drop)),
            }
            match this.open(buf) {
                Ok(true) => {}
                Ok(false) if some => return Poll::Ready(Ok(())),
                Ok(false) => ready!(this.poll_fill(cx))?,
                Err(error) => this.fail(cx, error),
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncBufRead for RecordStream<IO> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        while this
            .input
            .as_ref()
            .is_none_or(|input| input.plain().is_empty())
        {
            if this.is_over()? {
                break;
            }
            // without room elsewhere a record is opened where it is
            match this.open(&mut ReadBuf::new(&mut [])) {
                Ok(true) => {}
                Ok(false) => ready!(this.poll_fill(cx))?,
                Err(error) => this.fail(cx, error),
            }
        }
        Poll::Ready(Ok(this
            .input
            .as_ref()
            .map(Input::plain)
            .unwrap_or_default()))
    }

    fn consume(self: Pin<&mut Self>, amt: usize) {
        let this = self.get_mut();
        if let Some(input) = &mut this.input {
            input.take(amt);
            if input.is_empty() {
                this.input = None;
            }
        }
    }
}

impl<IO: AsyncRead + WriteLast + Unpin> AsyncWrite for RecordStream<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_seal(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_seal(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        (this.hold, this.by_reads) = (false, false);
        if this.unsent.is_some() {
            begun(&mut this.output, &mut this.unsent, 0);
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    /// Says close_notify, and half-closes the socket. What the peer sends can still be read.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        (this.hold, this.by_reads) = (false, false);
        if !this.ended {
            // it goes out with what is there
            this.alert(AlertDescription::CloseNotify).map_err(broken)?;
        }
        ready!(this.poll_drain_with(cx, IO::poll_write_last))?;
        match ready!(Pin::new(&mut this.io).poll_shutdown(cx)) {
            // the other side has gone already
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}
