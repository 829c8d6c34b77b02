//! Listening sockets, TCP and Unix.

use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::{fmt, io};

use crate::http::net::self_probe::SelfProbe;
use crate::http::socket::Stream;
use crate::os::activation::PassedSocket;
use crate::os::resolve::TrustedUsers;
use crate::os::{backlog, own};

/// The owner and the group of the socket may connect.
const MODE: u32 = 0o660;

/// A listening socket.
#[derive(Debug)]
pub(in crate::http) enum Listener {
    Tcp {
        listener: TcpListener,
        /// Whether the agent bound this socket itself; otherwise the service manager passed it.
        is_own: bool,
    },
    /// With its file, where the agent bound the socket itself.
    Unix { listener: UnixListener, file: Option<SocketFile> },
}

impl Listener {
    /// Listens on a TCP address with a kernel backlog of `most` connections.
    pub(crate) fn bind(address: &SocketAddr, most: usize) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        backlog::keep(&listener, most)?;
        Self::Tcp { listener, is_own: true }.into_nonblocking()
    }

    /// Listens on a Unix socket at this path, for its owner and this group. An existing socket is replaced if no
    /// process listens on it. Fails where users other than root and the agent's own can change where the path
    /// leads.
    pub(crate) fn bind_unix(path: &Path, group: Option<u32>) -> io::Result<Self> {
        own::check_place(path, TrustedUsers::own()).map_err(io::Error::other)?;
        remove_stale(path)?;
        let listener = UnixListener::bind(path)?;
        let file = SocketFile::of(path)?;
        if group.is_some() {
            chown(path, None, group)?;
        }
        fs::set_permissions(path, Permissions::from_mode(MODE))?;
        Self::Unix { listener, file: Some(file) }.into_nonblocking()
    }

    /// Takes a socket that was passed at the start of the agent.
    pub(crate) fn passed(socket: PassedSocket) -> io::Result<Self> {
        match socket {
            PassedSocket::Tcp(listener) => Self::Tcp { listener, is_own: false }.into_nonblocking(),
            PassedSocket::Unix(listener) => Self::Unix { listener, file: None }.into_nonblocking(),
        }
    }

    fn into_nonblocking(self) -> io::Result<Self> {
        match &self {
            Self::Tcp { listener, .. } => listener.set_nonblocking(true)?,
            Self::Unix { listener, .. } => listener.set_nonblocking(true)?,
        }
        Ok(self)
    }

    /// Accepts the next connection without blocking; returns it with its address, which TCP alone has.
    pub(super) fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Self::Tcp { listener, .. } => {
                let (stream, peer) = listener.accept()?;
                Ok((Stream::Tcp(stream), Some(peer)))
            }
            Self::Unix { listener, .. } => Ok((Stream::Unix(listener.accept()?.0), None)),
        }
    }

    /// Refuses new connections. Returns `true` when the backlog still has to be accepted, because a close would
    /// reset it. A passed socket returns `false`: the service manager keeps it, and the next agent accepts its
    /// backlog.
    pub(super) fn turn_away(&mut self) -> bool {
        match self {
            Self::Tcp { listener, is_own: true } => {
                if let Err(error) = backlog::turn_away(listener) {
                    // Then a close resets only connections that arrive between the last accept and the close.
                    log::debug!("cannot refuse new connections: {error}");
                }
                true
            }
            Self::Unix { file, .. } => file.take().is_some(),
            Self::Tcp { is_own: false, .. } => false,
        }
    }

    /// Returns the address at which this process can connect to the listener.
    pub(crate) fn self_probe(&self) -> io::Result<SelfProbe> {
        match self {
            Self::Tcp { listener, .. } => listener.local_addr().map(SelfProbe::Tcp),
            Self::Unix { listener, .. } => listener.local_addr().map(SelfProbe::Unix),
        }
    }

    /// Returns the address of a TCP listener.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp { listener, .. } => listener.local_addr().ok(),
            Self::Unix { .. } => None,
        }
    }
}

/// Writes the address or the path, for a log line.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { listener, .. } => match listener.local_addr() {
                Ok(address) => write!(f, "{address}"),
                Err(error) => write!(f, "an unknown address ({error})"),
            },
            Self::Unix { listener, .. } => match listener.local_addr() {
                Ok(address) => {
                    write!(f, "{}", address.as_pathname().unwrap_or(Path::new("@")).display())
                }
                Err(error) => write!(f, "an unknown path ({error})"),
            },
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp { listener, .. } => listener.as_fd(),
            Self::Unix { listener, .. } => listener.as_fd(),
        }
    }
}

/// Removes a socket that no process listens on; any other file at the path stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(_) => {}
    }
    // A datagram socket on purpose: its connect to a stream socket fails, with an error that shows whether a
    // process listens, and it never enters the listener's backlog.
    match UnixDatagram::unbound()?.connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(_) | Ok(()) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// The file of a socket that the agent bound; removed on drop, unless another file has replaced it.
#[derive(Debug)]
pub(in crate::http) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            if let Err(error) = fs::remove_file(&self.path) {
                log::warn!("cannot remove socket {}: {error}", self.path.display());
            }
        }
    }
}

/// Returns the file system and the inode number of a file.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("mistify-{name}-{}", std::process::id()))
    }

    #[test]
    fn only_an_unused_socket_is_replaced() {
        let path = path("socket");
        drop(UnixListener::bind(&path).unwrap());
        let listener = Listener::bind_unix(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        assert_eq!(listener.to_string(), path.display().to_string());
        let error = Listener::bind_unix(&path, None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        UnixStream::connect(&path).unwrap();
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn passed_socket_still_accepts_for_the_next_agent() {
        let (path, here) = (path("passed"), "127.0.0.1:0");
        let passed = TcpListener::bind(here).unwrap();
        let address = passed.local_addr().unwrap();
        let copy = PassedSocket::Tcp(passed.try_clone().unwrap());
        assert!(!Listener::passed(copy).unwrap().turn_away());
        TcpStream::connect_timeout(&address, Duration::from_secs(20)).unwrap();
        let passed = UnixListener::bind(&path).unwrap();
        let copy = PassedSocket::Unix(passed.try_clone().unwrap());
        assert!(!Listener::passed(copy).unwrap().turn_away());
        UnixStream::connect(&path).unwrap();
        fs::remove_file(&path).unwrap();

        let mut own = Listener::bind_unix(&path, None).unwrap();
        assert!(own.turn_away());
        assert!(!path.exists());
        let mut own = Listener::bind(&here.parse().unwrap(), 8).unwrap();
        assert!(own.turn_away());
        let late = TcpStream::connect_timeout(&own.address().unwrap(), Duration::from_millis(50));
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn foreign_file_at_the_socket_path_stays() {
        let path = path("other");
        fs::write(&path, "mine").unwrap();
        assert!(Listener::bind_unix(&path, None).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        fs::remove_file(&path).unwrap();

        let first = Listener::bind_unix(&path, None).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = UnixListener::bind(&path).unwrap();
        drop(first);
        assert!(path.exists(), "it is the second's");
        fs::remove_file(&path).unwrap();
    }
}
