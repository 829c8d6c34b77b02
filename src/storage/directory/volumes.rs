//! Volumes as files: planned, created, grown, removed.

use std::fs;
use std::path::Path;
use std::time::Instant;

use parking_lot::MutexGuard;

use super::files::{Properties, at, is_directory, look_at, names_in, remove_if_there, written_ns};
use super::{DirectoryStore, not_found};
use crate::os::files::straight;
use crate::storage::holders::{holders, wait_closed};
use crate::storage::rules::{
    adopt, below_guests, growth, is_disk_of, is_overlay_of, no_image, size_bytes,
};
use crate::storage::types::check_space;
use crate::storage::{
    Action, CloneOrigin, CreatedVolume, Dataset, Error, Id, InUse, LeftoverVolume, Maker,
    PlannedVolume, Recursion, Removal, RemovalPlan, RetentionCause, Space, StoredVolume,
    VolumePlans, VolumeSelection, VolumeSpec,
};

impl DirectoryStore {
    pub(super) fn plan_volumes(&self, wanted: &[VolumeSpec]) -> Result<VolumePlans, Error> {
        let each = wanted.iter().map(|wanted| self.plan_one(wanted)).collect();
        Ok(VolumePlans { each, free_bytes: self.free_bytes()? })
    }

    fn plan_one(&self, wanted: &VolumeSpec) -> Result<PlannedVolume, Error> {
        let origin = wanted.image.as_ref().map(|id| self.origin(id)).transpose()?;
        let size_bytes = size_bytes(wanted, origin.as_ref(), 0)?;
        let volume = &wanted.volume;
        let mut found = self.volume_at(volume)?;
        if let Some(found) = found.as_mut().filter(|found| wanted.adoption.only_unwritten(found)) {
            found.is_written |= !self.snapshots_of(volume)?.is_empty();
        }
        match &found {
            Some(found) => adopt(found, wanted, origin.as_ref(), size_bytes)?,
            None if look_at(&self.path(volume)?)?.is_some() => {
                let what = vec!["it is not a volume".to_owned()];
                return Err(Error::Differs { volume: volume.clone(), what });
            }
            None => {}
        }
        let above = volume.parent();
        let parent_found = match above {
            Some(above) => is_directory(&self.path(&above)?)?,
            None => true,
        };
        Ok(PlannedVolume {
            wanted: wanted.clone(),
            size_bytes,
            origin,
            found,
            device: self.path(volume)?,
            parent_found,
            made_first: None,
        })
    }

    fn origin(&self, id: &Id) -> Result<CloneOrigin, Error> {
        let image = self.find_image(id)?;
        Ok(CloneOrigin { snapshot: image.snapshot, size_bytes: image.size_bytes })
    }

    /// Returns the actions of [`DirectoryStore::make_volume`].
    pub(super) fn making_volume(&self, planned: &PlannedVolume) -> Vec<Action> {
        if planned.found.is_some() {
            return Vec::new();
        }
        let (path, bytes) = (planned.device.display(), planned.size_bytes);
        let detail = match &planned.origin {
            Some(CloneOrigin { snapshot, .. }) => {
                let relative = format!("{}@{}", snapshot.dataset().relative(), snapshot.name());
                let from = self.root.join(relative);
                format!("{path}, a copy of {} of {bytes} bytes", from.display())
            }
            None => format!("{path}, a sparse file of {bytes} bytes"),
        };
        let name = planned.wanted.volume.to_string();
        vec![Action { what: "make volume", name, detail, ..Action::default() }]
    }

    pub(super) fn make_volume(
        &self,
        planned: &PlannedVolume,
        deadline: Instant,
    ) -> Result<StoredVolume, Error> {
        let volume = &planned.wanted.volume;
        if planned.found.is_none() {
            let _making = self.lock(deadline)?;
            check_space(std::slice::from_ref(planned), self.free_bytes()?)?;
            let made = self.write_volume(planned, deadline);
            if made.is_err() && !planned.parent_found {
                self.remove_empty_parent(volume);
            }
            made?;
        }
        self.volume_at(volume)?.ok_or_else(|| not_found(volume))
    }

