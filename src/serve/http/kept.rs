//! Bodies that are read whole before they are sent, so that they can be hashed or sent twice, and
//! bodies whose hash is checked as they pass.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame};

use super::{
    body::{BodyError, RequestBody},
    received::Received,
};
use crate::wire::signature::content_digest::Expected;

/// What is unusual of a body.
pub(super) enum Special {
    /// A body that was read whole before it is sent.
    Kept(Kept),
    /// Its hash has to be this in the end.
    Hashed(Option<Expected>),
}

/// A whole body, which can be sent more than once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    data: Vec<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Kept {
    /// How long it is.
    pub(crate) fn len(&self) -> usize {
        self.data.iter().map(Bytes::len).sum()
    }

    /// Its parts.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.data.iter().map(AsRef::as_ref)
    }

    /// Whether nothing is to be sent.
    pub(super) fn is_empty(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }

    /// Whether trailers follow it.
    pub(crate) fn has_trailers(&self) -> bool {
        self.trailers.is_some()
    }
}

impl RequestBody {
    /// The same, which breaks in the end where its hash is another.
    pub(crate) fn hashed(mut self, expected: Expected) -> Self {
        self.special = Some(Box::new(Special::Hashed(Some(expected))));
        self
    }

    /// Reads all of it, where it is not longer than `limit`.
    pub(crate) async fn keep(mut self, limit: usize) -> Result<Kept, BodyError> {
        let mut kept = Kept::default();
        let mut left = limit;
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut self).poll_frame(cx)).await {
            match frame?.into_data() {
                Ok(data) => {
                    left = left.checked_sub(data.len()).ok_or(BodyError::TooLarge)?;
                    kept.data.push(data);
                }
                Err(frame) => kept.trailers = frame.into_trailers().ok(),
            }
        }
        Ok(kept)
    }

    /// A body that was kept, to be sent.
    pub(crate) fn of(kept: &Kept) -> (Self, Arc<Received>) {
        let received = Arc::new(Received::default());
        let mut kept = kept.clone();
        // the next part is the last of the list
        kept.data.reverse();
        let empty = kept.is_empty();
        received.done.store(empty, Ordering::Release);
        let mut body = Self::none(&received);
        body.special = (!empty).then(|| Box::new(Special::Kept(kept)));
        (body, received)
    }

    /// The next frame of a body that was kept.
    pub(super) fn next_kept(&mut self) -> Option<Frame<Bytes>> {
        let Some(Special::Kept(kept)) = self.special.as_deref_mut() else {
            return None;
        };
        let data = kept.data.pop();
        if let Some(data) = &data {
            let n = u64::try_from(data.len()).unwrap_or(0);
            self.received.bytes.fetch_add(n, Ordering::Relaxed);
        }
        let data = data.map(Frame::data);
        let frame = data.or_else(|| kept.trailers.take().map(Frame::trailers));
        if kept.is_empty() {
            self.received.done.store(true, Ordering::Release);
        }
        frame
    }

    /// A part that is to be hashed; at the end, whether all of it was right.
    pub(super) fn hash(&mut self, part: Option<&[u8]>, last: bool) -> Result<(), BodyError> {
        let Some(Special::Hashed(expected)) = self.special.as_deref_mut() else {
            return Ok(());
        };
        if let (Some(part), Some(expected)) = (part, expected.as_mut()) {
            expected.update(part);
        }
        if last && expected.take().is_some_and(|expected| !expected.fits()) {
            return Err(BodyError::OtherDigest);
        }
        Ok(())
    }
}
