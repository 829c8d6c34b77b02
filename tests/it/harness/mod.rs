//! Code that the tests share: private libvirtds and agents, Linux guests, waiting on conditions.

pub(crate) mod agent;
pub(crate) mod boot_sector;
pub(crate) mod call_counter;
pub(crate) mod cost;
pub(crate) mod fault_libraries;
pub(crate) mod image_store;
pub(crate) mod in_process;
pub(crate) mod linux;
pub(crate) mod linux_bed;
pub(crate) mod pid_namespace;
pub(crate) mod scrape;
pub(crate) mod screens;
pub(crate) mod shell;
pub(crate) mod skip;
pub(crate) mod stack;
pub(crate) mod support;
pub(crate) mod test_driver;
mod tests;
pub(crate) mod zpool;
