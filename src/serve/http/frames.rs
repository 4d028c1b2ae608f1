//! A client's HTTP/2 stream: its frames are metered, and when it has to go it is told why
//! (RFC 9113 section 5.4.1), which hyper leaves no way to say. Hyper has one end of it; what it
//! writes goes out at the other, once it has nothing more to write.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{activity::Activity, io::ClientIo, outbox::Outbox};
use crate::wire::frames::{Answered, Meter, Octets, goaway};

/// Hyper's end.
pub(super) struct FramedIo(Arc<Mutex<Framed>>);

/// Our end: it drives hyper's connection, and writes what that leaves.
pub(super) struct Gathering {
    framed: Arc<Mutex<Framed>>,
    activity: Arc<Activity>,
    /// Other tasks had their turn before this one.
    stood_back: bool,
}

/// Metered.
struct Framed {
    io: Box<ClientIo>,
    out: Outbox,
    activity: Arc<Activity>,
    meter: Meter,
    answered: Answered,
    /// All that was to be written has been: whatever comes next stands between frames.
    whole: bool,
    /// The last word was said.
    said: bool,
    /// Hyper wrote, or wants what was written to arrive.
    written: bool,
    /// What hyper has to hear of a write that it took for done.
    broken: Option<io::Error>,
}

/// Both ends of a client's stream.
pub(super) fn framed(io: Box<ClientIo>, activity: Arc<Activity>) -> (FramedIo, Gathering) {
    let framed = Arc::new(Mutex::new(Framed {
        io,
        out: Outbox::default(),
        activity: Arc::clone(&activity),
        meter: Meter::default(),
        answered: Answered::default(),
        whole: true,
        said: false,
        written: false,
        broken: None,
    }));
    let gathering = Gathering {
        framed: Arc::clone(&framed),
        activity,
        stood_back: false,
    };
    (FramedIo(framed), gathering)
}

