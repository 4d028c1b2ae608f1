//! Sessions that may be resumed where callers show certificates (RFC 8446 section 2.2). rustls runs
//! no verifier on a resumed session, so whoever holds one is judged here before it is found: its
//! chain, as it was shown in the last full handshake, by what is believed and by the rules of this
//! connection. Who would not get in, and whose full handshake is too old, is not found: the
//! handshake becomes a full one by itself, in which he is refused with the fitting alert, or shows
//! the certificate that he has today.
//!
//! A store belongs to one configuration of one listener, and ends with it: every reload begins with
//! an empty one. TLS 1.2 resumes nothing here: it has neither single use nor fresh keys.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{pki_types::CertificateDer, server::StoresServerSessions};
use zeroize::Zeroizing;

use super::{Usage, Verification, pending::Pending};
use crate::identity::UnixSeconds;

/// Seconds for which sessions are resumed after a full handshake, however often.
pub(super) const LONGEST: i64 = 3600;

/// Sessions that a listener keeps: some 2 KiB each.
const KEPT: usize = 2048;

/// The full handshake that a session, or a line of sessions, began with.
#[derive(Debug)]
pub(super) struct Origin {
    /// When it was.
    pub(super) at: UnixSeconds,
    /// What the peer showed, leaf first; empty: nothing.
    pub(super) chain: Vec<CertificateDer<'static>>,
}

impl Origin {
    fn is_young(&self, now: UnixSeconds) -> bool {
        // a clock that was set back must not make it younger
        self.at <= now && now.0 - self.at.0 < LONGEST
    }
}

struct Session {
    secret: Zeroizing<Vec<u8>>,
    origin: Arc<Origin>,
}

/// The sessions of one listener.
pub(super) struct Sessions {
    verification: Arc<Verification>,
    required: bool,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_id: HashMap<Vec<u8>, Session>,
    /// Oldest first; those that were taken meanwhile are still in it.
    order: VecDeque<Vec<u8>>,
}

impl Kept {
    fn insert(&mut self, id: Vec<u8>, session: Session, now: UnixSeconds) {
        self.order.push_back(id.clone());
        let _none = self.by_id.insert(id, session);
        while let Some(oldest) = self.order.front() {
            let over = match self.by_id.get(oldest) {
                None => true,
                Some(session) => self.by_id.len() > KEPT || !session.origin.is_young(now),
            };
            if !over {
                break;
            }
            if let Some(oldest) = self.order.pop_front() {
                let _over = self.by_id.remove(&oldest);
            }
        }
        if self.order.len() > 2 * KEPT {
            self.order.retain(|id| self.by_id.contains_key(id));
        }
    }
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sessions")
    }
}

impl Sessions {
    pub(super) fn new(verification: Arc<Verification>, required: bool) -> Arc<Self> {
        Arc::new(Self {
            verification,
            required,
            kept: Mutex::default(),
        })
    }

    /// Drops sessions that are resumed no more.
    pub(super) fn drop_old(&self) {
        let now = crate::clock::now();
        let mut kept = self.kept();
        kept.by_id.retain(|_, session| session.origin.is_young(now));
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        // a session is there or it is not, whatever a panicking holder did
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the peer of that handshake would get in today.
    fn admits(&self, origin: &Origin, pending: &Pending, now: UnixSeconds) -> bool {
        if !origin.is_young(now) {
            return false;
        }
        let [leaf, rest @ ..] = origin.chain.as_slice() else {
            return !self.required && pending.judge(None).is_ok();
        };
        self.verification
            .prove(leaf, rest, Usage::ClientAuth, now)
            .is_ok_and(|peer| pending.judge(Some(&peer)).is_ok())
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, id: Vec<u8>, secret: Vec<u8>) -> bool {
        let now = crate::clock::now();
        let secret = Zeroizing::new(secret);
        // without a handshake round it nobody knows whose it is
        let Some(origin) = Pending::current(|pending| pending.origin(now)) else {
            return false;
        };
        self.kept().insert(id, Session { secret, origin }, now);
        true
    }

    fn get(&self, _id: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        let Session { secret, origin } = self.kept().by_id.remove(id)?;
        let now = crate::clock::now();
        Pending::current(|pending| {
            self.admits(&origin, pending, now).then(|| {
                pending.resumes(origin);
                secret.to_vec()
            })
        })?
    }

    /// Asked for TLS 1.2 alone.
    fn can_cache(&self) -> bool {
        false
    }
}
