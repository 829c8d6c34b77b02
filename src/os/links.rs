//! The network devices of this process's network namespace.

#![expect(unsafe_code, reason = "std does not ask the kernel for a network device")]

use std::ffi::CString;
use std::io;

/// Returns whether a network device of this name exists, such as a bridge (if_nametoindex(3)). An invalid name counts
/// as absent; another error of the kernel counts as present.
pub fn exists(name: &str) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    // SAFETY: the name is NUL-terminated.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    index != 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ENODEV)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_distinguished_from_other_names() {
        assert!(exists("lo"));
        for name in ["", "nosuch0", "lo\0", "a name that is longer than one can be"] {
            assert!(!exists(name), "{name:?}");
        }
    }
}
