//! Why the pool did not do a job, in facts; `Display` is the wire text.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::lane_state::{Lane, Running};
use crate::config::PoolLimits;

/// What a call may wait for. Each kind has a bound of its own, so that none takes the place of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ration {
    /// Urgent work: a guest's power off.
    Urgent,
    /// A Delete: it frees what hangs in the guest's emulator, and so does not wait for that.
    Delete,
    /// Other changes of a guest.
    Change,
    /// What libvirt is asked.
    Read,
    /// What it asks a guest's emulator.
    Metrics,
    /// What it asks a guest's agent, which may not answer.
    Agent,
    /// A guest's agent that trims, which may take minutes.
    Trim,
    /// A guest that shuts down, for which its caller waits.
    Shutdown,
    /// What is done in the store, and what it is asked.
    Store,
    /// The calls of a batch, each of which is counted by itself.
    Batch,
    /// A call that writes the file of a job.
    JobFile,
    /// A question to libvirt that no thread waits for.
    Poll,
    /// The same that asks a guest's emulator.
    MetricsPoll,
}

impl Ration {
    /// All, those that must not wait first.
    pub(super) const ALL: [Self; 13] = [
        Self::Urgent,
        Self::Delete,
        Self::Change,
        Self::Read,
        Self::Metrics,
        Self::Agent,
        Self::Trim,
        Self::Shutdown,
        Self::Store,
        Self::Batch,
        Self::JobFile,
        Self::Poll,
        Self::MetricsPoll,
    ];

    /// Its place in [`Self::ALL`].
    pub(super) fn index(self) -> usize {
        match self {
            Self::Urgent => 0,
            Self::Delete => 1,
            Self::Change => 2,
            Self::Read => 3,
            Self::Metrics => 4,
            Self::Agent => 5,
            Self::Trim => 6,
            Self::Shutdown => 7,
            Self::Store => 8,
            Self::Batch => 9,
            Self::JobFile => 10,
            Self::Poll => 11,
            Self::MetricsPoll => 12,
        }
    }

    /// How many calls of it are under way at once.
    pub(super) fn limit(self, limits: &PoolLimits) -> usize {
        match self {
            Self::Urgent => limits.urgent,
            Self::Delete => limits.deletes,
            Self::Change => limits.changes,
            Self::Read => limits.reads,
            Self::Metrics => limits.metrics,
            Self::Agent => limits.agents,
            Self::Trim => limits.trims,
            Self::Shutdown => limits.shutdowns,
            // Those of both kinds take half of the lane's queue at most.
            Self::Poll | Self::MetricsPoll => limits.polls.min(limits.queue / 4).max(1),
            Self::Store => limits.stores,
            Self::Batch => limits.batches,
            Self::JobFile => limits.job_files,
        }
    }

    /// How many of these are of one guest, or of one name of what its calls wait for.
    pub(super) fn limit_per_guest(self, limits: &PoolLimits) -> usize {
        match self {
            // libvirt asks a guest's agent one thing at a time.
            Self::Agent | Self::Trim => 1,
            // Of few permits one guest has half.
            Self::Urgent | Self::Delete | Self::Metrics | Self::Shutdown => {
                (self.limit(limits) / 2).max(1)
            }
            Self::Change
            | Self::Read
            | Self::Store
            | Self::Batch
            | Self::JobFile
            | Self::Poll
            | Self::MetricsPoll => limits.calls_per_guest,
        }
    }

    /// The lane whose jobs such a call waits for.
    pub(super) fn lane(self) -> Lane {
        match self {
            Self::Urgent => Lane::Urgent,
            Self::Delete | Self::Change | Self::Trim | Self::Shutdown | Self::Batch => {
                Lane::Control
            }
            Self::Read
            | Self::Metrics
            | Self::Agent
            | Self::JobFile
            | Self::Poll
            | Self::MetricsPoll => Lane::Read,
            Self::Store => Lane::Storage,
        }
    }
}

/// What is full when the answer is [`Error::Busy`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Full {
    /// The lane's queue of jobs.
    Queue(Lane),
    /// The lane's workers: all are in calls that do not return.
    Workers(Lane),
    /// The calls that may wait for their turn.
    Waiting,
}

/// Why a job has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Refused at once; nothing was queued.
    Busy {
        /// What is full.
        full: Full,
        /// How many it holds.
        limit: usize,
        /// What blocks it: the oldest job that runs in the lane, or the one under the key.
        running: Option<Running>,
    },
    /// The key was not to be had up to the deadline; nothing was queued.
    KeyHeld {
        /// The key.
        key: String,
        /// How long this caller waited for it.
        waited: Duration,
        /// The job that runs under the key; none while its holder is between two jobs.
        running: Option<Running>,
    },
    /// The deadline came while the job was queued: it did not run and never will.
    Unrun {
        /// The job.
        what: String,
        /// Its lane.
        lane: Lane,
        /// How long its caller waited.
        waited: Duration,
        /// The oldest job that runs in the lane.
        running: Option<Running>,
    },
    /// The deadline came while the job ran: it runs on, and keeps its key until it returns.
    Late {
        /// The job.
        what: String,
        /// How long its caller waited.
        waited: Duration,
        /// When a worker began it.
        running_since: SystemTime,
        /// The same as an age, at the time of this answer.
        age: Duration,
    },
    /// Refused at once, as the same job runs already and is past its deadline; nothing was queued.
    Overdue {
        /// That job.
        running: Running,
    },
    /// The job panicked, or making the worker's state for it did.
    Panicked {
        /// The job.
        what: String,
    },
    /// The pool takes no more work.
    Stopping,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy { full, limit, running } => {
                f.write_str("busy: ")?;
                match full {
                    Full::Workers(lane) => {
                        write!(f, "all {limit} {lane} workers are in calls that do not return")?;
                    }
                    Full::Queue(lane) => write!(f, "the {lane} queue is full with {limit} jobs")?,
                    Full::Waiting => write!(f, "{limit} calls wait for their turn")?,
                }
                write_running(f, running.as_ref())
            }
            Self::KeyHeld { key, waited, running } => {
                let waited = Span(*waited);
                write!(
                    f,
                    "deadline: timed out after {waited} waiting for another operation on {key}"
                )?;
                write_running(f, running.as_ref())
            }
            Self::Unrun { what, lane, waited, running } => {
                let waited = Span(*waited);
                write!(f, "deadline: {what} did not start within {waited} in the {lane} queue")?;
                write_running(f, running.as_ref())
            }
            Self::Late { what, waited, age, .. } => {
                let (waited, age) = (Span(*waited), Span(*age));
                write!(f, "deadline: {what} did not end within {waited}; still running after {age}")
            }
            Self::Overdue { running: Running { what, age } } => {
                let age = Span(*age);
                write!(f, "deadline: not started, as {what} is still running after {age}")
            }
            Self::Panicked { what } => {
                write!(f, "cannot complete {what}: internal error; see the agent's log")
            }
            Self::Stopping => f.write_str("busy: the agent is stopping"),
        }
    }
}

impl std::error::Error for Error {}

fn write_running(f: &mut fmt::Formatter<'_>, running: Option<&Running>) -> fmt::Result {
    match running {
        Some(Running { what, age }) => {
            write!(f, "; {what} is still running after {}", Span(*age))
        }
        None => Ok(()),
    }
}

/// A time for people: whole milliseconds below a second, else whole seconds.
pub(crate) struct Span(pub(crate) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            ms @ 0..1000 => write!(f, "{ms} ms"),
            ms => write!(f, "{} s", (ms + 500) / 1000),
        }
    }
}
