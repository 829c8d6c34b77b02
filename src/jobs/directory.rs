//! The files of jobs.
//!
//! ```text
//! DIR/jobs/N.queued     the request
//! DIR/jobs/N.running    the same file, renamed before the start
//! DIR/jobs/N.ended      the result
//! DIR/jobs/N.new        a draft, before its rename
//! DIR/set-aside/        unusable files from `jobs`
//! ```
//!
//! A file is one line: a checksum, a space and a JSON array of texts: the format, the scope, and the job. A file is on
//! the disk before it gets its name, so that an end of the agent leaves no partial file. The start of a job is a
//! rename, which needs no space.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use log::{error, warn};

use super::job::JobRecord;
use super::{Error, JobState};
use crate::os::files::{self, CHECKSUM_START, checksum};
use crate::os::own;

/// The version of the format; files of other versions are refused.
const FORMAT: &str = "job 1";
/// The number of digits of a name, so that names sort as numbers; enough for microseconds since 1970.
const DIGITS: usize = 16;
/// The highest number of a job, so that there is always a next one.
pub(super) const NUMBER_MAX: u64 = u64::MAX / 2;

/// The stage of a file's job. If a job has two files, the later stage counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Queued,
    Running,
    Ended,
}

impl Stage {
    const ALL: [Self; 3] = [Self::Queued, Self::Running, Self::Ended];

    fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Ended => "ended",
        }
    }

    fn before(self) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |former| *former < self)
    }

    /// Returns whether a job's file of this stage may contain the record. The file of a running job is the one of the
    /// waiting job.
    fn fits(self, record: &JobRecord) -> bool {
        match self {
            Self::Queued | Self::Running => {
                record.job.state == JobState::Queued && record.request.is_some()
            }
            Self::Ended => record.job.state.is_end() && record.request.is_none(),
        }
    }
}

/// The directory of jobs. It is inside the directory that the journal locks, so this agent uses it exclusively.
pub(super) struct JobDirectory {
    path: PathBuf,
    set_aside: PathBuf,
    scope: String,
    file_bytes: u64,
    /// Open, so that a sync needs no free descriptor.
    open: File,
}

impl JobDirectory {
    pub(super) fn open(
        path: &Path,
        set_aside: &Path,
        scope: String,
        file_bytes: u64,
    ) -> Result<Self, Error> {
        own::make_directory(path).map_err(at("create", path))?;
        own::make_directory(set_aside).map_err(at("create", set_aside))?;
        let open = File::open(path).map_err(at("open", path))?;
        Ok(Self { path: path.to_owned(), set_aside: set_aside.to_owned(), scope, file_bytes, open })
    }

    /// Reads all jobs, removes drafts and files of earlier stages, and sets the other files aside.
    pub(super) fn sweep(&self) -> Result<Vec<(u64, Stage, JobRecord)>, Error> {
        let mut found: Vec<(u64, Stage)> = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(at("list", &self.path))? {
            let entry = entry.map_err(at("list", &self.path))?;
            let name = entry.file_name();
            match parse(&name) {
                // A directory can be neither read nor removed like a file.
                _ if entry.file_type().is_ok_and(|kind| kind.is_dir()) => {
                    self.put_aside(&name, "it is a directory");
                }
                Some((number, Some(stage))) => {
                    let at = found.partition_point(|(other, _)| *other < number);
                    match found.get_mut(at) {
                        Some((same, latest)) if *same == number => *latest = stage.max(*latest),
                        _ => found.insert(at, (number, stage)),
                    }
                }
                Some((_, None)) => self.discard(&self.path.join(&name))?,
                None => {
                    self.put_aside(&name, "its name is not that of a job file");
                }
            }
        }
        let mut records = Vec::new();
        for (number, stage) in found {
            match self.read(number, stage) {
                Ok(record) => {
                    stage.before().try_for_each(|it| self.discard(&self.file(number, it)))?;
                    records.push((number, stage, record));
                }
                // The file itself may be valid.
                Err(error) if files::is_shortage(&error) => {
                    return Err(at("read", &self.file(number, stage))(error));
                }
                Err(error) => self.put_job_aside(number, stage, &error.to_string()),
            }
        }
        Ok(records)
    }

    fn read(&self, number: u64, stage: Stage) -> io::Result<JobRecord> {
        let content = files::read_own(&self.file(number, stage), self.file_bytes)?;
        let damaged = || io::Error::other("its content is damaged");
        let text = std::str::from_utf8(&content).map_err(|_| damaged())?;
        let (sum, json) = text.trim_end_matches('\n').split_once(' ').ok_or_else(damaged)?;
        if sum != sum_of(json) {
            return Err(damaged());
        }
        let texts: Vec<String> = serde_json::from_str(json).map_err(|_| damaged())?;
        let (scope, texts) = match &texts[..] {
            [format, scope, texts @ ..] if format == FORMAT => (scope, texts),
            _ => return Err(io::Error::other("its format is unknown")),
        };
        if *scope != self.scope {
            return Err(io::Error::other(format!("it belongs to {scope}")));
        }
        let record = JobRecord::read(texts).filter(|it| stage.fits(it)).ok_or_else(damaged)?;
        match record.job.id == number.to_string() {
            true => Ok(record),
            false => Err(io::Error::other("it belongs to another job")),
        }
    }

