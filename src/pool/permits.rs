//! Permits in their mutex: calls wait here for a permit, and dropping a permit grants it to the next call.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crossbeam_channel::bounded;
use parking_lot::{Condvar, Mutex};

use super::calls::{CallId, CallShare, Calls};
use super::clock::{self, Alarm, Clock};
use crate::config::PoolLimits;
use crate::sorted::Table;
use crate::threads::panic_text;

/// Waiting calls, and the totals since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waits {
    /// Calls that wait for their permit.
    pub(super) waiting: usize,
    /// Calls that were refused instead of waiting.
    pub(super) refused: u64,
    /// Calls that did not get their permit by their deadline.
    pub(super) late: u64,
}

/// [`Calls`] in its mutex, and the callbacks of the waiting calls.
pub(super) struct Permits {
    state: Mutex<State>,
    clock: Arc<Clock>,
    /// Signals that a call ended after the stop.
    ended: Condvar,
    refused: AtomicU64,
    late: AtomicU64,
}

struct State {
    calls: Calls,
    waiters: Table<CallId, Waiter>,
    /// The number of waiters without a thread, and its maximum.
    parked: usize,
    parked_most: usize,
    /// The latest deadline of waiters without a thread, once the agent stops.
    parked_until: Option<Instant>,
    /// Whether no more permits are given.
    is_stopped: bool,
    /// Whether a thread is granting permits to waiting calls.
    is_granting: bool,
}

impl State {
    fn take_waiter(&mut self, id: CallId) -> Option<Waiter> {
        let waiter = self.waiters.remove(&id)?;
        self.parked -= usize::from(waiter.is_parked);
        Some(waiter)
    }

    fn is_too_long(&self, deadline: Instant) -> bool {
        self.parked_until.is_some_and(|until| deadline > until)
    }
}

/// A call that waits for its permit.
struct Waiter {
    share: CallShare,
    deadline: Instant,
    /// Whether it waits without a thread.
    is_parked: bool,
    alarm: clock::Ticket,
    then: Granted,
}

/// Called once with the permit of a waiting call, or with the reason for its absence. It must not block.
pub type Granted = Box<dyn FnOnce(Result<Permit, NoPermit>) + Send>;

/// The reason for which a caller has no lock, or a call no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPermit {
    /// The maximum number of calls already waits.
    Full,
    /// The pool accepts no more callers.
    Stopping,
    /// The deadline passed first.
    Late,
}

