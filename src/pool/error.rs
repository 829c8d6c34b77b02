//! Why the pool did not do a job, in facts; `Display` is the wire text.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::lane::Lane;

/// A job that a worker is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// The job's name, as text.
    pub what: String,
    /// Since when, as an age.
    pub age: Duration,
}

/// Shares of the callers that may wait at once; each counts in the ones after it as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ration {
    /// For control or storage work, or for a key.
    Change,
    /// For read work, and all the above.
    Read,
    /// For urgent work, and all the above.
    Any,
}

impl Ration {
    /// Itself and the rations that it is part of.
    pub(super) fn counted_in(self) -> &'static [Ration] {
        match self {
            Self::Change => &[Self::Change, Self::Read, Self::Any],
            Self::Read => &[Self::Read, Self::Any],
            Self::Any => &[Self::Any],
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
    /// The callers that may wait.
    Callers(Ration),
    /// The callers that may wait for this key.
    Key(String),
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
                    Full::Callers(ration) => write!(f, "{limit} callers wait for {ration}")?,
                    Full::Key(key) => write!(f, "{limit} callers wait for {key}")?,
                }
                write_running(f, running.as_ref())
            }
            Self::KeyHeld { key, waited, running } => {
                let waited = Span(*waited);
                write!(f, "deadline: {key} had other work for {waited}, this never ran")?;
                write_running(f, running.as_ref())
            }
            Self::Unrun { what, lane, waited, running } => {
                let waited = Span(*waited);
                write!(f, "deadline: {what} never ran, {waited} in the {lane} queue")?;
                write_running(f, running.as_ref())
            }
            Self::Late { what, waited, age, .. } => {
                let (waited, age) = (Span(*waited), Span(*age));
                write!(f, "deadline: {what} not done in {waited}, still running since {age} ago")
            }
            Self::Overdue { running: Running { what, age } } => {
                let age = Span(*age);
                write!(f, "deadline: this never ran, {what} is still running since {age} ago")
            }
            Self::Panicked { what } => write!(f, "{what}: internal error, see the agent's log"),
            Self::Stopping => f.write_str("busy: the agent is stopping"),
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Ration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Change => "changes",
            Self::Read => "changes and reads",
            Self::Any => "the pool",
        })
    }
}

fn write_running(f: &mut fmt::Formatter<'_>, running: Option<&Running>) -> fmt::Result {
    match running {
        Some(Running { what, age }) => {
            write!(f, "; {what} is still running since {} ago", Span(*age))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn running() -> Option<Running> {
        Some(Running { what: "Run web-2".to_owned(), age: Duration::from_millis(61_400) })
    }

    #[test]
    fn busy_names_what_is_full_and_what_blocks_it() {
        let busy = |full, limit, running| Error::Busy { full, limit, running }.to_string();
        assert_eq!(
            busy(Full::Queue(Lane::Control), 64, running()),
            "busy: the control queue is full with 64 jobs; \
             Run web-2 is still running since 61 s ago"
        );
        assert_eq!(
            busy(Full::Callers(Ration::Change), 24, None),
            "busy: 24 callers wait for changes"
        );
        assert_eq!(busy(Full::Key("web-1".to_owned()), 8, None), "busy: 8 callers wait for web-1");
    }

    #[test]
    fn deadlines_say_whether_the_job_ran() {
        let what = "Run web-1".to_owned();
        let waited = Duration::from_millis(59_999);
        let late = Error::Late {
            what: what.clone(),
            waited,
            running_since: SystemTime::UNIX_EPOCH,
            age: Duration::from_millis(999),
        };
        assert_eq!(
            late.to_string(),
            "deadline: Run web-1 not done in 60 s, still running since 999 ms ago"
        );
        let overdue = Error::Overdue { running: running().unwrap() };
        assert_eq!(
            overdue.to_string(),
            "deadline: this never ran, Run web-2 is still running since 61 s ago"
        );
        let unrun = Error::Unrun { what, lane: Lane::Storage, waited, running: running() };
        assert_eq!(
            unrun.to_string(),
            "deadline: Run web-1 never ran, 60 s in the storage queue; \
             Run web-2 is still running since 61 s ago"
        );
        let held = Error::KeyHeld { key: "web-2".to_owned(), waited, running: running() };
        assert_eq!(
            held.to_string(),
            "deadline: web-2 had other work for 60 s, this never ran; \
             Run web-2 is still running since 61 s ago"
        );
    }
}
