//! Who may wait for the pool, and who holds which guest's key: a pure state machine.
//!
//! No lock, thread or clock in here: every method is an event, its return value the decision.
//! [`super::hold`] puts it behind a lock and wakes the waiting.
//!
//! ```text
//!             acquire                    the holder releases
//!  (nothing) ────────► holder   waiting ─────────────────────► holder
//!      │  key is held                ▲ │ give_up, or stop
//!      └─────────────────────────────┘ └────────────────────► gone
//! ```

use std::collections::{HashMap, VecDeque};

use super::error::Ration;
use crate::config::PoolLimits;

/// Why a caller was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// So many callers as this ration allows are waiting.
    Callers(Ration),
    /// So many callers as one key allows wait for it.
    Key,
    /// Nobody is let in any more.
    Stopping,
}

/// The name of one wish for a key; never given out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ticket(u64);

/// Where a ticket stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It holds the key.
    Holder,
    /// Others are before it.
    Waiting,
    /// It was given up, released, or turned away by `stop`.
    Gone,
}

/// A key that somebody holds; a key that nobody holds has no record.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Key {
    holder: Ticket,
    waiters: VecDeque<Ticket>,
}

/// How many callers a ration has admitted, and how many it may.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Count {
    callers: usize,
    limit: usize,
}

/// The state: callers per ration, keys with their waiters in order of arrival.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Admission {
    change: Count,
    read: Count,
    any: Count,
    waiters_per_key: usize,
    keys: HashMap<String, Key>,
    tickets: u64,
    stopping: bool,
}

impl Admission {
    /// Nobody is waiting, no key is held.
    pub(super) fn new(limits: &PoolLimits) -> Self {
        Self {
            change: Count { callers: 0, limit: limits.waiting_change },
            read: Count { callers: 0, limit: limits.waiting_read },
            any: Count { callers: 0, limit: limits.waiting_any },
            waiters_per_key: limits.waiting_key,
            keys: HashMap::new(),
            tickets: 0,
            stopping: false,
        }
    }

    /// A caller comes in; it counts until [`Self::leave`] with the same ration.
    ///
    /// # Errors
    /// The first ration that is used up, or `Stopping`; the caller is then not counted.
    pub(super) fn enter(&mut self, ration: Ration) -> Result<(), Refusal> {
        if let Some(refusal) = self.would_refuse(ration) {
            return Err(refusal);
        }
        for &r in ration.counted_in() {
            self.count(r).callers += 1;
        }
        Ok(())
    }

    /// Why a caller that came now would be turned away.
    pub(super) fn would_refuse(&self, ration: Ration) -> Option<Refusal> {
        if self.stopping {
            return Some(Refusal::Stopping);
        }
        let is_full = |ration: &&Ration| {
            let count = match ration {
                Ration::Change => &self.change,
                Ration::Read => &self.read,
                Ration::Any => &self.any,
            };
            count.callers >= count.limit
        };
        ration.counted_in().iter().find(is_full).map(|&ration| Refusal::Callers(ration))
    }

    /// The keys that somebody holds.
    pub(super) fn held(&self) -> Vec<String> {
        self.keys.keys().cloned().collect()
    }

    /// A caller that came in leaves.
    pub(super) fn leave(&mut self, ration: Ration) {
        for &r in ration.counted_in() {
            self.count(r).callers -= 1;
        }
    }

    /// A caller asks for a key; [`Self::place`] says where its ticket stands.
    ///
    /// # Errors
    /// `Key` when so many as may wait for it do, or `Stopping`.
    pub(super) fn acquire(&mut self, key: &str) -> Result<Ticket, Refusal> {
        if self.stopping {
            return Err(Refusal::Stopping);
        }
        let ticket = Ticket(self.tickets);
        match self.keys.get_mut(key) {
            Some(held) if held.waiters.len() >= self.waiters_per_key => return Err(Refusal::Key),
            Some(held) => held.waiters.push_back(ticket),
            None => {
                let free = Key { holder: ticket, waiters: VecDeque::new() };
                self.keys.insert(key.to_owned(), free);
            }
        }
        self.tickets += 1;
        Ok(ticket)
    }

    /// Where a ticket for this key stands.
    pub(super) fn place(&self, key: &str, ticket: Ticket) -> Place {
        match self.keys.get(key) {
            Some(held) if held.holder == ticket => Place::Holder,
            Some(held) if held.waiters.contains(&ticket) => Place::Waiting,
            _ => Place::Gone,
        }
    }

    /// A waiting ticket waits no longer.
    pub(super) fn give_up(&mut self, key: &str, ticket: Ticket) {
        if let Some(held) = self.keys.get_mut(key) {
            held.waiters.retain(|&waiter| waiter != ticket);
        }
    }

    /// The holder is done; the key goes to the first waiter, who is returned, or is free.
    pub(super) fn release(&mut self, key: &str) -> Option<Ticket> {
        let held = self.keys.get_mut(key)?;
        let next = held.waiters.pop_front();
        match next {
            Some(ticket) => held.holder = ticket,
            None => drop(self.keys.remove(key)),
        }
        next
    }

    /// Lets nobody in any more and turns away who waits for a key. Holders and callers stay.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
        for held in self.keys.values_mut() {
            held.waiters.clear();
        }
    }

    /// Whether [`Self::stop`] was called.
    pub(super) fn stopping(&self) -> bool {
        self.stopping
    }

    /// Callers that are in, of all rations.
    pub(super) fn callers(&self) -> usize {
        self.any.callers
    }

    /// Keys that somebody holds.
    pub(super) fn keys_held(&self) -> usize {
        self.keys.len()
    }

    /// Callers that wait for a key.
    pub(super) fn keys_waiting(&self) -> usize {
        self.keys.values().map(|held| held.waiters.len()).sum()
    }

    fn count(&mut self, ration: Ration) -> &mut Count {
        match ration {
            Ration::Change => &mut self.change,
            Ration::Read => &mut self.read,
            Ration::Any => &mut self.any,
        }
    }
}

#[cfg(test)]
mod tests;