impl Permits {
    /// Makes the permits, all of them available.
    pub(super) fn new(limits: &PoolLimits, clock: &Arc<Clock>) -> Arc<Self> {
        let state = State {
            calls: Calls::new(limits),
            waiters: Table::new(),
            parked: 0,
            parked_most: limits.calls_waiting,
            parked_until: None,
            is_stopped: false,
            is_granting: false,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            clock: Arc::clone(clock),
            ended: Condvar::new(),
            refused: AtomicU64::new(0),
            late: AtomicU64::new(0),
        })
    }

    /// Returns a permit for a call if there is room now.
    pub(super) fn permit(self: &Arc<Self>, share: &CallShare) -> Option<Permit> {
        let mut state = self.state.lock();
        let may = !state.is_stopped && state.calls.begin(share);
        may.then(|| self.issue(share.clone()))
    }

    fn issue(self: &Arc<Self>, share: CallShare) -> Permit {
        Permit { permits: Arc::clone(self), share: Some(share) }
    }

    /// Queues a call for its permit. `then` is called with the permit on the thread that frees it, or with an
    /// error on the clock's thread at `deadline`. It is called at once, on this thread, if the call gets a permit
    /// now or must not wait.
    pub(super) fn permit_later(
        self: &Arc<Self>,
        share: CallShare,
        deadline: Instant,
        then: Granted,
    ) {
        self.wait(share, deadline, true, then);
    }

    /// Waits on this thread for the permit of a call.
    ///
    /// # Errors
    /// When the pool stops, or `deadline` passes.
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

    fn wait(self: &Arc<Self>, share: CallShare, deadline: Instant, is_parked: bool, then: Granted) {
        let mut state = self.state.lock();
        let refused = match is_parked {
            _ if state.is_stopped => Some(NoPermit::Stopping),
            true if state.is_too_long(deadline) => Some(NoPermit::Stopping),
            true if state.parked >= state.parked_most => Some(NoPermit::Full),
            _ => None,
        };
        if let Some(why) = refused {
            drop(state);
            self.refused.fetch_add(1, Ordering::Relaxed);
            return notify(then, Err(why));
        }
        let id = state.calls.wait(&share);
        let alarm = self.clock.ticket(deadline);
        state.parked += usize::from(is_parked);
        let waiter = Waiter { share: share.clone(), deadline, is_parked, alarm, then };
        state.waiters.insert(id, waiter);
        drop(state);
        self.clock.set(alarm, Arc::new(Expiry { permits: Arc::clone(self), share, id }));
        // A permit may have become free before the call was queued.
        self.grant();
        if !self.state.lock().waiters.contains_key(&id) {
            // The thread that granted the permit may have found no alarm to cancel.
            self.clock.cancel(alarm);
        }
    }

    /// Grants permits to waiting calls while there is room. A callback may drop its permit, which calls this
    /// again; the inner call leaves the next grant to the outer one.
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
            let Waiter { share, alarm, then, .. } =
                state.take_waiter(id).expect("a waiting call is in the list");
            drop(state);
            self.clock.cancel(alarm);
            notify(then, Ok(self.issue(share)));
        }
    }

    /// Refuses the calls that wait without a thread and with a deadline after `until`, and later ones of this
    /// kind: the agent could not answer them.
    pub(super) fn turn_away_after(&self, until: Instant) {
        self.state.lock().parked_until = Some(until);
        self.turn_away_where(|waiter| waiter.is_parked && waiter.deadline > until);
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
            notify(then, Err(NoPermit::Stopping));
        }
    }

    /// Gives no more permits, refuses waiting calls, and waits for the calls with a permit to end; returns
    /// whether all did.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(super) fn stop(&self, deadline: Instant) -> bool {
        self.state.lock().is_stopped = true;
        self.turn_away_where(|_| true);
        let mut state = self.state.lock();
        self.ended.wait_while_until(&mut state, |now| now.calls.under_way() > 0, deadline);
        state.calls.under_way() == 0
    }

    /// Returns the reason for which a new call would be refused instead of waiting.
    pub(super) fn would_refuse(&self) -> Option<NoPermit> {
        let state = self.state.lock();
        match state.is_stopped || state.parked_until.is_some() {
            true => Some(NoPermit::Stopping),
            false => (state.parked >= state.parked_most).then_some(NoPermit::Full),
        }
    }

    /// Returns the current counts.
    pub(super) fn snapshot(&self) -> Waits {
        Waits {
            waiting: self.state.lock().calls.waiting(),
            refused: self.refused.load(Ordering::Relaxed),
            late: self.late.load(Ordering::Relaxed),
        }
    }
}

/// Calls back about a permit; a panic is logged.
fn notify(then: Granted, permit: Result<Permit, NoPermit>) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| then(permit))) {
        log::error!("a waiting call panicked: {}", panic_text(payload));
    }
}

/// The right of a call to run; dropping it grants a permit to the next call.
pub struct Permit {
    permits: Arc<Permits>,
    /// Taken on drop.
    share: Option<CallShare>,
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("share", &self.share).finish_non_exhaustive()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(share) = self.share.take() else { return };
        let mut state = self.permits.state.lock();
        state.calls.end(&share);
        let is_stopped = state.is_stopped;
        drop(state);
        match is_stopped {
            true => drop(self.permits.ended.notify_all()),
            false => self.permits.grant(),
        }
    }
}

/// The alarm at the end of a call's wait for its permit.
struct Expiry {
    permits: Arc<Permits>,
    share: CallShare,
    id: CallId,
}

