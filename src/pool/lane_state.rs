//! The lanes, what each is at, and its jobs as logs and errors name them: plain data.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::JobName;

/// Which workers do a job. No lane waits for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Verbs that change a guest.
    Control,
    /// Status, the per-guest metrics, and writes to the state directory.
    Read,
    /// Destroying: the cure for a stuck guest.
    Urgent,
    /// Volumes.
    Storage,
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Control => "control",
            Self::Read => "read",
            Self::Urgent => "urgent",
            Self::Storage => "storage",
        })
    }
}

/// A job that a worker is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// The job's name, as text.
    pub what: String,
    /// Since when, as an age.
    pub age: Duration,
}

/// What one lane is at, and its totals since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneSnapshot {
    /// The lane.
    pub lane: Lane,
    /// Threads that take its jobs.
    pub workers: usize,
    /// Jobs that wait for a worker and whose callers wait for them.
    pub queued: usize,
    /// Of these, jobs that wait for others of their guest or of emulators, beside workers that may be free.
    pub held_back: usize,
    /// Jobs that such a worker is on.
    pub running: usize,
    /// Jobs that others are on, which were written off and have not returned.
    pub stuck: usize,
    /// The oldest of both.
    pub oldest: Option<Running>,
    /// Totals since the start.
    pub totals: Totals,
}

/// What became of a lane's jobs since the start. Every job that was queued ends in one of
/// `finished`, `panicked`, `unrun`; `late` counts callers and comes on top.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Jobs that returned, in time or late.
    pub finished: u64,
    /// Jobs that panicked.
    pub panicked: u64,
    /// Jobs whose deadline, or the pool's stop, came before a worker.
    pub unrun: u64,
    /// Callers that were answered while their job ran on.
    pub late: u64,
    /// Jobs that were not queued: queue full, too many callers, or stopping.
    pub refused: u64,
}

/// A job that runs past its deadline, on a worker that waits for nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// Its lane.
    pub lane: Lane,
    /// The worker's number, as in its thread's name.
    pub worker: usize,
    /// The job's name.
    pub name: JobName,
    /// When the worker began it.
    pub since: Instant,
}

/// What a job is called, what it is about, and how long its caller waits.
pub(super) struct Label {
    /// The job's name for logs and errors.
    pub(super) name: JobName,
    /// The key it runs under.
    pub(super) key: Option<Arc<str>>,
    /// After this it is not begun, and not waited for.
    pub(super) deadline: Instant,
}
