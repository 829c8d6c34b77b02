//! Removing volumes: looked at before, tried again while udev has them open, told apart after.

use std::time::Instant;

use super::listing::{Entry, Kind};
use super::survey::Survey;
use super::{ALL, Depth, ZfsStore, device, not_found};
use crate::storage::holders::{self, holders};
use crate::storage::{Dataset, Error, Id, Left, Planned, Reach, Removal, Whose, Why};

impl ZfsStore {
    pub(super) fn remove_guest(
        &self,
        guest: &Id,
        whose: Whose,
        deadline: Instant,
    ) -> Result<Removal, Error> {
        let root = self.pool.guest(guest)?;
        let entries = self.look(Depth::All, ALL, &[root.as_str()], deadline)?;
        let chosen = |entry: &Entry| match whose {
            Whose::Marked => {
                is_disk_of(entry, &root) && entry.owner.as_deref() == Some(guest.as_str())
            }
            Whose::Anyones => true,
        };
        self.clear(&root, &entries, chosen, deadline)
    }

    pub(super) fn take_volumes_back(
        &self,
        made: &[Planned],
        deadline: Instant,
    ) -> Result<Removal, Error> {
        let made: Vec<&Planned> = made.iter().filter(|plan| plan.found.is_none()).collect();
        let mut roots: Vec<Dataset> = made.iter().map(|plan| root_of(plan)).collect();
        roots.sort();
        roots.dedup();
        let mut removal = Removal::default();
        for root in &roots {
            let entries = self.look(Depth::All, ALL, &[root.as_str()], deadline)?;
            let chosen = |entry: &Entry| {
                entry.kind == Kind::Volume && made.iter().any(|plan| is_of(entry, plan))
            };
            let one = self.clear(root, &entries, chosen, deadline)?;
            removal.destroyed.extend(one.destroyed);
            removal.left.extend(one.left);
            removal.foreign.extend(one.foreign);
        }
        Ok(removal)
    }

    pub(super) fn delete_dataset(
        &self,
        name: &Dataset,
        reach: Reach,
        deadline: Instant,
    ) -> Result<Removal, Error> {
        if !name.is_below(&self.pool.guests()) {
            return Err(Error::Invalid(format!("{name} is not below {}", self.pool.guests())));
        }
        let entries = self.look(Depth::All, ALL, &[name.as_str()], deadline)?;
        match entries.len() {
            0 => Err(not_found(name)),
            2.. if reach == Reach::Itself => {
                Err(Error::Invalid(format!("{name} has snapshots or datasets below it")))
            }
            _ => self.clear(name, &entries, |_| true, deadline),
        }
    }

    /// Destroys what is chosen of a recursive listing of `root`, and a root that is a file system
    /// if nothing else is below.
    fn clear(
        &self,
        root: &Dataset,
        entries: &[Entry],
        chosen: impl Fn(&Entry) -> bool,
        deadline: Instant,
    ) -> Result<Removal, Error> {
        if entries.is_empty() {
            return Ok(Removal::default());
        }
        let mut survey = Survey::of(root.as_str(), entries, chosen);
        let patience = deadline.min(Instant::now() + self.zfs.limits.busy);
        // `destroy -r` of an open volume fails, but not before it has destroyed the snapshots.
        for name in &survey.with_snapshots {
            if survey.doomed.contains(name) {
                if let Err(who) = self.wait_closed(name, patience)? {
                    survey.left.push(Left { name: name.clone(), why: Why::Open(who) });
                }
            }
        }
        let left = &survey.left;
        survey.doomed.retain(|name| left.iter().all(|left| left.name != *name));
        let whole = survey.is_whole();
        let Survey { doomed, with_snapshots, mut left, foreign } = survey;
        if whole && self.destroy(root.as_str(), entries.len() > 1, patience, deadline)?.is_ok() {
            return Ok(Removal { destroyed: doomed, left, foreign });
        }
        let mut destroyed = Vec::new();
        for name in doomed {
            match self.destroy(&name, with_snapshots.contains(&name), patience, deadline)? {
                Ok(()) => destroyed.push(name),
                Err(why) => left.push(Left { name, why }),
            }
        }
        Ok(Removal { destroyed, left, foreign })
    }

    /// Destroys a dataset, waiting for who has it open. One that is gone is a success.
    pub(super) fn destroy(
        &self,
        name: &str,
        recursive: bool,
        patience: Instant,
        deadline: Instant,
    ) -> Result<Result<(), Why>, Error> {
        let words =
            if recursive { &["destroy", "-r", "--", name][..] } else { &["destroy", "--", name] };
        loop {
            let output = self.zfs.run(words, deadline)?;
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
                (true, Ok(dataset)) => Why::Open(holders(&device::path(&dataset))),
                _ => Why::Failed(output.failed().to_string()),
            }));
        }
    }

    /// Waits until nobody else has the volume open; who has it at the end of patience.
    pub(super) fn wait_closed(
        &self,
        name: &str,
        patience: Instant,
    ) -> Result<Result<(), Vec<String>>, Error> {
        Ok(holders::wait_closed(&device::path(&self.pool.full_dataset(name)?), patience))
    }
}

/// Whether it is one of the volumes that the agent makes for a guest, by its name.
fn is_disk_of(entry: &Entry, guest: &Dataset) -> bool {
    let number = entry.name.strip_prefix(guest.as_str()).and_then(|it| it.strip_prefix("/disk-"));
    let numbered = |it: &str| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit());
    entry.kind == Kind::Volume && number.is_some_and(numbered)
}

/// Where the removal of a volume begins: above it, if that was made with it.
fn root_of(plan: &Planned) -> Dataset {
    let volume = &plan.wanted.volume;
    let parent = volume.parent().filter(|_| !plan.parent_found);
    parent.unwrap_or_else(|| volume.clone())
}

fn is_of(entry: &Entry, plan: &Planned) -> bool {
    let owner = plan.wanted.owner.as_ref().map(Id::as_str);
    entry.name == plan.wanted.volume.as_str() && entry.owner.as_deref() == owner
}
