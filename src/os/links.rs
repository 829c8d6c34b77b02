//! The network devices of this process's network namespace.

#![expect(unsafe_code, reason = "std does not ask the kernel for a network device")]

use std::ffi::CString;
use std::io;

/// Whether there is a network device of this name, such as a bridge (if_nametoindex(3)). A name that no device can have
/// names none; what the kernel does not tell counts as there.
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
