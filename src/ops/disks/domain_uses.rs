//! Reads which resources the definitions of the host's domains use. The agent checks this before it removes, rolls
//! back, grows or adopts a resource that another domain may use.
//!
//! The cost is three round trips for lists, two or three for each domain, and three for each disk that is a volume of
//! one of libvirt's pools.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use log::{debug, warn};

use crate::guest::domain::{Device, Disk, VirDomain};
use crate::guest::network::NetworkMark;
use crate::guest::wire::{self, Guest};
use crate::libvirt::{Code, Connection, Domain, Error, XmlKind};
use crate::ops::disks::backing_chain::Chain;
use crate::ops::disks::volume_owners::{Expected, OtherDomains};
use crate::ops::{self, Core};
use crate::os::paths::resolved;
use crate::pool::{GuestLock, JobName, Lane};
use crate::storage::{self, InUse, Maker, Volumes};

/// The resources of one domain, by its definition and, while it runs, by its live definition.
#[derive(Debug, Default)]
pub(in crate::ops) struct DomainUse {
    /// The name of the domain.
    pub(in crate::ops) name: String,
    /// The uuid of the domain.
    pub(in crate::ops) uuid: String,
    /// Whether the domain is active.
    pub(in crate::ops) runs: bool,
    /// Whether the domain is off with saved memory, which its disks must match.
    pub(in crate::ops) is_saved: bool,
    /// Whether its definition is unavailable or unreadable. Such a domain may use any resource.
    is_unreadable: bool,
    /// The networks of its interfaces, in lower case.
    networks: BTreeSet<String>,
    /// Its disks. The agent follows their paths only to look for a volume: a path may be on a file system that hangs.
    disks: Vec<Disk>,
}

/// Why the resources of a domain are not fully known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum Unknown {
    /// The definition is unavailable or unreadable.
    Definition,
    /// A disk has no path, or its backing files could not be read.
    Chain,
}

impl Unknown {
    /// Returns why the domain prevents a change, as in [`ops::Error::InUse`].
    pub(in crate::ops) fn why(self) -> &'static str {
        match self {
            Self::Definition => "may use it: its definition cannot be read",
            Self::Chain => "may use it: the files below one of its disks are unknown",
        }
    }
}

/// How a domain uses a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum VolumeUse {
    /// The volume is the source of one of its disks.
    Disk,
    /// A file on top of the volume is the source; changes of the volume break that file.
    Backing,
}

impl DomainUse {
    /// Returns whether an interface is connected to this network.
    pub(in crate::ops) fn has_network(&self, name: &str) -> bool {
        self.networks.contains(&name.to_lowercase())
    }

    /// Returns whether an interface may be connected to this network; always `true` for an unreadable domain.
    pub(in crate::ops) fn may_have_network(&self, name: &str) -> bool {
        self.is_unreadable || self.has_network(name)
    }

    /// Returns whether this network was made for the domain. Marks of older agents have no uuid: there the name
    /// decides.
    pub(in crate::ops) fn owns_network(&self, mark: &NetworkMark) -> bool {
        match mark.domain.as_str() {
            "" => self.name == mark.guest,
            uuid => self.uuid == uuid,
        }
    }

    /// Returns why the resources of the domain are not fully known; `None` if its definition and its files are
    /// readable.
    pub(in crate::ops) fn unknown_use(&self) -> Option<Unknown> {
        match self.is_unreadable {
            true => Some(Unknown::Definition),
            false => self.has_unknown_chain().then_some(Unknown::Chain),
        }
    }

    /// Returns why the domain may use a volume below `guests/<id>` that neither its definition nor its files name. The
    /// volume must belong to this domain, or to none.
    pub(in crate::ops) fn may_use(
        &self,
        volume: &storage::StoredVolume,
        id: &str,
    ) -> Option<Unknown> {
        let maker = volume.maker.as_ref().and_then(Maker::domain_uuid);
        let may_be_its = self.name == id || maker.is_none_or(|uuid| uuid == self.uuid);
        if may_be_its { self.unknown_use() } else { None }
    }

    /// Returns whether the backing files of one of its disks are unknown.
    pub(in crate::ops) fn has_unknown_chain(&self) -> bool {
        self.disks.iter().any(|disk| !Chain::of(disk).is_whole)
    }

