//! Early data of a client (RFC 8446 section 4.2.10), which is never taken: its records are skipped,
//! up to an allowance, until the first that the handshake's key opens. rustls would look at each of
//! them again with every record that comes, count it each time, and refuse a client that did
//! nothing wrong.

use std::sync::{Mutex, PoisonError};

use rustls::CommonState;

use super::{
    Content, HEADER, MAX_CONTENT, TAG,
    key::Key,
    secrets::{Cipher, Notes, Secret},
};
use crate::wire::hello::offers_early_data;

/// Octets behind headers that are skipped: as much content as other servers take, and what 64
/// records add to it. rustls has an allowance of its own behind this one.
const ALLOWANCE: usize = MAX_CONTENT + 64 * (TAG + 1);

/// What a server has still to skip.
#[derive(Default)]
pub(super) struct Early {
    /// `None`: the client announced none, or all of it has come.
    left: Option<usize>,
    /// What is skipped is counted once for a handshake, whatever else comes in it.
    given: bool,
    /// The one that opens what comes behind it.
    key: Option<Box<Key>>,
}

impl Early {
    /// Whether the last of these records is skipped. Those before it belong to the same message.
    pub(super) fn skips(
        &mut self,
        records: &[u8],
        last: usize,
        common: &CommonState,
        notes: &Mutex<Notes>,
    ) -> bool {
        let Some((&[kind, ..], payload)) = records
            .get(last..)
            .and_then(|record| record.split_first_chunk::<HEADER>())
        else {
            return false;
        };
        if kind == Content::Handshake as u8 {
            // a second hello must announce none: what was announced came before it
            let announced = !self.given && offers_early_data(records);
            self.given |= announced;
            self.left = announced.then_some(ALLOWANCE);
            noted(notes).early = announced;
        }
        let Some(left) = self.left.filter(|_| kind == Content::Data as u8) else {
            return false;
        };
        self.left = if payload.len() <= TAG || self.opens(payload, common, notes) {
            None
        } else {
            left.checked_sub(payload.len())
        };
        self.left.is_some()
    }

    /// Before the server's hello there is no key, and everything is early.
    fn opens(&mut self, payload: &[u8], common: &CommonState, notes: &Mutex<Notes>) -> bool {
        if self.key.is_none() {
            let secret = noted(notes).handshake.take();
            self.key = secret.and_then(|octets| {
                let cipher = Cipher::named(common.negotiated_cipher_suite()?.suite())?;
                Key::new(Secret::new(cipher, &octets)?, 0)
                    .ok()
                    .map(Box::new)
            });
        }
        self.key.as_mut().is_some_and(|key| key.fits(payload))
    }
}

fn noted(notes: &Mutex<Notes>) -> std::sync::MutexGuard<'_, Notes> {
    // a note is there or it is not, whatever a panicking holder did
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}
