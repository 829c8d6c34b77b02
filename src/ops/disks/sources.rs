//! Disk sources: which paths are allowed, and the kind of each source.

use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::config::{HostConfig, Store};
use crate::guest::domain::{RAW, SourceKind, VirDomain};
use crate::guest::paths::{allowed, directories, disk_roots, zvols};
use crate::guest::wire::{CDROM, Guest, GuestDisk};
use crate::ops::Error;
use crate::os::paths::{lexically_normal, resolved};
use crate::os::resolve::{ResolveError, Resolved, TrustedUsers, is_absent, resolve};
use crate::os::{disk, files};
use crate::storage::PoolName;
use crate::storage::format::{self, Format};

/// The directories of images and of guests' volumes in a store.
const IMAGES: &str = "images/";
const GUESTS: &str = "guests/";
/// The directory of the kernel's devices.
const DEVICES: &str = "/dev";

/// Checks each disk's source, and returns the kind of each, in order.
///
/// A source must be a volume of the pool by a link in `/dev/zvol/<pool>`, or a path in an allowed directory after its
/// links are resolved. In both cases nobody but root and the agent's user may be able to redirect the path afterwards.
/// A device is allowed only in an allowed directory below `/dev`.
///
/// In the pool and in the directory store only volumes below `guests/` are sources, whatever is allowed: otherwise a
/// guest could write into an image, a snapshot or a mark.
///
/// A source that does not exist is checked by its path and counts as a block device, because its volume may be made
/// later. A mount counts as the directory that it covers: only root can mount.
///
/// A disk outside the store in another format than raw, as qcow2, is refused, whatever is allowed. If the request says
/// that it is qcow2, it is accepted, and must need no other file.
///
/// A CD-ROM's medium may also be an image of the store, but none of its volumes. It must exist; a drive without a
/// medium counts as a file.
///
/// # Errors
/// [`Error::Invalid`] with the name of the disk.
///
/// # Blocking
/// Until the file systems answer `stat`, so only a worker may call this.
pub(in crate::ops) fn judge(guest: &Guest, host: &HostConfig) -> Result<Vec<SourceKind>, Error> {
    judge_each(guest, host).collect()
}

/// Checks each disk's source like [`judge`], each with its own result.
pub(in crate::ops) fn judge_each(
    guest: &Guest,
    host: &HostConfig,
) -> impl Iterator<Item = Result<SourceKind, Error>> {
    let rule = Rule::of(host);
    let disks = guest.disks.iter().enumerate();
    disks.map(move |(index, disk)| rule.judge_named(disk, &format!("disks[{index}]")))
}

/// Checks the source of one disk, which errors call `place`.
///
/// # Errors
/// As [`judge`].
///
/// # Blocking
/// As [`judge`].
pub(in crate::ops) fn judge_one(
    disk: &GuestDisk,
    place: &str,
    host: &HostConfig,
) -> Result<SourceKind, Error> {
    Rule::of(host).judge_named(disk, place)
}

/// Checks the sources of a domain before its start, whether or not this agent defined it: links and options may have
/// changed since. libvirt reports a source that does not exist.
///
/// # Errors
/// As [`judge`].
///
/// # Blocking
/// As [`judge`].
pub(in crate::ops) fn judge_start(domain: &VirDomain, host: &HostConfig) -> Result<(), Error> {
    let rule = Rule::of(host);
    for disk in &domain.devices.disks {
        let source = disk.source.path();
        // A drive without a medium, or a source without a path.
        if source.is_empty() {
            continue;
        }
        if let Err(why) = rule.look(Path::new(source), disk.device == CDROM) {
            return Err(Error::Invalid(why.replace("{disk}", &disk.target.device)));
        }
    }
    Ok(())
}

/// Adds the names of the domain's missing disks to the error of a start.
///
/// # Blocking
/// As [`judge`].
pub(in crate::ops) fn name_missing(domain: &VirDomain, cause: Error) -> Error {
    let disks = domain.devices.disks.iter().filter(|disk| !disk.source.path().is_empty());
    let missing = disks.filter(|disk| is_missing(disk.source.path()));
    let missing: Vec<String> =
        missing.map(|disk| format!("{} {}", disk.target.device, disk.source.path())).collect();
    if missing.is_empty() {
        return cause;
    }
    Error::DisksMissing { disks: missing, cause: Box::new(cause) }
}

