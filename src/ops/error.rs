//! Errors of the methods. `rpc` makes the texts that callers see.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::journal::{Direction, Verb};
use crate::{guest, jobs, journal, libvirt, pool, storage};

/// Why a method failed.
#[derive(Debug)]
pub enum Error {
    /// The request has no guest, or a guest without an id.
    NoGuest,
    /// The request's guest is invalid.
    Unfit(guest::invalid::Invalid),
    /// Another part of the request is invalid; the sentence says which.
    Invalid(String),
    /// The image store refuses, with the text of the original (contract section 8).
    Refused(&'static str),
    /// This agent does not support the request; a text for the caller.
    Unsupported(&'static str),
    /// The agent could not fetch an image.
    NotFetched {
        /// The id of the image.
        id: String,
        /// The reason.
        why: String,
    },
    /// The queue of images to fetch is full.
    Fetches(pool::QuotaExceeded),
    /// A domain uses the dataset that the request changes.
    InUse {
        /// The dataset.
        dataset: String,
        /// The domain's name.
        user: String,
        /// Why the domain prevents the change, as in `is running`.
        why: &'static str,
    },
    /// The guest has saved memory, which its disks and devices must match.
    Saved {
        /// The guest's id.
        id: String,
    },
    /// The guest's system has panicked, and libvirt preserves it (`<on_crash>preserve</on_crash>`).
    Panicked {
        /// The guest's id.
        id: String,
    },
    /// The agent does not ask the guest agent now, for this reason.
    AgentLeftAlone(AgentUnavailable),
    /// A guest did not shut down within the time of the call.
    StillRuns {
        /// The guest's id.
        id: String,
        /// How long the call waited.
        waited: Duration,
        /// Why the call stopped waiting, or why the guest could not be asked or forced off; empty if it just runs.
        reason: String,
    },
    /// libvirt neither answers nor refuses.
    Silent {
        /// How long libvirt has not answered.
        age: Duration,
    },
    /// No sample of the guests exists, because of this failure.
    NoSample(String),
    /// The limit of calls that wait for events is reached.
    Listeners(pool::QuotaExceeded),
    /// libvirt returned an error.
    Libvirt(libvirt::Error),
    /// Storage returned an error.
    Storage(storage::Error),
    /// Delete removed everything but these volumes; each with the reason.
    VolumesLeft(Vec<String>),
    /// An unfinished change of the guest cannot be recovered; nothing else starts before.
    Open {
        /// The method of the unfinished change.
        verb: Verb,
        /// Why the recovery failed.
        cause: Box<Error>,
    },
    /// The steps of a change that could not be undone.
    Left(Vec<String>),
    /// A Delete has started, and the agent completes it later; why it could not now.
    Incomplete(Box<Error>),
    /// The job does not exist, or is unavailable.
    Jobs(jobs::Error),
    /// The journal cannot be written; without it no change starts.
    Journal(journal::Error),
    /// The key of the fingerprints of seeds, or the files of a seed, can neither be read nor made.
    Seed(io::Error),
    /// The pool did not run the job, or not before its deadline.
    Pool(pool::Error),
    /// Another guest has this id.
    Exists {
        /// The id.
        id: String,
        /// The uuid of the domain that has it.
        uuid: String,
    },
    /// The guest has no such device; a sentence.
    NoDevice(String),
    /// The target or the volume is already in use; a sentence.
    Taken(String),
    /// A guest does not start because disks are missing.
    DisksMissing {
        /// The disks, each as "vda /dev/zvol/mistify/guests/web-1/disk-0".
        disks: Vec<String>,
        /// The error of the start.
        cause: Box<Error>,
    },
    /// A guest does not start because its host lacks a bridge.
    BridgeMissing {
        /// The guest's id.
        guest: String,
        /// MAC address of the NIC.
        mac: String,
        /// The bridge that the NIC names.
        bridge: String,
        /// The error of the start.
        cause: Box<Error>,
    },
    /// A step of a change failed, and the steps before it were undone.
    Step {
        /// The action of the step, as in "define domain web-1".
        step: String,
        /// Why it failed.
        cause: Box<Error>,
        /// The parts that could not be undone; empty if there are none.
        left: Vec<String>,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoGuest => f.write_str("invalid argument"),
            Self::Unfit(why) => write!(f, "{why}"),
            Self::Invalid(why) => write!(f, "invalid argument: {why}"),
            Self::Refused(why) | Self::Unsupported(why) => f.write_str(why),
            Self::NotFetched { id, why } => write!(f, "cannot fetch image {id}: {why}"),
            Self::Fetches(full) => {
                write!(f, "busy: {} images{full} wait to be fetched", full.limit)
            }
            Self::InUse { dataset, user, why } => {
                write!(f, "cannot change {dataset}: guest {user} {why}")
            }
            Self::Saved { id } => write!(
                f,
                "cannot change guest {id}: its saved memory would no longer fit; call Run and \
                 Poweroff, or DiscardSaved"
            ),
            Self::Panicked { id } => {
                write!(f, "cannot run guest {id}: it has panicked; call Reset or Poweroff first")
            }
            Self::AgentLeftAlone(why) => write!(f, "{why}"),
            Self::StillRuns { id, waited, reason } => {
                let waited = pool::Span(*waited);
                write!(
                    f,
                    "deadline: guest {id} still runs {waited} after it was asked to shut down"
                )?;
                match reason.is_empty() {
                    true => Ok(()),
                    false => write!(f, ": {reason}"),
                }
            }
            Self::Silent { age } => {
                write!(f, "libvirt has not answered for {}; still waiting", pool::Span(*age))
            }
            Self::NoSample(why) => write!(f, "cannot read the guests' metrics: {why}"),
            Self::Listeners(full) => {
                write!(f, "busy: {} callers{full} wait for events", full.limit)
            }
            Self::Libvirt(error) => write!(f, "{error}"),
            Self::Storage(error) => write!(f, "{error}"),
            Self::VolumesLeft(left) => write!(f, "cannot destroy volumes: {}", left.join("; ")),
            Self::Open { verb, cause } => match verb.direction() {
                Direction::Back => write!(f, "cannot undo an earlier {verb}: {cause}"),
                Direction::Forward => write!(f, "cannot complete an earlier {verb}: {cause}"),
            },
            Self::Left(left) => write!(f, "cannot remove leftovers: {}", left.join(", ")),
            Self::Incomplete(cause) => {
                write!(f, "deleted the domain; the rest is not deleted yet: {cause}")
            }
            Self::Jobs(error) => write!(f, "{error}"),
            Self::Journal(error) => write!(f, "{error}"),
            Self::Seed(error) => write!(f, "{error}"),
            Self::Pool(error) => write!(f, "{error}"),
            Self::NoDevice(why) | Self::Taken(why) => f.write_str(why),
            Self::Exists { id, uuid } => write!(f, "domain '{id}' already exists with uuid {uuid}"),
            Self::DisksMissing { disks, cause } => {
                write!(f, "{cause} (missing: {})", disks.join(", "))
            }
            Self::BridgeMissing { guest, mac, bridge, .. } => write!(
                f,
                "cannot start guest {guest}: bridge {bridge} of its NIC {mac} does not exist; create the bridge"
            ),
            Self::Step { step, cause, left } if left.is_empty() => {
                write!(f, "cannot {step}: {cause}")
            }
            Self::Step { step, cause, left } => {
                write!(f, "cannot {step}: {cause}; left behind: {}", left.join(", "))
            }
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// Returns whether a lost connection is the cause. The call may then succeed on a new connection.
    pub fn connection_lost(&self) -> bool {
        match self {
            Self::Libvirt(error) => error.connection_lost(),
            Self::Open { cause, .. }
            | Self::Step { cause, .. }
            | Self::DisksMissing { cause, .. }
            | Self::BridgeMissing { cause, .. } => cause.connection_lost(),
            _ => false,
        }
    }

    /// Returns whether the caller gets this error while its request still runs.
    pub fn is_late(&self) -> bool {
        match self {
            Self::Pool(pool::Error::Late { .. }) | Self::StillRuns { .. } => true,
            Self::Open { cause, .. }
            | Self::Step { cause, .. }
            | Self::DisksMissing { cause, .. }
            | Self::BridgeMissing { cause, .. } => cause.is_late(),
            _ => false,
        }
    }

    /// Returns whether libvirt could not be reached, or the connection broke. A later call may succeed.
    pub(super) fn is_unreachable(&self) -> bool {
        match self {
            Self::Silent { .. } => true,
            Self::Open { cause, .. }
            | Self::Step { cause, .. }
            | Self::DisksMissing { cause, .. }
            | Self::BridgeMissing { cause, .. } => cause.is_unreachable(),
            other => other.connection_lost(),
        }
    }

    /// Returns whether libvirt or storage could not be reached, or did not answer in time. They refused nothing.
    pub(super) fn cannot_ask(&self) -> bool {
        match self {
            Self::Open { cause, .. }
            | Self::Step { cause, .. }
            | Self::DisksMissing { cause, .. }
            | Self::BridgeMissing { cause, .. } => cause.cannot_ask(),
            Self::Pool(error) => !matches!(error, pool::Error::Panicked { .. }),
            Self::Storage(error) => error.cannot_ask(),
            Self::Journal(_) | Self::Incomplete(_) => true,
            other => other.is_unreachable(),
        }
    }

    /// Returns the parts of a change that could not be undone, from the error of its recovery.
    pub(super) fn left(self) -> Vec<String> {
        match self {
            Self::Left(left) => left,
            Self::Open { cause, .. } => cause.left(),
            other => vec![other.to_string()],
        }
    }
}

impl From<libvirt::Error> for Error {
    fn from(error: libvirt::Error) -> Self {
        Self::Libvirt(error)
    }
}

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Self {
        Self::Storage(error)
    }
}

impl From<journal::Error> for Error {
    fn from(error: journal::Error) -> Self {
        Self::Journal(error)
    }
}

impl From<jobs::Error> for Error {
    fn from(error: jobs::Error) -> Self {
        Self::Jobs(error)
    }
}

impl From<pool::Error> for Error {
    fn from(error: pool::Error) -> Self {
        Self::Pool(error)
    }
}

impl From<guest::invalid::Invalid> for Error {
    fn from(invalid: guest::invalid::Invalid) -> Self {
        Self::Unfit(invalid)
    }
}

/// Why the agent does not ask a guest agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentUnavailable {
    /// It was slow or silent a moment ago; the remaining pause.
    Silent(Duration),
    /// It is busy with this method or purpose.
    Busy(&'static str),
    /// It has frozen its file systems, and accepts nothing else before it thaws them.
    Frozen,
    /// The limit of frozen guests is reached.
    Full,
}

impl fmt::Display for AgentUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(pause) => {
                let rest = pause.as_secs().max(1);
                write!(f, "the guest agent did not answer in time; it is asked again in {rest} s")
            }
            Self::Frozen => f.write_str("the guest's file systems are frozen"),
            Self::Full => f.write_str("too many other guests are frozen"),
            Self::Busy(what) => write!(f, "the guest agent is busy with {what}"),
        }
    }
}
