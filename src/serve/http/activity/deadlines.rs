//! The deadlines of a connection: one timer looks at all of them.

use std::{
    future::{Future as _, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use super::{Activity, Wish};
use crate::{
    admit::{Denial, Denied},
    config::Limits,
};

/// A connection that was quiet for so long rests: it keeps nothing but its stream and its watch.
const REST: Duration = Duration::from_millis(250);

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
    /// HTTP/1's is that of its socket.
    pace: Option<Box<Pace>>,
    timer: Pin<Box<tokio::time::Sleep>>,
}

/// How fast an HTTP/2 client takes what it is owed. A window that opens by an octet now and then
/// would hold an answer, and all that stands behind it, for ever.
struct Pace {
    /// Octets a second; 0: as it likes.
    least: u64,
    looked: Instant,
    /// For how long it was owed something, so far, and what it had taken before.
    waited: Duration,
    before: u64,
    /// At the last look: what it had taken of bodies, and since when nothing was under way.
    bodies: u64,
    idle: u64,
    /// How much flowed before.
    flows: usize,
}

impl Activity {
    /// The deadlines of this connection. `shared`: it is as slow as the slowest of many, who are judged
    /// where they come in.
    pub(crate) fn watch(self: &Arc<Self>, limits: &Limits, shared: bool) -> Watch {
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
            pace: self.is_http2().then(|| {
                Box::new(Pace {
                    least: if shared { 0 } else { limits.body_min_rate },
                    looked: Instant::now(),
                    waited: Duration::ZERO,
                    before: 0,
                    bodies: 0,
                    idle: 0,
                    flows: 0,
                })
            }),
            timer: Box::pin(tokio::time::sleep(step)),
        }))
    }
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
            deadlines.activity.looks.notify_waiters();
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

    fn wish(&mut self) -> Option<Wish> {
        let activity = &self.activity;
        if activity.since(&activity.stalled_since, self.write)
            || activity.is_owed() && activity.since(&activity.took_at, self.write)
        {
            return Some(Wish::Cut(Denied::new(
                Denial::WriteTimeout,
                "the client takes no bytes",
            )));
        }
        if let Some(pace) = &mut self.pace
            && pace.is_too_slow(activity, self.write)
        {
            return Some(Wish::Cut(Denied::new(
                Denial::WriteTimeout,
                format!(
                    "the client takes fewer bytes a second than limits.body_min_rate = {}",
                    pace.least
                ),
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

impl Pace {
    /// Whether it took too little of the time for which it was owed something, each `span` of it.
    fn is_too_slow(&mut self, activity: &Activity, span: Duration) -> bool {
        let now = Instant::now();
        let passed = now.saturating_duration_since(std::mem::replace(&mut self.looked, now));
        let waits = activity.is_owed() || self.trails(activity);
        self.bodies = activity.bodies_taken.load(Ordering::Relaxed);
        self.idle = activity.idle_since.load(Ordering::Relaxed);
        if !waits {
            return false;
        }
        self.waited = self.waited.saturating_add(passed);
        if self.waited < span {
            return false;
        }
        let millis = u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX);
        let least = self.least.saturating_mul(millis) / 1_000;
        let taken = activity.taken.load(Ordering::Relaxed);
        let flows = activity.flows.load(Ordering::Relaxed);
        // who lets one answer rest and takes others uses the connection
        let slow = taken.saturating_sub(self.before) < least && flows == self.flows;
        (self.waited, self.before, self.flows) = (Duration::ZERO, taken, flows);
        slow
    }

    /// The rest of answers is kept for a client whose window is shut, and their requests are over.
    /// While something of that is taken the connection is not idle. A head alone is an answer of h2's
    /// own.
    fn trails(&self, activity: &Activity) -> bool {
        let idle = activity.idle_since.load(Ordering::Relaxed);
        // neither was a request under way since the last look
        let quiet = idle == self.idle && !activity.is_busy();
        if !quiet || activity.bodies_taken.load(Ordering::Relaxed) == self.bodies {
            return false;
        }
        activity.idle_since.store(activity.now(), Ordering::Relaxed);
        true
    }
}
