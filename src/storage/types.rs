//! What storage calls take and answer: plain data.

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

/// A volume that somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Its name.
    pub volume: Dataset,
    /// The image to clone; `None` for a blank volume.
    pub image: Option<Id>,
    /// Its size; with an image the least size, and 0 for the image's own.
    pub size_mib: u64,
    /// Whether its space is set aside.
    pub space: Space,
    /// The guest that it is for, as its mark; `None` for volumes that are nobody's.
    pub owner: Option<Id>,
    /// What it is made by, as the other part of its mark.
    pub maker: Option<Maker>,
    /// What a volume that exists has to be, to be taken for the wanted one.
    pub adoption: AdoptionRule,
    /// Whether a volume that is there without any mark will do: the original image agent set none.
    pub unmarked: bool,
    /// What a volume that is made begins with; `None` for zeroes, or what the image has.
    pub content: Option<Content>,
}

/// The beginning of a new volume. The content is secret: `Debug` does not print it.
#[derive(Clone, PartialEq, Eq)]
pub struct Content(Arc<[u8]>);

impl Content {
    /// These bytes, in whole blocks of the device.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }

    /// Writes it to the beginning of a volume, which has it on the disk when this returns.
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

/// What a volume or a snapshot was made by: a domain that it belongs to from then on, whatever the domain is
/// called, or a call of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maker(String);

/// Before the uuid of a call.
const CALL: &str = "call-";

impl Maker {
    /// The domain of this uuid.
    pub fn domain(uuid: &str) -> Self {
        Self(uuid.to_owned())
    }

    /// A new call.
    pub fn call() -> Self {
        Self(format!("{CALL}{}", random::uuid()))
    }

    /// One that was stored.
    pub fn stored(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// As it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The uuid of the domain, if it is one.
    pub fn domain_uuid(&self) -> Option<&str> {
        Some(self.as_str()).filter(|text| !text.starts_with(CALL))
    }
}

impl fmt::Display for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a volume that exists has to be, to be taken for a wanted one of the same name, size, origin and owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdoptionRule {
    /// Anything.
    Any,
    /// This domain's, by its mark or because the domain's definition names it; else as [`AdoptionRule::Unwritten`].
    OfDomain {
        /// The domain, as it marks volumes.
        maker: Maker,
        /// The sources of its disks.
        named: Vec<PathBuf>,
    },
    /// No domain's, and never written to: the guest is new, and gets nobody's data.
    Unwritten,
}

impl AdoptionRule {
    /// Whether this volume is adopted only where it is no domain's and was never written to.
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

/// Whether the space of a volume is set aside for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Its whole size is (zfs: `refreservation`): writes in it do not run out of space.
    Reserved,
    /// Nothing is: it takes what is written, and may be larger than the pool.
    Sparse,
}

/// A volume that was made, or was about to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedVolume {
    /// Its name.
    pub volume: Dataset,
    /// The mark that it has: without that one it is another volume.
    pub owner: Option<Id>,
    /// The other part of the mark; `None` of what an older agent made, whose marks had none.
    pub maker: Option<Maker>,
    /// Whether the dataset above it was made with it.
    pub with_parent: bool,
}

/// What [`super::Volumes::plan`] found out about one wanted volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedVolume {
    /// What is wanted.
    pub wanted: VolumeSpec,
    /// The size that it will have or has.
    pub size_bytes: u64,
    /// What it will be cloned from.
    pub origin: Option<CloneOrigin>,
    /// The volume, where it is there already and is adopted.
    pub found: Option<StoredVolume>,
    /// Where guests will find it, as in [`StoredVolume::device`].
    pub device: PathBuf,
    /// Whether the dataset above it was there.
    pub parent_found: bool,
    /// A file system above it that has to be made first: made along with the volume it would be
    /// mounted, or others may be making it too.
    pub(super) made_first: Option<Dataset>,
}

impl PlannedVolume {
    /// The volume as [`super::Volumes::take_back`] wants it; `None` for one that was found.
    pub fn to_make(&self) -> Option<CreatedVolume> {
        let VolumeSpec { volume, owner, maker, .. } = &self.wanted;
        let (owner, maker, with_parent) = (owner.clone(), maker.clone(), !self.parent_found);
        let made = CreatedVolume { volume: volume.clone(), owner, maker, with_parent };
        self.found.is_none().then_some(made)
    }

    /// The size in whole MiB, rounded down: the wire's `size`.
    pub fn size_mib(&self) -> u64 {
        self.size_bytes / MIB
    }
}

