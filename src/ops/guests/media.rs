//! InsertMedia and EjectMedia: the medium in a guest's CD-ROM, and images of the store as media.
//!
//! A medium is an image of the store or a file or device below `--allow-disk-path`. The guest cannot write to it, and
//! Delete does not remove it.

use std::time::Instant;

use crate::guest::check::check_attached_disk;
use crate::guest::device_xml::with_medium;
use crate::guest::domain;
use crate::guest::wire::verbs::{DiskRequest, SettingResponse};
use crate::guest::wire::{CDROM, Guest, GuestDisk};
use crate::libvirt::{AffectFlags, Domain, XmlKind};
use crate::ops::disks::sources::judge_one;
use crate::ops::guests::devices::change::persistent;
use crate::ops::guests::settings::apply_now;
use crate::ops::hypervisor::definition::{described, unreadable};
use crate::ops::metadata::Stored;
use crate::ops::requests::named_guest;
use crate::ops::{Error, Guests, Session, args};
use crate::pool::GuestLock;
use crate::storage::{self, Id, Volumes};

const INSERT: &str = "InsertMedia";
const EJECT: &str = "EjectMedia";

impl Guests {
    /// Inserts a medium into a guest's CD-ROM in place of the present one: in the guest's definition, and at once if it
    /// runs. The request's disk names the `image` or the `source`, and the `device` of the CD-ROM; a guest with only
    /// one CD-ROM needs no `device`. `virDomainUpdateDeviceFlags`.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; [`Error::Invalid`] names the invalid member; [`Error::NoDevice`] if the guest
    /// has no such CD-ROM; [`Error::Unsupported`] for a transient guest; errors of storage and libvirt, including a
    /// missing image and a missing domain. A running guest that does not release its medium is no error: the answer
    /// reports it, and `mistify.force` removes the medium.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn insert_media(&self, request: DiskRequest) -> Result<SettingResponse, Error> {
        let disk = request.disk.clone().unwrap_or_default();
        if disk.image.is_empty() && disk.source.is_empty() {
            return Err(Error::Invalid("disk must have an image or a source".to_owned()));
        }
        self.change_medium(INSERT, request, disk)
    }

    /// Ejects the medium of a guest's CD-ROM; succeeds if it is empty. Otherwise as [`Guests::insert_media`].
    ///
    /// # Errors
    /// As [`Guests::insert_media`].
    ///
    /// # Blocking
    /// As [`Guests::insert_media`].
    pub fn eject_media(&self, request: DiskRequest) -> Result<SettingResponse, Error> {
        let device = request.disk.clone().unwrap_or_default().device;
        self.change_medium(EJECT, request, GuestDisk { device, ..GuestDisk::default() })
    }

    fn change_medium(
        &self,
        verb: &'static str,
        request: DiskRequest,
        mut disk: GuestDisk,
    ) -> Result<SettingResponse, Error> {
        let guest = named_guest(request.guest)?;
        CDROM.clone_into(&mut disk.kind);
        check_attached_disk(&disk)?;
        let GuestDisk { kind, device, image, source, .. } = disk.clone();
        if disk != (GuestDisk { kind, device, image, source, ..GuestDisk::default() }) {
            let why = format!("disk: {verb} takes device, image and source alone");
            return Err(Error::Invalid(why));
        }
        let is_forced = args::may_lose(&request.args)?;
        let deadline = self.core.change_deadline(&request.args)?;
        let lock = self.core.lock_guest(&guest.id, deadline)?;
        let asked = disk.clone();
        self.insert_image(verb, &mut disk, (&guest.id, "disk"), Some(&lock), deadline)?;
        let (id, host) = (guest.id.clone(), self.core.host.clone());
        let work = move |session: &mut Session| {
            let domain = persistent(session, &id)?;
            let device = cdrom(&domain, &disk)?;
            let medium = domain::Disk::for_guest(&disk, judge_one(&disk, "disk", &host)?);
            put(&domain, &device, &medium, AffectFlags::Config, false)?;
            Stored::read(&domain)?
                .change_request(&domain, |stored| note(stored, &device, &asked))?;
            apply_now(&domain, &|| put(&domain, &device, &medium, AffectFlags::Live, is_forced))
        };
        let (live, message) = self.core.run_locked(verb, deadline, &lock, work, |_, _| {})?;
        Ok(SettingResponse { guest: Some(guest), live, message })
    }

    /// Sets the sources of the CD-ROMs whose media are images.
    ///
    /// # Errors
    /// Errors of storage; [`Error::NoDevice`] for a missing image.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(in crate::ops) fn resolve_cdrom_images(
        &self,
        verb: &str,
        guest: &mut Guest,
        lock: Option<&GuestLock>,
        deadline: Instant,
    ) -> Result<(), Error> {
        let id = guest.id.clone();
        for (index, disk) in guest.disks.iter_mut().enumerate() {
            let place = format!("disks[{index}]");
            self.insert_image(verb, disk, (&id, &place), lock, deadline)?;
        }
        Ok(())
    }

    /// Sets the source of one disk of the guest with this id. Errors call the disk `place`.
    ///
    /// # Errors
    /// As [`Guests::resolve_cdrom_images`].
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(super) fn insert_image(
        &self,
        verb: &str,
        disk: &mut GuestDisk,
        (guest, place): (&str, &str),
        lock: Option<&GuestLock>,
        deadline: Instant,
    ) -> Result<(), Error> {
        if !needs_source(disk) {
            return Ok(());
        }
        let id = Id::parse(&disk.image).map_err(storage::Error::Name)?;
        let find = move |volumes: &dyn Volumes| {
            let image = volumes.image(&id, deadline)?;
            volumes.volume(&image.volume, deadline)
        };
        let found = self.core.on_storage(verb, guest, lock, deadline, find);
        let volume = found.map_err(|cause| of_image(place, disk, cause))?;
        disk.source = volume.device.to_string_lossy().into_owned();
        Ok(())
    }
}

