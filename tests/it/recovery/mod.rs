//! Crashes, failing calls and shortages: what remains, and how the agent recovers.

pub(crate) mod crash;
mod cut_connections;
mod journal;
mod leftovers;
pub(crate) mod libvirt_fails;
mod libvirt_unavailable;
mod reconnect;
mod shortage;
mod state_disk;
mod store_crash;
pub(crate) mod system_faults;
mod undo;
mod unfinished_changes;
