//! What the front, its handlers and its streams have in common.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;

use super::caller_probe::CallerProbe;
use super::guard::Guard;
use super::rarely::Rarely;
use super::stream_counts::StreamCounts;
use super::tally::Tally;
use crate::config::HttpLimits;
use crate::os::peer::Caller;
use crate::os::poll::Waker;
use crate::threads::ByteBudget;

/// What the front and its handlers have in common.
pub(super) struct Shared {
    pub(super) limits: HttpLimits,
    pub(super) guard: Guard,
    pub(super) tally: Arc<Tally>,
    pub(super) probe: CallerProbe,
    /// The bytes of bodies and answers in memory.
    pub(super) budget: Arc<ByteBudget>,
    /// Of these, those of all callers but root and the agent's own user.
    pub(super) others_budget: Arc<ByteBudget>,
    /// Requests whose callers have gone.
    pub(super) abandoned: Mutex<Rarely>,
    /// Wakes the front.
    pub(super) waker: Waker,
    /// Set once the front is told to stop.
    pub(super) stop: OnceLock<Stop>,
    /// Answers that are being streamed.
    pub(super) streams: StreamCounts,
}

/// A stop of the front.
pub(super) struct Stop {
    /// When it was told to.
    pub(super) since: Instant,
    /// Until when requests in flight may be finished.
    pub(super) by: Instant,
}

impl Shared {
    pub(super) fn is_stopping(&self) -> bool {
        self.stop.get().is_some()
    }

    /// Logs a request that is not run, at most one in [`LOG_INTERVAL`](crate::config::fixed::LOG_INTERVAL).
    pub(super) fn log_abandoned(&self, line: &str, caller: &Caller) {
        if let Some(more) = self.abandoned.lock().now(Instant::now()) {
            log::info!("{line} not run: {caller} has disconnected; suppressed={more}");
        }
    }
}
