//! Checks which user's process answers a subcommand, by a kernel query before a byte is sent.
//!
//! The agent's port needs no privileges. While the agent is stopped any user can listen there, would receive
//! the token, and could send false answers.

use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::config::fixed::CLIENT_CONNECT;
use crate::os::peer::Peer;
use crate::os::resolve::TrustedUsers;
use crate::os::service::agent_user;
use crate::os::socket_owners::{End, SocketOwners};

/// The pause between two checks of a connection that was just accepted, or whose listener has ended.
const PAUSE: Duration = Duration::from_millis(2);

/// Refuses a connection whose other end is on this host and belongs to another user than root, the caller and
/// the user of the agent's unit. A server on another host is identified by its address alone.
///
/// # Errors
/// The other end belongs to another user; the connection is lost; the kernel does not report the owner.
///
/// # Blocking
/// Does not wait for the connection to be accepted. At most [`CLIENT_CONNECT`] if the connection is lost
/// meanwhile.
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
        // No process had accepted the connection, before and after the query for the listener: so it waits in
        // the backlog of that listener. With socket activation it waits there until the agent has started.
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

/// Refuses a Unix socket by the user that listens there, as [`check_tcp`] does.
///
/// # Errors
/// As [`check_tcp`].
pub(super) fn check_unix(stream: &UnixStream) -> io::Result<()> {
    check(Peer::of_unix(stream)?.uid)
}

fn check(uid: u32) -> io::Result<()> {
    if TrustedUsers::own().has(uid) || agent_user() == Ok(uid) {
        return Ok(());
    }
    let why = format!(
        "the server is a process of user {uid}, not of root or the agent's user; the command sent \
         nothing (if the agent runs as user {uid}, run this command as that user)"
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}
