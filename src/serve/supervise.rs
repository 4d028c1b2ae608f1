//! Ends a live connection that the rules no longer admit, or whose certificate has ended.

use std::{net::IpAddr, sync::Arc, time::Duration};

use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Snapshot;
use crate::{
    admit::{Denial, Denied},
    clock,
    identity::UnixSeconds,
};

/// Longest sleep before the wall clock is read again: it may have been set meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// The acceptor at the other end of a live link.
pub struct LinkEnd {
    /// The backend's name.
    pub backend: String,
    /// The acceptor's name.
    pub acceptor: String,
    /// Its chain, leaf first.
    pub chain: Arc<[CertificateDer<'static>]>,
    /// When that chain ends.
    pub until: Option<UnixSeconds>,
}

/// Watches over one connection.
pub struct Supervision {
    source: IpAddr,
    chain: Arc<[CertificateDer<'static>]>,
    until: Option<UnixSeconds>,
    rules: watch::Receiver<Arc<Snapshot>>,
    force: CancellationToken,
    link: Option<LinkEnd>,
}

impl Supervision {
    pub(super) fn new(
        source: IpAddr,
        chain: Arc<[CertificateDer<'static>]>,
        until: Option<UnixSeconds>,
        rules: watch::Receiver<Arc<Snapshot>>,
        force: CancellationToken,
    ) -> Self {
        Self {
            source,
            chain,
            until,
            rules,
            force,
            link: None,
        }
    }

    /// Watches over the acceptor too, which the connection is tied to from now on.
    pub fn tie(&mut self, link: LinkEnd) {
        self.until = match (self.until, link.until) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.link = Some(link);
    }

    /// The peer's chain, leaf first; empty without a certificate.
    #[must_use]
    pub fn chain(&self) -> &Arc<[CertificateDer<'static>]> {
        &self.chain
    }

    /// Resolves when the connection has to end.
    pub async fn ended(&mut self) -> Denied {
        loop {
            let now = clock::now();
            let left = match self.until {
                Some(until) if now > until => {
                    return Denied::new(
                        Denial::CertificateEnded,
                        "the chain's earliest not-after has passed",
                    );
                }
                Some(until) => {
                    let seconds = until.0.saturating_sub(now.0).saturating_add(1);
                    Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(LOOK_AGAIN)
                }
                None => LOOK_AGAIN,
            };
            // the cause that is recorded must not depend on chance
            tokio::select! {
                biased;
                () = self.force.cancelled() => {
                    return Denied::new(Denial::Draining, "drain_timeout is over");
                }
                changed = self.rules.changed() => {
                    if changed.is_err() {
                        // the listener is gone from the configuration: nobody speaks for this
                        // connection any more, and absence is never permission
                        return Denied::new(Denial::RulesChanged, "the listener was removed");
                    }
                    let snapshot = self.rules.borrow_and_update().clone();
                    let own = snapshot.rules.judge_again(self.source, &self.chain, clock::now());
                    let both = own.and_then(|_grant| match &self.link {
                        Some(link) => snapshot.role.judge_link(link),
                        None => Ok(()),
                    });
                    if let Err(why) = both
                    {
                        return Denied::new(
                            Denial::RulesChanged,
                            format!("{}: {why}", why.reason.code()),
                        );
                    }
                }
                () = tokio::time::sleep(left) => {}
            }
        }
    }
}
