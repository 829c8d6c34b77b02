//! AttachDisk and AttachNic: attach a device in one transaction, as CreateGuest makes a guest.

use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::config::{GUEST_DISKS_MAX, GUEST_NICS_MAX};
use crate::guest::check::machine::check_bus;
use crate::guest::check::{check_attached_disk, check_attached_nic, check_count};
use crate::guest::domain::{Disk, Interface, InterfaceAlias, InterfaceTarget, VirDomain};
use crate::guest::hardware::SCSI_DISKS;
use crate::guest::metadata::Metadata;
use crate::guest::same::{same_disk_settings, same_interface, same_nic, same_nic_settings};
use crate::guest::wire::verbs::{DiskRequest, NicRequest, SettingResponse};
use crate::guest::wire::{self, Guest, Nic, disk_device, disk_index, disk_prefix};
use crate::journal::{Step, Verb};
use crate::libvirt::{AffectFlags, Connection, XmlKind};
use crate::ops::disks::domain_uses::{DomainUse, Unknown, VolumeUse, source};
use crate::ops::disks::sources::judge_one;
use crate::ops::disks::volumes::GuestVolumeNames;
use crate::ops::guests::create::failed_to;
use crate::ops::guests::devices::change::{Changed, DeviceChange, persistent, running};
use crate::ops::guests::devices::device::Device;
use crate::ops::guests::devices::stored_request;
use crate::ops::guests::machine;
use crate::ops::hypervisor::definition::described;
use crate::ops::metadata::Stored;
use crate::ops::networks::guest_networks::{self, nic_networks};
use crate::ops::requests::named_guest;
use crate::ops::transaction::Transaction;
use crate::ops::{Error, Guests, Session};
use crate::pool::{GuestLock, JobName, Lane};
use crate::storage::{self, AdoptionRule, Dataset, Maker, StoredVolume};

const DISK_VERB: &str = "AttachDisk";
const NIC_VERB: &str = "AttachNic";

impl Guests {
    /// Attaches a disk to the guest's definition, and to the guest if it runs.
    ///
    /// The disk names its `source`; or its `volume`, one of the guest's own that no disk uses; or an image or a size.
    /// For an image or a size the agent makes a volume as in [`Guests::create_guest`], with the next free number
    /// unless the disk names a volume. Its device is the next free one, unless the disk names it.
    ///
    /// If the guest already has the disk by this source, by this volume, or as this device with the same image and
    /// size, the call succeeds, and tries again to attach it to the running guest.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; [`Error::Invalid`] names what is not possible; [`Error::Taken`] if another
    /// disk has the device; errors of storage and libvirt, including a missing domain. After an error the change is
    /// undone. A running guest that cannot attach the device is no error; the answer reports it.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change). A definition that changes only after that is
    /// changed back.
    pub fn attach_disk(&self, request: DiskRequest) -> Result<SettingResponse, Error> {
        let guest = named_guest(request.guest)?;
        let missing = || Error::Invalid("disk is missing".to_owned());
        let disk = request.disk.ok_or_else(missing)?;
        check_attached_disk(&disk)?;
        check_place(&disk)?;
        let deadline = self.core.change_deadline(&request.args)?;
        let handed_in = Vec::from_iter(source(&disk, "disk"));
        let lock = self.core.lock_with_sources(DISK_VERB, &guest.id, &handed_in, deadline)?;
        let changed = self
            .add_disk(&guest, disk, handed_in, &lock, deadline)
            .map_err(|cause| self.core.undone(&guest, cause, &lock))?;
        Ok(self.apply_live(DISK_VERB, DeviceChange::Attach, changed, &lock, deadline))
    }

