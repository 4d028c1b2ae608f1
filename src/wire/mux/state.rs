//! The state of a link, and what the holders of its streams do.

use std::{
    collections::{BTreeMap, VecDeque},
    task::{Poll, Waker},
};

use super::{
    Break, GROWTH, Header, Kind, MAX_CONTROL, MAX_STREAMS, MAX_WINDOW, MIN_GRANT, Payload, WINDOW,
    incoming::Bucket,
    stream::{End, Phase, Stream},
};
use crate::wire::link::{Open, codec};

/// Frames of a closed stream that may still be on their way: the window may be given in parts, and
/// each end says one last thing.
const LATE: usize = MAX_WINDOW / MIN_GRANT + 2;

/// Streams that a gateway resets before their answer, between two looks at those that nobody wants.
/// With what one look finds, which is what a link carries, an acceptor takes more than twice as many
/// a second, and holds them all until each has had its turn to end.
pub(super) const EARLY: usize = 192;

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
    early: usize,
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
        self.has_output() || (self.leaving && self.live == 0)
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

    /// Begins a stream for a client; `None`: this link takes no more.
    pub fn open(&mut self, open: &Open) -> Option<u32> {
        if !self.has_room() {
            return None;
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
        self.begin(self.last, Phase::Queued);
        Some(self.last)
    }

    pub(super) fn begin(&mut self, id: u32, phase: Phase) {
        self.streams.insert(id, Stream::new(phase));
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
            (Some(why), _) => Poll::Ready(Err(why.clone())),
            (None, Phase::Admitted) => Poll::Ready(Ok(())),
            (None, Phase::Queued | Phase::Opening | Phase::Unwanted) => {
                keep(&mut stream.reader, waker);
                Poll::Pending
            }
        }
    }

    /// Says ADMITTED.
    pub fn admit(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.on_wire && stream.phase == Phase::Opening {
            stream.phase = Phase::Admitted;
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
                self.say(Kind::Window, id, &leave.to_be_bytes());
            }
            return Poll::Ready(Ok(Some(bytes)));
        }
        match &stream.broken {
            // nothing of what came is lost by the other end's reset, and an end before it is one
            None | Some(Break::Reset) if stream.fin_came => return Poll::Ready(Ok(None)),
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

    /// Says FIN, and resolves when the link has taken it.
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
            list(&mut self.turns, stream, id);
        }
        if stream.end == End::Ended {
            return Poll::Ready(Ok(()));
        }
        keep(&mut stream.writer, waker);
        Poll::Pending
    }

    /// Says RESET: what was sent is not to look whole.
    ///
    /// Before the answer to OPEN a gateway says it to few: an acceptor takes only so many of those,
    /// and clients that go early must not end the link of others. An OPEN that was not written is
    /// forgotten; behind one that was the stream keeps its place until it is answered or given up.
    pub fn reset(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.on_wire) else {
            return;
        };
        stream.broken = Some(Break::Over);
        match (self.side, stream.phase) {
            (Side::Gateway, Phase::Queued) => {
                self.openings.retain(|(of, _)| *of != id);
                self.close(id);
            }
            (Side::Gateway, Phase::Opening) => match self.early.checked_sub(1) {
                Some(left) => {
                    self.early = left;
                    self.cut(id);
                }
                None => stream.phase = Phase::Unwanted,
            },
            (Side::Gateway, Phase::Unwanted) => {}
            (Side::Gateway, Phase::Admitted) | (Side::Acceptor, _) => self.cut(id),
        }
    }

    /// Resets streams that nobody wants and that are not answered. To be called at most once a
    /// second: no more than a link carries are then reset in that time, beside those at once.
    pub fn give_up(&mut self) {
        let unwanted = |one: &Stream<B>| one.on_wire && one.phase == Phase::Unwanted;
        let streams = self.streams.iter();
        let late: Vec<u32> = streams
            .filter_map(|(id, one)| unwanted(one).then_some(*id))
            .collect();
        late.into_iter().for_each(|id| self.cut(id));
        self.early = EARLY;
    }

    /// RESET. What a backend said before goes first, as it would over TCP: it may be its answer to
    /// what it would not read.
    pub(super) fn cut(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let last = match self.side {
            Side::Acceptor => std::mem::take(&mut stream.queue),
            Side::Gateway => VecDeque::new(),
        };
        let finished = stream.end == End::Ending;
        stream.clear();
        for body in last {
            self.say(Kind::Data, id, body.bytes());
        }
        if finished && self.side == Side::Acceptor {
            self.say(Kind::Fin, id, &[]);
        }
        self.say(Kind::Reset, id, &[]);
        self.close(id);
    }

    /// Nobody here holds the stream any more; one that has not ended is reset.
    pub fn release(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let ends = stream.fin_came && stream.end != End::Open;
        if stream.on_wire && !ends {
            self.reset(id);
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.held = false;
            if !stream.on_wire {
                self.streams.remove(&id);
            }
        }
    }

    /// No stream begins any more; an acceptor says so.
    pub fn leave(&mut self) {
        self.leaving = true;
        if self.side == Side::Acceptor && !self.said_goaway {
            self.said_goaway = true;
            self.say(Kind::GoAway, 0, &[]);
        }
    }

    /// Asks whether the other end is there.
    pub fn ping(&mut self) {
        self.asked = self.asked.saturating_add(1);
        self.say(Kind::Ping, 0, &[0; 8]);
    }

    /// The link is no more, and every stream that has not ended is broken. What came of one that
    /// has ended stays its reader's: it is whole where it had its FIN, and has no end where a reset
    /// came first.
    pub fn break_all(&mut self) {
        self.leaving = true;
        (self.control, self.turns) = (Vec::new(), VecDeque::new());
        self.openings = VecDeque::new();
        let live: Vec<u32> = self
            .streams
            .iter()
            .filter_map(|(id, stream)| stream.on_wire.then_some(*id))
            .collect();
        for id in live {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.broken = Some(Break::Link);
                stream.clear();
            }
            self.close(id);
        }
    }

    /// Closes a stream whose two directions have ended.
    pub(super) fn settle(&mut self, id: u32) {
        let ended =
            |stream: &Stream<B>| stream.on_wire && stream.fin_came && stream.end == End::Ended;
        if self.streams.get(&id).is_some_and(ended) {
            self.close(id);
        }
    }

    /// No frame of the stream goes any more.
    pub(super) fn close(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.on_wire = false;
        self.live = self.live.saturating_sub(1);
        self.grown = self
            .grown
            .saturating_sub(stream.window.saturating_sub(WINDOW));
        // no more is on its way than all streams together may have sent
        let late_frames = self.late_frames.saturating_add(LATE);
        self.late_frames = late_frames.min(LATE.saturating_mul(2 * MAX_STREAMS));
        let late_bytes = self.late_bytes.saturating_add(stream.outstanding());
        self.late_bytes = late_bytes.min(2 * (MAX_STREAMS * WINDOW + GROWTH));
        self.woken.extend(stream.reader.take());
        self.woken.extend(stream.writer.take());
        self.woken.extend(stream.watcher.take());
        if !stream.held {
            self.streams.remove(&id);
        }
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
