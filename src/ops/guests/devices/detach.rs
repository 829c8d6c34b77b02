//! DetachDisk and DetachNic: detach a device from the definition, and from the running guest.

use std::iter;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::guest::domain::{Disk, VirDomain};
use crate::guest::wire::verbs::{DiskRequest, NicRequest, SettingResponse};
use crate::guest::wire::{self, Guest, Nic};
use crate::journal::{Step, Verb};
use crate::libvirt::{AffectFlags, Domain, XmlKind};
use crate::ops::disks::domain_uses::uses_of_others;
use crate::ops::disks::volumes::wants_volumes;
use crate::ops::guests::devices::change::{Changed, DeviceChange, running};
use crate::ops::guests::devices::device::Device;
use crate::ops::guests::devices::stored_request;
use crate::ops::guests::saved_memory::not_saved;
use crate::ops::metadata::Stored;
use crate::ops::networks::guest_networks::{self, OwnerMatch};
use crate::ops::requests::named_guest;
use crate::ops::transaction::{Stop, Transaction};
use crate::ops::{Error, Guests, Session};
use crate::pool::{GuestLock, Lane};
use crate::sorted::IntoSorted;
use crate::storage::{self, Volumes};

const DISK_VERB: &str = "DetachDisk";
const NIC_VERB: &str = "DetachNic";

impl Guests {
    /// Detaches a disk from the guest's definition, and asks the guest to release it if it runs.
    ///
    /// The request names the disk by its `device`, its `volume`, its `source`, or several of them. A volume that this
    /// agent made stays with the guest: AttachDisk attaches it again by its name, and Delete destroys it.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; [`Error::NoDevice`] if the guest has no such disk; errors of libvirt,
    /// including a missing domain. A running guest that does not release the disk is no error: the answer reports it,
    /// and the call can be repeated.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change); the wait for a running guest is that of
    /// [`Domain::detach_device`]. After the deadline the agent still completes the detach.
    pub fn detach_disk(&self, request: DiskRequest) -> Result<SettingResponse, Error> {
        let guest = named_guest(request.guest)?;
        let disk = request.disk.unwrap_or_default();
        if disk.device.is_empty() && disk.volume.is_empty() && disk.source.is_empty() {
            let why = "disk must have a device, volume or source";
            return Err(Error::Invalid(why.to_owned()));
        }
        let deadline = self.core.change_deadline(&request.args)?;
        let lock = self.core.lock_guest(&guest.id, deadline)?;
        // A source identifies the disk; a volume beside it may be the caller's own text.
        let volume = match disk.volume.as_str() {
            name if !name.is_empty() && disk.source.is_empty() => {
                Some(self.device_of(name, &lock, deadline)?)
            }
            _ => None,
        };
        let (definition, live) = self.look_at_devices(DISK_VERB, &lock, deadline)?;
        let find = |domain: &VirDomain| find_disk(domain, &disk, volume.as_deref());
        let found = find(&definition).or_else(|| find(live.as_ref()?));
        let device = found.ok_or_else(|| no_disk(&disk))?;
        let seed = definition.metadata.seed(self.core.volumes.pool());
        if let (Device::Disk(disk), Some(seed)) = (&device, seed) {
            let known = definition.metadata.volume_of(&disk.target.device);
            if known == Some(seed.as_str()) {
                let why = format!("disk {} is the guest's seed, which stays", disk.target.device);
                return Err(Error::Invalid(why));
            }
        }
        self.detach(Verb::DetachDisk, DISK_VERB, guest, device, &lock, deadline)
    }

