//! One job between its caller and its worker: who has the result, and what became of the work.
//!
//! ```text
//! Queued ── start ──► Running ── finish ──► Done ── collect ──► Over
//! Queued ── refuse: the pool stops ───────► Done
//! Queued ── collect at the deadline ──────────────────────────► Over     it never runs
//! Running ── collect at the deadline ──► GivenUp ── finish ───► Over     `late` gets the result
//! ```
//! Every arrow is one method of [`State`], taken under one lock, so of the caller and the late
//! handler exactly one gets the result. `late` owns the guest's key and stays here from the
//! submission to the end: the key is free when the caller was answered and the work is over.

use std::mem;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::JobName;
use super::lane::{Outcome, Panicked, Task, Worker};
use super::lane_state::Label;

/// Why a job that reached its end has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The work panicked, or making the worker's state did.
    Panicked,
    /// The pool was stopped before a worker took it.
    Stopping,
}

/// What the caller is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer<T> {
    /// The job reached its end.
    Done(Result<T, Failure>),
    /// The deadline came first; no worker has begun it, and none will.
    Unrun,
    /// The deadline came while it ran.
    Late {
        /// When its worker began.
        since: Instant,
    },
}

/// The state machine; `W` is the work, `L` what to do with a late result of type `T`.
pub(super) enum State<T, W, L> {
    Queued { work: W, late: L },
    Running { since: Instant, late: L },
    GivenUp { late: L },
    Done { result: Result<T, Failure>, late: L },
    Over,
}

impl<T, W, L> State<T, W, L> {
    /// A worker takes the work, unless it is too late or there is none left.
    fn start(&mut self, now: Instant, deadline: Instant) -> Option<W> {
        match mem::replace(self, Self::Over) {
            Self::Queued { work, late } if now < deadline => {
                *self = Self::Running { since: now, late };
                Some(work)
            }
            other => {
                *self = other;
                None
            }
        }
    }

    /// Whether a worker may still take it.
    pub(super) fn is_queued(&self) -> bool {
        matches!(self, Self::Queued { .. })
    }

    /// The worker is done. `Some` when nobody waits for the result: what to do then, and with what.
    fn finish(&mut self, result: Result<T, Failure>) -> Option<GivenUp<T, L>> {
        match mem::replace(self, Self::Over) {
            Self::GivenUp { late } => Some((result, late)),
            Self::Running { late, .. } => {
                *self = Self::Done { result, late };
                None
            }
            other => {
                *self = other;
                None
            }
        }
    }

    /// The pool stops; work that nobody has begun is returned, to be dropped.
    pub(super) fn refuse(&mut self) -> Option<W> {
        match mem::replace(self, Self::Over) {
            Self::Queued { work, late } => {
                *self = Self::Done { result: Err(Failure::Stopping), late };
                Some(work)
            }
            other => {
                *self = other;
                None
            }
        }
    }

    /// The caller looks for its answer; at its deadline it takes whatever there is. The closures
    /// that will not run come along, to be dropped outside the lock.
    pub(super) fn collect(&mut self, expired: bool) -> Option<(Answer<T>, Option<W>, Option<L>)> {
        match mem::replace(self, Self::Over) {
            Self::Done { result, late } => Some((Answer::Done(result), None, Some(late))),
            Self::Queued { work, late } if expired => Some((Answer::Unrun, Some(work), Some(late))),
            Self::Running { since, late } if expired => {
                *self = Self::GivenUp { late };
                Some((Answer::Late { since }, None, None))
            }
            other => {
                *self = other;
                None
            }
        }
    }
}

/// A job as caller and worker share it.
pub(super) struct Call<T, W, L> {
    label: Label,
    state: Mutex<State<T, W, L>>,
    done: Condvar,
}

impl<T, W, L> Call<T, W, L> {
    /// A job that waits for its worker.
    pub(super) fn new(label: Label, work: W, late: L) -> Self {
        Self { label, state: Mutex::new(State::Queued { work, late }), done: Condvar::new() }
    }

    /// Blocks the caller until the job is done or its deadline is there; asked once.
    pub(super) fn wait(&self) -> Answer<T> {
        let mut state = self.state.lock();
        let mut expired = false;
        let (answer, work, late) = loop {
            if let Some(end) = state.collect(expired) {
                break end;
            }
            expired = self.done.wait_until(&mut state, self.label.deadline).timed_out();
        };
        drop(state);
        drop((work, late));
        answer
    }
}

impl<S, T, W, L> Task<S> for Call<T, W, L>
where
    T: Send,
    W: FnOnce(&mut S) -> T + Send,
    L: FnOnce(&mut S, T) + Send,
{
    fn name(&self) -> &JobName {
        &self.label.name
    }

    fn is_wanted(&self) -> bool {
        self.state.lock().is_queued()
    }

    fn perform(&self, worker: &mut Worker<S>) -> Outcome {
        let Some((outcome, given_up)) = work_off(&self.state, &self.label, worker) else {
            return Outcome::NotRun;
        };
        let Some((result, late)) = given_up else {
            self.done.notify_one();
            return outcome;
        };
        let Ok(result) = result else {
            worker.guarded(&self.label.name, || drop(late));
            return outcome;
        };
        match worker.call(&self.label.name, |state| late(state, result)) {
            Ok(()) => outcome,
            Err(Panicked) => Outcome::Panicked,
        }
    }

    fn refuse(&self) -> bool {
        let work = self.state.lock().refuse();
        self.done.notify_one();
        work.is_some()
    }
}

