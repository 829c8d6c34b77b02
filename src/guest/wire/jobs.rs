//! The arguments of the methods for jobs.

use serde::Serialize;

use crate::guest::members::members;

/// The selected job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JobRequest {
    /// Its id.
    pub id: String,
}

members!(JobRequest {
    "id" => id: value,
});

/// The selection of jobs. All members are optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JobsRequest {
    /// Those of this guest.
    pub guest: String,
    /// Those in this state.
    pub state: String,
    /// The id after which the page begins; empty for the first.
    pub after: String,
    /// Jobs of a page; 0 is the default.
    pub limit: u64,
}

members!(JobsRequest {
    "guest" => guest: value,
    "state" => state: value,
    "after" => after: value,
    "limit" => limit: value,
});
