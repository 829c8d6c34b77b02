//! What is about to happen to a guest. Plain data.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::config::{HostConfig, Store};
use crate::guest::wire::Guest;

/// What intents are about: names mean other things in another libvirt, store or pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// libvirt connection URI.
    pub libvirt_uri: String,
    /// Where volumes are made: `zfs`, or `directory:` and the folder.
    pub store: String,
    /// Name of the pool.
    pub zpool: String,
}

impl From<&HostConfig> for Scope {
    fn from(host: &HostConfig) -> Self {
        Self {
            libvirt_uri: host.libvirt_uri.clone(),
            store: match &host.store {
                Store::Zfs => "zfs".to_owned(),
                Store::Directory(path) => format!("directory:{}", path.display()),
            },
            zpool: host.zpool.clone(),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // On one line, also where a file has it that nobody of ours wrote.
        let Self { libvirt_uri, store, zpool } = self;
        let [uri, store, zpool] = [libvirt_uri, store, zpool].map(|text| text.escape_debug());
        write!(f, "{uri}, {store}, pool {zpool}")
    }
}

/// A verb of more than one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// Networks, volumes and a domain are made; what is left of it is undone.
    CreateGuest,
    /// A guest's volumes are made; what is left of them is undone.
    CreateGuestDisks,
    /// A guest and what is its own go; what is left of it is finished.
    Delete,
    /// A disk comes to a guest, with a volume or without; what is left of it is undone.
    AttachDisk,
    /// A disk goes from a guest; what is left of it is finished.
    DetachDisk,
    /// A NIC comes to a guest, with its network; what is left of it is undone.
    AttachNic,
    /// A NIC goes from a guest, and its network; what is left of it is finished.
    DetachNic,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CreateGuest => "CreateGuest",
            Self::CreateGuestDisks => "CreateGuestDisks",
            Self::Delete => "Delete",
            Self::AttachDisk => "AttachDisk",
            Self::DetachDisk => "DetachDisk",
            Self::AttachNic => "AttachNic",
            Self::DetachNic => "DetachNic",
        })
    }
}

/// What may exist, or be gone, from the moment on that it is noted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A volume is made that was not there.
    Volume {
        /// Full name of the dataset.
        name: String,
        /// Whether the dataset above it is made with it.
        made_parent: bool,
    },
    /// A network of this name is defined that was not there.
    NetworkDefined(String),
    /// A network of this name is started that was off.
    NetworkStarted(String),
    /// The guest's domain is defined that was not there, or deleted.
    Domain {
        /// The domain that it is; unknown before it is defined.
        uuid: Option<String>,
    },
    /// A disk comes to the guest's domain that it had not, or goes from it.
    Disk {
        /// Its target, such as `vdb`.
        device: String,
        /// Path of its source.
        source: String,
    },
    /// The same of a NIC.
    Nic {
        /// Its MAC address.
        mac: String,
        /// Name of its network.
        network: String,
    },
    /// What goes with the domain that is deleted.
    Leaving {
        /// Names of the networks.
        networks: Vec<String>,
        /// Whether the guest's volumes do.
        volumes: bool,
        /// Whether the definition says that there are some, so that a store that is away is waited for.
        #[serde(default = "yes")]
        expected: bool,
        /// Sources that a caller has supplied, which stay.
        #[serde(default)]
        kept: Vec<String>,
    },
}

/// What entries of former versions mean, which do not say it.
fn yes() -> bool {
    true
}

/// A verb that was begun and is not settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// What is done.
    pub verb: Verb,
    /// The guest's id, whatever the caller wrote.
    pub guest: String,
    /// When, by the clock of then, in whole milliseconds.
    pub begun: SystemTime,
    /// What the caller asked for.
    pub request: Guest,
    /// What was about to be done, in order.
    pub steps: Vec<Step>,
}

impl Intent {
    pub(super) fn summary(&self) -> Summary {
        Summary { verb: self.verb, guest: self.guest.clone(), since: self.begun, why: None }
    }
}

/// An open intent, as `/healthz` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// What was begun.
    pub verb: Verb,
    /// The guest's id.
    pub guest: String,
    /// When, by the clock of then.
    pub since: SystemTime,
    /// Why it could not be settled last time; `None` before the first try.
    pub why: Option<String>,
}
