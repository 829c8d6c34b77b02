//! The end of the process that nothing can hold up.

#![expect(unsafe_code, reason = "std runs handlers at exit, which wait for what hangs")]

/// "Try again later" (`EX_TEMPFAIL` of sysexits.h): whoever started the agent is to start it again.
pub const TEMPORARY_FAILURE: i32 = 75;

/// Ends the process at once with this status (`_exit(2)`): no destructor, no handler, no thread that
/// is waited for.
pub fn at_once(status: i32) -> ! {
    // SAFETY: no pointers; it does not return.
    unsafe { libc::_exit(status) }
}
