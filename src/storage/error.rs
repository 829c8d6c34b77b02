//! Why a storage call failed, in facts; `Display` is the wire text.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::name::{Dataset, InvalidName};
use crate::os::resolve::ResolveError;

/// Why a storage call failed.
#[derive(Debug)]
pub enum Error {
    /// A name is none.
    Name(InvalidName),
    /// The request cannot be carried out; the sentence gives the reason.
    Invalid(String),
    /// There is no such image, volume or snapshot; the wire text has nothing else (contract 8).
    NotFound {
        /// Its full name.
        name: String,
    },
    /// It is there already.
    Exists {
        /// Its full name.
        name: String,
    },
    /// A volume of that name is there and is not the one that is wanted.
    Differs {
        /// The volume.
        volume: Dataset,
        /// Each difference, as in `size is 64 MiB, not 128 MiB`.
        what: Vec<String>,
    },
    /// The disks do not fit, what is reserved for others counted in.
    NoSpace {
        /// Bytes that are needed.
        needed_bytes: u64,
        /// Bytes that are free.
        free_bytes: u64,
    },
    /// Somebody has it open, and had so up to the deadline.
    Busy {
        /// Its full name.
        name: String,
        /// Who, where that is known, as in `qemu-system-x86 (4711)`.
        holders: Vec<String>,
    },
    /// It has clones, which would lose their origin.
    HasClones {
        /// Its full name.
        name: String,
        /// The clones' full names.
        clones: Vec<String>,
    },
    /// What was to be destroyed and is still there.
    Left(Vec<LeftoverVolume>),
    /// Snapshots that are newer than the one to roll back to.
    HasNewer {
        /// The snapshot to roll back to.
        name: String,
    },
    /// The device did not appear.
    NoDevice {
        /// Where it should be.
        path: PathBuf,
        /// For how long it was waited for.
        waited: Duration,
    },
    /// The host was configured to have no store.
    NoStore,
    /// The `zfs` command is not on this host.
    NotInstalled,
    /// The configured pool is not there.
    PoolMissing {
        /// The pool.
        pool: String,
    },
    /// Too many `zfs` commands hang, not even ended by SIGKILL: no further one is tried.
    Hung {
        /// How many.
        commands: usize,
    },
    /// A `zfs` command of an agent that was killed still runs: what it makes cannot be taken back yet.
    Former,
    /// A command did not end by its deadline and was killed.
    Late {
        /// What was run and on what, as in `zfs list tank`.
        command: String,
        /// How long it ran.
        waited: Duration,
    },
    /// A command ended with an error.
    Failed {
        /// What was run and on what, as in `zfs list tank`.
        command: String,
        /// As in `exit status: 1` or `signal: 9 (SIGKILL)`.
        status: String,
        /// The first lines of its standard error.
        stderr: String,
    },
    /// A command printed what cannot be understood.
    Garbled {
        /// What was run and on what, as in `zfs list tank`.
        command: String,
        /// The line, shortened.
        line: String,
    },
    /// Others than root and the agent's user may lead a path of the directory store elsewhere, or have done so
    /// by a link.
    Untrusted {
        /// The path that is not used.
        path: PathBuf,
        /// What lies on its way.
        why: ResolveError,
    },
    /// The system refused.
    Io {
        /// What was being done, as in `open /srv/images/a`.
        what: String,
        /// What the system said.
        error: io::Error,
    },
    /// What was made before a failure could not be taken back.
    NotUndone {
        /// Why it failed.
        cause: Box<Error>,
        /// Full name of what is left.
        left: String,
    },
}

impl Error {
    /// Whether the store did not answer, so that it may do so another time.
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

    /// An error of the system, with what was being done.
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

/// Something that a removal left. `Display` names it and what keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftoverVolume {
    /// Its full name.
    pub name: String,
    /// What keeps it.
    pub why: RetentionCause,
}

impl LeftoverVolume {
    /// Whether the agent does not try again to destroy it: it is somebody else's to destroy.
    pub fn is_others(&self) -> bool {
        matches!(self.why, RetentionCause::Used(_) | RetentionCause::Overlay)
    }
}

/// What keeps a volume from being destroyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetentionCause {
    /// Volumes elsewhere are clones of the dataset, by full name.
    Clones(Vec<String>),
    /// A hold keeps this snapshot of the dataset, by full name.
    Held(String),
    /// These processes have it open; unknown ones where it is empty.
    Open(Vec<String>),
    /// This one uses it, as in `domain web-1`.
    Used(String),
    /// This one may use it, as nobody knows what it uses.
    MayBeUsed(String),
    /// Another tool made it on top of the guest's disk, and it has what the guest wrote since.
    Overlay,
    /// The command failed, and said this.
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
