//! Looks whether the backend can be reached round us: at start and every minute.

use std::{sync::Arc, time::Duration};

use super::reload::Process;
use crate::{
    config::{AcceptorListener, Config, DialAddress},
    net::exposure::{Exposure, look},
};

const EVERY: Duration = Duration::from_secs(60);

/// Begins to look, where there is something to look at.
pub fn start(process: &Arc<Process>) {
    let process = Arc::clone(process);
    let drain = process.drain.clone();
    let stop = drain.draining();
    drain.spawn(async move {
        loop {
            check(&process);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    });
}

fn check(process: &Process) {
    for (name, exposure) in seen(process) {
        let metrics = process.metrics.listener(&name);
        match exposure {
            Exposure::OnlyLoopback | Exposure::NotListening => metrics.exposed(Some(false)),
            Exposure::Exposed(ways) => {
                metrics.exposed(Some(true));
                for way in ways {
                    tracing::warn!(
                        listener = %name,
                        address = %way.address,
                        process = %way.process,
                        "the backend can be reached round the acceptor: make it listen on loopback only"
                    );
                }
            }
            Exposure::Unknown(reason) => {
                metrics.exposed(None);
                tracing::debug!(listener = %name, %reason, "can't see where the backend listens");
            }
        }
    }
}

/// What can be seen of each acceptor listener's backend.
#[must_use]
pub fn seen(process: &Process) -> Vec<(Arc<str>, Exposure)> {
    let listeners: Vec<AcceptorListener> =
        process.with(|in_force| match in_force.map(|f| &f.loaded.config) {
            Some(Config::Acceptor(acceptor)) => acceptor.listeners.clone(),
            _ => Vec::new(),
        });
    listeners
        .iter()
        .filter_map(|listener| match &listener.backend {
            DialAddress::Ip(ip) if ip.ip().to_canonical().is_loopback() => {
                Some((Arc::clone(&listener.name), look(ip.port())))
            }
            DialAddress::Host(host, port) if host == "localhost" => {
                Some((Arc::clone(&listener.name), look(*port)))
            }
            DialAddress::Ip(_) | DialAddress::Host(..) | DialAddress::Unix(_) => None,
        })
        .collect()
}
