//! State that the front, its handlers and its streams share.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;

use crate::config::HttpLimits;
use crate::http::auth::guard::Guard;
use crate::http::http_stats::HttpStats;
use crate::http::rate_limited_log::RateLimitedLog;
use crate::os::peer::Caller;
use crate::os::poll::Waker;
use crate::threads::ByteBudget;

use super::caller_probe::CallerProbe;
use super::stream_counts::StreamCounts;

/// State that the front and its handlers share.
pub(crate) struct Shared {
    pub(super) limits: HttpLimits,
    pub(super) guard: Guard,
    pub(super) stats: Arc<HttpStats>,
    pub(super) probe: CallerProbe,
    /// The memory budget of bodies and responses.
    pub(super) budget: Arc<ByteBudget>,
    /// The part of the budget for all callers except root and the agent's own user.
    pub(super) others_budget: Arc<ByteBudget>,
    /// Limits the log lines about requests whose callers have disconnected.
    pub(super) abandoned: Mutex<RateLimitedLog>,
    /// Wakes the front.
    pub(super) waker: Waker,
    /// Set once the stop has started.
    pub(super) stop: OnceLock<Stop>,
    /// Responses that are being streamed.
    pub(super) streams: StreamCounts,
}

/// The times of a stop.
pub(in crate::http) struct Stop {
    /// When the stop started.
    pub(super) since: Instant,
    /// Until when requests in flight may finish.
    pub(super) by: Instant,
}

impl Shared {
    pub(super) fn is_stopping(&self) -> bool {
        self.stop.get().is_some()
    }

    /// Logs a request that does not run, at most once per
    /// [`LOG_INTERVAL`](crate::config::fixed::LOG_INTERVAL).
    pub(super) fn log_abandoned(&self, line: &str, caller: &Caller) {
        if let Some(more) = self.abandoned.lock().now(Instant::now()) {
            log::info!("{line} not run: {caller} has disconnected; suppressed={more}");
        }
    }
}
