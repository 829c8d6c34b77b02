//! The directory store, for hosts and tests without ZFS: sparse raw files in ZFS's layout.
//!
//! ```text
//! PATH/guests/web-1/disk-0         a volume; directories are the file systems
//! PATH/guests/web-1/disk-0@monday  a snapshot of it; of a directory: an empty file
//! PATH/guests/web-1/disk-0#        what ZFS keeps as properties: owner, origin, space
//! PATH/guests/web-1/%<process>-<n> a draft, which is not complete yet
//! PATH/images/debian%              the lock of an image's id, during an import or a deletion
//! ```
//!
//! `@`, `#` and `%` are in no dataset name, so names cannot collide. Files get their names when they are complete.
//! Clones and snapshots share their blocks if the file system supports it (reflink), and are sparse copies otherwise;
//! either way they do not depend on other files.
//!
//! Only root and the agent's user may change a directory in the path of a file, so that no path can refer to another
//! file between a check and a use. Links below the store's root are not followed: the store refuses or ignores a
//! dataset or a snapshot that is a link.
//!
//! Only this store honours a reservation: when it creates or grows a volume, it counts the space that reserved volumes
//! can still allocate as used. Other users of the file system can still take that space.

mod files;
mod images;
mod snapshots;
mod volumes;

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use log::warn;
use parking_lot::Mutex;

use self::files::{BLOCK_BYTES, is_directory, open_file};
use crate::config::StorageLimits;
use crate::os::disk;
use crate::os::paths::resolved;
use crate::os::resolve::{ResolveError, TrustedUsers, check_below, resolve};
use crate::storage::{
    Action, CreatedVolume, Dataset, Error, Id, ImageSource, InUse, Maker, NewerSnapshots,
    PlannedVolume, PoolName, Recursion, Removal, RemovalPlan, SnapshotName, StoredImage,
    StoredSnapshot, StoredVolume, Usage, VolumePlans, VolumeSelection, VolumeSpec, Volumes,
};

/// The volumes in a directory.
#[derive(Debug)]
pub struct DirectoryStore {
    pool: PoolName,
    root: PathBuf,
    limits: StorageLimits,
    /// The users that may change the store's directories.
    trusted: TrustedUsers,
    /// Held while the store counts and uses space, so that no two volumes get the same space.
    making: Mutex<()>,
}

impl DirectoryStore {
    /// Returns the store in `root`, which need not exist yet. Names include the pool's name, as with ZFS.
    pub fn new(pool: PoolName, root: PathBuf, limits: StorageLimits) -> Self {
        Self { pool, root, limits, trusted: TrustedUsers::own(), making: Mutex::new(()) }
    }

    /// Sets the trusted users, for a command of an operator, who may be another user than the agent's.
    pub(super) fn trusting(self, trusted: TrustedUsers) -> Self {
        Self { trusted, ..self }
    }

    /// Checks that only root and the agent's user can redirect the root or the directories in it.
    ///
    /// # Errors
    /// [`Error::Untrusted`].
    pub(super) fn check_root(&self) -> Result<(), Error> {
        resolve(&self.root, self.trusted).map_err(|why| refuse(&self.root, why))?;
        for name in [self.pool.images(), self.pool.guests()] {
            self.directory_path(&name)?;
        }
        Ok(())
    }

    /// Returns the path of a dataset's file or directory, with no link among its parents. The last component may be a
    /// link: callers use `symlink_metadata`, or open without following links.
    ///
    /// # Errors
    /// [`Error::Untrusted`].
    fn path(&self, name: &Dataset) -> Result<PathBuf, Error> {
        self.beside(name, "")
    }

    fn snapshot_path(&self, name: &SnapshotName) -> Result<PathBuf, Error> {
        self.beside(name.dataset(), &format!("@{}", name.name()))
    }

    /// Returns the path of the dataset's name with this suffix, checked as in [`DirectoryStore::path`].
    fn beside(&self, name: &Dataset, end: &str) -> Result<PathBuf, Error> {
        let relative = format!("{}{end}", name.relative());
        let path = self.root.join(&relative);
        match check_below(&self.root, Path::new(&relative), self.trusted) {
            Ok(()) => Ok(path),
            Err(why) => Err(refuse(&path, why)),
        }
    }

