//! Forgets TLS sessions and ticket keys whose time is over, every minute: nobody may come for a
//! week, and what lies in memory can be read from it.

use std::{sync::Arc, time::Duration};

use super::reload::Process;

const EVERY: Duration = Duration::from_secs(60);

/// Begins to forget.
pub fn start(process: &Arc<Process>) {
    let process = Arc::clone(process);
    let drain = process.drain.clone();
    let stop = drain.draining();
    drain.spawn(async move {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => forget(&process),
            }
        }
    });
}

fn forget(process: &Process) {
    process.with(|in_force| {
        let Some(loaded) = in_force.map(|in_force| &in_force.loaded) else {
            return;
        };
        for listener in &loaded.listeners {
            if let Some(tls) = &listener.snapshot.rules.tls {
                tls.forget_old();
            }
        }
        for backend in loaded.backends.values() {
            backend.forget_old();
        }
    });
}
