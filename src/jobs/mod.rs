//! Jobs: calls that outlive their request, with their results.
//!
//! ```text
//! add ──► queued ── next ──► running ── end ──► done, failed
//!            │                  │
//!          cancel          the agent ends
//!            ▼                  ▼
//!        cancelled            lost              all of these are kept for a while
//! ```
//!
//! This module stores jobs (in files, see `directory`) and determines the next job to run. It runs no job itself, and
//! does not interpret requests and outcomes: both are JSON of its callers. The guarantees:
//! - When [`Jobs::add`] returns, the job is on the disk; a start that finds it queued runs it.
//! - When [`Jobs::may_begin`] returns, the disk records that the job runs: no later start runs it again. A job that the
//!   end of an agent interrupts becomes lost.
//! - Jobs of one guest run one after the other, in the order of their arrival.
//! - No mutex is held during a wait for the disk: only one thread handles a job at a time.

mod directory;
mod error;
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

use self::directory::{JobDirectory, Stage};
use self::job::JobRecord;
use self::table::{StoredJob, Table, number};

pub use self::error::Error;
pub use self::job::{Job, JobCall, JobOutcome, JobPage, JobState};
pub use self::progress::{Progress, Track, reached, tracker};

/// The jobs of one agent.
pub struct Jobs {
    table: Mutex<Table>,
    /// Signals that a job may start, that a job has ended, or that no further job starts.
    changed: Condvar,
    /// `None` for jobs in memory.
    directory: Option<JobDirectory>,
    limits: JobLimits,
    clock: fn() -> SystemTime,
}

/// A job that a thread has taken to run.
pub struct RunningJob {
    number: u64,
    /// The method, with its service's name.
    pub method: String,
    /// The request and its caller.
    pub request: JobCall,
    track: Track,
}

impl RunningJob {
    /// Returns the job's id.
    pub fn id(&self) -> String {
        self.number.to_string()
    }

    /// Runs `work`, and counts the steps that it reports as steps of this job.
    pub fn tracked<T>(&self, work: impl FnOnce() -> T) -> T {
        progress::tracked(&self.track, work)
    }
}

impl Jobs {
    /// Opens the jobs in `directory`, which must be exclusive to this agent, and makes the directory if it is absent.
    /// Jobs that were running become lost; `recovery_note` returns the outcome of their changes. Unusable files, and
    /// jobs of another `scope`, are moved to `set_aside`.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be used.
    ///
    /// # Blocking
    /// Until the disk has answered.
    pub fn open(
        directory: &Path,
        set_aside: &Path,
        scope: String,
        limits: &JobLimits,
        recovery_note: impl Fn(&Job) -> &'static str,
    ) -> Result<Self, Error> {
        Self::open_by(directory, set_aside, scope, limits, recovery_note, SystemTime::now)
    }

