//! Calls that outlive their request: what each of them is, and what came of it.
//!
//! ```text
//! add ──► queued ── next ──► running ── end ──► done, failed
//!            │                  │
//!          cancel          the agent ends
//!            ▼                  ▼
//!        cancelled            lost              all of these are kept for a while
//! ```
//!
//! This room keeps jobs (in files, see `folder`) and says whose turn it is; it carries nothing out and
//! does not know what a request or an outcome means: both are JSON of whoever calls. What holds:
//! - When [`Jobs::add`] returns, the disk has the job; a start that finds it queued begins it.
//! - When [`Jobs::may_begin`] returns, the disk has that it runs: whatever happens then, no start begins
//!   it again. One that an agent's end cut off is lost, and says so.
//! - Jobs of one guest run one after the other, in the order in which they came.
//! - No lock is held while a disk is waited for: each step of a job is one thread's alone.

mod error;
mod folder;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod job;
mod progress;
mod table;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use log::warn;
use parking_lot::{Condvar, Mutex};
use serde_json::value::RawValue;

use crate::config::JobLimits;
use crate::os::clock;

use self::folder::{Folder, Stage};
use self::job::Record;
use self::table::{Kept, Table, number};

pub use self::error::Error;
pub use self::job::{Job, Outcome, Page, Request, State};
pub use self::progress::{Progress, Track, reached, tracker};

/// The jobs of one agent.
pub struct Jobs {
    table: Mutex<Table>,
    /// A job may be begun, one has ended, or none is begun any more.
    changed: Condvar,
    /// `None` for jobs that end with the process.
    folder: Option<Folder>,
    limits: JobLimits,
    clock: fn() -> SystemTime,
}

/// A job that is to be carried out, by whoever has this.
pub struct Begun {
    number: u64,
    /// The method, with its service's name.
    pub method: String,
    /// What is asked for, and by whom.
    pub request: Request,
    track: Track,
}

impl Begun {
    /// The job's id.
    pub fn id(&self) -> String {
        self.number.to_string()
    }

    /// Runs `work` so that the steps which it tells of are this job's.
    pub fn tracked<T>(&self, work: impl FnOnce() -> T) -> T {
        progress::tracked(&self.track, work)
    }
}

impl Jobs {
    /// The jobs in `folder`, which is made where it is absent and has to be this agent's alone. Those
    /// that ran are lost; `fate` says what becomes of what they began. What cannot be followed is moved
    /// to `set_aside`, and what is about another `scope`, too.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be used.
    ///
    /// # Blocking
    /// As long as the disk takes.
    pub fn open(
        folder: &Path,
        set_aside: &Path,
        scope: String,
        limits: &JobLimits,
        fate: impl Fn(&Job) -> &'static str,
    ) -> Result<Self, Error> {
        Self::open_by(folder, set_aside, scope, limits, fate, SystemTime::now)
    }

    fn open_by(
        folder: &Path,
        set_aside: &Path,
        scope: String,
        limits: &JobLimits,
        fate: impl Fn(&Job) -> &'static str,
        clock: fn() -> SystemTime,
    ) -> Result<Self, Error> {
        let folder = Folder::open(folder, set_aside, scope, limits.file_bytes)?;
        let left = folder.sweep()?;
        let jobs = Self::with(Some(folder), limits, clock);
        for (number, stage, mut record) in left {
            let why = match stage {
                Stage::Ended => None,
                Stage::Running => {
                    Some(("the agent stopped while the job ran: ", fate(&record.job)))
                }
                Stage::Queued if jobs.is_old(&record) => {
                    Some(("the job was not started: ", "the agent was down for too long"))
                }
                Stage::Queued => None,
            };
            if let Some((what, fate)) = why {
                jobs.close_record(&mut record, Outcome::Lost(format!("{what}{fate}")));
                jobs.write_end(number, &record);
            }
            let mut table = jobs.table.lock();
            let next = table.next;
            table.add(number, record, true);
            table.next = table.next.max(next);
        }
        jobs.forget();
        Ok(jobs)
    }

    /// Jobs that end with the process, for an agent that has no folder.
    pub fn in_memory(limits: &JobLimits) -> Self {
        Self::with(None, limits, SystemTime::now)
    }

