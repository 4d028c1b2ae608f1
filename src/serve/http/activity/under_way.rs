//! A request under way, as its connection counts it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::Activity;
use crate::admit::{Denial, Denied};

/// From so many requests on, most of them must not be taken back at once: each may cost a link
/// connection, and a client next to nothing (CVE-2023-44487).
const MANY_REQUESTS: usize = 500;

/// A frame that waits longer waits for the client.
const PROMPT: Duration = Duration::from_secs(1);

/// A request under way; over when dropped.
pub(crate) struct UnderWay {
    activity: Arc<Activity>,
    /// Since when a frame of its answer that was handed over is not taken.
    owed: Option<Instant>,
    /// One was not taken promptly.
    held: bool,
    /// When it ended, where that is known.
    ended: Option<Instant>,
}

impl UnderWay {
    pub(super) fn new(activity: Arc<Activity>) -> Self {
        Self {
            activity,
            owed: None,
            held: false,
            ended: None,
        }
    }

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
        if self.activity.http2 && self.owed.is_none() {
            let now = Instant::now();
            self.owed = Some(now);
            self.activity.owed.fetch_add(1, Ordering::Relaxed);
            self.activity.took(now);
        }
    }

    /// The next one is asked for: the last has been taken.
    pub(crate) fn taken(&mut self) {
        if self.owed.is_some() {
            self.took(Instant::now());
        }
    }

    /// Nothing of it is owed any more.
    fn took(&mut self, now: Instant) {
        if let Some(since) = self.owed.take() {
            self.activity.owed.fetch_sub(1, Ordering::Relaxed);
            self.activity.took(now);
            self.held |= now.saturating_duration_since(since) > PROMPT;
        }
        if self.activity.http2 && !self.held {
            self.activity.flows.fetch_add(1, Ordering::Relaxed);
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

    /// It was refused here, at next to no cost: no company for those that are taken back.
    pub(crate) fn refused(&self) {
        self.activity.begun.fetch_sub(1, Ordering::Relaxed);
    }

    /// The request's body was not read to its end: what is left of it may still come.
    pub(crate) fn left_unread(&self) {
        self.activity.left_unread();
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let now = self.ended.unwrap_or_else(Instant::now);
        self.took(now);
        let activity = &self.activity;
        if activity.under_way.fetch_sub(1, Ordering::Relaxed) == 1 {
            let at = activity.millis_at(now).saturating_add(1);
            activity.idle_since.store(at, Ordering::Relaxed);
        }
    }
}
