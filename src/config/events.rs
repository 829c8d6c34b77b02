//! Limits of events.

use std::time::Duration;

/// Limits of stored events and of event clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLimits {
    /// Events that the agent stores for later requests. Creating, running, stopping and deleting
    /// 100 guests produces about 800.
    pub stored: usize,
    /// Events from libvirt that have no number yet. All guests of a host that go down at once
    /// produce as many.
    pub backlog: usize,
    /// Interval between attempts to subscribe to libvirt's events again. libvirt may have been
    /// restarted.
    pub pause: Duration,
    /// Maximum wait of one WaitEvents call. It is below the idle timeout of common proxies.
    pub wait: Duration,
    /// Concurrent WaitEvents calls. They wait without a thread, except those of a batch. Users share
    /// them as they share `http.streams`.
    pub waiting: usize,
    /// Events in one answer to WaitEvents, about 200 KiB. A client that is behind calls again.
    pub page: usize,
    /// Time without an event after which a stream sends a comment. The comment shows whether the
    /// client is still connected.
    pub heartbeat: Duration,
}

impl Default for EventLimits {
    fn default() -> Self {
        Self {
            stored: 4_096,
            backlog: 1_024,
            pause: Duration::from_secs(1),
            wait: Duration::from_secs(50),
            waiting: 8,
            page: 1_000,
            heartbeat: Duration::from_secs(15),
        }
    }
}
