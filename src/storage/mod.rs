//! Storage for guests' disks: one trait, two stores.
//!
//! - `ZfsStore`: the regular store, through the `zfs` command.
//! - `DirectoryStore`: sparse raw files in the same layout, for hosts without ZFS.
//!
//! The layout is `<pool>/images/<id>`, `<pool>/guests/<id>/disk-<n>` and `seed`, with snapshots `@name`. Volumes that
//! the agent makes for a guest carry the guest's id as the owner's mark. The module does not depend on libvirt or
//! requests, only on names, sizes and devices.
//!
//! Every call has a deadline; undoing and killing after the deadline gets a short grace period.

pub(crate) mod copy;
mod directory;
mod error;
pub(crate) mod format;
mod holders;
mod name;
mod rules;
mod types;
mod zfs;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use log::warn;

use crate::config::{HostConfig, StorageLimits, Store};
use crate::os::resolve::TrustedUsers;

pub use self::directory::DirectoryStore;
pub use self::error::{Error, LeftoverVolume, RetentionCause};
pub use self::name::{Dataset, Id, InvalidName, PoolName, SnapshotName};
pub use self::types::{
    Action, AdoptionRule, CloneOrigin, Content, CreatedVolume, ImageSource, InUse, Maker,
    NewerSnapshots, PlannedVolume, Recursion, Removal, RemovalPlan, Space, StoredImage,
    StoredSnapshot, StoredVolume, Usage, VolumePlans, VolumeSelection, VolumeSpec,
};
#[cfg(any(test, fuzzing))]
pub(crate) use self::zfs::fuzz::zfs_output as fuzz_zfs_output;
pub use self::zfs::{Grantee, PERMISSIONS, ZfsStore};

/// Bytes of a MiB, the unit of the wire.
pub const MIB: u64 = 1024 * 1024;

/// Opens the store that the host is configured for. Neither the store nor its commands must exist yet.
///
/// # Errors
/// If the pool's name is invalid. [`Error::Untrusted`] if users outside `trusted` can change a directory in the path of
/// the directory store, or the store itself.
///
/// # Blocking
/// Blocks as long as the file systems in the path of a directory store take.
pub fn open(
    host: &HostConfig,
    limits: &StorageLimits,
    trusted: TrustedUsers,
    commands: Option<File>,
) -> Result<Arc<dyn Volumes>, Error> {
    let pool = PoolName::parse(&host.zpool)?;
    Ok(match &host.store {
        Store::None => Arc::new(ZfsStore::none(pool, limits.clone())),
        Store::Zfs => Arc::new(match commands {
            Some(file) => ZfsStore::of_agent(pool, limits.clone(), file)
                .map_err(|error| Error::io("lock the file of zfs commands", error))?,
            None => ZfsStore::new(pool, limits.clone()),
        }),
        Store::Directory(root) => {
            let store = DirectoryStore::new(pool, root.clone(), limits.clone()).trusting(trusted);
            match store.check_root() {
                Err(error @ Error::Untrusted { .. }) => return Err(error),
                // If the file system fails, each call reports the error.
                Err(error) => warn!("directory store is unavailable: {error}"),
                Ok(()) => {}
            }
            Arc::new(store)
        }
    })
}

/// Converts a size of the wire to bytes.
fn bytes_of(size_mib: u64) -> Result<u64, Error> {
    // No store supports sizes beyond a signed 64-bit offset.
    let bytes = size_mib.checked_mul(MIB).filter(|bytes| i64::try_from(*bytes).is_ok());
    bytes.ok_or_else(|| Error::Invalid(format!("size {size_mib} MiB is too large")))
}

/// Returns the smallest multiple of `unit` that is at least `bytes`; `bytes` itself if `unit` is 0.
fn round_up(bytes: u64, unit: u64) -> u64 {
    bytes.checked_next_multiple_of(unit).unwrap_or(bytes)
}

/// A store of volumes, images and snapshots.
///
/// # Errors
/// Every method fails with [`Error::NoStore`], [`Error::NotInstalled`], [`Error::PoolMissing`], [`Error::Hung`],
/// [`Error::Late`], [`Error::Failed`], [`Error::Garbled`] or [`Error::Io`] if the store is unavailable. Each method
/// lists its other errors.
///
/// # Blocking
/// Every method but [`Volumes::pool`] and [`Volumes::making`] blocks up to its deadline, plus the grace period of
/// [`StorageLimits`] if the deadline passes during a change.
pub trait Volumes: Send + Sync {
    /// Returns the pool of the store's names. Does not block.
    fn pool(&self) -> &PoolName;

