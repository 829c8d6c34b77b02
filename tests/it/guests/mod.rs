//! What a guest has: devices, memory, displays, seeds, its agent.

mod debian;
mod devices;
mod displays;
mod guest_agent;
pub(crate) mod hardware;
mod media;
mod memory;
pub(crate) mod screens;
mod seed_files;
mod seeds;
mod throttle;
