//! How streams end, and the link.

use std::collections::VecDeque;

use super::{
    Break, GROWTH, Kind, MAX_STREAMS, MAX_WINDOW, MIN_GRANT, Mux, Payload, Side, WINDOW,
    stream::{End, Phase, Stream},
};

/// Frames of a closed stream that may still be on their way: the window may be given in parts, and
/// each end says one last thing.
const LATE: usize = MAX_WINDOW / MIN_GRANT + 2;

/// Octets of closed streams that may still be on their way: no more than all together may have sent.
pub(super) const LATE_BYTES: usize = 2 * (MAX_STREAMS * WINDOW + GROWTH);

/// Streams that a gateway resets before their answer, between two looks at those that nobody wants.
/// With what one look finds, which is what a link carries, an acceptor takes more than twice as many
/// a second, and holds them all until each has had its turn to end.
pub(super) const EARLY: usize = 192;

impl<B: Payload> Mux<B> {
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
                stream.unsay();
                self.openings.retain(|(of, _)| *of != id);
                self.close(id);
            }
            (Side::Gateway, Phase::Opening) => match self.early.checked_sub(1) {
                Some(left) => {
                    self.early = left;
                    self.cut(id);
                }
                None => {
                    stream.phase = Phase::Unwanted;
                    stream.unsay();
                }
            },
            (Side::Gateway, Phase::Unwanted) => {}
            (Side::Gateway, Phase::Admitted) | (Side::Acceptor, _) => self.cut(id),
        }
    }

    /// Resets streams that nobody wants and that are not answered. To be called at most once a
    /// second: no more than a link carries are then reset in that time, beside those at once.
    pub fn give_up(&mut self) {
        let late = self.those(|one| one.on_wire && one.phase == Phase::Unwanted);
        late.into_iter().for_each(|id| self.cut(id));
        self.early = EARLY;
    }

    /// RESET. What was said before goes first, as it would over TCP: a client may close as soon as it
    /// has said all, and a backend answer what it would not read.
    pub(super) fn cut(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let last = match stream.phase {
            Phase::Admitted => std::mem::take(&mut stream.queue),
            Phase::Queued | Phase::Opening | Phase::Unwanted => VecDeque::new(),
        };
        let finished = stream.end == End::Ending;
        stream.clear();
        self.catch_up(id);
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

    /// The link is no more, and every stream that has not ended is broken. What came before stays its
    /// reader's, and is whole where FIN came.
    pub fn break_all(&mut self) {
        self.leaving = true;
        (self.control, self.turns) = (Vec::new(), VecDeque::new());
        self.later = Vec::new();
        self.openings = VecDeque::new();
        for id in self.those(|stream| stream.on_wire) {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.broken = Some(Break::Link);
                stream.unsay();
            }
            self.close(id);
        }
    }

    /// The same where nothing of a stream that is broken, or breaks by this, may go on. One that had
    /// ended before stays whole.
    pub fn cut_all(&mut self) {
        self.break_all();
        for id in self.those(|stream| stream.broken.is_some()) {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.broken = Some(Break::Cut);
                stream.clear();
                self.woken.extend(stream.reader.take());
                self.woken.extend(stream.guard.take());
            }
        }
    }

    fn those(&self, are: impl Fn(&Stream<B>) -> bool) -> Vec<u32> {
        let streams = self.streams.iter();
        streams
            .filter_map(|(id, stream)| are(stream).then_some(*id))
            .collect()
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
        self.late_bytes = late_bytes.min(LATE_BYTES);
        self.woken.extend(stream.reader.take());
        self.woken.extend(stream.writer.take());
        self.woken.extend(stream.watcher.take());
        if !stream.held {
            self.streams.remove(&id);
        }
    }
}
