//! A guest's volumes: made before its domain, destroyed with it, and after a failed create.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use log::warn;

use crate::guest::seed::files::is_on_disk;
use crate::guest::wire::{Guest, GuestDisk};
use crate::journal::Step;
use crate::libvirt::Connection;
use crate::ops::disks::domain_uses;
use crate::ops::disks::volume_owners::{Expected, OtherDomains, guest_of};
use crate::ops::transaction::Transaction;
use crate::ops::{Core, Error, Session};
use crate::pool::{GuestLock, Lane};
use crate::storage::{
    self, AdoptionRule, CreatedVolume, Dataset, Id, InvalidName, Maker, PlannedVolume, PoolName,
    Space, VolumeSpec, Volumes,
};

/// Returns whether a guest has disks whose volumes this agent makes: disks without a source, and its seed.
pub(in crate::ops) fn wants_volumes(guest: &Guest) -> bool {
    is_on_disk(&guest.seed) || guest.disks.iter().any(GuestDisk::wants_volume)
}

/// The volumes that a Delete removes with the guest.
#[derive(Clone, Debug)]
pub(in crate::ops) struct LeavingVolumes {
    /// Whether there are any.
    pub(in crate::ops) expected: Expected,
    /// Sources that a caller has supplied, as it named them. Delete keeps them.
    pub(in crate::ops) supplied: Vec<PathBuf>,
    /// The volumes whose names have a former id of the guest.
    pub(in crate::ops) renamed: Vec<Dataset>,
}

/// The names of a guest's own volumes: `<pool>/guests/<id>/disk-<n>`, and `seed` there.
#[derive(Clone, Debug)]
pub(in crate::ops) struct GuestVolumeNames {
    pool: PoolName,
    owner: Id,
}

impl GuestVolumeNames {
    /// Returns the names for the guest of this id.
    ///
    /// # Errors
    /// For an id that cannot name a dataset: such a guest has no own volumes.
    pub(in crate::ops) fn new(pool: &PoolName, id: &str) -> Result<Self, storage::Error> {
        Ok(Self { pool: pool.clone(), owner: Id::parse(id)? })
    }

    /// Returns the dataset above them.
    pub(in crate::ops) fn directory(&self) -> Result<Dataset, InvalidName> {
        self.pool.guest(&self.owner)
    }

    /// Returns the volume of this number.
    pub(in crate::ops) fn number(&self, number: usize) -> Result<Dataset, InvalidName> {
        self.pool.guest_disk(&self.owner, number)
    }

    /// Returns the volume of the seed.
    pub(in crate::ops) fn seed(&self) -> Result<Dataset, InvalidName> {
        self.pool.guest_seed(&self.owner)
    }

    /// Returns the volume of this full name, if it is one of the guest's own.
    pub(in crate::ops) fn named(&self, volume: &str) -> Option<Dataset> {
        let (_, number) = volume.rsplit_once("/disk-")?;
        self.number(number.parse().ok()?).ok().filter(|own| own.as_str() == volume)
    }

    /// Returns the volume of a disk without a source: the volume that it names, else that of its index among the
    /// guest's disks.
    pub(in crate::ops) fn of(
        &self,
        index: usize,
        disk: &GuestDisk,
    ) -> Result<Dataset, InvalidName> {
        if disk.is_seed {
            return self.seed();
        }
        self.named(&disk.volume).map_or_else(|| self.number(index), Ok)
    }

    /// Returns the request to storage for such a disk; errors call the disk `place`.
    pub(in crate::ops) fn wanted(
        &self,
        volume: Dataset,
        disk: &GuestDisk,
        place: &str,
        (space, maker, adoption): (Space, Maker, AdoptionRule),
    ) -> Result<VolumeSpec, Error> {
        let image = Some(disk.image.as_str()).filter(|image| !image.is_empty());
        if image.is_none() && disk.size_mib == 0 {
            return Err(Error::Invalid(format!("{place} must have an image or a size")));
        }
        Ok(VolumeSpec {
            volume,
            image: image.map(Id::parse).transpose().map_err(storage::Error::Name)?,
            size_mib: disk.size_mib,
            space,
            owner: Some(self.owner.clone()),
            maker: Some(maker),
            adoption,
            unmarked: false,
            content: None,
        })
    }
}

