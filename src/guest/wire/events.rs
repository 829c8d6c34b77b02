//! The arguments of WaitEvents.

use serde::Serialize;

use crate::guest::members::members;

/// The selection of events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EventsRequest {
    /// Only events after this number; 0: all stored events; absent: only new events.
    pub after: Option<u64>,
    /// Seconds to wait for one where there is none; absent: as long as may be.
    pub timeout: Option<u64>,
    /// The id of a guest, where only what happens to it is wanted.
    pub guest: String,
}

members!(EventsRequest {
    "after" => after: value,
    "timeout" => timeout: value,
    "guest" => guest: value,
});
