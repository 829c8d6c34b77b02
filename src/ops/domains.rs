//! What the definitions of the host's domains use: asked before a verb removes, rolls back, grows or
//! adopts something that another domain may have.
//!
//! It costs a round trip for the list and two or three for each domain.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use log::warn;

use crate::guest::domain::{Disk, VirDomain};
use crate::guest::network::NetworkMark;
use crate::guest::wire::Guest;
use crate::libvirt::{Code, Connection, Domain, Error, XmlKind};
use crate::ops::images::guest_of;
use crate::ops::{self, Libvirt};
use crate::os::disk::open_device;
use crate::os::files;
use crate::os::paths::resolved;
use crate::pool::{Hold, JobName, Lane};
use crate::storage::{self, InUse, Maker, Volumes};

/// The longest chain of qcow2 files that is followed (libvirt allows 200).
const CHAIN_MAX: usize = 200;

/// What one domain uses, by its definition and, while it runs, by what runs.
#[derive(Debug, Default)]
pub(super) struct DomainUse {
    /// Its name.
    pub(super) name: String,
    /// Its uuid.
    uuid: String,
    /// Whether it runs in any way.
    pub(super) runs: bool,
    /// Whether it is off with saved memory, which its disks have to fit.
    pub(super) is_saved: bool,
    /// Whether libvirt could not give its definition, or it could not be read: it may use anything.
    is_unreadable: bool,
    /// Networks that its interfaces are plugged into, in lower case.
    networks: BTreeSet<String>,
    /// Its disks. Their paths are followed only where a volume is asked for: one may lie on a file system
    /// that hangs.
    disks: Vec<Disk>,
}

/// How a domain uses a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VolumeUse {
    /// The volume is a source of one of its disks.
    Disk,
    /// A file on top of the volume is: what changes in the volume breaks that file.
    Backing,
}

impl DomainUse {
    /// Whether an interface is plugged into this network.
    pub(super) fn has_network(&self, name: &str) -> bool {
        self.networks.contains(&name.to_lowercase())
    }

    /// The same, where a domain that cannot be read counts as one that has such an interface.
    pub(super) fn may_have_network(&self, name: &str) -> bool {
        self.is_unreadable || self.has_network(name)
    }

    /// Whether this network was made for it. Marks of older agents have no uuid: there the name tells.
    pub(super) fn owns_network(&self, mark: &NetworkMark) -> bool {
        match mark.domain.as_str() {
            "" => self.name == mark.guest,
            uuid => self.uuid == uuid,
        }
    }

    /// Whether its definition cannot be read, or what a disk that it names lies on.
    pub(super) fn may_use_anything(&self) -> bool {
        self.is_unreadable || self.disks.iter().any(|disk| !Chain::of(disk).is_whole)
    }

    /// How the domain uses the volume at this path.
    pub(super) fn of_volume(&self, device: &Path) -> Option<VolumeUse> {
        let device = resolved(device);
        let is_at = |path: &PathBuf| resolved(path) == device;
        match () {
            () if self.backing().any(|path| is_at(&path)) => Some(VolumeUse::Backing),
            () if self.sources().any(|path| is_at(&path)) => Some(VolumeUse::Disk),
            () => None,
        }
    }

    /// Adds its disks and their backing files, and tells whether these are all.
    pub(super) fn add_paths_to(&self, in_use: &mut InUse) -> bool {
        let mut is_whole = !self.is_unreadable;
        for disk in &self.disks {
            let chain = Chain::of(disk);
            is_whole &= chain.is_whole;
            for path in std::iter::once(Path::new(disk.source.path()))
                .chain(chain.files.iter().map(PathBuf::as_path))
            {
                in_use.add(path, format!("domain {}", self.name));
            }
        }
        is_whole
    }

    /// Adds these and the volumes that belong to it, attached or not.
    pub(super) fn add_to(&self, in_use: &mut InUse) {
        let is_whole = self.add_paths_to(in_use);
        in_use.add_domain(self.uuid.clone(), format!("domain {}", self.name));
        if !is_whole {
            in_use.add_unreadable(format!("domain {}, whose definition cannot be read", self.name));
        }
    }

