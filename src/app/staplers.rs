//! Which certificates' responders are asked: those of the configuration in force, each once, and
//! over reloads without a break.

use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::{
    drain::Drain,
    gateway::ocsp,
    telemetry::metrics::Metrics,
    tls::{Staple, Staples, ocsp::Reason},
};

/// The tasks that ask.
#[derive(Debug, Default)]
pub(super) struct Staplers(Mutex<Vec<(Arc<Staple>, CancellationToken)>>);

impl Staplers {
    /// Begins with what is new, and ends what is gone.
    pub(super) fn follow(&self, staples: &Staples, metrics: &Metrics, drain: &Drain) {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|(staple, stop)| {
            let stays = staples.iter().any(|kept| Arc::ptr_eq(kept, staple));
            if !stays {
                stop.cancel();
                metrics.ocsp_gone(&label(staple));
            }
            stays
        });
        for staple in staples.iter() {
            if running.iter().any(|(known, _)| Arc::ptr_eq(known, staple)) {
                continue;
            }
            let stop = drain.draining().child_token();
            running.push((Arc::clone(staple), stop.clone()));
            let metrics = metrics.ocsp(&label(staple), &Reason::ALL.map(Reason::code));
            ocsp::start(Arc::clone(staple), metrics, drain, stop);
        }
    }
}

/// What a certificate is called in metrics.
fn label(staple: &Staple) -> String {
    staple.file.display().to_string()
}