fn lock(framed: &Mutex<Framed>) -> MutexGuard<'_, Framed> {
    // both ends are in one task, which ends with a panic
    framed.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gathering {
    /// Has hyper's connection take its turn, and writes what came of that. Where many
    /// requests are under way, tasks that are ready go first: the answers that they bring go out
    /// together. Each answer wakes the connection, which would else write it alone.
    pub(super) fn poll<F: Future>(
        &mut self,
        cx: &mut Context<'_>,
        connection: Pin<&mut F>,
    ) -> Poll<F::Output> {
        if self.activity.has_many() && !std::mem::replace(&mut self.stood_back, true) {
            // behind all that is ready now, and nothing else is waited for
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.stood_back = false;
        let turned = connection.poll(cx);
        // bytes that are not taken now are waited for
        lock(&self.framed).end_turn(cx);
        turned
    }
}

impl Framed {
    /// Says GOAWAY where it still can be understood; hyper is told that the client has ended.
    fn part(&mut self, cx: &mut Context<'_>, code: u32) {
        if std::mem::replace(&mut self.said, true) || !self.whole {
            return;
        }
        // who takes no bytes misses it
        if self.poll_put(cx, &[IoSlice::new(&goaway(code))]).is_ready() {
            let _taken_or_not = self.poll_drain(cx).is_ready();
        }
    }

    /// Writes what the turn has left. Bytes that are not taken now are waited for.
    fn end_turn(&mut self, cx: &mut Context<'_>) {
        if !self.written {
            return;
        }
        match self.poll_drain(cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.written = false,
            Poll::Ready(Err(error)) => {
                self.written = false;
                self.broken = Some(error);
                cx.waker().wake_by_ref();
            }
        }
    }

    fn poll_put(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.out.poll_put(cx, &mut self.io, bufs)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.out.poll_drain(cx, &mut self.io)
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(self.poll_put(cx, bufs))?;
        let of = bufs
            .iter()
            .fold(0usize, |sum, buf| sum.saturating_add(buf.len()));
        (self.whole, self.written) = (n == of, true);
        self.meter.wrote(n);
        let (mut left, mut answered) = (n, Octets::default());
        for buf in bufs {
            let taken = buf.get(..left).unwrap_or(buf);
            left = left.saturating_sub(taken.len());
            self.answered.wrote(taken, &mut answered);
        }
        self.activity.handed_on(answered);
        Poll::Ready(Ok(n))
    }
}

impl AsyncRead for FramedIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut framed = lock(&self.0);
        let this = &mut *framed;
        if let Some(code) = this.activity.parting() {
            this.part(cx, code);
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Err(error));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let came = buf.filled().get(before..).unwrap_or_default();
        if let Err(fault) = this.meter.read(came, || this.activity.millis()) {
            buf.set_filled(before);
            this.activity.abused_by(fault.what());
            this.activity.part(fault.code());
            this.part(cx, fault.code());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FramedIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// At the end of the turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).written = true;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut framed = lock(&self.0);
        ready!(framed.poll_drain(cx))?;
        Pin::new(&mut framed.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        pin::pin,
        sync::atomic::{AtomicUsize, Ordering},
        task::{Wake, Waker},
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
    };

    use super::*;
    use crate::{
        net::{Buffered, Socket},
        serve::http::stream::ClientStream,
    };

    fn ends() -> (FramedIo, Gathering, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        let activity = Activity::new(true);
        let socket = Box::new(Buffered::new(Socket::Unix(near)));
        let io = ClientIo::new(ClientStream::Plain(socket), Arc::clone(&activity));
        let (framed, gathering) = framed(Box::new(io), activity);
        (framed, gathering, far)
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection that writes and flushes part by part, then waits for ever.
    async fn writes(mut io: FramedIo, parts: Vec<Vec<u8>>) {
        for part in parts {
            io.write_all(&part).await.unwrap();
            io.flush().await.unwrap();
        }
        // a connection keeps its stream
        std::future::pending::<FramedIo>().await;
    }

    #[tokio::test]
    async fn what_a_turn_writes_goes_out_at_its_end() {
        let (io, mut gathering, far) = ends();
        let mut turned = pin!(writes(io, vec![vec![1; 300], vec![2; 3]]));
        let mut cx = Context::from_waker(Waker::noop());
        let mut got = [0; 4096];
        assert!(turned.as_mut().poll(&mut cx).is_pending());
        assert!(far.try_read(&mut got).is_err());
        assert!(gathering.poll(&mut cx, turned).is_pending());
        far.readable().await.unwrap();
        assert_eq!(far.try_read(&mut got).unwrap(), 303);
        assert_eq!(got[299..304], [1, 2, 2, 2, 0]);
    }

    #[tokio::test]
    async fn a_turn_among_many_requests_is_put_off_once() {
        let (_io, mut gathering, _far) = ends();
        let activity = Arc::clone(&gathering.activity);
        let turns = AtomicUsize::new(0);
        let mut connection = pin!(poll_fn(|_| {
            turns.fetch_add(1, Ordering::Relaxed);
            Poll::<()>::Pending
        }));
        let wakes = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut cx = Context::from_waker(&waker);
        let mut counts = || {
            let _pending = gathering.poll(&mut cx, connection.as_mut());
            (
                turns.load(Ordering::Relaxed),
                wakes.0.load(Ordering::Relaxed),
            )
        };
        let _few = [activity.begin(), activity.begin(), activity.begin()];
        assert_eq!(counts(), (1, 0));
        let one_more = activity.begin();
        assert_eq!(counts(), (1, 1));
        assert_eq!(counts(), (2, 1));
        assert_eq!(counts(), (2, 2));
        // it was put off, and nobody is waited for any more
        drop(one_more);
        assert_eq!(counts(), (3, 2));
    }

    #[tokio::test]
    async fn one_who_reads_slowly_gets_all_and_is_not_written_ahead_of() {
        let (io, mut gathering, mut far) = ends();
        let activity = Arc::clone(&gathering.activity);
        let parts: Vec<Vec<u8>> = (0..200_u8).map(|n| vec![n; 16_393]).collect();
        let sent = parts.concat();
        let mut turned = pin!(writes(io, parts));
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(gathering.poll(&mut cx, turned.as_mut()).is_pending());
        }
        // a socket's buffers and ours do not hold it
        assert!(activity.is_stalled());
        assert!(activity.bytes().1 < 2 << 20);
        let mut got = vec![0; sent.len()];
        tokio::select! {
            () = poll_fn(|cx| gathering.poll(cx, turned.as_mut())) => unreachable!(),
            read = far.read_exact(&mut got) => assert_eq!(read.unwrap(), sent.len()),
        }
        assert_eq!(got, sent);
        assert!(!activity.is_stalled());
    }

    #[tokio::test]
    async fn a_shutdown_brings_what_was_written() {
        let (mut io, _gathering, mut far) = ends();
        io.write_all(b"the last").await.unwrap();
        io.shutdown().await.unwrap();
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"the last");
    }

    #[tokio::test]
    async fn a_write_that_fails_at_a_turns_end_is_told() {
        let (mut io, mut gathering, far) = ends();
        io.write_all(b"for nobody").await.unwrap();
        drop(far);
        let wakes = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut cx = Context::from_waker(&waker);
        let turned = pin!(std::future::pending::<()>());
        assert!(gathering.poll(&mut cx, turned).is_pending());
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        let error = io.read(&mut [0; 9]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
