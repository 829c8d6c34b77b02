//! The lanes, their state, and the names of their jobs in logs and errors: plain data.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::JobName;

/// The group of workers that runs a job. No lane waits for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Verbs that change a guest.
    Control,
    /// Status, the per-guest metrics, and writes to the state directory.
    Read,
    /// Destroy, which is the remedy for a guest that hangs.
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

/// A running job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningJob {
    /// The job's name, as text.
    pub what: String,
    /// The time since its start.
    pub age: Duration,
}

/// The state of one lane, and its totals since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneSnapshot {
    /// The lane.
    pub lane: Lane,
    /// Threads that take its jobs.
    pub workers: usize,
    /// Jobs in the queue whose callers still wait.
    pub queued: usize,
    /// The queued jobs that are held back by other jobs of their guest or of emulators, although workers
    /// may be free.
    pub held_back: usize,
    /// Jobs that run on these workers.
    pub running: usize,
    /// Jobs that run on abandoned workers.
    pub stuck: usize,
    /// The oldest running job, on an abandoned worker or not.
    pub oldest: Option<RunningJob>,
    /// Totals since the start.
    pub totals: Totals,
}

/// The outcomes of a lane's jobs since the start. Every queued job ends in one of `finished`, `panicked`,
/// `unrun`; `late` counts callers, in addition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Jobs that returned, in time or late.
    pub finished: u64,
    /// Jobs that panicked.
    pub panicked: u64,
    /// Jobs whose deadline passed, or whose pool stopped, before a worker was free.
    pub unrun: u64,
    /// Callers that got their answer while their job ran on.
    pub late: u64,
    /// Jobs that were not queued, because the queue was full, too many calls waited, all workers hung, or the pool
    /// was stopping.
    pub refused: u64,
}

/// A job that runs past its deadline, on a worker that was not abandoned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// Its lane.
    pub lane: Lane,
    /// The worker's number, as in its thread's name.
    pub worker: usize,
    /// The job's name.
    pub name: JobName,
    /// When the worker started it.
    pub since: Instant,
}

/// The name of a job, its guest lock, and its caller's deadline.
pub(super) struct Label {
    /// The job's name for logs and errors.
    pub(super) name: JobName,
    /// The guest whose lock it holds, if any.
    pub(super) guest: Option<Arc<str>>,
    /// After this the job does not start, and its caller does not wait.
    pub(super) deadline: Instant,
}
