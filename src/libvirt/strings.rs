//! Strings and arrays that libvirt owns, or that the caller frees as a whole.

use std::ffi::{CStr, c_char};
use std::ptr::NonNull;

/// Copies a string that libvirt owns; `None` for NULL.
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

/// Returns the entries of an array that libvirt allocated and ended with NULL. Ignores the count that libvirt returns
/// with the array: it may be the daemon's value (`remoteConnectListAllDomains`), and a wrong one would leak entries, or
/// read memory behind the array.
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
        // SAFETY: NULL means no array.
        assert_eq!(unsafe { entries::<i32>(ptr::null_mut()) }.count(), 0);
    }
}
