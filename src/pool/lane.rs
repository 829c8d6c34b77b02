//! A lane: its bounded queue, its workers with their private state, and what they are at.

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
use super::board::Board;
use super::error::{Error, Full};
use super::lane_state::{Label, Lane, LaneSnapshot, Overdue, Running};
use super::turns::Turns;
use crate::threads::{self, Wake, panic_text};

/// A job as a worker sees it.
pub(super) trait Task<S>: Send + Sync {
    /// What it does, and to which guest.
    fn name(&self) -> &JobName;

    /// Whether somebody still waits for its beginning.
    fn is_wanted(&self) -> bool;

    /// Does the job on this worker and hands over its result, unless nobody wants it any more.
    fn perform(&self, worker: &mut Worker<S>) -> Outcome;

    /// Hands on what nobody waits for, when the worker is free again.
    fn hand_on(&self) {}

    /// Answers that the pool stops, if no worker has begun; whether that was so.
    fn refuse(&self) -> bool;
}

/// What came of [`Task::perform`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nobody waits for the job any more.
    NotRun,
    /// The job returned.
    Returned,
    /// The job panicked; the worker's state may be half-changed.
    Panicked,
}

/// The work panicked; it is logged.
pub(super) struct Panicked;

/// Makes a worker's state, on its thread.
pub(super) type MakeState<S> = Arc<dyn Fn(Lane) -> S + Send + Sync>;

/// A lane's queue and board, as the pool and the workers share them.
pub(super) struct Queue<S> {
    lane: Lane,
    limit: usize,
    turns: Turns,
    /// Whether no worker is replaced any more.
    is_out_of_spares: AtomicBool,
    /// Closed with the lane: the workers then end.
    tasks: threads::Queue<Arc<dyn Task<S>>>,
    board: Mutex<Board>,
    /// A worker ended.
    ended: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl<S: 'static> Queue<S> {
    /// An open lane without workers.
    pub(super) fn new(lane: Lane, limit: usize, turns: Turns) -> Arc<Self> {
        Arc::new(Self {
            lane,
            limit,
            turns,
            is_out_of_spares: AtomicBool::new(false),
            tasks: threads::Queue::new(limit),
            board: Mutex::default(),
            ended: Condvar::new(),
            threads: Mutex::default(),
        })
    }

