//! Staples: a certificate with what its authority says of it now, shown in the handshake (RFC 6066
//! section 8, RFC 8446 section 4.4.2.1). A handshake reads one pointer and never waits.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use rustls::{crypto::CryptoProvider, sign::CertifiedKey};

use super::{
    edge::{EdgeCertificate, EdgeMaterial},
    ocsp::{Answer, Named, Question, Reason, Refused, Status},
};
use crate::identity::{Sha256, UnixSeconds};

/// A responder that answers with what ends soon is not asked in a loop.
const SOONEST: i64 = 10;
/// After the first failure; doubled at each further one.
const FIRST_PAUSE: i64 = 5;
/// A responder that is gone is asked so often all the same.
const LONGEST_PAUSE: i64 = 3600;

/// A certificate whose status is asked for, and what is known of it.
pub struct Staple {
    /// The chain, as a hash: an unchanged one keeps its staple.
    id: Sha256,
    /// The file that it was loaded from, for people.
    pub file: PathBuf,
    /// Which certificate it is, for people.
    pub subject: String,
    /// What is asked.
    pub question: Question,
    /// Clients that know RFC 7633 refuse the certificate without a staple.
    pub must: bool,
    certified: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
    held: ArcSwapOption<Held>,
    /// Why the last attempt brought nothing.
    failed: Mutex<Option<Refused>>,
}

/// An answer, and the certificate with it.
struct Held {
    answer: Answer,
    certified: Arc<CertifiedKey>,
}

/// What is known of a certificate now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// What is shown with it, until when.
    pub stapled: Option<(Status, UnixSeconds)>,
    /// Since when it is revoked, by the last answer that was proven: that does not end with it.
    pub revoked: Option<UnixSeconds>,
    /// Why the last attempt brought nothing.
    pub failed: Option<Refused>,
}

impl std::fmt::Debug for Staple {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Staple")
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}

impl Staple {
    /// The certificate with its staple, while there is one that holds.
    pub(super) fn shown(&self, now: UnixSeconds) -> Option<Arc<CertifiedKey>> {
        let held = self.held.load();
        let held = held.as_ref().filter(|held| now < held.answer.until)?;
        Some(Arc::clone(&held.certified))
    }

    /// Proves an answer and shows it from now on.
    ///
    /// # Errors
    /// Why it is not shown; what was shown before stays.
    pub fn take(&self, der: &[u8], now: UnixSeconds) -> Result<Answer, Refused> {
        let answer = self.question.judge(der, &self.provider, now)?;
        if let Some(held) = self.held.load().as_ref()
            && is_older(&answer, &held.answer)
        {
            // whoever stands in between could bring back a "good" from before a revocation
            return Err(Refused::new(
                Reason::Older,
                format!(
                    "it is of {}, and one of {} is known",
                    answer.this_update, held.answer.this_update
                ),
            ));
        }
        let certified = CertifiedKey {
            ocsp: Some(answer.der.clone()),
            ..CertifiedKey::clone(&self.certified)
        };
        self.held.store(Some(Arc::new(Held {
            answer: answer.clone(),
            certified: Arc::new(certified),
        })));
        Ok(answer)
    }

    /// Keeps why an attempt brought nothing, or that one did.
    pub fn tried(&self, failed: Option<Refused>) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = failed;
    }

    /// What is known now.
    #[must_use]
    pub fn known(&self, now: UnixSeconds) -> Known {
        let held = self.held.load();
        let last = held.as_ref().map(|held| &held.answer);
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        Known {
            stapled: last
                .filter(|last| now < last.until)
                .map(|last| (last.status, last.until)),
            revoked: last.and_then(|last| match last.status {
                Status::Good => None,
                Status::Revoked(since) => Some(since),
            }),
            failed: failed.clone(),
        }
    }
}

/// The staples of everything that is in force.
#[derive(Debug, Default)]
pub struct Staples(Vec<Arc<Staple>>);

impl Staples {
    /// Takes in a listener's certificates, which were loaded from these files in this order.
    /// Those that `previous` has unchanged keep their answers. Returns what the operator has to
    /// know.
    pub fn follow<'f>(
        &mut self,
        material: &EdgeMaterial,
        files: impl IntoIterator<Item = &'f Path>,
        previous: Option<&Self>,
    ) -> Vec<String> {
        let mut warnings = Vec::new();
        for (certificate, file) in material.certificates.iter().zip(files) {
            let id = id(certificate);
            if self.find(id).is_some() {
                continue;
            }
            if let Some(kept) = previous.and_then(|previous| previous.find(id)) {
                self.0.push(Arc::clone(kept));
                continue;
            }
            let Some(leaf) = certificate.certified.cert.first() else {
                continue;
            };
            let named = Named::by(leaf);
            match question(&named, certificate) {
                Ok(None) => {}
                Ok(Some(question)) => self.0.push(Arc::new(Staple {
                    id,
                    file: file.to_owned(),
                    subject: certificate.leaf.describe(),
                    question,
                    must: named.must_staple,
                    certified: Arc::clone(&certificate.certified),
                    provider: Arc::clone(&material.provider),
                    held: ArcSwapOption::empty(),
                    failed: Mutex::default(),
                })),
                Err(why) => warnings.push(format!(
                    "{}: no OCSP answer is stapled: {why}{}",
                    file.display(),
                    demand(&named)
                )),
            }
        }
        warnings
    }

    /// What has to be known of a listener whose certificates get no staples.
    #[must_use]
    pub fn without(material: &EdgeMaterial) -> Vec<String> {
        let demanding = material.certificates.iter().filter(|certificate| {
            let leaf = certificate.certified.cert.first();
            leaf.is_some_and(|leaf| Named::by(leaf).must_staple)
        });
        demanding
            .map(|certificate| {
                format!(
                    "ocsp_stapling is off, and {} demands a staple: clients that know the \
                     extension refuse it",
                    certificate.leaf.describe()
                )
            })
            .collect()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Staple>> {
        self.0.iter()
    }

    /// The one of a certificate.
    pub(super) fn of(&self, certificate: &EdgeCertificate) -> Option<Arc<Staple>> {
        self.find(id(certificate)).cloned()
    }

    fn find(&self, id: Sha256) -> Option<&Arc<Staple>> {
        self.0.iter().find(|staple| staple.id == id)
    }
}