    /// Returns the free and used space of the store, for health checks. An error means that the store is unavailable.
    ///
    /// # Errors
    /// The missing part, for example [`Error::NotInstalled`] or [`Error::PoolMissing`].
    fn usage(&self, deadline: Instant) -> Result<Usage, Error>;

    /// Creates `<pool>/images` and `<pool>/guests` if they do not exist. Called at the start of the agent; creating
    /// volumes and images does this by itself too.
    ///
    /// # Errors
    /// As the trait says.
    fn prepare(&self, deadline: Instant) -> Result<(), Error>;

    /// Returns the directory for a file that will become an image, and so may be as large; `None` for the system's
    /// directory of temporary files.
    ///
    /// # Errors
    /// As the trait says.
    fn drafts(&self) -> Result<Option<PathBuf>, Error>;

    /// Checks all volumes of one guest together, and changes nothing: names, images, sizes, existing volumes, free
    /// space less reservations. The results are in the order of `wanted`; zfs needs one listing. Errors of a single
    /// volume are [`Error::Invalid`] for an impossible size, [`Error::NotFound`] for an unknown image,
    /// [`Error::Differs`] for a different existing volume.
    ///
    /// # Errors
    /// As the trait says.
    fn plans(&self, wanted: &[VolumeSpec], deadline: Instant) -> Result<VolumePlans, Error>;

    /// Checks all volumes of one guest as [`Volumes::plans`] does, and requires that all can be made.
    ///
    /// # Errors
    /// The first error of a volume, [`Error::NoSpace`].
    fn plan(&self, wanted: &[VolumeSpec], deadline: Instant) -> Result<Vec<PlannedVolume>, Error> {
        self.plans(wanted, deadline)?.all()
    }

    /// Returns the actions of [`Volumes::make`]; none for an existing volume. Does not block.
    fn making(&self, planned: &PlannedVolume) -> Vec<Action>;

    /// Makes one planned volume, or adopts it if the plan found it, and waits for its device. Removes the volume again
    /// after a failure.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::NoDevice`], [`Error::Exists`] if another caller made the volume meanwhile,
    /// [`Error::NotUndone`] if the volume could not be removed after a failure.
    fn make(&self, planned: &PlannedVolume, deadline: Instant) -> Result<StoredVolume, Error>;

    /// Sets the maker in the mark of a volume.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn set_maker(&self, volume: &Dataset, maker: &Maker, deadline: Instant) -> Result<(), Error>;

    /// Undoes [`Volumes::make`], also one that a crash interrupted: removes volumes with their owner's mark, their
    /// snapshots, and the dataset above if it was made with them. Missing volumes are ignored.
    ///
    /// # Errors
    /// As the trait says. [`Error::Hung`] also for a single hung command: it may still create a volume to remove. The
    /// result lists volumes that could not be destroyed.
    fn take_back(
        &self,
        made: &[CreatedVolume],
        in_use: &InUse,
        deadline: Instant,
    ) -> Result<Removal, Error>;

    /// Destroys a guest's volumes with their snapshots, and `guests/<id>` itself if nothing else is below. Keeps and
    /// reports a volume that is in use, has a clone elsewhere, a held snapshot or an open device; destroys the others.
    /// A guest without volumes gives an empty result.
    ///
    /// # Errors
    /// As the trait says. The result lists volumes that could not be destroyed.
    fn destroy_guest(
        &self,
        guest: &Id,
        whose: VolumeSelection,
        in_use: &InUse,
        deadline: Instant,
    ) -> Result<Removal, Error>;

    /// Returns what [`Volumes::destroy_guest`] with [`VolumeSelection::Marked`] would do; changes nothing.
    ///
    /// # Errors
    /// As the trait says.
    fn destroying_guest(
        &self,
        guest: &Id,
        in_use: &InUse,
        deadline: Instant,
    ) -> Result<RemovalPlan, Error>;

    /// Grows a volume to at least `size_mib`; the same size succeeds and changes nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for a smaller size, [`Error::NoSpace`].
    fn grow(
        &self,
        volume: &Dataset,
        size_mib: u64,
        deadline: Instant,
    ) -> Result<StoredVolume, Error>;

    /// Returns the volumes at and below a dataset, or of the whole pool; by name.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the dataset.
    fn volumes(
        &self,
        under: Option<&Dataset>,
        deadline: Instant,
    ) -> Result<Vec<StoredVolume>, Error>;

    /// Returns the volumes of all guests, each with the bytes of its data: before compression, including data shared
    /// with its image. zfs needs one listing.
    ///
    /// # Errors
    /// As the trait says.
    fn filled(&self, deadline: Instant) -> Result<Vec<(StoredVolume, u64)>, Error>;

    /// Returns one volume.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for a dataset that is not a volume.
    fn volume(&self, name: &Dataset, deadline: Instant) -> Result<StoredVolume, Error>;

