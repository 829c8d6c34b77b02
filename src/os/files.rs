//! Opens files of any type safely, and locks them; writes the agent's own files completely, detects damage in them, and
//! sets them aside.

#![expect(
    unsafe_code,
    reason = "flock has no safe form in the std of our oldest Rust, and leases and ranges have none"
)]

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, thread};

use crate::os::process::user;

const FILE_MODE: u32 = 0o600;
/// The maximum number of set-aside files with one name; the next one stays in its place.
const SAME_NAME_MAX: u32 = 1000;
/// The interval of checks for other writers of a file.
const WRITER_POLL: Duration = Duration::from_millis(10);

/// Makes an open refuse a link as the last component, and never wait, for example for the other side of a pipe.
pub fn straight(options: &mut OpenOptions) -> &mut OpenOptions {
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
}

/// Returns `$TMPDIR`, or `/var/tmp`: the directory for large temporary files.
pub fn temporary() -> PathBuf {
    env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

/// Creates a file without a name in a directory (`O_TMPFILE`): it is removed when it is closed, even if the process is
/// killed. Nobody can give the file a name (`O_EXCL`, see open(2)).
///
/// # Errors
/// If no file can be created in the directory, or its file system does not support such files.
pub fn nameless(directory: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.custom_flags(libc::O_TMPFILE | libc::O_EXCL);
    options.read(true).write(true).mode(FILE_MODE).open(directory)
}

/// A file that was open for writing, and now is open only for reading.
#[derive(Debug)]
pub enum WriterState {
    /// No process has the file open for writing: if it has no name, its content cannot change.
    Alone(File),
    /// The file system does not report writers (fcntl(2), `F_SETLEASE`).
    Unknown(File),
    /// A process had the file open for writing until the end of the wait.
    Open,
}

/// Closes a file for writing, and waits until no other process has it open for writing.
///
/// # Errors
/// The error of the system.
///
/// # Blocking
/// Up to `patience`.
pub fn writer_state(file: File, patience: Duration) -> io::Result<WriterState> {
    let reader = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    drop(file);
    let lease = |kind: libc::c_int| {
        // SAFETY: takes no pointer; the descriptor is open during the call.
        match unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETLEASE, kind) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let end = Instant::now() + patience;
    loop {
        match lease(libc::F_RDLCK) {
            Ok(()) => {
                lease(libc::F_UNLCK)?;
                return Ok(WriterState::Alone(reader));
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                return Ok(WriterState::Unknown(reader));
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(_) if Instant::now() >= end => return Ok(WriterState::Open),
            Err(_) => thread::sleep(WRITER_POLL),
        }
    }
}

/// Returns whether an open failed because the path is a link ([`straight`]).
pub fn is_link(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ELOOP)
}

/// Locks the whole file for this open file description, until all its descriptors are closed, also those in other
/// processes. Returns `false` if another open file description holds the lock.
///
/// # Errors
/// If the file system has no locks.
pub fn lock(file: &impl AsRawFd) -> io::Result<bool> {
    // SAFETY: takes no pointer; the descriptor is open during the call.
    let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock { Ok(false) } else { Err(error) }
}

/// Locks one byte of a file, which may be beyond its end, for this open file description (`F_OFD_SETLK` in fcntl(2)),
/// until all its descriptors are closed. Returns `false` if another one has locked the byte.
///
/// # Errors
/// If the file is not open for writing, or its file system has no locks.
pub fn lock_byte(file: &impl AsRawFd, at: u32) -> io::Result<bool> {
    let mut lock = libc::flock {
        l_type: libc::c_short::try_from(libc::F_WRLCK).unwrap_or(libc::c_short::MAX),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).unwrap_or(libc::c_short::MAX),
        l_start: libc::off_t::from(at),
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the pointer is live during the call, as is the descriptor.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut lock) };
    if result != -1 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock { Ok(false) } else { Err(error) }
}

