//! The guests' disks: one trait, two stores.
//!
//! - `ZfsStore`: the real one, by the `zfs` command.
//! - `DirectoryStore`: sparse raw files in the same layout, for hosts without ZFS.
//!
//! The layout is `<pool>/images/<id>`, `<pool>/guests/<id>/disk-<n>` and `seed` there, snapshots `@name`. What the
//! agent makes for a guest carries the guest's id as its owner's mark. The module knows no libvirt
//! and no requests: names, sizes, devices.
//!
//! Every call has a deadline; what must be undone or killed after it gets a short grace of its own.

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

/// Opens the store that the host is configured for. Neither it nor its commands have to exist yet.
///
/// # Errors
/// When the pool's name is invalid. [`Error::Untrusted`] when others than the `trusted` users can change a
/// directory on the way to the directory store, or the store itself.
///
/// # Blocking
/// As long as the file systems on the way to a directory store take.
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
                // Of a file system that fails each call says so.
                Err(error) => warn!("directory store is unavailable: {error}"),
                Ok(()) => {}
            }
            Arc::new(store)
        }
    })
}

/// A size of the wire in bytes.
fn bytes_of(size_mib: u64) -> Result<u64, Error> {
    // What a signed 64-bit offset cannot reach, no store has.
    let bytes = size_mib.checked_mul(MIB).filter(|bytes| i64::try_from(*bytes).is_ok());
    bytes.ok_or_else(|| Error::Invalid(format!("size {size_mib} MiB is too large")))
}

/// The least multiple of `unit` that holds `bytes`; `bytes` itself where there is no unit.
fn round_up(bytes: u64, unit: u64) -> u64 {
    bytes.checked_next_multiple_of(unit).unwrap_or(bytes)
}

/// A store of volumes, images and snapshots.
///
/// # Errors
/// Every method fails with [`Error::NoStore`], [`Error::NotInstalled`], [`Error::PoolMissing`], [`Error::Hung`],
/// [`Error::Late`], [`Error::Failed`], [`Error::Garbled`] or [`Error::Io`] when the store cannot be
/// asked; what else it fails with stands at each.
///
/// # Blocking
/// Every method but [`Volumes::pool`] and [`Volumes::making`] blocks up to its deadline and, where
/// that passed in the middle of a change, the grace of [`StorageLimits`].
pub trait Volumes: Send + Sync {
    /// The pool whose names the store takes. From memory.
    fn pool(&self) -> &PoolName;

    /// Whether the store can be used, and how full it is: for health and free space.
    ///
    /// # Errors
    /// What is missing, [`Error::NotInstalled`] and [`Error::PoolMissing`] among them.
    fn usage(&self, deadline: Instant) -> Result<Usage, Error>;

    /// Makes `<pool>/images` and `<pool>/guests` where they are absent. Making volumes and images
    /// does that by itself; this is for the start of the agent.
    ///
    /// # Errors
    /// As the trait says.
    fn prepare(&self, deadline: Instant) -> Result<(), Error>;

    /// The directory for a file that becomes an image, and so may be as large; none if the system's directory for
    /// temporary files serves.
    ///
    /// # Errors
    /// As the trait says.
    fn drafts(&self) -> Result<Option<PathBuf>, Error>;

    /// Checks all volumes of one guest together, and changes nothing: names, images, sizes,
    /// existing volumes, free space with reservations counted. The answers are in the order of
    /// `wanted`; for zfs it is one listing. The error of one of them is [`Error::Invalid`] for a size
    /// that cannot be, [`Error::NotFound`] for an unknown image, [`Error::Differs`] for a volume that
    /// is another.
    ///
    /// # Errors
    /// As the trait says.
    fn plans(&self, wanted: &[VolumeSpec], deadline: Instant) -> Result<VolumePlans, Error>;

    /// The same where all of them have to be.
    ///
    /// # Errors
    /// That of the first one, [`Error::NoSpace`].
    fn plan(&self, wanted: &[VolumeSpec], deadline: Instant) -> Result<Vec<PlannedVolume>, Error> {
        self.plans(wanted, deadline)?.all()
    }

    /// What [`Volumes::make`] would do; nothing for a volume that was found. From memory.
    fn making(&self, planned: &PlannedVolume) -> Vec<Action>;

    /// Makes one planned volume, or adopts it where the plan found it, and waits for its device.
    /// A failure leaves no volume.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::NoDevice`], [`Error::Exists`] when somebody made it meanwhile,
    /// [`Error::NotUndone`] when something is left after all.
    fn make(&self, planned: &PlannedVolume, deadline: Instant) -> Result<StoredVolume, Error>;

    /// Completes or changes the mark of a volume: what it was made by.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn set_maker(&self, volume: &Dataset, maker: &Maker, deadline: Instant) -> Result<(), Error>;

    /// Takes back what [`Volumes::make`] made, or began to make before a crash: volumes that carry
    /// their owner's mark, with their snapshots, and the dataset above where it was made with them.
    /// What is gone already is left alone.
    ///
    /// # Errors
    /// As the trait says, [`Error::Hung`] also for one command that hangs: it may still make a
    /// volume that must be removed. What could not be destroyed is in the answer.
    fn take_back(
        &self,
        made: &[CreatedVolume],
        in_use: &InUse,
        deadline: Instant,
    ) -> Result<Removal, Error>;

