//! The access record of a connection in tcp mode, the same at both roles.

use std::time::Instant;

use super::{Admitted, Closed};
use crate::telemetry::{Resting, access::Access};

impl Admitted {
    /// What is known when the connection was let in.
    #[must_use]
    pub fn record(&self, listener: &str) -> Access {
        let grant = self.permit.grant();
        Access {
            listener: listener.to_owned(),
            connection: self.id.to_string(),
            source: Some(self.source),
            local: Some(self.local),
            identity: grant.identity.clone(),
            rule: grant.rule.clone(),
            sni: self.sni.clone().unwrap_or_default(),
            tls: self.session.to_string(),
            resumed: self.session.resumed,
            handshake: Some(self.handshake),
            total: self.handshake,
            decision: "admitted",
            ..Access::default()
        }
    }
}

impl Closed {
    /// Writes the line of a connection, if there is to be one; `opened` is when it was let in.
    pub fn tell(&self, record: Option<Resting>, opened: Instant) {
        if let Some(record) = record {
            let mut record = record.wake();
            self.settle(&mut record, opened);
            record.emit();
        }
    }

    /// Adds what is known when it has ended; `opened` is when it was let in.
    pub fn settle(&self, record: &mut Access, opened: Instant) {
        record.total += opened.elapsed();
        record.bytes_in = self.bytes_in;
        record.bytes_out = self.bytes_out;
        if let Some(denied) = &self.cause {
            record.reason = Some(denied.reason);
            record.detail.clone_from(&denied.detail);
            // without a next hop it was refused; with one it was carried, and ended
            record.decision = if record.connect.is_some() {
                "ended"
            } else {
                "refused"
            };
        }
    }
}
