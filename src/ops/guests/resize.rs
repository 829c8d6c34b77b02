//! ResizeDisk: grows a volume, and the disk of a running guest.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::guest::domain::{Disk, RAW, VirDomain};
use crate::guest::wire::{self, GuestRequest, GuestResponse};
use crate::journal::{Intent, Step, Verb};
use crate::libvirt::XmlKind;
use crate::ops::disks::backing_chain::Chain;
use crate::ops::disks::domain_uses::{DomainUse, uses_of_others};
use crate::ops::guests::saved_memory::not_saved;
use crate::ops::hypervisor::definition::described;
use crate::ops::images::store::guest_with_disks;
use crate::ops::metadata::Stored;
use crate::ops::requests::respond;
use crate::ops::transaction::Transaction;
use crate::ops::{Core, Error, Guests, Session};
use crate::os::paths::resolved;
use crate::pool::{GuestLock, Lane};
use crate::storage::{self, StoredVolume, Volumes};

const VERB: &str = "ResizeDisk";

impl Guests {
    /// Grows the volumes of a guest's disks to the `size` of each disk of the request, and resizes the disks of a
    /// running guest.
    ///
    /// The request names a disk by `device` or by `volume`. A disk that already has the size is resized again in the
    /// running guest, so that a call that failed halfway can be repeated. The answer has the present sizes of the
    /// volumes, and so has the request stored with the domain: CreateGuest then takes a request with these sizes as the
    /// same guest.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without a guest, an id or disks; errors of libvirt, including a missing domain; a disk that
    /// the guest does not have, that is not a volume of the pool or not raw, that another domain uses too, or that
    /// would shrink: then nothing has grown.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn resize_disk(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        let mut guest = guest_with_disks(request.guest)?;
        let deadline = self.core.change_deadline(&request.args)?;
        let lock = self.core.lock_guest(&guest.id, deadline)?;

        let id = guest.id.clone();
        let look = move |session: &mut Session| {
            let domain = session.domain(&id)?;
            not_saved(&domain)?;
            let domain = described(&domain, XmlKind::Live)?;
            Ok((domain, uses_of_others(session.connection()?, &id)?))
        };
        let (domain, others) = self.core.run_locked(VERB, deadline, &lock, look, |_, _| {})?;

        let wanted = guest.disks.clone();
        let volumes = Arc::clone(&self.core.volumes);
        let transaction = Transaction::begin(&self.core.journal, Verb::ResizeDisk, &guest);
        let work = move |_: &mut Session, transaction: &mut Transaction| {
            let found = find_all(&*volumes, &wanted, &domain, &others, deadline)?;
            let grown = grow(&*volumes, found, transaction, deadline);
            Ok(grown)
        };
        let (grown, transaction) =
            self.core.run_steps(Lane::Storage, transaction, &lock, deadline, work)?;
        // Also if a later disk does not grow: the running guest gets the sizes of the others.
        let reported = self.core.recover(transaction, &lock, deadline);
        for (disk, volume) in guest.disks.iter_mut().zip(grown?) {
            disk.size_mib = volume.size_mib();
        }
        reported?;
        Ok(respond(guest))
    }
}

impl Core {
    /// Updates the definition and the running guest to the present sizes of the guest's volumes: the rest of a
    /// ResizeDisk. Grows no volume.
    ///
    /// # Errors
    /// Errors of storage and libvirt.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(in crate::ops) fn apply_sizes(
        &self,
        label: &str,
        intent: &Intent,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<(), Error> {
        let asked = intent.clone();
        let look = move |volumes: &dyn Volumes| sizes(volumes, &asked, deadline);
        let sizes = self.on_storage(label, lock.guest(), Some(lock), deadline, look)?;
        let id = intent.guest.clone();
        let report = move |session: &mut Session| {
            let Some(domain) = session.find(&id)? else { return Ok(()) };
            let definition = described(&domain, XmlKind::Inactive)?;
            let (mut stored, live) = (Stored::read(&domain)?, described(&domain, XmlKind::Live)?);
            for (device, volume) in &sizes {
                if !is_raw_on(&definition, device, volume) {
                    continue;
                }
                let mut stored =
                    stored.metadata.guest.iter_mut().flat_map(|stored| &mut stored.disks);
                if let Some(stored) = stored.find(|stored| stored.device == *device) {
                    stored.size_mib = volume.size_mib();
                }
            }
            if stored.metadata.guest.is_some() {
                stored.write_request(&domain)?;
            }
            if domain.is_active()? {
                for (device, volume) in &sizes {
                    if is_raw_on(&live, device, volume) {
                        domain.block_resize(device, volume.size_bytes)?;
                    }
                }
            }
            Ok(())
        };
        self.run_locked(label, deadline, lock, report, |_, _| {})
    }
}

