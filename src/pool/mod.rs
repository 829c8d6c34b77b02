//! Where blocking work is done: bounded lanes of workers, deadlines, and a key per guest.
//!
//! ```text
//! call   ─ permit ─► [calls: under way, waiting]         what waits costs no thread
//! caller ── hold ──► [admission: keys]
//!        ── run ───► [queue of the lane] ──► worker      bounded; a private state per worker
//!        ◄─ result or deadline ── [handover] ◄──┘        one state machine per job
//! ```
//!
//! A caller that need not wait posts its job instead, with what is done with the answer: the worker
//! does that, or the pool's clock at the deadline (`posted`, `clock`). So one thread fewer is woken.
//!
//! What holds, and where it is decided:
//! - Nobody waits without a bound: calls wait for a permit (`calls`) in a fair order, as many as memory
//!   allows. One more, or one job too many in a lane, is [`Error::Busy`] at once. Every wait ends at its
//!   deadline.
//! - Of one guest half as many jobs run in the read lane as it has workers, and of jobs that ask emulators one
//!   fewer than it has, so that guests that hang leave others their turn (`turns`).
//! - A job whose deadline came before a worker never runs; one that runs is never cut off, keeps
//!   its key until it returns, and its result goes to the caller or to the late handler, never to
//!   both (`handover`).
//! - A worker whose job does not return can be written off: another takes its place, and its thread
//!   ends when the job returns. Who is to be written off is for others to judge (`board`).
//! - A panic costs the job and the worker's state, not the worker (`lane`).
//! - The pool knows nothing of what the jobs do.

mod admission;
mod batches;
mod board;
mod calls;
mod clock;
pub mod current;
mod error;
mod handover;
mod hold;
mod lane;
mod lane_state;
mod permits;
mod places;
mod posted;
mod rotation;
mod turns;

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use self::clock::Clock;
use self::handover::{Answer, Call, Failure};
use self::hold::{Gate, Seat};
use self::lane::{MakeState, Queue};
use self::lane_state::Label;
use self::permits::Permits;
use self::posted::Posted;
use self::turns::Turns;
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::config::PoolLimits;
use crate::config::fixed::LATE_READS;

pub use self::batches::Batches;
pub use self::calls::CallShare;
pub use self::clock::Timer;
pub(crate) use self::error::Span;
pub use self::error::{Error, Full, Ration};
pub use self::hold::{CallerSnapshot, Hold};
pub use self::lane_state::{Lane, LaneSnapshot, Overdue, Running, Totals};
pub use self::permits::{Granted, NoPermit, Permit};
pub use self::places::NoPlace;
pub(crate) use self::places::{Places, Quota};

/// One job's name and bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// For logs and errors.
    pub name: JobName,
    /// After this the job is not begun and its caller waits no longer.
    pub deadline: Instant,
}

/// What a job does, and to which guest: `Run web-1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobName {
    /// The verb.
    pub verb: String,
    /// The guest's id, or the name of another object; empty for none.
    pub guest: String,
    /// Whether it waits for the guest's emulator, and so may hang with it. The read lane does such jobs with all
    /// workers but one.
    pub asks_emulator: bool,
}

impl JobName {
    /// The name of this verb on this guest.
    pub fn new(verb: impl Into<String>, guest: impl Into<String>) -> Self {
        Self { verb: verb.into(), guest: guest.into(), asks_emulator: false }
    }

    /// The same, of a job that asks the guest's emulator.
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

/// What the pool is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Control, read, urgent, storage.
    pub lanes: [LaneSnapshot; 4],
    /// Who waits, and for what.
    pub callers: CallerSnapshot,
}

