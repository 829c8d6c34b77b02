//! Decides about a new connection before a byte is read from it: its caller, whether that caller may call,
//! and whether the limits have room.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use crate::config::HttpLimits;
use crate::http::rate_limited_log::RateLimitedLog;
use crate::http::socket::Stream;
use crate::os::peer::{Caller, Origin, Peer};
use crate::os::socket_owners::SocketOwners;
use crate::pool::Quota;

use super::access::Access;
use super::members::Members;

/// Identifies and authorizes the callers of connections.
pub(in crate::http) struct PeerAuth {
    access: Access,
    owners: SocketOwners,
    /// `None` where no group may call.
    members: Option<Members>,
    denials: RateLimitedLog,
}

/// Whether a caller may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Verdict {
    Allowed,
    Denied,
    /// The groups of the caller are being looked up; [`PeerAuth::learn`] reports new answers.
    Unknown,
}

impl PeerAuth {
    /// Makes a [`PeerAuth`] with this access rule.
    ///
    /// # Errors
    /// When the kernel cannot report the owners of sockets, even where everybody on this host may call: by
    /// `route_localnet` other hosts reach loopback, too. When the thread that looks up groups does not start.
    pub(in crate::http) fn new(
        access: Access,
        limits: &HttpLimits,
        wake_front: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let owners = SocketOwners::open()?;
        let members = match access.groups() {
            [] => None,
            groups => Some(Members::start(groups.to_vec(), limits, wake_front)?),
        };
        Ok(Self { access, owners, members, denials: RateLimitedLog::default() })
    }

    /// Returns the caller of a connection; `None` when its other end has disconnected.
    pub(in crate::http) fn identify(
        &mut self,
        stream: &Stream,
        address: Option<SocketAddr>,
    ) -> Option<Caller> {
        match (stream, address) {
            (Stream::Tcp(tcp), Some(peer)) => {
                let origin = Origin::of_tcp(peer, tcp.local_addr().ok()?);
                Some(Caller { origin, peer: self.tcp_peer(tcp, origin) })
            }
            _ => Some(Caller { origin: Origin::Socket, peer: Peer::of_unix(stream).ok() }),
        }
    }

    /// Returns whether this caller may call.
    pub(in crate::http) fn judge(
        &mut self,
        caller: &Caller,
        limits: &HttpLimits,
        now: Instant,
    ) -> Verdict {
        let may_call = match (caller.peer, caller.origin) {
            (Some(peer), _) => match (self.access.allows(peer.uid), &mut self.members) {
                (Some(may_call), _) => Some(may_call),
                (None, None) => Some(false),
                (None, Some(members)) => members.is_member(peer.uid, limits, now),
            },
            // The token of the request identifies such a caller.
            (None, Origin::Network(_)) => Some(true),
            // The caller has disconnected, or is no process of this host.
            (None, Origin::Socket | Origin::Host(_)) => Some(false),
        };
        match may_call {
            Some(true) => Verdict::Allowed,
            Some(false) => Verdict::Denied,
            None => Verdict::Unknown,
        }
    }

    /// Takes the answers of the group lookup; returns whether there were any.
    pub(in crate::http) fn learn(&mut self, limits: &HttpLimits, now: Instant) -> bool {
        self.members.as_mut().is_some_and(|members| members.learn(limits, now))
    }

    /// Returns the owner of the other end of a connection within this host.
    fn tcp_peer(&mut self, stream: &std::net::TcpStream, origin: Origin) -> Option<Peer> {
        let Origin::Host(peer) = origin else { return None };
        let local = stream.local_addr().ok()?;
        let owner = self.owners.owner(peer, local).unwrap_or_else(|error| {
            log::debug!("cannot look up the user of {peer}: {error}");
            None
        });
        // After a caller has reset its connection, another process may use its port, which may be root's;
        // bytes of the first caller could still be read. While this end has a peer, the port had no other
        // owner.
        stream.peer_addr().ok()?;
        owner.map(|uid| Peer { uid, pid: None })
    }

    /// Logs a denied connection, at a limited rate.
    pub(in crate::http) fn log_denied(&mut self, caller: &Caller, why: &str, now: Instant) {
        if let Some(more) = self.denials.now(now) {
            log::warn!("connection from {caller} refused: {why}; suppressed={more}");
        }
    }
}

/// Returns whether the limits have room for one more connection of this caller.
pub(in crate::http) fn has_room<'a>(
    caller: &Caller,
    served: impl Iterator<Item = &'a Caller>,
    limits: &HttpLimits,
) -> bool {
    let quota = Quota {
        all: limits.connections,
        per_caller: limits.connections_per_caller,
        reserved: limits.connections_reserved,
    };
    quota.admit(caller.share(), &mut served.map(Caller::share)).is_ok()
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
        let may_connect =
            |caller: Caller, served: &[Caller]| has_room(&caller, served.iter(), &limits());
        assert!(may_connect(user(7), &[user(7); 3]));
        assert!(!may_connect(user(7), &[user(7); 4]));
        assert!(may_connect(user(8), &[user(7); 4]));
        assert!(may_connect(user(0), &[user(0); 9]), "root may have all");
        assert!(!may_connect(user(0), &[user(0); 10]));
        let same = [from("192.0.2.1:5"), from("192.0.2.1:6"), from("[::ffff:192.0.2.1]:7")];
        assert!(may_connect(from("192.0.2.1:8"), &same));
        assert!(!may_connect(from("192.0.2.1:8"), &[&same[..], &same[..1]].concat()));
        assert!(may_connect(from("192.0.2.2:8"), &[&same[..], &same[..1]].concat()));
    }

    #[test]
    fn last_connections_are_for_root_and_own_user() {
        let served: Vec<Caller> = (1..=8).map(|uid| user(1_000_000 + uid)).collect();
        let may_connect = |caller, served: &[Caller]| has_room(&caller, served.iter(), &limits());
        assert!(may_connect(user(7_000_000), &served[..7]));
        assert!(!may_connect(user(7_000_000), &served));
        assert!(!may_connect(from("192.0.2.1:5"), &served));
        assert!(may_connect(user(0), &served));
        assert!(may_connect(user(crate::os::process::user()), &served));
        assert!(!may_connect(user(0), &[&served[..], &served[..2]].concat()));
    }
}
