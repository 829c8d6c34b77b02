//! Reports the state of the service to systemd: `sd_notify(3)`, a datagram to the socket in
//! `$NOTIFY_SOCKET`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The connection to the service manager.
#[derive(Debug)]
pub struct Notify {
    socket: UnixDatagram,
    to: SocketAddr,
    watchdog: Option<Duration>,
}

impl Notify {
    /// Reads the variables through `variable`; `None` if no manager expects notifications.
    ///
    /// # Errors
    /// An invalid `$NOTIFY_SOCKET`.
    pub fn from_environment(
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> io::Result<Option<Self>> {
        let Some(path) = variable("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
            return Ok(None);
        };
        let to = address(&path)?;
        let socket = UnixDatagram::unbound()?;
        // A manager that does not read must not block the agent.
        socket.set_nonblocking(true)?;
        Ok(Some(Self { socket, to, watchdog: watchdog(variable) }))
    }

    /// Returns the interval within which the manager expects `WATCHDOG=1` from [`Notify::send`], if
    /// any.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Sends these assignments, one for each line. Never waits.
    ///
    /// # Errors
    /// If the datagram cannot be sent.
    pub fn send(&self, lines: &str) -> io::Result<()> {
        self.socket.send_to_addr(lines.as_bytes(), &self.to).map(drop)
    }
}

/// Parses a path, or after `@` a name in the abstract name space.
fn address(path: &OsStr) -> io::Result<SocketAddr> {
    match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(path),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a path or abstract name")),
    }
}

/// Implements `sd_watchdog_enabled(3)`: returns the interval if it applies to this process.
fn watchdog(variable: impl Fn(&str) -> Option<OsString>) -> Option<Duration> {
    let number = |name: &str| variable(name)?.to_str()?.parse::<u64>().ok();
    let is_ours = match variable("WATCHDOG_PID") {
        Some(_) => number("WATCHDOG_PID") == Some(std::process::id().into()),
        None => true,
    };
    number("WATCHDOG_USEC").filter(|time| is_ours && *time > 0).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notify(variables: &[(&str, &str)]) -> io::Result<Option<Notify>> {
        Notify::from_environment(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.into())
        })
    }

    #[test]
    fn a_name_in_the_abstract_name_space_is_reached() {
        let name = format!("mistify-notify-{}", std::process::id());
        let to = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&to).unwrap();
        let notify = notify(&[("NOTIFY_SOCKET", &format!("@{name}"))]).unwrap().unwrap();
        notify.send("READY=1\nSTATUS=a").unwrap();
        let mut text = [0; 64];
        let length = manager.recv(&mut text).unwrap();
        assert_eq!(&text[..length], b"READY=1\nSTATUS=a");
        assert_eq!(notify.watchdog(), None);
    }

    #[test]
    fn the_watchdog_is_for_the_process_that_it_names() {
        let own = std::process::id().to_string();
        let socket = ("NOTIFY_SOCKET", "/nonexistent");
        let watchdog = |variables: &[(&str, &str)]| {
            notify(&[&[socket], variables].concat()).unwrap().unwrap().watchdog()
        };
        let time = ("WATCHDOG_USEC", "3000000");
        assert_eq!(watchdog(&[time]), Some(Duration::from_secs(3)));
        assert_eq!(watchdog(&[time, ("WATCHDOG_PID", &own)]), Some(Duration::from_secs(3)));
        assert_eq!(watchdog(&[time, ("WATCHDOG_PID", "1")]), None);
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "soon")]), None);
    }

    #[test]
    fn without_a_socket_no_notification_is_sent() {
        assert!(notify(&[]).unwrap().is_none());
        assert!(notify(&[("NOTIFY_SOCKET", "relative")]).is_err());
    }
}
