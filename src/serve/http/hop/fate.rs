//! Whether a link connection may go on. Whoever reads or writes on it looks here, and is woken when
//! that changes.

use std::{
    sync::{Arc, OnceLock},
    task::Context,
};

use futures_util::task::AtomicWaker;

use crate::admit::Denied;

/// Says whether a link connection may go on by what is in force now.
pub(crate) trait Judge: Send + Sync {
    /// # Errors
    /// It has to end.
    fn judged(&self) -> Result<(), Denied>;
}

/// What becomes of one link connection.
pub(crate) struct Fate {
    end: OnceLock<Denied>,
    reader: AtomicWaker,
    /// Where a request's rest is still sent while its answer comes.
    writer: AtomicWaker,
    /// Asked with each look: nothing goes out by rules of before.
    judge: Arc<dyn Judge>,
}

impl Fate {
    pub(crate) fn new(judge: Arc<dyn Judge>) -> Self {
        Self {
            end: OnceLock::new(),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
            judge,
        }
    }

    /// The connection has to end; `false`: that was known.
    pub(crate) fn seal(&self, why: Denied) -> bool {
        let first = self.end.set(why).is_ok();
        self.reader.wake();
        self.writer.wake();
        first
    }

    /// Why it has to end, if it has.
    pub(crate) fn end(&self) -> Option<&Denied> {
        if !self.is_sealed()
            && let Err(why) = self.judge.judged()
        {
            self.seal(why);
        }
        self.end.get()
    }

    /// Whether that was said already.
    pub(crate) fn is_sealed(&self) -> bool {
        self.end.get().is_some()
    }

    pub(super) fn wake_reader(&self, cx: &Context<'_>) {
        self.reader.register(cx.waker());
    }

    pub(super) fn wake_writer(&self, cx: &Context<'_>) {
        self.writer.register(cx.waker());
    }
}
