//! Users and groups in the system's databases.
//!
//! The databases may query a directory service: every function blocks for as long as that takes.

#![expect(unsafe_code, reason = "std knows neither users nor groups")]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// The initial size of one entry, in bytes; a group with many members needs more.
const ENTRY_BYTES: usize = 1024;
/// The maximum size of one entry, in bytes.
const ENTRY_BYTES_MAX: usize = 1024 * 1024;
/// The maximum number of groups of one user, as in Linux.
const GROUPS_MAX: usize = 65_536;

/// Returns the user with this name; a number stands for itself.
///
/// # Errors
/// If the database cannot be read.
pub fn user_id(name: &str) -> io::Result<Option<u32>> {
    if let Ok(id) = name.parse() {
        return Ok(Some(id));
    }
    let Ok(name) = CString::new(name) else { return Ok(None) };
    let ask = |record, text, length, found| {
        // SAFETY: `name` ends with NUL; the rest is as `entry` promises.
        unsafe { libc::getpwnam_r(name.as_ptr(), record, text, length, found) }
    };
    entry(ask, |user: &libc::passwd| user.pw_uid)
}

/// Returns the group with this name; a number stands for itself.
///
/// # Errors
/// If the database cannot be read.
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    if let Ok(id) = name.parse() {
        return Ok(Some(id));
    }
    let Ok(name) = CString::new(name) else { return Ok(None) };
    let ask = |record, text, length, found| {
        // SAFETY: `name` ends with NUL; the rest is as `entry` promises.
        unsafe { libc::getgrnam_r(name.as_ptr(), record, text, length, found) }
    };
    entry(ask, |group: &libc::group| group.gr_gid)
}

/// Returns the name of a user; `None` if the database does not contain the user.
///
/// # Errors
/// If the database cannot be read.
pub fn user_name(id: u32) -> io::Result<Option<String>> {
    let user = user(id)?;
    Ok(user.map(|(name, _)| name.to_string_lossy().into_owned()))
}

/// Returns all groups of a user, the primary one first; empty if the database does not contain the
/// user.
///
/// # Errors
/// If the database cannot be read, or contains more groups than Linux supports.
pub fn groups(id: u32) -> io::Result<Vec<u32>> {
    let Some((name, group)) = user(id)? else { return Ok(Vec::new()) };
    let mut groups = vec![0; 64];
    while groups.len() <= GROUPS_MAX {
        let mut count = libc::c_int::try_from(groups.len()).map_err(io::Error::other)?;
        // SAFETY: `name` ends with NUL, and `groups` has room for `count` numbers.
        let result = unsafe {
            libc::getgrouplist(name.as_ptr(), group, groups.as_mut_ptr(), &raw mut count)
        };
        if result >= 0 {
            groups.truncate(usize::try_from(count).map_err(io::Error::other)?);
            return Ok(groups);
        }
        groups.resize(groups.len() * 4, 0);
    }
    Err(io::Error::other("too many groups"))
}

/// Returns the name and the primary group of a user.
fn user(id: u32) -> io::Result<Option<(CString, u32)>> {
    let ask = |record, text, length, found| {
        // SAFETY: as `entry` promises.
        unsafe { libc::getpwuid_r(id, record, text, length, found) }
    };
    entry(ask, |user: &libc::passwd| {
        // SAFETY: the name of a user that was found is a string in the memory that `entry` lent.
        let name = unsafe { CStr::from_ptr(user.pw_name) };
        (name.to_owned(), user.pw_gid)
    })
}

/// Queries one entry with as much memory as needed. `ask` receives a record and a text buffer with
/// its length to write to, and the place for the record's address if an entry exists; all are valid
/// until `read` returns.
fn entry<R, T>(
    ask: impl Fn(*mut R, *mut libc::c_char, libc::size_t, *mut *mut R) -> libc::c_int,
    read: impl FnOnce(&R) -> T,
) -> io::Result<Option<T>> {
    let mut bytes = ENTRY_BYTES;
    loop {
        let mut text: Vec<libc::c_char> = vec![0; bytes];
        let mut record = MaybeUninit::<R>::uninit();
        let mut found = ptr::null_mut();
        match ask(record.as_mut_ptr(), text.as_mut_ptr(), text.len(), &raw mut found) {
            0 => {
                // SAFETY: null, or the address of `record`, which is filled then; both it and the
                // text that it points into live on until the end of this arm.
                let record = unsafe { found.as_ref() };
                return Ok(record.map(read));
            }
            libc::ENOENT | libc::ESRCH => return Ok(None),
            libc::ERANGE if bytes < ENTRY_BYTES_MAX => bytes *= 4,
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_0_by_name_and_by_number() {
        for name in ["root", "0"] {
            assert_eq!(user_id(name).unwrap(), Some(0));
            assert_eq!(group_id(name).unwrap(), Some(0));
        }
        assert_eq!(user_name(0).unwrap().as_deref(), Some("root"));
        assert_eq!(groups(0).unwrap().first(), Some(&0));
    }

    #[test]
    fn unknown_user_has_no_number_name_or_group() {
        for name in ["mistify-nobody-has-this-name", "-1", "", "a\0b"] {
            assert_eq!(user_id(name).unwrap(), None, "{name}");
            assert_eq!(group_id(name).unwrap(), None, "{name}");
        }
        assert_eq!(user_name(3_999_999_999).unwrap(), None);
        assert_eq!(groups(3_999_999_999).unwrap(), [0_u32; 0]);
    }
}
