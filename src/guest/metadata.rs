//! What this agent keeps with a domain.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, Serializer};

use crate::guest::wire;

/// What this agent keeps with a domain, see
/// <https://libvirt.org/formatdomain.html#general-metadata>.
///
/// The owner's document gives these structs no JSON names, so they are Go's: the fields' own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Metadata {
    /// Of its disks.
    pub device: MetadataDevice,
    /// Of its user.
    pub user_metadata: UserMetadata,
    /// The profile that the domain was made with; empty where a former agent made it. Beyond the owner's
    /// model, as what follows.
    #[serde(skip)]
    pub profile: String,
    /// The request that the domain was made from, so that a repeated one is known. Beyond the
    /// owner's model.
    #[serde(skip)]
    pub guest: Option<wire::Guest>,
    /// What is the guest's besides. Beyond the owner's model.
    #[serde(skip)]
    pub besides: OwnedObjects,
}

/// What this agent has made for a guest that its request does not tell of, and Delete removes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnedObjects {
    /// Whether there may be volumes.
    pub volumes: bool,
    /// Names of networks.
    pub networks: BTreeSet<String>,
    /// The instance id of its seed where that is not the domain's uuid; empty: it is.
    pub instance: String,
}

/// What this agent keeps of a domain's disks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct MetadataDevice {
    /// In the order of the request.
    #[serde(serialize_with = "null_when_empty")]
    pub disks: Vec<MetadataDisk>,
}

/// Where a disk came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct MetadataDisk {
    /// Device name, for example `vda`.
    pub device: String,
    /// Id of the image that it was cloned from.
    pub image: String,
    /// Its volume.
    pub volume: String,
}

/// What callers want kept with a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct UserMetadata {
    /// Sorted by name when this agent wrote them.
    #[serde(serialize_with = "null_when_empty")]
    pub parameters: Vec<UserMetadataParameter>,
}

/// One thing that a caller wants kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct UserMetadataParameter {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

impl Metadata {
    /// The volume behind the disk with this target; none where nobody said one.
    pub fn volume_of(&self, device: &str) -> Option<&str> {
        let mut disks = self.device.disks.iter();
        let disk = disks.find(|disk| disk.device == device && !disk.volume.is_empty())?;
        Some(&disk.volume)
    }

    pub(super) fn for_guest(guest: &wire::Guest) -> Self {
        Self {
            device: MetadataDevice { disks: guest.disks.iter().map(MetadataDisk::from).collect() },
            user_metadata: UserMetadata::from(&guest.metadata),
            profile: guest.profile.clone(),
            guest: Some(guest.clone()),
            besides: OwnedObjects::default(),
        }
    }
}

impl From<&wire::GuestDisk> for MetadataDisk {
    fn from(disk: &wire::GuestDisk) -> Self {
        Self { device: disk.device.clone(), image: disk.image.clone(), volume: disk.volume.clone() }
    }
}

impl From<&BTreeMap<String, String>> for UserMetadata {
    fn from(metadata: &BTreeMap<String, String>) -> Self {
        let parameters = metadata.iter().map(|(name, value)| UserMetadataParameter {
            name: name.clone(),
            value: value.clone(),
        });
        Self { parameters: parameters.collect() }
    }
}

pub(super) fn null_when_empty<T: Serialize, S: Serializer>(
    list: &[T],
    out: S,
) -> Result<S::Ok, S::Error> {
    if list.is_empty() { out.serialize_unit() } else { out.collect_seq(list) }
}
