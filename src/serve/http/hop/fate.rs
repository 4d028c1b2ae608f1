//! Whether a link connection may go on. Whoever reads or writes on it looks here, and is woken when
//! that changes.

use std::{
    any::Any,
    sync::{Arc, OnceLock},
    task::Context,
};

use futures_util::task::AtomicWaker;

use crate::admit::Denied;

/// What becomes of one link connection.
pub(crate) struct Fate {
    end: OnceLock<Denied>,
    reader: AtomicWaker,
    /// Where a request's rest is still sent while its answer comes.
    writer: AtomicWaker,
    /// What decides, for as long as there is something to decide.
    _judge: Arc<dyn Any + Send + Sync>,
}

impl Fate {
    pub(crate) fn new(judge: Arc<dyn Any + Send + Sync>) -> Self {
        Self {
            end: OnceLock::new(),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
            _judge: judge,
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
        self.end.get()
    }

    pub(super) fn wake_reader(&self, cx: &Context<'_>) {
        self.reader.register(cx.waker());
    }

    pub(super) fn wake_writer(&self, cx: &Context<'_>) {
        self.writer.register(cx.waker());
    }
}
