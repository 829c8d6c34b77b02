//! Why a verb failed. The texts that callers see are made in `rpc`.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::journal::{Direction, Verb};
use crate::{guest, jobs, journal, libvirt, pool, storage};

/// Why a verb failed.
#[derive(Debug)]
pub enum Error {
    /// The request has no guest, or a guest without an id.
    NoGuest,
    /// The request's guest cannot be made.
    Unfit(guest::invalid::Invalid),
    /// The request asks for something else that cannot be; the sentence says what.
    Invalid(String),
    /// The image store refuses, in the words of the original (contract section 8).
    Refused(&'static str),
    /// This agent does not do that, in words for the caller.
    Unsupported(&'static str),
    /// An image was asked for, and did not come.
    NotFetched {
        /// Its id.
        id: String,
        /// Why.
        why: String,
    },
    /// So many images wait to be fetched already, and no more may.
    Fetches(pool::NoPlace),
    /// A domain uses what was to be changed under it.
    InUse {
        /// The dataset.
        dataset: String,
        /// The domain's name.
        user: String,
        /// What of the domain stands against it, as in `is running`.
        why: &'static str,
    },
    /// The guest has saved memory, which has to fit its disks and devices.
    Saved {
        /// The guest's id.
        id: String,
    },
    /// The guest's system has panicked, and libvirt preserves it (`<on_crash>preserve</on_crash>`).
    Panicked {
        /// The guest's id.
        id: String,
    },
    /// The guest's agent is not asked now, for this reason.
    AgentLeftAlone(LeftAlone),
    /// A guest that was asked to shut down did not within the time of the call.
    StillRuns {
        /// The guest's id.
        id: String,
        /// How long it had.
        waited: Duration,
        /// Why the call waits no longer, or why the guest could not be asked or forced; empty where it just runs.
        reason: String,
    },
    /// libvirt neither answers nor refuses.
    Silent {
        /// Since when, as an age.
        age: Duration,
    },
    /// There is no sample of the guests to answer from; why none could be taken.
    NoSample(String),
    /// So many calls wait for events already, and no more may.
    Listeners(pool::NoPlace),
    /// libvirt refused.
    Libvirt(libvirt::Error),
    /// Storage refused.
    Storage(storage::Error),
    /// Everything else of the guest is gone, but for these volumes; each with what keeps it.
    VolumesLeft(Vec<String>),
    /// What a former verb on the guest left open cannot be settled, and nothing else is done before.
    Open {
        /// That verb.
        verb: Verb,
        /// Why not.
        cause: Box<Error>,
    },
    /// What could not be taken back of a verb.
    Left(Vec<String>),
    /// A Delete has begun, and is finished later; why not now.
    Incomplete(Box<Error>),
    /// A job that is not there, or cannot be had.
    Jobs(jobs::Error),
    /// The journal cannot be written, and without it nothing is begun.
    Journal(journal::Error),
    /// The key of the fingerprints of seeds, or the files of one, can neither be read nor be made.
    Seed(io::Error),
    /// The pool did not run the job, or not in time.
    Pool(pool::Error),
    /// Another guest has this id.
    Exists {
        /// The id.
        id: String,
        /// The uuid of the domain that has it.
        uuid: String,
    },
    /// The guest has no such device, in a sentence.
    NoDevice(String),
    /// The guest has another device in that place, in a sentence.
    Taken(String),
    /// A guest does not start whose disks are not there.
    DisksMissing {
        /// These, each as "vda /dev/zvol/mistify/guests/web-1/disk-0".
        disks: Vec<String>,
        /// What was said of the start.
        cause: Box<Error>,
    },
    /// A guest does not start because its host lacks a bridge.
    BridgeMissing {
        /// The guest's id.
        guest: String,
        /// MAC address of the NIC.
        mac: String,
        /// The bridge that it names.
        bridge: String,
        /// What was said of the start.
        cause: Box<Error>,
    },
    /// A step of a longer verb failed, and what came before it was taken back.
    Step {
        /// What was being done, as in "define domain web-1".
        step: String,
        /// Why it failed.
        cause: Box<Error>,
        /// What could not be taken back; empty where everything was.
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
    /// Whether a lost connection is the cause, so that the call may do better on a new one.
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

    /// Whether the caller is told of it while what it asked for still runs.
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

    /// Whether libvirt could not be asked, or not to the end: it may answer another time.
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

    /// Whether libvirt or storage could not be asked, or did not answer in time: nothing was refused.
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

    /// What of a verb could not be taken back, by this error of settling it.
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

/// Why a guest's agent is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftAlone {
    /// It was slow or silent a moment ago: for how long it is left alone still.
    Silent(Duration),
    /// It is asked something else: by this method, or for this.
    Busy(&'static str),
    /// It has frozen its file systems, and does nothing else before it has thawed them.
    Frozen,
    /// As many other guests are frozen as may be.
    Full,
}

impl fmt::Display for LeftAlone {
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
