//! Intents: the recorded changes of guests. Plain data.

use std::fmt;
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::config::{HostConfig, Store};
use crate::guest::wire::Guest;

/// The scope of intents: in another libvirt, store or pool, names mean other objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// libvirt connection URI.
    pub libvirt_uri: String,
    /// The store of volumes: `zfs`, `none`, or `directory:` and its path.
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
                Store::None => "none".to_owned(),
                Store::Directory(path) => format!("directory:{}", path.display()),
            },
            zpool: host.zpool.clone(),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Escaped to one line, because a file may come from another program.
        let Self { libvirt_uri, store, zpool } = self;
        let [uri, store, zpool] = [libvirt_uri, store, zpool].map(|text| text.escape_debug());
        write!(f, "{uri}, {store}, pool {zpool}")
    }
}

/// A method with more than one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// Makes networks, volumes and a domain.
    CreateGuest,
    /// Makes a guest's volumes.
    CreateGuestDisks,
    /// Removes a guest's domain, networks and volumes.
    Delete,
    /// Attaches a disk to a guest, with a volume or without.
    AttachDisk,
    /// Detaches a disk from a guest.
    DetachDisk,
    /// Attaches a NIC to a guest, with its network.
    AttachNic,
    /// Detaches a NIC from a guest, with its network.
    DetachNic,
    /// Grows a guest's volumes, and updates its definition and the running guest.
    ResizeDisk,
    /// Makes a volume that is not yet a disk of a guest.
    CreateVolume,
    /// Makes a volume from an image; the volume is not yet a disk of a guest.
    CloneImage,
    /// Takes snapshots.
    CreateSnapshot,
    /// Freezes a guest's file systems.
    Freeze,
}

/// How recovery treats an unfinished method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Recovery undoes the steps.
    Back,
    /// Recovery finishes the steps.
    Forward,
}

impl Verb {
    /// Returns how recovery treats the method.
    pub fn direction(self) -> Direction {
        match self {
            Self::CreateGuest
            | Self::CreateGuestDisks
            | Self::AttachDisk
            | Self::AttachNic
            | Self::CreateVolume
            | Self::CloneImage
            | Self::CreateSnapshot
            | Self::Freeze => Direction::Back,
            Self::Delete | Self::DetachDisk | Self::DetachNic | Self::ResizeDisk => {
                Direction::Forward
            }
        }
    }

    /// Returns whether the method's objects belong to a guest and have its mark.
    pub fn is_for_guest(self) -> bool {
        !matches!(self, Self::CreateVolume | Self::CloneImage | Self::CreateSnapshot)
    }
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
            Self::ResizeDisk => "ResizeDisk",
            Self::CreateVolume => "CreateVolume",
            Self::CloneImage => "CloneImage",
            Self::CreateSnapshot => "CreateSnapshot",
            Self::Freeze => "Freeze",
        })
    }
}

/// A step of a change. From its record on, its object may exist or be removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Makes a volume that did not exist.
    Volume {
        /// Full name of the dataset.
        name: String,
        /// Whether its parent dataset is made with it.
        made_parent: bool,
        /// The maker of the volume; journals of older agents do not have it.
        #[serde(default)]
        maker: Option<String>,
    },
    /// Defines a network of this name that did not exist.
    NetworkDefined(String),
    /// Starts a network of this name that was off.
    NetworkStarted(String),
    /// Makes the files of the seed of the domain with this uuid, or removes them.
    SeedFiles(String),
    /// Defines the guest's domain, or deletes it.
    Domain {
        /// The uuid of the domain; `None` if it is unknown before the definition.
        uuid: Option<String>,
    },
    /// Attaches a disk to the guest's domain, or detaches it.
    Disk {
        /// Its target, such as `vdb`.
        device: String,
        /// Path of its source.
        source: String,
    },
    /// Attaches a NIC to the guest's domain, or detaches it.
    Nic {
        /// Its MAC address.
        mac: String,
        /// Name of its network.
        network: String,
    },
    /// Grows a volume of the guest.
    Size {
        /// The target of its disk, such as `vdb`.
        device: String,
        /// Full name of the dataset.
        volume: String,
    },
    /// Takes snapshots that did not exist.
    Snapshot {
        /// Full name of the first snapshot.
        name: String,
        /// Whether snapshots of the same name are taken of the descendants, too.
        below: bool,
        /// The maker of the snapshots.
        maker: String,
    },
    /// Freezes the file systems of the domain with this uuid.
    Frozen(String),
    /// The guest's domain with this uuid is deleted; a domain of its name is another one.
    Gone {
        /// The uuid of the deleted domain.
        uuid: String,
    },
    /// Others may use the guest's id by now: the other steps of this intent are leftovers.
    Released,
    /// The objects that are removed with the deleted domain.
    Leaving {
        /// Names of the networks.
        networks: Vec<String>,
        /// Whether the guest's volumes are removed.
        volumes: bool,
        /// Whether the definition names any volumes, so that recovery waits for an unavailable store.
        #[serde(default = "yes")]
        expected: bool,
        /// Sources that a caller has supplied, which stay.
        #[serde(default, rename = "kept")]
        supplied: Vec<String>,
    },
}

