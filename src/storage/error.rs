//! Errors of storage calls, as data; `Display` is the wire text.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::name::{Dataset, InvalidName};
use crate::os::resolve::ResolveError;

/// The reason why a storage call failed.
#[derive(Debug)]
pub enum Error {
    /// A name is invalid.
    Name(InvalidName),
    /// The request is invalid; the sentence says why.
    Invalid(String),
    /// No such image, volume or snapshot exists; the wire text gives no details (contract 8).
    NotFound {
        /// The full name.
        name: String,
    },
    /// The image, volume or snapshot already exists.
    Exists {
        /// The full name.
        name: String,
    },
    /// A volume of that name exists and differs from the requested one.
    Differs {
        /// The volume.
        volume: Dataset,
        /// Each difference, as in `size is 64 MiB, not 128 MiB`.
        what: Vec<String>,
    },
    /// The disks do not fit, reservations of other volumes included.
    NoSpace {
        /// Required bytes.
        needed_bytes: u64,
        /// Free bytes.
        free_bytes: u64,
    },
    /// The volume, snapshot or image was in use until the deadline.
    Busy {
        /// The full name.
        name: String,
        /// The users, if known, as in `qemu-system-x86 (4711)` or `a hold`.
        holders: Vec<String>,
    },
    /// The snapshot or image has clones, which would lose their origin.
    HasClones {
        /// The full name.
        name: String,
        /// The clones' full names.
        clones: Vec<String>,
    },
    /// Volumes that should be destroyed and still exist.
    Left(Vec<LeftoverVolume>),
    /// Snapshots are newer than the target of the rollback.
    HasNewer {
        /// The target of the rollback.
        name: String,
    },
    /// The device of a volume did not appear.
    NoDevice {
        /// The expected path.
        path: PathBuf,
        /// The time spent waiting.
        waited: Duration,
    },
    /// The host is configured without a store.
    NoStore,
    /// The `zfs` command is not installed on this host.
    NotInstalled,
    /// The configured pool does not exist.
    PoolMissing {
        /// The pool.
        pool: String,
    },
    /// Too many `zfs` commands hang despite SIGKILL: no further command is started.
    Hung {
        /// The number of hung commands.
        commands: usize,
    },
    /// A `zfs` command of a killed agent still runs: its result cannot be undone yet.
    Former,
    /// A command did not end by its deadline and was killed, or a copy or wait of the directory store took too long.
    Late {
        /// The command and its object, as in `zfs list tank`.
        command: String,
        /// Its run time.
        waited: Duration,
    },
    /// A command ended with an error.
    Failed {
        /// The command and its object, as in `zfs list tank`.
        command: String,
        /// As in `exit status: 1` or `signal: 9 (SIGKILL)`.
        status: String,
        /// The first lines of its standard error.
        stderr: String,
    },
    /// The output of a command cannot be parsed.
    Garbled {
        /// The command and its object, as in `zfs list tank`.
        command: String,
        /// The line, shortened.
        line: String,
    },
    /// Users other than root and the agent's user may redirect a path of the directory store, or a link already does.
    Untrusted {
        /// The rejected path.
        path: PathBuf,
        /// The obstacle in the path.
        why: ResolveError,
    },
    /// The system returned an error.
    Io {
        /// The action, as in `open /srv/images/a`.
        what: String,
        /// The error of the system.
        error: io::Error,
    },
    /// A call failed, and its changes could not be undone.
    NotUndone {
        /// The original failure.
        cause: Box<Error>,
        /// The remaining volumes, each with the reason.
        left: String,
    },
}

impl Error {
    /// Returns whether the store was unavailable, so that a retry may succeed.
    pub fn cannot_ask(&self) -> bool {
        match self {
            Self::NotInstalled
            | Self::PoolMissing { .. }
            | Self::Hung { .. }
            | Self::Former
            | Self::Late { .. } => true,
            Self::NotUndone { cause, .. } => cause.cannot_ask(),
            _ => false,
        }
    }

