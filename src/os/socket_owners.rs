//! The owners of TCP sockets of this host, from the kernel through `sock_diag(7)`, with one request and one answer.
//!
//! A closed socket exists for a while without its owner, and the kernel then reports 0, root, as its user. So only a
//! socket that still has a file (inode) has an owner.

#![expect(unsafe_code, reason = "std makes no netlink sockets")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const HEADER_BYTES: usize = 16;
const REQUEST_BYTES: usize = HEADER_BYTES + 56;
/// A record of a socket with all attributes that the kernel adds by default has some 150 bytes.
const ANSWER_BYTES: usize = 1024;
/// The maximum number of answers read for one request: answers to earlier requests are skipped.
const ANSWERS_MAX: usize = 8;
/// Offsets in an answer: `struct inet_diag_msg` after the header.
const STATE_AT: usize = HEADER_BYTES + 1;
const UID_AT: usize = HEADER_BYTES + 64;
const INODE_AT: usize = HEADER_BYTES + 68;
/// States in the kernel's `tcp_states.h` in which the process still has its end: `ESTABLISHED`, `FIN_WAIT1`,
/// `FIN_WAIT2`, `CLOSE_WAIT`.
const STATES: [u8; 4] = [1, 4, 5, 8];
/// The state of a listening socket.
const LISTEN: u8 = 10;

/// A socket as the kernel describes it.
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    state: u8,
    uid: u32,
    /// 0 if no process has the socket: not yet, or no longer.
    inode: u32,
}

/// One end of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A process of this user has the socket.
    Owned(u32),
    /// The socket is on this host, and no process has accepted it yet, or has it any more.
    Unowned,
    /// The socket is not on this host.
    Absent,
}

/// Queries the owners of sockets in this network namespace.
#[derive(Debug)]
pub struct SocketOwners {
    netlink: File,
    sequence: u32,
}

impl SocketOwners {
    /// Opens a netlink socket, and tests it on a connection to itself.
    ///
    /// # Errors
    /// If the kernel does not support it (module `inet_diag`), or the process is not permitted.
    pub fn open() -> io::Result<Self> {
        Self::open_netlink().map_err(|error| {
            let why = format!("cannot identify socket owners (sock_diag): {error}");
            io::Error::new(error.kind(), why)
        })
    }

    fn open_netlink() -> io::Result<Self> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: takes no pointer.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is open, made just above, and nobody else has it.
        let netlink = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut owners = Self { netlink: File::from(netlink), sequence: 0 };
        owners.try_out()?;
        Ok(owners)
    }

    /// Returns the user whose process has the TCP socket at `address` that is connected to `other_end`; `None` if the
    /// socket does not exist, or no process has it any more.
    ///
    /// # Errors
    /// If the kernel returns an error or an invalid answer.
    ///
    /// # Blocking
    /// Never: the kernel answers during the request.
    pub fn owner(&mut self, address: SocketAddr, other_end: SocketAddr) -> io::Result<Option<u32>> {
        Ok(match self.end(address, other_end)? {
            End::Owned(uid) => Some(uid),
            End::Unowned | End::Absent => None,
        })
    }

    /// Returns the TCP socket at `address` that is connected to `other_end`.
    ///
    /// # Errors
    /// As [`SocketOwners::owner`].
    ///
    /// # Blocking
    /// Never.
    pub fn end(&mut self, address: SocketAddr, other_end: SocketAddr) -> io::Result<End> {
        Ok(match self.ask(address, other_end)? {
            Some(Socket { state, uid, inode }) if STATES.contains(&state) && inode != 0 => {
                End::Owned(uid)
            }
            // If the socket does not exist, the kernel answers with its listening socket.
            Some(Socket { state: LISTEN, .. }) | None => End::Absent,
            Some(_) => End::Unowned,
        })
    }

    /// Returns the user whose process listens at `address`; `None` if no process does.
    ///
    /// # Errors
    /// As [`SocketOwners::owner`].
    ///
    /// # Blocking
    /// Never.
    pub fn listener(&mut self, address: SocketAddr) -> io::Result<Option<u32>> {
        let unspecified = match address.ip().to_canonical() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let found = self.ask(address, SocketAddr::new(unspecified, 0))?;
        let listens = |socket: &Socket| socket.state == LISTEN && socket.inode != 0;
        Ok(found.filter(listens).map(|socket| socket.uid))
    }

    fn ask(&mut self, address: SocketAddr, other_end: SocketAddr) -> io::Result<Option<Socket>> {
        self.sequence = self.sequence.wrapping_add(1);
        let Some(request) = request(address, other_end, self.sequence) else { return Ok(None) };
        self.netlink.write_all(&request)?;
        let mut answer = [0; ANSWER_BYTES];
        for _ in 0..ANSWERS_MAX {
            let length = self.netlink.read(&mut answer)?;
            let answer = answer.get(..length).unwrap_or_default();
            if number(answer, 8) == Some(self.sequence) {
                return interpret(answer);
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }

    fn try_out(&mut self) -> io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let caller = TcpStream::connect(address)?;
        match self.owner(caller.local_addr()?, address)? {
            Some(_) => Ok(()),
            None => {
                let why = "the kernel module inet_diag is missing";
                Err(io::Error::new(io::ErrorKind::Unsupported, why))
            }
        }
    }
}