    /// Returns how the domain uses the volume at this path.
    pub(in crate::ops) fn of_volume(&self, device: &Path) -> Option<VolumeUse> {
        let device = resolved(device);
        let is_at = |path: &PathBuf| resolved(path) == device;
        match () {
            () if self.backing().any(|path| is_at(&path)) => Some(VolumeUse::Backing),
            () if self.sources().any(|path| is_at(&path)) => Some(VolumeUse::Disk),
            () => None,
        }
    }

    /// Adds the domain's disks and their backing files; returns whether the list is complete.
    pub(in crate::ops) fn add_paths_to(&self, in_use: &mut InUse) -> bool {
        let (paths, is_whole) = self.paths();
        paths.iter().for_each(|path| in_use.add(path, format!("domain {}", self.name)));
        is_whole
    }

    /// Returns the domain's disks and their backing files, and whether the list is complete.
    ///
    /// # Blocking
    /// Until the file systems of these files answer.
    pub(in crate::ops) fn paths(&self) -> (Vec<PathBuf>, bool) {
        let (mut paths, mut is_whole): (Vec<_>, _) =
            (self.sources().collect(), !self.is_unreadable);
        for chain in self.disks.iter().map(Chain::of) {
            is_whole &= chain.is_whole;
            paths.extend(chain.files);
        }
        (paths, is_whole)
    }

    /// Adds the domain's disks, their backing files and the volumes that belong to the domain, attached or not.
    pub(in crate::ops) fn add_to(&self, in_use: &mut InUse) {
        let is_whole = self.add_paths_to(in_use);
        in_use.add_domain(self.uuid.clone(), format!("domain {}", self.name));
        if !is_whole {
            let what = match self.is_unreadable {
                true => "whose definition cannot be read",
                false => "which has a disk with unknown files below it",
            };
            in_use.add_unreadable(format!("domain {}, {what}", self.name));
        }
    }

    /// Returns whether a volume belongs to the domain, attached or not.
    pub(in crate::ops) fn has_made(&self, volume: &storage::StoredVolume) -> bool {
        volume.maker.as_ref().and_then(Maker::domain_uuid) == Some(&self.uuid)
    }

    /// Returns the sources of the domain's disks.
    pub(in crate::ops) fn sources(&self) -> impl Iterator<Item = PathBuf> {
        let named = self.disks.iter().filter(|disk| !disk.is_unnamed());
        named.map(|disk| PathBuf::from(disk.source.path()))
    }

    /// Returns the backing files of the domain's disks.
    fn backing(&self) -> impl Iterator<Item = PathBuf> {
        self.disks.iter().flat_map(|disk| Chain::of(disk).files)
    }

    /// Returns the resources of a guest with these definitions, the live one first.
    pub(in crate::ops) fn of(definitions: &[&VirDomain]) -> Self {
        let mut found = Self::default();
        definitions.iter().for_each(|it| found.add(it));
        found
    }

    /// Reads the resources of a domain; `None` if the domain no longer exists.
    fn read(
        (connection, known): (&Connection, &mut PoolVolumes),
        domain: &Domain,
        name: String,
        is_saved: bool,
    ) -> Result<Option<Self>, Error> {
        let gone = |code| code == Code::NO_DOMAIN;
        let mut found = Self { name, uuid: domain.uuid()?, ..Self::default() };
        found.runs = match domain.is_active() {
            Ok(runs) => runs,
            Err(error) if gone(error.code) => return Ok(None),
            Err(error) => return Err(error),
        };
        let kinds: &[XmlKind] = match found.runs {
            true => &[XmlKind::Live, XmlKind::Inactive],
            false => &[XmlKind::Inactive],
        };
        found.is_saved = is_saved && !found.runs;
        // The definition may have lost devices that the saved memory has.
        let saved = found.is_saved.then(|| domain.managed_save_xml());
        for xml in kinds.iter().map(|kind| domain.xml(*kind)).chain(saved) {
            let read = match xml {
                Ok(xml) => VirDomain::from_xml(&xml).map_err(|error| error.to_string()),
                Err(error) if gone(error.code) => return Ok(None),
                Err(error) if error.connection_lost() => return Err(error),
                Err(error) => Err(error.to_string()),
            };
            match read {
                Ok(mut read) => {
                    name_volumes(connection, known, &mut read);
                    found.add(&read);
                }
                Err(why) => {
                    warn!("cannot read the definition of domain {:?}: {why}", found.name);
                    found.is_unreadable = true;
                }
            }
        }
        Ok(Some(found))
    }

