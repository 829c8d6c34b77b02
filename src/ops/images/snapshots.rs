//! The image store's methods for snapshots (contract section 8).

use std::io::Read;

use log::warn;

use crate::guest::wire::Guest;
use crate::guest::wire::images::{self as wire, SnapshotRequest, SnapshotResponse};
use crate::journal::{Step, Verb};
use crate::libvirt::Connection;
use crate::ops::disks::domain_uses::{DomainUse, Unknown, VolumeUse, all_uses};
use crate::ops::disks::volume_owners::{guest_of, lock_name};
use crate::ops::transaction::{Stop, Transaction};
use crate::ops::{Error, Images, Session};
use crate::pool::Lane;
use crate::storage::{
    self, Maker, NewerSnapshots, Recursion, SnapshotName, StoredSnapshot, Volumes,
};

const NOT_VALID: Error = Error::Refused("not a valid dataset");

impl Images {
    /// Takes a snapshot `dest` of the dataset `id`; with `recursive`, also of its descendants.
    ///
    /// # Errors
    /// `need an id`, `need a dest`, `invalid snapshot dest`, `cannot create a snapshot of a snapshot`, `not found`,
    /// `not a valid dataset`; errors of storage.
    ///
    /// # Blocking
    /// Up to [`Deadlines::change`](crate::config::Deadlines::change).
    pub fn create_snapshot(&self, request: SnapshotRequest) -> Result<SnapshotResponse, Error> {
        if request.id.contains('@') {
            self.core.volumes.pool().snapshot(&request.id).map_err(|_| NOT_VALID)?;
            return Err(Error::Refused("cannot create a snapshot of a snapshot"));
        }
        let dataset = self.dataset(&request.id)?;
        let name = match dataset.snapshot(&request.dest) {
            Ok(name) => name,
            Err(_) => {
                // A missing dataset takes precedence over an invalid name.
                self.list(Some(dataset))?;
                let missing = request.dest.is_empty();
                let why = if missing { "need a dest" } else { "invalid snapshot dest" };
                return Err(Error::Refused(why));
            }
        };
        let recursion = recursion(&request);
        self.check_not_below(&dataset, recursion)?;
        let deadline = self.core.storage_deadline();
        let lock = self.core.lock_and_recover(lock_name(&dataset), deadline)?;
        let subject = Guest { id: lock.guest().to_owned(), ..Guest::default() };
        let transaction = Transaction::begin(&self.core.journal, Verb::CreateSnapshot, &subject);
        let work = move |volumes: &dyn Volumes, transaction: &mut Transaction| {
            let maker = Maker::call();
            // The journal gets no step that the store refuses at once.
            let existing = volumes.snapshots(Some(name.dataset()), deadline)?;
            let is_taken = |it: &StoredSnapshot| match recursion {
                Recursion::Itself => it.name == name,
                Recursion::Below => it.name.name() == name.name(),
            };
            if existing.iter().any(is_taken) {
                return Err(storage::Error::Exists { name: name.to_string() }.into());
            }
            transaction.record(Step::Snapshot {
                name: name.to_string(),
                below: recursion == Recursion::Below,
                maker: maker.to_string(),
            })?;
            match volumes.create_snapshot(&name, recursion, &maker, deadline) {
                // Another call was faster; this call has made nothing.
                Err(error @ (storage::Error::Exists { .. } | storage::Error::NotFound { .. })) => {
                    Err(Stop::Clean(error.into()))
                }
                made => Ok(made?),
            }
        };
        let made = self.make_or_undo(transaction, &subject, &lock, deadline, work)?;
        Ok(answer(&made))
    }

    /// Returns one snapshot.
    ///
    /// # Errors
    /// `need an id`, `not found`, `not a snapshot`, `not a valid dataset`.
    ///
    /// # Blocking
    /// As [`Images::create_snapshot`].
    pub fn get_snapshot(&self, request: SnapshotRequest) -> Result<SnapshotResponse, Error> {
        let name = self.snapshot_name(&request.id)?;
        let deadline = self.core.storage_deadline();
        let look = move |volumes: &dyn Volumes| volumes.snapshot(&name, deadline);
        let found = self.core.on_storage("GetSnapshot", &request.id, None, deadline, look)?;
        Ok(answer(&[found]))
    }

    /// Returns the snapshots of a dataset and its descendants; without an id, those of the pool.
    ///
    /// # Errors
    /// `not found`, `not a valid dataset`.
    ///
    /// # Blocking
    /// As [`Images::create_snapshot`].
    pub fn list_snapshots(&self, request: SnapshotRequest) -> Result<SnapshotResponse, Error> {
        let under = match request.id.as_str() {
            "" => None,
            id => Some(self.dataset(id)?),
        };
        Ok(answer(&self.list(under)?))
    }

