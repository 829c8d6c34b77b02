//! Who is in the pool, and who holds which guest's key: a pure state machine.
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

use crate::sorted::Table;
use std::collections::VecDeque;

/// Nobody is let in any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stopping;

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

/// The state: callers, keys with their waiters in order of arrival. Nobody is a caller without a thread or a
/// permit, so that both have a bound elsewhere.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Admission {
    callers: usize,
    keys: Table<String, Key>,
    tickets: u64,
    stopping: bool,
}

impl Admission {
    /// A caller comes in; it counts until [`Self::leave`].
    ///
    /// # Errors
    /// After [`Self::stop`]; the caller is then not counted.
    pub(super) fn enter(&mut self) -> Result<(), Stopping> {
        if self.stopping {
            return Err(Stopping);
        }
        self.callers += 1;
        Ok(())
    }

    /// The keys that somebody holds.
    pub(super) fn held(&self) -> Vec<String> {
        self.keys.keys().cloned().collect()
    }

    /// A caller that came in leaves.
    pub(super) fn leave(&mut self) {
        self.callers -= 1;
    }

    /// A caller asks for a key; [`Self::place`] says where its ticket stands.
    ///
    /// # Errors
    /// After [`Self::stop`].
    pub(super) fn acquire(&mut self, key: &str) -> Result<Ticket, Stopping> {
        if self.stopping {
            return Err(Stopping);
        }
        let ticket = Ticket(self.tickets);
        match self.keys.get_mut(key) {
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
        for (_, held) in self.keys.iter_mut() {
            held.waiters.clear();
        }
    }

    /// Whether [`Self::stop`] was called.
    pub(super) fn stopping(&self) -> bool {
        self.stopping
    }

    /// Callers that are in.
    pub(super) fn callers(&self) -> usize {
        self.callers
    }

    /// Keys that somebody holds.
    pub(super) fn keys_held(&self) -> usize {
        self.keys.len()
    }

    /// Callers that wait for a key.
    pub(super) fn keys_waiting(&self) -> usize {
        self.keys.values().map(|held| held.waiters.len()).sum()
    }
}

#[cfg(test)]
mod tests;
