//! The host's memory, and the free memory that glibc's allocator keeps: little, as guests need the memory.
//!
//! By default it makes eight arenas a processor, one after the other as threads meet, and learns
//! from each large block to keep more: a few requests of a megabyte leave ten behind for ever.

#![expect(unsafe_code, reason = "std cannot tune the allocator")]

/// Bounds what the allocator keeps. To be called first, before there are threads.
pub fn bound_arenas() {
    #[cfg(target_env = "gnu")]
    for (option, value) in [
        // Two are enough for workers that mostly wait.
        (libc::M_ARENA_MAX, 2),
        // A block from here on is given back when it is freed. Setting it stops the learning. It is
        // above libvirt's buffers for a message, 64 KiB and some, which each call takes and frees.
        (libc::M_MMAP_THRESHOLD, 96 * 1024),
        (libc::M_TRIM_THRESHOLD, 128 * 1024),
    ] {
        // SAFETY: no pointers; glibc refuses what it does not know, which does no harm.
        unsafe { libc::mallopt(option, value) };
    }
}

/// The host's memory in KiB; none where the kernel does not say.
pub fn total_kib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Gives free memory back to the system, in whole pages wherever they lie. Takes a millisecond or
/// two: for after a large piece of work.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers; it takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0)
    };
}