/// Takes a shared lock on a file (`flock(2)`), until this open file description and all its copies in other processes
/// are closed.
///
/// # Errors
/// If the file system has no locks, or another open file description has an exclusive lock.
pub fn lock_shared(file: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: takes no pointer; the descriptor is open during the call.
    let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Returns whether an error is a lack of memory or descriptors in this process or the system, and not a fault of the
/// file.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

/// Creates a file for only the agent's user, and syncs its content, but not its name, to the disk.
///
/// # Errors
/// If the file exists; if it cannot be written.
///
/// # Blocking
/// As long as the disk takes.
pub fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(FILE_MODE).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Reads a file of the agent, in a place that may contain anything of any length.
///
/// # Errors
/// If it cannot be read, is not a regular file of the agent's user, or has more than `bytes_max` bytes.
///
/// # Blocking
/// As long as the disk takes.
pub fn read_own(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = straight(OpenOptions::new().read(true)).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.uid() != user() {
        return Err(io::Error::other("another user owns it"));
    }
    let mut content = Vec::new();
    let read = file.take(bytes_max.saturating_add(1)).read_to_end(&mut content)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > bytes_max {
        return Err(io::Error::other(format!("larger than {bytes_max} bytes")));
    }
    Ok(content)
}

/// Moves a file of `from` into another directory without replacing a file, and returns its new path.
///
/// # Errors
/// The file then stays in its place.
pub fn set_aside(from: &Path, name: &OsStr, directory: &Path) -> io::Result<PathBuf> {
    let mut paths = (0..SAME_NAME_MAX).map(|number| {
        let mut name = name.to_owned();
        if number > 0 {
            name.push(format!(".{number}"));
        }
        directory.join(name)
    });
    let free = paths.find(|path| fs::symlink_metadata(path).is_err());
    let to = free.ok_or(io::ErrorKind::AlreadyExists)?;
    fs::rename(from.join(name), &to).map(|()| to)
}

/// The checksum of no bytes.
pub const CHECKSUM_START: u64 = 0xcbf2_9ce4_8422_2325;

/// Continues a checksum over more bytes: FNV-1a of 64 bits. Each step is reversible, so one changed byte always changes
/// the sum, and other damage is missed with a probability of 2^-64. It protects against accidents; file modes protect
/// against users.
pub fn checksum(sum: u64, bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    bytes.iter().fold(sum, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
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
        // A child process of a concurrent test also has the file until its exec.
        let end = Instant::now() + Duration::from_secs(10);
        while !lock(&second).unwrap() {
            assert!(Instant::now() < end);
            thread::yield_now();
        }
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_byte_is_locked_by_one_opening_alone() {
        let path = env::temp_dir().join(format!("mistify-byte-{}", process::id()));
        let first = File::create(&path).unwrap();
        let second = File::create(&path).unwrap();
        assert!(lock_byte(&first, 7).unwrap() && lock_byte(&first, 7).unwrap());
        assert!(!lock_byte(&second, 7).unwrap());
        assert!(lock_byte(&second, u32::MAX).unwrap() && !lock_byte(&first, u32::MAX).unwrap());
        assert!(lock_byte(&File::open(&path).unwrap(), 8).is_err(), "not open for writing");
        drop(first);
        let end = Instant::now() + Duration::from_secs(10);
        while !lock_byte(&second, 7).unwrap() {
            assert!(Instant::now() < end);
            thread::yield_now();
        }
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn nameless_file_cannot_be_opened_by_name() {
        let (directory, file) = (env::temp_dir(), nameless(&env::temp_dir()).unwrap());
        let to = directory.join(format!("mistify-nameless-{}", process::id()));
        let [from, to_name] =
            [format!("/proc/self/fd/{}", file.as_raw_fd()), to.display().to_string()]
                .map(|path| std::ffi::CString::new(path).unwrap());
        // SAFETY: both paths end with NUL and live during the call.
        let linked = unsafe {
            libc::linkat(
                libc::AT_FDCWD,
                from.as_ptr(),
                libc::AT_FDCWD,
                to_name.as_ptr(),
                libc::AT_SYMLINK_FOLLOW,
            )
        };
        assert_eq!((linked, to.exists()), (-1, false));
    }

    #[test]
    fn links_are_not_followed() {
        let path = env::temp_dir().join(format!("mistify-link-{}", process::id()));
        symlink("/dev/null", &path).unwrap();
        let open = |path: &str| straight(OpenOptions::new().read(true)).open(path);
        assert!(is_link(&open(path.to_str().unwrap()).unwrap_err()));
        assert!(open("/dev/null").is_ok());
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn too_many_files_is_a_shortage_unlike_a_missing_file() {
        assert!(is_shortage(&io::Error::from_raw_os_error(libc::EMFILE)));
        assert!(!is_shortage(&io::ErrorKind::NotFound.into()));
    }
}
