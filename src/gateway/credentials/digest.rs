//! Digest authentication towards a backend (RFC 7616): one nonce for as long as it lasts, so that
//! the steady state costs one request, and no lock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use http::{HeaderMap, StatusCode, header, request::Parts};
use zeroize::Zeroizing;

use crate::{
    config::{
        DigestLogin,
        secret::{self, SecretError},
    },
    wire::{
        base64,
        digest::{Challenge, Session},
    },
};

/// A request that can't be sent again is sent with a nonce that is not older.
const FRESH: Duration = Duration::from_secs(2);

/// A user of a backend.
pub(crate) struct Digest {
    username: String,
    password: Zeroizing<Vec<u8>>,
    /// How much of a body is kept, to be sent once more.
    pub(crate) body_bytes: usize,
    live: ArcSwapOption<Live>,
    /// The backend did not believe us the last time.
    refused: AtomicBool,
}

/// A nonce in use.
pub(crate) struct Live {
    session: Session,
    count: AtomicU32,
    since: Instant,
    /// The backend has believed it once.
    worked: AtomicBool,
}

impl Digest {
    pub(super) fn load(wanted: &DigestLogin) -> Result<Self, SecretError> {
        Ok(Self {
            username: wanted.login.username.clone(),
            password: secret::load(&wanted.login.password, false)?,
            body_bytes: wanted.body_bytes,
            live: ArcSwapOption::empty(),
            refused: AtomicBool::new(false),
        })
    }

    /// Goes on with what is known already, where name and password stay.
    pub(super) fn take_over(&self, before: &Self) {
        if self.username == before.username && self.password == before.password {
            self.live.store(before.live.load_full());
        }
    }

    /// Answers the challenge that is known, if any; what was used for it.
    pub(crate) fn authorize(&self, parts: &mut Parts) -> Option<Arc<Live>> {
        let live = self.live.load_full()?;
        let before = live.count.fetch_add(1, Ordering::Relaxed);
        // a count comes once (RFC 7616 section 3.4)
        let Some(count) = before.checked_add(1) else {
            self.live.store(None);
            return None;
        };
        let target = parts
            .uri
            .path_and_query()
            .map_or("/", |whole| whole.as_str());
        let method = parts.method.as_str();
        let value = live.session.authorization(method, target, count)?;
        parts.headers.insert(header::AUTHORIZATION, value);
        Some(live)
    }

    /// Whether a nonce is at hand that is believed even where a request can be sent only once.
    pub(crate) fn is_fresh(&self) -> bool {
        let live = self.live.load();
        live.as_ref()
            .is_some_and(|live| live.since.elapsed() < FRESH)
    }

    /// Takes from an answer what is to be known for the next request; whether this one is worth
    /// another try.
    pub(crate) fn learn(
        &self,
        used: Option<&Arc<Live>>,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> bool {
        if status != StatusCode::UNAUTHORIZED {
            if let Some(live) = used {
                live.worked.store(true, Ordering::Relaxed);
                self.refused.store(false, Ordering::Relaxed);
                if let Some(next) = live.session.challenge.with_next(headers) {
                    self.take(next);
                }
            }
            return false;
        }
        let Some(challenge) = Challenge::of(headers) else {
            self.complain("it asks for no digest that we know (SHA-256 or MD5, qop auth)");
            return false;
        };
        // without `stale` it is name or password that is wrong, unless they were right before
        let again = challenge.stale || used.is_none_or(|live| live.worked.load(Ordering::Relaxed));
        if !again {
            self.complain("name or password is wrong");
        }
        self.take(challenge);
        again
    }

    /// Said once, until it works again.
    fn complain(&self, why: &str) {
        if !self.refused.swap(true, Ordering::Relaxed) {
            tracing::warn!(username = %self.username, why, "a backend refuses our digest");
        }
    }

    fn take(&self, challenge: Challenge) {
        let mut random = [0; 18];
        if aws_lc_rs::rand::fill(&mut random).is_err() {
            return;
        }
        let cnonce = base64::encode(&random);
        let session = Session::new(challenge, &self.username, &self.password, &cnonce);
        self.live.store(Some(Arc::new(Live {
            session,
            count: AtomicU32::new(0),
            since: Instant::now(),
            worked: AtomicBool::new(false),
        })));
    }
}
