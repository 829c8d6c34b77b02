//! The context of a request: its caller, whether the caller is still connected, and the memory that is free
//! for the answer.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::os::peer::{Caller, Origin};
use crate::os::poll::{self, PeerState};
use crate::os::socket_owners::SocketOwners;
use crate::pool::{NoPermit, Permit};
use crate::rpc::{Asking, Inbound};
use crate::threads::Reservation;

use super::exchange::Exchange;
use super::handlers::Shared;
use super::listener::Stream;
use super::respond;

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

/// Finds out whether callers are still connected.
pub(super) struct CallerProbe {
    /// The lock is held for one question, which the kernel answers at once.
    owners: Mutex<SocketOwners>,
}

impl CallerProbe {
    /// # Errors
    /// When the kernel does not tell whose sockets are.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { owners: Mutex::new(SocketOwners::open()?) })
    }

    /// Whether the caller has closed its end of the connection.
    ///
    /// A caller that has closed the half that it sends with may wait, as `printf … | nc` does. By TCP it
    /// looks like one that has closed both, until an answer is sent. So the kernel is asked whether a
    /// process has the other end, where that is on this host. Of a caller beyond this host only a reset
    /// tells.
    fn has_disconnected(&self, exchange: &Exchange) -> bool {
        match poll::peer_state(&exchange.stream) {
            Ok(PeerState::Closed) => true,
            Ok(PeerState::HalfClosed) => self.has_no_owner(exchange),
            Ok(PeerState::Idle | PeerState::Bytes) => false,
            Err(error) => {
                log::debug!("cannot inspect the connection of {}: {error}", exchange.caller);
                false
            }
        }
    }

    /// Whether the caller has closed the half that it sends with, and no process of this host is known to have the
    /// other.
    fn may_have_left(&self, exchange: &Exchange) -> bool {
        let is_half_closed =
            matches!(poll::peer_state(&exchange.stream), Ok(PeerState::HalfClosed));
        is_half_closed && !self.has_owner(exchange)
    }

    /// Whether a process of this host has the other end of a TCP connection.
    fn has_owner(&self, exchange: &Exchange) -> bool {
        matches!(self.owner(exchange), Some(Ok(Some(_))))
    }

    /// Whether no process on this host has the other end of a TCP connection.
    fn has_no_owner(&self, exchange: &Exchange) -> bool {
        matches!(self.owner(exchange), Some(Ok(None)))
    }

    /// Whose the other end of a TCP connection is, where that is on this host.
    fn owner(&self, exchange: &Exchange) -> Option<io::Result<Option<u32>>> {
        let Caller { origin: Origin::Host(peer), peer: Some(_) } = exchange.caller else {
            return None;
        };
        let Stream::Tcp(stream) = &exchange.stream else { return None };
        Some(stream.local_addr().and_then(|local| self.owners.lock().owner(peer, local)))
    }
}
