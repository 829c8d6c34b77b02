//! The kinds of errors with their codes: one table, which `docs/api.md` shows and `rpc.discover`
//! lists.

use std::io;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::libvirt::{self, Code};
use crate::ops::Error;
use crate::rpc::envelope::Id;
use crate::rpc::target::Target;
use crate::rpc::{json, texts};
use crate::{jobs, journal, pool, storage};

/// The kind of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::rpc) enum Kind {
    Parse,
    Request,
    Method,
    Params,
    Internal,
    Failed,
    NotFound,
    Exists,
    State,
    InUse,
    Busy,
    Deadline,
    Late,
    NoSpace,
    Unavailable,
    Denied,
    Unsupported,
    Left,
    TooLarge,
}

/// A row of the table.
pub(super) struct Row {
    pub(super) kind: Kind,
    pub(super) code: i32,
    /// The specification's message, or the agent's own.
    pub(super) name: &'static str,
    /// Whether the same call may succeed later without any other action.
    pub(super) retryable: bool,
    pub(super) meaning: &'static str,
}

const fn row(
    kind: Kind,
    code: i32,
    name: &'static str,
    retryable: bool,
    meaning: &'static str,
) -> Row {
    Row { kind, code, name, retryable, meaning }
}

/// All kinds. A code that was published never changes: programs depend on it.
pub(super) static TABLE: [Row; 19] = [
    row(Kind::Parse, -32700, "Parse error", false, "the body is not valid JSON"),
    row(
        Kind::Request,
        -32600,
        "Invalid Request",
        false,
        "the JSON is neither a request nor a batch of requests",
    ),
    row(Kind::Method, -32601, "Method not found", false, "the method does not exist on this port"),
    row(
        Kind::Params,
        -32602,
        "Invalid params",
        false,
        "a parameter is missing, unknown or has an invalid value",
    ),
    row(
        Kind::Internal,
        -32603,
        "Internal error",
        false,
        "the agent has a defect; its log has the details",
    ),
    row(
        Kind::Failed,
        -32000,
        "failed",
        false,
        "libvirt, the store or the system returned another error; the message is its own",
    ),
    row(
        Kind::NotFound,
        -32001,
        "not found",
        false,
        "the guest, network, disk, image, volume, snapshot or job does not exist",
    ),
    row(Kind::Exists, -32002, "exists", false, "another object has this name"),
    row(
        Kind::State,
        -32003,
        "wrong state",
        false,
        "the state of the guest or job does not allow the call",
    ),
    row(
        Kind::InUse,
        -32004,
        "in use",
        false,
        "a guest, a process, a clone or a newer snapshot uses the object",
    ),
    row(
        Kind::Busy,
        -32005,
        "busy",
        true,
        "the call was not started: too many calls wait, or the agent is stopping",
    ),
    row(
        Kind::Deadline,
        -32006,
        "deadline",
        true,
        "the deadline passed before the call started, or the agent cancelled and undid the call",
    ),
    row(Kind::Late, -32007, "late", true, "the deadline passed, and the call is still running"),
    row(Kind::NoSpace, -32008, "no space", false, "the store or the disk has no space left"),
    row(
        Kind::Unavailable,
        -32009,
        "unavailable",
        true,
        "libvirt, the store or the guest agent cannot be reached or does not answer",
    ),
    row(Kind::Denied, -32010, "denied", false, "libvirt or the system denies the agent access"),
    row(
        Kind::Unsupported,
        -32011,
        "unsupported",
        false,
        "libvirt's driver or this agent does not support the call",
    ),
    row(
        Kind::Left,
        -32012,
        "left behind",
        true,
        "some objects could not be removed; the message names them",
    ),
    row(
        Kind::TooLarge,
        -32013,
        "too large",
        false,
        "the call was carried out, but its answer is too large and omitted",
    ),
];