    fn with(folder: Option<Folder>, limits: &JobLimits, clock: fn() -> SystemTime) -> Self {
        // So that numbers grow over a restart, also where no job is left of the time before.
        let micros = clock().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let next = u64::try_from(micros).unwrap_or(0).clamp(1, folder::NUMBER_MAX);
        let table = Mutex::new(Table { next, ..Table::default() });
        Self { table, changed: Condvar::new(), folder, limits: limits.clone(), clock }
    }

    /// Bounds.
    pub fn limits(&self) -> &JobLimits {
        &self.limits
    }

    /// Takes a call as a job; its id.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::GuestFull`], [`Error::Size`], [`Error::Closed`] or [`Error::Io`]:
    /// there is no job then.
    ///
    /// # Blocking
    /// As long as the disk takes.
    pub fn add(&self, method: &str, guest: &str, request: Request) -> Result<String, Error> {
        if request.params.get().len() > self.limits.request_bytes {
            return Err(Error::Size { bytes: self.limits.request_bytes });
        }
        self.forget();
        let at = (self.clock)();
        let (number, record) = {
            let mut table = self.table.lock();
            table.has_room(guest, request.caller.share(), &self.limits)?;
            let number = table.next;
            let record = Record::queued(number, method, guest, request, at);
            table.add(number, record.clone(), false);
            (number, record)
        };
        let placed = self.on_disk(|folder| folder.place(number, &record));
        let mut table = self.table.lock();
        if let Err(error) = placed {
            table.kept.retain(|kept| kept.number != number);
            // It kept those of its guest that came after it.
            self.changed.notify_all();
            return Err(error);
        }
        table.get(number).placed = true;
        self.changed.notify_all();
        Ok(record.job.id)
    }

    /// Waits for a job that may be begun, which nobody else gets or cancels from here on; `None` once
    /// none is begun any more.
    ///
    /// # Blocking
    /// Until then.
    pub fn next(&self) -> Option<Begun> {
        let mut table = self.table.lock();
        while !table.closed {
            if let Some(begun) = self.take(&mut table) {
                return Some(begun);
            }
            self.changed.wait(&mut table);
        }
        None
    }

    /// The job whose turn it is, if there is one.
    fn take(&self, table: &mut Table) -> Option<Begun> {
        let kept = table.first()?;
        let request = kept.record.request.take()?;
        kept.record.job.state = State::Running;
        kept.record.job.started = clock::rfc3339_utc((self.clock)());
        let method = kept.record.job.method.clone();
        Some(Begun { number: kept.number, method, request, track: kept.track.clone() })
    }

    /// Has it on the disk that a job is begun: to be called before its first step.
    ///
    /// # Errors
    /// [`Error::Io`]: it is to be ended, and not begun.
    ///
    /// # Blocking
    /// As long as the disk takes.
    pub fn may_begin(&self, begun: &Begun) -> Result<(), Error> {
        self.on_disk(|folder| folder.begin(begun.number))
    }

    /// Ends a job; as it is now. Where the disk does not take the outcome, that is logged, and the next
    /// start takes the job for lost.
    ///
    /// # Blocking
    /// As long as the disk takes.
    pub fn end(&self, begun: &Begun, outcome: Outcome) -> Job {
        let number = begun.number;
        let mut record = self.table.lock().get(number).record.clone();
        record.job.progress = begun.track.progress();
        self.close_record(&mut record, outcome);
        self.write_end(number, &record);
        let job = record.job.clone();
        self.table.lock().get(number).record = record;
        self.changed.notify_all();
        self.forget();
        job
    }

