//! Snapshots as copies: the content of a volume, or an empty file for a directory.

use std::ffi::CStr;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant, SystemTime};

use super::files::{
    BLOCK_BYTES, Draft, at, is_directory, look_at, names_in, open_file, remove_if_there,
};
use super::{DirectoryStore, not_found, refuse_link};
use crate::os::disk;
use crate::sorted::OrderBy;
use crate::storage::holders::wait_closed;
use crate::storage::rules::in_guests;
use crate::storage::{
    Dataset, Error, Maker, NewerSnapshots, Recursion, Removal, SnapshotName, StoredSnapshot,
};

/// The extended attribute with the maker of a snapshot, if the file system supports attributes.
const MAKER: &CStr = c"user.mistify.maker";
/// More than the delay of the kernel's clock for files: at most 10 ms, at 100 Hz, the lowest rate.
const TICK: Duration = Duration::from_millis(100);

/// An existing snapshot.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) snapshot: StoredSnapshot,
    /// The size of its volume.
    pub(super) size_bytes: u64,
    taken: SystemTime,
}

impl DirectoryStore {
    /// Returns the snapshots of one dataset, oldest first.
    pub(super) fn snapshots_of(&self, dataset: &Dataset) -> Result<Vec<Seen>, Error> {
        let path = self.path(dataset)?;
        let mut found = Vec::new();
        for name in names_in(path.parent().unwrap_or(&self.root))? {
            let Some((of, name)) = name.split_once('@') else { continue };
            let Some(name) = dataset.snapshot(name).ok().filter(|_| of == dataset.last()) else {
                continue;
            };
            let path = self.snapshot_path(&name)?;
            // Skips a snapshot that was removed meanwhile, and links.
            let Some(metadata) = look_at(&path)?.filter(Metadata::is_file) else { continue };
            let written_bytes = metadata.blocks().saturating_mul(BLOCK_BYTES);
            found.push(Seen {
                snapshot: StoredSnapshot { name, written_bytes },
                size_bytes: metadata.len(),
                taken: metadata.modified().map_err(at("stat", &path))?,
            });
        }
        found.order_by(&|a, b| (a.taken, &a.snapshot.name).cmp(&(b.taken, &b.snapshot.name)));
        Ok(found)
    }

    pub(super) fn make_snapshots(
        &self,
        name: &SnapshotName,
        recursion: Recursion,
        maker: &Maker,
        deadline: Instant,
    ) -> Result<Vec<StoredSnapshot>, Error> {
        let datasets = match recursion {
            Recursion::Itself => {
                let path = self.path(name.dataset())?;
                match look_at(&path)? {
                    None => return Err(not_found(name.dataset())),
                    Some(it) if it.is_symlink() => return Err(refuse_link(&path)),
                    Some(_) => vec![name.dataset().clone()],
                }
            }
            Recursion::Below => self.datasets(Some(name.dataset()))?,
        };
        let _making = self.lock(deadline)?;
        let mut drafts = Vec::new();
        for dataset in &datasets {
            let name = dataset.snapshot(name.name())?;
            if look_at(&self.snapshot_path(&name)?)?.is_some() {
                return Err(Error::Exists { name: name.to_string() });
            }
            let draft = self.draft_of(dataset, deadline)?;
            let marked = disk::set_attribute(&draft.file, MAKER, maker.as_str());
            marked.map_err(at("mark", &draft.path))?;
            drafts.push((draft, name));
        }
        let mut made = Vec::new();
        for (draft, name) in drafts {
            draft.replace(&self.snapshot_path(&name)?)?;
            made.push(name);
        }
        made.iter().map(|name| self.snapshot_at(name)).collect()
    }

