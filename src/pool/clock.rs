//! The pool's clock: a thread that ends at their deadlines the jobs that nobody waits for.
//!
//! Nearly all are over before. So setting one wakes the thread only where it would sleep past that
//! deadline, and taking one back never does: jobs without a pause between them cost it one look in a
//! deadline's time, and without jobs it sleeps.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::sorted::Table;
use crate::threads::panic_text;

/// What is to happen at a time, on the clock's thread. It must not block.
pub(super) trait Alarm: Send + Sync {
    /// The time has come.
    fn ring(&self);
}

/// A time that is set, by which it is taken back.
pub(super) type Ticket = (Instant, u64);

/// A call at a time. Dropped before, it is taken back.
pub struct Timer {
    clock: Arc<Clock>,
    ticket: Option<Ticket>,
}

impl Timer {
    /// Calls `then` at that time, on the clock's thread. It must not block.
    pub(super) fn set(clock: &Arc<Clock>, at: Instant, then: Box<dyn FnOnce() + Send>) -> Self {
        let ticket = clock.ticket(at);
        clock.set(ticket, Arc::new(Once(Mutex::new(Some(then)))));
        Self { clock: Arc::clone(clock), ticket: Some(ticket) }
    }

    /// Lets it call, whatever happens.
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

/// The times that are set.
pub(super) struct Clock {
    face: Mutex<Face>,
    /// The thread is to look again.
    changed: Condvar,
}

#[derive(Default)]
struct Face {
    alarms: Table<Ticket, Arc<dyn Alarm>>,
    /// Number of the next ticket: several may have one time.
    next: u64,
    /// When the thread looks again by itself.
    looks_at: Option<Instant>,
    is_stopped: bool,
}

impl Clock {
    /// Starts the clock, whose thread ends when it is stopped.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start() -> io::Result<Arc<Self>> {
        let clock = Arc::new(Self { face: Mutex::default(), changed: Condvar::new() });
        let shared = Arc::clone(&clock);
        thread::Builder::new().name("pool-clock".into()).spawn(move || shared.run())?;
        Ok(clock)
    }

    /// A ticket for that time.
    pub(super) fn ticket(&self, at: Instant) -> Ticket {
        let mut face = self.face.lock();
        face.next += 1;
        (at, face.next)
    }

    /// Sets an alarm for the ticket's time.
    pub(super) fn set(&self, ticket: Ticket, alarm: Arc<dyn Alarm>) {
        let mut face = self.face.lock();
        face.alarms.insert(ticket, alarm);
        if face.looks_at.is_none_or(|at| ticket.0 < at) {
            face.looks_at = Some(ticket.0);
            self.changed.notify_one();
        }
    }

    /// Takes an alarm back; nothing where it has rung.
    pub(super) fn cancel(&self, ticket: Ticket) {
        // Dropped outside the lock.
        let alarm = self.face.lock().alarms.remove(&ticket);
        drop(alarm);
    }

    /// Ends the thread; what is set then never rings.
    pub(super) fn stop(&self) {
        let mut face = self.face.lock();
        face.is_stopped = true;
        let alarms = std::mem::take(&mut face.alarms);
        self.changed.notify_one();
        drop(face);
        drop(alarms);
    }

    fn run(&self) {
        let mut face = self.face.lock();
        while !face.is_stopped {
            let first = face.alarms.keys().next().copied();
            match first {
                Some(ticket @ (at, _)) if at <= Instant::now() => {
                    let alarm = face.alarms.remove(&ticket);
                    drop(face);
                    if let Some(alarm) = alarm {
                        ring(&*alarm);
                    }
                    face = self.face.lock();
                }
                Some((at, _)) => {
                    face.looks_at = Some(at);
                    self.changed.wait_until(&mut face, at);
                }
                None => {
                    face.looks_at = None;
                    self.changed.wait(&mut face);
                }
            }
        }
    }
}

/// A panic costs this alarm alone.
fn ring(alarm: &dyn Alarm) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| alarm.ring())) {
        log::error!("a timer of the pool panicked: {}", panic_text(payload));
    }
}
