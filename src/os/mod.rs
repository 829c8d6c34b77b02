//! The operating system where std does not reach: small safe functions over libc.

pub mod clock;
pub mod disk;
pub mod files;
pub mod memory;
pub mod poll;
pub mod process;
pub mod signals;
pub mod watch;
