//! Signals as values for which one thread waits.
//!
//! A handler writes the signal's number to a socket pair. Blocking the signals in all threads and reading them with
//! sigwait(3) would be less code, but children inherit the mask: each `zfs` would ignore SIGTERM.

#![expect(unsafe_code, reason = "std cannot install signal handlers")]

use std::io::{self, Read};
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::OnceLock;

/// The handler's end of the pair. Lives as long as the process, because the handler does.
static HANDLER_END: OnceLock<UnixStream> = OnceLock::new();

/// A signal to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: the service manager stops the agent.
    Terminate,
    /// SIGINT: a user at a terminal stops the agent.
    Interrupt,
    /// SIGHUP: log files must be reopened.
    Hangup,
}

impl Signal {
    const ALL: [Self; 3] = [Self::Terminate, Self::Interrupt, Self::Hangup];

    fn number(self) -> libc::c_int {
        match self {
            Self::Terminate => libc::SIGTERM,
            Self::Interrupt => libc::SIGINT,
            Self::Hangup => libc::SIGHUP,
        }
    }
}

/// The received signals, in order.
#[derive(Debug)]
pub struct Signals {
    arrived: UnixStream,
}

impl Signals {
    /// Catches the first SIGTERM and the first SIGINT from now on; a second one ends the process at
    /// once.
    ///
    /// # Errors
    /// If the process has no free file descriptor, or has already installed the handlers.
    pub fn install() -> io::Result<Self> {
        let (arrived, handler_end) = UnixStream::pair()?;
        // A handler must not wait; if thousands are unread, one more adds no information.
        handler_end.set_nonblocking(true)?;
        HANDLER_END
            .set(handler_end)
            .map_err(|_| io::Error::other("signal handlers are already installed"))?;
        for signal in [Signal::Terminate, Signal::Interrupt] {
            catch(signal)?;
        }
        Ok(Self { arrived })
    }

    /// Catches every SIGHUP from now on, which otherwise ends the process at once.
    ///
    /// # Errors
    /// The errors of sigaction(2); no cause of a failure is known.
    pub fn catch_hangups(&self) -> io::Result<()> {
        catch(Signal::Hangup)
    }

    /// Returns the next signal.
    ///
    /// # Errors
    /// The errors of the read; no cause of a failure is known.
    ///
    /// # Blocking
    /// Until a signal arrives.
    pub fn wait(&mut self) -> io::Result<Signal> {
        loop {
            let mut number = [0_u8];
            // Continues after EINTR, which the signal itself may cause.
            self.arrived.read_exact(&mut number)?;
            let number = libc::c_int::from(number[0]);
            if let Some(signal) = Signal::ALL.into_iter().find(|it| it.number() == number) {
                return Ok(signal);
            }
        }
    }
}

fn catch(signal: Signal) -> io::Result<()> {
    // SAFETY: sigaction is plain C data (integers, a mask, an optional function pointer), for
    // which all zeroes is a valid value: default action, empty mask, no flags.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    let handler: extern "C" fn(libc::c_int) = on_signal;
    action.sa_sigaction = handler as libc::sighandler_t;
    // Interrupted calls are restarted, because not all libraries expect EINTR. After the first SIGTERM or SIGINT the
    // default action is restored: a user who sends a second one does not want to wait for running work.
    action.sa_flags = match signal {
        Signal::Terminate | Signal::Interrupt => libc::SA_RESTART | libc::SA_RESETHAND,
        Signal::Hangup => libc::SA_RESTART,
    };
    // SAFETY: `action` is initialised and read during the call only; its handler lives in the
    // program's text and calls nothing but what signal-safety(7) lists.
    let result = unsafe { libc::sigaction(signal.number(), &action, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn on_signal(number: libc::c_int) {
    let (Some(end), Ok(byte)) = (HANDLER_END.get(), u8::try_from(number)) else { return };
    // SAFETY: takes no pointer, and returns this thread's own errno, which is always valid.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: `errno` is valid for reads, see above.
    let before = unsafe { errno.read() };
    // SAFETY: write(2) is async-signal-safe, the buffer is one byte on this stack, and the socket
    // is never closed. A result other than 1 means full: the reader has enough to wake up for.
    unsafe { libc::write(end.as_raw_fd(), (&raw const byte).cast(), 1) };
    // SAFETY: `errno` is valid for writes; the interrupted code must find its own value again.
    unsafe { errno.write(before) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raise(number: libc::c_int) {
        // SAFETY: takes no pointer; the handler is installed, so the process lives on.
        let result = unsafe { libc::raise(number) };
        assert_eq!(result, 0);
    }

    // One test, because the handlers apply to the whole process.
    #[test]
    fn signals_are_read_in_order_and_end_nothing() {
        let mut signals = Signals::install().unwrap();
        raise(libc::SIGTERM);
        raise(libc::SIGINT);
        assert_eq!(signals.wait().unwrap(), Signal::Terminate);
        assert_eq!(signals.wait().unwrap(), Signal::Interrupt);
        signals.catch_hangups().unwrap();
        for _ in 0..3 {
            raise(libc::SIGHUP);
            assert_eq!(signals.wait().unwrap(), Signal::Hangup);
        }
        assert!(Signals::install().is_err(), "a second reader would take half of them");
    }
}