/// Returns whether nothing exists at a path.
pub(in crate::ops) fn is_missing(path: &str) -> bool {
    fs::metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// The allowed sources of a host.
struct Rule {
    /// `None` without a store.
    zpool: Option<String>,
    /// The pool's directory in `/dev/zvol`, without links; `None` if that path is not safe.
    zvols: Option<PathBuf>,
    /// The other allowed directories, without links; unsafe paths are left out.
    directories: Vec<PathBuf>,
    /// The directory store, without links, if the host has one.
    store: Option<PathBuf>,
    /// The allowed directories as configured, for error texts.
    shown: Vec<PathBuf>,
    /// Whether every path is allowed, as with the original agent.
    any: bool,
}

/// The result of resolving a source.
enum Source {
    Found(SourceKind),
    Absent { is_inside: bool },
}

impl Rule {
    fn of(host: &HostConfig) -> Self {
        let shown = disk_roots(host);
        let any =
            shown.iter().any(|root| lexically_normal(root).is_some_and(|it| it == Path::new("/")));
        let real = |root: &PathBuf| {
            resolve(root, TrustedUsers::own()).map(|place| place.real().to_owned()).ok()
        };
        let zvols = zvols(host).as_ref().and_then(real);
        let directories = directories(host).iter().filter_map(real).collect();
        let store = match &host.store {
            Store::Directory(root) => Some(resolved(root)),
            Store::Zfs | Store::None => None,
        };
        let zpool = (host.store != Store::None).then(|| host.zpool.clone());
        Self { zpool, zvols, directories, store, shown, any }
    }

    /// Checks the source of a disk, which errors call `place`.
    fn judge_named(&self, disk: &GuestDisk, place: &str) -> Result<SourceKind, Error> {
        let named = |why: String| Error::Invalid(why.replace("{disk}", place));
        self.judge(disk).map_err(named)
    }

    /// Returns the kind of the source of a disk that a request names.
    fn judge(&self, disk: &GuestDisk) -> Result<SourceKind, String> {
        let (source, is_cdrom) = (Path::new(&disk.source), disk.is_cdrom());
        if source.as_os_str().is_empty() {
            return match is_cdrom {
                true => Ok(SourceKind::File),
                false => Err("{disk} has no source".to_owned()),
            };
        }
        match self.look(source, is_cdrom)? {
            Source::Found(kind) => self.check_format(source, kind, &disk.format).map(|()| kind),
            Source::Absent { is_inside: true } if is_cdrom => {
                Err(format!("{{disk}}.source {} does not exist", source.display()))
            }
            Source::Absent { is_inside: true } => Ok(SourceKind::Block),
            Source::Absent { is_inside: false } => Err(self.outside(source)),
        }
    }

    /// Returns the kind of an allowed source, or that it does not exist; for a disk or a CD-ROM.
    fn look(&self, source: &Path, is_cdrom: bool) -> Result<Source, String> {
        let failed = |error: io::Error| format!("{{disk}}.source {}: {error}", source.display());
        self.check_stored(source, is_cdrom)?;
        if self.any && source.is_absolute() {
            return match fs::metadata(source) {
                Ok(found) => kind(source, &found).map(Source::Found),
                Err(error) if is_absent(&error) => Ok(Source::Absent { is_inside: true }),
                Err(error) => Err(failed(error)),
            };
        }
        match resolve(source, TrustedUsers::own()) {
            Ok(Resolved::Absent { real }) => {
                let is_inside = self.is_in_zvols(&real) || self.has(&real);
                Ok(Source::Absent { is_inside })
            }
            Ok(Resolved::Found { real, found, link }) => {
                let is_device = found.file_type().is_block_device();
                let link = link.as_deref().unwrap_or(&real);
                let is_zvol = self.is_in_zvols(&real) || self.is_in_zvols(link);
                if is_device && is_zvol && self.is_volume(&real).map_err(failed)? {
                    return Ok(Source::Found(SourceKind::Block));
                }
                if !self.has(&real) {
                    return Err(self.outside(source));
                }
                if is_device && !self.has_device(&real) {
                    let shown = source.display();
                    return Err(format!("{{disk}}.source {shown} is a device outside {DEVICES}"));
                }
                kind(source, &found).map(Source::Found)
            }
            // The error tells no more of a path outside than that it is outside.
            Err(ResolveError::Exposed { .. } | ResolveError::Relative)
                if !allowed(source, &self.shown) =>
            {
                Err(self.outside(source))
            }
            Err(error) => Err(format!("{{disk}}.source {}: {error}", source.display())),
        }
    }

    /// Refuses a path in the pool or the directory store that is not a volume below `guests/`, and for a CD-ROM one
    /// that is not an image. If the path does not exist, refuses only the paths of images and snapshots.
    fn check_stored(&self, source: &Path, is_cdrom: bool) -> Result<(), String> {
        let shown = source.display();
        let below = if is_cdrom { IMAGES } else { GUESTS };
        let what = if is_cdrom { "an image" } else { "a volume" };
        let refused =
            format!("{{disk}}.source {shown} is in the store but not {what} below {below}");
        let Ok(real) = fs::canonicalize(source) else {
            let roots = self.store.iter().chain(&self.zvols);
            let normal = lexically_normal(source);
            let relative =
                normal.iter().flat_map(|path| roots.clone().map(|it| path.strip_prefix(it)));
            let is_other =
                |path: &Path| path.starts_with("images") || path.to_string_lossy().contains('@');
            return match relative.flatten().any(is_other) {
                true => Err(refused),
                false => Ok(()),
            };
        };
        let in_store = self.store.as_ref().and_then(|store| real.strip_prefix(store).ok());
        let is_device = fs::metadata(&real).is_ok_and(|it| it.file_type().is_block_device());
        let zvol = if is_device { disk::zvol_name_at(&real).ok().flatten() } else { None };
        let in_pool = zvol
            .as_ref()
            .and_then(|name| name.strip_prefix(self.zpool.as_ref()?)?.strip_prefix('/'));
        let relative = match in_store {
            Some(path) => path.to_string_lossy().into_owned(),
            None => match in_pool {
                Some(name) => name.to_owned(),
                None => return Ok(()),
            },
        };
        let pool = self.zpool.as_ref().and_then(|zpool| PoolName::parse(zpool).ok());
        let is_name = pool.is_some_and(|pool| pool.dataset(&relative).is_ok());
        match relative.starts_with(below) && is_name {
            true => Ok(()),
            false => Err(refused),
        }
    }

    fn is_in_zvols(&self, real: &Path) -> bool {
        self.zvols.as_ref().is_some_and(|zvols| real.starts_with(zvols))
    }

    fn has(&self, real: &Path) -> bool {
        self.directories.iter().any(|directory| real.starts_with(directory))
    }

    fn has_device(&self, real: &Path) -> bool {
        let mut directories =
            self.directories.iter().filter(|directory| directory.starts_with(DEVICES));
        directories.any(|directory| real.starts_with(directory))
    }

    /// Returns whether a device is a volume of the pool, by the name that the device itself reports.
    fn is_volume(&self, device: &Path) -> io::Result<bool> {
        let name = disk::zvol_name_at(device)?.unwrap_or_default();
        let rest = self.zpool.as_ref().and_then(|zpool| name.strip_prefix(zpool.as_str()));
        Ok(rest.is_some_and(|rest| rest.starts_with('/')))
    }

    /// Refuses a disk in another format than raw: guests get the bytes as they are. A volume of the store is raw,
    /// whatever its guest has written to its beginning. libvirt decides about a disk that the agent cannot read, as on
    /// a host where the agent is not root.
    fn check_format(&self, source: &Path, kind: SourceKind, format: &str) -> Result<(), String> {
        let real = resolved(source);
        let is_stored = self.store.as_ref().is_some_and(|store| real.starts_with(store));
        let is_volume = || kind == SourceKind::Block && self.is_volume(&real).unwrap_or(false);
        let (is_raw, shown) = (["", RAW].contains(&format), source.display());
        if is_stored || is_volume() {
            return match is_raw {
                true => Ok(()),
                false => {
                    Err(format!("{{disk}}.format: {shown} is a volume of the store, which is raw"))
                }
            };
        }
        let opened = disk::open_device(files::straight(OpenOptions::new().read(true)), &real);
        if !is_raw {
            let opened = opened.map_err(|error| format!("{{disk}}.source {shown}: {error}"))?;
            return match Format::of(&opened) {
                Ok(Format::Qcow2 { .. }) => Ok(()),
                Ok(_) => Err(format!("{{disk}}.format: {shown} is not qcow2")),
                Err(why) => Err(format!("{{disk}}.source {shown}: {why}")),
            };
        }
        match opened.and_then(|disk| format::container_of(&disk)) {
            Ok(Some(found)) if format.is_empty() => Err(format!(
                "{{disk}}.source {shown} is {found}, not raw: set format, convert it with qemu-img convert -O raw, \
                 or import it as an image; if a guest wrote these bytes to its own raw disk, set format to raw"
            )),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn outside(&self, source: &Path) -> String {
        let roots: Vec<String> = self.shown.iter().map(|root| root.display().to_string()).collect();
        let shown = source.display();
        let roots =
            if roots.is_empty() { "any --allow-disk-path".to_owned() } else { roots.join(", ") };
        format!("disk source outside {roots}: {{disk}}.source {shown}")
    }
}

fn kind(source: &Path, found: &Metadata) -> Result<SourceKind, String> {
    match found.file_type() {
        kind if kind.is_block_device() => Ok(SourceKind::Block),
        kind if kind.is_file() => Ok(SourceKind::File),
        _ => Err(format!(
            "{{disk}}.source {} is neither a block device nor a regular file",
            source.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn judge_source(source: &Path, host: &HostConfig) -> Result<SourceKind, String> {
        let source = source.to_str().unwrap().to_owned();
        Rule::of(host).judge(&GuestDisk { source, ..GuestDisk::default() })
    }

    /// A directory of this test, removed at its end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("mistify-{name}-{}", std::process::id()));
            fs::create_dir_all(path.join("in")).unwrap();
            fs::create_dir_all(path.join("out")).unwrap();
            Self(path)
        }

        fn host(&self) -> HostConfig {
            HostConfig { allow_disk_paths: vec![self.0.join("in")], ..HostConfig::default() }
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn file_in_an_allowed_directory_is_a_file() {
        let directory = Directory::new("file");
        let path = directory.0.join("in/disk");
        fs::write(&path, "").unwrap();
        assert_eq!(judge_source(&path, &directory.host()), Ok(SourceKind::File));
    }

    #[test]
    fn a_disk_that_is_not_raw_is_refused() {
        let directory = Directory::new("format");
        let path = directory.0.join("in/disk");
        for (start, format) in
            [(&b"QFI\xfb\0\0\0\x03"[..], "qcow2"), (b"KDMV", "vmdk"), (b"QED\0", "qed")]
        {
            fs::write(&path, start).unwrap();
            let why = judge_source(&path, &directory.host()).unwrap_err();
            assert!(why.contains(&format!("is {format}, not raw")), "{why}");
        }
        fs::write(&path, b"LUKS\xba\xbe").unwrap();
        assert_eq!(
            judge_source(&path, &directory.host()),
            Ok(SourceKind::File),
            "the guest decrypts it"
        );
    }

    #[test]
    fn link_out_of_the_directory_is_refused() {
        let directory = Directory::new("link");
        fs::write(directory.0.join("out/secret"), "").unwrap();
        let link = directory.0.join("in/disk");
        symlink(directory.0.join("out/secret"), &link).unwrap();
        let why = judge_source(&link, &directory.host()).unwrap_err();
        assert!(why.starts_with("disk source outside /dev/zvol/mistify, "), "{why}");
    }

    #[test]
    fn dots_do_not_climb_out() {
        let directory = Directory::new("dots");
        fs::write(directory.0.join("out/secret"), "").unwrap();
        for path in ["in/../out/secret", "in/../out/absent"] {
            assert!(judge_source(&directory.0.join(path), &directory.host()).is_err(), "{path}");
        }
    }

    #[test]
    fn missing_path_is_judged_as_written_as_block_device() {
        let host = HostConfig::default();
        let absent = Path::new("/dev/zvol/mistify/guests/a/disk-0");
        assert_eq!(judge_source(absent, &host), Ok(SourceKind::Block));
        for outside in ["/dev/zvol/other/disk", "/dev/zvol/mistify-2/disk", "relative/disk"] {
            assert!(judge_source(Path::new(outside), &host).is_err(), "{outside}");
        }
    }

    #[test]
    fn directory_or_character_device_is_no_disk() {
        let host =
            HostConfig { allow_disk_paths: vec![PathBuf::from("/")], ..HostConfig::default() };
        for path in ["/dev/null", "/tmp"] {
            let why = judge_source(Path::new(path), &host).unwrap_err();
            assert!(why.contains("neither a block device nor a regular file"), "{why}");
        }
    }

    #[test]
    fn the_root_allows_everything() {
        let directory = Directory::new("root");
        let path = directory.0.join("out/disk");
        fs::write(&path, "").unwrap();
        let host =
            HostConfig { allow_disk_paths: vec![PathBuf::from("/")], ..HostConfig::default() };
        assert_eq!(judge_source(&path, &host), Ok(SourceKind::File));
    }

    #[test]
    fn an_empty_source_is_refused() {
        assert!(judge_source(Path::new(""), &HostConfig::default()).is_err());
    }
}
