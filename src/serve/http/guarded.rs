//! A client's HTTP/1 bytes, judged before hyper reads them: what is refused never reaches it, and
//! what came before that is answered first.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

use super::activity::Activity;
use crate::{
    admit::{Denial, Denied},
    wire::framing::{Fault, Guard, Stop},
};

/// Between a client's stream and hyper.
pub(super) struct Guarded {
    /// `None` once the bytes are no longer HTTP/1.
    guard: Option<Guard>,
    /// Read and not handed on.
    held: BytesMut,
    /// So many of those may be.
    passed: usize,
    /// What stands behind them.
    stop: Option<Stop>,
    /// Waits for answers to be taken before the connection ends.
    ending: Option<Waker>,
    /// The end was told in place of the head that is refused.
    ended: bool,
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "every other fault is one of form"
)]
/// The reason of a refusal for how a request is framed.
pub(super) fn denied_by(fault: Fault) -> Denied {
    let reason = match fault {
        Fault::HeadTooLarge => Denial::HeaderTooLarge,
        Fault::TargetTooLong => Denial::TargetTooLarge,
        _ => Denial::RequestInvalid,
    };
    Denied::new(reason, fault.to_string())
}

impl Guarded {
    /// Heads of more than `header_bytes` are refused.
    pub(super) fn new(header_bytes: usize) -> Self {
        Self {
            guard: Some(Guard::new(header_bytes)),
            held: BytesMut::new(),
            passed: 0,
            stop: None,
            ending: None,
            ended: false,
        }
    }

    /// Reads what may be handed on. An end in place of what is refused.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        mut stream: Pin<&mut impl AsyncRead>,
        activity: &Activity,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.passed > 0 {
                self.hand_on(buf);
                return Poll::Ready(Ok(()));
            }
            if self.stop.is_some() && ready!(self.poll_stop(cx, activity))? {
                return Poll::Ready(Ok(()));
            }
            if self.passed > 0 {
                continue;
            }
            let before = buf.filled().len();
            match stream.as_mut().poll_read(cx, buf) {
                Poll::Ready(read) => {
                    activity.came_whole(None);
                    read?;
                }
                Poll::Pending => {
                    activity.came_whole(self.whole());
                    return Poll::Pending;
                }
            }
            let came = buf.filled().get(before..).unwrap_or_default();
            if came.is_empty() {
                return Poll::Ready(Ok(()));
            }
            activity.read(came.len());
            let Some(guard) = &mut self.guard else {
                return Poll::Ready(Ok(()));
            };
            if self.held.is_empty() && self.stop.is_none() {
                let verdict = guard.judge(came);
                self.stop = verdict.stop;
                if let Some(kept) = came.get(verdict.pass..).filter(|kept| !kept.is_empty()) {
                    self.held.extend_from_slice(kept);
                }
                buf.set_filled(before.saturating_add(verdict.pass));
                if verdict.pass > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                self.held.extend_from_slice(came);
                buf.set_filled(before);
                if self.stop.is_none() {
                    self.judge_held();
                }
            }
        }
    }

    /// What stands behind a stop: `true` when that is an end, `false` when there is more to read.
    fn poll_stop(&mut self, cx: &Context<'_>, activity: &Activity) -> Poll<io::Result<bool>> {
        // hyper hands a head over some time after it has read it
        let heads = self.guard.as_ref().map_or(0, Guard::heads);
        let busy = activity.is_busy() || activity.begun() != heads;
        match self.stop {
            // the request under way breaks, and is not finished anywhere
            Some(Stop::Body(fault)) => {
                activity.refused(&denied_by(fault));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault)))
            }
            Some(Stop::Upgrade) if activity.is_upgraded() => {
                (self.guard, self.stop) = (None, None);
                self.passed = self.held.len();
                Poll::Ready(Ok(false))
            }
            // a client that leaves is seen while nothing else of it was
            Some(Stop::Upgrade) if busy && self.held.is_empty() => Poll::Ready(Ok(false)),
            // hyper asks again when it has answered
            Some(_) if busy => Poll::Pending,
            Some(Stop::Upgrade) => {
                self.stop = None;
                self.judge_held();
                Poll::Ready(Ok(false))
            }
            // an end while an answer waits to be taken would cut it
            Some(Stop::Head(_)) if activity.is_stalled() => {
                self.ending = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(Stop::Head(fault)) => {
                activity.refused(&denied_by(fault));
                self.ended = true;
                Poll::Ready(Ok(true))
            }
            None => Poll::Ready(Ok(false)),
        }
    }

    /// Everything has been taken.
    pub(super) fn flushed(&mut self) {
        if let Some(ending) = self.ending.take() {
            ending.wake();
        }
    }

    /// Why the connection ends before its next request, once it does.
    pub(super) fn refusal(&self) -> Option<Denied> {
        match self.stop {
            Some(Stop::Head(fault)) if self.ended => Some(denied_by(fault)),
            _ => None,
        }
    }

    /// How many whole requests came, where nothing else did.
    fn whole(&self) -> Option<usize> {
        let nothing_else = self.held.is_empty() && self.stop.is_none();
        let guard = self.guard.as_ref().filter(|_| nothing_else)?;
        guard.is_between().then(|| guard.heads())
    }

    /// Bytes that were handed on and come back untouched.
    pub(super) fn take_back(&mut self, bytes: &[u8]) {
        let mut held = BytesMut::from(bytes);
        held.extend_from_slice(&self.held);
        self.held = held;
        self.passed = self.passed.saturating_add(bytes.len());
    }

    /// Whether there is something to hand on.
    pub(super) fn has_passed(&self) -> bool {
        self.passed > 0
    }

    fn judge_held(&mut self) {
        if let Some(guard) = &mut self.guard {
            let verdict = guard.judge(&self.held);
            (self.passed, self.stop) = (verdict.pass, verdict.stop);
        }
    }

    fn hand_on(&mut self, buf: &mut ReadBuf<'_>) {
        let n = self.passed.min(buf.remaining());
        buf.put_slice(self.held.get(..n).unwrap_or_default());
        self.held.advance(n);
        self.passed = self.passed.saturating_sub(n);
        if self.held.is_empty() {
            // idle connections keep no buffer
            self.held = BytesMut::new();
        }
    }
}
