//! The seed files that guests read through fw_cfg: `seeds/<uuid of the domain>/<name>` in the state directory.
//!
//! libvirt makes QEMU's user the owner of each file when the guest starts, and restores the owner when the guest is
//! off; the guest's AppArmor profile names the file. So only the directories above must let QEMU's user pass.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::guest::capabilities::emulator_user;
use crate::guest::seed::files::{contents, items};
use crate::guest::wire::Guest;
use crate::libvirt::{Code, Connection};
use crate::ops::Error;
use crate::os::{files, own};

const DIRECTORY: &str = "seeds";
/// QEMU's user can open a file by its name; only the agent can list the names.
const DIRECTORY_MODE: u32 = 0o711;
/// A user and a group that own nothing.
const NOBODY: u32 = u32::MAX;

/// The files of one domain's seed.
#[derive(Clone, Debug)]
pub(in crate::ops) struct SeedFiles {
    directory: PathBuf,
}

impl SeedFiles {
    /// Returns the files of the domain with this uuid.
    ///
    /// # Errors
    /// [`Error::Invalid`] without a state directory.
    pub(in crate::ops) fn new(state: Option<&Path>, uuid: &str) -> Result<Self, Error> {
        let Some(state) = state else {
            let why = "ignition and credentials need a state directory; set --state-dir";
            return Err(Error::Invalid(why.to_owned()));
        };
        Ok(Self { directory: state.join(DIRECTORY).join(uuid) })
    }

    /// Returns whether the files exist.
    pub(in crate::ops) fn exist(&self) -> bool {
        fs::symlink_metadata(&self.directory).is_ok()
    }

    /// Returns the directory of the files.
    pub(in crate::ops) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the items of a guest's seed, each with the path of its file.
    pub(in crate::ops) fn items(&self, guest: &Guest) -> Vec<(String, String)> {
        let (directory, mut items) = (self.directory.to_string_lossy(), items(guest));
        for (_, file) in &mut items {
            *file = format!("{directory}/{file}");
        }
        items
    }

    /// Writes the files of a guest's seed. A crash leaves each file complete, old or new. The files are on the disk
    /// when this returns.
    ///
    /// # Errors
    /// If a file cannot be written; the directory then has the other files.
    ///
    /// # Blocking
    /// Until the disk has the files.
    pub(in crate::ops) fn write(&self, guest: &Guest) -> io::Result<()> {
        for directory in self.directory.parent().into_iter().chain([self.directory()]) {
            own::make_directory(directory).map_err(|error| at("create", directory, &error))?;
            let mode = Permissions::from_mode(DIRECTORY_MODE);
            fs::set_permissions(directory, mode)
                .map_err(|error| at("change", directory, &error))?;
        }
        for (name, text) in contents(guest) {
            let (path, draft) = (self.directory.join(name), self.directory.join("draft"));
            let write = || {
                gone(fs::remove_file(&draft))?;
                files::write_new(&draft, text.as_bytes())?;
                fs::rename(&draft, &path)
            };
            write().map_err(|error| at("write", &path, &error))?;
        }
        File::open(&self.directory)?.sync_all()
    }

    /// Removes the files that are not part of a guest's seed.
    ///
    /// # Errors
    /// If the directory cannot be read, or a file cannot be removed.
    pub(super) fn keep_only(&self, guest: &Guest) -> io::Result<()> {
        self.remove_except(&contents(guest))
    }

