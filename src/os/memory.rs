//! The host's memory, and a limit on the memory that glibc's allocator retains: little, because the guests need it.
//!
//! By default the allocator makes eight arenas for each processor, when threads contend, and each large block raises
//! its thresholds: after a few requests of a megabyte, it retains ten megabytes permanently.

#![expect(unsafe_code, reason = "std cannot tune the allocator")]

/// Limits the memory that the allocator retains. Must be called first, before other threads start.
pub fn bound_arenas() {
    #[cfg(target_env = "gnu")]
    for (option, value) in [
        // Two are enough for workers that mostly wait.
        (libc::M_ARENA_MAX, 2),
        // Larger blocks return to the system when they are freed. Setting the threshold stops its automatic growth. It
        // is above libvirt's buffers for a message, slightly more than 64 KiB, which each call allocates and frees.
        (libc::M_MMAP_THRESHOLD, 96 * 1024),
        (libc::M_TRIM_THRESHOLD, 128 * 1024),
    ] {
        // SAFETY: no pointers; glibc refuses unknown options, which is harmless.
        unsafe { libc::mallopt(option, value) };
    }
}

/// Returns the host's memory in KiB; `None` if the kernel does not report it.
pub fn total_kib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Returns free memory to the system, in whole pages from anywhere. Takes one or two milliseconds, so use it after a
/// large task.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers; it takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0)
    };
}
