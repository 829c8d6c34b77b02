//! The admission in its mutex: callers wait here for a guest lock, and leave by dropping what they got.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::admission::{Admission, Place, Stopping};
use super::permits::{NoPermit, Waits};

/// Callers and locks, and their totals since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerSnapshot {
    /// Callers in the pool now: in a verb that holds or waits for a lock, or blocked in a job.
    pub callers: usize,
    /// Held locks.
    pub keys_held: usize,
    /// Callers that wait for a lock.
    pub keys_waiting: usize,
    /// Calls that wait for their permit; except for the calls of batches and jobs, they wait without a thread.
    pub calls_waiting: usize,
    /// Callers and calls that were refused instead of waiting for a lock or a permit.
    pub holds_refused: u64,
    /// Callers and calls that did not get their lock or their permit by their deadline.
    pub holds_late: u64,
}

/// A callback that receives a key.
type Tell = Box<dyn Fn(&str) + Send + Sync>;

/// [`Admission`] in its mutex, and the condition variable of its waiters.
#[derive(Default)]
pub(super) struct Gate {
    admission: Mutex<Admission>,
    /// Signals that a lock changed its holder, that the gate stops, or that a caller left during a stop. All
    /// waiters share it: they are few, as permits limit the callers, and each checks its own ticket.
    changed: Condvar,
    refused: AtomicU64,
    late: AtomicU64,
    /// The callback for a key before its lock is free again.
    on_release: OnceLock<Tell>,
}

impl From<Stopping> for NoPermit {
    fn from(Stopping: Stopping) -> Self {
        Self::Stopping
    }
}

impl Gate {
    /// Sets the callback for each key whose lock is released from now on. A second call of this method changes
    /// nothing.
    pub(super) fn on_release(&self, tell: Tell) {
        // An earlier callback stays.
        let _ = self.on_release.set(tell);
    }

    /// Adds a caller, which leaves when the seat is dropped.
    ///
    /// # Errors
    /// When the gate stops.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Seat, Stopping> {
        self.admission.lock().enter()?;
        Ok(Seat { gate: Arc::clone(self) })
    }

    /// Adds a caller and waits for its lock.
    ///
    /// # Errors
    /// When the caller is refused, or does not get the lock.
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
    /// When the caller does not get the lock.
    fn wait_for_key(&self, key: &str, deadline: Instant) -> Result<(), NoPermit> {
        // Otherwise a late caller could take a free lock and start its verb after the deadline.
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

    /// Accepts no more callers, refuses waiting ones, and waits for the others to leave; returns whether all
    /// did.
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

    /// Returns the keys of the held locks.
    pub(super) fn held(&self) -> Vec<String> {
        self.admission.lock().held()
    }

    /// Returns the counts of callers and locks, together with those of waiting calls.
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

/// A caller's registration in the admission.
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

/// A guest lock, which is released when the last clone is dropped.
///
/// The hold of [`super::Pool::hold`] also carries its caller's registration, so that an accepted verb does not
/// get `busy` between its jobs. A clone carries the lock alone: it can stay with a job whose caller has its
/// answer.
pub struct Hold {
    key: Arc<HeldKey>,
    /// Locks of other guests that are held together with this one.
    more: Vec<Arc<HeldKey>>,
    seat: Option<Seat>,
}

impl Hold {
    /// Returns the key.
    pub fn key(&self) -> &str {
        &self.key.name
    }

    /// Holds the lock of `other` as long as this one; the key of this hold stays its name. Callers must take
    /// several locks in the order of their keys, so that no two of them wait for each other.
    pub fn keep(&mut self, other: Self) {
        self.more.push(other.key);
        self.more.extend(other.more);
    }

    /// Returns the shared key.
    pub(super) fn name(&self) -> Arc<str> {
        Arc::clone(&self.key.name)
    }

    /// Returns whether this carries the caller's registration.
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