    fn add(&mut self, domain: &VirDomain) {
        let interfaces = domain.devices.interfaces.iter();
        let networks = interfaces.map(|interface| interface.source.network.to_lowercase());
        self.networks.extend(networks.filter(|name| !name.is_empty()));
        for disk in domain.devices.disks.iter().chain(&domain.devices.beside_disks) {
            let path = disk.source.path();
            // libvirt names the backing files of a running domain, only in its live definition, which is the first.
            let is_new = self.disks.iter().all(|known| known.source.path() != path);
            if is_new && (!path.is_empty() || disk.is_unnamed()) {
                self.disks.push(disk.clone());
            }
        }
    }
}

/// Replaces volumes of libvirt's pools by their paths. The paths stay unset for a pool that is not active, or that has
/// neither files nor devices.
fn name_volumes(connection: &Connection, known: &mut PoolVolumes, domain: &mut VirDomain) {
    let Device { disks, beside_disks, .. } = &mut domain.devices;
    for disk in disks.iter_mut().chain(beside_disks).filter(|disk| disk.kind == "volume") {
        let source = &mut disk.source;
        let name = (source.pool.clone(), source.volume.clone());
        let path = known.entry(name).or_insert_with_key(|(pool, volume)| {
            match connection.volume_path(pool, volume) {
                Ok(path) => Some(path).filter(|path| path.starts_with('/')),
                Err(error) => {
                    debug!("cannot find volume {volume:?} of pool {pool:?}: {error}");
                    None
                }
            }
        });
        if let Some(path) = path {
            source.file.clone_from(path);
            "file".clone_into(&mut disk.kind);
        }
    }
}

/// The paths that libvirt has returned so far, by storage pool and volume; `None` if it returned none.
type PoolVolumes = BTreeMap<(String, String), Option<String>>;

/// Returns the resources of the `wanted` domains, selected by name and handle, without domains that no longer exist.
///
/// # Errors
/// If libvirt does not answer. An unreadable domain is no error; the result has a flag for it.
///
/// # Blocking
/// Until libvirt has answered the calls that this file's header counts; three times as long if domains are saved
/// meanwhile.
pub(super) fn uses_of(
    connection: &Connection,
    wanted: impl Fn(&str, &Domain) -> bool,
) -> Result<Listed, Error> {
    const TRIES: usize = 3;
    // Before the domains are listed: a domain that is restored meanwhile then runs.
    let mut saved = connection.saved_domain_names()?;
    let mut listed = Listed::default();
    for _ in 0..TRIES {
        let mut known = PoolVolumes::new();
        listed = Listed::default();
        for domain in connection.list_domains()? {
            let name = domain.name()?;
            if wanted(&name, &domain) {
                let reader = (connection, &mut known);
                let used = DomainUse::read(reader, &domain, name.clone(), saved.contains(&name))?;
                listed.found.extend(used.map(|used| (domain, used)));
            }
            listed.names.insert(name);
        }
        // A domain that was saved meanwhile was read without its saved memory.
        let now = match listed.found.is_empty() {
            true => break,
            false => connection.saved_domain_names()?,
        };
        if now.is_subset(&saved) {
            break;
        }
        saved = now;
    }
    Ok(listed)
}

/// The resources of the listed domains.
#[derive(Default)]
pub(super) struct Listed {
    /// The names of all domains.
    pub(super) names: BTreeSet<String>,
    /// The wanted domains.
    pub(super) found: Vec<(Domain, DomainUse)>,
}

/// Returns the resources of every domain of the host.
///
/// # Errors
/// As [`uses_of`].
///
/// # Blocking
/// As [`uses_of`].
pub(in crate::ops) fn all_uses(connection: &Connection) -> Result<Vec<DomainUse>, Error> {
    let listed = uses_of(connection, |_, _| true)?;
    Ok(listed.found.into_iter().map(|(_, used)| used).collect())
}

