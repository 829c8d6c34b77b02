//! Properties of the directory of jobs that hold for any content.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use std::{env, process, str, thread};

use serde_json::value::RawValue;

use super::directory::{self, NUMBER_MAX};
use super::*;
use crate::os::peer::{Caller, Origin, Peer};

/// The number of checked entries; each must be moved or read several times.
const ENTRIES_MAX: usize = 16;
/// In bytes, so that a number fits behind the name.
const NAME_MAX: usize = 200;
/// The content of the files that already exist in `set-aside`, one for the name of each entry.
const FORMER: &[u8] = b"former";

/// Opens jobs with these entries in the directory, one a line: the name, a blank, and the content. `/` is a directory,
/// `@` a link, `=` a file with this text and a correct checksum, anything else a file of these bytes.
///
/// Each entry is read, superseded or set aside unchanged. A job that is read is the same when it is read again, does
/// not prevent others from starting, and numbers grow.
pub(crate) fn job_files(data: &[u8]) {
    let home = Home::new();
    let before = home.fill(data);
    let records = home.directory().sweep().expect("whatever is in it");
    home.all_are_there(&before, &records);
    if records.is_empty() {
        // The rest checks nothing new without a job, and takes longer than everything before.
        return;
    }
    let aside = home.content("set-aside");

    let jobs = home.open();
    for (_, stage, record) in &records {
        check_opened(&jobs, *stage, record);
    }
    let jobs = home.again(jobs);
    let added = add(&jobs);
    let jobs = home.again(jobs);
    let mut active = Vec::new();
    let next = || jobs.take(&mut jobs.table.lock());
    while let Some(job) = next() {
        jobs.may_begin(&job).expect("it waits in its file");
        active.push(job.id());
        jobs.end(&job, JobOutcome::Done(job.request.params.clone()));
    }
    assert!(added.is_none_or(|id| active.contains(&id)), "none keeps another waiting for ever");
    assert_eq!(jobs.counts(), (0, 0));
    assert!(jobs.wait_for_ends(Instant::now()));
    let jobs = home.again(jobs);
    assert_eq!(home.content("jobs").len(), jobs.table.lock().stored.len(), "a file for each");
    assert_eq!(home.content("set-aside"), aside, "what the agent writes it can read");
}

/// Checks the job that a start makes from a file.
fn check_opened(jobs: &Jobs, stage: Stage, record: &JobRecord) {
    let is_old = jobs.is_old(record);
    let Ok(job) = jobs.get(&record.job.id) else {
        let ended =
            jobs.table.lock().stored.iter().filter(|stored| stored.state().is_end()).count();
        let has_ended = stage != Stage::Queued || is_old;
        assert!(has_ended && (is_old || ended == jobs.limits.stored), "{record:?} is forgotten");
        return;
    };
    match stage {
        Stage::Ended => assert_eq!(text(&job), text(&record.job)),
        Stage::Running => assert_eq!(job.state, JobState::Lost),
        Stage::Queued if is_old => assert_eq!(job.state, JobState::Lost),
        Stage::Queued => assert_eq!(text(&job), text(&record.job)),
    }
}

/// Adds one more job; returns its id, unless an entry has the highest possible number.
fn add(jobs: &Jobs) -> Option<String> {
    if jobs.table.lock().next > NUMBER_MAX {
        return None;
    }
    let caller = Caller { origin: Origin::Socket, peer: Some(Peer { uid: 0, pid: None }) };
    let request = JobCall { params: RawValue::NULL.to_owned(), caller };
    let id = jobs.add("Libvirt.Run", "one more", request).expect("there is room");
    let is_last =
        jobs.table.lock().stored.iter().all(|stored| stored.number <= number(&id).unwrap_or(0));
    assert!(is_last, "{id} is higher than all before");
    Some(id)
}

fn text(job: &Job) -> String {
    serde_json::to_string(job).expect("a job has a JSON form")
}

fn clock() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_764_086_400)
}

/// The directories of an agent, removed on drop.
struct Home(PathBuf);

impl Home {
    fn new() -> Self {
        let whose = format!("{}-{:?}", process::id(), thread::current().id());
        let path = env::temp_dir().join(format!("mistify-fuzz-{whose}"));
        // A failed run may have left one.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a folder");
        let home = Self(path);
        home.directory();
        home
    }

    fn limits() -> JobLimits {
        JobLimits { stored: 4, queued_per_guest: 64, file_bytes: 16 * 1024, ..JobLimits::default() }
    }

    fn directory(&self) -> JobDirectory {
        let (jobs, aside) = (self.0.join("jobs"), self.0.join("set-aside"));
        let file_bytes = Self::limits().file_bytes;
        JobDirectory::open(&jobs, &aside, "here".to_owned(), file_bytes).expect("it can be made")
    }

    fn open(&self) -> Jobs {
        let (jobs, aside) = (self.0.join("jobs"), self.0.join("set-aside"));
        let (limits, recovery_note) = (Self::limits(), |_: &Job| "who knows");
        Jobs::open_by(&jobs, &aside, "here".to_owned(), &limits, recovery_note, clock)
            .expect("it is open")
    }

