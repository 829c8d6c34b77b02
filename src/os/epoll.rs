//! epoll(7): waits for files that other threads add, change and remove meanwhile.

#![expect(unsafe_code, reason = "epoll has no safe form in std")]

use std::io;
use std::ops::BitOr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use super::poll::whole_milliseconds;

/// The maximum number of events in one wait; the next wait returns the others.
const BATCH: usize = 32;

/// Events to wait for, or that have occurred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events(u32);

impl Events {
    /// No event.
    pub const NONE: Self = Self(0);
    /// Data can be read.
    pub const READ: Self = Self(bits(libc::EPOLLIN));
    /// Data can be written.
    pub const WRITE: Self = Self(bits(libc::EPOLLOUT));
    /// An error occurred. Reported even if not requested.
    pub const ERROR: Self = Self(bits(libc::EPOLLERR));
    /// The other side is gone. Reported even if not requested.
    pub const HANGUP: Self = Self(bits(libc::EPOLLHUP));

    /// Returns whether these events contain any of `others`.
    pub fn has(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// Converts the events for the kernel. A file without requested events reports an error or
    /// hangup at most once, and not repeatedly.
    fn raw(self) -> u32 {
        if self == Self::NONE { bits(libc::EPOLLET) } else { self.0 }
    }
}

/// Converts a flag to the type of the kernel's events.
const fn bits(flag: libc::c_int) -> u32 {
    u32::from_ne_bytes(flag.to_ne_bytes())
}

impl BitOr for Events {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A set of files, each with a number that identifies it in events.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

/// The result of one wait; its memory is reused by the next wait.
pub struct Batch {
    entries: [libc::epoll_event; BATCH],
    count: usize,
}

impl Batch {
    /// Returns an empty result.
    pub fn new() -> Self {
        Self { entries: [libc::epoll_event { events: 0, u64: 0 }; BATCH], count: 0 }
    }

    /// Returns the numbers of the files and their events.
    pub fn found(&self) -> impl Iterator<Item = (u64, Events)> {
        self.entries.iter().take(self.count).map(|entry| (entry.u64, Events(entry.events)))
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Epoll {
    /// Creates an empty set.
    ///
    /// # Errors
    /// If the process or the system has no free file descriptor.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointer.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is open, made just above, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Adds a file, also to a wait in progress. The file leaves the set with [`Epoll::remove`], or
    /// when it is closed.
    ///
    /// # Errors
    /// For a file that is already in the set, or that is always ready (a regular file).
    pub fn add(&self, file: BorrowedFd<'_>, events: Events, number: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, file, events, number)
    }

    /// Changes the requested events of a file, also for a wait in progress.
    ///
    /// # Errors
    /// For a file that is not in the set.
    pub fn change(&self, file: BorrowedFd<'_>, events: Events, number: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, file, events, number)
    }

    /// Removes a file.
    ///
    /// # Errors
    /// For a file that is not in the set.
    pub fn remove(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, file, Events::NONE, 0)
    }

    fn control(
        &self,
        operation: libc::c_int,
        file: BorrowedFd<'_>,
        events: Events,
        number: u64,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events.raw(), u64: number };
        let (set, file) = (self.0.as_raw_fd(), file.as_raw_fd());
        // SAFETY: both files are open; the event is read during the call only.
        let done = unsafe { libc::epoll_ctl(set, operation, file, ptr::from_mut(&mut event)) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits until an event occurs, the timeout expires, or a signal was handled.
    ///
    /// The timeout is rounded up to whole milliseconds, so that a wait for a deadline ends after
    /// the deadline instead of spinning just before it.
    ///
    /// # Errors
    /// No cause of a failure is known.
    ///
    /// # Blocking
    /// Up to the timeout; without one until an event occurs.
    pub fn wait(&self, batch: &mut Batch, timeout: Option<Duration>) -> io::Result<()> {
        batch.count = 0;
        let timeout_ms = timeout.map_or(-1, whole_milliseconds);
        let size = libc::c_int::try_from(BATCH).unwrap_or(1);
        let entries = batch.entries.as_mut_ptr();
        // SAFETY: the pointer is to BATCH entries, which are ours alone until the call returns.
        let found = unsafe { libc::epoll_wait(self.0.as_raw_fd(), entries, size, timeout_ms) };
        match usize::try_from(found) {
            Ok(count) => batch.count = count,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;

    const AT_ONCE: Option<Duration> = Some(Duration::ZERO);

    fn found(set: &Epoll, timeout: Option<Duration>) -> Vec<(u64, Events)> {
        let mut batch = Batch::default();
        set.wait(&mut batch, timeout).unwrap();
        batch.found().collect()
    }

    #[test]
    fn file_is_reported_by_number_and_requested_event() {
        let (left, right) = UnixStream::pair().unwrap();
        let set = Epoll::new().unwrap();
        set.add(left.as_fd(), Events::READ, 7).unwrap();
        assert_eq!(found(&set, AT_ONCE), []);
        set.change(left.as_fd(), Events::READ | Events::WRITE, 8).unwrap();
        assert_eq!(found(&set, AT_ONCE), [(8, Events::WRITE)]);
        drop(right);
        let [(8, events)] = found(&set, AT_ONCE)[..] else { panic!("one file") };
        assert!(events.has(Events::HANGUP) && events.has(Events::READ));
        set.remove(left.as_fd()).unwrap();
        assert_eq!(found(&set, AT_ONCE), []);
        assert!(set.change(left.as_fd(), Events::READ, 8).is_err());
    }

    #[test]
    fn file_watched_for_nothing_reports_an_error_once() {
        let (left, right) = UnixStream::pair().unwrap();
        let set = Epoll::new().unwrap();
        set.add(left.as_fd(), Events::NONE, 7).unwrap();
        drop(right);
        assert_eq!(found(&set, AT_ONCE), [(7, Events::HANGUP)]);
        assert_eq!(found(&set, AT_ONCE), []);
        set.change(left.as_fd(), Events::READ, 7).unwrap();
        for _ in 0..2 {
            assert_eq!(found(&set, AT_ONCE).len(), 1, "reported as long as it is watched");
        }
    }

    #[test]
    fn running_wait_includes_files_added_meanwhile() {
        let (left, _right) = UnixStream::pair().unwrap();
        let set = Epoll::new().unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| found(&set, None));
            set.add(left.as_fd(), Events::WRITE, 7).unwrap();
            assert_eq!(waiting.join().unwrap(), [(7, Events::WRITE)]);
        });
    }
}