impl Alarm for Expiry {
    fn ring(&self) {
        let mut state = self.permits.state.lock();
        if !state.calls.withdraw(&self.share, self.id) {
            return;
        }
        let waiter = state.take_waiter(self.id);
        drop(state);
        if let Some(Waiter { then, .. }) = waiter {
            self.permits.late.fetch_add(1, Ordering::Relaxed);
            notify(then, Err(NoPermit::Late));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossbeam_channel::Receiver;

    use super::*;
    use crate::os::peer::Share;
    use crate::pool::error::CallClass;

    const FAR: Duration = Duration::from_secs(120);
    const SOON: Duration = Duration::from_secs(20);

    fn permits(calls_waiting: usize) -> Arc<Permits> {
        let limits = PoolLimits { changes: 1, calls_waiting, ..PoolLimits::default() };
        Permits::new(&limits, &Clock::start().unwrap())
    }

    fn share(guest: &str) -> CallShare {
        CallShare { class: CallClass::Change, user: Share::User(1), guest: guest.into() }
    }

    /// Queues a call; returns the channel of its outcome.
    fn wait(
        permits: &Arc<Permits>,
        guest: &str,
        time: Duration,
    ) -> Receiver<Result<Permit, NoPermit>> {
        let (give, given) = bounded(1);
        let then = Box::new(move |permit| give.send(permit).unwrap());
        permits.permit_later(share(guest), Instant::now() + time, then);
        given
    }

    fn outcome(given: &Receiver<Result<Permit, NoPermit>>) -> Result<Permit, NoPermit> {
        let outcome = given.recv_timeout(SOON).expect("it is told");
        assert!(given.try_recv().is_err(), "once");
        outcome
    }

    #[test]
    fn dropped_permit_is_granted_to_the_next() {
        let permits = permits(8);
        let first = permits.permit(&share("a")).unwrap();
        assert!(permits.permit(&share("b")).is_none());
        let waiting = ["b", "c"].map(|guest| wait(&permits, guest, FAR));
        assert_eq!(permits.snapshot().waiting, 2);
        drop(first);
        let second = waiting[0].recv_timeout(SOON).unwrap().unwrap();
        assert!(second.share == Some(share("b")) && waiting[1].is_empty());
        drop(second);
        assert!(waiting[1].recv_timeout(SOON).unwrap().is_ok());
        assert_eq!(permits.snapshot().waiting, 0);
        assert!(permits.stop(Instant::now() + SOON), "none is left");
    }

    #[test]
    fn a_call_waits_up_to_its_deadline() {
        let permits = permits(8);
        let first = permits.permit(&share("a")).unwrap();
        for time in [Duration::ZERO, Duration::from_millis(20)] {
            assert_eq!(outcome(&wait(&permits, "b", time)).unwrap_err(), NoPermit::Late);
        }
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(permits.wait_for_permit(&share("b"), deadline).unwrap_err(), NoPermit::Late);
        drop(first);
        assert!(permits.permit(&share("b")).is_some(), "nothing is left of those that were late");
        assert_eq!(permits.snapshot().late, 3);
    }

    #[test]
    fn unused_permits_are_passed_on_without_end() {
        let permits = permits(50_000);
        let first = permits.permit(&share("a")).unwrap();
        let (give, given) = bounded(50_000);
        for _ in 0..50_000 {
            let give = give.clone();
            // The callback drops the permit, as when the front has ended.
            let then = Box::new(move |permit: Result<Permit, NoPermit>| {
                give.send(permit.is_ok()).unwrap()
            });
            permits.permit_later(share("b"), Instant::now() + FAR, then);
        }
        drop(first);
        assert_eq!(given.try_iter().filter(|is_ok| *is_ok).count(), 50_000);
        assert!(permits.permit(&share("a")).is_some());
    }

    #[test]
    fn panic_of_a_permit_holder_fails_only_its_call() {
        let permits = permits(8);
        let first = permits.permit(&share("a")).unwrap();
        permits.permit_later(share("b"), Instant::now() + FAR, Box::new(|_| panic!("on purpose")));
        let next = wait(&permits, "c", FAR);
        drop(first);
        assert!(outcome(&next).is_ok());
    }

    #[test]
    fn stop_continues_calls_that_end_in_time() {
        let permits = permits(2);
        let first = permits.permit(&share("a")).unwrap();
        let waiting = [wait(&permits, "b", FAR), wait(&permits, "c", 2 * FAR)];
        assert_eq!(outcome(&wait(&permits, "d", FAR)).unwrap_err(), NoPermit::Full);
        assert_eq!(permits.would_refuse(), Some(NoPermit::Full));
        permits.turn_away_after(Instant::now() + FAR + SOON);
        assert_eq!(outcome(&waiting[1]).unwrap_err(), NoPermit::Stopping);
        assert_eq!(outcome(&wait(&permits, "d", 2 * FAR)).unwrap_err(), NoPermit::Stopping);
        let later = wait(&permits, "d", FAR);
        drop(first);
        drop(waiting[0].recv_timeout(SOON).unwrap().unwrap());
        drop(later.recv_timeout(SOON).unwrap().unwrap());
        assert!(permits.stop(Instant::now() + SOON));
    }

    #[test]
    fn stop_refuses_waiting_calls() {
        let permits = permits(1);
        let first = permits.permit(&share("a")).unwrap();
        let waiting = wait(&permits, "b", FAR);
        std::thread::scope(|scope| {
            let job =
                scope.spawn(|| permits.wait_for_permit(&share("d"), Instant::now() + FAR).is_ok());
            while permits.snapshot().waiting < 2 {
                std::thread::yield_now();
            }
            assert!(!permits.stop(Instant::now()), "one is under way");
            assert!(!job.join().unwrap());
        });
        assert_eq!(outcome(&waiting).unwrap_err(), NoPermit::Stopping);
        drop(first);
        assert!(permits.stop(Instant::now() + SOON));
        assert!(permits.permit(&share("a")).is_none());
        let late = permits.wait_for_permit(&share("a"), Instant::now() + FAR);
        assert_eq!(late.unwrap_err(), NoPermit::Stopping);
    }
}
