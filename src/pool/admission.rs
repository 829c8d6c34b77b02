//! The callers in the pool, and the holder of each guest lock: a pure state machine.
//!
//! It has no mutex, thread or clock: every method is an event, and its return value is the decision.
//! [`super::guest_lock`] wraps it in a mutex and wakes the waiting callers.
//!
//! ```text
//! (no ticket) ── acquire a free lock ──► Holder ── release ──────────────► Gone
//! (no ticket) ── acquire a held lock ──► Waiting ── the holder releases ─► Holder
//!                                        Waiting ── give_up, or stop ────► Gone
//! ```

use crate::sorted::Table;
use std::collections::VecDeque;

/// The pool accepts no more callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stopping;

/// Identifies one attempt to take a lock; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LockTicket(u64);

/// The state of a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TicketState {
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
struct LockQueue {
    holder: LockTicket,
    waiters: VecDeque<LockTicket>,
}

/// The state: the number of callers, and the held locks with their waiters in order of arrival. Every caller
/// has a thread or a permit, and both are bounded elsewhere.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct AdmissionState {
    callers: usize,
    locks: Table<String, LockQueue>,
    tickets: u64,
    stopping: bool,
}

impl AdmissionState {
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

    /// Returns the guests whose lock is held.
    pub(super) fn held(&self) -> Vec<String> {
        self.locks.keys().cloned().collect()
    }

    /// Removes a caller.
    pub(super) fn leave(&mut self) {
        self.callers -= 1;
    }

    /// Requests a guest's lock; [`Self::ticket_state`] returns the state of the ticket.
    ///
    /// # Errors
    /// After [`Self::stop`].
    pub(super) fn acquire(&mut self, guest: &str) -> Result<LockTicket, Stopping> {
        if self.stopping {
            return Err(Stopping);
        }
        let ticket = LockTicket(self.tickets);
        match self.locks.get_mut(guest) {
            Some(held) => held.waiters.push_back(ticket),
            None => {
                let held = LockQueue { holder: ticket, waiters: VecDeque::new() };
                self.locks.insert(guest.to_owned(), held);
            }
        }
        self.tickets += 1;
        Ok(ticket)
    }

    /// Returns the state of a ticket for this lock.
    pub(super) fn ticket_state(&self, guest: &str, ticket: LockTicket) -> TicketState {
        match self.locks.get(guest) {
            Some(held) if held.holder == ticket => TicketState::Holder,
            Some(held) if held.waiters.contains(&ticket) => TicketState::Waiting,
            _ => TicketState::Gone,
        }
    }

    /// Removes a waiting ticket.
    pub(super) fn give_up(&mut self, guest: &str, ticket: LockTicket) {
        if let Some(held) = self.locks.get_mut(guest) {
            held.waiters.retain(|&waiter| waiter != ticket);
        }
    }

    /// Releases a lock: passes it to the first waiter, whose ticket is returned, or frees it.
    pub(super) fn release(&mut self, guest: &str) -> Option<LockTicket> {
        let held = self.locks.get_mut(guest)?;
        let next = held.waiters.pop_front();
        match next {
            Some(ticket) => held.holder = ticket,
            None => drop(self.locks.remove(guest)),
        }
        next
    }

    /// Accepts no more callers and removes all waiters. Holders and callers stay.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
        for (_, held) in self.locks.iter_mut() {
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
    pub(super) fn locks_held(&self) -> usize {
        self.locks.len()
    }

    /// Returns the number of callers that wait for a lock.
    pub(super) fn locks_waiting(&self) -> usize {
        self.locks.values().map(|held| held.waiters.len()).sum()
    }
}

#[cfg(test)]
mod tests;
