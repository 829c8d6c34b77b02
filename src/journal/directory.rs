//! The journal's files.
//!
//! ```text
//! DIR/lock              locked by the agent, with its process id
//! DIR/commands          empty; locked by the commands of agents
//! DIR/intents/N.intent  one for each unfinished change; a higher N is younger
//! DIR/intents/N.new     a draft, before its rename
//! DIR/set-aside/        unusable files from `intents`
//! ```
//!
//! The journal removes files only in `intents`: other files stay if `--state-dir` is somebody's
//! home directory.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::Instant;

use log::{error, warn};

use super::Error;
use super::intent::Scope;
use super::record::{IntentRecord, InvalidIntent};
use crate::config::JournalLimits;
use crate::config::fixed::LOCK_PAUSE;
use crate::os::{files, own};

const FILE_MODE: u32 = 0o600;
/// The minimum number of digits of a name, so that names sort as numbers.
const DIGITS: usize = 8;
/// The highest number in a name, so that there is always a next one.
const NUMBER_MAX: u64 = u64::MAX / 2;

/// The journal's directory. This agent uses it exclusively while this value exists.
#[derive(Debug)]
pub(super) struct JournalDirectory {
    intents: PathBuf,
    set_aside: PathBuf,
    /// The open directory of intents, so that a sync needs no free descriptor.
    open: File,
    /// Closing it releases the lock.
    _lock: File,
}

/// The content of the directory at a start.
#[derive(Debug)]
pub(super) struct StoredIntents {
    /// Intents with their numbers, the oldest first.
    pub(super) records: Vec<(u64, IntentRecord)>,
    /// A number above all numbers in use.
    pub(super) next: u64,
}

impl JournalDirectory {
    /// Locks the directory, and makes it if it is absent.
    pub(super) fn open(path: &Path, limits: &JournalLimits) -> Result<Self, Error> {
        let make_directory = |path: &Path| own::make_directory(path).map_err(at("create", path));
        make_directory(path)?;
        let lock = lock(path, Instant::now() + limits.lock)?;
        let (intents, set_aside) = (path.join("intents"), path.join("set-aside"));
        make_directory(&intents)?;
        make_directory(&set_aside)?;
        let open = File::open(&intents).map_err(at("open", &intents))?;
        Ok(Self { intents, set_aside, open, _lock: lock })
    }

    /// Opens the empty file on which the commands of agents hold locks.
    pub(super) fn commands(&self) -> Result<File, Error> {
        let path = self.intents.with_file_name("commands");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(FILE_MODE);
        let made = files::straight(&mut options).open(&path).map_err(at("create", &path));
        // Read-only: commands get it as their standard input.
        made.and_then(|_| File::open(&path).map_err(at("open", &path)))
    }

    /// Reads the oldest intents, removes drafts, and sets the other files aside.
    pub(super) fn sweep(
        &self,
        scope: &Scope,
        limits: &JournalLimits,
    ) -> Result<StoredIntents, Error> {
        let (mut oldest, mut next, mut unread) = (BTreeSet::new(), 1, 0_usize);
        for entry in fs::read_dir(&self.intents).map_err(at("list", &self.intents))? {
            let name = entry.map_err(at("list", &self.intents))?.file_name();
            match Name::of(&name) {
                Some(Name::Intent(number)) => {
                    next = next.max(number + 1);
                    oldest.insert(number);
                }
                Some(Name::Draft) => self.discard(&self.intents.join(&name)),
                None => self
                    .put_aside(&name, &InvalidIntent::Foreign("its name is not that of an intent")),
            }
            if oldest.len() > limits.files {
                oldest.pop_last();
                unread += 1;
            }
        }
        if unread > 0 {
            let limit = limits.files;
            error!(
                "journal: too many intents; the rest is read at the next start: unread={unread} limit={limit}"
            );
        }
        let mut records = Vec::new();
        for number in oldest {
            records.extend(self.read(number, scope, limits)?.map(|record| (number, record)));
        }
        Ok(StoredIntents { records, next })
    }

