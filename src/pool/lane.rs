//! A lane: its bounded queue, its workers with their private state, and their accounting.

use std::any::Any;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::TrySendError;
use parking_lot::{Condvar, Mutex};

use super::JobName;
use super::concurrency::ConcurrencyLimit;
use super::error::{Error, Full};
use super::lane_info::{Label, Lane, LaneSnapshot, Overdue, RunningJob};
use super::lane_state::LaneState;
use crate::threads::{self, Wake, panic_text};

/// A job, for a worker.
pub(super) trait Task<S>: Send + Sync {
    /// Returns the name: the verb and its guest.
    fn name(&self) -> &JobName;

    /// Returns whether a caller still waits for the start of the job.
    fn is_wanted(&self) -> bool;

    /// Runs the job on this worker and hands over its result, unless no caller wants it any more.
    fn perform(&self, worker: &mut Worker<S>) -> Outcome;

    /// Passes on the answer of a job without a waiting caller, when the worker is free again.
    fn hand_on(&self) {}

    /// Answers that the pool stops, if no worker has started the job; returns whether that was so.
    fn refuse(&self) -> bool;
}

/// The outcome of [`Task::perform`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// No caller waits for the job any more.
    NotRun,
    /// The job returned.
    Returned,
    /// The job panicked; the worker's state may be half-changed.
    Panicked,
}

/// The work panicked; the panic is logged.
pub(super) struct Panicked;

/// Initializes a worker's state, on its thread.
pub(super) type MakeState<S> = Arc<dyn Fn(Lane) -> S + Send + Sync>;

/// A lane's queue and accounting, which the pool and the workers share.
pub(super) struct Queue<S> {
    lane: Lane,
    limit: usize,
    concurrency: ConcurrencyLimit,
    /// Whether workers that hang are no longer replaced.
    is_out_of_spares: AtomicBool,
    /// Closed with the lane, which ends the workers.
    tasks: threads::Queue<Arc<dyn Task<S>>>,
    state: Mutex<LaneState>,
    /// Signals that a worker ended.
    ended: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl<S: 'static> Queue<S> {
    /// Makes an open lane without workers.
    pub(super) fn new(lane: Lane, limit: usize, concurrency: ConcurrencyLimit) -> Arc<Self> {
        Arc::new(Self {
            lane,
            limit,
            concurrency,
            is_out_of_spares: AtomicBool::new(false),
            tasks: threads::Queue::new(limit),
            state: Mutex::default(),
            ended: Condvar::new(),
            threads: Mutex::default(),
        })
    }

    /// Starts one more worker.
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub(super) fn add_worker(self: &Arc<Self>, make: &MakeState<S>) -> io::Result<()> {
        self.spawn(&mut self.state.lock(), make)
    }

