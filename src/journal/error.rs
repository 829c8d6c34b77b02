//! Why the journal cannot be kept, in facts.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why the journal cannot be kept.
#[derive(Debug)]
pub enum Error {
    /// Another agent keeps its journal there.
    Locked {
        /// The folder.
        folder: PathBuf,
        /// The other agent's process, where that is known.
        holder: Option<u32>,
    },
    /// As many intents as there may be are not settled.
    Full {
        /// How many.
        files: usize,
    },
    /// An intent has as many steps as it may have.
    Steps {
        /// How many.
        steps: usize,
    },
    /// An intent's file would grow beyond its bound.
    Size {
        /// The bound.
        bytes: u64,
    },
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
            Self::Locked { folder, holder: Some(holder) } => {
                write!(f, "journal: {} is in use by process {holder}", folder.display())
            }
            Self::Locked { folder, holder: None } => {
                write!(f, "journal: {} is in use by another agent", folder.display())
            }
            Self::Full { files } => write!(f, "journal is full: {files} calls are unfinished"),
            Self::Steps { steps } => write!(f, "journal: the call has more than {steps} steps"),
            Self::Size { bytes } => write!(f, "journal: the call needs more than {bytes} bytes"),
            Self::Io { verb, path, error } => {
                write!(f, "journal: cannot {verb} {}: ", path.display())?;
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
