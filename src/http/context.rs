//! The context of a request: its caller, whether the caller is still connected, and the memory that is free
//! for the answer.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::os::peer::Caller;
use crate::pool::{NoPermit, Permit};
use crate::rpc::{Asking, Inbound};
use crate::threads::Reservation;

use super::exchange::Exchange;
use super::respond;
use super::shared::Shared;

/// A request that a handler carries out.
pub struct RequestContext<'a> {
    exchange: &'a Exchange,
    shared: &'a Shared,
    reservation: &'a Reservation,
    arrived: Instant,
    /// Whether it can wait without its thread.
    can_park: bool,
    /// What it has waited for, until that is taken.
    permit: Mutex<Option<Result<Permit, NoPermit>>>,
    /// What it has to wait for.
    asking: Mutex<Option<Asking>>,
    /// Set once the caller was found to be disconnected.
    is_abandoned: AtomicBool,
}

impl<'a> RequestContext<'a> {
    pub(super) fn new(
        exchange: &'a Exchange,
        shared: &'a Shared,
        reservation: &'a Reservation,
        (arrived, permit): (Instant, Option<Result<Permit, NoPermit>>),
        can_park: bool,
    ) -> Self {
        Self {
            exchange,
            shared,
            reservation,
            arrived,
            can_park,
            permit: Mutex::new(permit),
            asking: Mutex::default(),
            is_abandoned: AtomicBool::new(false),
        }
    }

    /// What it has to wait for, if anything.
    pub(super) fn take_asking(&self) -> Option<Asking> {
        self.asking.lock().take()
    }

    /// Memory for the request and its answer.
    pub(super) fn reservation(&self) -> &Reservation {
        self.reservation
    }

    /// The caller, as the kernel names it.
    pub fn caller(&self) -> &Caller {
        &self.exchange.caller
    }
}

impl Inbound for RequestContext<'_> {
    fn is_abandoned(&self) -> bool {
        // Relaxed: the flag says nothing about other memory.
        if self.is_abandoned.load(Ordering::Relaxed) {
            return true;
        }
        let is_abandoned = self.shared.probe.has_disconnected(self.exchange);
        // Of the threads of a batch one counts it.
        if is_abandoned && !self.is_abandoned.swap(true, Ordering::Relaxed) {
            self.shared.tally.count_abandoned();
        }
        is_abandoned
    }

    fn may_be_abandoned(&self) -> bool {
        self.is_abandoned() || self.shared.probe.may_have_left(self.exchange)
    }

    fn reserve_answer(&self, answer_bytes: usize) -> bool {
        self.reservation.grow_to(respond::room_of(answer_bytes))
    }

    fn arrived(&self) -> Instant {
        self.arrived
    }

    fn take_permit(&self) -> Option<Result<Permit, NoPermit>> {
        self.permit.lock().take()
    }

    fn can_park(&self) -> bool {
        self.can_park
    }

    fn park(&self, asking: Asking) {
        *self.asking.lock() = Some(asking);
    }

    fn is_parked(&self) -> bool {
        self.asking.lock().is_some()
    }
}

// By its caller alone.
impl fmt::Debug for RequestContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestContext").field("caller", self.caller()).finish_non_exhaustive()
    }
}
