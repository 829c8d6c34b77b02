//! Runs blocking work: bounded lanes of workers, deadlines, and a lock per guest.
//!
//! ```text
//! call   ─ permit ─► [calls: under way, waiting]         a waiting call costs no thread
//! caller ── lock ──► [admission: locks]
//!        ── run ───► [queue of the lane] ──► worker      bounded; a private state per worker
//!        ◄─ result or deadline ── [handover] ◄──┘        one state machine per job
//! ```
//!
//! A caller that need not wait posts its job instead, with a callback for the answer: the worker calls it, or the
//! pool's clock at the deadline (`posted`, `clock`). This saves the wake of a thread.
//!
//! The guarantees, and the module that provides each:
//! - Every wait is bounded: calls wait for a permit (`calls`) in a fair order, as many as memory allows. A call or
//!   a job beyond these limits gets [`Error::Busy`] at once. Every wait ends at its deadline.
//! - In the read lane one guest has at most half as many running jobs as there are workers, and jobs that query
//!   emulators leave one worker free, so that guests that hang do not block others (`concurrency`).
//! - A job whose deadline passes before a worker is free never runs. A running job is never interrupted and holds
//!   its lock until it returns. Its result goes to the caller or to the late handler, never to both (`handover`).
//! - A worker whose job does not return can be abandoned: another worker takes its place, and the old thread ends
//!   when the job returns. Other modules decide which workers to abandon (`lane_state`).
//! - A panic ends the job and drops the worker's state; the worker continues (`lane`).
//! - The pool does not depend on what the jobs do.

mod admission;
mod batches;
mod calls;
mod clock;
mod concurrency;
pub mod current;
mod error;
mod fair_queue;
mod guest_lock;
mod handover;
mod lane;
mod lane_info;
mod lane_state;
mod permits;
mod posted;
mod quota;

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use self::clock::Clock;
use self::concurrency::ConcurrencyLimit;
use self::guest_lock::{Admission, CallerGuard};
use self::handover::{Answer, Call, Failure};
use self::lane::{MakeState, Queue};
use self::lane_info::Label;
use self::permits::Permits;
use self::posted::Posted;
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::config::PoolLimits;
use crate::config::fixed::LATE_READS;

pub use self::batches::Batches;
pub use self::calls::CallShare;
pub use self::clock::Timer;
pub(crate) use self::error::Span;
pub use self::error::{CallClass, Error, Full};
pub use self::guest_lock::{CallerSnapshot, GuestLock};
pub use self::lane_info::{Lane, LaneSnapshot, Overdue, RunningJob, Totals};
pub use self::permits::{Granted, NoPermit, Permit};
pub use self::quota::QuotaExceeded;
pub(crate) use self::quota::{Quota, Slots};

/// The name and the deadline of one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// For logs and errors.
    pub name: JobName,
    /// After this the job does not start and its caller does not wait.
    pub deadline: Instant,
}

/// The verb of a job and its guest: `Run web-1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobName {
    /// The verb.
    pub verb: String,
    /// The guest's id, or the name of another object; empty for none.
    pub guest: String,
    /// Whether it waits for the guest's emulator, and so may hang with it. The read lane runs such jobs on all
    /// workers but one.
    pub asks_emulator: bool,
}

impl JobName {
    /// Returns the name of this verb on this guest.
    pub fn new(verb: impl Into<String>, guest: impl Into<String>) -> Self {
        Self { verb: verb.into(), guest: guest.into(), asks_emulator: false }
    }

    /// Returns the name of a job that queries the guest's emulator.
    #[must_use]
    pub fn of_emulator(self) -> Self {
        Self { asks_emulator: true, ..self }
    }
}

impl From<&str> for JobName {
    fn from(verb: &str) -> Self {
        Self::new(verb, "")
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.guest.as_str() {
            "" => f.write_str(&self.verb),
            guest => write!(f, "{} {guest}", self.verb),
        }
    }
}

/// The state of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSnapshot {
    /// Control, read, urgent, storage.
    pub lanes: [LaneSnapshot; 4],
    /// The callers and calls that wait.
    pub callers: CallerSnapshot,
}

