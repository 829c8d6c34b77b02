//! Bounds of events.

use std::time::Duration;

/// Bounds of what is kept of events and of those who listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLimits {
    /// Events that are kept for those who ask later: a hundred guests that are made, run, stopped
    /// and deleted are some 800.
    pub kept: usize,
    /// Events that libvirt told and nobody has numbered yet: those of a host that goes down at once.
    pub backlog: usize,
    /// Between two tries to hear libvirt again: it may have been restarted.
    pub pause: Duration,
    /// Longest that one WaitEvents may wait, below the idle time of common proxies.
    pub wait: Duration,
    /// Calls of WaitEvents that may wait at once: there are as many more handlers for them.
    pub waiting: usize,
    /// Events in one answer to WaitEvents, some 200 KiB: who is behind asks again.
    pub page: usize,
    /// Without an event, until a listener to a stream is sent a comment, which shows whether it is
    /// still there.
    pub heartbeat: Duration,
}

impl Default for EventLimits {
    fn default() -> Self {
        Self {
            kept: 4_096,
            backlog: 1_024,
            pause: Duration::from_secs(1),
            wait: Duration::from_secs(50),
            waiting: 8,
            page: 1_000,
            heartbeat: Duration::from_secs(15),
        }
    }
}
