//! The files of the store: listing, drafts under temporary names, and their placement.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use log::{info, warn};
use serde::{Deserialize, Serialize};

use super::{DirectoryStore, not_found, refuse_link};
use crate::os::disk::clone_file;
use crate::os::files::{is_link, straight};
use crate::os::process;
use crate::sorted::OrderBy;
use crate::storage::copy::copy;
use crate::storage::{Dataset, Error, Maker, Space, StoredVolume};

/// Guests' emulators may traverse the directories, but not list them.
const DIRECTORY_MODE: u32 = 0o711;
/// libvirt gives a guest's files to the emulator when it starts.
const FILE_MODE: u32 = 0o600;
/// The unit of [`MetadataExt::blocks`].
pub(super) const BLOCK_BYTES: u64 = 512;

/// The values that ZFS stores as properties, in a file next to a volume.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Properties {
    pub(super) owner: Option<String>,
    /// Full name of the snapshot that the volume is a clone of.
    pub(super) origin: Option<String>,
    /// Whether the volume takes space only when it is written to.
    #[serde(default)]
    pub(super) sparse: bool,
    /// The maker of the volume.
    #[serde(default)]
    pub(super) maker: Option<String>,
    /// The modification time of the content when the volume was created, in nanoseconds since 1970.
    #[serde(default)]
    pub(super) made_ns: Option<u64>,
}

impl Properties {
    pub(super) fn space(&self) -> Space {
        if self.sparse { Space::Sparse } else { Space::Reserved }
    }
}

impl DirectoryStore {
    /// Lists a dataset and the datasets below it, or those of the whole store; sorted by name.
    pub(super) fn datasets(&self, under: Option<&Dataset>) -> Result<Vec<Dataset>, Error> {
        let mut found = Vec::new();
        match under {
            None => self.collect_below(&self.root.clone(), None, &mut found)?,
            Some(name) => {
                let path = self.path(name)?;
                match look_at(&path)? {
                    None => return Err(not_found(name)),
                    Some(it) if it.is_symlink() => return Err(refuse_link(&path)),
                    Some(_) => self.collect(name.clone(), &mut found)?,
                }
            }
        }
        found.order_by(&Ord::cmp);
        Ok(found)
    }

    fn collect(&self, name: Dataset, found: &mut Vec<Dataset>) -> Result<(), Error> {
        let path = self.path(&name)?;
        match look_at(&path)? {
            // A link is no dataset; neither is an entry that was removed meanwhile.
            Some(it) if it.is_symlink() => Ok(()),
            Some(it) if it.is_dir() => {
                found.push(name.clone());
                self.collect_below(&path, Some(&name), found)
            }
            _ => {
                found.push(name);
                Ok(())
            }
        }
    }

    /// Returns whether a directory in the root has one of the store's own names.
    fn is_own(&self, relative: &str) -> bool {
        [self.pool.images(), self.pool.guests()].iter().any(|own| own.relative() == relative)
    }

    fn collect_below(
        &self,
        directory: &Path,
        above: Option<&Dataset>,
        found: &mut Vec<Dataset>,
    ) -> Result<(), Error> {
        for entry in names_in(directory)? {
            let relative = match above {
                Some(above) => format!("{}/{entry}", above.relative()),
                None => entry,
            };
            // Names of snapshots, properties and temporary files are not valid dataset names.
            let Ok(name) = self.pool.dataset(&relative) else { continue };
            match self.collect(name, found) {
                // Another tool's directory beside `images` and `guests` is not part of the store.
                Err(Error::Untrusted { .. }) if above.is_none() && !self.is_own(&relative) => {}
                outcome => outcome?,
            }
        }
        Ok(())
    }

    /// Returns the volume of a name; `None` if there is no regular file of that name.
    pub(super) fn volume_at(&self, name: &Dataset) -> Result<Option<StoredVolume>, Error> {
        let path = self.path(name)?;
        let Some(metadata) = look_at(&path)?.filter(fs::Metadata::is_file) else {
            return Ok(None);
        };
        let Properties { owner, origin, maker, made_ns, .. } = self.properties(name)?;
        let is_written = match (made_ns, &origin) {
            (Some(made_ns), _) => written_ns(&metadata) != Some(made_ns),
            // Made by an older agent: a blank volume has no blocks, and a copy was complete before its properties.
            (None, None) => metadata.blocks() > 0,
            (None, Some(_)) => {
                let beside = self.beside(name, "#")?;
                let properties = fs::symlink_metadata(&beside).map_err(at("stat", &beside))?;
                written_ns(&metadata) > written_ns(&properties)
            }
        };
        Ok(Some(StoredVolume {
            name: name.clone(),
            size_bytes: metadata.len(),
            device: path,
            origin,
            owner,
            maker: maker.as_deref().map(Maker::stored),
            is_written,
        }))
    }