/// Returns the resources of every domain but the one of this name.
///
/// # Errors
/// As [`all_uses`].
pub(in crate::ops) fn uses_of_others(
    connection: &Connection,
    id: &str,
) -> Result<Vec<DomainUse>, Error> {
    let listed = uses_of(connection, |name, _| name != id)?;
    Ok(listed.found.into_iter().map(|(_, used)| used).collect())
}

/// Returns the disks and backing files of all domains but `id`. A change of that guest's volumes does not touch them,
/// whatever their marks say.
///
/// # Errors
/// As [`all_uses`].
pub(super) fn in_use_by_others(connection: &Connection, id: &str) -> Result<InUse, Error> {
    let mut in_use = InUse::default();
    uses_of_others(connection, id)?.iter().for_each(|domain| domain.add_to(&mut in_use));
    Ok(in_use)
}

impl Core {
    /// Returns why the sources that a caller names for the guest `id` cannot be its disks, each with its member of the
    /// request: a source may be a volume of the store with another guest's mark, or in use by another domain.
    ///
    /// # Errors
    /// If libvirt or storage does not answer.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(in crate::ops) fn refused_sources(
        &self,
        verb: &str,
        id: &str,
        sources: Vec<(String, String)>,
        lock: Option<&GuestLock>,
        deadline: Instant,
    ) -> Result<Vec<ops::Error>, ops::Error> {
        if sources.is_empty() {
            return Ok(Vec::new());
        }
        let own = id.to_owned();
        let volumes = Arc::clone(&self.volumes);
        let find_named = move || {
            let named = sources.into_iter().filter_map(|(place, source)| {
                let name = volumes.name_of(Path::new(&source))?;
                Some((place, source, name))
            });
            named.collect::<Vec<_>>()
        };
        let named = self.aside(Lane::Read, JobName::new(verb, id), deadline, find_named)?;
        if named.is_empty() {
            return Ok(Vec::new());
        }
        let look = move |volumes: &dyn Volumes| {
            named
                .into_iter()
                .map(|(place, source, name)| {
                    let (owner, maker) = match volumes.volume(&name, deadline) {
                        Ok(volume) => (volume.owner, volume.maker),
                        // A missing volume has no owner; the first domain that names it owns it.
                        Err(storage::Error::NotFound { .. }) => (None, None),
                        Err(error) if Expected::Unknown.allows(&error) => (None, None),
                        Err(error) => return Err(error),
                    };
                    // A mark that is not a guest's id is an image's; images are refused by their path.
                    let other = |owner: &String| *owner != own && !owner.starts_with('@');
                    Ok((place, source, (name, maker), owner.filter(other)))
                })
                .collect::<Result<Vec<_>, storage::Error>>()
        };
        let stored = self.on_storage(verb, id, lock, deadline, look)?;
        let OtherDomains { own_uuid, in_use } = self.others(verb, id, deadline)?;
        let refused = stored.into_iter().filter_map(|(place, source, (name, maker), owner)| {
            // The volumes of a renamed guest have its former id, and the uuid of its domain.
            let is_own = own_uuid.is_some()
                && maker.as_ref().and_then(Maker::domain_uuid) == own_uuid.as_deref();
            if let Some(owner) = owner.filter(|_| !is_own) {
                let why = format!("{place}.source {source} is a volume of guest {owner}");
                return Some(ops::Error::Invalid(why));
            }
            if name.is_seed() {
                let why = format!("{place}.source {source} is a guest's seed");
                return Some(ops::Error::Invalid(why));
            }
            let by = in_use.by(Path::new(&source)).or_else(|| in_use.by_maker(maker.as_ref()))?;
            Some(ops::Error::Taken(format!(
                "cannot use {place}.source {source}: {name} is used by {by}"
            )))
        });
        Ok(refused.collect())
    }

    /// Refuses the sources of a caller if one of them cannot be the guest's disk.
    ///
    /// # Errors
    /// The first error of [`Core::refused_sources`]; as that.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(in crate::ops) fn check_sources(
        &self,
        verb: &str,
        id: &str,
        sources: Vec<(String, String)>,
        lock: &GuestLock,
        deadline: Instant,
    ) -> Result<(), ops::Error> {
        let refused = self.refused_sources(verb, id, sources, Some(lock), deadline)?;
        refused.into_iter().next().map_or(Ok(()), Err)
    }
}