/// A result that nobody waits for, and what is to be done with it.
type GivenUp<T, L> = (Result<T, Failure>, L);

/// Runs a job's work on this worker unless it is too late or there is none left: how it went, and
/// what came of it where its caller has given up.
pub(super) fn work_off<S, T, W: FnOnce(&mut S) -> T, L>(
    state: &Mutex<State<T, W, L>>,
    label: &Label,
    worker: &mut Worker<S>,
) -> Option<(Outcome, Option<GivenUp<T, L>>)> {
    let now = Instant::now();
    let work = state.lock().start(now, label.deadline)?;
    worker.begin(label, now);
    let result = worker.call(&label.name, work).map_err(|Panicked| Failure::Panicked);
    let outcome = if result.is_ok() { Outcome::Returned } else { Outcome::Panicked };
    Some((outcome, state.lock().finish(result)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What the two sides do. The caller looks until it has an answer; the worker finishes only
    /// what it started.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Step {
        Start { in_time: bool },
        Finish(Result<u8, Failure>),
        Refuse,
        Collect { expired: bool },
    }

    const STEPS: [Step; 7] = [
        Step::Start { in_time: true },
        Step::Start { in_time: false },
        Step::Finish(Ok(7)),
        Step::Finish(Err(Failure::Panicked)),
        Step::Refuse,
        Step::Collect { expired: false },
        Step::Collect { expired: true },
    ];

    /// One job's life as the outside sees it.
    struct Life {
        state: State<u8, (), ()>,
        taken: bool,
        started: bool,
        finished: Option<Result<u8, Failure>>,
        answer: Option<Answer<u8>>,
        handed_late: Option<Result<u8, Failure>>,
    }

    impl Life {
        fn new() -> Self {
            let state = State::Queued { work: (), late: () };
            Self {
                state,
                taken: false,
                started: false,
                finished: None,
                answer: None,
                handed_late: None,
            }
        }

        /// A job is taken from its queue once, finished by who started it, answered once.
        fn allows(&self, step: Step) -> bool {
            match step {
                Step::Start { .. } | Step::Refuse => !self.taken,
                Step::Finish(_) => self.started && self.finished.is_none(),
                Step::Collect { .. } => self.answer.is_none(),
            }
        }

        fn take(&mut self, step: Step) {
            let deadline = Instant::now();
            match step {
                Step::Start { in_time } => {
                    let early = deadline.checked_sub(Duration::from_millis(1)).unwrap();
                    let now = if in_time { early } else { deadline };
                    self.taken = true;
                    self.started = self.state.start(now, deadline).is_some();
                    assert!(in_time || !self.started);
                }
                Step::Refuse => {
                    self.taken = true;
                    let _ = self.state.refuse();
                }
                Step::Finish(result) => {
                    self.finished = Some(result);
                    self.handed_late = self.state.finish(result).map(|(result, ())| result);
                }
                Step::Collect { expired } => {
                    self.answer = self.state.collect(expired).map(|(answer, ..)| answer);
                    assert!(!expired || self.answer.is_some(), "a deadline always answers");
                }
            }
        }

        fn check(&self) {
            let told = match self.answer.as_ref().unwrap() {
                Answer::Done(Err(Failure::Stopping)) | Answer::Unrun => {
                    assert!(!self.started);
                    None
                }
                Answer::Done(result) => Some(*result),
                Answer::Late { .. } => None,
            };
            let late = matches!(self.answer, Some(Answer::Late { .. }));
            assert_eq!(late, self.handed_late.is_some());
            assert_eq!(told.or(self.handed_late), self.finished);
            assert!(told.is_none() || self.handed_late.is_none());
            assert!(matches!(self.state, State::Over));
        }
    }

    #[test]
    fn exactly_one_side_gets_the_result_in_every_order() {
        let mut paths = vec![Vec::new()];
        let mut lives = 0;
        while let Some(path) = paths.pop() {
            let mut life = Life::new();
            for &step in &path {
                life.take(step);
            }
            // A second look before the deadline changes nothing, so five steps reach every state.
            if path.len() < 5 {
                let next = STEPS.iter().filter(|&&step| life.allows(step));
                paths.extend(next.map(|&step| [path.as_slice(), &[step]].concat()));
            }
            for end in [Step::Finish(Ok(7)), Step::Collect { expired: true }] {
                if life.allows(end) {
                    life.take(end);
                }
            }
            life.check();
            lives += 1;
        }
        assert!(lives > 100, "{lives} orders tried");
    }
}
