//! The body of a request, read from the stream by whoever asks for it.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Frame;

use super::{Part, Shared};
use crate::{serve::http::body::BodyError, wire::framing::Length};

/// The body of a request, as it comes.
pub(crate) struct Http1Body {
    shared: Arc<Shared>,
    turn: u64,
    /// What is left of it, where that is known.
    left: Option<u64>,
    ended: bool,
    /// It is broken, which is said once what came before is on its way.
    broken: Option<BodyError>,
}

impl Http1Body {
    pub(super) fn new(shared: Arc<Shared>, turn: u64, length: Length) -> Self {
        Self {
            shared,
            turn,
            left: match length {
                Length::Sized(length) => Some(length),
                Length::Chunked => None,
            },
            ended: false,
            broken: None,
        }
    }

    pub(in super::super::super) fn is_ended(&self) -> bool {
        self.ended
    }

    pub(in super::super::super) fn left(&self) -> Option<u64> {
        self.left
    }

    /// To ask for it is to tell a client to go on that waits for that.
    pub(in super::super::super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let mut inner = self.shared.lock();
        if inner.turn != self.turn {
            self.ended = true;
            return Poll::Ready(Some(Err(BodyError::Unfinished)));
        }
        if std::mem::take(&mut inner.expects) {
            inner.asked = true;
            inner.wake(Some(cx));
        }
        let Poll::Ready(part) = inner.poll_part(cx) else {
            if !inner
                .reader
                .as_ref()
                .is_some_and(|r| r.will_wake(cx.waker()))
            {
                inner.reader = Some(cx.waker().clone());
            }
            return Poll::Pending;
        };
        self.ended = inner.body.is_delivered();
        drop(inner);
        Poll::Ready(match part {
            Ok(part) => part.map(|part| Ok(self.frame(part))),
            Err(error) => {
                self.broken = Some(error);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        })
    }

    fn frame(&mut self, part: Part) -> Frame<Bytes> {
        match part {
            Part::Data(data) => {
                let n = u64::try_from(data.len()).unwrap_or(u64::MAX);
                self.left = self.left.map(|left| left.saturating_sub(n));
                Frame::data(data)
            }
            Part::Trailers(trailers) => Frame::trailers(trailers),
        }
    }
}

impl Drop for Http1Body {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        if inner.turn != self.turn {
            return;
        }
        let unsettled = inner.is_unsettled();
        (inner.has_reader, inner.reader) = (false, None);
        if unsettled {
            inner.wake(None);
        }
    }
}