/// The worker pool. `S` is a worker's private state, such as its libvirt connection: made, used and
/// dropped on the worker's own thread.
///
/// Dropping the pool stops it without grace: what runs is left to end by itself.
pub struct Pool<S: 'static> {
    limits: PoolLimits,
    batches: Batches,
    gate: Arc<Gate>,
    permits: Arc<Permits>,
    make: MakeState<S>,
    clock: Arc<Clock>,
    /// Holds a word from when a caller was told `Late` until somebody took notice.
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
    /// When the system gives no thread.
    pub fn new(
        limits: &PoolLimits,
        make_state: impl Fn(Lane) -> S + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let clock = Clock::start()?;
        // Changes of one guest run one after the other by its key.
        let queue = |lane| Queue::new(lane, limits.queue, Turns::unlimited());
        let shared = |lane, workers| Queue::new(lane, limits.queue, Turns::among(workers));
        let pool = Self {
            limits: limits.clone(),
            batches: Batches::new(limits),
            gate: Arc::default(),
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

    /// Has `tell` called with each key that is released from now on, before anybody else gets it. It may not wait:
    /// the thread that drops the last [`Hold`] calls it. A second call of this method changes nothing.
    pub fn on_release(&self, tell: impl Fn(&str) + Send + Sync + 'static) {
        self.gate.on_release(Box::new(tell));
    }

    /// Takes a guest's key for a verb that changes it, in order of arrival.
    ///
    /// # Errors
    /// `KeyHeld` when others had the key up to `deadline`, `Stopping`.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub fn hold(&self, key: &str, deadline: Instant) -> Result<Hold, Error> {
        self.gate.hold(key, deadline).map_err(|why| match why {
            NoPermit::Full | NoPermit::Stopping => Error::Stopping,
            NoPermit::Late => Error::KeyHeld {
                key: key.to_owned(),
                waited: current::arrived().elapsed(),
                running: self.running_under(key),
            },
        })
    }

    /// A permit for a call, if there is room for it now; never blocks.
    pub fn permit(&self, share: &CallShare) -> Option<Permit> {
        self.permits.permit(share)
    }

    /// Has a call wait for its permit, and blocks for nothing. `then` is called with the permit on the thread that
    /// frees it, with an error on the clock's thread at `deadline`, and at once on this thread where the call gets
    /// one by now or must not wait. It must not block.
    pub fn permit_later(&self, share: CallShare, deadline: Instant, then: Granted) {
        self.permits.permit_later(share, deadline, then);
    }

    /// A permit for a call that waits for it on this thread.
    ///
    /// # Errors
    /// When too many calls wait, the pool stops, or `deadline` comes.
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

    /// The agent is told to stop: turns away the calls that wait for a permit without a thread and would do so
    /// beyond `until`, as nobody would answer them. The others go on.
    pub fn turn_away_after(&self, until: Instant) {
        self.permits.turn_away_after(until);
    }

    /// Why a call has no permit that arrived then, for its caller: what it waited for, where it waited.
    pub fn no_permit(
        &self,
        why: NoPermit,
        share: &CallShare,
        what: &str,
        arrived: Instant,
    ) -> Error {
        let lane = share.ration.lane();
        match why {
            NoPermit::Stopping => Error::Stopping,
            NoPermit::Full => {
                self.queue(lane).count_refused();
                let running = self.queue(lane).oldest();
                Error::Busy { full: Full::Waiting, limit: self.limits.calls_waiting, running }
            }
            NoPermit::Late => {
                let waited = arrived.elapsed();
                let held_by = (share.ration == Ration::Change)
                    .then(|| self.running_under(&share.guest))
                    .flatten();
                match held_by {
                    Some(running) => {
                        let key = share.guest.as_ref().to_owned();
                        Error::KeyHeld { key, waited, running: Some(running) }
                    }
                    None => {
                        let running = self.queue(lane).oldest();
                        Error::Unrun { what: what.to_owned(), lane, waited, running }
                    }
                }
            }
        }
    }

    /// Runs `work` on a worker of `lane` and returns its result. What comes too late is dropped.
    ///
    /// `hold` stays held until the work is over, also when its caller is answered before. Not to be
    /// called from a job: it would wait for its own lane.
    ///
    /// # Errors
    /// `Busy` where the lane's queue is full, `Stopping`, `Unrun`, `Late` and `Panicked`; with the first three
    /// the work never ran.
    ///
    /// # Blocking
    /// Up to `job.deadline`.
    pub fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        job: Job,
        hold: Option<&Hold>,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.run_or_else(lane, job, hold, work, |_, _| {})
    }

    /// As [`Self::run`], but a result that comes after its caller was told `Late` goes to `late`,
    /// on the same worker and still under the hold: the place where a verb is undone or finished.
    /// Exactly one of them gets the result; neither does when the work panicked.
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
        hold: Option<&Hold>,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
        late: impl FnOnce(&mut S, T) + Send + 'static,
    ) -> Result<T, Error> {
        let held = hold.cloned();
        let work = move |state: &mut S| -> AnyResult { Box::new(work(state)) };
        let late = move |state: &mut S, result: AnyResult| {
            if let Ok(result) = result.downcast() {
                late(state, *result);
            }
            drop(held);
        };
        let result = self.run_boxed(lane, job, hold, Box::new(work), Box::new(late))?;
        Ok(*result.downcast().expect("the work returns this type"))
    }

    /// The same for closures and results of any kind: compiled once, not for each verb, which saves 330 KB.
    fn run_boxed(
        &self,
        lane: Lane,
        Job { name, deadline }: Job,
        hold: Option<&Hold>,
        work: Box<dyn FnOnce(&mut S) -> AnyResult + Send>,
        late: Late<S>,
    ) -> Result<AnyResult, Error> {
        let books = self.books(lane);
        let _seat = self.seat(hold)?;
        let label = Label { name: name.clone(), key: hold.map(Hold::name), deadline };
        let call = Arc::new(Call::new(label, work, late));
        drop(books.queue.submit(Arc::clone(&call) as Arc<dyn lane::Task<S>>)?);
        books.result(&name, call.wait())
    }

    /// A place among the callers for a job that is posted; none where the pool stops.
    pub fn place(&self) -> Option<Place> {
        self.gate.enter().ok().map(Place)
    }

    /// Has a worker of `lane` run `work`, and does not wait for it: `then` gets its result, once, on
    /// the worker's thread; at the deadline an error, on the clock's; where it cannot be queued one
    /// on this thread. It must not block, but for a line of the log, and neither does this. Dropping
    /// the pool drops what its clock would have called later.
    pub fn post<T: Send + 'static>(
        &self,
        Place(seat): Place,
        lane: Lane,
        job: Job,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
        then: impl FnOnce(Result<T, Error>) + Send + 'static,
    ) {
        let Job { name, deadline } = job;
        let label = Label { name, key: None, deadline };
        Posted::submit(label, self.books(lane), &self.clock, work, (seat, then));
    }

    /// Calls `then` at that time on the clock's thread, unless the timer is dropped before. It must not block.
    pub fn at(&self, time: Instant, then: Box<dyn FnOnce() + Send>) -> Timer {
        Timer::set(&self.clock, time, then)
    }

    fn books(&self, lane: Lane) -> Books<S> {
        let (queue, late) = (Arc::clone(self.queue(lane)), self.late.0.clone());
        Books { queue, late, lane, arrived: current::arrived() }
    }

    /// Has a word whenever callers were told `Late` since the last one was taken; it ends with the
    /// pool. For one listener.
    pub fn late_answers(&self) -> Receiver<()> {
        self.late.1.clone()
    }

    /// The jobs that run past their deadline, without those of workers that were written off.
    pub fn overdue(&self) -> Vec<Overdue> {
        self.queues().into_iter().flat_map(|queue| queue.overdue()).collect()
    }

    /// Whether a job of this name may well be begun.
    ///
    /// # Errors
    /// `Overdue` where one runs past its deadline, stuck or not: a second one would be the next.
    pub fn not_overdue(&self, lane: Lane, name: &JobName) -> Result<(), Error> {
        match self.queue(lane).overdue_named(name) {
            Some(running) => Err(Error::Overdue { running }),
            None => Ok(()),
        }
    }

    /// Gives up on the worker that is on this job: it is counted as stuck until the job returns,
    /// and another takes its place. `false` when the job has returned meanwhile.
    ///
    /// # Errors
    /// When the system gives no thread; then everything is as before.
    pub fn write_off(&self, job: &Overdue) -> io::Result<bool> {
        self.queue(job.lane).write_off(job, &self.make)
    }

    /// Whether a worker that was written off is still on this job.
    pub fn is_stuck(&self, job: &Overdue) -> bool {
        self.queue(job.lane).is_stuck(job)
    }

    /// Whether every worker of this lane is on a job that is past its deadline and began so long ago.
    pub fn is_all_overdue(&self, lane: Lane, age: Duration) -> bool {
        self.queue(lane).is_all_overdue(age)
    }

    /// Says whether no worker is replaced any more. A job that would wait for a worker that hangs is told
    /// `Busy` then.
    pub fn set_out_of_spares(&self, is_out: bool) {
        self.queues().into_iter().for_each(|queue| queue.set_out_of_spares(is_out));
    }

    /// Why a call would be refused now rather than wait; `None` where it would be taken.
    pub fn calls_refused(&self) -> Option<Error> {
        let limit = self.limits.calls_waiting;
        Some(match self.permits.would_refuse()? {
            NoPermit::Full => Error::Busy { full: Full::Waiting, limit, running: None },
            NoPermit::Stopping | NoPermit::Late => Error::Stopping,
        })
    }

    /// The keys that are held now, in no order; from memory.
    pub fn held_keys(&self) -> Vec<String> {
        self.gate.held()
    }

    /// What the pool is at; from memory.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            lanes: self.queues().map(|queue| queue.snapshot()),
            callers: self.gate.snapshot(self.permits.snapshot()),
        }
    }

    /// Ends the pool: new callers are told `Stopping`, and so are those that wait for a key. Verbs
    /// that hold their key and jobs that were queued get `grace` to end; what is still queued then
    /// is answered `Stopping` and never runs. A read that runs when all callers are answered gets
    /// [`LATE_READS`]. Returns whether everything ended.
    ///
    /// # Blocking
    /// Up to `grace`.
    pub fn stop(&self, grace: Duration) -> bool {
        let deadline = Instant::now() + grace;
        // Those that wait for a key have permits.
        self.gate.stop(Instant::now());
        let calls_ended = self.permits.stop(deadline);
        let callers_left = self.gate.stop(deadline);
        for queue in self.queues() {
            queue.close();
        }
        // Each is joined, also after one that did not end.
        let reads_by = deadline.min(Instant::now() + LATE_READS);
        let ended = self.queues().map(|queue| match queue.lane() {
            Lane::Read => queue.join(reads_by),
            Lane::Control | Lane::Urgent | Lane::Storage => queue.join(deadline),
        });
        calls_ended && callers_left && !ended.contains(&false)
    }

    /// A place for a caller, unless its hold brings one.
    ///
    /// # Errors
    /// `Stopping`.
    fn seat(&self, hold: Option<&Hold>) -> Result<Option<Seat>, Error> {
        match hold.is_some_and(Hold::has_seat) {
            true => Ok(None),
            false => self.gate.enter().map(Some).map_err(|_| Error::Stopping),
        }
    }

    /// The batches that run.
    pub fn batches(&self) -> &Batches {
        &self.batches
    }

    fn running_under(&self, key: &str) -> Option<Running> {
        self.queues().into_iter().find_map(|queue| queue.running_under(key))
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

/// A place among the callers, until the job that it is for has its answer.
pub struct Place(Seat);

/// Where it is written down what became of a job of a lane.
struct Books<S: 'static> {
    queue: Arc<Queue<S>>,
    late: Sender<()>,
    lane: Lane,
    /// When its caller came.
    arrived: Instant,
}

impl<S: 'static> Books<S> {
    /// What the caller is told, counted.
    ///
    /// # Errors
    /// Where there is no result.
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
                // A word that is still there says the same.
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
