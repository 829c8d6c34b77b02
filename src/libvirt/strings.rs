//! Strings and arrays across the border, with the allocator in the type.

use std::ffi::{CStr, CString, c_char};
use std::ptr::NonNull;

use crate::libvirt::error::{Error, check_ptr};

/// A string that libvirt allocated for us: `char *` results, which "the caller must free()".
#[derive(Debug)]
pub(super) struct OwnedCString(NonNull<c_char>);

impl OwnedCString {
    /// Takes over what `call` returned.
    ///
    /// # Safety
    /// `raw` is NULL or a NUL-terminated string from malloc(3) that nobody else frees.
    pub(super) unsafe fn take(raw: *mut c_char, call: &'static str) -> Result<Self, Error> {
        check_ptr(raw, call).map(Self)
    }

    /// A copy; bytes that are not UTF-8 become U+FFFD.
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

/// A copy of a string that libvirt keeps; `None` for NULL.
///
/// # Safety
/// `raw` is NULL or a NUL-terminated string that lives through this call.
pub(super) unsafe fn copy_borrowed(raw: *const c_char) -> Option<String> {
    if raw.is_null() {
        return None;
    }
    // SAFETY: not NULL, and the rest is the caller's promise.
    let text = unsafe { CStr::from_ptr(raw) };
    Some(text.to_string_lossy().into_owned())
}

/// The entries of an array that libvirt allocated and ended with NULL. The count that libvirt returns with the
/// array is not used: it may be the daemon's word alone (`remoteConnectListAllDomains`), so that entries
/// behind it would never be freed, or memory behind the array would be read.
///
/// # Safety
/// `list` is NULL or an array of initialised entries that ends with NULL and lives as long as the iterator.
pub(super) unsafe fn entries<T>(list: *mut *mut T) -> impl Iterator<Item = NonNull<T>> {
    let most = if list.is_null() { 0 } else { usize::MAX };
    (0..most).map_while(move |index| {
        // SAFETY: no entry before this one was NULL, so that this one is in the array.
        let entry = unsafe { list.add(index) };
        // SAFETY: see above; the entry is initialised.
        NonNull::new(unsafe { *entry })
    })
}

/// An argument for `call`; a NUL byte inside is the caller's error.
pub(super) fn argument(text: &str, call: &'static str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::nul_byte(call))
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    #[test]
    fn an_array_ends_at_its_null() {
        let (mut one, mut two) = (1, 2);
        let mut list = [&raw mut one, &raw mut two, ptr::null_mut(), &raw mut one];
        // SAFETY: an array of live entries that ends with NULL.
        let found = unsafe { entries(list.as_mut_ptr()) };
        assert_eq!(found.map(NonNull::as_ptr).collect::<Vec<_>>(), list[..2]);
        // SAFETY: NULL is no array.
        assert_eq!(unsafe { entries::<i32>(ptr::null_mut()) }.count(), 0);
    }
}
