//! Arguments and results of storage calls: plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::MIB;
use super::error::{Error, LeftoverVolume, RetentionCause};
use super::name::{Dataset, Id, SnapshotName};
use crate::os::paths::resolved;
use crate::os::random;

/// A requested volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    /// The name.
    pub volume: Dataset,
    /// The image to clone; `None` for a blank volume.
    pub image: Option<Id>,
    /// The size; with an image the minimum size, and 0 for the image's own.
    pub size_mib: u64,
    /// Whether its space is reserved.
    pub space: Space,
    /// The guest of the volume, as its mark; `None` for volumes without an owner.
    pub owner: Option<Id>,
    /// The maker, as the other part of its mark.
    pub maker: Option<Maker>,
    /// The rule for adopting an existing volume.
    pub adoption: AdoptionRule,
    /// Whether an existing volume without any mark matches too: the original image agent set none.
    pub unmarked: bool,
    /// The initial content of a new volume; `None` for zeroes, or the content of the image.
    pub content: Option<Content>,
}

/// The initial content of a new volume. It is secret: `Debug` omits it.
#[derive(Clone, PartialEq, Eq)]
pub struct Content(Arc<[u8]>);

impl Content {
    /// Wraps these bytes, which are whole blocks of the device.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }

    /// Writes the content to the start of a volume, and syncs it to the disk.
    pub(super) fn write(&self, volume: &File) -> io::Result<()> {
        volume.write_all_at(&self.0, 0)?;
        volume.sync_all()
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Content(secret)")
    }
}

/// The maker of a volume or a snapshot: a domain that owns it from then on, even if the domain is renamed, or a call of
/// the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maker(String);

/// The prefix of a call's uuid.
const CALL: &str = "call-";

impl Maker {
    /// Returns the maker for the domain with this uuid.
    pub fn domain(uuid: &str) -> Self {
        Self(uuid.to_owned())
    }

    /// Returns the maker for a new call.
    pub fn call() -> Self {
        Self(format!("{CALL}{}", random::uuid()))
    }

    /// Returns a maker from its stored text.
    pub fn stored(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Returns the text to store.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the uuid of the domain, if the maker is a domain.
    pub fn domain_uuid(&self) -> Option<&str> {
        Some(self.as_str()).filter(|text| !text.starts_with(CALL))
    }
}

impl fmt::Display for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The rule for adopting an existing volume with the requested name, size, origin and owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdoptionRule {
    /// Adopt any volume.
    Any,
    /// Adopt a volume of this domain, by its mark or because the domain's definition names it; otherwise as
    /// [`AdoptionRule::Unwritten`].
    OfDomain {
        /// The domain, as its volumes are marked.
        maker: Maker,
        /// The sources of the domain's disks.
        named: Vec<PathBuf>,
    },
    /// Adopt a volume that has no domain and was never written to: a new guest must not get another guest's data.
    Unwritten,
}

impl AdoptionRule {
    /// Returns whether this volume is adopted only if it has no domain and was never written to.
    pub(super) fn only_unwritten(&self, found: &StoredVolume) -> bool {
        match self {
            Self::Any => false,
            Self::OfDomain { maker, named } => {
                let device = resolved(&found.device);
                let is_named = named.iter().any(|path| resolved(path) == device);
                !is_named && found.maker.as_ref() != Some(maker)
            }
            Self::Unwritten => true,
        }
    }
}

/// Whether the space of a volume is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// The whole size is reserved (zfs: `refreservation`): writes in the volume do not run out of space.
    Reserved,
    /// Nothing is reserved: the volume takes space when it is written to, and may be larger than the pool.
    Sparse,
}

/// A volume that was made, or whose creation was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedVolume {
    /// The name.
    pub volume: Dataset,
    /// The owner's mark: a volume with another mark is a different one.
    pub owner: Option<Id>,
    /// The other part of the mark; `None` for volumes of an older agent, whose marks had none.
    pub maker: Option<Maker>,
    /// Whether the parent dataset was made with the volume.
    pub with_parent: bool,
}