/// The worker pool. `S` is a worker's private state, such as its libvirt connection: created, used and dropped on
/// the worker's own thread.
///
/// Dropping the pool stops it without grace: running jobs end by themselves.
pub struct Pool<S: 'static> {
    limits: PoolLimits,
    batches: Batches,
    admission: Arc<Admission>,
    permits: Arc<Permits>,
    make: MakeState<S>,
    clock: Arc<Clock>,
    /// Contains a message from the first `Late` answer until the listener takes it.
    late: (Sender<()>, Receiver<()>),
    control: Arc<Queue<S>>,
    read: Arc<Queue<S>>,
    urgent: Arc<Queue<S>>,
    storage: Arc<Queue<S>>,
}

/// A job's result of any type.
type AnyResult = Box<dyn Any + Send>;

/// The handler of a result that arrives after the caller's deadline.
type Late<S> = Box<dyn FnOnce(&mut S, AnyResult) + Send>;

impl<S: 'static> Pool<S> {
    /// Starts the workers, named `control-0` and so on. `make_state` is called on a worker's thread
    /// before its first job, and again after a job that panicked.
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub fn new(
        limits: &PoolLimits,
        make_state: impl Fn(Lane) -> S + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let clock = Clock::start()?;
        // Changes of one guest are serialized by its lock.
        let queue = |lane| Queue::new(lane, limits.queue, ConcurrencyLimit::unlimited());
        let shared =
            |lane, workers| Queue::new(lane, limits.queue, ConcurrencyLimit::among(workers));
        let pool = Self {
            limits: limits.clone(),
            batches: Batches::new(limits),
            admission: Arc::default(),
            permits: Permits::new(limits, &clock),
            make: Arc::new(make_state),
            clock,
            late: bounded(1),
            control: queue(Lane::Control),
            read: shared(Lane::Read, limits.read_workers),
            urgent: shared(Lane::Urgent, limits.urgent_workers),
            storage: queue(Lane::Storage),
        };
        let workers = [
            limits.control_workers,
            limits.read_workers,
            limits.urgent_workers,
            limits.storage_workers,
        ];
        for (queue, workers) in pool.queues().into_iter().zip(workers) {
            for _ in 0..workers {
                queue.add_worker(&pool.make)?;
            }
        }
        Ok(pool)
    }

    /// Sets the callback that gets the guest's id when a guest lock is released, before another caller can take the
    /// lock. It must not block: the thread that drops the last clone of the [`GuestLock`] calls it. A second call of
    /// this method changes nothing.
    pub fn on_release(&self, callback: impl Fn(&str) + Send + Sync + 'static) {
        self.admission.on_release(Box::new(callback));
    }

    /// Takes a guest's lock for a verb that changes the guest, in order of arrival.
    ///
    /// # Errors
    /// `GuestLocked` when other callers held the lock until `deadline`, `Stopping`.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub fn lock_guest(&self, guest: &str, deadline: Instant) -> Result<GuestLock, Error> {
        self.admission.lock_guest(guest, deadline).map_err(|why| match why {
            NoPermit::Full | NoPermit::Stopping => Error::Stopping,
            NoPermit::Late => Error::GuestLocked {
                guest: guest.to_owned(),
                waited: current::arrived().elapsed(),
                running: self.running_on(guest),
            },
        })
    }

    /// Returns a permit for a call if there is room now; never blocks.
    pub fn permit(&self, share: &CallShare) -> Option<Permit> {
        self.permits.permit(share)
    }

    /// Queues a call for its permit without blocking. `then` is called with the permit on the thread that frees
    /// it, or with an error on the clock's thread at `deadline`. It is called at once, on this thread, if the call
    /// gets a permit now or must not wait. It must not block.
    pub fn permit_later(&self, share: CallShare, deadline: Instant, then: Granted) {
        self.permits.permit_later(share, deadline, then);
    }

    /// Waits on this thread for the permit of a call.
    ///
    /// # Errors
    /// When the pool stops, or `deadline` passes.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub fn wait_for_permit(
        &self,
        share: &CallShare,
        deadline: Instant,
    ) -> Result<Permit, NoPermit> {
        self.permits.wait_for_permit(share, deadline)
    }

    /// Refuses the calls that wait for a permit without a thread and with a deadline after `until`, because the
    /// agent stops and could not answer them. Other calls continue.
    pub fn turn_away_after(&self, until: Instant) {
        self.permits.turn_away_after(until);
    }

    /// Returns the error for the caller of a call without a permit, with what the call waited for.
    pub fn no_permit(
        &self,
        why: NoPermit,
        share: &CallShare,
        what: &str,
        arrived: Instant,
    ) -> Error {
        let lane = share.class.lane();
        match why {
            NoPermit::Stopping => Error::Stopping,
            NoPermit::Full => {
                self.queue(lane).count_refused();
                let running = self.queue(lane).oldest();
                Error::Busy { full: Full::Waiting, limit: self.limits.calls_waiting, running }
            }
            NoPermit::Late => {
                let waited = arrived.elapsed();
                let held_by = (share.class == CallClass::Change)
                    .then(|| self.running_on(&share.guest))
                    .flatten();
                match held_by {
                    Some(running) => {
                        let guest = share.guest.as_ref().to_owned();
                        Error::GuestLocked { guest, waited, running: Some(running) }
                    }
                    None => {
                        let running = self.queue(lane).oldest();
                        Error::Unrun { what: what.to_owned(), lane, waited, running }
                    }
                }
            }
        }
    }

    /// Runs `work` on a worker of `lane` and returns its result. A late result is dropped.
    ///
    /// `lock` is held until the work has returned, even if the caller gets its answer earlier. Must not be called from
    /// a job: the job would wait for its own lane.
    ///
    /// # Errors
    /// `Busy` when the lane's queue is full, `Stopping`, `Unrun`, `Late` and `Panicked`; with the first three the
    /// work did not start.
    ///
    /// # Blocking
    /// Up to `job.deadline`.
    pub fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        job: Job,
        lock: Option<&GuestLock>,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.run_or_else(lane, job, lock, work, |_, _| {})
    }

    /// Runs `work` as [`Self::run`] does, but passes a result that arrives after its caller got `Late` to `late`,
    /// on the same worker and while `lock` is still held. `late` undoes or completes the verb. Either the caller or
    /// `late` gets the result; neither does when the work panicked.
    ///
    /// # Errors
    /// As [`Self::run`].
    ///
    /// # Blocking
    /// Up to `job.deadline`.
    pub fn run_or_else<T: Send + 'static>(
        &self,
        lane: Lane,
        job: Job,
        lock: Option<&GuestLock>,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
        late: impl FnOnce(&mut S, T) + Send + 'static,
    ) -> Result<T, Error> {
        let held = lock.cloned();
        let work = move |state: &mut S| -> AnyResult { Box::new(work(state)) };
        let late = move |state: &mut S, result: AnyResult| {
            if let Ok(result) = result.downcast() {
                late(state, *result);
            }
            drop(held);
        };
        let result = self.run_boxed(lane, job, lock, Box::new(work), Box::new(late))?;
        Ok(*result.downcast().expect("the work returns this type"))
    }

    /// Runs closures and results of any type: compiled once, not for each verb, which saves 330 KB.
    fn run_boxed(
        &self,
        lane: Lane,
        Job { name, deadline }: Job,
        lock: Option<&GuestLock>,
        work: Box<dyn FnOnce(&mut S) -> AnyResult + Send>,
        late: Late<S>,
    ) -> Result<AnyResult, Error> {
        let accounting = self.accounting(lane);
        let _caller = self.caller(lock)?;
        let label =
            Label { name: name.clone(), guest: lock.map(GuestLock::shared_guest), deadline };
        let call = Arc::new(Call::new(label, work, late));
        drop(accounting.queue.submit(Arc::clone(&call) as Arc<dyn lane::Task<S>>)?);
        accounting.result(&name, call.wait())
    }

    /// Registers a caller for a job to post; `None` when the pool stops.
    pub fn caller_slot(&self) -> Option<CallerSlot> {
        self.admission.enter().ok().map(CallerSlot)
    }

    /// Runs `work` on a worker of `lane` without waiting for it. `then` is called once: with the result on the
    /// worker's thread, with an error at the deadline on the clock's thread, or with an error on this thread if
    /// the job cannot be queued. Neither this nor `then` may block, except for a log line. Dropping the pool drops
    /// the calls that its clock would have made later.
    pub fn post<T: Send + 'static>(
        &self,
        CallerSlot(caller): CallerSlot,
        lane: Lane,
        job: Job,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
        then: impl FnOnce(Result<T, Error>) + Send + 'static,
    ) {
        let Job { name, deadline } = job;
        let label = Label { name, guest: None, deadline };
        Posted::submit(label, self.accounting(lane), &self.clock, work, (caller, then));
    }

    /// Calls `then` at `time` on the clock's thread, unless the timer is dropped before. `then` must not block.
    pub fn at(&self, time: Instant, then: Box<dyn FnOnce() + Send>) -> Timer {
        Timer::set(&self.clock, time, then)
    }

    fn accounting(&self, lane: Lane) -> Accounting<S> {
        let (queue, late) = (Arc::clone(self.queue(lane)), self.late.0.clone());
        Accounting { queue, late, lane, arrived: current::arrived() }
    }

    /// Receives a message when callers got `Late` since the last message; the channel ends with the pool. For one
    /// listener.
    pub fn late_answers(&self) -> Receiver<()> {
        self.late.1.clone()
    }

    /// Returns the jobs that run past their deadline, except those of abandoned workers.
    pub fn overdue(&self) -> Vec<Overdue> {
        self.queues().into_iter().flat_map(|queue| queue.overdue()).collect()
    }

    /// Checks that no job of this name runs past its deadline, so that another may start.
    ///
    /// # Errors
    /// `Overdue` if one does, on an abandoned worker or not: a second job would hang as well.
    pub fn not_overdue(&self, lane: Lane, name: &JobName) -> Result<(), Error> {
        match self.queue(lane).overdue_named(name) {
            Some(running) => Err(Error::Overdue { running }),
            None => Ok(()),
        }
    }

    /// Abandons the worker that runs this job and starts another in its place; the worker counts as stuck until
    /// the job returns. Returns `false` if the job has returned by now.
    ///
    /// # Errors
    /// When the system cannot start a thread; then nothing changes.
    pub fn abandon(&self, job: &Overdue) -> io::Result<bool> {
        self.queue(job.lane).abandon(job, &self.make)
    }

    /// Returns whether an abandoned worker still runs this job.
    pub fn is_stuck(&self, job: &Overdue) -> bool {
        self.queue(job.lane).is_stuck(job)
    }

    /// Returns whether every worker of this lane runs a job that is past its deadline and is at least this old.
    pub fn is_all_overdue(&self, lane: Lane, age: Duration) -> bool {
        self.queue(lane).is_all_overdue(age)
    }

    /// Sets whether workers that hang are no longer replaced. Then a job that would wait for such a worker gets
    /// `Busy`.
    pub fn set_out_of_spares(&self, is_out: bool) {
        self.queues().into_iter().for_each(|queue| queue.set_out_of_spares(is_out));
    }

    /// Returns the error with which a call would be refused now instead of waiting; `None` if it would be
    /// accepted.
    pub fn calls_refused(&self) -> Option<Error> {
        let limit = self.limits.calls_waiting;
        Some(match self.permits.would_refuse()? {
            NoPermit::Full => Error::Busy { full: Full::Waiting, limit, running: None },
            NoPermit::Stopping | NoPermit::Late => Error::Stopping,
        })
    }

    /// Returns the ids of the guests whose lock is held, in no order; from memory.
    pub fn locked_guests(&self) -> Vec<String> {
        self.admission.held()
    }

    /// Returns the state of the pool; from memory.
    pub fn snapshot(&self) -> PoolSnapshot {
        PoolSnapshot {
            lanes: self.queues().map(|queue| queue.snapshot()),
            callers: self.admission.snapshot(self.permits.snapshot()),
        }
    }

    /// Stops the pool. New callers and callers that wait for a lock get `Stopping`. Verbs that hold their lock and
    /// queued jobs have `grace` to end; jobs that are still queued then get `Stopping` and never run. Reads that
    /// still run when all callers have their answer have [`LATE_READS`]. Returns whether everything ended.
    ///
    /// # Blocking
    /// Up to `grace`.
    pub fn stop(&self, grace: Duration) -> bool {
        let deadline = Instant::now() + grace;
        // Callers that wait for a lock hold permits, so they must be refused first.
        self.admission.stop(Instant::now());
        let calls_ended = self.permits.stop(deadline);
        let callers_left = self.admission.stop(deadline);
        for queue in self.queues() {
            queue.close();
        }
        // Every lane is joined, even after one that did not end.
        let reads_by = deadline.min(Instant::now() + LATE_READS);
        let ended = self.queues().map(|queue| match queue.lane() {
            Lane::Read => queue.join(reads_by),
            Lane::Control | Lane::Urgent | Lane::Storage => queue.join(deadline),
        });
        calls_ended && callers_left && !ended.contains(&false)
    }

    /// Registers a caller, unless its lock carries its registration.
    ///
    /// # Errors
    /// `Stopping`.
    fn caller(&self, lock: Option<&GuestLock>) -> Result<Option<CallerGuard>, Error> {
        match lock.is_some_and(GuestLock::has_caller_guard) {
            true => Ok(None),
            false => self.admission.enter().map(Some).map_err(|_| Error::Stopping),
        }
    }

    /// Returns the running batches.
    pub fn batches(&self) -> &Batches {
        &self.batches
    }

    fn running_on(&self, guest: &str) -> Option<RunningJob> {
        self.queues().into_iter().find_map(|queue| queue.running_on(guest))
    }

    fn queue(&self, lane: Lane) -> &Arc<Queue<S>> {
        match lane {
            Lane::Control => &self.control,
            Lane::Read => &self.read,
            Lane::Urgent => &self.urgent,
            Lane::Storage => &self.storage,
        }
    }

    fn queues(&self) -> [&Arc<Queue<S>>; 4] {
        [&self.control, &self.read, &self.urgent, &self.storage]
    }
}

