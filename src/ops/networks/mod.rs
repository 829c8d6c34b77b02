//! Networks of guests.
//!
//! - `guest_networks`: the libvirt network of each NIC.
//! - `nat`: the agent's own network with NAT and DHCP.
//! - `bridges`: the bridges of the host.

pub(super) mod bridges;
pub(super) mod guest_networks;
pub(super) mod nat;