    /// Reopens the jobs as after a restart, and checks that they are the same.
    fn again(&self, jobs: Jobs) -> Jobs {
        let all = |jobs: &Jobs| -> Vec<String> {
            jobs.table.lock().stored.iter().map(|stored| text(&stored.job())).collect()
        };
        let before = all(&jobs);
        drop(jobs);
        let jobs = self.open();
        assert_eq!(all(&jobs), before);
        jobs
    }

    /// Makes the entries, and a file of the same name in `set-aside` for each.
    fn fill(&self, data: &[u8]) -> Vec<Entry> {
        let (jobs, aside) = (self.0.join("jobs"), self.0.join("set-aside"));
        for line in data.split(|byte| *byte == b'\n').take(ENTRIES_MAX) {
            let Some((name, what)) = split_at_blank(line).filter(|(name, _)| is_name(name)) else {
                continue;
            };
            let path = jobs.join(OsStr::from_bytes(name));
            if fs::symlink_metadata(&path).is_ok() {
                continue;
            }
            let made = match what {
                b"/" => fs::create_dir(&path),
                b"@" => symlink("/dev/null", &path),
                [b'=', json @ ..] => match str::from_utf8(json) {
                    Ok(json) => fs::write(&path, directory::line(json)),
                    Err(_) => fs::write(&path, json),
                },
                bytes => fs::write(&path, bytes),
            };
            made.expect("the folder can be written");
            fs::write(aside.join(OsStr::from_bytes(name)), FORMER).expect("so can this");
        }
        self.content("jobs").into_iter().collect()
    }

    /// Returns the content of one of its directories.
    fn content(&self, directory: &str) -> BTreeMap<Vec<u8>, What> {
        let entries = fs::read_dir(self.0.join(directory)).expect("it is there");
        let entries = entries.map(|entry| entry.expect("it can be listed"));
        entries
            .map(|entry| {
                let kind = entry.file_type().expect("it is known");
                let what = match () {
                    () if kind.is_dir() => What::Directory,
                    () if kind.is_symlink() => What::Link,
                    () => What::File(fs::read(entry.path()).expect("it can be read")),
                };
                (entry.file_name().as_bytes().to_owned(), what)
            })
            .collect()
    }

    /// Checks that each entry belongs to a record and would be written the same again, or was set aside without
    /// overwriting, or was a draft, or was superseded by a record.
    fn all_are_there(&self, before: &[Entry], records: &[(u64, Stage, JobRecord)]) {
        let (jobs, aside) = (self.content("jobs"), self.content("set-aside"));
        assert_eq!(jobs.len(), records.len(), "what is not followed does not stay");
        for (name, what) in before {
            assert_eq!(aside.get(name), Some(&What::File(FORMER.to_owned())));
            let parsed = directory::parse(OsStr::from_bytes(name));
            let record =
                parsed.and_then(|(number, _)| records.iter().find(|(other, ..)| *other == number));
            let moved = aside.get(&[name, &b".1"[..]].concat());
            match (parsed, record) {
                (Some((_, Some(stage))), Some((_, last, record))) if stage == *last => {
                    assert_eq!((jobs.get(name), moved), (Some(what), None));
                    assert_eq!(self.directory().texts(record), texts(what), "all of it is read");
                }
                (Some((_, Some(stage))), Some((_, last, _)))
                    if stage < *last && *what != What::Directory =>
                {
                    assert_eq!((jobs.get(name), moved), (None, None), "it is overtaken");
                }
                (Some((_, None)), _) if *what != What::Directory => {
                    assert_eq!((jobs.get(name), moved), (None, None), "it is a draft");
                }
                _ => assert_eq!((jobs.get(name), moved), (None, Some(what)), "it is set aside"),
            }
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Remains in the directory for temporary files do no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An entry of a directory, with its name.
type Entry = (Vec<u8>, What);

#[derive(Debug, PartialEq)]
enum What {
    File(Vec<u8>),
    Directory,
    Link,
}

fn split_at_blank(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = line.iter().position(|byte| *byte == b' ')?;
    Some((line.get(..blank)?, line.get(blank + 1..)?))
}

/// Returns the texts of a file that was read.
fn texts(what: &What) -> Vec<String> {
    let What::File(content) = what else { panic!("a record of {what:?}") };
    let text = str::from_utf8(content).expect("it was read");
    let text = text.trim_end_matches('\n');
    let (_, json) = text.split_once(' ').expect("it was read");
    assert_eq!(directory::line(json), format!("{text}\n"), "under its sum");
    serde_json::from_str(json).expect("it was read")
}

/// Returns whether an entry can have this name. It must not look like the name of a file that was set aside.
fn is_name(name: &[u8]) -> bool {
    let mut parts = Path::new(OsStr::from_bytes(name)).components();
    let is_one = |part| matches!(part, Component::Normal(part) if part.as_bytes() == name);
    let end = name.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
    name.len() <= NAME_MAX
        && !name.contains(&0)
        && !end.iter().all(u8::is_ascii_digit)
        && parts.next().is_some_and(is_one)
}