/// The object of a step, as users see it in jobs and leftovers.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume { name, .. } => write!(f, "volume {name}"),
            Self::NetworkDefined(name) | Self::NetworkStarted(name) => write!(f, "network {name}"),
            Self::Domain { .. } | Self::Gone { .. } => f.write_str("domain"),
            Self::SeedFiles(_) => f.write_str("files of the seed"),
            Self::Disk { device, .. } => write!(f, "disk {device}"),
            Self::Nic { mac, .. } => write!(f, "NIC {mac}"),
            Self::Size { volume, .. } => write!(f, "size of {volume}"),
            Self::Snapshot { name, .. } => write!(f, "snapshot {name}"),
            Self::Frozen(_) => f.write_str("frozen file systems"),
            Self::Released => f.write_str("leftovers"),
            Self::Leaving { .. } => f.write_str("networks and volumes"),
        }
    }
}

/// Returns the value for entries of former versions, which lack the member.
fn yes() -> bool {
    true
}

/// A method that has started and is not finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The method.
    pub verb: Verb,
    /// The guest's id, as the caller wrote it.
    pub guest: String,
    /// The start, by the clock at that time, in whole milliseconds.
    pub started: SystemTime,
    /// The caller's request.
    pub request: Guest,
    /// The recorded steps, in order.
    pub steps: Vec<Step>,
}

impl Intent {
    /// Returns whether a step changes the guest's domain.
    pub fn has_domain(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Domain { .. }))
    }

    /// Returns whether a Delete has released the guest's id, and only its leftovers remain.
    pub fn is_released(&self) -> bool {
        self.steps.contains(&Step::Released)
    }

    pub(super) fn summary(&self, state: IntentState) -> Summary {
        let (guest, since) = (self.guest.clone(), self.started);
        Summary {
            verb: self.verb,
            guest,
            since,
            why: None,
            left: Vec::new(),
            tries: 0,
            refusals: 0,
            state,
        }
    }
}

/// The state of an intent, from memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The method.
    pub verb: Verb,
    /// The guest's id.
    pub guest: String,
    /// The start, by the clock at that time.
    pub since: SystemTime,
    /// Why the last recovery failed; `None` before the first try.
    pub why: Option<String>,
    /// The leftovers, each with the reason; empty until a try has found any.
    pub left: Vec<String>,
    /// How often its recovery was tried since the agent started.
    pub tries: u32,
    /// How often its recovery was refused.
    pub refusals: u32,
    /// Its state.
    pub state: IntentState,
}

/// The state of an intent in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntentState {
    /// The method that started it is running.
    Running,
    /// It must be recovered before its guest is changed again.
    Open {
        /// When the next try is due.
        retry: Instant,
    },
    /// Its recovery was refused; the guest's methods do not wait for it.
    Leftover {
        /// When the next try is due; `None`: only on request.
        retry: Option<Instant>,
    },
}

impl IntentState {
    /// Returns when the next try is due.
    pub(super) fn retry(self) -> Option<Instant> {
        match self {
            Self::Running => None,
            Self::Open { retry } => Some(retry),
            Self::Leftover { retry } => retry,
        }
    }
}