    /// Whether a volume belongs to it, attached or not.
    pub(super) fn has_made(&self, volume: &storage::Volume) -> bool {
        volume.maker.as_ref().and_then(Maker::domain_uuid) == Some(&self.uuid)
    }

    /// The sources of its disks.
    fn sources(&self) -> impl Iterator<Item = PathBuf> {
        self.disks.iter().map(|disk| PathBuf::from(disk.source.path()))
    }

    /// The files below these.
    fn backing(&self) -> impl Iterator<Item = PathBuf> {
        self.disks.iter().flat_map(|disk| Chain::of(disk).files)
    }

    fn read(domain: &Domain, name: String, is_saved: bool) -> Result<Option<Self>, Error> {
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
        // What saved memory has may have left the definition.
        let saved = found.is_saved.then(|| domain.managed_save_xml());
        for xml in kinds.iter().map(|kind| domain.xml(*kind)).chain(saved) {
            let read = match xml {
                Ok(xml) => VirDomain::from_xml(&xml).map_err(|error| error.to_string()),
                Err(error) if gone(error.code) => return Ok(None),
                Err(error) if error.connection_lost() => return Err(error),
                Err(error) => Err(error.to_string()),
            };
            match read {
                Ok(read) => found.add(&read),
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
        for disk in &domain.devices.disks {
            let path = disk.source.path();
            // While the domain runs libvirt names the files below a disk, in its first definition alone.
            if !path.is_empty() && self.disks.iter().all(|known| known.source.path() != path) {
                self.disks.push(disk.clone());
            }
        }
    }
}

/// What every domain of the host uses.
///
/// # Errors
/// When libvirt cannot be asked. For a domain that cannot be read the answer says so.
///
/// # Blocking
/// As long as libvirt takes for a call or two for each domain.
pub(super) fn all_uses(connection: &Connection) -> Result<Vec<DomainUse>, Error> {
    let saved = connection.saved_domain_names()?;
    let mut found = Vec::new();
    for domain in connection.list_domains()? {
        let name = domain.name()?;
        let is_saved = saved.contains(&name);
        found.extend(DomainUse::read(&domain, name, is_saved)?);
    }
    Ok(found)
}

/// The same without the domain of this name.
///
/// # Errors
/// As [`all_uses`].
pub(super) fn uses_of_others(connection: &Connection, id: &str) -> Result<Vec<DomainUse>, Error> {
    let mut found = all_uses(connection)?;
    found.retain(|domain| domain.name != id);
    Ok(found)
}

/// The disks and backing files of the domains other than `id`: what a verb on that guest's volumes leaves
/// alone, whatever mark a volume has.
///
/// # Errors
/// As [`all_uses`].
pub(super) fn in_use_by_others(connection: &Connection, id: &str) -> Result<InUse, Error> {
    let mut in_use = InUse::default();
    uses_of_others(connection, id)?.iter().for_each(|domain| domain.add_to(&mut in_use));
    Ok(in_use)
}

/// The files below a disk's source.
pub(super) struct Chain {
    /// From the top down.
    pub(super) files: Vec<PathBuf>,
    /// Whether these are all: `false` where a file could not be read or understood, or has a format whose
    /// backing files are not read here.
    is_whole: bool,
}

impl Chain {
    /// libvirt names the files for a domain that runs; of one that is off the qcow2 files themselves do. What
    /// lies below a file is read as qcow2 only where that file says so: a guest writes what it likes into a
    /// raw disk.
    pub(super) fn of(disk: &Disk) -> Self {
        if !disk.source.backing.is_empty() {
            let files = disk.source.backing.iter().map(PathBuf::from).collect();
            return Self { files, is_whole: true };
        }
        let mut chain = Self { files: Vec::new(), is_whole: true };
        let mut top = Some((PathBuf::from(disk.source.path()), disk.driver.kind.clone()));
        while let Some((file, format)) = top.take() {
            match format.as_str() {
                "" | "raw" => {}
                QCOW2 if chain.files.len() < CHAIN_MAX => match Backing::of(&file) {
                    Ok(Some(Backing { path, format })) => {
                        chain.files.push(path.clone());
                        top = Some((path, format));
                    }
                    Ok(None) => {}
                    Err(_) => chain.is_whole = false,
                },
                // Nobody here reads which files the others name.
                _ => chain.is_whole = false,
            }
        }
        chain
    }
}

const QCOW2: &str = "qcow2";

/// The backing file that a qcow2 file names.
struct Backing {
    path: PathBuf,
    /// Its format, by the word of the file on top; empty where that says nothing.
    format: String,
}

impl Backing {
    /// Reads the head of a qcow2 file (docs/interop/qcow2.txt of qemu); `None` where it has no backing
    /// file, is no qcow2 file, or does not exist.
    ///
    /// # Errors
    /// Where it cannot be read, has its data in another file, or names something that is no file.
    fn of(path: &Path) -> io::Result<Option<Self>> {
        // qemu's own bound for the first cluster, which holds the head.
        const HEAD_BYTES_MAX: u64 = 64 * 1024;
        const MAGIC: &[u8] = b"QFI\xfb";
        let real = resolved(path);
        let mut head = Vec::new();
        let read = fs::metadata(&real).and_then(|found| {
            if !found.is_file() && !found.file_type().is_block_device() {
                return Ok(0);
            }
            let file = open_device(files::straight(OpenOptions::new().read(true)), &real)?;
            file.take(HEAD_BYTES_MAX).read_to_end(&mut head)
        });
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(_) if !head.starts_with(MAGIC) => Ok(None),
            Ok(_) => Self::named_in(&head, path).ok_or_else(|| io::ErrorKind::InvalidData.into()),
        }
    }

    /// What the head names; the outer `None` where that cannot be told.
    fn named_in(head: &[u8], path: &Path) -> Option<Option<Self>> {
        const FORMAT: u32 = 0xe279_2aca;
        // Incompatible feature bit 2: the guest's data lies in another file, which this one may not name.
        const DATA_FILE: u32 = 1 << 2;
        // qemu's own bound.
        const NAME_BYTES_MAX: usize = 1023;
        let word = |at: usize| Some(u32::from_be_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let is_version_2 = word(4)? < 3;
        if !is_version_2 && word(76)? & DATA_FILE != 0 {
            return None;
        }
        let at =
            usize::try_from(word(8)?).ok()?.checked_shl(32)? | usize::try_from(word(12)?).ok()?;
        let size = usize::try_from(word(16)?).ok()?;
        if at == 0 || size == 0 {
            return Some(None);
        }
        if size > NAME_BYTES_MAX {
            return None;
        }
        let name = String::from_utf8(head.get(at..at.checked_add(size)?)?.to_vec()).ok()?;
        let name = name.strip_prefix("file:").unwrap_or(&name);
        // qemu takes a name with a colon before its first slash for a protocol's (`path_has_protocol`).
        if name.split('/').next().is_some_and(|start| start.contains(':')) {
            return None;
        }
        // Version 2 has 72 bytes before its extensions; later ones say how many.
        let mut next = if is_version_2 { 72 } else { usize::try_from(word(100)?).ok()? };
        let mut format = String::new();
        while let (Some(extension), Some(length)) = (word(next), word(next + 4)) {
            let length = usize::try_from(length).ok()?;
            let data = head.get(next + 8..(next + 8).checked_add(length)?).unwrap_or_default();
            match extension {
                0 => break,
                FORMAT => format = String::from_utf8_lossy(data).into_owned(),
                _ => {}
            }
            next = (next + 8).checked_add(length.next_multiple_of(8))?;
        }
        Some(Some(Self { path: path.parent().unwrap_or(Path::new("/")).join(name), format }))
    }
}

impl Libvirt {
    /// Why the sources that a caller has handed in for the guest `id` cannot be its disks, each with its
    /// place in the request: a volume of the store that has another guest's mark, or that another domain
    /// uses.
    ///
    /// # Errors
    /// When libvirt or storage cannot be asked.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(super) fn refused_sources(
        &self,
        verb: &str,
        id: &str,
        sources: Vec<(String, String)>,
        hold: Option<&Hold>,
        deadline: Instant,
    ) -> Result<Vec<ops::Error>, ops::Error> {
        if sources.is_empty() {
            return Ok(Vec::new());
        }
        let own = id.to_owned();
        let volumes = Arc::clone(&self.volumes);
        let names = move || {
            let named = sources.into_iter().filter_map(|(place, source)| {
                let name = volumes.name_of(Path::new(&source))?;
                Some((place, source, name))
            });
            named.collect::<Vec<_>>()
        };
        let named = self.aside(Lane::Read, JobName::new(verb, id), deadline, names)?;
        if named.is_empty() {
            return Ok(Vec::new());
        }
        let look = move |volumes: &dyn Volumes| {
            named
                .into_iter()
                .map(|(place, source, name)| {
                    let (owner, maker) = match volumes.volume(&name, deadline) {
                        Ok(volume) => (volume.owner, volume.maker),
                        // By their names they are the guest's own, whatever they are.
                        Err(storage::Error::NotFound { .. }) if guest_of(&name) == Some(&own) => {
                            (None, None)
                        }
                        Err(error) => return Err(error),
                    };
                    // A mark that is no guest's id is an image's, which is refused by its place.
                    let other = |owner: &String| *owner != own && !owner.starts_with('@');
                    Ok((place, source, (name, maker), owner.filter(other)))
                })
                .collect::<Result<Vec<_>, storage::Error>>()
        };
        let stored = self.on_storage(verb, id, hold, deadline, look)?;
        let asked = id.to_owned();
        let uses = move |connection: &Connection| {
            let own = match connection.lookup_domain_by_name(&asked) {
                Err(error) if error.code == Code::NO_DOMAIN => None,
                found => Some(found?.uuid()?),
            };
            Ok((own, in_use_by_others(connection, &asked)?))
        };
        let (own_uuid, in_use) = self.read(Lane::Read, verb, id, deadline, uses)?;
        let refused = stored.into_iter().filter_map(|(place, source, (name, maker), owner)| {
            // A renamed guest's volumes have its former id, and its domain's uuid.
            let is_own = own_uuid.is_some()
                && maker.as_ref().and_then(Maker::domain_uuid) == own_uuid.as_deref();
            if let Some(owner) = owner.filter(|_| !is_own) {
                let why = format!("{place}.source {source} is a volume of guest {owner}");
                return Some(ops::Error::Invalid(why));
            }
            let by = in_use.by(Path::new(&source)).or_else(|| in_use.by_maker(maker.as_ref()))?;
            Some(ops::Error::Taken(format!(
                "cannot use {place}.source {source}: {name} is used by {by}"
            )))
        });
        Ok(refused.collect())
    }

    /// The same where all of them have to be right.
    ///
    /// # Errors
    /// The first of [`Libvirt::refused_sources`]; as that.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub(super) fn check_sources(
        &self,
        verb: &str,
        id: &str,
        sources: Vec<(String, String)>,
        hold: &Hold,
        deadline: Instant,
    ) -> Result<(), ops::Error> {
        let refused = self.refused_sources(verb, id, sources, Some(hold), deadline)?;
        refused.into_iter().next().map_or(Ok(()), Err)
    }
}

