//! Confines programs that read other users' files to these files.
//!
//! A confined program may open its own binary, the system's libraries, `/dev/null` and the files that it receives. It
//! creates no sockets unless its task is the network, changes no owner or mode of a file, has only the capability to
//! read other users' files, and has limits of memory, written bytes and processor time. Landlock restricts the files if
//! the kernel supports it (see landlock(7)); a seccomp filter refuses the calls that Landlock does not cover.
//!
//! All allocations happen before the fork: between fork and exec the child only makes system calls.

#![expect(unsafe_code, reason = "Landlock, seccomp, limits and the time before exec are libc's")]

use std::fs::{File, OpenOptions};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::process;

/// Paths that every program needs to start: the dynamic linker, its cache and the libraries.
const SYSTEM: [&str; 6] =
    ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/etc/ld.so.preload"];

/// Also for writing: qemu uses it to test whether the kernel supports the locks that protect a disk in use by a guest.
const NULL: &str = "/dev/null";

/// Rights of linux/landlock.h.
const EXECUTE: u64 = 1 << 0;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;
/// `LANDLOCK_CREATE_RULESET_VERSION`.
const VERSION: libc::c_uint = 1;
/// `LANDLOCK_RULE_PATH_BENEATH`.
const PATH_BENEATH: libc::c_int = 1;

/// From linux/capability.h: the capability to read any file. At most two words of capabilities exist.
const CAP_DAC_READ_SEARCH: libc::c_ulong = 2;
const CAPABILITIES: libc::c_ulong = 64;

/// The processor time from SIGXCPU to SIGKILL, in seconds.
const CPU_GRACE_S: u64 = 5;

/// `struct landlock_ruleset_attr`. An older kernel accepts the longer struct if the additional fields are zero.
#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}

/// The access of a confined program to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing; for a device also its ioctls.
    ReadWrite,
}

/// The resources that a confined program may access, besides inherited ones such as its standard input.
#[derive(Clone, Copy, Debug)]
pub enum AccessScope<'f> {
    /// These files besides its own binary, the system's libraries and `/dev/null`, and no sockets.
    Files(&'f [(&'f File, Access)]),
    /// The network, and the files of its user, which should be nobody.
    Network,
}

/// The limits of a confined program.
#[derive(Debug)]
pub struct Confinement<'f> {
    /// The resources that it may access.
    pub scope: AccessScope<'f>,
    /// The maximum address space, in bytes.
    pub memory_bytes: u64,
    /// The maximum size of a written file, in bytes.
    pub file_bytes: u64,
    /// The maximum processor time of all its threads together, in whole seconds.
    pub cpu: Duration,
}

impl Confinement<'_> {
    /// Confines the program that this command starts. If the kernel has no Landlock (see [`has_landlock`]), everything
    /// except file access is enforced; with [`AccessScope::Network`] only the limits are.
    ///
    /// # Errors
    /// If the kernel refuses a rule. A later refusal in the child is an error of the start.
    pub fn apply(&self, command: &mut Command) -> io::Result<()> {
        let (ruleset, filter) = match self.scope {
            AccessScope::Network => (None, None),
            AccessScope::Files(files) => {
                let program = Path::new(command.get_program());
                let ruleset = abi()?.map(|abi| ruleset(abi, program, files)).transpose()?;
                (ruleset, Some(filter()))
            }
        };
        let cpu_s = self.cpu.as_secs();
        let (memory_bytes, file_bytes) = (self.memory_bytes, self.file_bytes);
        let confine = move || {
            process::forgo_new_privileges()?;
            drop_capabilities();
            set_limit(libc::RLIMIT_AS, memory_bytes, memory_bytes)?;
            set_limit(libc::RLIMIT_CPU, cpu_s, cpu_s.saturating_add(CPU_GRACE_S))?;
            set_limit(libc::RLIMIT_FSIZE, file_bytes, file_bytes)?;
            // A core dump would contain data that the program has read.
            set_limit(libc::RLIMIT_CORE, 0, 0)?;
            if let Some(ruleset) = &ruleset {
                restrict_self(ruleset.as_fd())?;
            }
            filter.as_ref().map_or(Ok(()), |filter| enforce(filter))
        };
        // SAFETY: the closure only makes system calls, on values that were made before the fork; it neither allocates
        // nor locks, not even if it fails.
        unsafe { command.pre_exec(confine) };
        Ok(())
    }
}

fn ruleset(abi: u32, program: &Path, files: &[(&File, Access)]) -> io::Result<OwnedFd> {
    let ruleset = create_ruleset(abi)?;
    allow_path(&ruleset, program, READ_FILE | EXECUTE)?;
    for path in SYSTEM {
        let is_directory = Path::new(path).is_dir();
        let rights = if is_directory { READ_DIR } else { 0 } | READ_FILE | EXECUTE;
        match allow_path(&ruleset, Path::new(path), rights) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => outcome?,
        }
    }
    allow_path(&ruleset, Path::new(NULL), READ_FILE | WRITE_FILE)?;
    for (file, access) in files {
        let rights = match access {
            Access::Read => READ_FILE,
            Access::ReadWrite => READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV,
        };
        allow(&ruleset, file.as_fd(), rights & filesystem_rights(abi))?;
    }
    Ok(ruleset)
}

/// Returns whether this process can restrict file access with Landlock.
///
/// # Errors
/// If the kernel returns another error.
pub fn has_landlock() -> io::Result<bool> {
    abi().map(|abi| abi.is_some())
}