/// The plan of [`super::Volumes::plan`] for one requested volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedVolume {
    /// The requested volume.
    pub wanted: VolumeSpec,
    /// The size that the volume will have or has.
    pub size_bytes: u64,
    /// The snapshot to clone.
    pub origin: Option<CloneOrigin>,
    /// The existing volume, if it is adopted.
    pub found: Option<StoredVolume>,
    /// The path for guests, as in [`StoredVolume::device`].
    pub device: PathBuf,
    /// Whether the parent dataset exists.
    pub parent_found: bool,
    /// A parent file system to make first: if it were made with the volume, it would be mounted, or a concurrent call
    /// might make it too.
    pub(super) made_first: Option<Dataset>,
}

impl PlannedVolume {
    /// Returns the volume for [`super::Volumes::take_back`]; `None` for an existing volume.
    pub fn to_make(&self) -> Option<CreatedVolume> {
        let VolumeSpec { volume, owner, maker, .. } = &self.wanted;
        let (owner, maker, with_parent) = (owner.clone(), maker.clone(), !self.parent_found);
        let made = CreatedVolume { volume: volume.clone(), owner, maker, with_parent };
        self.found.is_none().then_some(made)
    }

    /// Returns the size in whole MiB, rounded down: the wire's `size`.
    pub fn size_mib(&self) -> u64 {
        self.size_bytes / MIB
    }
}

/// The result of planning volumes, for each and for all together.
#[derive(Debug)]
pub struct VolumePlans {
    /// Each plan or its error, in the order of the request.
    pub each: Vec<Result<PlannedVolume, Error>>,
    /// Free bytes for the volumes.
    pub free_bytes: u64,
}

impl VolumePlans {
    /// Returns all plans, if all succeeded and fit together.
    ///
    /// # Errors
    /// The first error of a volume; [`Error::NoSpace`].
    pub fn all(self) -> Result<Vec<PlannedVolume>, Error> {
        let planned: Vec<PlannedVolume> = self.each.into_iter().collect::<Result<_, Error>>()?;
        check_space(&planned, self.free_bytes)?;
        Ok(planned)
    }

    /// Checks that the successful plans fit together.
    ///
    /// # Errors
    /// [`Error::NoSpace`].
    pub fn fit(&self) -> Result<(), Error> {
        check_space(self.each.iter().flatten(), self.free_bytes)
    }
}

/// An action that a store would take, for a dry run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Action {
    /// The action, as in `make volume`.
    pub what: &'static str,
    /// Full name of the dataset.
    pub name: String,
    /// The command, with its name first; empty if no command is used.
    pub command: Vec<String>,
    /// A description of an action without a command.
    pub detail: String,
    /// Full names of other datasets that the action includes.
    pub with: Vec<String>,
}

/// The result of a dry run for destroying a guest's volumes, if no process has them open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemovalPlan {
    /// The actions, in order.
    pub actions: Vec<Action>,
    /// Selected volumes that would stay.
    pub left: Vec<LeftoverVolume>,
    /// Full names of unselected datasets below, which belong to others.
    pub foreign: Vec<String>,
}

/// The snapshot of an image that a volume is cloned from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloneOrigin {
    /// The image's only or newest snapshot.
    pub snapshot: SnapshotName,
    /// The size of the snapshot.
    pub size_bytes: u64,
}

/// An existing volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredVolume {
    /// The name.
    pub name: Dataset,
    /// The size.
    pub size_bytes: u64,
    /// The path for guests: a block device, or a regular file in a directory store.
    pub device: PathBuf,
    /// Full name of the snapshot that the volume was cloned from.
    pub origin: Option<String>,
    /// The guest that the agent made it for.
    pub owner: Option<String>,
    /// The maker; `None` for volumes of an older agent or another tool.
    pub maker: Option<Maker>,
    /// Whether the volume was written to since it was made. A ZFS pool counts writes when it syncs, some seconds later;
    /// a plan for [`AdoptionRule::Unwritten`] waits for that.
    pub is_written: bool,
}

