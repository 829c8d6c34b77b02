//! Updates of the request stored with a domain as devices are attached and detached. CreateGuest and Create then take a
//! request with the present devices as the same guest.

use crate::guest::metadata::{Metadata, MetadataDisk};
use crate::guest::wire::{GuestDisk, Nic};
use crate::libvirt::{Domain, Error};
use crate::ops::disks::volumes::GuestVolumeNames;
use crate::ops::guests::devices::device::Device;
use crate::ops::metadata::Stored;

/// Returns whether the stored request has a device. The original agent stored none, so nothing is missing there.
pub(super) fn has(metadata: &Metadata, device: &Device) -> bool {
    metadata.guest.as_ref().is_none_or(|stored| match device {
        Device::Disk(disk) => stored.disks.iter().any(|stored| stored.device == disk.target.device),
        Device::Nic(nic) => {
            stored.nics.iter().any(|stored| stored.mac.eq_ignore_ascii_case(&nic.mac.address))
        }
    })
}

/// Adds a disk. If its volume is one of the guest's `own`, the disk is stored as requested: without its source, so that
/// Delete removes the volume, and with the volume's name unless the disk's position implies it.
pub(super) fn add_disk(
    metadata: &mut Metadata,
    disk: &GuestDisk,
    asked: &GuestDisk,
    own: Option<&GuestVolumeNames>,
) {
    metadata.device.disks.push(MetadataDisk::from(disk));
    let Some(stored) = &mut metadata.guest else {
        metadata.besides.volumes |= own.is_some();
        return;
    };
    let mut disk = disk.clone();
    if asked.is_cdrom() {
        disk.source.clone_from(&asked.source);
    }
    if let Some(own) = own {
        disk.source.clear();
        if !asked.image.is_empty() {
            disk.size_mib = asked.size_mib;
        }
        let implied = own.of(stored.disks.len(), asked);
        if implied.is_ok_and(|volume| volume.as_str() == disk.volume) {
            asked.volume.clone_into(&mut disk.volume);
        }
    }
    stored.disks.push(disk);
}

/// Adds a NIC.
pub(super) fn add_nic(metadata: &mut Metadata, nic: &Nic) {
    if let Some(stored) = &mut metadata.guest {
        stored.nics.push(nic.clone());
    }
}

/// Removes a device.
pub(super) fn remove(metadata: &mut Metadata, device: &Device) {
    match device {
        Device::Disk(disk) => {
            name_volumes_behind(metadata, &disk.target.device);
            let stays = |device: &String| *device != disk.target.device;
            metadata.device.disks.retain(|stored| stays(&stored.device));
            if let Some(stored) = &mut metadata.guest {
                stored.disks.retain(|stored| stays(&stored.device));
            }
        }
        Device::Nic(nic) => {
            if let Some(stored) = &mut metadata.guest {
                stored.nics.retain(|stored| !stored.mac.eq_ignore_ascii_case(&nic.mac.address));
            }
        }
    }
}

/// Stores the volume names of the disks after this one, which their positions implied until now.
fn name_volumes_behind(metadata: &mut Metadata, device: &str) {
    let Some(mut stored) = metadata.guest.take() else { return };
    let behind = stored.disks.iter_mut().skip_while(|disk| disk.device != device).skip(1);
    for disk in behind.filter(|disk| disk.wants_volume()) {
        if let Some(volume) = metadata.volume_of(&disk.device) {
            volume.clone_into(&mut disk.volume);
        }
    }
    metadata.guest = Some(stored);
}

/// Writes the metadata, changed for this device, to the domain.
pub(super) fn write(domain: &Domain, stored: &Stored, device: &Device) -> Result<(), Error> {
    match device {
        Device::Disk(_) => stored.write(domain),
        Device::Nic(_) => stored.write_request(domain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::domain::{self, DiskTarget};
    use crate::guest::wire::Guest;
    use crate::storage::PoolName;

    fn own() -> GuestVolumeNames {
        GuestVolumeNames::new(&PoolName::parse("tank").unwrap(), "a").unwrap()
    }

    /// Returns a disk as AttachDisk makes it.
    fn disk(device: &str, number: usize) -> GuestDisk {
        let volume = own().number(number).unwrap().to_string();
        let source = format!("/dev/zvol/{volume}");
        GuestDisk { device: device.into(), size_mib: 1, volume, source, ..GuestDisk::default() }
    }

    fn named(device: &str) -> Device {
        let target = DiskTarget { device: device.into(), ..DiskTarget::default() };
        Device::Disk(domain::Disk { target, ..domain::Disk::default() })
    }

    /// Returns metadata with disks of these devices and numbers, requested by size alone.
    fn stored(disks: &[(&str, usize)]) -> Metadata {
        let mut metadata = Metadata { guest: Some(Guest::default()), ..Metadata::default() };
        for (device, number) in disks {
            let asked = GuestDisk { size_mib: 1, ..GuestDisk::default() };
            add_disk(&mut metadata, &disk(device, *number), &asked, Some(&own()));
        }
        metadata
    }

    /// Returns the stored volume name of each disk, and the volume that it means.
    fn volumes(metadata: &Metadata) -> Vec<(&str, String)> {
        let disks = metadata.guest.as_ref().unwrap().disks.iter().enumerate();
        let volume =
            |(index, disk): (usize, &'_ GuestDisk)| own().of(index, disk).unwrap().to_string();
        disks.clone().map(|(_, disk)| disk.volume.as_str()).zip(disks.map(volume)).collect()
    }

    #[test]
    fn a_volume_is_said_where_its_place_does_not_tell_it() {
        let metadata = stored(&[("vda", 0), ("vdb", 7)]);
        let said = ("tank/guests/a/disk-7", "tank/guests/a/disk-7".to_owned());
        assert_eq!(volumes(&metadata), [("", "tank/guests/a/disk-0".to_owned()), said]);
        assert_eq!(metadata.volume_of("vda"), Some("tank/guests/a/disk-0"));
    }

    #[test]
    fn disks_keep_volumes_when_an_earlier_one_is_removed() {
        let mut metadata = stored(&[("vda", 0), ("vdb", 1), ("vdc", 2)]);
        remove(&mut metadata, &named("vdb"));
        let meant = |metadata: &Metadata| {
            volumes(metadata).into_iter().map(|(_, volume)| volume).collect::<Vec<_>>()
        };
        assert_eq!(meant(&metadata), ["tank/guests/a/disk-0", "tank/guests/a/disk-2"]);
        assert_eq!((has(&metadata, &named("vdb")), has(&metadata, &named("vdc"))), (false, true));
        remove(&mut metadata, &named("vda"));
        assert_eq!(meant(&metadata), ["tank/guests/a/disk-2"]);
        assert_eq!(metadata.device.disks.len(), 1);
    }

    #[test]
    fn given_source_and_volumes_of_original_are_recorded() {
        let mut metadata = stored(&[]);
        add_disk(&mut metadata, &disk("vda", 3), &disk("vda", 3), None);
        assert_eq!(metadata.guest.as_ref().unwrap().disks, [disk("vda", 3)]);
        let mut original = Metadata::default();
        add_disk(&mut original, &disk("vda", 3), &GuestDisk::default(), None);
        assert!(!original.besides.volumes);
        add_disk(&mut original, &disk("vdb", 4), &GuestDisk::default(), Some(&own()));
        assert!(original.besides.volumes && original.guest.is_none());
    }
}