/// Builds `struct nlmsghdr` and `struct inet_diag_req_v2`; `None` for ends of two families, which no socket has. An
/// IPv4 address that is mapped into IPv6 is queried as IPv4.
fn request(address: SocketAddr, other_end: SocketAddr, sequence: u32) -> Option<Vec<u8>> {
    let (family, from, to) = match (address.ip().to_canonical(), other_end.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            (libc::AF_INET, padded(&from.octets()), padded(&to.octets()))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => (libc::AF_INET6, from.octets(), to.octets()),
        _ => return None,
    };
    let length = u32::try_from(REQUEST_BYTES).ok()?;
    let flags = u16::try_from(libc::NLM_F_REQUEST).ok()?;
    let mut bytes = Vec::with_capacity(REQUEST_BYTES);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]); // To the kernel.
    bytes.extend([u8::try_from(family).ok()?, u8::try_from(libc::IPPROTO_TCP).ok()?, 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes()); // In any state.
    bytes.extend(address.port().to_be_bytes());
    bytes.extend(other_end.port().to_be_bytes());
    bytes.extend(from);
    bytes.extend(to);
    bytes.extend([0; 4]); // Any interface.
    bytes.extend([0xff; 8]); // No cookie is known.
    Some(bytes)
}

fn padded(octets: &[u8; 4]) -> [u8; 16] {
    let mut all = [0; 16];
    for (to, from) in all.iter_mut().zip(octets) {
        *to = *from;
    }
    all
}

