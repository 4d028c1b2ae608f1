//! An access record between the beginning and the end of its connection: most of them spend hours
//! there, and a dozen strings take more room than all else that a quiet connection keeps.

use std::{net::SocketAddr, time::Duration};

use super::access::Access;
use crate::admit::Denial;

/// A record in as little room as it takes.
#[derive(Debug)]
pub struct Resting(Box<Packed>);

#[derive(Debug)]
struct Packed {
    /// The texts that are not empty: a number, a length in four octets, the text.
    texts: Box<[u8]>,
    source: Option<SocketAddr>,
    local: Option<SocketAddr>,
    client: Option<SocketAddr>,
    bytes_in: u64,
    bytes_out: u64,
    handshake: Option<Duration>,
    connect: Option<Duration>,
    total: Duration,
    decision: &'static str,
    reason: Option<Denial>,
    status: u16,
    resumed: bool,
}

impl Access {
    /// Puts it away.
    #[must_use]
    pub fn rest(mut self) -> Resting {
        let mut texts = Vec::new();
        for (number, text) in (0u8..).zip(self.texts()) {
            // no text of a connection comes near it
            let Ok(len) = u32::try_from(text.len()) else {
                continue;
            };
            if len > 0 {
                texts.push(number);
                texts.extend_from_slice(&len.to_be_bytes());
                texts.extend_from_slice(text.as_bytes());
            }
        }
        Resting(Box::new(Packed {
            texts: texts.into(),
            source: self.source,
            local: self.local,
            client: self.client,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            handshake: self.handshake,
            connect: self.connect,
            total: self.total,
            decision: self.decision,
            reason: self.reason,
            status: self.status,
            resumed: self.resumed,
        }))
    }

    /// Every text, in a fixed order.
    fn texts(&mut self) -> [&mut String; 15] {
        let Self {
            listener,
            connection,
            source: _,
            local: _,
            client: _,
            client_identity,
            identity,
            rule,
            sni,
            tls,
            resumed: _,
            host,
            method,
            path,
            request_id,
            route,
            backend,
            acceptor,
            status: _,
            bytes_in: _,
            bytes_out: _,
            handshake: _,
            connect: _,
            total: _,
            decision: _,
            reason: _,
            detail,
        } = self;
        [
            listener,
            connection,
            client_identity,
            identity,
            rule,
            sni,
            tls,
            host,
            method,
            path,
            request_id,
            route,
            backend,
            acceptor,
            detail,
        ]
    }
}

impl Resting {
    /// The record as it was.
    #[must_use]
    pub fn wake(self) -> Access {
        let Packed {
            texts,
            source,
            local,
            client,
            bytes_in,
            bytes_out,
            handshake,
            connect,
            total,
            decision,
            reason,
            status,
            resumed,
        } = *self.0;
        let mut access = Access {
            source,
            local,
            client,
            resumed,
            status,
            bytes_in,
            bytes_out,
            handshake,
            connect,
            total,
            decision,
            reason,
            ..Access::default()
        };
        let mut places = access.texts();
        let mut rest = &*texts;
        while let Some((&[number, a, b, c, d], behind)) = rest.split_first_chunk() {
            let len = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            let Some((text, next)) = behind.split_at_checked(len) else {
                break;
            };
            if let Some(place) = places.get_mut(usize::from(number)) {
                **place = String::from_utf8_lossy(text).into_owned();
            }
            rest = next;
        }
        access
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_wakes_as_it_was_and_took_little_meanwhile() {
        let mut access = Access {
            source: "192.0.2.1:5".parse().ok(),
            local: "[2001:db8::1]:443".parse().ok(),
            client: "192.0.2.2:6".parse().ok(),
            resumed: true,
            status: 204,
            bytes_in: 7,
            bytes_out: 8,
            handshake: Some(Duration::from_millis(9)),
            connect: Some(Duration::from_millis(10)),
            total: Duration::from_millis(11),
            decision: "admitted",
            reason: Some(Denial::IdleTimeout),
            ..Access::default()
        };
        // each has a text of its own, with what could be taken for a mark; every other one is empty
        for (at, text) in access.texts().into_iter().enumerate().step_by(2) {
            *text = format!("\0\u{1}text {at} with \u{fc}ml\u{e4}uts");
        }
        let before = format!("{access:?}");
        assert_eq!(format!("{:?}", access.rest().wake()), before);
        assert!(size_of::<Packed>() <= 208, "{}", size_of::<Packed>());
    }
}
