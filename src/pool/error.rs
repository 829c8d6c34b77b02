//! The reasons for which the pool did not run a job; `Display` is the wire text.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::lane_info::{Lane, RunningJob};
use crate::config::PoolLimits;

/// The kinds of calls. Each kind has a limit of its own, so that none takes the permits of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallClass {
    /// Urgent work: a Poweroff or a Thaw.
    Urgent,
    /// A Delete: it frees calls that hang in the guest's emulator, and so must not wait for them.
    Delete,
    /// Other changes of a guest.
    Change,
    /// A query to libvirt.
    Read,
    /// A query that libvirt passes to a guest's emulator.
    Metrics,
    /// A query that libvirt passes to a guest's agent, which may not answer.
    Agent,
    /// A Trim by the guest's agent, which may take minutes.
    Trim,
    /// A Shutdown whose caller waits for its end.
    Shutdown,
    /// A change of the store, or a query to it.
    Store,
    /// A batch, whose calls are also counted individually.
    Batch,
    /// A call that writes a job's file.
    JobFile,
    /// A query to libvirt for which no thread waits.
    Poll,
    /// A query that libvirt passes to a guest's emulator and for which no thread waits.
    MetricsPoll,
}

impl CallClass {
    /// All kinds, the most urgent first.
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

    /// Returns the index in [`Self::ALL`].
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

    /// Returns the maximum number of concurrent calls of this kind.
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
            // Both kinds together take at most half of the lane's queue.
            Self::Poll | Self::MetricsPoll => limits.polls.min(limits.queue / 4).max(1),
            Self::Store => limits.stores,
            Self::Batch => limits.batches,
            Self::JobFile => limits.job_files,
        }
    }

    /// Returns the maximum number of concurrent calls of this kind for one guest or other object.
    pub(super) fn limit_per_guest(self, limits: &PoolLimits) -> usize {
        match self {
            // libvirt sends a guest's agent one command at a time.
            Self::Agent | Self::Trim => 1,
            // One guest may have half of these few permits.
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

    /// Returns the lane in which such a call runs its jobs.
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

/// The resource that is full when the answer is [`Error::Busy`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Full {
    /// The lane's queue of jobs.
    Queue(Lane),
    /// The lane's workers: all run calls that do not return.
    Workers(Lane),
    /// The calls that may wait for a permit.
    Waiting,
}

/// The reason for which a job has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Refused at once; nothing was queued.
    Busy {
        /// What is full.
        full: Full,
        /// The limit of that resource.
        limit: usize,
        /// The oldest running job of the lane.
        running: Option<RunningJob>,
    },
    /// The guest lock was unavailable until the deadline; nothing was queued.
    GuestLocked {
        /// The guest's id.
        guest: String,
        /// The time since the arrival of the call.
        waited: Duration,
        /// The running job that holds the lock; `None` while the lock's holder is between two jobs.
        running: Option<RunningJob>,
    },
    /// The deadline passed while the job was queued: the job did not start and never will.
    Unrun {
        /// The job.
        what: String,
        /// Its lane.
        lane: Lane,
        /// How long its caller waited.
        waited: Duration,
        /// The oldest job that runs in the lane.
        running: Option<RunningJob>,
    },
    /// The deadline passed while the job ran: it runs on, and holds its lock until it returns.
    Late {
        /// The job.
        what: String,
        /// How long its caller waited.
        waited: Duration,
        /// When a worker started it.
        running_since: SystemTime,
        /// The time since then, at this answer.
        age: Duration,
    },
    /// Refused at once, as the same job runs past its deadline; nothing was queued.
    Overdue {
        /// That job.
        running: RunningJob,
    },
    /// The job panicked, or the initialization of the worker's state did.
    Panicked {
        /// The job.
        what: String,
    },
    /// The pool accepts no more work.
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
            Self::GuestLocked { guest, waited, running } => {
                let waited = Span(*waited);
                write!(
                    f,
                    "deadline: timed out after {waited} waiting for another operation on {guest}"
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
            Self::Overdue { running: RunningJob { what, age } } => {
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

fn write_running(f: &mut fmt::Formatter<'_>, running: Option<&RunningJob>) -> fmt::Result {
    match running {
        Some(RunningJob { what, age }) => {
            write!(f, "; {what} is still running after {}", Span(*age))
        }
        None => Ok(()),
    }
}

/// Formats a duration for people: whole milliseconds below a second, otherwise whole seconds.
pub(crate) struct Span(pub(crate) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            ms @ 0..1000 => write!(f, "{ms} ms"),
            ms => write!(f, "{} s", (ms + 500) / 1000),
        }
    }
}
