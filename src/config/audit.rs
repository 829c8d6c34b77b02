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
    /// Users of whom that is kept: few call, and who is not kept is asked for again.
    pub users: usize,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            log: None,
            name_chars: 256,
            error_chars: 512,
            user: Duration::from_secs(600),
            users: 64,
        }
    }
}
