//! Operating system functions that std lacks: small safe wrappers of libc.

pub mod activation;
pub mod backlog;
pub mod clock;
pub mod confine;
pub mod disk;
pub mod epoll;
pub mod files;
pub mod kvm;
pub mod links;
pub mod local;
pub mod memory;
pub mod notify;
pub mod own;
pub mod paths;
pub mod peer;
pub mod poll;
pub mod process;
pub(crate) mod program;
pub mod random;
pub mod resolve;
pub mod rights;
pub mod service;
pub mod signals;
pub mod socket_owners;
pub mod users;
pub mod watch;
