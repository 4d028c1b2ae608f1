//! Looks whether the backend can be reached round us: at start and every minute.

use std::{collections::HashMap, sync::Arc, time::Duration};

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
        let mut unseen = HashMap::new();
        loop {
            check(&process, &mut unseen);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    });
}

/// `unseen` has what could not be seen at the last look: it is said once, not every minute.
fn check(process: &Process, unseen: &mut HashMap<Arc<str>, String>) {
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
                if unseen.get(&name) != Some(&reason) {
                    tracing::info!(
                        listener = %name,
                        %reason,
                        "unknown whether the backend can be reached round the acceptor"
                    );
                    unseen.insert(name, reason);
                }
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
    let ours: Vec<String> = process
        .addresses()
        .into_iter()
        .map(|(_, address)| address)
        .collect();
    listeners
        .iter()
        .filter_map(|listener| {
            let (name, seen) = look_at(listener)?;
            Some((name, without_us(seen, &ours)))
        })
        .collect()
}

/// Our own listener may have the backend's port at another address: that way leads through us.
fn without_us(seen: Exposure, ours: &[String]) -> Exposure {
    match seen {
        Exposure::Exposed(mut ways) => {
            ways.retain(|way| !ours.contains(&way.address.to_string()));
            if ways.is_empty() {
                Exposure::OnlyLoopback
            } else {
                Exposure::Exposed(ways)
            }
        }
        Exposure::OnlyLoopback | Exposure::NotListening | Exposure::Unknown(_) => seen,
    }
}

fn look_at(listener: &AcceptorListener) -> Option<(Arc<str>, Exposure)> {
    match &listener.backend {
        DialAddress::Ip(ip) if ip.ip().to_canonical().is_loopback() => {
            Some((Arc::clone(&listener.name), look(ip.port())))
        }
        DialAddress::Host(host, port) if host == "localhost" => {
            Some((Arc::clone(&listener.name), look(*port)))
        }
        DialAddress::Ip(_) | DialAddress::Host(..) | DialAddress::Unix(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::exposure::Way;

    #[test]
    fn our_own_listener_is_no_way_round_us() {
        let way = |address: &str| Way {
            address: address.parse().unwrap(),
            process: "p".into(),
        };
        let ours = ["192.0.2.1:8080".to_owned()];
        let seen = |ways: &[&str]| Exposure::Exposed(ways.iter().map(|a| way(a)).collect());
        assert_eq!(
            without_us(seen(&["192.0.2.1:8080"]), &ours),
            Exposure::OnlyLoopback
        );
        assert_eq!(
            without_us(seen(&["192.0.2.1:8080", "0.0.0.0:8080"]), &ours),
            seen(&["0.0.0.0:8080"])
        );
        assert_eq!(
            without_us(Exposure::NotListening, &ours),
            Exposure::NotListening
        );
    }
}
