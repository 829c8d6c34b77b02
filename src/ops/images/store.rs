//! The image store's methods for guests' disks, volumes and images (contract section 8).
//!
//! Names in requests are relative to the pool, names in answers are complete. Each method runs a job of the storage
//! lane, and acquires the guest lock if it changes a dataset below `guests/<id>`.

use std::sync::Arc;
use std::time::Instant;

use crate::config::GUEST_DISKS_MAX;
use crate::guest::invalid::Invalid;
use crate::guest::wire::images::{
    self as wire, ImageRequest, ImageResponse, VolumeRequest, VolumeResponse,
};
use crate::guest::wire::{Guest, GuestRequest, GuestResponse};
use crate::journal::Verb;
use crate::libvirt::{Connection, XmlKind};
use crate::ops::disks::domain_uses::{DomainUse, VolumeUse, all_uses};
use crate::ops::disks::volume_owners::lock_name;
use crate::ops::disks::volumes::{complete, make};
use crate::ops::hypervisor::definition::described;
use crate::ops::images::fetches::Stage;
use crate::ops::requests::{named_guest, respond};
use crate::ops::transaction::{Stop, Transaction};
use crate::ops::{Error, Images, Session};
use crate::pool::{GuestLock, Lane};
use crate::storage::{
    self, AdoptionRule, Dataset, Id, Maker, Recursion, VolumeSelection, VolumeSpec, Volumes,
};

const NEED_ID: Error = Error::Refused("need an id");

