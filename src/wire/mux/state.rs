//! The state of a link, and what the holders of its streams do.

use std::{
    collections::{BTreeMap, VecDeque},
    task::{Poll, Waker},
};

use super::{
    AHEAD, Break, GROWTH, Header, Kind, MAX_CONTROL, MAX_STREAMS, Payload,
    ends::EARLY,
    incoming::Bucket,
    stream::{End, Phase, Stream},
};
use crate::wire::link::{Open, codec};

/// Which end we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It opens streams.
    Gateway,
    /// It answers.
    Acceptor,
}

/// A link.
#[derive(Debug)]
pub struct Mux<B> {
    pub(super) side: Side,
    pub(super) streams: BTreeMap<u32, Stream<B>>,
    /// Streams whose frames come and go.
    pub(super) live: usize,
    /// The highest number so far.
    pub(super) last: u32,
    /// Streams that have something to send, each once.
    pub(super) turns: VecDeque<u32>,
    /// Much is said on the link: what nobody is in a hurry for will soon have company.
    busy: bool,
    /// Streams whose frame waits for it.
    pub(super) later: Vec<u32>,
    /// The holder of the link has yet to hear that there are any.
    unheard: bool,
    /// It looks after them in a moment.
    timed: bool,
    /// There were some since it last did.
    used: bool,
    /// They have waited long enough.
    due: bool,
    /// Frames that go first.
    pub(super) control: Vec<u8>,
    /// OPENs behind them: each is forgotten with its stream until it is written.
    pub(super) openings: VecDeque<(u32, Vec<u8>)>,
    /// No stream begins any more.
    pub(super) leaving: bool,
    pub(super) said_goaway: bool,
    pub(super) heard_goaway: bool,
    /// By how much all windows are wider than at first.
    pub(super) grown: usize,
    /// Frames and octets of closed streams that may still come.
    pub(super) late_frames: usize,
    pub(super) late_bytes: usize,
    /// PINGs that wait for their PONG.
    pub(super) asked: u32,
    pub(super) pings: Bucket,
    /// Streams that are reset before they were answered cost us more than the other end.
    pub(super) resets: Bucket,
    /// How many more of them we may ask for.
    pub(super) early: usize,
    pub(super) woken: Vec<Waker>,
}

impl<B: Payload> Mux<B> {
    /// A link without streams.
    #[must_use]
    pub fn new(side: Side) -> Self {
        Self {
            side,
            streams: BTreeMap::new(),
            live: 0,
            last: 0,
            turns: VecDeque::new(),
            busy: false,
            later: Vec::new(),
            unheard: false,
            timed: false,
            used: false,
            due: false,
            control: Vec::new(),
            openings: VecDeque::new(),
            leaving: false,
            said_goaway: false,
            heard_goaway: false,
            grown: 0,
            late_frames: 0,
            late_bytes: 0,
            asked: 0,
            pings: Bucket::new(16, 4),
            resets: Bucket::new(4096, 1024),
            early: EARLY,
            woken: Vec::new(),
        }
    }

