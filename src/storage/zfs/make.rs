//! Makes and grows volumes. A failed step undoes its changes.

use std::fs::File;
use std::time::Instant;

use super::command::{Output, action};
use super::listing::{Entry, FRESH, MAKER, OWNER};
use super::{ALL, DATASETS, Depth, Kind, ZfsStore, device, not_found, says_no_space};
use crate::os::disk::open_device;
use crate::storage::rules::{growth, no_image};
use crate::storage::{
    Action, Content, Dataset, Error, InUse, Maker, PlannedVolume, Space, StoredVolume,
};

impl ZfsStore {
    /// Makes a file system that is never mounted: a service with its own mount namespace would hide or pin a mount. An
    /// existing file system is a success.
    pub(super) fn make_file_system(&self, name: &Dataset, deadline: Instant) -> Result<(), Error> {
        let output = self.zfs.run(&file_system_words(name), deadline)?;
        if output.status.success() {
            return Ok(());
        }
        match self.look_at(name.as_str(), deadline)? {
            Some(found) if found.kind == Kind::FileSystem => Ok(()),
            _ => Err(output.failed()),
        }
    }

    pub(super) fn make_volume(
        &self,
        planned: &PlannedVolume,
        deadline: Instant,
    ) -> Result<StoredVolume, Error> {
        if let Some(found) = &planned.found {
            device::wait(&found.name, found.size_bytes, self.device_limit(deadline))?;
            return Ok(found.clone());
        }
        if let Some(parent) = &planned.made_first {
            self.make_file_system(parent, deadline)?;
        }
        let words = words(planned);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match self.zfs.run(&words, deadline) {
            Ok(output) if output.status.success() => {}
            Ok(output) => return Err(self.refused(planned, output, deadline)),
            // The command did not start, so there is nothing to undo.
            Err(error @ (Error::Hung { .. } | Error::NoStore | Error::NotInstalled)) => {
                return Err(error);
            }
            Err(cause) => return Err(self.undone(planned, cause, deadline)),
        }
        let volume = &planned.wanted.volume;
        let made = device::wait(volume, planned.size_bytes, self.device_limit(deadline));
        let made = made.and_then(|size_bytes| match &planned.wanted.content {
            Some(content) => write(content, planned).map(|()| size_bytes),
            None => Ok(size_bytes),
        });
        // A guest that is created later adopts the volume only if it was not written to since.
        let maker = planned.wanted.maker.as_ref();
        let is_for_later = maker.is_none_or(|maker| maker.domain_uuid().is_none());
        let made = made.and_then(|size_bytes| match is_for_later {
            true => self.note_fresh(volume, deadline).map(|()| size_bytes),
            false => Ok(size_bytes),
        });
        match made {
            Ok(size_bytes) => Ok(StoredVolume {
                name: volume.clone(),
                size_bytes,
                device: planned.device.clone(),
                origin: planned.origin.as_ref().map(|origin| origin.snapshot.to_string()),
                owner: planned.wanted.owner.as_ref().map(ToString::to_string),
                maker: planned.wanted.maker.clone(),
                // Not needed for a volume that has a domain from the start.
                is_written: !is_for_later,
            }),
            Err(cause) => Err(self.undone(planned, cause, deadline)),
        }
    }

    /// Returns the commands of [`ZfsStore::make_volume`].
    pub(super) fn making_volume(planned: &PlannedVolume) -> Vec<Action> {
        if planned.found.is_some() {
            return Vec::new();
        }
        let made_first = planned
            .made_first
            .as_ref()
            .map(|parent| action("make file system", parent.as_str(), &file_system_words(parent)));
        let volume = action("make volume", planned.wanted.volume.as_str(), &words(planned));
        made_first.into_iter().chain([volume]).collect()
    }