/// The sources that a guest's disks name, each with its place in the request.
pub(super) fn sources(guest: &Guest) -> Vec<(String, String)> {
    let disks = guest.disks.iter().enumerate().filter(|(_, disk)| !disk.source.is_empty());
    disks.map(|(index, disk)| (format!("disks[{index}]"), disk.source.clone())).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The head of a qcow2 file that lies on top of `name`, which has this format.
    fn qcow2(name: &str, format: &str) -> Vec<u8> {
        let length = |text: &str| u32::try_from(text.len()).unwrap().to_be_bytes();
        let mut head = b"QFI\xfb\0\0\0\x02".to_vec();
        head.extend(256_u64.to_be_bytes());
        head.extend(length(name));
        head.resize(72, 0);
        head.extend(0xe279_2aca_u32.to_be_bytes());
        head.extend(length(format));
        head.extend(format.as_bytes());
        head.resize(256, 0);
        head.extend(name.as_bytes());
        head
    }

    fn files_of(disk: &Disk) -> Vec<PathBuf> {
        Chain::of(disk).files
    }

    #[test]
    fn a_chain_is_followed_as_its_files_say() {
        let folder = std::env::temp_dir().join(format!("mistify-chain-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = |name: &str| folder.join(name);
        fs::write(path("top"), qcow2("middle", "qcow2")).unwrap();
        fs::write(path("middle"), qcow2(path("base").to_str().unwrap(), "raw")).unwrap();
        // A guest that writes a head into its raw disk leads nowhere.
        fs::write(path("base"), qcow2("victim", "qcow2")).unwrap();
        fs::write(path("loop"), qcow2("loop", "qcow2")).unwrap();
        let mut disk = Disk::default();
        disk.source.file = path("top").display().to_string();
        disk.driver.kind = "qcow2".to_owned();
        assert_eq!(files_of(&disk), [path("middle"), path("base")]);
        disk.driver.kind = "raw".to_owned();
        assert!(files_of(&disk).is_empty(), "raw bytes are no head");
        disk.driver.kind = "qcow2".to_owned();
        disk.source.file = path("loop").display().to_string();
        assert_eq!(files_of(&disk).len(), CHAIN_MAX);
        disk.source.file = "/dev/null".to_owned();
        assert!(files_of(&disk).is_empty());
        for (name, content) in [("raw", &b"no head"[..]), ("absent", b"")] {
            if !content.is_empty() {
                fs::write(path(name), content).unwrap();
            }
            disk.source.file = path(name).display().to_string();
            assert!(Chain::of(&disk).is_whole, "{name}");
        }
        disk.source.backing = vec!["/by/libvirt".to_owned()];
        assert_eq!(files_of(&disk), [PathBuf::from("/by/libvirt")]);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_chain_of_an_unknown_format_is_not_whole() {
        let mut disk = Disk::default();
        disk.source.file = "/absent".to_owned();
        for (format, is_whole) in [
            ("", true),
            ("raw", true),
            ("qcow2", true),
            ("qcow", false),
            ("qed", false),
            ("vmdk", false),
            ("vpc", false),
        ] {
            format.clone_into(&mut disk.driver.kind);
            assert_eq!(Chain::of(&disk).is_whole, is_whole, "{format}");
        }
    }

    #[test]
    fn a_chain_that_leaves_the_files_is_not_whole() {
        let path = std::env::temp_dir().join(format!("mistify-odd-{}", std::process::id()));
        let mut disk = Disk::default();
        disk.source.file = path.display().to_string();
        disk.driver.kind = "qcow2".to_owned();
        let is_whole = |content: &[u8]| {
            fs::write(&path, content).unwrap();
            Chain::of(&disk).is_whole
        };
        for (name, format, expected) in [
            ("/base", "raw", true),
            ("file:/base", "raw", true),
            ("dir/a:b", "raw", true),
            ("/base", "qed", false),
            ("json:{\"driver\":\"raw\"}", "raw", false),
            ("host_device:/dev/zvol/tank/guests/a/disk-0", "raw", false),
            ("nbd://host/base", "raw", false),
            ("file:file:/base", "raw", false),
        ] {
            assert_eq!(is_whole(&qcow2(name, format)), expected, "{name} {format}");
        }
        // Version 3, whose head has 104 bytes, with and without an external data file.
        let mut head = b"QFI\xfb\0\0\0\x03".to_vec();
        head.resize(104, 0);
        head[103] = 104;
        assert!(is_whole(&head));
        head[79] = 1 << 2;
        assert!(!is_whole(&head), "its data lies elsewhere");
        let mut no_text = qcow2("/base", "raw");
        no_text[256] = 0xff;
        assert!(!is_whole(&no_text), "a name that is no text");
        assert!(!is_whole(b"QFI\xfb\0\0"), "a head that ends too early");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn an_unreadable_domain_may_use_any_network() {
        let unreadable = DomainUse { is_unreadable: true, ..DomainUse::default() };
        assert!(unreadable.may_have_network("any") && !unreadable.has_network("any"));
        assert!(!DomainUse::default().may_have_network("any"));
    }
}