impl Kind {
    pub(super) fn row(self) -> &'static Row {
        TABLE.iter().find(|row| row.kind == self).expect("the table has all, as a test says")
    }

    /// Returns whether every method may fail with this kind; `methods.json` lists the other kinds
    /// by method.
    pub(super) fn is_common(self) -> bool {
        let of_some = [
            Self::NotFound,
            Self::Exists,
            Self::State,
            Self::InUse,
            Self::NoSpace,
            Self::Unsupported,
        ];
        !of_some.contains(&self)
    }

    fn of(error: &Error) -> Self {
        match error {
            Error::NoGuest | Error::Unfit(_) | Error::Invalid(_) | Error::Refused(_) => {
                Self::Params
            }
            Error::Unsupported(_) => Self::Unsupported,
            Error::InUse { .. } | Error::Saved { .. } => Self::InUse,
            Error::Panicked { .. } => Self::State,
            Error::AgentLeftAlone(_) | Error::Silent { .. } | Error::NoSample(_) => {
                Self::Unavailable
            }
            Error::StillRuns { .. } => Self::Late,
            Error::Listeners(_) | Error::Fetches(_) => Self::Busy,
            Error::NotFetched { .. } => Self::Failed,
            Error::Libvirt(error) => Self::of_libvirt(error),
            Error::Storage(error) => Self::of_storage(error),
            Error::VolumesLeft(_) | Error::Left(_) | Error::Incomplete(_) => Self::Left,
            Error::Jobs(error) => Self::of_jobs(error),
            Error::Journal(error) => Self::of_journal(error),
            Error::Seed(error) => Self::of_io(error),
            Error::Pool(error) => Self::of_pool(error),
            Error::Exists { .. } | Error::Taken(_) => Self::Exists,
            Error::DisksMissing { .. } | Error::BridgeMissing { .. } | Error::NoDevice(_) => {
                Self::NotFound
            }
            Error::Open { cause, .. } | Error::Step { cause, .. } => Self::of(cause),
        }
    }

    fn of_libvirt(error: &libvirt::Error) -> Self {
        match error.code {
            _ if error.connection_lost() => Self::Unavailable,
            Code::NO_CONNECT | Code::AGENT_UNRESPONSIVE => Self::Unavailable,
            Code::NO_DOMAIN | Code::NO_NETWORK | Code::NO_DOMAIN_METADATA => Self::NotFound,
            Code::DOM_EXIST | Code::NETWORK_EXIST => Self::Exists,
            Code::OPERATION_INVALID => Self::State,
            Code::RESOURCE_BUSY => Self::InUse,
            // libvirt timed out waiting for another call that changes the guest.
            Code::OPERATION_TIMEOUT => Self::Busy,
            Code::OPERATION_DENIED | Code::ACCESS_DENIED | Code::AUTH_FAILED => Self::Denied,
            Code::NO_SUPPORT
            | Code::OPERATION_UNSUPPORTED
            | Code::ARGUMENT_UNSUPPORTED
            | Code::CONFIG_UNSUPPORTED => Self::Unsupported,
            Code::INVALID_ARG | Code::XML_ERROR | Code::XML_DETAIL => Self::Params,
            _ => Self::Failed,
        }
    }

    fn of_storage(error: &storage::Error) -> Self {
        match error {
            storage::Error::Name(_) | storage::Error::Invalid(_) => Self::Params,
            storage::Error::NotFound { .. } => Self::NotFound,
            storage::Error::Exists { .. } | storage::Error::Differs { .. } => Self::Exists,
            storage::Error::NoSpace { .. } => Self::NoSpace,
            storage::Error::Busy { .. }
            | storage::Error::HasClones { .. }
            | storage::Error::HasNewer { .. } => Self::InUse,
            storage::Error::Left(_) | storage::Error::NotUndone { .. } => Self::Left,
            storage::Error::NoStore => Self::Unsupported,
            storage::Error::NotInstalled
            | storage::Error::PoolMissing { .. }
            | storage::Error::Hung { .. }
            | storage::Error::Former => Self::Unavailable,
            storage::Error::Late { .. } => Self::Deadline,
            storage::Error::Io { error, .. } => Self::of_io(error),
            storage::Error::Untrusted { .. }
            | storage::Error::NoDevice { .. }
            | storage::Error::Failed { .. }
            | storage::Error::Garbled { .. } => Self::Failed,
        }
    }

    fn of_journal(error: &journal::Error) -> Self {
        match error {
            journal::Error::Full { .. } => Self::Busy,
            journal::Error::Io { error, .. } => Self::of_io(error),
            journal::Error::Locked { .. }
            | journal::Error::Steps { .. }
            | journal::Error::Size { .. } => Self::Failed,
        }
    }

    fn of_jobs(error: &jobs::Error) -> Self {
        match error {
            jobs::Error::Unknown { .. } => Self::NotFound,
            jobs::Error::Started { .. } => Self::State,
            jobs::Error::Full { .. } | jobs::Error::GuestFull { .. } | jobs::Error::Closed => {
                Self::Busy
            }
            jobs::Error::Size { .. } => Self::Params,
            jobs::Error::Io { error, .. } => Self::of_io(error),
        }
    }

    fn of_pool(error: &pool::Error) -> Self {
        match error {
            pool::Error::Busy { .. } | pool::Error::Stopping => Self::Busy,
            pool::Error::GuestLocked { .. }
            | pool::Error::Unrun { .. }
            | pool::Error::Overdue { .. } => Self::Deadline,
            pool::Error::Late { .. } => Self::Late,
            pool::Error::Panicked { .. } => Self::Internal,
        }
    }

    fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::Denied,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Failed,
        }
    }
}

