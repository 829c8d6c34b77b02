//! Whether a caller is still connected.

use std::io;

use parking_lot::Mutex;

use super::exchange::Exchange;
use super::listener::Stream;
use crate::os::peer::{Caller, Origin};
use crate::os::poll::{self, PeerState};
use crate::os::socket_owners::SocketOwners;

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
    pub(super) fn has_disconnected(&self, exchange: &Exchange) -> bool {
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
    pub(super) fn may_have_left(&self, exchange: &Exchange) -> bool {
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