    /// Determines why a volume could not be made, from a second listing.
    fn refused(&self, planned: &PlannedVolume, output: Output, deadline: Instant) -> Error {
        let volume = planned.wanted.volume.as_str();
        let origin = planned.origin.as_ref().map(|origin| origin.snapshot.as_str());
        let mut names = vec![self.pool.as_str(), volume];
        names.extend(origin);
        let entries = match self.look(Depth::Zero, ALL, &names, self.undo_deadline(deadline)) {
            Ok(entries) => entries,
            Err(error) => return error,
        };
        let find = |name: &str| entries.iter().find(|entry| entry.name == name);
        let Some(pool) = find(self.pool.as_str()) else {
            return Error::PoolMissing { pool: self.pool.to_string() };
        };
        if find(volume).is_some() {
            // Another caller made it after the plan, or the command failed after it had made it.
            return match output.stderr.contains("already exists") {
                true => Error::Exists { name: volume.to_owned() },
                false => self.undone(planned, output.failed(), deadline),
            };
        }
        if let Some(origin) = origin.filter(|origin| find(origin).is_none()) {
            return not_found(origin);
        }
        let (needed_bytes, free_bytes) = (planned.size_bytes, pool.available);
        let reserved = planned.wanted.space == Space::Reserved;
        if says_no_space(&output) || (reserved && needed_bytes > free_bytes) {
            return Error::NoSpace { needed_bytes, free_bytes };
        }
        output.failed()
    }

    /// Undoes one [`ZfsStore::make_volume`] that failed.
    fn undone(&self, planned: &PlannedVolume, cause: Error, deadline: Instant) -> Error {
        let Some(made) = planned.to_make() else { return cause };
        let made = std::slice::from_ref(&made);
        let left =
            match self.take_volumes_back(made, &InUse::default(), self.undo_deadline(deadline)) {
                Ok(removal) if removal.left.is_empty() => return cause,
                Ok(removal) => removal.left.iter().map(ToString::to_string).collect(),
                Err(error) => vec![format!("{}: {error}", planned.wanted.volume)],
            };
        Error::NotUndone { cause: Box::new(cause), left: left.join(", ") }
    }

    /// Stores the counts of a volume that no guest has used yet: those of its metadata, or of its image's content.
    fn note_fresh(&self, volume: &Dataset, deadline: Instant) -> Result<(), Error> {
        let found = self.look_at(volume.as_str(), deadline)?.ok_or_else(|| not_found(volume))?;
        self.set_fresh(&found, deadline)
    }

    /// Stores the counts of this entry. When this returns, the pool has synced all earlier writes.
    pub(super) fn set_fresh(&self, volume: &Entry, deadline: Instant) -> Result<(), Error> {
        let fresh = format!("{FRESH}={}", volume.counts());
        self.zfs.succeed(&["set", &fresh, &volume.name], deadline).map(drop)
    }

    pub(super) fn set_maker_of(
        &self,
        volume: &Dataset,
        maker: &Maker,
        deadline: Instant,
    ) -> Result<(), Error> {
        let mark = format!("{MAKER}={maker}");
        self.zfs.succeed(&["set", &mark, volume.as_str()], deadline).map(drop)
    }

    pub(super) fn grow_volume(
        &self,
        volume: &Dataset,
        size_mib: u64,
        deadline: Instant,
    ) -> Result<StoredVolume, Error> {
        no_image(volume, &self.pool)?;
        let above = volume.parent();
        let names = [self.scope(above.as_ref()), volume.as_str()];
        let entries = self.look(Depth::Zero, DATASETS, &names, deadline)?;
        let find = |name: &str| entries.iter().find(|entry| entry.name == name);
        let entry = find(volume.as_str()).filter(|entry| entry.kind == Kind::Volume);
        let entry = entry.ok_or_else(|| not_found(volume))?;
        let mut grown = self.volume_of(entry).ok_or_else(|| not_found(volume))?;
        let Some(needed_bytes) = growth(&grown, size_mib, entry.volblocksize)? else {
            return Ok(grown);
        };
        let free_bytes = find(names[0]).map_or(0, |above| above.available);
        let no_space = Error::NoSpace { needed_bytes, free_bytes };
        if entry.refreservation > 0 && needed_bytes > free_bytes {
            return Err(no_space);
        }
        let size_bytes = entry.volsize + needed_bytes;
        // zfs grows the reservation of a volume whose whole size is reserved.
        let volsize = format!("volsize={size_bytes}");
        let output = self.zfs.run(&["set", &volsize, volume.as_str()], deadline)?;
        if says_no_space(&output) {
            return Err(no_space);
        }
        if !output.status.success() {
            return Err(output.failed());
        }
        grown.size_bytes = device::wait(volume, size_bytes, self.device_limit(deadline))?;
        if !grown.is_written {
            // Growing does not count as writing.
            self.note_fresh(volume, deadline)?;
        }
        Ok(grown)
    }
}

