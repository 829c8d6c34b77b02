//! What a guest is: the wire's structs, their checks, domain and network XML out, live XML in.
//!
//! Pure data: nothing in this room reads a file, asks libvirt or knows the time.

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

/// Namespace of what this agent keeps in libvirt's `<metadata>`: the guest's request, the owner of
/// a network.
pub const GUEST_NAMESPACE: &str = "http://mistify.io/xml/guest/1";
/// The prefix that it has there.
pub const GUEST_PREFIX: &str = "mistify";
/// Namespace of a domain's disk metadata (the owner's `MetadataDevice`).
pub const DEVICE_NAMESPACE: &str = "http://mistify.io/xml/device/1";
/// The prefix that it has there where it was set after the domain was made.
pub const DEVICE_PREFIX: &str = "device";
/// Namespace of a domain's user metadata (the owner's `UserMetadata`).
pub const USER_METADATA_NAMESPACE: &str = "http://mistify.io/xml/user_metadata/1";
/// The prefix that it has there where it was set after the domain was made.
pub const USER_METADATA_PREFIX: &str = "user";
