//! poll(2) over a set that is filled again for each wait, and a waker that ends a wait from another
//! thread.

#![expect(unsafe_code, reason = "poll(2) and eventfd(2) have no safe form in std")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// poll(2) ignores entries with a negative file descriptor.
const NOTHING: libc::c_int = -1;

/// The event to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Bytes, a connection or the end can be read.
    Read,
    /// Data can be written.
    Write,
}

/// The files of one wait; its memory is reused by the next wait.
#[derive(Default)]
pub struct PollSet {
    entries: Vec<libc::pollfd>,
}

impl PollSet {
    /// Removes all files.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// Adds a file and returns its index, for [`PollSet::is_ready`] after the wait.
    pub fn add(&mut self, file: impl AsFd, interest: Interest) -> usize {
        let events = match interest {
            Interest::Read => libc::POLLIN,
            Interest::Write => libc::POLLOUT,
        };
        // A file that is closed before the wait is reported as ready (POLLNVAL), which is harmless.
        let fd = file.as_fd().as_raw_fd();
        self.entries.push(libc::pollfd { fd, events, revents: 0 });
        self.entries.len() - 1
    }

    /// Reserves an index as [`PollSet::add`] does, for a file that is not part of this wait.
    pub fn skip(&mut self) -> usize {
        self.entries.push(libc::pollfd { fd: NOTHING, events: 0, revents: 0 });
        self.entries.len() - 1
    }

    /// Waits until a file is ready, the timeout expires, or a signal was handled.
    ///
    /// The timeout is rounded up to whole milliseconds, so that a wait for a deadline ends after
    /// the deadline instead of spinning just before it.
    ///
    /// # Errors
    /// The errors of poll(2): no memory, or more files than the process may open.
    ///
    /// # Blocking
    /// Up to the timeout; without one until a file is ready.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout_ms = match timeout {
            Some(timeout) => whole_milliseconds(timeout),
            None => -1,
        };
        let count = libc::nfds_t::try_from(self.entries.len())
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: the pointer is to `count` initialised entries, which are ours alone until the
        // call returns; it writes nothing but their `revents`.
        let ready = unsafe { libc::poll(self.entries.as_mut_ptr(), count, timeout_ms) };
        if ready >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        for entry in &mut self.entries {
            entry.revents = 0;
        }
        match error.kind() {
            io::ErrorKind::Interrupted => Ok(()),
            _ => Err(error),
        }
    }

    /// Returns whether the file with this index is ready; also true for a broken one, whose next
    /// read or write returns the error.
    pub fn is_ready(&self, index: usize) -> bool {
        self.entries.get(index).is_some_and(|entry| entry.revents != 0)
    }
}

/// The state of a connection at one moment, without reading from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// The peer can send, and no received bytes are pending.
    Idle,
    /// Received bytes are pending.
    Bytes,
    /// The peer no longer sends, after a full or half close. Received bytes may be pending.
    HalfClosed,
    /// The connection is closed in both directions, or broken.
    Closed,
}

