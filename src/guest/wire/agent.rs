//! Requests to the guest agent, and the answer of GuestInfo.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use crate::guest::members::members;
use crate::guest::wire::{Guest, is_zero};

/// The arguments of SetPassword and SetSshKeys. Passwords are secret: serialisation and `Debug` omit them.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
pub struct LoginRequest {
    /// The guest.
    pub guest: Option<Guest>,
    /// Name of the user in the guest.
    pub user: String,
    /// The new password.
    #[serde(skip)]
    pub password: String,
    /// The same as crypt(5) hashes it.
    #[serde(skip)]
    pub password_hash: String,
    /// Public keys of the user, as lines of `authorized_keys`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<String>,
    /// As those of [`GuestRequest`](crate::guest::wire::GuestRequest).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, String>,
}

members!(LoginRequest {
    "guest" => guest: value,
    "user" => user: value,
    "password" => password: secret_text,
    "password_hash" => password_hash: secret_text,
    "ssh_keys" => ssh_keys: list,
    "args" => args: dictionary,
});

impl fmt::Debug for LoginRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { guest, user, .. } = self;
        let mut shown = f.debug_struct("LoginRequest");
        shown.field("guest", guest).field("user", user).finish_non_exhaustive()
    }
}

/// Information about a running guest from inside. Unknown members are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GuestInfo {
    /// The request's guest.
    pub guest: Option<Guest>,
    /// Whether the guest agent has answered.
    pub agent: bool,
    /// Why not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The addresses of its NICs: first leases, then neighbours of the host, then what the guest agent says.
    pub addresses: Vec<Address>,
    /// Its host name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Its operating system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os: Option<OperatingSystem>,
    /// Its time zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<TimeZone>,
    /// Users that are logged in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<User>,
    /// File systems that are mounted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filesystems: Vec<FileSystem>,
}

/// An address of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Address {
    /// The address.
    pub address: String,
    /// The length of its prefix in bits; absent where the source does not know it.
    #[serde(skip_serializing_if = "is_zero")]
    pub prefix: u64,
    /// The MAC address of its NIC.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// The NIC's name in the guest, as the agent says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub interface: String,
    /// `agent`, `lease` or `arp`.
    pub source: &'static str,
    /// Seconds since the source said so.
    pub age_s: u64,
}

/// Returns whether an address is link-local or invalid.
pub fn is_of_link(address: &str) -> bool {
    match address.parse() {
        Ok(IpAddr::V4(address)) => address.is_link_local(),
        Ok(IpAddr::V6(address)) => address.is_unicast_link_local(),
        Err(_) => true,
    }
}

/// An operating system, as os-release(5) describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OperatingSystem {
    /// For programs, such as `debian`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// For people, such as `Debian GNU/Linux 12 (bookworm)`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its version, such as `12`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The kernel's release.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kernel: String,
    /// The hardware, such as `x86_64`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub machine: String,
}

/// A time zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TimeZone {
    /// Its name, such as `UTC`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Seconds that its clocks are ahead of UTC.
    pub offset_s: i64,
}

/// A user of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct User {
    /// Its name.
    pub name: String,
    /// When it logged in, in milliseconds since 1970.
    #[serde(skip_serializing_if = "is_zero")]
    pub since_ms: u64,
}

/// A file system of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FileSystem {
    /// Where it is mounted.
    pub mountpoint: String,
    /// Its device in the guest, such as `vda1`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// Its type, such as `ext4`.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its size in bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub total_bytes: u64,
    /// Bytes in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<u64>,
    /// The guest's disks that it is on, such as `vda`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<String>,
}
