//! Strings that libvirt allocated, and arguments for its calls.

use std::ffi::{CStr, CString, c_char};
use std::ptr::NonNull;

use crate::libvirt::error::{Error, check_ptr};

/// A string that libvirt allocated for us: `char *` results, which "the caller must free()".
#[derive(Debug)]
pub(super) struct OwnedCString(NonNull<c_char>);

impl OwnedCString {
    /// Takes ownership of the string that `call` returned.
    ///
    /// # Safety
    /// `raw` is NULL or a NUL-terminated string from malloc(3) that nobody else frees.
    pub(super) unsafe fn take(raw: *mut c_char, call: &'static str) -> Result<Self, Error> {
        check_ptr(raw, call).map(Self)
    }

    /// Returns a copy; bytes that are not UTF-8 become U+FFFD.
    pub(super) fn to_text(&self) -> String {
        // SAFETY: a live NUL-terminated string by the invariant of `take`.
        let text = unsafe { CStr::from_ptr(self.0.as_ptr()) };
        text.to_string_lossy().into_owned()
    }
}

impl Drop for OwnedCString {
    fn drop(&mut self) {
        // SAFETY: from malloc(3), owned, and freed only here.
        unsafe { libc::free(self.0.as_ptr().cast()) }
    }
}

/// Converts an argument for `call`; a NUL byte inside is the caller's error.
pub(super) fn argument(text: &str, call: &'static str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::nul_byte(call))
}
