//! What a client's connection is doing, and its deadlines.

mod deadlines;
mod under_way;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;
use tokio::sync::{Notify, futures::Notified};

pub(crate) use self::{deadlines::Watch, under_way::UnderWay};

use crate::{
    admit::{Denial, Denied},
    wire::frames::Octets,
};

/// Of fewer requests under way at once, mostly one alone is answered at a time.
const MANY: usize = 4;

/// What a connection is doing, for its deadlines. Times are milliseconds after its start, plus
/// one: zero means "not".
pub(crate) struct Activity {
    began: Instant,
    /// HTTP/2 sends frames between requests that begin none.
    http2: bool,
    /// Requests under way.
    under_way: AtomicUsize,
    /// Requests so far that were not refused here, and those of them that the client took back at
    /// once.
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
    /// How much of answers it took in HTTP/2, and of their bodies.
    taken: AtomicU64,
    bodies_taken: AtomicU64,
    /// How often it took promptly what came of an answer of which it took all so.
    flows: AtomicUsize,
    /// The bytes are no longer HTTP/1.
    upgraded: AtomicBool,
    /// An HTTP/1 client has said that it asks for nothing more.
    said_last: AtomicBool,
    /// Wakes who waits for an answer in HTTP/2 to look at the clock.
    looks: Notify,
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
            taken: AtomicU64::new(0),
            bodies_taken: AtomicU64::new(0),
            flows: AtomicUsize::new(0),
            upgraded: AtomicBool::new(false),
            looks: Notify::new(),
            unread: AtomicBool::new(false),
            said_last: AtomicBool::new(false),
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
        UnderWay::new(Arc::clone(self))
    }

    /// Whether no request has come yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.begun.load(Ordering::Relaxed) == 0
    }

    /// Whether a request is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
    }

    /// Resolves when deadlines are looked at the next time, which they are in HTTP/2 as long as the
    /// connection lives.
    pub(crate) fn looks(&self) -> Notified<'_> {
        self.looks.notified()
    }

    /// Whether so many requests are under way that answers come together.
    pub(crate) fn has_many(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) >= MANY
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
    }

    /// So much of answers in HTTP/2 is on its way to the client, which has opened a window for it.
    pub(crate) fn handed_on(&self, n: Octets) {
        let [heads, bodies] = [n.heads, n.bodies].map(|n| u64::try_from(n).unwrap_or(0));
        if heads == 0 && bodies == 0 {
            return;
        }
        let all = heads.saturating_add(bodies);
        self.taken.fetch_add(all, Ordering::Relaxed);
        self.bodies_taken.fetch_add(bodies, Ordering::Relaxed);
        if self.is_owed() {
            self.took(Instant::now());
        }
    }

    /// HTTP/2 holds a frame of an answer back until the client's window opens.
    fn is_owed(&self) -> bool {
        self.owed.load(Ordering::Relaxed) > 0
    }

    fn took(&self, now: Instant) {
        let at = self.millis_at(now).saturating_add(1);
        self.took_at.store(at, Ordering::Relaxed);
    }

    /// Whether an answer ended so lately.
    pub(crate) fn answered_within(&self, limit: Duration) -> bool {
        self.is_busy()
            || self
                .elapsed(&self.idle_since)
                .is_some_and(|elapsed| elapsed < limit)
    }

    /// The client of HTTP/1 asks for nothing behind this request (RFC 9112 section 9.6).
    pub(crate) fn says_last(&self) {
        self.said_last.store(true, Ordering::Relaxed);
    }

    /// Whether it did.
    pub(crate) fn said_last(&self) -> bool {
        self.said_last.load(Ordering::Relaxed)
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

    /// How long ago something began.
    fn elapsed(&self, moment: &AtomicU64) -> Option<Duration> {
        let since = moment.load(Ordering::Relaxed);
        (since != 0).then(|| Duration::from_millis(self.now().saturating_sub(since)))
    }

    fn since(&self, moment: &AtomicU64, limit: Duration) -> bool {
        self.elapsed(moment).is_some_and(|elapsed| elapsed >= limit)
    }
}