    /// Streams under way.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live
    }

    /// The number of the latest stream: between two looks at the same one none has begun.
    #[must_use]
    pub fn latest(&self) -> u32 {
        self.last
    }

    /// Whether another stream may begin.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.leaving && self.live < MAX_STREAMS && self.last < u32::MAX
    }

    /// No stream begins any more.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Something waits to be written.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.control.is_empty() || !self.openings.is_empty() || !self.turns.is_empty()
    }

    /// The holder of the link has something to do.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.has_output() || self.unheard || (self.leaving && self.live == 0)
    }

    /// Says whether so much is said that a frame which waits for company has it soon.
    pub fn set_busy(&mut self, busy: bool) {
        self.busy = busy;
    }

    /// Whether frames wait for company that nobody looks after: they go with the next output, or
    /// when [`Mux::call_later`] comes, which has to be soon.
    pub fn has_later(&mut self) -> bool {
        let unheard = std::mem::take(&mut self.unheard);
        self.timed |= unheard;
        unheard
    }

    /// What waits for company goes without. Whether this is to be called again: there was something
    /// since the last time.
    pub fn call_later(&mut self) -> bool {
        self.due = !self.later.is_empty();
        self.timed = std::mem::take(&mut self.used);
        self.timed
    }

    /// Gives those who waited their turn, where anything is said now.
    pub(super) fn join_later(&mut self) {
        if self.has_output() || std::mem::take(&mut self.due) {
            self.due = false;
            for id in self.later.drain(..) {
                if let Some(stream) = self.streams.get_mut(&id) {
                    list(&mut self.turns, stream, id);
                }
            }
        }
    }

    /// A frame of the stream goes with what is said next.
    fn later(&mut self, id: u32) {
        self.later.push(id);
        self.used = true;
        self.unheard = !self.timed;
    }

    /// Nothing is to be read before what waits is written.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.control.len() > MAX_CONTROL
    }

    /// Octets that wait to be taken by readers; for tests of the bound.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.streams.values().map(Stream::waiting).sum()
    }

    /// Octets that wait to be written.
    #[must_use]
    pub fn queued(&self) -> usize {
        let of_streams: usize = self.streams.values().map(Stream::queued).sum();
        let openings: usize = self.openings.iter().map(|(_, frame)| frame.len()).sum();
        of_streams
            .saturating_add(self.control.len())
            .saturating_add(openings)
    }

    /// Hands over whom to wake.
    pub fn woken(&mut self, into: &mut Vec<Waker>) {
        into.append(&mut self.woken);
    }

    /// Begins a stream for a client; `None`: this link takes no more. What is to go `ahead` of the
    /// answer is at most [`AHEAD`] octets, which the acceptor has to have given leave for; with more,
    /// or none, there is no stream: none of them is ever left out.
    pub fn open(&mut self, open: &Open, ahead: Option<B>) -> Option<u32> {
        if !self.has_room() {
            return None;
        }
        let mut stream = Stream::new(Phase::Queued);
        if let Some(bytes) = ahead {
            let len = bytes.bytes().len();
            if !(1..=AHEAD).contains(&len) || stream.reserve(len) < len {
                return None;
            }
            stream.push(bytes);
        }
        self.last = self.last.checked_add(1)?;
        let mut frame = Vec::new();
        put(
            &mut frame,
            Kind::Open,
            self.last,
            &codec::open_payload(open),
        );
        self.openings.push_back((self.last, frame));
        if stream.has_more() {
            list(&mut self.turns, &mut stream, self.last);
        }
        self.begin(self.last, stream);
        Some(self.last)
    }

    /// Whether OPEN was handed to the link: the other end may have it, and what went with it.
    #[must_use]
    pub fn was_said(&self, id: u32) -> bool {
        let stream = self.streams.get(&id);
        stream.is_none_or(|stream| stream.phase != Phase::Queued)
    }

    pub(super) fn begin(&mut self, id: u32, stream: Stream<B>) {
        self.streams.insert(id, stream);
        self.live = self.live.saturating_add(1);
    }

    /// The answer to our OPEN.
    ///
    /// # Errors
    /// Why there will be none, or a refusal.
    pub fn poll_admitted(&mut self, id: u32, waker: &Waker) -> Poll<Result<(), Break>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(Break::Over));
        };
        match (&stream.broken, stream.phase) {
            // what its backend said before the break is to be read
            (None | Some(Break::Reset | Break::Link), Phase::Admitted) => Poll::Ready(Ok(())),
            (Some(why), _) => Poll::Ready(Err(why.clone())),
            (None, Phase::Queued | Phase::Opening | Phase::Unwanted) => {
                keep(&mut stream.reader, waker);
                Poll::Pending
            }
        }
    }

    /// Says ADMITTED; with company, perhaps the answer, if the client said something and that is all.
    pub fn admit(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.on_wire && stream.phase == Phase::Opening {
            stream.phase = Phase::Admitted;
            if self.busy && (1..AHEAD).contains(&stream.came()) {
                stream.unsaid = true;
                self.later(id);
            } else {
                self.say(Kind::Admitted, id, &[]);
            }
        }
    }

    /// Says ADMITTED, if it has yet to be said: before any other frame of the stream.
    pub(super) fn catch_up(&mut self, id: u32) {
        let stream = self.streams.get_mut(&id);
        if stream.is_some_and(|stream| std::mem::take(&mut stream.unsaid)) {
            self.say(Kind::Admitted, id, &[]);
        }
    }

    /// Says REFUSED, and why.
    pub fn refuse(&mut self, id: u32, code: &str) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.on_wire && stream.phase == Phase::Opening {
            stream.broken = Some(Break::Over);
            self.say(Kind::Refused, id, codec::code_bytes(code));
            self.close(id);
        }
    }

    /// Resolves when the stream breaks, for one who neither reads nor writes it.
    pub fn poll_broken(&mut self, id: u32, waker: &Waker) -> Poll<Break> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Break::Over);
        };
        if let Some(why) = &stream.broken {
            return Poll::Ready(why.clone());
        }
        keep(&mut stream.watcher, waker);
        Poll::Pending
    }

    /// Resolves when nothing of the stream may go on, also where it is broken already.
    pub fn poll_cut(&mut self, id: u32, waker: &Waker) -> Poll<()> {
        let stream = self.streams.get_mut(&id);
        match stream.filter(|stream| stream.broken != Some(Break::Cut)) {
            Some(stream) => {
                keep(&mut stream.guard, waker);
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }

    /// Takes octets that came; `None`: the other end is done.
    ///
    /// # Errors
    /// The stream is broken.
    pub fn poll_take(&mut self, id: u32, waker: &Waker) -> Poll<Result<Option<B>, Break>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(Break::Over));
        };
        if let Some(bytes) = stream.take() {
            if let Some((leave, more)) = stream.grant(GROWTH.saturating_sub(self.grown)) {
                self.grown = self.grown.saturating_add(more);
                let leave = u32::try_from(leave).unwrap_or(u32::MAX);
                self.catch_up(id);
                self.say(Kind::Window, id, &leave.to_be_bytes());
            }
            return Poll::Ready(Ok(Some(bytes)));
        }
        match &stream.broken {
            // nothing of what came is lost by a break, and an end before it is one
            None | Some(Break::Reset | Break::Link) if stream.fin_came => {
                return Poll::Ready(Ok(None));
            }
            Some(why) => return Poll::Ready(Err(why.clone())),
            None => {}
        }
        keep(&mut stream.reader, waker);
        Poll::Pending
    }

    /// Sets room aside for some of `wanted` octets: [`Mux::push`] is to follow.
    ///
    /// # Errors
    /// The stream is broken, or was finished.
    pub fn poll_reserve(
        &mut self,
        id: u32,
        wanted: usize,
        waker: &Waker,
    ) -> Poll<Result<usize, Break>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(Break::Over));
        };
        if let Some(why) = &stream.broken {
            return Poll::Ready(Err(why.clone()));
        }
        if stream.end != End::Open || stream.phase != Phase::Admitted {
            return Poll::Ready(Err(Break::Over));
        }
        match stream.reserve(wanted) {
            0 => {
                keep(&mut stream.writer, waker);
                Poll::Pending
            }
            room => Poll::Ready(Ok(room)),
        }
    }

    /// Queues what room was set aside for.
    pub fn push(&mut self, id: u32, bytes: B) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.on_wire
        {
            stream.push(bytes);
            list(&mut self.turns, stream, id);
        }
    }

    /// Says FIN, and resolves when the link has taken it. Where the backend is done, nobody
    /// hurries for the client's end: it waits for company that comes soon.
    ///
    /// # Errors
    /// The stream is broken.
    pub fn poll_finish(&mut self, id: u32, waker: &Waker) -> Poll<Result<(), Break>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(Break::Over));
        };
        if let Some(why) = &stream.broken {
            return Poll::Ready(Err(why.clone()));
        }
        if stream.end == End::Open {
            stream.end = End::Ending;
            if self.busy && self.side == Side::Gateway && stream.fin_came && !stream.listed {
                self.later(id);
                return Poll::Ready(Ok(()));
            }
            list(&mut self.turns, stream, id);
        }
        if stream.end == End::Ended {
            return Poll::Ready(Ok(()));
        }
        keep(&mut stream.writer, waker);
        Poll::Pending
    }

    pub(super) fn say(&mut self, kind: Kind, stream: u32, payload: &[u8]) {
        put(&mut self.control, kind, stream, payload);
    }
}

fn put(into: &mut Vec<u8>, kind: Kind, stream: u32, payload: &[u8]) {
    let len = payload.len();
    into.extend(Header { kind, len, stream }.bytes());
    into.extend(payload);
}

pub(super) fn list<B>(turns: &mut VecDeque<u32>, stream: &mut Stream<B>, id: u32) {
    if !std::mem::replace(&mut stream.listed, true) {
        turns.push_back(id);
    }
}

fn keep(slot: &mut Option<Waker>, waker: &Waker) {
    if slot.as_ref().is_none_or(|kept| !kept.will_wake(waker)) {
        *slot = Some(waker.clone());
    }
}
