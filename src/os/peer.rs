//! Identifies the peer of a connection.

#![expect(unsafe_code, reason = "std does not tell a peer's credentials")]

use std::fmt;
use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use crate::os::process;

/// A process of this host, as the kernel reports it: the process itself supplies no part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The effective user that created the socket.
    pub uid: u32,
    /// The process that created the socket; known only for Unix sockets.
    pub pid: Option<u32>,
}

impl Peer {
    /// Returns the peer of a connection over a Unix socket, at the time when it connected.
    ///
    /// # Errors
    /// If the file is not such a connection.
    pub fn of_unix(connection: impl AsFd) -> io::Result<Self> {
        let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let size = mem::size_of::<libc::ucred>();
        let mut length = libc::socklen_t::try_from(size).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `length` bytes to `found`, of which any are valid, and
        // their number to `length`; the descriptor is open during the call.
        let result = unsafe {
            libc::getsockopt(
                connection.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                (&raw mut found).cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // 0: a process outside this process's namespace.
        let pid = u32::try_from(found.pid).ok().filter(|pid| *pid != 0);
        Ok(Self { uid: found.uid, pid })
    }
}

/// The origin of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A Unix socket.
    Socket,
    /// This host, by TCP with an end on loopback, if the other end has an owner.
    Host(SocketAddr),
    /// Any other host: only a token can identify the caller.
    Network(SocketAddr),
}

impl Origin {
    /// Returns the origin of a TCP connection by its addresses: a local process may also connect to loopback from
    /// another address of the host. Addresses prove nothing (`route_localnet`); the owner of the other end does.
    pub fn of_tcp(peer: SocketAddr, local: SocketAddr) -> Self {
        let is_loopback = |address: SocketAddr| address.ip().to_canonical().is_loopback();
        if is_loopback(peer) || is_loopback(local) { Self::Host(peer) } else { Self::Network(peer) }
    }

    /// Returns the address, for TCP.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Socket => None,
            Self::Host(address) | Self::Network(address) => Some(*address),
        }
    }
}

/// The sender of a connection's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The origin of the connection.
    pub origin: Origin,
    /// The process, if it is on this host.
    pub peer: Option<Peer>,
}

impl Caller {
    /// Returns the address of the caller's host, for TCP.
    pub(crate) fn host(&self) -> Option<IpAddr> {
        self.origin.address().map(|address| address.ip().to_canonical())
    }

    /// Returns the user or host to which its connections and calls are charged.
    pub(crate) fn share(&self) -> Share {
        self.peer.map_or_else(|| Share::Host(self.host()), |peer| Share::User(peer.uid))
    }
}

/// The user or host to which connections and calls are charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Share {
    /// A user of this host.
    User(u32),
    /// All callers at an address without a known user.
    Host(Option<IpAddr>),
}

impl Share {
    /// Returns whether a part of the limits is reserved for it: root and the agent's own user.
    pub(crate) fn is_privileged(self) -> bool {
        matches!(self, Self::User(uid) if uid == 0 || uid == process::user())
    }
}

/// Formats a caller for log lines: `127.0.0.1:4711 uid=0`, `the socket uid=0 pid=7`, `192.0.2.1:4711`.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin.address() {
            Some(address) => write!(f, "{address}")?,
            None => f.write_str("the socket")?,
        }
        let Some(Peer { uid, pid }) = self.peer else { return Ok(()) };
        write!(f, " uid={uid}")?;
        pid.map_or(Ok(()), |pid| write!(f, " pid={pid}"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn peer_of_a_unix_socket_is_its_creator() {
        let (one, _other) = UnixStream::pair().unwrap();
        let expected = Peer { uid: process::user(), pid: Some(std::process::id()) };
        assert_eq!(Peer::of_unix(&one).unwrap(), expected);
        assert!(Peer::of_unix(std::fs::File::open("/dev/null").unwrap()).is_err());
    }

    #[test]
    fn loopback_end_means_this_host() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (peer, local, is_host) in [
            ("127.0.0.1:5", "127.0.0.1:6", true),
            ("[::1]:5", "[::1]:6", true),
            ("[::ffff:127.0.0.1]:5", "[::ffff:127.0.0.1]:6", true),
            ("192.0.2.7:5", "127.0.0.1:6", true),
            ("[::ffff:192.0.2.7]:5", "[::ffff:127.0.0.1]:6", true),
            ("127.0.0.1:5", "192.0.2.7:6", true),
            ("192.0.2.8:5", "192.0.2.7:6", false),
            ("[2001:db8::1]:5", "[2001:db8::2]:6", false),
        ] {
            let origin = Origin::of_tcp(address(peer), address(local));
            assert_eq!(origin == Origin::Host(address(peer)), is_host, "{peer} {local}");
            assert_eq!(origin.address(), Some(address(peer)));
        }
    }

    #[test]
    fn caller_is_written_with_its_known_identity() {
        let peer = Peer { uid: 0, pid: Some(7) };
        let caller = Caller { origin: Origin::Socket, peer: Some(peer) };
        assert_eq!(caller.to_string(), "the socket uid=0 pid=7");
        let origin = Origin::Host("127.0.0.1:4711".parse().unwrap());
        let caller = Caller { origin, peer: Some(Peer { pid: None, ..peer }) };
        assert_eq!(caller.to_string(), "127.0.0.1:4711 uid=0");
        let origin = Origin::Network("192.0.2.1:4711".parse().unwrap());
        assert_eq!(Caller { origin, peer: None }.to_string(), "192.0.2.1:4711");
    }
}