    /// Starts one more worker.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn add_worker(self: &Arc<Self>, make: &MakeState<S>) -> io::Result<()> {
        self.spawn(&mut self.board.lock(), make)
    }

    fn spawn(self: &Arc<Self>, board: &mut Board, make: &MakeState<S>) -> io::Result<()> {
        let number = board.next();
        let (queue, make) = (Arc::clone(self), Arc::clone(make));
        let thread = thread::Builder::new()
            .name(format!("{}-{number}", self.lane))
            .spawn(move || Worker { queue, number, make, state: None }.serve())?;
        board.join();
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// Gives up on the worker that is on this job, if it still is, and starts another in its place;
    /// whether it was.
    ///
    /// # Errors
    /// When the system gives no thread; the worker then counts as before.
    pub(super) fn write_off(
        self: &Arc<Self>,
        job: &Overdue,
        make: &MakeState<S>,
    ) -> io::Result<bool> {
        let mut board = self.board.lock();
        if !board.has(job) {
            return Ok(false);
        }
        self.spawn(&mut board, make)?;
        board.write_off(job.worker);
        drop(board);
        // It hangs: what other jobs of its guest wait for is not this worker any more.
        self.end_turn(&job.name);
        Ok(true)
    }

    /// Whether a worker that was written off is still on this job.
    pub(super) fn is_stuck(&self, job: &Overdue) -> bool {
        self.board.lock().is_stuck(job)
    }

    /// Whether every worker is on a job that is past its deadline and began so long ago.
    pub(super) fn is_all_overdue(&self, age: Duration) -> bool {
        self.board.lock().is_all_overdue(age)
    }

    /// Says whether no worker is replaced any more: a job that would wait for one is refused then.
    pub(super) fn set_out_of_spares(&self, is_out: bool) {
        self.is_out_of_spares.store(is_out, Ordering::Relaxed);
    }

    /// The jobs that run past their deadline.
    pub(super) fn overdue(&self) -> Vec<Overdue> {
        self.board.lock().overdue(self.lane)
    }

    /// A job of this name that runs past its deadline.
    pub(super) fn overdue_named(&self, name: &JobName) -> Option<Running> {
        self.board.lock().overdue_named(name)
    }

    /// Queues a job; never blocks. A worker may have it before this returns; one that sleeps is woken
    /// by what this returns.
    ///
    /// # Errors
    /// `Busy` when the queue is full, `Stopping` when the lane is closed.
    pub(super) fn submit(&self, task: Arc<dyn Task<S>>) -> Result<Wake, Error> {
        // Held over both, so that a job is counted before a worker can begin it.
        let mut board = self.board.lock();
        if self.is_out_of_spares.load(Ordering::Relaxed) && board.is_all_overdue(Duration::ZERO) {
            board.totals.refused += 1;
            let (full, limit) = (Full::Workers(self.lane), board.workers());
            return Err(Error::Busy { full, limit, running: board.oldest() });
        }
        let refused = match self.put(task) {
            Ok(wake) => {
                board.queued += 1;
                return Ok(wake);
            }
            Err(refused) => refused,
        };
        board.totals.refused += 1;
        Err(match refused {
            TrySendError::Disconnected(_) => Error::Stopping,
            TrySendError::Full(_) => Error::Busy {
                full: Full::Queue(self.lane),
                limit: self.limit,
                running: board.oldest(),
            },
        })
    }

    /// Puts a job into the queue, in place of those that nobody waits for any more where it is full.
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
        self.board.lock().totals.refused += 1;
    }

    /// Counts a caller that was answered while its job runs on.
    pub(super) fn count_late(&self) {
        self.board.lock().totals.late += 1;
    }

    /// Counts a queued job whose caller took it back.
    pub(super) fn count_unrun(&self) {
        let mut board = self.board.lock();
        board.queued -= 1;
        board.totals.unrun += 1;
        drop(board);
        // It may be held back for long.
        self.tasks.retain(|task| task.is_wanted());
    }

    /// This job is over: one that was held back may run.
    fn end_turn(&self, name: &JobName) {
        if self.turns.end(name) {
            drop(self.tasks.wake());
        }
    }

    /// The job that runs longest of those that keep others waiting.
    pub(super) fn oldest(&self) -> Option<Running> {
        self.board.lock().oldest()
    }

    /// The job that runs under this key.
    pub(super) fn running_under(&self, key: &str) -> Option<Running> {
        self.board.lock().under(key)
    }

    /// What the lane is at.
    pub(super) fn snapshot(&self) -> LaneSnapshot {
        let held_back =
            self.tasks.count(|task| task.is_wanted() && self.turns.holds_back(task.name()));
        LaneSnapshot { held_back, ..self.board.lock().snapshot(self.lane) }
    }

    /// Takes no more jobs and answers the queued ones; workers end when they are done with theirs.
    pub(super) fn close(&self) {
        self.tasks.close();
        while let Some(task) = self.tasks.try_next() {
            if task.refuse() {
                self.count_unrun();
            }
            task.hand_on();
        }
    }

    /// Which lane it is.
    pub(super) fn lane(&self) -> Lane {
        self.lane
    }

    /// Waits for the workers of a closed lane to end; whether all did.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(super) fn join(&self, deadline: Instant) -> bool {
        let mut board = self.board.lock();
        self.ended.wait_while_until(&mut board, |board| board.threads > 0, deadline);
        let ended = board.threads == 0;
        drop(board);
        let threads = mem::take(&mut *self.threads.lock());
        for thread in threads {
            // A thread that is not through is left alone: it ends by itself when its job returns.
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
    /// Takes jobs until the lane is closed, or a job returns after the worker was written off.
    fn serve(mut self) {
        let mut written_off = false;
        while !written_off {
            let turns = &self.queue.turns;
            let next = self.queue.tasks.next_where(|task| turns.begin(task.name()));
            let Some(task) = next else { break };
            let outcome = task.perform(&mut self);
            if outcome == Outcome::Panicked {
                self.discard();
            }
            written_off = !self.end(outcome);
            if !written_off {
                self.queue.end_turn(task.name());
            }
            task.hand_on();
        }
        self.discard();
        let mut board = self.queue.board.lock();
        board.threads -= 1;
        if !written_off {
            board.leave();
        }
        drop(board);
        self.queue.ended.notify_all();
    }
}

impl<S> Worker<S> {
    /// Puts a job that was queued on the board as running.
    pub(super) fn begin(&self, label: &Label, now: Instant) {
        self.queue.board.lock().begin(self.number, label, now);
    }

    /// Runs a job's code on this worker's state, which is made first where there is none.
    ///
    /// # Errors
    /// When either panicked; this logs it.
    pub(super) fn call<R>(
        &mut self,
        name: &JobName,
        work: impl FnOnce(&mut S) -> R,
    ) -> Result<R, Panicked> {
        let Self { queue, make, state, .. } = self;
        // Unwind safe: after a panic the state is thrown away, and the closure shares nothing else.
        catch_unwind(AssertUnwindSafe(|| work(state.get_or_insert_with(|| make(queue.lane)))))
            .map_err(|payload| self.report(name, payload))
    }

    /// Does what a job brought along for its end, if only to drop it; a panic is logged.
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

    /// Drops the state; the next job gets a new one.
    fn discard(&mut self) {
        if let Some(state) = self.state.take() {
            self.guarded(&"drop a worker's state".into(), || drop(state));
        }
    }

    /// Notes how a job ended; whether this worker takes further ones.
    fn end(&self, outcome: Outcome) -> bool {
        let mut board = self.queue.board.lock();
        match outcome {
            Outcome::NotRun => return true,
            Outcome::Returned => board.totals.finished += 1,
            Outcome::Panicked => board.totals.panicked += 1,
        }
        board.finish(self.number)
    }
}
