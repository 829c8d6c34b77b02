//! Passes a descriptor from one process to another over a Unix socket (`SCM_RIGHTS`, unix(7)).

#![expect(unsafe_code, reason = "control messages are the kernel's layout")]

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Space for two descriptors in a control message, in whole words so that its header is aligned.
const CONTROL_WORDS: usize = 4;

/// Sends bytes with one descriptor, and returns the number of sent bytes. At least one byte is required.
///
/// # Errors
/// The error of the kernel; nothing was sent then.
///
/// # Blocking
/// As the socket does.
pub fn send(stream: &UnixStream, bytes: &[u8], file: &File) -> io::Result<usize> {
    send_all(stream, bytes, &[file])
}

/// Sends bytes with as many descriptors as fit.
fn send_all(stream: &UnixStream, bytes: &[u8], files: &[&File]) -> io::Result<usize> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut vector =
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let message = message(&mut vector, &mut control, header_bytes(files.len())?)?;
    // SAFETY: the message has a control buffer of `CONTROL_WORDS` words, which has room for a header.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: the header is in `control`, aligned, and nothing else refers to it now.
    let header = unsafe { header.as_mut() }.ok_or_else(no_room)?;
    header.cmsg_level = libc::SOL_SOCKET;
    header.cmsg_type = libc::SCM_RIGHTS;
    header.cmsg_len = header_bytes(files.len())?;
    // SAFETY: the header was made just above, in `control`.
    let data = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
    for (index, file) in files.iter().enumerate() {
        // SAFETY: `message` has checked that `control` has room for all descriptors behind the header.
        unsafe { data.wrapping_add(index).write_unaligned(file.as_raw_fd()) };
    }
    // SAFETY: the message refers to `bytes` and `control`, which live until the call returns; the kernel
    // only reads them.
    let sent = unsafe { libc::sendmsg(stream.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Receives bytes and their descriptor, if there is one; 0 bytes at the end.
///
/// # Errors
/// The error of the kernel; more than one descriptor arrived, and then none stays open.
///
/// # Blocking
/// As the socket does.
pub fn receive(stream: &UnixStream, bytes: &mut [u8]) -> io::Result<(usize, Option<File>)> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // The buffer has space for exactly one descriptor: the kernel closes any others, and sets a flag.
    let mut message = message(&mut vector, &mut control, header_bytes(1)?)?;
    let flags = libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message refers to `bytes` and `control`, which live until the call returns and which
    // nothing else refers to; the kernel writes no more than they hold.
    let received = unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message, flags) };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel filled the control buffer and its length in.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: where there is a header it is in `control`, aligned, and was written by the kernel.
    let file = match unsafe { header.as_ref() } {
        Some(header)
            if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS)
                && header.cmsg_len == header_bytes(1)? =>
        {
            // SAFETY: the header is the kernel's, in `control`.
            let data = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
            // SAFETY: by its length there is one descriptor behind the header.
            let fd = unsafe { data.read_unaligned() };
            // SAFETY: the kernel opened the descriptor for this process just now; nobody else has it.
            Some(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
        }
        _ => None,
    };
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "received more than one descriptor",
        ));
    }
    Ok((received, file))
}

/// Builds a message for these bytes, with space for a header and descriptors.
fn message(
    vector: &mut libc::iovec,
    control: &mut [u64; CONTROL_WORDS],
    control_bytes: usize,
) -> io::Result<libc::msghdr> {
    if control_bytes > mem::size_of_val(control) {
        return Err(no_room());
    }
    // SAFETY: all zeroes are a valid message, with no address and no flags.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = control_bytes;
    Ok(message)
}

/// Returns the length of a header with this number of descriptors, without padding after them.
fn header_bytes(count: usize) -> io::Result<usize> {
    let fd_bytes = mem::size_of::<RawFd>().saturating_mul(count);
    let fd_bytes = libc::c_uint::try_from(fd_bytes).map_err(io::Error::other)?;
    // SAFETY: only computes a number.
    usize::try_from(unsafe { libc::CMSG_LEN(fd_bytes) }).map_err(io::Error::other)
}

fn no_room() -> io::Error {
    io::Error::other("no room for a descriptor in a control message")
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::io::{Read, Write};
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::os::files;

    #[test]
    fn a_descriptor_arrives_with_the_first_bytes() {
        let (one, mut other) = UnixStream::pair().unwrap();
        let file = files::nameless(&env::temp_dir()).unwrap();
        assert_eq!(send(&one, b"hello", &file).unwrap(), 5);
        let mut bytes = [0; 16];
        let (count, received) = receive(&other, &mut bytes).unwrap();
        assert_eq!(&bytes[..count], b"hello");
        received.unwrap().write_all_at(b"from afar", 0).unwrap();
        let mut content = [0; 9];
        file.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(&content, b"from afar");
        other.write_all(b"plain").unwrap();
        let (count, received) = receive(&one, &mut bytes).unwrap();
        assert_eq!((&bytes[..count], received.is_none()), (&b"plain"[..], true));
        drop(other);
        assert_eq!(receive(&one, &mut bytes).unwrap().0, 0);
    }

    #[test]
    fn two_descriptors_are_refused_and_closed() {
        let (one, other) = UnixStream::pair().unwrap();
        let pairs = [(); 2].map(|()| UnixStream::pair().unwrap());
        let [(mut first, a), (mut second, b)] = pairs;
        let [a, b] = [a, b].map(|sent| File::from(OwnedFd::from(sent)));
        send_all(&one, b"hello", &[&a, &b]).unwrap();
        drop((a, b));
        let error = receive(&other, &mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        // Their other ends end when the last copy is closed: a child process of a concurrent test has a copy until its
        // exec.
        for end in [&mut first, &mut second] {
            assert_eq!(end.read(&mut [0]).unwrap(), 0);
        }
    }
}
