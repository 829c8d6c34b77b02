//! The admission behind its lock: calls wait here for their permit, callers for a key, and both leave by
//! dropping what they got.

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crossbeam_channel::bounded;
use parking_lot::{Condvar, Mutex};

use super::admission::{Admission, Place, Stopping};
use super::calls::{CallId, CallShare, Calls};
use super::clock::{self, Alarm, Clock};
use crate::config::PoolLimits;
use crate::threads::panic_text;

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

/// The lock around [`Admission`] and [`Calls`], and what wakes those that wait.
pub(super) struct Gate {
    state: Mutex<State>,
    clock: Arc<Clock>,
    /// A key changed hands, or the gate stops, or a caller left while it does. All waiters share
    /// it: they are few, as callers are rationed, and each looks at its own ticket.
    changed: Condvar,
    refused: AtomicU64,
    late: AtomicU64,
}

struct State {
    admission: Admission,
    calls: Calls,
    /// What is done with the permits of the calls that wait.
    waiters: HashMap<CallId, Waiter>,
    /// Of these, those without a thread, and how many there may be.
    parked: usize,
    parked_most: usize,
    /// Whether none of those may wait any more, as the agent is told to stop.
    is_closing: bool,
    /// Whether a thread gives permits to those that wait.
    is_granting: bool,
}

impl State {
    fn take_waiter(&mut self, id: CallId) -> Option<Waiter> {
        let waiter = self.waiters.remove(&id)?;
        self.parked -= usize::from(waiter.is_parked);
        Some(waiter)
    }
}

/// A call that waits for its permit.
struct Waiter {
    share: CallShare,
    /// Whether it has no thread.
    is_parked: bool,
    alarm: clock::Ticket,
    then: Granted,
}

/// Is called once with the permit of a call that waited, or with why there is none. It must not block.
pub type Granted = Box<dyn FnOnce(Result<Permit, NoPermit>) + Send>;

/// Why there is no key, or no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPermit {
    /// So many calls wait as may.
    Full,
    /// Nobody is let in any more.
    Stopping,
    /// Others had it up to the deadline.
    Late,
}

impl From<Stopping> for NoPermit {
    fn from(Stopping: Stopping) -> Self {
        Self::Stopping
    }
}