/// What came of planning volumes, each by itself and all together.
#[derive(Debug)]
pub struct VolumePlans {
    /// Each, in the order in which they were wanted; or why it cannot be.
    pub each: Vec<Result<PlannedVolume, Error>>,
    /// Bytes that are free for them.
    pub free_bytes: u64,
}

impl VolumePlans {
    /// All of them, which fit together.
    ///
    /// # Errors
    /// The first reason why one cannot be; [`Error::NoSpace`].
    pub fn all(self) -> Result<Vec<PlannedVolume>, Error> {
        let planned: Vec<PlannedVolume> = self.each.into_iter().collect::<Result<_, Error>>()?;
        check_space(&planned, self.free_bytes)?;
        Ok(planned)
    }

    /// Whether those that can be fit together.
    ///
    /// # Errors
    /// [`Error::NoSpace`].
    pub fn fit(&self) -> Result<(), Error> {
        check_space(self.each.iter().flatten(), self.free_bytes)
    }
}

/// Something that a store would do, for who asks before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Action {
    /// What, as in `make volume`.
    pub what: &'static str,
    /// Full name of the dataset.
    pub name: String,
    /// The command that does it, its name first; empty where it takes none.
    pub command: Vec<String>,
    /// How it is done without one.
    pub detail: String,
    /// Full names of what goes along.
    pub with: Vec<String>,
}

/// What destroying a guest's volumes would do, where nobody has them open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemovalPlan {
    /// In this order.
    pub actions: Vec<Action>,
    /// What would stay though it is meant.
    pub left: Vec<LeftoverVolume>,
    /// Full names of what lies below and is not meant: other people's.
    pub foreign: Vec<String>,
}

/// The snapshot of an image that a volume is cloned from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloneOrigin {
    /// The image's only or newest snapshot.
    pub snapshot: SnapshotName,
    /// Its size.
    pub size_bytes: u64,
}

/// A volume that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredVolume {
    /// Its name.
    pub name: Dataset,
    /// Its size.
    pub size_bytes: u64,
    /// Where guests find it: a block device, in a directory store a regular file.
    pub device: PathBuf,
    /// Full name of the snapshot that it was cloned from.
    pub origin: Option<String>,
    /// The guest that the agent made it for.
    pub owner: Option<String>,
    /// What it was made by; `None` for volumes of an older agent, and of others.
    pub maker: Option<Maker>,
    /// Whether something was written to it since it was made. A ZFS pool counts it when it syncs, some
    /// seconds later; a plan for [`AdoptionRule::Unwritten`] has waited for that.
    pub is_written: bool,
}

impl StoredVolume {
    /// The size in whole MiB, rounded down: the wire's `size`.
    pub fn size_mib(&self) -> u64 {
        self.size_bytes / MIB
    }
}

/// A snapshot that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSnapshot {
    /// Its name.
    pub name: SnapshotName,
    /// What was written since the one before (zfs: `written`); in a directory store its own size
    /// on disk.
    pub written_bytes: u64,
}

impl StoredSnapshot {
    /// What was written in whole MiB, rounded down: the wire's `size`.
    pub fn size_mib(&self) -> u64 {
        self.written_bytes / MIB
    }
}

/// A complete image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredImage {
    /// Its id.
    pub id: Id,
    /// Its volume.
    pub volume: Dataset,
    /// The snapshot that guests are cloned from.
    pub snapshot: SnapshotName,
    /// The size that guests see.
    pub size_bytes: u64,
}

impl StoredImage {
    /// The size in whole MiB, rounded down: the wire's `size`.
    pub fn size_mib(&self) -> u64 {
        self.size_bytes / MIB
    }
}

/// Where an image comes from.
pub enum ImageSource<'a> {
    /// A raw disk, from the file's beginning to its end.
    Raw(&'a File),
    /// The stream of one volume as `zfs send` makes it, from the file's position on. Only the zfs
    /// store takes it.
    ZfsStream(&'a File),
    /// Something that fills the volume itself, such as `qemu-img convert -n`.
    Filled {
        /// The size of the image.
        size_bytes: u64,
        /// Gets the path of a block device or file of that size, all zeroes, and returns when it is
        /// written.
        fill: &'a mut dyn FnMut(&Path) -> io::Result<()>,
    },
}

/// The volumes that a removal leaves, by the paths of their devices or files. Links are resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    users: BTreeMap<PathBuf, String>,
    /// By the uuid of a domain that volumes belong to, attached or not.
    domains: BTreeMap<String, String>,
    /// A domain that may use anything.
    unreadable: Option<String>,
    supplied: BTreeSet<PathBuf>,
}

