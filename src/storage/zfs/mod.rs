//! The store on ZFS, through the `zfs` command.
//!
//! Existence is decided from listings, never from an error text alone: a second listing follows a failed command. The
//! agent lists every dataset before it destroys it.

mod command;
mod delegation;
mod device;
mod former;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod images;
mod listing;
mod make;
mod plan;
mod remove;
mod snapshots;
mod stream;
mod survey;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

pub use self::delegation::{Grantee, PERMISSIONS};

use self::command::{Output, Zfs};
use self::former::FormerCommands;
use self::listing::{COLUMNS, Entry, Kind};
use crate::config::StorageLimits;
use crate::os::disk;
use crate::os::paths::resolved;
use crate::sorted::OrderBy;
use crate::storage::{
    Action, CreatedVolume, Dataset, Error, Id, ImageSource, InUse, Maker, NewerSnapshots,
    PlannedVolume, PoolName, Recursion, Removal, RemovalPlan, SnapshotName, StoredImage,
    StoredSnapshot, StoredVolume, Usage, VolumePlans, VolumeSelection, VolumeSpec, Volumes,
};

/// The volumes of one ZFS pool.
#[derive(Debug)]
pub struct ZfsStore {
    pool: PoolName,
    zfs: Zfs,
    /// The file with the locks of image ids.
    locks: PathBuf,
}

/// The depth of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// The named datasets.
    Zero,
    /// Also their children and snapshots.
    One,
    /// Also their children and grandchildren, and the snapshots of the named datasets and children.
    Two,
    /// Everything below.
    All,
}

impl ZfsStore {
    /// Returns the store of this pool. Neither the pool nor the `zfs` command must exist yet.
    pub fn new(pool: PoolName, limits: StorageLimits) -> Self {
        Self::of(pool, Zfs::new(None, limits, FormerCommands::none()))
    }

    /// Returns the store of an agent: its commands, and those of a killed agent before it, hold a lock on this file.
    ///
    /// # Errors
    /// If the file system has no locks.
    pub(super) fn of_agent(
        pool: PoolName,
        limits: StorageLimits,
        commands: File,
    ) -> io::Result<Self> {
        Ok(Self::of(pool, Zfs::new(None, limits, FormerCommands::new(commands)?)))
    }

    /// Returns a store without a pool: every method fails with [`Error::NoStore`]. Names use `pool`.
    pub(super) fn none(pool: PoolName, limits: StorageLimits) -> Self {
        Self::of(pool, Zfs::none(limits))
    }

    /// Returns the store of this pool with an explicit `zfs` program.
    pub fn with_program(pool: PoolName, limits: StorageLimits, program: PathBuf) -> Self {
        Self::of(pool, Zfs::new(Some(program), limits, FormerCommands::none()))
    }

    fn of(pool: PoolName, zfs: Zfs) -> Self {
        Self { pool, zfs, locks: PathBuf::from(images::LOCKS) }
    }

    /// Sets another file than the device of ZFS for the locks of image ids.
    pub fn with_locks(self, locks: PathBuf) -> Self {
        Self { locks, ..self }
    }

    /// Lists `names` and the datasets below them up to a depth; omits missing names.
    fn look<N: AsRef<str>>(
        &self,
        depth: Depth,
        types: &str,
        names: &[N],
        deadline: Instant,
    ) -> Result<Vec<Entry>, Error> {
        let mut words = vec!["list", "-Hp", "-t", types, "-o", COLUMNS];
        words.extend(match depth {
            Depth::Zero => &["-d", "0"][..],
            Depth::One => &["-d", "1"],
            Depth::Two => &["-d", "2"],
            Depth::All => &["-r"],
        });
        words.push("--");
        words.extend(names.iter().map(AsRef::as_ref));
        let output = self.zfs.run(&words, deadline)?;
        if !output.status.success() {
            let absent = |line: &str| line.ends_with("dataset does not exist");
            if output.status.code() != Some(1) || !output.stderr.lines().all(absent) {
                return Err(output.failed());
            }
            if output.stdout.is_empty() {
                self.pool_there(deadline)?;
            }
        }
        let garbled = |line| Error::Garbled { command: output.command.clone(), line };
        let mut entries = listing::parse(&output.stdout).map_err(garbled)?;
        // An entry below two of the names is printed twice.
        entries.order_by(&|a, b| a.name.cmp(&b.name));
        entries.dedup_by(|a, b| a.name == b.name);
        Ok(entries)
    }

