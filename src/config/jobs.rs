//! Bounds of jobs.

use std::time::Duration;

/// Bounds of the calls that outlive their requests, and of what is kept of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobLimits {
    /// Jobs that run at once, each on a thread of its own that counts among the callers of the pool:
    /// a third of [`PoolLimits::changes`](super::PoolLimits), so that they take nobody's place.
    pub at_once: usize,
    /// Jobs that may wait to be begun; one more is told `busy`.
    pub queued: usize,
    /// Of these, those of one guest, so that calls sent again and again to a stuck guest do not use
    /// up [`Self::queued`].
    pub queued_per_guest: usize,
    /// What one asks for, in bytes: a guest with 64 NICs and 256 disks is under 100 KiB.
    pub request_bytes: usize,
    /// Jobs that are kept after their end; with more the one that ended first is forgotten.
    pub kept: usize,
    /// How long a job is kept after its end, and how old one may be that a new start still begins.
    pub kept_for: Duration,
    /// One job's file, in bytes: its outcome is as long as its request, or six times that where every
    /// character has to be escaped.
    pub file_bytes: u64,
    /// Of a job, between two tries to get into a pool that is full of callers.
    pub pause: Duration,
}

impl Default for JobLimits {
    fn default() -> Self {
        Self {
            at_once: 8,
            queued: 64,
            queued_per_guest: 8,
            request_bytes: 128 * 1024,
            kept: 256,
            kept_for: Duration::from_secs(3600),
            file_bytes: 1024 * 1024,
            pause: Duration::from_millis(100),
        }
    }
}