impl InUse {
    /// Adds what this user has, as in `domain web-1`. A removal that would destroy it reports it.
    pub fn add(&mut self, path: &Path, user: String) {
        self.users.insert(resolved(path), user);
    }

    /// Names the user of every volume that was made for the domain of this uuid.
    pub fn add_domain(&mut self, uuid: String, user: String) {
        self.domains.insert(uuid, user);
    }

    /// Adds a user of whom nobody knows what it uses: a volume may be its own that no mark says the maker of.
    pub fn add_unreadable(&mut self, user: String) {
        self.unreadable = Some(user);
    }

    /// Returns the user of the volumes that were made by this maker.
    pub fn by_maker(&self, maker: Option<&Maker>) -> Option<String> {
        self.domains.get(maker?.domain_uuid()?).cloned()
    }

    /// Who keeps a volume from being destroyed: by its path, as its maker, or because nobody knows.
    pub(super) fn user_of(&self, device: &Path, maker: Option<&Maker>) -> Option<RetentionCause> {
        let known = self.by(device).or_else(|| self.by_maker(maker)).map(RetentionCause::Used);
        known.or_else(|| {
            self.unreadable.clone().filter(|_| maker.is_none()).map(RetentionCause::MayBeUsed)
        })
    }

    /// Adds what was handed in by a caller, who destroys it, by any path. It is not meant by a removal.
    pub fn keep(&mut self, path: &Path) {
        self.supplied.insert(resolved(path));
    }

    /// Who uses what is at this path.
    pub fn by(&self, path: &Path) -> Option<String> {
        if self.users.is_empty() {
            return None;
        }
        self.users.get(&resolved(path)).cloned()
    }

    /// Whether a caller has handed in what is at this path.
    pub(super) fn keeps(&self, path: &Path) -> bool {
        !self.supplied.is_empty() && self.supplied.contains(&resolved(path))
    }
}

/// How far a call reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recursion {
    /// What is named.
    Itself,
    /// What is named and all below it.
    Below,
}

/// Whether a rollback may destroy snapshots newer than the one that is rolled back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewerSnapshots {
    /// They stay: where there are any, the call is refused.
    Keep,
    /// They are destroyed.
    Destroy,
}

/// Which of a guest's volumes are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSelection {
    /// Those that this agent made for the guest: by name and owner's mark.
    Marked,
    /// Those of them that belong to this domain.
    OfDomain(Maker),
    /// All below `guests/<id>`, as the image store's methods do it.
    Anyones,
}

impl VolumeSelection {
    /// Whether a volume with the owner's mark and this maker is meant.
    pub(super) fn means(&self, maker: Option<&str>) -> bool {
        match self {
            Self::Marked | Self::Anyones => true,
            Self::OfDomain(own) => maker == Some(own.as_str()),
        }
    }
}

/// How full the store is, as a new volume below `guests/` would find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that are free, quotas and reservations counted.
    pub free_bytes: u64,
    /// Bytes in use, reservations among them.
    pub used_bytes: u64,
}

/// What a removal did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Full names of the volumes that are gone.
    pub destroyed: Vec<String>,
    /// What was to go and is still there.
    pub left: Vec<LeftoverVolume>,
    /// Full names of what lies below and was not meant: other people's.
    pub foreign: Vec<String>,
}

impl Removal {
    /// Adds what another removal did.
    pub(crate) fn merge(&mut self, other: Self) {
        self.destroyed.extend(other.destroyed);
        self.left.extend(other.left);
        self.foreign.extend(other.foreign);
    }

    /// Notes what became of a volume.
    pub(super) fn note(&mut self, name: &str, outcome: Result<(), RetentionCause>) {
        match outcome {
            Ok(()) => self.destroyed.push(name.to_owned()),
            Err(why) => self.left.push(LeftoverVolume { name: name.to_owned(), why }),
        }
    }

    /// The removed volumes, if every chosen volume is removed.
    ///
    /// # Errors
    /// [`Error::Left`].
    pub fn complete(self) -> Result<Vec<String>, Error> {
        if self.left.is_empty() { Ok(self.destroyed) } else { Err(Error::Left(self.left)) }
    }
}

/// Checks that the volumes which are still to be made fit together. Sparse ones take nothing.
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