    /// Destroys a snapshot, with `recursive` also those of its name below the dataset, and returns the destroyed
    /// snapshots.
    ///
    /// # Errors
    /// As [`Images::get_snapshot`]; the snapshot has clones; errors of storage.
    ///
    /// # Blocking
    /// As [`Images::create_snapshot`].
    pub fn delete_snapshot(&self, request: SnapshotRequest) -> Result<SnapshotResponse, Error> {
        let name = self.snapshot_name(&request.id)?;
        let dataset = name.dataset().clone();
        let recursion = recursion(&request);
        let gone = self.change_dataset("DeleteSnapshot", &dataset, move |volumes, deadline| {
            let found = match recursion {
                Recursion::Itself => vec![volumes.snapshot(&name, deadline)?],
                Recursion::Below => volumes.snapshots(Some(name.dataset()), deadline)?,
            };
            volumes.delete_snapshot(&name, recursion, deadline)?;
            let of_name = |it: &StoredSnapshot| it.name.name() == name.name();
            Ok(found.into_iter().filter(of_name).collect::<Vec<_>>())
        })?;
        Ok(answer(&gone))
    }

    /// Rolls one dataset back to a snapshot. With `destroyMoreRecent`, destroys newer snapshots first. Refuses a volume
    /// that a running guest or another domain uses, and one that is or may be a backing file of a guest's qcow2 file.
    ///
    /// # Errors
    /// As [`Images::get_snapshot`]; [`Error::InUse`]; errors of storage.
    ///
    /// # Blocking
    /// As [`Images::create_snapshot`].
    pub fn rollback_snapshot(&self, request: SnapshotRequest) -> Result<SnapshotResponse, Error> {
        const VERB: &str = "RollbackSnapshot";
        let name = self.snapshot_name(&request.id)?;
        no_seed(&name)?;
        let deadline = self.core.storage_deadline();
        let id = guest_of(name.dataset()).unwrap_or_default().to_owned();
        let lock = self.core.lock_guest(lock_name(name.dataset()), deadline)?;

        let looked_for = name.clone();
        let look = move |volumes: &dyn Volumes| {
            let snapshot = volumes.snapshot(&looked_for, deadline)?;
            // A file system has no device.
            let volume = match volumes.volume(looked_for.dataset(), deadline) {
                Err(storage::Error::NotFound { .. }) => None,
                found => Some(found?),
            };
            Ok((snapshot, volume))
        };
        let (snapshot, volume) =
            self.core.on_storage(VERB, name.as_str(), Some(&lock), deadline, look)?;

        let dataset = name.dataset().to_string();
        let ask = move |session: &mut Session| {
            session.read(|connection| match obstacle(connection, &id, volume.as_ref())? {
                Some((user, why)) => Err(Error::InUse { dataset: dataset.clone(), user, why }),
                None => Ok(()),
            })
        };
        self.core.run_locked(VERB, deadline, &lock, ask, |_, _| {})?;

        let newer = if request.destroy_more_recent {
            NewerSnapshots::Destroy
        } else {
            NewerSnapshots::Keep
        };
        let what = name.to_string();
        let roll_back = move |volumes: &dyn Volumes| volumes.rollback(&name, newer, deadline);
        self.core.on_storage(VERB, &what, Some(&lock), deadline, roll_back)?;
        Ok(answer(&[snapshot]))
    }

    /// Returns the content of a snapshot as a stream, which the caller reads.
    ///
    /// # Errors
    /// As [`Images::get_snapshot`].
    ///
    /// # Blocking
    /// As [`Images::create_snapshot`], until the stream starts.
    pub fn send_snapshot(&self, request: &SnapshotRequest) -> Result<Box<dyn Read + Send>, Error> {
        let name = self.snapshot_name(&request.id)?;
        no_seed(&name)?;
        let deadline = self.core.storage_deadline();
        let send = move |volumes: &dyn Volumes| volumes.send(&name, deadline);
        self.core.on_storage("DownloadSnapshot", &request.id, None, deadline, send)
    }

