//! Methods that wait for events, such as Shutdown with `wait`. They run in steps, and no thread waits between two
//! steps.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crate::ops::{Core, Error};

/// A method between two steps.
pub trait Steps<R>: Send {
    /// Runs the next step. `is_gone` reports whether the caller has disconnected.
    ///
    /// # Blocking
    /// As the method describes.
    fn step(&mut self, core: &Core, is_gone: &dyn Fn() -> bool) -> Step<R>;
}

/// The result of a step.
pub enum Step<R> {
    /// The method has ended.
    Done(Result<R, Error>),
    /// The next step is due after this wait.
    Wait(Wait),
}

/// The end of a wait.
pub struct Wait {
    /// The wait ends with an event after this number ...
    pub after: u64,
    /// ... of this guest, or of any guest.
    pub guest: Option<String>,
    /// The time at which the wait ends without an event.
    pub until: Instant,
    /// The time before which events do not end the wait.
    pub not_before: Option<Instant>,
}

impl Core {
    /// Runs all steps on this thread.
    ///
    /// # Errors
    /// Errors of the method.
    ///
    /// # Blocking
    /// As the method describes.
    pub(super) fn take_steps<R>(
        &self,
        mut steps: Box<dyn Steps<R>>,
        is_gone: &dyn Fn() -> bool,
    ) -> Result<R, Error> {
        loop {
            match steps.step(self, is_gone) {
                Step::Done(outcome) => return outcome,
                Step::Wait(wait) => self.wait(&wait),
            }
        }
    }

    /// Waits on this thread.
    ///
    /// # Blocking
    /// Up to the time in `wait`.
    pub fn wait(&self, wait: &Wait) {
        if let Some(time) = wait.not_before {
            thread::sleep(time.saturating_duration_since(Instant::now()));
        }
        self.events.wait(wait.after, wait.guest.as_deref(), 1, wait.until);
    }

    /// Waits without a thread. Calls `then` once, on a thread that it must not block.
    pub fn wait_later(self: &Arc<Self>, wait: Wait, then: Box<dyn FnOnce() + Send>) {
        if let Some(time) = wait.not_before {
            let agent = Arc::clone(self);
            let wait = Wait { not_before: None, ..wait };
            return self.pool.at(time, Box::new(move || agent.wait_later(wait, then))).forget();
        }
        let Wait { after, guest, until, .. } = wait;
        let Some(listener) = self.events.call_later(after, guest, then) else { return };
        let events = Arc::clone(&self.events);
        let timer = self.pool.at(until, Box::new(move || events.call_now(listener)));
        self.events.set_timer(listener, timer);
    }
}
