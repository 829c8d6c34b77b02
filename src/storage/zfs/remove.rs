//! Removes volumes: lists them before, retries while udev has them open, and determines the causes after a failure.

use std::time::Instant;

use super::command::action;
use super::listing::{Entry, Kind};
use super::survey::Survey;
use super::{ALL, Depth, ZfsStore, device, not_found};
use crate::sorted::OrderBy;
use crate::storage::holders::{self, holders};
use crate::storage::rules::{below_guests, is_disk_of};
use crate::storage::{
    Action, CreatedVolume, Dataset, Error, Id, InUse, LeftoverVolume, Maker, Recursion, Removal,
    RemovalPlan, RetentionCause, VolumeSelection,
};

impl ZfsStore {
    pub(super) fn remove_guest(
        &self,
        guest: &Id,
        whose: VolumeSelection,
        in_use: &InUse,
        deadline: Instant,
    ) -> Result<Removal, Error> {
        let root = self.pool.guest(guest)?;
        let entries = self.look(Depth::All, ALL, &[root.as_str()], deadline)?;
        let meant = |entry: &Entry| {
            is_meant(entry, guest, &root, &whose) && !self.is_protected(&entry.name, in_use)
        };
        self.clear(&root, &entries, meant, in_use, deadline)
    }

    /// Returns what [`ZfsStore::remove_guest`] does with marked volumes, if no process has them open.
    pub(super) fn removing_guest(
        &self,
        guest: &Id,
        in_use: &InUse,
        deadline: Instant,
    ) -> Result<RemovalPlan, Error> {
        let root = self.pool.guest(guest)?;
        let entries = self.look(Depth::All, ALL, &[root.as_str()], deadline)?;
        if entries.is_empty() {
            return Ok(RemovalPlan::default());
        }
        let marked = |entry: &Entry| {
            is_meant(entry, guest, &root, &VolumeSelection::Marked)
                && !self.is_protected(&entry.name, in_use)
        };
        let survey =
            Survey::of(root.as_str(), &entries, marked, |entry| self.user_of(entry, in_use));
        let names = match survey.is_whole() {
            true => vec![root.as_str()],
            false => survey.doomed.iter().map(String::as_str).collect(),
        };
        let actions = names.into_iter().map(|name| {
            let is_below = |entry: &&Entry| {
                entry.name.strip_prefix(name).is_some_and(|it| it.starts_with(['/', '@']))
            };
            let with: Vec<String> =
                entries.iter().filter(is_below).map(|entry| entry.name.clone()).collect();
            let words = destroy_words(name, !with.is_empty());
            Action { with, ..action("destroy", name, &words) }
        });
        let actions = actions.collect();
        Ok(RemovalPlan { actions, left: survey.left, foreign: survey.foreign })
    }

    pub(super) fn take_volumes_back(
        &self,
        made: &[CreatedVolume],
        in_use: &InUse,
        deadline: Instant,
    ) -> Result<Removal, Error> {
        // A hung create may still make a volume that does not exist yet.
        self.zfs.none_hangs()?;
        let mut roots: Vec<Dataset> = made.iter().map(root_of).collect();
        roots.order_by(&Ord::cmp);
        roots.dedup();
        let mut removal = Removal::default();
        for root in &roots {
            let entries = self.look(Depth::All, ALL, &[root.as_str()], deadline)?;
            let chosen = |entry: &Entry| {
                entry.kind == Kind::Volume && made.iter().any(|made| is_of(entry, made))
            };
            removal.merge(self.clear(root, &entries, chosen, in_use, deadline)?);
        }
        for parent in made.iter().filter_map(shared_parent_of) {
            // zfs refuses if something else is below the parent by now.
            self.zfs.run(&destroy_words(parent.as_str(), false), deadline)?;
        }
        Ok(removal)
    }

    pub(super) fn delete_dataset(
        &self,
        name: &Dataset,
        recursion: Recursion,
        in_use: &InUse,
        deadline: Instant,
    ) -> Result<Removal, Error> {
        below_guests(name, &self.pool)?;
        let entries = self.look(Depth::All, ALL, &[name.as_str()], deadline)?;
        match entries.len() {
            0 => Err(not_found(name)),
            2.. if recursion == Recursion::Itself => {
                Err(Error::Invalid(format!("{name} has snapshots or datasets below it")))
            }
            _ => self.clear(name, &entries, |_| true, in_use, deadline),
        }
    }