/// Returns the socket in an answer.
fn interpret(answer: &[u8]) -> io::Result<Option<Socket>> {
    let kind = answer.get(4..6).and_then(|it| it.try_into().ok()).map(u16::from_ne_bytes);
    if kind == Some(SOCK_DIAG_BY_FAMILY) {
        let (state, uid) = (answer.get(STATE_AT).copied(), number(answer, UID_AT));
        return match (state, uid, number(answer, INODE_AT)) {
            (Some(state), Some(uid), Some(inode)) => Ok(Some(Socket { state, uid, inode })),
            _ => Err(io::ErrorKind::InvalidData.into()),
        };
    }
    // An error message: the negative error number after the header.
    let error = number(answer, HEADER_BYTES).unwrap_or(0).to_ne_bytes();
    match i32::from_ne_bytes(error).wrapping_neg() {
        libc::ENOENT => Ok(None),
        0 => Err(io::ErrorKind::InvalidData.into()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Shutdown;
    use std::os::fd::AsRawFd;

    use crate::os::process;

    fn pair(listen: &str, host: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(listen).unwrap();
        let port = listener.local_addr().unwrap().port();
        let caller = TcpStream::connect((host, port)).unwrap();
        (caller, listener.accept().unwrap().0)
    }

    /// Prevents the kernel from reusing the port of this connection. The socket inherits SO_REUSEADDR from its
    /// listener: if both sockets have that option, and neither listens, the kernel treats the port as free.
    fn keep_port(accepted: &TcpStream) {
        let (fd, no): (_, libc::c_int) = (accepted.as_raw_fd(), 0);
        let bytes = size_of_val(&no).try_into().unwrap();
        let option = (libc::SOL_SOCKET, libc::SO_REUSEADDR);
        // SAFETY: the descriptor is open, and the kernel reads `bytes` from `no`.
        let set =
            unsafe { libc::setsockopt(fd, option.0, option.1, (&raw const no).cast(), bytes) };
        assert_eq!(set, 0);
    }

    /// Returns the owner of the other end of an accepted connection.
    fn owner(accepted: &TcpStream) -> Option<u32> {
        let (peer, local) = (accepted.peer_addr().unwrap(), accepted.local_addr().unwrap());
        SocketOwners::open().unwrap().owner(peer, local).unwrap()
    }

    #[test]
    fn the_owner_is_found_in_the_family_of_the_connection() {
        for (listen, host) in
            [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")]
        {
            let (_caller, accepted) = pair(listen, host);
            assert_eq!(owner(&accepted), Some(process::user()), "{listen}");
        }
    }

    #[test]
    fn listener_is_found_on_its_and_on_all_addresses() {
        for (listen, asked) in
            [("127.0.0.1:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.1"), ("[::1]:0", "[::1]")]
        {
            let listener = TcpListener::bind(listen).unwrap();
            let port = listener.local_addr().unwrap().port();
            let address: SocketAddr = format!("{asked}:{port}").parse().unwrap();
            let _caller = TcpStream::connect(address).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            // Otherwise another test could listen there.
            keep_port(&accepted);
            let mut owners = SocketOwners::open().unwrap();
            assert_eq!(owners.listener(address).unwrap(), Some(process::user()), "{listen}");
            drop(listener);
            assert_eq!(owners.listener(address).unwrap(), None, "{listen}");
        }
    }

    #[test]
    fn mapped_address_is_queried_as_ipv4() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let mapped = request(address("[::ffff:127.0.0.1]:5"), address("[::ffff:127.0.0.2]:6"), 1);
        assert!(mapped.is_some());
        assert_eq!(mapped, request(address("127.0.0.1:5"), address("127.0.0.2:6"), 1));
    }

    #[test]
    fn half_closed_caller_has_an_owner_a_closed_one_none() {
        let (caller, accepted) = pair("127.0.0.1:0", "127.0.0.1");
        caller.shutdown(Shutdown::Write).unwrap();
        assert_eq!(owner(&accepted), Some(process::user()));
        drop(caller);
        assert_eq!(owner(&accepted), None, "its record says user 0");
    }

    #[test]
    fn listening_or_absent_address_has_no_owner() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut owners = SocketOwners::open().unwrap();
        let other: SocketAddr = "127.0.0.1:1".parse().unwrap();
        assert_eq!(owners.owner(address, other).unwrap(), None);
        assert_eq!(owners.owner(other, "127.0.0.1:2".parse().unwrap()).unwrap(), None);
        assert_eq!(owners.owner(other, "[::1]:2".parse().unwrap()).unwrap(), None);
    }

    #[test]
    fn a_record_counts_in_four_states_with_an_inode() {
        let mut answer = [0; 88];
        answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        answer[UID_AT..UID_AT + 4].copy_from_slice(&7_u32.to_ne_bytes());
        answer[INODE_AT] = 1;
        for state in 0..16 {
            answer[STATE_AT] = state;
            let found = interpret(&answer).unwrap().expect("a socket");
            assert_eq!((found.state, found.uid), (state, 7));
        }
        assert!(interpret(&answer[..80]).is_err(), "cut short");
        assert!(interpret(&[0; 16]).is_err());
    }
}
