//! Takes, lists, destroys, rolls back to and sends snapshots.

use std::io::Read;
use std::process::Stdio;
use std::time::Instant;

use super::listing::{Entry, Kind, MAKER};
use super::stream::Stream;
use super::{ALL, Depth, SNAPSHOTS, ZfsStore, not_found, says_no_space};
use crate::sorted::OrderBy;
use crate::storage::rules::in_guests;
use crate::storage::{
    Dataset, Error, Maker, NewerSnapshots, Recursion, Removal, RetentionCause, SnapshotName,
    StoredSnapshot,
};

impl ZfsStore {
    pub(super) fn make_snapshot(
        &self,
        name: &SnapshotName,
        recursion: Recursion,
        maker: &Maker,
        deadline: Instant,
    ) -> Result<Vec<StoredSnapshot>, Error> {
        let mark = format!("{MAKER}={maker}");
        let words = match recursion {
            Recursion::Itself => &["snapshot", "-o", &mark, "--", name.as_str()][..],
            Recursion::Below => &["snapshot", "-r", "-o", &mark, "--", name.as_str()],
        };
        let output = self.zfs.run(words, deadline)?;
        let dataset = name.dataset();
        if !output.status.success() {
            let there =
                self.look_at(dataset.as_str(), deadline)?.ok_or_else(|| not_found(dataset))?;
            if says_no_space(&output) {
                return Err(Error::NoSpace { needed_bytes: 0, free_bytes: there.available });
            }
        }
        let made = self.named(name, recursion, deadline)?;
        match made.first() {
            _ if output.status.success() => Ok(self.snapshots_of(made)),
            Some(_) => Err(Error::Exists { name: name.to_string() }),
            None => Err(output.failed()),
        }
    }

    /// Destroys the snapshots with this name and maker.
    pub(super) fn undo_snapshots(
        &self,
        name: &SnapshotName,
        recursion: Recursion,
        maker: &Maker,
        deadline: Instant,
    ) -> Result<Removal, Error> {
        // A hung command may still take a snapshot that does not exist yet.
        self.zfs.none_hangs()?;
        let (mut removal, patience) = (Removal::default(), self.patience(deadline));
        for entry in self.named(name, recursion, deadline)? {
            // A snapshot without a maker of its own shows its dataset's.
            if entry.maker.as_deref() != Some(maker.as_str()) {
                continue;
            }
            let outcome = match (entry.clones.is_empty(), entry.holds) {
                (false, _) => Err(RetentionCause::Clones(entry.clones.clone())),
                (true, 0) => self.destroy(&entry.name, false, patience, deadline)?,
                _ => Err(RetentionCause::Held(entry.name.clone())),
            };
            removal.note(&entry.name, outcome);
        }
        Ok(removal)
    }

    pub(super) fn list_snapshots(
        &self,
        under: Option<&Dataset>,
        deadline: Instant,
    ) -> Result<Vec<StoredSnapshot>, Error> {
        let scope = self.scope(under);
        let entries = self.look(Depth::All, SNAPSHOTS, &[scope], deadline)?;
        if entries.is_empty() && self.look_at(scope, deadline)?.is_none() {
            return Err(not_found(scope));
        }
        Ok(self.snapshots_of(entries))
    }

    pub(super) fn remove_snapshot(
        &self,
        name: &SnapshotName,
        recursion: Recursion,
        deadline: Instant,
    ) -> Result<(), Error> {
        in_guests(name.dataset(), &self.pool)?;
        let found = self.named(name, recursion, deadline)?;
        if found.is_empty() {
            return Err(not_found(name));
        }
        check_free(found.iter())?;
        let words = match recursion {
            Recursion::Itself => &["destroy", "--", name.as_str()][..],
            Recursion::Below => &["destroy", "-r", "--", name.as_str()],
        };
        self.zfs.succeed(words, deadline).map(drop)
    }

    pub(super) fn roll_back(
        &self,
        name: &SnapshotName,
        newer: NewerSnapshots,
        deadline: Instant,
    ) -> Result<(), Error> {
        in_guests(name.dataset(), &self.pool)?;
        let dataset = name.dataset().as_str();
        let entries = self.look(Depth::One, ALL, &[dataset], deadline)?;
        let find = |name: &str| entries.iter().find(|entry| entry.name == name);
        let target = find(name.as_str()).ok_or_else(|| not_found(name))?;
        let is_newer = |entry: &&Entry| {
            entry.kind == Kind::Snapshot
                && entry.dataset() == dataset
                && entry.createtxg > target.createtxg
        };
        let newer_found: Vec<&Entry> = entries.iter().filter(is_newer).collect();
        if newer == NewerSnapshots::Keep && !newer_found.is_empty() {
            return Err(Error::HasNewer { name: name.to_string() });
        }
        check_free(newer_found.into_iter())?;
        if find(dataset).is_some_and(|entry| entry.kind == Kind::Volume) {
            // zfs itself would roll back an open volume while it is in use.
            self.wait_closed(dataset, self.patience(deadline))?
                .map_err(|holders| Error::Busy { name: dataset.to_owned(), holders })?;
        }
        let words = match newer {
            NewerSnapshots::Keep => &["rollback", "--", name.as_str()][..],
            NewerSnapshots::Destroy => &["rollback", "-r", "--", name.as_str()],
        };
        self.zfs.succeed(words, deadline).map(drop)
    }

    pub(super) fn send_snapshot(
        &self,
        name: &SnapshotName,
        deadline: Instant,
    ) -> Result<Box<dyn Read + Send>, Error> {
        self.look_at(name.as_str(), deadline)?.ok_or_else(|| not_found(name))?;
        let running = self.zfs.start(&["send", "--", name.as_str()], Stdio::null())?;
        Ok(Box::new(Stream::new(running, self.zfs.limits.progress)))
    }

    /// Returns the snapshots of this name, of one dataset or of all below it.
    fn named(
        &self,
        name: &SnapshotName,
        recursion: Recursion,
        deadline: Instant,
    ) -> Result<Vec<Entry>, Error> {
        match recursion {
            Recursion::Itself => Ok(self.look_at(name.as_str(), deadline)?.into_iter().collect()),
            Recursion::Below => {
                let below = [name.dataset().as_str()];
                let mut entries = self.look(Depth::All, SNAPSHOTS, &below, deadline)?;
                let end = format!("@{}", name.name());
                entries.retain(|entry| entry.name.ends_with(&end));
                Ok(entries)
            }
        }
    }

    /// Returns the snapshots in the order of the trait: by dataset, oldest first. Omits names that
    /// the agent cannot have made.
    fn snapshots_of(&self, mut entries: Vec<Entry>) -> Vec<StoredSnapshot> {
        entries.order_by(&|a, b| (a.dataset(), a.createtxg).cmp(&(b.dataset(), b.createtxg)));
        let snapshot = |entry: &Entry| {
            let name = self.pool.full_snapshot(&entry.name).ok()?;
            Some(StoredSnapshot { name, written_bytes: entry.written })
        };
        entries.iter().filter_map(snapshot).collect()
    }
}

/// Checks that these snapshots have no clones and no holds.
pub(super) fn check_free<'e>(snapshots: impl Iterator<Item = &'e Entry>) -> Result<(), Error> {
    for snapshot in snapshots {
        let name = snapshot.name.clone();
        if !snapshot.clones.is_empty() {
            return Err(Error::HasClones { name, clones: snapshot.clones.clone() });
        }
        if snapshot.holds > 0 {
            return Err(Error::Busy { name, holders: vec!["a hold".to_owned()] });
        }
    }
    Ok(())
}
