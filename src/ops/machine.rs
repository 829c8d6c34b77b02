//! The machine of a new guest on this host: what its profile fills in, and what is unavailable.

use std::fs;
use std::path::Path;

use crate::config::{HostConfig, Profile};
use crate::guest::capabilities::Capabilities;
use crate::guest::check::machine::{
    asked_machine, misplaced, setting_fault, unavailable, unit_fault,
};
use crate::guest::domain::{SourceKind, VirDomain};
use crate::guest::invalid::{Fault, Invalid};
use crate::guest::paths;
use crate::guest::placement::numbers;
use crate::guest::profile::{self, DiskPlace, Place};
use crate::guest::wire::{self, Guest, Nic};
use crate::libvirt::{self, Code, Connection};
use crate::ops::{Error, unreadable};
use crate::os::disk;

/// What libvirt offers for a guest; none where its driver does not say.
///
/// # Errors
/// [`Error::Invalid`] names the first member that cannot be had here, and what can.
///
/// # Blocking
/// As [`Connection::domain_capabilities`].
pub(super) fn offer(
    connection: &Connection,
    guest: &Guest,
    profile: Profile,
) -> Result<Option<Capabilities>, Error> {
    let (offer, missing) = look(connection, guest, profile)?;
    match missing.into_iter().next() {
        Some(first) => Err(first.into()),
        None => Ok(offer),
    }
}

/// The same with all that cannot be had.
pub(super) fn look(
    connection: &Connection,
    guest: &Guest,
    profile: Profile,
) -> Result<(Option<Capabilities>, Vec<Invalid>), Error> {
    match connection.domain_capabilities(&guest.kind, asked_machine(guest, profile)) {
        Ok(xml) => {
            let offer = Capabilities::from_xml(&xml).map_err(unreadable)?;
            let mut missing = unavailable(guest, &offer);
            missing.extend(misplaced_here(guest));
            Ok((Some(offer), missing))
        }
        Err(error) if error.code == Code::NO_SUPPORT => Ok((None, Vec::new())),
        Err(error) if !guest.machine.is_empty() && is_about(&error, &guest.machine) => {
            let fault = Fault::NotOnHost { found: guest.machine.clone(), why: error.message };
            Ok((None, vec![Invalid::Member { member: "machine".to_owned(), fault }]))
        }
        Err(error) => Err(error.into()),
    }
}

/// What of a guest's placement this host cannot give.
fn misplaced_here(guest: &Guest) -> Vec<Invalid> {
    let read = |file: &str| {
        let text = fs::read_to_string(format!("/sys/devices/system/{file}/online"));
        text.map(|text| text.trim().to_owned()).unwrap_or_default()
    };
    let pages = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", guest.hugepages_kib);
    misplaced(guest, &read("cpu"), &read("node"), Path::new(&pages).exists())
}

/// Whether libvirt complains of a machine, and not of the hypervisor.
fn is_about(error: &libvirt::Error, machine: &str) -> bool {
    error.message.contains(&format!("'{machine}'"))
}

/// The domain of a new guest with this uuid: its profile fills in what the request leaves open, and the
/// request as it was is kept in it. `sources` tells what each disk's source is, in order.
///
/// # Errors
/// [`Error::Invalid`] for a disk whose settings its file system does not support, and for memory that is no
/// multiple of its unit.
///
/// # Blocking
/// As long as the file systems of the disks take to open a file: on a worker only.
pub(super) fn definition(
    guest: &Guest,
    request: Guest,
    host: &HostConfig,
    sources: &[SourceKind],
    (offer, uuid): (Option<Capabilities>, &str),
) -> Result<VirDomain, Error> {
    let places = guest.disks.iter().zip(sources);
    let place = Place {
        offer,
        disks: places.map(|(disk, kind)| disk_place(disk, *kind)).collect(),
        mtus: guest.nics.iter().map(mtu).collect(),
        cpus: processors(),
        uuid: uuid.to_owned(),
    };
    let mut made = guest.clone();
    profile::fill(&mut made, host.profile, &place);
    if let Some(fault) = unit_fault(&made) {
        return Err(fault.into());
    }
    for (index, (disk, place)) in made.disks.iter().zip(&place.disks).enumerate() {
        if let Some(fault) = setting_fault(&format!("disks[{index}]"), disk, *place) {
            return Err(fault.into());
        }
    }
    let mut domain = VirDomain::for_guest(&made, host, sources);
    uuid.clone_into(&mut domain.uuid);
    domain.hardware.nvram = paths::nvram(uuid, host);
    domain.metadata.guest = Some(request);
    Ok(domain)
}

/// Fills in the open members of a disk that is attached to a domain.
///
/// # Blocking
/// As [`definition`].
pub(super) fn fill_disk(disk: &mut wire::Disk, kind: SourceKind, domain: &VirDomain) {
    if domain.metadata.profile == profile::MODERN {
        profile::fill_disk(disk, disk_place(disk, kind), &domain.uuid);
    }
}

/// The same for a NIC.
pub(super) fn fill_nic(nic: &mut Nic, domain: &VirDomain) {
    if domain.metadata.profile == profile::MODERN {
        profile::fill_nic(nic, profile::queues(&domain.kind, domain.vcpu), mtu(nic));
    }
}

/// What its file system does not support of a disk that is attached, whose open members are filled in.
///
/// # Blocking
/// As [`definition`].
pub(super) fn disk_fault(disk: &wire::Disk, kind: SourceKind) -> Option<Invalid> {
    setting_fault("disk", disk, disk_place(disk, kind))
}

fn disk_place(disk: &wire::Disk, kind: SourceKind) -> DiskPlace {
    let is_block = kind == SourceKind::Block;
    let is_direct = is_block || disk::is_direct(Path::new(&disk.source));
    DiskPlace { is_block, is_direct }
}

/// Processors of the host that are on; 1 where the kernel does not say.
fn processors() -> u64 {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let count = numbers(text.trim()).map_or(1, |cpus| cpus.len());
    u64::try_from(count).unwrap_or(1)
}

/// The unit of the bridge that a NIC names, in bytes; 0 where there is no such bridge.
fn mtu(nic: &Nic) -> u64 {
    // A name with a slash leads elsewhere, and is no name of a bridge.
    if nic.network.contains('/') || nic.network.starts_with('.') {
        return 0;
    }
    let file = format!("/sys/class/net/{}/mtu", nic.network);
    fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}
