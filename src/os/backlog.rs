//! The backlog of a listening socket: its size, and a filter that refuses new connections while established ones can
//! still be accepted. Closing the socket resets all connections in the backlog, whose clients have connected and may
//! have sent a request.

#![expect(
    unsafe_code,
    reason = "listen(2) and setsockopt(2) with a filter have no safe form in std"
)]

use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;

use libc::{BPF_ABS, BPF_B, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET};

/// The offset of the flags in a TCP header, in bytes: the filter of a socket sees a packet from there on (RFC 9293,
/// section 3.1).
const FLAGS: u32 = 13;
/// The flag in a packet that opens a connection.
const SYN: u32 = 0x02;
/// A filter returns the number of bytes in the packet that pass.
const ALL: u32 = u32::MAX;

/// The backlog in std.
const STD_BACKLOG: usize = 128;

/// Sets the size of the backlog, limited by `net.core.somaxconn`, and at least that of std: a client that finds it full
/// retries after 1 s, then 3 s and more.
///
/// # Errors
/// If the kernel refuses; no cause is known.
pub fn keep(listener: &TcpListener, most: usize) -> io::Result<()> {
    let most = i32::try_from(most.max(STD_BACKLOG)).unwrap_or(i32::MAX);
    // SAFETY: the descriptor is open as long as `listener`, and the call takes no memory of ours.
    let result = unsafe { libc::listen(listener.as_raw_fd(), most) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the kernel drop packets that open a new connection. A client that connects meanwhile retries until the socket
/// is closed, and is then refused.
///
/// # Errors
/// If the kernel does not support filters; nothing has changed then.
pub fn turn_away(listener: &TcpListener) -> io::Result<()> {
    let step = |code: u32, k, jt, jf| {
        // Codes have 16 bits; the constants of libc are wider.
        let code = u16::try_from(code).map_err(io::Error::other)?;
        io::Result::Ok(libc::sock_filter { code, jt, jf, k })
    };
    // If the flag is set, skips the next step.
    let mut steps = [
        step(BPF_LD | BPF_B | BPF_ABS, FLAGS, 0, 0)?,
        step(BPF_JMP | BPF_JSET | BPF_K, SYN, 1, 0)?,
        step(BPF_RET | BPF_K, ALL, 0, 0)?,
        step(BPF_RET | BPF_K, 0, 0, 0)?,
    ];
    let len = u16::try_from(steps.len()).map_err(io::Error::other)?;
    let filter = libc::sock_fprog { len, filter: steps.as_mut_ptr() };
    let size = libc::socklen_t::try_from(size_of_val(&filter)).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `size` bytes of `filter` and the `len` steps that it points to, which
    // all outlive the call, and copies them; the descriptor is open as long as `listener`.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_of_connections_is_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        keep(&listener, 400).unwrap();
        // A connection that finds the backlog full would retry after 1 s.
        let soon = Duration::from_millis(900);
        let burst: Result<Vec<_>, _> =
            (0..400).map(|_| TcpStream::connect_timeout(&address, soon)).collect();
        assert!(burst.is_ok(), "{burst:?}");
    }

    #[test]
    fn connected_callers_are_served_and_new_ones_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut caller = TcpStream::connect(address).unwrap();
        caller.write_all(b"before").unwrap();

        turn_away(&listener).unwrap();

        let error = TcpStream::connect_timeout(&address, Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let (mut stream, _) = listener.accept().unwrap();
        caller.write_all(b", after").unwrap();
        let mut bytes = [0; 13];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"before, after");
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(listener);
        let error = TcpStream::connect(address).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}
