//! The machine of a new guest on this host: the values of its profile, and the members that are unavailable.

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
use crate::guest::profile::{self, DefinitionContext, DiskSourceInfo};
use crate::guest::wire::{self, Guest, Nic};
use crate::libvirt::{self, Code, Connection};
use crate::ops::Error;
use crate::ops::hypervisor::definition::unreadable;
use crate::os::disk;

/// Returns libvirt's capabilities for a guest; `None` if the driver reports none.
///
/// # Errors
/// [`Error::Invalid`] names the first unavailable member, and the available values.
///
/// # Blocking
/// As [`Connection::domain_capabilities`].
pub(in crate::ops) fn offer(
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

/// Returns libvirt's capabilities for a guest, and all unavailable members.
pub(in crate::ops) fn look(
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

/// Returns the members of a guest's placement that this host cannot provide.
fn misplaced_here(guest: &Guest) -> Vec<Invalid> {
    let read = |file: &str| {
        let text = fs::read_to_string(format!("/sys/devices/system/{file}/online"));
        text.map(|text| text.trim().to_owned()).unwrap_or_default()
    };
    let pages = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", guest.hugepages_kib);
    misplaced(guest, &read("cpu"), &read("node"), Path::new(&pages).exists())
}

/// Returns whether libvirt's error is about a machine, and not about the hypervisor.
fn is_about(error: &libvirt::Error, machine: &str) -> bool {
    error.message.contains(&format!("'{machine}'"))
}

/// Returns the domain of a new guest with this uuid. The profile fills in the members that the request omits, and the
/// domain stores the original request. `sources` has the kind of each disk's source, in order.
///
/// # Errors
/// [`Error::Invalid`] for a disk whose settings its file system does not support, and for memory that is not a multiple
/// of its unit.
///
/// # Blocking
/// Until the file systems of the disks have opened a file, so only a worker may call this.
pub(in crate::ops) fn definition(
    guest: &Guest,
    request: Guest,
    host: &HostConfig,
    sources: &[SourceKind],
    (offer, uuid): (Option<Capabilities>, &str),
) -> Result<VirDomain, Error> {
    let kinds = guest.disks.iter().zip(sources);
    let context = DefinitionContext {
        offer,
        disks: kinds.map(|(disk, kind)| source_info(disk, *kind)).collect(),
        mtus: guest.nics.iter().map(mtu).collect(),
        cpus: processors(),
        uuid: uuid.to_owned(),
    };
    let mut made = guest.clone();
    profile::fill(&mut made, host.profile, &context);
    if let Some(fault) = unit_fault(&made) {
        return Err(fault.into());
    }
    for (index, (disk, source)) in made.disks.iter().zip(&context.disks).enumerate() {
        if let Some(fault) = setting_fault(&format!("disks[{index}]"), disk, *source) {
            return Err(fault.into());
        }
    }
    let mut domain = VirDomain::for_guest(&made, host, sources);
    uuid.clone_into(&mut domain.uuid);
    domain.hardware.nvram = paths::nvram(uuid, host);
    domain.metadata.guest = Some(request);
    Ok(domain)
}

/// Fills in the omitted members of a disk that is attached to a domain.
///
/// # Blocking
/// As [`definition`].
pub(super) fn fill_disk(disk: &mut wire::GuestDisk, kind: SourceKind, domain: &VirDomain) {
    if domain.metadata.profile == profile::MODERN {
        profile::fill_disk(disk, source_info(disk, kind), &domain.uuid);
    }
}

/// Fills in the omitted members of a NIC that is attached to a domain.
pub(super) fn fill_nic(nic: &mut Nic, domain: &VirDomain) {
    if domain.metadata.profile == profile::MODERN {
        profile::fill_nic(nic, profile::queues(&domain.kind, domain.vcpu), mtu(nic));
    }
}

/// Returns a setting of a disk, with its omitted members filled in, that its file system does not support.
///
/// # Blocking
/// As [`definition`].
pub(super) fn disk_fault(disk: &wire::GuestDisk, kind: SourceKind) -> Option<Invalid> {
    setting_fault("disk", disk, source_info(disk, kind))
}

fn source_info(disk: &wire::GuestDisk, kind: SourceKind) -> DiskSourceInfo {
    let is_block = kind == SourceKind::Block;
    let is_direct = is_block || disk::is_direct(Path::new(&disk.source));
    DiskSourceInfo { is_block, is_direct }
}

/// Returns the number of online processors of the host; 1 if the kernel does not report them.
fn processors() -> u64 {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let count = numbers(text.trim()).map_or(1, |cpus| cpus.len());
    u64::try_from(count).unwrap_or(1)
}

/// Returns the MTU of the bridge that a NIC names, in bytes; 0 if the bridge does not exist.
fn mtu(nic: &Nic) -> u64 {
    // A name with a slash is no bridge, and would read another file.
    if nic.network.contains('/') || nic.network.starts_with('.') {
        return 0;
    }
    let file = format!("/sys/class/net/{}/mtu", nic.network);
    fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}
