//! Methods that wait for events, such as Shutdown with `wait`. They run in steps, and no thread waits between two
//! steps.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crate::ops::{Error, Libvirt};

/// A method between two steps.
pub trait Steps<R>: Send {
    /// Runs the next step. `is_gone` reports whether the caller has disconnected.
    ///
    /// # Blocking
    /// As the method describes.
    fn step(&mut self, agent: &Libvirt, is_gone: &dyn Fn() -> bool) -> Step<R>;
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
    /// An event after this number, and of this guest if one is named.
    pub event: Option<(u64, Option<String>)>,
    /// The time at which the wait ends without an event.
    pub until: Instant,
}

impl Libvirt {
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
        match &wait.event {
            Some((after, guest)) => drop(self.events.wait(*after, guest.as_deref(), 1, wait.until)),
            None => thread::sleep(wait.until.saturating_duration_since(Instant::now())),
        }
    }

    /// Waits without a thread. Calls `then` once, on a thread that it must not block.
    pub fn wait_later(self: &Arc<Self>, wait: Wait, then: Box<dyn FnOnce() + Send>) {
        let Wait { event, until } = wait;
        let Some((after, guest)) = event else {
            return self.pool.at(until, then).forget();
        };
        let Some(listener) = self.events.call_later(after, guest, then) else { return };
        let events = Arc::clone(&self.events);
        let timer = self.pool.at(until, Box::new(move || events.call_now(listener)));
        self.events.set_timer(listener, timer);
    }
}
