//! What the front, its handlers and its streams have in common.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;

use super::caller_probe::CallerProbe;
use super::exchange::Exchange;
use super::guard::Guard;
use super::rarely::Rarely;
use super::request::Request;
use super::stream_counts::StreamCounts;
use super::tally::Tally;
use crate::config::HttpLimits;
use crate::os::peer::Caller;
use crate::os::poll::Waker;
use crate::pool::{NoPermit, Permit};
use crate::threads::{ByteBudget, Reservation};

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
    pub(super) fn log_abandoned(&self, request: &Request, caller: &Caller) {
        if let Some(more) = self.abandoned.lock().now(Instant::now()) {
            let Request { method, target, .. } = request;
            log::info!("{method} {target} not run: {caller} has disconnected; suppressed={more}");
        }
    }
}

/// A request on its way to a handler.
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) arrived: Instant,
    /// What it has waited for: a permit, or why there is none.
    pub(super) permit: Option<Result<Permit, NoPermit>>,
    pub(super) exchange: Arc<Exchange>,
    /// Memory for the body, and for the answer until it is sent.
    pub(super) reservation: Reservation,
}

/// What an element of a JSON text may take when it is parsed, in bytes: `{},` becomes a NIC of some 200.
const ELEMENT_BYTES: usize = 256;

impl Job {
    /// Reserves what a handler needs, before it gets the request: memory for the body, which it copies, parses,
    /// and keeps while the call waits, and for the answer of a change, which must not be lost once the change is
    /// done. That answer is the guest of the request and what the agent adds. A longer one is that of a read,
    /// which can be refused. Whether the budget has it.
    pub(super) fn reserve(&self, limits: &HttpLimits) -> bool {
        let body = &self.request.body;
        let elements = body.iter().filter(|byte| **byte == b',').count();
        let parsed = elements.saturating_mul(ELEMENT_BYTES);
        self.reservation.grow_to((4 * body.len() + limits.answer_bytes).saturating_add(parsed))
    }
}
