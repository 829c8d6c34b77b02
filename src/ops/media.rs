//! InsertMedia and EjectMedia: the medium in a guest's CD-ROM, and images of the store as media.
//!
//! A medium is an image of the store or a file or device below `--allow-disk-path`. The guest cannot write to it, and
//! Delete does not remove it.

use std::time::Instant;

use crate::guest::check::check_attached_disk;
use crate::guest::device_xml::with_medium;
use crate::guest::domain;
use crate::guest::wire::verbs::{DiskRequest, SettingResponse};
use crate::guest::wire::{CDROM, Disk, Guest};
use crate::libvirt::{Domain, Reach, XmlKind};
use crate::ops::devices::persistent;
use crate::ops::disks::judge_one;
use crate::ops::metadata::Stored;
use crate::ops::settings::apply_now;
use crate::ops::{Error, Libvirt, Session, args, described, named_guest, unreadable};
use crate::pool::Hold;
use crate::storage::{self, Id, Volumes};

const INSERT: &str = "InsertMedia";
const EJECT: &str = "EjectMedia";

impl Libvirt {
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

    /// Ejects the medium of a guest's CD-ROM; succeeds if it is empty. Otherwise as [`Libvirt::insert_media`].
    ///
    /// # Errors
    /// As [`Libvirt::insert_media`].
    ///
    /// # Blocking
    /// As [`Libvirt::insert_media`].
    pub fn eject_media(&self, request: DiskRequest) -> Result<SettingResponse, Error> {
        let device = request.disk.clone().unwrap_or_default().device;
        self.change_medium(EJECT, request, Disk { device, ..Disk::default() })
    }

    fn change_medium(
        &self,
        verb: &'static str,
        request: DiskRequest,
        mut disk: Disk,
    ) -> Result<SettingResponse, Error> {
        let guest = named_guest(request.guest)?;
        CDROM.clone_into(&mut disk.kind);
        check_attached_disk(&disk)?;
        let Disk { kind, device, image, source, .. } = disk.clone();
        if disk != (Disk { kind, device, image, source, ..Disk::default() }) {
            let why = format!("disk: {verb} takes device, image and source alone");
            return Err(Error::Invalid(why));
        }
        let is_forced = args::may_lose(&request.args)?;
        let deadline = self.change_deadline(&request.args)?;
        let hold = self.hold(&guest.id, deadline)?;
        let asked = disk.clone();
        self.insert_image(verb, &mut disk, (&guest.id, "disk"), Some(&hold), deadline)?;
        let (id, host) = (guest.id.clone(), self.host.clone());
        let work = move |session: &mut Session| {
            let domain = persistent(session, &id)?;
            let device = cdrom(&domain, &disk)?;
            let medium = domain::Disk::for_guest(&disk, judge_one(&disk, "disk", &host)?);
            put(&domain, &device, &medium, Reach::Next, false)?;
            Stored::read(&domain)?.change_request(&domain, |kept| note(kept, &device, &asked))?;
            apply_now(&domain, &|| put(&domain, &device, &medium, Reach::Now, is_forced))
        };
        let (live, message) = self.held(verb, deadline, &hold, work, |_, _| {})?;
        Ok(SettingResponse { guest: Some(guest), live, message })
    }

    /// Sets the sources of the CD-ROMs whose media are images.
    ///
    /// # Errors
    /// Errors of storage; [`Error::NoDevice`] for a missing image.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(super) fn resolve_cdrom_images(
        &self,
        verb: &str,
        guest: &mut Guest,
        hold: Option<&Hold>,
        deadline: Instant,
    ) -> Result<(), Error> {
        let id = guest.id.clone();
        for (index, disk) in guest.disks.iter_mut().enumerate() {
            let place = format!("disks[{index}]");
            self.insert_image(verb, disk, (&id, &place), hold, deadline)?;
        }
        Ok(())
    }

    /// Sets the source of one disk of the guest with this id, which errors call `place`.
    ///
    /// # Errors
    /// As [`Libvirt::resolve_cdrom_images`].
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(super) fn insert_image(
        &self,
        verb: &str,
        disk: &mut Disk,
        (guest, place): (&str, &str),
        hold: Option<&Hold>,
        deadline: Instant,
    ) -> Result<(), Error> {
        if !is_open(disk) {
            return Ok(());
        }
        let id = Id::parse(&disk.image).map_err(storage::Error::Name)?;
        let find = move |volumes: &dyn Volumes| {
            let image = volumes.image(&id, deadline)?;
            volumes.volume(&image.volume, deadline)
        };
        let found = self.on_storage(verb, guest, hold, deadline, find);
        let volume = found.map_err(|cause| of_image(place, disk, cause))?;
        disk.source = volume.device.to_string_lossy().into_owned();
        Ok(())
    }
}

/// Returns whether a disk is a CD-ROM with an image but without a source.
fn is_open(disk: &Disk) -> bool {
    disk.is_cdrom() && disk.source.is_empty() && !disk.image.is_empty()
}

/// Adds the id of a missing image to the error.
fn of_image(place: &str, disk: &Disk, cause: Error) -> Error {
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
fn cdrom(domain: &Domain, asked: &Disk) -> Result<String, Error> {
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
    reach: Reach,
    is_forced: bool,
) -> Result<(), Error> {
    let kind = if reach == Reach::Now { XmlKind::Live } else { XmlKind::Definition };
    match with_medium(&domain.xml(kind)?, device, medium).map_err(unreadable)? {
        Some(element) => Ok(domain.update_device(&element, reach, is_forced)?),
        None => Ok(()),
    }
}

/// Stores the medium in the request that is stored with the domain.
fn note(kept: &mut Guest, device: &str, asked: &Disk) {
    for own in kept.disks.iter_mut().filter(|own| own.device == device) {
        own.image.clone_from(&asked.image);
        own.source.clone_from(&asked.source);
    }
}
