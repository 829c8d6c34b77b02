//! Errors of the journal.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why the journal failed.
#[derive(Debug)]
pub enum Error {
    /// Another agent uses the directory for its journal.
    Locked {
        /// The directory.
        directory: PathBuf,
        /// The process of the other agent, if known.
        holder: Option<u32>,
    },
    /// The limit of unfinished intents is reached.
    Full {
        /// The limit.
        files: usize,
    },
    /// The limit of steps of an intent is reached.
    Steps {
        /// The limit.
        steps: usize,
    },
    /// An intent's file would exceed its size limit.
    Size {
        /// The limit.
        bytes: u64,
    },
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
            Self::Locked { directory, holder: Some(holder) } => {
                write!(f, "journal: {} is in use by process {holder}", directory.display())
            }
            Self::Locked { directory, holder: None } => {
                write!(f, "journal: {} is in use by another agent", directory.display())
            }
            Self::Full { files } => write!(f, "journal is full: {files} calls are unfinished"),
            Self::Steps { steps } => write!(f, "journal: the call has more than {steps} steps"),
            Self::Size { bytes } => write!(f, "journal: the call needs more than {bytes} bytes"),
            Self::Io { verb, path, error } => {
                write!(f, "journal: cannot {verb} {}: ", path.display())?;
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