impl<S: 'static> Drop for Pool<S> {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
        self.clock.stop();
    }
}

/// A caller's registration until its posted job has its answer.
pub struct CallerSlot(CallerGuard);

/// Records the outcome of a job of a lane.
struct Accounting<S: 'static> {
    queue: Arc<Queue<S>>,
    late: Sender<()>,
    lane: Lane,
    /// When its caller arrived.
    arrived: Instant,
}

impl<S: 'static> Accounting<S> {
    /// Counts the answer and returns it to the caller.
    ///
    /// # Errors
    /// If there is no result.
    fn result<T>(&self, name: &JobName, answer: Answer<T>) -> Result<T, Error> {
        let what = || name.to_string();
        match answer {
            Answer::Done(Ok(result)) => Ok(result),
            Answer::Done(Err(Failure::Panicked)) => Err(Error::Panicked { what: what() }),
            Answer::Done(Err(Failure::Stopping)) => Err(Error::Stopping),
            Answer::Unrun => {
                self.queue.count_unrun();
                let (waited, running) = (self.arrived.elapsed(), self.queue.oldest());
                Err(Error::Unrun { what: what(), lane: self.lane, waited, running })
            }
            Answer::Late { since } => {
                self.queue.count_late();
                // A message that is still in the channel says the same.
                let _ = self.late.try_send(());
                let age = since.elapsed();
                let running_since =
                    SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
                let waited = self.arrived.elapsed();
                Err(Error::Late { what: what(), waited, running_since, age })
            }
        }
    }
}
