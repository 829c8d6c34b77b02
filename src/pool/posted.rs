//! One job without a waiting caller: the worker passes its answer on, or the clock at the deadline.
//! The state machine is that of a job with a caller, so exactly one of both has the answer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;

use super::clock::{Alarm, Clock, Ticket};
use super::error::Error;
use super::guest_lock::CallerGuard;
use super::handover::{HandoverState, work_off};
use super::lane::{Outcome, Task, Worker};
use super::lane_info::Label;
use super::{Accounting, JobName, lane};
use crate::threads::panic_text;

/// The job, which its worker, the clock and the pool share.
pub(super) struct Posted<S: 'static, T, W, D> {
    label: Label,
    accounting: Accounting<S>,
    clock: Arc<Clock>,
    ticket: Ticket,
    state: Mutex<HandoverState<T, W, ()>>,
    /// The callback for the answer, and the caller's registration until then.
    then: Mutex<Option<(CallerGuard, D)>>,
}

impl<S, T, W, D> Posted<S, T, W, D>
where
    S: 'static,
    T: Send + 'static,
    W: FnOnce(&mut S) -> T + Send + 'static,
    D: FnOnce(Result<T, Error>) + Send + 'static,
{
    /// Queues the job. If it is refused, the callback gets the error at once.
    pub(super) fn submit(
        label: Label,
        accounting: Accounting<S>,
        clock: &Arc<Clock>,
        work: W,
        then: (CallerGuard, D),
    ) {
        let posted = Arc::new(Self {
            ticket: clock.ticket(label.deadline),
            clock: Arc::clone(clock),
            label,
            accounting,
            state: Mutex::new(HandoverState::Queued { work, late: () }),
            then: Mutex::new(Some(then)),
        });
        let task = Arc::clone(&posted) as Arc<dyn lane::Task<S>>;
        let wake = match posted.accounting.queue.submit(task) {
            Ok(wake) => wake,
            Err(refused) => {
                // No worker has started it.
                let end = posted.state.lock().collect(true);
                drop(end);
                posted.deliver(Err(refused));
                return;
            }
        };
        // Not before, so that the alarm finds the job queued.
        clock.set(posted.ticket, Arc::clone(&posted) as Arc<dyn Alarm>);
        if posted.then.lock().is_none() {
            // An awake worker ended the job before the alarm was set, so that it had none to
            // cancel.
            clock.cancel(posted.ticket);
        }
        // Last, so that this thread holds nothing that the worker needs.
        drop(wake);
    }

    /// Passes the answer on if there is one; at the deadline there always is.
    fn finish(&self, is_due: bool) {
        let end = self.state.lock().collect(is_due);
        if let Some((answer, work, _)) = end {
            drop(work);
            self.deliver(self.accounting.result(&self.label.name, answer));
        }
    }

    fn deliver(&self, result: Result<T, Error>) {
        let then = self.then.lock().take();
        self.clock.cancel(self.ticket);
        let Some((caller, then)) = then else { return };
        // The registration is free before the answer is sent, because its receiver may call again
        // at once.
        drop(caller);
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| then(result))) {
            let text = panic_text(payload);
            log::error!("the callback of {} panicked: {text}", self.label.name);
        }
    }
}

impl<S, T, W, D> Task<S> for Posted<S, T, W, D>
where
    S: 'static,
    T: Send + 'static,
    W: FnOnce(&mut S) -> T + Send + 'static,
    D: FnOnce(Result<T, Error>) + Send + 'static,
{
    fn name(&self) -> &JobName {
        &self.label.name
    }

    fn is_wanted(&self) -> bool {
        self.state.lock().is_queued()
    }

    fn perform(&self, worker: &mut Worker<S>) -> Outcome {
        let Some((outcome, late)) = work_off(&self.state, &self.label, worker) else {
            return Outcome::NotRun;
        };
        // A late result has no receiver.
        worker.guarded(&self.label.name, || drop(late));
        outcome
    }

    fn hand_on(&self) {
        self.finish(false);
    }

    fn refuse(&self) -> bool {
        let work = self.state.lock().refuse();
        work.is_some()
    }
}

impl<S, T, W, D> Alarm for Posted<S, T, W, D>
where
    S: 'static,
    T: Send + 'static,
    W: FnOnce(&mut S) -> T + Send + 'static,
    D: FnOnce(Result<T, Error>) + Send + 'static,
{
    fn ring(&self) {
        self.finish(true);
    }
}
