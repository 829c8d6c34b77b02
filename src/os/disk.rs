//! Disk and file system calls that std lacks: the volume of a device, free space, shared copies of files, and the data
//! ranges of a sparse file.

#![expect(
    unsafe_code,
    reason = "ioctl, lseek, statvfs and extended attributes have no safe form in std"
)]

use std::ffi::{CStr, CString};
use std::fs::{File, OpenOptions};
use std::io;
use std::mem;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::os::files;

/// The maximum length of a name that [`zvol_name`] reads, with the terminating NUL; part of the ioctl's number.
const ZVOL_NAME_BYTES: usize = 256;
/// `BLKZNAME` of OpenZFS, `_IOR(0x12, 125, char[256])`: the name of a volume's dataset.
const BLKZNAME: libc::c_ulong = 2 << 30 | 256 << 16 | 0x12 << 8 | 125;
/// The kernel's `ERESTARTSYS`, which programs should never see.
const RESTART: i32 = 512;
/// How long an open that fails with [`RESTART`] is retried: ZFS makes a volume in less.
const OPEN_BUSY: Duration = Duration::from_secs(5);
const OPEN_PAUSE: Duration = Duration::from_millis(10);

/// Returns the full name of the device's dataset; udev names the links in `/dev/zvol` by it.
///
/// # Errors
/// For a device that is not a ZFS volume (ENOTTY), or one that is being removed.
pub fn zvol_name(device: &File) -> io::Result<String> {
    let mut name = [0_u8; ZVOL_NAME_BYTES];
    // SAFETY: the request writes up to 256 bytes, which is the size of `name`; the descriptor is
    // open during the call. A device of another kind refuses the request.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), BLKZNAME, name.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let name = CStr::from_bytes_until_nul(&name).map_err(io::Error::other)?;
    name.to_str().map(str::to_owned).map_err(io::Error::other)
}

/// Opens the device at a path, and returns the name of its dataset; `None` for another type of device.
///
/// # Errors
/// If it cannot be opened.
pub fn zvol_name_at(path: &Path) -> io::Result<Option<String>> {
    let device = open_device(files::straight(OpenOptions::new().read(true)), path)?;
    Ok(zvol_name(&device).ok())
}

/// Opens a device or a file. While ZFS changes a pool, opening a volume fails with `ERESTARTSYS` instead of waiting
/// (`zvol_open` in OpenZFS 2.1, for `spa_namespace_lock`): this is retried.
///
/// # Errors
/// If it cannot be opened.
///
/// # Blocking
/// Up to 5 s if ZFS is busy.
pub fn open_device(options: &OpenOptions, path: &Path) -> io::Result<File> {
    again(OPEN_BUSY, || options.open(path))
}

/// Returns whether reads of a file can bypass the host's page cache (`O_DIRECT`): file systems without support refuse
/// to open it so. If the file does not exist yet, tests a nameless one in the nearest existing directory above. Assumes
/// support for a file that this process may not open, because qemu may.
pub fn is_direct(path: &Path) -> bool {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECT | libc::O_NONBLOCK);
    let opened = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            options.write(true).custom_flags(libc::O_DIRECT | libc::O_TMPFILE);
            let above = path.ancestors().skip(1).find(|directory| directory.is_dir());
            above.map_or(Err(error), |directory| options.open(directory))
        }
        opened => opened,
    };
    let refused = [libc::EINVAL, libc::EOPNOTSUPP, libc::EISDIR];
    !opened.is_err_and(|error| error.raw_os_error().is_some_and(|code| refused.contains(&code)))
}

/// Retries an action that fails with `ERESTARTSYS`, up to a time limit.
fn again<T>(limit: Duration, mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match open() {
            Err(error) if error.raw_os_error() == Some(RESTART) && Instant::now() < deadline => {
                thread::sleep(OPEN_PAUSE);
            }
            opened => return opened,
        }
    }
}

/// The maximum length of an attribute's value that [`attribute`] reads, in bytes.
const ATTRIBUTE_BYTES: usize = 256;

/// Sets an extended attribute of a file (`xattr(7)`). Returns `false` if its file system does not support attributes.
///
/// # Errors
/// Other errors of the system, such as a lack of space.
pub fn set_attribute(file: &File, name: &CStr, value: &str) -> io::Result<bool> {
    let (fd, bytes) = (file.as_raw_fd(), value.as_bytes());
    // SAFETY: the kernel reads `bytes.len()` bytes of `bytes` and the name up to its NUL; the
    // descriptor is open during the call.
    let result =
        unsafe { libc::fsetxattr(fd, name.as_ptr(), bytes.as_ptr().cast(), bytes.len(), 0) };
    if result == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        error => Err(error),
    }
}

/// Returns an extended attribute of a file; `None` if it does not exist, or is not a short text.
pub fn attribute(file: &File, name: &CStr) -> Option<String> {
    let mut value = [0_u8; ATTRIBUTE_BYTES];
    // SAFETY: the kernel writes at most `value.len()` bytes to `value`, and reads the name up to its
    // NUL; the descriptor is open during the call.
    let length = unsafe {
        libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    let text = value.get(..usize::try_from(length).ok()?)?;
    String::from_utf8(text.to_vec()).ok()
}

/// Makes `to` share all content with `from` (a reflink). Returns `false` if the file system does not support this, or
/// the files are on different ones; then nothing was written.
///
/// # Errors
/// Other errors of the system, such as a lack of space.
pub fn clone_file(from: &File, to: &File) -> io::Result<bool> {
    // SAFETY: the request takes a descriptor, no pointer; both are open during the call.
    let result = unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) };
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::EXDEV | libc::EINVAL | libc::ENOSYS) => {
            Ok(false)
        }
        _ => Err(error),
    }
}