/// Returns the command that makes a file system which is never mounted.
fn file_system_words(name: &Dataset) -> [&str; 5] {
    ["create", "-o", "mountpoint=none", "--", name.as_str()]
}

/// Returns the command that makes a planned volume.
fn words(planned: &PlannedVolume) -> Vec<String> {
    let wanted = &planned.wanted;
    let mut words = vec![if planned.origin.is_some() { "clone" } else { "create" }.to_owned()];
    // With -p, zfs treats a volume that was made meanwhile as a success, so -p is used only if needed.
    if !planned.parent_found {
        words.push("-p".to_owned());
    }
    let mut option = |text: String| words.extend(["-o".to_owned(), text]);
    option("compression=lz4".to_owned());
    if let Some(owner) = &wanted.owner {
        option(format!("{OWNER}={owner}"));
    }
    if let Some(maker) = &wanted.maker {
        option(format!("{MAKER}={maker}"));
    }
    match (&planned.origin, wanted.space) {
        (Some(_), Space::Reserved) => option("refreservation=auto".to_owned()),
        (None, Space::Sparse) => words.push("-s".to_owned()),
        _ => {}
    }
    let size_bytes = planned.size_bytes.to_string();
    match &planned.origin {
        Some(origin) => {
            if planned.size_bytes > origin.size_bytes {
                words.extend(["-o".to_owned(), format!("volsize={size_bytes}")]);
            }
            words.extend(["--".to_owned(), origin.snapshot.to_string()]);
        }
        None => words.extend(["-V".to_owned(), size_bytes, "--".to_owned()]),
    }
    words.push(wanted.volume.to_string());
    words
}

/// Writes the initial content of a new volume.
fn write(content: &Content, planned: &PlannedVolume) -> Result<(), Error> {
    let device = &planned.device;
    let written =
        open_device(File::options().write(true), device).and_then(|it| content.write(&it));
    written.map_err(|error| Error::io(format!("write {}", device.display()), error))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::storage::{AdoptionRule, CloneOrigin, Id, PoolName, VolumeSpec};

    fn planned(origin_bytes: Option<u64>, size_bytes: u64, space: Space) -> PlannedVolume {
        let pool = PoolName::parse("tank").unwrap();
        let snapshot = pool.snapshot("images/i@s").unwrap();
        PlannedVolume {
            wanted: VolumeSpec {
                volume: pool.dataset("guests/a/disk-0").unwrap(),
                image: None,
                size_mib: 0,
                space,
                owner: Id::parse("a").ok(),
                maker: Some(Maker::domain("u")),
                adoption: AdoptionRule::Any,
                unmarked: false,
                content: None,
            },
            size_bytes,
            origin: origin_bytes.map(|size_bytes| CloneOrigin { snapshot, size_bytes }),
            found: None,
            device: PathBuf::new(),
            parent_found: false,
            made_first: None,
        }
    }

    #[test]
    fn every_volume_is_made_by_one_command() {
        let marks = "-o compression=lz4 -o io.mistify:owner=a -o io.mistify:maker=u";
        let to = "tank/guests/a/disk-0";
        let from = "tank/images/i@s";
        for (plan, command) in [
            (planned(None, 9, Space::Reserved), format!("create -p {marks} -V 9 -- {to}")),
            (planned(None, 9, Space::Sparse), format!("create -p {marks} -s -V 9 -- {to}")),
            (
                planned(Some(9), 9, Space::Reserved),
                format!("clone -p {marks} -o refreservation=auto -- {from} {to}"),
            ),
            (planned(Some(9), 9, Space::Sparse), format!("clone -p {marks} -- {from} {to}")),
            (
                planned(Some(5), 9, Space::Reserved),
                format!("clone -p {marks} -o refreservation=auto -o volsize=9 -- {from} {to}"),
            ),
        ] {
            assert_eq!(words(&plan).join(" "), command);
        }
        let beside = PlannedVolume { parent_found: true, ..planned(None, 9, Space::Reserved) };
        assert!(!words(&beside).contains(&"-p".to_owned()), "else a volume there is a success");
    }
}