impl Gate {
    /// An open gate.
    pub(super) fn new(limits: &PoolLimits, clock: &Arc<Clock>) -> Arc<Self> {
        let state = State {
            admission: Admission::default(),
            calls: Calls::new(limits),
            waiters: HashMap::new(),
            parked: 0,
            parked_most: limits.calls_waiting,
            is_closing: false,
            is_granting: false,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            clock: Arc::clone(clock),
            changed: Condvar::new(),
            refused: AtomicU64::new(0),
            late: AtomicU64::new(0),
        })
    }

    /// Lets a caller in; it leaves by dropping the seat.
    ///
    /// # Errors
    /// When the gate stops.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Seat, Stopping> {
        self.state.lock().admission.enter()?;
        Ok(Seat { gate: Arc::clone(self) })
    }

    /// A permit for a call, if there is room for it now.
    pub(super) fn permit(self: &Arc<Self>, share: &CallShare) -> Option<Permit> {
        let mut state = self.state.lock();
        state.admission.enter().ok()?;
        if state.calls.begin(share) {
            return Some(self.issue(share.clone()));
        }
        state.admission.leave();
        None
    }

    fn issue(self: &Arc<Self>, share: CallShare) -> Permit {
        Permit { gate: Arc::clone(self), share: Some(share) }
    }

    /// Has a call wait for its permit. `then` is called with it on the thread that frees it, with an error on the
    /// clock's thread at `deadline`, and at once on this thread where the call gets a permit by now or must not
    /// wait.
    pub(super) fn permit_later(
        self: &Arc<Self>,
        share: CallShare,
        deadline: Instant,
        then: Granted,
    ) {
        self.wait(share, deadline, true, then);
    }

    fn wait(self: &Arc<Self>, share: CallShare, deadline: Instant, is_parked: bool, then: Granted) {
        let mut state = self.state.lock();
        let refused = match (state.admission.stopping(), is_parked) {
            (true, _) => Some(NoPermit::Stopping),
            (false, true) if state.is_closing => Some(NoPermit::Stopping),
            (false, true) if state.parked >= state.parked_most => Some(NoPermit::Full),
            (false, _) => None,
        };
        if let Some(why) = refused {
            drop(state);
            self.refused.fetch_add(1, Ordering::Relaxed);
            return tell(then, Err(why));
        }
        let id = state.calls.wait(&share);
        let alarm = self.clock.ticket(deadline);
        state.parked += usize::from(is_parked);
        state.waiters.insert(id, Waiter { share: share.clone(), is_parked, alarm, then });
        drop(state);
        self.clock.set(alarm, Arc::new(Expiry { gate: Arc::clone(self), share, id }));
        // Room may have been made before it waited.
        self.grant();
        if !self.state.lock().waiters.contains_key(&id) {
            // Who gave it the permit may have found no alarm to take back.
            self.clock.cancel(alarm);
        }
    }

    /// A permit for a call that waits for it on this thread.
    ///
    /// # Errors
    /// When there is no room to wait, the gate closes, or `deadline` comes.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(super) fn wait_for_permit(
        self: &Arc<Self>,
        share: &CallShare,
        deadline: Instant,
    ) -> Result<Permit, NoPermit> {
        if let Some(permit) = self.permit(share) {
            return Ok(permit);
        }
        let (give, given) = bounded(1);
        let then = Box::new(move |permit| drop(give.send(permit)));
        self.wait(share.clone(), deadline, false, then);
        given.recv().unwrap_or(Err(NoPermit::Stopping))
    }

    /// Gives permits to the calls that wait, as long as there is room. What is done with a permit may be to drop
    /// it: then this is called again, and leaves the next one to the first call of it.
    fn grant(self: &Arc<Self>) {
        if std::mem::replace(&mut self.state.lock().is_granting, true) {
            return;
        }
        loop {
            let mut state = self.state.lock();
            let Some(id) = state.calls.grant() else {
                state.is_granting = false;
                return;
            };
            let waiter = state.take_waiter(id).expect("whoever waits is told");
            // It stops only when all that waited were turned away.
            let is_in = state.admission.enter().is_ok();
            drop(state);
            let Waiter { share, alarm, then, .. } = waiter;
            self.clock.cancel(alarm);
            let permit = match is_in {
                true => Ok(self.issue(share)),
                false => {
                    self.state.lock().calls.end(&share);
                    Err(NoPermit::Stopping)
                }
            };
            tell(then, permit);
        }
    }

    /// Turns away the calls that wait without a thread, and those that would.
    pub(super) fn turn_away(&self) {
        self.state.lock().is_closing = true;
        self.turn_away_where(|waiter| waiter.is_parked);
    }

    fn turn_away_where(&self, is_one: impl Fn(&Waiter) -> bool) {
        let mut state = self.state.lock();
        let ids = state.waiters.iter().filter(|(_, waiter)| is_one(waiter)).map(|(id, _)| *id);
        let ids: Vec<CallId> = ids.collect();
        let waiters: Vec<Waiter> = ids
            .into_iter()
            .filter_map(|id| {
                let waiter = state.take_waiter(id)?;
                state.calls.withdraw(&waiter.share, id);
                Some(waiter)
            })
            .collect();
        drop(state);
        for Waiter { alarm, then, .. } in waiters {
            self.clock.cancel(alarm);
            tell(then, Err(NoPermit::Stopping));
        }
    }

    fn leave(&self) {
        let mut state = self.state.lock();
        state.admission.leave();
        if state.admission.stopping() {
            self.changed.notify_all();
        }
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
            Ok(Hold { key: Arc::new(key), seat: Some(seat) })
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
        let mut state = self.state.lock();
        let ticket = state.admission.acquire(key)?;
        let mut expired = false;
        loop {
            match state.admission.place(key, ticket) {
                Place::Holder => return Ok(()),
                Place::Gone => return Err(NoPermit::Stopping),
                Place::Waiting if expired => {
                    state.admission.give_up(key, ticket);
                    return Err(NoPermit::Late);
                }
                Place::Waiting => {
                    expired = self.changed.wait_until(&mut state, deadline).timed_out();
                }
            }
        }
    }

    /// Lets nobody in any more, turns away who waits for a key or a permit, and waits for the callers to
    /// leave; whether all did.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(super) fn stop(&self, deadline: Instant) -> bool {
        self.state.lock().admission.stop();
        self.turn_away_where(|_| true);
        let mut state = self.state.lock();
        self.changed.notify_all();
        self.changed.wait_while_until(&mut state, |now| now.admission.callers() > 0, deadline);
        state.admission.callers() == 0
    }

    /// Why a call that came now would be turned away rather than wait.
    pub(super) fn would_refuse(&self) -> Option<NoPermit> {
        let state = self.state.lock();
        match state.is_closing {
            true => Some(NoPermit::Stopping),
            false => (state.parked >= state.parked_most).then_some(NoPermit::Full),
        }
    }

    /// The keys that somebody holds.
    pub(super) fn held(&self) -> Vec<String> {
        self.state.lock().admission.held()
    }

    /// Callers and keys.
    pub(super) fn snapshot(&self) -> CallerSnapshot {
        let state = self.state.lock();
        CallerSnapshot {
            callers: state.admission.callers(),
            keys_held: state.admission.keys_held(),
            keys_waiting: state.admission.keys_waiting(),
            calls_waiting: state.calls.waiting(),
            holds_refused: self.refused.load(Ordering::Relaxed),
            holds_late: self.late.load(Ordering::Relaxed),
        }
    }
}