    /// The job of this id. From memory.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn get(&self, id: &str) -> Result<Job, Error> {
        let mut table = self.table.lock();
        let kept = table.find(id)?;
        match self.is_over(kept) {
            true => Err(Error::Unknown { id: id.to_owned() }),
            false => Ok(kept.job()),
        }
    }

    /// At most `limit` jobs that are `wanted`, whose ids come after this one, the oldest first and
    /// without their results. From memory.
    ///
    /// # Errors
    /// [`Error::Unknown`] where `after` is no id.
    pub fn list(
        &self,
        after: &str,
        limit: usize,
        wanted: impl Fn(&Job) -> bool,
    ) -> Result<Page, Error> {
        let after = match after {
            "" => 0,
            id => number(id).ok_or_else(|| Error::Unknown { id: id.to_owned() })?,
        };
        let table = self.table.lock();
        let known = table.kept.iter().filter(|kept| kept.placed && kept.number > after);
        let known = known.filter(|kept| !self.is_over(kept));
        let mut found = known.filter(|kept| wanted(&kept.record.job)).map(Kept::job);
        let jobs: Vec<Job> =
            found.by_ref().take(limit).map(|job| Job { result: None, ..job }).collect();
        let more = found.next().is_some();
        let last = jobs.last().filter(|_| more).map(|job| job.id.clone());
        Ok(Page { jobs, next: last.unwrap_or_default() })
    }

    /// Cancels a job that is not begun; as it is then, and whether it is that by this call: one that is
    /// cancelled already is a success.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Begun`] for any other job.
    ///
    /// # Blocking
    /// As long as the disk takes.
    pub fn cancel(&self, id: &str) -> Result<(Job, bool), Error> {
        self.forget();
        let (number, record) = {
            let mut table = self.table.lock();
            let kept = table.find(id)?;
            let mut record = kept.record.clone();
            match record.job.state {
                State::Queued => {}
                State::Cancelled => return Ok((record.job, false)),
                state => return Err(Error::Begun { id: id.to_owned(), state }),
            }
            self.close_record(&mut record, Outcome::Cancelled);
            kept.record = record.clone();
            (kept.number, record)
        };
        // Others of its guest may have waited for it.
        self.changed.notify_all();
        self.write_end(number, &record);
        Ok((record.job, true))
    }

    /// How many wait, and how many run.
    pub fn counts(&self) -> (usize, usize) {
        let table = self.table.lock();
        (table.count(State::Queued), table.count(State::Running))
    }

    /// From here on none is taken or begun. Those that wait stay on the disk.
    pub fn close(&self) {
        self.table.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits for the end of those that run; whether all have ended.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub fn wait_for_ends(&self, deadline: Instant) -> bool {
        let mut table = self.table.lock();
        while table.count(State::Running) > 0 {
            if self.changed.wait_until(&mut table, deadline).timed_out() {
                return table.count(State::Running) == 0;
            }
        }
        true
    }

    fn on_disk(&self, work: impl FnOnce(&Folder) -> Result<(), Error>) -> Result<(), Error> {
        self.folder.as_ref().map_or(Ok(()), work)
    }

    /// Writes an outcome into a record.
    fn close_record(&self, record: &mut Record, outcome: Outcome) {
        record.end(outcome, (self.clock)());
        let Job { id, result, error, .. } = &mut record.job;
        // Half the file, where it is all quotes and backslashes, which have to be escaped in it.
        let room = usize::try_from(self.limits.file_bytes / 4).unwrap_or(usize::MAX);
        let too_long = |it: &Option<Box<RawValue>>| {
            it.as_deref().map(|it| it.get().len()).filter(|bytes| *bytes > room)
        };
        if let Some(bytes) = too_long(result) {
            warn!("result of job {id} is too long to store: bytes={bytes}");
            *result = None;
        }
        if let Some(bytes) = too_long(error) {
            warn!("error of job {id} is too long to store: bytes={bytes}");
            *error = job::error_of(&format!("the error is too long to store: {bytes} bytes"));
        }
    }

    fn write_end(&self, number: u64, record: &Record) {
        if let Err(error) = self.on_disk(|folder| folder.end(number, record)) {
            warn!("cannot store the end of job {number}: {error}");
        }
    }

    /// Whether an end, or a beginning that did not come, is longer ago than is kept.
    fn is_old(&self, record: &Record) -> bool {
        let since_1970 = (self.clock)().duration_since(UNIX_EPOCH).unwrap_or_default();
        since_1970.saturating_sub(Duration::from_millis(record.at_ms)) >= self.limits.kept_for
    }

    /// Whether a job ended too long ago, so that the next write to the disk removes it.
    fn is_over(&self, kept: &Kept) -> bool {
        kept.state().is_end() && self.is_old(&kept.record)
    }

    /// Forgets the jobs that ended too long ago, and the first of them to end where they are too many.
    fn forget(&self) {
        let gone = self.table.lock().forget(self.limits.kept, |record| self.is_old(record));
        for number in gone {
            if let Err(error) = self.on_disk(|folder| folder.forget(number)) {
                warn!("cannot remove job {number}: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests;
