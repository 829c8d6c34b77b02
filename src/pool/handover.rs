//! One job between its caller and its worker: the owner of the result, and the outcome of the work.
//!
//! ```text
//! Queued ── start ──► Running ── finish ──► Done ── collect ──► Over
//! Queued ── refuse: the pool stops ───────► Done
//! Queued ── collect at the deadline ──────────────────────────► Over     it never runs
//! Running ── collect at the deadline ──► GivenUp ── finish ───► Over     `late` gets the result
//! ```
//! Every arrow is one method of [`HandoverState`], under one mutex, so exactly one of the caller and the
//! late handler gets the result. `late` owns the guest's lock and stays here from the submission to
//! the end: the lock is free when the caller has its answer and the work has returned.

use std::mem;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::JobName;
use super::lane::{Outcome, Panicked, Task, Worker};
use super::lane_info::Label;

/// The reason for which a job that ended has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The work panicked, or the initialization of the worker's state did.
    Panicked,
    /// The pool was stopped before a worker took the job.
    Stopping,
}

/// The caller's answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer<T> {
    /// The job ended.
    Done(Result<T, Failure>),
    /// The deadline passed first; no worker has started the job, and none will.
    Unrun,
    /// The deadline passed while the job ran.
    Late {
        /// When its worker started it.
        since: Instant,
    },
}

/// The state machine; `W` is the work, `L` the handler of a late result of type `T`.
pub(super) enum HandoverState<T, W, L> {
    Queued { work: W, late: L },
    Running { since: Instant, late: L },
    GivenUp { late: L },
    Done { result: Result<T, Failure>, late: L },
    Over,
}

impl<T, W, L> HandoverState<T, W, L> {
    /// Takes the work for a worker, unless the deadline has passed or the work was taken.
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

    /// Returns whether a worker may still take the work.
    pub(super) fn is_queued(&self) -> bool {
        matches!(self, Self::Queued { .. })
    }

    /// Stores the worker's result. Returns it, with its late handler, if the caller has given up.
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

    /// Refuses work that no worker has started because the pool stops; returns the work, to be
    /// dropped.
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

    /// Takes the caller's answer if there is one; at the deadline there always is. The closures
    /// that will not run are returned, to be dropped outside the mutex.
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

/// A job that its caller and its worker share.
pub(super) struct Call<T, W, L> {
    label: Label,
    state: Mutex<HandoverState<T, W, L>>,
    done: Condvar,
}

impl<T, W, L> Call<T, W, L> {
    /// Makes a job that waits for its worker.
    pub(super) fn new(label: Label, work: W, late: L) -> Self {
        Self {
            label,
            state: Mutex::new(HandoverState::Queued { work, late }),
            done: Condvar::new(),
        }
    }

    /// Blocks the caller until the job ends or its deadline passes; must be called once.
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

/// A result for which no caller waits, and its handler.
type GivenUp<T, L> = (Result<T, Failure>, L);

/// Runs a job's work on this worker unless the deadline has passed or the work was taken. Returns
/// the outcome, and the result if its caller has given up.
pub(super) fn work_off<S, T, W: FnOnce(&mut S) -> T, L>(
    state: &Mutex<HandoverState<T, W, L>>,
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

    /// The steps of both sides. The caller polls until it has an answer; the worker finishes only
    /// work that it started.
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

    /// One job's life, seen from outside.
    struct Life {
        state: HandoverState<u8, (), ()>,
        taken: bool,
        started: bool,
        finished: Option<Result<u8, Failure>>,
        answer: Option<Answer<u8>>,
        handed_late: Option<Result<u8, Failure>>,
    }

    impl Life {
        fn new() -> Self {
            let state = HandoverState::Queued { work: (), late: () };
            Self {
                state,
                taken: false,
                started: false,
                finished: None,
                answer: None,
                handed_late: None,
            }
        }

        /// A job is taken from its queue once, finished by the worker that started it, and answered
        /// once.
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
            let answered = match self.answer.as_ref().unwrap() {
                Answer::Done(Err(Failure::Stopping)) | Answer::Unrun => {
                    assert!(!self.started);
                    None
                }
                Answer::Done(result) => Some(*result),
                Answer::Late { .. } => None,
            };
            let late = matches!(self.answer, Some(Answer::Late { .. }));
            assert_eq!(late, self.handed_late.is_some());
            assert_eq!(answered.or(self.handed_late), self.finished);
            assert!(answered.is_none() || self.handed_late.is_none());
            assert!(matches!(self.state, HandoverState::Over));
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
            // A second poll before the deadline changes nothing, so five steps reach every state.
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
