//! Sockets that the process that started the agent already listens on (`sd_listen_fds(3)`).

#![expect(
    unsafe_code,
    reason = "descriptors come as numbers, and the environment is the process's"
)]

use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::{env, fs, io, mem, process};

/// The first passed descriptor.
const FIRST: RawFd = 3;
/// The maximum number of passed sockets; more are an error.
const SOCKETS_MAX: usize = 16;
const VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// A listening socket.
#[derive(Debug)]
pub enum PassedSocket {
    /// A TCP socket.
    Tcp(TcpListener),
    /// A Unix socket in the file system.
    Unix(UnixListener),
}

/// A socket with its name, if it has one.
pub type NamedSocket = (Option<String>, PassedSocket);

/// Takes the sockets that were passed to this process, each with its name if it has one. Programs
/// that are started later inherit neither the sockets nor the variables, so that nothing can be
/// taken twice. Must be called first, before other threads start.
///
/// # Errors
/// In words, if the passed descriptors do not match the variables, or one is not a stream socket
/// that listens by TCP or in the file system.
pub fn take() -> Result<Vec<NamedSocket>, String> {
    let [pid, count, names] = VARIABLES.map(|name| env::var(name).ok());
    let is_ours = pid.is_some_and(|pid| pid.parse() == Ok(process::id()));
    if !is_ours {
        return Ok(Vec::new());
    }
    let count = count.and_then(|count| count.parse().ok()).filter(|count| *count <= SOCKETS_MAX);
    let count: usize = count.ok_or("LISTEN_FDS must be a number of at most 16 sockets")?;
    forget_variables()?;
    let mut names = names.iter().flat_map(|names| names.split(':'));
    (FIRST..).take(count).map(|fd| Ok((names.next().map(str::to_owned), adopt(fd)?))).collect()
}

fn forget_variables() -> Result<(), String> {
    let threads = fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 {
        return Err(format!("cannot take the passed sockets: {threads} threads already run"));
    }
    for name in VARIABLES {
        // SAFETY: no other thread runs, as was just counted, so that none reads the environment.
        unsafe { env::remove_var(name) };
    }
    Ok(())
}

/// Takes ownership of a passed descriptor.
fn adopt(fd: RawFd) -> Result<PassedSocket, String> {
    let wrong = |why: io::Error| format!("cannot use passed descriptor {fd}: {why}");
    // SAFETY: takes no pointer, and fails if `fd` is not open. Programs that are started later do not
    // inherit the descriptor.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(wrong(io::Error::last_os_error()));
    }
    // SAFETY: `fd` is open. It was passed to this process, whose variables said so and are gone:
    // nobody takes it again, and nothing was opened here with that number.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let is_listening = option(&socket, libc::SO_ACCEPTCONN).map_err(wrong)? == 1
        && option(&socket, libc::SO_TYPE).map_err(wrong)? == libc::SOCK_STREAM;
    match option(&socket, libc::SO_DOMAIN).map_err(wrong)? {
        libc::AF_INET | libc::AF_INET6 if is_listening => Ok(PassedSocket::Tcp(socket.into())),
        libc::AF_UNIX if is_listening => Ok(PassedSocket::Unix(socket.into())),
        _ => Err(wrong(io::Error::other("not a listening stream socket"))),
    }
}

/// Returns an integer option of a socket.
fn option(socket: &OwnedFd, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length =
        libc::socklen_t::try_from(mem::size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes to `value`, of which any are valid, and their
    // number to `length`; the descriptor is open during the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_variables_no_socket_is_used() {
        assert!(take().unwrap().is_empty());
    }

    #[test]
    fn listening_sockets_are_distinguished() {
        let listener = OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
        assert_eq!(option(&listener, libc::SO_ACCEPTCONN).unwrap(), 1);
        assert_eq!(option(&listener, libc::SO_DOMAIN).unwrap(), libc::AF_INET);
        let file = OwnedFd::from(fs::File::open("/dev/null").unwrap());
        assert!(option(&file, libc::SO_TYPE).is_err());
    }
}
