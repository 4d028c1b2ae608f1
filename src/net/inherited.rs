//! Sockets handed over by the service manager, by name (`sd_listen_fds_with_names(3)`).

use std::{collections::HashMap, os::fd::OwnedFd, sync::Mutex};

/// Handed-over listening sockets.
#[derive(Debug, Default)]
pub struct Inherited(Mutex<HashMap<String, OwnedFd>>);

impl Inherited {
    /// Takes them from the environment. Call before the runtime starts: it edits the environment.
    #[must_use]
    pub fn from_environment() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut fds = listenfd::ListenFd::from_env();
        let mut found = HashMap::new();
        for (at, name) in names.split(':').enumerate().take(fds.len()) {
            if let Ok(Some(listener)) = fds.take_tcp_listener(at) {
                found.insert(name.to_owned(), OwnedFd::from(listener));
            } else if let Ok(Some(listener)) = fds.take_unix_listener(at) {
                found.insert(name.to_owned(), OwnedFd::from(listener));
            }
        }
        Self(Mutex::new(found))
    }

    /// Takes the socket of this name.
    pub fn take(&self, name: &str) -> Option<OwnedFd> {
        self.0.lock().ok()?.remove(name)
    }

    /// The same sockets once more, for somebody who is done with them before they are taken.
    #[must_use]
    pub fn lent(&self) -> Self {
        let mut lent = HashMap::new();
        if let Ok(held) = self.0.lock() {
            for (name, socket) in held.iter() {
                if let Ok(socket) = socket.try_clone() {
                    lent.insert(name.clone(), socket);
                }
            }
        }
        Self(Mutex::new(lent))
    }

    /// The names that are there.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0
            .lock()
            .map(|held| held.keys().cloned().collect())
            .unwrap_or_default()
    }
}
