//! Path resolution by steps that nobody else can change.
//!
//! A name is only looked up in a directory that belongs to root or the agent's user and that no other
//! user may write to; or, where a sticky bit is set, if what is found there belongs to them. What a
//! path meant at such a look it means until one of the two changes it: no link can be swapped
//! between a check and what libvirt opens later by the same path. So no descriptor has to be kept
//! from the one to the other, and a guest's definition keeps the path that was asked for: what links
//! in `/dev` lead to has other numbers after the next boot.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use super::files::straight;
use super::process;

/// Links of one path, as many as the kernel follows.
const LINKS_MAX: usize = 40;
/// Links here can lead to what another process sees under the same names.
const PROCESSES: &str = "/proc";
/// Write permission of the group and of everybody else.
const WRITABLE: u32 = 0o022;
const WRITABLE_BY_ALL: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// The users who may change where a path leads: root, this process's user, and the agent's user.
#[derive(Clone, Copy, Debug)]
pub struct TrustedUsers {
    agent: u32,
    /// A group that may write as well.
    group: Option<u32>,
}

impl TrustedUsers {
    /// For the agent itself.
    pub fn own() -> Self {
        Self { agent: process::user(), group: None }
    }

    /// For a command of an operator, on what an agent of this user has.
    pub fn with_agent(uid: u32) -> Self {
        Self { agent: uid, group: None }
    }

    /// The same, and this group may write.
    #[must_use]
    pub fn and_group(self, gid: u32) -> Self {
        Self { group: Some(gid), ..self }
    }

    /// Whether a user is one of them.
    pub fn has(self, uid: u32) -> bool {
        [0, process::user(), self.agent].contains(&uid)
    }
}

/// What a path leads to.
#[derive(Debug)]
pub enum Resolved {
    /// Something that is there.
    Found {
        /// Its path without links.
        real: PathBuf,
        /// What it is; never a link.
        found: Metadata,
        /// Where the last link lies that led to it, without links itself.
        link: Option<PathBuf>,
    },
    /// Nothing.
    Absent {
        /// Where it would be.
        real: PathBuf,
    },
}

impl Resolved {
    /// The path without links.
    pub fn real(&self) -> &Path {
        match self {
            Self::Found { real, .. } | Self::Absent { real } => real,
        }
    }
}

/// Why a path cannot be followed, or not so that it is sure where it leads.
#[derive(Debug)]
pub enum ResolveError {
    /// It does not begin at the root.
    Relative,
    /// Another user owns a step of the path.
    Exposed {
        /// What lies on the way.
        path: PathBuf,
        /// Who may change it.
        by: String,
    },
    /// A step of the path is a link, and links are not followed there.
    Link(PathBuf),
    /// The system fails to tell.
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

/// Follows a path to its end, links included.
///
/// # Errors
/// As [`ResolveError`] has them.
///
/// # Blocking
/// As long as the file systems below take: on a worker only.
pub fn resolve(path: &Path, trusted: TrustedUsers) -> Result<Resolved, ResolveError> {
    PathResolution::from(path)?.follow(trusted)
}

/// Opens a file for reading that may be another user's. Links are followed where others cannot change
/// them; from the first directory of others on none is, so that nobody leads the open to a file of root's.
///
/// # Errors
/// When there is no such file, or a link of others is on the way to it.
///
/// # Blocking
/// As long as the file systems below take.
pub fn open_foreign(path: &Path, trusted: TrustedUsers) -> io::Result<File> {
    let mut resolution = PathResolution::from(path).map_err(io::Error::other)?;
    match resolution.follow(trusted) {
        Ok(Resolved::Found { real, .. }) => straight(OpenOptions::new().read(true)).open(real),
        Ok(Resolved::Absent { .. }) => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        Err(ResolveError::Exposed { .. }) => resolution.open_rest(),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// A path that is followed, step by step.
struct PathResolution {
    /// Where it has come to, without links.
    real: PathBuf,
    /// The steps that are left, the last first.
    todo: Vec<OsString>,
}

impl PathResolution {
    fn from(path: &Path) -> Result<Self, ResolveError> {
        match path.is_absolute() {
            true => Ok(Self { real: PathBuf::from("/"), todo: steps(path) }),
            false => Err(ResolveError::Relative),
        }
    }

    /// As [`resolve`]. After an error, the next remaining step is the step that failed.
    fn follow(&mut self, trusted: TrustedUsers) -> Result<Resolved, ResolveError> {
        let (mut link, mut links) = (None, 0);
        while let Some(step) = self.todo.last().cloned() {
            if step == ".." {
                // Without links in it, and so the directory above; above the root is the root.
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

    /// Opens what the steps that are left lead to, without links.
    fn open_rest(mut self) -> io::Result<File> {
        let directory = |options: &mut OpenOptions, path: &Path| {
            let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_DIRECTORY;
            options.read(true).custom_flags(flags).open(path)
        };
        let mut at = directory(&mut OpenOptions::new(), &self.real)?;
        while let Some(step) = self.todo.pop() {
            // A directory that is open stays the same, whatever is renamed meanwhile.
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

/// The names of a path, the last first.
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

/// Whether an error says that nothing is there.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Checks a path below a directory: no step may be a link, and every directory in which a name is looked up,
/// the first one included, has to belong to root or the agent's user and be writable by them alone. What the
/// path names may be absent, and is not looked at: it may be a link.
///
/// # Errors
/// As [`ResolveError`] has them.
///
/// # Blocking
/// As long as the file systems below take: on a worker only.
pub fn check_below(
    directory: &Path,
    relative: &Path,
    trusted: TrustedUsers,
) -> Result<(), ResolveError> {
    let mut at = directory.to_owned();
    let mut is_first = true;
    for step in relative.components() {
        // The directory itself may be reached by links: they were resolved when the store was opened.
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

/// Whether nobody but root and the agent's user can put names into a directory.
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

/// The untrusted user or group that can write to a file or directory; none where only trusted users can.
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

/// Checks that nobody else can take names of the agent's away from a directory.
///
/// # Errors
/// As [`ResolveError`] has them.
pub(super) fn check_holder(directory: &Path, trusted: TrustedUsers) -> Result<(), ResolveError> {
    is_shared(directory, trusted).map(drop)
}

/// Whether others may put names into a directory, and may take away no others than theirs.
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