/// Returns whether the volume is a raw disk of the domain at this target. By now another disk may be there.
fn is_raw_on(domain: &VirDomain, target: &str, volume: &StoredVolume) -> bool {
    let at_target = domain.disk_by_device(target);
    at_target.is_some_and(|disk| {
        ["", RAW].contains(&disk.driver.kind.as_str())
            && resolved(Path::new(disk.source.path())) == resolved(&volume.device)
    })
}

/// Returns the targets and the present volumes of a ResizeDisk, without volumes that no longer exist.
fn sizes(
    volumes: &dyn Volumes,
    intent: &Intent,
    deadline: Instant,
) -> Result<Vec<(String, StoredVolume)>, storage::Error> {
    let mut found = Vec::new();
    for step in &intent.steps {
        let Step::Size { device, volume } = step else { continue };
        let Ok(name) = volumes.pool().full_dataset(volume) else { continue };
        match volumes.volume(&name, deadline) {
            Ok(volume) => found.push((device.clone(), volume)),
            Err(storage::Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Returns the target and the volume of each disk, and its new size in MiB.
///
/// # Errors
/// Why a disk cannot grow: then none grows.
fn find_all(
    volumes: &dyn Volumes,
    wanted: &[wire::GuestDisk],
    domain: &VirDomain,
    others: &[DomainUse],
    deadline: Instant,
) -> Result<Vec<(String, StoredVolume, u64)>, storage::Error> {
    let all = volumes.volumes(None, deadline)?;
    let mut found = Vec::new();
    for (position, disk) in wanted.iter().enumerate() {
        let invalid = |why: String| storage::Error::Invalid(format!("disks[{position}]{why}"));
        let (target, volume) = find(disk, domain, &all).map_err(invalid)?;
        let has = |it: &&DomainUse| it.of_volume(&volume.device).is_some() || it.has_made(volume);
        if let Some(other) = others.iter().find(has) {
            let why = format!(": domain {} also uses {}", other.name, volume.name);
            return Err(invalid(why));
        }
        if volume.name.is_seed() {
            return Err(invalid(": the disk is the guest's seed, which has its size".to_owned()));
        }
        let has_mib = volume.size_mib();
        if disk.size_mib < has_mib {
            let why = format!(": cannot shrink {} from {has_mib} MiB", volume.name);
            return Err(invalid(why));
        }
        found.push((target.to_owned(), volume.clone(), disk.size_mib));
    }
    Ok(found)
}

/// Grows one volume after the other; the transaction records each volume before it grows.
fn grow(
    volumes: &dyn Volumes,
    found: Vec<(String, StoredVolume, u64)>,
    transaction: &mut Transaction,
    deadline: Instant,
) -> Result<Vec<StoredVolume>, Error> {
    let grow = |(device, volume, size_mib): (String, StoredVolume, u64)| {
        transaction.record(Step::Size { device, volume: volume.name.to_string() })?;
        Ok(volumes.grow(&volume.name, size_mib, deadline)?)
    };
    found.into_iter().map(grow).collect()
}

/// Returns the target and the volume of a disk that the request names by its device, its volume, or both.
fn find<'a>(
    disk: &wire::GuestDisk,
    domain: &'a VirDomain,
    all: &'a [StoredVolume],
) -> Result<(&'a str, &'a StoredVolume), String> {
    if disk.device.is_empty() && disk.volume.is_empty() {
        return Err(" must have a device or volume".to_owned());
    }
    let mut is_known = false;
    for found in &domain.devices.disks {
        if !disk.device.is_empty() && found.target.device != disk.device {
            continue;
        }
        is_known |= !disk.device.is_empty();
        // The length of a qcow2 file is not the size of its disk, and a volume below such a file is not the disk of the
        // guest. Only libvirt and qemu know the sizes of these disks.
        if !["", RAW].contains(&found.driver.kind.as_str())
            && (is_known || named_by_volume(found, disk, all))
        {
            let (target, kind) = (&found.target.device, &found.driver.kind);
            return Err(format!(
                ": {target} has the format {kind}; only {RAW} disks can be resized"
            ));
        }
        let source = resolved(Path::new(found.source.path()));
        let volume = all.iter().find(|volume| resolved(&volume.device) == source);
        let fits =
            |volume: &&StoredVolume| disk.volume.is_empty() || volume.name.as_str() == disk.volume;
        if let Some(volume) = volume.filter(fits) {
            return Ok((&found.target.device, volume));
        }
    }
    let named = if disk.volume.is_empty() { &disk.device } else { &disk.volume };
    Err(match (is_known, disk.volume.is_empty()) {
        (true, true) => format!(": the source of {named} is not a volume of the pool"),
        _ => format!(": the guest has no disk {named}"),
    })
}

/// Returns whether the volume that a request names is the source of this disk, or a backing file.
fn named_by_volume(found: &Disk, wanted: &wire::GuestDisk, all: &[StoredVolume]) -> bool {
    let Some(volume) = all.iter().find(|it| it.name.as_str() == wanted.volume) else {
        return false;
    };
    let device = resolved(&volume.device);
    let mut paths = vec![PathBuf::from(found.source.path())];
    paths.extend(Chain::of(found).files);
    paths.iter().any(|path| resolved(path) == device)
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::guest::domain::{Device, Disk, DiskSource, DiskTarget};
    use crate::storage::PoolName;

    fn volume(name: &str) -> StoredVolume {
        StoredVolume {
            name: PoolName::parse("tank").unwrap().dataset(name).unwrap(),
            size_bytes: 0,
            device: PathBuf::from(format!("/absent/{name}")),
            origin: None,
            owner: None,
            maker: None,
            is_written: true,
        }
    }

    fn domain(disks: &[(&str, &str)]) -> VirDomain {
        let disk = |(target, source): &(&str, &str)| Disk {
            source: DiskSource { device: format!("/absent/{source}"), ..DiskSource::default() },
            target: DiskTarget { device: (*target).to_owned(), ..DiskTarget::default() },
            ..Disk::default()
        };
        let disks = disks.iter().map(disk).collect();
        VirDomain { devices: Device { disks, ..Device::default() }, ..VirDomain::default() }
    }

    fn found(device: &str, volume_name: &str) -> Result<(String, String), String> {
        let all = [volume("guests/a/disk-0"), volume("guests/a/disk-1"), volume("guests/b/disk-0")];
        let domain =
            domain(&[("vda", "guests/a/disk-0"), ("vdb", "guests/a/disk-1"), ("vdc", "elsewhere")]);
        let disk = wire::GuestDisk {
            device: device.to_owned(),
            volume: volume_name.to_owned(),
            ..wire::GuestDisk::default()
        };
        find(&disk, &domain, &all)
            .map(|(target, volume)| (target.into(), volume.name.relative().into()))
    }

    #[test]
    fn only_a_raw_disk_on_the_volume_is_notified() {
        let mut domain = domain(&[("vda", "guests/a/disk-0"), ("vdb", "guests/a/disk-1")]);
        domain.devices.disks.iter_mut().for_each(|disk| disk.driver.kind = RAW.to_owned());
        let volume = volume("guests/a/disk-1");
        assert!(is_raw_on(&domain, "vdb", &volume));
        assert!(!is_raw_on(&domain, "vda", &volume) && !is_raw_on(&domain, "vdc", &volume));
        domain.devices.disks.iter_mut().for_each(|disk| disk.driver.kind = "qcow2".to_owned());
        assert!(!is_raw_on(&domain, "vdb", &volume));
    }

    #[test]
    fn a_disk_is_found_by_its_device_or_its_volume() {
        let second = Ok(("vdb".to_owned(), "guests/a/disk-1".to_owned()));
        assert_eq!(found("vdb", ""), second);
        assert_eq!(found("", "tank/guests/a/disk-1"), second);
        assert_eq!(found("vdb", "tank/guests/a/disk-1"), second);
    }

    #[test]
    fn other_peoples_disks_are_not_found() {
        for (device, volume, why) in [
            ("", "", " must have a device or volume"),
            ("vdz", "", ": the guest has no disk vdz"),
            ("vdc", "", ": the source of vdc is not a volume of the pool"),
            ("", "tank/guests/b/disk-0", ": the guest has no disk tank/guests/b/disk-0"),
            ("vda", "tank/guests/a/disk-1", ": the guest has no disk tank/guests/a/disk-1"),
        ] {
            assert_eq!(found(device, volume).unwrap_err(), why);
        }
    }
}
