//! inotify(7): waits until entries of directories change or a file is closed, instead of sleeping.

#![expect(unsafe_code, reason = "inotify has no safe form in std")]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::poll::{Interest, PollSet};

/// The event to watch for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An entry of this directory is created, deleted or renamed.
    Entries,
    /// A process closes this file or device.
    Close,
}

/// Watched paths. Does not tell which event occurred: check the state after each wait.
#[derive(Debug)]
pub struct Watch {
    events: File,
}

impl Watch {
    /// Creates an empty watch.
    ///
    /// # Errors
    /// If the process or the user has no free file descriptor or inotify instance.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointer.
        let fd = unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is open, made just above, and nobody else has it.
        let events = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { events: File::from(events) })
    }

    /// Watches a path from now on; adding it twice has no further effect.
    ///
    /// # Errors
    /// If the path does not exist, or the user's limit of watches is reached.
    pub fn add(&self, path: &Path, event: Event) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mask = match event {
            Event::Entries => {
                libc::IN_CREATE | libc::IN_DELETE | libc::IN_MOVED_TO | libc::IN_MOVED_FROM
            }
            Event::Close => libc::IN_CLOSE,
        };
        // SAFETY: the descriptor is open as long as `self`, the path ends with NUL and is read
        // during the call only.
        let watch =
            unsafe { libc::inotify_add_watch(self.as_fd().as_raw_fd(), path.as_ptr(), mask) };
        if watch < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for an event on a watched path since the previous wait.
    ///
    /// # Errors
    /// The errors of poll(2).
    ///
    /// # Blocking
    /// Up to `timeout`.
    pub fn wait(&self, timeout: Duration) -> io::Result<()> {
        let mut set = PollSet::default();
        set.add(self, Interest::Read);
        set.wait(Some(timeout))?;
        let mut events = [0; 4096];
        // Ends with "would block" when all are read; their content is ignored, because callers
        // check the state.
        while matches!((&self.events).read(&mut events), Ok(1..)) {}
        Ok(())
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;
    use std::{env, fs, process};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn watch_ends_on_a_new_entry_or_a_closed_file() {
        let directory = env::temp_dir().join(format!("mistify-watch-{}", process::id()));
        fs::create_dir_all(&directory).unwrap();
        let file = directory.join("file");

        let watch = Watch::new().unwrap();
        watch.add(&directory, Event::Entries).unwrap();
        watch.add(&directory, Event::Entries).unwrap();
        let begin = Instant::now();
        let made = file.clone();
        let other = thread::spawn(move || File::create(made).unwrap());
        watch.wait(LONG).unwrap();
        assert!(file.exists() && begin.elapsed() < LONG);
        let open = other.join().unwrap();

        let watch = Watch::new().unwrap();
        watch.add(&file, Event::Close).unwrap();
        let begin = Instant::now();
        watch.wait(Duration::from_millis(1)).unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(1), "an old event is not counted");
        let other = thread::spawn(move || drop(open));
        watch.wait(LONG).unwrap();
        assert!(begin.elapsed() < LONG);
        other.join().unwrap();
        assert!(watch.add(&directory.join("absent"), Event::Close).is_err());
        fs::remove_dir_all(&directory).unwrap();
    }
}
