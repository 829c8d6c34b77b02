//! The guest model: the wire's structs, their checks, and the XML of domains and networks.
//!
//! Pure data: no code in this module reads a file, queries libvirt or reads the clock.

pub mod capabilities;
pub mod check;
pub mod consoles;
pub(crate) mod device_xml;
pub mod displays;
pub mod domain;
pub(crate) mod domain_xml;
mod edit;
pub mod hardware;
mod hardware_of_guest;
mod hardware_xml;
pub mod invalid;
pub mod known;
pub mod limits;
pub(crate) mod members;
pub mod memory;
pub mod metadata;
pub mod nat;
pub mod network;
pub mod paths;
pub mod pending;
pub mod placement;
pub mod png;
pub mod profile;
pub mod same;
pub mod seed;
pub mod state;
pub mod update;
pub mod wire;
pub mod xml;
mod xml_values;

/// Namespace of this agent's entries in libvirt's `<metadata>`: the guest's request, the owner of a
/// network.
pub const GUEST_NAMESPACE: &str = "http://mistify.io/xml/guest/1";
/// The prefix of that namespace.
pub const GUEST_PREFIX: &str = "mistify";
/// Namespace of a domain's disk metadata (the owner's `MetadataDevice`).
pub const DEVICE_NAMESPACE: &str = "http://mistify.io/xml/device/1";
/// The prefix of that namespace if it was set after the domain's creation.
pub const DEVICE_PREFIX: &str = "device";
/// Namespace of a domain's user metadata (the owner's `UserMetadata`).
pub const USER_METADATA_NAMESPACE: &str = "http://mistify.io/xml/user_metadata/1";
/// The prefix of that namespace if it was set after the domain's creation.
pub const USER_METADATA_PREFIX: &str = "user";