/// Returns whether a disk is a CD-ROM with an image but without a source.
fn needs_source(disk: &GuestDisk) -> bool {
    disk.is_cdrom() && disk.source.is_empty() && !disk.image.is_empty()
}

/// Adds the id of a missing image to the error.
fn of_image(place: &str, disk: &GuestDisk, cause: Error) -> Error {
    match cause {
        Error::Storage(storage::Error::NotFound { .. }) => {
            Error::NoDevice(format!("{place}.image: there is no image {}", disk.image))
        }
        cause => cause,
    }
}

/// Returns the device of the CD-ROM that a request names.
///
/// # Errors
/// [`Error::NoDevice`].
fn cdrom(domain: &Domain, asked: &GuestDisk) -> Result<String, Error> {
    let definition = described(domain, XmlKind::Inactive)?;
    let is_it = |disk: &&domain::Disk| {
        disk.device == CDROM && ["", &disk.target.device].contains(&asked.device.as_str())
    };
    let mut found = definition.devices.disks.iter().filter(is_it);
    if let (Some(found), None) = (found.next(), found.next()) {
        return Ok(found.target.device.clone());
    }
    Err(Error::NoDevice(match asked.device.as_str() {
        "" => "the guest does not have exactly one CD-ROM: set disk.device".to_owned(),
        device => format!("the guest has no CD-ROM {device}"),
    }))
}

/// Inserts a medium into the CD-ROM of this device, unless it is already there.
fn put(
    domain: &Domain,
    device: &str,
    medium: &domain::Disk,
    affect: AffectFlags,
    is_forced: bool,
) -> Result<(), Error> {
    let kind = if affect == AffectFlags::Live { XmlKind::Live } else { XmlKind::Definition };
    match with_medium(&domain.xml(kind)?, device, medium).map_err(unreadable)? {
        Some(element) => Ok(domain.update_device(&element, affect, is_forced)?),
        None => Ok(()),
    }
}

/// Stores the medium in the request that is stored with the domain.
fn note(stored: &mut Guest, device: &str, asked: &GuestDisk) {
    for own in stored.disks.iter_mut().filter(|own| own.device == device) {
        own.image.clone_from(&asked.image);
        own.source.clone_from(&asked.source);
    }
}