/// Has the kernel begin to write out these bytes of a file, so that a later sync has less to wait for. A hint: it makes
/// nothing durable, and an error of the disk is reported by that sync, too.
///
/// # Errors
/// The errors of sync_file_range(2), such as for a socket.
pub fn begin_write_out(file: &File, range: Range<u64>) -> io::Result<()> {
    let from = libc::off64_t::try_from(range.start).map_err(io::Error::other)?;
    let bytes = libc::off64_t::try_from(range.end - range.start).map_err(io::Error::other)?;
    let flags = libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: the call takes a descriptor, no pointer; it is open during the call.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), from, bytes, flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Returns the next range of bytes at or after `offset` that is not a hole; `None` if only a hole follows. Moves the
/// file's position. If the file system does not support holes, all bytes are data.
///
/// # Errors
/// The errors of lseek(2).
pub fn next_data(file: &File, offset: u64) -> io::Result<Option<Range<u64>>> {
    let Some(start) = seek(file, offset, libc::SEEK_DATA)? else { return Ok(None) };
    let end = seek(file, start, libc::SEEK_HOLE)?;
    Ok(end.map(|end| start..end))
}

/// Returns `None` for ENXIO: no data or hole follows up to the end of the file.
fn seek(file: &File, offset: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    let offset = libc::off64_t::try_from(offset).map_err(io::Error::other)?;
    // SAFETY: takes no pointer; the descriptor is open during the call.
    let result = unsafe { libc::lseek64(file.as_raw_fd(), offset, whence) };
    if result >= 0 {
        return u64::try_from(result).map(Some).map_err(io::Error::other);
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENXIO) { Ok(None) } else { Err(error) }
}

/// The space of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that this process may still write.
    pub free_bytes: u64,
    /// Used bytes.
    pub used_bytes: u64,
}

/// Returns the space of the file system of `path`.
///
/// # Errors
/// If the path does not exist or cannot be queried.
pub fn room(path: &Path) -> io::Result<DiskSpace> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: statvfs64 is plain C data, for which all zeroes is a valid value.
    let mut stat: libc::statvfs64 = unsafe { mem::zeroed() };
    // SAFETY: the path ends with NUL; `stat` is ours, and written during the call only.
    let result = unsafe { libc::statvfs64(path.as_ptr(), &raw mut stat) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(DiskSpace {
        free_bytes: bytes(stat.f_bavail),
        used_bytes: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::FileExt;
    use std::os::unix::net::UnixStream;
    use std::{env, fs, process};

    use super::*;

    #[test]
    fn an_open_that_zfs_interrupts_is_tried_again() {
        let interrupted = || io::Error::from_raw_os_error(RESTART);
        let mut tries = 0;
        let opened = again(OPEN_BUSY, || {
            tries += 1;
            if tries < 3 { Err(interrupted()) } else { Ok(tries) }
        });
        assert_eq!(opened.unwrap(), 3);
        let error = again(Duration::ZERO, || Err::<(), _>(interrupted())).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(RESTART));
        let error = again(OPEN_BUSY, || Err::<(), _>(io::ErrorKind::NotFound.into())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_is_written_out_early_and_a_socket_is_not() {
        let path = env::temp_dir().join(format!("mistify-write-out-{}", process::id()));
        let file = File::create(&path).unwrap();
        file.write_all_at(&[1; 8192], 0).unwrap();
        begin_write_out(&file, 0..8192).unwrap();
        begin_write_out(&file, 4096..1 << 20).unwrap();
        fs::remove_file(path).unwrap();
        let (socket, _other) = UnixStream::pair().unwrap();
        let error = begin_write_out(&File::from(OwnedFd::from(socket)), 0..1).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESPIPE));
        let beyond = begin_write_out(&file, u64::MAX - 1..u64::MAX);
        assert!(beyond.is_err(), "no wrapped number");
    }

    #[test]
    fn holes_are_passed_over() {
        let path = env::temp_dir().join(format!("mistify-holes-{}", process::id()));
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&path);
        let file = file.unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(b"data", 4 << 20).unwrap();
        let range = next_data(&file, 0).unwrap().unwrap();
        assert!(range.contains(&(4 << 20)), "{range:?}");
        assert!(range.end <= 8 << 20);
        assert_eq!(next_data(&file, 8 << 20).unwrap(), None);
        assert_ne!(next_data(&file, range.end).unwrap(), Some(range));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn non_volume_has_no_name() {
        let null = File::open("/dev/null").unwrap();
        assert!(zvol_name(&null).is_err());
    }

    #[test]
    fn a_file_system_has_room_and_nothing_has_none() {
        let room = room(&env::temp_dir()).unwrap();
        assert!(room.free_bytes > 0 && room.used_bytes > 0, "{room:?}");
        assert!(super::room(Path::new("/absent/folder")).is_err());
    }
}