impl Core {
    /// Makes the volumes `wanted` for the disks without a source, and fills in their `volume`, `source` and `size`.
    /// Adopts a volume that exists and matches; if the domain `exists`, all of them must exist. Records the others in
    /// `transaction`. Also returns the volumes that belong to no domain yet.
    ///
    /// # Errors
    /// Errors of storage, with the step; the journal then holds the recorded steps for the rollback.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(in crate::ops) fn make_volumes(
        &self,
        guest: &mut Guest,
        wanted: Vec<VolumeSpec>,
        exists: bool,
        transaction: Transaction,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<(Transaction, Vec<Dataset>), Error> {
        let verb = transaction.intent().verb.to_string();
        let maker = wanted.first().and_then(|wanted| wanted.maker.clone());
        let plan = move |volumes: &dyn Volumes| volumes.plan(&wanted, deadline);
        let planned = self.on_storage(&verb, &guest.id, Some(lock), deadline, plan)?;
        self.check_planned(&verb, &guest.id, &planned, exists, deadline)?;
        let found = planned.iter().filter_map(|planned| planned.found.as_ref());
        let unclaimed = found.filter(|volume| volume.maker != maker);
        let unclaimed = unclaimed.map(|volume| volume.name.clone()).collect();
        let volumes = Arc::clone(&self.volumes);
        let work = move |_: &mut Session, transaction: &mut Transaction| {
            Ok(make(&*volumes, planned, exists, transaction, deadline)?)
        };
        let (made, transaction) =
            self.run_steps(Lane::Storage, transaction, lock, deadline, work)?;
        let disks = guest.disks.iter_mut().filter(|disk| disk.wants_volume());
        for (disk, volume) in disks.zip(made) {
            fill(disk, volume.size_mib(), &volume.name, &volume.device);
        }
        Ok((transaction, unclaimed))
    }

    /// Completes the marks of the guest's own volumes that its caller has named as sources.
    pub(in crate::ops) fn claim_sources(
        &self,
        verb: &str,
        sources: Vec<(String, String)>,
        maker: &Maker,
        lock: &GuestLock,
        deadline: Instant,
    ) {
        if sources.is_empty() {
            return;
        }
        let (id, own_maker) = (lock.guest().to_owned(), maker.clone());
        let find = move |volumes: &dyn Volumes| {
            let mut own = Vec::new();
            for (_, source) in sources {
                let Some(name) = volumes.name_of(Path::new(&source)) else { continue };
                if guest_of(&name) != Some(&id) {
                    continue;
                }
                let volume = match volumes.volume(&name, deadline) {
                    Err(storage::Error::NotFound { .. }) => continue,
                    found => found?,
                };
                // It belongs to no other domain either: the source was checked.
                if volume.owner.as_deref() == Some(&id) && volume.maker.as_ref() != Some(&own_maker)
                {
                    own.push(name);
                }
            }
            Ok(own)
        };
        match self.on_storage(verb, lock.guest(), Some(lock), deadline, find) {
            Ok(own) => self.claim(verb, own, maker.clone(), lock, deadline),
            Err(error) => self.claim_later(lock, &error),
        }
    }

    /// Completes the marks of volumes that now belong to a domain. The guest has them even if that fails; the
    /// reconciler tries again.
    pub(in crate::ops) fn claim(
        &self,
        verb: &str,
        unclaimed: Vec<Dataset>,
        maker: Maker,
        lock: &GuestLock,
        deadline: Instant,
    ) {
        if let Err(error) = self.set_makers(verb, unclaimed, maker, lock, deadline) {
            self.claim_later(lock, &error);
        }
    }

    fn claim_later(&self, lock: &GuestLock, error: &Error) {
        warn!("cannot complete the marks of volumes; guest={:?}: {error}", lock.guest());
        self.status.marks().wake();
    }