/// Returns the state of a connection.
///
/// # Errors
/// The error of poll(2), which is a lack of memory.
///
/// # Blocking
/// Never.
pub fn peer_state(connection: impl AsFd) -> io::Result<PeerState> {
    let fd = connection.as_fd().as_raw_fd();
    let mut entry = libc::pollfd { fd, events: libc::POLLIN | libc::POLLRDHUP, revents: 0 };
    // SAFETY: the pointer is to one entry that is ours; the call writes nothing but its `revents`.
    if unsafe { libc::poll(&raw mut entry, 1, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let shows = |events| entry.revents & events != 0;
    Ok(if shows(libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) {
        PeerState::Closed
    } else if shows(libc::POLLRDHUP) {
        PeerState::HalfClosed
    } else if shows(libc::POLLIN) {
        PeerState::Bytes
    } else {
        PeerState::Idle
    })
}

/// Converts a timeout to milliseconds, rounded up and limited to the maximum of `c_int`.
pub(super) fn whole_milliseconds(timeout: Duration) -> libc::c_int {
    libc::c_int::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
}

/// Ends the wait of the thread that polls it, from any other thread; several wakes count as one.
#[derive(Debug)]
pub struct Waker {
    event: File,
}

impl Waker {
    /// Creates an unused waker.
    ///
    /// # Errors
    /// If the process or the system has no free file descriptor.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointer.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is open, made just above, and nobody else has it.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { event: File::from(event) })
    }

    /// Makes the waker readable, and so ends the wait whose set contains it.
    pub fn wake(&self) {
        // Fails only if its 64-bit count is full, and then it is already readable.
        let _ = (&self.event).write(&1_u64.to_ne_bytes());
    }

    /// Makes the waker unreadable again. Check the cause of the wakes after this, not before.
    pub fn drain(&self) {
        // Fails only if no wake happened since, as intended.
        let _ = (&self.event).read(&mut [0; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::thread;
    use std::time::Instant;

    #[test]
    fn a_wait_without_events_lasts_at_least_its_timeout() {
        let waker = Waker::new().unwrap();
        let mut set = PollSet::default();
        let index = set.add(&waker, Interest::Read);
        let begin = Instant::now();
        set.wait(Some(Duration::from_micros(2_300))).unwrap();
        assert!(begin.elapsed() >= Duration::from_micros(2_300));
        assert!(!set.is_ready(index));
    }

    #[test]
    fn a_waker_ends_the_wait_of_another_thread_once() {
        let waker = Arc::new(Waker::new().unwrap());
        let mut set = PollSet::default();
        let index = set.add(&*waker, Interest::Read);
        let other = Arc::clone(&waker);
        let thread = thread::spawn(move || {
            other.wake();
            other.wake();
        });
        set.wait(None).unwrap();
        thread.join().unwrap();
        assert!(set.is_ready(index));

        waker.drain();
        set.wait(Some(Duration::ZERO)).unwrap();
        assert!(!set.is_ready(index), "both wakes are gone after one drain");
    }

    #[test]
    fn each_file_is_reported_for_its_own_interest() {
        let (left, right) = UnixStream::pair().unwrap();
        let mut set = PollSet::default();
        let reads = set.add(&left, Interest::Read);
        let writes = set.add(&left, Interest::Write);
        set.wait(Some(Duration::ZERO)).unwrap();
        assert_eq!((set.is_ready(reads), set.is_ready(writes)), (false, true));

        drop(right);
        set.clear();
        let reads = set.add(&left, Interest::Read);
        set.wait(Some(Duration::ZERO)).unwrap();
        assert!(set.is_ready(reads), "the peer's end is something to read");
    }

    /// Waits until a connection's state changes: TCP takes its time.
    fn next_state(connection: &TcpStream, before: PeerState) -> PeerState {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let state = peer_state(connection).unwrap();
            if state != before {
                return state;
            }
            assert!(Instant::now() < end, "still {before:?}");
            thread::yield_now();
        }
    }

    #[test]
    fn peer_state_distinguishes_half_and_full_close() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pair = || {
            let caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (caller, listener.accept().unwrap().0)
        };
        let (mut caller, accepted) = pair();
        assert_eq!(peer_state(&accepted).unwrap(), PeerState::Idle);
        caller.write_all(b"x").unwrap();
        assert_eq!(next_state(&accepted, PeerState::Idle), PeerState::Bytes);
        // Detected behind unread bytes.
        caller.shutdown(Shutdown::Write).unwrap();
        assert_eq!(next_state(&accepted, PeerState::Bytes), PeerState::HalfClosed);
        let (caller, mut accepted) = pair();
        accepted.write_all(b"x").unwrap();
        caller.peek(&mut [0]).unwrap();
        // With unread bytes, the close is a reset.
        drop(caller);
        assert_eq!(next_state(&accepted, PeerState::Idle), PeerState::Closed);

        let (left, right) = UnixStream::pair().unwrap();
        assert_eq!(peer_state(&left).unwrap(), PeerState::Idle);
        right.shutdown(Shutdown::Write).unwrap();
        assert_eq!(peer_state(&left).unwrap(), PeerState::HalfClosed);
        drop(right);
        assert_eq!(peer_state(&left).unwrap(), PeerState::Closed);
    }

    #[test]
    fn timeouts_are_rounded_up_and_capped() {
        assert_eq!(whole_milliseconds(Duration::ZERO), 0);
        assert_eq!(whole_milliseconds(Duration::from_nanos(1)), 1);
        assert_eq!(whole_milliseconds(Duration::from_millis(7)), 7);
        assert_eq!(whole_milliseconds(Duration::MAX), libc::c_int::MAX);
    }
}