/// Responders round their times: of two answers of one time the revocation is the later one.
fn is_older(new: &Answer, held: &Answer) -> bool {
    let rank = |answer: &Answer| (answer.this_update, answer.status != Status::Good);
    rank(new) < rank(held)
}

/// `None`: the certificate asks for nothing.
fn question(named: &Named, certificate: &EdgeCertificate) -> Result<Option<Question>, String> {
    let mut chain = certificate.certified.cert.iter();
    let (leaf, issuer) = (chain.next(), chain.next());
    if named.responders.is_empty() {
        return match named.must_staple {
            true => Err("the certificate names no responder".to_owned()),
            false => Ok(None),
        };
    }
    let (Some(leaf), Some(issuer)) = (leaf, issuer) else {
        return Err("its issuer's certificate is not in the file: put it behind the leaf".into());
    };
    let mut last = Ok(None);
    for url in &named.responders {
        match Question::new(url, leaf, issuer) {
            Ok(question) => return Ok(Some(question)),
            Err(why) => last = Err(why),
        }
    }
    last
}

fn demand(named: &Named) -> &'static str {
    if named.must_staple {
        "; it demands a staple, and clients that know the extension refuse it"
    } else {
        ""
    }
}

fn id(certificate: &EdgeCertificate) -> Sha256 {
    let hashes = certificate.certified.cert.iter();
    let all: Vec<u8> = hashes.flat_map(|der| Sha256::of(der).0).collect();
    Sha256::of(&all)
}

/// When a certificate is asked for again after this answer: at half of its life, a twentieth
/// earlier or later by `luck` (0 to 255), so that many gateways do not ask at once.
#[must_use]
pub fn after(answer: &Answer, now: UnixSeconds, luck: u8) -> Duration {
    let life = answer.until.0.saturating_sub(answer.this_update.0).max(0);
    let spread = life / 20;
    let early = answer.this_update.0.saturating_add(life / 2 - spread / 2);
    let wait = early.saturating_sub(now.0);
    // one that was made ahead may be past its half: then half of what is left
    let wait = if wait > 0 {
        wait.saturating_add(spread.saturating_mul(i64::from(luck)) / 255)
    } else {
        answer.until.0.saturating_sub(now.0) / 2
    };
    seconds(wait.max(SOONEST))
}

/// When it is tried again after so many failures in a row, the first of which is 1.
#[must_use]
pub fn pause(failures: u32, luck: u8) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1_i64 << failures.saturating_sub(1).min(20));
    let whole = doubled.min(LONGEST_PAUSE);
    // between three quarters and the whole
    seconds(whole - whole.saturating_mul(i64::from(luck)) / 1020)
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(this_update: i64, until: i64) -> Answer {
        Answer {
            der: Vec::new(),
            status: Status::Good,
            this_update: UnixSeconds(this_update),
            until: UnixSeconds(until),
        }
    }

    #[test]
    fn an_answer_is_renewed_about_half_way() {
        let week = 7 * 86_400;
        let fresh = answer(1_000_000, 1_000_000 + week);
        let at = |luck| after(&fresh, UnixSeconds(1_000_000), luck).as_secs();
        assert_eq!((at(0), at(255)), (287_280, 287_280 + 30_240));
        // made ahead, and past its half: half of what is left
        let late = after(&fresh, UnixSeconds(1_000_000 + week - 100), 0);
        assert_eq!(late.as_secs(), 50);
        let last = after(&fresh, UnixSeconds(1_000_000 + week - 2), 9);
        assert_eq!(last.as_secs(), 10);
    }

    #[test]
    fn failures_are_paused_for_longer_and_longer_up_to_an_hour() {
        let pauses: Vec<u64> = (1..=12).map(|n| pause(n, 0).as_secs()).collect();
        assert_eq!(pauses[..4], [5, 10, 20, 40]);
        assert_eq!(pauses[10..], [3600, 3600]);
        assert_eq!(pause(u32::MAX, 255).as_secs(), 2700);
        assert_eq!(pause(0, 0).as_secs(), 5);
    }

    proptest! {
        #[test]
        fn no_answer_is_asked_for_in_a_loop_or_after_its_end(
            this_update in 0_i64..2_000_000_000, life in 1_i64..100_000_000,
            age in 0_i64..100_000_000, luck in any::<u8>(),
        ) {
            let answer = answer(this_update, this_update + life);
            let now = UnixSeconds(this_update + age.min(life));
            let wait = i64::try_from(after(&answer, now, luck).as_secs()).unwrap();
            prop_assert!(wait >= SOONEST);
            prop_assert!(wait == SOONEST || now.0 + wait <= answer.until.0);
        }
    }
}