    /// Sets the maker of these volumes.
    pub(super) fn set_makers(
        &self,
        verb: &str,
        names: Vec<Dataset>,
        maker: Maker,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<(), Error> {
        if names.is_empty() {
            return Ok(());
        }
        let claim = move |volumes: &dyn Volumes| {
            names.iter().try_for_each(|volume| volumes.set_maker(volume, &maker, deadline))
        };
        self.on_storage(verb, lock.guest(), Some(lock), deadline, claim)
    }

    /// Refuses a planned volume that another domain uses. A renamed guest thus keeps its disks, and a domain that names
    /// a volume before it exists does not get another guest's.
    ///
    /// # Errors
    /// [`storage::Error::Differs`] and [`Error::Taken`] name the volume and the domain; if libvirt does not answer.
    pub(in crate::ops) fn check_planned(
        &self,
        verb: &str,
        id: &str,
        planned: &[PlannedVolume],
        exists: bool,
        deadline: Instant,
    ) -> Result<(), Error> {
        if planned.is_empty() {
            return Ok(());
        }
        let others = match self.users_of(verb, id, planned.iter(), deadline) {
            // CreateGuest asks libvirt again before its domain gets the volume.
            Err(error) if error.is_unreachable() && planned.iter().all(|it| it.found.is_none()) => {
                OtherDomains::default()
            }
            others => others?,
        };
        planned.iter().try_for_each(|it| self.check_one(it, exists, &others))
    }

    /// Returns the volumes that other guests' domains use. The agent reads all definitions if a volume exists and may
    /// be adopted; for new volumes, which have nobody's data, it asks [`PathUses`] first.
    ///
    /// [`PathUses`]: crate::ops::disks::path_uses::PathUses
    ///
    /// # Errors
    /// If libvirt does not answer.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(in crate::ops) fn users_of<'p>(
        &self,
        verb: &str,
        id: &str,
        planned: impl Iterator<Item = &'p PlannedVolume>,
        deadline: Instant,
    ) -> Result<OtherDomains, Error> {
        let mut devices = Vec::new();
        for planned in planned {
            if planned.found.is_some() {
                return self.others(verb, id, deadline);
            }
            devices.push(planned.device.clone());
        }
        self.ask_of_others(verb, id, Some(devices), deadline)
    }

    /// Refuses one planned volume that another domain uses.
    pub(in crate::ops) fn check_one(
        &self,
        planned: &PlannedVolume,
        exists: bool,
        others: &OtherDomains,
    ) -> Result<(), Error> {
        let PlannedVolume { wanted, device, found, .. } = planned;
        if let Some(volume) = found {
            return self.check_adopted(volume, exists, others);
        }
        self.check_not_left(&wanted.volume, wanted.maker.as_ref())?;
        match others.in_use.by(device) {
            Some(by) => Err(Error::Taken(format!(
                "cannot create volume {}: {by} already uses it",
                wanted.volume
            ))),
            None => Ok(()),
        }
    }

    /// Refuses to adopt a volume that another domain uses or owns.
    ///
    /// # Errors
    /// [`storage::Error::Differs`] names the volume and the domain.
    pub(in crate::ops) fn check_adopted(
        &self,
        volume: &storage::StoredVolume,
        exists: bool,
        others: &OtherDomains,
    ) -> Result<(), Error> {
        let maker = volume.maker.as_ref();
        self.check_not_left(&volume.name, maker)?;
        let user = others.in_use.by(&volume.device).or_else(|| others.in_use.by_maker(maker));
        let own = others.own_uuid.as_deref();
        let former = maker.and_then(Maker::domain_uuid).filter(|uuid| own != Some(*uuid));
        let why = match (user, former) {
            (Some(by), _) => format!("it is used by {by}"),
            // The definition of an existing guest names its volumes, whatever their marks say.
            (None, Some(uuid)) if !exists => format!("it belongs to the domain with uuid {uuid}"),
            _ => return Ok(()),
        };
        Err(storage::Error::Differs { volume: volume.name.clone(), what: vec![why] }.into())
    }

    /// Refuses a volume that the removal of a leftover would destroy.
    fn check_not_left(&self, volume: &Dataset, maker: Option<&Maker>) -> Result<(), Error> {
        let maker = maker.map(Maker::as_str);
        let Some(verb) = self.journal.verb_that_left(volume.as_str(), maker) else { return Ok(()) };
        let what = vec![format!(
            "it is left over from an earlier {verb}; run mistify-libvirt leftovers --remove"
        )];
        Err(storage::Error::Differs { volume: volume.clone(), what }.into())
    }

