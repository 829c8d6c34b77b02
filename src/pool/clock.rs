//! The pool's clock: a thread that runs timers and ends jobs and calls without a waiting thread at their
//! deadlines.
//!
//! Nearly all jobs end before their deadline. So a new alarm wakes the thread only if the thread would
//! sleep past it, and a cancelled alarm never does. A continuous series of jobs wakes the thread
//! once in the time of a deadline; without alarms it sleeps.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::sorted::Table;
use crate::threads::panic_text;

/// An action at a time, on the clock's thread. It must not block.
pub(super) trait Alarm: Send + Sync {
    /// Runs at the alarm's time.
    fn ring(&self);
}

/// Identifies an alarm, to cancel it.
pub(super) type Ticket = (Instant, u64);

/// A callback at a set time. Dropping the timer before that time cancels the callback.
pub struct Timer {
    clock: Arc<Clock>,
    ticket: Option<Ticket>,
}

impl Timer {
    /// Calls `then` at the time `at`, on the clock's thread. `then` must not block.
    pub(super) fn set(clock: &Arc<Clock>, at: Instant, then: Box<dyn FnOnce() + Send>) -> Self {
        let ticket = clock.ticket(at);
        clock.set(ticket, Arc::new(Once(Mutex::new(Some(then)))));
        Self { clock: Arc::clone(clock), ticket: Some(ticket) }
    }

    /// Keeps the callback scheduled without the timer.
    pub fn forget(mut self) {
        self.ticket = None;
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.clock.cancel(ticket);
        }
    }
}

struct Once(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Alarm for Once {
    fn ring(&self) {
        let then = self.0.lock().take();
        if let Some(then) = then {
            then();
        }
    }
}

/// The clock with its alarms.
pub(super) struct Clock {
    state: Mutex<ClockState>,
    /// Wakes the thread after a change.
    changed: Condvar,
}

#[derive(Default)]
struct ClockState {
    alarms: Table<Ticket, Arc<dyn Alarm>>,
    /// The number of the latest ticket: several alarms may have the same time.
    tickets: u64,
    /// When the thread wakes next by itself.
    wakes_at: Option<Instant>,
    is_stopped: bool,
}

impl Clock {
    /// Starts the clock, whose thread ends at [`Self::stop`].
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub(super) fn start() -> io::Result<Arc<Self>> {
        let clock = Arc::new(Self { state: Mutex::default(), changed: Condvar::new() });
        let shared = Arc::clone(&clock);
        thread::Builder::new().name("pool-clock".into()).spawn(move || shared.run())?;
        Ok(clock)
    }

    /// Returns a ticket for that time.
    pub(super) fn ticket(&self, at: Instant) -> Ticket {
        let mut state = self.state.lock();
        state.tickets += 1;
        (at, state.tickets)
    }

    /// Sets an alarm for the ticket's time.
    pub(super) fn set(&self, ticket: Ticket, alarm: Arc<dyn Alarm>) {
        let mut state = self.state.lock();
        state.alarms.insert(ticket, alarm);
        if state.wakes_at.is_none_or(|at| ticket.0 < at) {
            state.wakes_at = Some(ticket.0);
            self.changed.notify_one();
        }
    }

    /// Cancels an alarm; does nothing if it has rung.
    pub(super) fn cancel(&self, ticket: Ticket) {
        // Dropped outside the lock.
        let alarm = self.state.lock().alarms.remove(&ticket);
        drop(alarm);
    }

    /// Ends the thread; later alarms never ring.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.is_stopped = true;
        let alarms = std::mem::take(&mut state.alarms);
        self.changed.notify_one();
        drop(state);
        drop(alarms);
    }

    fn run(&self) {
        let mut state = self.state.lock();
        while !state.is_stopped {
            let first = state.alarms.keys().next().copied();
            match first {
                Some(ticket @ (at, _)) if at <= Instant::now() => {
                    let alarm = state.alarms.remove(&ticket);
                    drop(state);
                    if let Some(alarm) = alarm {
                        ring(&*alarm);
                    }
                    state = self.state.lock();
                }
                Some((at, _)) => {
                    state.wakes_at = Some(at);
                    self.changed.wait_until(&mut state, at);
                }
                None => {
                    state.wakes_at = None;
                    self.changed.wait(&mut state);
                }
            }
        }
    }
}

/// Runs an alarm. A panic ends this alarm alone.
fn ring(alarm: &dyn Alarm) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| alarm.ring())) {
        log::error!("a timer of the pool panicked: {}", panic_text(payload));
    }
}
