//! What the definitions of the host's domains use: asked before a verb removes, rolls back, grows or
//! adopts something that another domain may have.
//!
//! One round trip for the list and one or two for each domain, so a verb asks only where the answer
//! decides.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use log::warn;

use crate::guest::domain::{Disk, VirDomain};
use crate::guest::wire::Guest;
use crate::libvirt::{Code, Connection, Domain, Error, XmlKind};
use crate::ops::disks::resolved;
use crate::ops::images::guest_of;
use crate::ops::{self, Libvirt};
use crate::os::files;
use crate::pool::{Hold, Lane};
use crate::storage::{self, InUse, Volumes};

/// The longest chain of qcow2 files that is followed (libvirt allows 200).
const CHAIN_MAX: usize = 200;

/// What one domain uses, by its definition and, while it runs, by what runs.
#[derive(Debug, Default)]
pub(super) struct DomainUse {
    /// Its name.
    pub(super) name: String,
    /// Whether it runs in any way.
    pub(super) runs: bool,
    /// Whether libvirt could not give its definition, or it could not be read: it may use anything.
    pub(super) is_unreadable: bool,
    /// Networks that its interfaces are plugged into, in lower case.
    networks: BTreeSet<String>,
    /// Its disks' sources, without links.
    disks: BTreeSet<PathBuf>,
    /// What lies below these as a backing file, without links.
    backing: BTreeSet<PathBuf>,
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
    /// Whether an interface is plugged into this network. A domain that cannot be read may have one.
    pub(super) fn has_network(&self, name: &str) -> bool {
        self.is_unreadable || self.networks.contains(&name.to_lowercase())
    }

    /// How the domain uses the volume at this path.
    pub(super) fn of_volume(&self, device: &Path) -> Option<VolumeUse> {
        let device = resolved(device);
        match () {
            () if self.backing.contains(&device) => Some(VolumeUse::Backing),
            () if self.disks.contains(&device) => Some(VolumeUse::Disk),
            () => None,
        }
    }

