//! What is kept of changing calls, and its bounds.

use std::path::PathBuf;
use std::time::Duration;

/// Where the audit goes besides the log, and how much one line of it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    /// A file that gets a line of JSON for each changing call; none by default.
    pub log: Option<PathBuf>,
    /// Of a name in the request, in characters: no guest or dataset has a longer one.
    pub name_chars: usize,
    /// Of an error, in characters: enough for its first line to be recognised.
    pub error_chars: usize,
    /// How long the name of a user holds: the databases may be slow to ask.
    pub user: Duration,
    /// For the user database to name a user, until a record has the uid alone: databases on this host
    /// answer within 1 ms, directory services within some 10 ms.
    pub user_wait: Duration,
    /// Users of whom that is kept: few call, and who is not kept is asked for again.
    pub users: usize,
    /// Records that wait for their writer, while a file system or the user database hangs: the changing
    /// calls of minutes. More are dropped and counted.
    pub queue: usize,
    /// The same in bytes, with records of 256 bytes on average.
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