    /// Returns the resources of all domains but the guest's own.
    ///
    /// # Errors
    /// If libvirt does not answer.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(in crate::ops) fn others(
        &self,
        verb: &str,
        id: &str,
        deadline: Instant,
    ) -> Result<OtherDomains, Error> {
        self.ask_of_others(verb, id, None, deadline)
    }

    /// As [`Core::others`]; with the `devices` of new volumes, returns no resources if the cached definitions name none
    /// of these.
    fn ask_of_others(
        &self,
        verb: &str,
        id: &str,
        devices: Option<Vec<PathBuf>>,
        deadline: Instant,
    ) -> Result<OtherDomains, Error> {
        let (uses, asked) = (Arc::clone(&self.uses), id.to_owned());
        let look = move |connection: &Connection| {
            if let Some(devices) = &devices {
                // A cached use may have ended since, so all definitions are read below.
                if !uses.is_used(connection, &asked, devices)? {
                    return Ok(OtherDomains::default());
                }
            }
            let own = connection.find_domain(&asked)?;
            let own_uuid = own.map(|domain| domain.uuid()).transpose()?;
            Ok(OtherDomains {
                own_uuid,
                in_use: domain_uses::in_use_by_others(connection, &asked)?,
            })
        };
        self.read(Lane::Read, verb, id, deadline, look)
    }

    /// Returns the request to storage for each disk without a source.
    pub(in crate::ops) fn wanted(
        &self,
        guest: &Guest,
        maker: &Maker,
        adoption: &AdoptionRule,
    ) -> Result<Vec<VolumeSpec>, Error> {
        self.wanted_each(guest, maker, adoption).map(|(_, wanted)| wanted).collect()
    }

    /// Returns the request or the error for each disk without a source, with its index.
    pub(in crate::ops) fn wanted_each(
        &self,
        guest: &Guest,
        maker: &Maker,
        adoption: &AdoptionRule,
    ) -> impl Iterator<Item = (usize, Result<VolumeSpec, Error>)> {
        let disks = guest.disks.iter().enumerate().filter(|(_, disk)| disk.wants_volume());
        disks.map(|(index, disk)| {
            let wanted = GuestVolumeNames::new(self.volumes.pool(), &guest.id).map_err(Error::from);
            let wanted = wanted.and_then(|own| {
                let volume = own.of(index, disk).map_err(storage::Error::Name)?;
                let how = (self.space(), maker.clone(), adoption.clone());
                own.wanted(volume, disk, &format!("disks[{index}]"), how)
            });
            (index, wanted)
        })
    }

    /// Returns whether the store reserves space for new volumes.
    pub(in crate::ops) fn space(&self) -> Space {
        if self.host.sparse { Space::Sparse } else { Space::Reserved }
    }

    /// Returns the volumes below a guest's dataset; none if the dataset does not exist.
    pub(in crate::ops) fn own_volumes(
        &self,
        verb: &str,
        own: &GuestVolumeNames,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<Vec<storage::StoredVolume>, Error> {
        let directory = own.directory().map_err(storage::Error::Name)?;
        let list = move |volumes: &dyn Volumes| match volumes.volumes(Some(&directory), deadline) {
            Err(storage::Error::NotFound { .. }) => Ok(Vec::new()),
            outcome => outcome,
        };
        self.on_storage(verb, lock.guest(), Some(lock), deadline, list)
    }
}

/// Fills in the members of a disk that its volume determines.
pub(in crate::ops) fn fill(disk: &mut GuestDisk, size_mib: u64, volume: &Dataset, device: &Path) {
    disk.size_mib = size_mib;
    disk.volume = volume.to_string();
    disk.source = device.to_string_lossy().into_owned();
}

/// Checks that a removal left no volume.
///
/// # Errors
/// [`Error::VolumesLeft`] names the remaining volumes and the reasons.
pub(in crate::ops) fn complete(removal: &storage::Removal) -> Result<(), Error> {
    if removal.left.is_empty() {
        return Ok(());
    }
    Err(Error::VolumesLeft(removal.left.iter().map(ToString::to_string).collect()))
}

/// Makes one planned volume after the other.
pub(in crate::ops) fn make(
    volumes: &dyn Volumes,
    planned: Vec<PlannedVolume>,
    exists: bool,
    transaction: &mut Transaction,
    deadline: Instant,
) -> Result<Vec<storage::StoredVolume>, Error> {
    if let Some(gone) = planned.iter().find(|planned| exists && planned.found.is_none()) {
        // A new, empty disk would look like the guest's own.
        return Err(storage::Error::NotFound { name: gone.wanted.volume.to_string() }.into());
    }
    let mut made = Vec::new();
    for planned in planned {
        if let Some(CreatedVolume { volume, with_parent, maker, .. }) = planned.to_make() {
            let (name, made_parent) = (volume.to_string(), with_parent);
            let maker = maker.as_ref().map(ToString::to_string);
            transaction.record(Step::Volume { name, made_parent, maker })?;
        }
        let volume = volumes.make(&planned, deadline).map_err(|cause| Error::Step {
            step: format!("create volume {}", planned.wanted.volume),
            cause: Box::new(cause.into()),
            left: Vec::new(),
        })?;
        made.push(volume);
    }
    Ok(made)
}
