//! Disk sources: where they may lie, and what they are.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::config::HostConfig;
use crate::guest::domain::SourceKind;
use crate::guest::paths::{allowed, disk_roots};
use crate::guest::wire::Guest;
use crate::ops::Error;

/// Judges each disk's source and answers with what each is, in order.
///
/// A source must lie under the pool's `/dev/zvol/<pool>` or an allowed folder, with its links
/// resolved; one that does not exist is judged by its path as written and taken for a block device,
/// for volumes may be made later.
///
/// # Errors
/// [`Error::Invalid`] that names the disk.
///
/// # Blocking
/// As long as the file systems below take to answer `stat`: on a worker only.
pub(super) fn judge(guest: &Guest, host: &HostConfig) -> Result<Vec<SourceKind>, Error> {
    guest
        .disks
        .iter()
        .enumerate()
        .map(|(index, disk)| {
            judge_source(Path::new(&disk.source), host)
                .map_err(|why| Error::Invalid(why.replace("{disk}", &format!("disks[{index}]"))))
        })
        .collect()
}

fn judge_source(source: &Path, host: &HostConfig) -> Result<SourceKind, String> {
    if source.as_os_str().is_empty() {
        return Err("{disk} has no source".to_owned());
    }
    let shown = source.display();
    let failed = |error: io::Error| format!("{{disk}}.source {shown}: {error}");
    let roots = disk_roots(host);
    let absent =
        |error: &io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
    let (inside, kind) = match fs::canonicalize(source) {
        Err(error) if absent(&error) => (allowed(source, &roots), None),
        Err(error) => return Err(failed(error)),
        Ok(real) => {
            let resolved: Vec<PathBuf> = roots.iter().map(|root| resolved(root)).collect();
            let inside = allowed(&real, &resolved) || is_zvol_link(source, &real, &host.zpool);
            (inside, Some(fs::metadata(&real).map_err(failed)?.file_type()))
        }
    };
    if !inside {
        let roots: Vec<String> = roots.iter().map(|root| root.display().to_string()).collect();
        return Err(format!("disk source outside {}: {{disk}}.source {shown}", roots.join(", ")));
    }
    match kind {
        None => Ok(SourceKind::Block),
        Some(kind) if kind.is_block_device() => Ok(SourceKind::Block),
        Some(kind) if kind.is_file() => Ok(SourceKind::File),
        Some(_) => {
            Err(format!("{{disk}}.source {shown} is neither a block device nor a regular file"))
        }
    }
}

/// A path without links; one that is not there stands for itself.
pub(super) fn resolved(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Whether `source` is a link that udev keeps for a volume of the pool: it lies in the pool's tree
/// and points at a `/dev/zd<n>` device.
fn is_zvol_link(source: &Path, real: &Path, zpool: &str) -> bool {
    let zvols = Path::new("/dev/zvol").join(zpool);
    let folder = source.parent().and_then(|folder| fs::canonicalize(folder).ok());
    let in_tree = folder.is_some_and(|folder| folder.starts_with(resolved(&zvols)));
    let name = real.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let number = name.strip_prefix("zd").unwrap_or_default();
    in_tree
        && real.parent() == Some(Path::new("/dev"))
        && !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'p')
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder of this test's own, removed at its end.
    struct Folder(PathBuf);

    impl Folder {
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

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_file_in_an_allowed_folder_is_a_file() {
        let folder = Folder::new("file");
        let path = folder.0.join("in/disk");
        fs::write(&path, "").unwrap();
        assert_eq!(judge_source(&path, &folder.host()), Ok(SourceKind::File));
    }

    #[test]
    fn a_link_out_of_the_folder_is_refused() {
        let folder = Folder::new("link");
        fs::write(folder.0.join("out/secret"), "").unwrap();
        let link = folder.0.join("in/disk");
        symlink(folder.0.join("out/secret"), &link).unwrap();
        let why = judge_source(&link, &folder.host()).unwrap_err();
        assert!(why.starts_with("disk source outside /dev/zvol/mistify, "), "{why}");
    }

    #[test]
    fn dots_do_not_climb_out() {
        let folder = Folder::new("dots");
        fs::write(folder.0.join("out/secret"), "").unwrap();
        for path in ["in/../out/secret", "in/../out/absent"] {
            assert!(judge_source(&folder.0.join(path), &folder.host()).is_err(), "{path}");
        }
    }

    #[test]
    fn what_is_not_there_is_judged_as_written_and_taken_for_a_block_device() {
        let host = HostConfig::default();
        let absent = Path::new("/dev/zvol/mistify/guests/a/disk-0");
        assert_eq!(judge_source(absent, &host), Ok(SourceKind::Block));
        for outside in ["/dev/zvol/other/disk", "/dev/zvol/mistify-2/disk", "relative/disk"] {
            assert!(judge_source(Path::new(outside), &host).is_err(), "{outside}");
        }
    }

    #[test]
    fn a_folder_or_a_character_device_is_no_disk() {
        let host =
            HostConfig { allow_disk_paths: vec![PathBuf::from("/")], ..HostConfig::default() };
        for path in ["/dev/null", "/tmp"] {
            let why = judge_source(Path::new(path), &host).unwrap_err();
            assert!(why.contains("neither a block device nor a regular file"), "{why}");
        }
    }

    #[test]
    fn the_root_allows_everything() {
        let folder = Folder::new("root");
        let path = folder.0.join("out/disk");
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
