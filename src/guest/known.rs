//! The guest that a domain represents, as the wire describes it.

use crate::guest::domain::{self, KIB_PER_MIB, VirDomain};
use crate::guest::network::NetworkDefinition;
use crate::guest::wire::{Guest, GuestDisk, Nic};

/// Returns the stored request as CreateGuest answered it: a disk without a source gets the volume
/// and source of the domain's disk.
pub fn answered(request: &Guest, found: &VirDomain) -> Guest {
    let mut guest = request.clone();
    for disk in guest.disks.iter_mut().filter(|disk| disk.source.is_empty()) {
        if let Some(volume) = found.metadata.volume_of(&disk.device) {
            volume.clone_into(&mut disk.volume);
        }
        if let Some(found) = found.disk_by_device(&disk.device) {
            found.source.path().clone_into(&mut disk.source);
        }
    }
    guest
}

/// Describes a guest of the original agent, which stored no request: from the domain, and otherwise
/// from the caller's request. `networks` has the networks of its interfaces.
pub fn of_domain(asked: &Guest, found: &VirDomain, networks: &[NetworkDefinition]) -> Guest {
    let disks = found.devices.disks.iter().map(|disk| of_disk(asked, disk));
    let nics = found.devices.interfaces.iter().map(|it| of_interface(asked, it, networks));
    Guest {
        kind: found.kind.clone(),
        memory_mib: found.most_memory_kib() / KIB_PER_MIB,
        cpu: found.vcpu,
        disks: disks.collect(),
        nics: nics.collect(),
        ..asked.clone()
    }
}

fn of_disk(asked: &Guest, found: &domain::Disk) -> GuestDisk {
    let source = found.source.path();
    let asked = asked.disks.iter().find(|disk| disk.source == source);
    GuestDisk {
        bus: found.target.bus.clone(),
        device: found.target.device.clone(),
        source: source.to_owned(),
        ..asked.cloned().unwrap_or_default()
    }
}

fn of_interface(asked: &Guest, found: &domain::Interface, networks: &[NetworkDefinition]) -> Nic {
    let mac = &found.mac.address;
    let asked = asked.nics.iter().find(|nic| nic.mac.eq_ignore_ascii_case(mac));
    let network = networks.iter().find(|network| network.name == found.source.network);
    let vlans = network.map(|network| network.vlans.clone());
    Nic {
        mac: mac.clone(),
        model: found.model.kind.clone(),
        network: network.map_or_else(|| found.source.bridge.clone(), |it| it.bridge.clone()),
        vlans: vlans.filter(|vlans| !vlans.is_empty()),
        ..asked.cloned().unwrap_or_default()
    }
}
