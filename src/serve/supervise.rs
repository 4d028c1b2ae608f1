//! Ends a live connection that the rules no longer admit, or whose certificate has ended.

use std::{
    future::Future,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Snapshot, rules::Shown};
use crate::{
    admit::{Denial, Denied},
    clock,
    identity::UnixSeconds,
};

/// Longest sleep before the wall clock is read again. One that was set is noticed at once, and one
/// that drifts is not far off.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// Connections that end with one certificate end within so many seconds of each other, not at once.
const SPREAD: u32 = 60;

/// When a connection of a chain that ends at `until` has to end: somewhere in the chain's last
/// minute, so that the peers don't all come back in one instant. One that begins in the last two
/// minutes has the whole time.
pub(crate) fn spread(until: Option<UnixSeconds>) -> Option<UnixSeconds> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let until = until?;
    if until.0.saturating_sub(clock::now().0) <= i64::from(2 * SPREAD) {
        return Some(until);
    }
    // 37 and 60 have no common divisor: every second has its turn, and neighbours lie apart
    let turn = COUNT.fetch_add(1, Ordering::Relaxed) % SPREAD;
    Some(UnixSeconds(until.0 - i64::from(turn * 37 % SPREAD)))
}

/// How long the chain is good for, or that it is not.
fn still_good(until: Option<UnixSeconds>) -> Result<Duration, Denied> {
    let Some(until) = until else {
        return Ok(LOOK_AGAIN);
    };
    let now = clock::now();
    if now > until {
        return Err(Denied::new(
            Denial::CertificateEnded,
            "the chain's earliest not-after has come",
        ));
    }
    let seconds = until.0.saturating_sub(now.0).saturating_add(1);
    Ok(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(LOOK_AGAIN))
}

/// Watches over one connection.
pub struct Supervision {
    source: IpAddr,
    chain: Arc<[CertificateDer<'static>]>,
    until: Option<UnixSeconds>,
    rules: watch::Receiver<Arc<Snapshot>>,
    force: CancellationToken,
    link: Option<JudgeLink>,
    /// What the peer was shown, while that is what we show.
    shown: Option<Shown>,
    outdated: bool,
}

/// What a connection that is used again and again is told.
pub(crate) enum Said {
    /// It has to end.
    Ended(Denied),
    /// The peer was shown a certificate of ours that has a successor: whatever begins from now on
    /// begins better elsewhere, and lives on when the old one is revoked. Said once.
    Outdated,
}

/// Says why a link has to end by what is in force now, if it has.
pub(crate) type JudgeLink = Box<dyn Fn(&Snapshot) -> Result<(), Denied> + Send + Sync>;

/// What of a successor the one who waits wants to hear.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hears {
    Nothing,
    Once,
}

impl Supervision {
    pub(super) fn new(
        source: IpAddr,
        chain: Arc<[CertificateDer<'static>]>,
        until: Option<UnixSeconds>,
        rules: watch::Receiver<Arc<Snapshot>>,
        force: CancellationToken,
        shown: Option<Shown>,
    ) -> Self {
        Self {
            source,
            chain,
            until,
            rules,
            force,
            link: None,
            shown,
            outdated: false,
        }
    }

    /// The peer's certificates, leaf first; empty without.
    #[must_use]
    pub fn chain(&self) -> Arc<[CertificateDer<'static>]> {
        Arc::clone(&self.chain)
    }

    /// What is in force at the connection's listener, now and later.
    #[must_use]
    pub fn rules(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.rules.clone()
    }

    /// The connection is one client's alone: it lives on whatever we show to others.
    pub(crate) fn stays(&mut self) {
        (self.shown, self.outdated) = (None, false);
    }

    fn judge_again(&mut self, snapshot: &Snapshot) -> Result<(), Denied> {
        if self.shown.is_some()
            && snapshot.rules.shown.is_some()
            && self.shown != snapshot.rules.shown
        {
            (self.shown, self.outdated) = (None, true);
        }
        let judged = snapshot
            .rules
            .judge_again(self.source, &self.chain, clock::now());
        judged.map_err(|why| {
            Denied::new(
                Denial::RulesChanged,
                format!("{}: {why}", why.reason.code()),
            )
        })?;
        self.link.as_ref().map_or(Ok(()), |judge| judge(snapshot))
    }

    /// From now on the connection has a link of its own, which ends with it: at the end of the
    /// acceptor's chain, or when `judge` says no. One timer and one subscription do for both.
    ///
    /// # Errors
    /// By what is in force one of them has to end; the connection is then without a link, as before.
    pub(crate) fn watch_link(
        &mut self,
        until: Option<UnixSeconds>,
        judge: JudgeLink,
    ) -> Result<(), Denied> {
        let own = self.until;
        self.until = [own, until].into_iter().flatten().min();
        self.link = Some(judge);
        let judged = self.judged();
        if judged.is_err() {
            (self.until, self.link) = (own, None);
        }
        judged
    }

    /// Judges it by what is in force now, if other rules came since it was judged.
    ///
    /// # Errors
    /// It has to end.
    pub(crate) fn judged(&mut self) -> Result<(), Denied> {
        match self.rules.has_changed() {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            // nobody speaks for this connection any more: absence is never permission
            Err(_removed) => return Err(removed()),
        }
        let snapshot = self.rules.borrow_and_update().clone();
        // or the clock was set, and that is all
        let judged = still_good(self.until).and_then(|_left| self.judge_again(&snapshot));
        // whoever asks again is not to hear that nothing has changed
        judged.inspect_err(|_| self.rules.mark_changed())
    }

    /// Resolves when the connection has to end.
    pub async fn ended(&mut self) -> Denied {
        loop {
            if let Said::Ended(why) = self.hear(Hears::Nothing).await {
                return why;
            }
        }
    }

    /// The same, or when our certificate has a successor.
    pub(crate) fn said(&mut self) -> impl Future<Output = Said> + Send + '_ {
        self.hear(Hears::Once)
    }

