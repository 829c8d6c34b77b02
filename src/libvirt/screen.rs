//! A screenshot of a domain, which the daemon sends as a stream.

use std::ffi::c_char;
use std::ptr::NonNull;

use crate::libvirt::c_string::OwnedCString;
use crate::libvirt::connection::Connection;
use crate::libvirt::domain::Domain;
use crate::libvirt::error::{Error, check_int, check_ptr};
use crate::sys;

/// The size of one read, in bytes: a quarter of the daemon's maximum in one message.
const CHUNK_BYTES: usize = 64 * 1024;

/// A screenshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Screen {
    /// The format as the daemon names it, such as `image/x-portable-pixmap`.
    pub mime: String,
    /// The image in that format.
    pub image: Vec<u8>,
}

impl Connection {
    /// Takes a screenshot of a domain's first screen (`virDomainScreenshot`); `None` if the image exceeds `bytes_max`,
    /// in which case the rest is not read. The domain must belong to this connection.
    ///
    /// # Errors
    /// [`Code::OPERATION_INVALID`](super::Code::OPERATION_INVALID) if the domain is off; a domain without a screen.
    ///
    /// # Blocking
    /// One round trip, and as long as the daemon takes to send the image; the daemon queries the emulator, so without
    /// limit if the emulator hangs.
    pub fn screenshot(&self, domain: &Domain, bytes_max: usize) -> Result<Option<Screen>, Error> {
        let mut stream = Stream::new(self)?;
        // SAFETY: domain and stream are live and of the same connection.
        let mime =
            unsafe { sys::virDomainScreenshot(domain.raw.as_ptr(), stream.raw.as_ptr(), 0, 0) };
        // SAFETY: NULL or a string from malloc(3) that is ours.
        let mime = unsafe { OwnedCString::take(mime, "virDomainScreenshot") }?.to_text();
        let mut image = Vec::new();
        let mut chunk: Vec<c_char> = vec![0; CHUNK_BYTES];
        loop {
            let received = stream.receive(&mut chunk)?;
            if received.is_empty() {
                break;
            }
            if image.len() + received.len() > bytes_max {
                return Ok(None);
            }
            image.extend(received.iter().map(|byte| u8::from_ne_bytes(byte.to_ne_bytes())));
        }
        stream.finish()?;
        Ok(Some(Screen { mime, image }))
    }
}

/// A stream from the daemon; aborted if dropped before its end.
struct Stream {
    raw: NonNull<sys::virStream>,
    is_open: bool,
}

impl Stream {
    fn new(connection: &Connection) -> Result<Self, Error> {
        // SAFETY: the connection is live; the returned reference is ours to free.
        let raw = unsafe { sys::virStreamNew(connection.raw.as_ptr(), 0) };
        Ok(Self { raw: check_ptr(raw, "virStreamNew")?, is_open: true })
    }

    /// Returns the next bytes; empty at the end.
    fn receive<'a>(&mut self, chunk: &'a mut [c_char]) -> Result<&'a [c_char], Error> {
        // SAFETY: the stream is live, the buffer has the given number of bytes.
        let count =
            unsafe { sys::virStreamRecv(self.raw.as_ptr(), chunk.as_mut_ptr(), chunk.len()) };
        let count = usize::try_from(check_int(count, "virStreamRecv")?).unwrap_or(0);
        Ok(chunk.get(..count).unwrap_or_default())
    }

    /// Finishes the stream, and returns an error that occurred earlier.
    fn finish(mut self) -> Result<(), Error> {
        self.is_open = false;
        // SAFETY: the stream is live.
        let done = unsafe { sys::virStreamFinish(self.raw.as_ptr()) };
        check_int(done, "virStreamFinish").map(drop)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.is_open {
            // SAFETY: the stream is live. One that failed is aborted already, which changes nothing.
            unsafe { sys::virStreamAbort(self.raw.as_ptr()) };
        }
        // SAFETY: live, ours, and freed only here.
        unsafe { sys::virStreamFree(self.raw.as_ptr()) };
    }
}