    /// Detaches a NIC from the guest's definition, asks the guest to release it if it runs, and then removes the
    /// network that its MAC names, unless another guest uses it.
    ///
    /// The request names the NIC by its `mac`, or else by its `name`. The network stays until the running guest has
    /// released the NIC: the same call removes it later, and so does Delete.
    ///
    /// # Errors
    /// As [`Guests::detach_disk`].
    ///
    /// # Blocking
    /// As [`Guests::detach_disk`].
    pub fn detach_nic(&self, request: NicRequest) -> Result<SettingResponse, Error> {
        let guest = named_guest(request.guest)?;
        let nic = request.nic.unwrap_or_default();
        if nic.mac.is_empty() && nic.name.is_empty() {
            return Err(Error::Invalid("nic must have a mac or name".to_owned()));
        }
        let deadline = self.core.change_deadline(&request.args)?;
        let lock = self.core.lock_guest(&guest.id, deadline)?;
        let (definition, live) = self.look_at_devices(NIC_VERB, &lock, deadline)?;
        let device = find_nic(&definition, live.as_ref(), &nic)?;
        self.detach(Verb::DetachNic, NIC_VERB, guest, device, &lock, deadline)
    }

    /// Detaches a device from the definition in a transaction, and then from the running guest.
    fn detach(
        &self,
        verb: Verb,
        name: &str,
        guest: Guest,
        device: Device,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<SettingResponse, Error> {
        let transaction = Transaction::begin(&self.core.journal, verb, &guest);
        let work = move |session: &mut Session, transaction: &mut Transaction| {
            let domain = session.domain(&guest.id)?;
            not_saved(&domain)?;
            transaction.record(device.step())?;
            match detach_from_definition(&domain, &device) {
                Err(error) if error.is_unreachable() => return Err(Stop::Recover(error)),
                // The guest still has the device, and the caller gets this error.
                Err(error) => return Err(Stop::Clean(error)),
                Ok(()) => forget(session, &domain, &guest.id, &device)?,
            }
            Ok(Changed::read(session, &domain, &guest, device)?)
        };
        let (changed, transaction) =
            self.core.run_steps(Lane::Control, transaction, lock, deadline, work)?;
        self.core.commit(transaction, lock, deadline)?;
        Ok(self.apply_live(name, DeviceChange::Detach, changed, lock, deadline))
    }

    /// Returns the device of the volume of this name.
    fn device_of(
        &self,
        volume: &str,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<PathBuf, Error> {
        let name = self.core.volumes.pool().full_dataset(volume).map_err(storage::Error::Name)?;
        let look = move |volumes: &dyn Volumes| volumes.volume(&name, deadline);
        Ok(self.core.on_storage(DISK_VERB, lock.guest(), Some(lock), deadline, look)?.device)
    }
}

/// Returns the disk of a domain that matches every name in a request.
fn find_disk(domain: &VirDomain, disk: &wire::GuestDisk, volume: Option<&Path>) -> Option<Device> {
    let is_it = |found: &&Disk| {
        (disk.device.is_empty() || disk.device == found.target.device)
            && (disk.source.is_empty() || disk.source == found.source.path())
            && volume.is_none_or(|volume| volume == Path::new(found.source.path()))
    };
    domain.devices.disks.iter().find(is_it).cloned().map(Device::Disk)
}

fn no_disk(disk: &wire::GuestDisk) -> Error {
    let names = [&disk.device, &disk.source, &disk.volume];
    let named = names.into_iter().find(|name| !name.is_empty()).map_or("", String::as_str);
    Error::NoDevice(format!("cannot detach disk {named}: the guest has no such disk"))
}

/// Returns the NIC that a request names. A NIC that is already detached counts if its network is left.
fn find_nic(definition: &VirDomain, live: Option<&VirDomain>, nic: &Nic) -> Result<Device, Error> {
    let mac = match nic.mac.as_str() {
        "" => mac_of(definition, live, &nic.name)?,
        mac => mac.to_owned(),
    };
    let found = definition.interface_by_mac(&mac).or_else(|| live?.interface_by_mac(&mac));
    if let Some(found) = found {
        return Ok(Device::Nic(found.clone()));
    }
    let mut left = definition.metadata.besides.networks.iter();
    match left.find(|network| network.eq_ignore_ascii_case(&mac)) {
        Some(network) => Ok(Device::nic(&mac, network)),
        None => Err(Error::NoDevice(format!("cannot detach NIC {mac}: the guest has no such NIC"))),
    }
}

/// Returns the MAC of the NIC with a name. The name may be in the stored request, libvirt's alias of a running guest's
/// NIC, or written by the original agent.
fn mac_of(definition: &VirDomain, live: Option<&VirDomain>, name: &str) -> Result<String, Error> {
    let stored = definition.metadata.guest.iter().flat_map(|stored| &stored.nics);
    let stored = stored.filter(|nic| nic.name == name).map(|nic| &nic.mac);
    let interfaces = [Some(definition), live].into_iter().flatten();
    let interfaces = interfaces.flat_map(|domain| &domain.devices.interfaces);
    let named = interfaces.filter(|it| it.guest_device == name || it.alias.name == name);
    let macs = stored.chain(named.map(|it| &it.mac.address)).map(|mac| mac.to_lowercase());
    let mut macs = macs.into_set();
    match (macs.pop_first(), macs.len()) {
        (Some(mac), 0) => Ok(mac),
        (None, _) => {
            Err(Error::NoDevice(format!("cannot detach NIC {name}: the guest has no such NIC")))
        }
        _ => Err(Error::Invalid(format!("nic.name {name} fits more than one NIC; set nic.mac"))),
    }
}

/// Detaches a device from the domain's definition, if that has it.
fn detach_from_definition(domain: &Domain, device: &Device) -> Result<(), Error> {
    match device.element_of(domain, XmlKind::Inactive)? {
        Some(element) => Ok(domain.detach_device(&element, AffectFlags::Config)?),
        None => Ok(()),
    }
}

/// Removes a device from the request stored with the domain, and removes its network. While the running guest still has
/// the NIC, the network stays, and the metadata records it.
fn forget(session: &mut Session, domain: &Domain, id: &str, device: &Device) -> Result<(), Error> {
    let mut stored = Stored::read(domain)?;
    let metadata = &mut stored.metadata;
    // A volume may remain that no disk names any more.
    metadata.besides.volumes |= metadata.guest.as_ref().is_some_and(wants_volumes);
    stored_request::remove(metadata, device);
    let Some(network) = device.network() else {
        return Ok(stored_request::write(domain, &stored, device)?);
    };
    // Written before the network is removed: if that fails, the same call or Delete finds the name here.
    metadata.besides.networks.insert(network.to_owned());
    stored_request::write(domain, &stored, device)?;
    if running(domain)?.is_some_and(|live| device.is_in(&live)) {
        return Ok(());
    }
    let connection = session.connection()?;
    let others = uses_of_others(connection, id)?;
    let names = iter::once(network.to_owned()).into_set();
    let removal =
        guest_networks::remove_all(connection, id, &names, &others, OwnerMatch::OrOriginal)?;
    removal.left.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))?;
    stored.metadata.besides.networks.remove(network);
    Ok(stored_request::write(domain, &stored, device)?)
}

/// Returns whether the running guest has released a device; if not, the reason for the caller.
pub(super) fn has_released(
    session: &mut Session,
    domain: &Domain,
    id: &str,
    device: &Device,
) -> Result<Result<(), String>, Error> {
    if running(domain)?.is_some_and(|live| device.is_in(&live)) {
        return Ok(Err("detach requested; the guest has not released the device yet".to_owned()));
    }
    if device.network().is_some() {
        forget(session, domain, id, device)?;
    }
    Ok(Ok(()))
}

/// Finishes an interrupted detach.
pub(in crate::ops) fn finish(session: &mut Session, id: &str, step: &Step) -> Result<(), Error> {
    let (Some(device), Some(domain)) = (Device::of(step), session.find(id)?) else {
        return Ok(());
    };
    detach_from_definition(&domain, &device)?;
    forget(session, &domain, id, &device)
}
