//! Whose a volume is: by its name, by the guest's definition, and by the domains that use it.

use crate::storage::{self, Dataset, InUse};

/// The guest that a dataset belongs to by its name.
pub(super) fn guest_of(name: &Dataset) -> Option<&str> {
    name.relative().strip_prefix("guests/")?.split('/').next()
}

/// The lock of a dataset: its guest's, or its own.
pub(super) fn lock_of(name: &Dataset) -> &str {
    guest_of(name).unwrap_or(name.as_str())
}

/// Whether a guest has volumes that this agent made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// Its definition says so.
    Some,
    /// There is no definition, or one without this agent's metadata.
    Unknown,
    /// Its definition says that it has none.
    None,
}

impl Expected {
    /// Whether a Delete succeeds though storage fails so: a host without the store has no volumes of ours,
    /// and a guest without volumes does not wait for a pool that hangs.
    pub(super) fn allows(self, error: &storage::Error) -> bool {
        match self {
            Self::Some => false,
            Self::Unknown => {
                use storage::Error::{NoStore, NotInstalled, PoolMissing};
                matches!(error, NoStore | NotInstalled | PoolMissing { .. })
            }
            Self::None => true,
        }
    }
}

/// What the domains other than a guest's use.
#[derive(Default)]
pub(super) struct Others {
    /// The uuid of the guest's own domain, where it exists.
    pub(super) own_uuid: Option<String>,
    /// Their disks, backing files and volumes.
    pub(super) in_use: InUse,
}
