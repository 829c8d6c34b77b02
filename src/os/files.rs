//! Files that may be anything: opened without being led astray, and locked.

#![expect(unsafe_code, reason = "flock has no safe form in the std of our oldest Rust")]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

/// Makes an open follow no link at its end and never wait, as it would for a pipe's other side.
pub fn straight(options: &mut OpenOptions) -> &mut OpenOptions {
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
}

/// Takes the whole file for this opening of it, until all its descriptors are closed; a process
/// that ends, however it does, lets go. `false` where another opening has it.
///
/// # Errors
/// Where the file system has no locks.
pub fn lock(file: &impl AsRawFd) -> io::Result<bool> {
    // SAFETY: takes no pointer; the descriptor is open during the call.
    let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock { Ok(false) } else { Err(error) }
}

/// Whether an error is about what this process or the system lacks now, memory or descriptors,
/// and not about the file.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;
    use std::time::{Duration, Instant};
    use std::{env, process, thread};

    use super::*;

    #[test]
    fn a_lock_is_of_one_opening_until_that_is_closed() {
        let path = env::temp_dir().join(format!("mistify-lock-{}", process::id()));
        let first = File::create(&path).unwrap();
        let second = File::create(&path).unwrap();
        assert!(lock(&first).unwrap());
        assert!(lock(&first).unwrap(), "taken again by its own holder");
        assert!(!lock(&second).unwrap());
        drop(first);
        // A program that another test is just starting has it as well, until it runs.
        let end = Instant::now() + Duration::from_secs(10);
        while !lock(&second).unwrap() {
            assert!(Instant::now() < end);
            thread::yield_now();
        }
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn links_are_not_followed() {
        let path = env::temp_dir().join(format!("mistify-link-{}", process::id()));
        symlink("/dev/null", &path).unwrap();
        let open = |path: &str| straight(OpenOptions::new().read(true)).open(path);
        assert!(open(path.to_str().unwrap()).is_err());
        assert!(open("/dev/null").is_ok());
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn too_many_files_is_a_shortage_and_a_missing_one_is_not() {
        assert!(is_shortage(&io::Error::from_raw_os_error(libc::EMFILE)));
        assert!(!is_shortage(&io::ErrorKind::NotFound.into()));
    }
}
