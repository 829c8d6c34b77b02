//! Images: volumes below `images/` with a snapshot. A volume without a snapshot is incomplete, and is not listed.

use std::fs::File;
use std::io::{self, Seek};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::listing::{Entry, Kind, OWNER};
use super::plan::newest_snapshot;
use super::snapshots::check_free;
use super::{ALL, Depth, ZfsStore, device, not_found, says_no_space};
use crate::os::disk::open_device;
use crate::os::files::{CHECKSUM_START, checksum, lock_byte};
use crate::os::process;
use crate::storage::copy::copy;
use crate::storage::{Dataset, Error, Id, ImageSource, LeftoverVolume, StoredImage, round_up};

/// The mark of a volume from an import, followed by the importing process's identity; no guest's id has an `@`. Older
/// versions wrote no identity.
const IMPORT: &str = "@import";
/// The name of the snapshot of an imported image.
const SNAPSHOT: &str = "image";
/// The locks of image ids are bytes of this device: every process that changes a pool opens it, regardless of its user
/// and directories (an agent or a command of an operator).
pub(super) const LOCKS: &str = "/dev/zfs";
/// The interval of attempts to lock an id.
const LOCK_LOOK: Duration = Duration::from_millis(50);
/// A multiple of every block size; the sizes of raw images are rounded up to it.
const BLOCK_BYTES: u64 = 128 * 1024;

impl ZfsStore {
    pub(super) fn list_images(&self, deadline: Instant) -> Result<Vec<StoredImage>, Error> {
        let images = self.pool.images();
        let entries = self.look(Depth::Two, ALL, &[images.as_str()], deadline)?;
        let volumes = entries.iter().filter(|entry| entry.kind == Kind::Volume);
        Ok(volumes.filter_map(|volume| self.image_of(volume, &entries)).collect())
    }

    pub(super) fn find_image(&self, id: &Id, deadline: Instant) -> Result<StoredImage, Error> {
        let name = self.pool.image(id)?;
        let entries = self.look(Depth::One, ALL, &[name.as_str()], deadline)?;
        let volume = entries.iter().find(|entry| entry.kind == Kind::Volume);
        volume.and_then(|it| self.image_of(it, &entries)).ok_or_else(|| not_found(name))
    }

    pub(super) fn remove_image(&self, id: &Id, deadline: Instant) -> Result<(), Error> {
        let name = self.pool.image(id)?;
        let _alone = self.lock_image(&name, self.patience(deadline))?;
        let entries = self.look(Depth::One, ALL, &[name.as_str()], deadline)?;
        if entries.is_empty() {
            return Err(not_found(name));
        }
        check_free(entries.iter().filter(|entry| entry.kind == Kind::Snapshot))?;
        let busy = |holders| Error::Busy { name: name.to_string(), holders };
        self.wait_closed(name.as_str(), self.patience(deadline))?.map_err(busy)?;
        self.destroy_image(&name, deadline)
    }

