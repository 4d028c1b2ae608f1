//! One stream's windows, ends and octets that wait.

use std::{collections::VecDeque, task::Waker};

use super::{Break, MAX_DATA, MAX_WINDOW, Payload, QUEUE, WINDOW};

/// What a stream has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// OPEN waits to be written.
    Queued,
    /// OPEN was said.
    Opening,
    /// The same, and nobody here wants the answer.
    Unwanted,
    /// ADMITTED was said.
    Admitted,
}

/// The end of our own direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Open,
    /// FIN waits behind what is queued.
    Ending,
    /// FIN was handed to the link.
    Ended,
}

#[derive(Debug)]
pub(super) struct Stream<B> {
    pub(super) phase: Phase,
    /// Frames of it may come and go.
    pub(super) on_wire: bool,
    /// Somebody here holds it.
    pub(super) held: bool,
    pub(super) broken: Option<Break>,
    /// What came and was not taken.
    received: VecDeque<B>,
    /// What may still come.
    may_come: usize,
    /// What may come when nothing waits.
    pub(super) window: usize,
    /// What was taken and gives no credit yet.
    taken: usize,
    /// What was taken since the window last grew.
    steady: usize,
    pub(super) fin_came: bool,
    /// What waits for its turn.
    pub(super) queue: VecDeque<B>,
    queued: usize,
    /// What may still go.
    pub(super) may_go: usize,
    pub(super) end: End,
    /// It is admitted, and the other end has not been told.
    pub(super) unsaid: bool,
    /// It stands among those who have something to send.
    pub(super) listed: bool,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    /// Who waits for its break alone.
    pub(super) watcher: Option<Waker>,
    /// Who waits for its link to be cut, whatever has become of the stream.
    pub(super) guard: Option<Waker>,
}

impl<B: Payload> Stream<B> {
    pub(super) fn new(phase: Phase) -> Self {
        Self {
            phase,
            on_wire: true,
            held: true,
            broken: None,
            received: VecDeque::new(),
            may_come: WINDOW,
            window: WINDOW,
            taken: 0,
            steady: 0,
            fin_came: false,
            queue: VecDeque::new(),
            queued: 0,
            may_go: WINDOW,
            end: End::Open,
            unsaid: false,
            listed: false,
            reader: None,
            writer: None,
            watcher: None,
            guard: None,
        }
    }

    /// So many octets are coming; false: no leave was given for them.
    pub(super) fn admit(&mut self, len: usize) -> bool {
        match self.may_come.checked_sub(len) {
            Some(left) => {
                self.may_come = left;
                true
            }
            None => false,
        }
    }

    /// How many came before any was taken.
    pub(super) fn came(&self) -> usize {
        WINDOW.saturating_sub(self.may_come)
    }

    /// They came.
    pub(super) fn receive(&mut self, bytes: B) {
        put(&mut self.received, bytes);
    }

    pub(super) fn take(&mut self) -> Option<B> {
        let bytes = self.received.pop_front()?;
        let len = bytes.bytes().len();
        self.taken = self.taken.saturating_add(len);
        self.steady = self.steady.saturating_add(len);
        Some(bytes)
    }

    /// How much leave the other end is to get now, and how much of it the window grows by, out of
    /// `spare`. Half a window at a time; one whose reader has kept pace for a while is doubled.
    pub(super) fn grant(&mut self, spare: usize) -> Option<(usize, usize)> {
        if self.fin_came || !self.on_wire || self.taken < self.window / 2 {
            return None;
        }
        let keeps_pace = self.received.is_empty() && self.steady >= self.window.saturating_mul(4);
        let more = if keeps_pace {
            let widest = MAX_WINDOW.saturating_sub(self.window);
            self.steady = 0;
            self.window.min(widest).min(spare)
        } else {
            0
        };
        let leave = self.taken.saturating_add(more);
        self.window = self.window.saturating_add(more);
        self.may_come = self.may_come.saturating_add(leave);
        self.taken = 0;
        Some((leave, more))
    }

    /// What could still come, had it not been closed.
    pub(super) fn outstanding(&self) -> usize {
        if self.fin_came { 0 } else { self.may_come }
    }

    /// Octets that wait to be taken.
    pub(super) fn waiting(&self) -> usize {
        self.received.iter().map(|part| part.bytes().len()).sum()
    }

    /// Octets that wait for their turn.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// Sets room for up to so many octets aside; 0: there is none now. What does not fit whole waits
    /// for what is queued: a crumb of it would be a frame of its own, and what is left would have to
    /// be copied out of its buffer.
    pub(super) fn reserve(&mut self, wanted: usize) -> usize {
        let wanted = wanted.min(MAX_DATA);
        let room = QUEUE.saturating_sub(self.queued).min(self.may_go);
        let most = match self.queued {
            0 => wanted.min(room),
            _ if wanted <= room => wanted,
            _ => 0,
        };
        self.queued = self.queued.saturating_add(most);
        self.may_go = self.may_go.saturating_sub(most);
        most
    }

    /// Queues what room was set aside for.
    pub(super) fn push(&mut self, bytes: B) {
        put(&mut self.queue, bytes);
    }

    /// The next octets to send.
    pub(super) fn pop(&mut self) -> Option<B> {
        let bytes = self.queue.pop_front()?;
        self.queued = self.queued.saturating_sub(bytes.bytes().len());
        Some(bytes)
    }

    /// There is something to send.
    pub(super) fn has_more(&self) -> bool {
        !self.queue.is_empty() || self.end == End::Ending
    }

    /// Forgets what waits to go: the other end takes no more.
    pub(super) fn unsay(&mut self) {
        self.queue = VecDeque::new();
        self.queued = 0;
    }

    /// Forgets what waits either way.
    pub(super) fn clear(&mut self) {
        (self.received, self.queue) = (VecDeque::new(), VecDeque::new());
        self.queued = 0;
    }
}

fn put<B: Payload>(queue: &mut VecDeque<B>, bytes: B) {
    let alone = match queue.back_mut() {
        Some(last) => last.join(bytes).err(),
        None => Some(bytes),
    };
    queue.extend(alone);
}