    /// Returns the name of the volume behind a path, after resolving links; if nothing exists there, of the volume that
    /// would be there. `None` for a path outside the store. Uses only system calls, not `zfs`.
    fn name_of(&self, path: &Path) -> Option<Dataset>;

    /// Destroys a dataset below `guests/` of any maker; with [`Recursion::Below`] also everything below it and its
    /// snapshots. Keeps and reports volumes in use.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] outside `guests/` or if something is below and the recursion is
    /// [`Recursion::Itself`]. The result lists volumes that could not be destroyed.
    fn delete(
        &self,
        name: &Dataset,
        recursion: Recursion,
        in_use: &InUse,
        deadline: Instant,
    ) -> Result<Removal, Error>;

    /// Takes a snapshot of a dataset; with [`Recursion::Below`] at once also of everything below it. Returns the new
    /// snapshots.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the dataset, [`Error::Exists`], [`Error::NoSpace`].
    fn create_snapshot(
        &self,
        name: &SnapshotName,
        recursion: Recursion,
        maker: &Maker,
        deadline: Instant,
    ) -> Result<Vec<StoredSnapshot>, Error>;

    /// Undoes [`Volumes::create_snapshot`] with this maker after `since`, also one that a crash interrupted. Missing
    /// snapshots are ignored.
    ///
    /// # Errors
    /// As the trait says. The result lists snapshots that could not be destroyed.
    fn take_back_snapshots(
        &self,
        name: &SnapshotName,
        recursion: Recursion,
        maker: &Maker,
        since: SystemTime,
        deadline: Instant,
    ) -> Result<Removal, Error>;

    /// Returns the snapshots of a dataset and the datasets below it, or of the whole pool; by dataset, oldest first.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the dataset.
    fn snapshots(
        &self,
        under: Option<&Dataset>,
        deadline: Instant,
    ) -> Result<Vec<StoredSnapshot>, Error>;

    /// Returns one snapshot.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn snapshot(&self, name: &SnapshotName, deadline: Instant) -> Result<StoredSnapshot, Error>;

    /// Destroys a snapshot of `guests` or a dataset below it; with [`Recursion::Below`] also the snapshots of that name
    /// below.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] outside `guests`, [`Error::HasClones`], [`Error::Busy`] for a held
    /// snapshot.
    fn delete_snapshot(
        &self,
        name: &SnapshotName,
        recursion: Recursion,
        deadline: Instant,
    ) -> Result<(), Error>;

    /// Rolls back one dataset below `guests/`. The caller ensures that no guest has it open; an open dataset is
    /// refused.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] outside `guests/`, [`Error::HasNewer`] with [`NewerSnapshots::Keep`],
    /// [`Error::HasClones`] for a newer snapshot, [`Error::Busy`].
    fn rollback(
        &self,
        name: &SnapshotName,
        newer: NewerSnapshots,
        deadline: Instant,
    ) -> Result<(), Error>;

    /// Returns the content of a snapshot as a stream: zfs's format for zfs, the raw bytes for a directory. A read fails
    /// if no data arrives within the progress limit, or if the sender fails; dropping the reader kills the sender.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn send(&self, name: &SnapshotName, deadline: Instant) -> Result<Box<dyn Read + Send>, Error>;

    /// Returns the complete images, by id.
    ///
    /// # Errors
    /// As the trait says.
    fn images(&self, deadline: Instant) -> Result<Vec<StoredImage>, Error>;

    /// Returns one complete image.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn image(&self, id: &Id, deadline: Instant) -> Result<StoredImage, Error>;

    /// Imports an image. It appears when it is complete; a failure leaves nothing. Calls `progress` with the bytes done
    /// so far. The import as a whole has no deadline: a stalled stream is aborted, a copy takes as long as the disks
    /// do.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NoSpace`], [`Error::Invalid`] for a source that this store does not support.
    fn import_image(
        &self,
        id: &Id,
        source: ImageSource<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<StoredImage, Error>;

    /// Destroys an image with its snapshots.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::HasClones`] (zfs only: files are copies), [`Error::Busy`],
    /// [`Error::Left`].
    fn delete_image(&self, id: &Id, deadline: Instant) -> Result<(), Error>;

    /// Plans and makes one volume: a blank volume, or a clone of an image.
    ///
    /// # Errors
    /// As [`Volumes::plan`] and [`Volumes::make`].
    fn provision(&self, wanted: &VolumeSpec, deadline: Instant) -> Result<StoredVolume, Error> {
        let planned = self.plan(std::slice::from_ref(wanted), deadline)?;
        let first = planned.first().ok_or_else(|| Error::Invalid("nothing planned".into()))?;
        self.make(first, deadline)
    }
}