impl Images {
    /// Checks that the disks of a guest can be made, and returns their future sizes. Changes nothing.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without a guest, an id or disks; errors of storage about images, sizes and space; an existing
    /// volume that CreateGuestDisks would not keep.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn verify_disks(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        let mut guest = guest_with_disks(request.guest)?;
        let deadline = self.core.change_deadline(&request.args)?;
        const VERB: &str = "VerifyDisks";
        let wanted = self.wanted_or_unmarked(VERB, &without_sources(guest.clone()), deadline)?;
        let plan = move |volumes: &dyn Volumes| volumes.plan(&wanted, deadline);
        let planned = self.core.on_storage(VERB, &guest.id, None, deadline, plan)?;
        self.core.check_planned(VERB, &guest.id, &planned, false, deadline)?;
        for (disk, planned) in guest.disks.iter_mut().zip(planned) {
            disk.size_mib = planned.size_mib();
        }
        Ok(respond(guest))
    }

    /// Makes the volumes of all disks of a guest and fills in `volume`, `source` and `size`.
    ///
    /// A matching volume that exists is kept, even without an owner's mark: the original image agent set none. A volume
    /// with written data is kept only if the guest's definition names it or its mark has the domain's uuid.
    ///
    /// # Errors
    /// As [`Images::verify_disks`]; with the step if a volume could not be made, after everything is undone.
    ///
    /// # Blocking
    /// As [`Images::verify_disks`].
    pub fn create_guest_disks(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        let mut guest = without_sources(guest_with_disks(request.guest)?);
        let deadline = self.core.change_deadline(&request.args)?;
        let lock = self.core.lock_and_recover(&guest.id, deadline)?;
        let wanted = self.wanted_or_unmarked("CreateGuestDisks", &guest, deadline)?;
        let transaction = Transaction::begin(&self.core.journal, Verb::CreateGuestDisks, &guest);
        self.core
            .make_volumes(&mut guest, wanted, false, transaction, &lock, deadline)
            .and_then(|(transaction, _)| self.core.commit(transaction, &lock, deadline))
            .map_err(|cause| self.core.undone(&guest, cause, &lock))?;
        Ok(respond(guest))
    }

    /// Destroys all volumes below `guests/<id>`, including those of other tools. Succeeds without any volume. The
    /// answer is the guest without disks.
    ///
    /// # Errors
    /// [`Error::NoGuest`] without an id; [`Error::VolumesLeft`] for volumes that could not be destroyed.
    ///
    /// # Blocking
    /// As [`Images::verify_disks`].
    pub fn delete_guest_disks(&self, request: GuestRequest) -> Result<GuestResponse, Error> {
        let mut guest = named_guest(request.guest)?;
        let deadline = self.core.change_deadline(&request.args)?;
        let id = Id::parse(&guest.id).map_err(storage::Error::Name)?;
        let lock = self.core.lock_and_recover(&guest.id, deadline)?;
        self.core.check_not_saved("DeleteGuestDisks", &lock, deadline)?;
        let in_use = self.core.others("DeleteGuestDisks", lock.guest(), deadline)?.in_use;
        let destroy = move |volumes: &dyn Volumes| {
            volumes.destroy_guest(&id, VolumeSelection::Anyones, &in_use, deadline)
        };
        let removal =
            self.core.on_storage("DeleteGuestDisks", &guest.id, Some(&lock), deadline, destroy)?;
        complete(&removal)?;
        guest.disks.clear();
        Ok(respond(guest))
    }

    /// Makes a blank volume.
    ///
    /// # Errors
    /// A size of 0, no id, a name that is taken; errors of storage.
    ///
    /// # Blocking
    /// As [`Images::verify_disks`].
    pub fn create_volume(&self, request: VolumeRequest) -> Result<VolumeResponse, Error> {
        if request.size_mib == 0 {
            return Err(Error::Refused("need a valid size"));
        }
        let volume = self.dataset(&request.id)?;
        self.make_new(Verb::CreateVolume, self.nobodys(volume, None, request.size_mib))
    }

    /// Returns one volume.
    ///
    /// # Errors
    /// `not found`, `not a volume`.
    ///
    /// # Blocking
    /// As [`Images::verify_disks`].
    pub fn get_volume(&self, request: VolumeRequest) -> Result<VolumeResponse, Error> {
        let name = self.dataset(&request.id)?;
        let deadline = self.core.storage_deadline();
        let what = name.to_string();
        let look = move |volumes: &dyn Volumes| match volumes.volume(&name, deadline) {
            Ok(volume) => Ok(Some(volume)),
            // The name may belong to a dataset of another kind.
            Err(storage::Error::NotFound { .. }) => {
                volumes.volumes(Some(&name), deadline).map(|_| None)
            }
            Err(error) => Err(error),
        };
        let found = self.core.on_storage("GetVolume", &what, None, deadline, look)?;
        let volume = found.ok_or(Error::Refused("not a volume"))?;
        Ok(VolumeResponse { volumes: vec![volume_answer(&volume)] })
    }

    /// Returns all volumes of the pool, including those of images.
    ///
    /// # Errors
    /// Errors of storage.
    ///
    /// # Blocking
    /// As [`Images::verify_disks`].
    pub fn list_volumes(&self, _: VolumeRequest) -> Result<VolumeResponse, Error> {
        let deadline = self.core.storage_deadline();
        let list = move |volumes: &dyn Volumes| volumes.volumes(None, deadline);
        let found = self.core.on_storage("ListVolumes", "", None, deadline, list)?;
        Ok(VolumeResponse { volumes: found.iter().map(volume_answer).collect() })
    }

    /// Destroys a dataset below `guests/` with its descendants, and returns it.
    ///
    /// # Errors
    /// `not found`; [`Error::VolumesLeft`] for volumes that could not be destroyed.
    ///
    /// # Blocking
    /// As [`Images::verify_disks`].
    pub fn delete_dataset(&self, request: VolumeRequest) -> Result<VolumeResponse, Error> {
        let name = self.dataset(&request.id)?;
        const VERB: &str = "DeleteDataset";
        let what = name.clone();
        let deadline = self.core.storage_deadline();
        let lock = self.core.lock_and_recover(lock_name(&name), deadline)?;
        self.core.check_not_saved(VERB, &lock, deadline)?;
        let in_use = self.core.others(VERB, lock.guest(), deadline)?.in_use;
        let delete = move |volumes: &dyn Volumes| {
            let found = volumes.volumes(Some(&name), deadline)?.into_iter();
            let itself = found.into_iter().find(|volume| volume.name == name);
            Ok((itself, volumes.delete(&name, Recursion::Below, &in_use, deadline)?))
        };
        let (volume, removal) =
            self.core.on_storage(VERB, what.as_str(), Some(&lock), deadline, delete)?;
        complete(&removal)?;
        // A file system has neither size nor device.
        let other = || wire::Volume { id: what.to_string(), ..wire::Volume::default() };
        let answer = volume.as_ref().map_or_else(other, volume_answer);
        Ok(VolumeResponse { volumes: vec![answer] })
    }

    /// Returns the complete images, and the images that are being fetched.
    ///
    /// # Errors
    /// Errors of storage.
    ///
    /// # Blocking
    /// As [`Images::verify_disks`].
    pub fn list_images(&self, _: ImageRequest) -> Result<ImageResponse, Error> {
        let deadline = self.core.storage_deadline();
        let list = move |volumes: &dyn Volumes| volumes.images(deadline);
        let under_way = self.fetches.under_way();
        let found = self.core.on_storage("ListImages", "", None, deadline, list)?;
        let is_there = |id: &&Id| found.iter().any(|image| image.id == **id);
        let under_way = under_way.iter().filter(|id| !is_there(id)).map(fetching_answer);
        let is_cancelled = |id: &Id| self.fetches.stage(id) == Some(Stage::Cancelled);
        let complete = found.iter().filter(|image| !is_cancelled(&image.id)).map(image_answer);
        Ok(ImageResponse { images: complete.chain(under_way).collect() })
    }

    /// Returns one image: complete, or being fetched.
    ///
    /// # Errors
    /// `not found`; [`Error::NotFetched`] for a requested image whose fetch failed.
    ///
    /// # Blocking
    /// As [`Images::verify_disks`].
    pub fn get_image(&self, request: ImageRequest) -> Result<ImageResponse, Error> {
        let id = image_id(&request.id)?;
        // Read before the store: an image that is completed between the two reads is then in the store.
        let stage = self.fetches.stage(&id);
        let answer = match (self.complete_image("GetImage", &id), stage) {
            (Ok(_), Some(Stage::Cancelled)) => {
                return Err(storage::Error::NotFound { name: request.id }.into());
            }
            (Err(Error::Storage(storage::Error::NotFound { .. })), Some(Stage::Fetching)) => {
                fetching_answer(&id)
            }
            (Err(Error::Storage(storage::Error::NotFound { .. })), Some(Stage::Failed(why))) => {
                return Err(Error::NotFetched { id: request.id, why });
            }
            (found, _) => image_answer(&found?),
        };
        Ok(ImageResponse { images: vec![answer] })
    }

    /// Makes a volume from an image; `dest` is relative to the pool.
    ///
    /// # Errors
    /// `need dest`, `not found`, a name that is taken; errors of storage.
    ///
    /// # Blocking
    /// As [`Images::verify_disks`].
    pub fn clone_image(&self, request: ImageRequest) -> Result<VolumeResponse, Error> {
        if request.dest.is_empty() {
            return Err(Error::Refused("need dest"));
        }
        let (image, volume) = (image_id(&request.id)?, self.dataset(&request.dest)?);
        self.make_new(Verb::CloneImage, self.nobodys(volume, Some(image), 0))
    }

    /// Destroys an image with its snapshots, and returns it. A fetch of the image is cancelled: the answer then has
    /// status `fetching`.
    ///
    /// # Errors
    /// `not found`; the image has clones.
    ///
    /// # Blocking
    /// As [`Images::verify_disks`].
    pub fn delete_image(&self, request: ImageRequest) -> Result<ImageResponse, Error> {
        let id = image_id(&request.id)?;
        // Before the store: an image that is completed meanwhile is then found below.
        let is_cancelled = self.fetches.cancel(&id);
        match self.delete_complete_image(request, id.clone()) {
            Err(Error::Storage(storage::Error::NotFound { .. })) if is_cancelled => {
                Ok(ImageResponse { images: vec![fetching_answer(&id)] })
            }
            deleted => deleted,
        }
    }

    fn delete_complete_image(&self, request: ImageRequest, id: Id) -> Result<ImageResponse, Error> {
        let deadline = self.core.storage_deadline();
        let found = id.clone();
        let look = move |volumes: &dyn Volumes| {
            let image = volumes.image(&found, deadline)?;
            volumes.volume(&image.volume, deadline)
        };
        let volume = self.core.on_storage("DeleteImage", &request.id, None, deadline, look)?;
        self.check_unused("DeleteImage", &volume, deadline)?;
        let delete = move |volumes: &dyn Volumes| {
            let image = volumes.image(&id, deadline)?;
            volumes.delete_image(&id, deadline).map(|()| image)
        };
        let image = self.core.on_storage("DeleteImage", &request.id, None, deadline, delete)?;
        Ok(ImageResponse { images: vec![image_answer(&image)] })
    }

    /// Fetches an image from the image service (`http://<image service>/images/<id>/download`) and imports it, unless
    /// it exists or is being fetched. The answer is the image, with status `fetching` until it is complete.
    ///
    /// # Errors
    /// `need an id`, an invalid id; no image service; too many waiting images; [`Error::NotFetched`] for an image that
    /// failed within [`FETCH_RETRY`](crate::config::fixed::FETCH_RETRY).
    ///
    /// # Blocking
    /// As [`Images::verify_disks`]; does not wait for the image.
    pub fn request_image(&self, request: ImageRequest) -> Result<ImageResponse, Error> {
        if request.id.is_empty() {
            return Err(NEED_ID);
        }
        let id = Id::parse(&request.id).map_err(storage::Error::Name)?;
        let is_cancelled = self.fetches.stage(&id) == Some(Stage::Cancelled);
        match self.complete_image("RequestImage", &id) {
            Ok(image) if !is_cancelled => {
                return Ok(ImageResponse { images: vec![image_answer(&image)] });
            }
            Ok(_) | Err(Error::Storage(storage::Error::NotFound { .. })) => {}
            Err(error) => return Err(error),
        }
        self.fetches.request(&id)?;
        Ok(ImageResponse { images: vec![fetching_answer(&id)] })
    }

    fn complete_image(&self, verb: &str, id: &Id) -> Result<storage::StoredImage, Error> {
        let deadline = self.core.storage_deadline();
        let sought = id.clone();
        let look = move |volumes: &dyn Volumes| volumes.image(&sought, deadline);
        self.core.on_storage(verb, id.as_str(), None, deadline, look)
    }

    /// Refuses to remove a volume that a domain has, or may have, as a disk or as a backing file.
    fn check_unused(
        &self,
        verb: &str,
        volume: &storage::StoredVolume,
        deadline: Instant,
    ) -> Result<(), Error> {
        let uses = |connection: &Connection| Ok(all_uses(connection)?);
        let domains = self.core.read(Lane::Read, verb, "", deadline, uses)?;
        let user = domains.into_iter().find_map(|domain| {
            let why = match domain.of_volume(&volume.device) {
                Some(VolumeUse::Disk) => "uses it as a disk",
                Some(VolumeUse::Backing) => "has a disk file that is backed by it",
                None => domain.unknown_use()?.why(),
            };
            Some((domain.name, why))
        });
        match user {
            Some((user, why)) => Err(Error::InUse { dataset: volume.name.to_string(), user, why }),
            None => Ok(()),
        }
    }

    /// Runs a job on the storage lane that changes a dataset, under the lock of its guest, or its own.
    pub(super) fn change_dataset<T: Send + 'static>(
        &self,
        verb: &str,
        name: &Dataset,
        work: impl FnOnce(&dyn Volumes, Instant) -> Result<T, storage::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let deadline = self.core.storage_deadline();
        let lock = self.core.lock_and_recover(lock_name(name), deadline)?;
        let work = move |volumes: &dyn Volumes| work(volumes, deadline);
        self.core.on_storage(verb, name.as_str(), Some(&lock), deadline, work)
    }

    /// Returns the dataset that a request names.
    pub(in crate::ops) fn dataset(&self, id: &str) -> Result<Dataset, Error> {
        if id.is_empty() {
            return Err(NEED_ID);
        }
        self.core.volumes.pool().dataset(id).map_err(|_| Error::Refused("not a valid dataset"))
    }

    /// Returns the volumes for a guest whose volumes the original image agent may have made.
    fn wanted_or_unmarked(
        &self,
        verb: &str,
        guest: &Guest,
        deadline: Instant,
    ) -> Result<Vec<VolumeSpec>, Error> {
        let id = guest.id.clone();
        let find = move |connection: &Connection| {
            let Some(domain) = connection.find_domain(&id)? else {
                return Ok(AdoptionRule::Unwritten);
            };
            let definition = described(&domain, XmlKind::Inactive)?;
            let maker = Maker::domain(&definition.uuid);
            let named = DomainUse::of(&[&definition]).sources().collect();
            Ok(AdoptionRule::OfDomain { maker, named })
        };
        // If libvirt does not answer, the guest counts as new, and adopts no volume with data.
        let adoption = self.core.read(Lane::Read, verb, &guest.id, deadline, find);
        let adoption = adoption.unwrap_or(AdoptionRule::Unwritten);
        let wanted = self.core.wanted(guest, &Maker::call(), &adoption)?.into_iter();
        Ok(wanted.map(|wanted| VolumeSpec { unmarked: true, ..wanted }).collect())
    }

    fn nobodys(&self, volume: Dataset, image: Option<Id>, size_mib: u64) -> VolumeSpec {
        let (space, maker) = (self.core.space(), Some(Maker::call()));
        let (owner, adoption, unmarked, content) = (None, AdoptionRule::Any, false, None);
        VolumeSpec { volume, image, size_mib, space, owner, maker, adoption, unmarked, content }
    }

    /// Makes a volume that does not exist yet, or nothing.
    fn make_new(&self, verb: Verb, wanted: VolumeSpec) -> Result<VolumeResponse, Error> {
        let deadline = self.core.storage_deadline();
        let lock = self.core.lock_and_recover(lock_name(&wanted.volume), deadline)?;
        let subject = Guest { id: lock.guest().to_owned(), ..Guest::default() };
        let transaction = Transaction::begin(&self.core.journal, verb, &subject);
        let work = move |volumes: &dyn Volumes, transaction: &mut Transaction| {
            let planned = volumes.plan(&[wanted], deadline)?;
            if let Some(found) = planned.iter().find_map(|planned| planned.found.as_ref()) {
                return Err(storage::Error::Exists { name: found.name.to_string() }.into());
            }
            match make(volumes, planned, false, transaction, deadline) {
                // The store has undone it, or made nothing.
                Err(Error::Step { cause, .. }) if is_clean(&cause) => Err(Stop::Clean(*cause)),
                made => Ok(made?),
            }
        };
        let made = self.make_or_undo(transaction, &subject, &lock, deadline, work)?;
        Ok(VolumeResponse { volumes: made.iter().map(volume_answer).collect() })
    }

    /// Runs the single step of a storage method, and undoes it if it fails.
    ///
    /// # Errors
    /// The error of the step, without the step's name if it was undone completely.
    ///
    /// # Blocking
    /// Up to `deadline`, plus the undo.
    pub(super) fn make_or_undo<T: Send + 'static>(
        &self,
        transaction: Transaction,
        subject: &Guest,
        lock: &GuestLock,
        deadline: Instant,
        work: impl FnOnce(&dyn Volumes, &mut Transaction) -> Result<T, Stop> + Send + 'static,
    ) -> Result<T, Error> {
        let volumes = Arc::clone(&self.core.volumes);
        let work =
            move |_: &mut Session, transaction: &mut Transaction| work(&*volumes, transaction);
        let made = self.core.run_steps(Lane::Storage, transaction, lock, deadline, work);
        let made = made.and_then(|(made, transaction)| {
            self.core.commit(transaction, lock, deadline)?;
            Ok(made)
        });
        made.map_err(|cause| without_step(self.core.undone(subject, cause, lock)))
    }
}