    pub(super) fn bring_in(
        &self,
        id: &Id,
        source: ImageSource<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<StoredImage, Error> {
        let name = self.pool.image(id)?;
        let _alone = self.lock_image(&name, self.patience(self.soon()))?;
        self.make_way(&name)?;
        let outcome = match source {
            ImageSource::ZfsStream(stream) => self.receive(&name, stream, progress),
            ImageSource::Filled { size_bytes, fill } => self
                .fill(&name, size_bytes, &mut |to| fill(to).map_err(|error| writing(&name, error))),
            ImageSource::Raw(raw) => self.fill_raw(&name, raw, progress),
        };
        match outcome.and_then(|()| self.find_image(id, self.soon())) {
            Ok(image) => Ok(image),
            // Another process's volume must not be removed, and this call made nothing.
            Err(
                error @ (Error::Exists { .. }
                | Error::Hung { .. }
                | Error::Former
                | Error::NoStore
                | Error::NotInstalled),
            ) => Err(error),
            Err(cause) if !self.is_our_import(&name) => Err(cause),
            Err(cause) => {
                let deadline = self.undo_deadline(Instant::now());
                match self.destroy_image(&name, deadline) {
                    Ok(()) => Err(cause),
                    Err(error) => {
                        let left = format!("{name}: {error}");
                        Err(Error::NotUndone { cause: Box::new(cause), left })
                    }
                }
            }
        }
    }

    /// Destroys the remains of interrupted imports. If that fails, logs it and leaves them to the next import of that
    /// id.
    pub(super) fn sweep_images(&self, deadline: Instant) -> Result<(), Error> {
        let images = self.pool.images();
        let entries = self.look(Depth::Two, ALL, &[images.as_str()], deadline)?;
        for entry in entries.iter().filter(|entry| is_rest(entry, &entries)) {
            let Ok(name) = self.pool.full_dataset(&entry.name) else { continue };
            match self.sweep_image(&name, deadline) {
                // An import of that id runs, and removes them itself.
                Ok(()) | Err(Error::Busy { .. }) => {}
                Err(error) => warn!("cannot destroy the rest of an import; image={name}: {error}"),
            }
        }
        Ok(())
    }

    /// Destroys the remains of an import, if they still are remains: another import may have been faster.
    fn sweep_image(&self, name: &Dataset, deadline: Instant) -> Result<(), Error> {
        let _alone = self.lock_image(name, Instant::now())?;
        let entries = self.look(Depth::One, ALL, &[name.as_str()], deadline)?;
        if !entries.iter().any(|entry| entry.name == name.as_str() && is_rest(entry, &entries)) {
            return Ok(());
        }
        info!("destroying the rest of an interrupted import; image={name}");
        self.destroy_image(name, deadline)
    }

    /// Locks the id of an image against imports, sweeps and removals by other processes and threads, until the file is
    /// closed. Without the device no pool can be changed, so no lock is needed.
    ///
    /// # Errors
    /// [`Error::Busy`] if another process or thread holds the lock.
    ///
    /// # Blocking
    /// Up to `patience`.
    fn lock_image(&self, name: &Dataset, patience: Instant) -> Result<Option<File>, Error> {
        let failed = |error| Error::io(format!("lock image {name}"), error);
        let file = match File::options().read(true).write(true).open(&self.locks) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        // Two ids with the same byte wait for each other, which is harmless.
        let [.., a, b, c, d] = checksum(CHECKSUM_START, name.as_str().as_bytes()).to_be_bytes();
        let byte = u32::from_be_bytes([a, b, c, d]);
        while !lock_byte(&file, byte).map_err(failed)? {
            let now = Instant::now();
            if now >= patience {
                return Err(Error::Busy { name: name.to_string(), holders: self.importers(name) });
            }
            thread::sleep(LOCK_LOOK.min(patience - now));
        }
        Ok(Some(file))
    }

    /// Returns the process that imports an image of this name, if its mark names it.
    fn importers(&self, name: &Dataset) -> Vec<String> {
        let found = self.look_at(name.as_str(), self.soon()).ok().flatten();
        let pid = found.and_then(|entry| process::running(importer(entry.owner.as_deref()?)?));
        pid.map(importing).into_iter().collect()
    }

    /// Ensures that the parent of an image exists and the image does not.
    fn make_way(&self, name: &Dataset) -> Result<(), Error> {
        let (deadline, images) = (self.soon(), self.pool.images());
        let names = [self.pool.as_str(), images.as_str(), name.as_str()];
        let entries = self.look(Depth::One, ALL, &names, deadline)?;
        if !entries.iter().any(|entry| entry.name == images.as_str()) {
            return self.make_file_system(&images, deadline);
        }
        let found = entries.iter().find(|entry| entry.name == name.as_str());
        let complete = newest_snapshot(&entries, name.as_str()).is_some();
        match found {
            None => Ok(()),
            Some(found) if !complete => match found.owner.as_deref().and_then(importer) {
                Some(identity) => match process::running(identity) {
                    Some(pid) => {
                        Err(Error::Busy { name: name.to_string(), holders: vec![importing(pid)] })
                    }
                    None => {
                        info!("destroying the rest of an interrupted import; image={name}");
                        self.destroy_image(name, deadline)
                    }
                },
                None => Err(Error::Exists { name: name.to_string() }),
            },
            Some(_) => Err(Error::Exists { name: name.to_string() }),
        }
    }

    fn fill_raw(
        &self,
        name: &Dataset,
        raw: &File,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        let size_bytes = raw.metadata().map_err(|error| writing(name, error))?.len();
        self.fill(name, round_up(size_bytes, BLOCK_BYTES), &mut |path| {
            let copied = open_device(File::options().write(true), path).and_then(|to| {
                copy(raw, &to, size_bytes, &mut |at| {
                    progress(at);
                    Ok(())
                })
            });
            copied.map_err(|error| writing(name, error))
        })
    }

    /// Makes a volume, fills it with `write`, and seals it with its snapshot. It is sparse, because an image does not
    /// grow.
    fn fill(
        &self,
        name: &Dataset,
        size_bytes: u64,
        write: &mut dyn FnMut(&Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if size_bytes == 0 {
            return Err(Error::Invalid(format!("image {name} is empty")));
        }
        let size = size_bytes.to_string();
        let mark = format!("{OWNER}={IMPORT}:{}", process::identity());
        let words = ["create", "-s", "-V", &size, "-o", "compression=lz4", "-o", &mark, "--"];
        let words = [&words[..], &[name.as_str()]].concat();
        let output = self.zfs.run(&words, self.soon())?;
        if !output.status.success() {
            return Err(match self.look_at(name.as_str(), self.soon())? {
                Some(_) => Error::Exists { name: name.to_string() },
                None => output.failed(),
            });
        }
        device::wait(name, size_bytes, self.zfs.limits.device)?;
        let device = device::path(name);
        write(&device)?;
        // A snapshot contains only data in the pool, not data that the kernel still caches for the device.
        let synced = open_device(File::options().write(true), &device).and_then(|it| it.sync_all());
        synced.map_err(|error| writing(name, error))?;
        // Nobody may write to an image, not even a guest that has it as a disk; clones do not inherit this.
        self.zfs.succeed(&["set", "readonly=on", name.as_str()], self.soon())?;
        let snapshot = name.snapshot(SNAPSHOT)?;
        self.zfs.succeed(&["snapshot", "--", snapshot.as_str()], self.soon()).map(drop)
    }

    /// Lets zfs read the stream from the file itself; the shared file position shows the progress.
    fn receive(
        &self,
        name: &Dataset,
        stream: &File,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        let own = stream.try_clone().map_err(|error| writing(name, error))?;
        let (mut seen, mut since) = (None, Instant::now());
        let late = || {
            // A pipe has no position: a slow stream would look like a stuck one, so that no limit applies.
            let at = (&mut &*stream).stream_position().ok();
            if at != seen {
                (seen, since) = (at, Instant::now());
                progress(at.unwrap_or(0));
            }
            at.is_some() && since.elapsed() >= self.zfs.limits.progress
        };
        // Without mounting, whatever the stream contains.
        let words = ["receive", "-u", "-o", "readonly=on", "--", name.as_str()];
        let output = self.zfs.run_until(&words, Stdio::from(own), late)?;
        if says_no_space(&output) {
            return Err(Error::NoSpace { needed_bytes: 0, free_bytes: 0 });
        }
        if output.stderr.contains(" exists") {
            return Err(Error::Exists { name: name.to_string() });
        }
        if !output.status.success() {
            return Err(output.failed());
        }
        match self.look_at(name.as_str(), self.soon())? {
            Some(entry) if entry.kind == Kind::Volume => Ok(()),
            _ => Err(Error::Invalid(format!(
                "cannot import image {name}: the stream is not of a volume"
            ))),
        }
    }

    /// Returns whether this process started the incomplete image of this name. A received image has no mark: zfs itself
    /// allows one receive into a name, and removes a partial one.
    fn is_our_import(&self, name: &Dataset) -> bool {
        let found = self.look_at(name.as_str(), self.soon());
        let Ok(Some(entry)) = found else { return true };
        entry.owner.as_deref().and_then(importer).is_none_or(|it| it == process::identity())
    }

    fn destroy_image(&self, name: &Dataset, deadline: Instant) -> Result<(), Error> {
        let patience = self.patience(deadline);
        let destroyed = self.destroy(name.as_str(), true, patience, deadline)?;
        destroyed.map_err(|why| Error::Left(vec![LeftoverVolume { name: name.to_string(), why }]))
    }

    fn image_of(&self, volume: &Entry, entries: &[Entry]) -> Option<StoredImage> {
        let newest = newest_snapshot(entries, &volume.name)?;
        let name = self.pool.full_dataset(&volume.name).ok()?;
        Some(StoredImage {
            id: Id::parse(name.last()).ok()?,
            snapshot: self.pool.full_snapshot(&newest.name).ok()?,
            volume: name,
            size_bytes: newest.volsize,
        })
    }

    /// Returns a deadline for one command of an import, which has none as a whole.
    fn soon(&self) -> Instant {
        Instant::now() + self.zfs.limits.command
    }
}

/// Returns whether a volume remains from an import whose process has ended.
fn is_rest(entry: &Entry, entries: &[Entry]) -> bool {
    let importer = entry.owner.as_deref().and_then(importer);
    entry.kind == Kind::Volume
        && newest_snapshot(entries, &entry.name).is_none()
        && importer.is_some_and(|identity| process::running(identity).is_none())
}

fn importing(pid: u32) -> String {
    format!("an import by process {pid}")
}

/// Returns the identity of the process that made a volume with this mark; `None` for other marks.
fn importer(mark: &str) -> Option<&str> {
    let rest = mark.strip_prefix(IMPORT)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(':') }
}

/// Returns the error of a failed write to an image.
fn writing(name: &Dataset, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::NoSpace { needed_bytes: 0, free_bytes: 0 }
        }
        _ => Error::io(format!("write image {name}"), error),
    }
}
