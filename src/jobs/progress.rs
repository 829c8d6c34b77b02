//! The progress of a job.
//!
//! Methods know nothing of jobs: they report their steps, and the job whose thread started the
//! method receives the reports.

use std::cell::RefCell;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

/// The progress of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// The number of started steps: for CreateGuest and Delete, the steps in the journal.
    pub steps: u64,
    /// The last step, or the reason of the present wait.
    pub step: String,
}

impl Progress {
    pub(super) fn is_empty(&self) -> bool {
        self.step.is_empty()
    }
}

/// The handle for a job's progress.
#[derive(Clone, Debug, Default)]
pub struct Track(Arc<Mutex<Progress>>);

impl Track {
    /// Records the start of a step.
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
    /// The track of the job that this thread runs.
    static MINE: RefCell<Option<Track>> = const { RefCell::new(None) };
}

/// Returns the track of the job that this thread runs, for other threads that do a part of the job.
pub fn tracker() -> Option<Track> {
    MINE.with_borrow(Clone::clone)
}

/// Sets the present activity of the job that this thread runs, if any; does not count as a step.
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
