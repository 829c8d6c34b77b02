//! Audit of changing calls, and its limits.

use std::path::PathBuf;
use std::time::Duration;

/// Where the audit is written in addition to the log, and the size of its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    /// File that receives a line of JSON for each changing call; none by default.
    pub log: Option<PathBuf>,
    /// Length of a name from the request. No guest or dataset has a longer name.
    pub name_chars: usize,
    /// Length of an error. Its first line stays recognizable.
    pub error_chars: usize,
    /// Lifetime of a cached user name. User databases may answer slowly.
    pub user: Duration,
    /// Time for the user database to name a user; after it the record contains only the uid. A
    /// local database answers within 1 ms, a directory service within about 10 ms.
    pub user_wait: Duration,
    /// Cached user names. Few users call, and the agent looks up any other user again.
    pub users: usize,
    /// Records that wait for the writer while a file system or the user database hangs: the
    /// changing calls of minutes. The agent drops and counts further records.
    pub queue: usize,
    /// Size of the records that wait for the writer, with 256 bytes on average.
    pub queue_bytes: usize,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            log: None,
            name_chars: 256,
            error_chars: 512,
            user: Duration::from_secs(600),
            user_wait: Duration::from_millis(500),
            users: 64,
            queue: 4096,
            queue_bytes: 1024 * 1024,
        }
    }
}