/// An error in an answer.
#[derive(Debug, Serialize)]
pub(in crate::rpc) struct Failure {
    code: i32,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data>,
}

/// Data about a method's error, for programs.
#[derive(Debug, Serialize)]
struct Data {
    /// `virErrorNumber` and `virErrorDomain`, if the error is libvirt's.
    libvirt_code: Option<i32>,
    libvirt_domain: Option<i32>,
    retryable: bool,
    guest: Option<String>,
}

impl Failure {
    /// Makes an error that occurs before any method is called.
    pub(in crate::rpc) fn new(kind: Kind, why: impl Into<String>) -> Self {
        let row = kind.row();
        Self { code: row.code, message: format!("{}: {}", row.name, why.into()), data: None }
    }

    /// Makes a refusal of a call that may succeed later without any other action.
    pub(in crate::rpc) fn busy(why: &str) -> Self {
        let data = Data {
            libvirt_code: None,
            libvirt_domain: None,
            retryable: Kind::Busy.row().retryable,
            guest: None,
        };
        Self { data: Some(data), ..Self::new(Kind::Busy, why) }
    }

    /// Makes a method's error, in plain words.
    pub(in crate::rpc) fn of(error: &Error, target: &Target) -> Self {
        let row = Kind::of(error).row();
        let libvirt = of_libvirt(error);
        let data = Data {
            libvirt_code: libvirt.map(|error| error.code.raw()),
            libvirt_domain: libvirt.map(|error| error.domain.raw()),
            retryable: row.retryable,
            guest: target.guest.clone(),
        };
        let message = match error {
            // The original's text does not name its object.
            Error::Refused(why) => match target.name() {
                Some(name) => format!("cannot use {name}: {why}"),
                None => format!("invalid argument: {why}"),
            },
            error => texts::plain(error),
        };
        Self { code: row.code, message, data: Some(data) }
    }

    /// Returns the error alone.
    pub(in crate::rpc) fn json(&self) -> Box<RawValue> {
        let mut out = Vec::new();
        json::write(&mut out, self).expect("an error has a JSON form");
        let text = String::from_utf8(out).expect("JSON is text");
        RawValue::from_string(text).expect("it was just written")
    }

    /// Returns the whole answer to the request of this id.
    pub(in crate::rpc) fn answer(&self, id: Option<&Id>) -> Vec<u8> {
        let mut out = b"{\"jsonrpc\":\"2.0\",\"error\":".to_vec();
        json::write(&mut out, self).expect("an error has a JSON form");
        out.extend_from_slice(b",\"id\":");
        out.extend_from_slice(id.map_or("null", Id::as_json).as_bytes());
        out.push(b'}');
        out
    }
}

/// Returns the error of libvirt that caused this one.
fn of_libvirt(error: &Error) -> Option<&libvirt::Error> {
    match error {
        Error::Libvirt(error) => Some(error),
        Error::Open { cause, .. }
        | Error::Step { cause, .. }
        | Error::DisksMissing { cause, .. }
        | Error::BridgeMissing { cause, .. } => of_libvirt(cause),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
