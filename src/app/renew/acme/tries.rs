//! What was tried in vain, kept over restarts: a supervisor that starts us again and again must not
//! become a hammer on the CA.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::super::schedule::{self, Chance};
use super::{
    REFUSED,
    account::{folder, short},
    client::Refusal,
};
use crate::{
    clock,
    config::Acme,
    identity::UnixSeconds,
    pki::store::{PRIVATE, write_file},
};

/// A clock that was set back must not leave us waiting: no pause is longer than a day.
const LONGEST: i64 = 86_400;

/// Of why it failed, in characters.
const MOST: usize = 1_000;

#[derive(Default, Serialize, Deserialize)]
struct Kept {
    failures: u32,
    again: i64,
    failure: String,
}

/// What was tried for one certificate.
pub(super) struct Tries {
    state: PathBuf,
    name: String,
    /// In a row.
    pub(super) failures: u32,
    /// No sooner than this.
    pub(super) again: UnixSeconds,
    /// Why the last one failed.
    pub(super) failure: String,
}

impl Tries {
    /// Of the certificate of this key. Another order is another matter: it is tried at once.
    pub(super) fn open(state: &Path, key: &Path, acme: &Acme) -> Self {
        let of = format!(
            "{}\n{}\n{}",
            key.display(),
            acme.url,
            acme.domains.join("\n")
        );
        let name = format!("tries-{}.json", short(&of));
        // what can't be read is as good as nothing
        let kept: Kept = fs::read(state.join("acme").join(&name))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Self {
            state: state.to_owned(),
            name,
            failures: kept.failures,
            again: UnixSeconds(kept.again),
            failure: kept.failure,
        }
    }

    /// Whether it may be tried again.
    pub(super) fn is_over(&self, now: UnixSeconds) -> bool {
        now >= self.again || self.again.0.saturating_sub(now.0) > LONGEST
    }

    /// Before the CA is asked, for a certificate that ends then: notes the try as one in vain, so
    /// that it counts whatever becomes of the process or the disk.
    pub(super) fn begin(&mut self, end: UnixSeconds, chance: Chance) -> Result<(), String> {
        self.failures = self.failures.saturating_add(1);
        self.again = schedule::again(clock::now(), end, self.failures, chance);
        "an order was cut off".clone_into(&mut self.failure);
        self.write()
            .map_err(|error| format!("can't note the try, so the CA is not asked: {error}"))
    }

    /// What was begun brought a certificate. That it will do is not known before it is in force: one
    /// that is due at once must not have the CA asked in a loop.
    pub(super) fn came(&mut self) {
        "the certificate that came was due for renewal at once: is the clock right, here and at the CA?"
            .clone_into(&mut self.failure);
        if let Err(error) = self.write() {
            tracing::warn!(%error, "what was noted when the order began stands");
        }
    }

    /// What was begun was in vain.
    pub(super) fn failed(&mut self, refusal: Refusal, end: UnixSeconds, chance: Chance) {
        let now = clock::now();
        let counted = match refusal.code {
            Some(_) => self.failures.saturating_add(REFUSED),
            None => self.failures,
        };
        let asked = refusal.wait.map_or(0, |wait| {
            i64::try_from(wait.as_secs())
                .unwrap_or(LONGEST)
                .min(LONGEST)
        });
        let asked = UnixSeconds(now.0.saturating_add(asked));
        self.again = schedule::again(now, end, counted, chance).max(asked);
        // what a CA has put into it has no bound, and stands in log, status and file
        self.failure = refusal.said.chars().take(MOST).collect();
        // what was noted when it began stands
        if let Err(error) = self.write() {
            tracing::warn!(%error, "a restart will not know why the CA refused");
        }
    }

    fn write(&self) -> Result<(), String> {
        let kept = Kept {
            failures: self.failures,
            again: self.again.0,
            failure: self.failure.clone(),
        };
        let file = folder(&self.state)?.join(&self.name);
        let text = serde_json::to_vec(&kept).map_err(|error| error.to_string())?;
        write_file(&file, &text, PRIVATE).map_err(|error| {
            format!(
                "can't write {}: {error}: set [runtime] state_dir to a folder that the process may \
                 write to",
                file.display()
            )
        })
    }

    /// It succeeded.
    pub(super) fn forget(&mut self) {
        self.failures = 0;
        self.again = UnixSeconds(0);
        self.failure.clear();
        // nothing was tried in vain, most often
        drop(fs::remove_file(self.state.join("acme").join(&self.name)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn acme() -> Acme {
        Acme {
            url: "https://ca.example/d".to_owned(),
            domains: vec!["a.example".to_owned()],
            contact: Vec::new(),
            trust: None,
            external_account: None,
            challenge: crate::config::Challenge::Http01,
            http: None,
        }
    }

    #[test]
    fn a_try_is_noted_before_it_is_made_or_not_made() {
        let state = tempfile::tempdir().unwrap();
        let acme = acme();
        let open = |state: &Path| Tries::open(state, Path::new("key.pem"), &acme);
        let end = UnixSeconds(clock::now().0 + 90 * 86_400);
        // the process ends in the middle of it, twice
        for failures in 1..=2 {
            open(state.path()).begin(end, u16::MAX / 2).unwrap();
            let kept = open(state.path());
            assert_eq!(kept.failures, failures);
            assert_eq!(kept.failure, "an order was cut off");
            assert!(!kept.is_over(clock::now()));
        }
        // a file where the folder would be: nobody can write there, not even root
        let file = state.path().join("file");
        write_file(&file, b"", PRIVATE).unwrap();
        let refused = open(&file).begin(end, 0).unwrap_err();
        assert!(refused.starts_with("can't note the try"), "{refused}");
        assert!(refused.contains("state_dir"), "{refused}");
    }

    #[test]
    fn a_refusal_outlives_the_process_and_its_wait_is_kept() {
        let state = tempfile::tempdir().unwrap();
        let acme = acme();
        let open = || Tries::open(state.path(), Path::new("key.pem"), &acme);
        let now = clock::now();
        assert!(open().is_over(now));
        let refusal = |code: Option<&str>, wait| Refusal {
            said: "no".to_owned(),
            code: code.map(str::to_owned),
            wait,
        };
        let end = UnixSeconds(now.0 + 90 * 86_400);
        let fail = |refusal, chance| {
            let mut tries = open();
            tries.begin(end, chance).unwrap();
            tries.failed(refusal, end, chance);
        };
        fail(refusal(None, None), u16::MAX / 2);
        let pause = |tries: &Tries| tries.again.0 - now.0;
        assert!((9..=13).contains(&pause(&open())), "{}", pause(&open()));
        open().forget();
        fail(refusal(Some("caa"), None), u16::MAX / 2);
        assert!((75..=90).contains(&pause(&open())), "{}", pause(&open()));
        let wait = Some(Duration::from_secs(7_200));
        fail(refusal(Some("rateLimited"), wait), 0);
        let kept = open();
        assert!((7_200..=7_205).contains(&pause(&kept)), "{}", pause(&kept));
        assert_eq!((kept.failures, kept.failure.as_str()), (2, "no"));
        assert!(!kept.is_over(now) && kept.is_over(UnixSeconds(now.0 + 7_300)));
        // set back by years
        assert!(kept.is_over(UnixSeconds(now.0 - 86_400 * 365)));
        let mut kept = open();
        kept.forget();
        assert!(open().is_over(now));
    }
}
