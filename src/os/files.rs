//! Files that may be anything: opened without being led astray, and locked; and what the agent keeps
//! in files of its own: made whole, told from damage, set aside.

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
/// Files of one name that are set aside; the next one stays where it is.
const SAME_NAME_MAX: u32 = 1000;
/// Between two looks at who has a file open.
const WRITER_POLL: Duration = Duration::from_millis(10);

/// Makes an open follow no link at its end and never wait, as it would for a pipe's other side.
pub fn straight(options: &mut OpenOptions) -> &mut OpenOptions {
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
}

/// `$TMPDIR`, or `/var/tmp`: where large files may lie for a while.
pub fn temporary() -> PathBuf {
    env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

/// Creates a file without a name in a directory (`O_TMPFILE`): it is gone when it is closed, however the
/// process ends. Nobody can give it a name (`O_EXCL`, see open(2)).
///
/// # Errors
/// When the directory takes no file, or its file system knows no such files.
pub fn nameless(directory: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.custom_flags(libc::O_TMPFILE | libc::O_EXCL);
    options.read(true).write(true).mode(FILE_MODE).open(directory)
}

/// A file that was open for writing, and is now for reading alone.
#[derive(Debug)]
pub enum WriterState {
    /// Nobody has it open for writing: if it has no name, its content stays as it is.
    Alone(File),
    /// Its file system does not tell (fcntl(2), `F_SETLEASE`).
    Unknown(File),
    /// Somebody had it open for writing until the end of all patience.
    Open,
}

/// Closes a file for writing, and waits until nobody else has it open for that.
///
/// # Errors
/// The system's.
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

/// Whether an open failed because a link is there that it follows not ([`straight`]).
pub fn is_link(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ELOOP)
}

/// Locks the whole file for this opening, until all its descriptors are closed; the end of the process releases
/// the lock. `false` where another opening has it.
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

/// Takes one byte of a file, which need not have it, for this opening of the file (`F_OFD_SETLK` in fcntl(2)), until
/// all its descriptors are closed. `false` where another opening has that byte.
///
/// # Errors
/// Where the file is not open for writing, or its file system has no locks.
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

/// Takes a file's lock (`flock(2)`) together with others that share it, until this opening of the file and all
/// its copies in other processes are closed.
///
/// # Errors
/// Where the file system has no locks, or another opening has the lock alone.
pub fn lock_shared(file: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: takes no pointer; the descriptor is open during the call.
    let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether an error is about what this process or the system lacks now, memory or descriptors,
/// and not about the file.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

/// Makes a file for the agent's user alone, which is on the disk when this returns; its name is not.
///
/// # Errors
/// Where there is one already; when it cannot be written.
///
/// # Blocking
/// As long as the disk takes.
pub fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(FILE_MODE).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// The content of a file that the agent has written, where anything may lie, of any length.
///
/// # Errors
/// When it cannot be read, is no regular file of the agent's user, or has more than so many bytes.
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

/// Moves a file of `from` into another directory, over nothing; its new path.
///
/// # Errors
/// It stays where it is then.
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

/// The checksum of nothing.
pub const CHECKSUM_START: u64 = 0xcbf2_9ce4_8422_2325;

/// A checksum continued over more bytes: FNV-1a of 64 bits. A step loses no information, so one changed
/// byte always changes the sum, and any other damage passes once in 2^64. It guards against
/// accidents; against people the modes of files do.
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
        // A program that another test is just starting has it as well, until it runs.
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
