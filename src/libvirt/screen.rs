//! A picture of a domain's screen, which the daemon sends as a stream.

use std::ffi::c_char;
use std::ptr::NonNull;

use crate::libvirt::c_string::OwnedCString;
use crate::libvirt::connection::Connection;
use crate::libvirt::domain::Domain;
use crate::libvirt::error::{Error, check_int, check_ptr};
use crate::sys;

/// Bytes that are asked for at once: a quarter of what the daemon puts into one message.
const CHUNK_BYTES: usize = 64 * 1024;

/// A picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Screen {
    /// Its format by the daemon's word, such as `image/x-portable-pixmap`.
    pub mime: String,
    /// The picture in that format.
    pub image: Vec<u8>,
}

impl Connection {
    /// The first screen of a domain of this connection (`virDomainScreenshot`); `None` where the
    /// picture has more than `bytes_max`, which are not read to their end.
    ///
    /// # Errors
    /// [`Code::OPERATION_INVALID`](super::Code::OPERATION_INVALID) when the domain is off; one
    /// without a screen.
    ///
    /// # Blocking
    /// A round trip, and as long as the daemon takes to send the picture; the emulator is asked, so
    /// without bound where it hangs.
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

/// A stream from the daemon; aborted when dropped before its end.
struct Stream {
    raw: NonNull<sys::virStream>,
    is_open: bool,
}

impl Stream {
    fn new(connection: &Connection) -> Result<Self, Error> {
        // SAFETY: the connection is live; the reference that is returned is ours to free.
        let raw = unsafe { sys::virStreamNew(connection.raw.as_ptr(), 0) };
        Ok(Self { raw: check_ptr(raw, "virStreamNew")?, is_open: true })
    }

    /// The next bytes; none at the end.
    fn receive<'a>(&mut self, chunk: &'a mut [c_char]) -> Result<&'a [c_char], Error> {
        // SAFETY: the stream is live, the buffer has as many bytes as are named.
        let count =
            unsafe { sys::virStreamRecv(self.raw.as_ptr(), chunk.as_mut_ptr(), chunk.len()) };
        let count = usize::try_from(check_int(count, "virStreamRecv")?).unwrap_or(0);
        Ok(chunk.get(..count).unwrap_or_default())
    }

    /// Ends it in order, with what went wrong on the way.
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
