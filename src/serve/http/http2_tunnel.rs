//! A tunnel in a stream of a client's HTTP/2 connection. hyper ends the stream in order as soon as
//! its bytes are let go, and reads one that was reset as one that ended. So what sends its bytes,
//! which hyper would leave to a task, is kept and driven by who carries them: once it is dropped
//! nothing can end the stream any more, and h2 resets it.

use std::{
    error::Error as _,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use http::Request;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
    task,
};

use crate::{drain::Drain, net::Hold};

/// What sends a tunnel's bytes. When it is done the stream has ended in order, or was reset.
type Sending = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs the streams of a connection as tasks of the drain, but for what sends a tunnel's bytes.
#[derive(Clone)]
pub(super) struct Executor(Arc<Streams>);

struct Streams {
    drain: Drain,
    asked: Arc<Asked>,
}

/// Who waits for what sends a tunnel's bytes, by the task that answers the request.
#[derive(Default)]
pub(super) struct Asked(Mutex<Vec<(task::Id, oneshot::Sender<Sending>)>>);

/// A stream that a request wants to be a tunnel.
pub(crate) struct AskedTunnel {
    upgraded: OnUpgrade,
    sending: Option<oneshot::Receiver<Sending>>,
}

/// A stream that has become one. Dropped before both its ends it is reset.
pub(super) struct StreamTunnel {
    line: Arc<Line>,
    stream: TokioIo<Upgraded>,
}

/// What sends, shared with who drives it while the tunnel is in use.
pub(super) struct Line(Mutex<State>);

struct State {
    /// `None`: the tunnel was let go. Kept when it is done: it knows of the stream.
    sending: Option<Sending>,
    /// It sends no more.
    done: bool,
    /// Our end was handed over; one that is done without has broken.
    ending: bool,
}

impl Executor {
    pub(super) fn new(drain: Drain) -> Self {
        Self(Arc::new(Streams {
            drain,
            asked: Arc::default(),
        }))
    }

    /// For requests that may become tunnels.
    pub(super) fn asked(&self) -> &Arc<Asked> {
        &self.0.asked
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, future: F) {
        match self.0.asked.here() {
            // whoever waited has gone: the stream is reset
            Some(asked) => drop(asked.send(Box::pin(future))),
            None => self.0.drain.spawn(future),
        }
    }
}

impl Asked {
    fn lock(&self) -> MutexGuard<'_, Vec<(task::Id, oneshot::Sender<Sending>)>> {
        // each change is one statement: a panicking holder leaves it whole
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// hyper hands over what sends in the task that answers.
    fn wait(&self) -> Option<oneshot::Receiver<Sending>> {
        let task = task::try_id()?;
        let (asked, sending) = oneshot::channel();
        let mut all = self.lock();
        all.retain(|(_, asked)| !asked.is_closed());
        all.push((task, asked));
        Some(sending)
    }

    /// Who waits for what this task hands over.
    fn here(&self) -> Option<oneshot::Sender<Sending>> {
        let mut all = self.lock();
        if all.is_empty() {
            return None;
        }
        let here = task::try_id()?;
        let at = all.iter().position(|(task, _)| *task == here)?;
        Some(all.swap_remove(at).1)
    }
}

impl AskedTunnel {
    /// That of a request, in the task that answers it.
    pub(super) fn of<B>(request: &mut Request<B>) -> Self {
        let asked = request.extensions_mut().remove::<Arc<Asked>>();
        Self {
            sending: asked.and_then(|asked| asked.wait()),
            upgraded: hyper::upgrade::on(request),
        }
    }

    /// Waits until the client was told.
    pub(super) async fn told(self) -> io::Result<StreamTunnel> {
        let upgraded = self.upgraded.await.map_err(io::Error::other)?;
        let sending = match self.sending {
            Some(sending) => sending.await.map_err(io::Error::other)?,
            None => return Err(io::Error::other("nothing sends the tunnel's bytes")),
        };
        Ok(StreamTunnel {
            line: Arc::new(Line(Mutex::new(State {
                sending: Some(sending),
                done: false,
                ending: false,
            }))),
            stream: TokioIo::new(upgraded),
        })
    }
}

impl State {
    /// Sends what was handed over.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if !self.done {
            self.done = self.poll(cx).is_ready();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.sending {
            Some(sending) => sending.as_mut().poll(cx),
            None => Poll::Ready(()),
        }
    }

    fn is_broken(&self) -> bool {
        self.done && !self.ending
    }
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries bytes while what sends them is driven: it waits for the client's window.
    pub(super) async fn driven<F: Future>(&self, carried: F) -> F::Output {
        let mut carried = pin!(carried);
        poll_fn(|cx| {
            self.lock().drive(cx);
            carried.as_mut().poll(cx)
        })
        .await
    }
}

/// Whether this is of a reset; what was said of a stream to which nothing more can be written is not.
fn is_reset(error: &io::Error) -> bool {
    let of_hyper = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<hyper::Error>());
    let cause = of_hyper.and_then(|error| error.source());
    let of_h2 = cause.and_then(|cause| cause.downcast_ref::<h2::Error>());
    of_h2.is_some_and(|error| error.reason().is_some())
}

impl StreamTunnel {
    pub(super) fn line(&self) -> Arc<Line> {
        Arc::clone(&self.line)
    }

    /// Why nothing more can be sent.
    fn broken(&mut self, cx: &mut Context<'_>) -> io::Error {
        // hyper says it here
        match Pin::new(&mut self.stream).poll_shutdown(cx) {
            Poll::Ready(Err(error)) => error,
            Poll::Ready(Ok(())) | Poll::Pending => io::ErrorKind::ConnectionReset.into(),
        }
    }

    /// What reads as the client's end is one.
    ///
    /// # Errors
    /// The client has reset the stream.
    fn ended(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let line = Arc::clone(&self.line);
        let mut state = line.lock();
        // a reset is seen before anything else
        state.drive(cx);
        if !state.done {
            return Ok(());
        }
        if state.ending {
            // asked once more, it finds a stream that was reset, or one that takes nothing more
            let _done = state.poll(cx);
        }
        match self.broken(cx) {
            error if state.is_broken() || is_reset(&error) || error.get_ref().is_none() => {
                Err(error)
            }
            _takes_nothing_more => Ok(()),
        }
    }
}

impl Drop for StreamTunnel {
    /// In front of hyper's part, whose drop says that the bytes have ended.
    fn drop(&mut self) {
        self.line.lock().sending = None;
    }
}

impl Hold for StreamTunnel {}

impl AsyncRead for StreamTunnel {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.remaining();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        if before > 0 && buf.remaining() == before {
            this.ended(cx)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamTunnel {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let line = Arc::clone(&this.line);
        let mut state = line.lock();
        if state.is_broken() {
            return Poll::Ready(Err(this.broken(cx)));
        }
        let n = ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?;
        state.drive(cx);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let line = Arc::clone(&this.line);
        let mut state = line.lock();
        state.drive(cx);
        if state.is_broken() {
            return Poll::Ready(Err(this.broken(cx)));
        }
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let line = Arc::clone(&this.line);
        let mut state = line.lock();
        if state.is_broken() {
            return Poll::Ready(Err(this.broken(cx)));
        }
        state.ending = true;
        // nothing more is handed over; hyper waits until what sends is dropped, which is later
        if let Poll::Ready(said) = Pin::new(&mut this.stream).poll_shutdown(cx) {
            return Poll::Ready(said);
        }
        state.drive(cx);
        if !state.done {
            return Poll::Pending;
        }
        match Pin::new(&mut this.stream).poll_shutdown(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
        }
    }
}