    /// Returns the entry of one name, if it exists.
    fn look_at(&self, name: &str, deadline: Instant) -> Result<Option<Entry>, Error> {
        Ok(self.look(Depth::Zero, ALL, &[name], deadline)?.into_iter().next())
    }

    /// Distinguishes a missing dataset from a missing pool.
    fn pool_there(&self, deadline: Instant) -> Result<(), Error> {
        let pool = self.pool.as_str();
        let output = self.zfs.run(&["list", "-Hp", "-o", "name", "--", pool], deadline)?;
        match output.status.code() {
            Some(0) => Ok(()),
            Some(1) if output.stderr.trim_end().ends_with("dataset does not exist") => {
                Err(Error::PoolMissing { pool: pool.to_owned() })
            }
            _ => Err(output.failed()),
        }
    }

    fn volume_of(&self, entry: &Entry) -> Option<StoredVolume> {
        let name = self.pool.full_dataset(&entry.name).ok()?;
        Some(StoredVolume {
            device: device::path(&name),
            name,
            size_bytes: entry.volsize,
            origin: entry.origin.clone(),
            owner: entry.owner.clone(),
            maker: entry.maker.as_deref().map(Maker::stored),
            is_written: entry.fresh.as_deref() != Some(entry.counts().as_str()),
        })
    }

    /// Returns the name to list for the whole pool or a part.
    fn scope<'n>(&'n self, under: Option<&'n Dataset>) -> &'n str {
        under.map_or(self.pool.as_str(), Dataset::as_str)
    }

    /// Returns a deadline for undoing, which allows time even if the call's own deadline has passed.
    fn undo_deadline(&self, deadline: Instant) -> Instant {
        deadline.max(Instant::now() + self.zfs.limits.undo)
    }

    fn device_limit(&self, deadline: Instant) -> Duration {
        deadline.saturating_duration_since(Instant::now()).min(self.zfs.limits.device)
    }
}

/// Every type with a name of its own.
const ALL: &str = "filesystem,volume,snapshot";
const DATASETS: &str = "filesystem,volume";
const SNAPSHOTS: &str = "snapshot";

fn not_found(name: impl ToString) -> Error {
    Error::NotFound { name: name.to_string() }
}

/// Returns whether a refused command reports a lack of space.
fn says_no_space(output: &Output) -> bool {
    let texts = ["out of space", "size is greater than available space", "no space left"];
    output.status.code() == Some(1) && texts.iter().any(|text| output.stderr.contains(text))
}

impl Volumes for ZfsStore {
    fn pool(&self) -> &PoolName {
        &self.pool
    }

    fn usage(&self, deadline: Instant) -> Result<Usage, Error> {
        let (pool, guests) = (self.pool.as_str(), self.pool.guests());
        let entries = self.look(Depth::Zero, ALL, &[pool, guests.as_str()], deadline)?;
        let find = |name: &str| entries.iter().find(|entry| entry.name == name);
        let root = find(pool).ok_or_else(|| not_found(pool))?;
        // The free space below guests/, which may have a quota.
        let free = find(guests.as_str()).unwrap_or(root);
        Ok(Usage { free_bytes: free.available, used_bytes: root.used })
    }

    fn drafts(&self) -> Result<Option<PathBuf>, Error> {
        Ok(None)
    }

    fn prepare(&self, deadline: Instant) -> Result<(), Error> {
        let wanted = [self.pool.images(), self.pool.guests()];
        let names = [self.pool.as_str(), wanted[0].as_str(), wanted[1].as_str()];
        let entries = self.look(Depth::Zero, DATASETS, &names, deadline)?;
        for dataset in &wanted {
            if !entries.iter().any(|entry| entry.name == dataset.as_str()) {
                self.make_file_system(dataset, deadline)?;
            }
        }
        self.sweep_images(deadline)
    }

