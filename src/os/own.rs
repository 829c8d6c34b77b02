//! Configured paths below which the agent writes: only root and the agent's user may redirect them and change the
//! content of their directories.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::files::straight;
use super::resolve::{ResolveError, Resolved, TrustedUsers, changed_by, check_parent, resolve};

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// On some systems the group of the system's logger can write here (Ubuntu: `syslog`).
const LOGS: &str = "/var/log";

/// Checks the directory of a path's last component: no other user can redirect it or remove a name of the agent from
/// it. With a sticky bit, as in `/tmp`, others may add their own names.
///
/// # Errors
/// See [`ResolveError`].
///
/// # Blocking
/// As long as the file systems take.
pub fn check_place(path: &Path, trusted: TrustedUsers) -> Result<(), ResolveError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    match resolve(parent, trusted)? {
        Resolved::Found { real, .. } => check_parent(&real, trusted),
        // The nearest existing directory is one that no other user can change.
        Resolved::Absent { .. } => Ok(()),
    }
}

/// Checks a directory of the agent, which may be absent.
///
/// # Errors
/// See [`ResolveError`]: others can redirect the path or change the directory's content.
///
/// # Blocking
/// As long as the file systems take.
pub fn check_directory(path: &Path, trusted: TrustedUsers) -> Result<(), ResolveError> {
    check_place(path, trusted)?;
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        // The path is resolved below.
        Err(_) | Ok(_) => {}
    }
    let Resolved::Found { real, found, .. } = resolve(path, trusted)? else { return Ok(()) };
    match changed_by(&found, trusted) {
        _ if !found.is_dir() => Err(ResolveError::Io(real, ErrorKind::NotADirectory.into())),
        Some(by) => Err(ResolveError::Exposed { path: real, by }),
        None => Ok(()),
    }
}

/// Creates a directory for only the agent's user if it does not exist, and syncs its name to the disk.
///
/// # Errors
/// If it cannot be created, or as [`check_directory`].
///
/// # Blocking
/// As long as the disk takes.
pub fn make_directory(path: &Path) -> io::Result<()> {
    check_place(path, TrustedUsers::own()).map_err(io::Error::other)?;
    let is_there = fs::symlink_metadata(path).is_ok();
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)?;
    check_directory(path, TrustedUsers::own()).map_err(io::Error::other)?;
    match path.parent() {
        Some(above) if !is_there => File::open(above)?.sync_all(),
        _ => Ok(()),
    }
}

/// Checks a log file of the agent, which may be absent.
///
/// # Errors
/// See [`ResolveError`]: others can redirect the path.
///
/// # Blocking
/// As long as the file systems take.
pub fn check_log(path: &Path, trusted: TrustedUsers) -> Result<(), ResolveError> {
    let group = fs::metadata(LOGS).ok().filter(|logs| logs.uid() == 0).map(|logs| logs.gid());
    match group {
        Some(group) if path.starts_with(LOGS) => check_place(path, trusted.and_group(group)),
        _ => check_place(path, trusted),
    }
}

/// Opens a log file of the agent for appending, and creates the file if it does not exist.
///
/// # Errors
/// If it cannot be opened or is not a regular file; as [`check_log`]; and if others own it or can write to it.
///
/// # Blocking
/// As long as the file systems take.
pub fn open_log(path: &Path) -> io::Result<File> {
    let trusted = TrustedUsers::own();
    check_log(path, trusted).map_err(io::Error::other)?;
    let mut options = OpenOptions::new();
    let file = straight(options.append(true).create(true).mode(FILE_MODE)).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    match changed_by(&found, trusted) {
        Some(by) => {
            let path = path.to_owned();
            Err(io::Error::other(ResolveError::Exposed { path, by }))
        }
        None => Ok(file),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;
    use std::{env, process};

    use super::*;

    /// A directory of one test, removed on drop.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("mistify-own-{name}-{}", process::id()));
            // The directory of a killed test.
            let _ = fs::remove_dir_all(&path);
            DirBuilder::new().mode(0o700).create(&path).unwrap();
            Self(path)
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        /// Creates a directory inside that others may write to.
        fn open_to_all(&self, mode: u32) -> PathBuf {
            let path = self.at("open");
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            // A remaining temporary directory is harmless.
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn directories_below_one_of_others_are_refused() {
        let directory = Directory::new("below");
        let open = directory.open_to_all(0o777);
        for path in [open.join("state"), open.join("deeper/state")] {
            let error = make_directory(&path).unwrap_err().to_string();
            assert_eq!(error, format!("{} can be changed by all users", open.display()));
        }
        assert!(!open.join("state").exists() && !open.join("deeper").exists());
        symlink(&open, directory.at("link")).unwrap();
        assert!(make_directory(&directory.at("link/state")).is_err());
    }

    #[test]
    fn directories_that_others_may_write_are_refused() {
        let directory = Directory::new("itself");
        let open = directory.open_to_all(0o770);
        assert!(make_directory(&open).unwrap_err().to_string().contains("changed by group"));
        fs::write(directory.at("file"), "").unwrap();
        assert!(make_directory(&directory.at("file")).is_err());
    }

    #[test]
    fn sticky_and_own_directories_hold_directories() {
        let directory = Directory::new("sticky");
        let sticky = directory.open_to_all(0o1777);
        for path in [sticky.join("state"), directory.at("a/b"), sticky.join("state")] {
            make_directory(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, DIRECTORY_MODE);
        }
        symlink(directory.at("a"), directory.at("link")).unwrap();
        make_directory(&directory.at("link")).unwrap();
    }

    #[test]
    fn logs_that_others_can_change_are_refused() {
        let directory = Directory::new("logs");
        let (open, log) = (directory.open_to_all(0o777), directory.at("audit"));
        assert!(open_log(&open.join("audit")).is_err());
        assert!(!open.join("audit").exists());
        open_log(&log).unwrap();
        for (mode, is_fit) in [(0o640, true), (0o660, false), (0o602, false)] {
            fs::set_permissions(&log, Permissions::from_mode(mode)).unwrap();
            assert_eq!(open_log(&log).is_ok(), is_fit, "{mode:o}");
        }
    }

    #[test]
    fn the_group_of_the_logs_is_trusted_with_logs() {
        let directory = Directory::new("group");
        let open = directory.open_to_all(0o775);
        let group = fs::metadata(&open).unwrap().gid();
        let trusted = TrustedUsers::own();
        assert!(check_place(&open.join("audit"), trusted).is_err());
        assert!(check_place(&open.join("audit"), trusted.and_group(group)).is_ok());
        assert!(check_place(&open.join("audit"), trusted.and_group(group + 1)).is_err());
    }
}
