//! Why there is no such job, or none more, in facts.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::State;
use crate::pool::NoPlace;

/// Why something cannot be had of jobs.
#[derive(Debug)]
pub enum Error {
    /// There is none of this id, or none any more.
    Unknown {
        /// As it was asked for.
        id: String,
    },
    /// It is begun, or has ended, and cannot be cancelled.
    Begun {
        /// The job.
        id: String,
        /// How far it is.
        state: State,
    },
    /// So many wait already.
    Full(NoPlace),
    /// So many of one guest wait already.
    GuestFull {
        /// The guest's id.
        guest: String,
        /// How many.
        limit: usize,
    },
    /// It asks for more than is kept.
    Size {
        /// The bound, in bytes.
        bytes: usize,
    },
    /// The agent ends.
    Closed,
    /// The system refused.
    Io {
        /// What was being done, as in `write`.
        verb: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { id } => write!(f, "no such job: {id:?}"),
            Self::Begun { id, state } => write!(f, "cannot cancel job {id}: it is {state}"),
            Self::Full(full) => write!(f, "busy: {} jobs{full} wait", full.limit),
            Self::GuestFull { guest, limit } => write!(f, "busy: {limit} jobs wait for {guest}"),
            Self::Size { bytes } => {
                write!(f, "invalid argument: the job's parameters exceed {bytes} bytes")
            }
            Self::Closed => f.write_str("busy: the agent is stopping"),
            Self::Io { verb, path, error } => {
                write!(f, "jobs: cannot {verb} {}: ", path.display())?;
                match error.kind() {
                    // As storage words it.
                    io::ErrorKind::StorageFull => f.write_str("no space left on device"),
                    _ => write!(f, "{error}"),
                }
            }
        }
    }
}

impl std::error::Error for Error {}
