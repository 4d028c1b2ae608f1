//! What belongs to one handshake: shared configurations know nothing of it, and reach it here.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::{Error, pki_types::CertificateDer};

use super::{alert::refusal, handshake::Judge, sessions::Origin};
use crate::{
    admit::{Denial, Denied, Grant, PeerFacts},
    identity::UnixSeconds,
};

/// Who was proven and why it is let in, or why not.
pub(super) type Outcome = Result<(Arc<PeerFacts>, Grant), Denied>;

/// What one handshake knows besides the shared configuration: the judge, and what it said.
pub(super) struct Pending {
    judge: Judge,
    outcome: Mutex<Option<Outcome>>,
    /// The full handshake that new sessions go back to.
    origin: Mutex<Option<Arc<Origin>>>,
    /// The name that the client asked for, lower case.
    sni: Mutex<Option<String>>,
}

tokio::task_local! {
    /// The handshake that is being polled. Set around every poll, so the shared verifier can't
    /// meet another connection's; without it nobody is let in.
    pub(super) static PENDING: Arc<Pending>;
}

impl Pending {
    pub(super) fn new(judge: Judge) -> Arc<Self> {
        Arc::new(Self {
            judge,
            outcome: Mutex::new(None),
            origin: Mutex::new(None),
            sni: Mutex::new(None),
        })
    }

    /// What the rules say.
    pub(super) fn judge(&self, peer: Option<&PeerFacts>) -> Result<Grant, Denied> {
        (self.judge)(peer)
    }

    /// The full handshake that a session which is made now goes back to: the one that is resumed,
    /// or this one.
    pub(super) fn origin(&self, now: UnixSeconds) -> Arc<Origin> {
        let mut origin = self.origin.lock().unwrap_or_else(PoisonError::into_inner);
        let nobody = || {
            Arc::new(Origin {
                at: now,
                chain: Vec::new(),
            })
        };
        Arc::clone(origin.get_or_insert_with(nobody))
    }

    /// A certificate is looked for, to be shown to who asks for this name: so it is in each handshake.
    pub(super) fn asked(&self, name: Option<&str>) {
        let name = name.map(str::to_ascii_lowercase);
        *self.sni.lock().unwrap_or_else(PoisonError::into_inner) = name;
    }

    /// The name that the client asked for, lower case.
    pub(super) fn sni(&self) -> Option<String> {
        self.sni
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// A session was found for this handshake.
    pub(super) fn resumes(&self, from: Arc<Origin>) {
        *self.origin.lock().unwrap_or_else(PoisonError::into_inner) = Some(from);
    }

    /// The peer showed a certificate: the handshake is a full one, whatever was found before.
    pub(super) fn shown(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) {
        let chain = std::iter::once(end_entity).chain(intermediates);
        self.resumes(Arc::new(Origin {
            at: crate::clock::now(),
            chain: chain.map(|der| der.clone().into_owned()).collect(),
        }));
    }

    /// The handshake that is being polled; `None`: there is none.
    pub(super) fn current<T>(look: impl FnOnce(&Self) -> T) -> Option<T> {
        PENDING.try_with(|pending| look(pending)).ok()
    }

    /// What the verifier found, if it ran.
    pub(super) fn take(&self) -> Option<Outcome> {
        self.outcome
            .lock()
            .ok()
            .and_then(|mut outcome| outcome.take())
    }

    /// Judges whatever proof gave, and keeps the outcome for the log.
    pub(super) fn settle(&self, proven: Result<Arc<PeerFacts>, Denied>) -> Result<(), Error> {
        let outcome = proven.and_then(|peer| (self.judge)(Some(&peer)).map(|grant| (peer, grant)));
        let answer = outcome
            .as_ref()
            .map(|_| ())
            .map_err(|denied| refusal(denied.reason));
        match self.outcome.lock() {
            Ok(mut kept) => {
                *kept = Some(outcome);
                answer
            }
            Err(_) => Err(refusal(Denial::HandshakeFailed)),
        }
    }

    /// Runs `prove` for the handshake that is being polled.
    pub(super) fn judge_current(
        prove: impl FnOnce() -> Result<Arc<PeerFacts>, Denied>,
    ) -> Result<(), Error> {
        PENDING
            .try_with(|pending| pending.settle(prove()))
            .unwrap_or_else(|_| Err(refusal(Denial::HandshakeFailed)))
    }
}
