//! Tells the service manager how we are (`sd_notify(3)`). Under one lock, so that nothing follows
//! STOPPING; a no-op without a service manager.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sd_notify::NotifyState;

/// The line to the service manager.
#[derive(Debug, Default)]
pub struct Notifier {
    stopping: Mutex<bool>,
}

impl Notifier {
    /// Everything is bound.
    pub fn ready(&self, status: &str) {
        self.say(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// A reload begins; [`Notifier::ready`] ends it.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.say(&[NotifyState::Reloading, now]),
            Err(_) => self.say(&[NotifyState::Reloading]),
        }
    }

    /// We live.
    pub fn alive(&self) {
        self.say(&[NotifyState::Watchdog]);
    }

    /// We drain; nothing is said after this.
    pub fn stopping(&self) {
        self.say(&[NotifyState::Stopping]);
        *self.stopping.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// How often the service manager wants to hear [`Notifier::alive`]: half of its patience.
    #[must_use]
    pub fn watchdog_interval() -> Option<Duration> {
        sd_notify::watchdog_enabled().map(|patience| patience / 2)
    }

    fn say(&self, states: &[NotifyState<'_>]) {
        let stopping = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        if !*stopping && let Err(error) = sd_notify::notify(states) {
            tracing::debug!(%error, "the service manager was not told");
        }
    }
}