    fn read(domain: &Domain, name: String) -> Result<Option<Self>, Error> {
        let gone = |code| code == Code::NO_DOMAIN;
        let mut found = Self { name, ..Self::default() };
        found.runs = match domain.is_active() {
            Ok(runs) => runs,
            Err(error) if gone(error.code) => return Ok(None),
            Err(error) => return Err(error),
        };
        let kinds: &[XmlKind] = match found.runs {
            true => &[XmlKind::Live, XmlKind::Inactive],
            false => &[XmlKind::Inactive],
        };
        for kind in kinds {
            let read = match domain.xml(*kind) {
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
            let source = disk.source.path();
            if source.is_empty() {
                continue;
            }
            self.disks.insert(resolved(Path::new(source)));
            self.backing.extend(backing_files(disk).iter().map(|path| resolved(path)));
        }
    }
}

/// What every domain of the host uses.
///
/// # Errors
/// When libvirt cannot be asked. A domain that cannot be read is none.
///
/// # Blocking
/// As long as libvirt takes for a call or two for each domain.
pub(super) fn all_uses(connection: &Connection) -> Result<Vec<DomainUse>, Error> {
    let mut found = Vec::new();
    for domain in connection.list_domains()? {
        found.extend(DomainUse::read(&domain, domain.name()?)?);
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
    for domain in uses_of_others(connection, id)? {
        for path in domain.disks.into_iter().chain(domain.backing) {
            in_use.add(path, format!("domain {}", domain.name));
        }
    }
    Ok(in_use)
}

/// The files below a disk's source: libvirt names them for a domain that runs; of one that is off the
/// qcow2 files themselves say it.
pub(super) fn backing_files(disk: &Disk) -> Vec<PathBuf> {
    if !disk.backing.is_empty() {
        return disk.backing.iter().map(PathBuf::from).collect();
    }
    let mut found = Vec::new();
    let mut top = PathBuf::from(disk.source.path());
    while disk.driver.kind == "qcow2" && found.len() < CHAIN_MAX {
        let Some(below) = qcow2_backing_file(&top) else { break };
        found.push(below.clone());
        top = below;
    }
    found
}

/// The backing file that a qcow2 file names (docs/interop/qcow2.txt of qemu); `None` where it has none,
/// is no qcow2 file, or cannot be read.
fn qcow2_backing_file(path: &Path) -> Option<PathBuf> {
    const MAGIC: &[u8] = b"QFI\xfb";
    // qemu's own bound.
    const NAME_BYTES_MAX: usize = 1023;
    let mut file = files::straight(OpenOptions::new().read(true)).open(resolved(path)).ok()?;
    let mut header = [0; 20];
    file.read_exact(&mut header).ok()?;
    let (magic, offset, size) = (&header[..4], &header[8..16], &header[16..20]);
    let offset = u64::from_be_bytes(offset.try_into().ok()?);
    let size = usize::try_from(u32::from_be_bytes(size.try_into().ok()?)).ok()?;
    if magic != MAGIC || offset == 0 || size == 0 || size > NAME_BYTES_MAX {
        return None;
    }
    let mut name = vec![0; size];
    file.read_exact_at(&mut name, offset).ok()?;
    let name = String::from_utf8(name).ok()?;
    let name = name.strip_prefix("file:").unwrap_or(&name);
    Some(path.parent().unwrap_or(Path::new("/")).join(name))
}

impl Libvirt {
    /// Why the sources that a caller has handed in for the guest `id` cannot be its disks, each with its
    /// place in the request: a volume of the store that has another guest's mark, or that another domain
    /// uses. Sources outside the store are not looked at.
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
        let look = move |volumes: &dyn Volumes| {
            let named = sources.into_iter().filter_map(|(place, source)| {
                let name = volumes.name_of(Path::new(&source))?;
                Some((place, source, name))
            });
            named
                .map(|(place, source, name)| {
                    // By their names they are the guest's own, and nobody else's mark is on them.
                    let owner = match guest_of(&name) == Some(&own) {
                        true => None,
                        false => volumes.volume(&name, deadline)?.owner,
                    };
                    Ok((place, source, name, owner.filter(|owner| *owner != own)))
                })
                .collect::<Result<Vec<_>, storage::Error>>()
        };
        let stored = self.on_storage(verb, id, hold, deadline, look)?;
        if stored.is_empty() {
            return Ok(Vec::new());
        }
        let asked = id.to_owned();
        let uses = move |connection: &Connection| Ok(in_use_by_others(connection, &asked)?);
        let in_use = self.read(Lane::Read, verb, id, deadline, uses)?;
        let refused = stored.into_iter().filter_map(|(place, source, name, owner)| {
            if let Some(owner) = owner {
                let why = format!("{place}.source {source} is a volume of guest {owner}");
                return Some(ops::Error::Invalid(why));
            }
            let by = in_use.by(Path::new(&source))?;
            Some(ops::Error::Taken(format!("{place}.source {source}: {name} is used by {by}")))
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

    /// The head of a qcow2 file that lies on top of `name`.
    fn qcow2(name: &str) -> Vec<u8> {
        let mut head = b"QFI\xfb\0\0\0\x03".to_vec();
        head.extend(64_u64.to_be_bytes());
        head.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
        head.resize(64, 0);
        head.extend(name.as_bytes());
        head
    }

    #[test]
    fn a_chain_of_qcow2_files_is_followed_to_its_end() {
        let folder = std::env::temp_dir().join(format!("mistify-chain-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = |name: &str| folder.join(name);
        fs::write(path("top"), qcow2("middle")).unwrap();
        fs::write(path("middle"), qcow2(path("base").to_str().unwrap())).unwrap();
        fs::write(path("base"), "raw").unwrap();
        fs::write(path("loop"), qcow2("loop")).unwrap();
        let mut disk = Disk::default();
        disk.source.file = path("top").display().to_string();
        disk.driver.kind = "qcow2".to_owned();
        assert_eq!(backing_files(&disk), [path("middle"), path("base")]);
        disk.driver.kind = "raw".to_owned();
        assert!(backing_files(&disk).is_empty(), "raw bytes are no header");
        disk.driver.kind = "qcow2".to_owned();
        disk.source.file = path("loop").display().to_string();
        assert_eq!(backing_files(&disk).len(), CHAIN_MAX);
        disk.backing = vec!["/by/libvirt".to_owned()];
        assert_eq!(backing_files(&disk), [PathBuf::from("/by/libvirt")]);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn an_unreadable_domain_may_use_any_network() {
        let unreadable = DomainUse { is_unreadable: true, ..DomainUse::default() };
        assert!(unreadable.has_network("any") && !DomainUse::default().has_network("any"));
    }
}
