//! Errors of jobs.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::JobState;
use crate::pool::QuotaExceeded;

/// Why a request about jobs failed.
#[derive(Debug)]
pub enum Error {
    /// No job has this id, or it is no longer kept.
    Unknown {
        /// The id in the request.
        id: String,
    },
    /// The job has started or ended, and cannot be cancelled.
    Started {
        /// The job.
        id: String,
        /// Its state.
        state: JobState,
    },
    /// The limit of waiting jobs is reached.
    Full(QuotaExceeded),
    /// The limit of waiting jobs of one guest is reached.
    GuestFull {
        /// The guest's id.
        guest: String,
        /// The limit.
        limit: usize,
    },
    /// The request exceeds the size limit.
    Size {
        /// The limit, in bytes.
        bytes: usize,
    },
    /// The agent is stopping.
    Closed,
    /// The system returned an error.
    Io {
        /// The action, as in `write`.
        verb: &'static str,
        /// The path of the action.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { id } => write!(f, "no such job: {id:?}"),
            Self::Started { id, state } => write!(f, "cannot cancel job {id}: it is {state}"),
            Self::Full(full) => write!(f, "busy: {} jobs{full} wait", full.limit),
            Self::GuestFull { guest, limit } => write!(f, "busy: {limit} jobs wait for {guest}"),
            Self::Size { bytes } => {
                write!(f, "invalid argument: the job's parameters exceed {bytes} bytes")
            }
            Self::Closed => f.write_str("busy: the agent is stopping"),
            Self::Io { verb, path, error } => {
                write!(f, "jobs: cannot {verb} {}: ", path.display())?;
                match error.kind() {
                    // The same text as in storage.
                    io::ErrorKind::StorageFull => f.write_str("no space left on device"),
                    _ => write!(f, "{error}"),
                }
            }
        }
    }
}

impl std::error::Error for Error {}
