//! This process: whose it is, and its sudden end.

#![expect(
    unsafe_code,
    reason = "std knows no user, no signal to itself, and runs handlers at exit"
)]

/// The effective user id; 0 is root.
pub fn user() -> u32 {
    // SAFETY: takes no pointer and cannot fail.
    unsafe { libc::geteuid() }
}

/// "Try again later" (`EX_TEMPFAIL` of sysexits.h): whoever started the agent is to start it again.
pub const TEMPORARY_FAILURE: i32 = 75;

/// Ends the process at once with this status (`_exit(2)`): no destructor, no handler, no thread that
/// is waited for.
pub fn end_at_once(status: i32) -> ! {
    // SAFETY: no pointers; it does not return.
    unsafe { libc::_exit(status) }
}

/// Ends this process as `kill -9` does: nothing is finished, flushed or dropped. For crash tests.
#[cfg(debug_assertions)]
pub fn kill_self() -> ! {
    // SAFETY: takes no pointer; no handler can catch this signal.
    unsafe { libc::raise(libc::SIGKILL) };
    // Not reached; the type wants it.
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_user_is_the_owner_of_the_process() {
        assert_eq!(super::user(), fs::metadata("/proc/self").unwrap().uid());
    }
}
