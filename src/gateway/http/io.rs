//! The client's stream as hyper sees it, and the timers that are ours: hyper's own head timer also
//! runs in idle time.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    admit::{Denial, Denied},
    config::Limits,
    serve::ServerStream,
};

/// What a connection is doing, for its deadlines. Times are milliseconds after its start, plus
/// one: zero means "not".
pub(super) struct Activity {
    began: Instant,
    /// HTTP/2 sends frames between requests that begin none.
    http2: bool,
    /// Requests under way.
    under_way: AtomicUsize,
    /// Since when a head is awaited whose first byte has come.
    head_since: AtomicU64,
    /// Since when nothing is under way.
    idle_since: AtomicU64,
    /// Since when the client takes no bytes.
    stalled_since: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// What the deadlines ask for.
pub(super) enum Wish {
    /// Finish and close.
    GoAway,
    /// Close now.
    Cut(Denied),
}

impl Activity {
    pub(super) fn new(http2: bool) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            http2,
            under_way: AtomicUsize::new(0),
            // the first head is awaited from the end of the handshake
            head_since: AtomicU64::new(1),
            idle_since: AtomicU64::new(0),
            stalled_since: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .saturating_add(1)
    }

    /// A head is complete.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.head_since.store(0, Ordering::Relaxed);
        self.idle_since.store(0, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
    }

    pub(super) fn bytes(&self) -> (u64, u64) {
        (
            self.bytes_in.load(Ordering::Relaxed),
            self.bytes_out.load(Ordering::Relaxed),
        )
    }

    fn read(&self, n: usize) {
        self.bytes_in
            .fetch_add(u64::try_from(n).unwrap_or(0), Ordering::Relaxed);
        if !self.http2
            && self.under_way.load(Ordering::Relaxed) == 0
            && self.head_since.load(Ordering::Relaxed) == 0
        {
            self.head_since.store(self.now(), Ordering::Relaxed);
        }
    }

    fn wrote(&self, n: usize) {
        self.bytes_out
            .fetch_add(u64::try_from(n).unwrap_or(0), Ordering::Relaxed);
        if self.stalled_since.load(Ordering::Relaxed) != 0 {
            self.stalled_since.store(0, Ordering::Relaxed);
        }
    }

    fn stalled(&self) {
        if self.stalled_since.load(Ordering::Relaxed) == 0 {
            self.stalled_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// The deadlines of this connection.
    pub(super) fn watch(self: &Arc<Self>, limits: &Limits) -> Watch {
        let (head, idle, write) = (
            limits.header_timeout,
            limits.keepalive_timeout,
            limits.write_timeout,
        );
        // deadlines are met to within a quarter
        let step = (head.min(idle).min(write) / 4).max(Duration::from_millis(10));
        Watch {
            activity: Arc::clone(self),
            head,
            idle,
            write,
            step,
            timer: Box::pin(tokio::time::sleep(step)),
        }
    }

    fn since(&self, moment: &AtomicU64, limit: Duration) -> bool {
        let since = moment.load(Ordering::Relaxed);
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        since != 0 && self.now().saturating_sub(since) >= limit
    }
}

/// One timer for all deadlines of a connection, armed again only when it fires.
pub(super) struct Watch {
    activity: Arc<Activity>,
    head: Duration,
    idle: Duration,
    write: Duration,
    step: Duration,
    timer: Pin<Box<tokio::time::Sleep>>,
}

impl Watch {
    /// Resolves when a deadline has passed; may be asked again. Nothing is lost when it is
    /// dropped before.
    pub(super) async fn next(&mut self) -> Wish {
        loop {
            self.timer.as_mut().await;
            self.timer
                .as_mut()
                .reset(tokio::time::Instant::now() + self.step);
            if let Some(wish) = self.wish() {
                return wish;
            }
        }
    }

    fn wish(&self) -> Option<Wish> {
        let activity = &self.activity;
        if activity.since(&activity.stalled_since, self.write) {
            return Some(Wish::Cut(Denied::new(
                Denial::WriteTimeout,
                "the client takes no bytes",
            )));
        }
        if activity.under_way.load(Ordering::Relaxed) > 0 {
            return None;
        }
        if activity.since(&activity.head_since, self.head) {
            return Some(Wish::Cut(Denied::new(
                Denial::RequestTimeout,
                format!("limits.header_timeout = {:?}", self.head),
            )));
        }
        if activity.head_since.load(Ordering::Relaxed) != 0 {
            return None;
        }
        // a client that was told to go and neither asks nor goes is not waited for
        if activity.since(&activity.idle_since, self.idle.saturating_add(self.head)) {
            return Some(Wish::Cut(Denied::new(
                Denial::IdleTimeout,
                format!("limits.keepalive_timeout = {:?}", self.idle),
            )));
        }
        activity
            .since(&activity.idle_since, self.idle)
            .then_some(Wish::GoAway)
    }
}

/// A request under way; over when dropped.
pub(super) struct UnderWay(Arc<Activity>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.0.under_way.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.idle_since.store(self.0.now(), Ordering::Relaxed);
        }
    }
}

/// The client's TLS stream.
pub(super) struct ClientIo {
    stream: ServerStream,
    activity: Arc<Activity>,
}

impl ClientIo {
    pub(super) fn new(stream: ServerStream, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        let n = buf.filled().len().saturating_sub(before);
        if n > 0 {
            this.activity.read(n);
        }
        read
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.noted(written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        match &flushed {
            Poll::Pending => this.activity.stalled(),
            Poll::Ready(_) => this.activity.wrote(0),
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.noted(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl ClientIo {
    fn noted(&self, written: Poll<std::io::Result<usize>>) -> Poll<std::io::Result<usize>> {
        match &written {
            Poll::Pending => self.activity.stalled(),
            Poll::Ready(Ok(n)) => self.activity.wrote(*n),
            Poll::Ready(Err(_)) => {}
        }
        written
    }
}

/// Why hyper gave a connection up.
pub(super) fn denied_by(error: &hyper::Error) -> Denied {
    let reason = if error.is_parse_too_large() {
        Denial::HeaderTooLarge
    } else if error.is_parse() {
        Denial::RequestInvalid
    } else {
        Denial::PeerReset
    };
    Denied::new(reason, error.to_string())
}
