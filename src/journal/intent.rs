//! What is about to happen to a guest. Plain data.

use std::fmt;
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::config::{HostConfig, Store};
use crate::guest::wire::Guest;

/// What intents are about: names mean other things in another libvirt, store or pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// libvirt connection URI.
    pub libvirt_uri: String,
    /// Where volumes are made: `zfs`, `none`, or `directory:` and the folder.
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
        // On one line, also where a file has it that nobody of ours wrote.
        let Self { libvirt_uri, store, zpool } = self;
        let [uri, store, zpool] = [libvirt_uri, store, zpool].map(|text| text.escape_debug());
        write!(f, "{uri}, {store}, pool {zpool}")
    }
}

/// A verb of more than one step.
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
    /// Grows a guest's volumes, and tells its definition and the running guest.
    ResizeDisk,
    /// Makes a volume that is no guest's disk yet.
    CreateVolume,
    /// Makes such a volume from an image.
    CloneImage,
    /// Takes snapshots.
    CreateSnapshot,
    /// Freezes a guest's file systems.
    Freeze,
}

/// What recovery does with a verb that did not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It undoes the steps.
    Back,
    /// It finishes the steps.
    Forward,
}

impl Verb {
    /// What recovery does with it.
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

    /// Whether what it makes is a guest's and has its mark.
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
        /// What makes it; journals of older agents do not say it.
        #[serde(default)]
        maker: Option<String>,
    },
    /// A network of this name is defined that was not there.
    NetworkDefined(String),
    /// A network of this name is started that was off.
    NetworkStarted(String),
    /// The files of the seed of the domain with this uuid are made that were not there, or removed.
    SeedFiles(String),
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
    /// A volume of the guest grows.
    Size {
        /// The target of its disk, such as `vdb`.
        device: String,
        /// Full name of the dataset.
        volume: String,
    },
    /// Snapshots are taken that did not exist.
    Snapshot {
        /// Full name of the first.
        name: String,
        /// Whether those of the same name below its dataset are, too.
        below: bool,
        /// What makes them.
        maker: String,
    },
    /// The file systems of the domain of this uuid are frozen.
    Frozen(String),
    /// The guest's domain, of this uuid, is deleted; one that has its name is another.
    Gone {
        /// The domain that it was.
        uuid: String,
    },
    /// Others may have the guest's id: what this intent names besides is left over.
    Released,
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

/// The object of a step, as people who look at a job or at leftovers read it.
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
    /// Whether the guest's domain is to be changed.
    pub fn has_domain(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Domain { .. }))
    }

    /// Whether a Delete has given up the guest's lock, and only finishes what it left.
    pub fn is_released(&self) -> bool {
        self.steps.contains(&Step::Released)
    }

    pub(super) fn summary(&self, state: State) -> Summary {
        let (guest, since) = (self.guest.clone(), self.begun);
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

/// What is known of an intent, from memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// What was begun.
    pub verb: Verb,
    /// The guest's id.
    pub guest: String,
    /// When, by the clock of then.
    pub since: SystemTime,
    /// Why it could not be recovered last time; `None` before the first try.
    pub why: Option<String>,
    /// What it left, each with the reason; empty before the first try that got so far.
    pub left: Vec<String>,
    /// How often its recovery was tried since the agent started.
    pub tries: u32,
    /// How often it was refused.
    pub refusals: u32,
    /// Its state.
    pub state: State,
}

/// The state of an intent in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The verb that began it runs.
    Running,
    /// It has to be recovered before its guest is changed again.
    Open {
        /// When the next try is due.
        retry: Instant,
    },
    /// Its recovery was refused; the guest's verbs do not wait for it.
    Leftover {
        /// When the next try is due; `None`: not before somebody asks for one.
        retry: Option<Instant>,
    },
}

impl State {
    /// When the next try is due.
    pub(super) fn retry(self) -> Option<Instant> {
        match self {
            Self::Running => None,
            Self::Open { retry } => Some(retry),
            Self::Leftover { retry } => retry,
        }
    }
}
