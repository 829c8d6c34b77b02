//! The request of a call, as the HTTP server sees it: the caller, and a thread to continue on.

use std::fmt;
use std::time::Instant;

use crate::os::peer::Caller;

/// The HTTP request of some calls, which waits for their answer.
pub trait Inbound: fmt::Debug + Send + Sync {
    /// Returns the caller.
    fn caller(&self) -> &Caller;

    /// Returns whether its caller has disconnected.
    ///
    /// # Blocking
    /// Never: the kernel answers at once.
    fn is_abandoned(&self) -> bool;

    /// Returns whether its caller may have disconnected: also if it has closed its sending half of the connection,
    /// unless a process of this host owns the other half.
    ///
    /// # Blocking
    /// Never: the kernel answers at once.
    fn may_be_abandoned(&self) -> bool;

    /// Reserves memory for an answer of this total size in bytes; returns `false` if the budget is exhausted.
    fn reserve_answer(&self, answer_bytes: usize) -> bool;

    /// Returns when it arrived.
    fn arrived(&self) -> Instant;

    /// Waits from here on without this thread. A request that has started continues even if its caller disconnects.
    fn park(&mut self, has_started: bool);

    /// Continues on a thread that may block: this one if it may, otherwise later a handler's. There a request that has
    /// not started is dropped if its caller has disconnected.
    fn on_handler(self, then: impl FnOnce(Self) + Send + 'static)
    where
        Self: Sized;
}