impl StoredVolume {
    /// Returns the size in whole MiB, rounded down: the wire's `size`.
    pub fn size_mib(&self) -> u64 {
        self.size_bytes / MIB
    }
}

/// An existing snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSnapshot {
    /// The name.
    pub name: SnapshotName,
    /// The bytes written since the previous snapshot (zfs: `written`); in a directory store its own size on disk.
    pub written_bytes: u64,
}

impl StoredSnapshot {
    /// Returns the written bytes in whole MiB, rounded down: the wire's `size`.
    pub fn size_mib(&self) -> u64 {
        self.written_bytes / MIB
    }
}

/// A complete image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredImage {
    /// The id.
    pub id: Id,
    /// The volume.
    pub volume: Dataset,
    /// The snapshot that guests are cloned from.
    pub snapshot: SnapshotName,
    /// The size that guests see.
    pub size_bytes: u64,
}

impl StoredImage {
    /// Returns the size in whole MiB, rounded down: the wire's `size`.
    pub fn size_mib(&self) -> u64 {
        self.size_bytes / MIB
    }
}

/// The source of an image.
pub enum ImageSource<'a> {
    /// A raw disk, from the start of the file to its end.
    Raw(&'a File),
    /// The stream of one volume from `zfs send`, from the file's position on. Only the zfs store supports it.
    ZfsStream(&'a File),
    /// A function that fills the volume itself, for example with `qemu-img convert -n`.
    Filled {
        /// The size of the image.
        size_bytes: u64,
        /// Receives the path of a block device or file of that size, all zeroes, and returns when it is written.
        fill: &'a mut dyn FnMut(&Path) -> io::Result<()>,
    },
}

/// The volumes that a removal keeps, by the paths of their devices or files, with links resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    users: BTreeMap<PathBuf, String>,
    /// Users by the uuid of a domain that owns volumes, attached or not.
    domains: BTreeMap<String, String>,
    /// A domain that may use any volume.
    unreadable: Option<String>,
    /// Paths of volumes that callers supplied.
    supplied: BTreeSet<PathBuf>,
}

impl InUse {
    /// Adds a path and its user, as in `domain web-1`. A removal reports such a volume instead of destroying it.
    pub fn add(&mut self, path: &Path, user: String) {
        self.users.insert(resolved(path), user);
    }

    /// Adds all volumes whose maker is the domain with this uuid.
    pub fn add_domain(&mut self, uuid: String, user: String) {
        self.domains.insert(uuid, user);
    }

    /// Adds a user whose disks are unknown: it may own any volume without a maker in its mark.
    pub fn add_unreadable(&mut self, user: String) {
        self.unreadable = Some(user);
    }

    /// Returns the user of all volumes with this maker.
    pub fn by_maker(&self, maker: Option<&Maker>) -> Option<String> {
        self.domains.get(maker?.domain_uuid()?).cloned()
    }

    /// Returns the user that keeps a volume from being destroyed: by its path, by its maker, or because a user's disks
    /// are unknown.
    pub(super) fn user_of(&self, device: &Path, maker: Option<&Maker>) -> Option<RetentionCause> {
        let known = self.by(device).or_else(|| self.by_maker(maker)).map(RetentionCause::Used);
        known.or_else(|| {
            self.unreadable.clone().filter(|_| maker.is_none()).map(RetentionCause::MayBeUsed)
        })
    }

    /// Adds the path of a volume that a caller supplied, and destroys itself. A removal never selects this volume.
    pub fn keep(&mut self, path: &Path) {
        self.supplied.insert(resolved(path));
    }

    /// Returns the user of the volume at this path.
    pub fn by(&self, path: &Path) -> Option<String> {
        if self.users.is_empty() {
            return None;
        }
        self.users.get(&resolved(path)).cloned()
    }

    /// Returns whether a caller supplied the volume at this path.
    pub(super) fn keeps(&self, path: &Path) -> bool {
        !self.supplied.is_empty() && self.supplied.contains(&resolved(path))
    }
}

/// The scope of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recursion {
    /// Only the named dataset.
    Itself,
    /// The named dataset and everything below it.
    Below,
}

