//! The opening end's sessions. A ticket comes with the first bytes after the handshake, and nothing
//! in it says which full handshake its line of sessions goes back to. So they are kept by eras:
//! each has a configuration and a store of its own, begins with full handshakes, and is at most as
//! long as a session may be resumed. It ends early with whatever was proven in it, by a date, so
//! that a certificate which ended meanwhile is asked for anew.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustls::{
    ClientConfig, NamedGroup,
    client::{
        ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls12Resumption,
        Tls13ClientSessionValue,
    },
    pki_types::ServerName,
};

use super::sessions::LONGEST;
use crate::identity::UnixSeconds;

/// Tickets that are kept for one acceptor. Each is used once: as many connections as this can
/// begin in one moment without a full handshake.
const KEPT: usize = 128;

/// The sessions of one client configuration: of one identity, one set of rules, one acceptor.
pub(super) struct Eras {
    /// Without sessions.
    plain: Arc<ClientConfig>,
    current: Mutex<Option<Era>>,
}

struct Era {
    config: Arc<ClientConfig>,
    tickets: Arc<Tickets>,
    since: UnixSeconds,
    /// The first second after it.
    until: UnixSeconds,
}

impl Era {
    /// A clock that was set back must not make anything younger.
    fn holds(&self, now: UnixSeconds) -> bool {
        self.since <= now && now < self.until
    }
}

impl Drop for Era {
    /// Connections that began in it may live on, and hold its store.
    fn drop(&mut self) {
        let mut kept = self.tickets.lock();
        kept.over = true;
        kept.tickets.clear();
    }
}

impl Eras {
    pub(super) fn new(plain: Arc<ClientConfig>) -> Arc<Self> {
        Arc::new(Self {
            plain,
            current: Mutex::new(None),
        })
    }

    /// The configuration of a connection that begins now. `fresh_until` is when what we believe
    /// has to be looked at again.
    pub(super) fn config(
        &self,
        now: UnixSeconds,
        fresh_until: impl FnOnce() -> Option<UnixSeconds>,
    ) -> Arc<ClientConfig> {
        let mut current = self.lock();
        if let Some(era) = current.as_ref()
            && era.holds(now)
        {
            return Arc::clone(&era.config);
        }
        let mut config = ClientConfig::clone(&self.plain);
        let tickets = Arc::new(Tickets::default());
        config.resumption =
            Resumption::store(tickets.clone()).tls12_resumption(Tls12Resumption::Disabled);
        let config = Arc::new(config);
        let longest = UnixSeconds(now.0.saturating_add(LONGEST));
        *current = Some(Era {
            config: Arc::clone(&config),
            tickets,
            since: now,
            until: fresh_until().map_or(longest, |end| longest.min(end)),
        });
        config
    }

    /// A peer was proven whose chain ends then.
    pub(super) fn proven(&self, chain_not_after: UnixSeconds) {
        if let Some(era) = self.lock().as_mut() {
            era.until = era.until.min(chain_not_after);
        }
    }

    /// Drops an era that is over.
    pub(super) fn forget_old(&self, now: UnixSeconds) {
        let mut current = self.lock();
        if current.as_ref().is_some_and(|era| !era.holds(now)) {
            *current = None;
        }
    }

    /// A session was resumed whose peer must not be believed any more.
    pub(super) fn end(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Era>> {
        // an era is there or it is not, whatever a panicking holder did
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tickets of one era.
#[derive(Default)]
struct Tickets(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    group: Option<(ServerName<'static>, NamedGroup)>,
    /// Oldest first.
    tickets: VecDeque<(ServerName<'static>, Tls13ClientSessionValue)>,
    /// Its era is: what still comes is of no use.
    over: bool,
}

impl Tickets {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tickets")
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.lock().group = Some((server_name, group));
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        let kept = self.lock();
        let (name, group) = kept.group.as_ref()?;
        (name == server_name).then_some(*group)
    }

    // TLS 1.2 resumes nothing here
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(
        &self,
        server_name: ServerName<'static>,
        value: Tls13ClientSessionValue,
    ) {
        let mut kept = self.lock();
        if kept.over {
            return;
        }
        if kept.tickets.len() >= KEPT {
            let _oldest = kept.tickets.pop_front();
        }
        kept.tickets.push_back((server_name, value));
    }

    fn take_tls13_ticket(
        &self,
        server_name: &ServerName<'static>,
    ) -> Option<Tls13ClientSessionValue> {
        let mut kept = self.lock();
        let at = kept
            .tickets
            .iter()
            .rposition(|(name, _)| name == server_name)?;
        kept.tickets.remove(at).map(|(_, ticket)| ticket)
    }
}
