//! Processes that are measured.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use mistify_libvirt::os::process;

/// CPU time that a process has used, user's and system's, of all its threads. It is the process's
/// own clock: /proc counts the same in steps of 10 ms, which is more than some windows use.
pub(crate) fn cpu(pid: u32) -> Duration {
    Duration::from_nanos(process::cpu_ns(pid).expect("it runs"))
}

/// An address of this host that is free, and still is when a server takes it: nobody else asks.
pub(crate) fn free_address() -> SocketAddr {
    let free = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    free.local_addr().expect("it is bound")
}
