//! What a process takes at its start and no reload can change: said at every reload that asks for
//! something else, so that nobody takes a new value for one that is in force.

use crate::config::{Common, ListenAddress, LogFormat, Scheduling};

/// Those values.
#[derive(Debug)]
pub(super) struct Fixed {
    admin: Option<ListenAddress>,
    level: String,
    format: LogFormat,
    workers: usize,
    scheduling: Scheduling,
}

impl Fixed {
    pub(super) fn of(common: &Common) -> Self {
        Self {
            admin: common.admin.as_ref().map(|admin| admin.address.clone()),
            level: common.log.level.clone(),
            format: common.log.format,
            workers: common.workers,
            scheduling: common.scheduling,
        }
    }

    /// The keys that another configuration has otherwise.
    pub(super) fn differs(&self, other: &Self) -> impl Iterator<Item = &'static str> {
        [
            ("admin.address", self.admin != other.admin),
            ("log.level", self.level != other.level),
            ("log.format", self.format != other.format),
            ("runtime.workers", self.workers != other.workers),
            ("runtime.scheduling", self.scheduling != other.scheduling),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
    }
}

/// Says that a key waits for a restart.
pub(super) fn tell(key: &str, listener: Option<&str>) {
    tracing::warn!(
        key,
        listener,
        "a changed key takes a restart: its old value stays in force"
    );
}