/// Whether a rollback may destroy snapshots newer than its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewerSnapshots {
    /// Keep them: if any exists, the call is refused.
    Keep,
    /// Destroy them.
    Destroy,
}

/// Selection of a guest's volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSelection {
    /// The volumes that this agent made for the guest: by name and owner's mark.
    Marked,
    /// Those of them that belong to this domain.
    OfDomain(Maker),
    /// All volumes below `guests/<id>`, as the image store's methods select.
    Anyones,
}

impl VolumeSelection {
    /// Returns whether a volume with the owner's mark and this maker is selected.
    pub(super) fn means(&self, maker: Option<&str>) -> bool {
        match self {
            Self::Marked | Self::Anyones => true,
            Self::OfDomain(own) => maker == Some(own.as_str()),
        }
    }
}

/// The space of the store, as available to a new volume below `guests/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Free bytes, after quotas and reservations.
    pub free_bytes: u64,
    /// Used bytes, including reservations.
    pub used_bytes: u64,
}

/// The result of a removal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Full names of the destroyed volumes.
    pub destroyed: Vec<String>,
    /// Selected volumes that still exist.
    pub left: Vec<LeftoverVolume>,
    /// Full names of unselected datasets below, which belong to others.
    pub foreign: Vec<String>,
}

impl Removal {
    /// Adds the result of another removal.
    pub(crate) fn merge(&mut self, other: Self) {
        self.destroyed.extend(other.destroyed);
        self.left.extend(other.left);
        self.foreign.extend(other.foreign);
    }

    /// Records the outcome for a volume.
    pub(super) fn note(&mut self, name: &str, outcome: Result<(), RetentionCause>) {
        match outcome {
            Ok(()) => self.destroyed.push(name.to_owned()),
            Err(why) => self.left.push(LeftoverVolume { name: name.to_owned(), why }),
        }
    }

    /// Returns the destroyed volumes, if no selected one is left.
    ///
    /// # Errors
    /// [`Error::Left`].
    pub fn complete(self) -> Result<Vec<String>, Error> {
        if self.left.is_empty() { Ok(self.destroyed) } else { Err(Error::Left(self.left)) }
    }
}

/// Checks that the volumes that do not exist yet fit together. Sparse volumes need no space.
pub(super) fn check_space<'p>(
    planned: impl IntoIterator<Item = &'p PlannedVolume>,
    free_bytes: u64,
) -> Result<(), Error> {
    let reserved = planned
        .into_iter()
        .filter(|plan| plan.found.is_none() && plan.wanted.space == Space::Reserved)
        .map(|plan| plan.size_bytes);
    let needed_bytes = reserved.fold(0, u64::saturating_add);
    if needed_bytes > free_bytes {
        return Err(Error::NoSpace { needed_bytes, free_bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn volume_in_use_is_kept_by_any_path() {
        let directory = std::env::temp_dir().join(format!("mistify-kept-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (device, link) = (directory.join("zd0"), directory.join("disk-0"));
        fs::write(&device, "").unwrap();
        symlink(&device, &link).unwrap();
        let mut in_use = InUse::default();
        in_use.keep(&link);
        assert!(in_use.keeps(&link) && in_use.keeps(&device) && !in_use.keeps(&directory));
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn unreadable_domain_keeps_only_volumes_of_no_maker() {
        let mut in_use = InUse::default();
        in_use.add_domain("u-1".to_owned(), "domain a".to_owned());
        in_use.add_unreadable("domain b".to_owned());
        let user = |maker: Option<Maker>| in_use.user_of(Path::new("/absent"), maker.as_ref());
        assert_eq!(user(None), Some(RetentionCause::MayBeUsed("domain b".to_owned())));
        let used = Some(RetentionCause::Used("domain a".to_owned()));
        assert_eq!(user(Some(Maker::domain("u-1"))), used);
        assert_eq!(user(Some(Maker::domain("u-2"))), None);
        assert_eq!(user(Some(Maker::call())), None);
    }
}
