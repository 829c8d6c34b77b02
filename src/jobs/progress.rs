//! What a job is at.
//!
//! The verbs know nothing of jobs: they tell of their steps, and where a job's thread has begun the
//! verb its job hears of them.

use std::cell::RefCell;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

/// What a job is at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Steps that were begun: of CreateGuest and Delete, what the journal noted.
    pub steps: u64,
    /// The last of them, or what is waited for.
    pub step: String,
}

impl Progress {
    pub(super) fn is_empty(&self) -> bool {
        self.step.is_empty()
    }
}

/// Where a job's progress is written.
#[derive(Clone, Debug, Default)]
pub struct Track(Arc<Mutex<Progress>>);

impl Track {
    /// A step is begun.
    pub fn step(&self, what: String) {
        let mut progress = self.0.lock();
        progress.steps += 1;
        progress.step = what;
    }

    pub(super) fn progress(&self) -> Progress {
        self.0.lock().clone()
    }
}

thread_local! {
    /// Of the job that this thread carries out.
    static MINE: RefCell<Option<Track>> = const { RefCell::new(None) };
}

/// The track of the job that this thread carries out, for others that do a part of it.
pub fn tracker() -> Option<Track> {
    MINE.with_borrow(Clone::clone)
}

/// The job that this thread carries out, if it does, is at this now; no step of its own.
pub fn reached(what: impl ToString) {
    MINE.with_borrow(|mine| {
        if let Some(Track(progress)) = mine {
            progress.lock().step = what.to_string();
        }
    });
}

/// Runs `work` as this thread's job.
pub(super) fn tracked<T>(track: &Track, work: impl FnOnce() -> T) -> T {
    MINE.set(Some(track.clone()));
    let outcome = work();
    MINE.set(None);
    outcome
}