    fn remove_except(&self, stored: &[(String, String)]) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if !stored.iter().any(|(name, _)| entry.file_name() == name.as_str()) {
                gone(fs::remove_file(entry.path()))?;
            }
        }
        Ok(())
    }

    /// Removes all files; returns whether there were any.
    ///
    /// # Errors
    /// If a file cannot be removed.
    ///
    /// # Blocking
    /// Until the disk is done.
    pub(in crate::ops) fn remove(&self) -> io::Result<bool> {
        if !self.exist() {
            return Ok(false);
        }
        self.remove_except(&[])
            .and_then(|()| gone(fs::remove_dir(&self.directory)))
            .map_err(|error| at("remove", &self.directory, &error))?;
        Ok(true)
    }

    /// Checks that QEMU's user may enter the directories above the files, because libvirt changes only the owner of the
    /// files. Skips the check if the driver does not report that user.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the directory and the remedy; errors of libvirt.
    ///
    /// # Blocking
    /// One round trip, if other users cannot enter one of the directories.
    pub(super) fn check_access(&self, connection: &Connection, kind: &str) -> Result<(), Error> {
        // For a new guest only the state directory exists yet.
        let above = self.directory.ancestors().find_map(|above| fs::canonicalize(above).ok());
        let Some(above) = above else { return Ok(()) };
        // libvirt answers slowly when it has many emulators to query; open directories need no answer.
        if closed_to(&above, NOBODY, NOBODY).is_none() {
            return Ok(());
        }
        let user = match connection.capabilities() {
            Ok(xml) => {
                emulator_user(&xml, kind).map_err(crate::ops::hypervisor::definition::unreadable)?
            }
            Err(error) if error.code == Code::NO_SUPPORT => None,
            Err(error) => return Err(error.into()),
        };
        let Some((user, group)) = user else { return Ok(()) };
        let Some(closed) = closed_to(&above, user, group) else { return Ok(()) };
        let closed = closed.display();
        Err(Error::Invalid(format!(
            "qemu's user (uid {user}) cannot read ignition or credentials: it cannot enter {closed}; run chmod o+x {closed}"
        )))
    }
}

/// Returns the first directory on a path that a user cannot enter.
fn closed_to(path: &Path, user: u32, group: u32) -> Option<&Path> {
    let is_closed = |path: &&Path| {
        let Ok(found) = fs::metadata(path) else { return false };
        let bit = match () {
            () if found.uid() == user => 0o100,
            () if found.gid() == group => 0o010,
            () => 0o001,
        };
        user != 0 && found.mode() & bit == 0
    };
    path.ancestors().filter(is_closed).last()
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Returns the error of an action on a file.
pub(in crate::ops) fn at(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(text: &str) -> Guest {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_files_are_whole_and_of_the_agent_alone() {
        let state = std::env::temp_dir().join(format!("mistify-seed-files-{}", std::process::id()));
        own::make_directory(&state).unwrap();
        let files = SeedFiles::new(Some(&state), "uuid").unwrap();
        assert!(!files.exist() && !files.remove().unwrap());
        let two = guest(r#"{"id": "a", "credentials": {"one": "1", "two": "2"}}"#);
        files.write(&two).unwrap();
        let read = |name: &str| fs::read_to_string(files.directory().join(name)).ok();
        assert_eq!(read("credential-one").as_deref(), Some("1"));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&files.directory().join("credential-one")), 0o600);
        assert_eq!(mode(files.directory()), DIRECTORY_MODE);
        fs::write(files.directory().join("draft"), "left by a crash").unwrap();
        let one = guest(r#"{"id": "a", "credentials": {"one": "new"}}"#);
        files.write(&one).unwrap();
        files.keep_only(&one).unwrap();
        let names: Vec<_> = fs::read_dir(files.directory()).unwrap().flatten().collect();
        assert_eq!((names.len(), read("credential-one").as_deref()), (1, Some("new")));
        assert!(files.remove().unwrap() && !files.exist());
        fs::remove_dir_all(&state).unwrap();
        assert!(SeedFiles::new(None, "uuid").unwrap_err().to_string().contains("--state-dir"));
    }

    #[test]
    fn a_directory_that_a_user_cannot_enter_is_named() {
        let top = std::env::temp_dir().join(format!("mistify-closed-{}", std::process::id()));
        let below = top.join("a/b");
        fs::create_dir_all(&below).unwrap();
        let (owner, group) = (fs::metadata(&top).unwrap().uid(), fs::metadata(&top).unwrap().gid());
        for (mode, user, group, is_closed) in [
            (0o711, owner + 7, group + 7, false),
            (0o710, owner + 7, group + 7, true),
            (0o710, owner + 7, group, false),
            (0o701, owner + 7, group, true),
            (0o700, owner, group + 7, false),
            (0o000, 0, 0, false),
        ] {
            fs::set_permissions(top.join("a"), Permissions::from_mode(mode)).unwrap();
            let closed = closed_to(&below, user, group);
            assert_eq!(closed, is_closed.then(|| top.join("a")).as_deref(), "{mode:o} {user}");
        }
        fs::set_permissions(top.join("a"), Permissions::from_mode(0o700)).unwrap();
        fs::remove_dir_all(&top).unwrap();
    }
}