    // one future: every connection at rest keeps it
    async fn hear(&mut self, hears: Hears) -> Said {
        loop {
            if self.outdated && hears == Hears::Once {
                self.outdated = false;
                return Said::Outdated;
            }
            let left = match still_good(self.until) {
                Ok(left) => left,
                Err(ended) => return Said::Ended(ended),
            };
            // the cause that is recorded must not depend on chance
            tokio::select! {
                biased;
                () = self.force.cancelled() => {
                    // the process stops, or the listener was taken out of the configuration
                    return Said::Ended(Denied::new(Denial::Draining, "drain_timeout is over"));
                }
                changed = self.rules.changed() => {
                    if changed.is_err() {
                        // nobody speaks for this connection any more: absence is never permission
                        return Said::Ended(removed());
                    }
                    let snapshot = self.rules.borrow_and_update().clone();
                    // or the clock was set, and that is all
                    let judged =
                        still_good(self.until).and_then(|_left| self.judge_again(&snapshot));
                    if let Err(why) = judged {
                        return Said::Ended(why);
                    }
                }
                () = tokio::time::sleep(left) => {}
            }
        }
    }
}

/// Judges a link by what is in force now.
///
/// # Errors
/// It has to end.
pub(crate) fn judge_link(
    snapshot: &Snapshot,
    backend: &str,
    acceptor: &str,
    chain: &[CertificateDer<'static>],
) -> Result<(), Denied> {
    let judged = snapshot.role.judge_link(backend, acceptor, chain);
    judged.map_err(|why| {
        Denied::new(
            Denial::RulesChanged,
            format!("acceptor {acceptor}: {}: {why}", why.reason.code()),
        )
    })
}

/// Watches over one link connection to an acceptor.
pub struct LinkSupervision {
    /// Name in the configuration.
    pub backend: Arc<str>,
    /// Address in the configuration.
    pub acceptor: String,
    /// The acceptor's, leaf first.
    pub chain: Arc<[CertificateDer<'static>]>,
    /// When the chain ends.
    pub until: Option<UnixSeconds>,
    /// What is in force at the listener that it serves.
    pub rules: watch::Receiver<Arc<Snapshot>>,
}

impl LinkSupervision {
    /// Resolves when the connection has to end.
    pub async fn ended(&mut self) -> Denied {
        loop {
            let left = match still_good(self.until) {
                Ok(left) => left,
                Err(ended) => return ended,
            };
            tokio::select! {
                biased;
                changed = self.rules.changed() => {
                    let judged = match changed {
                        Ok(()) => self.judge(),
                        Err(_removed) => Err(removed()),
                    };
                    if let Err(ended) = judged {
                        return ended;
                    }
                }
                () = tokio::time::sleep(left) => {}
            }
        }
    }

    /// Judges the connection where something has changed since it was judged: how long it is good
    /// for. Where its listener has gone it goes on under one of the `others`, which it serves too.
    ///
    /// # Errors
    /// It has to end.
    pub(crate) fn judged(
        &mut self,
        others: &[watch::Receiver<Arc<Snapshot>>],
    ) -> Result<Duration, Denied> {
        let left = still_good(self.until)?;
        let changed = match self.rules.has_changed() {
            Ok(changed) => changed,
            Err(_removed) => {
                self.rules = speaking(others)?.clone();
                true
            }
        };
        if changed {
            self.judge()?;
        }
        Ok(left)
    }

    fn judge(&mut self) -> Result<(), Denied> {
        let snapshot = self.rules.borrow_and_update().clone();
        // or the clock was set, and that is all
        still_good(self.until)?;
        judge_link(&snapshot, &self.backend, &self.acceptor, &self.chain)
    }
}

/// Whose rules a link goes on under when its own listener has gone: the first that is still there of
/// those that it serves too.
///
/// # Errors
/// There is none: absence is never permission.
pub(crate) fn speaking(
    others: &[watch::Receiver<Arc<Snapshot>>],
) -> Result<&watch::Receiver<Arc<Snapshot>>, Denied> {
    let other = others.iter().find(|other| other.has_changed().is_ok());
    other.ok_or_else(removed)
}

fn removed() -> Denied {
    Denied::new(Denial::RulesChanged, "the listener was removed")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ends_are_spread_over_the_last_minute() {
        assert_eq!(spread(None), None);
        let now = clock::now().0;
        let soon = UnixSeconds(now + 100);
        assert_eq!(spread(Some(soon)), Some(soon));
        let later = UnixSeconds(now + 1000);
        let ends: BTreeSet<i64> = (0..240)
            .filter_map(|_| spread(Some(later)))
            .map(|end| later.0 - end.0)
            .collect();
        assert_eq!(ends, (0..60).collect());
    }
}
