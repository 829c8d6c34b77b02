//! epoll(7): waits for files that other threads add, change and take out meanwhile.

#![expect(unsafe_code, reason = "epoll has no safe form in std")]

use std::io;
use std::ops::BitOr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use super::poll::whole_milliseconds;

/// Events that one wait takes; what is left over comes with the next one.
const BATCH: usize = 32;

/// What a file is waited for, or what has happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events(u32);

impl Events {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// There is something to read.
    pub const READ: Self = Self(bits(libc::EPOLLIN));
    /// There is room to write.
    pub const WRITE: Self = Self(bits(libc::EPOLLOUT));
    /// It is broken. Told whether waited for or not.
    pub const ERROR: Self = Self(bits(libc::EPOLLERR));
    /// The other side is gone. Told whether waited for or not.
    pub const HANGUP: Self = Self(bits(libc::EPOLLHUP));

    /// Whether any of `others` is among these.
    pub fn has(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// The events as the kernel takes them. A file without interests is reported at most once more, when it breaks.
    fn raw(self) -> u32 {
        if self == Self::NONE { bits(libc::EPOLLET) } else { self.0 }
    }
}

/// The flag as the kernel's events have it.
const fn bits(flag: libc::c_int) -> u32 {
    u32::from_ne_bytes(flag.to_ne_bytes())
}

impl BitOr for Events {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A set of files, each with a number by which events name it.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

/// What one wait has found; its memory is kept from wait to wait.
pub struct Batch {
    entries: [libc::epoll_event; BATCH],
    count: usize,
}

impl Batch {
    /// Nothing found yet.
    pub fn new() -> Self {
        Self { entries: [libc::epoll_event { events: 0, u64: 0 }; BATCH], count: 0 }
    }

    /// The files' numbers and what has happened to each.
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
    /// An empty set.
    ///
    /// # Errors
    /// When the process or the system has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointer.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is open, made just above, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Adds a file; a wait under way waits for it too. It leaves the set by [`Epoll::remove`], or
    /// when it is closed.
    ///
    /// # Errors
    /// For a file that is in the set already, or of a kind that is always ready (a regular one).
    pub fn add(&self, file: BorrowedFd<'_>, events: Events, number: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, file, events, number)
    }

    /// Changes what a file is waited for, for a wait under way too.
    ///
    /// # Errors
    /// For a file that is not in the set.
    pub fn change(&self, file: BorrowedFd<'_>, events: Events, number: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, file, events, number)
    }

    /// Takes a file out.
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

    /// Waits until something happens to a file, the timeout is over, or a signal was handled.
    ///
    /// The timeout is rounded up to whole milliseconds, so that a wait for a deadline ends after
    /// it and not in a spin just before it.
    ///
    /// # Errors
    /// Nothing is known that makes it fail.
    ///
    /// # Blocking
    /// Up to the timeout; without one until something happens.
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
            assert_eq!(found(&set, AT_ONCE).len(), 1, "and is told as long as it is waited for");
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