    fn open_by(
        directory: &Path,
        set_aside: &Path,
        scope: String,
        limits: &JobLimits,
        recovery_note: impl Fn(&Job) -> &'static str,
        clock: fn() -> SystemTime,
    ) -> Result<Self, Error> {
        let directory = JobDirectory::open(directory, set_aside, scope, limits.file_bytes)?;
        let stored = directory.sweep()?;
        let jobs = Self::with(Some(directory), limits, clock);
        for (number, stage, mut record) in stored {
            let lost = match stage {
                Stage::Ended => None,
                Stage::Running => {
                    Some(("the agent stopped while the job ran: ", recovery_note(&record.job)))
                }
                Stage::Queued if jobs.is_old(&record) => {
                    Some(("the job was not started: ", "the agent was down for too long"))
                }
                Stage::Queued => None,
            };
            if let Some((what, why)) = lost {
                jobs.close_record(&mut record, JobOutcome::Lost(format!("{what}{why}")));
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

    /// Creates jobs in memory, for an agent without a state directory.
    pub fn in_memory(limits: &JobLimits) -> Self {
        Self::with(None, limits, SystemTime::now)
    }

    fn with(
        directory: Option<JobDirectory>,
        limits: &JobLimits,
        clock: fn() -> SystemTime,
    ) -> Self {
        // So that numbers grow over a restart, even if no former job is left.
        let micros = clock().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let next = u64::try_from(micros).unwrap_or(0).clamp(1, directory::NUMBER_MAX);
        let table = Mutex::new(Table { next, ..Table::default() });
        Self { table, changed: Condvar::new(), directory, limits: limits.clone(), clock }
    }

    /// Returns the limits.
    pub fn limits(&self) -> &JobLimits {
        &self.limits
    }

    /// Adds a call as a job; returns its id.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::GuestFull`], [`Error::Size`], [`Error::Closed`] or [`Error::Io`]: then no job exists.
    ///
    /// # Blocking
    /// Until the disk has the job.
    pub fn add(&self, method: &str, guest: &str, request: JobCall) -> Result<String, Error> {
        if request.params.get().len() > self.limits.request_bytes {
            return Err(Error::Size { bytes: self.limits.request_bytes });
        }
        self.forget();
        let at = (self.clock)();
        let (number, record) = {
            let mut table = self.table.lock();
            table.has_room(guest, request.caller.share(), &self.limits)?;
            let number = table.next;
            let record = JobRecord::queued(number, method, guest, request, at);
            table.add(number, record.clone(), false);
            (number, record)
        };
        let placed = self.on_disk(|directory| directory.place(number, &record));
        let mut table = self.table.lock();
        if let Err(error) = placed {
            table.stored.retain(|stored| stored.number != number);
            // Later jobs of its guest waited for this one.
            self.changed.notify_all();
            return Err(error);
        }
        table.get(number).placed = true;
        self.changed.notify_all();
        Ok(record.job.id)
    }

    /// Waits for a job that may start, and takes it: no other thread gets it, and it can no longer be cancelled.
    /// Returns `None` after [`Jobs::close`].
    ///
    /// # Blocking
    /// Until a job may start.
    pub fn next(&self) -> Option<RunningJob> {
        let mut table = self.table.lock();
        while !table.closed {
            if let Some(active) = self.take(&mut table) {
                return Some(active);
            }
            self.changed.wait(&mut table);
        }
        None
    }

    /// Takes the next job, if one may start.
    fn take(&self, table: &mut Table) -> Option<RunningJob> {
        let stored = table.first()?;
        let request = stored.record.request.take()?;
        stored.record.job.state = JobState::Running;
        stored.record.job.started = clock::rfc3339_utc((self.clock)());
        let method = stored.record.job.method.clone();
        Some(RunningJob { number: stored.number, method, request, track: stored.track.clone() })
    }

    /// Records on the disk that a job has started. Call this before its first step.
    ///
    /// # Errors
    /// [`Error::Io`]: end the job, and do not run it.
    ///
    /// # Blocking
    /// Until the disk has the record.
    pub fn may_begin(&self, active: &RunningJob) -> Result<(), Error> {
        self.on_disk(|directory| directory.begin(active.number))
    }

    /// Ends a job; returns it. If the disk does not take the outcome, that is logged, and the job becomes lost at the
    /// next start.
    ///
    /// # Blocking
    /// Until the disk has answered.
    pub fn end(&self, active: &RunningJob, outcome: JobOutcome) -> Job {
        let number = active.number;
        let mut record = self.table.lock().get(number).record.clone();
        record.job.progress = active.track.progress();
        self.close_record(&mut record, outcome);
        self.write_end(number, &record);
        let job = record.job.clone();
        self.table.lock().get(number).record = record;
        self.changed.notify_all();
        self.forget();
        job
    }

    /// Returns the job of this id, from memory.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn get(&self, id: &str) -> Result<Job, Error> {
        let mut table = self.table.lock();
        let stored = table.find(id)?;
        match self.is_over(stored) {
            true => Err(Error::Unknown { id: id.to_owned() }),
            false => Ok(stored.job()),
        }
    }

    /// Returns at most `limit` jobs that are `wanted` and whose ids follow `after`, the oldest first and without their
    /// results, from memory.
    ///
    /// # Errors
    /// [`Error::Unknown`] if `after` is not an id.
    pub fn list(
        &self,
        after: &str,
        limit: usize,
        wanted: impl Fn(&Job) -> bool,
    ) -> Result<JobPage, Error> {
        let after = match after {
            "" => 0,
            id => number(id).ok_or_else(|| Error::Unknown { id: id.to_owned() })?,
        };
        let table = self.table.lock();
        let known = table.stored.iter().filter(|stored| stored.placed && stored.number > after);
        let known = known.filter(|stored| !self.is_over(stored));
        let mut found = known.filter(|stored| wanted(&stored.record.job)).map(StoredJob::job);
        let jobs: Vec<Job> =
            found.by_ref().take(limit).map(|job| Job { result: None, ..job }).collect();
        let more = found.next().is_some();
        let last = jobs.last().filter(|_| more).map(|job| job.id.clone());
        Ok(JobPage { jobs, next: last.unwrap_or_default() })
    }

    /// Cancels a job that has not started; succeeds if it is cancelled already. Returns the job, and whether this call
    /// cancelled it.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Started`] for any other job.
    ///
    /// # Blocking
    /// Until the disk has answered.
    pub fn cancel(&self, id: &str) -> Result<(Job, bool), Error> {
        self.forget();
        let (number, record) = {
            let mut table = self.table.lock();
            let stored = table.find(id)?;
            let mut record = stored.record.clone();
            match record.job.state {
                JobState::Queued => {}
                JobState::Cancelled => return Ok((record.job, false)),
                state => return Err(Error::Started { id: id.to_owned(), state }),
            }
            self.close_record(&mut record, JobOutcome::Cancelled);
            stored.record = record.clone();
            (stored.number, record)
        };
        // Other jobs of its guest may have waited for it.
        self.changed.notify_all();
        self.write_end(number, &record);
        Ok((record.job, true))
    }

    /// Returns how many jobs wait, and how many run.
    pub fn counts(&self) -> (usize, usize) {
        let table = self.table.lock();
        (table.count(JobState::Queued), table.count(JobState::Running))
    }

    /// Stops adding and starting jobs. Waiting jobs stay on the disk.
    pub fn close(&self) {
        self.table.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits until the running jobs have ended; returns whether all have.
    ///
    /// # Blocking
    /// Up to `deadline`.
    pub fn wait_for_ends(&self, deadline: Instant) -> bool {
        let mut table = self.table.lock();
        while table.count(JobState::Running) > 0 {
            if self.changed.wait_until(&mut table, deadline).timed_out() {
                return table.count(JobState::Running) == 0;
            }
        }
        true
    }

    fn on_disk(&self, work: impl FnOnce(&JobDirectory) -> Result<(), Error>) -> Result<(), Error> {
        self.directory.as_ref().map_or(Ok(()), work)
    }

    /// Sets the outcome of a record.
    fn close_record(&self, record: &mut JobRecord, outcome: JobOutcome) {
        record.end(outcome, (self.clock)());
        let Job { id, result, error, .. } = &mut record.job;
        // At most half of the file, even if every character is a quote or a backslash, which the file escapes.
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

    fn write_end(&self, number: u64, record: &JobRecord) {
        if let Err(error) = self.on_disk(|directory| directory.end(number, record)) {
            warn!("cannot store the end of job {number}: {error}");
        }
    }

    /// Returns whether a job ended longer ago than jobs are kept, or has waited that long.
    fn is_old(&self, record: &JobRecord) -> bool {
        let since_1970 = (self.clock)().duration_since(UNIX_EPOCH).unwrap_or_default();
        since_1970.saturating_sub(Duration::from_millis(record.at_ms)) >= self.limits.retention
    }

    /// Returns whether a job ended too long ago, so that the next write to the disk removes it.
    fn is_over(&self, stored: &StoredJob) -> bool {
        stored.state().is_end() && self.is_old(&stored.record)
    }

    /// Forgets the jobs that ended too long ago, and above the limit those that ended first.
    fn forget(&self) {
        let gone = self.table.lock().forget(self.limits.stored, |record| self.is_old(record));
        for number in gone {
            if let Err(error) = self.on_disk(|directory| directory.forget(number)) {
                warn!("cannot remove job {number}: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests;
