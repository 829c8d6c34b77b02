//! The journal's files.
//!
//! ```text
//! DIR/lock              held by the agent that keeps the journal, with its process id
//! DIR/intents/N.intent  one for each verb that is not settled; a higher N is younger
//! DIR/intents/N.new     not yet in its place
//! DIR/set-aside/        what was found among the intents and cannot be followed
//! ```
//!
//! Only `intents` is swept: a `--state-dir` that is somebody's home stays as it is.

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
use super::record::{Record, Unfit};
use crate::config::JournalLimits;
use crate::config::fixed::LOCK_PAUSE;
use crate::os::{files, own};

const FILE_MODE: u32 = 0o600;
/// Digits of a name, so that names sort as numbers; more than that are taken, too.
const DIGITS: usize = 8;
/// No name has a higher number, so that there is always a next one.
const NUMBER_MAX: u64 = u64::MAX / 2;

/// The journal's folder, which is this agent's alone while it lives.
#[derive(Debug)]
pub(super) struct Folder {
    intents: PathBuf,
    set_aside: PathBuf,
    /// The open folder of intents: syncing it needs no free descriptor.
    open: File,
    /// Closing it lets the lock go.
    _lock: File,
}

/// What was left in the folder.
#[derive(Debug)]
pub(super) struct Left {
    /// Intents with their numbers, the oldest first.
    pub(super) records: Vec<(u64, Record)>,
    /// A number above all that are taken.
    pub(super) next: u64,
}

impl Folder {
    /// Takes the folder, which is made where it is absent.
    pub(super) fn open(path: &Path, limits: &JournalLimits) -> Result<Self, Error> {
        let make_folder = |path: &Path| own::make_directory(path).map_err(at("create", path));
        make_folder(path)?;
        let lock = lock(path, Instant::now() + limits.lock)?;
        let (intents, set_aside) = (path.join("intents"), path.join("set-aside"));
        make_folder(&intents)?;
        make_folder(&set_aside)?;
        let open = File::open(&intents).map_err(at("open", &intents))?;
        Ok(Self { intents, set_aside, open, _lock: lock })
    }

    /// Opens the empty file on which the commands of agents hold locks.
    pub(super) fn commands(&self) -> Result<File, Error> {
        let path = self.intents.with_file_name("commands");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(FILE_MODE);
        let made = files::straight(&mut options).open(&path).map_err(at("create", &path));
        // To read alone: commands have it as their standard input.
        made.and_then(|_| File::open(&path).map_err(at("open", &path)))
    }

    /// Reads the oldest intents, removes what was not yet in its place, and sets aside the rest.
    pub(super) fn sweep(&self, scope: &Scope, limits: &JournalLimits) -> Result<Left, Error> {
        let (mut oldest, mut next, mut unread) = (BTreeSet::new(), 1, 0_usize);
        for entry in fs::read_dir(&self.intents).map_err(at("list", &self.intents))? {
            let name = entry.map_err(at("list", &self.intents))?.file_name();
            match Name::of(&name) {
                Some(Name::Intent(number)) => {
                    next = next.max(number + 1);
                    oldest.insert(number);
                }
                Some(Name::Draft) => self.discard(&self.intents.join(&name)),
                None => self.put_aside(&name, &Unfit::Foreign("its name is not that of an intent")),
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
        Ok(Left { records, next })
    }

    /// An intent; `None` where it had to be set aside.
    fn read(
        &self,
        number: u64,
        scope: &Scope,
        limits: &JournalLimits,
    ) -> Result<Option<Record>, Error> {
        let path = self.path(number);
        let content = files::read_own(&path, limits.file_bytes).map_err(Unfit::Io);
        let read = content.and_then(|content| {
            let record = Record::read(&content, scope, limits)?;
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
            // The file is not to blame, and may say what has to be undone.
            Err(Unfit::Io(error)) if files::is_shortage(&error) => Err(at("read", &path)(error)),
            Err(unfit) => {
                self.put_aside(path.file_name().unwrap_or_default(), &unfit);
                Ok(None)
            }
        }
    }

    /// Makes an intent's file with its first line; when this returns it is on the disk.
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

    /// Puts a line at `offset`, in the place of what may be there, and has it on the disk. What a
    /// failure leaves there is a torn line, or a step that is not begun: both do no harm.
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

    /// Removes an intent's file; `sync` makes that last.
    pub(super) fn remove(&self, number: u64) -> Result<(), Error> {
        let path = self.path(number);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(at("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Has the folder's names on the disk.
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

    /// Moves a file out of the way, over nothing; where that fails it stays.
    fn put_aside(&self, name: &OsStr, why: &Unfit) {
        let moved = files::set_aside(&self.intents, name, &self.set_aside);
        let from = self.intents.join(name);
        let from = from.display();
        match moved {
            Ok(to) => warn!("journal: set {from} aside as {}: {why}", to.display()),
            Err(error) => error!("journal: cannot set {from} aside: {error}; {why}"),
        }
    }
}

/// What a name in the folder of intents stands for.
enum Name {
    Intent(u64),
    Draft,
}

impl Name {
    /// `None` for a name that the journal does not give.
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

/// Takes the folder's lock and writes down who has it.
fn lock(folder: &Path, deadline: Instant) -> Result<File, Error> {
    let path = folder.join("lock");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
    let mut file = files::straight(&mut options).open(&path).map_err(at("open", &path))?;
    while !files::lock(&file).map_err(at("lock", &path))? {
        if Instant::now() >= deadline {
            return Err(Error::Locked { folder: folder.to_owned(), holder: holder(&file) });
        }
        thread::sleep(LOCK_PAUSE);
    }
    let written = file.set_len(0).and_then(|()| writeln!(file, "{}", process::id()));
    if let Err(error) = written {
        warn!("journal: cannot write {}: {error}", path.display());
    }
    Ok(file)
}

/// Who wrote itself into the lock; it only helps to find it, so that what cannot be read is nobody.
fn holder(lock: &File) -> Option<u32> {
    let mut text = String::new();
    lock.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn at(verb: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |error| Error::Io { verb, path: path.clone(), error }
}
