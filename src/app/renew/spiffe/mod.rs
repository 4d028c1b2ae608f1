//! `source = "spiffe"`: certificate, key, trust and CRLs come from a SPIFFE Workload API (its
//! section 5.2) and live in memory alone. What is new comes into force as a changed file does; what
//! is bad does not, and what was good stays until it ends.

mod client;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use self::client::Call;
use super::super::reload::Process;
use crate::{clock, config::Config, identity::SpiffeId, tls::HeldSvid, wire::svid::Response};

/// How long a start waits for its first identity.
const FIRST_WITHIN: Duration = Duration::from_secs(30);
/// The first pause after a failure, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(10)];
/// How often it is looked whether the source is still this one, and a refused update tried again:
/// what was wrong may have been a file beside it.
const TICK: Duration = Duration::from_secs(5);
/// How often a failure that goes on is said.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// An agent that says nothing is asked anew, at the latest after this.
const SILENCE: Duration = Duration::from_secs(3_600);

/// Pauses between attempts.
fn pause(failures: u32) -> Duration {
    let [first, longest] = PAUSES;
    first
        .saturating_mul(1_u32 << failures.saturating_sub(1).min(16))
        .min(longest)
}

/// The first identity of a process, or why there is none; `None`: it has another source.
///
/// # Errors
/// None came in time.
pub async fn first(config: &Config) -> Result<Option<Arc<HeldSvid>>, String> {
    let Some((socket, id)) = config.common().identity.workload() else {
        return Ok(None);
    };
    let end = Instant::now() + FIRST_WITHIN;
    let mut last = String::new();
    let mut failures = 0_u32;
    loop {
        let asked = async {
            let response = Call::open(socket).await?.next().await?;
            choose(&response, id, socket)
        };
        let failure = match tokio::time::timeout_at(end, Box::pin(asked)).await {
            Ok(Ok(svid)) => return Ok(Some(Arc::new(svid))),
            Ok(Err(failure)) => failure,
            Err(_elapsed) if last.is_empty() => "it does not answer".to_owned(),
            Err(_elapsed) => last.clone(),
        };
        failures = failures.saturating_add(1);
        let pause = pause(failures);
        if Instant::now() + pause >= end {
            return Err(format!(
                "{}: no identity in {FIRST_WITHIN:?}: {failure}",
                socket.display()
            ));
        }
        if failure != last {
            tracing::warn!(socket = %socket.display(), error = %failure, "waiting for an identity");
            last = failure;
        }
        tokio::time::sleep(pause).await;
    }
}

fn choose(response: &Response, id: Option<&SpiffeId>, socket: &Path) -> Result<HeldSvid, String> {
    let (svid, left_out) = HeldSvid::choose(response, id, socket)?;
    for what in left_out {
        tracing::error!(%what, "left out: nobody of that trust domain is believed");
    }
    Ok(svid)
}

/// Follows the Workload API as long as the process lives.
pub fn start(process: &Arc<Process>) {
    if source(process).is_none() {
        return;
    }
    let process = Arc::clone(process);
    let drain = process.drain.clone();
    let stop = drain.draining();
    drain.spawn(async move {
        let mut keeper = Keeper::default();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = Box::pin(keeper.keep(&process)) => {}
        }
    });
}

/// Socket and ID of what is in force.
fn source(process: &Process) -> Option<(PathBuf, Option<SpiffeId>)> {
    process.with(|in_force| {
        let (socket, id) = in_force?.loaded.config.common().identity.workload()?;
        Some((socket.to_owned(), id.cloned()))
    })
}

#[derive(Default)]
struct Keeper {
    failures: u32,
    /// The last call broke, and nothing was heard since.
    down: bool,
    /// What went wrong last and when it was said.
    told: Option<(String, Instant)>,
    /// An update that could not come into force.
    refused: Option<(Arc<HeldSvid>, String)>,
}

impl Keeper {
    async fn keep(&mut self, process: &Arc<Process>) {
        loop {
            let Some((socket, id)) = source(process) else {
                tokio::time::sleep(TICK).await;
                continue;
            };
            let begun = Instant::now();
            let failure = self.follow(process, &socket, id.as_ref()).await;
            let Some(failure) = failure else { continue };
            let [_, longest] = PAUSES;
            // not by one message: calls that end at once are no better than none
            if begun.elapsed() > longest {
                self.failures = 0;
                self.told = None;
            }
            self.failures = self.failures.saturating_add(1);
            self.broken(process, &socket, failure);
            tokio::time::sleep(pause(self.failures)).await;
        }
    }

