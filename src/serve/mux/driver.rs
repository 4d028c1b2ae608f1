//! The task that owns a link's connection: writes frames of all streams in turn, hands on those
//! that come, and ends a link whose other end is silent, takes nothing, or breaks the rules.

use std::{
    collections::VecDeque,
    future::{Future as _, poll_fn},
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::{FAREWELL, Link, Stream, company::Company, incoming::Incoming};
use crate::{
    admit::{Denial, Denied},
    net::{Octets, PIECE},
    wire::{
        link::Open,
        mux::{Event, Header, Kind, Payload as _, Piece, Side, Violation},
    },
};

/// Octets of all streams that are taken for one turn of writing.
const BATCH: usize = PIECE;
/// Pieces of one write.
const SLICES: usize = 16;
/// Frames of one turn of reading, and turns before other tasks have theirs.
const FRAMES: usize = 64;
const ROUNDS: usize = 16;
/// A link that is silent for so long is asked; one that does not answer for as long is dead.
const SILENCE: Duration = Duration::from_secs(15);
/// An end that takes nothing for so long is gone.
const STALLED: Duration = Duration::from_secs(30);
/// Deadlines are met to within this.
const TICK: Duration = Duration::from_secs(1);

/// A gateway's link that carried no stream for so long after it was opened will not: sooner than the
/// acceptor asks what it is for.
const UNUSED: Duration = Duration::from_secs(2);

/// Deadlines of a link.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For the first stream; `None`: there may be none.
    pub first: Option<Duration>,
    /// How long it is kept without a stream.
    pub idle: Duration,
}

/// A link's connection.
pub struct Driver<S> {
    io: S,
    link: Link,
    side: Side,
    limits: Limits,
    /// Makes the close a reset.
    abort: fn(&S),
    incoming: Incoming,
    out: VecDeque<Piece<Octets>>,
    /// Octets of the first piece that are written.
    written: usize,
    unflushed: bool,
    /// Nothing is read while answers wait.
    congested: bool,
    woken: Vec<Waker>,
    began: Instant,
    heard: Instant,
    asked: Option<Instant>,
    stalled: Option<Instant>,
    /// When streams that nobody wants were last given up.
    gave_up: Instant,
    /// The latest stream, when it was last looked at.
    latest: u32,
    /// Since when there is no stream.
    empty: Option<Instant>,
    /// There was one.
    used: bool,
    company: Company,
    /// The last stream has ended, and no other begins.
    done: bool,
    /// Since when that is so at an acceptor.
    parting: Option<Instant>,
    /// The close is to be seen as one.
    orderly: bool,
    timer: Pin<Box<Sleep>>,
}

/// How a link ends.
enum Over {
    /// The last stream has ended, and no other begins.
    Done,
    /// The other end has closed it, and lost nothing by it.
    Left,
    Broken(Denied),
    /// The other end is told why.
    Refused(Denied),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Takes a connection whose other end is in.
    pub fn new(io: S, link: Link, side: Side, limits: Limits, abort: fn(&S)) -> Self {
        let now = Instant::now();
        Self {
            io,
            link,
            side,
            limits,
            abort,
            incoming: Incoming::next(),
            out: VecDeque::new(),
            written: 0,
            unflushed: false,
            congested: false,
            woken: Vec::new(),
            began: now,
            heard: now,
            asked: None,
            stalled: None,
            gave_up: now,
            latest: 0,
            empty: Some(now),
            used: false,
            company: Company::new(now),
            done: false,
            parting: None,
            orderly: false,
            timer: Box::pin(sleep_until(now)),
        }
    }

    /// Carries streams until the link ends; why, if not as it should. `opened` gets each stream
    /// that the other end opens.
    pub async fn run(mut self, mut opened: impl FnMut(Stream, Open)) -> Option<Denied> {
        let over = poll_fn(|cx| self.poll(cx, &mut opened)).await;
        match over {
            Over::Done | Over::Left => {
                self.orderly = true;
                self.link.end(self.broken("the link was closed"));
                drop(tokio::time::timeout(FAREWELL, self.io.shutdown()).await);
                None
            }
            Over::Broken(why) => {
                self.link.end(why.clone());
                Some(why)
            }
            Over::Refused(why) => {
                self.orderly = true;
                self.link.cut(why.clone());
                drop(tokio::time::timeout(FAREWELL, self.last_word(why.reason)).await);
                Some(why)
            }
        }
    }

    /// Ends the frame that is under way, and says why the link ends.
    async fn last_word(&mut self, reason: Denial) -> io::Result<()> {
        let code = reason.code().as_bytes();
        let header = Header {
            kind: Kind::Refused,
            len: code.len(),
            stream: 0,
        };
        self.out
            .push_back(Piece::Bytes([&header.bytes(), code].concat()));
        for piece in std::mem::take(&mut self.out) {
            let bytes = of(&piece).get(self.written..).unwrap_or_default();
            self.io.write_all(bytes).await?;
            self.written = 0;
        }
        self.io.shutdown().await
    }