    /// Reads the properties of a volume; a volume without a properties file counts as unmarked and sparse.
    pub(super) fn properties(&self, name: &Dataset) -> Result<Properties, Error> {
        let path = self.beside(name, "#")?;
        if look_at(&path)?.is_none() {
            return Ok(Properties { sparse: true, ..Properties::default() });
        }
        let mut text = Vec::new();
        open_file(&path)?.read_to_end(&mut text).map_err(at("read", &path))?;
        serde_json::from_slice(&text).map_err(|error| at("read", &path)(io::Error::other(error)))
    }

    /// Returns the number of bytes that reserved volumes can still allocate.
    pub(super) fn promised_bytes(&self) -> Result<u64, Error> {
        let mut sum: u64 = 0;
        for name in self.datasets(None)? {
            let Some(metadata) = look_at(&self.path(&name)?)? else { continue };
            if metadata.is_file() && self.properties(&name)?.space() == Space::Reserved {
                let written = metadata.blocks().saturating_mul(BLOCK_BYTES);
                sum = sum.saturating_add(metadata.len().saturating_sub(written));
            }
        }
        Ok(sum)
    }

    /// Creates a directory and its missing parents. The root and its parents may be links.
    pub(super) fn make_directory(&self, path: &Path) -> Result<(), Error> {
        let is_below = path.starts_with(&self.root) && path != self.root;
        if is_directory(path)? || (!is_below && path.is_dir()) {
            return Ok(());
        }
        if let Some(above) = path.parent() {
            self.make_directory(above)?;
        }
        match fs::create_dir(path) {
            // Independent of the umask of the process.
            Ok(()) => fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match is_directory(path)?
            {
                true => Ok(()),
                false => Err(error),
            },
            Err(error) => Err(error),
        }
        .map_err(at("create", path))
    }

    /// Creates a new file in `directory` under a temporary name, which drop removes.
    pub(super) fn draft(&self, directory: &Path) -> Result<Draft, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("%{}-{number}", process::identity()));
        remove_if_there(&path)?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(FILE_MODE).open(&path);
        let file = file.map_err(at("create", &path))?;
        Ok(Draft { path, file, is_renamed: false })
    }

    /// Removes the drafts of ended processes from a directory.
    pub(super) fn sweep(&self, directory: &Path) -> Result<(), Error> {
        for name in names_in(directory)? {
            let draft = name.strip_prefix('%').and_then(|it| it.rsplit_once('-'));
            if draft.is_some_and(|(process, _)| !is_running(process)) {
                remove_if_there(&directory.join(name))?;
            }
        }
        Ok(())
    }

    /// Removes properties and snapshots without a volume from a directory: a crash can leave them. Only for directories
    /// that no other call changes, because properties are created before their volume.
    pub(super) fn remove_orphans(&self, directory: &Path) -> Result<(), Error> {
        self.remove_lost(directory, &['#', '@'])
    }

    /// Removes snapshots without a volume from a directory.
    pub(super) fn remove_lost_snapshots(&self, directory: &Path) -> Result<(), Error> {
        self.remove_lost(directory, &['@'])
    }

    fn remove_lost(&self, directory: &Path, marks: &[char]) -> Result<(), Error> {
        for name in names_in(directory)? {
            let Some((volume, _)) = name.split_once(marks) else { continue };
            let path = directory.join(&name);
            let is_file = look_at(&path)?.is_some_and(|it| it.is_file());
            if is_file && look_at(&directory.join(volume))?.is_none() {
                info!("removing the rest of {volume}, which is gone; file={}", path.display());
                remove_if_there(&path)?;
            }
        }
        Ok(())
    }
}

/// Returns whether the process that made a draft still runs; older agents stored only its pid.
fn is_running(identity: &str) -> bool {
    match identity.parse::<u32>() {
        // The system did not provide the identity of the process.
        Err(_) if identity.is_empty() => true,
        Ok(pid) => Path::new("/proc").join(pid.to_string()).exists(),
        Err(_) => process::running(identity).is_some(),
    }
}

/// A file under a temporary name.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// Whether the file has its final name, so that no temporary one is left.
    is_renamed: bool,
}