    /// Removes the snapshots with this name and maker. If the file system has no attributes, removes those taken after
    /// `since`: before, no snapshot of this name existed.
    pub(super) fn undo_snapshots(
        &self,
        name: &SnapshotName,
        recursion: Recursion,
        maker: &Maker,
        since: SystemTime,
    ) -> Result<Removal, Error> {
        let datasets = match recursion {
            Recursion::Below if look_at(&self.path(name.dataset())?)?.is_some() => {
                self.datasets(Some(name.dataset()))?
            }
            _ => vec![name.dataset().clone()],
        };
        // A file's timestamps are those of the kernel's last tick.
        let since = since.checked_sub(TICK).unwrap_or(since);
        let mut removal = Removal::default();
        for dataset in datasets {
            let name = dataset.snapshot(name.name())?;
            let path = self.snapshot_path(&name)?;
            let mut found = self.snapshots_of(&dataset)?.into_iter();
            let Some(seen) = found.find(|seen| seen.snapshot.name == name) else { continue };
            let file = open_file(&path)?;
            let is_own = match disk::attribute(&file, MAKER) {
                Some(made_by) => made_by == maker.as_str(),
                None => seen.taken >= since,
            };
            if is_own {
                remove_if_there(&path)?;
                removal.note(name.as_str(), Ok(()));
            }
        }
        Ok(removal)
    }

    /// Copies the current content of a volume. During concurrent writes, only a reflink is consistent.
    fn draft_of(&self, dataset: &Dataset, deadline: Instant) -> Result<Draft, Error> {
        let path = self.path(dataset)?;
        let draft = self.draft(path.parent().unwrap_or(&self.root))?;
        if is_directory(&path)? {
            return Ok(draft);
        }
        if draft.share_with(&path)? {
            return Ok(draft);
        }
        wait_closed(&path, self.patience(deadline))
            .map_err(|holders| Error::Busy { name: dataset.to_string(), holders })?;
        draft.fill_from(&path, deadline)?;
        Ok(draft)
    }

    pub(super) fn snapshot_at(&self, name: &SnapshotName) -> Result<StoredSnapshot, Error> {
        let found = self.snapshots_of(name.dataset())?.into_iter().map(|seen| seen.snapshot);
        found.into_iter().find(|it| it.name == *name).ok_or_else(|| not_found(name))
    }

    pub(super) fn remove_snapshots(
        &self,
        name: &SnapshotName,
        recursion: Recursion,
    ) -> Result<(), Error> {
        in_guests(name.dataset(), &self.pool)?;
        let datasets = match recursion {
            Recursion::Itself => vec![name.dataset().clone()],
            Recursion::Below => self.datasets(Some(name.dataset()))?,
        };
        let mut removed = false;
        for dataset in datasets {
            let name = dataset.snapshot(name.name())?;
            let path = self.snapshot_path(&name)?;
            if look_at(&path)?.is_some_and(|it| it.is_file()) {
                removed |= remove_if_there(&path)?;
            }
        }
        if removed { Ok(()) } else { Err(not_found(name)) }
    }

    pub(super) fn roll_back(
        &self,
        name: &SnapshotName,
        newer: NewerSnapshots,
        deadline: Instant,
    ) -> Result<(), Error> {
        in_guests(name.dataset(), &self.pool)?;
        let mut found = self.snapshots_of(name.dataset())?;
        let at = found.iter().position(|seen| seen.snapshot.name == *name);
        let newer_found = found.split_off(at.ok_or_else(|| not_found(name))? + 1);
        if newer == NewerSnapshots::Keep && !newer_found.is_empty() {
            return Err(Error::HasNewer { name: name.to_string() });
        }
        let path = self.path(name.dataset())?;
        if look_at(&path)?.is_some_and(|it| it.is_file()) {
            wait_closed(&path, self.patience(deadline))
                .map_err(|holders| Error::Busy { name: name.dataset().to_string(), holders })?;
            let _making = self.lock(deadline)?;
            let draft = self.draft(path.parent().unwrap_or(&self.root))?;
            draft.fill_from(&self.snapshot_path(name)?, deadline)?;
            draft.replace(&path)?;
        }
        for seen in newer_found {
            remove_if_there(&self.snapshot_path(&seen.snapshot.name)?)?;
        }
        Ok(())
    }
}