    fn spawn(self: &Arc<Self>, state: &mut LaneState, make: &MakeState<S>) -> io::Result<()> {
        let number = state.next();
        let (queue, make) = (Arc::clone(self), Arc::clone(make));
        let thread = thread::Builder::new()
            .name(format!("{}-{number}", self.lane))
            .spawn(move || Worker { queue, number, make, state: None }.serve())?;
        state.join();
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// Abandons the worker that runs this job, if it still does, and starts another worker in its
    /// place; returns whether it did.
    ///
    /// # Errors
    /// When the system cannot start a thread; then nothing changes.
    pub(super) fn abandon(
        self: &Arc<Self>,
        job: &Overdue,
        make: &MakeState<S>,
    ) -> io::Result<bool> {
        let mut state = self.state.lock();
        if !state.has(job) {
            return Ok(false);
        }
        self.spawn(&mut state, make)?;
        state.abandon(job.worker);
        drop(state);
        // The worker hangs: other jobs of its guest no longer wait for it.
        self.finish_job(&job.name);
        Ok(true)
    }

    /// Returns whether an abandoned worker still runs this job.
    pub(super) fn is_stuck(&self, job: &Overdue) -> bool {
        self.state.lock().is_stuck(job)
    }

    /// Returns whether every worker runs a job that is past its deadline and is at least this old.
    pub(super) fn is_all_overdue(&self, age: Duration) -> bool {
        self.state.lock().is_all_overdue(age)
    }

    /// Sets whether workers that hang are no longer replaced: then jobs that would wait for such a
    /// worker are refused.
    pub(super) fn set_out_of_spares(&self, is_out: bool) {
        self.is_out_of_spares.store(is_out, Ordering::Relaxed);
    }

    /// Returns the jobs that run past their deadline.
    pub(super) fn overdue(&self) -> Vec<Overdue> {
        self.state.lock().overdue(self.lane)
    }

    /// Returns a job of this name that runs past its deadline.
    pub(super) fn overdue_named(&self, name: &JobName) -> Option<RunningJob> {
        self.state.lock().overdue_named(name)
    }

    /// Queues a job; never blocks. A worker may take it before this returns; dropping the result
    /// wakes a sleeping one.
    ///
    /// # Errors
    /// `Busy` when the queue is full, `Stopping` when the lane is closed.
    pub(super) fn submit(&self, task: Arc<dyn Task<S>>) -> Result<Wake, Error> {
        // Locked for both steps, so that a job is counted before a worker can start it.
        let mut state = self.state.lock();
        if self.is_out_of_spares.load(Ordering::Relaxed) && state.is_all_overdue(Duration::ZERO) {
            state.totals.refused += 1;
            let (full, limit) = (Full::Workers(self.lane), state.workers());
            return Err(Error::Busy { full, limit, running: state.oldest() });
        }
        let refused = match self.put(task) {
            Ok(wake) => {
                state.queued += 1;
                return Ok(wake);
            }
            Err(refused) => refused,
        };
        state.totals.refused += 1;
        Err(match refused {
            TrySendError::Disconnected(_) => Error::Stopping,
            TrySendError::Full(_) => Error::Busy {
                full: Full::Queue(self.lane),
                limit: self.limit,
                running: state.oldest(),
            },
        })
    }

    /// Adds a job to the queue. If the queue is full, jobs without a waiting caller are removed
    /// first.
    fn put(&self, task: Arc<dyn Task<S>>) -> Result<Wake, TrySendError<Arc<dyn Task<S>>>> {
        match self.tasks.put(task) {
            Err(TrySendError::Full(task)) => {
                self.tasks.retain(|task| task.is_wanted());
                self.tasks.put(task)
            }
            put => put,
        }
    }

    /// Counts a refusal that was decided before [`Self::submit`].
    pub(super) fn count_refused(&self) {
        self.state.lock().totals.refused += 1;
    }

    /// Counts a caller that has its answer while its job runs on.
    pub(super) fn count_late(&self) {
        self.state.lock().totals.late += 1;
    }

    /// Counts a queued job that its caller has withdrawn.
    pub(super) fn count_unrun(&self) {
        let mut state = self.state.lock();
        state.queued -= 1;
        state.totals.unrun += 1;
        drop(state);
        // Removed now, as the job might be held back for long.
        self.tasks.retain(|task| task.is_wanted());
    }

    /// Ends the turn of this job, so that a job that was held back may run.
    fn finish_job(&self, name: &JobName) {
        if self.concurrency.end(name) {
            drop(self.tasks.wake());
        }
    }

    /// Returns the oldest running job of the workers that take jobs.
    pub(super) fn oldest(&self) -> Option<RunningJob> {
        self.state.lock().oldest()
    }

    /// Returns the running job that holds this guest's lock.
    pub(super) fn running_on(&self, guest: &str) -> Option<RunningJob> {
        self.state.lock().on_guest(guest)
    }

    /// Returns the state of the lane.
    pub(super) fn snapshot(&self) -> LaneSnapshot {
        let held_back =
            self.tasks.count(|task| task.is_wanted() && self.concurrency.holds_back(task.name()));
        LaneSnapshot { held_back, ..self.state.lock().snapshot(self.lane) }
    }

    /// Accepts no more jobs and answers the queued ones; workers end after their running job.
    pub(super) fn close(&self) {
        self.tasks.close();
        while let Some(task) = self.tasks.try_next() {
            if task.refuse() {
                self.count_unrun();
            }
            task.hand_on();
        }
    }

    /// Returns the name of the lane.
    pub(super) fn lane(&self) -> Lane {
        self.lane
    }

    /// Waits for the workers of a closed lane to end; returns whether all did.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(super) fn join(&self, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        self.ended.wait_while_until(&mut state, |state| state.threads > 0, deadline);
        let ended = state.threads == 0;
        drop(state);
        let threads = mem::take(&mut *self.threads.lock());
        for thread in threads {
            // A thread that has not ended is not joined: it ends by itself when its job returns.
            if (ended || thread.is_finished()) && thread.join().is_err() {
                log::error!("a worker of the {} lane panicked outside its jobs", self.lane);
            }
        }
        ended
    }
}

