//! The gate: who a new connection belongs to, and whether there is a place for it. Decided before
//! a byte of it is read.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::config::HttpLimits;
use crate::os::peer::{Caller, Origin, Peer};
use crate::os::socket_owners::SocketOwners;

use super::access::{Access, Members};
use super::listener::Stream;

/// Those who may not call are logged this often.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Knows who is who.
pub(super) struct Gate {
    access: Access,
    /// None where the kernel does not tell and everybody may call.
    owners: Option<SocketOwners>,
    members: Members,
    /// When somebody who may not call was last logged, and how many came since.
    denied: Option<(Instant, u64)>,
}

impl Gate {
    /// A gate by this rule.
    ///
    /// # Errors
    /// Where the kernel does not tell whose sockets are, unless everybody may call.
    pub(super) fn new(access: Access) -> io::Result<Self> {
        let owners = match SocketOwners::open() {
            Ok(owners) => Some(owners),
            Err(error) if access.is_for_all() => {
                log::warn!("callers stay unknown: {error}");
                None
            }
            Err(error) => {
                let why = format!("ask the kernel who calls (sock_diag): {error}");
                return Err(io::Error::new(error.kind(), why));
            }
        };
        Ok(Self { access, owners, members: Members::default(), denied: None })
    }

    /// Who a connection belongs to; none when that is nobody who may call, or who has gone.
    pub(super) fn pass(
        &mut self,
        stream: &Stream,
        address: Option<SocketAddr>,
        limits: &HttpLimits,
        now: Instant,
    ) -> Option<Caller> {
        let caller = match (stream, address) {
            (Stream::Tcp(tcp), Some(peer)) => {
                let origin = Origin::of_tcp(peer, tcp.local_addr().ok()?);
                Caller { origin, peer: self.tcp_peer(tcp, origin) }
            }
            _ => Caller { origin: Origin::Socket, peer: Peer::of_unix(stream).ok() },
        };
        let may_call = match (caller.peer, caller.origin) {
            (Some(peer), _) => self.members.may_call(peer.uid, &self.access, limits, now),
            // Who that is, a token tells.
            (None, Origin::Network(_)) => true,
            (None, Origin::Socket | Origin::Host(_)) => self.access.is_for_all(),
        };
        if may_call {
            return Some(caller);
        }
        self.log_denied(&caller, now);
        None
    }

    /// The owner of the other end of a connection within this host.
    fn tcp_peer(&mut self, stream: &std::net::TcpStream, origin: Origin) -> Option<Peer> {
        let (Origin::Host(peer), Some(owners)) = (origin, &mut self.owners) else { return None };
        let local = stream.local_addr().ok()?;
        let owner = owners.owner(peer, local).unwrap_or_else(|error| {
            log::debug!("ask the kernel who calls from {peer}: {error}");
            None
        });
        // A caller that has reset its connection leaves its port to the next, who may be root; what
        // it sent could still be read. While this end has a peer that port was nobody else's.
        stream.peer_addr().ok()?;
        owner.map(|uid| Peer { uid, pid: None })
    }

    fn log_denied(&mut self, caller: &Caller, now: Instant) {
        let since = match &mut self.denied {
            Some((at, count)) if now.duration_since(*at) < LOG_INTERVAL => {
                *count += 1;
                return;
            }
            before => before.replace((now, 0)).map_or(0, |(_, count)| count),
        };
        let why = match caller.peer {
            Some(_) => "not allowed to call",
            None => "gone before it was known who that was",
        };
        log::warn!("refuse {caller}: {why}; {since} more since the last such line");
    }

    /// Whether one more connection of this caller is served beside those that are.
    pub(super) fn has_place<'a>(
        &self,
        caller: &Caller,
        served: impl Iterator<Item = &'a Caller>,
        limits: &HttpLimits,
    ) -> bool {
        let (mut all, mut own) = (0, 0);
        for other in served {
            all += 1;
            own += usize::from(Share::of(other) == Share::of(caller));
        }
        let is_privileged = caller.peer.is_some_and(|peer| self.access.is_privileged(peer.uid));
        let kept = if is_privileged { 0 } else { limits.connections_reserved };
        own < limits.connections_per_caller && all < limits.connections.saturating_sub(kept)
    }
}

/// Whom a connection is counted for.
#[derive(PartialEq)]
enum Share {
    User(u32),
    Host(Option<IpAddr>),
}

impl Share {
    fn of(caller: &Caller) -> Self {
        caller.peer.map_or_else(|| Self::Host(caller.host()), |peer| Self::User(peer.uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Caller {
        let origin = Origin::Host("127.0.0.1:5".parse().unwrap());
        Caller { origin, peer: Some(Peer { uid, pid: None }) }
    }

    fn from(address: &str) -> Caller {
        Caller { origin: Origin::Network(address.parse().unwrap()), peer: None }
    }

    fn limits() -> HttpLimits {
        HttpLimits {
            connections: 10,
            connections_per_caller: 4,
            connections_reserved: 2,
            ..HttpLimits::default()
        }
    }

    #[test]
    fn everybody_has_a_share_by_user_or_by_address() {
        let gate = Gate::new(Access::default()).unwrap();
        let place =
            |caller: Caller, served: &[Caller]| gate.has_place(&caller, served.iter(), &limits());
        assert!(place(user(7), &[user(7); 3]));
        assert!(!place(user(7), &[user(7); 4]));
        assert!(place(user(8), &[user(7); 4]));
        assert!(!place(user(0), &[user(0); 4]), "root has one as well");
        let same = [from("192.0.2.1:5"), from("192.0.2.1:6"), from("[::ffff:192.0.2.1]:7")];
        assert!(place(from("192.0.2.1:8"), &same));
        assert!(!place(from("192.0.2.1:8"), &[&same[..], &same[..1]].concat()));
        assert!(place(from("192.0.2.2:8"), &[&same[..], &same[..1]].concat()));
    }

    #[test]
    fn the_last_places_are_roots_and_the_agents_own() {
        let gate = Gate::new(Access::default()).unwrap();
        let served: Vec<Caller> = (1..=8).map(|uid| user(1_000_000 + uid)).collect();
        let place = |caller, served: &[Caller]| gate.has_place(&caller, served.iter(), &limits());
        assert!(place(user(7_000_000), &served[..7]));
        assert!(!place(user(7_000_000), &served));
        assert!(!place(from("192.0.2.1:5"), &served));
        assert!(place(user(0), &served));
        assert!(place(user(crate::os::process::user()), &served));
        assert!(!place(user(0), &[&served[..], &served[..2]].concat()));
    }
}