    fn plans(&self, wanted: &[VolumeSpec], deadline: Instant) -> Result<VolumePlans, Error> {
        self.plan_volumes(wanted, deadline)
    }

    fn making(&self, planned: &PlannedVolume) -> Vec<Action> {
        Self::making_volume(planned)
    }

    fn make(&self, planned: &PlannedVolume, deadline: Instant) -> Result<StoredVolume, Error> {
        self.make_volume(planned, deadline)
    }

    fn set_maker(&self, volume: &Dataset, maker: &Maker, deadline: Instant) -> Result<(), Error> {
        self.set_maker_of(volume, maker, deadline)
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
        deadline: Instant,
    ) -> Result<RemovalPlan, Error> {
        self.removing_guest(guest, in_use, deadline)
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
        deadline: Instant,
    ) -> Result<Vec<StoredVolume>, Error> {
        let entries = self.look(Depth::All, DATASETS, &[self.scope(under)], deadline)?;
        if entries.is_empty() {
            return Err(not_found(self.scope(under)));
        }
        let volumes = entries.iter().filter(|entry| entry.kind == Kind::Volume);
        // The agent cannot have made volumes with other names: they belong to others, and are skipped.
        Ok(volumes.filter_map(|entry| self.volume_of(entry)).collect())
    }

    fn filled(&self, deadline: Instant) -> Result<Vec<(StoredVolume, u64)>, Error> {
        let entries = self.look(Depth::All, DATASETS, &[self.pool.guests().as_str()], deadline)?;
        let volumes = entries.iter().filter(|entry| entry.kind == Kind::Volume);
        Ok(volumes.filter_map(|entry| Some((self.volume_of(entry)?, entry.logical))).collect())
    }

    fn volume(&self, name: &Dataset, deadline: Instant) -> Result<StoredVolume, Error> {
        let entry = self.look_at(name.as_str(), deadline)?;
        let entry = entry.filter(|entry| entry.kind == Kind::Volume);
        entry.and_then(|entry| self.volume_of(&entry)).ok_or_else(|| not_found(name))
    }

    fn name_of(&self, path: &Path) -> Option<Dataset> {
        if self.zfs.is_none() {
            return None;
        }
        let Ok(device) = fs::canonicalize(path) else {
            return self.pool.full_dataset(device::name_at(&resolved(path))?).ok();
        };
        // No other file that a caller names is opened.
        fs::metadata(&device).ok().filter(|found| found.file_type().is_block_device())?;
        self.pool.full_dataset(&disk::zvol_name_at(&device).ok()??).ok()
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
        self.make_snapshot(name, recursion, maker, deadline)
    }

    fn take_back_snapshots(
        &self,
        name: &SnapshotName,
        recursion: Recursion,
        maker: &Maker,
        _since: SystemTime,
        deadline: Instant,
    ) -> Result<Removal, Error> {
        self.undo_snapshots(name, recursion, maker, deadline)
    }

    fn snapshots(
        &self,
        under: Option<&Dataset>,
        deadline: Instant,
    ) -> Result<Vec<StoredSnapshot>, Error> {
        self.list_snapshots(under, deadline)
    }

    fn snapshot(&self, name: &SnapshotName, deadline: Instant) -> Result<StoredSnapshot, Error> {
        let entry = self.look_at(name.as_str(), deadline)?.ok_or_else(|| not_found(name))?;
        Ok(StoredSnapshot { name: name.clone(), written_bytes: entry.written })
    }

    fn delete_snapshot(
        &self,
        name: &SnapshotName,
        recursion: Recursion,
        deadline: Instant,
    ) -> Result<(), Error> {
        self.remove_snapshot(name, recursion, deadline)
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
        self.send_snapshot(name, deadline)
    }

    fn images(&self, deadline: Instant) -> Result<Vec<StoredImage>, Error> {
        self.list_images(deadline)
    }

    fn image(&self, id: &Id, deadline: Instant) -> Result<StoredImage, Error> {
        self.find_image(id, deadline)
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
