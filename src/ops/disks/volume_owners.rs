//! The owner of a volume: by its name, by the guest's definition, and by the domains that use it.

use crate::storage::{self, Dataset, InUse};

/// Returns the guest that a dataset belongs to by its name.
pub(in crate::ops) fn guest_of(name: &Dataset) -> Option<&str> {
    name.relative().strip_prefix("guests/")?.split('/').next()
}

/// Returns the name of the lock for changes of a dataset: the id of its guest, else its own name.
pub(in crate::ops) fn lock_name(name: &Dataset) -> &str {
    guest_of(name).unwrap_or(name.as_str())
}

/// Whether a guest has volumes that this agent made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum Expected {
    /// Its definition says so.
    Some,
    /// No definition exists, or it has no metadata of this agent.
    Unknown,
    /// Its definition says that it has none.
    None,
}

impl Expected {
    /// Returns whether a Delete succeeds although storage fails with this error. A host without the store has no
    /// volumes of this agent, and a guest without volumes does not wait for a hung pool.
    pub(in crate::ops) fn allows(self, error: &storage::Error) -> bool {
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

/// The resources of all domains but a guest's own.
#[derive(Default)]
pub(in crate::ops) struct OtherDomains {
    /// The uuid of the guest's own domain, if it exists.
    pub(super) own_uuid: Option<String>,
    /// The disks, backing files and volumes of the other domains.
    pub(in crate::ops) in_use: InUse,
}