    /// Returns the path of a dataset's directory, for access to names in it: no component is a link.
    ///
    /// # Errors
    /// [`Error::Untrusted`].
    fn directory_path(&self, name: &Dataset) -> Result<PathBuf, Error> {
        let path = self.root.join(name.relative());
        match check_below(&self.root, &Path::new(name.relative()).join("entry"), self.trusted) {
            Ok(()) => Ok(path),
            Err(why) => Err(refuse(&path, why)),
        }
    }

    /// Returns until when to wait for other users of a file: for at most half of the remaining time, so that time
    /// remains to report them.
    fn patience(&self, deadline: Instant) -> Instant {
        let now = Instant::now();
        now + self.limits.busy.min(deadline.saturating_duration_since(now) / 2)
    }

    fn free_bytes(&self) -> Result<u64, Error> {
        let what = format!("read the free space of {}", self.root.display());
        // A missing directory will be created in its nearest existing parent.
        let existing =
            self.root.ancestors().find(|directory| directory.exists()).unwrap_or(Path::new("/"));
        let room = disk::room(existing).map_err(|error| Error::io(what, error))?;
        Ok(room.free_bytes.saturating_sub(self.promised_bytes()?))
    }
}

impl Volumes for DirectoryStore {
    fn pool(&self) -> &PoolName {
        &self.pool
    }

    fn usage(&self, _deadline: Instant) -> Result<Usage, Error> {
        let what = format!("read the free space of {}", self.root.display());
        let room = disk::room(&self.root).map_err(|error| Error::io(what, error))?;
        Ok(Usage { free_bytes: self.free_bytes()?, used_bytes: room.used_bytes })
    }

    fn drafts(&self) -> Result<Option<PathBuf>, Error> {
        let images = self.directory_path(&self.pool.images())?;
        self.make_directory(&images)?;
        Ok(Some(images))
    }

    fn prepare(&self, deadline: Instant) -> Result<(), Error> {
        self.make_directory(&self.directory_path(&self.pool.images())?)?;
        self.make_directory(&self.directory_path(&self.pool.guests())?)?;
        self.sweep_images()?;
        // One untrusted directory below must not make the whole store unavailable.
        if let Err(error) = self.sweep_guests(deadline) {
            warn!("cannot remove snapshots without their volume: {error}");
        }
        Ok(())
    }

    fn plans(&self, wanted: &[VolumeSpec], _deadline: Instant) -> Result<VolumePlans, Error> {
        self.plan_volumes(wanted)
    }

    fn making(&self, planned: &PlannedVolume) -> Vec<Action> {
        self.making_volume(planned)
    }

    fn make(&self, planned: &PlannedVolume, deadline: Instant) -> Result<StoredVolume, Error> {
        self.make_volume(planned, deadline)
    }

    fn set_maker(&self, volume: &Dataset, maker: &Maker, _deadline: Instant) -> Result<(), Error> {
        self.set_maker_of(volume, maker)
    }

    fn take_back(
        &self,
        made: &[CreatedVolume],
        in_use: &InUse,
        deadline: Instant,
    ) -> Result<Removal, Error> {
        self.take_volumes_back(made, in_use, deadline)
    }

    fn destroy_guest(
        &self,
        guest: &Id,
        whose: VolumeSelection,
        in_use: &InUse,
        deadline: Instant,
    ) -> Result<Removal, Error> {
        self.remove_guest(guest, whose, in_use, deadline)
    }

    fn destroying_guest(
        &self,
        guest: &Id,
        in_use: &InUse,
        _deadline: Instant,
    ) -> Result<RemovalPlan, Error> {
        self.removing_guest(guest, in_use)
    }

    fn grow(
        &self,
        volume: &Dataset,
        size_mib: u64,
        deadline: Instant,
    ) -> Result<StoredVolume, Error> {
        self.grow_volume(volume, size_mib, deadline)
    }

    fn volumes(
        &self,
        under: Option<&Dataset>,
        _deadline: Instant,
    ) -> Result<Vec<StoredVolume>, Error> {
        let names = self.datasets(under)?;
        let volumes = names.iter().filter_map(|name| self.volume_at(name).transpose());
        volumes.collect()
    }

