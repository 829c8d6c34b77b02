//! Path resolution in steps that no other user can change.
//!
//! A name is only looked up in a directory that belongs to root or the agent's user and that no other user may write
//! to; or, with a sticky bit, if the entry belongs to them. Such a path keeps its meaning until one of the two changes
//! it: nobody can replace a link between a check and libvirt's later open of the same path. So no descriptor has to be
//! kept open between them, and a guest's definition keeps the requested path: the devices behind links in `/dev` have
//! other numbers after the next boot.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use super::files::straight;
use super::process;

/// The maximum number of links in one path, as in the kernel.
const LINKS_MAX: usize = 40;
/// Links here can refer to files that another process sees under the same names.
const PROCESSES: &str = "/proc";
/// Write permission of the group and of all other users.
const WRITABLE: u32 = 0o022;
const WRITABLE_BY_ALL: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// The users that may redirect a path: root, this process's user, and the agent's user.
#[derive(Clone, Copy, Debug)]
pub struct TrustedUsers {
    agent: u32,
    /// A group that may also write.
    group: Option<u32>,
}

impl TrustedUsers {
    /// Returns the trusted users of the agent itself.
    pub fn own() -> Self {
        Self { agent: process::user(), group: None }
    }

    /// Returns the trusted users for a command of an operator, on data of an agent with this user.
    pub fn with_agent(uid: u32) -> Self {
        Self { agent: uid, group: None }
    }

    /// Adds a group that may write.
    #[must_use]
    pub fn and_group(self, gid: u32) -> Self {
        Self { group: Some(gid), ..self }
    }

    /// Returns whether a user is trusted.
    pub fn has(self, uid: u32) -> bool {
        [0, process::user(), self.agent].contains(&uid)
    }
}

/// The result of resolving a path.
#[derive(Debug)]
pub enum Resolved {
    /// The path exists.
    Found {
        /// The path without links.
        real: PathBuf,
        /// The metadata; never of a link.
        found: Metadata,
        /// The path of the last followed link, itself without links.
        link: Option<PathBuf>,
    },
    /// The path does not exist.
    Absent {
        /// The path that it would have.
        real: PathBuf,
    },
}

impl Resolved {
    /// Returns the path without links.
    pub fn real(&self) -> &Path {
        match self {
            Self::Found { real, .. } | Self::Absent { real } => real,
        }
    }
}

/// The reason why a path cannot be resolved, or not safely.
#[derive(Debug)]
pub enum ResolveError {
    /// The path is not absolute.
    Relative,
    /// Another user can change a component of the path.
    Exposed {
        /// The component.
        path: PathBuf,
        /// The user or group that can change it.
        by: String,
    },
    /// A component is a link where links are not followed.
    Link(PathBuf),
    /// A system call failed for this path.
    Io(PathBuf, io::Error),
}

impl std::error::Error for ResolveError {}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relative => f.write_str("not an absolute path"),
            Self::Exposed { path, by } => {
                write!(f, "{} can be changed by {by}", path.display())
            }
            Self::Link(path) => write!(f, "{} is a symbolic link", path.display()),
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

/// Resolves a path, including links.
///
/// # Errors
/// See [`ResolveError`].
///
/// # Blocking
/// As long as the file systems in the path take: only for worker threads.
pub fn resolve(path: &Path, trusted: TrustedUsers) -> Result<Resolved, ResolveError> {
    PathResolution::from(path)?.follow(trusted)
}

