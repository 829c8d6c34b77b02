//! The metadata that this agent stores with a domain.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, Serializer};

use crate::guest::wire;

/// The metadata that this agent stores with a domain, see <https://libvirt.org/formatdomain.html#general-metadata>.
///
/// The owner's document sets no JSON names for these structs, so their names are Go's: those of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Metadata {
    /// Metadata of the disks.
    pub device: MetadataDevice,
    /// Metadata of the caller.
    pub user_metadata: UserMetadata,
    /// The profile at the domain's creation; empty if a former agent created it. Beyond the owner's model, like the
    /// next fields.
    #[serde(skip)]
    pub profile: String,
    /// The request that created the domain, to recognise a repeated one. Beyond the owner's model.
    #[serde(skip)]
    pub guest: Option<wire::Guest>,
    /// The guest's other objects. Beyond the owner's model.
    #[serde(skip)]
    pub besides: OwnedObjects,
}

/// Objects that this agent made for a guest outside its request. Delete removes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnedObjects {
    /// Whether the guest may have volumes.
    pub volumes: bool,
    /// Names of networks.
    pub networks: BTreeSet<String>,
    /// The instance id of its seed; empty if it is the domain's uuid.
    pub instance: String,
}

/// Metadata of a domain's disks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct MetadataDevice {
    /// In the order of the request.
    #[serde(serialize_with = "null_when_empty")]
    pub disks: Vec<MetadataDisk>,
}

/// The origin of a disk.
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

/// Metadata that callers store with a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct UserMetadata {
    /// Sorted by name when this agent wrote them.
    #[serde(serialize_with = "null_when_empty")]
    pub parameters: Vec<UserMetadataParameter>,
}

/// One entry of a caller's metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct UserMetadataParameter {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

impl Metadata {
    /// Returns the volume of the disk with this target; `None` if the metadata names none.
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