/// A thread of a lane and its private state.
pub(super) struct Worker<S> {
    queue: Arc<Queue<S>>,
    number: usize,
    make: MakeState<S>,
    state: Option<S>,
}

impl<S: 'static> Worker<S> {
    /// Runs jobs until the lane is closed, or until a job returns after the worker was abandoned.
    fn serve(mut self) {
        let mut is_abandoned = false;
        while !is_abandoned {
            let concurrency = &self.queue.concurrency;
            let next = self.queue.tasks.next_where(|task| concurrency.begin(task.name()));
            let Some(task) = next else { break };
            let outcome = task.perform(&mut self);
            if outcome == Outcome::Panicked {
                self.discard();
            }
            is_abandoned = !self.end(outcome);
            if !is_abandoned {
                self.queue.finish_job(task.name());
            }
            task.hand_on();
        }
        self.discard();
        let mut state = self.queue.state.lock();
        state.threads -= 1;
        if !is_abandoned {
            state.leave();
        }
        drop(state);
        self.queue.ended.notify_all();
    }
}

impl<S> Worker<S> {
    /// Marks a queued job as running.
    pub(super) fn begin(&self, label: &Label, now: Instant) {
        self.queue.state.lock().begin(self.number, label, now);
    }

    /// Runs a job's code on this worker's state, which is initialized first if there is none.
    ///
    /// # Errors
    /// When either panicked; the panic is logged here.
    pub(super) fn call<R>(
        &mut self,
        name: &JobName,
        work: impl FnOnce(&mut S) -> R,
    ) -> Result<R, Panicked> {
        let Self { queue, make, state, .. } = self;
        // Unwind safe: after a panic the state is dropped, and the closure shares nothing else.
        catch_unwind(AssertUnwindSafe(|| work(state.get_or_insert_with(|| make(queue.lane)))))
            .map_err(|payload| self.report(name, payload))
    }

    /// Runs a job's callback at its end, if only to drop it; a panic is logged.
    pub(super) fn guarded(&self, name: &JobName, end: impl FnOnce()) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(end)) {
            self.report(name, payload);
        }
    }

    fn report(&self, name: &JobName, payload: Box<dyn Any + Send>) -> Panicked {
        let text = panic_text(payload);
        log::error!("{name} panicked on worker {}-{}: {text}", self.queue.lane, self.number);
        Panicked
    }

    /// Drops the state; the next job initializes a new one.
    fn discard(&mut self) {
        if let Some(state) = self.state.take() {
            self.guarded(&"drop a worker's state".into(), || drop(state));
        }
    }

    /// Counts the outcome of a job; returns whether this worker takes more jobs.
    fn end(&self, outcome: Outcome) -> bool {
        let mut state = self.queue.state.lock();
        match outcome {
            Outcome::NotRun => return true,
            Outcome::Returned => state.totals.finished += 1,
            Outcome::Panicked => state.totals.panicked += 1,
        }
        state.finish(self.number)
    }
}
