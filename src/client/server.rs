//! Whose process answers a command: asked of the kernel before a byte is sent.
//!
//! The agent's port needs no privileges. While the agent is away any user can listen there, and would be
//! shown the token and be believed.

use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::config::fixed::CLIENT_CONNECT;
use crate::os::peer::Peer;
use crate::os::resolve::Trusted;
use crate::os::service::agent_user;
use crate::os::socket_owners::{End, SocketOwners};

/// Between two looks at a connection that was accepted meanwhile, or whose listener is gone.
const PAUSE: Duration = Duration::from_millis(2);

/// Refuses a connection whose other end is on this host and belongs to another user than root, the caller and
/// the user of the agent's unit. A server on another host is known by its address alone.
///
/// # Errors
/// Whose the other end is; that the connection is lost; that the kernel does not tell.
///
/// # Blocking
/// Not for the connection to be accepted. At most [`CLIENT_CONNECT`] where the connection is lost meanwhile.
pub(super) fn check_tcp(stream: &TcpStream) -> io::Result<()> {
    let (server, own) = (stream.peer_addr()?, stream.local_addr()?);
    let is_here = server.ip().to_canonical().is_loopback() || server.ip() == own.ip();
    let mut owners = SocketOwners::open()?;
    let deadline = Instant::now() + CLIENT_CONNECT;
    loop {
        match owners.end(server, own)? {
            End::Owned(uid) => return check(uid),
            End::Absent if is_here => return Err(io::ErrorKind::ConnectionAborted.into()),
            End::Absent => return Ok(()),
            End::Unowned => {}
        }
        // No process has accepted the connection, before and after the listener is looked at: so it waits in
        // the queue of that listener. systemd lets it wait there until the agent has started.
        let listener = owners.listener(server)?;
        if let (Some(uid), End::Unowned) = (listener, owners.end(server, own)?) {
            return check(uid);
        }
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        thread::sleep(PAUSE);
    }
}

/// The same of a Unix socket, by who listens there.
///
/// # Errors
/// As [`check_tcp`].
pub(super) fn check_unix(stream: &UnixStream) -> io::Result<()> {
    check(Peer::of_unix(stream)?.uid)
}

fn check(uid: u32) -> io::Result<()> {
    if Trusted::own().has(uid) || agent_user() == Ok(uid) {
        return Ok(());
    }
    let why = format!(
        "the server is a process of user {uid}, not of root or the agent's user; the command sent \
         nothing (if the agent runs as user {uid}, run this command as that user)"
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}
