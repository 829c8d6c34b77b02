//! Detects whether a caller is still connected.

use std::io;

use parking_lot::Mutex;

use crate::http::socket::Stream;
use crate::os::peer::{Caller, Origin};
use crate::os::poll::{self, PeerState};
use crate::os::socket_owners::SocketOwners;

use super::exchange::Exchange;

/// Detects whether callers are still connected.
pub(super) struct CallerProbe {
    /// The lock is held for one query, which the kernel answers at once.
    owners: Mutex<SocketOwners>,
}

impl CallerProbe {
    /// # Errors
    /// When the kernel cannot report the owners of sockets.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { owners: Mutex::new(SocketOwners::open()?) })
    }

    /// Returns whether the caller has closed its end of the connection.
    ///
    /// A caller that has closed only its sending half may still wait for the response, as `printf … | nc` does. By
    /// TCP such a caller looks like one that has closed both halves, until a response is sent. So the kernel is
    /// asked whether a process of this host owns the other end. For a caller beyond this host only a reset shows
    /// the difference.
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

    /// Returns whether the caller has closed its sending half, and no process of this host is known to own the
    /// other end.
    pub(super) fn may_have_left(&self, exchange: &Exchange) -> bool {
        let is_half_closed =
            matches!(poll::peer_state(&exchange.stream), Ok(PeerState::HalfClosed));
        is_half_closed && !self.has_owner(exchange)
    }

    /// Returns whether a process of this host owns the other end of a TCP connection.
    fn has_owner(&self, exchange: &Exchange) -> bool {
        matches!(self.owner(exchange), Some(Ok(Some(_))))
    }

    /// Returns whether no process of this host owns the other end of a TCP connection.
    fn has_no_owner(&self, exchange: &Exchange) -> bool {
        matches!(self.owner(exchange), Some(Ok(None)))
    }

    /// Returns the user that owns the other end of a TCP connection within this host.
    fn owner(&self, exchange: &Exchange) -> Option<io::Result<Option<u32>>> {
        let Caller { origin: Origin::Host(peer), peer: Some(_) } = exchange.caller else {
            return None;
        };
        let Stream::Tcp(stream) = &exchange.stream else { return None };
        Some(stream.local_addr().and_then(|local| self.owners.lock().owner(peer, local)))
    }
}