    /// Destroys a guest's volumes with their snapshots, and `guests/<id>` itself when nothing else
    /// is below. A volume that is in use, has a clone elsewhere, a held snapshot or an open device is left
    /// and reported; the rest is done. A guest without volumes is an empty answer.
    ///
    /// # Errors
    /// As the trait says. What could not be destroyed is in the answer.
    fn destroy_guest(
        &self,
        guest: &Id,
        whose: VolumeSelection,
        in_use: &InUse,
        deadline: Instant,
    ) -> Result<Removal, Error>;

    /// What [`Volumes::destroy_guest`] with [`VolumeSelection::Marked`] would do; changes nothing.
    ///
    /// # Errors
    /// As the trait says.
    fn destroying_guest(
        &self,
        guest: &Id,
        in_use: &InUse,
        deadline: Instant,
    ) -> Result<RemovalPlan, Error>;

    /// Grows a volume to at least `size_mib`; the same size is a success that changes nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for less than it has, [`Error::NoSpace`].
    fn grow(
        &self,
        volume: &Dataset,
        size_mib: u64,
        deadline: Instant,
    ) -> Result<StoredVolume, Error>;

    /// The volumes below a dataset, itself among them, or of the whole pool; by name.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the dataset.
    fn volumes(
        &self,
        under: Option<&Dataset>,
        deadline: Instant,
    ) -> Result<Vec<StoredVolume>, Error>;

    /// The volumes of all guests, each with the bytes of data in it: before compression, and with what it shares
    /// with its image. For zfs it is one listing.
    ///
    /// # Errors
    /// As the trait says.
    fn filled(&self, deadline: Instant) -> Result<Vec<(StoredVolume, u64)>, Error>;

    /// One volume.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for what is not a volume.
    fn volume(&self, name: &Dataset, deadline: Instant) -> Result<StoredVolume, Error>;

    /// The name of the volume that a path leads to, its links resolved; where nothing is yet, of the volume that
    /// would be there. `None` for a path outside the store. Asks the system alone, not `zfs`.
    fn name_of(&self, path: &Path) -> Option<Dataset>;

    /// Destroys a dataset below `guests/`, also one that the agent did not make; with [`Recursion::Below`] everything
    /// below the dataset and its snapshots. What is in use is left and reported.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] outside `guests/` or where something is below and
    /// only [`Recursion::Itself`] was asked for. What could not be destroyed is in the answer.
    fn delete(
        &self,
        name: &Dataset,
        recursion: Recursion,
        in_use: &InUse,
        deadline: Instant,
    ) -> Result<Removal, Error>;

    /// Takes a snapshot of a dataset, with [`Recursion::Below`] at once of everything below.
    /// Answers with those that were made.
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

    /// Takes back what [`Volumes::create_snapshot`] with this maker took since then, or began to take
    /// before a crash. What is gone already is left alone.
    ///
    /// # Errors
    /// As the trait says. What could not be destroyed is in the answer.
    fn take_back_snapshots(
        &self,
        name: &SnapshotName,
        recursion: Recursion,
        maker: &Maker,
        since: SystemTime,
        deadline: Instant,
    ) -> Result<Removal, Error>;

    /// The snapshots of a dataset and of what is below it, or of the whole pool; by dataset, oldest
    /// first.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the dataset.
    fn snapshots(
        &self,
        under: Option<&Dataset>,
        deadline: Instant,
    ) -> Result<Vec<StoredSnapshot>, Error>;

    /// One snapshot.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn snapshot(&self, name: &SnapshotName, deadline: Instant) -> Result<StoredSnapshot, Error>;

    /// Destroys a snapshot of `guests` or something below it, with [`Recursion::Below`] also those of
    /// that name below.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] outside `guests`, [`Error::HasClones`],
    /// [`Error::Busy`] for a held one.
    fn delete_snapshot(
        &self,
        name: &SnapshotName,
        recursion: Recursion,
        deadline: Instant,
    ) -> Result<(), Error>;

    /// Rolls one dataset below `guests/` back. The caller sees to it that no guest has it open;
    /// what is open all the same is refused.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] outside `guests/`, [`Error::HasNewer`] with
    /// [`NewerSnapshots::Keep`], [`Error::HasClones`] of a newer one, [`Error::Busy`].
    fn rollback(
        &self,
        name: &SnapshotName,
        newer: NewerSnapshots,
        deadline: Instant,
    ) -> Result<(), Error>;

    /// The content of a snapshot as a stream: zfs's own for zfs, the raw bytes for a directory. A
    /// read fails when nothing came for the progress limit, or when the sender failed; dropping
    /// the reader ends the sender.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn send(&self, name: &SnapshotName, deadline: Instant) -> Result<Box<dyn Read + Send>, Error>;

    /// The complete images, by id.
    ///
    /// # Errors
    /// As the trait says.
    fn images(&self, deadline: Instant) -> Result<Vec<StoredImage>, Error>;

    /// One complete image.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn image(&self, id: &Id, deadline: Instant) -> Result<StoredImage, Error>;

    /// Brings an image in. It appears when it is complete; a failure leaves nothing. `progress` is
    /// called with the bytes done so far. There is no deadline for the whole: a stream that stops is
    /// given up, a copy takes as long as the disks do.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NoSpace`], [`Error::Invalid`] for a source that this store cannot
    /// take.
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

    /// Plans and makes one volume: a blank one, or a clone of an image.
    ///
    /// # Errors
    /// As [`Volumes::plan`] and [`Volumes::make`].
    fn provision(&self, wanted: &VolumeSpec, deadline: Instant) -> Result<StoredVolume, Error> {
        let planned = self.plan(std::slice::from_ref(wanted), deadline)?;
        let first = planned.first().ok_or_else(|| Error::Invalid("nothing planned".into()))?;
        self.make(first, deadline)
    }
}