    /// Attaches a NIC to the guest's definition, and to the guest if it runs. Makes the NIC's network, as
    /// [`Guests::create_guest`] does. Attaching the same NIC again succeeds, as with disks.
    ///
    /// # Errors
    /// As [`Guests::attach_disk`]; [`Error::Taken`] if the guest has another NIC with this MAC.
    ///
    /// # Blocking
    /// As [`Guests::attach_disk`].
    pub fn attach_nic(&self, request: NicRequest) -> Result<SettingResponse, Error> {
        let guest = named_guest(request.guest)?;
        let missing = || Error::Invalid("nic is missing".to_owned());
        let nic = request.nic.ok_or_else(missing)?;
        check_attached_nic(&nic, &self.core.host)?;
        let deadline = self.core.change_deadline(&request.args)?;
        let lock = self.core.lock_guest(&guest.id, deadline)?;
        let changed = self
            .add_nic(&guest, nic, &lock, deadline)
            .map_err(|cause| self.core.undone(&guest, cause, &lock))?;
        Ok(self.apply_live(NIC_VERB, DeviceChange::Attach, changed, &lock, deadline))
    }

    /// Runs the steps of AttachDisk. After an error the journal holds them for the rollback.
    fn add_disk(
        &self,
        guest: &Guest,
        asked: wire::GuestDisk,
        handed_in: Vec<(String, String)>,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<Changed, Error> {
        let mut disk = asked.clone();
        self.insert_image(DISK_VERB, &mut disk, (&guest.id, "disk"), Some(lock), deadline)?;
        let context = self.look_around(&disk, lock, deadline)?;
        let mut transaction = Transaction::begin(&self.core.journal, Verb::AttachDisk, guest);
        if disk.bus.is_empty() {
            disk.buses()[0].clone_into(&mut disk.bus);
        }
        let found = context.find(&disk)?;
        match found {
            Some(found) if !same_disk_settings(&asked, found) || !is_on(found, &asked.bus) => {
                return Err(Error::Taken(format!(
                    "cannot attach disk {}: the guest already has it with other settings",
                    found.target.device
                )));
            }
            Some(found) => {
                found.target.device.clone_into(&mut disk.device);
                found.source.path().clone_into(&mut disk.source);
                found.target.bus.clone_into(&mut disk.bus);
            }
            None => {
                disk.device = context.free_device(&disk)?;
                self.check_not_under_own(&context, &disk, lock, deadline)?;
            }
        }
        if found.is_none() && disk.bus == "scsi" {
            check_scsi(&disk.device, context.definition.hardware.scsi)?;
        }
        self.core.check_sources(DISK_VERB, &guest.id, handed_in.clone(), lock, deadline)?;
        let own = context.own.as_ref().filter(|_| found.is_none()).cloned();
        if let Some(own) = &own {
            transaction =
                self.give_volume(guest, &mut disk, own, &context, transaction, (lock, deadline))?;
        }
        let (guest, host, is_there) = (guest.clone(), self.core.host.clone(), found.is_some());
        let definition = context.definition.clone();
        let work = move |session: &mut Session, transaction: &mut Transaction| {
            let kind = judge_one(&disk, "disk", &host)?;
            let mut made = disk.clone();
            machine::fill_disk(&mut made, kind, &definition);
            if let Some(fault) = machine::disk_fault(&made, kind) {
                return Err(fault.into());
            }
            let is_it = |own: &&Disk| is_there && own.target.device == disk.device;
            let existing = definition.devices.disks.iter().find(is_it).cloned();
            let device = Device::Disk(existing.unwrap_or_else(|| Disk::for_guest(&made, kind)));
            let keep = |stored: &mut Metadata| {
                stored_request::add_disk(stored, &disk, &asked, own.as_ref())
            };
            define(session, &guest, device, is_there, transaction, &keep)
        };
        let changed = self.in_definition(transaction, lock, deadline, work)?;
        self.core.claim_sources(DISK_VERB, handed_in, &context.maker(), lock, deadline);
        Ok(changed)
    }

    /// Reads the definition for a disk to attach, and the guest's volumes if the disk may get one of them.
    fn look_around(
        &self,
        disk: &wire::GuestDisk,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<AttachContext, Error> {
        let (definition, live) = self.look_at_devices(DISK_VERB, lock, deadline)?;
        let mut context = AttachContext { definition, live, own: None, volumes: Vec::new() };
        if disk.wants_volume() {
            let own =
                context.own.insert(GuestVolumeNames::new(self.core.volumes.pool(), lock.guest())?);
            if !disk.volume.is_empty() && own.named(&disk.volume).is_none() {
                let below = own.directory().map_err(storage::Error::Name)?;
                let why = format!("disk.volume {} must have the form {below}/disk-1", disk.volume);
                return Err(Error::Invalid(why));
            }
            context.volumes = self.core.own_volumes(DISK_VERB, own, lock, deadline)?;
        }
        Ok(context)
    }

    /// Refuses a disk that is, or may be, a backing file of another disk of the guest: both disks would write to the
    /// same data.
    ///
    /// # Errors
    /// [`Error::Taken`].
    fn check_not_under_own(
        &self,
        context: &AttachContext,
        disk: &wire::GuestDisk,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<(), Error> {
        let path = match context.volume(disk) {
            Some(volume) => volume.device.clone(),
            None if disk.source.is_empty() => return Ok(()),
            None => PathBuf::from(&disk.source),
        };
        let definitions: Vec<_> = context.live.iter().chain([&context.definition]).collect();
        let own = DomainUse::of(&definitions);
        let (looked_for, volumes) = (path.clone(), Arc::clone(&self.core.volumes));
        let look = move || match own.of_volume(&looked_for) {
            Some(VolumeUse::Backing) => Some("has a disk file that is backed by it"),
            // Outside the store, the operator is responsible for the choice of the disk.
            None if volumes.name_of(&looked_for).is_some() => own.unknown_use().map(Unknown::why),
            _ => None,
        };
        let job = JobName::new(DISK_VERB, lock.guest());
        match self.core.aside(Lane::Read, job, deadline, look)? {
            Some(why) => {
                let what = path.display();
                Err(Error::Taken(format!("cannot attach {what}: guest {} {why}", lock.guest())))
            }
            None => Ok(()),
        }
    }

    /// Gives a disk without a source a volume: the volume that it names, if that exists and the request sets neither
    /// image nor size, else a new one as in CreateGuest.
    fn give_volume(
        &self,
        guest: &Guest,
        disk: &mut wire::GuestDisk,
        own: &GuestVolumeNames,
        context: &AttachContext,
        transaction: Transaction,
        (lock, deadline): (&GuestLock, Instant),
    ) -> Result<Transaction, Error> {
        let wants_existing = disk.image.is_empty() && disk.size_mib == 0;
        if let (true, Some(volume)) = (wants_existing, context.volume(disk)) {
            if let Some(uuid) = context.other_maker(volume) {
                let what = vec![format!("it belongs to the domain with uuid {uuid}")];
                return Err(storage::Error::Differs { volume: volume.name.clone(), what }.into());
            }
            let others = self.core.others(DISK_VERB, lock.guest(), deadline)?;
            self.core.check_adopted(volume, false, &others)?;
            if volume.maker.as_ref().and_then(Maker::domain_uuid).is_none() {
                self.core.claim(
                    DISK_VERB,
                    vec![volume.name.clone()],
                    context.maker(),
                    lock,
                    deadline,
                );
            }
            disk.size_mib = volume.size_mib();
            disk.source = volume.device.to_string_lossy().into_owned();
            return Ok(transaction);
        }
        if wants_existing && !disk.volume.is_empty() {
            return Err(storage::Error::NotFound { name: disk.volume.clone() }.into());
        }
        let volume = context.volume_for(own, disk)?;
        let adoption = AdoptionRule::OfDomain { maker: context.maker(), named: Vec::new() };
        let how = (self.core.space(), context.maker(), adoption);
        let wanted = vec![own.wanted(volume, disk, "disk", how)?];
        let mut with_it = Guest { disks: vec![mem::take(disk)], ..guest.clone() };
        let (transaction, unclaimed) =
            self.core.make_volumes(&mut with_it, wanted, false, transaction, lock, deadline)?;
        // The guest exists; from now on no other guest may adopt the volumes.
        self.core.claim(DISK_VERB, unclaimed, context.maker(), lock, deadline);
        *disk = with_it.disks.pop().unwrap_or_default();
        Ok(transaction)
    }

    /// Runs the steps of AttachNic. After an error the journal holds them for the rollback.
    fn add_nic(
        &self,
        guest: &Guest,
        nic: Nic,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<Changed, Error> {
        let transaction = Transaction::begin(&self.core.journal, Verb::AttachNic, guest);
        let (guest, host) = (guest.clone(), self.core.host.clone());
        let work = move |session: &mut Session, transaction: &mut Transaction| {
            let definition = described(&persistent(session, &guest.id)?, XmlKind::Inactive)?;
            let connection = session.connection()?;
            let is_there = has_nic(connection, &definition, &nic)?;
            let own = (guest.id.as_str(), definition.uuid.as_str());
            guest_networks::ensure(connection, own, &nic, host.bridge_type, transaction)
                .map_err(|cause| failed_to(format!("create network {}", nic.mac), cause))?;
            let mut made = nic.clone();
            machine::fill_nic(&mut made, &definition);
            let own = definition.interface_by_mac(&nic.mac).cloned().map(without_host_end);
            let device = Device::Nic(own.unwrap_or_else(|| Interface::for_nic(&made, &host)));
            let keep = |stored: &mut Metadata| stored_request::add_nic(stored, &nic);
            define(session, &guest, device, is_there, transaction, &keep)
        };
        self.in_definition(transaction, lock, deadline, work)
    }

    /// Runs the job that changes the definition, and commits.
    fn in_definition(
        &self,
        transaction: Transaction,
        lock: &GuestLock,
        deadline: Instant,
        work: impl FnOnce(&mut Session, &mut Transaction) -> Result<Changed, Error> + Send + 'static,
    ) -> Result<Changed, Error> {
        let work =
            |session: &mut Session, transaction: &mut Transaction| Ok(work(session, transaction)?);
        let (changed, transaction) =
            self.core.run_steps(Lane::Control, transaction, lock, deadline, work)?;
        self.core.commit(transaction, lock, deadline)?;
        Ok(changed)
    }
}

/// The data for attaching a disk.
struct AttachContext {
    definition: VirDomain,
    live: Option<VirDomain>,
    /// The names of the guest's own volumes, if the disk gets one of them.
    own: Option<GuestVolumeNames>,
    /// The guest's volumes that exist.
    volumes: Vec<StoredVolume>,
}

impl AttachContext {
    /// Returns the maker of this guest's volumes.
    fn maker(&self) -> Maker {
        Maker::domain(&self.definition.uuid)
    }

    /// Returns the uuid of the domain that a volume belongs to, if that is another domain.
    fn other_maker<'v>(&self, volume: &'v StoredVolume) -> Option<&'v str> {
        let uuid = volume.maker.as_ref()?.domain_uuid()?;
        (uuid != self.definition.uuid).then_some(uuid)
    }

    /// Returns the existing volume that a disk names.
    fn volume(&self, disk: &wire::GuestDisk) -> Option<&StoredVolume> {
        self.volumes.iter().find(|volume| volume.name.as_str() == disk.volume)
    }

    /// Returns the disk of the definition that already is this disk.
    ///
    /// # Errors
    /// If the definition has it as another device than the request names.
    fn find(&self, disk: &wire::GuestDisk) -> Result<Option<&Disk>, Error> {
        let source = match self.volume(disk) {
            Some(volume) => volume.device.as_path(),
            None if disk.source.is_empty() => {
                let found = self.definition.disk_by_device(&disk.device);
                return Ok(found.filter(|_| self.was_asked_for(disk)));
            }
            None => Path::new(&disk.source),
        };
        let mut disks = self.definition.devices.disks.iter();
        let found = disks.find(|found| Path::new(found.source.path()) == source);
        match found.map(|found| &found.target.device) {
            Some(device) if !disk.device.is_empty() && *device != disk.device => Err(Error::Taken(
                format!("cannot attach {}: the guest already has it as {device}", source.display()),
            )),
            _ => Ok(found),
        }
    }

    /// Returns whether the disk with this device was requested with the same image and size.
    fn was_asked_for(&self, disk: &wire::GuestDisk) -> bool {
        let stored = self.definition.metadata.guest.iter().flat_map(|stored| &stored.disks);
        let alike = |stored: &&wire::GuestDisk| {
            stored.device == disk.device
                && (&stored.image, stored.size_mib) == (&disk.image, disk.size_mib)
        };
        disk.volume.is_empty()
            && stored.filter(|stored| stored.source.is_empty()).any(|it| alike(&it))
    }

    /// Returns the device that a disk names, else the first that neither the definition nor the running guest has.
    fn free_device(&self, disk: &wire::GuestDisk) -> Result<String, Error> {
        let has = |domain: &VirDomain, device: &str| domain.disk_by_device(device).is_some();
        let is_taken = |device: &String| {
            has(&self.definition, device) || self.live.as_ref().is_some_and(|it| has(it, device))
        };
        check_count("disks", self.definition.devices.disks.len() + 1, GUEST_DISKS_MAX)?;
        let named = Some(disk.device.clone()).filter(|named| !named.is_empty());
        let prefix = disk_prefix(&disk.bus);
        match named {
            Some(device) if is_taken(&device) => Err(Error::Taken(format!(
                "cannot attach disk {device}: the guest has another disk of that name"
            ))),
            Some(device) => Ok(device),
            None => {
                let mut devices = (0..).map(|index| disk_device(prefix, index));
                Ok(devices.find(|device| !is_taken(device)).unwrap_or_default())
            }
        }
    }

    /// Returns the volume that a disk names, else the first that neither exists nor is in use.
    ///
    /// # Errors
    /// If the disk names a volume that another disk of the guest has and that does not exist: a new volume would not
    /// replace the lost data.
    fn volume_for(&self, own: &GuestVolumeNames, disk: &wire::GuestDisk) -> Result<Dataset, Error> {
        let is_there = |name: &Dataset| self.volumes.iter().any(|volume| volume.name == *name);
        let is_used = |name: &Dataset| {
            let mut sources = self.definition.devices.disks.iter().map(|disk| disk.source.path());
            sources.any(|source| Path::new(source).ends_with(name.relative()))
        };
        if let Some(named) = own.named(&disk.volume) {
            return match is_used(&named) && !is_there(&named) {
                true => Err(storage::Error::NotFound { name: named.to_string() }.into()),
                false => Ok(named),
            };
        }
        let is_free = |name: &Dataset| !is_there(name) && !is_used(name);
        let mut numbered = (0..).map(|number| own.number(number));
        let free = numbered.find(|name| name.as_ref().map_or(true, is_free));
        Ok(free.unwrap_or_else(|| own.number(0)).map_err(storage::Error::Name)?)
    }
}

/// Returns whether the definition already has the NIC.
///
/// # Errors
/// If the definition has another NIC with its MAC.
fn has_nic(connection: &Connection, definition: &VirDomain, nic: &Nic) -> Result<bool, Error> {
    let Some(found) = definition.interface_by_mac(&nic.mac) else {
        check_count("nics", definition.devices.interfaces.len() + 1, GUEST_NICS_MAX)?;
        return Ok(false);
    };
    let mut stored = definition.metadata.guest.iter().flat_map(|stored| &stored.nics);
    let is_same = match stored.find(|stored| stored.mac.eq_ignore_ascii_case(&nic.mac)) {
        Some(stored) => same_nic(nic, stored),
        None => same_interface(nic, found, &nic_networks(connection, definition)?),
    };
    match is_same && same_nic_settings(nic, found) {
        true => Ok(true),
        false => Err(Error::Taken(format!(
            "cannot attach NIC {}: the guest has another NIC with this MAC address",
            nic.mac
        ))),
    }
}

/// Checks the bus and the device of a disk, so that the agent promises no disk that cannot be attached.
fn check_place(disk: &wire::GuestDisk) -> Result<(), Error> {
    check_bus("disk", disk)?;
    let prefix = disk_prefix(if disk.bus.is_empty() { disk.buses()[0] } else { &disk.bus });
    let is_letters =
        |rest: &str| (1..=3).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_lowercase());
    if disk.device.is_empty() || disk.device.strip_prefix(prefix).is_some_and(is_letters) {
        return Ok(());
    }
    let device = &disk.device;
    Err(Error::Invalid(format!("disk.device must be a name such as {prefix}b, not {device}")))
}

/// Returns whether a disk is on the bus that a request names.
fn is_on(disk: &Disk, bus: &str) -> bool {
    bus.is_empty() || disk.target.bus == bus
}

/// Returns an interface of a guest without the names that libvirt gave to its host side.
fn without_host_end(interface: Interface) -> Interface {
    Interface { target: InterfaceTarget::default(), alias: InterfaceAlias::default(), ..interface }
}

/// Checks that a guest has a SCSI controller for a disk of this name. Otherwise libvirt would add a controller for
/// which today's systems have no driver.
fn check_scsi(device: &str, controllers: usize) -> Result<(), Error> {
    match disk_index(device) {
        Some(index) if index / SCSI_DISKS >= controllers => Err(Error::Invalid(format!(
            "disk.bus: the guest has no SCSI controller for {device}; it has room for {} SCSI disks",
            controllers * SCSI_DISKS
        ))),
        _ => Ok(()),
    }
}

/// Changes the request stored with a domain, and then the definition, after the transaction has recorded the step. A
/// device that the definition has already is only added to the stored request, if it is missing there.
fn define(
    session: &mut Session,
    guest: &Guest,
    device: Device,
    is_there: bool,
    transaction: &mut Transaction,
    keep: &dyn Fn(&mut Metadata),
) -> Result<Changed, Error> {
    let domain = session.domain(&guest.id)?;
    let mut stored = Stored::read(&domain)?;
    if !is_there {
        transaction.record(device.step())?;
    }
    if !is_there || !stored_request::has(&stored.metadata, &device) {
        keep(&mut stored.metadata);
        stored_request::write(&domain, &stored, &device)?;
    }
    if !is_there {
        let attached = domain.attach_device(&device.xml(), AffectFlags::Config);
        attached.map_err(|cause| failed_to(format!("attach {device}"), cause.into()))?;
    }
    Changed::read(session, &domain, guest, device)
}

/// Detaches a device from the definition and from the stored request, to undo an attach.
///
/// The running guest is not involved: it gets a device only after the commit. If it has the device all the same,
/// somebody has started it with the device, and everything stays. Returns whether everything stayed.
///
/// # Errors
/// If libvirt does not answer, or refuses the detach.
pub(in crate::ops) fn undo(session: &mut Session, id: &str, step: &Step) -> Result<bool, Error> {
    let (Some(device), Some(domain)) = (Device::of(step), session.find(id)?) else {
        return Ok(false);
    };
    let mut stored = Stored::read(&domain)?;
    if let Some(element) = device.element_of(&domain, XmlKind::Inactive)? {
        if running(&domain)?.is_some_and(|live| device.is_in(&live)) {
            return Ok(true);
        }
        domain.detach_device(&element, AffectFlags::Config)?;
    }
    stored_request::remove(&mut stored.metadata, &device);
    stored_request::write(&domain, &stored, &device)?;
    Ok(false)
}
