//! Plans volumes from one listing.

use std::collections::BTreeSet;
use std::iter;
use std::time::Instant;

use super::listing::{Entry, Kind};
use super::{ALL, Depth, ZfsStore, device, not_found};
use crate::sorted::IntoSorted;
use crate::storage::rules::{adopt, size_bytes};
use crate::storage::{CloneOrigin, Dataset, Error, Id, PlannedVolume, VolumePlans, VolumeSpec};

impl ZfsStore {
    pub(super) fn plan_volumes(
        &self,
        wanted: &[VolumeSpec],
        deadline: Instant,
    ) -> Result<VolumePlans, Error> {
        let names: Vec<String> = self.names_for(wanted)?.into_iter().collect();
        let seen = self.look(Depth::One, ALL, &names, deadline)?;
        let each = wanted.iter().map(|wanted| self.plan_one(wanted, &seen, deadline)).collect();
        // The volumes of one call belong to one guest, so they share the free space above the first one.
        let mut above = wanted.first().into_iter().flat_map(|first| above(&first.volume));
        let bound = above.find_map(|it| find(&seen, it.as_str()));
        let bound = bound.or_else(|| find(&seen, self.pool.as_str()));
        Ok(VolumePlans { each, free_bytes: bound.map_or(0, |bound| bound.available) })
    }

    /// Returns the names to list, one level deep, for the plans. Excludes `guests` itself, which may have many
    /// children; it is a child of the pool.
    fn names_for(&self, wanted: &[VolumeSpec]) -> Result<BTreeSet<String>, Error> {
        let mut names = iter::once(self.pool.as_str().to_owned()).into_set();
        for VolumeSpec { volume, image, .. } in wanted {
            let above: Vec<Dataset> = above(volume).filter(|it| it.parent().is_some()).collect();
            if above.is_empty() {
                names.insert(volume.as_str().to_owned());
            }
            names.extend(above.iter().map(|it| it.as_str().to_owned()));
            if let Some(id) = image {
                names.insert(self.pool.image(id)?.as_str().to_owned());
            }
        }
        Ok(names)
    }

    fn plan_one(
        &self,
        wanted: &VolumeSpec,
        seen: &[Entry],
        deadline: Instant,
    ) -> Result<PlannedVolume, Error> {
        let image = wanted.image.as_ref().map(|id| self.origin(id, seen)).transpose()?;
        let (origin, mut unit) = image.unzip();
        let found = find(seen, wanted.volume.as_str());
        if let Some(found) = found {
            // ZFS rounds the size of a blank volume up to its blocks.
            unit = Some(found.volblocksize);
        }
        let size_bytes = size_bytes(wanted, origin.as_ref(), unit.unwrap_or(0))?;
        let found = match found {
            None => None,
            Some(entry) if entry.kind != Kind::Volume => {
                let what = vec!["it is not a volume".to_owned()];
                return Err(Error::Differs { volume: wanted.volume.clone(), what });
            }
            Some(entry) => {
                let mut volume = self.volume_of(entry).ok_or_else(|| not_found(&wanted.volume))?;
                if !volume.is_written && wanted.adoption.only_unwritten(&volume) {
                    volume.is_written = self.is_written_by_now(entry, deadline)?;
                }
                adopt(&volume, wanted, origin.as_ref(), size_bytes)?;
                Some(volume)
            }
        };
        let absent = above(&wanted.volume).take_while(|it| find(seen, it.as_str()).is_none());
        let absent: Vec<Dataset> = absent.collect();
        Ok(PlannedVolume {
            wanted: wanted.clone(),
            size_bytes,
            origin,
            found,
            device: device::path(&wanted.volume),
            parent_found: absent.is_empty(),
            made_first: self.made_first(absent, seen),
        })
    }

    /// Returns whether a volume that seemed fresh was written to: the pool syncs writes after some seconds, and zfs
    /// counts from the last snapshot.
    fn is_written_by_now(&self, seen: &Entry, deadline: Instant) -> Result<bool, Error> {
        // Stores the unchanged value: the command is needed for its sync.
        self.set_fresh(seen, deadline)?;
        let now = self.look(Depth::One, ALL, &[seen.name.as_str()], deadline)?;
        Ok(!matches!(&now[..], [volume] if volume.counts() == seen.counts()))
    }

    /// Of the missing file systems above a volume, nearest first, returns the one to make separately: the topmost, if
    /// it would inherit a mount point, or if it is not the guest's own. Of two concurrent `zfs create -p`, one fails at
    /// the parent that the other made.
    fn made_first(&self, mut absent: Vec<Dataset>, seen: &[Entry]) -> Option<Dataset> {
        let top = absent.pop()?;
        let parent = match top.parent() {
            Some(above) => find(seen, above.as_str()),
            None => find(seen, self.pool.as_str()),
        };
        let mountable = parent.is_some_and(|parent| parent.mountable);
        (mountable || !absent.is_empty()).then_some(top)
    }

    /// Returns the image's only or newest snapshot, and the block size of its clones.
    fn origin(&self, id: &Id, seen: &[Entry]) -> Result<(CloneOrigin, u64), Error> {
        let name = self.pool.image(id)?;
        let volume = find(seen, name.as_str()).filter(|entry| entry.kind == Kind::Volume);
        let newest = newest_snapshot(seen, name.as_str());
        let (Some(volume), Some(newest)) = (volume, newest) else { return Err(not_found(name)) };
        let snapshot = self.pool.full_snapshot(&newest.name)?;
        Ok((CloneOrigin { snapshot, size_bytes: newest.volsize }, volume.volblocksize))
    }
}

/// Returns the newest snapshot of a dataset.
pub(super) fn newest_snapshot<'e>(entries: &'e [Entry], dataset: &str) -> Option<&'e Entry> {
    let of = |entry: &&Entry| entry.kind == Kind::Snapshot && entry.dataset() == dataset;
    entries.iter().filter(of).max_by_key(|entry| entry.createtxg)
}

/// Returns the entry of a name in a sorted listing.
fn find<'e>(entries: &'e [Entry], name: &str) -> Option<&'e Entry> {
    let index = entries.binary_search_by(|entry| entry.name.as_str().cmp(name)).ok()?;
    entries.get(index)
}

/// Returns the file systems above a volume, nearest first, without the pool.
fn above(volume: &Dataset) -> impl Iterator<Item = Dataset> {
    iter::successors(volume.parent(), Dataset::parent)
}
