//! The admission behind its lock: callers wait here for a key, and leave by dropping what they got.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::admission::{Admission, Place, Refusal};
use super::error::Ration;
use crate::config::PoolLimits;

/// Callers and keys, and their totals since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerSnapshot {
    /// Callers that are in the pool now: in a verb that holds or wants a key, or blocked in a job.
    pub callers: usize,
    /// Keys that are held.
    pub keys_held: usize,
    /// Callers that wait for a key.
    pub keys_waiting: usize,
    /// Callers that were not let in to wait for a key: too many, or stopping.
    pub holds_refused: u64,
    /// Callers that did not get their key by their deadline.
    pub holds_late: u64,
}

/// The lock around [`Admission`], and what wakes who waits in it.
pub(super) struct Gate {
    admission: Mutex<Admission>,
    /// A key changed hands, or the gate stops, or a caller left while it does. All waiters share
    /// it: they are few, as callers are rationed, and each looks at its own ticket.
    changed: Condvar,
    refused: AtomicU64,
    late: AtomicU64,
}

/// Why a key was not to be had.
pub(super) enum NoHold {
    /// Refused at once.
    Refused(Refusal),
    /// Others had it up to the deadline.
    Late,
}

impl Gate {
    /// An open gate.
    pub(super) fn new(limits: &PoolLimits) -> Arc<Self> {
        Arc::new(Self {
            admission: Mutex::new(Admission::new(limits)),
            changed: Condvar::new(),
            refused: AtomicU64::new(0),
            late: AtomicU64::new(0),
        })
    }

    /// Lets a caller in; it leaves by dropping the seat.
    ///
    /// # Errors
    /// When its ration is used up, or the gate stops.
    pub(super) fn enter(self: &Arc<Self>, ration: Ration) -> Result<Seat, Refusal> {
        self.admission.lock().enter(ration)?;
        Ok(Seat { gate: Arc::clone(self), ration })
    }

    /// Lets a caller in and waits for its key.
    ///
    /// # Errors
    /// When it is not let in, or does not get the key.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(super) fn hold(self: &Arc<Self>, key: &str, deadline: Instant) -> Result<Hold, NoHold> {
        let held = self.enter(Ration::Change).map_err(NoHold::Refused).and_then(|seat| {
            self.wait_for_key(key, deadline)?;
            let key = HeldKey { gate: Arc::clone(self), name: Arc::from(key) };
            Ok(Hold { key: Arc::new(key), seat: Some(seat) })
        });
        match held {
            Ok(_) => {}
            Err(NoHold::Refused(_)) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(NoHold::Late) => {
                self.late.fetch_add(1, Ordering::Relaxed);
            }
        }
        held
    }

    /// # Errors
    /// When the key is not this caller's in the end.
    fn wait_for_key(&self, key: &str, deadline: Instant) -> Result<(), NoHold> {
        let mut admission = self.admission.lock();
        let ticket = admission.acquire(key).map_err(NoHold::Refused)?;
        let mut expired = false;
        loop {
            match admission.place(key, ticket) {
                Place::Holder => return Ok(()),
                Place::Gone => return Err(NoHold::Refused(Refusal::Stopping)),
                Place::Waiting if expired => {
                    admission.give_up(key, ticket);
                    return Err(NoHold::Late);
                }
                Place::Waiting => {
                    expired = self.changed.wait_until(&mut admission, deadline).timed_out();
                }
            }
        }
    }

    /// Lets nobody in any more, turns away who waits for a key, and waits for the callers to leave;
    /// whether all did.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(super) fn stop(&self, deadline: Instant) -> bool {
        let mut admission = self.admission.lock();
        admission.stop();
        self.changed.notify_all();
        self.changed.wait_while_until(&mut admission, |now| now.callers() > 0, deadline);
        admission.callers() == 0
    }

    /// Why a caller that came now would be turned away.
    pub(super) fn would_refuse(&self, ration: Ration) -> Option<Refusal> {
        self.admission.lock().would_refuse(ration)
    }

    /// The keys that somebody holds.
    pub(super) fn held(&self) -> Vec<String> {
        self.admission.lock().held()
    }

    /// Callers and keys.
    pub(super) fn snapshot(&self) -> CallerSnapshot {
        let admission = self.admission.lock();
        CallerSnapshot {
            callers: admission.callers(),
            keys_held: admission.keys_held(),
            keys_waiting: admission.keys_waiting(),
            holds_refused: self.refused.load(Ordering::Relaxed),
            holds_late: self.late.load(Ordering::Relaxed),
        }
    }
}

/// A caller's place in its ration.
pub(super) struct Seat {
    gate: Arc<Gate>,
    ration: Ration,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut admission = self.gate.admission.lock();
        admission.leave(self.ration);
        if admission.stopping() {
            self.gate.changed.notify_all();
        }
    }
}

/// A guest's key, free again when the last clone drops.
///
/// What [`super::Pool::hold`] returns also carries its caller's place among the callers, so that a
/// verb that was let in is not told `busy` between its jobs. A clone carries the key alone: it can
/// stay with a job whose caller was answered.
pub struct Hold {
    key: Arc<HeldKey>,
    seat: Option<Seat>,
}

impl Hold {
    /// The key.
    pub fn key(&self) -> &str {
        &self.key.name
    }

    /// The key, to keep.
    pub(super) fn name(&self) -> Arc<str> {
        Arc::clone(&self.key.name)
    }

    /// Whether the caller's place comes with it.
    pub(super) fn has_seat(&self) -> bool {
        self.seat.is_some()
    }
}

impl Clone for Hold {
    fn clone(&self) -> Self {
        Self { key: Arc::clone(&self.key), seat: None }
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").field("key", &self.key()).finish_non_exhaustive()
    }
}

struct HeldKey {
    gate: Arc<Gate>,
    name: Arc<str>,
}

impl Drop for HeldKey {
    fn drop(&mut self) {
        if self.gate.admission.lock().release(&self.name).is_some() {
            self.gate.changed.notify_all();
        }
    }
}
