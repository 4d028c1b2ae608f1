//! One client's stream on a link.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Link;
use crate::{
    admit::Denied,
    net::{Hold, Octets},
    wire::mux::{Break, Payload as _},
};

/// A stream; one that is dropped before its ends is reset.
pub struct Stream {
    link: Link,
    id: u32,
    /// Octets that came, and how many of them were read.
    taken: Option<(Octets, usize)>,
}

impl Stream {
    pub(super) fn new(link: Link, id: u32) -> Self {
        Self {
            link,
            id,
            taken: None,
        }
    }

    /// The link that carries it.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Waits for the answer to OPEN.
    ///
    /// # Errors
    /// A refusal, or why there will be no answer.
    pub async fn admitted(&mut self) -> Result<(), Break> {
        poll_fn(|cx| self.link.poll(|mux| mux.poll_admitted(self.id, cx.waker()))).await
    }

    /// Whether the other end may have its OPEN, and what went with that.
    #[must_use]
    pub fn was_said(&self) -> bool {
        self.link.lock().mux.was_said(self.id)
    }

    /// Resolves when the link is cut: nothing of the stream may go on from then, also of what came
    /// before it broke.
    pub fn cut(&self) -> impl Future<Output = ()> + Send + use<> {
        let (link, id) = (self.link.clone(), self.id);
        poll_fn(move |cx| link.poll(|mux| mux.poll_cut(id, cx.waker())))
    }

    /// Resolves when the stream breaks.
    pub fn broken(&self) -> impl Future<Output = Break> + Send + use<> {
        let (link, id) = (self.link.clone(), self.id);
        poll_fn(move |cx| link.poll(|mux| mux.poll_broken(id, cx.waker())))
    }

    /// Says ADMITTED: the backend is open.
    pub fn admit(&self) {
        self.link.with(|state| state.mux.admit(self.id));
    }

    /// Says REFUSED, and why.
    pub fn refuse(&self, code: &str) {
        self.link.with(|state| state.mux.refuse(self.id, code));
    }

    /// Says RESET: what was sent is not to look whole.
    pub fn reset(&self) {
        self.link.with(|state| state.mux.reset(self.id));
    }

    /// Why the link is no more.
    #[must_use]
    pub fn link_ended(&self) -> Option<Denied> {
        self.link.ended()
    }

    fn failed(&self, why: Break) -> io::Error {
        let text = match (&why, self.link.ended()) {
            (Break::Link, Some(ended)) => format!("the link broke: {ended}"),
            (Break::Cut, Some(ended)) => ended.to_string(),
            (Break::Link | Break::Cut | Break::Reset | Break::Refused(_) | Break::Over, _) => {
                why.to_string()
            }
        };
        io::Error::new(io::ErrorKind::ConnectionReset, text)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let (octets, from) = match this.taken.take() {
            Some(taken) => taken,
            None => match ready!(this.link.poll(|mux| mux.poll_take(this.id, cx.waker()))) {
                Ok(Some(octets)) => (octets, 0),
                Ok(None) => return Poll::Ready(Ok(())),
                Err(why) => return Poll::Ready(Err(this.failed(why))),
            },
        };
        let rest = octets.bytes().get(from..).unwrap_or_default();
        let n = rest.len().min(buf.remaining());
        buf.put_slice(rest.get(..n).unwrap_or_default());
        if n < rest.len() {
            this.taken = Some((octets, from.saturating_add(n)));
        }
        Poll::Ready(Ok(()))
    }
}

/// Frames that come together go out together.
impl Hold for Stream {
    fn says_its_end(&self) -> bool {
        true
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let broken = self.link.poll(|mux| mux.poll_broken(self.id, cx.waker()));
        broken.map(|why| self.failed(why))
    }

    fn poll_lend(&mut self, cx: &mut Context<'_>) -> Option<Poll<io::Result<Option<Octets>>>> {
        if self.taken.is_some() {
            return None;
        }
        match self.link.poll(|mux| mux.poll_take(self.id, cx.waker())) {
            Poll::Ready(Ok(Some(octets))) if !octets.are_many() => {
                self.taken = Some((octets, 0));
                None
            }
            taken @ (Poll::Ready(_) | Poll::Pending) => Some(taken.map_err(|why| self.failed(why))),
        }
    }

    fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        octets: &mut Option<Octets>,
    ) -> Option<Poll<io::Result<usize>>> {
        let len = octets.as_ref()?.bytes().len();
        let reserved = self
            .link
            .poll(|mux| mux.poll_reserve(self.id, len, cx.waker()));
        Some(match reserved {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(why)) => Poll::Ready(Err(self.failed(why))),
            Poll::Ready(Ok(n)) => {
                let given = if n == len {
                    octets.take()?
                } else {
                    Octets::of(octets.as_ref()?.bytes().get(..n).unwrap_or_default())
                };
                self.link.with(|state| state.mux.push(self.id, given));
                Poll::Ready(Ok(n))
            }
        })
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        if len == 0 {
            return Poll::Ready(Ok(0));
        }
        let reserved = self
            .link
            .poll(|mux| mux.poll_reserve(self.id, len, cx.waker()));
        match ready!(reserved) {
            Ok(n) => {
                // copied outside of the lock
                let octets = Octets::gathered(bufs, n);
                self.link.with(|state| state.mux.push(self.id, octets));
                Poll::Ready(Ok(n))
            }
            Err(why) => Poll::Ready(Err(self.failed(why))),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was written goes by itself.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Says FIN, behind what was written.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let finished = self.link.poll(|mux| mux.poll_finish(self.id, cx.waker()));
        finished.map_err(|why| self.failed(why))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.link.with(|state| state.mux.release(self.id));
    }
}
