//! Disks and NICs that are attached to an existing guest and detached from it.
//!
//! The domain's definition decides. A transaction changes it together with the request stored with it: a failed or
//! interrupted attach is undone, and a detach is finished, as with CreateGuest and Delete. After the commit the agent
//! changes the running guest, and the answer reports the outcome. A failure there is no error: the definition is right
//! for the next start, and the same call tries again to change the running guest.

mod attach;
pub(in crate::ops) mod change;
mod detach;
mod device;
mod live_guest;
mod stored_request;

pub(in crate::ops) use attach::undo;
pub(in crate::ops) use detach::finish;
