//! What a client's connection is doing, and its deadlines.

use std::{
    future::{Future as _, poll_fn},
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;

use crate::{
    admit::{Denial, Denied},
    config::Limits,
};

/// No HTTP/2 frame that a client can ask for at no cost is longer.
const CONTROL_FRAME: usize = 64;

/// From so many requests on, most of them must not be taken back at once: each may cost a link
/// connection, and a client next to nothing (CVE-2023-44487).
const MANY_REQUESTS: usize = 500;

/// A connection that was quiet for so long rests: it keeps nothing but its stream and its watch.
const REST: Duration = Duration::from_millis(250);

/// What a connection is doing, for its deadlines. Times are milliseconds after its start, plus
/// one: zero means "not".
pub(crate) struct Activity {
    began: Instant,
    /// HTTP/2 sends frames between requests that begin none.
    http2: bool,
    /// Requests under way.
    under_way: AtomicUsize,
    /// Requests so far, and those of them that the client took back at once.
    begun: AtomicUsize,
    taken_back: AtomicUsize,
    /// What the client does that only does harm, and who is told.
    abuse: OnceLock<&'static str>,
    abused: AtomicWaker,
    /// The error code of the last word to an HTTP/2 client that has to go, plus one.
    parting: AtomicU32,
    /// Since when a head is awaited whose first byte has come.
    head_since: AtomicU64,
    /// Since when nothing is under way.
    idle_since: AtomicU64,
    /// The next head is awaited, and nothing of it has come.
    waits: AtomicBool,
    /// Since when the client takes no bytes.
    stalled_since: AtomicU64,
    /// Answers of which HTTP/2 holds a frame back until the client's window opens.
    owed: AtomicUsize,
    /// When the client last took something of those.
    took_at: AtomicU64,
    /// The bytes are no longer HTTP/1.
    upgraded: AtomicBool,
    /// A request's body was not read to its end.
    unread: AtomicBool,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    /// Why the connection ended, for the requests that were under way.
    end: OnceLock<Denied>,
}

/// What the deadlines ask for.
pub(crate) enum Wish {
    /// Finish and close.
    GoAway,
    /// Close now.
    Cut(Denied),
    /// Keep nothing until more comes.
    Rest,
}

impl Activity {
    pub(crate) fn new(http2: bool) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            http2,
            under_way: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            taken_back: AtomicUsize::new(0),
            abuse: OnceLock::new(),
            abused: AtomicWaker::new(),
            parting: AtomicU32::new(0),
            // the first head is awaited from the end of the handshake
            head_since: AtomicU64::new(1),
            idle_since: AtomicU64::new(0),
            waits: AtomicBool::new(false),
            stalled_since: AtomicU64::new(0),
            owed: AtomicUsize::new(0),
            took_at: AtomicU64::new(0),
            upgraded: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            end: OnceLock::new(),
        })
    }

    /// Milliseconds after its start.
    pub(crate) fn millis(&self) -> u64 {
        self.millis_at(Instant::now())
    }

    fn millis_at(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.began);
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }

    fn now(&self) -> u64 {
        self.millis().saturating_add(1)
    }

    /// The client has to go for this.
    pub(crate) fn abused_by(&self, what: &'static str) {
        // the first is the one
        let _known_before = self.abuse.set(what);
        self.abused.wake();
    }

    /// Why the client has to go, if it has.
    pub(crate) fn abuse(&self) -> Option<Denied> {
        let what = self.abuse.get()?;
        Some(Denied::new(Denial::RequestInvalid, *what))
    }

    /// From now on nothing is read of an HTTP/2 client, and the last word is GOAWAY with this code.
    pub(crate) fn part(&self, code: u32) {
        self.parting
            .store(code.saturating_add(1), Ordering::Relaxed);
    }

    /// The code of the last word, once it is due.
    pub(crate) fn parting(&self) -> Option<u32> {
        self.parting.load(Ordering::Relaxed).checked_sub(1)
    }

    /// A head is complete.
    pub(crate) fn begin(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.head_since.store(0, Ordering::Relaxed);
        self.idle_since.store(0, Ordering::Relaxed);
        UnderWay {
            activity: Arc::clone(self),
            owed: false,
            ended: None,
        }
    }

    /// Whether a request is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
    }

    /// Whether an HTTP/1.1 connection waits for a head of which nothing has come.
    pub(crate) fn waits(&self, waits: bool) {
        self.waits.store(waits, Ordering::Relaxed);
    }

    /// All of the last request has come, and nothing of the next was read.
    pub(crate) fn read_whole(&self) {
        self.unread.store(false, Ordering::Relaxed);
        self.head_since.store(0, Ordering::Relaxed);
    }

    /// Whether an HTTP/1.1 connection is between requests with nothing to be read or written.
    fn is_between(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
            && !self.is_busy()
            && !self.is_stalled()
            && !self.is_upgraded()
            && !self.may_be_sending()
            && self.end.get().is_none()
    }

    /// The client takes no bytes at the moment.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled_since.load(Ordering::Relaxed) != 0
    }

    /// From now on the bytes are another protocol's.
    pub(crate) fn upgrade(&self) {
        self.upgraded.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_upgraded(&self) -> bool {
        self.upgraded.load(Ordering::Relaxed)
    }

    /// The connection ends for what the client sent, the rest of which nobody reads.
    pub(crate) fn refused(&self, why: &Denied) {
        // the first reason is the one
        let _noted_before = self.end.set(why.clone());
        self.unread.store(true, Ordering::Relaxed);
    }

    /// Why the connection ended, where that was known before it did.
    pub(crate) fn end(&self) -> Option<Denied> {
        self.end.get().cloned()
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.http2
    }

    /// How long the connection has lived.
    pub(crate) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn bytes(&self) -> (u64, u64) {
        (
            self.bytes_in.load(Ordering::Relaxed),
            self.bytes_out.load(Ordering::Relaxed),
        )
    }

    pub(crate) fn read(&self, n: usize) {
        self.bytes_in
            .fetch_add(u64::try_from(n).unwrap_or(0), Ordering::Relaxed);
    }

    /// Something of an HTTP/1 head has come.
    pub(crate) fn head_comes(&self) {
        if self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// What is left of a request's body is read by nobody.
    pub(crate) fn left_unread(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }

    pub(crate) fn wrote(&self, n: usize) {
        self.bytes_out
            .fetch_add(u64::try_from(n).unwrap_or(0), Ordering::Relaxed);
        if self.stalled_since.load(Ordering::Relaxed) != 0 {
            self.stalled_since.store(0, Ordering::Relaxed);
        }
        if n > CONTROL_FRAME && self.owed.load(Ordering::Relaxed) > 0 {
            self.took();
        }
    }

    fn took(&self) {
        self.took_at.store(self.now(), Ordering::Relaxed);
    }

    /// Whether the client may still be sending what nobody will read.
    pub(crate) fn may_be_sending(&self) -> bool {
        if self.http2 {
            // it is told to stop, stream by stream; one that has to go may not listen
            return self.parting().is_some();
        }
        self.unread.load(Ordering::Relaxed) || self.head_since.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn stalled(&self) {
        if self.stalled_since.load(Ordering::Relaxed) == 0 {
            self.stalled_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// The deadlines of this connection.
    pub(crate) fn watch(self: &Arc<Self>, limits: &Limits) -> Watch {
        let (head, idle, write) = (
            limits.header_timeout,
            limits.keepalive_timeout,
            limits.write_timeout,
        );
        // deadlines are met to within a quarter
        let least = head.min(idle).min(write).min(limits.response_timeout);
        let step = (least / 4).max(Duration::from_millis(10));
        Watch(Box::new(Deadlines {
            activity: Arc::clone(self),
            head,
            idle,
            write,
            step,
            resting: false,
            timer: Box::pin(tokio::time::sleep(step)),
        }))
    }

    /// How long ago something began.
    fn elapsed(&self, moment: &AtomicU64) -> Option<Duration> {
        let since = moment.load(Ordering::Relaxed);
        (since != 0).then(|| Duration::from_millis(self.now().saturating_sub(since)))
    }

    fn since(&self, moment: &AtomicU64, limit: Duration) -> bool {
        self.elapsed(moment).is_some_and(|elapsed| elapsed >= limit)
    }
}

/// One timer for all deadlines of a connection, armed again only when it fires. A pointer: it is
/// handed on, and every hand would keep room for it.
pub(crate) struct Watch(Box<Deadlines>);

struct Deadlines {
    activity: Arc<Activity>,
    head: Duration,
    idle: Duration,
    write: Duration,
    step: Duration,
    /// Nothing but a first byte is awaited.
    resting: bool,
    timer: Pin<Box<tokio::time::Sleep>>,
}

impl Watch {
    /// Nothing is under way, and nothing will be until a byte comes: the timer is set for the end
    /// of that wait.
    pub(crate) fn rest(&mut self) {
        self.0.resting = true;
        self.0.arm();
    }

    /// A byte came.
    pub(crate) fn wake(&mut self) {
        self.0.resting = false;
        self.0.arm();
    }

    /// Resolves when a deadline has passed; may be asked again. Nothing is lost when it is
    /// dropped before.
    pub(crate) async fn next(&mut self) -> Wish {
        let deadlines = &mut *self.0;
        loop {
            let abuse = poll_fn(|cx| {
                // first, so that what happens from here on is told
                deadlines.activity.abused.register(cx.waker());
                match deadlines.activity.abuse() {
                    Some(why) => Poll::Ready(Some(why)),
                    None => deadlines.timer.as_mut().poll(cx).map(|()| None),
                }
            });
            if let Some(why) = abuse.await {
                return Wish::Cut(why);
            }
            let wish = deadlines.wish();
            deadlines.arm();
            if let Some(wish) = wish {
                return wish;
            }
        }
    }

    /// Notes why the connection ends, before what is under way learns that it does.
    pub(crate) fn ended(&self, why: &Denied) {
        // the first reason is the one
        let _noted_before = self.0.activity.end.set(why.clone());
    }
}

impl Deadlines {
    fn arm(&mut self) {
        let pause = self.pause();
        self.timer
            .as_mut()
            .reset(tokio::time::Instant::now() + pause);
    }

    /// How long until the deadlines are looked at again.
    fn pause(&self) -> Duration {
        let activity = &self.activity;
        let left = |moment: &AtomicU64, limit: Duration| {
            let left = limit.saturating_sub(activity.elapsed(moment)?);
            // a timer counts in whole milliseconds, and not from the same moment
            Some(left.saturating_add(Duration::from_millis(1)))
        };
        if self.resting {
            left(&activity.head_since, self.head)
                .or_else(|| left(&activity.idle_since, self.idle))
                .unwrap_or(self.step)
        } else if activity.is_http2()
            || activity.is_busy()
            || activity.since(&activity.idle_since, REST)
        {
            self.step
        } else {
            left(&activity.idle_since, REST)
                .unwrap_or(REST)
                .min(self.step)
        }
    }

    fn wish(&self) -> Option<Wish> {
        let activity = &self.activity;
        let owed = activity.owed.load(Ordering::Relaxed) > 0;
        if activity.since(&activity.stalled_since, self.write)
            || owed && activity.since(&activity.took_at, self.write)
        {
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
        if activity.since(&activity.idle_since, self.idle) {
            return Some(Wish::GoAway);
        }
        let quiet = activity.since(&activity.idle_since, REST);
        (quiet && !self.resting && activity.is_between()).then_some(Wish::Rest)
    }
}

/// A request under way; over when dropped.
pub(crate) struct UnderWay {
    activity: Arc<Activity>,
    /// A frame of its answer was handed over and is not taken yet.
    owed: bool,
    /// When it ended, where that is known.
    ended: Option<Instant>,
}

impl UnderWay {
    /// Why the request did not end as it should.
    pub(crate) fn cause(&self) -> Denied {
        let given_up = || Denied::new(Denial::PeerReset, "the client gave the request up");
        self.activity.end.get().cloned().unwrap_or_else(given_up)
    }

    /// It is about to end, at this moment.
    pub(crate) fn ends(&mut self, now: Instant) {
        self.ended = Some(now);
    }

    /// A frame of the answer is handed over. In HTTP/2 it waits there for the client to open its
    /// window, which no write to the socket shows.
    pub(crate) fn handed(&mut self) {
        if self.activity.http2 && !std::mem::replace(&mut self.owed, true) {
            self.activity.owed.fetch_add(1, Ordering::Relaxed);
            self.activity.took();
        }
    }

    /// The next one is asked for: the last has been taken.
    pub(crate) fn taken(&mut self) {
        if std::mem::take(&mut self.owed) {
            self.activity.owed.fetch_sub(1, Ordering::Relaxed);
            self.activity.took();
        }
    }

    /// The client took the request back as soon as it was made.
    pub(crate) fn taken_back(&self) {
        let activity = &self.activity;
        if !activity.http2 {
            // it ends its connection by that
            return;
        }
        let back = activity.taken_back.fetch_add(1, Ordering::Relaxed);
        let begun = activity.begun.load(Ordering::Relaxed);
        if begun > MANY_REQUESTS && back.saturating_mul(2) > begun {
            activity.abused_by("most requests were taken back at once");
        }
    }

    /// The request's body was not read to its end: what is left of it may still come.
    pub(crate) fn left_unread(&self) {
        self.activity.left_unread();
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.taken();
        let activity = &self.activity;
        if activity.under_way.fetch_sub(1, Ordering::Relaxed) == 1 {
            let now = self.ended.unwrap_or_else(Instant::now);
            let at = activity.millis_at(now).saturating_add(1);
            activity.idle_since.store(at, Ordering::Relaxed);
        }
    }
}
