//! Counts of live connections: per listener, and per source address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    admit::{Denial, Denied},
    config::Limits,
};

/// Who holds how many connections to one listener. The map holds live sources only, so it is
/// bounded by `limits.connections`.
#[derive(Default)]
pub(super) struct Table {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    total: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// A place in the table; given back when dropped.
pub struct Slot {
    table: Arc<Table>,
    counted: Option<IpAddr>,
}

/// Gives out places in a listener's table.
#[derive(Clone)]
pub struct Slots(Arc<Table>);

impl Slots {
    pub(super) fn of(table: &Arc<Table>) -> Self {
        Self(Arc::clone(table))
    }

    /// Takes a place for one more client of a connection that has its own.
    ///
    /// # Errors
    /// The listener, or the source, holds its limit.
    pub fn enter(&self, source: IpAddr, limits: &Limits) -> Result<Slot, Denied> {
        let mut slot = self.0.enter(limits)?;
        slot.count(source, limits)?;
        Ok(slot)
    }

    /// A place once more, for one who goes on where another's connection has ended that held it:
    /// whatever the limits are, it was counted before.
    #[must_use]
    pub fn again(&self, source: IpAddr) -> Slot {
        let key = key(source);
        let mut state = self.0.lock();
        state.total = state.total.saturating_add(1);
        let held = state.by_source.entry(key).or_insert(0);
        *held = held.saturating_add(1);
        drop(state);
        Slot {
            table: Arc::clone(&self.0),
            counted: Some(key),
        }
    }
}

impl Table {
    /// Takes a place for a socket whose source is not known yet.
    pub(super) fn enter(self: &Arc<Self>, limits: &Limits) -> Result<Slot, Denied> {
        let mut state = self.lock();
        if state.total >= limits.connections {
            return Err(Denied::new(
                Denial::TooManyConnections,
                format!("limits.connections = {}", limits.connections),
            ));
        }
        state.total = state.total.saturating_add(1);
        Ok(Slot {
            table: Arc::clone(self),
            counted: None,
        })
    }

    /// Places taken.
    pub(super) fn live(&self) -> usize {
        self.lock().total
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // the counters stay right whatever a panicking holder did: each change is one statement
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Counts the place for its source.
    pub(super) fn count(&mut self, source: IpAddr, limits: &Limits) -> Result<(), Denied> {
        if limits.connections_per_ip == 0 || source.is_unspecified() {
            return Ok(());
        }
        let key = key(source);
        let mut state = self.table.lock();
        let held = state.by_source.entry(key).or_insert(0);
        if *held >= limits.connections_per_ip {
            return Err(Denied::new(
                Denial::TooManyFromAddress,
                format!(
                    "{key} holds {held}, limits.connections_per_ip = {}",
                    limits.connections_per_ip
                ),
            ));
        }
        *held = held.saturating_add(1);
        drop(state);
        self.counted = Some(key);
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.table.lock();
        state.total = state.total.saturating_sub(1);
        if let Some(key) = self.counted
            && let Some(held) = state.by_source.get_mut(&key)
        {
            *held = held.saturating_sub(1);
            if *held == 0 {
                state.by_source.remove(&key);
            }
        }
    }
}

/// IPv6 hosts choose freely within their /64, so that is what is counted.
fn key(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_taken_again_counts_whatever_the_limits_are_and_is_given_back() {
        let limits = Limits {
            connections: 2,
            ..Limits::least()
        };
        let table = Arc::<Table>::default();
        let (slots, source) = (Slots::of(&table), IpAddr::from([192, 0, 2, 1]));
        let first = slots.enter(source, &limits).unwrap();
        let again = slots.again(source);
        assert_eq!(table.live(), 2);
        drop(first);
        assert!(slots.enter(source, &limits).is_err(), "it is taken");
        drop(again);
        assert_eq!(table.live(), 0);
        assert!(slots.enter(source, &limits).is_ok());
        assert!(table.lock().by_source.is_empty());
    }
}