    /// Refuses a snapshot of a guest's volume that is or may be a backing file: the guest's disk is the file on top,
    /// and the volume lacks what was written since.
    ///
    /// # Errors
    /// [`Error::InUse`]. If libvirt does not answer, the snapshot is taken all the same, because it does no harm.
    fn check_not_below(
        &self,
        dataset: &storage::Dataset,
        recursion: Recursion,
    ) -> Result<(), Error> {
        const VERB: &str = "CreateSnapshot";
        if guest_of(dataset).is_none() && *dataset != self.core.volumes.pool().guests() {
            return Ok(());
        }
        let deadline = self.core.storage_deadline();
        let root = dataset.clone();
        let look = move |volumes: &dyn Volumes| volumes.volumes(Some(&root), deadline);
        let mut volumes = self.core.on_storage(VERB, dataset.as_str(), None, deadline, look)?;
        volumes.retain(|volume| recursion == Recursion::Below || volume.name == *dataset);
        let uses = |connection: &Connection| Ok(all_uses(connection)?);
        let domains = match self.core.read(Lane::Read, VERB, dataset.as_str(), deadline, uses) {
            Ok(domains) => domains,
            Err(error) => {
                warn!("cannot ask libvirt which disk files are backed by {dataset}: {error}");
                return Ok(());
            }
        };
        for volume in &volumes {
            let id = guest_of(&volume.name).unwrap_or_default();
            let reason = |it: &DomainUse| match it.of_volume(&volume.device) {
                Some(VolumeUse::Backing) => Some("has a disk file that is backed by it"),
                Some(VolumeUse::Disk) => None,
                None => it.may_use(volume, id).map(Unknown::why),
            };
            let found = domains.iter().find_map(|it| Some((it.name.clone(), reason(it)?)));
            if let Some((user, why)) = found {
                return Err(Error::InUse { dataset: volume.name.to_string(), user, why });
            }
        }
        Ok(())
    }

    /// Returns the snapshots of a dataset and its descendants, or of the pool.
    fn list(&self, under: Option<storage::Dataset>) -> Result<Vec<StoredSnapshot>, Error> {
        let deadline = self.core.storage_deadline();
        let what = under.as_ref().map(ToString::to_string).unwrap_or_default();
        let list = move |volumes: &dyn Volumes| volumes.snapshots(under.as_ref(), deadline);
        self.core.on_storage("ListSnapshots", &what, None, deadline, list)
    }

    /// Returns the snapshot that a request names.
    ///
    /// # Errors
    /// As [`Images::get_snapshot`]. A later step detects a missing snapshot.
    ///
    /// # Blocking
    /// Only for a name that is not a snapshot's.
    fn snapshot_name(&self, id: &str) -> Result<SnapshotName, Error> {
        if id.contains('@') {
            return self.core.volumes.pool().snapshot(id).map_err(|_| NOT_VALID);
        }
        // Fails with the proper error if there is no such dataset.
        self.list(Some(self.dataset(id)?))?;
        Err(Error::Refused("not a snapshot"))
    }
}

fn recursion(request: &SnapshotRequest) -> Recursion {
    if request.recursive { Recursion::Below } else { Recursion::Itself }
}

fn answer(snapshots: &[StoredSnapshot]) -> SnapshotResponse {
    let answer =
        |it: &StoredSnapshot| wire::Snapshot { id: it.name.to_string(), size_mib: it.size_mib() };
    SnapshotResponse { snapshots: snapshots.iter().map(answer).collect() }
}

/// Returns the first domain that forbids a rollback of `volume` below `guests/<id>`, and why. A running guest would not
/// notice the rollback, and would write its cached data over the former content. A file on top of the volume would no
/// longer match it. A volume with the mark of one guest that another domain has as a disk belongs to a renamed guest.
fn obstacle(
    connection: &Connection,
    id: &str,
    volume: Option<&storage::StoredVolume>,
) -> Result<Option<(String, &'static str)>, Error> {
    let reason = |domain: &DomainUse| {
        let found = volume.and_then(|volume| domain.of_volume(&volume.device));
        let owner = volume.and_then(|volume| volume.owner.as_deref());
        let is_own = domain.name == id;
        match found {
            _ if is_own && domain.runs => Some("is running"),
            Some(VolumeUse::Backing) => Some("has a disk file that is backed by it"),
            Some(VolumeUse::Disk) if domain.runs => Some("is running"),
            Some(VolumeUse::Disk) if domain.is_saved => Some(
                "has saved memory that would no longer fit; call Run and Poweroff, or DiscardSaved",
            ),
            Some(VolumeUse::Disk) if owner.is_some_and(|owner| owner != domain.name) => {
                Some("uses it as a disk")
            }
            None if !is_own && volume.is_some_and(|volume| domain.has_made(volume)) => {
                Some("owns it as a detached disk")
            }
            // An unreadable definition does not prevent another guest's method.
            None if volume.is_some() && domain.has_unknown_chain() => Some(Unknown::Chain.why()),
            None => volume.and_then(|it| domain.may_use(it, id)).map(Unknown::why),
            _ => None,
        }
    };
    let found = all_uses(connection)?;
    Ok(found.into_iter().find_map(|domain| reason(&domain).map(|why| (domain.name, why))))
}

/// Refuses a snapshot of a seed: a seed is secret, and its former content would not match the stored fingerprint.
fn no_seed(name: &storage::SnapshotName) -> Result<(), Error> {
    match name.dataset().is_seed() {
        true => Err(Error::Invalid(format!("{name} is a snapshot of a guest's seed"))),
        false => Ok(()),
    }
}
