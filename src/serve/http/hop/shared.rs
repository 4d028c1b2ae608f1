//! A connection whose answer came before its request's end. The rest of the request goes on being
//! sent by a task of its own while the answer passes: a client that sends before it reads must not
//! be waited for by one that answers before it has read.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::{Hop, HopError, outgoing::Outgoing};

/// Who holds an answer's connection.
pub(super) enum Owner {
    Alone(Box<Hop>),
    Shared(Arc<Shared>),
    /// It was given back, or up.
    Nobody,
}

/// Between an answer and its request.
pub(super) struct Shared(Mutex<State>);

struct State {
    /// `None` once neither has a use for it.
    hop: Option<Box<Hop>>,
    out: Outgoing,
    /// The next hop takes nothing more.
    deaf: bool,
    /// The answer has passed.
    answered: bool,
    /// Why the answer has to break.
    failed: Option<HopError>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Shared {
    /// Sends on. `deaf`: there is no use in it.
    pub(super) fn begin(hop: Box<Hop>, out: Outgoing, deaf: bool) -> Arc<Self> {
        let drain = hop.drain.clone();
        let forced = drain.forced();
        let shared = Arc::new(Self(Mutex::new(State {
            hop: Some(hop),
            out,
            deaf,
            answered: false,
            failed: None,
            reader: None,
            writer: None,
        })));
        if !deaf {
            let writer = Arc::clone(&shared);
            drain.spawn(async move {
                tokio::select! {
                    biased;
                    () = forced.cancelled() => writer.give_up(),
                    () = poll_fn(|cx| writer.poll_write(cx)) => {}
                }
            });
        }
        shared
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_write(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        let State { hop, out, .. } = &mut *state;
        let Some(held) = hop else {
            return Poll::Ready(());
        };
        let sent = match held.fated() {
            Ok(()) => match held.io() {
                Ok(io) => {
                    let sent = out.poll(io, cx);
                    held.owes = out.is_cut();
                    sent
                }
                Err(error) => Poll::Ready(Err(error)),
            },
            Err(error) => Poll::Ready(Err(error)),
        };
        let sent = match &held.fate {
            Some(fate) if sent.is_pending() => {
                fate.wake_writer(cx);
                // sealed since it was looked at, it has woken nobody
                match held.fated() {
                    Ok(()) => sent,
                    Err(error) => Poll::Ready(Err(error)),
                }
            }
            Some(_) | None => sent,
        };
        match sent {
            Poll::Pending => {
                state.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) if error.may_be_answered() => state.deaf = true,
            Poll::Ready(Err(error)) => {
                state.failed = Some(error);
                state.hop = None;
            }
        }
        if state.answered {
            state.hop = None;
        }
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
        Poll::Ready(())
    }

    /// Reads on for the answer.
    pub(super) fn poll_with<T>(
        &self,
        cx: &mut Context<'_>,
        read: impl FnOnce(&mut Hop, &mut Context<'_>) -> Poll<Option<Result<T, HopError>>>,
    ) -> Poll<Option<Result<T, HopError>>> {
        let mut state = self.lock();
        if let Some(error) = state.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let Some(hop) = &mut state.hop else {
            return Poll::Ready(Some(Err(HopError::Closed)));
        };
        let polled = read(hop, cx);
        if polled.is_pending() {
            state.reader = Some(cx.waker().clone());
        }
        polled
    }

    /// The answer has passed. The connection, where its request has too; else the request goes on if
    /// the next hop does, and the connection ends with it.
    pub(super) fn answered(&self, goes_on: bool) -> Option<Box<Hop>> {
        if !goes_on {
            self.give_up();
            return None;
        }
        let mut state = self.lock();
        state.answered = true;
        let over = state.out.is_done() || state.deaf;
        let hop = over.then(|| state.hop.take()).flatten();
        hop.filter(|_| state.out.is_done())
    }

    /// Nobody waits for the answer, or all has to end.
    pub(super) fn give_up(&self) {
        let mut state = self.lock();
        let hop = state.hop.take();
        let wakers = [state.reader.take(), state.writer.take()];
        drop(state);
        drop(hop);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}
