//! Networks of guests: bridges, Open vSwitch, NAT, filters, addresses.

pub(crate) mod addresses;
mod bridges;
mod nat;
mod nwfilter;
mod openvswitch;