    fn poll(&mut self, cx: &mut Context<'_>, opened: &mut impl FnMut(Stream, Open)) -> Poll<Over> {
        for _ in 0..ROUNDS {
            let turn = self.write(cx).and_then(|()| self.read(cx, opened));
            self.woken.drain(..).for_each(Waker::wake);
            match turn {
                Err(over) => return Poll::Ready(over),
                Ok(true) => {}
                Ok(false) if self.is_late(cx) => {}
                Ok(false) => return self.watch(cx),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether what waited for company goes without now.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let late = self.company.poll_late(cx).is_ready();
        if late && self.link.lock().mux.call_later() {
            self.company.wait();
        }
        late
    }

    /// Writes what there is, as far as it is taken.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Over> {
        loop {
            if self.out.is_empty() && self.collect(cx) {
                break;
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut skip = self.written;
            for (slice, piece) in slices.iter_mut().zip(&self.out) {
                *slice = IoSlice::new(of(piece).get(skip..).unwrap_or_default());
                skip = 0;
            }
            let some = slices.get(..self.out.len()).unwrap_or(&slices);
            match Pin::new(&mut self.io).poll_write_vectored(cx, some) {
                Poll::Pending => {
                    self.stalled.get_or_insert_with(Instant::now);
                    return Ok(());
                }
                Poll::Ready(Ok(0)) => return Err(self.failed(&io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => self.wrote(n),
                Poll::Ready(Err(error)) => return Err(self.failed(&error)),
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.io).poll_flush(cx) {
                Poll::Pending => {
                    self.stalled.get_or_insert_with(Instant::now);
                    return Ok(());
                }
                Poll::Ready(Ok(())) => (self.unflushed, self.stalled) = (false, None),
                Poll::Ready(Err(error)) => return Err(self.failed(&error)),
            }
        }
        // a gateway may have opened a stream before it heard that it may not: an acceptor answers
        // that, and lets the gateway close
        if self.done && self.side == Side::Gateway {
            return Err(Over::Done);
        }
        Ok(())
    }

    /// Takes what is to be written next; whether there is nothing, and the driver is woken when
    /// there is.
    fn collect(&mut self, cx: &Context<'_>) -> bool {
        let mut state = self.link.lock();
        state.mux.transmit(BATCH, &mut self.out);
        state.mux.woken(&mut self.woken);
        if self.out.is_empty() {
            let kept = state.driver.as_ref();
            if kept.is_none_or(|kept| !kept.will_wake(cx.waker())) {
                state.driver = Some(cx.waker().clone());
            }
            self.done = state.mux.is_leaving() && state.mux.live() == 0;
        }
        let later = state.mux.has_later();
        if !self.out.is_empty()
            && let Some(often) = self.company.came()
        {
            state.mux.set_busy(often);
        }
        drop(state);
        if later {
            self.company.wait();
        }
        self.congested = false;
        // who waits for room fills it while this is written
        self.woken.drain(..).for_each(Waker::wake);
        self.out.is_empty()
    }

    fn wrote(&mut self, mut n: usize) {
        (self.unflushed, self.stalled) = (true, None);
        while let Some(first) = self.out.front() {
            let left = of(first).len().saturating_sub(self.written);
            if n < left {
                self.written = self.written.saturating_add(n);
                return;
            }
            n = n.saturating_sub(left);
            self.written = 0;
            self.out.pop_front();
        }
    }

    /// Takes the frames that are there; whether there were any.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        opened: &mut impl FnMut(Stream, Open),
    ) -> Result<bool, Over> {
        let mut frames = 0;
        let mut progress = false;
        while frames < FRAMES && !self.congested {
            let (missing, have) = self.incoming.missing();
            if !missing.is_empty() {
                let mut buf = ReadBuf::new(missing);
                let read = Pin::new(&mut self.io).poll_read(cx, &mut buf);
                let n = buf.filled().len();
                *have = have.saturating_add(n);
                let whole = buf.remaining() == 0;
                match read {
                    Poll::Pending => break,
                    Poll::Ready(Err(error)) => return Err(self.failed(&error)),
                    Poll::Ready(Ok(())) if n == 0 => return Err(self.closed()),
                    Poll::Ready(Ok(())) => progress = true,
                }
                if !whole {
                    continue;
                }
            }
            frames += 1;
            self.whole(opened)?;
        }
        if progress {
            self.heard = Instant::now();
            self.asked = None;
        }
        // frames without octets take no read
        Ok(progress || frames > 0)
    }

    /// Something has come whole.
    fn whole(&mut self, opened: &mut impl FnMut(Stream, Open)) -> Result<(), Over> {
        match std::mem::replace(&mut self.incoming, Incoming::next()) {
            Incoming::Header(bytes, _) => {
                let header = Header::read(bytes).map_err(|why| violated(&why))?;
                self.incoming = if header.kind == Kind::Data {
                    let wanted = self.link.lock().mux.expect(header);
                    let wanted = wanted.map_err(|why| violated(&why))?;
                    Incoming::Data(header.stream, Octets::room(header.len), 0, wanted)
                } else {
                    Incoming::Other(header, vec![0; header.len], 0)
                };
            }
            Incoming::Data(id, octets, _, wanted) => {
                if wanted {
                    let mut state = self.link.lock();
                    state.mux.data(id, octets);
                    state.mux.woken(&mut self.woken);
                }
            }
            Incoming::Other(header, payload, _) => {
                let now = self.began.elapsed().as_millis();
                let now = u64::try_from(now).unwrap_or(u64::MAX);
                let mut state = self.link.lock();
                let event = state.mux.frame(header, &payload, now);
                state.mux.woken(&mut self.woken);
                self.congested = state.mux.is_congested();
                drop(state);
                match event.map_err(|why| violated(&why))? {
                    Event::None => {}
                    Event::Opened(id, open) => {
                        self.used = true;
                        opened(Stream::new(self.link.clone(), id), *open);
                    }
                    Event::Over(code) => {
                        let why = format!("the other end says {code:?}");
                        return Err(Over::Broken(self.broken(&why)));
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks at the deadlines.
    fn watch(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if let Some(over) = self.overdue(now) {
                return Poll::Ready(over);
            }
            let tick = TICK.min(self.limits.idle / 4).max(TICK / 20);
            let tick = self.limits.first.map_or(tick, |first| tick.min(first / 4));
            self.timer.as_mut().reset(now + tick);
        }
        Poll::Pending
    }

    fn overdue(&mut self, now: Instant) -> Option<Over> {
        let since = |when: Instant| now.saturating_duration_since(when);
        if self.stalled.is_some_and(|at| since(at) >= STALLED) {
            let why = "the other end of the link takes no bytes";
            return Some(Over::Broken(Denied::new(Denial::WriteTimeout, why)));
        }
        if self.asked.is_some_and(|at| since(at) >= SILENCE) {
            let why = format!("nothing came for {:?}", since(self.heard));
            return Some(Over::Broken(Denied::new(Denial::LinkSilent, why)));
        }
        if self.asked.is_none() && since(self.heard) >= SILENCE {
            self.asked = Some(now);
            self.link.with(|state| state.mux.ping());
        }
        if since(self.gave_up) >= TICK {
            self.gave_up = now;
            self.link.with(|state| state.mux.give_up());
        }
        if let Some(often) = self.company.count(now) {
            self.link.lock().mux.set_busy(often);
        }
        let state = self.link.lock();
        let (live, latest) = (state.mux.live(), state.mux.latest());
        let parts = live == 0 && state.mux.is_leaving();
        drop(state);
        self.parting = parts.then(|| self.parting.unwrap_or(now));
        if self.parting.is_some_and(|at| since(at) >= FAREWELL) {
            return Some(Over::Done);
        }
        // one may have come and gone since
        if live > 0 || latest != self.latest {
            (self.latest, self.empty, self.used) = (latest, None, true);
        }
        if live > 0 {
            return None;
        }
        let empty = since(*self.empty.get_or_insert(now));
        if !self.used && self.limits.first.is_some_and(|first| empty >= first) {
            return Some(Over::Refused(Denied::new(
                Denial::HandshakeTimeout,
                "the gateway named no client in time",
            )));
        }
        // one opened beside others that found no use
        let unused = self.side == Side::Gateway && !self.used && empty >= UNUSED;
        if unused || empty >= self.limits.idle {
            self.link.leave();
        }
        None
    }

    /// The other end has closed.
    fn closed(&self) -> Over {
        let between = matches!(self.incoming, Incoming::Header(_, 0));
        let live = self.link.lock().mux.live();
        if between && live == 0 {
            return Over::Left;
        }
        Over::Broken(self.broken(&format!("the other end closed the link on {live} streams")))
    }

    fn failed(&self, error: &io::Error) -> Over {
        let reason = match (self.side, error.kind()) {
            (Side::Gateway, _) => Denial::UpstreamBroken,
            (Side::Acceptor, io::ErrorKind::UnexpectedEof) => Denial::Truncated,
            (Side::Acceptor, _) => Denial::PeerReset,
        };
        let live = self.link.lock().mux.live();
        // nothing is lost between two clients
        if live == 0 && (self.used || self.side == Side::Gateway) {
            return Over::Left;
        }
        Over::Broken(Denied::new(reason, error.to_string()))
    }

    fn broken(&self, why: &str) -> Denied {
        Denied::new(breaker(self.side), why)
    }
}

impl<S> Drop for Driver<S> {
    /// Whatever ends the task breaks what it carried.
    fn drop(&mut self) {
        let why = "nobody carries the link any more";
        self.link.end(Denied::new(breaker(self.side), why));
        if !self.orderly {
            (self.abort)(&self.io);
        }
    }
}

/// Who broke a link, seen from this side.
const fn breaker(side: Side) -> Denial {
    match side {
        Side::Gateway => Denial::UpstreamBroken,
        Side::Acceptor => Denial::PeerReset,
    }
}

fn of(piece: &Piece<Octets>) -> &[u8] {
    match piece {
        Piece::Bytes(bytes) => bytes,
        Piece::Body(octets) => octets.bytes(),
    }
}

fn violated(why: &Violation) -> Over {
    Over::Refused(Denied::new(Denial::LinkViolation, why.to_string()))
}
