//! This process and others: users, identities, processor time, limits, and the immediate end.

#![expect(
    unsafe_code,
    reason = "std knows no user, no signal to itself, and runs handlers at exit"
)]

use std::io;
use std::ptr;

/// Returns the effective user id; 0 is root.
pub fn user() -> u32 {
    // SAFETY: takes no pointer and cannot fail.
    unsafe { libc::geteuid() }
}

/// Returns the current name of this host; empty if the kernel does not report it.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim_end().to_owned()
}

/// The highest process number in Linux (`PID_MAX_LIMIT`).
const PID_MAX: libc::pid_t = 4 * 1024 * 1024;

/// A process's CPU clock: the processor time of all its threads, including ended ones. It never goes back.
#[derive(Clone, Copy, Debug)]
pub struct CpuClock(libc::clockid_t);

impl CpuClock {
    /// Returns the clock of the process with this number.
    ///
    /// # Errors
    /// If the process does not exist.
    pub fn of(pid: u32) -> io::Result<Self> {
        // A clock's number has 29 bits for the process: higher numbers would be truncated. 0 is this process.
        let pid = match libc::pid_t::try_from(pid) {
            Ok(pid @ 1..=PID_MAX) => pid,
            _ => return Err(io::Error::from_raw_os_error(libc::ESRCH)),
        };
        let mut clock = 0;
        // SAFETY: the out-pointer is live.
        match unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) } {
            0 => Ok(Self(clock)),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Returns the current value, in nanoseconds.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn ns(self) -> io::Result<u64> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the out-pointer is live; a clock whose process has ended is an error.
        if unsafe { libc::clock_gettime(self.0, &raw mut time) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Ok(seconds.saturating_mul(1_000_000_000) + u64::try_from(time.tv_nsec).unwrap_or(0))
    }
}

/// Returns the processor time of a process, in nanoseconds, from its [`CpuClock`].
///
/// # Errors
/// If the process does not exist.
pub fn cpu_ns(pid: u32) -> io::Result<u64> {
    CpuClock::of(pid)?.ns()
}

/// Identifies this process among all processes of this host over time: boot, number and start time, as in
/// `0b9d81b2-…:4711:98231`. Empty if `/proc` is unavailable.
pub fn identity() -> String {
    identity_of(std::process::id()).unwrap_or_default()
}

/// Returns the number of the process with this [`identity`], if it still runs.
pub fn running(identity: &str) -> Option<u32> {
    let pid = identity.split(':').nth(1)?.parse().ok()?;
    (identity_of(pid)? == identity).then_some(pid)
}

fn identity_of(pid: u32) -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command, which may contain blanks and parentheses, ends at the last parenthesis; the start time is field 22
    // (proc_pid_stat(5)).
    let started = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?;
    Some(format!("{}:{pid}:{started}", boot.trim_end()))
}

/// Raises the limit of open files to `wanted`, or to the hard limit: each connection is one.
///
/// # Errors
/// If the kernel refuses.
pub fn raise_open_files(wanted: u64) -> io::Result<()> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // Not setrlimit(2), which the unit's filter of system calls refuses; 0 is this process.
    // SAFETY: the kernel writes one limit and reads none.
    let got = unsafe { libc::prlimit64(0, libc::RLIMIT_NOFILE, ptr::null(), &raw mut limit) };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur >= wanted {
        return Ok(());
    }
    limit.rlim_cur = wanted.min(limit.rlim_max);
    // SAFETY: the kernel reads one limit and writes none.
    match unsafe { libc::prlimit64(0, libc::RLIMIT_NOFILE, &raw const limit, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Forbids new privileges to this thread, and to all threads and programs that it starts later: set-user-id programs
/// then run without them. Must be called before other threads start.
///
/// # Errors
/// If the kernel does not support it.
pub fn forgo_new_privileges() -> io::Result<()> {
    let (on, unused): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: this option takes only numbers.
    match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, on, unused, unused, unused) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// "Try again later" (`EX_TEMPFAIL` in sysexits.h): the service manager should start the agent again.
pub const TEMPORARY_FAILURE: i32 = 75;

/// Ends the process immediately with this status (`_exit(2)`): without destructors, exit handlers, or waiting for
/// threads.
pub fn end_at_once(status: i32) -> ! {
    // SAFETY: no pointers; it does not return.
    unsafe { libc::_exit(status) }
}

/// Ends this process as `kill -9` does: nothing is completed, flushed or dropped. For crash tests.
#[cfg(debug_assertions)]
pub fn kill_self() -> ! {
    // SAFETY: takes no pointer; no handler can catch this signal.
    unsafe { libc::raise(libc::SIGKILL) };
    // Unreachable; needed for the return type.
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn process_clock_advances_with_work_and_ends_with_it() {
        let own = std::process::id();
        let before = super::cpu_ns(own).unwrap();
        while super::cpu_ns(own).unwrap() == before {}
        for no_process in [0, 1 << 22, 1 << 29, i32::MAX.unsigned_abs(), u32::MAX] {
            assert!(super::cpu_ns(no_process).is_err(), "{no_process}");
        }
    }

    #[test]
    fn an_identity_is_of_one_run_of_a_process() {
        let own = super::identity();
        assert_eq!(super::running(&own), Some(std::process::id()));
        let mut child = std::process::Command::new("/bin/cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let other = super::identity_of(child.id()).unwrap();
        assert_eq!(super::running(&other), Some(child.id()));
        drop(child.stdin.take());
        child.wait().unwrap();
        let (boot, rest) = own.split_once(':').unwrap();
        let earlier = format!("{boot}:{}:1", rest.split_once(':').unwrap().0);
        for ended in [other.as_str(), &earlier, "", "a:b:c", "a:1:2"] {
            assert_eq!(super::running(ended), None, "{ended}");
        }
    }

    #[test]
    fn the_user_is_the_owner_of_the_process() {
        assert_eq!(super::user(), fs::metadata("/proc/self").unwrap().uid());
    }
}