    /// Reads an intent; `None` if the file was set aside.
    fn read(
        &self,
        number: u64,
        scope: &Scope,
        limits: &JournalLimits,
    ) -> Result<Option<IntentRecord>, Error> {
        let path = self.path(number);
        let content = files::read_own(&path, limits.file_bytes).map_err(InvalidIntent::Io);
        let read = content.and_then(|content| {
            let record = IntentRecord::read(&content, scope, limits)?;
            let bytes = u64::try_from(content.len()).unwrap_or(u64::MAX);
            if bytes > record.tail.bytes {
                let torn = bytes - record.tail.bytes;
                warn!(
                    "journal: {} ends in an incomplete line: ignored_bytes={torn}",
                    path.display()
                );
            }
            Ok(record)
        });
        match read {
            Ok(record) => Ok(Some(record)),
            // The file itself may be valid, and may be needed for a rollback.
            Err(InvalidIntent::Io(error)) if files::is_shortage(&error) => {
                Err(at("read", &path)(error))
            }
            Err(unfit) => {
                self.put_aside(path.file_name().unwrap_or_default(), &unfit);
                Ok(None)
            }
        }
    }

    /// Makes an intent's file with its first line. The file is on the disk when this returns.
    pub(super) fn place(&self, number: u64, line: &[u8]) -> Result<(), Error> {
        let path = self.path(number);
        let draft = path.with_extension("new");
        let placed = files::write_new(&draft, line)
            .map_err(at("write", &draft))
            .and_then(|()| fs::rename(&draft, &path).map_err(at("create", &path)));
        if placed.is_err() {
            self.discard(&draft);
        }
        placed?;
        self.sync().inspect_err(|_| self.discard(&path))
    }

    /// Writes a line at `offset` over any former content, and syncs it to the disk. A failure
    /// leaves a torn line, or a step that has not started; both are harmless.
    pub(super) fn append(&self, number: u64, offset: u64, line: &[u8]) -> Result<(), Error> {
        let path = self.path(number);
        let file = files::straight(OpenOptions::new().write(true)).open(&path);
        file.and_then(|file| {
            file.set_len(offset)?;
            file.write_all_at(line, offset)?;
            file.sync_data()
        })
        .map_err(at("write", &path))
    }

    /// Removes an intent's file; only `sync` makes the removal durable.
    pub(super) fn remove(&self, number: u64) -> Result<(), Error> {
        let path = self.path(number);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(at("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Syncs the names in the directory to the disk.
    pub(super) fn sync(&self) -> Result<(), Error> {
        self.open.sync_all().map_err(at("write", &self.intents))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.intents.join(format!("{number:0DIGITS$}.intent"))
    }

    fn discard(&self, path: &Path) {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!("journal: cannot remove {}: {error}", path.display());
            }
            _ => {}
        }
    }

    /// Moves a file to `set-aside` without overwriting another; if that fails, the file stays.
    fn put_aside(&self, name: &OsStr, why: &InvalidIntent) {
        let moved = files::set_aside(&self.intents, name, &self.set_aside);
        let from = self.intents.join(name);
        let from = from.display();
        match moved {
            Ok(to) => warn!("journal: set {from} aside as {}: {why}", to.display()),
            Err(error) => error!("journal: cannot set {from} aside: {error}; {why}"),
        }
    }
}

/// The meaning of a name in the directory of intents.
enum Name {
    Intent(u64),
    Draft,
}

impl Name {
    /// Returns `None` for a name that the journal does not use.
    fn of(name: &OsStr) -> Option<Self> {
        let (digits, kind) = name.to_str()?.split_once('.')?;
        let number: u64 = digits.parse().ok()?;
        if number > NUMBER_MAX || format!("{number:0DIGITS$}") != digits {
            return None;
        }
        match kind {
            "intent" => Some(Self::Intent(number)),
            "new" => Some(Self::Draft),
            _ => None,
        }
    }
}

/// Locks the directory, and writes this process id into the lock file.
fn lock(directory: &Path, deadline: Instant) -> Result<File, Error> {
    let path = directory.join("lock");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
    let mut file = files::straight(&mut options).open(&path).map_err(at("open", &path))?;
    while !files::lock(&file).map_err(at("lock", &path))? {
        if Instant::now() >= deadline {
            return Err(Error::Locked { directory: directory.to_owned(), holder: holder(&file) });
        }
        thread::sleep(LOCK_PAUSE);
    }
    let written = file.set_len(0).and_then(|()| writeln!(file, "{}", process::id()));
    if let Err(error) = written {
        warn!("journal: cannot write {}: {error}", path.display());
    }
    Ok(file)
}

/// Returns the process id in the lock file. It only helps to find that process, so an unreadable
/// one is `None`.
fn holder(lock: &File) -> Option<u32> {
    let mut text = String::new();
    lock.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn at(verb: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |error| Error::Io { verb, path: path.clone(), error }
}