    /// Creates the file, after its properties: a file without properties would have no owner.
    fn write_volume(&self, planned: &PlannedVolume, deadline: Instant) -> Result<(), Error> {
        let PlannedVolume { wanted, origin, size_bytes, .. } = planned;
        let path = self.path(&wanted.volume)?;
        let directory = path.parent().unwrap_or(&self.root);
        self.make_directory(directory)?;
        self.sweep(directory)?;
        let draft = self.draft(directory)?;
        if let Some(origin) = origin {
            let from = self.snapshot_path(&origin.snapshot)?;
            if !look_at(&from)?.is_some_and(|it| it.is_file()) {
                return Err(not_found(&origin.snapshot));
            }
            draft.fill_from(&from, deadline)?;
        }
        draft.set_size(*size_bytes)?;
        if let Some(content) = &wanted.content {
            content.write(&draft.file).map_err(at("write", &path))?;
        }
        if look_at(&path)?.is_some() {
            return Err(Error::Exists { name: wanted.volume.to_string() });
        }
        // Of a former volume with this name, whose file is gone.
        self.remove_all_snapshots(&wanted.volume)?;
        let beside = self.beside(&wanted.volume, "#")?;
        let made = draft.file.metadata().map_err(at("stat", &path))?;
        let properties = Properties {
            owner: wanted.owner.as_ref().map(ToString::to_string),
            origin: origin.as_ref().map(|origin| origin.snapshot.to_string()),
            sparse: wanted.space == Space::Sparse,
            maker: wanted.maker.as_ref().map(ToString::to_string),
            made_ns: written_ns(&made),
        };
        self.write_properties(&properties, &beside)?;
        match draft.place(&path) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Exists { name: wanted.volume.to_string() }),
            Err(error) => {
                remove_if_there(&beside)?;
                Err(error)
            }
        }
    }

    pub(super) fn set_maker_of(&self, volume: &Dataset, maker: &Maker) -> Result<(), Error> {
        self.volume_at(volume)?.ok_or_else(|| not_found(volume))?;
        let properties = self.properties(volume)?;
        let properties = Properties { maker: Some(maker.to_string()), ..properties };
        self.write_properties(&properties, &self.beside(volume, "#")?)
    }

    fn write_properties(&self, properties: &Properties, beside: &Path) -> Result<(), Error> {
        let draft = self.draft(beside.parent().unwrap_or(&self.root))?;
        let written = serde_json::to_writer(&draft.file, properties);
        written.map_err(|error| at("write", beside)(error.into()))?;
        draft.replace(beside)
    }

    pub(super) fn grow_volume(
        &self,
        volume: &Dataset,
        size_mib: u64,
        deadline: Instant,
    ) -> Result<StoredVolume, Error> {
        no_image(volume, &self.pool)?;
        let _making = self.lock(deadline)?;
        let mut grown = self.volume_at(volume)?.ok_or_else(|| not_found(volume))?;
        let Some(needed_bytes) = growth(&grown, size_mib, 0)? else {
            return Ok(grown);
        };
        let free_bytes = self.free_bytes()?;
        if self.properties(volume)?.space() == Space::Reserved && needed_bytes > free_bytes {
            return Err(Error::NoSpace { needed_bytes, free_bytes });
        }
        let file = straight(fs::File::options().write(true)).open(&grown.device);
        grown.size_bytes += needed_bytes;
        let resized = file.and_then(|file| {
            file.set_len(grown.size_bytes)?;
            file.sync_all()
        });
        resized.map_err(at("resize", &grown.device))?;
        if !grown.is_written {
            // Growing does not count as writing.
            let made = fs::symlink_metadata(&grown.device).map_err(at("stat", &grown.device))?;
            let properties = Properties { made_ns: written_ns(&made), ..self.properties(volume)? };
            self.write_properties(&properties, &self.beside(volume, "#")?)?;
        }
        Ok(grown)
    }

    pub(super) fn remove_guest(
        &self,
        guest: &Id,
        whose: VolumeSelection,
        in_use: &InUse,
        deadline: Instant,
    ) -> Result<Removal, Error> {
        let root = self.pool.guest(guest)?;
        let meant = |volume: &StoredVolume| {
            is_meant(volume, guest, &root, &whose) && !in_use.keeps(&volume.device)
        };
        self.clear(&root, meant, in_use, deadline)
    }

    /// Returns what [`DirectoryStore::remove_guest`] does with marked volumes, if no process has them open.
    pub(super) fn removing_guest(&self, guest: &Id, in_use: &InUse) -> Result<RemovalPlan, Error> {
        let root = self.pool.guest(guest)?;
        let mut removing = RemovalPlan::default();
        if look_at(&self.path(&root)?)?.is_none() {
            return Ok(removing);
        }
        for name in self.datasets(Some(&root))? {
            let Some(volume) = self.volume_at(&name)? else { continue };
            let is_meant = is_meant(&volume, guest, &root, &VolumeSelection::Marked);
            if !is_meant || in_use.keeps(&volume.device) {
                match overlay(&volume, &root, in_use) {
                    Some(why) => removing.left.push(LeftoverVolume { name: name.to_string(), why }),
                    None => removing.foreign.push(name.to_string()),
                }
                continue;
            }
            if let Some(why) = used_by(&volume, in_use) {
                removing.left.push(LeftoverVolume { name: name.to_string(), why });
                continue;
            }
            let with = self.snapshots_of(&name)?;
            removing.actions.push(Action {
                what: "destroy",
                name: name.to_string(),
                detail: volume.device.display().to_string(),
                with: with.iter().map(|seen| seen.snapshot.name.to_string()).collect(),
                ..Action::default()
            });
        }
        Ok(removing)
    }

    pub(super) fn take_volumes_back(
        &self,
        made: &[CreatedVolume],
        in_use: &InUse,
        deadline: Instant,
    ) -> Result<Removal, Error> {
        let mut removal = Removal::default();
        for CreatedVolume { volume, owner, maker, with_parent } in made {
            let ours = |it: &StoredVolume| {
                it.owner.as_deref() == owner.as_ref().map(Id::as_str) && it.maker == *maker
            };
            removal.merge(self.clear(volume, ours, in_use, deadline)?);
            // A crash can leave a draft, or properties without their volume. Those of other volumes may belong to a
            // concurrent call, which creates its volume after the properties.
            let path = self.path(volume)?;
            if let Some(directory) = path.parent() {
                self.sweep(directory)?;
            }
            let beside = self.beside(volume, "#")?;
            let is_file = look_at(&beside)?.is_some_and(|it| it.is_file());
            if is_file && look_at(&path)?.is_none() {
                remove_if_there(&beside)?;
            }
            if *with_parent {
                self.remove_empty_parent(volume);
            }
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
        let below = self.datasets(Some(name))?.len() > 1 || !self.snapshots_of(name)?.is_empty();
        if below && recursion == Recursion::Itself {
            return Err(Error::Invalid(format!("{name} has snapshots or datasets below it")));
        }
        self.clear(name, |_| true, in_use, deadline)
    }

    /// Removes the chosen volumes at and below `root`, and then the empty directories.
    fn clear(
        &self,
        root: &Dataset,
        chosen: impl Fn(&StoredVolume) -> bool,
        in_use: &InUse,
        deadline: Instant,
    ) -> Result<Removal, Error> {
        let mut removal = Removal::default();
        if look_at(&self.path(root)?)?.is_none() {
            return Ok(removal);
        }
        let (mut directories, mut open) = (Vec::new(), Vec::new());
        for name in self.datasets(Some(root))? {
            match self.volume_at(&name)? {
                None => directories.push(name),
                Some(volume) if !chosen(&volume) => match overlay(&volume, root, in_use) {
                    Some(why) => removal.note(name.as_str(), Err(why)),
                    None => removal.foreign.push(name.to_string()),
                },
                Some(volume) => match used_by(&volume, in_use) {
                    Some(why) => removal.note(name.as_str(), Err(why)),
                    None if !holders(&volume.device).is_empty() => open.push(name),
                    None => removal.note(name.as_str(), self.try_remove(&name)),
                },
            }
        }
        let patience = self.patience(deadline);
        for name in open {
            let outcome = match wait_closed(&self.path(&name)?, patience) {
                Ok(()) => self.try_remove(&name),
                Err(who) => Err(RetentionCause::Open(who)),
            };
            removal.note(name.as_str(), outcome);
        }
        // Bottom-up. A directory that is not empty contains files of others.
        for name in directories.iter().rev() {
            let path = self.directory_path(name)?;
            self.sweep(&path)?;
            self.remove_orphans(&path)?;
            if names_in(&path)?.is_empty() {
                fs::remove_dir(&path).map_err(at("remove", &path))?;
                self.remove_all_snapshots(name)?;
            } else if name != root {
                removal.foreign.push(name.to_string());
            }
        }
        Ok(removal)
    }

    /// Removes a volume; returns a failure as a retention cause, so that the removal continues with other volumes.
    fn try_remove(&self, name: &Dataset) -> Result<(), RetentionCause> {
        self.remove_volume(name).map_err(|error| RetentionCause::Failed(error.to_string()))
    }

    /// Removes a volume. The snapshots first: if a crash left them without their volume, the next volume of that name
    /// would get them. The properties last, because a volume without them has no owner.
    pub(super) fn remove_volume(&self, name: &Dataset) -> Result<(), Error> {
        self.remove_all_snapshots(name)?;
        remove_if_there(&self.path(name)?)?;
        remove_if_there(&self.beside(name, "#")?).map(drop)
    }

    /// Removes snapshots below `guests` without a volume: from an interrupted deletion, or because somebody removed the
    /// file.
    pub(super) fn sweep_guests(&self, deadline: Instant) -> Result<(), Error> {
        // No call creates a volume or snapshot meanwhile.
        let _making = self.lock(deadline)?;
        for directory in self.datasets(Some(&self.pool.guests()))? {
            if is_directory(&self.path(&directory)?)? {
                self.remove_lost_snapshots(&self.directory_path(&directory)?)?;
            }
        }
        Ok(())
    }

    pub(super) fn remove_all_snapshots(&self, name: &Dataset) -> Result<(), Error> {
        for seen in self.snapshots_of(name)? {
            remove_if_there(&self.snapshot_path(&seen.snapshot.name)?)?;
        }
        Ok(())
    }

    /// Removes the directory above a volume if it is empty.
    fn remove_empty_parent(&self, volume: &Dataset) {
        if let Some(Ok(path)) = volume.parent().map(|parent| self.path(&parent)) {
            // Fails if the directory is not empty, as intended, or is gone.
            let _ = fs::remove_dir(path);
        }
    }

    /// Acquires the lock for using space.
    pub(super) fn lock(&self, deadline: Instant) -> Result<MutexGuard<'_, ()>, Error> {
        let begin = Instant::now();
        self.making.try_lock_until(deadline).ok_or_else(|| Error::Late {
            command: "wait for another volume to be created".to_owned(),
            waited: begin.elapsed(),
        })
    }
}

/// Returns the user of a volume: by its path, or because another domain is its maker.
fn used_by(volume: &StoredVolume, in_use: &InUse) -> Option<RetentionCause> {
    in_use.user_of(&volume.device, volume.maker.as_ref())
}

/// Returns why an unselected volume stays although it has the guest's data.
fn overlay(volume: &StoredVolume, root: &Dataset, in_use: &InUse) -> Option<RetentionCause> {
    let is_overlay = is_overlay_of(volume.name.as_str(), root) && !in_use.keeps(&volume.device);
    is_overlay.then_some(RetentionCause::Overlay)
}

/// Returns whether a volume below a guest's root is removed with the guest.
fn is_meant(volume: &StoredVolume, guest: &Id, root: &Dataset, whose: &VolumeSelection) -> bool {
    let is_marked =
        volume.owner.as_deref() == Some(guest.as_str()) && is_disk_of(volume.name.as_str(), root);
    *whose == VolumeSelection::Anyones
        || (is_marked && whose.means(volume.maker.as_ref().map(Maker::as_str)))
}