/// Returns the sources of a guest's disks, each with its member of the request. Media of CD-ROMs are not included.
pub(in crate::ops) fn sources(guest: &Guest) -> Vec<(String, String)> {
    let disks = guest.disks.iter().enumerate();
    disks.filter_map(|(index, disk)| source(disk, &format!("disks[{index}]"))).collect()
}

/// Returns the source of one disk, with this member of the request; `None` for a CD-ROM, whose medium guests may share.
pub(in crate::ops) fn source(disk: &wire::GuestDisk, place: &str) -> Option<(String, String)> {
    let is_handed_in = !disk.source.is_empty() && !disk.is_cdrom();
    is_handed_in.then(|| (place.to_owned(), disk.source.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the resources of a domain with this disk.
    fn with_disk(disk: &str) -> DomainUse {
        let xml = format!("<domain><name>a</name><devices>{disk}</devices></domain>");
        DomainUse::of(&[&VirDomain::from_xml(&xml).unwrap()])
    }

    #[test]
    fn a_disk_without_a_path_may_be_any_volume() {
        for (disk, is_unknown) in [
            ("<disk type='volume'><source pool='default' volume='a'/></disk>", true),
            ("<disk type='dir'><driver type='fat'/><source dir='/srv'/></disk>", true),
            ("<disk type='network'><source protocol='rbd' name='a'/></disk>", false),
            ("<disk type='file' device='cdrom'/>", false),
        ] {
            let found = with_disk(disk);
            assert_eq!(found.unknown_use().is_some(), is_unknown, "{disk}");
            assert_eq!(found.sources().count(), 0, "{disk}");
        }
    }

    #[test]
    fn copies_and_data_files_are_in_use() {
        let found = with_disk(
            "<disk type='file'><driver type='qcow2'/>\
             <source file='/absent/a'><dataStore type='file'><format type='raw'/>\
             <source file='/absent/data'/></dataStore></source>\
             <mirror type='block' job='copy'><format type='raw'/><source dev='/absent/copy'/></mirror>\
             </disk>",
        );
        for path in ["/absent/a", "/absent/data", "/absent/copy"] {
            assert_eq!(found.of_volume(Path::new(path)), Some(VolumeUse::Disk), "{path}");
        }
        let copy = with_disk(
            "<disk type='file'><source file='/absent/a'/>\
             <mirror type='volume' job='copy'><source pool='p' volume='v'/></mirror></disk>",
        );
        assert_eq!(copy.unknown_use(), Some(Unknown::Chain));
    }

    #[test]
    fn unknown_domain_may_use_own_and_unowned_volumes() {
        let unknown = DomainUse {
            name: "a".to_owned(),
            uuid: "u-1".to_owned(),
            is_unreadable: true,
            ..DomainUse::default()
        };
        let pool = storage::PoolName::parse("tank").unwrap();
        let volume = |maker: Option<Maker>| storage::StoredVolume {
            name: pool.dataset("guests/b/disk-0").unwrap(),
            size_bytes: 0,
            device: PathBuf::from("/absent"),
            origin: None,
            owner: None,
            maker,
            is_written: true,
        };
        let may_use = |maker, id| unknown.may_use(&volume(maker), id).is_some();
        assert!(may_use(None, "b") && may_use(Some(Maker::call()), "b"));
        assert!(
            may_use(Some(Maker::domain("u-1")), "b") && may_use(Some(Maker::domain("u-2")), "a")
        );
        assert!(!may_use(Some(Maker::domain("u-2")), "b"), "another guest's");
    }

    #[test]
    fn an_unreadable_domain_may_use_any_network() {
        let unreadable = DomainUse { is_unreadable: true, ..DomainUse::default() };
        assert!(unreadable.may_have_network("any") && !unreadable.has_network("any"));
        assert!(!DomainUse::default().may_have_network("any"));
    }
}