    fn filled(&self, deadline: Instant) -> Result<Vec<(StoredVolume, u64)>, Error> {
        let volumes = self.volumes(Some(&self.pool.guests()), deadline)?.into_iter();
        let filled = volumes.filter_map(|volume| {
            // The file was removed meanwhile.
            let found = fs::symlink_metadata(&volume.device).ok()?;
            Some((volume, found.blocks().saturating_mul(BLOCK_BYTES)))
        });
        Ok(filled.collect())
    }

    fn volume(&self, name: &Dataset, _deadline: Instant) -> Result<StoredVolume, Error> {
        self.volume_at(name)?.ok_or_else(|| not_found(name))
    }

    fn name_of(&self, path: &Path) -> Option<Dataset> {
        let root = fs::canonicalize(&self.root).ok()?;
        self.pool.dataset(resolved(path).strip_prefix(root).ok()?.to_str()?).ok()
    }

    fn delete(
        &self,
        name: &Dataset,
        recursion: Recursion,
        in_use: &InUse,
        deadline: Instant,
    ) -> Result<Removal, Error> {
        self.delete_dataset(name, recursion, in_use, deadline)
    }

    fn create_snapshot(
        &self,
        name: &SnapshotName,
        recursion: Recursion,
        maker: &Maker,
        deadline: Instant,
    ) -> Result<Vec<StoredSnapshot>, Error> {
        self.make_snapshots(name, recursion, maker, deadline)
    }

    fn take_back_snapshots(
        &self,
        name: &SnapshotName,
        recursion: Recursion,
        maker: &Maker,
        since: SystemTime,
        _deadline: Instant,
    ) -> Result<Removal, Error> {
        self.undo_snapshots(name, recursion, maker, since)
    }

    fn snapshots(
        &self,
        under: Option<&Dataset>,
        _deadline: Instant,
    ) -> Result<Vec<StoredSnapshot>, Error> {
        let mut found = Vec::new();
        for name in self.datasets(under)? {
            found.extend(self.snapshots_of(&name)?.into_iter().map(|seen| seen.snapshot));
        }
        Ok(found)
    }

    fn snapshot(&self, name: &SnapshotName, _deadline: Instant) -> Result<StoredSnapshot, Error> {
        self.snapshot_at(name)
    }

    fn delete_snapshot(
        &self,
        name: &SnapshotName,
        recursion: Recursion,
        _deadline: Instant,
    ) -> Result<(), Error> {
        self.remove_snapshots(name, recursion)
    }

    fn rollback(
        &self,
        name: &SnapshotName,
        newer: NewerSnapshots,
        deadline: Instant,
    ) -> Result<(), Error> {
        self.roll_back(name, newer, deadline)
    }

    fn send(&self, name: &SnapshotName, deadline: Instant) -> Result<Box<dyn Read + Send>, Error> {
        self.snapshot(name, deadline)?;
        if is_directory(&self.path(name.dataset())?)? {
            return Err(Error::Invalid(format!("{name} is not the snapshot of a volume")));
        }
        Ok(Box::new(open_file(&self.snapshot_path(name)?)?))
    }

    fn images(&self, _deadline: Instant) -> Result<Vec<StoredImage>, Error> {
        self.list_images()
    }

    fn image(&self, id: &Id, _deadline: Instant) -> Result<StoredImage, Error> {
        self.find_image(id)
    }

    fn import_image(
        &self,
        id: &Id,
        source: ImageSource<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<StoredImage, Error> {
        self.bring_in(id, source, progress)
    }

    fn delete_image(&self, id: &Id, deadline: Instant) -> Result<(), Error> {
        self.remove_image(id, deadline)
    }
}

/// Returns the error for a path that cannot be resolved.
fn refuse(path: &Path, why: ResolveError) -> Error {
    match why {
        ResolveError::Io(at, error) => Error::io(format!("stat {}", at.display()), error),
        why => Error::Untrusted { path: path.to_owned(), why },
    }
}

fn refuse_link(path: &Path) -> Error {
    refuse(path, ResolveError::Link(path.to_owned()))
}

fn not_found(name: impl ToString) -> Error {
    Error::NotFound { name: name.to_string() }
}