/// Opens a file for reading that may belong to another user. Follows links only while others cannot change them; from
/// the first directory of another user on, it follows none, so that nobody can redirect the open to a file of root.
///
/// # Errors
/// If the file does not exist, or a link of another user is in its path.
///
/// # Blocking
/// As long as the file systems in the path take.
pub fn open_foreign(path: &Path, trusted: TrustedUsers) -> io::Result<File> {
    let mut resolution = PathResolution::from(path).map_err(io::Error::other)?;
    match resolution.follow(trusted) {
        Ok(Resolved::Found { real, .. }) => straight(OpenOptions::new().read(true)).open(real),
        Ok(Resolved::Absent { .. }) => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        Err(ResolveError::Exposed { .. }) => resolution.open_rest(),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// The state of a path resolution.
struct PathResolution {
    /// The resolved part, without links.
    real: PathBuf,
    /// The remaining components, the last one first.
    todo: Vec<OsString>,
}

impl PathResolution {
    fn from(path: &Path) -> Result<Self, ResolveError> {
        match path.is_absolute() {
            true => Ok(Self { real: PathBuf::from("/"), todo: steps(path) }),
            false => Err(ResolveError::Relative),
        }
    }

    /// Resolves as [`resolve`] does. After an error, the failed component is the next of the remaining ones.
    fn follow(&mut self, trusted: TrustedUsers) -> Result<Resolved, ResolveError> {
        let (mut link, mut links) = (None, 0);
        while let Some(step) = self.todo.last().cloned() {
            if step == ".." {
                // The resolved part has no links, so its parent is the directory above; the parent of the root is the
                // root.
                self.real.pop();
                self.todo.pop();
                continue;
            }
            let is_shared = is_shared(&self.real, trusted)?;
            let next = self.real.join(&step);
            let found = match fs::symlink_metadata(&next) {
                Ok(found) => found,
                Err(error) if is_absent(&error) && is_shared => {
                    return Err(ResolveError::Exposed { path: next, by: "all users".to_owned() });
                }
                Err(error) if is_absent(&error) => {
                    self.todo.pop();
                    return Ok(absent(next, std::mem::take(&mut self.todo)));
                }
                Err(error) => return Err(ResolveError::Io(next, error)),
            };
            if is_shared && !trusted.has(found.uid()) {
                return Err(ResolveError::Exposed { path: next, by: user(&found) });
            }
            self.todo.pop();
            if !found.is_symlink() {
                self.real = next;
                continue;
            }
            links += 1;
            if links > LINKS_MAX {
                return Err(ResolveError::Io(next, io::Error::other("too many symbolic links")));
            }
            let target =
                fs::read_link(&next).map_err(|error| ResolveError::Io(next.clone(), error))?;
            if target.is_absolute() {
                self.real = PathBuf::from("/");
            }
            self.todo.extend(steps(&target));
            link = Some(next);
        }
        match fs::symlink_metadata(&self.real) {
            Ok(found) => Ok(Resolved::Found { real: self.real.clone(), found, link }),
            Err(error) => Err(ResolveError::Io(self.real.clone(), error)),
        }
    }

    /// Opens the file at the remaining components, without following links.
    fn open_rest(mut self) -> io::Result<File> {
        let directory = |options: &mut OpenOptions, path: &Path| {
            let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_DIRECTORY;
            options.read(true).custom_flags(flags).open(path)
        };
        let mut at = directory(&mut OpenOptions::new(), &self.real)?;
        while let Some(step) = self.todo.pop() {
            // An open directory stays the same, even if it is renamed meanwhile.
            let path = PathBuf::from(format!("/proc/self/fd/{}", at.as_raw_fd())).join(&step);
            let opened = match self.todo.is_empty() {
                true => straight(OpenOptions::new().read(true)).open(path),
                false => directory(&mut OpenOptions::new(), &path),
            };
            at = opened.map_err(|error| match error.raw_os_error() {
                Some(libc::ELOOP | libc::ENOTDIR) => io::Error::new(
                    error.kind(),
                    format!(
                        "{}: {error} (links of other users are not followed)",
                        Path::new(&step).display()
                    ),
                ),
                _ => error,
            })?;
        }
        Ok(at)
    }
}

/// Returns the components of a path, the last one first.
fn steps(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    });
    names.collect()
}

fn absent(mut real: PathBuf, todo: Vec<OsString>) -> Resolved {
    for step in todo.into_iter().rev() {
        if step == ".." {
            real.pop();
        } else {
            real.push(step);
        }
    }
    Resolved::Absent { real }
}

/// Returns whether an error means that the path does not exist.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Checks a path below a directory: no component may be a link, and every directory of a lookup, including the first
/// one, must belong to root or the agent's user, and only they may write to it. The last component is not checked: it
/// may be absent or a link.
///
/// # Errors
/// See [`ResolveError`].
///
/// # Blocking
/// As long as the file systems in the path take: only for worker threads.
pub fn check_below(
    directory: &Path,
    relative: &Path,
    trusted: TrustedUsers,
) -> Result<(), ResolveError> {
    let mut at = directory.to_owned();
    let mut is_first = true;
    for step in relative.components() {
        // The path of the directory itself may contain links: they were resolved when the store was opened.
        let found = if is_first { fs::metadata(&at) } else { fs::symlink_metadata(&at) };
        let found = match found {
            Ok(found) => found,
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(ResolveError::Io(at, error)),
        };
        if found.is_symlink() {
            return Err(ResolveError::Link(at));
        }
        if found.is_dir() {
            check_alone(&at, &found, trusted)?;
        }
        is_first = false;
        at.push(step);
    }
    Ok(())
}

/// Checks that only root and the agent's user can add names to a directory.
fn check_alone(
    directory: &Path,
    found: &Metadata,
    trusted: TrustedUsers,
) -> Result<(), ResolveError> {
    match changed_by(found, trusted) {
        Some(by) => Err(ResolveError::Exposed { path: directory.to_owned(), by }),
        None => Ok(()),
    }
}

/// Returns the untrusted user or group that can write to a file or directory; `None` if only trusted users can.
pub fn changed_by(found: &Metadata, trusted: TrustedUsers) -> Option<String> {
    match found.mode() {
        _ if !trusted.has(found.uid()) => Some(user(found)),
        mode if mode & WRITABLE_BY_ALL != 0 => Some("all users".to_owned()),
        mode if mode & WRITABLE != 0 && trusted.group != Some(found.gid()) => {
            Some(format!("group {}", found.gid()))
        }
        _ => None,
    }
}

/// Checks that no other user can remove names of the agent from a directory.
///
/// # Errors
/// See [`ResolveError`].
pub(super) fn check_parent(directory: &Path, trusted: TrustedUsers) -> Result<(), ResolveError> {
    is_shared(directory, trusted).map(drop)
}

/// Returns whether others may add names to a directory, but can only remove their own.
fn is_shared(directory: &Path, trusted: TrustedUsers) -> Result<bool, ResolveError> {
    let exposed = |by: String| ResolveError::Exposed { path: directory.to_owned(), by };
    if directory.starts_with(PROCESSES) {
        return Err(exposed("the processes in it".to_owned()));
    }
    let found = fs::symlink_metadata(directory);
    let found = found.map_err(|error| ResolveError::Io(directory.to_owned(), error))?;
    match changed_by(&found, trusted) {
        None => Ok(false),
        Some(_) if trusted.has(found.uid()) && found.mode() & STICKY != 0 => Ok(true),
        Some(by) => Err(exposed(by)),
    }
}

fn user(found: &Metadata) -> String {
    format!("user {}", found.uid())
}

#[cfg(test)]
mod tests;