    /// Destroys the chosen entries in a recursive listing of `root`, and a root that is a file system if nothing else
    /// is below.
    fn clear(
        &self,
        root: &Dataset,
        entries: &[Entry],
        chosen: impl Fn(&Entry) -> bool,
        in_use: &InUse,
        deadline: Instant,
    ) -> Result<Removal, Error> {
        if entries.is_empty() {
            return Ok(Removal::default());
        }
        let survey =
            Survey::of(root.as_str(), entries, chosen, |entry| self.user_of(entry, in_use));
        let patience = self.patience(deadline);
        // `destroy -r` of an open volume fails, but destroys the snapshots first.
        let (mut open, mut closed) = (Vec::new(), Vec::new());
        for name in &survey.doomed {
            let risky = survey.with_snapshots.contains(name) && self.is_open(name)?;
            if risky { open.push(name) } else { closed.push(name) }
        }
        let destroy = |name: &str, below| self.destroy(name, below, patience, deadline);
        let whole = survey.is_whole();
        if whole && open.is_empty() && destroy(root.as_str(), entries.len() > 1)?.is_ok() {
            return Ok(Removal { destroyed: survey.doomed, ..Removal::default() });
        }
        let (left, foreign) = (survey.left, survey.foreign);
        let mut removal = Removal { left, foreign, ..Removal::default() };
        for name in closed {
            removal.note(name, destroy(name, survey.with_snapshots.contains(name))?);
        }
        for name in open {
            let outcome = match self.wait_closed(name, patience)? {
                Ok(()) => destroy(name, true)?,
                Err(who) => Err(RetentionCause::Open(who)),
            };
            removal.note(name, outcome);
        }
        if whole && removal.left.is_empty() {
            // A root that is a volume is already gone here, which is a success.
            if let Err(why) = destroy(root.as_str(), true)? {
                removal.left.push(LeftoverVolume { name: root.to_string(), why });
            }
        }
        Ok(removal)
    }

    /// Returns whether a caller supplied the volume with this full name.
    fn is_protected(&self, name: &str, in_use: &InUse) -> bool {
        self.pool.full_dataset(name).is_ok_and(|name| in_use.keeps(&device::path(&name)))
    }

    /// Returns the user of a volume: by its path, or because another domain is its maker.
    fn user_of(&self, entry: &Entry, in_use: &InUse) -> Option<RetentionCause> {
        let device = device::path(&self.pool.full_dataset(&entry.name).ok()?);
        let maker = entry.maker.as_deref().map(Maker::stored);
        in_use.user_of(&device, maker.as_ref())
    }

    /// Destroys a dataset, after waiting for processes that have it open. A missing dataset is a success.
    pub(super) fn destroy(
        &self,
        name: &str,
        recursive: bool,
        patience: Instant,
        deadline: Instant,
    ) -> Result<Result<(), RetentionCause>, Error> {
        let words = destroy_words(name, recursive);
        loop {
            let output = self.zfs.run(&words, deadline)?;
            if output.status.success() {
                return Ok(Ok(()));
            }
            let busy = output.stderr.contains("dataset is busy");
            if busy && Instant::now() < patience {
                let device = self.pool.full_dataset(name).map(|name| device::path(&name));
                holders::wait_a_moment(device.ok().as_deref(), patience);
                continue;
            }
            if self.look_at(name, deadline)?.is_none() {
                return Ok(Ok(()));
            }
            return Ok(Err(match (busy, self.pool.full_dataset(name)) {
                (true, Ok(dataset)) => RetentionCause::Open(holders(&device::path(&dataset))),
                _ => RetentionCause::Failed(output.failed().to_string()),
            }));
        }
    }

    /// Returns until when to wait for other users of a volume: for at most half of the remaining time, so that time
    /// remains to report them.
    pub(super) fn patience(&self, deadline: Instant) -> Instant {
        let now = Instant::now();
        now + self.zfs.limits.busy.min(deadline.saturating_duration_since(now) / 2)
    }

    fn is_open(&self, name: &str) -> Result<bool, Error> {
        Ok(!holders(&device::path(&self.pool.full_dataset(name)?)).is_empty())
    }

    /// Waits until no other process has the volume open; returns the processes that still do at the end of `patience`.
    pub(super) fn wait_closed(
        &self,
        name: &str,
        patience: Instant,
    ) -> Result<Result<(), Vec<String>>, Error> {
        Ok(holders::wait_closed(&device::path(&self.pool.full_dataset(name)?), patience))
    }
}

/// Returns the command that destroys a dataset, optionally with everything below it.
fn destroy_words(name: &str, recursive: bool) -> Vec<&str> {
    if recursive { vec!["destroy", "-r", "--", name] } else { vec!["destroy", "--", name] }
}

/// Returns whether an entry below a guest's root is removed with the guest.
fn is_meant(entry: &Entry, guest: &Id, root: &Dataset, whose: &VolumeSelection) -> bool {
    let is_marked = entry.kind == Kind::Volume
        && is_disk_of(&entry.name, root)
        && entry.owner.as_deref() == Some(guest.as_str());
    *whose == VolumeSelection::Anyones || (is_marked && whose.means(entry.maker.as_deref()))
}

/// Returns the root for the removal of a volume: its parent, if that was made with the volume and belongs only to the
/// guest.
fn root_of(made: &CreatedVolume) -> Dataset {
    let parent = made.volume.parent().filter(|_| made.with_parent && made.owner.is_some());
    parent.unwrap_or_else(|| made.volume.clone())
}

/// Returns the parent that was made with a volume without a guest: concurrent calls may make volumes below it.
fn shared_parent_of(made: &CreatedVolume) -> Option<Dataset> {
    made.volume.parent().filter(|_| made.with_parent && made.owner.is_none())
}

fn is_of(entry: &Entry, made: &CreatedVolume) -> bool {
    let owner = made.owner.as_ref().map(Id::as_str);
    let maker = made.maker.as_ref().map(Maker::as_str);
    entry.name == made.volume.as_str()
        && entry.owner.as_deref() == owner
        && entry.maker.as_deref() == maker
}
