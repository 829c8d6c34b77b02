//! Verbs that wait for what happens, such as Shutdown with `wait`: in steps, between which no thread waits.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crate::ops::{Error, Libvirt};

/// A verb between its steps.
pub trait Steps<R>: Send {
    /// Takes the next step. `is_gone` says whether the caller has disconnected.
    ///
    /// # Blocking
    /// As the verb says of its steps.
    fn step(&mut self, agent: &Libvirt, is_gone: &dyn Fn() -> bool) -> Step<R>;
}

/// What a step comes to.
pub enum Step<R> {
    /// The verb has ended.
    Done(Result<R, Error>),
    /// The next step is due after this.
    Wait(Wait),
}

/// What a verb waits for.
pub struct Wait {
    /// An event after this number, of this guest where one is named.
    pub event: Option<(u64, Option<String>)>,
    /// The time at which it waits no more.
    pub until: Instant,
}

impl Libvirt {
    /// Takes all steps on this thread.
    ///
    /// # Errors
    /// Those of the verb.
    ///
    /// # Blocking
    /// As the verb says.
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
    /// Up to the time that is in `wait`.
    pub fn wait(&self, wait: &Wait) {
        match &wait.event {
            Some((after, guest)) => drop(self.events.wait(*after, guest.as_deref(), 1, wait.until)),
            None => thread::sleep(wait.until.saturating_duration_since(Instant::now())),
        }
    }

    /// Waits without a thread: `then` is called once, on a thread that it must not block.
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