impl Draft {
    /// Shares all blocks of a file; returns `false` if the file system does not support this.
    pub(super) fn share_with(&self, from: &Path) -> Result<bool, Error> {
        clone_file(&open_file(from)?, &self.file).map_err(at("copy", from))
    }

    /// Copies the content of a file, up to a deadline.
    pub(super) fn fill_from(&self, from: &Path, deadline: Instant) -> Result<(), Error> {
        if self.share_with(from)? {
            return Ok(());
        }
        let begin = Instant::now();
        let source = open_file(from)?;
        let bytes = source.metadata().map_err(at("stat", from))?.len();
        self.set_size(bytes)?;
        let copied = copy(&source, &self.file, bytes, &mut |_| match Instant::now() < deadline {
            true => Ok(()),
            false => Err(io::ErrorKind::TimedOut.into()),
        });
        copied.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => {
                let command = format!("copy {}", from.display());
                Error::Late { command, waited: begin.elapsed() }
            }
            _ => at("copy", from)(error),
        })
    }

    pub(super) fn set_size(&self, bytes: u64) -> Result<(), Error> {
        self.file.set_len(bytes).map_err(at("resize", &self.path))
    }

    /// Syncs the file and links it under its final name; returns `false` if that name exists.
    pub(super) fn place(self, path: &Path) -> Result<bool, Error> {
        self.file.sync_all().map_err(at("write", &self.path))?;
        match fs::hard_link(&self.path, path) {
            Ok(()) => match sync_directory(path) {
                Ok(()) => Ok(true),
                Err(error) => {
                    // After this error, the caller must not find the file.
                    if let Err(more) = remove_if_there(path) {
                        warn!("{more}");
                    }
                    Err(error)
                }
            },
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(at("create", path)(error)),
        }
    }

    /// Syncs the file and renames it to its final name, replacing an existing file.
    pub(super) fn replace(mut self, path: &Path) -> Result<(), Error> {
        self.file.sync_all().map_err(at("write", &self.path))?;
        fs::rename(&self.path, path).map_err(at("create", path))?;
        self.is_renamed = true;
        sync_directory(path)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.is_renamed {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Returns the modification time of a file, in nanoseconds since 1970.
pub(super) fn written_ns(metadata: &fs::Metadata) -> Option<u64> {
    let since_1970 = metadata.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    u64::try_from(since_1970.as_nanos()).ok()
}

/// Syncs the directory of `path`.
pub(super) fn sync_directory(path: &Path) -> Result<(), Error> {
    let directory = path.parent().unwrap_or(path);
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(at("write", directory))
}

/// Returns the names in a directory that are valid UTF-8; empty if the directory does not exist.
pub(super) fn names_in(directory: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(at("list", directory)(error)),
    };
    let names = entries.map(|entry| Ok(entry.map_err(at("list", directory))?.file_name()));
    let names: Result<Vec<_>, Error> = names.collect();
    Ok(names?.into_iter().filter_map(|name| name.into_string().ok()).collect())
}

/// Returns the metadata of a path without following a link; `None` if the path does not exist.
pub(super) fn look_at(path: &Path) -> Result<Option<fs::Metadata>, Error> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if absent(&error) => Ok(None),
        Err(error) => Err(at("stat", path)(error)),
    }
}

/// Returns whether the path is a directory, not a link to one.
pub(super) fn is_directory(path: &Path) -> Result<bool, Error> {
    Ok(look_at(path)?.is_some_and(|it| it.is_dir()))
}

/// Opens a file for reading, unless the path is a link.
pub(super) fn open_file(path: &Path) -> Result<File, Error> {
    straight(OpenOptions::new().read(true)).open(path).map_err(|error| match is_link(&error) {
        true => refuse_link(path),
        false => at("open", path)(error),
    })
}

/// Removes a file; returns `false` if it does not exist.
pub(super) fn remove_if_there(path: &Path) -> Result<bool, Error> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if absent(&error) => Ok(false),
        Err(error) => Err(at("remove", path)(error)),
    }
}

/// Converts an I/O error for a path; a full file system becomes [`Error::NoSpace`].
pub(super) fn at(verb: &str, path: &Path) -> impl Fn(io::Error) -> Error {
    let what = format!("{verb} {}", path.display());
    move |error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::NoSpace { needed_bytes: 0, free_bytes: 0 }
        }
        _ => Error::io(what.clone(), error),
    }
}

fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