    /// Returns an error of the system, with the action.
    pub(super) fn io(what: impl Into<String>, error: io::Error) -> Self {
        Self::Io { what: what.into(), error }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(bad) => write!(f, "{bad}"),
            Self::Invalid(why) => write!(f, "invalid argument: {why}"),
            Self::NotFound { .. } => f.write_str("not found"),
            Self::Exists { name } => write!(f, "cannot create {name}: it already exists"),
            Self::Differs { volume, what } => {
                write!(f, "cannot create {volume}: it exists and differs: {}", what.join(", "))
            }
            Self::NoSpace { .. } => f.write_str("no space left on device"),
            Self::Busy { name, holders } if holders.is_empty() => {
                write!(f, "cannot change {name}: it is in use")
            }
            Self::Busy { name, holders } => {
                write!(f, "cannot change {name}: it is in use by {}", holders.join(", "))
            }
            Self::HasClones { name, clones } => {
                write!(f, "cannot destroy {name}: it has clones: {}", clones.join(", "))
            }
            Self::Left(left) => {
                let left: Vec<String> = left.iter().map(ToString::to_string).collect();
                write!(f, "cannot destroy datasets: {}", left.join("; "))
            }
            Self::HasNewer { name } => {
                write!(f, "cannot roll back to {name}: more recent snapshots exist")
            }
            Self::NoDevice { path, waited } => {
                write!(f, "no block device {} after {} ms", path.display(), waited.as_millis())
            }
            Self::NoStore => f.write_str("cannot use storage: --zpool is empty"),
            Self::NotInstalled => f.write_str("zfs is not installed"),
            Self::PoolMissing { pool } if pool.contains('/') => {
                write!(f, "dataset {pool} does not exist")
            }
            Self::PoolMissing { pool } => write!(f, "pool {pool} does not exist"),
            Self::Hung { commands } => {
                write!(f, "cannot run zfs: {commands} commands hang and cannot be killed")
            }
            Self::Former => {
                f.write_str("cannot undo volumes: a zfs command of the former agent still runs")
            }
            Self::Late { command, waited } => {
                write!(f, "deadline: {command} ran for {} ms", waited.as_millis())
            }
            Self::Failed { command, status, stderr } if stderr.is_empty() => {
                write!(f, "{command} failed: {status}")
            }
            Self::Failed { command, stderr, .. } => write!(f, "{command} failed: {stderr}"),
            Self::Garbled { command, line } => {
                write!(f, "cannot parse the output of {command}: {line:?}")
            }
            Self::Untrusted { path, why } => {
                write!(f, "cannot use {}: {why}", path.display())?;
                if matches!(why, ResolveError::Exposed { .. }) {
                    f.write_str("; only root and the agent's user may own it and write to it")?;
                }
                Ok(())
            }
            Self::Io { what, error } => write!(f, "cannot {what}: {error}"),
            Self::NotUndone { cause, left } => write!(f, "{cause}; left behind: {left}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<InvalidName> for Error {
    fn from(bad: InvalidName) -> Self {
        Self::Name(bad)
    }
}

/// A volume that a removal left. `Display` names it and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftoverVolume {
    /// The full name.
    pub name: String,
    /// The reason.
    pub why: RetentionCause,
}

impl LeftoverVolume {
    /// Returns whether the agent makes no further attempt, because another user must destroy the volume.
    pub fn is_others(&self) -> bool {
        matches!(self.why, RetentionCause::Used(_) | RetentionCause::Overlay)
    }
}

/// The reason why a volume was not destroyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetentionCause {
    /// Clones of the volume exist elsewhere; with their full names.
    Clones(Vec<String>),
    /// This snapshot of the volume is held; with its full name.
    Held(String),
    /// These processes have the volume open; empty if unknown.
    Open(Vec<String>),
    /// This user has the volume, as in `domain web-1`.
    Used(String),
    /// This user may have the volume, because its definition cannot be read.
    MayBeUsed(String),
    /// Another tool created the volume on top of the guest's disk, and it contains the guest's later writes.
    Overlay,
    /// The removal failed with this error.
    Failed(String),
}

impl fmt::Display for LeftoverVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.why {
            RetentionCause::Clones(clones) => write!(f, "{name} has clones: {}", clones.join(", ")),
            RetentionCause::Held(snapshot) => write!(f, "{name}: {snapshot} is held"),
            RetentionCause::Open(who) if who.is_empty() => write!(f, "{name} is in use"),
            RetentionCause::Open(who) => write!(f, "{name} is in use by {}", who.join(", ")),
            RetentionCause::Used(by) => write!(f, "{name} is used by {by}"),
            RetentionCause::MayBeUsed(by) => write!(f, "{name} may be used by {by}"),
            RetentionCause::Overlay => {
                write!(f, "{name} has data of the guest, and the agent did not create it")
            }
            RetentionCause::Failed(why) => write!(f, "{name}: {why}"),
        }
    }
}
