//! The admission behind its lock: callers wait here for a key, and leave by dropping what they got.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::admission::{Admission, Place, Stopping};
use super::permits::{NoPermit, Waits};

/// Callers and keys, and their totals since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerSnapshot {
    /// Callers that are in the pool now: in a verb that holds or wants a key, or blocked in a job.
    pub callers: usize,
    /// Keys that are held.
    pub keys_held: usize,
    /// Callers that wait for a key.
    pub keys_waiting: usize,
    /// Calls that wait for their permit, without a thread but for those of batches and jobs.
    pub calls_waiting: usize,
    /// Callers that were not let in to wait for a key, and calls that were not let in to wait for a permit.
    pub holds_refused: u64,
    /// Callers that did not get their key, and calls that did not get their permit, by their deadline.
    pub holds_late: u64,
}

/// What is called with a key.
type Tell = Box<dyn Fn(&str) + Send + Sync>;

/// The lock around [`Admission`], and what wakes those that wait in it.
#[derive(Default)]
pub(super) struct Gate {
    admission: Mutex<Admission>,
    /// A key changed hands, or the gate stops, or a caller left while it does. All waiters share
    /// it: they are few, as callers are rationed, and each looks at its own ticket.
    changed: Condvar,
    refused: AtomicU64,
    late: AtomicU64,
    /// What is called with a key before it is free again.
    on_release: OnceLock<Tell>,
}

impl From<Stopping> for NoPermit {
    fn from(Stopping: Stopping) -> Self {
        Self::Stopping
    }
}

impl Gate {
    /// Has this called with each key that is released from now on. A second call of this method changes nothing.
    pub(super) fn on_release(&self, tell: Tell) {
        // The other one is there already.
        let _ = self.on_release.set(tell);
    }

    /// Lets a caller in; it leaves by dropping the seat.
    ///
    /// # Errors
    /// When the gate stops.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Seat, Stopping> {
        self.admission.lock().enter()?;
        Ok(Seat { gate: Arc::clone(self) })
    }

    /// Lets a caller in and waits for its key.
    ///
    /// # Errors
    /// When it is not let in, or does not get the key.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(super) fn hold(self: &Arc<Self>, key: &str, deadline: Instant) -> Result<Hold, NoPermit> {
        let held = self.enter().map_err(NoPermit::from).and_then(|seat| {
            self.wait_for_key(key, deadline)?;
            let key = HeldKey { gate: Arc::clone(self), name: Arc::from(key) };
            Ok(Hold { key: Arc::new(key), more: Vec::new(), seat: Some(seat) })
        });
        let counted = match held {
            Ok(_) => return held,
            Err(NoPermit::Late) => &self.late,
            Err(NoPermit::Full | NoPermit::Stopping) => &self.refused,
        };
        counted.fetch_add(1, Ordering::Relaxed);
        held
    }

    /// # Errors
    /// When the key is not this caller's in the end.
    fn wait_for_key(&self, key: &str, deadline: Instant) -> Result<(), NoPermit> {
        // Else a free key would be had, and what is late begun.
        if Instant::now() >= deadline {
            return Err(NoPermit::Late);
        }
        let mut admission = self.admission.lock();
        let ticket = admission.acquire(key)?;
        let mut expired = false;
        loop {
            match admission.place(key, ticket) {
                Place::Holder => return Ok(()),
                Place::Gone => return Err(NoPermit::Stopping),
                Place::Waiting if expired => {
                    admission.give_up(key, ticket);
                    return Err(NoPermit::Late);
                }
                Place::Waiting => {
                    expired = self.changed.wait_until(&mut admission, deadline).timed_out();
                }
            }
        }
    }

    /// Lets nobody in any more, turns away those that wait for a key, and waits for the callers to leave;
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

    /// The keys that somebody holds.
    pub(super) fn held(&self) -> Vec<String> {
        self.admission.lock().held()
    }

    /// Callers and keys, beside the calls that wait.
    pub(super) fn snapshot(&self, waits: Waits) -> CallerSnapshot {
        let admission = self.admission.lock();
        CallerSnapshot {
            callers: admission.callers(),
            keys_held: admission.keys_held(),
            keys_waiting: admission.keys_waiting(),
            calls_waiting: waits.waiting,
            holds_refused: self.refused.load(Ordering::Relaxed) + waits.refused,
            holds_late: self.late.load(Ordering::Relaxed) + waits.late,
        }
    }
}

/// A caller's place among the callers.
pub(super) struct Seat {
    gate: Arc<Gate>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut admission = self.gate.admission.lock();
        admission.leave();
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
    /// Keys of other guests that go with it.
    more: Vec<Arc<HeldKey>>,
    seat: Option<Seat>,
}

impl Hold {
    /// The key.
    pub fn key(&self) -> &str {
        &self.key.name
    }

    /// Keeps the key of another hold as long as this one, which stays what the hold is called by. Of several
    /// keys the holds are taken in the order of the keys, so that no two callers wait for each other.
    pub fn keep(&mut self, other: Self) {
        self.more.push(other.key);
        self.more.extend(other.more);
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
        Self { key: Arc::clone(&self.key), more: self.more.clone(), seat: None }
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
        if let Some(tell) = self.gate.on_release.get() {
            tell(&self.name);
        }
        if self.gate.admission.lock().release(&self.name).is_some() {
            self.gate.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const FAR: Duration = Duration::from_secs(120);

    #[test]
    fn guest_lock_is_not_acquired_after_the_deadline() {
        let gate = Arc::new(Gate::default());
        let callers = || {
            let seen = gate.snapshot(Waits { waiting: 0, refused: 0, late: 0 });
            (seen.callers, seen.keys_held)
        };
        assert_eq!(gate.hold("a", Instant::now()).unwrap_err(), NoPermit::Late);
        let held = gate.hold("a", Instant::now() + FAR).unwrap();
        assert_eq!(callers(), (1, 1));
        drop(held);
        assert_eq!(callers(), (0, 0));
    }
}
