//! Images: files with a snapshot, which is the same file by a second name.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use super::files::{at, sync_folder};
use super::{DirectoryStore, not_found};
use crate::storage::copy::copy;
use crate::storage::holders::wait_closed;
use crate::storage::{Dataset, Error, Id, Image, ImageSource, round_up};

/// The name of the snapshot of an imported image.
const SNAPSHOT: &str = "image";
/// The unit of disks' sizes.
const SECTOR_BYTES: u64 = 512;

impl DirectoryStore {
    pub(super) fn list_images(&self) -> Result<Vec<Image>, Error> {
        let images = self.pool.images();
        if !self.path(&images).exists() {
            return Ok(Vec::new());
        }
        let names = self.datasets(Some(&images))?;
        let found = names.iter().filter_map(|name| self.image_at(name).transpose());
        found.collect()
    }

    pub(super) fn find_image(&self, id: &Id) -> Result<Image, Error> {
        let name = self.pool.image(id)?;
        self.image_at(&name)?.ok_or_else(|| not_found(name))
    }

    fn image_at(&self, name: &Dataset) -> Result<Option<Image>, Error> {
        let (Ok(id), true) = (Id::parse(name.last()), self.path(name).is_file()) else {
            return Ok(None);
        };
        Ok(self.snapshots_of(name)?.pop().map(|newest| Image {
            id,
            volume: name.clone(),
            snapshot: newest.snapshot.name,
            size_bytes: newest.size_bytes,
        }))
    }

    pub(super) fn remove_image(&self, id: &Id, deadline: Instant) -> Result<(), Error> {
        let name = self.pool.image(id)?;
        self.volume_at(&name)?.ok_or_else(|| not_found(&name))?;
        wait_closed(&self.path(&name), self.patience(deadline))
            .map_err(|holders| Error::Busy { name: name.to_string(), holders })?;
        self.remove_volume(&name)
    }

    pub(super) fn bring_in(
        &self,
        id: &Id,
        source: ImageSource<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Image, Error> {
        let name = self.pool.image(id)?;
        match source {
            ImageSource::ZfsStream(_) => {
                return Err(Error::Invalid("a directory store takes no zfs streams".to_owned()));
            }
            ImageSource::Filled { size_bytes, fill } => self.fill(&name, size_bytes, fill)?,
            ImageSource::Raw(raw) => {
                let size_bytes =
                    raw.metadata().map_err(at("look at", Path::new("the file")))?.len();
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
        let path = self.path(name);
        if path.exists() {
            return Err(Error::Exists { name: name.to_string() });
        }
        let images = self.path(&self.pool.images());
        self.make_folder(&images)?;
        self.sweep(&images)?;
        let draft = self.draft(&images)?;
        draft.set_size(round_up(size_bytes, SECTOR_BYTES))?;
        write(&draft.path).map_err(at("write image", &path))?;
        let snapshot = self.snapshot_path(&name.snapshot(SNAPSHOT)?);
        draft.replace(&snapshot)?;
        // The image is there with its second name. An import that was cut off before it left a
        // snapshot of nothing, which the next import replaces.
        fs::hard_link(&snapshot, &path).map_err(at("make", &path))?;
        sync_folder(&path)
    }
}
