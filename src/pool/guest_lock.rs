//! The admission in its mutex: callers wait here for a guest lock, and leave by dropping their [`CallerGuard`].

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::admission::{AdmissionState, Stopping, TicketState};
use super::permits::{NoPermit, Waits};

/// Callers and locks, and their totals since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerSnapshot {
    /// Callers in the pool now: in a verb that holds or waits for a lock, or blocked in a job.
    pub callers: usize,
    /// Held locks.
    pub locks_held: usize,
    /// Callers that wait for a lock.
    pub locks_waiting: usize,
    /// Calls that wait for their permit; except for the calls of batches and jobs, they wait without a thread.
    pub calls_waiting: usize,
    /// Callers and calls that were refused instead of waiting for a lock or a permit.
    pub waits_refused: u64,
    /// Callers and calls that did not get their lock or their permit by their deadline.
    pub waits_late: u64,
}

/// A callback that receives the guest's id.
type ReleaseCallback = Box<dyn Fn(&str) + Send + Sync>;

/// [`AdmissionState`] in its mutex, and the condition variable of its waiters.
#[derive(Default)]
pub(super) struct Admission {
    state: Mutex<AdmissionState>,
    /// Signals that a lock changed its holder, that the pool stops, or that a caller left during a stop. All
    /// waiters share it: they are few, as permits limit the callers, and each checks its own ticket.
    changed: Condvar,
    refused: AtomicU64,
    late: AtomicU64,
    /// Called before a guest's lock is free again.
    on_release: OnceLock<ReleaseCallback>,
}

impl From<Stopping> for NoPermit {
    fn from(Stopping: Stopping) -> Self {
        Self::Stopping
    }
}

impl Admission {
    /// Sets the callback for each release of a guest lock. A second call of this method changes nothing.
    pub(super) fn on_release(&self, callback: ReleaseCallback) {
        // An earlier callback stays.
        let _ = self.on_release.set(callback);
    }

    /// Adds a caller, which leaves when the guard is dropped.
    ///
    /// # Errors
    /// When the pool stops.
    pub(super) fn enter(self: &Arc<Self>) -> Result<CallerGuard, Stopping> {
        self.state.lock().enter()?;
        Ok(CallerGuard { admission: Arc::clone(self) })
    }

    /// Adds a caller and waits for the guest's lock.
    ///
    /// # Errors
    /// When the caller is refused, or does not get the lock.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(super) fn lock_guest(
        self: &Arc<Self>,
        guest: &str,
        deadline: Instant,
    ) -> Result<GuestLock, NoPermit> {
        let lock = self.enter().map_err(NoPermit::from).and_then(|caller| {
            self.wait_for_lock(guest, deadline)?;
            let held = HeldLock { admission: Arc::clone(self), guest: Arc::from(guest) };
            Ok(GuestLock { held: Arc::new(held), more: Vec::new(), caller: Some(caller) })
        });
        let counter = match lock {
            Ok(_) => return lock,
            Err(NoPermit::Late) => &self.late,
            Err(NoPermit::Full | NoPermit::Stopping) => &self.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        lock
    }

    /// # Errors
    /// When the caller does not get the lock.
    fn wait_for_lock(&self, guest: &str, deadline: Instant) -> Result<(), NoPermit> {
        // Otherwise a late caller could take a free lock and start its verb after the deadline.
        if Instant::now() >= deadline {
            return Err(NoPermit::Late);
        }
        let mut admission = self.state.lock();
        let ticket = admission.acquire(guest)?;
        let mut expired = false;
        loop {
            match admission.ticket_state(guest, ticket) {
                TicketState::Holder => return Ok(()),
                TicketState::Gone => return Err(NoPermit::Stopping),
                TicketState::Waiting if expired => {
                    admission.give_up(guest, ticket);
                    return Err(NoPermit::Late);
                }
                TicketState::Waiting => {
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
        let mut admission = self.state.lock();
        admission.stop();
        self.changed.notify_all();
        self.changed.wait_while_until(&mut admission, |now| now.callers() > 0, deadline);
        admission.callers() == 0
    }

    /// Returns the guests whose lock is held.
    pub(super) fn held(&self) -> Vec<String> {
        self.state.lock().held()
    }

    /// Returns the counts of callers and locks, together with those of waiting calls.
    pub(super) fn snapshot(&self, waits: Waits) -> CallerSnapshot {
        let admission = self.state.lock();
        CallerSnapshot {
            callers: admission.callers(),
            locks_held: admission.locks_held(),
            locks_waiting: admission.locks_waiting(),
            calls_waiting: waits.waiting,
            waits_refused: self.refused.load(Ordering::Relaxed) + waits.refused,
            waits_late: self.late.load(Ordering::Relaxed) + waits.late,
        }
    }
}

/// A caller's registration in the admission.
pub(super) struct CallerGuard {
    admission: Arc<Admission>,
}

impl Drop for CallerGuard {
    fn drop(&mut self) {
        let mut admission = self.admission.state.lock();
        admission.leave();
        if admission.stopping() {
            self.admission.changed.notify_all();
        }
    }
}

/// A guest lock, which is released when the last clone is dropped.
///
/// The lock of [`super::Pool::lock_guest`] also carries its caller's registration, so that an accepted verb does not
/// get `busy` between its jobs. A clone carries the lock alone: it can stay with a job whose caller has its
/// answer.
pub struct GuestLock {
    held: Arc<HeldLock>,
    /// Locks of other guests that are held together with this one.
    more: Vec<Arc<HeldLock>>,
    caller: Option<CallerGuard>,
}

impl GuestLock {
    /// Returns the guest's id, or the name of a locked dataset that belongs to no guest.
    pub fn guest(&self) -> &str {
        &self.held.guest
    }

    /// Holds `other` as long as this lock, whose guest stays the same. Callers must take several locks in the order
    /// of the ids, so that no two callers wait for each other.
    pub fn keep(&mut self, other: Self) {
        self.more.push(other.held);
        self.more.extend(other.more);
    }

    /// Returns the guest's id without a copy.
    pub(super) fn shared_guest(&self) -> Arc<str> {
        Arc::clone(&self.held.guest)
    }

    /// Returns whether this carries the caller's registration.
    pub(super) fn has_caller_guard(&self) -> bool {
        self.caller.is_some()
    }
}

impl Clone for GuestLock {
    fn clone(&self) -> Self {
        Self { held: Arc::clone(&self.held), more: self.more.clone(), caller: None }
    }
}

impl fmt::Debug for GuestLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestLock").field("guest", &self.guest()).finish_non_exhaustive()
    }
}

struct HeldLock {
    admission: Arc<Admission>,
    guest: Arc<str>,
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        if let Some(callback) = self.admission.on_release.get() {
            callback(&self.guest);
        }
        if self.admission.state.lock().release(&self.guest).is_some() {
            self.admission.changed.notify_all();
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
        let admission = Arc::new(Admission::default());
        let callers = || {
            let seen = admission.snapshot(Waits { waiting: 0, refused: 0, late: 0 });
            (seen.callers, seen.locks_held)
        };
        assert_eq!(admission.lock_guest("a", Instant::now()).unwrap_err(), NoPermit::Late);
        let held = admission.lock_guest("a", Instant::now() + FAR).unwrap();
        assert_eq!(callers(), (1, 1));
        drop(held);
        assert_eq!(callers(), (0, 0));
    }
}
