//! `mistify-libvirt`: the agent of a hypervisor host.

pub mod cli;
pub mod config;
pub mod guest;
pub mod http;
#[expect(unsafe_code, reason = "one of the two rooms that may; each block says why it is sound")]
pub mod libvirt;
pub mod ops;
pub mod os;
pub mod pool;
pub mod rpc;
#[path = "../sys/mod.rs"]
mod sys;