/// Calls back about a permit; a panic is logged.
fn tell(then: Granted, permit: Result<Permit, NoPermit>) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| then(permit))) {
        log::error!("a call that waited: panic: {}", panic_text(payload));
    }
}

/// A caller's place among the callers.
pub(super) struct Seat {
    gate: Arc<Gate>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.gate.leave();
    }
}

/// What a call needs to be carried out; dropped, it lets the next one in.
pub struct Permit {
    gate: Arc<Gate>,
    /// Taken when it is dropped.
    share: Option<CallShare>,
}

impl Permit {
    /// Whether it is for such a call.
    pub fn is_for(&self, share: &CallShare) -> bool {
        self.share.as_ref() == Some(share)
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("share", &self.share).finish_non_exhaustive()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(share) = self.share.take() else { return };
        let mut state = self.gate.state.lock();
        state.calls.end(&share);
        drop(state);
        self.gate.leave();
        self.gate.grant();
    }
}

/// The end of a call's wait for its permit.
struct Expiry {
    gate: Arc<Gate>,
    share: CallShare,
    id: CallId,
}

impl Alarm for Expiry {
    fn ring(&self) {
        let mut state = self.gate.state.lock();
        if !state.calls.withdraw(&self.share, self.id) {
            return;
        }
        let waiter = state.take_waiter(self.id);
        drop(state);
        if let Some(Waiter { then, .. }) = waiter {
            self.gate.late.fetch_add(1, Ordering::Relaxed);
            tell(then, Err(NoPermit::Late));
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
        if self.gate.state.lock().admission.release(&self.name).is_some() {
            self.gate.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossbeam_channel::Receiver;

    use super::*;
    use crate::os::peer::Share;
    use crate::pool::error::Ration;

    const FAR: Duration = Duration::from_secs(120);
    const SOON: Duration = Duration::from_secs(20);

    fn gate(calls_waiting: usize) -> Arc<Gate> {
        let limits = PoolLimits { changes: 1, calls_waiting, ..PoolLimits::default() };
        Gate::new(&limits, &Clock::start().unwrap())
    }

    fn share(guest: &str) -> CallShare {
        CallShare { ration: Ration::Change, user: Share::User(1), guest: guest.into() }
    }

    /// Has a call wait; where the outcome comes.
    fn wait(gate: &Arc<Gate>, guest: &str, time: Duration) -> Receiver<Result<Permit, NoPermit>> {
        let (give, given) = bounded(1);
        let then = Box::new(move |permit| give.send(permit).unwrap());
        gate.permit_later(share(guest), Instant::now() + time, then);
        given
    }

    fn outcome(given: &Receiver<Result<Permit, NoPermit>>) -> Result<Permit, NoPermit> {
        let outcome = given.recv_timeout(SOON).expect("it is told");
        assert!(given.try_recv().is_err(), "once");
        outcome
    }

    #[test]
    fn a_permit_that_is_dropped_goes_to_the_next() {
        let gate = gate(8);
        let first = gate.permit(&share("a")).unwrap();
        assert!(gate.permit(&share("b")).is_none());
        let waiting = ["b", "c"].map(|guest| wait(&gate, guest, FAR));
        assert_eq!(gate.snapshot().calls_waiting, 2);
        drop(first);
        let second = waiting[0].recv_timeout(SOON).unwrap().unwrap();
        assert!(second.is_for(&share("b")) && waiting[1].is_empty());
        drop(second);
        assert!(waiting[1].recv_timeout(SOON).unwrap().is_ok());
        assert_eq!((gate.snapshot().callers, gate.snapshot().calls_waiting), (0, 0));
    }

    #[test]
    fn a_call_waits_up_to_its_deadline() {
        let gate = gate(8);
        let first = gate.permit(&share("a")).unwrap();
        for time in [Duration::ZERO, Duration::from_millis(20)] {
            assert_eq!(outcome(&wait(&gate, "b", time)).unwrap_err(), NoPermit::Late);
        }
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(gate.wait_for_permit(&share("b"), deadline).unwrap_err(), NoPermit::Late);
        drop(first);
        assert!(gate.permit(&share("b")).is_some(), "nothing is left of those that were late");
        assert_eq!(gate.snapshot().holds_late, 3);
    }

    #[test]
    fn permits_that_nobody_uses_are_handed_on_without_end() {
        let gate = gate(50_000);
        let first = gate.permit(&share("a")).unwrap();
        let (give, given) = bounded(50_000);
        for _ in 0..50_000 {
            let give = give.clone();
            // It drops the permit, as where the front has gone.
            let then = Box::new(move |permit: Result<Permit, NoPermit>| {
                give.send(permit.is_ok()).unwrap()
            });
            gate.permit_later(share("b"), Instant::now() + FAR, then);
        }
        drop(first);
        assert_eq!(given.try_iter().filter(|is_ok| *is_ok).count(), 50_000);
        assert!(gate.permit(&share("a")).is_some());
    }

    #[test]
    fn a_panic_of_who_gets_a_permit_costs_that_call_alone() {
        let gate = gate(8);
        let first = gate.permit(&share("a")).unwrap();
        gate.permit_later(share("b"), Instant::now() + FAR, Box::new(|_| panic!("on purpose")));
        let next = wait(&gate, "c", FAR);
        drop(first);
        assert!(outcome(&next).is_ok());
    }

    #[test]
    fn a_stop_turns_away_what_waits() {
        let gate = gate(1);
        let first = gate.permit(&share("a")).unwrap();
        let waiting = wait(&gate, "b", FAR);
        assert_eq!(outcome(&wait(&gate, "c", FAR)).unwrap_err(), NoPermit::Full);
        assert_eq!(gate.would_refuse(), Some(NoPermit::Full));
        std::thread::scope(|scope| {
            // What has a thread, as a job, goes on waiting until all stops.
            let job =
                scope.spawn(|| gate.wait_for_permit(&share("d"), Instant::now() + FAR).is_ok());
            while gate.snapshot().calls_waiting < 2 {
                std::thread::yield_now();
            }
            gate.turn_away();
            assert_eq!(outcome(&waiting).unwrap_err(), NoPermit::Stopping);
            assert_eq!(outcome(&wait(&gate, "e", FAR)).unwrap_err(), NoPermit::Stopping);
            drop(first);
            assert!(job.join().unwrap(), "it has its permit");
        });
        assert!(gate.stop(Instant::now() + SOON));
        assert!(gate.permit(&share("a")).is_none());
        let late = gate.wait_for_permit(&share("a"), Instant::now() + FAR);
        assert_eq!(late.unwrap_err(), NoPermit::Stopping);
    }

    #[test]
    fn a_key_is_not_had_after_the_deadline() {
        let gate = gate(8);
        assert_eq!(gate.hold("a", Instant::now()).unwrap_err(), NoPermit::Late);
        assert!(gate.hold("a", Instant::now() + FAR).is_ok());
        assert_eq!((gate.snapshot().callers, gate.snapshot().keys_held), (0, 0));
    }
}