/// Returns whether a volume that could not be made is removed completely.
fn is_clean(error: &Error) -> bool {
    use storage::Error::NotUndone;
    matches!(error, Error::Storage(error) if !error.cannot_ask() && !matches!(error, NotUndone { .. }))
}

/// Returns the cause of a failed step without leftovers. These methods have one step, so its name adds nothing.
fn without_step(error: Error) -> Error {
    match error {
        Error::Step { cause, left, .. } if left.is_empty() => *cause,
        other => other,
    }
}

/// Returns the request's guest, with an id and at most as many disks as a guest may have.
pub(in crate::ops) fn guest_with_disks(guest: Option<Guest>) -> Result<Guest, Error> {
    let guest = named_guest(guest)?;
    match guest.disks.len() {
        0 => Err(Error::NoGuest),
        1..=GUEST_DISKS_MAX => Ok(guest),
        count => Err(Invalid::TooMany { member: "disks", count, max: GUEST_DISKS_MAX }.into()),
    }
}

/// Clears the sources: the image store makes every disk, even if a former answer named its source.
fn without_sources(mut guest: Guest) -> Guest {
    guest.disks.iter_mut().for_each(|disk| disk.source.clear());
    guest
}

fn image_id(id: &str) -> Result<Id, Error> {
    if id.is_empty() {
        return Err(NEED_ID);
    }
    // An invalid name belongs to no image.
    Id::parse(id).map_err(|_| storage::Error::NotFound { name: id.to_owned() }.into())
}

fn volume_answer(volume: &storage::StoredVolume) -> wire::Volume {
    wire::Volume {
        id: volume.name.to_string(),
        size_mib: volume.size_mib(),
        device: volume.device.to_string_lossy().into_owned(),
    }
}

/// Returns the answer for an image that is being fetched, which has no further data.
fn fetching_answer(id: &Id) -> wire::Image {
    let (id, status) = (id.to_string(), "fetching".to_owned());
    wire::Image { id, status, ..wire::Image::default() }
}

fn image_answer(image: &storage::StoredImage) -> wire::Image {
    wire::Image {
        id: image.id.to_string(),
        kind: String::new(),
        volume: image.volume.to_string(),
        snapshot: image.snapshot.to_string(),
        size_mib: image.size_mib(),
        status: "complete".to_owned(),
    }
}
