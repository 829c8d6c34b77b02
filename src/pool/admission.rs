//! The callers in the pool, and the holder of each guest lock: a pure state machine.
//!
//! It has no mutex, thread or clock: every method is an event, and its return value is the decision.
//! [`super::hold`] wraps it in a mutex and wakes the waiting callers.
//!
//! ```text
//!             acquire                    the holder releases
//!  (nothing) ────────► holder   waiting ─────────────────────► holder
//!      │  key is held                ▲ │ give_up, or stop
//!      └─────────────────────────────┘ └────────────────────► gone
//! ```

use crate::sorted::Table;
use std::collections::VecDeque;

/// The pool accepts no more callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stopping;

/// Identifies one attempt to take a lock; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ticket(u64);

/// The state of a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It holds the lock.
    Holder,
    /// Other tickets are before it.
    Waiting,
    /// It was given up, released, or refused by `stop`.
    Gone,
}

/// A held lock; a free lock has no record.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Key {
    holder: Ticket,
    waiters: VecDeque<Ticket>,
}

/// The state: the number of callers, and the held locks with their waiters in order of arrival. Every caller
/// has a thread or a permit, and both are bounded elsewhere.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Admission {
    callers: usize,
    keys: Table<String, Key>,
    tickets: u64,
    stopping: bool,
}

impl Admission {
    /// Adds a caller, which counts until [`Self::leave`].
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

    /// Returns the keys of the held locks.
    pub(super) fn held(&self) -> Vec<String> {
        self.keys.keys().cloned().collect()
    }

    /// Removes a caller.
    pub(super) fn leave(&mut self) {
        self.callers -= 1;
    }

    /// Requests the lock of a key; [`Self::place`] returns the state of its ticket.
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

    /// Returns the state of a ticket for this key.
    pub(super) fn place(&self, key: &str, ticket: Ticket) -> Place {
        match self.keys.get(key) {
            Some(held) if held.holder == ticket => Place::Holder,
            Some(held) if held.waiters.contains(&ticket) => Place::Waiting,
            _ => Place::Gone,
        }
    }

    /// Removes a waiting ticket.
    pub(super) fn give_up(&mut self, key: &str, ticket: Ticket) {
        if let Some(held) = self.keys.get_mut(key) {
            held.waiters.retain(|&waiter| waiter != ticket);
        }
    }

    /// Releases a lock: passes it to the first waiter, whose ticket is returned, or frees it.
    pub(super) fn release(&mut self, key: &str) -> Option<Ticket> {
        let held = self.keys.get_mut(key)?;
        let next = held.waiters.pop_front();
        match next {
            Some(ticket) => held.holder = ticket,
            None => drop(self.keys.remove(key)),
        }
        next
    }

    /// Accepts no more callers and removes all waiters. Holders and callers stay.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
        for (_, held) in self.keys.iter_mut() {
            held.waiters.clear();
        }
    }

    /// Returns whether [`Self::stop`] was called.
    pub(super) fn stopping(&self) -> bool {
        self.stopping
    }

    /// Returns the number of callers.
    pub(super) fn callers(&self) -> usize {
        self.callers
    }

    /// Returns the number of held locks.
    pub(super) fn keys_held(&self) -> usize {
        self.keys.len()
    }

    /// Returns the number of callers that wait for a lock.
    pub(super) fn keys_waiting(&self) -> usize {
        self.keys.values().map(|held| held.waiters.len()).sum()
    }
}

#[cfg(test)]
mod tests;
