//! Images: files with a snapshot, which is a hard link to the same file.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use log::warn;

use super::files::{at, look_at, names_in, remove_if_there, sync_directory};
use super::{DirectoryStore, not_found, refuse_link};
use crate::os::files::{is_link, lock, straight};
use crate::storage::copy::copy;
use crate::storage::holders::{holders, wait_closed};
use crate::storage::{Dataset, Error, Id, ImageSource, StoredImage, round_up};

/// The name of the snapshot of an imported image.
const SNAPSHOT: &str = "image";
/// The unit of disk sizes.
const SECTOR_BYTES: u64 = 512;
/// The maximum number of attempts to open a lock file that is removed concurrently.
const LOCK_TRIES: usize = 10;
const LOCK_MODE: u32 = 0o600;
/// The agent's user can read an image, and nobody can write to it.
const IMAGE_MODE: u32 = 0o400;

/// The lock of an image's id, held while this value lives. Drop removes the file before it releases the lock.
struct ImageLock {
    path: PathBuf,
    _file: fs::File,
}

impl Drop for ImageLock {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

impl DirectoryStore {
    pub(super) fn list_images(&self) -> Result<Vec<StoredImage>, Error> {
        let images = self.pool.images();
        if look_at(&self.path(&images)?)?.is_none() {
            return Ok(Vec::new());
        }
        let names = self.datasets(Some(&images))?;
        let found = names.iter().filter_map(|name| self.image_at(name).transpose());
        found.collect()
    }

    pub(super) fn find_image(&self, id: &Id) -> Result<StoredImage, Error> {
        let name = self.pool.image(id)?;
        self.image_at(&name)?.ok_or_else(|| not_found(name))
    }

    fn image_at(&self, name: &Dataset) -> Result<Option<StoredImage>, Error> {
        let is_file = look_at(&self.path(name)?)?.is_some_and(|it| it.is_file());
        let (Ok(id), true) = (Id::parse(name.last()), is_file) else { return Ok(None) };
        Ok(self.snapshots_of(name)?.pop().map(|newest| StoredImage {
            id,
            volume: name.clone(),
            snapshot: newest.snapshot.name,
            size_bytes: newest.size_bytes,
        }))
    }

    pub(super) fn remove_image(&self, id: &Id, deadline: Instant) -> Result<(), Error> {
        let name = self.pool.image(id)?;
        self.volume_at(&name)?.ok_or_else(|| not_found(&name))?;
        let _alone = self.lock_image(&name)?;
        wait_closed(&self.path(&name)?, self.patience(deadline))
            .map_err(|holders| Error::Busy { name: name.to_string(), holders })?;
        // The image first, unlike other volumes: without a snapshot it is no image, and could not be deleted any more.
        remove_if_there(&self.path(&name)?)?;
        self.remove_volume(&name)
    }

    pub(super) fn bring_in(
        &self,
        id: &Id,
        source: ImageSource<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<StoredImage, Error> {
        let name = self.pool.image(id)?;
        match source {
            ImageSource::ZfsStream(_) => {
                let why = "a directory store cannot import a zfs stream";
                return Err(Error::Invalid(why.to_owned()));
            }
            ImageSource::Filled { size_bytes, fill } => self.fill(&name, size_bytes, fill)?,
            ImageSource::Raw(raw) => {
                let size_bytes = raw.metadata().map_err(at("stat", Path::new("the file")))?.len();
                self.fill(&name, size_bytes, &mut |path| {
                    let to = fs::File::options().write(true).open(path)?;
                    copy(raw, &to, size_bytes, &mut |at| {
                        progress(at);
                        Ok(())
                    })
                })?;
            }
        }
        self.find_image(id)
    }

    fn fill(
        &self,
        name: &Dataset,
        size_bytes: u64,
        write: &mut dyn FnMut(&Path) -> io::Result<()>,
    ) -> Result<(), Error> {
        if size_bytes == 0 {
            return Err(Error::Invalid(format!("image {name} is empty")));
        }
        let path = self.path(name)?;
        if look_at(&path)?.is_some() {
            return Err(Error::Exists { name: name.to_string() });
        }
        let images = self.directory_path(&self.pool.images())?;
        self.make_directory(&images)?;
        let _alone = self.lock_image(name)?;
        if look_at(&path)?.is_some() {
            return Err(Error::Exists { name: name.to_string() });
        }
        self.sweep(&images)?;
        let draft = self.draft(&images)?;
        draft.set_size(round_up(size_bytes, SECTOR_BYTES))?;
        write(&draft.path).map_err(at("write image", &path))?;
        // The clones of an image are copies. Nobody may write to an image, not even a guest that has it as a disk.
        let read_only = fs::Permissions::from_mode(IMAGE_MODE);
        draft.file.set_permissions(read_only).map_err(at("protect", &path))?;
        let snapshot = self.snapshot_path(&name.snapshot(SNAPSHOT)?)?;
        draft.replace(&snapshot)?;
        // The image exists once it has its second name. An import that was interrupted earlier left a snapshot without
        // an image, which the next import replaces.
        fs::hard_link(&snapshot, &path).map_err(at("create", &path))?;
        sync_directory(&path)
    }

    /// Removes the remains of interrupted imports and deletions: drafts, snapshots without their image, and locks of
    /// ids.
    pub(super) fn sweep_images(&self) -> Result<(), Error> {
        let images = self.directory_path(&self.pool.images())?;
        self.sweep(&images)?;
        for name in names_in(&images)? {
            let id = name.strip_suffix('%').or_else(|| Some(name.split_once('@')?.0));
            let Some(id) = id.and_then(|id| Id::parse(id).ok()) else { continue };
            let image = self.pool.image(&id)?;
            if name.contains('@') && look_at(&self.path(&image)?)?.is_some() {
                continue;
            }
            // A running import holds the lock; otherwise, dropping this lock removes the file.
            match self.lock_image(&image) {
                Ok(_alone) if look_at(&self.path(&image)?)?.is_none() => {
                    self.remove_all_snapshots(&image)?;
                }
                Ok(_) | Err(Error::Busy { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Locks the id of an image against imports by other processes and threads, by the file `ID%`.
    ///
    /// # Errors
    /// [`Error::Busy`] if another import holds the lock.
    fn lock_image(&self, name: &Dataset) -> Result<ImageLock, Error> {
        let path = self.beside(name, "%")?;
        for _ in 0..LOCK_TRIES {
            let mut options = fs::OpenOptions::new();
            options.create(true).truncate(false).write(true).mode(LOCK_MODE);
            let file = straight(&mut options).open(&path);
            let file = file.map_err(|error| match is_link(&error) {
                true => refuse_link(&path),
                false => at("create", &path)(error),
            })?;
            if !lock(&file).map_err(at("lock", &path))? {
                let holders = holders(&path);
                return Err(Error::Busy { name: name.to_string(), holders });
            }
            let own = file.metadata().map_err(at("stat", &path))?;
            // The previous import may have removed the file after it was opened here.
            let found = fs::symlink_metadata(&path);
            if found.is_ok_and(|it| (it.dev(), it.ino()) == (own.dev(), own.ino())) {
                return Ok(ImageLock { path, _file: file });
            }
        }
        Err(Error::Busy { name: name.to_string(), holders: Vec::new() })
    }
}
