//! Limits of jobs.

use std::time::Duration;

/// Limits of jobs, which outlive their requests, and of their stored results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobLimits {
    /// Concurrent jobs, each on a thread of its own that counts as a caller of the pool. This is a
    /// third of `pool.changes`, so that jobs displace no other call.
    pub at_once: usize,
    /// Jobs that wait for their start. A further job gets `busy`. Users share them as they share
    /// `http.streams`.
    pub queued: usize,
    /// Part of `jobs.queued` for one guest. Repeated calls for a stuck guest do not fill the queue.
    pub queued_per_guest: usize,
    /// Request of one job. A guest with 64 NICs and 256 disks has less than 100 KiB.
    pub request_bytes: usize,
    /// Finished jobs that the agent stores. With more, it removes the job that finished first.
    pub stored: usize,
    /// Time that callers can read a finished job. The next job removes its file. After a restart
    /// the agent starts no queued job that is older.
    pub retention: Duration,
    /// File of one job. The result is as long as the request, or six times that if every character
    /// needs an escape.
    pub file_bytes: u64,
    /// Interval between a job's attempts to enter a pool that is full of callers.
    pub pause: Duration,
}

impl Default for JobLimits {
    fn default() -> Self {
        Self {
            at_once: 8,
            queued: 64,
            queued_per_guest: 8,
            request_bytes: 128 * 1024,
            stored: 256,
            retention: Duration::from_secs(3600),
            file_bytes: 1024 * 1024,
            pause: Duration::from_millis(100),
        }
    }
}