/// Returns the version of the kernel's Landlock; `None` if the kernel has none, it is disabled, or a filter of system
/// calls blocks it.
fn abi() -> io::Result<Option<u32>> {
    let nothing: *const RulesetAttr = std::ptr::null();
    // SAFETY: with this flag the kernel reads no attributes and answers with a number.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, VERSION) };
    if version > 0 {
        return u32::try_from(version).map(Some).map_err(io::Error::other);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::EPERM) => Ok(None),
        _ => Err(error),
    }
}

/// Returns all file access rights in this version.
fn filesystem_rights(abi: u32) -> u64 {
    let count = match abi {
        0 | 1 => 13,
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    (1 << count) - 1
}

fn create_ruleset(abi: u32) -> io::Result<OwnedFd> {
    let attr = RulesetAttr {
        handled_access_fs: filesystem_rights(abi),
        // To bind and connect TCP sockets.
        handled_access_net: if abi >= 4 { 0b11 } else { 0 },
        // Abstract Unix sockets, and signals.
        scoped: if abi >= 6 { 0b11 } else { 0 },
    };
    let (size, flags): (usize, libc::c_uint) = (mem::size_of::<RulesetAttr>(), 0);
    // SAFETY: the kernel reads `size` bytes of `attr` during the call.
    let fd =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size, flags) };
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open, made just above (close-on-exec), and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn allow_path(ruleset: &OwnedFd, path: &Path, rights: u64) -> io::Result<()> {
    let found = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
    allow(ruleset, found.as_fd(), rights)
}

/// Allows these rights on a file, or on a directory and everything below it.
fn allow(ruleset: &OwnedFd, file: BorrowedFd<'_>, rights: u64) -> io::Result<()> {
    let rule = PathBeneathAttr { allowed_access: rights, parent_fd: file.as_raw_fd() };
    let (fd, flags): (libc::c_int, libc::c_uint) = (ruleset.as_raw_fd(), 0);
    // SAFETY: the kernel reads `rule` during the call; both descriptors are open.
    let result = unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, fd, PATH_BENEATH, &raw const rule, flags)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Applies a ruleset to this thread permanently. Async-signal-safe.
fn restrict_self(ruleset: BorrowedFd<'_>) -> io::Result<()> {
    let (fd, flags): (libc::c_int, libc::c_uint) = (ruleset.as_raw_fd(), 0);
    // SAFETY: takes no pointer; the descriptor is open.
    match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, fd, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Drops root's capabilities for the next exec, except [`CAP_DAC_READ_SEARCH`]: the file may belong to another user.
/// Async-signal-safe. A process without the right to do so has no capabilities to lose except those of its unit.
fn drop_capabilities() {
    for capability in 0..CAPABILITIES {
        if capability != CAP_DAC_READ_SEARCH {
            // SAFETY: takes no pointer. It fails for a number that the kernel does not know.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
    }
}

fn set_limit(resource: libc::__rlimit_resource_t, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // Not setrlimit(2), which the unit's filter of system calls refuses; 0 is this process.
    // SAFETY: the kernel reads `limit` during the call, and writes no old limit, because that pointer is null.
    match unsafe { libc::prlimit64(0, resource, &raw const limit, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The kernel's constant for the architecture of this program (`AUDIT_ARCH_*`).
const ARCHITECTURE: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xc000_003e)
} else if cfg!(target_arch = "aarch64") {
    Some(0xc000_00b7)
} else {
    None
};
/// The offsets of the call's number and of the architecture in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
/// Numbers from here on belong to x32, another architecture with the same constant.
const X32: u32 = 0x4000_0000;

/// The refused calls: sockets, because qemu opens network disks that a disk's header names, and io_uring, which also
/// creates sockets; owners, modes and attributes of files; other processes, mounts and namespaces.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_socket,
    libc::SYS_io_uring_setup,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    SYS_FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_truncate,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_bpf,
    libc::SYS_mount,
    libc::SYS_unshare,
    libc::SYS_setns,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
];
/// The same number on all architectures (Linux 6.6).
const SYS_FCHMODAT2: libc::c_long = 452;

/// Returns a filter that refuses [`REFUSED`].
fn filter() -> Vec<libc::sock_filter> {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const IS: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const IS_NOT_BELOW: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    const ANSWER: u32 = libc::BPF_RET | libc::BPF_K;
    let number = |call: libc::c_long| u32::try_from(call).unwrap_or(u32::MAX);
    let refusal = libc::SECCOMP_RET_ERRNO | libc::EACCES.unsigned_abs();
    let step = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: u16::try_from(code).unwrap_or(u16::MAX),
        jt,
        jf,
        k,
    };
    let refuse = step(ANSWER, refusal, 0, 0);
    let mut filter = Vec::new();
    if let Some(architecture) = ARCHITECTURE {
        filter.extend([step(LOAD, ARCHITECTURE_AT, 0, 0), step(IS, architecture, 1, 0), refuse]);
    }
    filter.push(step(LOAD, NUMBER_AT, 0, 0));
    // A condition that does not hold skips the answer after it.
    filter.extend(REFUSED.iter().flat_map(|call| [step(IS, number(*call), 0, 1), refuse]));
    filter.extend([step(IS_NOT_BELOW, X32, 0, 1), refuse]);
    filter.push(step(ANSWER, libc::SECCOMP_RET_ALLOW, 0, 0));
    filter
}

/// Applies a filter to this thread permanently. Async-signal-safe.
fn enforce(filter: &[libc::sock_filter]) -> io::Result<()> {
    let len = libc::c_ushort::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // The kernel copies the filter and writes nothing.
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
    // SAFETY: `program` and the `len` steps that it points to are live during the call.
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests;
