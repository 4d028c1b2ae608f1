//! Session tickets where callers show no certificates (RFC 5077, RFC 8446 section 4.6.1): the keys
//! that seal them. A key makes tickets for one turn and opens them for one more; then it is gone,
//! whether anybody came meanwhile or not. With other certificates a listener begins with new keys,
//! so that replacing a stolen one drops the tickets too.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustls::{crypto::aws_lc_rs::Ticketer, server::ProducesTickets};

use crate::{
    clock,
    identity::{Sha256, UnixSeconds},
};

/// Seconds of a turn.
const TURN: u32 = 6 * 3600;

/// The keys of one listener.
pub struct Tickets {
    /// What the listener shows.
    material: Sha256,
    keys: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    current: Option<Key>,
    previous: Option<Key>,
}

#[derive(Clone)]
struct Key {
    sealer: Arc<dyn ProducesTickets>,
    since: UnixSeconds,
}

impl Key {
    /// A clock that was set back ends a key, as it can't be told how old it is.
    fn is_within(&self, turns: u32, now: UnixSeconds) -> bool {
        self.since <= now && now.0 - self.since.0 < i64::from(turns * TURN)
    }
}

impl Keys {
    fn turn(&mut self, now: UnixSeconds) {
        if self
            .current
            .as_ref()
            .is_some_and(|key| !key.is_within(1, now))
        {
            self.previous = self.current.take();
        }
        self.previous = self.previous.take().filter(|key| key.is_within(2, now));
    }
}

impl Tickets {
    pub(super) fn new(material: Sha256) -> Arc<Self> {
        Arc::new(Self {
            material,
            keys: Mutex::default(),
        })
    }

    pub(super) fn belong_to(&self, material: &Sha256) -> bool {
        self.material == *material
    }

    /// Drops the keys whose time is over.
    pub fn drop_old(&self) {
        drop(self.keys_of_now());
    }

    fn keys_of_now(&self) -> MutexGuard<'_, Keys> {
        // keys are there or not, whatever a panicking holder did
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.turn(clock::now());
        keys
    }

    fn sealing(&self) -> Option<Arc<dyn ProducesTickets>> {
        let mut keys = self.keys_of_now();
        if keys.current.is_none() {
            keys.current = Some(Key {
                // without randomness there is no ticket, and the next handshake is a full one
                sealer: Ticketer::new().ok()?,
                since: clock::now(),
            });
        }
        keys.current.as_ref().map(|key| Arc::clone(&key.sealer))
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        // what is sealed at the end of a turn can be opened for so long
        TURN
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.sealing()?.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let (current, previous) = {
            let keys = self.keys_of_now();
            (keys.current.clone(), keys.previous.clone())
        };
        let mut held = current.into_iter().chain(previous);
        held.find_map(|key| key.sealer.decrypt(cipher))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_seals_for_one_turn_and_opens_for_two() {
        let tickets = Tickets::new(Sha256::of(b"certificates"));
        let turn = i64::from(TURN);
        let first = tickets.encrypt(b"first").unwrap();
        clock::set_ahead(turn + 1);
        assert_eq!(tickets.decrypt(&first).as_deref(), Some(&b"first"[..]));
        let second = tickets.encrypt(b"second").unwrap();
        clock::set_ahead(2 * turn - 60);
        assert_eq!(tickets.decrypt(&first).as_deref(), Some(&b"first"[..]));
        assert_eq!(tickets.decrypt(&second).as_deref(), Some(&b"second"[..]));
        clock::set_ahead(2 * turn + 1);
        assert_eq!(tickets.decrypt(&first), None);
        assert_eq!(tickets.decrypt(&second).as_deref(), Some(&b"second"[..]));
    }

    #[test]
    fn keys_go_though_nobody_comes() {
        let tickets = Tickets::new(Sha256::of(b"certificates"));
        let sealed = tickets.encrypt(b"x").unwrap();
        clock::set_ahead(2 * i64::from(TURN));
        tickets.drop_old();
        let keys = tickets.keys.lock().unwrap();
        assert!(keys.current.is_none() && keys.previous.is_none());
        drop(keys);
        clock::set_ahead(0);
        assert_eq!(tickets.decrypt(&sealed), None);
    }

    #[test]
    fn a_clock_that_is_set_back_ends_them() {
        let tickets = Tickets::new(Sha256::of(b"certificates"));
        let sealed = tickets.encrypt(b"x").unwrap();
        clock::set_ahead(-60);
        assert_eq!(tickets.decrypt(&sealed), None);
    }
}