    /// Makes the file of a waiting job. The file is on the disk when this returns.
    pub(super) fn place(&self, number: u64, record: &JobRecord) -> Result<(), Error> {
        self.write(number, Stage::Queued, record)?;
        self.sync().inspect_err(|_| {
            // The job is refused; a file that remains would run at the next start.
            let _ = self.discard(&self.file(number, Stage::Queued));
        })
    }

    /// Records on the disk that a job has started.
    pub(super) fn begin(&self, number: u64) -> Result<(), Error> {
        let (from, to) = (self.file(number, Stage::Queued), self.file(number, Stage::Running));
        fs::rename(&from, &to).map_err(at("rename", &from))?;
        self.sync()
    }

    /// Writes the outcome of a job to the disk. Even if that fails, the job does not start again.
    pub(super) fn end(&self, number: u64, record: &JobRecord) -> Result<(), Error> {
        let written = self.write(number, Stage::Ended, record);
        self.discard(&self.file(number, Stage::Queued))?;
        written?;
        self.discard(&self.file(number, Stage::Running))?;
        self.sync()
    }

    /// Removes the files of a job that has ended.
    pub(super) fn forget(&self, number: u64) -> Result<(), Error> {
        Stage::ALL.into_iter().try_for_each(|stage| self.discard(&self.file(number, stage)))
    }

    fn write(&self, number: u64, stage: Stage, record: &JobRecord) -> Result<(), Error> {
        let json = serde_json::to_string(&self.texts(record)).expect("texts have a JSON form");
        let content = line(&json);
        let (draft, path) = (self.path.join(name(number, "new")), self.file(number, stage));
        let placed = files::write_new(&draft, content.as_bytes())
            .map_err(at("write", &draft))
            .and_then(|()| fs::rename(&draft, &path).map_err(at("create", &path)));
        placed.inspect_err(|_| {
            // Otherwise the next start removes it.
            let _ = self.discard(&draft);
        })
    }

    /// Returns the content of a job's file.
    pub(super) fn texts(&self, record: &JobRecord) -> Vec<String> {
        let mut texts = vec![FORMAT.to_owned(), self.scope.clone()];
        texts.extend(record.texts());
        texts
    }

    /// Syncs the names in the directory to the disk.
    fn sync(&self) -> Result<(), Error> {
        self.open.sync_all().map_err(at("write", &self.path))
    }

    fn file(&self, number: u64, stage: Stage) -> PathBuf {
        self.path.join(name(number, stage.name()))
    }

    /// Removes a file, if it exists.
    fn discard(&self, path: &Path) -> Result<(), Error> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", path)(error)),
            _ => Ok(()),
        }
    }

    /// Sets a job aside whose last file is unusable. Its files of earlier stages are moved first, and the last file
    /// only after all of them: an earlier file alone would start the job again.
    fn put_job_aside(&self, number: u64, last: Stage, why: &str) {
        let all_gone = last.before().all(|stage| {
            let is_there = fs::symlink_metadata(self.file(number, stage)).is_ok();
            let why = format!("a later file of the job ({}) is unusable: {why}", last.name());
            !is_there || self.put_aside(name(number, stage.name()).as_ref(), &why)
        });
        if all_gone {
            self.put_aside(name(number, last.name()).as_ref(), why);
        }
    }

    /// Sets a file aside. If that fails, returns `false`; the file stays, and the next start tries again.
    fn put_aside(&self, name: &OsStr, why: &str) -> bool {
        let moved = files::set_aside(&self.path, name, &self.set_aside);
        let from = self.path.join(name);
        match &moved {
            Ok(to) => warn!("jobs: set {} aside as {}: {why}", from.display(), to.display()),
            Err(error) => error!("jobs: cannot set {} aside: {error}; {why}", from.display()),
        }
        moved.is_ok()
    }
}

/// Returns the number and the stage of a name, without a stage for a draft; `None` for a name that is not used here.
pub(super) fn parse(file: &OsStr) -> Option<(u64, Option<Stage>)> {
    let (digits, kind) = file.to_str()?.split_once('.')?;
    let number: u64 = digits.parse().ok()?;
    let stage = Stage::ALL.into_iter().find(|stage| stage.name() == kind);
    let is_ours = number <= NUMBER_MAX && *file == *name(number, kind);
    (is_ours && (stage.is_some() || kind == "new")).then_some((number, stage))
}

fn name(number: u64, kind: &str) -> String {
    format!("{number:0DIGITS$}.{kind}")
}

/// Returns the whole content of a file.
pub(super) fn line(json: &str) -> String {
    format!("{} {json}\n", sum_of(json))
}

fn sum_of(json: &str) -> String {
    format!("{:016x}", checksum(CHECKSUM_START, json.as_bytes()))
}

fn at(verb: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |error| Error::Io { verb, path: path.clone(), error }
}
