//! The data that a guest reads at its first boot.

use std::collections::BTreeMap;
use std::fmt;

use crate::guest::members::members;

/// The data for cloud-init: whole documents, or the short form, from which the agent makes `user_data`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CloudInit {
    /// What cloud-init does: a `#cloud-config`, a script or another of its formats.
    pub user_data: String,
    /// Instance id and host name; empty: the domain's uuid, and `hostname` or the guest's id.
    pub meta_data: String,
    /// Network configuration, version 1 or 2; empty: each NIC by its MAC address.
    pub network_config: String,
    /// What the provider adds to `user_data`.
    pub vendor_data: String,
    /// The host name; empty: the guest's id.
    pub hostname: String,
    /// Public keys of the user, as lines of `authorized_keys`.
    pub ssh_keys: Vec<String>,
    /// Name of the user; empty: the image's own.
    pub user: String,
    /// The user's password as crypt(5) hashes it, for example by `mkpasswd`.
    pub password_hash: String,
}

members!(CloudInit {
    "user_data" => user_data: value,
    "meta_data" => meta_data: value,
    "network_config" => network_config: value,
    "vendor_data" => vendor_data: value,
    "hostname" => hostname: value,
    "ssh_keys" => ssh_keys: list,
    "user" => user: value,
    "password_hash" => password_hash: value,
});

impl fmt::Debug for CloudInit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CloudInit(secret)")
    }
}

/// A text that no log, error or answer repeats; empty for none.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub(in crate::guest) String);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Credentials by their names; the values are secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials(pub(in crate::guest) BTreeMap<String, String>);

impl From<BTreeMap<String, String>> for Credentials {
    fn from(values: BTreeMap<String, String>) -> Self {
        Self(values)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(secret)")
    }
}