    /// One call, until it breaks; `None`: it is no longer the one to make.
    async fn follow(
        &mut self,
        process: &Arc<Process>,
        socket: &Path,
        id: Option<&SpiffeId>,
    ) -> Option<String> {
        let mut call = match Call::open(socket).await {
            Ok(call) => call,
            Err(failure) => return Some(failure),
        };
        let mut heard = Instant::now();
        loop {
            let silence = Self::patience(process);
            tokio::select! {
                biased;
                next = call.next() => {
                    let response = match next {
                        Ok(response) => response,
                        Err(failure) => return Some(failure),
                    };
                    heard = Instant::now();
                    self.hears(process, socket);
                    match choose(&response, id, socket) {
                        Ok(svid) => self.offer(process, Arc::new(svid)),
                        Err(failure) => Self::refuse(process, &failure),
                    }
                }
                () = tokio::time::sleep(TICK) => {
                    if source(process).is_none_or(|(now, of)| now != socket || of.as_ref() != id) {
                        return None;
                    }
                    if let Some((svid, _)) = self.refused.clone() {
                        self.offer(process, svid);
                    }
                    // it answers at once with what is in force: an agent that hangs is found out
                    if heard.elapsed() > silence {
                        return None;
                    }
                }
            }
        }
    }

    /// Half of what is left of the identity in force.
    fn patience(process: &Process) -> Duration {
        let end = process.with(|f| f.map(|f| f.loaded.identity.not_after));
        let left = end.map_or(0, |end| end.0.saturating_sub(clock::now().0) / 2);
        Duration::from_secs(u64::try_from(left).unwrap_or_default()).clamp(2 * TICK, SILENCE)
    }

    fn hears(&mut self, process: &Process, socket: &Path) {
        if std::mem::take(&mut self.down) {
            tracing::info!(socket = %socket.display(), "the Workload API answers again");
        }
        process.metrics.refreshed(Some(clock::now().0));
        process.renewal.set(|report| report.refresh_failure.clear());
    }

    fn broken(&mut self, process: &Process, socket: &Path, failure: String) {
        self.down = true;
        process.metrics.refreshed(None);
        let end = process.with(|f| f.map(|f| f.loaded.identity.not_after));
        let again = self
            .told
            .as_ref()
            .is_none_or(|(said, at)| *said != failure || at.elapsed() >= TOLD_EVERY);
        if again {
            let ends = end.map(|end| end.relative_to(clock::now()));
            tracing::error!(
                socket = %socket.display(),
                error = %failure,
                ends,
                "the Workload API can't be had: our identity stays in force until it ends"
            );
            self.told = Some((failure.clone(), Instant::now()));
        }
        process
            .renewal
            .set(|report| report.refresh_failure = format!("{}: {failure}", socket.display()));
    }

    fn offer(&mut self, process: &Process, svid: Arc<HeldSvid>) {
        let again = self
            .refused
            .take()
            .filter(|(refused, _)| *refused == svid)
            .map(|(_, why)| why);
        match process.take_svid(&svid) {
            Ok(false) => process.renewal.set(|report| report.failure.clear()),
            Ok(true) => {
                let now = clock::now();
                process.metrics.renewed(Some(now.0));
                process.renewal.set(|report| {
                    report.renewed = Some(now);
                    report.failure.clear();
                });
                let serial = process.with(|f| f.map(|f| f.loaded.identity.leaf.serial.to_string()));
                tracing::info!(id = %svid.id, serial, "an update of our identity is in force");
            }
            Err(failure) => {
                // what goes on is said once
                if again.as_ref() != Some(&failure) {
                    Self::refuse(process, &failure);
                }
                self.refused = Some((svid, failure));
            }
        }
    }

    fn refuse(process: &Process, failure: &str) {
        process.metrics.renewed(None);
        process
            .renewal
            .set(|report| failure.clone_into(&mut report.failure));
        tracing::error!(
            error = %failure,
            "an update of our identity is refused: the last good one stays in force until it ends"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound() {
        let pauses: Vec<u128> = [1, 2, 3, 40].map(|n| pause(n).as_millis()).to_vec();
        assert_eq!(pauses, [250, 500, 1_000, 10_000]);
    }
}
